# SPDX-License-Identifier: Apache-2.0
"""Steadiness: bone rotations and points over time, smoothed without lag, and the live filter.

    steady = smooth_rotations(fit.rotations, times, confidence, strength=0.5, body=body)      # (F, J, 4)
    root = smooth_positions(fit.translation, times, strength=0.5)                             # (F, 3)

A finished clip is smoothed by the curve x that minimises, over real timestamps,

    sum_t w_t |x_t - y_t|^2 h  +  (2 pi f)^-6  integral |x'''|^2 dt          (Whittaker 1923, Reinsch 1967)

which for even timestamps has the gain 1 / (1 + (frequency / f)^6) and no phase: a Butterworth low-pass of order 3 run
forwards and backwards, with the same answer as a Kalman smoother of a white-jerk model, but in one banded solve. w
comes from the confidence: where little was seen, the neighbours in time decide. f is the bone's cut-off (CUTOFFS),
lowered or raised by the strength, and raised where the bone turns fast (the principle of One-Euro), so that a kick
stays a kick. Rotations are smoothed as sign-continuous unit quaternions and set back to unit length: a steady turn
comes back exactly, and small departures are those of the tangent space.

Nothing is smoothed across a gap of more than LONGEST_BRIDGE seconds. Any frame of reference and any unit will do.
Exchanged sides and missing frames are mended before smoothing, in `repair`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .body import Body
from .errors import InputError

Array = npt.NDArray[Any]

# Hz that pass half at strength 0.5, by bone; bones not named follow their parent. The trunk is heavy and slow.
CUTOFFS = {
    "root": 4.0, "spine05": 3.5, "neck01": 4.0, "clavicle": 3.5, "upperarm01": 4.5, "lowerarm01": 5.0, "wrist": 5.5,
    "finger": 5.5, "upperleg01": 4.5, "lowerleg01": 5.0, "foot": 5.5,
}  # fmt: skip
POSITION_CUTOFF = 4.0
LONGEST_BRIDGE = 0.45
"""Seconds without a sample that a curve is drawn across."""
LEAST_CONFIDENCE = 0.04
"""The cut-off goes with the root of the confidence: w is its cube."""
FAST = 0.12
"""How much each rad/s of a bone's own turning raises its cut-off, as a share."""
STRAY = 5.0
"""A sample that stands out from its neighbours so many times more than is usual around it counts ever less."""


def smooth_rotations(
    rotations: npt.ArrayLike,
    times: npt.ArrayLike,
    confidence: npt.ArrayLike | None = None,
    strength: float = 0.5,
    body: Body | None = None,
) -> Array:
    """Rotations (F, J, 4) w x y z at times (F,) seconds, ascending -> the same, steady; float64, continuous in sign.

    confidence (F, J) or (F,) in 0..1: how well each was seen (None: all well); strength 0 (as given) .. 1; body: whose
    bones these are, for their cut-offs (None: all alike). Raises InputError when the arrays do not belong together.
    """
    q, t = _sequence(rotations, times, "rotations", 3)
    if q.shape[2] != 4:
        raise InputError(f"rotations to smooth must be (F, J, 4), not {q.shape}")
    q = continuous(q / np.linalg.norm(q, axis=-1, keepdims=True))
    factor = _factor(strength)
    if factor is None or len(q) < 2:
        return q
    cutoff = factor * (np.full(q.shape[1], POSITION_CUTOFF) if body is None else bone_cutoffs(body))
    weight = _weights(confidence, q.shape[:2])
    moving = np.flatnonzero(np.ptp(q, axis=0).max(-1) > 1e-7)
    out = q.copy()
    part = _smooth(q[:, moving], t, weight[:, moving], cutoff[moving], rate=2.0, floor=np.radians(2) / 2)
    out[:, moving] = part / np.linalg.norm(part, axis=-1, keepdims=True)
    return out


