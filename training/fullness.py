# SPDX-License-Identifier: Apache-2.0
"""How much fuller the mesh is made than the heatmaps say: `MeshPoseNet.fullness`, by true widths and silhouettes.

A heatmap's mean lies where the vertex is on average over all that the picture leaves open.  What is left open about a
limb is above all where its surface runs, so its vertices gather towards its middle: on persons set apart the rings of
well-found limbs have 0.75 to 0.9 of their true radius.  A linear map of the low-poly takes that back: each
vertex moves away from the middle of its ring by its part's factor.  For head, hands and feet it is the true radius by
the found one; for arms, legs and trunk the one of the best mean IoU with bare bodies that are known exactly and with
photographed, clothed people, both counting alike.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from meshpose.body import Body
from meshpose.coco import Pictures, load_set
from meshpose.crop import CROP, Crop
from meshpose.estimate import Estimator

from .boxed import NEAR, Boxed, TorchNetwork, well_found
from .silhouette import filled

PARTS = {
    "arm": ("upperarm", "lowerarm"),
    "hand": ("wrist", "metacarpal", "finger"),
    "leg": ("upperleg", "lowerleg"),
    "foot": ("foot", "toe"),
    "head": (
        "neck",
        "head",
        "jaw",
        "eye",
        "special",
        "oris",
        "tongue",
        "levator",
        "temporalis",
        "risorius",
        "orbicularis",
    ),
}
"""Beginnings of the bones' names; all others are the trunk."""
ALONG = 0.02  # standard deviation of a ring along its bone, in body heights
GRID = 128  # silhouettes are compared in crops of this size
COVERING = ("arm", "leg", "trunk")
"""Parts whose factor is that of the best silhouettes: they are most of one.  Head, hands and feet are as wide as they
truly are, or hair and shoes would swell them."""
STEP, LEAST, MOST = 0.05, 0.9, 1.5


def part_of(bone: str) -> str:
    """The part of the body that a bone belongs to."""
    return next((part for part, names in PARTS.items() if bone.lower().startswith(names)), "trunk")


def strongest_bones(body: Body) -> list[str]:
    """Name of the bone that carries most of each low-poly vertex (V)."""
    strongest = body.skin_weights[body.lowpoly].argmax(1)
    return [str(body.bone_names[b]) for b in body.skin_bones[body.lowpoly][np.arange(len(strongest)), strongest]]


def rings(body: Body) -> np.ndarray:
    """(V, V): the middle of each low-poly vertex's ring, as a weighted mean of its bone's vertices.

    A local linear fit along the bone (its rows keep points along it), so that ends of limbs are not drawn out.
    """
    points = body.template[body.lowpoly].astype(np.float64)
    names = strongest_bones(body)
    trunk = [part_of(n) == "trunk" for n in names]
    keys = np.array(["trunk" if t else f"{part_of(n)} {n[-1]} {n.split('.')[0][:8]}" for n, t in zip(names, trunk)])
    spread = ALONG * np.ptp(points, axis=0).max()
    out = np.eye(len(points))
    for key in np.unique(keys):
        rows = np.flatnonzero(keys == key)
        if len(rows) < 6:
            continue
        centred = points[rows] - points[rows].mean(0)
        along = centred @ np.linalg.svd(centred, full_matrices=False)[2][0]
        near = np.exp(-(((along[:, None] - along) / spread) ** 2) / 2)
        offset = along[None] - along[:, None]
        s0, s1, s2 = near.sum(1), (near * offset).sum(1), (near * offset**2).sum(1)
        weight = near * (s2[:, None] - s1[:, None] * offset)
        out[np.ix_(rows, rows)] = weight / (s0 * s2 - s1**2)[:, None]
    return out


def matrix(body: Body, factors: dict[str, float]) -> np.ndarray:
    """(V, V) float32: the map that makes every part fuller by its factor; between parts the factors pass over as the
    skin weights do."""
    of_bone = np.array([factors[part_of(str(n))] for n in body.bone_names])
    factor = (of_bone[body.skin_bones[body.lowpoly]] * body.skin_weights[body.lowpoly]).sum(1)
    factor /= body.skin_weights[body.lowpoly].sum(1)
    identity = np.eye(len(factor))
    return (identity + (factor - 1)[:, None] * (identity - rings(body))).astype(np.float32)


