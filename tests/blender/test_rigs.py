# SPDX-License-Identifier: Apache-2.0
"""Rigs of other programs in Blender against the core: names, axes, rest mesh, joints and surface on every frame."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import bpy
import numpy as np
import pytest
from read_back import evaluated

from meshpose.body import Body
from meshpose.errors import InputError
from meshpose.rigs import Rig
from meshpose_blender import compat
from meshpose_blender.keys import KeySettings
from meshpose_blender.rigging import RigChoice, rig_person
from meshpose_blender.scene import build_scene

SAMPLES = Path(__file__).resolve().parents[2] / "samples"
FRAMES = np.arange(1, 11)
SCALE = 0.93


def empty_scene() -> bpy.types.Collection:
    bpy.ops.wm.read_factory_settings(use_empty=True)
    collection = bpy.data.collections.new("person")
    bpy.context.scene.collection.children.link(collection)
    return collection


def motion(**changes: Any) -> Any:
    """The sample's walk, in the world: z up, on the floor."""
    with np.load(SAMPLES / "turn_truth.npz") as z:
        rotations, phenotype = z["rotations"][:90:9], z["phenotype"]
    count = len(rotations)
    walk = np.stack([np.linspace(0, 2, count), np.linspace(3, 2, count), np.full(count, 0.9)], 1)
    seen = np.ones(rotations.shape[:2], bool)
    values = {"phenotype": phenotype, "scale": SCALE, "rotations": rotations, "translation": walk, "keyed": seen}
    return SimpleNamespace(frames=np.arange(count), **{**values, **changes})


def heads(bones: bpy.types.Object, frame: int, prefix: str = "") -> dict[str, np.ndarray]:
    bpy.context.scene.frame_set(frame)
    posed = bones.evaluated_get(bpy.context.evaluated_depsgraph_get()).pose.bones
    return {bone.name.removeprefix(prefix): np.array(bone.head) for bone in posed if bone.name.startswith(prefix)}


@pytest.mark.parametrize("name", ["mixamo", "game_engine"])
def test_rig_in_blender(name: str) -> None:
    collection = empty_scene()
    body, rig, fit = Body.load(), Rig.load(name), motion()
    shape = body.shape(fit.phenotype)
    rigged = rig_person("p", body, fit, fit.frames, FRAMES, collection, RigChoice(name))
    bones, skinned = rigged.armature, rigged.body
    assert [b.name for b in bones.data.bones] == rig.names and not rigged.notes
    rest = rig.rest(body, shape)
    for b, bone in enumerate(bones.data.bones):
        axes = np.array(bone.matrix_local)[:3, :3]
        assert np.abs(axes - rest.axes[b]).max() < 2e-3, bone.name
        assert np.abs(np.array(bone.head_local) - SCALE * rest.heads[b]).max() < 1e-5, bone.name
    skinned.hide_set(False)
    bones.data.pose_position = "REST"
    resting, _ = evaluated(skinned, 1)
    assert np.abs(resting - SCALE * shape.vertices).max() < 1e-4, "the rest mesh is the body's"
    bones.data.pose_position = "POSE"
    own = body.pose(shape, fit.rotations, np.zeros((len(FRAMES), 3))) * SCALE + fit.translation[:, None]
    _, joints = body.transforms(shape, fit.rotations, np.zeros((len(FRAMES), 3)))
    joints = SCALE * joints + fit.translation[:, None]
    apart, surface = [], []
    for i, frame in enumerate(FRAMES.tolist()):
        found = heads(bones, frame)
        apart += [np.linalg.norm(found[n] - joints[i, j]) for n, j in zip(rest.names, rest.shared) if j >= 0]
        surface.append(np.linalg.norm(evaluated(skinned, frame)[0] - own[i], axis=1).mean())
    print(f"{name}: joints within {1e3 * max(apart):.2f} mm, surface {1e3 * np.mean(surface):.2f} mm on average")
    assert max(apart) < 3e-3 and np.mean(surface) < 10e-3
    if name == "game_engine":
        assert np.abs(heads(bones, 10)["Root"]).max() < 1e-5, "the root stays on the ground"


