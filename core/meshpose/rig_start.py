# SPDX-License-Identifier: Apache-2.0
"""Where the rig's fit begins, in closed form, parents before children (HybrIK's decomposition; `rig.py` goes on).

The root, chest, head, hands and feet turn by weighted Procrustes; every other bone swings so that it points from its
joint to its child's joint, and its twist is the turn around that axis which brings the surface that the bone carries
onto the mesh.  Both need the vertices only in sums of products, so these are taken first, in one matrix product.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .body import Body
from .rig_solve import Group, Posed

Array = npt.NDArray[Any]

# Bones that turn as a whole by Procrustes at the start: name -> bones whose vertices say how.
BLOCKS = {
    "root": ("root", "pelvis.L", "pelvis.R", "spine05"),
    "spine01": ("spine01", "spine02", "clavicle.L", "clavicle.R", "shoulder01.L", "shoulder01.R"),
    "head": ("head",),
    **{f"wrist.{s}": (f"wrist.{s}", *(f"metacarpal{i}.{s}" for i in range(1, 5))) for s in "LR"},
    **{f"foot.{s}": (f"foot.{s}", *(f"toe{i}-1.{s}" for i in range(1, 6))) for s in "LR"},
}
# The next bone along a limb, where a bone has several children or skips some.
NEXT = {
    "clavicle": "upperarm01",
    "shoulder01": "upperarm01",
    "spine05": "spine03",
    "spine04": "spine02",
    "spine03": "spine01",
}
LEAST_HELD = 0.02  # of a vertex: one that a bone holds less says nothing of it


class Start:
    """The turning bones (S,) of a group: blocks, those that turn as a whole; following, the bone whose head another one
    points to, or -1; held (S, V), how much each holds of the vertices.
    """

    def __init__(self, body: Body, group: Group) -> None:
        self.body, self.group = body, group
        names, index = body.bone_names, {n: i for i, n in enumerate(body.bone_names)}
        turning, skin = [names[c] for c in group.turning], body.lowpoly_skin
        held = np.stack([skin[[index[b] for b in BLOCKS.get(n, (n,))]].sum(0) for n in turning])
        self.held = np.where(held > LEAST_HELD, held, 0)
        self.blocks = np.array([s for s, n in enumerate(turning) if n in BLOCKS])
        self.following = np.array([-1 if n in BLOCKS else _following(body, n, index) for n in turning])

    def __call__(self, posed: Posed, low: Array, weights: Array) -> tuple[Array, Array]:
        """Deltas (F, J, 3, 3) and root (F, 3) metres; low (F, V, 3) metres, weights (F, V): 1 / sigma."""
        group, joints = self.group, self.body.joints(low, "rig").astype(np.float64)
        moments = _moments(self.held, posed.rest, low, weights)
        turned = np.empty((len(low), len(group.turning), 3, 3))
        turned[:, self.blocks] = _procrustes(moments[:, self.blocks])
        for level in (np.zeros(1, np.int64), *group.levels):
            blocks = np.intersect1d(level, self.blocks)
            turned[:, blocks] = turned[:, blocks] @ posed.align[group.turning[blocks]].swapaxes(1, 2)
            others = np.setdiff1d(level, blocks)
            turned[:, others] = turned[:, group.above[others]]
            limbs = others[self.following[others] >= 0]
            bones, ends = group.turning[limbs], self.following[limbs]
            base = turned[:, limbs] @ posed.align[bones]
            axis = _unit(joints[:, ends] - joints[:, bones])
            along = base @ (posed.heads[ends] - posed.heads[bones])[..., None]
            swing = _swing(_unit(along[..., 0]), axis) @ base
            twist = _twist(axis, swing @ _around(moments[:, limbs], posed.heads[bones], joints[:, bones]))
            turned[:, limbs] = twist @ swing @ posed.align[bones].swapaxes(1, 2)
        deltas = np.tile(np.eye(3), (len(low), len(self.body.bone_names), 1, 1))
        deltas[:, group.turning[0]] = turned[:, 0]
        deltas[:, group.turning[1:]] = turned[:, group.above[1:]].swapaxes(-1, -2) @ turned[:, 1:]
        return deltas, joints[:, 0]


def _following(body: Body, name: str, index: dict[str, int]) -> int:
    """The bone whose head a bone points to, -1 where that is none or several."""
    base, _, side = name.partition(".")
    if base in NEXT:
        return index[NEXT[base] + ("." + side if side else "")]
    children = np.flatnonzero(body.bone_parents == index[name])
    return int(children[0]) if len(children) == 1 else -1


def _moments(held: Array, rest: Array, posed: Array, weights: Array) -> Array:
    """Sums over the vertices of weight times (rest, 1) (posed, 1)^T: (F, S, 4, 4).

    held (S, V): what a vertex counts for each bone; rest (V, 3), posed (F, V, 3), weights (F, V), counting squared.
    """
    frames, count = weights.shape
    squares = (weights**2).T
    hits = np.empty((count, 4, frames))
    hits[:, :3] = posed.transpose(1, 2, 0) * squares[:, None]
    hits[:, 3] = squares
    arms = held[:, None] * np.concatenate([rest, np.ones((count, 1))], 1).T
    found = arms.reshape(-1, count) @ hits.reshape(count, -1)
    return np.ascontiguousarray(found.reshape(len(held), 4, 4, frames).transpose(3, 0, 1, 2))


def _around(moments: Array, rest: Array, posed: Array) -> Array:
    """Moments (..., 4, 4) of `_moments` -> (..., 3, 3), those of rest and posed less these points (..., 3)."""
    here = moments[..., :3, :3] - rest[..., None] * moments[..., 3, None, :3]
    there = moments[..., :3, 3] - rest * moments[..., 3, 3, None]
    result: Array = here - there[..., None] * posed[..., None, :]
    return result


def _procrustes(moments: Array) -> Array:
    """Rotations (..., 3, 3) that turn rest into posed best; moments (..., 4, 4) of `_moments`."""
    mass = np.maximum(moments[..., 3, 3, None], 1e-12)
    middles = moments[..., :3, 3] / mass, moments[..., 3, :3] / mass
    u, _, vt = np.linalg.svd(_around(moments, *middles).swapaxes(-1, -2))
    u[..., 2] *= np.sign(np.linalg.det(u @ vt))[..., None]
    result: Array = u @ vt
    return result


def _swing(a: Array, b: Array) -> Array:
    """Smallest rotations (..., 3, 3) that point the unit vectors a (..., 3) along b (..., 3); HybrIK equation 5."""
    axis = _cross(a, b)
    sine = np.linalg.norm(axis, axis=-1)
    # Turned right round: any axis across a will do.
    opposite = sine < 1e-6
    axis[opposite] = np.cross(a[opposite], np.eye(3)[np.abs(a[opposite]).argmin(-1)])
    return _about(_unit(axis), sine, (a * b).sum(-1))


def _twist(axis: Array, moments: Array) -> Array:
    """Rotations (..., 3, 3) about the unit vectors axis (..., 3) that bring arms a onto b best; moments (..., 3, 3): of
    a and b, weighted sums of a b^T."""
    turn = np.stack([moments[..., i, j] - moments[..., j, i] for i, j in ((1, 2), (2, 0), (0, 1))], -1)
    sine = (turn * axis).sum(-1)
    along = ((axis[..., None, :] @ moments)[..., 0, :] * axis).sum(-1)
    return _about(axis, sine, np.trace(moments, axis1=-2, axis2=-1) - along)


def _unit(vectors: Array) -> Array:
    """Vectors (..., 3) at length 1."""
    result: Array = vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9)
    return result


def _cross(a: Array, b: Array) -> Array:
    """As numpy.cross, of (..., 3), without its many passes."""
    return np.stack([a[..., i] * b[..., j] - a[..., j] * b[..., i] for i, j in ((1, 2), (2, 0), (0, 1))], -1)


def _about(axis: Array, sine: Array, cosine: Array) -> Array:
    """Rodrigues' rotations (..., 3, 3) about unit vectors (..., 3) by the angle of (cosine, sine), of any length; no
    length, no turn."""
    length = np.hypot(sine, cosine)
    known = length > 1e-12
    s = np.where(known, sine / np.where(known, length, 1), 0.0)
    c = np.where(known, cosine / np.where(known, length, 1), 1.0)
    out: Array = ((1 - c)[..., None] * axis)[..., None] * axis[..., None, :]
    x, y, z = np.moveaxis(s[..., None] * axis, -1, 0)
    for (i, j), part in zip(((2, 1), (0, 2), (1, 0)), (x, y, z), strict=True):
        out[..., i, j] += part
        out[..., j, i] -= part
    for k in range(3):
        out[..., k, k] += c
    return out
