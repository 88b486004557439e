# SPDX-License-Identifier: Apache-2.0
"""What a finished clip needs before it is smoothed: exchanged sides put right, short gaps filled, guesses held calm.

    rotations, flips = repair_flips(fit.rotations, times, body)
    whole = fill_gaps(fit.frames, rotations, fit.translation, longest=12)
    calm, keyed = hold_unseen(whole.rotations, confidence, times)

From one picture a person from behind looks much like one from the front, and the left leg like the right one, so for a
few frames the network may take one for the other. `repair_flips` compares, frame by frame, the pose as given with what
it would be with the mistake undone (KINDS), and takes the way through the clip along which the limbs travel least
(Viterbi), where leaving the network's word costs something in every frame.

Rotations are local-ref deltas (body.py) in the camera frame, or any frame whose third axis or `view` is the line of
sight.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .body import Body, quaternion, rotation_matrix
from .errors import InputError
from .smooth import continuous, segments

Array = npt.NDArray[Any]

KINDS = ("none", "turned", "legs", "arms", "legs and arms")
"""What was exchanged in a frame: nothing; the whole person, front to back; limbs under a trunk that is right."""
CHAINS = {"leg": ("upperleg01", "lowerleg01", "foot"), "arm": ("upperarm01", "lowerarm01", "wrist")}
TIPS = {"leg": "toe2-2", "arm": "finger3-1"}
STAYS = {"upperleg01": "upperleg02", "lowerleg01": "lowerleg02", "upperarm01": "upperarm02", "lowerarm01": "lowerarm02"}
DOUBT = 0.12
"""Metres of the limbs' travel that a frame's correction costs."""
CHANGE = 0.5
"""Metres of travel that beginning or ending a correction costs."""
PIECE = 512
"""Frames whose poses are compared at once: memory."""
SPEED = 4.0
"""Metres a second of ten points together that are no travel: people move."""

WELL_SEEN = 0.4
"""Mean visibility of a bone's vertices that counts as seen: about half of them look away from the camera."""
BEYOND = 0.6
"""How much the vertices of the next bone along a limb count, against a bone's own."""
UNSEEN = 0.3
"""Confidence below which a bone was not seen: guesses move, and mean nothing."""
UNSEEN_SECONDS = 0.7
"""An arm behind the back for less than this is bridged by the smoothing."""


@dataclass(frozen=True, eq=False)
class Filled:
    """A person without short gaps: frames (G,) int64, seen (G,) bool (False where filled), rotations (G, J, 4),
    translation (G, 3).
    """

    frames: Array
    seen: Array
    rotations: Array
    translation: Array


def fill_gaps(
    frames: npt.ArrayLike,
    rotations: npt.ArrayLike,
    translation: npt.ArrayLike,
    longest: int = 12,
    possible: npt.ArrayLike | None = None,
) -> Filled:
    """Fills gaps of at most `longest` frames between frames (F,), ascending; longer gaps stay.

    Rotations (F, J, 4) go the shortest way; the translation (F, 3) follows a cubic that leaves and arrives at the speed
    that the person had. possible (all looked-at frames of the clip): only these are filled in, and only these count.
    Raises InputError when the arrays do not belong together.
    """
    at = np.asarray(frames, np.int64)
    q, root = np.array(rotations, np.float64), np.array(translation, np.float64)
    if q.shape[:1] != at.shape or root.shape != (len(at), 3) or (np.diff(at) <= 0).any():
        raise InputError(f"gaps need ascending frames, rotations and translation alike, not {q.shape}, {root.shape}")
    if len(at) < 2:
        return Filled(at, np.ones(len(at), bool), q, root)
    grid = np.arange(at[0], at[-1] + 1) if possible is None else np.union1d(np.asarray(possible, np.int64), at)
    grid = grid[(grid >= at[0]) & (grid <= at[-1])]
    left = np.clip(np.searchsorted(at, grid, "right") - 1, 0, len(at) - 2)
    place = np.searchsorted(grid, at)
    missing = place[left + 1] - place[left] - 1
    seen = np.isin(grid, at)
    keep = seen | (missing <= longest)
    grid, left, seen = grid[keep], left[keep], seen[keep]
    span = (at[left + 1] - at[left]).astype(np.float64)
    share = (grid - at[left]) / span
    q = continuous(q)
    speed = _speeds(at, root)
    s, d = share[:, None], span[:, None]
    here, there = root[left], root[left + 1]
    cubic = (
        (2 * s**3 - 3 * s**2 + 1) * here + (s**3 - 2 * s**2 + s) * d * speed[left]
        + (3 * s**2 - 2 * s**3) * there + (s**3 - s**2) * d * speed[left + 1]
    )  # fmt: skip
    return Filled(grid, seen, _slerp(q[left], q[left + 1], share), cubic)


