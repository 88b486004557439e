# SPDX-License-Identifier: Apache-2.0
"""Feet on the floor: legs that keep heels and balls of the feet where they bear.

    legs = Legs(body, shape, scale)
    pose = legs.pose(rotations, translation)                    # bones and soles in the world
    rotations = lock(legs, rotations, translation, contact, times).rotations        # contact.py says which bear

A foot is taken as one stiff piece with two points on its sole: the back of the heel and the ball of the toes. In a
stance both have one place on the floor; the heel's holds while the heel bears, the ball's while the ball does, and both
are as far apart as the foot is long, so that it can roll. Where only the ball bears the heel comes up as far as the leg
asks for, over toes that lie flat. Between stances what was corrected fades out smoothly. The
leg follows by two-bone inverse kinematics: the knee stays in its plane, the hips go with the feet so that knees stay as
bent as they were, and where a leg would have to be longer than it is the hips come down a little, slowly, rather than
the knee snapping straight. A leg that is nearly straight bends and stretches smoothly, if that leaves its foot some
millimetres off its place.

Frame of reference: the world, metres, z up, the floor at z = 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .body import Body, Shape, quaternion, rotation_matrix
from .contact import stretches
from .smooth import segments, smooth_positions

Array = npt.NDArray[Any]

SIDES = "LR"
CHAIN = ("upperleg01", "upperleg02", "lowerleg01", "lowerleg02", "foot")
RELEASE = 0.2
"""Seconds in which a foot goes over from its place to its free way."""
STRAY, STRAY_ALONG, LEAST_SPLIT = 0.12, 0.4, 12
"""Metres that a foot may move on in what is held for one stance, across the line of sight and along it; more, and it is
two, if it lasts for so many frames."""
RAY_SIGMA, DEPTH_SIGMA = 0.02, 0.1
"""Metres by which a sole errs across its ray, and along it."""
LARGEST_ROLL, STEEPEST = np.radians(45.0), np.radians(70.0)
"""Radians by which a heel is raised more than it was seen to be, and to which its sole is inclined by that at most."""
SHIFT_CUTOFF, LARGEST_SHIFT, SHIFT_ROUNDS = 4.0, 0.1, 3
"""Hz that pass half of how the hips follow the feet, metres by which they do at most each way, and how often it is
found anew: legs turn as the hips go."""
SHIFT_SIGMA, KNEE_SIGMA, STRAIGHT = (0.02, 0.025, 0.04), np.radians(9.0), 0.999
"""Metres by which the hips may be off where they were seen: aside, along their ray and up across it; radians by which a
knee may; and the share of its length at which a leg counts as straight."""
REACH, STRETCHED = 0.997, 0.9995
"""Share of a leg's length to which it is stretched without the hips coming down, and to which it is at all."""
NEARLY_STRAIGHT, KNEE_CUTOFF, LARGEST_MISS = (0.95, 0.98), 5.0, 0.008
"""Shares of its length from which, and above which wholly, a leg bends smoothly; Hz that pass half of how its knee then
departs from the bend that it had; metres by which its foot may miss its place for that."""


@dataclass(frozen=True, eq=False)
class Pose:
    """Bones that matter to the legs, in the world. turned: bone -> (F, 3, 3); hips, knees, ankles (F, 2, 3); soles
    (F, 4, 3) in the order of CONTACTS: heel and ball, left then right.
    """

    turned: dict[int, Array]
    hips: Array
    knees: Array
    ankles: Array
    soles: Array


@dataclass(frozen=True, eq=False)
class Locked:
    """rotations (F, J, 4), translation (F, 3); shift (F, 3) metres by which the hips went."""

    rotations: Array
    translation: Array
    shift: Array


