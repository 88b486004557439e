# SPDX-License-Identifier: Apache-2.0
"""The finished motion against true walks, with errors as the network has them: the measures of docs/motion.md."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from takes import make_take

from meshpose.body import Body, quaternion, rotation_matrix
from meshpose.camera import Camera
from meshpose.errors import InputError
from meshpose.motion import Looked, Motion, MotionSettings, Track, World, solve, solve_take
from meshpose.rig import RigFit
from meshpose.take import Take
from tools.motion_measures import Measures, before, compare, measure
from tools.walks import Noise, Truth, make_walk
from training.synth_body import rotation

RAW = MotionSettings(smooth=0, lock_feet=False, fill_gaps=0)


@pytest.fixture(scope="module")
def walk() -> Truth:
    return make_walk(6.0)


@pytest.fixture(scope="module")
def track(walk: Truth) -> Track:
    return walk.track(Noise(seed=1, flips=2))


@pytest.fixture(scope="module")
def measures(walk: Truth, track: Track) -> tuple[Measures, Measures]:
    return compare(walk, track, said=walk.track(Noise(seed=1, flips=2), from_motion=False))


def perfect(walk: Truth, rows: slice = slice(None)) -> Track:
    """A track without any error, of some of the frames."""
    fit = walk.perfect()
    cut = RigFit(fit.phenotype, fit.scale, fit.rotations[rows], fit.translation[rows], fit.frames[rows])
    camera, body = walk.camera, Body.load()
    metres = walk.vertices()[rows]
    hips = body.joints(metres, "lsp14")[:, 2:4].mean(1)
    size = hips[:, 2] / camera.fx
    depth = (metres[..., 2] - hips[:, None, 2]) / size[:, None]
    pixels = np.concatenate([camera.project(metres), depth[..., None]], -1)
    return Track(cut, pixels, np.full(pixels.shape[:2], 0.5), walk.times[rows], size)


def test_steadier_and_not_farther_off(measures: tuple[Measures, Measures]) -> None:
    raw, done = measures
    assert done.acceleration <= raw.acceleration / 2
    assert done.joints <= raw.joints + 1.0, "mm"
    assert done.lag == 0
    assert done.flips == 0 < raw.flips


def test_feet_stand(measures: tuple[Measures, Measures]) -> None:
    raw, done = measures
    assert done.skate <= raw.skate / 5
    assert done.precision > 0.9 and done.recall > 0.9
    assert done.sunk < 2 and done.through < 0.5, "mm under the floor"
    assert done.floating < raw.floating / 4
    assert done.knee < raw.knee, "knees do not pop"
    assert abs(done.bend - raw.bend) < 5, "knees are as bent as they were, degrees"
    assert done.bend_noise < 1.15 * raw.bend_noise


def test_the_floor_is_level(measures: tuple[Measures, Measures]) -> None:
    _, done = measures
    assert abs(done.tilt) < 2 and abs(done.roll) < 2, "degrees"


def test_who_stands_does_not_pump() -> None:
    walk = make_walk(4.0, stand=True)
    track = walk.track(Noise(seed=3))
    motions, world = solve({1: track}, walk.camera)
    distance = np.linalg.norm(motions[1].translation - world.translation[0], axis=1)
    assert distance.std() < 0.01 * distance.mean()
    held = motions[1].contact.any(1)
    assert held.mean() > 0.9


def test_strength_goes_from_raw_to_calm(walk: Truth, track: Track) -> None:
    motions, world = solve({1: track}, walk.camera, RAW)
    motion, turn = motions[1], world.rotation[0]
    root = track.fit.translation @ turn.T + world.translation[0]
    np.testing.assert_allclose(motion.translation, root, atol=1e-9)
    alike = np.abs((motion.rotations[:, 1:] * track.fit.rotations[:, 1:]).sum(-1))
    np.testing.assert_allclose(alike, 1, atol=1e-5, err_msg="0 is what the rig fit says")
    left = []
    for strength in (0.0, 0.25, 0.5, 1.0):
        done = solve({1: track}, walk.camera, dataclasses.replace(RAW, smooth=strength))[0][1]
        left.append(float(np.abs(np.diff(done.rotations, 2, axis=0)).mean()))
    assert left == sorted(left, reverse=True) and left[-1] < 0.5 * left[1]


def test_a_perfect_walk_stays_one(walk: Truth) -> None:
    motions, world = solve({1: perfect(walk)}, walk.camera)
    found = measure(walk, np.arange(len(walk.times)), motions[1], world)
    raw = measure(walk, np.arange(len(walk.times)), *before(walk, perfect(walk)))
    assert raw.joints < 1e-3 and found.joints < 12, "mm: smoothing rounds off, no more"
    assert found.skate < 2 and found.depth < 0.5 and found.flips == 0
    assert world.floor and not world.notes
    assert world.translation[0, 2] == pytest.approx(1.35, abs=0.05), "the camera's height"


def test_short_gaps_are_filled_and_said(walk: Truth) -> None:
    there = np.r_[0:40, 46:80, 110:150]
    whole = perfect(walk)
    fit = whole.fit
    cut = RigFit(fit.phenotype, fit.scale, fit.rotations[there], fit.translation[there], fit.frames[there])
    gaps = Track(cut, whole.pixels[there], whole.visibility[there], walk.times[there], whole.metres_per_pixel[there])
    motion = solve({1: gaps}, walk.camera)[0][1]
    np.testing.assert_array_equal(motion.frames, np.r_[0:80, 110:150])
    np.testing.assert_array_equal(motion.frames[~motion.seen], np.r_[40:46])
    assert np.isnan(motion.metres_per_pixel[~motion.seen]).all()
    assert np.isfinite(motion.metres_per_pixel[motion.seen]).all()
    assert np.isfinite(motion.rotations).all() and np.isfinite(motion.translation).all()


def test_what_was_never_seen_is_calm_and_not_keyed(walk: Truth, track: Track) -> None:
    """A half body: the legs lie below the picture."""
    body = Body.load()
    names = body.bone_names
    waist = np.percentile(track.pixels[..., 1], 55)
    cut = dataclasses.replace(walk.camera, height=int(waist))
    motions, world = solve({1: track}, cut)
    motion = motions[1]
    below = [names.index(f"{n}.{s}") for n in ("lowerleg01", "foot") for s in "LR"]
    assert not motion.keyed[:, below].any()
    assert np.abs(np.diff(motion.rotations[:, below], axis=0)).max() < 0.02
    assert motion.keyed[:, [0, names.index("head"), names.index("upperarm01.L")]].all()
    assert not motion.contact.any() and not world.floor
    assert any("floor was not found" in note for note in world.notes)


def test_several_people_share_a_floor(walk: Truth, track: Track) -> None:
    other = perfect(walk, slice(30, 150))
    motions, world = solve({1: track, 4: other}, walk.camera)
    assert set(motions) == {1, 4} and len(world.rotation) == 1
    assert motions[4].frames[0] == 30
    body = Body.load()
    for motion in motions.values():
        lowest = motion.vertices(body, slice(0, None, 10))[..., 2].min(1)
        assert np.abs(lowest).max() < 0.08


def test_somebody_on_a_stage_stands_there(walk: Truth, track: Track) -> None:
    above = perfect(walk, slice(20, 120))
    up = walk.to_world[2] * 1.2  # metres, camera frame
    fit = above.fit
    lifted = RigFit(fit.phenotype, fit.scale, fit.rotations, fit.translation + up, fit.frames)
    motions, _ = solve({1: track, 2: dataclasses.replace(above, fit=lifted)}, walk.camera)
    contact, lowest = motions[2].contact, motions[2].vertices(Body.load(), slice(0, None, 10))[..., 2].min(1)
    assert contact.any(1).mean() > 0.9
    assert np.abs(lowest - 1.2).max() < 0.15 and np.ptp(lowest) < 0.03
    assert motions[1].contact.any(1).mean() > 0.9, "the floor is that of the other"


def test_nobody_there() -> None:
    motions, world = solve({}, Camera.guess(640, 480))
    assert motions == {} and not world.floor and world.translation[0, 2] == 1.5


def test_one_frame(walk: Truth) -> None:
    motions, world = solve({1: perfect(walk, slice(7, 8))}, walk.camera)
    assert len(motions[1].frames) == 1 and np.isfinite(motions[1].translation).all()
    assert np.abs(motions[1].vertices(Body.load())[..., 2].min()) < 0.05


def test_level_can_be_left(walk: Truth) -> None:
    _, world = solve({1: perfect(walk)}, walk.camera, MotionSettings(level=False))
    np.testing.assert_allclose(world.rotation[0], [[1, 0, 0], [0, 0, 1], [0, -1, 0]], atol=1e-4)


def test_feet_can_be_left(walk: Truth, track: Track) -> None:
    free, world = solve({1: track}, walk.camera, MotionSettings(lock_feet=False))
    rows = np.searchsorted(walk.frames, free[1].frames)
    held = compare(walk, track)[1]
    assert measure(walk, rows, free[1], world).skate > 3 * held.skate


def turning(walk: Truth, truth: Track) -> tuple[Track, Looked]:
    """The same walk as a camera sees it that turns to and fro; and its turns."""
    t = walk.times
    turns = rotation(np.stack([0.03 * np.sin(2 * t), 0.2 * np.sin(0.9 * t), 0 * t], 1))  # its frame -> the first one's
    back = turns.swapaxes(1, 2)
    fit = truth.fit
    rotations = fit.rotations.copy()
    rotations[:, 0] = quaternion(back @ rotation_matrix(rotations[:, 0]))
    moved = RigFit(
        fit.phenotype, fit.scale, rotations, np.einsum("fab,fb->fa", back, fit.translation), fit.frames
    )  # fmt: skip
    track = Track(moved, truth.pixels, truth.visibility, t, truth.metres_per_pixel)
    return track, Looked(walk.frames, t, turns, ("moving camera",))


def test_a_turning_camera_is_taken_out(walk: Truth) -> None:
    track, looked = turning(walk, perfect(walk))
    still = solve({1: perfect(walk)}, walk.camera)[0][1]
    motions, world = solve({1: track}, walk.camera, MotionSettings(camera="moving"), looked)
    np.testing.assert_allclose(motions[1].translation, still.translation, atol=0.02)
    assert len(world.rotation) == len(walk.times) and "moving camera" in world.notes
    shaken = solve({1: track}, walk.camera)[0][1]
    assert np.abs(shaken.translation - still.translation).max() > 0.3


def finished(path: Path, **settings: object) -> tuple[Motion, World, np.ndarray, np.ndarray]:
    """Motion and world of a small Take's first person, the pixels that the network said, those of the aligned mesh."""
    make_take(path, frames=20, people=1, fit=True).close()
    with Take.resume(path) as take:
        for _ in solve_take(take, MotionSettings(**settings)):  # type: ignore[arg-type]
            pass
        person, world = take.person(1), take.world()
        motion = person.motion()
        assert motion is not None and world is not None
        placed = person.lowpoly_world()
        turn, shift = world.at(person.frames)
        camera = np.einsum("fba,fvb->fva", turn, placed - shift[:, None])
        return motion, world, person.lowpoly_pixels()[..., :2], take.camera.project(camera)


def test_the_aligned_mesh_stays_on_its_pixels(tmp_path: Path) -> None:
    motion, _, pixels, again = finished(tmp_path / "a.take")
    np.testing.assert_allclose(again, pixels, atol=0.05)
    assert np.isfinite(motion.metres_per_pixel).all()


def test_motion_is_kept_in_the_take(tmp_path: Path) -> None:
    motion, world, _, _ = finished(tmp_path / "a.take", smooth=0.3)
    assert motion.rotations.dtype == np.float32 and motion.contact.shape == (20, 4)
    assert motion.keyed.shape == motion.rotations.shape[:2] and motion.frames.tolist() == list(range(20))
    assert world.static


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"smooth": 1.5}, "from 0"), ({"smooth": float("nan")}, "from 0"), ({"camera": "drone"}, "static or moving"),
     ({"fill_gaps": -1}, "number of frames")],
)  # fmt: skip
def test_bad_settings_are_one_clear_line(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        MotionSettings(**settings)  # type: ignore[arg-type]
