# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs inside a Blender with a window (see test_window.py): opens the MeshPose tab, then tells what it sees.

    blender --python tests/blender/window_steps.py -- CLIP FRAME

Prints lines of JSON: {"panel": [x, y, width]} (the sidebar's left and upper edge in X11 pixels) when the tab is open,
{"running": ..., "stage": ..., "frame": ..., "message": ...} while and after converting, and, when the scene stands and
the scene frame FRAME was shown for a while, {"vertices": ...}, then {"legend": ...}, whether it is switched on.
"""

from __future__ import annotations

import importlib
import json
import sys
from typing import Any

import bpy

CLIP, FRAME = sys.argv[sys.argv.index("--") + 1 :][:2]
SECONDS = 0.5
steps = 0
shown = 0


def say(**what: Any) -> None:
    """One line for the test."""
    print(json.dumps(what), flush=True)


def regions() -> tuple[bpy.types.Window, bpy.types.Area, bpy.types.Region]:
    """The window, its 3D view and that view's sidebar."""
    window = bpy.context.window_manager.windows[0]
    area = next(area for area in window.screen.areas if area.type == "VIEW_3D")
    return window, area, next(region for region in area.regions if region.type == "UI")


def step() -> float:
    """Blender's timer; one thing per call, so that the window is drawn in between."""
    global steps, shown
    steps += 1
    window, area, sidebar = regions()
    if steps == 1:
        area.spaces[0].show_region_ui = True
        bpy.context.scene.meshpose.clip = CLIP
    elif steps == 3:
        sidebar.active_panel_category = "MeshPose"  # works only once the sidebar has been drawn
    elif steps == 6:
        say(panel=[sidebar.x, window.height - sidebar.y - sidebar.height, sidebar.width])
    elif steps > 6:
        watch = importlib.import_module("bl_ext.user_default.meshpose.operators").watch
        progress = watch.job.progress if watch.job else None
        say(
            running=watch.job is not None,
            stage=progress.stage if progress else "",
            frame=progress.frame if progress else 0,
            message=watch.message,
            failed=watch.failed,
        )
        if watch.message and not watch.failed:
            shown += 1
            if shown == 1:
                bpy.context.scene.frame_set(int(FRAME))
            elif shown == 6:
                graph = bpy.context.evaluated_depsgraph_get()
                meshes = [o for o in bpy.context.scene.objects if o.type == "MESH" and o.visible_get()]
                say(vertices=max(len(o.evaluated_get(graph).data.vertices) for o in meshes))
            elif shown > 6:
                say(legend=bpy.context.scene.meshpose_looks.legend)
    if steps < 6 or shown:
        area.tag_redraw()  # else the extension itself sees to that
    return SECONDS


bpy.context.preferences.view.show_splash = False
bpy.app.timers.register(step, first_interval=1.0)