def smooth_positions(
    positions: npt.ArrayLike,
    times: npt.ArrayLike,
    confidence: npt.ArrayLike | None = None,
    strength: float = 0.5,
    cutoff: float = POSITION_CUTOFF,
) -> Array:
    """Points (F, ..., C) at times (F,) seconds -> the same, steady; float64.

    confidence (F,), or one for each point (F, ...); strength 0..1; cutoff in Hz at strength 0.5. Raises InputError when
    the arrays do not belong together.
    """
    x, t = _sequence(positions, times, "positions", 2)
    factor = _factor(strength)
    if factor is None or len(x) < 2:
        return x.copy()
    flat = x.reshape(len(x), -1, x.shape[-1])
    given = None if confidence is None else np.asarray(confidence, np.float64).reshape(len(x), -1)
    weight = _weights(given, flat.shape[:2])
    cutoffs = np.full(flat.shape[1], cutoff * factor)
    return _smooth(flat, t, weight, cutoffs, rate=0.0, floor=1e-3).reshape(x.shape)


def continuous(q: Array) -> Array:
    """The same rotations (F, ..., 4) with signs such that neighbours in time are near each other."""
    sign = np.where((q[1:] * q[:-1]).sum(-1) < 0, -1.0, 1.0)
    first = np.where(q[:1, ..., 0] < 0, -1.0, 1.0)
    return q * np.cumprod(np.concatenate([first, sign]), 0)[..., None]


def bone_cutoffs(body: Body) -> Array:
    """Hz (J,) of each bone at strength 0.5."""
    out = np.empty(len(body.bone_names))
    for c, name in enumerate(body.bone_names):
        base = name.split(".")[0].split("-")[0]
        base = "finger" if base.startswith("finger") else base
        out[c] = CUTOFFS[base] if base in CUTOFFS else out[body.bone_parents[c]]
    return out


def segments(times: Array, longest: float = LONGEST_BRIDGE) -> Array:
    """Number (F,) of the run that each time belongs to; a new one after a gap of more than `longest` seconds."""
    return np.concatenate([[0], np.cumsum(np.diff(times) > longest)]).astype(np.int64)


class OneEuro:
    """The One-Euro filter (Casiez, Roussel, Vogel 2012) for live use: little lag in fast moves, no jitter at rest.

        steady = OneEuro()
        for t, x in live: y = steady(x, t)

    x of any shape, the last axis a vector whose speed is judged together; with rotations=True quaternions w x y z.
    least: cut-off at rest, Hz; slope: Hz more for each unit/s (for rotations rad/s) of speed.
    """

    def __init__(self, least: float = 1.0, slope: float = 4.0, speed_cutoff: float = 1.0, rotations: bool = False):
        if not (least > 0 and slope >= 0 and speed_cutoff > 0):
            raise InputError(f"One-Euro needs cut-offs over 0 Hz, not {least} and {speed_cutoff}, slope {slope}")
        self.least, self.slope, self.speed_cutoff, self.rotations = least, slope, speed_cutoff, rotations
        self.reset()

    def reset(self) -> None:
        """Forget the past (after a cut, say)."""
        self._value: Array | None = None
        self._last: Array | None = None
        self._speed: Array | None = None
        self._time = 0.0

    def __call__(self, x: npt.ArrayLike, time: float) -> Array:
        """The filtered value at `time` (seconds, later than the last one's)."""
        now = np.array(x, np.float64)
        if self._value is None or self._last is None or self._speed is None:
            self._value, self._last, self._speed, self._time = now, now, np.zeros_like(now), time
            return now
        step = time - self._time
        if step <= 0:
            raise InputError(f"One-Euro was given time {time} s after {self._time} s: times must ascend")
        if self.rotations:
            now = np.where((now * self._last).sum(-1, keepdims=True) < 0, -now, now)
        blend = _share(self.speed_cutoff, step)
        self._speed = self._speed + blend * ((now - self._last) / step - self._speed)
        pace = np.linalg.norm(self._speed, axis=-1, keepdims=True) * (2.0 if self.rotations else 1.0)
        self._value = self._value + _share(self.least + self.slope * pace, step) * (now - self._value)
        if self.rotations:
            self._value = self._value / np.linalg.norm(self._value, axis=-1, keepdims=True)
        self._last, self._time = now, time
        return self._value.copy()


