# SPDX-License-Identifier: Apache-2.0
"""A camera that turns gets keys, and the mesh falls on its pixels on every frame."""

from __future__ import annotations

from pathlib import Path

import bpy
import numpy as np
from bpy_extras.object_utils import world_to_camera_view
from mathutils import Vector
from takes import HEIGHT, WIDTH, make_take

from meshpose.body import rotation_matrix
from meshpose.motion import Looked, MotionSettings, solve_take
from meshpose.take import Take
from meshpose_blender.scene import build_scene

COUNT = 12


def test_a_turning_camera_is_keyed(tmp_path: Path) -> None:
    half = 0.006 * np.arange(COUNT)
    turns = rotation_matrix(np.stack([np.cos(half), 0 * half, np.sin(half), 0 * half], 1))
    make_take(tmp_path / "pan.take", frames=COUNT, people=1, fit=True).close()
    with Take.resume(tmp_path / "pan.take") as take:
        looked = Looked(take.frames, take.times(), turns, ("moving camera: told",))
        for _ in solve_take(take, MotionSettings(camera="moving"), "made by the test", looked):
            pass
    bpy.ops.wm.read_homefile(use_empty=True)
    built = build_scene(tmp_path / "pan.take")
    assert "moving camera: told" in built.notes
    scene, headings = bpy.context.scene, []
    with Take.open(tmp_path / "pan.take") as take:
        person = take.person(1)
        world, pixels = person.lowpoly_world(), person.lowpoly_pixels()[..., :2]
    for frame in range(COUNT):
        scene.frame_set(scene.frame_start + frame)
        seen = [world_to_camera_view(scene, built.camera, Vector(v.tolist())) for v in world[frame, ::50]]
        found = np.array([(point.x * WIDTH, (1 - point.y) * HEIGHT) for point in seen])
        np.testing.assert_allclose(found, pixels[frame, ::50], atol=0.02)
        headings.append(built.camera.rotation_euler.z)
    np.testing.assert_allclose(np.diff(headings), -0.012, atol=1e-4, err_msg="it turns to the right")