def _speeds(frames: Array, x: Array, reach: int = 3) -> Array:
    """Speed (F, 3) per frame by straight lines through the frames within `reach` on each side of no gap."""
    out, total = np.zeros_like(x), np.zeros(len(x))
    for k in range(1, reach + 1):
        near = frames[k:] - frames[:-k] <= reach
        slope = np.where(near[:, None], x[k:] - x[:-k], 0.0)
        weight = np.where(near, frames[k:] - frames[:-k], 0)
        for rows in (slice(k, None), slice(None, -k)):
            out[rows] += slope
            total[rows] += weight
    return out / np.maximum(total, 1)[:, None]


def _slerp(a: Array, b: Array, share: Array) -> Array:
    """Quaternions (F, J, 4) at a share (F,) of the way from a to b; a + b have matching signs."""
    cosine = np.clip((a * b).sum(-1, keepdims=True), -1, 1)
    angle, s = np.arccos(cosine), share[:, None, None]
    sine = np.maximum(np.sin(angle), 1e-9)
    mixed = np.where(angle < 1e-4, a + s * (b - a), (np.sin((1 - s) * angle) * a + np.sin(s * angle) * b) / sine)
    return mixed / np.linalg.norm(mixed, axis=-1, keepdims=True)


def bone_confidence(body: Body, visibility: npt.ArrayLike) -> Array:
    """How far each bone's turn can be believed (F, J), 0..1: the visibility (F, V) of all that it moves, its own most.

    Not `rig.bone_visibility`, which asks of a bone's own skin alone: a thigh is held by the shin that is seen.

    A person of whom the half that faces the camera is seen has about 1 everywhere.
    """
    names = body.bone_names
    own = np.zeros((len(names), len(body.lowpoly)))
    bones = body.skin_bones[body.lowpoly].astype(int)
    np.add.at(own, (bones, np.arange(len(body.lowpoly))[:, None]), body.skin_weights[body.lowpoly])
    share = own.copy()
    for c in range(len(names) - 1, 0, -1):
        share[body.bone_parents[c]] += BEYOND * share[c]
    total = share.sum(1)
    seen = np.asarray(visibility, np.float64) @ (share / np.maximum(total, 1e-9)[:, None]).T
    for c in np.flatnonzero(total < 0.2):  # too small for the low-poly: as the bone that carries it
        seen[:, c] = seen[:, body.bone_parents[c]]
    out: Array = np.clip(seen / WELL_SEEN, 0, 1)
    return out


def hold_unseen(rotations: npt.ArrayLike, confidence: npt.ArrayLike, times: npt.ArrayLike) -> tuple[Array, Array]:
    """Rotations (F, J, 4) in which bones that were not seen for long are held calm; and keyed (F, J) bool, False there.

    confidence (F, J) of `bone_confidence`; times (F,) seconds. Between two moments at which a bone was seen it goes
    slowly from one to the other; before the first and after the last it stays; never seen, it keeps one mean pose.
    Stretches shorter than UNSEEN_SECONDS are left to the smoothing. The root is always taken as seen.
    """
    q, t = continuous(np.array(rotations, np.float64)), np.asarray(times, np.float64)
    unseen = np.asarray(confidence) < UNSEEN
    unseen[:, 0] = False
    keyed = np.ones(unseen.shape, bool)
    if len(q) < 2:
        return q, ~unseen
    for c in np.flatnonzero(unseen.any(0)):
        cuts = np.flatnonzero(np.diff(unseen[:, c])) + 1
        edges = [0, *cuts.tolist(), len(q)]
        for first, end in zip(edges[:-1], edges[1:], strict=True):
            if unseen[first, c] and (t[end - 1] - t[first] > UNSEEN_SECONDS or end - first == len(q)):
                keyed[first:end, c] = False
        held = ~keyed[:, c]
        if held.all():
            q[:, c] = q[:, c].mean(0)
        elif held.any():
            at = np.flatnonzero(~held)
            for k in range(4):
                q[held, c, k] = np.interp(t[held], t[at], q[at, c, k])
        q[:, c] /= np.maximum(np.linalg.norm(q[:, c], axis=-1, keepdims=True), 1e-9)
    return q, keyed


