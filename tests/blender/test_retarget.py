# SPDX-License-Identifier: Apache-2.0
"""A walk on characters of the user: other rest poses, rolls, scales, axes, names; read back from Blender, posed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import bpy
import numpy as np
import pytest
from mathutils import Matrix

from meshpose.body import Body, quaternion, rotation_matrix
from meshpose.errors import InputError
from meshpose.mapping import find_roles, named_roles
from meshpose.retarget import NEXT, RetargetSettings
from meshpose.rigs import Rig, t_pose
from meshpose_blender import armature, compat, registration, retarget
from meshpose_blender.keys import KeySettings
from meshpose_blender.rigging import RigChoice, rig_person
from training.sample import camera_turn

SAMPLES = Path(__file__).resolve().parents[2] / "samples"
FRAMES = np.arange(1, 41)


def walk() -> Any:
    """The sample's walk, upright on the floor."""
    body = Body.load()
    with np.load(SAMPLES / "turn_truth.npz") as z:
        rotations, translation, phenotype = z["rotations"][:40].copy(), z["translation"][:40], z["phenotype"]
    upright = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]]) @ camera_turn().T
    rotations[:, 0] = quaternion(upright @ rotation_matrix(rotations[:, 0].astype(np.float64)))
    way = translation @ upright.T
    way = way - (0, 0, body.transforms(body.shape(phenotype), rotations, way)[1][..., 2].min() - 0.02)
    return SimpleNamespace(
        phenotype=phenotype, scale=1.0, rotations=rotations, translation=way, frames=np.arange(len(way))
    )


@pytest.fixture
def source() -> bpy.types.Object:
    bpy.ops.wm.read_factory_settings(use_empty=True)
    collection = bpy.data.collections.new("person")
    bpy.context.scene.collection.children.link(collection)
    bpy.context.scene.render.fps = 25
    fit = walk()
    return rig_person("person", Body.load(), fit, fit.frames, FRAMES, collection, RigChoice()).armature


def character(
    rig: str, pose: np.ndarray | None = None, matrix: Matrix | None = None, unit: float = 1.0, odd: bool = False
) -> bpy.types.Object:
    """An armature as somebody else made it: bones in another rest pose, in centimetres (unit 100 with an object of
    scale 0.01), odd: tails and rolls that say nothing, as many importers make them.
    """
    body, random = Body.load(), np.random.default_rng(1)
    one, shape = Rig.load(rig), Body.load().shape({"height": 0.8, "weight": 0.7})
    rest = one.rest(body, shape)
    heads, axes = rest.heads, rest.axes
    if pose is not None:
        posed = one.posed(body, shape, pose[None])
        heads, axes = posed.heads[0], posed.linear[0] @ axes
        if rest.root >= 0:
            heads[rest.root] = (0, 0, heads[:, 2].min() - 0.02)
    heads = heads - (0, 0, heads[:, 2].min() - 0.02)
    data = bpy.data.armatures.new("Knight")
    target = bpy.data.objects.new("Knight", data)
    bpy.context.scene.collection.objects.link(target)
    bpy.context.view_layer.objects.active = target
    turn = np.array(matrix.to_3x3()).T / matrix.to_scale()[0] if matrix is not None else np.eye(3)
    bpy.ops.object.mode_set(mode="EDIT")
    made: list[bpy.types.EditBone] = []
    for b, name in enumerate(rest.names):
        bone = data.edit_bones.new(name)
        length = max(np.linalg.norm(rest.tails[b] - rest.heads[b]), 0.01)
        way = np.array([0, 0, 0.05]) if odd else axes[b][:, 1] * length
        bone.head, bone.tail = unit * turn @ heads[b], unit * turn @ (heads[b] + way)
        bone.roll = random.uniform(-3, 3)
        if rest.parents[b] >= 0:
            bone.parent = made[rest.parents[b]]
        made.append(bone)
    bpy.ops.object.mode_set(mode="OBJECT")
    if matrix is not None:
        target.matrix_world = matrix
    bpy.context.view_layer.update()
    return target


def sitting() -> np.ndarray:
    body = Body.load()
    pose = t_pose(body, body.shape())
    for name in ("upperleg01.L", "upperleg01.R"):
        index = body.bone_names.index(name)
        pose[index] = quaternion(rotation_matrix([0.8, -0.6, 0, 0]) @ rotation_matrix(pose[index]))
    return pose


def places(target: bpy.types.Object, frame: int) -> dict[str, np.ndarray]:
    bpy.context.scene.frame_set(frame)
    posed = target.evaluated_get(bpy.context.evaluated_depsgraph_get())
    return {bone.name: np.array(posed.matrix_world @ bone.head) for bone in posed.pose.bones}


