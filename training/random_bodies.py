# SPDX-License-Identifier: Apache-2.0
"""Random bodies: shape, pose with fingers, face. What the closed-form solutions are solved on and the tests are run on.

    body = Body.load()
    bodies = random_bodies(body, 100, np.random.default_rng(1))
    mesh = bodies.mesh(body, 7)                     # (13718, 3) metres

Angles are drawn inside plausible limits of every joint, in the world axes of anny's reference pose (z up, facing -y,
left at +x), and scaled per body by one number, so that quiet and violent poses both occur. No test for self-collision.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from meshpose.body import Body, quaternion

Array = npt.NDArray[Any]

# Degrees, left side: (bone, low and high about x (forward axis of bending), y, z). The right side is the mirror image.
SIDE_LIMITS: list[tuple[str, Array]] = [
    ("upperleg01", np.array([(-100, 25), (-35, 35), (-35, 35)])),
    ("upperleg02", np.array([(0, 0), (0, 0), (-10, 10)])),
    ("lowerleg01", np.array([(0, 130), (0, 0), (-8, 8)])),
    ("foot", np.array([(-35, 35), (-15, 15), (-15, 15)])),
    ("clavicle", np.array([(-5, 5), (-15, 10), (-15, 15)])),
    ("shoulder01", np.array([(-8, 8), (-12, 8), (-10, 10)])),
    ("upperarm01", np.array([(-100, 40), (-90, 35), (-50, 50)])),
]
TRUNK_LIMITS = [("spine05", 12), ("spine04", 12), ("spine03", 12), ("spine02", 12), ("spine01", 12),
                ("neck01", 15), ("neck02", 15), ("neck03", 15), ("head", 15)]  # fmt: skip


@dataclass(frozen=True, eq=False)
class Bodies:
    """n bodies: phenotype (n, 6), rotations (n, J, 4) local-ref deltas w x y z, translation (n, 3) metres, face (n,
    52).
    """

    phenotype: Array
    rotations: Array
    translation: Array
    face: Array

    def mesh(self, body: Body, i: int) -> Array:
        """Vertices (N, 3) of body i, metres."""
        rows = slice(i, i + 1)
        return body.pose(body.shape(self.phenotype[i]), self.rotations[rows], self.translation[rows], self.face[rows])[
            0
        ]


def random_bodies(body: Body, n: int, rng: np.random.Generator, adults: bool = False) -> Bodies:
    """n random bodies; 15 % children unless adults only."""
    phenotype = rng.beta(2, 2, (n, 6))
    phenotype[:, 0] = rng.random(n)
    phenotype[:, 1] = 0.6 + 0.4 * rng.beta(1.5, 2, n)
    if not adults:
        child = rng.random(n) < 0.15
        phenotype[child, 1] = rng.uniform(0.1, 0.6, int(child.sum()))
    face = np.where(rng.random((n, len(body.face_names))) < 0.15, rng.random((n, len(body.face_names))), 0.0)
    face[rng.random(n) > 0.7] = 0
    vectors = random_pose(body, n, rng)
    vectors[:, 0] = random_rotation_vectors(n, rng)
    return Bodies(phenotype, quaternion_from_vector(vectors), rng.normal(0, 0.3, (n, 3)), face)


def random_pose(body: Body, n: int, rng: np.random.Generator) -> Array:
    """Rotation vectors (n, J, 3), radians, of the local-ref deltas; the root stays at rest."""
    index = {name: i for i, name in enumerate(body.bone_names)}
    heads = _reference_heads(body)
    activity = rng.beta(1.2, 1.2, (n, 1))
    out = np.zeros((n, len(index), 3))
    for name, limit in TRUNK_LIMITS:
        out[:, index[name]] = np.radians(rng.uniform(-limit, limit, (n, 3))) * activity
    for side, sign in (("L", 1.0), ("R", -1.0)):
        mirror = np.array([1.0, sign, sign])
        for name, limits in SIDE_LIMITS:
            angles = rng.uniform(limits[:, 0], limits[:, 1], (n, 3))
            out[:, index[f"{name}.{side}"]] = np.radians(angles) * activity * mirror
        out[:, index[f"eye.{side}"], ::2] = np.radians(rng.uniform(-25, 25, (n, 2))) * (rng.random((n, 1)) < 0.7)
        for toe in range(1, 6):
            out[:, index[f"toe{toe}-1.{side}"], 0] = np.radians(rng.uniform(-40, 25, n)) * activity[:, 0]
        _arm(out, index, heads, side, activity, rng)
        _hand(out, index, heads, side, rng)
    return out


def _arm(out: Array, index: dict[str, int], heads: Array, side: str, activity: Array, rng: np.random.Generator) -> None:
    """Elbow about the normal of the arm's own plane, forearm twist shared by two bones, wrist."""
    shoulder, elbow, wrist = (heads[index[f"{b}.{side}"]] for b in ("upperarm01", "lowerarm01", "wrist"))
    n = len(out)
    fore = _unit(wrist - elbow)
    hinge = _unit(np.cross(elbow - shoulder, fore))
    out[:, index[f"lowerarm01.{side}"]] = np.radians(rng.uniform(-40, 100, (n, 1))) * activity * hinge
    out[:, index[f"lowerarm02.{side}"]] = np.radians(rng.uniform(-35, 35, (n, 1))) * activity * fore
    bend = np.radians(rng.uniform(-60, 60, (n, 1))) * hinge + np.radians(rng.uniform(-18, 18, (n, 1))) * np.cross(
        fore, hinge
    )
    out[:, index[f"wrist.{side}"]] = (bend + np.radians(rng.uniform(-35, 35, (n, 1))) * fore) * activity


