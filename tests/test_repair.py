# SPDX-License-Identifier: Apache-2.0
"""Exchanged sides are found and put right on the true walk of the sample; short gaps are filled, long ones stay."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from meshpose.body import Body
from meshpose.errors import InputError
from meshpose.repair import KINDS, fill_gaps, repair_flips
from training.random_bodies import quaternion_from_vector

SAMPLES = Path(__file__).resolve().parents[1] / "samples"


@pytest.fixture(scope="module")
def body() -> Body:
    return Body.load()


@pytest.fixture(scope="module")
def walk() -> tuple[np.ndarray, np.ndarray]:
    """Rotations (90, J, 4) and times of somebody who comes, turns and goes."""
    with np.load(SAMPLES / "turn_truth.npz") as z:
        return z["rotations"].astype(np.float64), np.arange(90) / float(z["fps"])


def joints(body: Body, rotations: np.ndarray) -> np.ndarray:
    """Heads (F, 104, 3) about the root, metres."""
    return body.transforms(body.shape(), rotations, np.zeros((len(rotations), 3)))[1]


def seen_from_behind(body: Body, rotations: np.ndarray) -> np.ndarray:
    """Independent of the repair: the joints' depth reversed and the sides exchanged, by quaternions."""
    mirrored = rotations[:, body.bone_mirror] * np.array([1.0, 1.0, -1.0, -1.0])
    w, x, y, z = rotations[:, 0].T
    # Reflecting in z after reflecting in x is half a turn about z and half a turn about x: k q i.
    mirrored[:, 0] = np.stack([y, -z, w, -x], 1)
    return mirrored


def test_turned_is_depth_reversed(body: Body, walk: tuple[np.ndarray, np.ndarray]) -> None:
    rotations, _ = walk
    away = joints(body, seen_from_behind(body, rotations))
    straight = joints(body, rotations)[:, body.bone_mirror] * np.array([1.0, 1.0, -1.0])
    np.testing.assert_allclose(away, straight, atol=2e-3)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_exchanged_frames_come_back(body: Body, walk: tuple[np.ndarray, np.ndarray], seed: int) -> None:
    rotations, times = walk
    rng = np.random.default_rng(seed)
    wrong = rotations + rng.normal(0, 0.005, rotations.shape)
    turned = np.zeros(90, bool)
    for start in rng.choice(np.arange(4, 80, 12), 3, replace=False):
        turned[start : start + rng.integers(1, 6)] = True
    wrong[turned] = seen_from_behind(body, wrong)[turned]
    found, flips = repair_flips(wrong, times, body)
    np.testing.assert_array_equal(flips == KINDS.index("turned"), turned)
    np.testing.assert_array_equal(flips > 0, turned)
    away = np.linalg.norm(joints(body, found) - joints(body, rotations), axis=-1).mean(1)
    assert away.max() < 0.05, "metres"


def test_legs_alone(body: Body, walk: tuple[np.ndarray, np.ndarray]) -> None:
    """In the middle of the turn, legs apart: the sides' local rotations exchanged."""
    rotations, times = walk
    index = {n: i for i, n in enumerate(body.bone_names)}
    legs = [i for n, i in index.items() if n.split(".")[0].rstrip("0123456789-") in {"upperleg", "lowerleg", "foot"}]
    apart = joints(body, rotations)
    apart = np.linalg.norm(apart[:, index["foot.L"]] - apart[:, index["foot.R"]], axis=-1)
    at = int(apart[10:80].argmax()) + 10
    wrong = rotations.copy()
    mirrored = rotations[:, body.bone_mirror] * np.array([1.0, 1.0, -1.0, -1.0])
    wrong[at : at + 3, legs] = mirrored[at : at + 3, legs]
    _, flips = repair_flips(wrong, times, body)
    assert set(np.flatnonzero(flips)) == {at, at + 1, at + 2} and KINDS[flips[at]] == "legs"


def test_a_true_walk_is_left_alone(body: Body, walk: tuple[np.ndarray, np.ndarray]) -> None:
    rotations, times = walk
    for speed in (1.0, 2.0):
        found, flips = repair_flips(rotations, times / speed, body)
        assert not flips.any()
        np.testing.assert_allclose(np.abs((found * rotations).sum(-1)), 1, atol=1e-6)


def test_long_stretches_are_the_networks_word(body: Body, walk: tuple[np.ndarray, np.ndarray]) -> None:
    rotations, times = walk
    wrong = rotations.copy()
    wrong[20:] = seen_from_behind(body, rotations)[20:]
    assert not repair_flips(wrong, times, body)[1][25:].any()


def test_short_gaps_are_filled_and_long_ones_stay() -> None:
    frames = np.concatenate([np.arange(0, 20), np.arange(26, 40), np.arange(60, 70)])
    turn = quaternion_from_vector(np.stack([0 * frames, 0 * frames, 0.05 * frames], 1)[:, None])
    root = np.stack([0.02 * frames, 0.001 * (frames - 20.0) ** 2, 0 * frames], 1)
    whole = fill_gaps(frames, turn, root, longest=12)
    np.testing.assert_array_equal(whole.frames, np.concatenate([np.arange(40), np.arange(60, 70)]))
    np.testing.assert_array_equal(whole.frames[~whole.seen], np.arange(20, 26))
    np.testing.assert_allclose(whole.translation[:, 0], 0.02 * whole.frames, atol=1e-9)
    np.testing.assert_allclose(whole.translation[:, 1], 0.001 * (whole.frames - 20.0) ** 2, atol=0.01)
    expected = quaternion_from_vector(np.array([[[0, 0, 0.05 * f]] for f in whole.frames]))
    np.testing.assert_allclose(np.abs((whole.rotations * expected).sum(-1)), 1, atol=1e-9)
    longer = fill_gaps(frames, turn, root, longest=20)
    assert len(longer.frames) == 70


def test_only_frames_that_were_looked_at_are_filled() -> None:
    frames = np.array([0, 2, 4, 10, 12])
    turn = np.tile([1.0, 0, 0, 0], (5, 3, 1))
    whole = fill_gaps(frames, turn, np.zeros((5, 3)), longest=2, possible=np.arange(0, 20, 2))
    np.testing.assert_array_equal(whole.frames, [0, 2, 4, 6, 8, 10, 12])
    assert len(fill_gaps([7], turn[:1], np.zeros((1, 3))).frames) == 1


def test_bad_input_is_one_clear_line(body: Body) -> None:
    with pytest.raises(InputError, match="ascending"):
        fill_gaps([3, 2], np.ones((2, 1, 4)), np.zeros((2, 3)))
    with pytest.raises(InputError, match="flips need rotations"):
        repair_flips(np.ones((4, 3, 4)), np.arange(4), body)
