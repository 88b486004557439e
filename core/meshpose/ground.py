# SPDX-License-Identifier: Apache-2.0
"""The floor, from where feet stood: its height under the camera, and the camera's tilt and roll.

    floor = find_floor(places, weights, upright)        # places (n, 3) where feet stood, camera frame
    rotation, lift = floor.rotation, floor.height       # p_world = rotation p_camera + (0, 0, lift)

The plane is y = a x + b z + c after the camera's frame was turned by what the people's own uprightness says. Least
squares with Cauchy's weights over one place for each stance, so that somebody who stands for long does not outvote
somebody who walks; a and b are held by how sure the start is, so that people who stay on one spot give the floor's
height, and its tilt only as far as they show it.

Frame of reference: the camera (x right, y down, z forward), metres.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

LEVEL = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]])
"""Camera frame (x right, y down, z forward) -> world axes, for a camera that looks straight ahead."""
UP = np.array([0.0, -1.0, 0.0])
"""Up, for such a camera."""
PLACE_SIGMA = 0.04
"""Metres by which a place may lie off the floor, before depth: PLACE_SHARE of the distance more."""
PLACE_SHARE = 0.008
TILT_SIGMA, ROLL_SIGMA = np.radians(15.0), np.radians(2.0)
"""How far cameras are tilted and rolled where nothing is known but that they are held more or less straight."""
UPRIGHT_SIGMA = np.radians(6.0), np.radians(4.0)
"""The same about the direction in which people stand upright: a network leans them to the camera or from it."""
FOUND = 3
"""Stances that it takes to speak of a floor."""


@dataclass(frozen=True, eq=False)
class Floor:
    """normal (3,) unit, up, camera frame; height: of the camera over the floor, metres; found: from feet; spread: how
    far the places lie apart along the floor, metres (standard deviation along the widest direction); residual: typical
    distance of the places from it, metres.
    """

    normal: Array
    height: float
    found: bool
    spread: float = 0.0
    residual: float = 0.0

    @property
    def rotation(self) -> Array:
        """Camera frame -> world axes (3, 3): z up along the normal, the camera's sight along +y."""
        sight = np.array([0.0, 0.0, 1.0]) if abs(self.normal[2]) < 0.999 else np.array([0.0, -1.0, 0.0])
        ahead: Array = sight - (sight @ self.normal) * self.normal
        ahead = ahead / np.linalg.norm(ahead)
        return np.stack([np.cross(ahead, self.normal), ahead, self.normal])

    @property
    def tilt(self) -> float:
        """Degrees that the camera looks down."""
        return float(np.degrees(np.arcsin(np.clip(-self.normal[2], -1, 1))))

    @property
    def roll(self) -> float:
        """Degrees that the camera is turned about its line of sight, clockwise as it is held."""
        return float(np.degrees(np.arctan2(-self.normal[0], -self.normal[1])))


def find_floor(
    places: Array, weights: Array, upright: Array | None = None, level: bool = True, fallback: float = 1.5
) -> Floor:
    """The floor under places (n, 3) where feet stood, with weights (n,).

    upright (3,): the way in which people stand, on average, camera frame (None: nobody stands); level: find tilt and
    roll, too (else the camera is taken to look straight ahead); fallback: its height where no foot was seen.
    """
    hint, (tilt, roll) = (UP, (TILT_SIGMA, ROLL_SIGMA))
    if upright is not None and level:
        hint, tilt, roll = _start(upright)
    turn = _turn_onto(hint, UP)
    if not len(places):
        return Floor(hint if level else UP, fallback, False)
    x, y, z = (np.asarray(places, np.float64) @ turn.T).T
    sigma = PLACE_SIGMA + PLACE_SHARE * np.linalg.norm(places, axis=1)
    rows = np.stack([x, z, np.ones_like(x)], 1)
    held = np.diag([roll**-2, tilt**-2, 1e-6]) if level else np.diag([1e12, 1e12, 1e-6])
    robust, plane = np.ones(len(x)), np.zeros(3)
    for _ in range(12):
        w = weights * robust / sigma**2
        plane = np.linalg.solve((rows * w[:, None]).T @ rows + held, (rows * w[:, None]).T @ y)
        residual = y - rows @ plane
        robust = 1 / (1 + (residual / (2 * sigma)) ** 2)
    normal = np.array([plane[0], -1.0, plane[1]])
    length = float(np.linalg.norm(normal))
    flat = np.stack([x - np.average(x, weights=weights), z - np.average(z, weights=weights)])
    spread = float(np.sqrt(np.linalg.eigvalsh(np.cov(flat, aweights=weights, ddof=0)).max())) if len(x) > 1 else 0.0
    typical = float(np.median(np.abs(residual)))
    return Floor(turn.T @ normal / length, float(plane[2]) / length, len(x) >= FOUND, spread, typical)


def _start(upright: Array) -> tuple[Array, float, float]:
    """Up from both what cameras are held like and how people stand; and how sure that is about x and z."""
    upright = np.asarray(upright, np.float64) / np.linalg.norm(upright)
    towards, aside = np.arcsin(np.clip(upright[2], -1, 1)), np.arctan2(upright[0], -upright[1])
    out, sigmas = [], []
    for value, prior, own in ((aside, ROLL_SIGMA, UPRIGHT_SIGMA[1]), (towards, TILT_SIGMA, UPRIGHT_SIGMA[0])):
        share = prior**2 / (prior**2 + own**2)
        out.append(share * value)
        sigmas.append(np.sqrt(share) * own)
    a, b = out
    return np.array([np.sin(a) * np.cos(b), -np.cos(a) * np.cos(b), np.sin(b)]), sigmas[1], sigmas[0]


def _turn_onto(a: Array, b: Array) -> Array:
    """Smallest rotation (3, 3) from unit vector a to unit vector b, not opposite."""
    v = np.cross(a, b)
    cross = np.array([[0, -v[2], v[1]], [v[2], 0, -v[0]], [-v[1], v[0], 0]])
    out: Array = np.eye(3) + cross + cross @ cross / (1 + a @ b)
    return out
