# SPDX-License-Identifier: GPL-3.0-or-later
"""Few keys on smooth curves, within a bound of each bone's turn and place and of where the bones end.

    curves = reduce(frames, [Channel(0, "turn", quaternions, turned_by(1.0)), ...], chain, 3.0)
    kept, slopes = curves[0]

A reduced curve is a chain of cubics through kept keys.  Handles stand at a third of the way to the next key, so that
time runs evenly and the curve between two keys is Hermite's cubic; slopes are those that fit the dropped frames best.
All components of one bone's turn keep the same frames, and what is compared is the turn itself, not its components.

Small errors of the bones of a chain add up at its end: a degree at the hips is centimetres at the hand.  So the tails
of all bones are compared, too, and where one is off by more than the bound, the bones above it that do most of it get
keys there.  A long clip is reduced in pieces: each begins and ends with a key.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

SWEEPS = 12
"""Of Jacobi's method for the slopes, from those of the round before; each leaves three quarters of the error, at
worst. What is left costs a key more, never the bound."""
GAP = 3.0
"""Times the usual step between frames from which on a step is a gap in the clip."""
PIECE = 500
"""Frames that are reduced together: the work for a frame does not grow with the clip."""
BLAME = 0.5
"""Bones that carry so much of the largest share in a tail's error get a key where it is too large."""

Error = Callable[[np.ndarray, np.ndarray], np.ndarray]
Curve = tuple[np.ndarray, np.ndarray]
"""Which frames are kept (K,), and the slopes there (K, C) per frame."""


def turned_by(degrees: float) -> Error:
    """Angle between quaternions (n, 4), the second of any length, in units of the bound."""

    def error(true: np.ndarray, found: np.ndarray) -> np.ndarray:
        chord = np.linalg.norm(_unit(found) - true, axis=-1)
        return np.degrees(4 * np.arcsin(np.minimum(chord / 2, 1))) / degrees

    return error


def moved_by(units: float) -> Error:
    """Distance between points (n, 3), in units of the bound: `units` of them to one of the points'."""
    return lambda true, found: np.linalg.norm(found - true, axis=-1) * units


@dataclass(frozen=True, eq=False)
class Channel:
    """One animated property: bone: which (index into a chain's channels); kind: "turn" or "shift"; values (F, C);
    error: 1 is the bound.
    """

    bone: int
    kind: str
    values: np.ndarray
    error: Error


