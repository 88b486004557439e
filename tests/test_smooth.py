# SPDX-License-Identifier: Apache-2.0
"""Smoothing without lag, by confidence and bone; the live filter; bad input."""

from __future__ import annotations

import numpy as np
import pytest

from meshpose.body import Body, rotation_matrix
from meshpose.errors import InputError
from meshpose.smooth import OneEuro, bone_cutoffs, continuous, segments, smooth_positions, smooth_rotations
from training.random_bodies import quaternion_from_vector

FPS = 30.0


def turns(angle: np.ndarray, axis: int = 2) -> np.ndarray:
    """Quaternions (F, 1, 4) about one axis."""
    vector = np.zeros((len(angle), 1, 3))
    vector[:, 0, axis] = angle
    return quaternion_from_vector(vector)


def angles(q: np.ndarray) -> np.ndarray:
    """(F,) unwrapped turn about z."""
    m = rotation_matrix(q[:, 0])
    return np.unwrap(np.arctan2(m[:, 1, 0], m[:, 0, 0]))


def test_no_lag_and_the_gain_that_is_promised() -> None:
    t = np.arange(600) / FPS
    for frequency, gain in ((0.5, 1.0), (2.0, 1 / (1 + 0.5**6)), (8.0, 1 / (1 + 2.0**6))):
        x = np.sin(2 * np.pi * frequency * t)[:, None]
        y = smooth_positions(x, t, cutoff=4.0)[200:400, 0]
        assert np.ptp(y) / 2 == pytest.approx(gain, abs=0.03)
        shifts = [np.dot(y, x[200 + k : 400 + k, 0]) for k in (-1, 0, 1)]
        assert int(np.argmax(shifts)) == 1, "the smoothed curve lags or leads"


def test_noise_goes_and_the_motion_stays() -> None:
    rng = np.random.default_rng(0)
    t = np.arange(300) / FPS
    truth = 0.8 * np.sin(2 * np.pi * 1.0 * t)
    noisy = turns(truth + rng.normal(0, np.radians(3), len(t)))
    steady = smooth_rotations(noisy, t)
    jerk = lambda a: np.abs(np.diff(a, 2) - np.diff(truth, 2)).mean()  # noqa: E731
    assert jerk(angles(steady)) < 0.25 * jerk(angles(noisy))
    assert np.abs(angles(steady) - truth).mean() < 0.7 * np.abs(angles(noisy) - truth).mean()


def test_a_steady_turn_comes_back_exactly_whatever_the_signs() -> None:
    t = np.arange(120) / FPS
    q = turns(2 * np.pi * t)
    q *= np.random.default_rng(1).choice([-1.0, 1.0], (120, 1, 1))
    steady = smooth_rotations(q, t, strength=1.0)
    np.testing.assert_allclose(angles(steady)[15:-15], angles(q)[15:-15], atol=1e-3)
    np.testing.assert_allclose(angles(steady), angles(q), atol=0.015)  # rad, at the ends, at full strength
    assert ((steady[1:] * steady[:-1]).sum(-1) > 0).all()


