# SPDX-License-Identifier: Apache-2.0
"""Exports of other programs' rigs, at a rate that is no whole number, with constraints on the rig: longer, all formats.

Slow: every rig is written in five formats and read back frame by frame.
"""

from __future__ import annotations

import json
from pathlib import Path

import bpy
import bvhio
import numpy as np
import pytest
from exports import bone_order, read_back, rigged_take, validate

from meshpose_blender import bake
from meshpose_blender.export import ExportSettings, export_people
from meshpose_blender.scene import BuiltTake, build_scene, takes

FRAMES = 24
RATE = 30 / 1.001
CLOSE = 1e-3  # metres
CLOSE_USD = 1.5e-3
"""Of a Rigify rig, whose stretched bones have scales: USD keeps these of a skeleton's animation as 16-bit numbers."""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def take(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rigged_take(tmp_path_factory.mktemp("take") / "walk.take", FRAMES)


def scene_with(take: Path, rig: str) -> BuiltTake:
    bpy.ops.wm.read_factory_settings(use_empty=True)
    build_scene(take, rig=rig)
    scene = bpy.context.scene
    scene.render.fps, scene.render.fps_base = 30, 1.001
    return takes(scene)[0]


def joints(built: BuiltTake) -> dict[int, tuple[list[str], np.ndarray]]:
    """Names of the bones that an export holds and their heads (F, B, 3), as Blender shows them; by person."""
    result: dict[int, tuple[list[str], list[np.ndarray]]] = {}
    for frame in range(1, FRAMES + 1):
        bpy.context.scene.frame_set(frame)
        graph = bpy.context.evaluated_depsgraph_get()
        for person in built.people:
            assert person.armature is not None
            posed = person.armature.evaluated_get(graph)
            names, _ = bake.bones_to_keep(person.armature)
            heads = [posed.matrix_world @ posed.pose.bones[name].head for name in names]
            result.setdefault(person.id, (names, []))[1].append(np.array(heads))
    return {number: (names, np.array(heads)) for number, (names, heads) in result.items()}


@pytest.mark.parametrize("rig", ["default", "mixamo", "game_engine", "rigify"])
def test_every_rig_in_every_format(take: Path, tmp_path: Path, rig: str) -> None:
    built = scene_with(take, rig)
    first = built.people[0].armature
    assert first is not None
    bone = first.pose.bones[-1]  # what a user adds: the copy of the rig has it in its keys
    limit = bone.constraints.new("COPY_ROTATION")
    limit.target, limit.subtarget = first, bake.bones_to_keep(first)[0][0]
    wanted = joints(built)
    files = export_people(built, tmp_path / "walk", ExportSettings(("fbx", "glb", "usd", "bvh", "abc"), "unreal"))
    read = read_back([file for file in files if file.suffix != ".bvh"], tmp_path, RATE, FRAMES)
    for number, (names, heads) in wanted.items():
        for end in (".fbx", ".glb", "_rig.usdc"):
            file = f"walk_person0{number}{end}"
            (bones,) = [value for key, value in read.items() if key.startswith(f"{file}|") and key.endswith("|bones")]
            (found,) = [value for key, value in read.items() if key.startswith(f"{file}|") and key.endswith("|heads")]
            error = np.linalg.norm(found[:, bone_order(bones, names)] - heads, axis=-1).max()
            print(f"{rig} {file}: {len(bones)} bones, joints off by at most {1e3 * error:.4f} mm")
            assert error < (CLOSE_USD if rig == "rigify" and end == "_rig.usdc" else CLOSE), file
        compare_bvh(tmp_path / f"walk_person0{number}.bvh", names, heads, CLOSE)
        assert validate(tmp_path / f"walk_person0{number}.glb")["issues"]["numErrors"] == 0  # type: ignore[index]


def compare_bvh(file: Path, names: list[str], heads: np.ndarray, close: float) -> None:
    """In centimetres and y up, as the preset wants it."""
    head = bvhio.readAsBvh(str(file))
    assert head.FrameCount == FRAMES and abs(head.FrameTime - 1 / RATE) < 1e-6
    root = bvhio.readAsHierarchy(str(file))
    for frame in range(FRAMES):
        root.loadPose(frame)
        found = {joint.Name: joint.PositionWorld for joint, _, _ in root.layout()}
        x, y, z = np.array([list(found[name]) for name in names]).T / 100
        error = np.linalg.norm(np.stack([x, -z, y], -1) - heads[frame], axis=-1).max()
        assert error < close, f"{file.name}, frame {frame}: {1e3 * error:.2f} mm"


def test_before_and_after_the_nearest_pose_is_held(take: Path, tmp_path: Path) -> None:
    """The second person comes two frames late: until then her rig stands as it will begin."""
    built = scene_with(take, "default")
    (file,) = export_people(built, tmp_path / "walk", ExportSettings(("glb",)), people=[2])
    heads = next(value for key, value in read_back([file], tmp_path, RATE, FRAMES).items() if key.endswith("|heads"))
    assert len(heads) == FRAMES
    assert np.abs(heads[:2] - heads[2]).max() < 1e-5 < np.abs(heads[3] - heads[2]).max()


def test_times_at_a_rate_that_is_no_whole_number(take: Path, tmp_path: Path) -> None:
    """What the files say themselves: Blender's FBX importers, for one, are off by the thousandth."""
    from io_scene_fbx import parse_fbx

    built = scene_with(take, "default")
    export_people(built, tmp_path / "walk", ExportSettings(("gltf", "fbx")), people=[1])
    top, _ = parse_fbx.parse(str(tmp_path / "walk_person01.fbx"))
    objects = next(element for element in top.elems if element.id == b"Objects")
    curves = [element for element in objects.elems if element.id == b"AnimationCurve"]
    keys = [next(e for e in curve.elems if e.id == b"KeyTime").props[0] for curve in curves]
    assert {len(times) for times in keys} <= {1, 2, FRAMES} and max(len(times) for times in keys) == FRAMES
    seconds = np.array(max(keys, key=len)) / 46186158000  # ticks of FBX
    assert np.abs(seconds - np.arange(FRAMES) / RATE).max() < 1e-6
    document = json.loads((tmp_path / "walk_person01.gltf").read_text("utf-8"))
    times = [a for a in document["accessors"] if a["type"] == "SCALAR" and "max" in a]
    ends = [accessor["max"][0] for accessor in times]
    assert abs(max(ends) - (FRAMES - 1) / RATE) < 1e-5
