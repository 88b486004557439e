# SPDX-License-Identifier: Apache-2.0
"""The rig in Blender against the body in numpy: the same vertices, keys only where something moves."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import bpy
import numpy as np
import pytest
from read_back import evaluated

from meshpose.body import Body, Shape
from meshpose_blender import armature, compat
from meshpose_blender.footage import TURN

FRAMES = np.arange(5, 13)
LIFT, SCALE = 1.4, 0.93


def made_up_fit(body: Body) -> Any:
    """A fit that moves some bones at random, far and near, and turns the body into the camera frame."""
    rng = np.random.default_rng(3)
    count = len(FRAMES)
    rotations = np.zeros((count, len(body.bone_names), 4), np.float32)
    rotations[..., 0] = 1
    for name in ("spine03", "upperarm01.L", "lowerarm01.L", "upperleg01.R", "lowerleg01.R", "finger2-1.L", "head"):
        rotations[:, body.bone_names.index(name)] = rng.normal(0, 1, (count, 4)) + (2.5, 0, 0, 0)
    rotations[:, body.bone_names.index("foot.L")] = (0.9, 0.2, -0.1, 0.3)  # bent, but it stays so
    rotations[:, 0] = rng.normal(0, 0.2, (count, 4)) + (np.sqrt(0.5), np.sqrt(0.5), 0, 0)  # z up -> y down
    rotations /= np.linalg.norm(rotations, axis=-1, keepdims=True)
    translation = rng.normal(0, 1, (count, 3)) + (0, 0, 4)
    phenotype = np.array([0.8, 0.5, 0.7, 0.3, 0.7, 0.4])
    return SimpleNamespace(
        phenotype=phenotype, scale=SCALE, rotations=rotations, translation=translation, frames=np.arange(count)
    )


@pytest.fixture(scope="module")
def built() -> tuple[bpy.types.Object, bpy.types.Object, Body, Shape, Any]:
    bpy.ops.wm.read_factory_settings(use_empty=True)
    body = Body.load()
    fit = made_up_fit(body)
    shape = body.shape(fit.phenotype)
    collection = bpy.data.collections.new("person")
    bpy.context.scene.collection.children.link(collection)
    bones = armature.new_armature("rig", body, shape, fit.scale, collection)
    pose = armature.channels(bones, body, shape, fit, TURN, LIFT)
    armature.animate(bones, pose, fit.frames, FRAMES)
    skinned = armature.skinned_body("body", body, shape, fit.scale, bones, collection)
    return bones, skinned, body, shape, fit


def test_skinned_body_equals_numpy(built: tuple) -> None:
    _, skinned, body, shape, fit = built
    assert skinned.hide_get() and skinned.hide_render
    skinned.hide_set(False)
    posed = SCALE * body.pose(shape, fit.rotations, np.zeros((len(FRAMES), 3))) + fit.translation[:, None]
    wanted = posed @ TURN.T + (0, 0, LIFT)
    for i, frame in enumerate(FRAMES):
        found, _ = evaluated(skinned, int(frame))
        error = np.linalg.norm(found - wanted[i], axis=1)
        print(f"frame {frame}: mean {1e3 * error.mean():.4f} mm, worst {1e3 * error.max():.4f} mm")
        assert error.max() < 1e-3


def test_bones_stand_at_the_rest_heads_and_have_length(built: tuple) -> None:
    bones, _, body, shape, _ = built
    for c, name in enumerate(body.bone_names):
        bone = bones.data.bones[name]
        assert np.abs(np.array(bone.head_local) - SCALE * shape.heads[c]).max() < 1e-5, name
        assert np.abs(np.array(bone.matrix_local)[:3, :3] - shape.orientations[c]).max() < 2e-3, name
        assert 0.005 < bone.length < 0.6, (name, bone.length)


def test_keys_only_where_something_moves(built: tuple) -> None:
    bones, _, body, _, _ = built
    curves = compat.action_curves(bones)
    moved = {curve.data_path.split('"')[1] for curve in curves}
    assert "foot.L" not in moved and "toe1-1.R" not in moved
    assert {"root", "upperarm01.L", "finger2-1.L"} <= moved and len(moved) == 8
    assert all(len(curve.keyframe_points) == len(FRAMES) for curve in curves)
    assert np.abs(np.array(bones.pose.bones["foot.L"].rotation_quaternion) - (1, 0, 0, 0)).max() > 0.05


def test_quaternions_go_the_short_way() -> None:
    turn = np.linspace(0, 4 * np.pi, 50)
    rotations = np.stack([np.cos(turn / 2), np.sin(turn / 2), 0 * turn, 0 * turn], -1)[:, None]
    rotations[::3] *= -1
    steps = np.diff(armature.continuous(rotations), axis=0)
    assert np.abs(steps).max() < 0.2