def test_strength_is_one_slider_from_raw() -> None:
    rng = np.random.default_rng(2)
    t = np.arange(100) / FPS
    q = turns(rng.normal(0, 0.1, 100))
    np.testing.assert_allclose(smooth_rotations(q, t, strength=0.0), continuous(q), atol=1e-12)
    rough = [np.abs(np.diff(angles(smooth_rotations(q, t, strength=s)), 2)).mean() for s in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert all(a > b for a, b in zip(rough, rough[1:], strict=False)), rough


def test_what_was_not_seen_follows_its_neighbours() -> None:
    t = np.arange(90) / FPS
    truth = np.sin(t)
    x = truth.copy()
    sure = np.ones(90)
    x[40:48] += 0.5
    sure[40:48] = 0.0
    away = np.abs(smooth_positions(x[:, None], t, sure)[40:48, 0] - truth[40:48]).max()
    assert away < 0.1 < np.abs(smooth_positions(x[:, None], t)[40:48, 0] - truth[40:48]).max()


def test_one_stray_frame_does_not_pull() -> None:
    t = np.arange(90) / FPS
    x = np.sin(t) + np.random.default_rng(3).normal(0, 0.005, 90)
    x[45] += 1.0
    assert np.abs(smooth_positions(x[:, None], t)[:, 0] - np.sin(t)).max() < 0.05


def test_nothing_crosses_a_long_gap_and_short_ones_are_bridged() -> None:
    t = np.concatenate([np.arange(40), np.arange(100, 140)]) / FPS
    x = np.where(t < 2, 0.0, 5.0)[:, None]
    np.testing.assert_allclose(smooth_positions(x, t, strength=1.0), x, atol=1e-6)
    assert list(segments(np.array([0.0, 0.1, 0.2, 1.0]))) == [0, 0, 0, 1]
    uneven = np.sort(np.random.default_rng(4).uniform(0, 4, 120))
    uneven = uneven[np.concatenate([[True], np.diff(uneven) > 1e-3])]
    line = np.stack([uneven, 3 - uneven], 1)
    np.testing.assert_allclose(smooth_positions(line, uneven), line, atol=1e-6, err_msg="real timestamps count")


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_clips_of_a_few_frames(count: int) -> None:
    t = np.arange(count) / FPS
    out = smooth_rotations(turns(t), t)
    assert out.shape == (count, 1, 4) and np.isfinite(out).all()


def test_the_trunk_is_steadier_than_the_wrists() -> None:
    body = Body.load()
    cutoffs = dict(zip(body.bone_names, bone_cutoffs(body), strict=True))
    assert cutoffs["spine03"] < cutoffs["upperarm01.L"] < cutoffs["wrist.L"] == cutoffs["finger3-2.L"]
    rng = np.random.default_rng(5)
    t = np.arange(90) / FPS
    q = quaternion_from_vector(rng.normal(0, 0.05, (90, len(body.bone_names), 3)))
    left = np.abs(np.diff(smooth_rotations(q, t, body=body), 2, axis=0)).mean((0, 2))
    at = body.bone_names.index
    assert left[at("spine03")] < 0.8 * left[at("wrist.L")]


def test_one_euro_is_quiet_at_rest_and_keeps_up_in_a_move() -> None:
    rng = np.random.default_rng(6)
    t = np.arange(300) / FPS
    truth = np.where(t < 5, 0.0, 2.0 * (t - 5))
    noisy = truth + rng.normal(0, 0.01, 300)
    live = OneEuro()
    out = np.array([live(x, s)[0] for x, s in zip(noisy[:, None], t, strict=True)])
    assert out[60:150].std() < 0.4 * noisy[60:150].std()
    slow = OneEuro(slope=0.0)
    lazy = np.array([slow(x, s)[0] for x, s in zip(noisy[:, None], t, strict=True)])
    assert np.abs(out - truth)[200:].mean() < 0.2 * np.abs(lazy - truth)[200:].mean()


def test_one_euro_turns_quaternions_of_either_sign() -> None:
    t = np.arange(60) / FPS
    q = turns(2 * t)[:, 0] * np.where(np.arange(60) % 2, 1.0, -1.0)[:, None]
    live = OneEuro(rotations=True)
    out = np.stack([live(x, s) for x, s in zip(q, t, strict=True)])
    np.testing.assert_allclose(np.linalg.norm(out, axis=1), 1)
    assert np.abs(angles(out[:, None])[-1] - 2 * t[-1]) < 0.25
    with pytest.raises(InputError, match="ascend"):
        live(q[0], 0.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [(lambda: smooth_positions(np.zeros((3, 2)), np.arange(4)), "one time for each"),
     (lambda: smooth_positions(np.full((3, 2), np.nan), np.arange(3)), "finite"),
     (lambda: smooth_positions(np.zeros((3, 2)), np.array([0, 2, 1])), "ascend"),
     (lambda: smooth_positions(np.zeros((3, 2)), np.arange(3), strength=2), "strength"),
     (lambda: smooth_rotations(np.zeros((3, 2, 3)), np.arange(3)), r"\(F, J, 4\)"),
     (lambda: smooth_rotations(turns(np.zeros(3)), np.arange(3), np.ones((3, 7))), "confidence"),
     (lambda: OneEuro(least=0), "One-Euro")],
)  # fmt: skip
def test_bad_input_is_one_clear_line(call: object, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        call()  # type: ignore[operator]
    assert "\n" not in str(error.value)
