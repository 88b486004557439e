# SPDX-License-Identifier: Apache-2.0
"""Linear joint regressors, solved in closed form: COCO-17, LSP-14 and the rig's heads, from the mesh and from the
low-poly vertices.

A joint is a point fixed to a bone: the bone's head, moved by an offset that makes up for what annotators of a set
call that joint.
The offsets (millimetres, rest axes x left, y up, z front, left side) were fitted to labels of LSP and to BlazePose's
landmarks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from meshpose.body import Body

from . import affine
from .random_bodies import random_bodies

Array = npt.NDArray[Any]
Arrays = dict[str, Array]

# name -> (bone whose head is meant, bone that carries it, offset in mm)
Point = tuple[str, str, tuple[float, float, float]]
COCO_LIMBS: dict[str, Point] = {
    "shoulder": ("upperarm01", "upperarm01", (-16, 6, -1)),
    "elbow": ("lowerarm01", "lowerarm01", (8, 8, 6)),
    "wrist": ("wrist", "wrist", (0, -10, 29)),
    "hip": ("upperleg01", "root", (-15, -39, 20)),
    "knee": ("lowerleg01", "lowerleg01", (-1, -25, 9)),
    "ankle": ("foot", "foot", (-5, 31, 7)),
}
LSP_LIMBS: dict[str, Point] = {
    "shoulder": ("upperarm01", "upperarm01", (-8, 13, 16)),
    "elbow": ("lowerarm01", "lowerarm01", (4, 10, -1)),
    "wrist": ("wrist", "wrist", (0, -12, 12)),
    "hip": ("upperleg01", "root", (27, -4, 10)),
    "knee": ("lowerleg01", "lowerleg01", (2, 5, 0)),
    "ankle": ("foot", "foot", (7, 18, 11)),
}
NECK: Point = ("neck01", "neck01", (0, -7, 43))
HEAD_TOP_OFFSET = (0.0, -27.0, -11.0)  # from the highest low-poly vertex
COCO_NAMES = ["nose", "left_eye", "right_eye", "left_ear", "right_ear"] + [
    f"{side}_{joint}" for joint in COCO_LIMBS for side in ("left", "right")
]
LSP_NAMES = ["right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle"]
LSP_NAMES += ["right_wrist", "right_elbow", "right_shoulder", "left_shoulder", "left_elbow", "left_wrist"]
LSP_NAMES += ["neck", "head_top"]

MESH_CANDIDATES, MESH_KEPT, MESH_NOISE = 400, 48, 0.003
LOWPOLY_CANDIDATES, LOWPOLY_NOISE = 64, 0.010


def solve(body: Body, coco: tuple[list[str], Array], count: int, seed: int) -> Arrays:
    """The joint arrays of body.npz from `count` random bodies. coco: names and weights (n, N) of anny's own COCO
    regressor.
    """
    bodies = random_bodies(body, count + 60, np.random.default_rng(seed + 1))
    meshes = np.empty((count + 60, len(body.template), 3), np.float32)
    sets = {"coco17": COCO_NAMES, "lsp14": LSP_NAMES, "rig": body.bone_names}
    targets = {s: np.empty((count + 60, len(n), 3)) for s, n in sets.items()}
    for i in range(len(meshes)):
        meshes[i] = bodies.mesh(body, i)
        shape = body.shape(bodies.phenotype[i])
        linear, heads = body.transforms(shape, bodies.rotations[i : i + 1], bodies.translation[i : i + 1])
        move = lambda point, bone: linear[0, bone] @ (point - shape.heads[bone]) + heads[0, bone]  # noqa: B023, E731
        rest = rest_points(body, shape.vertices, shape.heads)
        for s, points in rest.items():
            targets[s][i] = [move(p, b) for p, b in points]
        targets["rig"][i] = heads[0]
        for k, name in enumerate(COCO_NAMES[:5]):
            targets["coco17"][i, k] = coco[1][coco[0].index(name)] @ meshes[i]
    out: Arrays = {"joint_sets": np.array(list(sets))}
    for s, names in sets.items():
        out[f"joint_names_{s}"] = np.array(names)
        for size, columns, candidates, kept, noise in (
            ("mesh", np.flatnonzero(~body.inner), MESH_CANDIDATES, MESH_KEPT, MESH_NOISE),
            ("lowpoly", body.lowpoly, LOWPOLY_CANDIDATES, LOWPOLY_CANDIDATES, LOWPOLY_NOISE),
        ):
            near = nearest(targets[s][:count], meshes[:count, columns], candidates)
            indices, weights = regress(targets[s][:count], meshes[:count], columns, near, kept, noise)
            test = np.einsum("nksc,ks->nkc", meshes[count:][:, columns[indices]], weights)
            error = np.linalg.norm(test - targets[s][count:], axis=-1) * 1000
            worst = error.mean(0).argmax()
            figures = f"mean {error.mean():.2f} mm, worst {names[worst]} {error.mean(0)[worst]:.2f}"
            print(f"joints {s} from {size}: {figures}")
            out[f"joint_indices_{s}_{size}"] = (indices if size == "lowpoly" else columns[indices]).astype(np.uint16)
            out[f"joint_weights_{s}_{size}"] = weights.astype(np.float32)
    return out


def rest_points(body: Body, vertices: Array, heads: Array) -> dict[str, list[tuple[Array, int]]]:
    """Rest positions and carrying bones of the joints of both sets (COCO's face points are placeholders)."""
    bone = {n: i for i, n in enumerate(body.bone_names)}

    def place(point: Point, side: str) -> tuple[Array, int]:
        at, carrier = (p if p in bone else f"{p}.{side}" for p in point[:2])
        return heads[bone[at]] + to_anny(point[2], side), bone[carrier]

    lowpoly = vertices[body.lowpoly]
    top = lowpoly[lowpoly[:, 2].argmax()] * np.array([0, 1, 1]) + to_anny(HEAD_TOP_OFFSET, "L")
    coco = [(heads[bone["head"]], bone["head"])] * 5 + [
        place(COCO_LIMBS[n.split("_")[1]], n[0].upper()) for n in COCO_NAMES[5:]
    ]
    lsp = [place(LSP_LIMBS[n.split("_")[1]], n[0].upper()) for n in LSP_NAMES[:12]]
    return {"coco17": coco, "lsp14": [*lsp, place(NECK, "L"), (top, bone["head"])]}


def to_anny(offset: tuple[float, float, float], side: str) -> Array:
    """Offset in mm (x left, y up, z front) of the left side -> metres in anny's axes (x left, y back, z up), mirrored
    for R.
    """
    x, y, z = offset
    return np.array([x if side == "L" else -x, -z, y]) / 1000


def nearest(targets: Array, sources: Array, count: int) -> Array:
    """For each joint the `count` sources whose distance to it varies least around a small mean: root mean square over
    the bodies.
    """
    square = np.stack([((sources - targets[:, k, None]) ** 2).sum(-1).mean(0) for k in range(targets.shape[1])])
    return np.argsort(square, axis=1)[:, :count]


def regress(targets: Array, meshes: Array, columns: Array, near: Array, kept: int, noise: float) -> tuple[Array, Array]:
    """indices (K, kept) into columns and weights (K, kept) that sum to 1. near (K, c): candidates, indices into
    columns.
    """
    indices, weights = np.empty((len(near), kept), int), np.empty((len(near), kept))
    for k in range(len(near)):
        c = affine.covariance(
            targets[None, :, k], meshes[:, columns[near[k]]].transpose(0, 2, 1)[None].astype(np.float64)
        )
        chosen = affine.choose(c, noise, tuple(s for s in (160, 80, kept) if s < near.shape[1]) or (kept,))
        weights[k] = affine.solve(affine.sub(c, chosen), noise)[0]
        indices[k] = near[k][chosen[0]]
    return indices, weights