class Legs:
    """Bones and soles of one person's legs."""

    def __init__(self, body: Body, shape: Shape, scale: float) -> None:
        self.body, self.shape, self.scale = body, shape, scale
        index = {name: c for c, name in enumerate(body.bone_names)}
        self.chains = [[index[f"{bone}.{side}"] for bone in CHAIN] for side in SIDES]
        self.pelvis = [int(body.bone_parents[chain[0]]) for chain in self.chains]
        self.toes = [np.flatnonzero(body.bone_parents == chain[-1]).tolist() for chain in self.chains]
        align = body.reference.astype(np.float64) @ shape.orientations.astype(np.float64).transpose(0, 2, 1)
        align[0] = np.eye(3)
        self.align = align
        self.rest = np.stack([self._sole(side) for side in SIDES])  # (2, 2, 3): side, heel and ball
        heads = shape.heads.astype(np.float64) * scale
        joints = [[heads[chain[k]] for k in (0, 2, 4)] for chain in self.chains]
        self.thigh = np.array([np.linalg.norm(j[1] - j[0]) for j in joints])
        self.shin = np.array([np.linalg.norm(j[2] - j[1]) for j in joints])
        self.foot = np.linalg.norm(self.rest[:, 1] - self.rest[:, 0], axis=-1)

    def _sole(self, side: str) -> Array:
        """Heel and ball (2, 3) of a foot at rest, relative to the ankle, on the plane that it stands on; metres."""
        body, rest = self.body, self.shape.vertices.astype(np.float64)
        foot = rest[body.parts == body.part_names.index(f"foot.{side}")]
        ankle, toes = (self.shape.heads[body.bone_names.index(f"{n}.{side}")] for n in ("foot", "toe2-1"))
        floor = rest[~body.inner, 2].min()
        sole = foot[foot[:, 2] < floor + 0.02 / max(self.scale, 0.2)]
        back = float(sole[:, 1].max())
        ahead = (toes[0] - ankle[0]) / (toes[1] - ankle[1])  # sideways for each metre to the back
        points = [(ankle[0] + ahead * (y - ankle[1]), y, floor) for y in (back - 0.01, float(toes[1]))]
        return (np.array(points) - ankle) * self.scale

    def pose(self, rotations: Array, translation: Array) -> Pose:
        """rotations (F, J, 4) with the root's in the world, translation (F, 3) of the root's head."""
        parents, heads = self.body.bone_parents, self.shape.heads.astype(np.float64) * self.scale
        turned = {0: rotation_matrix(rotations[:, 0].astype(np.float64))}
        place = {0: np.asarray(translation, np.float64)}
        for chain, pelvis in zip(self.chains, self.pelvis, strict=True):
            for bone in (pelvis, *chain):
                p = int(parents[bone])
                turned[bone] = turned[p] @ rotation_matrix(rotations[:, bone].astype(np.float64))
                place[bone] = place[p] + turned[p] @ (self.align[p] @ (heads[bone] - heads[p]))
        hips, knees, ankles = (np.stack([place[chain[k]] for chain in self.chains], 1) for k in (0, 2, 4))
        feet = np.stack([turned[chain[4]] @ self.align[chain[4]] for chain in self.chains], 1)
        soles = ankles[:, :, None] + np.einsum("fsab,spb->fspa", feet, self.rest)
        return Pose(turned, hips, knees, ankles, soles.reshape(len(soles), 4, 3))


# -- keeping feet where they are -----------------------------------------------------------------------------------


def lock(
    legs: Legs, rotations: Array, translation: Array, contact: Array, times: Array, eye: Array | None = None
) -> Locked:
    """Legs such that each foot in contact stays where it stands, on the floor, and none goes below it.

    rotations (F, J, 4) world, translation (F, 3), contact (F, 4) bool, times (F,). eye (3,): the camera; with it a sole
    that seems to float goes to the floor along its ray, not straight down, as far as the ray tells more than the depth.
    """
    rotations, translation = np.asarray(rotations, np.float64), np.asarray(translation, np.float64)
    if len(rotations) < 4:
        return Locked(rotations, translation, np.zeros((len(rotations), 3)))
    run = segments(times)
    release = max(2, round(RELEASE / float(np.median(np.diff(times)))))
    pose = legs.pose(rotations, translation)
    down = pose.soles if eye is None else _along_rays(pose.soles, np.asarray(eye, np.float64))
    both = [_corrections(pose, down, legs, side, contact, run, release, eye) for side in range(2)]
    turns, shifts, hold = (np.stack(found, 1) for found in zip(*both, strict=True))
    targets = pose.ankles + shifts
    extension = np.linalg.norm(pose.ankles - pose.hips, axis=-1)
    roll = _roll(pose, turns, targets, extension, contact, run, release)
    arms = turns @ _balls(pose)[..., None]
    targets += (arms - roll @ arms)[..., 0]
    moved = _shift(legs, pose.hips, targets, extension, hold, times, eye)
    moved[:, 2] -= _drop(legs, pose.hips + moved[:, None], targets, extension, hold, times)
    turned = roll @ turns
    targets += _along_with_hips(pose, turned, targets, hold, moved)
    far = np.linalg.norm(targets - pose.hips - moved[:, None], axis=-1)
    far = _without_snaps(legs, extension, far, times)
    out = rotations.copy()
    for side in range(2):
        _bend(legs, pose, side, moved, targets[:, side], far[:, side], turned[:, side], out)
        _flatten_toes(legs, pose, side, turns[:, side], roll[:, side], out)
    return Locked(out, translation + moved, moved)


