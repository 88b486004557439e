# SPDX-License-Identifier: Apache-2.0
"""The tool that measures depth by two calibrated views: its geometry, on points that are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from meshpose.body import rotation_matrix
from meshpose.errors import InputError
from tools.two_views import off, triangulated, views_of


def test_points_are_found_from_two_views() -> None:
    world = np.random.default_rng(0).normal(0, 0.5, (12, 3))
    k = np.array([[600.0, 0, 200], [0, 600, 350], [0, 0, 1]])
    projections = [k @ np.column_stack([rotation_matrix(np.array([1.0, 0, a, 0])), [0, 0, 4]]) for a in (0.3, -0.4)]
    flat = [(np.c_[world, np.ones(12)] @ p.T) for p in projections]
    found = triangulated([f[:, :2] / f[:, 2:] for f in flat], projections)
    np.testing.assert_allclose(found, world, atol=1e-9)


def test_scale_and_place_do_not_count_but_a_turn_does() -> None:
    true = np.random.default_rng(1).normal(0, 300, (12, 3))
    assert max(off(0.2 * true + 50, true)) < 1e-9
    plain, aligned = off(true @ rotation_matrix(np.array([1.0, 0, 0.2, 0])).T, true)
    assert plain > 50 and aligned < 1e-9


def test_a_clip_without_a_camera_is_one_line(root: Path) -> None:
    clip = root / "samples" / "turn.mp4"
    with pytest.raises(InputError, match="turn.mp4: the cameras' file has no 'K'"):
        views_of([clip, clip], {"turn.mp4": {}}, 2)
