# SPDX-License-Identifier: Apache-2.0
"""Motion capture seen by random cameras, with a single-frame network's errors: what `training.depth` learns from.

    windows = Windows(load_clips(Path("DATA/motion.npz"), test=False))
    seen, true = windows.draw(32, frames=81)

Bodies have bones of random lengths; upper and lower halves of different clips are put together, arms turned, all is
mirrored half of the time.  The errors (`disturbed`) are of the kind that was read off the network against the truth of
a rendered clip and of persons set apart: alike for some frames on end, in depth far larger than in the picture, each
limb's depth shrunk by a factor of its own, the whole body turned a little, now and then somebody seen turned round.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .poses import from_quaternion
from .synth_body import JOINTS, MIRROR, PARENTS

READ = [
    JOINTS.index(n)
    for n in (
        "hip.L", "knee.L", "ankle.L", "toe.L", "hip.R", "knee.R", "ankle.R", "toe.R", "shoulder.L", "elbow.L",
        "wrist.L", "shoulder.R", "elbow.R", "wrist.R", "neck", "head",
    )
]  # fmt: skip
"""The joints of the motion data that stand for `meshpose.depth.POINTS`."""
ABOVE = (-1, 0, 1, 2, -1, 4, 5, 6, -1, 8, 9, -1, 11, 12, -1, 14)
"""The point above each along its limb."""
OTHER_SIDE = [4, 5, 6, 7, 0, 1, 2, 3, 11, 12, 13, 8, 9, 10, 14, 15]
ACROSS = torch.tensor([12.0, 16, 22, 24, 12, 16, 22, 24, 12, 18, 30, 12, 18, 30, 10, 12]) / 1e3
"""Metres by which a point errs across the picture, and `AWAY` in depth."""
AWAY = torch.tensor([15.0, 45, 95, 115, 15, 45, 95, 115, 40, 75, 120, 40, 75, 120, 30, 50]) / 1e3
UPPER = [i for i, n in enumerate(JOINTS) if n.split(".")[0] not in ("pelvis", "hip", "knee", "ankle", "toe")]
ARMS = [[JOINTS.index(f"{n}.{s}") for n in ("elbow", "wrist")] for s in "LR"]
LEGS = [(JOINTS.index(f"knee.{s}"), JOINTS.index(f"ankle.{s}")) for s in "LR"]
"""The vectors of thigh and shin in `Motion.bones`."""
STRAIGHT = 0.14
"""Radians that a knee is bent at most when a clip's straightest legs are straight."""
LEFT = [JOINTS.index(n.replace(".R", ".L")) for n in JOINTS]
DOWN = torch.diag(torch.tensor([1.0, -1.0, -1.0]))
"""From axes with y up, z to the viewer, to the camera's with y down, z forward."""


@dataclass
class Motion:
    """One recorded stretch at 30 frames a second: root (T, 3) metres, pelvis (T, 3, 3), bones (T, 21, 3): each joint
    less its parent in the pelvis' axes."""

    root: Tensor
    pelvis: Tensor
    bones: Tensor

    def __len__(self) -> int:
        return len(self.root)

    @cached_property
    def least_bent(self) -> float:
        """How far its straightest legs are bent, radians (5th percentile of both knees).

        The conversions of the recordings bend all knees: somebody who directs traffic stands at 20 degrees, walkers do
        not come under 11.
        """
        found = torch.cat([bent(self.bones[:, a], self.bones[:, b])[0] for a, b in LEGS])
        return float(found.quantile(0.05))


def load_clips(file: Path, test: bool, shortest: int = 30) -> list[Motion]:
    """The stretches without jumps of motion.npz's training or test clips."""
    z = np.load(file)
    local = from_quaternion(z["quat"]).astype(np.float32)
    world = local.copy()
    bones = np.zeros((len(local), len(JOINTS), 3), np.float32)
    for j in range(1, len(JOINTS)):
        world[:, j] = world[:, PARENTS[j]] @ local[:, j]
        bones[:, j] = world[:, PARENTS[j]] @ z["offsets"][j]
    bones = np.einsum("fba,fjb->fja", world[:, 0], bones)
    clips = []
    for start, end, is_test in zip(z["clip_start"], z["clip_end"], z["clip_test"], strict=True):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], z["ok"][start:end].astype(int), [0]])))
        for a, b in (edges.reshape(-1, 2) + start) if bool(is_test) == test else ():
            if b - a >= shortest:
                parts = (z["root"][a:b].astype(np.float32), world[a:b, 0], bones[a:b])
                clips.append(Motion(*(torch.from_numpy(np.ascontiguousarray(p)) for p in parts)))
    return clips


@dataclass
class Seen:
    """What a network of single frames says: points (B, T, 16, 3), seen (B, T, 16), hips (B, T, 3), as
    `meshpose.depth.points_of` and `points_seen` give them."""

    points: Tensor
    seen: Tensor
    hips: Tensor