def _along_rays(soles: Array, eye: Array) -> Array:
    """Soles (F, 4, 3) gone to the floor along the rays from eye (3,), as far as those can be trusted; their heights
    mean nothing any more.
    """
    sight = soles - eye
    fall = np.minimum(sight[..., 2:], -0.05)
    far = np.linalg.norm(sight, axis=-1, keepdims=True)
    by_ray = (RAY_SIGMA * far / -fall) ** 2
    share = DEPTH_SIGMA**2 / (DEPTH_SIGMA**2 + by_ray)
    step = np.clip(-soles[..., 2:] / fall, -0.1, 0.1)
    out: Array = soles + share * step * sight
    return out


def _corrections(
    pose: Pose, down: Array, legs: Legs, side: int, contact: Array, run: Array, release: int,
    eye: Array | None,
) -> tuple[Array, Array, Array]:  # fmt: skip
    """What one foot needs: turn (F, 3, 3) about the ankle, shift (F, 3) of the ankle, and how firmly the foot is held
    (F,) 0..1. down (F, 4, 3): the soles by which the place of a stance is told.
    """
    heel, ball = pose.soles[:, 2 * side], pose.soles[:, 2 * side + 1]
    ankle = pose.ankles[:, side]
    bears = contact[:, 2 * side : 2 * side + 2]
    both = bears.all(1)
    stances = _stances(down[:, 2 * side], down[:, 2 * side + 1], bears, run, legs.foot[side], eye)
    turn, shift, hold = np.zeros_like(heel), np.zeros_like(heel), np.zeros(len(heel))
    for first, end, _, ahead in stances:
        rows = np.arange(first, end)[both[first:end]]
        turn[rows] = _smallest_vector(ball[rows] - heel[rows], np.broadcast_to(ahead, (len(rows), 3)))
    flat = [(a, b) for a, b, *_ in stances for a, b in stretches(both & _within(len(both), a, b))]
    held = [(first, end) for first, end, *_ in stances]
    spun = _exponential(_fade(turn, flat, run, release))
    ahead = np.einsum("fab,fb->fa", spun, ball - heel)
    level = _fade(np.where(_inside(len(heel), held)[:, None], _levelled(ahead, bears), 0), held, run, release)
    spun = _exponential(level) @ spun
    heel = ankle + np.einsum("fab,fb->fa", spun, heel - ankle)
    ball = ankle + np.einsum("fab,fb->fa", spun, ball - ankle)
    for first, end, at, ahead in stances:
        rows = np.arange(first, end)
        share = bears[rows].astype(np.float64)
        share /= np.maximum(share.sum(1, keepdims=True), 1)
        away = share[:, :1] * (at - heel[rows]) + share[:, 1:] * (at + ahead - ball[rows])
        known = share.any(1)
        shift[rows] = _between(away, known)
        hold[rows] = 1
    shift, hold = _fade(shift, held, run, release), _fade(hold[:, None], held, run, release)[:, 0]
    low = np.minimum(heel[:, 2], ball[:, 2]) + shift[:, 2]
    shift[:, 2] += np.where(_inside(len(low), held), 0, _soft_positive(-low))
    return spun, shift, hold


def _balls(pose: Pose) -> Array:
    """Ways (F, 2, 3) from the ankles to the balls of the feet."""
    out: Array = pose.soles[:, 1::2] - pose.ankles
    return out