def apart(source: bpy.types.Object, target: bpy.types.Object, preset: str, frames: list[int]) -> dict[str, float]:
    """Largest angle of every mapped part between both, degrees."""
    names = [[bone.name for bone in which.data.bones] for which in (source, target)]
    roles = named_roles(names[0], "default"), named_roles(names[1], preset)
    result: dict[str, float] = {}
    for frame in frames:
        both = places(source, frame), places(target, frame)
        for base, after in NEXT.items():
            for side in "LR":
                ends = f"{base}.{side}", f"{after}.{side}"
                if not all(e in r for e in ends for r in roles):
                    continue
                ways = [p[n[r[ends[1]][0]]] - p[n[r[ends[0]][0]]] for p, n, r in zip(both, names, roles)]
                cosine = ways[0] @ ways[1] / np.linalg.norm(ways[0]) / np.linalg.norm(ways[1])
                angle = float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))
                result[ends[0]] = max(result.get(ends[0], 0), angle)
    return result


CENTIMETRES = Matrix.Translation((1, 2, 0)) @ Matrix.Rotation(1.1, 4, "Z") @ Matrix.Rotation(np.pi / 2, 4, "X")
CASES = {
    "mixamo in a T-pose": ("mixamo", "T", None, 1.0, False),
    "unreal in centimetres, y up, turned": ("game_engine", "A", CENTIMETRES @ Matrix.Scale(0.01, 4), 100.0, False),
    "meta-rig with odd tails and rolls": ("rigify", "A", None, 1.0, True),
    "mixamo sitting, y up": ("mixamo", "sitting", CENTIMETRES, 1.0, True),
}


@pytest.mark.parametrize("case", CASES)
def test_parts_point_where_the_source_points(source: bpy.types.Object, case: str) -> None:
    rig, rest, matrix, unit, odd = CASES[case]
    body = Body.load()
    pose = {"A": None, "T": t_pose(body, body.shape()), "sitting": sitting()}[rest]
    target = character(rig, pose, matrix, unit, odd)
    preset = retarget.OURS[rig]
    outcome = retarget.retarget(source, target, settings=RetargetSettings(lock_feet=False))
    assert outcome.names == preset and outcome.action == target.animation_data.action
    angles = apart(source, target, preset, [1, 14, 27, 40])
    print(f"{case}: {max(angles.values()):.3f} degrees at most, of {len(angles)} parts")
    assert len(angles) >= 14 and max(angles.values()) < 1
    assert set(outcome.mapped) | set(outcome.unmapped) == {bone.name for bone in target.data.bones}
    if rig == "rigify":
        assert "heel.02.L" in outcome.unmapped


def test_feet_root_and_keys(source: bpy.types.Object) -> None:
    """Locked feet do not slide; root motion goes to the root bone; few keys when asked."""
    target = character("game_engine")
    settings = RetargetSettings(root="root", lock_feet=True)
    outcome = retarget.retarget(source, target, settings=settings, key_settings=KeySettings(True, 0.5, 2.0))
    curves = compat.action_curves(target)
    counts = [len(curve.keyframe_points) for curve in curves]
    moved = {curve.data_path.split('"')[1] for curve in curves if "location" in curve.data_path}
    assert moved == {"Root", "pelvis"} and np.mean(counts) < 0.7 * len(FRAMES), (moved, np.mean(counts))
    assert outcome.action.name.startswith("Knight person")
    way = np.array([places(target, int(f))["foot_l"] for f in FRAMES])
    toe = np.array([places(target, int(f))["ball_l"] for f in FRAMES])
    slowest = np.minimum(*(np.linalg.norm(np.diff(p, axis=0), axis=1) for p in (way, toe)))
    print(f"slowest tenth of the steps of the left foot: {1000 * np.percentile(slowest, 10):.2f} mm a frame")
    assert np.percentile(slowest, 10) < 2.5e-3


def test_on_a_generated_rigify_rig(source: bpy.types.Object) -> None:
    """Keys on its controls; the deforming bones point where the source points."""
    from meshpose_blender import rigify

    assert not rigify.missing()
    body, rig = Body.load(), Rig.load("rigify")
    from meshpose_blender.armature import RIG, new_armature

    collection = bpy.data.collections.new("hero")
    bpy.context.scene.collection.children.link(collection)
    meta = new_armature("Hero meta-rig", body, body.shape({"height": 0.8}), 1.1, collection, rig)
    hero = rigify.generate(meta, rig)
    del hero[RIG]
    outcome = retarget.retarget(source, hero, settings=RetargetSettings(lock_feet=False))
    keyed = {curve.data_path.split('"')[1] for curve in compat.action_curves(hero)}
    assert {"torso", "thigh_fk.L", "forearm_fk.R"} <= keyed and outcome.names == "rigify"
    names = [bone.name for bone in hero.data.bones if bone.name.startswith("DEF-")]
    roles = named_roles(names, "rigify")
    ours = [bone.name for bone in source.data.bones]
    roles_s = named_roles(ours, "default")
    for frame in (1, 20, 40):
        a, b = places(source, frame), places(hero, frame)
        for role, after in (("thigh.L", "shin.L"), ("shin.R", "foot.R"), ("upper_arm.L", "forearm.L")):
            ways = [p[n[r[after][0]]] - p[n[r[role][0]]] for p, n, r in ((a, ours, roles_s), (b, names, roles))]
            cosine = ways[0] @ ways[1] / np.linalg.norm(ways[0]) / np.linalg.norm(ways[1])
            assert np.degrees(np.arccos(min(cosine, 1))) < 1, (frame, role)


