# SPDX-License-Identifier: Apache-2.0
"""A camera that moves: the background of a real clip is looked at once, and the Take remembers."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from takes import HEIGHT, WIDTH, make_take
from test_trajectory import angle, pan

from meshpose.camera import Camera
from meshpose.errors import InputError
from meshpose.motion import MotionSettings, solve_take
from meshpose.moving import Background
from meshpose.take import Take
from training.synth_body import rotation

COUNT = 10


@pytest.fixture
def turns() -> np.ndarray:
    return rotation(np.stack([np.zeros(COUNT), 0.012 * np.arange(COUNT), np.zeros(COUNT)], 1))


@pytest.fixture
def path(tmp_path: Path, turns: np.ndarray) -> Path:
    """A Take whose clip pans from left to right."""
    writer = cv2.VideoWriter(str(tmp_path / "pan.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 25, (WIDTH, HEIGHT))
    for picture in pan(Camera.guess(WIDTH, HEIGHT), turns):
        writer.write(picture)
    writer.release()
    make_take(tmp_path / "pan.take", frames=COUNT, people=1, fit=True).close()
    return tmp_path / "pan.take"


def test_the_turning_is_found_kept_and_told(path: Path, turns: np.ndarray) -> None:
    with Take.resume(path) as take:
        background = Background(take)
        assert list(background) == [1] * COUNT, "people in each frame looked at"
        found = background.looked.turns
        assert found is not None and angle(found, turns).max() < 0.3
        again = Background(take)
        assert list(again) == [], "known already"
        assert again.looked.turns is not None
        np.testing.assert_allclose(again.looked.turns, found, atol=1e-6)
        assert again.looked.notes == background.looked.notes
        for _ in solve_take(take, MotionSettings(camera="moving"), "test", background.looked):
            pass
    with Take.open(path) as take:
        world = take.world()
        assert world is not None and len(world.rotation) == COUNT and not world.static
        assert any("moving camera: its turning, up to 6 degrees" in note for note in world.notes)
        ahead = world.rotation[:, :, 2]  # lines of sight in the world
        assert np.degrees(np.arccos(ahead[0] @ ahead[-1])) == pytest.approx(np.degrees(0.012 * 9), abs=0.3)
        pixels = take.person(1).lowpoly_pixels()
        turn, shift = world.at(take.person(1).frames)
        back = np.einsum("fba,fvb->fva", turn, take.person(1).lowpoly_world() - shift[:, None])
        np.testing.assert_allclose(take.camera.project(back), pixels[..., :2], atol=0.05)


@pytest.mark.parametrize("turns", [np.repeat(np.eye(3)[None], COUNT, 0)], indirect=False)
def test_a_camera_that_stood_has_a_static_world(path: Path, turns: np.ndarray) -> None:
    with Take.resume(path) as take:
        for _ in range(2):  # found, then remembered
            background = Background(take)
            list(background)
            assert background.looked.turns is None and "stood" in background.looked.notes[0]
        for _ in solve_take(take, MotionSettings(camera="moving"), "test", background.looked):
            pass
        world = take.world()
        assert world is not None and world.static and any("stood" in note for note in world.notes)


def test_a_clip_that_is_gone_is_one_clear_line(path: Path) -> None:
    path.with_suffix(".mp4").unlink()
    with Take.resume(path) as take, pytest.raises(InputError, match="pan.mp4"):
        list(Background(take))