def _roll(
    pose: Pose, turns: Array, targets: Array, extension: Array, contact: Array, run: Array, release: int
) -> Array:
    """Turns (F, 2, 3, 3) about the balls of the feet that raise heels where only the ball bears, so far that the leg
    need not be longer than it was; behind such frames they fade out.

    A foot that is seen from ahead or behind seems less far from the hips than it is, and its heel less high. Held where
    it stands it would draw its knee straight just when that bends, and the hips down, on which the other knee bends.
    turns (F, 2, 3, 3) of the feet before it, targets (F, 2, 3) of the ankles, extension (F, 2).
    """
    arm = (turns @ _balls(pose)[..., None])[..., 0]
    ahead = (turns @ (pose.soles[:, 1::2] - pose.soles[:, ::2])[..., None])[..., 0]
    axis = np.cross([0.0, 0.0, 1.0], ahead)
    axis /= np.maximum(np.linalg.norm(axis, axis=-1, keepdims=True), 1e-9)
    pitch = np.arctan2(-ahead[..., 2], np.linalg.norm(ahead[..., :2], axis=-1))
    grid = np.linspace(0, LARGEST_ROLL, 25)
    back = _exponential((grid[:, None, None, None] * axis).reshape(-1, 3)).reshape(len(grid), *axis.shape, 3)
    away = targets + arm - np.einsum("gfsab,fsb->gfsa", back, arm) - pose.hips
    excess = np.linalg.norm(away, axis=-1) - extension
    excess = np.where(grid[:, None, None] + pitch > STEEPEST, np.inf, excess)
    enough = grid[np.where((excess <= 0).any(0), (excess <= 0).argmax(0), excess.argmin(0))]
    angle = np.zeros_like(enough)
    for side in range(2):
        heel, ball = contact[:, 2 * side], contact[:, 2 * side + 1]
        pieces = stretches(ball & ~heel, run)
        for first, end in pieces:
            ramp = _ease(np.minimum((np.arange(end - first) + 1) / (release / 2 + 1), 1))
            angle[first:end, side] = ramp * enough[first:end, side]
        angle[:, side] = np.where(heel, 0, _fade(angle[:, side, None], pieces, run, release)[:, 0])
    return _exponential((angle[..., None] * axis).reshape(-1, 3)).reshape(*angle.shape, 3, 3)


def _flatten_toes(legs: Legs, pose: Pose, side: int, turn: Array, roll: Array, out: Array) -> None:
    """Writes the toes' local rotations so that they do not go along with the foot's roll (F, 3, 3); turn: the foot's
    before it.
    """
    foot = turn @ pose.turned[legs.chains[side][-1]]
    back = foot.swapaxes(1, 2) @ roll.swapaxes(1, 2) @ foot
    moved = np.abs(roll - np.eye(3)).max((1, 2)) > 1e-9
    for toe in legs.toes[side]:
        local = quaternion(back @ rotation_matrix(out[:, toe]))
        local *= np.where((local * out[:, toe]).sum(-1, keepdims=True) < 0, -1.0, 1.0)
        out[moved, toe] = local[moved]


def _along_with_hips(pose: Pose, turns: Array, targets: Array, hold: Array, moved: Array) -> Array:
    """How far the ankles' targets (F, 2, 3) go on with the hips, which went by moved (F, 3): a free leg goes as a whole
    and keeps its knee, and its foot stays over the floor. turns (F, 2, 3, 3) of the feet, hold (F, 2).
    """
    free = (1 - hold)[..., None]
    along = free * moved[:, None]
    arms = pose.soles.reshape(len(hold), 2, 2, 3) - pose.ankles[:, :, None]
    low = (turns @ arms.swapaxes(-1, -2))[..., 2, :].min(-1) + targets[..., 2]
    # What is free was over the floor before; the hips must not bring it below.
    along[..., 2] += free[..., 0] * _soft_positive(-low - along[..., 2])
    return along


def _levelled(ahead: Array, bears: Array) -> Array:
    """Turns (F, 3), radians, that keep the other end of a foot over the floor where only its heel or only its ball
    bears; ahead (F, 3) from heel to ball, bears (F, 2).
    """
    up = np.where(bears[:, 0], 1.0, -1.0) * (bears[:, 0] != bears[:, 1])  # how the free end counts, none: 0
    raised = ahead.copy()
    raised[:, 2] += up * _soft_positive(-up * ahead[:, 2])
    return _smallest_vector(ahead, raised)


def _within(count: int, first: int, end: int) -> Array:
    out = np.zeros(count, bool)
    out[first:end] = True
    return out


def _inside(count: int, pieces: list[tuple[int, int]]) -> Array:
    out = np.zeros(count, bool)
    for first, end in pieces:
        out[first:end] = True
    return out


def _soft_positive(x: Array, width: float = 0.002) -> Array:
    """max(x, 0) with a rounded corner."""
    out: Array = (x + np.sqrt(x * x + width * width)) / 2
    return out