@dataclass
class Silhouette:
    """A low-poly (V, 2) as the network gives it and the true mask (GRID, GRID) bool, both in one crop."""

    vertices: np.ndarray
    mask: np.ndarray


def drawn(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Silhouette (GRID, GRID) bool of a low-poly (V, 2), crop px."""
    return filled(vertices * (GRID / CROP), faces, (GRID, GRID))


def bare(seen: Iterable[Boxed], body: Body) -> list[Silhouette]:
    """Well-found persons whose bare body is known exactly."""
    out = []
    for e, truth in well_found(seen):
        true, found = (e.crop.to_crop(v)[:, :2] for v in (truth, e.vertices))
        out.append(Silhouette(found, drawn(true, body.lowpoly_faces)))
    return out


def clothed(network: TorchNetwork, data: Path, count: int) -> list[Silhouette]:
    """The first `count` persons of ccp train with their label maps; nobody where `data` has no ccp."""
    if not (data / "ccp" / "train.json").exists():
        return []
    estimator, pictures = Estimator(network), Pictures([data / "ccp" / "train.zip"])
    out = []
    for person in load_set(data / "ccp" / "train.json")[:count]:
        image = pictures.image(person.image)
        mask = pictures.silhouette(person, *image.shape[:2])
        if mask is None:
            continue
        e = estimator.from_box(image, person.box, passes=2)
        warped = np.repeat(mask[..., None].astype(np.uint8) * 255, 3, -1)
        shown = Crop(e.crop.cx, e.crop.cy, e.crop.side, e.crop.angle).warp(warped, GRID)[..., 0] > 127
        inside = e.crop.to_crop(e.vertices)[:, :2]
        out.append(Silhouette(inside, shown))
    return out


def true_widths(seen: Iterable[Boxed], body: Body, calm: np.ndarray) -> dict[str, float]:
    """Each part's factor behind `calm` (V, V) of `regular.matrix`: the true rings' radius by the found ones', in the
    picture, over the well-found vertices of well-found persons who are known exactly; 1 for a part without any.

    Scatter widens the found rings, so that no part is made fuller than it is.
    """
    parts = (*PARTS, "trunk")
    of_vertex = np.array([parts.index(part_of(bone)) for bone in strongest_bones(body)])
    offset = np.eye(len(calm)) - rings(body)
    squares = np.zeros((2, len(parts)))
    for e, truth in well_found(seen):
        true, found = e.crop.to_crop(truth)[:, :2], calm @ e.crop.to_crop(e.vertices)[:, :2]
        near = np.linalg.norm(found - true, axis=1) < NEAR * CROP
        for row, points in enumerate((true, found)):
            squares[row] += np.bincount(of_vertex[near], ((offset @ points) ** 2).sum(1)[near], len(parts))
    ratio = np.sqrt(squares[0] / np.maximum(squares[1], 1e-9))
    known = np.where(squares[1] > 0, np.clip(ratio, LEAST, MOST), 1.0)
    return dict(zip(parts, known.round(3).tolist(), strict=True))


def solve(
    groups: list[list[Silhouette]], body: Body, calm: np.ndarray, widths: dict[str, float]
) -> tuple[dict[str, float], float, float]:
    """The factors behind `calm` (V, V) of `regular.matrix`: those of the best mean IoU for the COVERING parts, groups
    counting alike, and `widths` for the others; and that IoU with `widths` alone and in the end (`widths` and 0 where
    nobody is in any group).
    """
    groups = [[Silhouette(calm @ s.vertices.astype(np.float32), s.mask) for s in group] for group in groups if group]

    def worth(trial: dict[str, float]) -> float:
        full = matrix(body, trial)
        means = []
        for group in groups:
            ious = []
            for s in group:
                found = drawn(full @ s.vertices.astype(np.float32), body.lowpoly_faces)
                ious.append((found & s.mask).sum() / max((found | s.mask).sum(), 1))
            means.append(np.mean(ious))
        return float(np.mean(means)) if means else 0.0

    factors, before = widths, worth(widths)
    best, improved = before, True
    while improved:
        improved = False
        for part in COVERING:
            for way in (STEP, -STEP):
                trial = {**factors, part: round(factors[part] + way, 3)}
                while LEAST <= trial[part] <= MOST and (value := worth(trial)) > best + 1e-5:
                    factors, best, improved = trial, value, True
                    trial = {**factors, part: round(factors[part] + way, 3)}
    return factors, before, best
