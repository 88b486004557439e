# SPDX-License-Identifier: Apache-2.0
"""Pseudo ground truth: the body fitted to persons on photographs, in batches (torch, Adam).

    python -m training.fit "lspet train" --data DATA --out fits.npz [--limit 256] [--without depth|start|prior]

Evidence per person: labelled LSP joints, the teacher's 33 landmarks in the picture, directions of limbs from its
world points, its mask.  Prior: mixtures of Gaussians over local rotations (`pose_prior.npz`), phenotypes near the
middle, the distance near 5.5 m.  The result has the columns that `training.fits` reads; `accepted` says which fits
are to be trusted.
Lengths inside are in units of 0.2 x the side of the teacher's crop (about half a metre); its centre is the origin.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as functional
from torch import Tensor

from . import collide, pose_code
from .arguments import existing_file
from .data import SETS
from .fits import LSP, PHENOTYPES, FitBody
from .rotations import rotation, swing

UNIT = 0.2
LANDMARK_OF_LSP = [28, 26, 24, 23, 25, 27, 16, 14, 12, 11, 13, 15]  # BlazePose landmark of the first twelve LSP joints
LIMBS = [
    *[(11, 13), (13, 15), (12, 14), (14, 16), (23, 25), (25, 27), (24, 26), (26, 28)],
    *[(12, 11), (24, 23), (27, 31), (28, 32), (8, 7)],
]
LIMB_WEIGHT = torch.tensor([1.0] * 10 + [0.4, 0.4, 0.6])
TORSO = [11, 12, 23, 24]
EXCHANGED = [0, 4, 5, 6, 1, 2, 3, 8, 7, 10, 9] + [k for i in range(11, 33, 2) for k in (i + 1, i)]
"""BlazePose's landmarks with left and right exchanged."""
MIDDLE = torch.tensor([0.5, 0.68, 0.5, 0.5, 0.5, 0.5])
SPREAD = torch.tensor([0.5, 0.05, 1, 1, 1, 1]) * 0.18
STEPS, SILHOUETTE_STEPS, RATE = 200, 50, 0.06
COLLISION, CODE = 1.0, 0.3
PRIOR = 0.2
RECIPES = {
    "depth": "nothing of the third dimension: no directions of limbs, no torso from the teacher's world points",
    "start": "one start, upright and facing the camera, in place of what networks that know 2D poses saw",
    "prior": "no likely poses",
}
"""What `left_out` takes away: the three recipes (Moon et al.) as they are found in a fitter."""


def robust(squared: Tensor, width: float = 3.5) -> Tensor:
    """Geman-McClure: r^2 / (1 + r^2 / width^2)."""
    return squared / (1 + squared / width**2)


