# SPDX-License-Identifier: Apache-2.0
"""The square, rotated window of a picture that the network sees: affine maps between picture and crop, nothing else.

    crop = Crop.from_box((x, y, w, h))
    pixels = crop.warp(image)                  # (256, 256, 3)
    there = crop.to_crop(points)               # picture pixels -> crop pixels; to_picture() goes back

Both sides use pixel centres at +0.5: the point (0.5, 0.5) is the middle of the first pixel.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

CROP = 256
"""Side of a crop in crop pixels."""

BOX_SCALE = 1.25
BODY_SCALE = 2.5
"""Side of a crop in units of the person's radius (the 99 % radius around the mid-hips)."""


@dataclass(frozen=True)
class Crop:
    """A square of the picture: centre and side in picture pixels, angle in radians (0 upright, clockwise positive)."""

    cx: float
    cy: float
    side: float
    angle: float = 0.0

    def as_array(self) -> np.ndarray:
        """(4,) float64: cx, cy, side, angle."""
        return np.array([self.cx, self.cy, self.side, self.angle], np.float64)

    @staticmethod
    def from_array(values: np.ndarray) -> Crop:
        """The crop of `as_array`."""
        return Crop(*(float(v) for v in values))

    @staticmethod
    def from_box(box: tuple[float, float, float, float], scale: float = BOX_SCALE, angle: float = 0.0) -> Crop:
        """Square around a box (x, y, w, h), `scale` times its longer side."""
        x, y, w, h = (float(v) for v in box)
        return Crop(x + w / 2, y + h / 2, scale * max(w, h, 1.0), angle)

    @staticmethod
    def from_body(points: np.ndarray, weights: np.ndarray, hips: np.ndarray, up: np.ndarray) -> Crop:
        """Square around a body, turned so that hips -> neck points up.

        points (n, 2) picture px, weights (n,) 0..1 (points of weight under 0.5 do not count where enough others are
        there), hips (2,) mid-hips, up (2,) the neck.  Where the hips are out of sight the visible points' middle
        takes the hips' place, so that a close-up stays centred on what is seen.
        """
        points, hips = np.asarray(points, np.float64)[:, :2], np.asarray(hips, np.float64)[:2]
        seen = np.asarray(weights) >= 0.5
        if seen.sum() >= 0.1 * len(points):
            points = points[seen]
        low, high = np.percentile(points, [1, 99], axis=0)
        centre = (
            hips if np.all(hips >= low - 0.05 * (high - low)) and np.all(hips <= high + 0.05 * (high - low)) else None
        )
        if centre is None:
            centre = (low + high) / 2
        radius = float(np.percentile(np.linalg.norm(points - centre, axis=1), 99))
        direction = np.asarray(up, np.float64)[:2] - hips
        return Crop(
            float(centre[0]),
            float(centre[1]),
            max(BODY_SCALE * radius, 8.0),
            float(np.arctan2(direction[0], -direction[1])),
        )

    def _axes(self) -> np.ndarray:
        c, s = np.cos(self.angle), np.sin(self.angle)
        return np.array([[c, -s], [s, c]]) * (self.side / CROP)

    def to_picture(self, points: np.ndarray) -> np.ndarray:
        """Crop pixels (..., 2 or 3) -> picture pixels; a third column (depth) is scaled alike."""
        points = np.asarray(points)
        xy = (points[..., :2] - CROP / 2) @ self._axes().T + (self.cx, self.cy)
        return self._with_depth(xy, points, self.side / CROP)

    def to_crop(self, points: np.ndarray) -> np.ndarray:
        """Picture pixels (..., 2 or 3) -> crop pixels; a third column (depth) is scaled alike."""
        points = np.asarray(points)
        xy = (points[..., :2] - (self.cx, self.cy)) @ np.linalg.inv(self._axes()).T + CROP / 2
        return self._with_depth(xy, points, CROP / self.side)

    @staticmethod
    def _with_depth(xy: np.ndarray, points: np.ndarray, scale: float) -> np.ndarray:
        out = np.concatenate([xy, points[..., 2:] * scale], -1)
        return out.astype(points.dtype if points.dtype.kind == "f" else np.float64)

    def matrix(self, size: int = CROP) -> np.ndarray:
        """(2, 3) affine map from crop pixel INDICES (of a `size` x `size` crop) to the picture's, as OpenCV counts."""
        axes = self._axes() * (CROP / size)
        shift = np.array([self.cx, self.cy]) - axes @ np.full(2, size / 2 - 0.5) - 0.5
        return np.concatenate([axes, shift[:, None]], 1)

    def warp(self, image: np.ndarray, size: int = CROP) -> np.ndarray:
        """The crop of a picture, (size, size, 3) uint8; outside of the picture the border is repeated.

        A picture much larger than the crop is reduced by area averaging first: a bare warp would alias, and the
        network never saw aliased pictures.
        """
        matrix, shrink = self.matrix(size), int(self.side / size)
        if shrink >= 2:
            image, matrix = self._reduced(image, shrink, size)
        return cv2.warpAffine(
            image, matrix, (size, size), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REPLICATE
        )

    def _reduced(self, image: np.ndarray, shrink: int, size: int) -> tuple[np.ndarray, np.ndarray]:
        """The part of the picture under the crop, `shrink` times smaller, and the matrix that fits it."""
        corners = self.corners()
        h, w = image.shape[:2]
        x0, y0 = np.clip(np.floor(corners.min(0)).astype(int) - shrink, 0, [w - 1, h - 1])
        x1, y1 = np.clip(np.ceil(corners.max(0)).astype(int) + shrink, [x0 + 1, y0 + 1], [w, h])
        part = image[y0:y1, x0:x1]
        small = cv2.resize(
            part, (max(1, part.shape[1] // shrink), max(1, part.shape[0] // shrink)), interpolation=cv2.INTER_AREA
        )
        scale = np.array([small.shape[1] / part.shape[1], small.shape[0] / part.shape[0]])
        matrix = self.matrix(size)
        matrix[:, 2] = (matrix[:, 2] + 0.5 - (x0, y0)) * scale - 0.5
        matrix[:, :2] *= scale[:, None]
        return small, matrix

    def corners(self) -> np.ndarray:
        """(4, 2) the square's corners in picture pixels, clockwise from the crop's top left."""
        return self.to_picture(np.array([[0.0, 0], [CROP, 0], [CROP, CROP], [0, CROP]]))
