# SPDX-License-Identifier: Apache-2.0
"""What stands around a synthetic person: background, others behind and before, things in front, the camera's faults."""

from __future__ import annotations

import cv2
import numpy as np

from training import looks
from training.cameras import View
from training.looks import Places
from training.photographs import Cutout, Photographs, over
from training.synth_body import rotation


class Stage:
    """Puts people into pictures. size: side of the picture, px; photographs: real places and people, or None."""

    def __init__(self, places: Places, photographs: Photographs | None, size: int) -> None:
        self.places, self.photographs, self.size = places, photographs, size
        self.people: list[Cutout] = []  # earlier rendered persons, to stand beside later ones

    def __call__(
        self, rng: np.random.Generator, person: Cutout, view: View, xy: np.ndarray, panorama: int, heading: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """The finished picture (size, size, 3) uint8 and the coverage (size, size) 0..1 of what hides the person.

        xy (v, 2): the person's low-poly vertices, px. panorama, heading (radians): the place whose light fell on it.
        """
        colour, coverage = person
        picture = self._background(rng, view, xy, panorama, heading).astype(np.float32)
        for _ in range(int(rng.choice([0, 1, 2, 4], p=[0.5, 0.26, 0.14, 0.1]))):
            picture = over(picture, self._somebody(rng, xy, 0.35, 1.1, 0.35, 1.2))
        picture = over(picture, (colour, coverage))
        front = np.zeros((self.size, self.size), np.float32)
        kind = rng.random()
        if kind < 0.1:
            other = self._somebody(rng, xy, 0.75, 1.35, 0.55, 0.95)
            picture, front = over(picture, other), other[1]
        elif kind < 0.26:
            for _ in range(int(rng.integers(1, 4))):
                shape = self._thing(rng, xy)
                picture = looks.paint(rng, picture, shape, self.places)
                front = np.maximum(front, shape.astype(np.float32) / 255)
        self._remember(rng, colour, coverage)
        return camera_faults(rng, picture), front

    def _background(
        self, rng: np.random.Generator, view: View, xy: np.ndarray, panorama: int, heading: float
    ) -> np.ndarray:
        kind = rng.random()
        if self.photographs is not None and kind < 0.5:
            inside = xy[((xy > 0) & (xy < self.size)).all(1)]
            at = inside.mean(0) if len(inside) else np.full(2, self.size / 2)
            span = min(float(np.ptp(xy, 0).max()), self.size * 1.0)
            return self.photographs.background(rng, at, span, view.roll, self.size)
        if kind < 0.92:
            place = view.turn @ rotation(np.array([0, heading, 0]))
            return self.places.view(rng, place, self.size, panorama)
        return looks.clutter(rng, looks.texture_background(rng, self.size), int(rng.integers(0, 10)), self.places)

    def _somebody(
        self, rng: np.random.Generator, xy: np.ndarray, small: float, tall: float, near: float, far: float
    ) -> Cutout:
        """Somebody else, small..tall times as large as the person, near..far half widths (of both) beside it."""
        real = self.photographs.people if self.photographs is not None else []
        pool = real if real and (rng.random() < 0.4 or not self.people) else self.people
        if not pool:
            return np.zeros((self.size, self.size, 3), np.float32), np.zeros((self.size, self.size), np.float32)
        colour, coverage = pool[rng.integers(len(pool))]
        h, w = coverage.shape
        span = float(np.ptp(xy, 0).max())
        zoom = float(np.clip(span * rng.uniform(small, tall) / max(h, w), 0.1, 2.5))
        beside = (np.ptp(xy[:, 0]) + w * zoom) / 2 * rng.uniform(near, far) * rng.choice([-1, 1])
        middle = xy.mean(0) + [beside, rng.normal(0, 0.1) * span]
        flip = rng.choice([-1.0, 1.0])
        move = middle - zoom * np.array([flip * w / 2, h / 2])
        matrix = np.array([[zoom * flip, 0, move[0]], [0, zoom, move[1]]], np.float32)
        mode = cv2.INTER_AREA if zoom < 0.7 else cv2.INTER_LINEAR
        size = (self.size, self.size)
        gain = np.float32(rng.uniform(0.7, 1.15))
        colour, coverage = (cv2.warpAffine(x, matrix, size, flags=mode) for x in (colour, coverage))
        return colour * gain, coverage

    def _thing(self, rng: np.random.Generator, xy: np.ndarray) -> np.ndarray:
        """Mask (size, size) uint8 of something in front: a shape on the body, or a wall that hides one of its ends."""
        span = float(np.ptp(xy, 0).max())
        if rng.random() < 0.3:
            angle = rng.uniform(0, 2 * np.pi) if rng.random() < 0.4 else np.pi / 2 + rng.normal(0, 0.1)
            along = np.array([np.cos(angle), np.sin(angle)])
            reach = np.quantile(xy @ along, rng.uniform(0.5, 0.9))
            x, y = np.meshgrid(np.arange(self.size) + 0.5, np.arange(self.size) + 0.5)
            return ((x * along[0] + y * along[1] > reach) * 255).astype(np.uint8)
        at = xy[rng.integers(len(xy))] + rng.normal(0, 0.08, 2) * span
        return looks.polygon(rng, self.size, at, span * rng.uniform(0.12, 0.4))

    def _remember(self, rng: np.random.Generator, colour: np.ndarray, coverage: np.ndarray) -> None:
        """Keep a whole person (not cut by the border) for later pictures."""
        y, x = np.nonzero(coverage > 0.2)
        if len(x) < 800 or min(x.min(), y.min()) < 2 or max(x.max(), y.max()) > self.size - 3:
            return
        box = np.s_[y.min() - 1 : y.max() + 2, x.min() - 1 : x.max() + 2]
        self.people = [*self.people[-60:], (colour[box].copy(), coverage[box].copy())]


def camera_faults(rng: np.random.Generator, picture: np.ndarray) -> np.ndarray:
    """Blur, low resolution, motion, tone curve, colour cast, grain, bad JPEG: (n, n, 3) float32 -> uint8."""
    n = picture.shape[0]
    picture = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.3, 1.0))
    if rng.random() < 0.15:
        k = int(n / rng.uniform(1.3, 3))
        small = cv2.resize(picture, (k, k), interpolation=cv2.INTER_AREA)
        picture = cv2.resize(small, (n, n), interpolation=cv2.INTER_CUBIC)
    if rng.random() < 0.05:
        picture = cv2.filter2D(picture, -1, streak(rng.uniform(0, np.pi), rng.uniform(3, 9)))
    picture = 255 * np.clip(picture / 255, 0, 1) ** rng.uniform(0.75, 1.25)
    if rng.random() < 0.06:
        picture = np.repeat(picture.mean(-1, keepdims=True), 3, -1)
    sigma, channels = rng.uniform(0.5, 6), 1 if rng.random() < 0.5 else 3
    picture = picture + rng.normal(0, sigma, (n, n, channels)).astype(np.float32)
    out = np.clip(picture, 0, 255).astype(np.uint8)
    if rng.random() < 0.12:
        file = cv2.imencode(".jpg", out, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(18, 60))])[1]
        out = cv2.imdecode(file, cv2.IMREAD_COLOR)
    return out


def streak(angle: float, length: float) -> np.ndarray:
    """Motion blur kernel (11, 11): a line of that length (px) and angle (radians)."""
    kernel = np.zeros((11, 11), np.float32)
    step = np.array([np.cos(angle), np.sin(angle)]) * length / 2
    a, b = np.round([5 - step, 5 + step]).astype(int).tolist()
    cv2.line(kernel, a, b, 1.0, 1)
    return kernel / kernel.sum()