def _hand(out: Array, index: dict[str, int], heads: Array, side: str, rng: np.random.Generator) -> None:
    """Open, half closed or fist, with scatter per finger; some fingers on their own; thumb."""
    n = len(out)
    at = lambda f, k: heads[index[f"finger{f}-{k}.{side}"]]  # noqa: E731
    palm = _unit(np.cross(at(2, 1) - heads[index[f"wrist.{side}"]], at(5, 1) - heads[index[f"wrist.{side}"]]))
    # The resting fingers are slightly bent: that bend says which side of the hand the palm is.
    rest_bend = sum(float(_unit(at(f, 3) - at(f, 2)) @ palm - _unit(at(f, 2) - at(f, 1)) @ palm) for f in range(2, 6))
    palm *= np.sign(rest_bend)
    low, high = np.array([(0, 25), (10, 60), (55, 90)], float)[rng.integers(0, 3, n)].T
    shared = rng.uniform(low, high)
    for f in range(1, 6):
        own = rng.random(n) < 0.2
        curl = np.where(own, rng.uniform(0, 90, n), shared) + rng.normal(0, 12, n)
        if f == 1:
            curl = rng.uniform(-20, 55, n)
        for k in range(1, 4):
            tip = at(f, 3) - at(f, 2) if k == 3 else at(f, k + 1) - at(f, k)
            axis = _unit(np.cross(_unit(tip), palm))
            share = (0.5 if f == 1 else 1.0) * np.clip(curl, -25, 95)
            out[:, index[f"finger{f}-{k}.{side}"]] = np.radians(share)[:, None] * axis
        spread = np.radians(rng.uniform(-8, 8, n))[:, None] * palm
        out[:, index[f"finger{f}-1.{side}"]] += spread


def _reference_heads(body: Body) -> Array:
    """Bone heads (J, 3) of the average adult in the reference pose (all deltas identity)."""
    identity = np.zeros((1, len(body.bone_names), 4), np.float32)
    identity[..., 0] = 1
    return body.transforms(body.shape(), identity, np.zeros((1, 3)))[1][0].astype(np.float64)


def quaternion_from_vector(vector: Array) -> Array:
    """Rotation vectors (..., 3) in radians -> quaternions (..., 4) w x y z."""
    angle = np.linalg.norm(vector, axis=-1, keepdims=True)
    return np.concatenate([np.cos(angle / 2), vector * 0.5 * np.sinc(angle / (2 * np.pi))], -1)


def random_rotation_vectors(n: int, rng: np.random.Generator) -> Array:
    """Rotation vectors (n, 3) of uniformly random rotations."""
    q = rng.normal(size=(n, 4))
    q /= np.linalg.norm(q, axis=-1, keepdims=True)
    q = np.where(q[:, :1] < 0, -q, q)
    sine = np.linalg.norm(q[:, 1:], axis=-1, keepdims=True)
    return q[:, 1:] / np.maximum(sine, 1e-12) * 2 * np.arctan2(sine, q[:, :1])


def mirrored(body: Body, rotations: Array) -> Array:
    """The left-right mirror image of poses (n, J, 4): sides exchanged, y and z of the rotation reversed."""
    return rotations[:, body.bone_mirror] * np.array([1.0, 1.0, -1.0, -1.0])


def low_poly_meshes(body: Body, bodies: Bodies, rows: Iterable[int]) -> Array:
    """Low-poly vertices (n, V, 3) of some bodies, metres."""
    return np.stack([bodies.mesh(body, i)[body.lowpoly] for i in rows])


def _unit(v: Array) -> Array:
    return v / np.linalg.norm(v, axis=-1, keepdims=True)


__all__ = [
    "Bodies",
    "low_poly_meshes",
    "mirrored",
    "quaternion",
    "quaternion_from_vector",
    "random_bodies",
    "random_pose",
]
