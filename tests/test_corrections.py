# SPDX-License-Identifier: Apache-2.0
"""Corrections by hand: the joint is where it was put, its neighbours follow, the rest stays, undo undoes."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from takes import make_take

from meshpose.body import Body, rotation_matrix
from meshpose.convert import refit
from meshpose.corrections import REACH, Change, bone_of, spread
from meshpose.errors import InputError, TakeError
from meshpose.motion import Motion
from meshpose.rig_solve import rotation_vector
from meshpose.take import Take

FRAMES, FRAME, WRIST = 40, 20, "wrist.L"


def run(path: Path) -> None:
    for _ in refit(path):
        pass


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One person in 40 frames, converted to the end."""
    path = tmp_path_factory.mktemp("corrections") / "walk.take"
    make_take(path, frames=FRAMES, people=1).close()
    with Take.resume(path) as take:
        take.set_settings({"model": "accurate"})
    run(path)
    return path


@pytest.fixture
def path(finished: Path, tmp_path: Path) -> Path:
    for file in finished.parent.iterdir():
        shutil.copy(file, tmp_path)
    return tmp_path / finished.name


def heads(motion: Motion) -> np.ndarray:
    """Heads of the bones (F, J, 3), metres, world frame."""
    body = Body.load()
    _, at = body.transforms(body.shape(motion.phenotype), motion.rotations, np.zeros((len(motion.frames), 3)))
    return at * motion.scale + motion.translation[:, None]


def motion_of(path: Path) -> Motion:
    with Take.open(path) as take:
        motion = take.person(1).motion()
    assert motion is not None and motion.frames.tolist() == list(range(FRAMES))
    return motion


def bone(name: str) -> int:
    return Body.load().bone_names.index(name)


def test_joint_is_where_it_was_put_and_the_rest_stays(path: Path) -> None:
    before = motion_of(path)
    target = heads(before)[FRAME, bone(WRIST)] + [0.04, -0.10, 0.08]
    with Take.resume(path) as take:
        digest = take.digest()
        made = take.corrections.joint(1, FRAME, WRIST, target, reach=6)
    assert (made.first, made.joint, made.reach) == (FRAME, WRIST, 6)
    run(path)
    after = motion_of(path)
    moved = np.linalg.norm(heads(after) - heads(before), axis=-1)
    assert np.linalg.norm(heads(after)[FRAME, bone(WRIST)] - target) < 0.001
    wrist = moved[:, bone(WRIST)]
    assert (np.diff(wrist[FRAME - 6 : FRAME + 1]) >= 0).all() and (np.diff(wrist[FRAME : FRAME + 7]) <= 0).all()
    assert np.abs(np.diff(wrist, 2)).max() < 0.06, "no jump: the neighbours follow smoothly"
    far = np.abs(after.frames - FRAME) >= 6
    np.testing.assert_array_equal(after.rotations[far], before.rotations[far])
    np.testing.assert_array_equal(after.translation[far], before.translation[far])
    still = [bone(name) for name in ("foot.L", "foot.R", "wrist.R", "head")]
    assert moved[FRAME, still].max() < 0.01, "the other limbs stay where they were"
    assert after.keyed[FRAME, bone("lowerarm01.L")]
    with Take.resume(path) as take:
        assert take.digest() != digest
        take.corrections.undo(made.id)
    run(path)
    with Take.open(path) as take:
        assert take.digest() == digest


def test_the_fit_holds_it_too(path: Path) -> None:
    """In the camera's frame, before any smoothing: evidence in the fit."""
    body = Body.load()
    with Take.resume(path) as take:
        fit = take.person(1).fit()
        assert fit is not None
        at = body.transforms(body.shape(fit.phenotype), fit.rotations, np.zeros((FRAMES, 3)))[1] * fit.scale
        target = at[FRAME, bone("lowerleg01.R")] + fit.translation[FRAME] + [0.03, -0.02, 0.05]
        take.corrections.joint(1, FRAME, "knee.R", target, space="camera")
    run(path)
    with Take.open(path) as take:
        moved, plain = take.person(1).fit(), take.person(1).fit(corrected=False)
    assert moved is not None and plain is not None
    after = body.transforms(body.shape(moved.phenotype), moved.rotations, np.zeros((FRAMES, 3)))[1] * moved.scale
    assert np.linalg.norm(after[FRAME, bone("lowerleg01.R")] + moved.translation[FRAME] - target) < 0.001
    np.testing.assert_array_equal(plain.rotations, fit.rotations)
    changed = np.flatnonzero((moved.rotations != fit.rotations).any((1, 2)))
    assert changed.min() > FRAME - REACH and changed.max() < FRAME + REACH


