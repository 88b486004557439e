# SPDX-License-Identifier: Apache-2.0
"""The extension inside the bpy wheel: registered and unregistered, it leaves nothing; Blender's start stays light."""

from __future__ import annotations

import subprocess
import sys

import pytest

bpy = pytest.importorskip("bpy")

from panel_stand_ins import PROGRESS, fake  # noqa: E402

import meshpose_blender  # noqa: E402
from meshpose_blender import job as jobs  # noqa: E402
from meshpose_blender import operators, registration, watching  # noqa: E402


def test_register_and_unregister_twice_leave_nothing() -> None:
    bpy.ops.wm.read_factory_settings(use_empty=True)
    before = {name for name in dir(bpy.types) if "meshpose" in name.lower()}
    for _ in range(2):
        assert not hasattr(bpy.types.Scene, "meshpose")
        meshpose_blender.register()
        assert bpy.context.scene.meshpose.clip == ""
        assert bpy.types.MESHPOSE_PT_panel.bl_category == "MeshPose"
        meshpose_blender.unregister()
        assert {name for name in dir(bpy.types) if "meshpose" in name.lower()} == before
    assert not bpy.app.timers.is_registered(watching.look)


def test_every_operator_and_setting_says_what_it_does() -> None:
    meshpose_blender.register()
    classes = [cls for room in registration.ROOMS for cls in room.CLASSES]
    for cls in classes:
        if issubclass(cls, bpy.types.Operator):
            module, name = cls.bl_idname.split(".")
            known = getattr(getattr(bpy.ops, module), name).get_rna_type()
            assert len(known.description) > 15, cls.bl_idname
            assert known.description[-1] != ".", cls.bl_idname  # Blender's own have no full stop at the end
    for group in (bpy.context.scene.meshpose, bpy.context.scene.meshpose_looks):
        for known in group.bl_rna.properties:
            if known.identifier not in ("rna_type", "name", "candidates", "looked_at"):
                assert len(known.description) > 15, known.identifier
    meshpose_blender.unregister()


def test_blenders_start_loads_neither_opencv_nor_the_network() -> None:
    code = "import bpy, sys, meshpose_blender; meshpose_blender.register()\n"
    code += "print({'cv2', 'onnxruntime'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert "set()" in done.stdout.splitlines(), done.stdout + done.stderr


def test_unregister_ends_a_running_job(monkeypatch: pytest.MonkeyPatch) -> None:
    meshpose_blender.register()
    running = fake(PROGRESS, then="sys.stdin.read()")
    monkeypatch.setattr(jobs, "start", lambda *args, **settings: running)
    bpy.ops.meshpose.convert(clip="/x/a.mp4")
    meshpose_blender.unregister()
    assert running._process is not None and running._process.poll() is not None
    assert operators.watch.job is None and not bpy.app.timers.is_registered(watching.look)
