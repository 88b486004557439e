# SPDX-License-Identifier: Apache-2.0
"""Footage as it comes: which picture Blender shows on which frame, turned clips, pictures, sequences, sound."""

from __future__ import annotations

from pathlib import Path

import bpy
import cv2
import numpy as np
import pytest
from test_video import SIZE, constant, number, picture, rotated, timed

from meshpose.video import Clip, probe
from meshpose_blender import compat, footage


@pytest.fixture(autouse=True)
def empty() -> None:
    bpy.ops.wm.read_factory_settings(use_empty=True)


def times_of(path: Path) -> np.ndarray:
    return np.array([frame.time for frame in Clip(path)])


def blender_shows(path: Path, frames: list[int], fps: float) -> list[float]:
    """Numbers of the pictures that Blender shows on these frames, from its own pixels (the sequencer rendered)."""
    scene = bpy.context.scene
    footage.set_rate(scene, fps)
    footage.keep_colours(scene)
    compat.strips(scene).new_movie("clip", str(path), 1, 1)
    render = scene.render
    render.resolution_x, render.resolution_y = SIZE
    render.image_settings.file_format = "PNG"
    result = []
    for frame in frames:
        scene.frame_set(frame)
        render.filepath = str(path.with_name("shown.png"))
        bpy.ops.render.render(write_still=True)
        result.append(number(cv2.imread(render.filepath)))
    return result


RHYTHMS = {
    "slow second half": [512] * 24 + [1536] * 12,
    "gaps": [512 * (1 + (k % 7 == 3)) for k in range(35)],
    "phone": [512 + (37 * k * k) % 60 - 30 for k in range(35)],
}


@pytest.mark.parametrize("rhythm", RHYTHMS)
def test_pictures_stand_where_blender_shows_them(tmp_path: Path, rhythm: str) -> None:
    ticks = np.concatenate([[0], np.cumsum(RHYTHMS[rhythm])]).tolist()
    path = timed(tmp_path / "v.mp4", ticks, 12288, 24)
    info = probe(path)
    film = footage.load(info, times_of(path), tmp_path)
    assert film.movie is not None and film.fps == pytest.approx(info.fps, rel=0.02) and not film.notes
    expected = footage.shown_pictures(times_of(path), film.fps)
    frames = sorted({1, 2, 5, 17, 18, 22, 25, 29, 31, 33, len(expected) - 2})
    found = np.array(blender_shows(path, frames, film.fps))
    wrong = np.abs((found - found[0]) - expected[np.array(frames) - 1]) > 0.5
    assert not wrong.any(), (rhythm, np.array(frames)[wrong], found[wrong])


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_turned_clips_stand_upright(tmp_path: Path, degrees: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is where Blender turns it, by an upright copy where it does not."""
    path = rotated(constant(tmp_path / "r.mp4"), degrees)
    info = probe(path)
    film = footage.load(info, times_of(path), tmp_path)
    assert film.movie is not None and tuple(film.movie.size) == (info.width, info.height)
    assert bool(film.notes) is not compat.turns_footage()
    monkeypatch.setattr(compat, "turns_footage", lambda: False)
    film = footage.load(info, times_of(path), tmp_path)
    copy = tmp_path / "r_footage.mp4"
    assert film.movie is not None and Path(bpy.path.abspath(film.movie.filepath)) == copy
    assert "r_footage.mp4" in film.notes[0] and film.movie.frame_duration == 30
    for one, other in zip(Clip(path), Clip(copy)):
        assert np.abs(one.image.astype(int) - other.image).mean() < 6


def test_copy_repeats_pictures_of_a_variable_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = [512 * (k if k < 6 else 6 + 3 * (k - 6)) for k in range(12)]
    path = timed(tmp_path / "v.mp4", ticks, 12288, 24)
    info, times = probe(path), times_of(path)
    footage._copy_movie(info, times, tmp_path / "copy.mp4")
    found = [number(frame.image) for frame in Clip(tmp_path / "copy.mp4")]
    expected = footage.shown_pictures(times, info.fps)
    assert len(found) == len(expected)
    np.testing.assert_allclose(np.array(found) - found[0], expected, atol=0.6)


def test_single_picture(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "p.png"), picture(3))
    film = footage.load(probe(tmp_path / "p.png"), np.zeros(1), tmp_path)
    assert film.picture is not None and film.movie is None and not film.notes
    assert len(footage.shown_pictures(np.zeros(1), film.fps)) == 1


def test_sequences_with_and_without_gaps(tmp_path: Path) -> None:
    for folder, numbers in {"whole": range(7, 12), "gaps": (1, 2, 9, 10)}.items():
        (tmp_path / folder).mkdir()
        for k in numbers:
            cv2.imwrite(str(tmp_path / folder / f"f_{k:03d}.png"), picture(k))
        info = probe(tmp_path / folder)
        film = footage.load(info, info.times, tmp_path)
        assert film.movie is not None and film.movie.frame_duration == len(numbers), folder
        assert bool(film.notes) is (folder == "gaps")


def test_sound_and_none(tmp_path: Path) -> None:
    loud = timed(tmp_path / "loud.mp4", [512 * k for k in range(24)], 12288, 24, sound=True)
    mute = constant(tmp_path / "mute.mp4")
    scene = bpy.context.scene
    film = footage.load(probe(loud), times_of(loud), tmp_path)
    strip = footage.add_sound(scene, film, "loud", 1)
    assert strip is not None and len(compat.strips(scene)) == 1
    assert footage.add_sound(scene, footage.load(probe(mute), times_of(mute), tmp_path), "mute", 1) is None
    assert len(compat.strips(scene)) == 1
    film.sound = mute  # the container did not say, and there is none
    assert footage.add_sound(scene, film, "silent", 1) is None and len(compat.strips(scene)) == 1


def test_a_file_that_blender_cannot_read_is_a_note(tmp_path: Path) -> None:
    path = constant(tmp_path / "a.mp4")
    info = probe(path)
    path.write_bytes(b"no film any more" * 100)
    film = footage.load(info, info.times, tmp_path)
    assert film.movie is None and len(film.notes) >= 1
    assert not list(tmp_path.glob("*_footage*")) and not len(bpy.data.movieclips)