def _share(cutoff: Any, step: float) -> Any:
    """How far a first-order low-pass of `cutoff` Hz goes to its input in `step` seconds."""
    turn = 2 * np.pi * cutoff * step
    return turn / (1 + turn)


def _sequence(values: npt.ArrayLike, times: npt.ArrayLike, what: str, least: int) -> tuple[Array, Array]:
    x, t = np.array(values, np.float64), np.asarray(times, np.float64)
    if x.ndim < least or t.shape != x.shape[:1]:
        raise InputError(f"{what} to smooth need one time for each frame, not {x.shape} and times {t.shape}")
    if not (np.isfinite(x).all() and np.isfinite(t).all()):
        raise InputError(f"{what} to smooth, or their times, hold numbers that are not finite")
    if (np.diff(t) <= 0).any():
        raise InputError(f"times of the {what} to smooth must ascend")
    return x, t


def _factor(strength: float) -> float | None:
    """What a strength 0..1 makes of the cut-offs at 0.5; None for 0. Raises InputError outside."""
    if not 0 <= strength <= 1:
        raise InputError(f"smoothing strength {strength} must lie between 0 (raw) and 1")
    return None if strength < 1e-3 else float((0.5 / strength) ** 1.6)


def _weights(confidence: npt.ArrayLike | None, shape: tuple[int, ...]) -> Array:
    if confidence is None:
        return np.ones(shape)
    given = np.asarray(confidence, np.float64)
    given = given[:, None] if given.ndim == 1 else given
    if given.ndim != 2 or given.shape[0] != shape[0] or given.shape[1] not in (1, shape[1]):
        raise InputError(f"confidence must be {shape} or {shape[:1]}, not {np.shape(confidence)}")
    weight: Array = np.clip(np.broadcast_to(given, shape), LEAST_CONFIDENCE, 1.0) ** 3
    return weight


def _smooth(y: Array, times: Array, weight: Array, cutoff: Array, rate: float, floor: float) -> Array:
    """Curves through y (F, P, C) with weights (F, P) and cut-offs (P,) Hz.

    rate: speed of a channel in rad/s from the speed of y (0: cut-offs stay as they are); floor: least distance from the
    neighbours that is usual.
    """
    rows, coefficients, span, step = _differences(times)
    if not len(rows):
        return y
    # So low a cut-off that the solve would lose its digits is no use to anybody.
    least = 1 / (60 * step)
    cutoffs = np.broadcast_to(np.maximum(cutoff, least), (len(rows), len(cutoff)))
    weight = weight / (1 + (_standing_out(y, times, floor) / STRAY) ** 4)
    x = _solve(y, weight, cutoffs, rows, coefficients, span, step)
    if rate:
        speed = rate * np.linalg.norm(np.gradient(x, times, axis=0), axis=-1)
        middle = (speed[rows + 1] + speed[rows + 2]) / 2
        cutoffs = np.maximum(cutoff * (1 + FAST * middle), least)
        x = _solve(y, weight, cutoffs, rows, coefficients, span, step)
    return x


def _standing_out(y: Array, times: Array, floor: float, reach: int = 4) -> Array:
    """How far each sample (F, P) lies from the line between its neighbours, against what is usual around it.

    Of a lone stray only itself and, half as much, its two neighbours stand out; in a fast move all frames around do.
    """
    share = ((times[1:-1] - times[:-2]) / (times[2:] - times[:-2]))[:, None, None]
    away = np.zeros(y.shape[:2])
    away[1:-1] = np.linalg.norm(y[1:-1] - (1 - share) * y[:-2] - share * y[2:], axis=-1)
    away[[0, -1]] = away[[1, -2]]
    padded = np.pad(away, ((reach, reach), (0, 0)), mode="reflect" if len(y) > reach else "edge")
    around = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1, axis=0)
    out: Array = away / np.maximum(np.median(around, axis=-1), floor)
    out[[0, -1]] = 0.0
    return out


