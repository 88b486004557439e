# SPDX-License-Identifier: Apache-2.0
"""The people detector: its decoder on made-up maps, its choice of sizes, its network on blank and real pictures."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from meshpose import detect, video
from meshpose.matching import box_overlap

SHARED = Path(os.environ.get("MESHPOSE_SHARED", Path(__file__).resolve().parents[2] / "shared"))


def heads_of(people: list[tuple[float, tuple[float, float, float, float], np.ndarray]], rows: int, cols: int) -> dict:
    """The six maps that a perfect network would give for people of (score, (x0, y0, x1, y1), keypoints (17, 2) x y)."""
    heads = {
        "center": np.zeros((1, rows, cols), np.float32),
        "box_scale": np.zeros((2, rows, cols), np.float32),
        "box_offset": np.zeros((2, rows, cols), np.float32),
        "kpt_heatmap": np.zeros((17, rows, cols), np.float32),
        "kpt_regress": np.zeros((34, rows, cols), np.float32),
        "kpt_offset": np.zeros((34, rows, cols), np.float32),
    }
    for score, (x0, y0, x1, y1), points in people:
        r, c = int((y0 + y1) / 2), int((x0 + x1) / 2)
        heads["center"][0, r, c] = score
        heads["box_scale"][:, r, c] = y1 - y0, x1 - x0
        heads["box_offset"][:, r, c] = (y0 + y1) / 2 - r, (x0 + x1) / 2 - c
        for k, (x, y) in enumerate(points):
            heads["kpt_regress"][2 * k : 2 * k + 2, r, c] = y - r + 0.7, x - c - 0.7  # a rough guess; the map is exact
            heads["kpt_heatmap"][k, int(y), int(x)] = 0.9
            heads["kpt_offset"][2 * k : 2 * k + 2, int(y), int(x)] = y - int(y), x - int(x)
    return heads


def person(x: float, y: float, w: float, h: float, seed: int = 0, score: float = 0.8) -> tuple:
    points = np.random.default_rng(seed).uniform(0.15, 0.85, (17, 2)) * (w, h) + (x, y)
    return score, (x, y, x + w, y + h), points


def test_decoder_finds_any_number_of_people() -> None:
    people = [person(2.3 + 9 * (k % 8), 1.4 + 15 * (k // 8), 7.5, 13.2, k, 0.9 - 0.01 * k) for k in range(24)]
    found = list(detect.decode(heads_of(people, 48, 80)))
    assert len(found) == 24
    for (score, box, keypoints), (centre, expected, points) in zip(found, people):
        assert score == pytest.approx(centre * keypoints[keypoints[:, 2] > detect.SURE_KEYPOINT, 2].mean())
        np.testing.assert_allclose(box, expected, atol=1e-4)
        np.testing.assert_allclose(keypoints[:, :2], points, atol=1e-4)


def test_decoder_gives_each_neighbour_its_own_keypoints() -> None:
    a, b = person(10, 10, 10, 20, 1), person(16, 12, 10, 20, 2)
    found = {round(box[0]): keypoints for _, box, keypoints in detect.decode(heads_of([a, b], 48, 48))}
    right = [np.abs(found[round(p[1][0])][:, :2] - p[2]).max(1) < 1e-3 for p in (a, b)]
    assert np.concatenate(right).mean() > 0.85  # a few may be nearer to the other one's guess


def test_a_person_seen_at_two_sizes_is_one() -> None:
    keypoints = np.c_[np.random.default_rng(0).uniform(0, 1, (17, 2)) * (40, 120) + (50, 20), np.full(17, 0.8)]
    one = detect.Detection(0.6, np.array([50.0, 20, 40, 120]), keypoints)
    again = detect.Detection(0.5, np.array([48.0, 25, 45, 110]), keypoints + (2, -2, -0.1))
    legs = detect.Detection(
        0.3, np.array([50.0, 80, 40, 60]), keypoints * np.where(keypoints[:, 1:2] > 80, 1, (1, 1, 0))
    )
    beside = detect.Detection(0.4, np.array([62.0, 20, 40, 120]), keypoints[::-1] + (12, 0, 0))
    kept = detect.without_repeats([again, beside, legs, one])
    assert [p.score for p in kept] == [0.6, 0.4]
    assert box_overlap(one.box, one.box) == pytest.approx(1) and box_overlap(one.box, one.box + (200, 0, 0, 0)) == 0


def test_sides_suit_the_people() -> None:
    def at(person: float, sides: list[int], long_side: int) -> float:
        return min((person * s / long_side for s in sides), key=lambda v: abs(np.log(v / detect.BEST_PERSON)))

    for people in ([300.0], [60.0, 65, 70], [40.0, 90, 400]):
        sides = detect.sides_for(people, (720, 1280))
        assert len(sides) <= len(people) and all(s % 32 == 0 and 128 <= s <= 960 for s in sides)
        for p in people:
            assert 64 <= at(p, sides, 1280) <= 256 or sides[-1] >= 960
    assert len(detect.sides_for([60.0, 65, 70], (720, 1280))) == 1


def test_nobody_in_a_blank_picture() -> None:
    detector = detect.PeopleDetector(threads=1)
    assert detector(np.full((90, 160, 3), 128, np.uint8)) == []
    assert detector(np.zeros((1, 1, 3), np.uint8), sides=[224]) == []


@pytest.mark.skipif(not (SHARED / "data" / "clips").is_dir(), reason="the development clips are not here")
@pytest.mark.parametrize("shrink", [1, 2, 4])
def test_dancer_is_found_near_and_far(shrink: int) -> None:
    frame = next(iter(video.Clip(SHARED / "data" / "clips" / "dancer.mp4"))).image
    far = np.full_like(frame, 110)
    h, w = frame.shape[0] // shrink, frame.shape[1] // shrink
    x, y = (20, 10) if shrink > 1 else (0, 0)
    far[y : y + h, x : x + w] = frame[: h * shrink, : w * shrink].reshape(h, shrink, w, shrink, 3).mean((1, 3))
    found = detect.PeopleDetector(threads=1)(far)
    expected = np.array([173, 155, 126, 338]) / shrink + (x, y, 0, 0)
    assert found and box_overlap(found[0].box, expected) > 0.7
    assert all(p.score < 0.3 for p in found[1:])
