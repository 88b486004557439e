# SPDX-License-Identifier: Apache-2.0
"""The way through space: distances that do not pump, and how a moving camera turned.

    distance = steady_distance(observed, times, rays, soles, contact, ...)     # (F,) metres from the camera
    turn = Turning(camera); turn.step(image, boxes) ...; turn.rotations        # (F, 3, 3)

Distance along the line of sight is what one picture knows least: it comes from the size of the body. A foot that stands
knows better: while it bears, the body goes away from the camera just as much as the foot comes nearer the body. So the
distance is the curve that minimises over all frames together

    sum (distance - observed)^2 + w_s sum_stances sum (distance + offset - place of the stance)^2
      + w_f sum (height of bearing soles over the floor)^2 + (2 pi f)^-6 integral (third derivative)^2

with the place of each stance free: one banded solve and one unknown more for each stance (Woodbury).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .smooth import penalty, solve_banded

if TYPE_CHECKING:
    from .camera import Camera

Array = npt.NDArray[Any]

CUTOFF = 1.5
"""Hz that pass half at strength 0.5, where no foot bears."""
STILL_SHARE, STILL_SECONDS = 0.25, 0.4
"""What is left of the cut-off while somebody stands on both feet: the body sways, it does not go to and fro."""
STANCE_WEIGHT = 0.05
"""How much more a frame of a bearing foot says of the change of distance than the body's size says of distance."""
FLOOR_WEIGHT = 0.5
"""The same for the floor's height under it, for each square metre per metre that height changes with distance."""
FLOOR_DOUBT = 0.04
"""Metres off the floor at which a sole says a quarter."""
WINDOW = 1500
"""Frames that are solved together; longer clips in pieces that overlap."""


def steady_distance(
    observed: Array,
    times: Array,
    confidence: Array,
    stances: Sequence[tuple[int, int, Array]] = (),
    height: Array | None = None,
    slope: Array | None = None,
    bears: Array | None = None,
    strength: float = 0.5,
) -> Array:
    """Distances (F,) from the camera, steady.

    observed (F,) from the body's size; times (F,) seconds; confidence (F,) 0..1; stances: (first, one past the last,
    offset (n,) metres of the bearing point from the root along the ray); height, slope, bears (F, K): height over the
    floor of points that bear at the observed distance, and its change with distance; strength 0 (as given) .. 1.
    """
    if strength < 1e-3 or len(observed) < 4:
        return observed.copy()
    cutoff = CUTOFF * (0.5 / strength) ** 1.2 * np.where(_still(bears, times), STILL_SHARE, 1.0)
    out, total = np.zeros(len(observed)), np.zeros(len(observed))
    step = WINDOW - 300
    for start in range(0, max(1, len(observed) - 300), step):
        rows = slice(start, min(start + WINDOW, len(observed)))
        count = rows.stop - start
        inside = [(a - start, b - start, o) for a, b, o in stances if a >= start and b <= rows.stop]
        lifted = (None, None, None) if height is None or slope is None or bears is None else (
            height[rows], slope[rows], bears[rows])  # fmt: skip
        part = _solve(observed[rows], times[rows], confidence[rows], inside, lifted, cutoff[rows])
        share = np.minimum(np.arange(count) + 1, count - np.arange(count)).clip(1, 300) / 300
        share[0 if start == 0 else count :] = 1
        out[rows] += share * part
        total[rows] += share
    return out / total


