# SPDX-License-Identifier: GPL-3.0-or-later
"""What Blender is told when the extension is enabled, and takes back when it is disabled: all classes, in order."""

from __future__ import annotations

import bpy

from . import (
    correct,
    export_panel,
    imports,
    look_settings,
    operators,
    overlay,
    panel,
    people,
    retarget,
    settings,
    view,
    watching,
)

ROOMS = (settings, look_settings, operators, imports, people, overlay, export_panel, retarget, correct, panel)
"""Modules with CLASSES, those first that others refer to."""


def register() -> None:
    """Classes, the panel's settings in the scene, menus and the legend of the viewport."""
    for room in ROOMS:
        for cls in room.CLASSES:
            bpy.utils.register_class(cls)
    bpy.types.Scene.meshpose = bpy.props.PointerProperty(type=settings.MeshPoseProperties)
    bpy.types.Scene.meshpose_looks = bpy.props.PointerProperty(type=look_settings.MeshPoseLooks)
    bpy.types.Scene.meshpose_export = bpy.props.PointerProperty(type=export_panel.MeshPoseExport)
    bpy.types.Scene.meshpose_correct = bpy.props.PointerProperty(type=correct.MeshPoseCorrect)
    panel.HOOKS["correct", "draw_correct"] = correct.draw_correct
    panel.HOOKS["correct", "draw_people_edits"] = correct.draw_people_edits
    panel.HOOKS["export", "draw_export"] = export_panel.draw_export
    panel.HOOKS["retarget", "draw_rig"] = retarget.draw_rig
    imports.register_menus()
    view.register()


def unregister() -> None:
    """End a running job, then take everything away again."""
    watching.close()
    view.unregister()
    imports.unregister_menus()
    panel.forget_pictures()
    panel.HOOKS.clear()
    del bpy.types.Scene.meshpose, bpy.types.Scene.meshpose_looks, bpy.types.Scene.meshpose_export
    del bpy.types.Scene.meshpose_correct
    for room in reversed(ROOMS):
        for cls in reversed(room.CLASSES):
            bpy.utils.unregister_class(cls)