def _between(values: Array, known: Array) -> Array:
    """Rows (n, C) where known, straight lines between them elsewhere."""
    at = np.flatnonzero(known)
    grid = np.arange(len(values))
    return np.stack([np.interp(grid, at, values[at, c]) for c in range(values.shape[1])], 1)


def _stances(
    heel: Array, ball: Array, bears: Array, run: Array, length: float, eye: Array | None
) -> list[tuple[int, int, Array, Array]]:
    """Stances of one foot: first frame, one past the last, the heel's place on the floor (3,), heel to ball (3,)."""
    pending = stretches(_closed(bears.any(1), run), run)
    out = []
    while pending:
        first, end = pending.pop(0)
        h, b, on = heel[first:end], ball[first:end], bears[first:end]
        along = (b - h)[:, :2]
        flat = on.all(1) if on.all(1).any() else np.ones(len(on), bool)
        ahead = np.append(np.median(along[flat] / np.linalg.norm(along[flat], axis=1, keepdims=True), 0), 0.0)
        ahead *= length / max(float(np.linalg.norm(ahead)), 1e-9)
        guess = np.concatenate([h[on[:, 0], :2], b[on[:, 1], :2] - ahead[:2]])
        at = np.append(np.median(guess, 0), 0.0)
        if end - first >= LEAST_SPLIT and _strays(np.where(on[:, :1], h - at, b - at - ahead)[:, :2], at, eye):
            middle = (first + end) // 2
            pending[:0] = [(first, middle), (middle, end)]
        else:
            out.append((first, end, at, ahead))
    return out


def _strays(away: Array, at: Array, eye: Array | None) -> bool:
    """Whether a foot has moved on in the course of a stance: away (n, 2) from its place at."""
    third = len(away) // 3
    drift = np.median(away[-third:], 0) - np.median(away[:third], 0)
    if eye is None:
        return bool(np.linalg.norm(drift) > STRAY)
    sight = (at - eye)[:2] / max(float(np.linalg.norm((at - eye)[:2])), 1e-9)
    along = float(drift @ sight)
    return bool((drift @ drift - along**2) / STRAY**2 + (along / STRAY_ALONG) ** 2 > 1)


def _closed(mask: Array, run: Array, longest: int = 2) -> Array:
    """Short gaps in (F,) filled."""
    out = mask.copy()
    for first, end in stretches(~mask, run):
        if end - first <= longest and first > 0 and end < len(mask) and run[first - 1] == run[end]:
            out[first:end] = True
    return out


