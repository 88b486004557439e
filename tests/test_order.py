# SPDX-License-Identifier: Apache-2.0
"""People who overlap in the picture: the hidden one stands behind, and nobody stands in anybody."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from takes import make_take

from meshpose.body import Body
from meshpose.convert import refit
from meshpose.order import Seen, push_apart
from meshpose.take import Take

FRAMES = 40


def standing(x: float, depth: float) -> np.ndarray:
    """Low-poly (F, V, 3), camera frame, of somebody who stands and faces the camera."""
    body = Body.load()
    mesh = body.shape().vertices[body.lowpoly].astype(np.float64)
    camera = np.stack([mesh[:, 0], -mesh[:, 2], mesh[:, 1]], 1) + [x, 0.2, depth]
    return np.repeat(camera[None], FRAMES, 0)


def seen(points: np.ndarray, hidden: np.ndarray | None = None) -> Seen:
    """Front vertices seen, those in `hidden` (F, V) not."""
    middle = points[..., 2].mean(1, keepdims=True)
    visibility = np.where(points[..., 2] < middle, 0.95, 0.05)
    if hidden is not None:
        visibility = np.where(hidden, 0.05, visibility)
    return Seen(np.arange(FRAMES), points, visibility, np.arange(FRAMES) / 25)


def covered(points: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Which vertices (F, V) lie in the other's box in the picture."""
    flat, other = (p[..., :2] / p[..., 2:] for p in (points, others))
    return ((flat > other.min(1, keepdims=True)) & (flat < other.max(1, keepdims=True))).all(-1)


def gap(a: np.ndarray, b: np.ndarray) -> float:
    """Metres between the front of a and the back of b, where they cover each other."""
    inside_a, inside_b = covered(a, b)[20], covered(b, a)[20]
    return float(np.quantile(a[20, inside_a, 2], 0.1) - np.quantile(b[20, inside_b, 2], 0.9))


def test_the_hidden_one_goes_behind() -> None:
    a, b = standing(0.0, 4.0), standing(0.25, 4.3)  # a is placed in front, but a is the one that is hidden
    factors = push_apart([seen(a, covered(a, b)), seen(b)])
    a_new, b_new = a * factors[0][:, None, None], b * factors[1][:, None, None]
    assert a_new[20, :, 2].mean() > b_new[20, :, 2].mean()
    assert gap(a_new, b_new) > -0.1
    ratio = a_new[..., :2] / a_new[..., 2:]
    np.testing.assert_allclose(ratio, a[..., :2] / a[..., 2:], atol=1e-9, err_msg="everybody stays on the pixels")


def test_nobody_stands_in_anybody() -> None:
    a, b = standing(0.0, 4.05), standing(0.2, 4.0)
    factors = push_apart([seen(a), seen(b)])
    assert factors[0].min() >= 1 and factors[1].max() <= 1, "the farther one goes back, the nearer one comes forward"
    a_new, b_new = a * factors[0][:, None, None], b * factors[1][:, None, None]
    assert gap(a_new, b_new) > -0.06 > gap(a, b)


def test_right_order_and_room_stay_as_they_are() -> None:
    near, far = standing(0.0, 3.0), standing(0.2, 4.5)
    for factor in push_apart([seen(near), seen(far, covered(far, near))]):
        np.testing.assert_array_equal(factor, 1)
    for factor in push_apart([seen(standing(-1.5, 4.0)), seen(standing(1.5, 4.0))]):
        np.testing.assert_array_equal(factor, 1)
    assert push_apart([]) == []


def test_it_is_done_slowly() -> None:
    a, b = standing(0.0, 4.0), standing(0.25, 4.3)
    a[:15, :, 0] -= 2.0  # they meet in frame 15
    factors = push_apart([seen(a, covered(a, b)), seen(b)])
    shift = factors[0] * 4.0
    assert np.abs(np.diff(shift, 2)).max() < 0.03 and np.ptp(shift) > 0.1
    assert shift[0] == pytest.approx(4.0, abs=0.05)


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("frames", [1, 4])
def test_tiny_takes_give_no_numpy_warning(tmp_path: Path, frames: int) -> None:
    """Three people in one another's way on a frame or four."""
    path = tmp_path / "tiny.take"
    make_take(path, frames=frames, people=3, gaps=frames > 1).close()
    with Take.resume(path) as take:
        take.set_settings({"model": "accurate"})
    for _ in refit(path):
        pass
    with Take.open(path) as take:
        motion = take.person(3).motion()
        assert motion is not None and np.isfinite(motion.translation).all()
