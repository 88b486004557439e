# SPDX-License-Identifier: Apache-2.0
"""Persons who are never trained on, and what a network in training makes of them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from meshpose.body import Body

from .data import Change, Crops, Person
from .model import CROP, MeshPoseNet
from .precision import mixed_precision
from .silhouette import SEEN, UNKNOWN, soft_silhouette
from .spatial import peaks_of

FAR = 60.0
"""Px of the crop at which an error of a vertex counts no more."""
OFF = 30.0
"""Centimetres on the body at which an error of a surface point counts no more."""
SURFACE = ("surface_face", "surface_bary", "surface_xy", "surface_weight")
TRUTH = ("crop", "vertices", "visible", "exact", "has", "joints", "heat_weight", "cells")


class Held:
    """Fixed crops of persons, half of them rendered, and figures of a network on them; mirror (V,) and regressor
    (14, V) of the low-poly."""

    def __init__(
        self,
        people: list[Person],
        mirror: np.ndarray,
        regressor: Tensor,
        count: int = 192,
        batch: int = 16,
        upright: bool = False,
        crowd: Change | None = None,
    ) -> None:
        """crowd: what every photograph goes through first (of `training.paste`); upright: see `Crops`."""
        exact = [i for i, p in enumerate(people) if p.exact][: count // 2]
        keys = exact + [i for i, p in enumerate(people) if not p.exact][: count - len(exact)]
        faces = Body.load().lowpoly_faces
        data = Crops(people, faces, mirror, 99, stretched=0.0, upright=upright, crowded=1.0, crowd=crowd)
        self.regressor, self.faces = regressor, torch.from_numpy(faces.astype(np.int64))
        wanted = (*TRUTH, *SURFACE)
        samples = [{k: v for k, v in data[(i, 1)].items() if k in wanted} for i in keys[: len(keys) // batch * batch]]
        self.batches = [default_collate(samples[i : i + batch]) for i in range(0, len(samples), batch)]

    @torch.no_grad()
    def look(self, net: MeshPoseNet) -> dict[str, float]:
        """The heatmaps: mean distance (at most FAR) and mean of the medians of the visible vertices, px of the crop;
        share of the joints that are labelled and in the crop that lie within 12 px, a fifth of a usual torso."""
        found = Means()
        net.eval()
        for sample in self.batches:
            with mixed_precision():
                features = net.features(sample["crop"].contiguous(memory_format=torch.channels_last))
                scores = net.heatmaps(features.dense, torch.arange(sample["vertices"].shape[1]))
            positions, joints = peaks_of(scores)[0], sample["joints"]
            distance = (positions - sample["vertices"][..., :2]).norm(dim=-1)
            away = (torch.einsum("jv,bvd->bjd", self.regressor, positions) - joints[..., :2]).norm(dim=-1)
            known = (joints[..., 2] > 0.99) & ((joints[..., :2] > 0) & (joints[..., :2] < CROP)).all(-1)
            exact_ones = sample["exact"][:, 0] > 0
            for e, seen, j, there, exact in zip(distance, sample["visible"] > 0, away, known, exact_ones, strict=True):
                if there.any():
                    found.add(exact, "joints", (j[there] < 12).float().mean())
                if seen.any():
                    found.add(exact, "mean", e[seen].clamp(max=FAR).mean())
                    found.add(exact, "median", e[seen].median())
        net.train()
        return found.figures()

    @torch.no_grad()
    def surface(self, net: MeshPoseNet) -> dict[str, float]:
        """Mean error of surface points that are seen, centimetres on the template, at most OFF: the likeliest vertex at
        the pixel (equation 2) against the true point."""
        body = Body.load()
        template = torch.from_numpy(100 * body.template[body.lowpoly])
        found = Means()
        net.eval()
        for sample in self.batches:
            with mixed_precision():
                dense = net.features(sample["crop"].contiguous(memory_format=torch.channels_last)).dense
                best = net.scores_at(dense, sample["surface_xy"]).argmax(-1)
            true = (template[self.faces[sample["surface_face"]]] * sample["surface_bary"][..., None]).sum(-2)
            away = (template[best] - true).norm(dim=-1).clamp(max=OFF)
            weights = sample["surface_weight"] > 0
            for error, weight, exact in zip(away, weights, sample["exact"][:, 0] > 0, strict=True):
                if weight.any():
                    found.add(exact, "surface", error[weight].mean())
        net.train()
        return found.figures()

    @torch.no_grad()
    def mesh(self, net: MeshPoseNet) -> dict[str, float]:
        """The mesh that is delivered: IoU of what of it is said to be seen with what is, mean distance of the hidden
        vertices whose place is known (at most FAR, px of the crop), correlation of the depths with the true ones, share
        of the vertices whose visibility is right."""
        found = Means()
        net.eval()
        for sample in self.batches:
            with mixed_precision():
                answer = net(sample["crop"].contiguous(memory_format=torch.channels_last))
            mesh, seen, true = answer["vertices"].float(), answer["visibility"].float(), sample["vertices"]
            shown, cells = soft_silhouette(mesh[..., :2], seen, self.faces) > 0.5, sample["cells"]
            away = (mesh[..., :2] - true[..., :2]).norm(dim=-1).clamp(max=FAR)
            hidden = (sample["visible"] == 0) & (sample["heat_weight"] > 0)
            depths = [z - z.mean(1, keepdim=True) for z in (mesh[..., 2], true[..., 2])]
            along = torch.cosine_similarity(*depths)
            right = ((seen > 0.5) == (sample["visible"] > 0)).float().mean(1)
            for i in torch.nonzero(sample["has"][:, 0] > 0)[:, 0]:
                exact, known = sample["exact"][i, 0] > 0, cells[i] != UNKNOWN
                either = ((shown[i] | (cells[i] == SEEN)) & known).sum()
                found.add(exact, "IoU", (shown[i] & (cells[i] == SEEN)).sum() / either.clamp(min=1))
                if hidden[i].any():
                    found.add(exact, "hidden", away[i, hidden[i]].mean())
                found.add(exact, "depth", along[i])
                found.add(exact, "visibility", right[i])
        net.train()
        return found.figures()


class Means:
    """Figures of single persons, gathered by kind of picture."""

    def __init__(self) -> None:
        self.found: dict[str, list[float]] = {}

    def add(self, exact: Tensor | bool, what: str, value: Tensor) -> None:
        """One person's figure; exact: a render."""
        self.found.setdefault(f"{'renders' if exact else 'photographs'} {what}", []).append(float(value))

    def figures(self) -> dict[str, float]:
        """Means over the persons."""
        return {k: round(float(np.mean(v)), 3) for k, v in self.found.items()}
