# SPDX-License-Identifier: Apache-2.0
"""Fitted people: pose, shape and camera of a stored fit -> low-poly vertices and keypoints in picture pixels (numpy).

A fit file (`fits_v0.npz`) holds per person 19 rotations away from the T-pose (pelvis in camera axes, then local), six
phenotypes and a camera (log-free scale in px per metre at the root, root x, y in px, 1 / distance).  `fit_body.npz` is
the part of the body that fitting needs: low-poly vertices, keypoints, 27 groups of bones that move rigidly together.
Axes of the fit body: x the body's left, y up, z front, before the pelvis rotation; camera: x right, y down, z away.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

PHENOTYPES = {  # anchors of anny's hat functions: count, lowest, highest
    "gender": (2, 0.0, 1.0),
    "age": (5, -1 / 3, 1.0),
    "muscle": (3, 0.0, 1.0),
    "weight": (3, 0.0, 1.0),
    "height": (2, 0.0, 1.0),
    "proportions": (2, 0.0, 1.0),
    "cup": (3, 0.0, 1.0),
    "firmness": (3, 0.0, 1.0),
}
LSP = slice(33, 47)
MID_HIPS = 47


def rotation(axis_angle: np.ndarray) -> np.ndarray:
    """(..., 3) -> (..., 3, 3), Rodrigues."""
    angle = np.linalg.norm(axis_angle, axis=-1)[..., None, None]
    k = cross_matrix(axis_angle / np.maximum(angle[..., 0], 1e-9))
    return np.eye(3) + np.sin(angle) * k + (1 - np.cos(angle)) * (k @ k)


def cross_matrix(v: np.ndarray) -> np.ndarray:
    """(..., 3) -> (..., 3, 3) with cross_matrix(v) @ w = v x w."""
    out = np.zeros((*v.shape, 3))
    out[..., 0, 1], out[..., 0, 2], out[..., 1, 2] = -v[..., 2], v[..., 1], -v[..., 0]
    return out - np.swapaxes(out, -1, -2)


def from_quaternion(q: np.ndarray) -> np.ndarray:
    """Unit quaternion wxyz -> axis-angle."""
    q = q / np.linalg.norm(q, axis=-1, keepdims=True)
    sine = np.linalg.norm(q[..., 1:], axis=-1, keepdims=True)
    return q[..., 1:] / np.maximum(sine, 1e-9) * 2 * np.arctan2(sine, q[..., :1])


def swing(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Smallest rotation that takes direction a (..., 3) to b (..., 3)."""
    a, b = (v / np.linalg.norm(v, axis=-1, keepdims=True) for v in np.broadcast_arrays(a, np.asarray(b, float)))
    k = cross_matrix(np.cross(a, b))
    return np.eye(3) + k + k @ k / (1 + (a * b).sum(-1))[..., None, None]


