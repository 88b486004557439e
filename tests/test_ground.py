# SPDX-License-Identifier: Apache-2.0
"""The floor is found from where feet stood: tilt, roll and height, robustly; without feet it says so."""

from __future__ import annotations

import numpy as np
import pytest

from meshpose.ground import Floor, find_floor
from training.synth_body import rotation


def places(tilt: float, roll: float, height: float, count: int = 24, seed: int = 0) -> np.ndarray:
    """Points (n, 3) of a floor as a camera sees it that looks down by tilt and is rolled, degrees; noise of 1 cm."""
    rng = np.random.default_rng(seed)
    flat = np.stack([rng.uniform(-2, 2, count), rng.uniform(2.5, 7, count), rng.normal(0, 0.01, count)], 1)
    flat[:, 2] -= height
    level = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])  # world x, y ahead, z up -> camera that looks ahead
    turn = rotation(np.array([0, 0, np.radians(roll)])) @ rotation(np.array([np.radians(tilt), 0, 0]))
    return flat @ (turn @ level).T


@pytest.mark.parametrize(("tilt", "roll"), [(0, 0), (8, 0), (25, -3), (-6, 4), (45, 2)])
def test_tilt_roll_and_height(tilt: float, roll: float) -> None:
    up = np.array([0.0, -np.cos(np.radians(tilt)), -np.sin(np.radians(tilt))])
    floor = find_floor(places(tilt, roll, 1.4), np.ones(24), upright=up)
    assert floor.found and floor.height == pytest.approx(1.4, abs=0.05)
    assert floor.tilt == pytest.approx(tilt, abs=1.0)
    assert abs(floor.roll) == pytest.approx(abs(roll), abs=1.5)
    world = places(tilt, roll, 1.4) @ floor.rotation.T + [0, 0, floor.height]
    assert np.abs(world[:, 2]).max() < 0.08, "all places lie on z = 0"
    assert world[:, 1].min() > 0, "the camera looks along +y"
    np.testing.assert_allclose(floor.rotation @ floor.rotation.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(floor.rotation) > 0


def test_wrong_places_do_not_tilt_it() -> None:
    points = places(10, 0, 1.5, 30)
    points[:5, 1] -= 0.6  # five feet that were on a chair
    floor = find_floor(points, np.ones(30))
    assert floor.height == pytest.approx(1.5, abs=0.06) and floor.tilt == pytest.approx(10, abs=1.5)


def test_level_is_left_alone_when_asked() -> None:
    floor = find_floor(places(10, 0, 1.5), np.ones(24), upright=np.array([0, -1.0, -0.2]), level=False)
    np.testing.assert_allclose(floor.normal, [0, -1, 0], atol=1e-4)


def test_one_spot_gives_height_and_people_the_tilt() -> None:
    points = np.array([0.1, 1.2, 4.0]) + np.random.default_rng(1).normal(0, 0.01, (6, 3))
    up = np.array([0, -np.cos(0.3), -np.sin(0.3)])
    assert 10 < find_floor(points, np.ones(6), upright=up).tilt < np.degrees(0.31)
    assert abs(find_floor(points, np.ones(6)).tilt) < 2, "nothing says that the camera is tilted"


def test_without_feet() -> None:
    floor = find_floor(np.zeros((0, 3)), np.zeros(0), fallback=1.6)
    assert isinstance(floor, Floor) and not floor.found and floor.height == 1.6
    assert not find_floor(places(0, 0, 1.5, 2), np.ones(2)).found, "two stances are no floor"