def _solve(
    observed: Array,
    times: Array,
    confidence: Array,
    stances: Sequence[tuple[int, int, Array]],
    floor: tuple[Array | None, Array | None, Array | None],
    cutoff: Array,
) -> Array:
    step = float(np.median(np.diff(times)))
    weight: Array = np.clip(confidence, 0.05, 1.0)
    right: Array = weight * observed
    height, slope, bears = floor
    if height is not None and slope is not None and bears is not None:
        more = FLOOR_WEIGHT * bears * slope**2 / (1 + (height / FLOOR_DOUBT) ** 2) ** 2  # a wrong contact is far off
        wanted = observed[:, None] - height / np.where(np.abs(slope) > 0.02, slope, np.inf)
        weight = weight + more.sum(1)
        right = right + (more * wanted).sum(1)
    ones = np.zeros((len(observed), len(stances)))
    for k, (first, end, offset) in enumerate(stances):
        weight[first:end] += STANCE_WEIGHT
        right[first:end] -= STANCE_WEIGHT * (offset - offset.mean())
        ones[first:end, k] = np.sqrt(STANCE_WEIGHT / (end - first))
    band = penalty(times, cutoff[:, None])
    band[0, :, 0] += weight * step
    solved = solve_banded(band, np.concatenate([right[:, None], ones], 1)[:, None] * step)[:, 0]  # (F, 1 + S)
    base, spread = solved[:, 0], solved[:, 1:]
    # (B - step V V^T)^-1 b, with V the stances' means taken out again.
    small = np.eye(len(stances)) - ones.T @ spread
    out: Array = base + spread @ np.linalg.solve(small, ones.T @ base)
    return out


def _still(bears: Array | None, times: Array) -> Array:
    """Where somebody stands (F,): on both feet for STILL_SECONDS before and after."""
    if bears is None:
        return np.zeros(len(times), bool)
    half = bears.shape[1] // 2
    on = bears[:, :half].any(1) & bears[:, half:].any(1)
    reach = max(1, round(STILL_SECONDS / float(np.median(np.diff(times)))))
    padded = np.pad(on, reach, mode="edge")
    around = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1)
    out: Array = around.mean(1) > 0.9
    return out


# -- a camera that moves -------------------------------------------------------------------------------------------

FEATURES, LEAST_FEATURES = 400, 24
LARGEST_SIDE = 960
"""Pixels to which pictures are made smaller before features are followed."""
TRIES = 48
"""Threes of features that are asked for the turn."""
INLIER = 2.0
"""Pixels by which a feature may miss the camera's turn."""
MARGIN = 0.08
"""Share of a person's box by which it is widened: shadows and hair move with people."""
STILL = np.radians(0.15)
"""A camera that turned less than this over the whole clip stood."""