def _differences(times: Array) -> tuple[Array, Array, Array, float]:
    """Third derivatives from four neighbours: first frames (R,), coefficients (R, 4), seconds they stand for (R,); and
    the usual time step.
    """
    run = segments(times)
    step = float(np.median(np.diff(times)))
    rows = np.flatnonzero(run[3:] == run[:-3])
    near = times[rows[:, None] + np.arange(4)]
    apart = near[:, :, None] - near[:, None, :] + np.eye(4)
    return rows, 6.0 / apart.prod(-1), (near[:, 3] - near[:, 0]) / 3, step


def _solve(y: Array, weight: Array, cutoff: Array, rows: Array, coefficients: Array, span: Array, step: float) -> Array:
    """The banded normal equations (half band 3), all channels at once: y (F, P, C), weight (F, P), cutoff (R, P)."""
    band = _stiffness(cutoff, rows, coefficients, span, len(weight))
    band[0] += weight * step
    return solve_banded(band, y * (weight * step)[..., None])


def _stiffness(cutoff: Array, rows: Array, coefficients: Array, span: Array, count: int) -> Array:
    """The penalty's part of the equations (4, F, P): [k][i] couples frame i with frame i + k."""
    band = np.zeros((4, count, cutoff.shape[-1]))
    stiff = (2 * np.pi * cutoff) ** -6.0 * span[:, None]
    for k in range(4):
        for a in range(4 - k):
            band[k][rows + a] += stiff * (coefficients[:, a] * coefficients[:, a + k])[:, None]
    return band


def penalty(times: npt.ArrayLike, cutoff: Array) -> Array:
    """What smoothness at cut-offs (F, P) Hz adds to the equations (4, F, P) for `solve_banded`, times (F,) ascending.

    A weight w of frame i on the data adds w times the usual time step to [0, i] and to the right side.
    """
    at = np.asarray(times, np.float64)
    rows, coefficients, span, _ = _differences(at)
    return _stiffness((cutoff[rows + 1] + cutoff[rows + 2]) / 2, rows, coefficients, span, len(at))


def solve_banded(band: Array, right: Array) -> Array:
    """Solves symmetric positive systems of half band 3 (4, F, P) for right sides (F, P, C) by L D L^T."""
    count = band.shape[1]
    d = np.empty(band.shape[1:])
    low = np.zeros((3, *band.shape[1:]))  # low[k - 1][i] = L[i + k, i]
    x = right.copy()
    for i in range(count):
        pivot = band[0, i].copy()
        first, second = band[1, i].copy(), band[2, i].copy()
        if i >= 1:
            a = low[0, i - 1] * d[i - 1]
            pivot -= a * low[0, i - 1]
            first -= a * low[1, i - 1]
            second -= a * low[2, i - 1]
            x[i] -= low[0, i - 1][:, None] * x[i - 1]
        if i >= 2:
            b = low[1, i - 2] * d[i - 2]
            pivot -= b * low[1, i - 2]
            first -= b * low[2, i - 2]
            x[i] -= low[1, i - 2][:, None] * x[i - 2]
        if i >= 3:
            pivot -= low[2, i - 3] ** 2 * d[i - 3]
            x[i] -= low[2, i - 3][:, None] * x[i - 3]
        d[i] = pivot
        low[0, i], low[1, i], low[2, i] = first / pivot, second / pivot, band[3, i] / pivot
    x /= d[..., None]
    for i in range(count - 2, -1, -1):
        for k in range(1, min(3, count - 1 - i) + 1):
            x[i] -= low[k - 1, i][:, None] * x[i + k]
    return x