class TorchBody:
    """`FitBody` with gradients; tests hold the two against each other."""

    def __init__(self, body: FitBody) -> None:
        self.d = {k: torch.from_numpy(v.astype(np.float32)) for k, v in body.data.items() if v.dtype.kind == "f"}
        self.hats = torch.from_numpy(body.data["mask"].astype(np.float32))
        self.owner = torch.from_numpy(body.data["keypoint_group"].astype(np.int64))
        self.parent = body.data["group_parent"].astype(int)
        self.group = body.group

    def pose(self, pelvis: Tensor, a: Tensor, phenotype: Tensor, skin: bool = True) -> tuple[Tensor, Tensor]:
        """(n, 3, 3), (n, 18, 3), (n, 6) -> vertices (n, 500, 3) (empty without skin), keypoints (n, 48, 3), metres."""
        n, c = len(a), self.coefficients(phenotype)
        rest = {k: self.d[k] + torch.tensordot(c, self.d[f"{k}_shapes"], 1) for k in ("keypoints", "heads", "toes")}
        heads, turn = rest["heads"], self.turns(pelvis, a, rest)
        place = [torch.zeros(n, 3)]
        for g in range(1, len(self.parent)):
            q = self.parent[g]
            place.append(place[q] + torch.einsum("nij,nj->ni", turn[:, q], heads[:, g] - heads[:, q]))
        shift = torch.stack(place, 1) - torch.einsum("ngij,ngj->ngi", turn, heads)
        points = rest["keypoints"] + self.d["keypoint_offsets"]
        keypoints = torch.einsum("nkij,nkj->nki", turn[:, self.owner], points) + shift[:, self.owner]
        if not skin:
            return torch.zeros(n, 0, 3), keypoints
        low = self.d["vertices"] + torch.tensordot(c, self.d["vertices_shapes"], 1)
        blend = torch.einsum("vg,ngij->nvij", self.d["weights"], torch.cat([turn, shift[..., None]], -1))
        return torch.einsum("nvij,nvj->nvi", blend[..., :3], low) + blend[..., 3], keypoints

    def coefficients(self, phenotype: Tensor) -> Tensor:
        n = len(phenotype)
        hats = [torch.full((n, 3), 1 / 3)]
        for i, (count, low, high) in enumerate(PHENOTYPES.values()):
            value = phenotype[:, i] if i < phenotype.shape[1] else torch.full((n,), 0.5)
            place = (value.clamp(low, high) - low) / (high - low) * (count - 1)
            hats.append((1 - (place[:, None] - torch.arange(count)).abs()).clamp(min=0))
        return torch.exp(torch.log(torch.cat(hats, 1).clamp(min=1e-7)) @ self.hats.T) @ self.d["projection"]

    def turns(self, pelvis: Tensor, a: Tensor, rest: dict[str, Tensor]) -> Tensor:
        """World rotation of the 27 groups, each limb with its rest correction to the T-pose (see `FitBody`)."""
        heads = rest["heads"]

        def to_t(start: str, end: str | Tensor, direction: list) -> Tensor:
            first = heads[:, [self.group[start + s] for s in "LR"]]
            last = heads[:, [self.group[end + s] for s in "LR"]] if isinstance(end, str) else end
            return swing(last - first, torch.tensor(direction, dtype=torch.float32).expand_as(last))

        side, down = [[1, 0, 0], [-1, 0, 0]], [0, -1, 0]
        r = rotation(a)
        spine1 = pelvis @ r[:, 0]
        spine2 = spine1 @ r[:, 1]
        neck = spine2 @ r[:, 2]
        half = [rotation(a[:, j] * t) for j, t in ((0, 0.5), (1, 0.5), (2, 0.67), (3, 0.5))]
        trunk = [
            pelvis,
            pelvis @ half[0],
            spine1,
            spine1 @ half[1],
            spine2,
            spine2 @ half[2],
            neck,
            neck @ half[3],
            neck @ r[:, 3],
        ]
        collar = spine2[:, None] @ r[:, 4:6]
        shoulder = collar @ r[:, 6:8]
        elbow = shoulder @ r[:, 8:10]
        hip = pelvis[:, None] @ r[:, 12:14]
        knee = hip @ r[:, 14:16]
        fore = to_t("la1", "wr", side)
        limbs = [
            spine2[:, None] @ rotation(a[:, 4:6] * 0.7),
            collar,
            shoulder @ to_t("ua", "la1", side),
            elbow @ fore,
            elbow @ rotation(a[:, 10:12] * torch.tensor([0.5, 0, 0])) @ fore,
            elbow @ r[:, 10:12] @ fore,
            hip @ to_t("ul", "ll", down),
            knee @ to_t("ll", "ft", down),
            knee @ r[:, 16:18] @ to_t("ft", rest["toes"], [0, -0.35, 0.94]),
        ]
        return torch.cat([torch.stack(trunk, 1), *limbs], 1)


