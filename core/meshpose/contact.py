# SPDX-License-Identifier: Apache-2.0
"""Which heels and balls of the feet bear on the floor, from how high they are and how fast they go.

    contact = find_contact(pose.soles, eye, times, seen)        # (F, 4) bool

Evidence frame by frame, the likeliest course of both feet through what heel and ball can do (Viterbi), and then what
is sure whatever the depth is: a foot that stands keeps its place in the picture.

Frame of reference: the world, metres, z up, the floor at z = 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .smooth import segments, smooth_positions

Array = npt.NDArray[Any]

CERTAIN = 6.0
"""Logarithm of the odds that a point on the floor bears, of somebody who stands; what speaks against it:"""
PER_HEIGHT, HIGH, PER_HIGH = 12.0, 0.08, 30.0
"""each metre above the floor, where depth errs by centimetres, and each above a height that depth does not excuse,"""
SPEED, ALONG = 0.7, 2.0
"""a foot that travels: half of what there is at so many m/s, those along the line of sight, where depth is a guess,
divided by ALONG;"""
SWING, AHEAD, PAST = 10.0, 0.2, 0.1
"""so much for a swing, which for the heel may begin so many seconds later, and for the ball have ended so many earlier:
a step comes down on its heel and leaves from its ball;"""
BUSY, BUSY_SECONDS = 2.0, 0.4
"""so much where a swing is near at all: who stands stands on heel and ball;"""
SINK, FASTEST_SINK = 3.0, 0.5
"""in which each m/s counts by which the heel rises, or the ball sinks, up to the second;"""
PER_SLOWER = 5.0
"""and each m/s, up to one, by which the other foot is slower: what depth does to both feet alike is not theirs."""
SPEED_CUTOFF = 2.8
"""Hz that pass half of a sole's way before its speed is taken."""
STATES = np.array([[False, False], [True, False], [True, True], [False, True]])
"""What heel and ball of a foot may do: neither bears, the heel, both, the ball."""
CHANGES = np.array([[0.0, 3, 8, 6], [6, 0, 1, 8], [8, 6, 0, 1], [3, 8, 4, 0]])
"""What it costs to go from one of them (row) to another, in the same odds at 25 fps; round by the heel it is cheap."""
UNSEEN = 0.15
"""Visibility of a foot below which nothing is said about its contact."""
LONGEST_FLOAT = 0.12
"""Metres that the floor under a person may seem to rise or sink for a while: depth drifts."""
LEFT, AGAIN, LEAST, PLACES = 0.09, 0.4, 3, 25
"""Metres across the line of sight by which a sole has left its place and bears no more; seconds that it has to stay in
another one, within half of that, to bear there instead; the fewest frames that make a stance at all; and how many of a
stance's frames are asked for the place."""


def find_contact(soles: Array, eye: Array, times: Array, seen: Array, grounded: bool = True) -> Array:
    """Which points bear on the floor: (F, 4) bool.

    soles (F, 4, 3) at times (F,); eye (3,) or (F, 3): the camera; seen (F, 2) visibility of the feet; grounded: the
    floor is at z = 0 (else only the speed tells, and which foot is the lower one).
    """
    if len(soles) < 4:
        return np.zeros(soles.shape[:2], bool)
    run = segments(times)
    step = float(np.median(np.diff(times)))
    steady = smooth_positions(soles, times, strength=0.5, cutoff=min(SPEED_CUTOFF, 0.3 / step))
    velocity = np.gradient(steady, times, axis=0)
    height = np.maximum(steady[..., 2] - _under(steady[..., 2], times, grounded)[:, None], -0.05)
    pace = _pace(steady, velocity, eye)
    swing = pace**2 / (pace**2 + SPEED**2)
    around, ahead, past = (
        _highest(swing, *(round(s / step) for s in reach))
        for reach in ((BUSY_SECONDS, BUSY_SECONDS), (0.0, AHEAD), (PAST, 0.0))
    )
    slower = PER_SLOWER * np.clip(pace - pace[:, ::-1], -1, 1)
    against = np.repeat(BUSY * around + slower, 2, 1)  # heel and ball, left, then right
    against += PER_HEIGHT * height + PER_HIGH * np.maximum(height - HIGH, 0)
    against += SWING * np.stack([ahead, past], -1).reshape(len(soles), 4)
    rise = np.clip(velocity[..., 2], -FASTEST_SINK, FASTEST_SINK) * [1.0, -1.0, 1.0, -1.0]
    against += SINK * np.repeat(around, 2, 1) * rise
    odds = np.clip(CERTAIN - against, -8, 6)
    odds = np.where(np.repeat(seen, 2, 1) < UNSEEN, -1.0, odds)
    return _in_place(_courses(odds * (step * 25), run), steady, eye, run, max(LEAST, round(AGAIN / step)))


def _sight(soles: Array, eye: Array) -> Array:
    """Ways (F, 4, 3) from the camera, eye (3,) or (F, 3), to soles (F, 4, 3)."""
    eye = np.asarray(eye, np.float64)
    out: Array = soles - (eye if eye.ndim == 1 else eye[:, None])
    return out


