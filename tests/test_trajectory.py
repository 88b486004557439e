# SPDX-License-Identifier: Apache-2.0
"""Distances: a walk to the camera stays one, jitter goes, stances count; and the turning of a camera that moves."""

from __future__ import annotations

import cv2
import numpy as np

from meshpose.camera import Camera
from meshpose.smooth import penalty
from meshpose.trajectory import CUTOFF, STANCE_WEIGHT, Turning, steady_distance
from training.synth_body import rotation

FPS = 25.0


def test_an_even_walk_comes_back_and_jitter_goes() -> None:
    t = np.arange(100) / FPS
    line = 6 - 1.2 * t
    np.testing.assert_allclose(steady_distance(line, t, np.ones(100)), line, atol=1e-6)
    noisy = line + np.random.default_rng(0).normal(0, 0.08, 100)
    steady = steady_distance(noisy, t, np.ones(100))
    assert np.std(steady - line) < 0.5 * np.std(noisy - line)
    assert (np.diff(steady) < 0).mean() > 0.95, "somebody who comes nearer does not go to and fro"
    np.testing.assert_array_equal(steady_distance(noisy, t, np.ones(100), strength=0), noisy)


def test_stances_agree_with_the_equations_written_out() -> None:
    """Against one dense least-squares problem in which the places of the stances are unknowns."""
    rng = np.random.default_rng(1)
    t, n = np.arange(60) / FPS, 60
    observed, stances = 4 + 0.1 * rng.normal(size=n), [(5, 20), (15, 40), (45, 60)]
    given = [(a, b, rng.normal(0, 0.1, b - a)) for a, b in stances]
    found = steady_distance(observed, t, np.ones(n), given)
    band = penalty(t, np.full((n, 1), CUTOFF))[..., 0]
    stiff = np.diag(band[0]) + sum(np.diag(band[k][: n - k], k) + np.diag(band[k][: n - k], -k) for k in (1, 2, 3))
    size = n + len(given)
    left, right = np.zeros((size, size)), np.zeros(size)
    left[:n, :n] = stiff * FPS + np.eye(n)
    right[:n] = observed
    for k, (a, b, offset) in enumerate(given):
        for f, o in zip(range(a, b), offset):
            row = np.zeros(size)
            row[f], row[n + k] = 1, -1
            left += STANCE_WEIGHT * np.outer(row, row)
            right -= STANCE_WEIGHT * o * row
    np.testing.assert_allclose(found, np.linalg.solve(left, right)[:n], atol=1e-6)


def test_long_clips_are_solved_in_pieces_without_seams() -> None:
    t = np.arange(4000) / FPS
    observed = 5 + np.sin(0.3 * t) + np.random.default_rng(2).normal(0, 0.05, 4000)
    steady = steady_distance(observed, t, np.ones(4000))
    assert np.std(steady - 5 - np.sin(0.3 * t)) < 0.02
    assert np.abs(np.diff(steady, 2)).max() < 0.01


def pan(camera: Camera, turns: np.ndarray, seed: int = 0) -> list[np.ndarray]:
    """Pictures of a wall of blobs that a camera sees as it turns (F, 3, 3), its frame into the first one's."""
    rng = np.random.default_rng(seed)
    wall = cv2.GaussianBlur((rng.random((700, 1100, 3)) * 255).astype(np.uint8), (0, 0), 2)
    wall = cv2.normalize(wall, None, 0, 255, cv2.NORM_MINMAX)
    lens = np.array([[camera.fx, 0, camera.cx], [0, camera.fy, camera.cy], [0, 0, 1.0]])
    wide, half = lens.copy(), np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    wide[:2, 2] = 550, 350
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    size = (camera.width, camera.height)
    maps = [np.linalg.inv(half) @ wide @ turn @ np.linalg.inv(lens) @ half for turn in turns]
    return [cv2.warpPerspective(wall, m, size, flags=flags) for m in maps]


def angle(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Degrees between rotations (F, 3, 3)."""
    trace = np.trace(a.swapaxes(1, 2) @ b, axis1=1, axis2=2)
    return np.degrees(np.arccos(np.clip((trace - 1) / 2, -1, 1)))


def test_a_pan_is_found_and_people_do_not_count() -> None:
    camera = Camera.from_fov(400, 240, 50)
    k = np.arange(20)
    turns = rotation(np.stack([0.02 * np.sin(k / 5), 0.12 * np.sin(k / 9), 0.01 * np.sin(k / 4)], 1))
    turning, rng = Turning(camera), np.random.default_rng(3)
    for f, picture in enumerate(pan(camera, turns)):
        x = 40 + 8 * f
        picture[80:220, x : x + 60] = (rng.random((140, 60, 3)) * 255).astype(np.uint8)  # somebody walks through
        turning.step(picture, np.array([[x, 80, 60, 140]]))
    found, notes = turning.result()
    assert angle(found, turns[0].T @ turns).max() < 0.1
    assert len(notes) == 1 and "7 degrees" in notes[0]


def test_a_camera_that_stands_is_left_alone() -> None:
    camera = Camera.from_fov(400, 240, 50)
    turning = Turning(camera)
    for picture in pan(camera, np.repeat(np.eye(3)[None], 5, 0)):
        turning.step(picture, np.zeros((0, 4)))
    found, notes = turning.result()
    np.testing.assert_array_equal(found, np.repeat(np.eye(3)[None], 5, 0))
    assert "stood" in notes[0]


def test_no_background_is_said() -> None:
    turning = Turning(Camera.from_fov(400, 240, 50))
    for _ in range(4):
        turning.step(np.full((240, 400, 3), 90, np.uint8), np.zeros((0, 4)))
    found, notes = turning.result()
    np.testing.assert_array_equal(found, np.repeat(np.eye(3)[None], 4, 0))
    assert "not found" in notes[0]
