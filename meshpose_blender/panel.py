# SPDX-License-Identifier: GPL-3.0-or-later
"""The panel "MeshPose" in the 3D view's sidebar. It shows only what can be used now."""

from __future__ import annotations

import textwrap
from pathlib import Path

import bpy

from . import operators
from .job import Job

STAGES = {
    "start": "Starting",
    "track": "Finding and following people",
    "place": "Placing in space",
    "rig": "Fitting the rig",
    "preview": "Writing the preview",
}
"""What the panel calls a stage of the job; a stage that is not here is shown by its own name."""
CHARACTER = 7.0
"""Mean width of a character in pixels at the interface's normal scale; wraps sentences to the panel."""


class MESHPOSE_PT_panel(bpy.types.Panel):
    """From a clip to animated bodies."""

    bl_idname = "MESHPOSE_PT_panel"
    bl_label = "MeshPose"
    bl_space_type = "VIEW_3D"
    bl_region_type = "UI"
    bl_category = "MeshPose"

    def draw(self, context: bpy.types.Context) -> None:
        """Either the running job, or what starts one and how the last one ended."""
        if operators.watch.job is not None:
            draw_job(self.layout, operators.watch.job)
        else:
            draw_start(self.layout, context)


def draw_start(layout: bpy.types.UILayout, context: bpy.types.Context) -> None:
    """The clip, Convert when there is one, Load Take, how the last conversion ended, and how to begin it anew."""
    settings = context.scene.meshpose
    column = layout.column(align=True)
    if settings.clip:
        column.prop(settings, "clip", text="")
        row = column.row()
        row.scale_y = 1.5
        row.operator("meshpose.convert", icon="PLAY")
    else:
        row = column.row()
        row.scale_y = 1.5
        row.operator("meshpose.choose_clip", icon="FILE_MOVIE")
    layout.operator("meshpose.load_take", icon="IMPORT")
    watch = operators.watch
    if watch.message:
        draw_sentence(layout, context, watch.message, "ERROR" if watch.failed else "INFO")
    if watch.failed and "--restart" in watch.message and settings.clip:
        # The sentence is the command line's: here a button stands for its option.
        layout.operator("meshpose.convert", text="Begin Anew", icon="FILE_REFRESH").restart = True
    for warning in watch.warnings:
        draw_sentence(layout, context, warning, "ERROR")


def draw_job(layout: bpy.types.UILayout, job: Job) -> None:
    """The running job: clip, stage, frame, time left, and Cancel."""
    progress = job.progress
    column = layout.column()
    column.label(text=Path(operators.watch.clip).name, icon="FILE_MOVIE")
    if operators.watch.building:
        column.label(text="Building the scene", icon="SCENE_DATA")
        return
    stage = STAGES.get(progress.stage, progress.stage.capitalize())
    count = f" {progress.frame} / {progress.frames}" if progress.frames > 0 else ""
    column.progress(factor=progress.fraction, text=stage + count)
    if job.cancelling:
        column.label(text="Finishing the frame in work")
        return
    if progress.seconds_left is not None:
        column.label(text=f"{duration(progress.seconds_left)} left, {progress.fps:.1f} frames/s", icon="TIME")
    if progress.people > 0:
        column.label(text=operators.count_people(progress.people), icon="ARMATURE_DATA")
    column.operator("meshpose.cancel", icon="CANCEL")


def draw_sentence(layout: bpy.types.UILayout, context: bpy.types.Context, sentence: str, icon: str) -> None:
    """A sentence wrapped to the panel's width (Blender's labels do not wrap)."""
    width = context.region.width / (CHARACTER * context.preferences.system.ui_scale)
    column = layout.column(align=True)
    for index, line in enumerate(textwrap.wrap(sentence, max(int(width) - 6, 16))):
        column.label(text=line, icon=icon if index == 0 else "BLANK1")


def duration(seconds: float) -> str:
    """`0:07`, `12:30`, `1:02:03`."""
    minutes, rest = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def register() -> None:
    """Add the panel."""
    bpy.utils.register_class(MESHPOSE_PT_panel)


def unregister() -> None:
    """Take the panel away."""
    bpy.utils.unregister_class(MESHPOSE_PT_panel)