def test_a_pixel_is_a_ray(path: Path) -> None:
    with Take.resume(path) as take:
        person, camera, world = take.person(1), take.camera, take.world()
        motion = person.motion()
        assert world is not None and motion is not None
        rotation, translation = world.at([FRAME])
        camera_of = lambda m: (heads(m)[FRAME, bone(WRIST)] - translation[0]) @ rotation[0]  # noqa: E731
        pixel = camera.project(camera_of(motion)) + (6.0, -9.0)
        take.corrections.joint(1, FRAME, WRIST, pixel.tolist(), space="pixel")
    run(path)
    after = camera_of(motion_of(path))
    assert np.linalg.norm(camera.project(after) - pixel) < 0.3
    assert abs(after[2] - camera_of(motion)[2]) < 0.1, "its depth is left alone"


def test_two_corrections_near_one_another_both_hold(path: Path) -> None:
    before = heads(motion_of(path))
    with Take.resume(path) as take:
        for frame, up in ((FRAME, 0.05), (FRAME + 3, 0.12)):
            take.corrections.joint(1, frame, WRIST, before[frame, bone(WRIST)] + [0, 0, up], reach=8)
        again = take.corrections.joint(1, FRAME, WRIST, before[FRAME, bone(WRIST)] + [0, 0, 0.08], reach=8)
        assert len(take.corrections.all(1)) == 2, "the same joint on the same frame: the later word counts"
        assert again.first == FRAME
    run(path)
    after = heads(motion_of(path))
    for frame, up in ((FRAME, 0.08), (FRAME + 3, 0.12)):
        np.testing.assert_allclose(after[frame, bone(WRIST)], before[frame, bone(WRIST)] + [0, 0, up], atol=1e-3)


def test_correction_follows_a_new_height(path: Path) -> None:
    """A correction is kept as a pixel and a share of the hips' depth: it stays with a person who is made smaller."""
    before = motion_of(path)
    target = heads(before)[FRAME, bone(WRIST)] + [0.0, 0.0, 0.08]
    with Take.resume(path) as take:
        take.corrections.joint(1, FRAME, WRIST, target)
    run(path)
    up = heads(motion_of(path))[FRAME] - heads(before)[FRAME]
    for _ in refit(path, height=1.2):
        pass
    small = heads(motion_of(path))
    plain = small[FRAME - 10, bone(WRIST)]
    assert small[FRAME, bone(WRIST), 2] - plain[2] > 0.4 * up[bone(WRIST), 2]


def test_freeze_and_blend(path: Path) -> None:
    before = motion_of(path)
    with Take.resume(path) as take:
        take.corrections.freeze(1, 5, 20, back=4)
    run(path)
    after = motion_of(path)
    held = rotation_matrix(after.rotations[5:17])
    np.testing.assert_allclose(held, np.broadcast_to(held[:1], held.shape), atol=1e-5)
    np.testing.assert_allclose(after.translation[5:17], np.broadcast_to(before.translation[5], (12, 3)), atol=1e-6)
    for rows in (slice(0, 6), slice(20, None)):
        np.testing.assert_array_equal(after.rotations[rows], before.rotations[rows])
    with Take.resume(path) as take:
        take.corrections.undo(1)
        take.corrections.blend(1, 5, 20, bones=["upperarm01.L"])
    run(path)
    after = motion_of(path)
    turn = lambda m, c: rotation_vector(rotation_matrix(m.rotations[5, c]).T @ rotation_matrix(m.rotations[5:21, c]))  # noqa: E731
    arm = turn(after, bone("upperarm01.L"))
    np.testing.assert_allclose(arm, np.linspace(0, 1, 16)[:, None] * arm[-1], atol=2e-3)
    legs = [bone("upperleg01.L"), 0]
    np.testing.assert_array_equal(after.rotations[:, legs], before.rotations[:, legs])
    np.testing.assert_array_equal(after.translation, before.translation)