class Windows:
    """Random windows of clips."""

    def __init__(self, clips: list[Motion]) -> None:
        self.clips = clips
        self.weights = torch.tensor([math.sqrt(len(c)) for c in clips])

    def draw(self, count: int, frames: int) -> tuple[Seen, Tensor]:
        """What is seen, and the depths (B, T, 16) that are to be answered, metres, relative to the mid-hips."""
        camera, hips = photographed(self._bodies(count, frames))
        flat = camera[..., :2] / camera[..., 2:] * hips[:, :, None, 2:] - hips[:, :, None, :2]
        return disturbed(flat, camera[..., 2] - hips[:, :, None, 2], hips)

    def _bodies(self, count: int, frames: int) -> Tensor:
        """(B, T, 16, 3) metres, y up; the first frame's mid-hips at the origin."""
        parts = [self._stretch(frames) for _ in range(count)]
        root, pelvis, bones = (torch.stack([p[k] for p in parts]) for k in range(3))
        for i in torch.nonzero(torch.rand(count) < 0.35)[:, 0].tolist():
            bones[i][:, UPPER] = self._stretch(frames)[2][:, UPPER]
        for arm in ARMS:
            turn = turned(torch.randn(count, 3) * 0.5 * (torch.rand(count, 1) < 0.4))
            bones[:, :, arm] = torch.einsum("bij,btkj->btki", turn, bones[:, :, arm])
        bones = bones * torch.exp(torch.randn(count, 1, len(JOINTS), 1) * 0.07)[:, :, LEFT]
        places = torch.einsum("btij,btkj->btki", pelvis, bones)
        for j in range(1, len(JOINTS)):
            places[:, :, j] += places[:, :, PARENTS[j]]
        flip = torch.rand(count) < 0.5
        places[flip] = places[flip][:, :, list(MIRROR)] * torch.tensor([-1.0, 1, 1])
        root = torch.where(flip[:, None, None], root * torch.tensor([-1.0, 1, 1]), root)
        points = places[:, :, READ] + root[:, :, None]
        points = (points - points[:, :1, [0, 4]].mean(2, keepdim=True)) * torch.exp(torch.randn(count, 1, 1, 1) * 0.06)
        return points

    def _stretch(self, frames: int) -> tuple[Tensor, Tensor, Tensor]:
        """Root, pelvis and bones of a random window, a little faster or slower; now and then it stands still."""
        clip = self.clips[int(torch.multinomial(self.weights, 1))]
        speed = float(torch.empty(1).uniform_(0.8, 1.25)) if torch.rand(1) > 0.04 else 0.0
        last = min(len(clip) - 2, int(frames * speed) + 1)
        start = int(torch.randint(len(clip) - 1 - last, (1,)))
        time = (torch.arange(frames) * speed).clamp(max=last)
        low = time.long().clamp(max=last)
        share = time - low
        bones = self._straightened(clip.bones[start : start + last + 2], clip.least_bent)
        mix = lambda x: torch.lerp(x[low], x[low + 1], share.view(-1, *[1] * (x.ndim - 1)))  # noqa: E731
        return mix(clip.root[start:]), mix(clip.pelvis[start:]), mix(bones)

    @staticmethod
    def _straightened(bones: Tensor, least: float) -> Tensor:
        """Knees less bent by what no leg of the clip is ever less bent than, but for a little."""
        less = max(0.0, least - STRAIGHT * float(torch.rand(1)))
        bones = bones.clone()
        for thigh, shin in LEGS:
            angle, axis = bent(bones[:, thigh], bones[:, shin])
            turn = turned(axis * (angle.clamp(max=less) / 2)[:, None])
            bones[:, thigh] = (turn @ bones[:, thigh, :, None])[..., 0]
            bones[:, shin] = (turn.mT @ bones[:, shin, :, None])[..., 0]
        return bones


def bent(thigh: Tensor, shin: Tensor) -> tuple[Tensor, Tensor]:
    """Angle (T,) between vectors (T, 3), radians, and the axis (T, 3) about which the first turns to the second."""
    axis = torch.linalg.cross(thigh, shin)
    sine, cosine = axis.norm(dim=-1), (thigh * shin).sum(-1)
    return torch.atan2(sine, cosine), axis / sine.clamp(min=1e-6)[:, None]