class FitBody:
    """fit_body.npz and its forward kinematics."""

    def __init__(self, file: Path) -> None:
        with np.load(file) as z:
            self.data = {k: z[k].astype(np.float64) if z[k].dtype.kind == "f" else z[k] for k in z.files}
        self.group = {str(name): i for i, name in enumerate(self.data["groups"])}
        self.faces = self.data["faces"].astype(np.int64)

    def coefficients(self, phenotype: np.ndarray) -> np.ndarray:
        """(n, 6) -> (n, 136) shape coefficients: products of hat functions."""
        n = len(phenotype)
        hats = [np.full((n, 3), 1 / 3)]  # three ancestries
        for i, (count, low, high) in enumerate(PHENOTYPES.values()):
            value = phenotype[:, i] if i < phenotype.shape[1] else np.full(n, 0.5)
            place = (np.clip(value, low, high) - low) / (high - low) * (count - 1)
            hats.append(np.clip(1 - np.abs(place[:, None] - np.arange(count)), 0, None))
        chosen = np.where(self.data["mask"][None] > 0, np.concatenate(hats, 1)[:, None], 1.0)
        return chosen.prod(-1) @ self.data["projection"]

    def pose(self, pelvis: np.ndarray, local: np.ndarray, phenotype: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(n, 3, 3), (n, 18, 3) axis-angle, (n, 6) -> vertices (n, 500, 3), keypoints (n, 48, 3), m, camera axes."""
        d, n = self.data, len(pelvis)
        c = self.coefficients(phenotype)
        rest = {
            k: d[k] + np.tensordot(c, d[f"{k}_shapes"], 1) for k in ("vertices", "keypoints", "heads", "toes")
        }
        rest["keypoints"] = rest["keypoints"] + d["keypoint_offsets"]
        turn = self._group_rotations(pelvis, local, rest)
        heads = rest["heads"]
        place = np.zeros((n, len(self.group), 3))
        for g in range(1, len(self.group)):
            q = int(d["group_parent"][g])
            place[:, g] = place[:, q] + np.einsum("nij,nj->ni", turn[:, q], heads[:, g] - heads[:, q])
        shift = place - np.einsum("ngij,ngj->ngi", turn, heads)
        owner = d["keypoint_group"]
        keypoints = np.einsum("nkij,nkj->nki", turn[:, owner], rest["keypoints"]) + shift[:, owner]
        skin = np.einsum("vg,ngij->nvij", d["weights"], np.concatenate([turn, shift[..., None]], -1))
        return np.einsum("nvij,nvj->nvi", skin[..., :3], rest["vertices"]) + skin[..., 3], keypoints

    def _group_rotations(self, pelvis: np.ndarray, local: np.ndarray, rest: dict[str, np.ndarray]) -> np.ndarray:
        """World rotation of every group (n, 27, 3, 3); each limb carries its rest correction to the T-pose."""
        heads = rest["heads"]

        def to_t(start: str, end: str | np.ndarray, direction: list) -> np.ndarray:
            a = heads[:, [self.group[start + s] for s in "LR"]]
            b = heads[:, [self.group[end + s] for s in "LR"]] if isinstance(end, str) else end
            return swing(b - a, np.asarray(direction))

        side, down = [[1, 0, 0], [-1, 0, 0]], [0, -1, 0]
        r = rotation(local)
        spine1 = pelvis @ r[:, 0]
        spine2 = spine1 @ r[:, 1]
        neck = spine2 @ r[:, 2]
        collar = spine2[:, None] @ r[:, 4:6]
        shoulder = collar @ r[:, 6:8]
        elbow = shoulder @ r[:, 8:10]
        hip = pelvis[:, None] @ r[:, 12:14]
        knee = hip @ r[:, 14:16]
        fore = to_t("la1", "wr", side)
        trunk = [
            pelvis,
            pelvis @ rotation(local[:, 0] * 0.5),
            spine1,
            spine1 @ rotation(local[:, 1] * 0.5),
            spine2,
            spine2 @ rotation(local[:, 2] * 0.67),
            neck,
            neck @ rotation(local[:, 3] * 0.5),
            neck @ r[:, 3],
        ]
        limbs = [
            spine2[:, None] @ rotation(local[:, 4:6] * 0.7),
            collar,
            shoulder @ to_t("ua", "la1", side),
            elbow @ fore,
            elbow @ rotation(local[:, 10:12] * [0.5, 0, 0]) @ fore,
            elbow @ r[:, 10:12] @ fore,
            hip @ to_t("ul", "ll", down),
            knee @ to_t("ll", "ft", down),
            knee @ r[:, 16:18] @ to_t("ft", rest["toes"], [0, -0.35, 0.94]),
        ]
        return np.concatenate([np.stack(trunk, 1), *limbs], 1)


@dataclass
class Fits:
    """A fit file: `columns` of arrays, one row a person."""

    body: FitBody
    columns: dict[str, np.ndarray]

    @staticmethod
    def load(folder: Path, name: str) -> Fits:
        with np.load(folder / name) as z:
            return Fits(FitBody(folder / "fit_body.npz"), {k: z[k] for k in z.files})

    def in_picture(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Vertices (n, 500, 3) and keypoints (n, 48, 3) of rows: x, y picture px; z px (root's scale), hips = 0."""
        q = self.columns["quat"][rows].astype(np.float64)
        a = from_quaternion(q)
        vertices, keypoints = self.body.pose(rotation(a[:, 0]), a[:, 1:], self.columns["phenotype"][rows] / 255.0)
        scale, x, y, inverse = (v[:, None] for v in self.columns["camera"][rows].astype(np.float64).T)
        root = keypoints[:, MID_HIPS, 2:]
        out = []
        for p in (vertices, keypoints):
            xy = p[..., :2] / (1 + inverse[..., None] * p[..., 2:]) * scale[..., None] + np.stack([x, y], -1)
            out.append(np.concatenate([xy, ((p[..., 2] - root) * scale)[..., None]], -1).astype(np.float32))
        return out[0], out[1]