class Prior:
    """Negative log likelihood of local rotations: mixtures for the trunk, each arm, each leg.

    code: what poses cost by a second opinion ((n, 18, 3) -> (n,), `pose_code.PoseCode`), at CODE times its weight.
    collision: what limbs cost that pass through the body (`collide.cost`), added by `energy`.  weight: in `energy`.
    """

    weight = PRIOR

    def __init__(
        self, file: Path, code: Callable[[Tensor], Tensor] | None = None, collision: float = COLLISION
    ) -> None:
        self.code, self.collision = code, collision
        with np.load(file) as z:
            self.part = {
                p: [torch.from_numpy(z[f"{p}_{k}"]) for k in ("mu", "P", "ld")] for p in ("trunk", "arm", "leg")
            }

    @staticmethod
    def load(data: Path, code: Path | None = None, collision: float = COLLISION) -> Prior:
        """Of a folder's `pose_prior.npz` and a file of `training.pose_code`."""
        return Prior(data / "pose_prior.npz", pose_code.load(code) if code else None, collision)

    def best(self, part: str, x: Tensor) -> Tensor:
        mu, p, ld = self.part[part]
        return (0.5 * torch.einsum("bkd,kde->bke", x[:, None] - mu, p).square().sum(-1) - ld).amin(1)

    def __call__(self, a: Tensor) -> Tensor:
        """(n, 18, 3) -> (n,)."""
        total = self.best("trunk", a[:, :4].flatten(1)) + 0.5 * (a[:, 4:6] / 0.12).square().sum((1, 2))
        for side, flip in ((0, torch.ones(3)), (1, torch.tensor([1.0, -1, -1]))):
            for part, first in (("arm", 6), ("leg", 12)):
                total = total + self.best(
                    part, (a[:, [first + side, first + 2 + side, first + 4 + side]] * flip).flatten(1)
                )
        return total if self.code is None else total + CODE * self.code(a)


@dataclass
class Evidence:
    """What is known of n persons, in units around the crop's centre."""

    landmarks: Tensor  # (n, 33, 2)
    landmark_weight: Tensor  # (n, 33)
    labels: Tensor  # (n, 14, 3) x, y, weight
    limbs: Tensor  # (n, L, 3) directions
    limb_weight: Tensor  # (n, L)
    torso: Tensor  # (n, 4, 3) world points of TORSO
    outside: Tensor  # (n, 1, 64, 64) distance from the mask over +-3.125 units, 0 inside
    crop: Tensor  # (n, 3) cx, cy px, px per unit
    ids: np.ndarray
    conflict: np.ndarray  # (n,) the teacher's sides disagree with the labels'

    def rows(self, i: slice) -> Evidence:
        return Evidence(*(getattr(self, f)[i] for f in self.__dataclass_fields__))


def read_evidence(data: Path, name: str, limit: int | None) -> Evidence:
    """The teacher's output and the labels of a set ("lspet train", "stanford40 train" ...)."""
    folder, split = name.split()
    with np.load(data / ("teacher_more.npz" if split == "more" else "teacher.npz")) as z:
        code = [str(s) for s in z["sets"]].index(name)
        rows = np.flatnonzero(z["set"] == code)[:limit]
        t = {k: z[k][rows] for k in z.files if k != "sets"}
    meta = json.loads((data / folder / f"{split}.json").read_text())
    by = {a["id"]: a for a in meta["annotations"]}
    side, centre = t["crop"][:, 2:3].astype(np.float32) * UNIT, t["crop"][:, :2].astype(np.float32)
    agreement = t["agreement"].astype(int)
    conflict = (
        agreement[:, 1] > agreement[:, 0] + 30
    )  # labels agree better with the sides exchanged: nobody knows who errs
    for key in ("points", "world", "visibility", "presence"):
        t[key][conflict] = t[key][conflict][:, EXCHANGED]
    points = torch.from_numpy((t["points"] / 8 - centre[:, None]) / side[:, None]).float()
    labels = np.array([by[int(i)].get("keypoints") or [0] * 42 for i in t["id"]], np.float32).reshape(-1, 14, 3)
    labels[..., :2] = (labels[..., :2] - centre[:, None]) / side[:, None]
    labels[..., 2] = labels[..., 2] > 0
    labelled = torch.from_numpy(labels)
    world = torch.from_numpy(t["world"].astype(np.float32) * 0.01)
    weight = torch.from_numpy(t["visibility"] * 1e-2 * t["presence"] * 1e-2).float()
    away = (points[:, LANDMARK_OF_LSP] - labelled[:, :12, :2]).norm(dim=-1)
    trust = torch.where(labelled[:, :12, 2] > 0, torch.exp(-((away / 0.3) ** 2)), torch.tensor(1.0))
    direction_weight = weight.clone()
    direction_weight[:, LANDMARK_OF_LSP] *= trust
    pairs = [torch.minimum(direction_weight[:, a], direction_weight[:, b]) for a, b in LIMBS]
    limb_weight = LIMB_WEIGHT * torch.stack(pairs, 1)
    weight[:, LANDMARK_OF_LSP] *= trust * torch.where(labelled[:, :12, 2] > 0, 0.35, 1.0)
    direction = torch.stack([world[:, b] - world[:, a] for a, b in LIMBS], 1)
    return Evidence(
        points, weight, labelled, functional.normalize(direction, dim=-1), limb_weight, world[:, TORSO],
        distance_outside(t["mask"], t["crop"]), torch.from_numpy(np.concatenate([centre, side], 1)), t["id"], conflict,
    )  # fmt: skip


