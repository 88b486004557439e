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
FITTED = [AT[n] for n in ("pelvis", "spine1", "spine2", "neck", "head")]
FITTED += [AT[f"{n}.{s}"] for n in ("collar", "shoulder", "elbow", "wrist", "hip", "knee", "ankle") for s in "LR"]
"""The fits' order of joints (training.fits)."""
# Reflection in the body's middle plane, for rotation matrices: S R S.
FLIP = np.diag([-1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Pose:
    """Local joint rotations (21, 3, 3) with the pelvis upright and facing z, and finger rotations (bone -> (3, 3)).

    ``bones`` (163, 3, 3), when given, are MakeHuman's own rotations away from rest, used instead of ``local``.
    ``heading``: degrees about the vertical that the pose was photographed from, None if any side will do.
    """

    local: np.ndarray
    fingers: dict[int, np.ndarray]
    bones: np.ndarray | None = None
    heading: float | None = None


class PoseSampler:
    """Draws poses from ``motion.npz`` (training clips unless ``test``), ``makehuman/poses.npz`` and, with ``fits``,
    the accepted fits of training photographs (gymnasts, climbers, people on chairs)."""

    def __init__(self, data: Path, body: SynthBody, test: bool = False, fits: bool = False) -> None:
        self.fitted = fitted_poses(data) if fits else np.zeros((0, 21, 3, 3))
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
        local[0], _ = without_heading(local[0])
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

    def fitted_frame(self, rng: np.random.Generator) -> tuple[np.ndarray, float]:
        """One person of a photograph (21, 3, 3), mirrored half of the time; the heading (degrees) is taken away."""
        local = self.fitted[rng.integers(len(self.fitted))].copy()
        if rng.random() < 0.5:
            local = FLIP @ local[list(MIRROR)] @ FLIP
        local[0], heading = without_heading(local[0])
        return local, heading

    def __call__(self, rng: np.random.Generator) -> Pose:
        """Somebody of a photograph (45 % where there are fits), MakeHuman's poses (5 %), or motion capture; tilted in
        space 30 % of the time: people fall, lie, climb and turn over."""
        if len(self.fitted) and rng.random() < 0.45:
            local, heading = self.fitted_frame(rng)
            if rng.random() < 0.15:
                local[LEGS] = self.fitted_frame(rng)[0][LEGS]
            if rng.random() < 0.15:
                local[ARMS["L"]] = self.fitted_frame(rng)[0][ARMS["L"]]
            local = local @ jitter(rng, rng.choice([0.04, 0.1]))
            return Pose(local, self.fingers(rng), None, heading if rng.random() < 0.6 else None)
        pose = self.captured(rng)
        kind = rng.random()
        if kind < 0.3:
            turn = rng.normal(0, 1, 3) * [1, 0, 1] * np.radians(40) if kind < 0.2 else rotation_vector(any_turn(rng))
            if pose.bones is not None:
                return Pose(pose.local, pose.fingers, rotation(turn) @ pose.bones)
            pose.local[0] = rotation(turn) @ pose.local[0]
        return pose

    def captured(self, rng: np.random.Generator) -> Pose:
        """5 % a MakeHuman pose; else a frame, 35 % other legs, 20 % another arm, 25 % free limbs; noise."""
        if rng.random() < 0.05:
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
        if rng.random() < 0.25:
            local = self.free_limbs(rng, local)
        return Pose(local @ jitter(rng, rng.choice([0.03, 0.08, 0.16])), self.fingers(rng))

    def _mirror_bones(self, bones: np.ndarray) -> np.ndarray:
        swap = {"L": "R", "R": "L"}
        order = [
            self.body.bone[n[:-1] + swap[n[-1]]] if n[-2:] in (".L", ".R") else i for i, n in enumerate(self.body.names)
        ]
        return FLIP @ bones[order] @ FLIP


def without_heading(pelvis: np.ndarray) -> tuple[np.ndarray, float]:
    """A pelvis (3, 3) turned about the vertical until it faces z, and the angle taken away, degrees."""
    front = pelvis[:, 2] if np.hypot(*pelvis[[0, 2], 2]) > 0.3 else pelvis[:, 1]  # lying: the way the head points
    angle = np.arctan2(front[0], front[2])
    return rotation(np.array([0, -angle, 0])) @ pelvis, float(np.degrees(angle))


def jitter(rng: np.random.Generator, sigma: float) -> np.ndarray:
    """(21, 3, 3) small turns of every joint but the pelvis, at most 25 degrees."""
    noise = rng.normal(0, sigma, (21, 3))
    noise *= np.minimum(1, 0.44 / np.maximum(np.linalg.norm(noise, axis=1, keepdims=True), 1e-9))
    noise[0] = 0
    return rotation(noise)


def any_turn(rng: np.random.Generator) -> np.ndarray:
    """A rotation (3, 3) uniform over all."""
    return from_quaternion(rng.normal(0, 1, 4))


def fitted_poses(data: Path) -> np.ndarray:
    """Accepted fits of the training photographs, (n, 21, 3, 3): pelvis upright as the photograph, then local rotations.

    Camera axes are turned to y up, z towards the camera.
    """
    out = []
    for file in ("fits_v0.npz", "fits_more.npz"):
        with np.load(data / file) as z:
            train = np.array(["val" not in str(s) for s in z["sets"]])
            r = from_quaternion(z["quat"][z["accepted"] & train[z["set"]]])
        local = np.tile(np.eye(3), (len(r), 21, 1, 1))
        local[:, FITTED] = r
        local[:, 0] = np.diag([1.0, -1.0, -1.0]) @ local[:, 0]
        out.append(local)
    return np.concatenate(out)


def random_phenotype(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Phenotype (6,) and race shares (3,): both sexes and between, 12 % children, 12 % old, a tenth very heavy."""
    gender = rng.choice([rng.uniform(0, 0.25), rng.uniform(0.75, 1), rng.uniform(0, 1)])
    kind = rng.random()
    age = rng.uniform(0.15, 0.55) if kind < 0.12 else rng.uniform(0.85, 1) if kind < 0.24 else rng.uniform(0.58, 0.85)
    muscle, height, proportions = rng.uniform(0.15, 0.9), rng.uniform(0.15, 0.9), rng.uniform(0.15, 0.85)
    weight = rng.uniform(0.8, 1) if rng.random() < 0.1 else np.clip(rng.normal(0.48, 0.18), 0.05, 0.9)
    return np.array([gender, age, muscle, weight, height, proportions]), rng.dirichlet(np.ones(3))