def test_corrections_go_along_with_a_split(path: Path) -> None:
    """Made on frames that a later split gives to somebody else; taken back with it; what is lost is said."""
    before = motion_of(path)
    target = heads(before)[FRAME, bone(WRIST)] + [0.04, -0.10, 0.08]
    with Take.resume(path) as take:
        made = take.corrections.joint(1, FRAME, WRIST, target, reach=6)
        take.corrections.freeze(1, 5, 14)
        split = take.edits.split(1, 12)
        assert [c.person for c in take.corrections.all()] == [2, 1]
        assert [c.id for c in take.corrections.all(2)] == [made.id]
        lost = take.corrections.unused()
        assert lost == ["correction 2: freeze person 1@5-14: person 1 is there in a part of these frames only"]
    run(path)
    with Take.open(path) as take:
        motion, world = take.person(2).motion(), take.world()
        assert motion is not None and world is not None and set(lost) <= set(world.notes)
        row = int(np.searchsorted(motion.frames, FRAME))
        bent = rotation_matrix(motion.rotations[row, bone("lowerarm01.L")])
        plain = rotation_matrix(before.rotations[FRAME, bone("lowerarm01.L")])
        assert np.linalg.norm(rotation_vector(plain.T @ bent)) > 0.03, "the later one has it"
    with Take.resume(path) as take:
        take.edits.delete(2)
        assert [line.partition(" is")[2] for line in take.corrections.unused()][0].startswith(" not used: nobody")
        assert take.corrections.all(2) == []
        take.edits.undo(2)
        take.edits.undo(split.id)
        assert [c.person for c in take.corrections.all()] == [1, 1] and take.corrections.unused() == []


@pytest.mark.parametrize(
    ("call", "message"),
    [(("joint", 2, 3, WRIST, (0, 0, 0)), "no person 2"), (("joint", 1, 99, WRIST, (0, 0, 0)), "frame 99"),
     (("joint", 1, 3, "nose.L", (0, 0, 0)), "no joint"), (("joint", 1, 3, WRIST, (0, 0)), "3 numbers"),
     (("joint", 1, 3, WRIST, (0, 0, -1), "camera"), "behind"), (("joint", 1, 3, WRIST, (0, 0, 1), "moon"), "space"),
     (("joint", 1, 3, WRIST, (0, 0, float("nan"))), "3 numbers"), (("freeze", 1, 9, 5), "no range"),
     (("joint", 1, 3, WRIST, (0, 0, 1), "camera", 0), "reach"), (("blend", 1, 4, 8, ["tail"]), "no joint"),
     (("undo", 5), "no correction 5")],
)  # fmt: skip
def test_what_cannot_be_is_one_line(path: Path, call: tuple[object, ...], message: str) -> None:
    name, *arguments = call
    with Take.resume(path) as take:
        with pytest.raises(InputError, match=message) as error:
            getattr(take.corrections, str(name))(*arguments)
        assert "\n" not in str(error.value) and take.corrections.all() == []
    with Take.open(path) as take, pytest.raises(TakeError, match="reading only"):
        take.corrections.freeze(1, 2, 5)


def test_spread_is_whole_at_its_own_frame_and_nothing_far() -> None:
    frames = np.arange(40)
    share = spread(np.array([10, 13, 30]), np.array([8, 5, 4]), frames)
    np.testing.assert_allclose(share[[10, 13, 30]], np.eye(3), atol=1e-12)
    assert not share[frames <= 2].any() and not share[(frames >= 18) & (frames <= 26)].any()
    assert np.abs(np.diff(share.sum(1))).max() < 0.5


def test_a_change_leaves_other_frames_and_bones() -> None:
    rng = np.random.default_rng(0)
    q = rng.normal(size=(6, 3, 4))
    q /= np.linalg.norm(q, axis=-1, keepdims=True)
    root = rng.normal(size=(6, 3))
    turns = np.zeros((1, 3, 3))
    turns[0, 1] = (0.1, 0, 0)
    after, moved = Change(np.array([3]), turns, np.full((1, 3), 0.5)).on(np.arange(6), q, root)
    changed = np.argwhere((after != q).any(-1))
    assert changed.tolist() == [[3, 1]]
    np.testing.assert_allclose(moved - root, np.where(np.arange(6) == 3, 0.5, 0)[:, None] * np.ones(3))


def test_names_of_joints() -> None:
    body = Body.load()
    assert body.bone_names[bone_of(body, "elbow.R")] == "lowerarm01.R"
    assert body.bone_names[bone_of(body, "pelvis")] == "root" and bone_of(body, "finger2-1.L") > 0
