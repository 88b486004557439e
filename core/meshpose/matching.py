# SPDX-License-Identifier: Apache-2.0
"""How much two sightings are one person: by place, by keypoints, by looks; and the best assignment of many to many."""

from __future__ import annotations

import cv2
import numpy as np

SHOULDERS, HIPS, KNEES = (5, 6), (11, 12), (13, 14)
"""Rows of COCO's 17 keypoints."""

LAB_BINS = (5, 8, 8)
LEAST_PIXELS = 24
MOST_PIXELS = 1500
KEYPOINT_SPREAD = 0.1
"""Distance, in units of the longer box side, at which two keypoints are 0.6 alike."""


def box_overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two boxes (x, y, w, h)."""
    inner = _intersection(a, b)
    return float(inner / max(a[2] * a[3] + b[2] * b[3] - inner, 1e-9))


def box_inside(a: np.ndarray, b: np.ndarray) -> float:
    """Share of box a that lies in box b (x, y, w, h)."""
    return float(_intersection(a, b) / max(a[2] * a[3], 1e-9))


def _intersection(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.prod(np.clip(np.minimum(a[:2] + a[2:4], b[:2] + b[2:4]) - np.maximum(a[:2], b[:2]), 0, None)))


def keypoint_likeness(a: np.ndarray, b: np.ndarray, size: float, weights: np.ndarray | None = None) -> float:
    """0..1, the mean likeness (COCO's OKS with one spread) of keypoints a, b (K, 2) of a person of `size` pixels.

    weights (K,): how much each counts; nothing is known (0) where all are 0.
    """
    alike = np.exp(-np.sum((a - b) ** 2, -1) / (2 * (KEYPOINT_SPREAD * max(size, 1.0)) ** 2))
    if weights is None:
        return float(alike.mean())
    total = float(weights.sum())
    return float((alike * weights).sum() / total) if total > 0 else 0.0


def look_of(image: np.ndarray, keypoints: np.ndarray) -> np.ndarray | None:
    """Colours of a person's clothes: two histograms (2, bins) float64, upper body and thighs, each of sum 1.

    image (h, w, 3) uint8 BGR; keypoints (17, 2) picture pixels.  Bins lie in CIELAB and share each pixel between
    neighbours, so that a little more light changes little.  None where the upper body is out of the picture or too
    small; thighs out of sight repeat the upper body's colours.
    """
    upper = _histogram(image, keypoints[[*SHOULDERS, *HIPS[::-1]]])
    if upper is None:
        return None
    lower = _histogram(image, keypoints[[*HIPS, *KNEES[::-1]]])
    return np.stack([upper, upper if lower is None else lower])


def look_likeness(a: np.ndarray, b: np.ndarray) -> float:
    """0..1, the Bhattacharyya coefficient of two looks, the upper body counting double."""
    return float(np.sqrt(a * b).sum(-1) @ np.array([2, 1]) / 3)


def _histogram(image: np.ndarray, corners: np.ndarray) -> np.ndarray | None:
    """Colour histogram of a quadrilateral (4, 2) of the picture; None where fewer than LEAST_PIXELS of it are seen."""
    h, w = image.shape[:2]
    # a body seen from the side has hips and shoulders in one line: it is given a width
    middle = corners.mean(0)
    length = float(np.linalg.norm(corners[:2].mean(0) - corners[2:].mean(0)))
    hull = cv2.convexHull(corners.astype(np.float32)).reshape(-1, 2)
    low = np.floor(np.clip(corners.min(0) - 0.2 * length, -1e6, 1e6)).astype(int)
    high = np.ceil(np.clip(corners.max(0) + 0.2 * length, -1e6, 1e6)).astype(int)
    (x0, y0), (x1, y1) = np.clip(low, 0, (w, h)), np.clip(high, 0, (w, h))
    if x1 - x0 < 2 or y1 - y0 < 2 or length < 3 or not np.isfinite(middle).all():
        return None
    mask = np.zeros((y1 - y0, x1 - x0), np.uint8)
    points = np.round(hull - (x0, y0)).astype(np.int32)
    cv2.fillConvexPoly(mask, points, 1)
    cv2.polylines(mask, [points], True, 1, max(1, round(0.2 * length)))
    pixels = image[y0:y1, x0:x1][mask > 0]
    if len(pixels) < LEAST_PIXELS:
        return None
    pixels = pixels[:: 1 + len(pixels) // MOST_PIXELS]
    lab = cv2.cvtColor(pixels[None], cv2.COLOR_BGR2LAB)[0].astype(np.float64)
    place = np.stack([lab[:, 0] / 255, (lab[:, 1] - 128) / 110 + 0.5, (lab[:, 2] - 128) / 110 + 0.5], 1)
    place = np.clip(place, 0, 1) * (np.array(LAB_BINS) - 1)
    return _shared_bins(place)


def _shared_bins(place: np.ndarray) -> np.ndarray:
    """Histogram, sum 1, of points (n, 3) in bin units; each is shared linearly between its eight neighbours."""
    base = np.minimum(place.astype(int), np.array(LAB_BINS) - 2)
    part = place - base
    out = np.zeros(int(np.prod(LAB_BINS)))
    for corner in np.ndindex(2, 2, 2):
        weight = np.prod(np.where(corner, part, 1 - part), 1)
        index = np.ravel_multi_index(tuple((base + corner).T), LAB_BINS)
        out += np.bincount(index, weight, len(out))
    return out / len(place)


def assign(gain: np.ndarray) -> list[tuple[int, int]]:
    """Pairs (row, column) of the largest summed gain, each row and column once at most; only pairs of positive gain.

    The Hungarian method in its shortest-path form, O(n^3).
    """
    if gain.size == 0:
        return []
    n = max(gain.shape)
    cost = np.zeros((n + 1, n + 1))
    cost[1 : gain.shape[0] + 1, 1 : gain.shape[1] + 1] = -np.maximum(gain, 0)
    row_price, column_price = np.zeros(n + 1), np.zeros(n + 1)
    row_of = np.zeros(n + 1, int)
    for row in range(1, n + 1):
        row_of[0] = row
        column, best = 0, np.full(n + 1, np.inf)
        came_from, used = np.zeros(n + 1, int), np.zeros(n + 1, bool)
        while row_of[column]:
            used[column] = True
            here = row_of[column]
            slack = cost[here] - row_price[here] - column_price
            better = ~used & (slack < best)
            best[better], came_from[better] = slack[better], column
            free = np.where(used, np.inf, best)
            free[0] = np.inf
            after = int(free.argmin())
            step = free[after]
            row_price[row_of[used]] += step
            column_price[used] -= step
            best[~used] -= step
            column = after
        while column:
            row_of[column] = row_of[came_from[column]]
            column = came_from[column]
    pairs = [(int(row_of[c]) - 1, c - 1) for c in range(1, n + 1)]
    return sorted((r, c) for r, c in pairs if r < gain.shape[0] and c < gain.shape[1] and gain[r, c] > 0)
