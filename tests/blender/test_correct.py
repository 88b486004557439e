# SPDX-License-Identifier: Apache-2.0
"""By hand in Blender: joints dragged with empties, ranges, sides, who is who; the Take keeps it, Re-fit follows."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

bpy = pytest.importorskip("bpy")

from panel_stand_ins import Layout, until  # noqa: E402
from takes import make_take  # noqa: E402

import meshpose_blender  # noqa: E402
from meshpose.body import Body  # noqa: E402
from meshpose.convert import refit  # noqa: E402
from meshpose.take import Take  # noqa: E402
from meshpose_blender import correct, people, scene, watching  # noqa: E402
from meshpose_blender.watching import watch  # noqa: E402

FRAMES = 24


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two people, converted to the end."""
    path = tmp_path_factory.mktemp("takes") / "walk.take"
    make_take(path, frames=FRAMES, people=2, gaps=False).close()
    with Take.resume(path) as take:
        take.set_settings({"model": "accurate"})
    for _ in refit(path):
        pass
    return path


@pytest.fixture
def take(finished: Path, tmp_path: Path) -> Iterator[Path]:
    """It, built in the scene."""
    bpy.ops.wm.read_factory_settings(use_empty=True)
    meshpose_blender.register()
    for part in (finished, finished.with_suffix(".mp4")):
        shutil.copy(part, tmp_path)
    bpy.ops.meshpose.load_take(filepath=str(tmp_path / finished.name))
    yield tmp_path / finished.name
    meshpose_blender.unregister()


def built() -> scene.BuiltTake:
    found = people.active_take(bpy.context)
    assert found is not None
    return found


def choose(number: int) -> scene.BuiltPerson:
    """Make a person's armature active."""
    person = next(p for p in built().people if p.id == number)
    assert person.armature is not None
    bpy.context.view_layer.objects.active = person.armature
    return person


def head(person: scene.BuiltPerson, bone: str, frame: int) -> np.ndarray:
    """Where a bone's head is in the scene."""
    bpy.context.scene.frame_set(frame)
    assert person.armature is not None
    evaluated = person.armature.evaluated_get(bpy.context.evaluated_depsgraph_get())
    return np.array(evaluated.matrix_world @ evaluated.pose.bones[bone].head)


def refitted() -> None:
    """Wait for the job and let Blender's timer build what it made."""
    assert watch.job is not None, "a re-fit was started"
    until(lambda: watching.look() is None, seconds=180)
    assert not watch.failed, watch.message


def test_a_joint_is_dragged_and_the_rig_follows(take: Path) -> None:
    person = choose(1)
    now = head(person, "wrist.L", 11)
    before = [head(person, "wrist.L", frame) for frame in range(1, FRAMES + 1)]
    bpy.context.scene.frame_set(11)
    assert bpy.ops.meshpose.correct_joint(joint="hand.L") == {"FINISHED"}
    target = bpy.context.view_layer.objects.active
    assert target.type == "EMPTY" and target.select_get()
    np.testing.assert_allclose(target.location, now, atol=1e-4)
    bpy.ops.meshpose.correct_joint(joint="hand.L")
    assert len(correct.targets(built())) == 1, "the same joint on the same frame has one empty"
    target.location.z += 0.12
    target.location.x += 0.05
    wanted = np.array(target.location)
    bpy.context.scene.meshpose_correct.reach = 5
    assert bpy.ops.meshpose.apply_corrections() == {"FINISHED"}
    assert not correct.targets(built())
    refitted()
    person = choose(1)
    np.testing.assert_allclose(head(person, "wrist.L", 11), wanted, atol=2e-3)
    after = [head(person, "wrist.L", frame) for frame in range(1, FRAMES + 1)]
    moved = np.linalg.norm(np.array(after) - before, axis=1)
    far = np.abs(np.arange(1, FRAMES + 1) - 11) >= 5
    assert moved[far].max() < 1e-4 < moved[~far].min()
    corrections, _ = correct.said(take)
    assert len(corrections) == 1 and "wrist.L" in corrections[0][1]
    bpy.ops.meshpose.undo_by_hand(number=corrections[0][0])
    refitted()
    np.testing.assert_allclose(head(choose(1), "wrist.L", 11), now, atol=1e-4)
    assert correct.said(take)[0] == []


