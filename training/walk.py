# SPDX-License-Identifier: Apache-2.0
"""A procedural walk along a path: planted footsteps, two-bone legs, swinging arms. No recorded motion in it.

Axes of the world: x to the right as the camera sees it, y up, z towards the camera, metres; somebody with heading 0
faces the camera. Joints and local rotations as in ``synth_body`` (x the body's left, y up, z front).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from training.synth_body import JOINTS, PARENTS, rotation, smallest_rotation

AT = {n: i for i, n in enumerate(JOINTS)}


@dataclass(frozen=True)
class Path:
    """Straight, a turn to the walker's left on an arc, straight again. Position (x, z) and heading by arc length."""

    start: tuple[float, float]
    heading: float
    straight: float
    radius: float
    angle: float

    def __call__(self, s: float) -> tuple[np.ndarray, float]:
        """Arc length s in m -> position (2,) x, z and heading in radians (0 = towards the camera, x = sin)."""
        turn = np.clip((s - self.straight) / self.radius, 0, self.angle)
        before = np.clip(s, None, self.straight)
        after = max(0.0, s - self.straight - self.radius * self.angle)
        ahead = lambda a: np.array([np.sin(a), np.cos(a)])  # noqa: E731
        left = lambda a: np.array([np.cos(a), -np.sin(a)])  # noqa: E731
        end = self.heading + turn
        centre = np.array(self.start) + before * ahead(self.heading) + self.radius * left(self.heading)
        return centre - self.radius * left(end) + after * ahead(end), float(end)


@dataclass(frozen=True)
class Leg:
    """One leg's rest points in the body's axes: hip relative to the pelvis, thigh and shin in m, ankle height, foot."""

    hip: np.ndarray
    thigh: float
    shin: float
    ankle: float
    ball: np.ndarray  # from the ankle to the ball of the foot


@dataclass(frozen=True)
class Frame:
    """One moment: local rotations (21, 3, 3) with the heading in the pelvis, and the pelvis' position (3,) m."""

    local: np.ndarray
    pelvis: np.ndarray


def smooth(x: float) -> float:
    """0 to 1 with level ends."""
    x = float(np.clip(x, 0, 1))
    return x * x * (3 - 2 * x)


