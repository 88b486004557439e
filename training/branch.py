# SPDX-License-Identifier: Apache-2.0
"""What the regression branch learns from: stored crops, geometry without pictures, and its loss.

A crop's features are kept once (`Store`), because the branch is cheap and the encoder is not: each stored crop serves
many steps.  Bodies seen by random cameras (`Views`), disturbed as the heatmaps disturb them, cost no encoder at all.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from . import losses
from .data import LSP_MIRROR
from .model import CROP, MeshPoseNet, fused

SHAPED = 300
"""Faces and edges whose normals and lengths count in a step; all of them cost more than the branch itself."""


@dataclass
class Store:
    """Features and truth of n crops: inputs (n, S + 3V), and the sample fields of `training.data`."""

    inputs: Tensor
    vertices: Tensor
    regression_weight: Tensor
    depth_weight: Tensor
    visible: Tensor
    visible_weight: Tensor
    heat_weight: Tensor
    joints: Tensor
    has: Tensor

    def __len__(self) -> int:
        return len(self.has)

    def positions(self) -> Tensor:
        """(n, V, 2) crop px: where the heatmaps have the vertices."""
        v = self.vertices.shape[1]
        return self.inputs[:, -3 * v : -v].unflatten(1, (v, 2)) * CROP

    def peaks(self) -> Tensor:
        """(n, V) logarithm of each heatmap's peak."""
        return self.inputs[:, -self.vertices.shape[1] :]

    def rows(self, index: Tensor) -> Store:
        """Some of the crops."""
        return Store(*(getattr(self, f.name)[index] for f in fields(self)))

    def exact(self) -> Tensor:
        """(n,) whether the truth was rendered, not fitted."""
        return self.depth_weight[:, 0] > 0.9

    @staticmethod
    def of(inputs: Tensor, sample: dict[str, Tensor]) -> Store:
        """The store of one batch."""
        return Store(inputs, *(sample[f.name] for f in fields(Store)[1:]))

    @staticmethod
    def together(parts: list[Store]) -> Store:
        """Several stores as one."""
        return Store(*(torch.cat([getattr(p, f.name) for p in parts]) for f in fields(Store)))


class Replay:
    """The last `size` crops that a training has seen."""

    def __init__(self, size: int) -> None:
        self.size, self.store, self.next = size, None, 0  # type: int, Store | None, int
        self.count = 0

    def add(self, batch: Store) -> None:
        """Keep a batch; the oldest go."""
        if self.store is None:
            self.store = Store(*(torch.zeros(self.size, *getattr(batch, f.name).shape[1:]) for f in fields(Store)))
        index = (torch.arange(len(batch)) + self.next) % self.size
        for f in fields(Store):
            getattr(self.store, f.name)[index] = getattr(batch, f.name).detach().float()
        self.next = (self.next + len(batch)) % self.size
        self.count = min(self.count + len(batch), self.size)

    def draw(self, count: int) -> Store | None:
        """Random crops; None while there are fewer than `count`."""
        if self.store is None or self.count < count:
            return None
        return self.store.rows(torch.randint(self.count, (count,)))


def make_bodies(data: Path, cache: Path, count: int, seed: int = 0) -> None:
    """Write `count` posed low-poly bodies: points (n, V + 2, 3) float16, metres, x left, y up, z front; the last two
    are mid-hips and neck, the hips at the origin."""
    from .poses import PoseSampler, random_phenotype
    from .synth_body import SynthBody

    rng = np.random.default_rng(seed)
    body = SynthBody(data, cache.parent / "synth_body.npz")
    poses = PoseSampler(data, body, fits=True)
    out = np.empty((count, len(body.lowpoly) + 2, 3), np.float16)
    rest = None
    for i in range(count):
        if rest is None or i % 4 == 0:  # a shape costs more than a pose
            phenotype, race = random_phenotype(rng)
            rest = body.shape(phenotype, race)
        pose = poses(rng)
        bones = pose.bones if pose.bones is not None else body.bone_rotations(pose.local, rest, pose.fingers)
        transforms = body.transforms(rest, bones)
        low = body.skin(rest.vertices[body.lowpoly], body.weights[body.lowpoly], transforms)
        keys = body.keypoints(rest, transforms)
        hips = keys[35:37].mean(0)
        out[i] = np.concatenate([low, hips[None], keys[45:46]]) - hips
    cache.parent.mkdir(parents=True, exist_ok=True)
    np.save(cache, out)