def distance_outside(masks: np.ndarray, crops: np.ndarray) -> Tensor:
    """The teacher's masks (64 x 64 bits of its turned crop) -> distance outside of them, upright grid, in units."""
    import cv2

    out = np.zeros((len(masks), 1, 64, 64), np.float32)
    x, y = np.meshgrid(*[((np.arange(64) + 0.5) / 32 - 1) * 3.125 * UNIT] * 2)  # parts of the crop's side
    for i, (bits, crop) in enumerate(zip(masks, crops, strict=True)):
        mask, c, s = np.unpackbits(bits).reshape(64, 64), np.cos(crop[3]), np.sin(crop[3])
        u, v = ((c * x + s * y) + 0.5) * 64 - 0.5, ((c * y - s * x) + 0.5) * 64 - 0.5
        upright = cv2.remap(mask.astype(np.float32), u.astype(np.float32), v.astype(np.float32), cv2.INTER_LINEAR) > 0.5
        if upright.sum() > 60:
            out[i, 0] = cv2.distanceTransform((~upright).astype(np.uint8), cv2.DIST_L2, 3) * 6.25 / 64
    return torch.from_numpy(out)


@dataclass
class State:
    """Parameters of n fits: pelvis (n, 3, 3) with a correction turn (n, 3), a (n, 18, 3), camera (n, 4) = log scale,
    x, y, 1 / distance; phenotype (n, 6)."""

    pelvis: Tensor
    turn: Tensor
    a: Tensor
    camera: Tensor
    phenotype: Tensor


