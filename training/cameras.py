# SPDX-License-Identifier: Apache-2.0
"""Cameras of the synthetic pictures: where a person is seen from, and how much of it the picture's border cuts off.

Body axes: x the body's left, y up, z front, metres (the body's own, and the world's: the pose holds the tilt).
Camera axes: x right, y down, z away, metres. Picture: px, centre of pixel i at i + 0.5, y down.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from training.synth_body import rotation

TO_CAMERA = np.diag([1.0, -1.0, -1.0])
HIPS, TOP = slice(35, 37), 46  # rows of the 48 keypoints
# Share of the body's height, from the top, that a picture keeps: a face with shoulders, a bust, to the hips, the knees.
PORTRAITS = ((0.24, 0.2), (0.38, 0.3), (0.55, 0.3), (0.75, 0.2))


@dataclass
class View:
    """Camera of one picture: turn (3, 3) from the body's axes, offset (3,) m, focal and centre in picture px."""

    turn: np.ndarray
    offset: np.ndarray
    focal: float = 1.0
    centre: np.ndarray = field(default_factory=lambda: np.zeros(2))
    roll: float = 0.0

    def camera(self, points: np.ndarray) -> np.ndarray:
        """Body axes (n, 3) m -> camera axes (x right, y down, z away), m."""
        return points @ self.turn.T.astype(points.dtype) + self.offset.astype(points.dtype)

    def pixels(self, camera: np.ndarray) -> np.ndarray:
        """Camera points (n, 3) -> picture pixels (n, 2)."""
        return camera[:, :2] / camera[:, 2:] * self.focal + self.centre


def turned(rng: np.random.Generator, heading: float | None) -> tuple[np.ndarray, float]:
    """Rotation (3, 3) from the world to the camera and its roll in degrees.

    Photographers hold the camera nearly level: that people hang upside down is the pose's business, so that
    background and light stay upright with them. heading: degrees that the pose would like to be seen from, or None.
    """
    kind = rng.random()
    roll = rng.normal(0, 5) if kind < 0.78 else rng.normal(0, 25) if kind < 0.92 else rng.uniform(-180, 180)
    tilt = np.clip(rng.normal(4, 11), -35, 45) if rng.random() < 0.8 else rng.uniform(-45, 75)
    heading = rng.uniform(-180, 180) if heading is None else heading + rng.normal(0, 20)
    about_z, about_x = rotation(np.radians([0, 0, roll])), rotation(np.radians([-tilt, 0, 0]))
    return about_z @ about_x @ TO_CAMERA @ rotation(np.radians([0, heading, 0])), float(roll)


def random_view(
    rng: np.random.Generator, points: np.ndarray, keys: np.ndarray, rest: np.ndarray, size: int, heading: float | None
) -> tuple[View, bool]:
    """A camera around the posed low-poly ``points`` (v, 3) with ``keys`` (48, 3); ``rest`` (v, 3) the same at rest.

    Returns (view, True if the border was made to cut the person off). 62 % whole, 28 % portraits and selfies, 10 %
    anywhere on the body.
    """
    turn, roll = turned(rng, heading)
    kind = rng.random()
    portrait, anywhere = kind < 0.28, kind > 0.9
    far = (0.7, 4.0) if portrait else (1.4, 12.0)
    distance = float(np.exp(rng.uniform(*np.log(far))))
    kept = points
    middle = keys[HIPS].mean(0)
    if portrait:
        share = rng.choice([p[0] for p in PORTRAITS], p=[p[1] for p in PORTRAITS]) * rng.uniform(0.85, 1.15)
        height = rest[:, 1]
        top, ground = height.max(), height.min()
        span = share * (top - ground)
        wanted = height > top - span if rng.random() < 0.9 else height < ground + span
        kept = points[wanted]
        middle = kept.mean(0)
    offset = -turn @ middle + [distance * rng.normal(0, 0.12), distance * rng.normal(0, 0.08), distance]
    view = View(turn, offset, roll=float(np.radians(roll)))
    nearest = 0.3 if portrait else 0.45
    close = view.camera(points)[:, 2].min()
    if close < nearest:
        view.offset = view.offset + [0, 0, nearest - close]
    flat = view.pixels(view.camera(kept))
    low, high = flat.min(0), flat.max(0)
    wide = rng.uniform(1.0, 1.9) if anywhere else rng.uniform(0.7, 1.15) if portrait else rng.uniform(0.52, 0.92)
    view.focal = float(size * wide / (high - low).max())
    at = view.pixels(view.camera(keys))[rng.integers(33, 47)] if anywhere else view.focal * (low + high) / 2
    jitter = 0.15 if anywhere else 0.12 if portrait else max(0.0, 0.5 - wide / 2 - 0.02)
    view.centre = size / 2 - at + rng.uniform(-jitter, jitter, 2) * size * 0.9
    if portrait:  # what is cut off touches the border: no empty room below a bust
        axis = int(np.argmax(high - low))
        view.centre[axis] += size * (0.5 - wide / 2) * (1 if rng.random() < 0.8 else 0) if wide < 1 else 0.0
    return view, portrait or anywhere