def repair_flips(
    rotations: npt.ArrayLike,
    times: npt.ArrayLike,
    body: Body,
    view: npt.ArrayLike = (0.0, 0.0, 1.0),
) -> tuple[Array, Array]:
    """Rotations (F, J, 4) at times (F,) seconds -> the same with exchanged sides put right, and what was exchanged in
    each frame (F,), an index into KINDS.

    view: the line of sight (3,) in the frame of the rotations. Stretches longer than about a second are left: then the
    network has its reasons. Raises InputError when the arrays do not belong together.
    """
    q, t = np.array(rotations, np.float64), np.asarray(times, np.float64)
    if q.ndim != 3 or q.shape[1:] != (len(body.bone_names), 4) or t.shape != q.shape[:1]:
        wanted = f"(F, {len(body.bone_names)}, 4)"
        raise InputError(f"flips need rotations {wanted} and times (F,), not {q.shape} and {t.shape}")
    if len(q) < 3:
        return q, np.zeros(len(q), np.int64)
    skeleton = _Skeleton(body)
    sight = np.asarray(view, np.float64)
    pieces = [
        np.stack([skeleton.points(state) for state in skeleton.states(q[rows : rows + PIECE], sight)])
        for rows in range(0, len(q), PIECE)
    ]
    chosen = _cheapest(np.concatenate(pieces, 1), t)  # of (5, F, P, 3)
    out = q.copy()
    for k in range(1, len(KINDS)):
        flipped = np.flatnonzero(chosen == k)
        if len(flipped):
            out[flipped] = skeleton.states(q[flipped], sight)[k]
    return continuous(out), chosen


def _cheapest(points: Array, times: Array) -> Array:
    """The states (F,) of the way through points (S, F, P, 3) with least travel; runs of time are apart."""
    count, frames = points.shape[:2]
    run = segments(times)
    cost = np.zeros((frames - 1, count, count))
    for a in range(count):
        for b in range(count):
            cost[:, a, b] = np.linalg.norm(points[b, 1:] - points[a, :-1], axis=-1).sum(-1)
    usual = float(np.median(cost[:, 0, 0]))  # of moving and of jitter
    cost = np.maximum(cost - np.maximum(SPEED * np.diff(times), 1.5 * usual)[:, None, None], 0)
    cost += CHANGE * (1 - np.eye(count))
    cost[run[1:] != run[:-1]] = 0
    alone = DOUBT * (np.arange(count) > 0)
    best, came = alone.copy(), np.zeros((frames, count), np.int64)
    for f in range(1, frames):
        ways = best[:, None] + cost[f - 1]
        came[f] = ways.argmin(0)
        best = ways.min(0) + alone
    out = np.zeros(frames, np.int64)
    out[-1] = best.argmin()
    for f in range(frames - 1, 0, -1):
        out[f - 1] = came[f, out[f]]
    return out