def starts(e: Evidence) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Where the torso's four points may be in 3D (n, 4, 3), in the picture (n, 4, 2), and how sure (n, 4).

    The teacher's world points; the same with the depth turned round (it mistakes front and back); the labels laid flat
    (it found somebody else).
    """
    seen, sure = e.landmarks[:, TORSO], e.landmark_weight[:, TORSO].clamp(min=0.05)
    labels = e.labels[:, [LANDMARK_OF_LSP.index(k) for k in TORSO]]
    known = labels[..., 2:] > 0
    place = torch.where(known, labels[..., :2], seen)
    flat = torch.cat([place, torch.zeros_like(place[..., :1])], -1)
    weight = torch.where(known[..., 0], torch.ones_like(sure), sure)
    return [(e.torso, place, weight), (e.torso * torch.tensor([1.0, 1, -1]), place, weight), (flat, place, weight)]


def begin(torso: Tensor, place: Tensor, weight: Tensor, body: TorchBody) -> State:
    """Pelvis by Procrustes of the torso's four points, limbs hanging, scale and shift from their places."""
    n = len(torso)
    a = torch.zeros(n, 18, 3)
    a[:, 6, 2], a[:, 7, 2] = -0.9, 0.9  # arms down from the T-pose
    _, key = body.pose(torch.eye(3).expand(n, 3, 3), a, MIDDLE.expand(n, 6), skin=False)
    p = key[:, TORSO]
    u, _, v = torch.linalg.svd(
        (torso - torso.mean(1, keepdim=True)).transpose(1, 2) @ (p - p.mean(1, keepdim=True))
        + 1e-4 * torch.diag(torch.tensor([1.0, -1.0, -1.0]))  # no torso at all: upright, facing the camera
    )
    fix = torch.ones(n, 3)
    fix[:, 2] = torch.det(u @ v)
    pelvis = u @ (fix[:, :, None] * v)
    turned = torch.einsum("nij,nkj->nki", pelvis, p)[..., :2]
    w = weight[..., None]

    def mean(x: Tensor) -> Tensor:
        return (x * w).sum(1, keepdim=True) / w.sum(1, keepdim=True)

    spread = ((place - mean(place)).square() * w).sum((1, 2)) / ((turned - mean(turned)).square() * w).sum((1, 2))
    scale = spread.nan_to_num(4.0).sqrt().clamp(1.2, 3.5)
    shift = mean(place)[:, 0] - scale[:, None] * mean(turned)[:, 0]
    camera = torch.cat([scale.log()[:, None], shift, torch.full((n, 1), 0.18)], 1)
    return State(pelvis, torch.zeros(n, 3), a, camera, MIDDLE.repeat(n, 1))


def project(points: Tensor, camera: Tensor) -> Tensor:
    """Camera axes, metres -> units: s X / (1 + Z / d) + t."""
    xy = points[..., :2] / (1 + camera[:, 3, None, None] * points[..., 2:]).clamp(min=0.3)
    return xy * camera[:, 0].exp()[:, None, None] + camera[:, None, 1:3]


def energy(s: State, e: Evidence, body: TorchBody, prior: Prior, skin: bool, width: float = 3.5) -> Tensor:
    """(n,) sum of all terms, each divided by its width; `width` is where the robust kernel bends."""
    vertices, key = body.pose(rotation(s.turn) @ s.pelvis, s.a, s.phenotype, skin)
    p = project(key, s.camera)
    total = (robust((p[:, :33] - e.landmarks).square().sum(-1) / 0.07**2, width) * e.landmark_weight).sum(1)
    total = total + (robust((p[:, LSP] - e.labels[..., :2]).square().sum(-1) / 0.07**2, width) * e.labels[..., 2]).sum(
        1
    )
    limbs = functional.normalize(torch.stack([key[:, b] - key[:, a] for a, b in LIMBS], 1), dim=-1)
    total = total + 0.7 * (robust((limbs - e.limbs).square().sum(-1) / 0.3**2, 3.0) * e.limb_weight).sum(1)
    total = total + prior.weight * prior(s.a) + 0.5 * ((s.phenotype - MIDDLE) / SPREAD).square().sum(1)
    total = total + 0.5 * ((s.camera[:, 3] - 0.18) / 0.06).square()
    if skin:
        # Not before the pose is found: limbs must be able to pass each other on their way.
        if prior.collision:
            total = total + prior.collision * collide.cost(key)
        grid = (project(vertices, s.camera) / 3.125).clamp(-1.2, 1.2)[:, None]
        far = functional.grid_sample(e.outside, grid, align_corners=False, padding_mode="border")[:, 0, 0]
        total = total + 12 * (far / 0.06).square().clamp(max=9).mean(1)
    return total