def load_bodies(data: Path, cache: Path, count: int) -> Tensor:
    """Those of `make_bodies`, made where they are not there yet."""
    if not cache.exists():
        make_bodies(data, cache, count)
    return torch.from_numpy(np.load(cache))


class Views:
    """Bodies seen by random cameras, as the regression reads them: no picture, no encoder.

    bodies (n, V + 2, 3) of `make_bodies`; noise: stored crops whose heatmaps' errors and peaks disturb the views.
    """

    def __init__(self, bodies: Tensor, noise: Store, summary: Tensor, mirror: np.ndarray) -> None:
        self.bodies, self.summary = bodies, summary
        chosen = noise.rows(torch.nonzero(noise.has[:, 0] > 0)[:, 0])
        truth = chosen.vertices[..., :2].clamp(0, CROP)
        self.error, self.peak, self.seen = chosen.positions() - truth, chosen.peaks(), chosen.visible
        self.mirror = torch.from_numpy(np.append(mirror, [len(mirror), len(mirror) + 1]))

    def draw(self, count: int) -> Store:
        """`count` fresh views."""
        crop = self._crops(count)
        vertices = crop[:, :-2]
        row = torch.randint(len(self.error), (count,))
        strength = torch.rand(count, 1, 1) * 1.1 + 0.1
        positions = vertices[..., :2].clamp(0, CROP) + self.error[row] * strength
        inputs = MeshPoseNet.lifting_inputs(self.summary.expand(count, -1), positions, self.peak[row])
        inside = ((vertices[..., :2] > 1) & (vertices[..., :2] < CROP - 1)).all(-1).float()
        one, none = torch.ones(count, vertices.shape[1]), torch.zeros(count, vertices.shape[1])
        return Store(
            inputs, vertices, one, one, self.seen[row] * inside, none, one, torch.zeros(count, 14, 3), one[:, :1]
        )

    def without_summary(self, store: Store, share: float) -> Store:
        """The store with the mean summary in a share of its rows: the branch is not to lean on it alone."""
        inputs = store.inputs.clone()
        inputs[torch.rand(len(store)) < share, : self.summary.shape[1]] = self.summary
        return Store(inputs, *(getattr(store, f.name) for f in fields(Store)[1:]))

    def _crops(self, count: int) -> Tensor:
        """(count, V + 2, 3) crop px."""
        points = self.bodies[torch.randint(len(self.bodies), (count,))].float()
        flip = torch.rand(count) < 0.5
        points[flip] = points[flip][:, self.mirror] * torch.tensor([-1.0, 1, 1])
        turn = turns(torch.rand(count) * 2 * np.pi, torch.randn(count) * 0.22 + 0.05)
        camera = torch.einsum("nij,nvj->nvi", turn, points)
        distance = torch.exp(torch.rand(count, 1) * 2.1 + 0.5)  # 1.6 to 13 m
        away = torch.randn(count, 2) * 0.1 * distance
        depth = (distance + camera[..., 2]).clamp(min=0.3)
        flat = (camera[..., :2] + away[:, None]) / depth[..., None] * distance[..., None] - away[:, None]
        return cropped(flat, camera[..., 2])


def turns(heading: Tensor, tilt: Tensor) -> Tensor:
    """(n, 3, 3) from the body's axes (y up) to the camera's (y down), seen from `heading` and `tilt` (n,) radians."""
    c, s, one, zero = torch.cos(heading), torch.sin(heading), torch.ones_like(heading), torch.zeros_like(heading)
    about_y = torch.stack([c, zero, s, zero, one, zero, -s, zero, c], 1).view(-1, 3, 3)
    c, s = torch.cos(tilt), torch.sin(tilt)
    about_x = torch.stack([one, zero, zero, zero, c, -s, zero, s, c], 1).view(-1, 3, 3)
    return about_x @ torch.diag(torch.tensor([1.0, -1, -1])) @ about_y


