# SPDX-License-Identifier: Apache-2.0
"""Scenes from damaged Takes: built from what can be right, or refused in one line with nothing half there."""

from __future__ import annotations

import shutil
from pathlib import Path

import bpy
import cv2
import numpy as np
import pytest
from damage import damaged_copies
from takes import FPS, HEIGHT, WIDTH, make_take

from meshpose.errors import MeshPoseError
from meshpose.motion import MotionSettings, solve_take
from meshpose.take import Take
from meshpose_blender.scene import build_scene

COPIES = 24


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """A finished Take and its clip."""
    path = tmp_path / "walk.take"
    fourcc = cv2.VideoWriter.fourcc(*"mp4v")
    writer = cv2.VideoWriter(str(path.with_suffix(".mp4")), fourcc, FPS, (WIDTH, HEIGHT))
    for index in range(10):
        writer.write(np.full((HEIGHT, WIDTH, 3), 20 * index, np.uint8))
    writer.release()
    make_take(path, frames=10, people=2, fit=True).close()
    with Take.resume(path) as take:
        for _ in solve_take(take, MotionSettings(), "made by the test"):
            pass
    return path


def test_damaged_takes(whole: Path, tmp_path: Path) -> None:
    built, refused = [], []
    for way, path in damaged_copies(whole, tmp_path, COPIES, seed=1):
        shutil.copy(whole.with_suffix(".mp4"), path.with_suffix(".mp4"))
        bpy.ops.wm.read_factory_settings(use_empty=True)
        try:
            people = build_scene(path).people
        except MeshPoseError as error:
            assert "\n" not in str(error) and path.name in str(error), (way, error)
            assert not bpy.data.collections and not bpy.data.objects, (way, error)
            refused.append(way)
            continue
        built.append(way)
        for person in people:
            bpy.context.scene.frame_set(5)
            mesh = person.mesh.evaluated_get(bpy.context.evaluated_depsgraph_get()).to_mesh()
            points = np.empty(3 * len(mesh.vertices), np.float32)
            mesh.vertices.foreach_get("co", points)
            assert np.isfinite(points).all(), way
    assert "as it was" in built and "as it was" not in refused
    assert {"cut off", "not finite", "zeroed page"} & set(refused), (built, refused)