def test_what_cannot_be_is_one_line(source: bpy.types.Object) -> None:
    target = character("mixamo")
    target.scale = (1, 2, 1)
    bpy.context.view_layer.update()
    with pytest.raises(InputError, match="scale differs"):
        retarget.retarget(source, target)
    target.scale = (1, 1, 1)
    bpy.context.view_layer.update()
    with pytest.raises(InputError, match="another armature"):
        retarget.retarget(source, source)
    assert target.animation_data is None
    target.pose.bones["mixamorig:LeftArm"].constraints.new("IK")
    outcome = retarget.retarget(source, target)
    assert [note for note in outcome.notes if "mixamorig:LeftArm" in note]


def test_operator_lists_what_got_nothing(source: bpy.types.Object) -> None:
    target = character("rigify")
    registration.register()
    try:
        for which in (source, target):
            which.select_set(True)
        bpy.context.view_layer.objects.active = target
        assert bpy.ops.meshpose.retarget(root="in_place") == {"FINISHED"}
        assert "heel.02.L" in target["meshpose_retargeted"]
        hips = [places(target, frame)["spine"] for frame in (1, 40)]
        assert np.abs(hips[0][:2] - hips[1][:2]).max() < 0.05
    finally:
        registration.unregister()


def test_names_that_say_nothing(source: bpy.types.Object) -> None:
    target = character("mixamo")
    for i, bone in enumerate(list(target.data.bones)):
        bone.name = f"node{i:03}"
    outcome = retarget.retarget(source, target)
    assert outcome.names == "geometry" and len(outcome.mapped) > 12
    names = [bone.name for bone in target.data.bones]
    parents = [names.index(bone.parent.name) if bone.parent else -1 for bone in target.data.bones]
    assert find_roles(names, parents, [bone.head_local for bone in target.data.bones])[1] == "geometry"


@pytest.mark.parametrize("rig", ["mixamo", "rigify"])
def test_from_another_rig(rig: str) -> None:
    """What the user sees on one of our other rigs, corrections included, is what a character gets."""
    bpy.ops.wm.read_factory_settings(use_empty=True)
    collection = bpy.data.collections.new("person")
    bpy.context.scene.collection.children.link(collection)
    fit, few = walk(), FRAMES[:6]
    source = rig_person("person", Body.load(), fit, fit.frames[:6], few, collection, RigChoice(rig)).armature
    target = character("mixamo", t_pose(Body.load(), Body.load().shape()))
    retarget.retarget(source, target, settings=RetargetSettings(lock_feet=False))
    ours = [bone.name for bone in source.data.bones if rig != "rigify" or bone.name.startswith("DEF-")]
    names = [bone.name for bone in target.data.bones]
    roles = named_roles(ours, rig), named_roles(names, "mixamo")
    for frame in (1, 6):
        both = places(source, frame), places(target, frame)
        for base in ("thigh", "shin", "upper_arm", "forearm"):
            ends = f"{base}.L", f"{NEXT[base]}.L"
            ways = [p[n[r[ends[1]][0]]] - p[n[r[ends[0]][0]]] for p, n, r in zip(both, (ours, names), roles)]
            cosine = ways[0] @ ways[1] / np.linalg.norm(ways[0]) / np.linalg.norm(ways[1])
            assert np.degrees(np.arccos(min(cosine, 1))) < 1, (rig, frame, base)


def test_feet_stand_when_the_take_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Contact goes with the rig from the Take; it is looked for anew only where nothing is known."""
    bpy.ops.wm.read_factory_settings(use_empty=True)
    fit = walk()
    fit.contact = np.zeros((len(fit.frames), 4), bool)
    fit.contact[5:12, 0] = fit.contact[9:15, 1] = fit.contact[20:30, 3] = True
    source = rig_person(
        "person", Body.load(), fit, fit.frames, FRAMES, bpy.context.scene.collection, RigChoice()
    ).armature
    wanted = fit.contact.reshape(-1, 2, 2).any(2)
    kept = armature.contact_of(source, FRAMES)
    assert kept is not None and (kept == wanted).all()
    given: list[Any] = []
    carried = retarget.carry_over

    def carry_over(*what: Any) -> Any:
        given.append(what[5])
        return carried(*what)

    monkeypatch.setattr(retarget, "carry_over", carry_over)
    retarget.retarget(source, character("mixamo"), frames=(1, 40))
    np.testing.assert_array_equal(given[0], wanted)
    source[armature.CONTACT] = "?"
    assert armature.contact_of(source, FRAMES) is None
    retarget.retarget(source, character("mixamo"), frames=(1, 40))
    assert given[1] is None, "then it is looked for"