def cropped(flat: Tensor, depth: Tensor) -> Tensor:
    """Points (n, V + 2, 2) and depth (n, V + 2), any unit, the hips at 0, -> (n, V + 2, 3) px of a crop.

    As `training.data.draw_crop`: most as tracking gives them, some upright boxes, some that cut the body.
    """
    count = len(flat)
    body, up = flat[:, :-2], flat[:, -1] - flat[:, -2]
    boxed = torch.rand(count) < 0.2
    angle = torch.atan2(up[:, 0], -up[:, 1])
    quarter = (angle / (np.pi / 2)).round() * (np.pi / 2)
    low, high = body.amin(1), body.amax(1)
    radius = body.norm(dim=-1).quantile(0.99, dim=1)
    angle = torch.where(boxed, quarter + torch.randn(count) * 0.05, angle + torch.randn(count) * 0.14)
    side = torch.where(boxed, 1.25 * (high - low).amax(1), 2.5 * radius) * torch.exp(torch.randn(count) * 0.09)
    side = side * torch.where(torch.rand(count) < 0.15, torch.rand(count) * 0.5 + 0.4, torch.ones(count))
    centre = torch.where(boxed[:, None], (low + high) / 2, torch.zeros(count, 2))
    centre = centre + torch.randn(count, 2) * 0.03 * side[:, None]
    c, s = torch.cos(angle), torch.sin(angle)
    x, y = (flat - centre[:, None]).unbind(-1)
    scale = (CROP / side)[:, None]
    turned = torch.stack([c[:, None] * x + s[:, None] * y, c[:, None] * y - s[:, None] * x], -1) * scale[..., None]
    return torch.cat([turned + CROP / 2, (depth * scale)[..., None]], -1)


def some(rows: Tensor, count: int) -> Tensor:
    """`count` random rows."""
    return rows[torch.randperm(len(rows))[:count]]


def edges_of(faces: Tensor) -> Tensor:
    """(E, 2) edges of the low-poly's faces (F, 3), each once."""
    return torch.unique(torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]).sort(1).values, dim=0)


def branch_loss(
    net: MeshPoseNet, s: Store, faces: Tensor, edges: Tensor, regressor: Tensor, visibility: float = 2.0
) -> Tensor:
    """Equation 16 without the heatmap terms, on stored features: `mesh_loss` of what the regression makes of them."""
    answer = net.regression.without_bins(s.inputs, s.positions())
    return mesh_loss(answer, s, faces, edges, regressor, visibility)


def mesh_loss(
    answer: tuple[Tensor, Tensor], s: Store, faces: Tensor, edges: Tensor, regressor: Tensor, visibility: float = 2.0
) -> Tensor:
    """Equation 16 without the heatmap terms, of vertices (n, V, 3) crop px and visibility logits (n, V); edges and
    normals of some faces a step; `visibility` is that term's weight."""
    faces, edges = some(faces, SHAPED), some(edges, SHAPED)
    regressed, seen = answer
    mesh = fused(s.positions(), regressed, seen.sigmoid())
    weight = s.regression_weight
    # Views teach depth alone: their heatmaps' errors are another person's, and nothing can be learnt of where they lie.
    pictured = weight * (s.visible_weight > 0)
    plane = losses.localisation(regressed[..., :2], s.vertices[..., :2], pictured)
    both = losses.localisation(mesh[..., :2], s.vertices[..., :2], pictured)
    away = losses.saturating((regressed[..., 2] - s.vertices[..., 2]).abs())
    depth = losses.weighted_mean(away, weight * s.depth_weight) / 4
    shaped = pictured * s.depth_weight
    joints = torch.einsum("jv,bvd->bjd", regressor, mesh[..., :2])
    return (
        plane
        + both
        + depth
        + 0.5 * losses.edge(mesh, s.vertices, edges, shaped)
        + 0.3 * losses.normal(mesh, s.vertices, faces, shaped)
        + 0.5 * losses.joints(joints, s.joints, torch.from_numpy(LSP_MIRROR), s.has[:, 0])
        + visibility * losses.visibility(seen, s.visible, s.visible_weight)
    )
