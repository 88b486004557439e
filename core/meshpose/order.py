# SPDX-License-Identifier: Apache-2.0
"""People who overlap in the picture: who is in front, and room between them.

    factors = push_apart(people)            # what each one's distance from the camera is multiplied by, (F,) each

Where two silhouettes cover each other, the one behind is hidden there and the one in front is not, and the network says
so: the visibility of the vertices that would face the camera. Meshes that stand the wrong way round, or in one another,
are moved apart along the lines of sight, both by half, slowly, so that they stay on their pixels. (The losses of
chapter 5 of N. Kolotouros' thesis, 2021, interpenetration and depth order, as a correction instead of a loss.)

Frame of reference: the camera, metres.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .smooth import smooth_positions

Array = npt.NDArray[Any]

CELLS = 22
"""Cells along the taller one's height, in which the two are compared."""
LEAST_CELLS = 3
"""Cells that both must cover before anything is said."""
SURE = 0.12
"""Difference in what is hidden that tells who is behind (0 seen .. 1 guessed), mean over their meeting."""
MEETING = 0.5
"""Seconds apart that two meetings count as one."""
MOST = 0.9
"""Share of the cells in which the one behind has to be behind: hands may reach round."""
LARGEST = 1.5
"""Metres that two people are moved apart at most: more, and something else is wrong."""


@dataclass(frozen=True, eq=False)
class Seen:
    """One person: frames (F,) rising, points (F, V, 3) camera frame metres, visibility (F, V), times (F,) seconds."""

    frames: Array
    points: Array
    visibility: Array
    times: Array


@dataclass(frozen=True, eq=False)
class _Overlap:
    """One frame of two people: how much more the first is hidden; metres that the first lacks to be behind the second,
    and the second to be behind the first; metres in which they are in one another; metres the first is farther off.
    """

    hidden: float
    lacks: float
    lacks_other: float
    inside: float
    farther: float


def push_apart(people: Sequence[Seen]) -> list[Array]:
    """What each person's distance from the camera is to be multiplied by, (F,) each."""
    shifts = [np.zeros(len(person.frames)) for person in people]
    for i in range(len(people)):
        for j in range(i + 1, len(people)):
            for rows_i, rows_j, need in _meetings(people[i], people[j]):
                shifts[i][rows_i] = _larger(shifts[i][rows_i], need / 2)
                shifts[j][rows_j] = _larger(shifts[j][rows_j], -need / 2)
    out = []
    for person, shift in zip(people, shifts, strict=True):
        if not shift.any():
            out.append(np.ones(len(shift)))
            continue
        distance = np.linalg.norm(person.points.mean(1), axis=-1)
        out.append(1 + _spread(shift, person.times) / distance)
    return out


def _larger(a: Array, b: Array) -> Array:
    return np.where(np.abs(b) > np.abs(a), b, a)


def _spread(shift: Array, times: Array) -> Array:
    """The shift (F,) held a little longer and made smooth."""
    step = float(np.median(np.diff(times))) if len(times) > 1 else 1.0
    reach = max(1, round(0.2 / step))
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(shift, reach, mode="edge"), 2 * reach + 1)
    held = np.where(np.abs(windows.max(1)) > np.abs(windows.min(1)), windows.max(1), windows.min(1))
    return smooth_positions(held[:, None], times, cutoff=1.0)[:, 0]


def _meetings(a: Seen, b: Seen) -> list[tuple[Array, Array, Array]]:
    """Where the two overlap: rows of a, rows of b, and how much farther a has to stand than it does, metres."""
    common, rows_a, rows_b = np.intersect1d(a.frames, b.frames, return_indices=True)
    if not len(common):
        return []
    near = _boxes_meet(a.points[rows_a], b.points[rows_b])
    found = [(k, o) for k in np.flatnonzero(near) if (o := _overlap(a, b, rows_a[k], rows_b[k])) is not None]
    if not found:
        return []
    at = np.array([k for k, _ in found])
    new = np.concatenate([[True], np.diff(a.times[rows_a[at]]) > MEETING])
    out = []
    for meeting in np.split(np.arange(len(at)), np.flatnonzero(new)[1:]):
        overlaps = [found[k][1] for k in meeting]
        hidden = float(np.mean([o.hidden for o in overlaps]))
        farther = float(np.median([o.farther for o in overlaps]))
        behind = hidden > 0 if abs(hidden) > SURE else farther > 0
        wrong = (farther > 0) != behind
        need = np.array([(o.lacks if behind else o.lacks_other) if wrong or o.inside > 0.03 else 0.0 for o in overlaps])
        need = np.clip(need, 0, LARGEST) * (1 if behind else -1)
        if need.any():
            out.append((rows_a[at[meeting]], rows_b[at[meeting]], need))
    return out


def _boxes_meet(a: Array, b: Array) -> Array:
    """Whether the boxes around two people (F, V, 3) overlap in the picture (F,)."""
    flat = [p[..., :2] / np.maximum(p[..., 2:], 0.05) for p in (a, b)]
    low, high = ([f.min(1) for f in flat], [f.max(1) for f in flat])
    return ((low[0] < high[1]) & (low[1] < high[0])).all(-1)


def _overlap(a: Seen, b: Seen, row_a: int, row_b: int) -> _Overlap | None:
    """See _Overlap; None where the silhouettes hardly cover each other."""
    people = ((a.points[row_a], a.visibility[row_a]), (b.points[row_b], b.visibility[row_b]))
    flat = [p[:, :2] / np.maximum(p[:, 2:], 0.05) for p, _ in people]
    low = np.minimum(flat[0].min(0), flat[1].min(0))
    size = max(float(np.ptp(f[:, 1])) for f in flat) / CELLS + 1e-9
    cells = [((f - low) / size).astype(int) for f in flat]
    width = max(int(c[:, 0].max()) for c in cells) + 1
    where = [c[:, 1] * width + c[:, 0] for c in cells]
    count = max(int(w.max()) for w in where) + 1
    front, back, facing = [], [], []
    for (points, _), w in zip(people, where, strict=True):
        nearest, farthest = np.full(count, np.inf), np.full(count, -np.inf)
        np.minimum.at(nearest, w, points[:, 2])
        np.maximum.at(farthest, w, points[:, 2])
        front.append(nearest)
        back.append(farthest)
        facing.append(points[:, 2] <= (nearest[w] + farthest[w]) / 2 + 1e-9)
    shared = np.isfinite(front[0]) & np.isfinite(front[1])
    if shared.sum() < LEAST_CELLS:
        return None
    hidden = []
    for (_, seen), w, towards in zip(people, where, facing, strict=True):
        covered = shared[w] & towards
        apart = ~shared[w] & towards
        usual = float(seen[apart].mean()) if apart.any() else 0.8
        hidden.append(usual - float(seen[covered].mean()) if covered.any() else 0.0)
    (near_a, near_b), (far_a, far_b) = ([x[shared] for x in side] for side in (front, back))
    lacks, lacks_other = (float(np.quantile(x, MOST)) for x in (far_b - near_a, far_a - near_b))
    inside = float(np.quantile(np.minimum(far_a, far_b) - np.maximum(near_a, near_b), 0.6))
    farther = float(np.median(near_a + far_a - near_b - far_b)) / 2
    return _Overlap(hidden[0] - hidden[1], lacks, lacks_other, inside, farther)