def _pace(soles: Array, velocity: Array, eye: Array) -> Array:
    """How fast each foot (F, 2) travels over the floor, m/s, the way along the line of sight counted less."""
    sight = _sight(soles, eye)[..., :2]
    sight /= np.maximum(np.linalg.norm(sight, axis=-1, keepdims=True), 1e-9)
    along = (velocity[..., :2] * sight).sum(-1)
    across = velocity[..., 0] * sight[..., 1] - velocity[..., 1] * sight[..., 0]
    square: Array = across**2 + (along / ALONG) ** 2
    return np.sqrt(square.reshape(len(soles), 2, 2).mean(-1))


def _highest(values: Array, before: int, after: int) -> Array:
    """The highest of values (F, K) from so many frames before to so many after."""
    padded = np.pad(values, ((before, after), (0, 0)), mode="edge")
    out: Array = np.lib.stride_tricks.sliding_window_view(padded, before + after + 1, axis=0).max(-1)
    return out


def _under(height: Array, times: Array, grounded: bool) -> Array:
    """Where the floor seems to be under a person (F,), from the lowest of the points' heights (F, 4) around."""
    lowest = height.min(1)
    step = float(np.median(np.diff(times)))
    reach = max(2, round(0.6 / step))
    padded = np.pad(lowest, reach, mode="edge")
    around = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1)
    floor = smooth_positions(np.median(around, axis=1)[:, None], times, cutoff=1.0)[:, 0]
    return np.clip(floor, -LONGEST_FLOAT, LONGEST_FLOAT) if grounded else floor


def _courses(score: Array, run: Array) -> Array:
    """The most likely course of both feet through STATES as (F, 4) bool, where score (F, 4) > 0 speaks for bearing."""
    pay = score.reshape(len(score), 2, 1, 2) @ STATES.T.astype(np.float64)
    pay = pay[:, :, 0]  # (F, 2, 4): frame, foot, state
    best = pay[0]
    came = np.zeros(pay.shape, np.int64)  # from which state the best way led there
    for f in range(1, len(pay)):
        ways = best[:, :, None] - (CHANGES if run[f] == run[f - 1] else 0.0)
        came[f] = ways.argmax(1)
        best = ways.max(1) + pay[f]
    states = np.empty(pay.shape[:2], np.int64)
    states[-1] = best.argmax(1)
    for f in range(len(pay) - 1, 0, -1):
        states[f - 1] = came[f, [0, 1], states[f]]
    return STATES[states].reshape(len(score), 4)


def _in_place(contact: Array, soles: Array, eye: Array, run: Array, again: int) -> Array:
    """contact (F, 4) without the frames in which a sole (F, 4, 3), seen from eye, is not where it bears.

    Depth errs so much that a foot which leaves slowly, or straight away from the camera, may pass for one that stands;
    across the line of sight it is seen to go. What comes before or after, for so many frames, is asked for a place of
    its own.
    """
    sight = _sight(soles, eye)
    sight /= np.maximum(np.linalg.norm(sight, axis=-1, keepdims=True), 1e-9)
    out = np.zeros_like(contact)
    for k in range(contact.shape[1]):
        pending = [(first, end, LEFT, LEAST) for first, end in stretches(contact[:, k], run)]
        while pending:
            first, end, near, least = pending.pop()
            a, b = _stay(soles[first:end, k], sight[first:end, k], near)
            if b - a < least:
                continue
            out[first + a : first + b, k] = True
            rest = ((first, first + a), (first + b, end))
            pending += [(*piece, LEFT / 2, again) for piece in rest if piece[1] - piece[0] >= again]
    return out


def _stay(points: Array, sight: Array, limit: float) -> tuple[int, int]:
    """First and one past the last frame in which points (n, 3), seen along sight (n, 3), are where most of them are, no
    farther off than limit, metres. What goes away and comes back has stayed.
    """
    picks = np.unique(np.linspace(0, len(points) - 1, PLACES).round().astype(int))
    near = _across(points - points[picks][:, None], sight) < limit  # (p, n)
    place = np.median(points[near[near.sum(1).argmax()]], 0)
    there = np.flatnonzero(_across(points - place, sight) < limit)
    return (int(there[0]), int(there[-1]) + 1) if len(there) else (0, 0)


def _across(away: Array, sight: Array) -> Array:
    """Lengths (..., n) of ways (..., n, 3) across lines of sight (n, 3)."""
    return np.linalg.norm(away - (away * sight).sum(-1, keepdims=True) * sight, axis=-1)


def stretches(mask: Array, run: Array | None = None) -> list[tuple[int, int]]:
    """First and one past the last of each stretch of True in (F,), none across two runs."""
    if not len(mask):
        return []
    change = np.flatnonzero(mask[1:] != mask[:-1]) + 1
    cuts = set(change.tolist()) | ({0, len(mask)})
    if run is not None:
        cuts |= set((np.flatnonzero(np.diff(run)) + 1).tolist())
    edges = sorted(cuts)
    return [(a, b) for a, b in zip(edges[:-1], edges[1:], strict=True) if mask[a]]