def photographed(points: Tensor) -> tuple[Tensor, Tensor]:
    """Points (B, T, 16, 3), y up -> the same in a random camera's frame, and the mid-hips (B, T, 3)."""
    count = len(points)
    fallen = turned(torch.randn(count, 3) * (torch.rand(count, 1) < 0.08))
    heading = torch.zeros(count, 3)
    heading[:, 1] = torch.rand(count) * 2 * math.pi
    tilt = torch.stack([torch.randn(count) * 0.22 + 0.08, torch.zeros(count), torch.randn(count) * 0.05], 1)
    camera = torch.einsum("bij,btkj->btki", turned(tilt) @ DOWN @ turned(heading) @ fallen, points)
    distance = torch.exp(torch.rand(count) * 1.7 + 0.65)  # 1.9 to 10.5 m
    shift = torch.cat([torch.randn(count, 2) * 0.12 * distance[:, None], distance[:, None]], 1)
    camera = camera + shift[:, None, None]
    camera[..., 2] += (1.0 - camera[..., 2].flatten(1).amin(1)).clamp(min=0)[:, None, None]
    return camera, camera[:, :, [0, 4]].mean(2)


def disturbed(flat: Tensor, depth: Tensor, hips: Tensor) -> tuple[Seen, Tensor]:
    """True points across the picture (B, T, 16, 2), their depths (B, T, 16), mid-hips (B, T, 3), all metres -> what a
    network of single frames makes of them, and the depths that are to be answered.

    Frames that are seen turned round are to stay as they were said: `meshpose.repair` finds and turns them back.
    """
    count, frames, points = depth.shape
    hidden = wandering(count, frames, points, 0.96) + torch.randn(count, 1, points) * 0.5 > 1.1
    more = 1 + 1.3 * hidden.float()
    error = (
        wandering(count, frames, 2 * points, 0.9).unflatten(2, (points, 2)) * 0.8
        + torch.randn(count, frames, points, 2) * 0.4
        + torch.randn(count, 1, points, 2) * 0.3
    )
    strength = torch.empty(count, 1, 1).uniform_(0.25, 1.3)
    found = flat + error * (ACROSS * strength * more)[..., None]
    shrunk = torch.empty(count, 1, points).uniform_(0.25, 1.15) * (1 + 0.15 * wandering(count, frames, points, 0.97))
    # Some clips' depths are good: what is right is to stay.
    good = torch.rand(count, 1, 1) * (torch.rand(count, 1, 1) < 0.6)
    shrunk = shrunk + (1 - shrunk) * good
    said = torch.zeros_like(depth)
    for j, above in enumerate(ABOVE):
        along = depth[..., j] - (depth[..., above] if above >= 0 else 0)
        said[..., j] = shrunk[..., j] * along + (said[..., above] if above >= 0 else 0)
    error = (
        wandering(count, frames, points, 0.93) * 0.75
        + torch.randn_like(depth) * 0.25
        + torch.randn(count, 1, points) * 0.4
    )
    said = said + error * AWAY * torch.empty(count, 1, 1).uniform_(0.2, 1.1) * more * (1 - 0.7 * good)
    lean = wandering(count, frames, 2, 0.95) * torch.tensor([0.17, 0.08]) + torch.randn(count, 1, 2) * 0.08
    lean = lean * torch.empty(count, 1, 1).uniform_(0, 1.4) * (1 - 0.7 * good)
    said = said + (lean[:, :, None] * flat).sum(-1)
    said = said - said[..., [0, 4]].mean(-1, keepdim=True)
    seen = torch.where(hidden, torch.rand_like(depth) * 0.35, 1 - torch.rand_like(depth) * 0.35)
    away = hips[..., 2:] * (1 + 0.006 * wandering(count, frames, 1, 0.97))
    round_ = flipped(count, frames)
    found = torch.where(round_[..., None, None], found[:, :, OTHER_SIDE], found)
    said = torch.where(round_[..., None], -said[..., OTHER_SIDE], said)
    wanted = torch.where(round_[..., None], said, depth)
    return Seen(torch.cat([found, said[..., None]], -1), seen, torch.cat([hips[..., :2], away], -1)), wanted


def flipped(count: int, frames: int) -> Tensor:
    """(B, T) bool: in every fourth window one stretch of 1 to 5 frames that is seen turned round."""
    start = torch.randint(frames, (count, 1))
    length = torch.randint(1, 6, (count, 1)) * (torch.rand(count, 1) < 0.25)
    at = torch.arange(frames)
    return (at >= start) & (at < start + length)


def wandering(count: int, frames: int, width: int, alike: float) -> Tensor:
    """Errors (B, T, width) of variance 1, each `alike` (correlation) the one before."""
    fresh = torch.randn(count, frames, width)
    out = torch.empty_like(fresh)
    out[:, 0] = fresh[:, 0]
    for t in range(1, frames):
        out[:, t] = alike * out[:, t - 1] + math.sqrt(1 - alike**2) * fresh[:, t]
    return out


def turned(vector: Tensor) -> Tensor:
    """Rotation vectors (B, 3), radians -> matrices (B, 3, 3)."""
    x, y, z = vector.unbind(-1)
    zero = torch.zeros_like(x)
    skew = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).unflatten(-1, (3, 3))
    result: Tensor = torch.linalg.matrix_exp(skew)
    return result