def _fade(values: Array, pieces: list[tuple[int, int]], run: Array, release: int) -> Array:
    """Values (F, C) inside of pieces, and beyond them what stands at their ends, fading out in `release` frames.

    Between two pieces with less room than that the one goes over into the other.
    """
    out, count = np.zeros_like(values), len(values)
    for first, end in pieces:
        out[first:end] = values[first:end]
    for i, (first, end) in enumerate(pieces):
        before = pieces[i - 1][1] if i else 0
        after = pieces[i + 1][0] if i + 1 < len(pieces) else count
        for edge, towards, room in ((first, -1, first - before), (end - 1, 1, after - end)):
            k = np.arange(1, min(release, room) + 1)
            rows = edge + towards * k
            rows = rows[(rows >= 0) & (rows < count)]
            rows = rows[run[rows] == run[edge]]
            share = _ease(1 - (np.arange(len(rows)) + 1) / (min(release, room) + 1))
            out[rows] += share[:, None] * values[edge]
        if i and first == before:  # one stance in two parts: half a release on each side
            _blend(out, first, min(release // 2, first - pieces[i - 1][0], end - first))
    return out


def _blend(values: Array, at: int, reach: int) -> None:
    """Takes the jump out of values (F, C) between at - 1 and at, within `reach` frames on both sides (in place)."""
    if reach < 1:
        return
    jump = values[at] - values[at - 1]
    ahead = _ease(1 - (np.arange(reach) + 0.5) / reach)[:, None] / 2
    values[at : at + reach] -= ahead * jump
    values[at - reach : at] += ahead[::-1] * jump


def _ease(x: Array) -> Array:
    return x * x * (3 - 2 * x)


def _shift(
    legs: Legs, hips: Array, targets: Array, extension: Array, hold: Array, times: Array, eye: Array | None
) -> Array:
    """How far the hips go (F, 3) so that held knees are as bent as they were, slowly: hips and ankles' targets
    (F, 2, 3), extension (F, 2) before, hold (F, 2), eye (3,): the camera.

    The least such way. A straight leg says most: a centimetre less bends its knee by many degrees.
    """
    weight = hold.sum(1)
    out = np.zeros((len(hold), 3))
    if not weight.any():
        return out
    doubt = _doubt(hips.mean(1), eye)
    length = legs.thigh + legs.shin
    bent = np.sqrt(1 - np.clip(extension / length, 0, STRAIGHT) ** 2) / 2  # metres for each radian and metre of leg
    firm = hold / (KNEE_SIGMA * length * bent) ** 2
    for _ in range(SHIFT_ROUNDS):
        line = targets - hips - out[:, None]
        far = np.linalg.norm(line, axis=-1)
        along = line / np.maximum(far[..., None], 1e-9)
        matrix = np.einsum("fs,fsa,fsb->fab", firm, along, along) + doubt
        right = np.einsum("fs,fsa->fa", firm * (far - extension), along) - np.einsum("fab,fb->fa", doubt, out)
        step = np.linalg.solve(matrix, right[..., None])[..., 0]
        wanted = np.clip(out + step, -LARGEST_SHIFT, LARGEST_SHIFT)
        wanted = _between(wanted, weight > 0.5) if (weight > 0.5).any() else wanted
        out = smooth_positions(wanted, times, np.clip(weight, 0.05, 1), cutoff=SHIFT_CUTOFF)
    return out


def _doubt(hips: Array, eye: Array | None) -> Array:
    """Inverse covariance (F, 3, 3) of where hips (F, 3) are, by SHIFT_SIGMA; without an eye they are seen along y."""
    ray = np.broadcast_to([0.0, 1.0, 0.0], hips.shape) if eye is None else hips - eye
    ray = ray / np.maximum(np.linalg.norm(ray, axis=1, keepdims=True), 1e-9)
    aside = np.cross(ray, [0.0, 0.0, 1.0])
    aside /= np.maximum(np.linalg.norm(aside, axis=1, keepdims=True), 1e-9)
    axes = np.stack([aside, ray, np.cross(aside, ray)], 1)
    out: Array = np.einsum("fka,k,fkb->fab", axes, np.array(SHIFT_SIGMA) ** -2.0, axes)
    return out


def _drop(legs: Legs, hips: Array, targets: Array, extension: Array, hold: Array, times: Array) -> Array:
    """How far the hips come down (F,) so that no held foot is out of reach; slowly, and early enough."""
    length = legs.thigh + legs.shin
    reach = np.clip(extension, REACH * length, 0.999 * length)
    line = targets - hips
    flat = (line[..., :2] ** 2).sum(-1)
    need = -line[..., 2] - np.sqrt(np.maximum(reach**2 - flat, 0.05))
    need = (np.clip(need, 0, 0.25) * hold).max(1)
    if not need.any():
        return need
    reach_frames = max(1, round(0.05 / float(np.median(np.diff(times)))))
    padded = np.pad(need, reach_frames, mode="edge")
    highest = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach_frames + 1).max(1)
    return np.maximum(smooth_positions(highest[:, None], times, cutoff=4.5)[:, 0], 0)


def _without_snaps(legs: Legs, extension: Array, far: Array, times: Array) -> Array:
    """How far the ankles are to be from the hips (F, 2), where their places ask for far (F, 2) and they were extension
    (F, 2) away: the same but for legs that are nearly straight.

    There a millimetre more or less turns the knee by degrees, without end as the leg comes to its full length: a foot
    that lands on a stretched leg would snap its knee to and fro within a frame. Soft inverse kinematics would rather
    miss the place whenever a leg is stretched; in time it is missed only where the knee would snap.
    """
    length = legs.thigh + legs.shin
    far = np.minimum(far, np.maximum(STRETCHED * length, extension))
    own, asked = (2 * np.arccos(np.minimum(x / length, STRETCHED)) for x in (extension, far))  # thigh and shin alike
    low, high = NEARLY_STRAIGHT
    near = np.clip((far / length - low) / (high - low), 0, 1)
    more, near = (smooth_positions(x, times, cutoff=KNEE_CUTOFF) for x in (asked - own, near))
    calm = own + more - asked
    given = np.maximum(asked + _ease(np.clip(near, 0, 1)) * calm, 2 * np.arccos(STRETCHED))
    miss = length * (np.cos(given / 2) - np.cos(asked / 2))
    out: Array = far + LARGEST_MISS * np.tanh(miss / LARGEST_MISS)
    return out


def _bend(
    legs: Legs, pose: Pose, side: int, down: Array, target: Array, far: Array, turn: Array, out: Array
) -> None:  # fmt: skip
    """Writes one leg's local rotations so that the ankle comes to target (F, 3), or as near as far (F,) from the hip
    lets it, and the foot turns by turn.
    """
    hip, knee, ankle = pose.hips[:, side], pose.knees[:, side], pose.ankles[:, side]
    thigh, shin, line = knee - hip, ankle - knee, ankle - hip
    wanted: Array = target - (hip + down)
    t, s = legs.thigh[side], legs.shin[side]
    away = np.linalg.norm(wanted, axis=-1)
    moved = (np.linalg.norm(target - ankle - down, axis=-1) > 1e-7) | (np.abs(turn - np.eye(3)).max((1, 2)) > 1e-9)
    moved |= np.abs(far - away) > 1e-7
    far = np.clip(far, abs(t - s) + 0.02, STRETCHED * (t + s))
    along = wanted / np.maximum(away[:, None], 1e-9)
    swing = _smallest(line, along)
    chain = legs.chains[side]
    front = pose.turned[chain[0]] @ np.array([0.0, -1.0, 0.0])
    aside = _across(np.einsum("fab,fb->fa", swing, thigh), along)
    ahead = _across(np.einsum("fab,fb->fa", swing, front), along)
    ahead /= np.maximum(np.linalg.norm(ahead, axis=-1, keepdims=True), 1e-9)
    # A straight leg has no plane: it bends to the front; one bent backwards does not fold over when it is moved.
    aside -= np.minimum((aside * ahead).sum(-1, keepdims=True), 0) * ahead
    aside += 0.02 * t * ahead
    aside /= np.maximum(np.linalg.norm(aside, axis=-1, keepdims=True), 1e-9)
    cosine = np.clip((t * t + far**2 - s * s) / (2 * t * far), -1, 1)[:, None]
    upper = t * (cosine * along + np.sqrt(1 - cosine**2) * aside)
    lower = far[:, None] * along - upper
    first = _smallest(np.einsum("fab,fb->fa", swing, thigh), upper) @ swing
    second = _smallest(np.einsum("fab,fb->fa", swing, shin), lower) @ swing
    turned = pose.turned
    new = [first @ turned[chain[0]], first @ turned[chain[1]], second @ turned[chain[2]]]
    new += [second @ turned[chain[3]], turn @ turned[chain[4]]]
    for k, parent in ((0, turned[legs.pelvis[side]]), (2, new[1]), (4, new[3])):
        local = quaternion(parent.swapaxes(1, 2) @ new[k])
        local *= np.where((local * out[:, chain[k]]).sum(-1, keepdims=True) < 0, -1.0, 1.0)
        out[moved, chain[k]] = local[moved]


def _across(v: Array, axis: Array) -> Array:
    """The part of vectors (F, 3) across unit axes (F, 3)."""
    return v - (v * axis).sum(-1, keepdims=True) * axis


def _smallest(a: Array, b: Array) -> Array:
    """Smallest rotations (F, 3, 3) from directions a (F, 3) to b (F, 3)."""
    a, b = (v / np.maximum(np.linalg.norm(v, axis=-1, keepdims=True), 1e-9) for v in (a, b))
    w = 1 + (a * b).sum(-1, keepdims=True)
    return rotation_matrix(np.concatenate([np.maximum(w, 1e-6), np.cross(a, b)], -1))


def _smallest_vector(a: Array, b: Array) -> Array:
    """The same as rotation vectors (F, 3), radians."""
    axis = np.cross(a, b)
    sine, cosine = np.linalg.norm(axis, axis=-1, keepdims=True), (a * b).sum(-1, keepdims=True)
    return axis / np.maximum(sine, 1e-12) * np.arctan2(sine, cosine)


def _exponential(vector: Array) -> Array:
    """Rotation vectors (F, 3), radians -> matrices (F, 3, 3)."""
    half = np.linalg.norm(vector, axis=-1, keepdims=True) / 2
    return rotation_matrix(np.concatenate([np.cos(half), vector * 0.5 * np.sinc(half / np.pi)], -1))
