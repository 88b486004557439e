# SPDX-License-Identifier: Apache-2.0
"""How much fuller the mesh is made than the heatmaps say: `MeshPoseNet.fullness`, solved by the true width of limbs.

A heatmap's mean lies where the vertex is on average over all that the picture leaves open.  What is left open about a
limb is above all where its surface runs, so its vertices gather towards its middle: on persons set apart the rings of
well-found limbs have 0.75 to 0.9 of their true radius.  A linear map of the low-poly takes that back: each
vertex moves away from the middle of its ring by its part's factor, the true radius by the found one.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from meshpose.body import Body
from meshpose.crop import CROP

from .boxed import NEAR, Boxed

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
LEAST, MOST = 0.9, 1.5
FOUND = 0.6  # quality from which an estimate counts: a wrong pose says nothing of thickness


def part_of(bone: str) -> str:
    """The part of the body that a bone belongs to."""
    return next((part for part, names in PARTS.items() if bone.lower().startswith(names)), "trunk")


def rings(body: Body) -> np.ndarray:
    """(V, V): the middle of each low-poly vertex's ring, as a weighted mean of its bone's vertices.

    A local linear fit along the bone (its rows keep points along it), so that ends of limbs are not drawn out.
    """
    points = body.template[body.lowpoly].astype(np.float64)
    strongest = body.skin_weights[body.lowpoly].argmax(1)
    bones = body.skin_bones[body.lowpoly][np.arange(len(points)), strongest]
    names = [str(body.bone_names[b]) for b in bones]
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


def solve(seen: Iterable[Boxed], body: Body, calm: np.ndarray) -> dict[str, float]:
    """Each part's factor behind `calm` (V, V) of `regular.matrix`: the true rings' radius by the found ones', in the
    picture, over the well-found vertices of well-found persons who are known exactly; 1 for a part without any.

    Scatter widens the found rings, so that no part is made fuller than it is.
    """
    parts = (*PARTS, "trunk")
    strongest = body.skin_bones[body.lowpoly][np.arange(len(calm)), body.skin_weights[body.lowpoly].argmax(1)]
    of_vertex = np.array([parts.index(part_of(str(body.bone_names[b]))) for b in strongest])
    offset = np.eye(len(calm)) - rings(body)
    squares = np.zeros((2, len(parts)))
    for b in seen:
        truth = b.person.vertices
        if not b.person.exact or truth is None or b.quality[len(b.quality) // 2 :].max() <= FOUND:
            continue
        e = b.best()
        true, found = e.crop.to_crop(truth)[:, :2], calm @ e.crop.to_crop(e.vertices)[:, :2]
        near = np.linalg.norm(found - true, axis=1) < NEAR * CROP
        for row, points in enumerate((true, found)):
            squares[row] += np.bincount(of_vertex[near], ((offset @ points) ** 2).sum(1)[near], len(parts))
    ratio = np.sqrt(squares[0] / np.maximum(squares[1], 1e-9))
    known = np.where(squares[1] > 0, np.clip(ratio, LEAST, MOST), 1.0)
    return dict(zip(parts, known.round(3).tolist(), strict=True))