class _Skeleton:
    """The average adult's bones: positions of joints, and poses with sides exchanged."""

    def __init__(self, body: Body) -> None:
        self.body, self.shape = body, body.shape()
        self.index = {n: i for i, n in enumerate(body.bone_names)}
        self.parents = body.bone_parents
        align = body.reference.astype(np.float64) @ self.shape.orientations.astype(np.float64).transpose(0, 2, 1)
        align[0] = np.eye(3)
        self.align, self.heads = align, self.shape.heads.astype(np.float64)
        tips = [f"{n}.{s}" for s in "LR" for limb in CHAINS for n in (*CHAINS[limb][1:], TIPS[limb])]
        self.judged = [self.index[n] for n in [*tips, "upperarm01.L", "upperarm01.R", "head", "eye.L", "eye.R"]]

    def states(self, rotations: Array, view: Array) -> list[Array]:
        """The pose as it is given and as it would be with each of KINDS undone: (F, J, 4) each."""
        limbs = (("leg",), ("arm",), ("leg", "arm"))
        return [rotations, self.turned(rotations, view), *(self.exchanged(rotations, which) for which in limbs)]

    def points(self, rotations: Array) -> Array:
        """Joints (F, P, 3) that are compared between frames, relative to the root, metres."""
        turned = self.chain(rotation_matrix(rotations))
        return self.posed(turned)[:, self.judged]

    def chain(self, deltas: Array) -> Array:
        """Deltas (F, J, 3, 3) -> turns of the bones in the frame of the root's parent."""
        turned = deltas.copy()
        for c in range(1, deltas.shape[1]):
            turned[:, c] = turned[:, self.parents[c]] @ deltas[:, c]
        return turned

    def posed(self, turned: Array) -> Array:
        """Heads (F, J, 3) from turns, the root's at 0."""
        heads = np.zeros(turned.shape[:3])
        for c in range(1, turned.shape[1]):
            p = self.parents[c]
            heads[:, c] = heads[:, p] + turned[:, p] @ (self.align[p] @ (self.heads[c] - self.heads[p]))
        return heads

    def turned(self, rotations: Array, view: Array) -> Array:
        """The pose seen from the other side: depth reversed, left and right exchanged."""
        view = view / np.linalg.norm(view)
        deltas = rotation_matrix(rotations[:, self.body.bone_mirror])
        side = np.diag([-1.0, 1.0, 1.0])
        deltas = side @ deltas @ side
        depth = np.eye(3) - 2 * np.outer(view, view)
        deltas[:, 0] = depth @ rotation_matrix(rotations[:, 0]) @ side
        out: Array = quaternion(deltas)
        return out

    def exchanged(self, rotations: Array, limbs: tuple[str, ...]) -> Array:
        """The pose with each of the limbs where the other side's was, joint on joint."""
        deltas = rotation_matrix(rotations)
        turned = self.chain(deltas)
        heads = self.posed(turned)
        out = rotations.copy()
        for limb in limbs:
            for side, other in ("LR", "RL"):
                self._take_over(out, turned, heads, limb, side, other)
        return out

    def _take_over(self, out: Array, turned: Array, heads: Array, limb: str, side: str, other: str) -> None:
        """Writes one limb's local rotations so that it lies where the other side's lies."""
        names = [*CHAINS[limb], TIPS[limb]]
        first = self.index[f"{names[0]}.{side}"]
        parent, at = turned[:, self.parents[first]], heads[:, first]
        for name, following in zip(names[:-1], names[1:], strict=True):
            c, theirs = self.index[f"{name}.{side}"], self.index[f"{name}.{other}"]
            tip, goal = self.index[f"{following}.{side}"], heads[:, self.index[f"{following}.{other}"]]
            along = self.align[c] @ (self.heads[tip] - self.heads[c])
            base = turned[:, theirs] @ _reflected(along)
            turn = _smallest(np.einsum("fab,b->fa", base, along), goal - at) @ base
            out[:, c] = quaternion(parent.swapaxes(1, 2) @ turn)
            stays = STAYS.get(name)
            if stays:  # the lower half of the bone: the other side's twist, mirrored
                lower = self.index[f"{stays}.{side}"]
                mirrored = self.index[f"{stays}.{other}"]
                out[:, lower] = self._mirror(turned, mirrored)
                turn = turn @ rotation_matrix(out[:, lower])
            parent = turn
            at = at + np.einsum("fab,b->fa", turn, along)

    def _mirror(self, turned: Array, bone: int) -> Array:
        """A bone's local rotation (F, 4) as its mirror image on the other side has it."""
        local = turned[:, self.parents[bone]].swapaxes(1, 2) @ turned[:, bone]
        out: Array = quaternion(local) * np.array([1.0, 1.0, -1.0, -1.0])
        return out


def _reflected(along: Array) -> Array:
    """Rotation (3, 3) that takes a limb's direction on one side of the reference to the other side's: the mirror of the
    body, then the mirror that leaves the limb where it is.
    """
    side = np.diag([-1.0, 1.0, 1.0])
    a = along / np.linalg.norm(along)
    n = np.array([1.0, 0, 0]) - a[0] * a
    n /= np.linalg.norm(n)
    return side @ (np.eye(3) - 2 * np.outer(n, n))


def _smallest(a: Array, b: Array) -> Array:
    """Smallest rotations (F, 3, 3) from directions a (F, 3) to b (F, 3)."""
    a, b = (v / np.maximum(np.linalg.norm(v, axis=-1, keepdims=True), 1e-9) for v in (a, b))
    w = 1 + (a * b).sum(-1, keepdims=True)
    return rotation_matrix(np.concatenate([np.maximum(w, 1e-6), np.cross(a, b)], -1))