def test_rolls_are_blenders() -> None:
    """The file's rolls, read by Blender itself, give the axes that the core computes."""
    from meshpose.rigs import roll_axes

    empty_scene()
    data = bpy.data.armatures.new("a")
    target = bpy.data.objects.new("a", data)
    bpy.context.scene.collection.objects.link(target)
    bpy.context.view_layer.objects.active = target
    random = np.random.default_rng(0)
    ways, rolls = random.normal(size=(40, 3)), random.uniform(-3, 3, 40)
    ways[:3] = (0, 1, 0), (0, -1, 0), (0.003, -1, 0.001)
    bpy.ops.object.mode_set(mode="EDIT")
    for i, (way, roll) in enumerate(zip(ways, rolls)):
        bone = data.edit_bones.new(f"b{i:02}")
        bone.head, bone.tail, bone.roll = (0, 0, 0), way, roll
    bpy.ops.object.mode_set(mode="OBJECT")
    for i, (way, roll) in enumerate(zip(ways, rolls)):
        axes = np.array(data.bones[f"b{i:02}"].matrix_local)[:3, :3]
        assert np.abs(axes - roll_axes(way, roll)).max() < 2e-3, (i, way)


def test_t_pose_lies_beside_a_rig_that_wants_one() -> None:
    for name, wanted in (("mixamo", True), ("game_engine", False)):
        collection = empty_scene()
        body, fit = Body.load(), motion()
        bones = rig_person("p", body, fit, fit.frames, FRAMES, collection, RigChoice(name)).armature
        found = [action for action in bpy.data.actions if "T-pose" in action.name]
        assert bool(found) == wanted
        if found:
            assert found[0].use_fake_user and bones.animation_data.action != found[0]
            bones.animation_data.action = found[0]
            if hasattr(found[0], "slots"):
                bones.animation_data.action_slot = found[0].slots[0]
            at = heads(bones, 0)
            arm = at["mixamorig:LeftHand"] - at["mixamorig:LeftArm"]
            assert arm[0] / np.linalg.norm(arm) > 0.999


def test_bones_that_were_never_seen_get_no_keys() -> None:
    body = Body.load()
    legs = [i for i, n in enumerate(body.bone_names) if n.startswith(("upperleg", "lowerleg", "foot", "toe"))]
    fit = motion()
    fit.keyed[:, legs] = False
    for settings, wanted in (KeySettings(), False), (KeySettings(unseen=True), True):
        for rig, leg in ("default", "lowerleg01.L"), ("mixamo", "mixamorig:LeftLeg"):
            collection = empty_scene()
            bones = rig_person("p", body, fit, fit.frames, FRAMES, collection, RigChoice(rig, settings)).armature
            keyed = {curve.data_path.split('"')[1] for curve in compat.action_curves(bones)}
            assert (leg in keyed) == wanted and len(keyed) > 10


def test_bones_that_only_turn() -> None:
    """Asked for: no bone but the hips has a place of its own, and the surface is still near."""
    body, fit, collection = Body.load(), motion(), empty_scene()
    choice = RigChoice("mixamo", KeySettings(only_turns=True))
    rigged = rig_person("p", body, fit, fit.frames, FRAMES, collection, choice)
    moved = {c.data_path.split('"')[1] for c in compat.action_curves(rigged.armature) if "location" in c.data_path}
    assert moved == {"mixamorig:Hips"}
    assert all(bone.location.length < 1e-5 for bone in rigged.armature.pose.bones if bone.name not in moved)
    rigged.body.hide_set(False)
    shape = body.shape(fit.phenotype)
    own = body.pose(shape, fit.rotations, np.zeros((len(FRAMES), 3))) * SCALE + fit.translation[:, None]
    away = [np.linalg.norm(evaluated(rigged.body, f)[0] - own[i], axis=1).mean() for i, f in enumerate(FRAMES.tolist())]
    print(f"only turns: surface {1e3 * np.mean(away):.2f} mm")
    assert np.mean(away) < 10e-3