class Turning:
    """How a camera turns, frame by frame, from the background: features outside of the people, followed by optical
    flow, and the one rotation that most of them agree with (RANSAC, then least squares).

    rotations: camera frame of each picture so far -> that of the first (F, 3, 3). agreed: share of features, per
    picture, that agree with a turn without a shift; lost: pictures in which there was nothing to follow.
    """

    def __init__(self, camera: Camera) -> None:
        self.camera = camera
        self.rotations: list[Array] = []
        self.agreed: list[float] = []
        self.lost = 0
        self._last: Array | None = None
        self._points = np.zeros((0, 2), np.float32)
        self._random = np.random.default_rng(0)

    def step(self, image: Array, boxes: Array) -> None:
        """The next picture (H, W, 3) uint8, and the people's boxes (n, 4) x, y, w, h in it."""
        import cv2

        grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
        scale = min(1.0, LARGEST_SIDE / max(grey.shape))
        if scale < 1:
            grey = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        mask = _outside(grey.shape, np.asarray(boxes, np.float64).reshape(-1, 4) * scale)
        turn, agreed = np.eye(3), 0.0
        if self._last is not None and len(self._points) >= LEAST_FEATURES:
            a, b = _follow(self._last, grey, self._points, mask)
            turn, agreed = self._turn(a / scale, b / scale)
        if self._last is not None:
            self.agreed.append(agreed)
            self.lost += agreed == 0.0
        self.rotations.append(turn if not self.rotations else self.rotations[-1] @ turn)
        found = cv2.goodFeaturesToTrack(grey, FEATURES, 0.01, 8, mask=mask)
        self._points = np.zeros((0, 2), np.float32) if found is None else found.reshape(-1, 2)
        self._last = grey

    def _turn(self, a: Array, b: Array) -> tuple[Array, float]:
        """Rotation (3, 3) from the later camera frame to the earlier one, from pixels a (n, 2) that went to b (n, 2);
        the share that agrees, 0 where none was found.
        """
        if len(a) < LEAST_FEATURES:
            return np.eye(3), 0.0
        before, after = self._rays(a), self._rays(b)
        picks = self._random.integers(0, len(a), (TRIES, 3))
        turns = _kabsch(after[picks], before[picks])
        inside = np.stack([self._misses(turn, after, a) < INLIER for turn in turns])
        best = inside[inside.sum(1).argmax()]
        if best.sum() < max(LEAST_FEATURES // 2, 0.25 * len(a)):
            return np.eye(3), 0.0
        for _ in range(3):
            turn = _kabsch(after[best], before[best])
            best = self._misses(turn, after, a) < INLIER
            if best.sum() < 3:
                return np.eye(3), 0.0
        return turn, float(best.mean())

    def _rays(self, pixels: Array) -> Array:
        rays = self.camera.unproject(pixels, np.ones(len(pixels)))
        out: Array = rays / np.linalg.norm(rays, axis=1, keepdims=True)
        return out

    def _misses(self, turn: Array, after: Array, a: Array) -> Array:
        seen = after @ turn.T
        return np.linalg.norm(self.camera.project(seen) - a, axis=1) + 1e6 * (seen[:, 2] < 0.05)

    def result(self) -> tuple[Array, tuple[str, ...]]:
        """rotations (F, 3, 3) and what the user should know."""
        turns = np.array(self.rotations).reshape(-1, 3, 3)
        if len(turns) < 2:
            return turns, ()
        away = np.arccos(np.clip((np.trace(turns, axis1=1, axis2=2) - 1) / 2, -1, 1))
        agreed = float(np.median(self.agreed))
        lost = f"{self.lost} of {len(turns)} frames have no background to follow: the camera is taken to stand there"
        if self.lost > len(turns) // 2:
            text = "the camera's turning was not found: too little of the background can be followed"
            return np.repeat(np.eye(3)[None], len(turns), 0), (text,)
        if away.max() < STILL:
            return np.repeat(np.eye(3)[None], len(turns), 0), ("moving camera: the background shows that it stood",)
        text = f"moving camera: its turning, up to {np.degrees(away.max()):.0f} degrees, was taken out"
        notes = [text + f" ({agreed:.0%} of the background agree)"]
        if self.lost:
            notes.append(lost)
        if agreed < 0.6:
            notes.append("the camera also travels, which is not taken out: people may drift with it")
        return turns, tuple(notes)


def _outside(shape: tuple[int, ...], boxes: Array) -> Array:
    """Mask (H, W) uint8, 255 outside of boxes (n, 4)."""
    mask = np.full(shape, 255, np.uint8)
    for x, y, w, h in boxes:
        grow = MARGIN * max(w, h)
        x0, y0 = (int(max(0, v - grow)) for v in (x, y))
        mask[y0 : int(max(0, y + h + grow)), x0 : int(max(0, x + w + grow))] = 0
    return mask


def _follow(last: Array, grey: Array, points: Array, mask: Array) -> tuple[Array, Array]:
    """Where points (n, 2) of the last picture are now; only those that lead back to where they came from."""
    import cv2

    there, ok, _ = cv2.calcOpticalFlowPyrLK(last, grey, points, None, winSize=(15, 15), maxLevel=4)
    back, ok_back, _ = cv2.calcOpticalFlowPyrLK(grey, last, there, None, winSize=(15, 15), maxLevel=4)
    good = (ok.ravel() > 0) & (ok_back.ravel() > 0) & (np.linalg.norm(back - points, axis=1) < 0.7)
    at = np.clip(there.astype(int), 0, np.array(grey.shape[::-1]) - 1)
    good &= mask[at[:, 1], at[:, 0]] > 0
    # Pixel centres lie at +0.5; OpenCV counts from the first pixel's centre.
    return points[good].astype(np.float64) + 0.5, there[good].astype(np.float64) + 0.5


def _kabsch(a: Array, b: Array) -> Array:
    """Rotations (..., 3, 3) that turn a (..., n, 3) onto b (..., n, 3) best."""
    u, _, vt = np.linalg.svd(b.swapaxes(-1, -2) @ a)
    u[..., 2] *= np.sign(np.linalg.det(u @ vt))[..., None]
    out: Array = u @ vt
    return out