@dataclass(frozen=True, eq=False)
class Chain:
    """How bones hang on one another, in rest: parents (A,) before children, -1 for none; offsets (A, 3) and axes
    (A, 3, 3) in the parent's; lengths (A,); channels (A,): which of the animated bones each is, -1 for none.
    """

    parents: np.ndarray
    offsets: np.ndarray
    axes: np.ndarray
    lengths: np.ndarray
    channels: np.ndarray

    def posed(self, rotations: np.ndarray, shifts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Heads and tails (n, A, 3) for rotations (n, B, 4) of any length and shifts (n, B, 3) of the animated."""
        count = len(rotations)
        turns = _matrix(_unit(rotations))
        linear = np.empty((count, len(self.parents), 3, 3))
        heads = np.empty((count, len(self.parents), 3))
        for a, (p, b) in enumerate(zip(self.parents.tolist(), self.channels.tolist(), strict=True)):
            way = self.offsets[a] if b < 0 else self.offsets[a] + shifts[:, b] @ self.axes[a].T
            local = self.axes[a] if b < 0 else self.axes[a] @ turns[:, b]
            heads[:, a] = way if p < 0 else heads[:, p] + np.einsum("nxy,ny->nx", linear[:, p], np.atleast_2d(way))
            linear[:, a] = local if p < 0 else linear[:, p] @ local
        return heads, heads + linear[..., 1] * self.lengths[:, None]

    def above(self) -> np.ndarray:
        """(A, A) bool: whether the second bone carries the first, itself included."""
        out = np.eye(len(self.parents), dtype=bool)
        for a, p in enumerate(self.parents.tolist()):
            if p >= 0:
                out[a] |= out[p]
        return out


def reduce(frames: np.ndarray, channels: Sequence[Channel], chain: Chain | None, units: float) -> list[Curve]:
    """The curve of each channel, within its own bound, and with it the tails of a chain's bones.

    frames (F,) rising; units: bounds in one of the chain's units of length.
    """
    count = len(frames)
    natural = [np.gradient(c.values, frames, axis=0) if count > 1 else np.zeros_like(c.values) for c in channels]
    edges = list(range(0, max(count - PIECE // 2, 1), PIECE)) + [count - 1]
    found: list[list[Curve]] = [[] for _ in channels]
    for first, last in zip(edges[:-1], edges[1:], strict=True):
        rows = slice(first, last + 1)
        ends = (first > 0, last < count - 1)
        parts = [_Part(frames[rows], c, c.values[rows], n[rows], ends) for c, n in zip(channels, natural, strict=True)]
        for part in parts:
            part.refine()
        if chain is not None and parts:
            _bound_tails(parts, chain, units)
        for curve, part in zip(found, parts, strict=True):
            skip = int(first > 0)  # the last key of the piece before
            curve.append((part.kept[skip:] + first, part.slopes[skip:]))
    return [(np.concatenate([k for k, _ in c]), np.concatenate([s for _, s in c])) for c in found]


def reduced(frames: np.ndarray, values: np.ndarray, error: Error) -> Curve:
    """Which of values (F, C) on rising frames (F,) to keep (K,), and the slopes (K, C) per frame there.

    error(true, found) (F,): 1 is the bound.
    """
    return reduce(frames, [Channel(0, "turn", values, error)], None, 1.0)[0]


class _Part:
    """A channel in one piece of the clip. ends: whether the first and the last key join to another piece."""

    def __init__(
        self, frames: np.ndarray, channel: Channel, values: np.ndarray, natural: np.ndarray, ends: tuple[bool, bool]
    ) -> None:
        self.frames, self.channel, self.values, self.natural, self.ends = frames, channel, values, natural, ends
        steps = np.diff(frames)
        gaps = np.flatnonzero(steps > GAP * np.median(steps)) if len(steps) else np.zeros(0, np.int64)
        self.edges = np.concatenate([gaps, gaps + 1])
        self.kept = np.unique(np.concatenate([[0, len(frames) - 1], self.edges])).astype(np.int64)
        self.slopes = natural[self.kept]

    def refine(self, more: np.ndarray | None = None) -> None:
        """Begins with the kept frames and `more`, and adds the worst frame between each two keys."""
        if more is not None:
            self._keep(more)
        while len(self.frames) > 1:
            self._fit()
            off = self.channel.error(self.values, self.played())
            off[self.kept] = 0
            worst = np.maximum.reduceat(off, self.kept[:-1])
            if not (worst > 1).any():
                return
            between = np.searchsorted(self.kept[1:], np.arange(len(off)), side="right").clip(max=len(self.kept) - 2)
            is_worst = (off > 1) & (off >= worst[between])
            _, first = np.unique(between[is_worst], return_index=True)
            self._keep(np.flatnonzero(is_worst)[first])

    def played(self) -> np.ndarray:
        """What the curve gives on all frames."""
        if len(self.kept) < 2:
            return self.values.copy()
        return hermite(self.frames, self.frames[self.kept], self.values[self.kept], self.slopes)

    def _keep(self, rows: np.ndarray) -> None:
        kept = np.unique(np.concatenate([self.kept, rows]))
        slopes = self.natural[kept].copy()
        slopes[np.isin(kept, self.kept)] = self.slopes
        self.kept, self.slopes = kept, slopes

    def _fit(self) -> None:
        slopes = best_slopes(self.frames, self.values, self.kept, self.natural[self.kept], self.slopes)
        for at, joined in zip((0, -1), self.ends, strict=True):
            if joined:  # both pieces go through with the same slope
                slopes[at] = self.natural[self.kept[at]]
        slopes[np.isin(self.kept, self.edges)] = 0  # what nobody saw must not swing
        self.slopes = slopes


def _bound_tails(parts: list[_Part], chain: Chain, units: float) -> None:
    """Adds keys until no tail is off by more than its bound."""
    bones, count = int(chain.channels.max()) + 1, len(parts[0].frames)
    true = _channels(parts, bones, [part.values for part in parts], count)
    heads, tails = chain.posed(*true)
    above = chain.above()
    moves = [np.flatnonzero(chain.channels == part.channel.bone)[0] for part in parts]
    while True:
        played = [part.played() for part in parts]
        off = units * np.linalg.norm(chain.posed(*_channels(parts, bones, played, count))[1] - tails, axis=-1)
        worst = [np.unique(rows) for rows in _worst_rows(off, above, heads, tails, parts, played, moves, units)]
        if not any(len(rows) for rows in worst):
            return
        for part, rows in zip(parts, worst, strict=True):
            if len(rows):
                part.refine(rows)


def _worst_rows(
    off: np.ndarray, above: np.ndarray, heads: np.ndarray, tails: np.ndarray, parts: list[_Part],
    played: list[np.ndarray], moves: list[np.int64], units: float,
) -> list[list[int]]:  # fmt: skip
    """For each part the frames where it needs a key: in each stretch of frames in which a tail is off, the worst one,
    of those of the bones above whose own error does most.
    """
    wanted: list[list[int]] = [[] for _ in parts]
    wrong = [_wrong_by(part, values) for part, values in zip(parts, played, strict=True)]
    for tail in np.flatnonzero((off > 1).any(0)):
        flags = np.diff(np.concatenate([[0], (off[:, tail] > 1).astype(np.int8), [0]]))
        for start, stop in zip(np.flatnonzero(flags > 0), np.flatnonzero(flags < 0), strict=True):
            row = int(start + off[start:stop, tail].argmax())
            shares = np.zeros(len(parts))
            for k, (part, bone) in enumerate(zip(parts, moves, strict=True)):
                if above[tail, bone]:
                    turn = part.channel.kind == "turn"
                    arm = np.linalg.norm(tails[row, tail] - heads[row, bone]) if turn else 1.0
                    shares[k] = units * arm * wrong[k][row]
            for k in np.flatnonzero((shares >= BLAME * shares.max()) & (shares > 0)):
                wanted[k].append(row)
    return wanted


def _wrong_by(part: _Part, played: np.ndarray) -> np.ndarray:
    """How far (F,) a part's curve is off: radians, or units of length."""
    if part.channel.kind == "turn":
        out: np.ndarray = 2 * np.linalg.norm(_unit(played) - part.values, axis=-1)
        return out
    away: np.ndarray = np.linalg.norm(played - part.values, axis=-1)
    return away


def _channels(parts: list[_Part], bones: int, values: list[np.ndarray], count: int) -> tuple[np.ndarray, np.ndarray]:
    """Rotations (n, B, 4) and shifts (n, B, 3) of all animated bones, those without keys at rest."""
    rotations = np.zeros((count, bones, 4))
    rotations[..., 0] = 1
    shifts = np.zeros((count, bones, 3))
    for part, given in zip(parts, values, strict=True):
        (rotations if part.channel.kind == "turn" else shifts)[:, part.channel.bone] = given
    return rotations, shifts


# -- cubics --------------------------------------------------------------------------------------------------------


def _basis(frames: np.ndarray, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Segment (F,) of each frame, its length (F,), and Hermite's four weights (F, 1)."""
    segment = np.searchsorted(keys, frames, side="right").clip(1, len(keys) - 1) - 1
    length = keys[segment + 1] - keys[segment]
    u = ((frames - keys[segment]) / length)[:, None]
    return segment, length, [(1 + 2 * u) * (1 - u) ** 2, u * (1 - u) ** 2, u**2 * (3 - 2 * u), u**2 * (u - 1)]


def hermite(frames: np.ndarray, keys: np.ndarray, values: np.ndarray, slopes: np.ndarray) -> np.ndarray:
    """The chain of cubics through values (K, C) with slopes (K, C) at keys (K,), on frames (F,) -> (F, C)."""
    segment, length, (v0, m0, v1, m1) = _basis(frames, keys)
    bent = m0 * slopes[segment] + m1 * slopes[segment + 1]
    result: np.ndarray = v0 * values[segment] + v1 * values[segment + 1] + bent * length[:, None]
    return result


def best_slopes(
    frames: np.ndarray, values: np.ndarray, kept: np.ndarray, natural: np.ndarray, start: np.ndarray
) -> np.ndarray:
    """Slopes (K, C) at the kept frames that bring the chain nearest to all values (F, C), by least squares.

    Each slope meets its neighbours only: three diagonals, solved by sweeps from `start` (K, C).  natural (K, C): where
    nothing was dropped.
    """
    keys = frames[kept]
    segment, length, (v0, m0, v1, m1) = _basis(frames, keys)
    rest = values - v0 * values[kept][segment] - v1 * values[kept][segment + 1]
    here, there = m0[:, 0] * length, m1[:, 0] * length
    count = len(keys)
    span = np.diff(keys)
    ridge = 1e-4 * np.concatenate([span, [0]]) ** 2 + 1e-4 * np.concatenate([[0], span]) ** 2
    diagonal = ridge + np.bincount(segment, here**2, count) + np.bincount(segment + 1, there**2, count)
    beside = np.bincount(segment, here * there, count)[:-1, None]
    right = natural * ridge[:, None]
    for c in range(values.shape[1]):
        right[:, c] += np.bincount(segment, here * rest[:, c], count)
        right[:, c] += np.bincount(segment + 1, there * rest[:, c], count)
    slopes = start.copy()
    for _ in range(SWEEPS):
        pull = right.copy()
        pull[:-1] -= beside * slopes[1:]
        pull[1:] -= beside * slopes[:-1]
        slopes = pull / diagonal[:, None]
    return slopes


def _unit(quaternions: np.ndarray) -> np.ndarray:
    unit: np.ndarray = quaternions / np.maximum(np.linalg.norm(quaternions, axis=-1, keepdims=True), 1e-12)
    return unit


def _matrix(q: np.ndarray) -> np.ndarray:
    """Unit quaternions (..., 4) w x y z -> (..., 3, 3)."""
    w, v = q[..., :1, None], q[..., 1:]
    cross = np.zeros((*q.shape[:-1], 3, 3))
    cross[..., [2, 0, 1], [1, 2, 0]], cross[..., [1, 2, 0], [2, 0, 1]] = v, -v
    result: np.ndarray = np.eye(3) + 2 * (w * cross + cross @ cross)
    return result