def test_a_selected_bone_is_the_joint_and_a_moved_armature_counts(take: Path) -> None:
    person = choose(2)
    assert person.armature is not None
    person.armature.location = (1.0, -2.0, 0.5)
    bpy.context.view_layer.update()
    bpy.context.scene.frame_set(7)
    place = head(person, "lowerleg01.R", 7)
    bpy.ops.object.mode_set(mode="POSE")
    person.armature.data.bones.active = person.armature.data.bones["lowerleg01.R"]
    assert bpy.ops.meshpose.correct_joint() == {"FINISHED"}
    target = bpy.context.view_layer.objects.active
    np.testing.assert_allclose(target.location, place, atol=1e-4)
    assert target[correct.TARGET] == "lowerleg01.R" and target[scene.PERSON] == 2
    assert bpy.ops.meshpose.apply_corrections(refit=False) == {"FINISHED"}
    with Take.open(take) as read:
        motion, world = read.person(2).motion(), read.world()
        said = read.corrections.all()[0]
        assert motion is not None and world is not None
        row = list(motion.frames).index(said.first)
        body = Body.load()
        shape = body.shape(motion.phenotype)
        heads = body.transforms(shape, motion.rotations[[row]], np.zeros((1, 3)))[1][0]
        at = heads[body.bone_names.index(said.joint)] * motion.scale + motion.translation[row]
        rotation, translation = world.at([said.first])
        pixel = read.camera.project((at - translation[0]) @ rotation[0])
    np.testing.assert_allclose(said.pixel, pixel, atol=0.05)


def test_ranges_and_sides(take: Path) -> None:
    choose(1)
    settings = bpy.context.scene.meshpose_correct
    settings.first, settings.last, settings.part = 6, 12, "legs"
    assert bpy.ops.meshpose.swap_sides(refit=False) == {"FINISHED"}
    assert bpy.ops.meshpose.hold_range(kind="freeze", refit=False) == {"FINISHED"}
    assert bpy.ops.meshpose.hold_range(kind="blend", refit=False) == {"FINISHED"}
    with Take.open(take) as read:
        assert [str(edit) for edit in read.edits.all()] == ["1: sides 1@5-11 legs"]
        assert [(c.kind, c.first, c.last) for c in read.corrections.all()] == [("freeze", 5, 11), ("blend", 5, 11)]
    settings.selected_only = True
    with pytest.raises(RuntimeError, match="No bone"):
        bpy.ops.meshpose.hold_range(kind="blend", refit=False)
    settings.first = 500
    with pytest.raises(RuntimeError, match="outside of walk"):
        bpy.ops.meshpose.swap_sides(refit=False)


def test_people_are_edited_and_the_scene_follows(take: Path) -> None:
    choose(1)
    bpy.context.scene.frame_set(13)
    assert bpy.ops.meshpose.edit_people(kind="split") == {"FINISHED"}
    refitted()
    assert [person.id for person in built().people] == [1, 2, 3]
    choose(2)
    bpy.ops.meshpose.edit_people(kind="delete", refit=False)
    choose(1)
    bpy.context.scene.meshpose_correct.other = "3"
    assert bpy.ops.meshpose.edit_people(kind="merge") == {"FINISHED"}
    refitted()
    assert [person.id for person in built().people] == [1]
    with Take.open(take) as read:
        assert read.people == [1] and len(read.person(1).frames) == FRAMES
        assert [edit.kind for edit in read.edits.all()] == ["split", "delete", "merge"]
    with pytest.raises(RuntimeError, match="no person"):
        bpy.ops.meshpose.edit_people(kind="merge", refit=False)


def test_panels_show_what_there_is(take: Path) -> None:
    choose(2)
    layout = Layout()
    correct.draw_correct(layout, bpy.context)
    correct.draw_people_edits(layout, bpy.context)
    shown = [text for kind, text in layout.shown if kind == "operator"]
    assert {"meshpose.correct_joint", "meshpose.swap_sides", "meshpose.edit_people Merge"} <= set(shown)
    assert not any("apply" in text or "undo" in text for text in shown), "nothing to apply, nothing to take back"
    bpy.ops.meshpose.correct_joint(joint="knee.L")
    choose(2)
    bpy.context.scene.meshpose_correct.other = "1"
    bpy.ops.meshpose.edit_people(kind="swap", refit=False)
    layout = Layout()
    correct.draw_correct(layout, bpy.context)
    correct.draw_people_edits(layout, bpy.context)
    shown = [text for kind, text in layout.shown if kind == "operator"]
    assert "meshpose.apply_corrections Apply (1)" in shown and "meshpose.undo_by_hand" in shown
    assert ("label", "swap 2 1") in layout.shown


def test_without_a_take_nothing_is_offered() -> None:
    bpy.ops.wm.read_factory_settings(use_empty=True)
    meshpose_blender.register()
    try:
        layout = Layout()
        correct.draw_correct(layout, bpy.context)
        assert layout.shown == [] and not bpy.ops.meshpose.correct_joint.poll()
    finally:
        meshpose_blender.unregister()