class Walk:
    """The walk: frame(t) for the time t in seconds. Strides of ``period`` s at ``speed`` m/s."""

    STANCE = 0.62  # share of a stride that a foot stands

    def __init__(self, path: Path, legs: dict[str, Leg], period: float = 1.08, speed: float = 1.12) -> None:
        self.path, self.legs, self.period, self.speed = path, legs, period, speed

    def _plant(self, side: str, k: int) -> tuple[np.ndarray, float]:
        """Where the k-th step of a side stands (x, z) and its heading."""
        middle = (k + (0.0 if side == "L" else 0.5)) * self.period
        at, heading = self.path(middle * self.speed)
        out = 1.0 if side == "L" else -1.0
        return at + out * 0.085 * np.array([np.cos(heading), -np.sin(heading)]), heading + out * 0.1

    def _foot(self, side: str, t: float) -> tuple[np.ndarray, float, float]:
        """Ankle (3,), heading and pitch (toes down +) of one foot at time t."""
        leg = self.legs[side]
        phase = t / self.period - (0.0 if side == "L" else 0.5)
        k = int(np.floor(phase + self.STANCE / 2))
        here, heading = self._plant(side, k)
        u = phase - k + self.STANCE / 2  # 0 heel strike .. STANCE toe off .. 1 next strike
        lift = 0.0
        if u < self.STANCE:
            pitch = -0.32 * (1 - smooth(u / 0.09)) + 0.62 * smooth((u - 0.4) / (self.STANCE - 0.4)) ** 1.5
        else:
            w = (u - self.STANCE) / (1 - self.STANCE)
            there, next_heading = self._plant(side, k + 1)
            here, heading = here + (there - here) * smooth(w), heading + (next_heading - heading) * smooth(w)
            pitch = 0.62 * (1 - smooth(w / 0.55)) - 0.32 * smooth((w - 0.6) / 0.4)
            lift = 0.05 * np.sin(np.pi * w) ** 2
        turned = rotation(np.array([0, heading, 0])) @ rotation(np.array([pitch, 0, 0]))
        flat = rotation(np.array([0, heading, 0])) @ leg.ball
        ground = np.array([here[0], leg.ankle + lift, here[1]])
        if pitch > 0:  # the heel rises about the ball of the foot
            ankle = ground + flat - turned @ leg.ball
        else:  # the toes rise about the heel, 5 cm behind and below the ankle
            heel = np.array([0, -leg.ankle, -0.05])
            ankle = ground + rotation(np.array([0, heading, 0])) @ heel - turned @ heel
        return ankle, heading, pitch

    def frame(self, t: float) -> Frame:
        """The body at time t."""
        at, heading = self.path(t * self.speed)
        phase = 2 * np.pi * t / self.period
        swing = np.cos(phase)  # +1: left foot under the body in the middle of its stance
        stride = np.sin(phase)  # +1: the left foot behind, the right one in front
        world = np.tile(np.eye(3), (len(JOINTS), 1, 1))
        turn = rotation(np.array([0, heading, 0]))
        local = np.tile(np.eye(3), (len(JOINTS), 1, 1))
        local[0] = turn @ rotation(np.array([0.03, 0.09 * stride, 0.035 * swing]))
        feet = {s: self._foot(s, t) for s in "LR"}
        reach = self.legs["L"].thigh + self.legs["L"].shin
        side = 0.022 * swing * np.array([np.cos(heading), -np.sin(heading)])
        height = self.legs["L"].ankle + 0.968 * reach - self.legs["L"].hip[1] + 0.014 * np.cos(2 * phase)
        pelvis = np.array([at[0] + side[0], height, at[1] + side[1]])
        local[AT["spine1"]] = rotation(np.array([0.02, -0.07 * stride, -0.02 * swing]))
        local[AT["spine2"]] = rotation(np.array([0.02, -0.09 * stride, -0.02 * swing]))
        local[AT["neck"]] = rotation(np.array([-0.02, 0.05 * stride, 0]))
        look = 0.30 * np.clip(np.sin(heading - self.path.heading), -1, 1)
        local[AT["head"]] = rotation(np.array([-0.05, 0.02 * stride + look, 0.0]))
        for s, sign in (("L", 1.0), ("R", -1.0)):
            forward = 0.42 * sign * stride + 0.06  # the arm goes with the other leg
            local[AT["collar." + s]] = rotation(np.array([0, -sign * 0.06 * sign * stride, -sign * 0.04]))
            hang = rotation(np.array([-forward, 0, 0])) @ rotation(np.array([0, 0, -sign * 1.36]))
            local[AT["shoulder." + s]] = hang @ rotation(np.array([0.3, 0, 0]))
            local[AT["elbow." + s]] = rotation(np.array([0, -sign * (0.42 + 0.28 * max(0.0, sign * stride)), 0]))
            local[AT["wrist." + s]] = rotation(np.array([0.15, 0, 0]))
        for j in range(1, len(JOINTS)):
            world[0] = local[0]
            world[j] = world[PARENTS[j]] @ local[j]
        for s, (ankle, foot_heading, pitch) in feet.items():
            self._leg(local, s, pelvis, ankle, foot_heading, pitch)
        return Frame(local, pelvis)

    def _leg(
        self, local: np.ndarray, side: str, pelvis: np.ndarray, ankle: np.ndarray, heading: float, pitch: float
    ) -> None:
        """Writes hip, knee and ankle of one side: the knee bends in the plane of the foot's heading."""
        leg = self.legs[side]
        hip = pelvis + local[0] @ leg.hip
        line = ankle - hip
        far = min(float(np.linalg.norm(line)), 0.9985 * (leg.thigh + leg.shin))
        line /= np.linalg.norm(line)
        bend = np.arccos(np.clip((leg.thigh**2 + far**2 - leg.shin**2) / (2 * leg.thigh * far), -1, 1))
        front = np.array([np.sin(heading), 0, np.cos(heading)])
        axis = np.cross(front, line)  # the knee's axis: to the body's left when the leg hangs
        axis /= np.linalg.norm(axis)
        axis = -axis if axis @ (local[0] @ np.array([1.0, 0, 0])) < 0 else axis
        thigh = rotation(axis * -bend) @ line
        shin = hip + line * far - (hip + thigh * leg.thigh)
        shin /= np.linalg.norm(shin)
        frames = []
        for down in (thigh, shin):
            front_of_leg = np.cross(axis, -down)
            frames.append(np.stack([axis, -down, front_of_leg], 1))
        foot = rotation(np.array([0, heading, 0])) @ rotation(np.array([pitch, 0, 0]))
        local[AT["hip." + side]] = local[0].T @ frames[0]
        local[AT["knee." + side]] = frames[0].T @ frames[1]
        local[AT["ankle." + side]] = frames[1].T @ foot


def legs_of(heads: dict[str, np.ndarray], sole: float) -> dict[str, Leg]:
    """Leg measures from rest heads (body's axes, m) and the height of the sole at rest."""
    out = {}
    for s in "LR":
        hip, knee, ankle = (heads[f"{n}.{s}"] for n in ("upperleg01", "lowerleg01", "foot"))
        tip = heads[f"toe2-1.{s}"] - ankle
        # In the pose the foot's rest direction lies along (0, -0.35, 0.94): turn the ball with it.
        ball = smallest_rotation(tip, np.array([0, -0.35, 0.94])) @ tip
        out[s] = Leg(
            hip - heads["root"],
            float(np.linalg.norm(knee - hip)),
            float(np.linalg.norm(ankle - knee)),
            float(ankle[1] - sole),
            ball,
        )
    return out