def test_change_of_rig(tmp_path: Path) -> None:
    """The button: the people of the take on another rig, and a re-fit keeps it."""
    from takes import make_take

    from meshpose_blender import registration
    from meshpose_blender.rebuild import build_or_replace
    from meshpose_blender.scene import takes

    bpy.ops.wm.read_factory_settings(use_empty=True)
    path = tmp_path / "walk.take"
    make_take(path, frames=4, people=1, fit=True).close()
    registration.register()
    try:
        build_scene(path)
        assert bpy.ops.meshpose.change_rig(rig="game_engine", reduce=True) == {"FINISHED"}
        for again in False, True:
            if again:
                build_or_replace(bpy.context.scene, path, True, frame_start=1)
            (built,) = takes(bpy.context.scene)
            bones = built.people[0].armature
            assert bones is not None and "pelvis" in bones.data.bones
    finally:
        registration.unregister()


def test_scene_with_another_rig(tmp_path: Path) -> None:
    from takes import make_take

    bpy.ops.wm.read_factory_settings(use_empty=True)
    path = tmp_path / "walk.take"
    make_take(path, frames=4, people=2, fit=True, gaps=False).close()
    built = build_scene(path, rig="mixamo", keys=KeySettings(True, 2.0, 5.0))
    rigs = [person.armature for person in built.people if person.armature is not None]
    for bones in rigs:
        assert "mixamorig:Hips" in bones.data.bones and bones["meshpose_rig"] == "mixamo"
    assert len({bones.animation_data.action for bones in rigs}) == 2, "an action each"
    with pytest.raises(InputError, match="--rig nobody"):
        build_scene(path, rig="nobody")


def test_rigify_controls_bring_the_deforming_bones_where_they_should() -> None:
    """Keys on torso, FK limbs, fingers; limbs set to FK; deforming bones within 3 mm, the surface within 10 mm."""
    collection = empty_scene()
    body, rig, fit = Body.load(), Rig.load("rigify"), motion()
    shape = body.shape(fit.phenotype)
    rigged = rig_person("p", body, fit, fit.frames, FRAMES, collection, RigChoice("rigify"))
    controls, skinned = rigged.armature, rigged.body
    assert not rigged.notes and "rig_id" in controls.data and controls.name == "p rig"
    assert not [o for o in collection.objects if "meta-rig" in o.name], "the meta-rig is taken away"
    keyed = {curve.data_path.split('"')[1] for curve in compat.action_curves(controls)}
    assert {"torso", "thigh_fk.L", "shin_fk.R", "upper_arm_fk.L", "forearm_fk.R", "hand_fk.L", "head"} <= keyed
    assert not [name for name in keyed if name.startswith(("ORG-", "DEF-", "MCH-"))]
    assert all(bone["IK_FK"] == 1.0 for bone in controls.pose.bones if "IK_FK" in bone)
    own = body.pose(shape, fit.rotations, np.zeros((len(FRAMES), 3))) * SCALE + fit.translation[:, None]
    _, joints = body.transforms(shape, fit.rotations, np.zeros((len(FRAMES), 3)))
    joints = SCALE * joints + fit.translation[:, None]
    rest = rig.rest(body, shape)
    skinned.hide_set(False)
    apart, surface = [], []
    for i, frame in enumerate(FRAMES.tolist()):
        found = heads(controls, frame, "DEF-")
        apart += [
            np.linalg.norm(found[n] - joints[i, j]) for n, j in zip(rest.names, rest.shared) if j >= 0 and n in found
        ]
        surface.append(np.linalg.norm(evaluated(skinned, frame)[0] - own[i], axis=1).mean())
    print(f"rigify: deforming bones within {1e3 * max(apart):.2f} mm, surface {1e3 * np.mean(surface):.2f} mm")
    assert len(apart) > 300 and max(apart) < 3e-3 and np.mean(surface) < 10e-3


def test_without_rigify_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from meshpose_blender import rigify

    monkeypatch.setattr(rigify, "MODULE", "no such add-on")
    collection, body, fit = empty_scene(), Body.load(), motion()
    rigged = rig_person("p", body, fit, fit.frames, FRAMES, collection, RigChoice("rigify"))
    assert len(rigged.notes) == 1 and "no Rigify add-on" in rigged.notes[0] and "\n" not in rigged.notes[0]
    assert "upper_arm.L" in rigged.armature.data.bones and compat.action_curves(rigged.armature)