def optimise(s: State, e: Evidence, body: TorchBody, prior: Prior, steps: int, rate: float, skin: bool) -> Tensor:
    """Adam on all parameters, in place; returns the last energies (n,)."""
    for x in (s.turn, s.a, s.camera, s.phenotype):
        x.requires_grad_(True)
    groups: list[dict] = [{"params": [s.turn, s.a], "f": 1.0}, {"params": [s.camera, s.phenotype], "f": 0.5}]
    adam = torch.optim.Adam(groups, rate, betas=(0.9, 0.95))
    for k in range(steps):
        for group in adam.param_groups:
            fall = 1 if k < 0.6 * steps else 0.25 if k < 0.85 * steps else 0.08
            group["lr"] = rate * group["f"] * min(1, (k + 1) / 5) * fall
        adam.zero_grad()
        wide = 3.5 if skin or k >= 0.45 * steps else 15.0  # a limb that starts far away must still be pulled
        energy(s, e, body, prior, skin, wide).sum().backward()
        adam.step()
        with torch.no_grad():
            s.phenotype.clamp_(0.02, 0.98)
            s.camera[:, 3].clamp_(0, 0.4)
    with torch.no_grad():
        return energy(s, e, body, prior, skin)


def chosen(states: list[State], which: Tensor) -> State:
    """Person i of state which[i]."""
    people = torch.arange(len(which))

    def pick(name: str) -> Tensor:
        return torch.stack([getattr(s, name).detach() for s in states])[which, people].clone()

    return State(*(pick(name) for name in State.__dataclass_fields__))


def accept(s: State, e: Evidence, body: TorchBody, prior: Prior) -> tuple[np.ndarray, np.ndarray]:
    """(n,) bool which fits to trust, (n, 14) error of the labelled joints in parts of the torso (nan: none)."""
    with torch.no_grad():
        vertices, key = body.pose(rotation(s.turn) @ s.pelvis, s.a, s.phenotype)
        p, v = project(key, s.camera), project(vertices, s.camera)
        far = functional.grid_sample(e.outside, (v / 3.125)[:, None], align_corners=False, padding_mode="border")[
            :, 0, 0
        ]
        odd = prior(s.a)
    torso = (p[:, LSP][:, 12] - p[:, 47]).norm(dim=-1).clamp(min=0.4)
    error = (p[:, LSP] - e.labels[..., :2]).norm(dim=-1) / torso[:, None]
    known = e.labels[..., 2] > 0
    sure = e.landmark_weight > 0.25
    teacher = (p[:, :33] - e.landmarks).norm(dim=-1) / torso[:, None]

    def share(good: Tensor, of: Tensor) -> Tensor:
        return (good & of).sum(1) / of.sum(1).clamp(min=1)

    labelled = known.sum(1) >= 8
    by_labels = (share(error < 0.2, known) >= 0.9) & ~((error > 0.45) & known).any(1)
    by_teacher = (share(teacher < 0.2, sure) >= 0.9) & (sure.sum(1) >= 5)
    inside = (far < 0.15).float().mean(1) > 0.9
    fine = torch.where(labelled, by_labels & (share(teacher < 0.2, sure) >= 0.6), by_teacher) & inside
    fine &= odd < odd.quantile(0.98)
    return fine.numpy() & ~e.conflict, torch.where(known, error, torch.tensor(float("nan"))).numpy()


def to_columns(s: State, e: Evidence) -> dict[str, np.ndarray]:
    """The columns of a fit file: rotations as quaternions, camera in picture pixels."""
    r = torch.cat([(rotation(s.turn) @ s.pelvis)[:, None], rotation(s.a)], 1).detach().double().numpy()
    w = np.sqrt(np.maximum(1 + np.trace(r, axis1=-2, axis2=-1), 1e-12)) / 2
    axis = np.stack([r[..., 2, 1] - r[..., 1, 2], r[..., 0, 2] - r[..., 2, 0], r[..., 1, 0] - r[..., 0, 1]], -1)
    q = np.concatenate([w[..., None], axis / (4 * np.maximum(w, 1e-3))[..., None]], -1)
    q /= np.linalg.norm(q, axis=-1, keepdims=True)
    camera, crop = s.camera.detach().numpy(), e.crop.numpy()
    px = crop[:, 2]
    columns = np.stack(
        [np.exp(camera[:, 0]) * px, camera[:, 1] * px + crop[:, 0], camera[:, 2] * px + crop[:, 1], camera[:, 3]], 1
    )
    return {
        "id": e.ids.astype(np.int32),
        "quat": np.round(q * 32767).astype(np.int16),
        "phenotype": np.round(s.phenotype.detach().numpy() * 255).astype(np.uint8),
        "camera": columns.astype(np.float32),
    }


def left_out(recipe: str, e: Evidence, prior: Prior) -> Evidence:
    """The evidence without one of RECIPES; "prior" is taken from `prior`, in place.

    "start" is up to `fitted`.  A torso of zeros is one that nobody has seen (`begin`).
    """
    if recipe == "prior":
        prior.weight = 0.0
    if recipe != "depth":
        return e
    return replace(e, limb_weight=torch.zeros_like(e.limb_weight), torso=torch.zeros_like(e.torso))


def fitted(e: Evidence, body: TorchBody, prior: Prior, recipe: str | None = None) -> tuple[State, Tensor]:
    """The best of several starts, taken further with its silhouette; its energies (n,).  recipe: see `left_out`."""
    if recipe is not None:
        e = left_out(recipe, e, prior)
    first = starts(e)
    if recipe == "start":
        first = [(torch.zeros_like(e.torso), *first[0][1:])]
    tried = [begin(*start, body) for start in first]
    energies = torch.stack([optimise(s, e, body, prior, STEPS, RATE, skin=False) for s in tried])
    s = chosen(tried, energies.argmin(0))
    return s, optimise(s, e, body, prior, SILHOUETTE_STEPS, RATE / 2, skin=True)


def fit(e: Evidence, body: TorchBody, prior: Prior, recipe: str | None = None) -> dict[str, np.ndarray]:
    """Fit one batch from several starts, the best one further with its silhouette; recipe: see `left_out`.

    Returns the columns of a fit file with `accepted`, `energy` and `joint_error` (parts of the torso, nan: no label).
    """
    s, last = fitted(e, body, prior, recipe)
    accepted, error = accept(s, e, body, prior)
    return to_columns(s, e) | {"accepted": accepted, "energy": last.numpy().astype(np.float16), "joint_error": error}


def fit_set(name: str, a: argparse.Namespace, body: TorchBody) -> dict[str, np.ndarray]:
    """The columns of one set's persons; tells how well they fit."""
    prior, evidence = Prior.load(a.data, a.code), read_evidence(a.data, name, a.limit)
    rows = [slice(i, i + a.batch) for i in range(0, len(evidence.ids), a.batch)]
    parts = [fit(evidence.rows(r), body, prior, a.without) for r in rows]
    out = {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}
    error = out["joint_error"][:, :12]
    known = ~np.isnan(error)
    text = "no labels"
    if known.any():
        text = f"PCK@0.2 of the labels {np.mean(error[known] < 0.2):.3f}, @0.1 {np.mean(error[known] < 0.1):.3f}"
    print(f"{name}: {len(out['id'])} persons, {out['accepted'].mean():.1%} accepted; {text}", flush=True)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "sets", nargs="+", metavar="SET", choices=list(SETS), help=f"photograph sets: {', '.join(SETS)}"
    )
    parser.add_argument("--data", type=Path, required=True, help="the sets, teacher.npz, fit_body.npz, pose_prior.npz")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--limit", type=int, help="persons of each set")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--code", type=existing_file, help="of training.pose_code: a prior beside the mixtures")
    told = "; ".join(f"{name}: {what}" for name, what in RECIPES.items())
    parser.add_argument("--without", choices=list(RECIPES), help=f"a recipe left out ({told})")
    a = parser.parse_args()
    body = TorchBody(FitBody(a.data / "fit_body.npz"))
    found = [fit_set(name, a, body) for name in a.sets]
    out = {k: np.concatenate([f[k] for f in found]) for k in found[0]}
    of_set = np.repeat(np.arange(len(found)), [len(f["id"]) for f in found]).astype(np.uint8)
    a.out.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(a.out, **out, set=of_set, sets=np.array(a.sets))


if __name__ == "__main__":
    main()
