# SPDX-License-Identifier: GPL-3.0-or-later
"""The panel "MeshPose" in the 3D view's sidebar (tab of the same name), and its sub-panels.

It shows only what can be used now; where a whole sub-panel has nothing to show, one sentence says why.

For a test with a mouse: with a clip chosen, the panel's first row is the clip, and the second, half as tall again, is
the button Convert (operator `meshpose.convert`): its middle is 73 pixels below the sidebar's upper edge at the normal
scale.  While a job runs the first rows are its name, the bar, the time left, and Cancel; afterwards the panel is as
before, with the result's sentence below the buttons (`operators.watch.message`).
"""

from __future__ import annotations

import os
import textwrap
from pathlib import Path
from typing import Any

import bpy
import bpy.utils.previews

from . import imports, looks, people, watching
from . import job as jobs
from .job import Job
from .looks import socket
from .scene import BuiltPerson, BuiltTake, takes
from .settings import MESHPOSE_PT_presets, MeshPoseProperties, model_is_a_choice
from .watching import count_people, watch

STAGES = {
    "start": "Starting",
    "track": "Finding and following people",
    "place": "Placing in space",
    "rig": "Fitting the rig",
    "motion": "Steadying the motion",
    "preview": "Writing the preview",
}
"""What the panel calls a stage of the job; a stage that is not here is shown by its own name."""
CHARACTER = 7.0
"""Mean width of a character in pixels at the interface's normal scale; wraps sentences to the panel."""
NOTHING_YET = "Convert a clip or load a Take first"

_pictures: dict[str, Any] = {}
"""Blender's collection of pictures to draw in panels, and which file stands in it."""


class _Sub:
    """What all sub-panels have in common."""

    bl_space_type = "VIEW_3D"
    bl_region_type = "UI"
    bl_category = "MeshPose"
    bl_parent_id = "MESHPOSE_PT_panel"
    bl_options = {"DEFAULT_CLOSED"}


class MESHPOSE_PT_panel(bpy.types.Panel):
    """From a clip to animated bodies."""

    bl_idname = "MESHPOSE_PT_panel"
    bl_label = "MeshPose"
    bl_space_type = "VIEW_3D"
    bl_region_type = "UI"
    bl_category = "MeshPose"

    def draw_header_preset(self, context: bpy.types.Context) -> None:
        """The conversion's presets."""
        MESHPOSE_PT_presets.draw_panel_header(self.layout)

    def draw(self, context: bpy.types.Context) -> None:
        """Either the running job, or what starts one and how the last one ended; below, what waits."""
        if watch.job is not None:
            draw_job(self.layout, watch.job)
        else:
            draw_start(self.layout, context)
        draw_queue(self.layout)
        draw_message(self.layout, context)


def draw_start(layout: bpy.types.UILayout, context: bpy.types.Context) -> None:
    """The clip, Convert when there is one, Resume, Load Take; or what is missing in this Blender."""
    settings = context.scene.meshpose
    missing = jobs.missing_packages()
    if missing:
        draw_sentence(layout, context, jobs.advice(missing), "ERROR")
    else:
        column = layout.column(align=True)
        if settings.clip:
            column.prop(settings, "clip", text="")
        row = column.row()
        row.scale_y = 1.5
        if settings.clip:
            row.operator("meshpose.convert", icon="PLAY")
        else:
            row.operator("meshpose.choose_clip", icon="FILE_MOVIE")
        if watch.stopped is not None:
            layout.operator("meshpose.resume", text=f"Resume {watch.stopped.name}", icon="FF")
        elif watch.queue:
            layout.operator("meshpose.resume", text="Resume Queue", icon="FF")
    if watch.ready is not None and watch.ready.is_file():
        layout.operator("meshpose.load_take", text=f"Load {watch.ready.name}", icon="IMPORT").filepath = str(
            watch.ready
        )
    else:
        layout.operator("meshpose.load_take", icon="IMPORT")


def draw_job(layout: bpy.types.UILayout, job: Job) -> None:
    """The running job: clip, stage, frame, time left, and Cancel."""
    progress = job.progress
    column = layout.column()
    column.label(text=Path(watch.clip).name, icon="FILE_MOVIE")
    if watch.building:
        column.label(text="Building the scene", icon="SCENE_DATA")
        return
    if watch.task is not None and watch.task.kind == "look":
        column.label(text=f"Looking for people on frame {watch.task.frame + 1}", icon="VIEWZOOM")
        column.operator("meshpose.cancel", icon="CANCEL")
        return
    stage = STAGES.get(progress.stage, progress.stage.capitalize())
    count = f" {progress.frame} / {progress.frames}" if progress.frames > 0 else ""
    column.progress(factor=progress.fraction, text=stage + count)
    if job.state is jobs.State.DONE:
        column.label(text="Waiting until the render is done", icon="RENDER_ANIMATION")
        return
    if job.cancelling:
        column.label(text="Finishing the frame in work")
        return
    if progress.seconds_left is not None:
        column.label(text=f"{duration(progress.seconds_left)} left, {progress.fps:.1f} frames/s", icon="TIME")
    if progress.people > 0:
        column.label(text=count_people(progress.people), icon="ARMATURE_DATA")
    column.operator("meshpose.cancel", icon="CANCEL")


def draw_queue(layout: bpy.types.UILayout) -> None:
    """What waits, and how more gets there while a job runs."""
    if watch.queue:
        column = layout.column(align=True)
        for index, task in enumerate(watch.queue):
            row = column.row(align=True)
            row.label(text=task.name, icon="SORTTIME")
            row.operator("meshpose.unqueue", text="", icon="X").index = index
    if watch.job is not None and not watch.building:
        layout.operator("meshpose.choose_clip", text="Add Clips to the Queue", icon="ADD").queue = True


def draw_message(layout: bpy.types.UILayout, context: bpy.types.Context) -> None:
    """How the last job ended, with what can be done about it."""
    if watch.message:
        draw_sentence(layout, context, watch.message, "ERROR" if watch.failed else "INFO")
    for warning in watch.warnings:
        draw_sentence(layout, context, warning, "ERROR")
    if watch.failed:
        if "--restart" in watch.message and watch.job is None and context.scene.meshpose.clip:
            # The sentence is the command line's: here a button stands for its option.
            layout.operator("meshpose.convert", text="Begin Anew", icon="FILE_REFRESH").restart = True
        row = layout.row(align=True)
        row.operator("meshpose.copy_details", icon="COPYDOWN")
        row.operator("meshpose.dismiss", text="", icon="X")


# -- sub-panels --------------------------------------------------------------------------------------------------------


class MESHPOSE_PT_clip(_Sub, bpy.types.Panel):
    """Where the clip comes from, which part of it, and through which lens it was seen."""

    bl_idname = "MESHPOSE_PT_clip"
    bl_label = "Clip"

    def draw(self, context: bpy.types.Context) -> None:
        """Sources that are there; then the options of the clip, once there is one."""
        layout, settings = self.layout, context.scene.meshpose
        column = layout.column(align=True)
        column.operator("meshpose.choose_clip", icon="FILE_FOLDER")
        if imports.active_strip(context.scene) is not None:
            column.operator("meshpose.from_strip", icon="SEQUENCE")
        if len(bpy.data.movieclips):
            column.menu("MESHPOSE_MT_movie_clips", icon="TRACKER")
        if not settings.clip:
            return
        layout.use_property_split, layout.use_property_decorate = True, False
        layout.prop(settings, "use_range")
        if settings.use_range:
            column = layout.column(align=True)
            column.prop(settings, "first")
            column.prop(settings, "last")
        layout.prop(settings, "frame_start")
        draw_lens(layout, settings)
        if model_is_a_choice():
            layout.prop(settings, "model")
        layout.prop(settings, "second_look")
        layout.prop(settings, "folder")
        layout.prop(settings, "preview")


def draw_lens(layout: bpy.types.UILayout, settings: MeshPoseProperties) -> None:
    """How wide the camera saw."""
    layout.prop(settings, "lens")
    if settings.lens == "FOCAL":
        layout.prop(settings, "focal_mm")
    elif settings.lens == "FOV":
        layout.prop(settings, "fov")


class MESHPOSE_PT_people(_Sub, bpy.types.Panel):
    """Whom to convert, and who was converted."""

    bl_idname = "MESHPOSE_PT_people"
    bl_label = "People"

    def draw(self, context: bpy.types.Context) -> None:
        """Before a conversion the choice, after it the result; both where both are there."""
        layout, settings = self.layout, context.scene.meshpose
        if settings.clip:
            draw_choice(layout, settings)
            column = layout.column()
            column.use_property_split, column.use_property_decorate = True, False
            for switch, value in (("use_max_people", "max_people"), ("use_height", "height")):
                column.prop(settings, switch)
                if getattr(settings, switch):
                    column.prop(settings, value)
            column.prop(settings, "min_size")
            column.prop(settings, "detect_every")
        found = takes(context.scene)
        for built in found:
            draw_result(layout, built)
        if found:
            draw_hook("correct", "draw_people_edits", layout, context)
        elif not settings.clip:
            layout.label(text="Choose a clip first", icon="INFO")


def draw_choice(layout: bpy.types.UILayout, settings: MeshPoseProperties) -> None:
    """The look at one frame: its picture, and who of it is wanted."""
    if watch.job is None:
        layout.operator("meshpose.find_people", icon="VIEWZOOM")
    if not len(settings.candidates):
        return
    icon = picture(watching.look_picture())
    if icon:
        layout.template_icon(icon_value=icon, scale=9.0)
    column = layout.column(align=True)
    for person in settings.candidates:
        column.prop(person, "chosen", text=f"{person.number}   {person.score:.0%} sure", toggle=False)


def draw_result(layout: bpy.types.UILayout, built: BuiltTake) -> None:
    """The people of one take: name, how surely seen, the worst frame, eye and camera."""
    box = layout.box().column(align=True)
    box.label(text=built.collection.name, icon="OUTLINER_COLLECTION")
    for person in built.people:
        row = box.row(align=True)
        row.prop(person.collection, "name", text="")
        draw_confidence(row, person)
        row.prop(person.collection, "hide_viewport", text="", emboss=False)
        row.prop(person.collection, "hide_render", text="", emboss=False)
    if not built.people:
        box.label(text="Nobody", icon="INFO")


def draw_confidence(row: bpy.types.UILayout, person: BuiltPerson) -> None:
    """How surely a person was seen, on the button that goes to where least."""
    sure = people.confidence(person)
    if sure is not None:
        worst = row.operator("meshpose.worst_frame", text=f"{sure:.0%}", icon="FRAME_NEXT")
        worst.person = person.collection.name


class MESHPOSE_PT_mesh(_Sub, bpy.types.Panel):
    """Which bodies are seen, and how."""

    bl_idname = "MESHPOSE_PT_mesh"
    bl_label = "Mesh"

    def draw(self, context: bpy.types.Context) -> None:
        """Bodies, x-ray, onion skin, and the camera's view."""
        layout, shown = self.layout, context.scene.meshpose_looks
        built = people.active_take(context)
        if built is None or not built.people:
            layout.label(text=NOTHING_YET, icon="INFO")
            return
        layout.use_property_split, layout.use_property_decorate = True, False
        column = layout.column(heading="Show", align=True)
        column.prop(shown, "show_mesh")
        if looks.targets(built, "body"):
            column.prop(shown, "show_body")
        layout.prop(shown, "xray")
        if looks.settings_in(built) is not None:
            layout.prop(shown, "ghosts")
            if shown.ghosts:
                column = layout.column(align=True)
                column.prop(shown, "ghost_every", text="Every (Frames)")
                column.prop(shown, "ghosts_before")
                column.prop(shown, "ghosts_after")
        if built.camera is not None:
            layout.operator("meshpose.match_camera", icon="VIEW_CAMERA")


class MESHPOSE_PT_rig(_Sub, bpy.types.Panel):
    """The armature."""

    bl_idname = "MESHPOSE_PT_rig"
    bl_label = "Rig"

    def draw(self, context: bpy.types.Context) -> None:
        """The rig of the next conversion, and what `retarget` offers for the one that is there."""
        settings = context.scene.meshpose
        column = self.layout.column()
        column.use_property_split, column.use_property_decorate = True, False
        column.prop(settings, "rig")
        column.prop(settings, "reduce_keys")
        built = people.active_take(context)
        if built is not None:
            draw_refit(self.layout, context, built)
            draw_hook("retarget", "draw_rig", self.layout, context)


class MESHPOSE_PT_motion(_Sub, bpy.types.Panel):
    """Everything between what was seen and the keys."""

    bl_idname = "MESHPOSE_PT_motion"
    bl_label = "Motion"

    def draw(self, context: bpy.types.Context) -> None:
        """Settings of the next conversion; with a take there, Re-fit applies them without the network."""
        layout, settings = self.layout, context.scene.meshpose
        column = layout.column()
        column.use_property_split, column.use_property_decorate = True, False
        for name in ("smooth", "lock_feet", "level", "camera", "fill_gaps"):
            column.prop(settings, name)
        built = people.active_take(context)
        if built is None:
            return
        if not settings.clip:
            draw_lens(column, settings)
            column.prop(settings, "use_height")
            if settings.use_height:
                column.prop(settings, "height")
        draw_refit(layout, context, built)
        draw_hook("correct", "draw_correct", layout, context)


def draw_refit(layout: bpy.types.UILayout, context: bpy.types.Context, built: BuiltTake) -> None:
    """Apply changed settings to a take that is there; or why that cannot be now."""
    path = people.take_path(built)
    if not path.is_file():
        draw_sentence(layout, context, f"{path} is not there: Load Take finds it elsewhere", "INFO")
    elif watch.job is None:
        layout.operator("meshpose.refit", text=f"Re-fit {built.collection.name}", icon="FILE_REFRESH")


class MESHPOSE_PT_heatmap(_Sub, bpy.types.Panel):
    """What the colours of the mesh say."""

    bl_idname = "MESHPOSE_PT_heatmap"
    bl_label = "Heatmap"

    def draw(self, context: bpy.types.Context) -> None:
        """Mode, the mode's own settings, and the legend."""
        layout, shown = self.layout, context.scene.meshpose_looks
        built = people.active_take(context)
        settings = looks.settings_in(built)
        if settings is None:
            older = built is not None and bool(built.people)
            reason = "Made by an older MeshPose: Load Take builds it anew" if older else NOTHING_YET
            draw_sentence(layout, context, reason, "INFO")
            return
        layout.use_property_split, layout.use_property_decorate = True, False
        mode = looks.mode(built)
        layout.prop(shown, "mode")
        for name, text in WHAT_MODES_NEED.get(mode, ()):
            layout.prop(socket(settings, name), "default_value", text=text)
        if mode != "clay":
            layout.prop(shown, "legend")


WHAT_MODES_NEED = {
    "confidence": (("Window", "Over (Frames)"),),
    "depth": (("Near", "Near"), ("Far", "Far")),
    "clay": (("Clay", "Color"),),
}
"""Settings of `playback.SETTINGS` that a mode uses, and their labels."""


class MESHPOSE_PT_export(_Sub, bpy.types.Panel):
    """Results as files."""

    bl_idname = "MESHPOSE_PT_export"
    bl_label = "Export"

    def draw(self, context: bpy.types.Context) -> None:
        """The overlay as a video, and what `export` offers."""
        if people.active_take(context) is None:
            self.layout.label(text=NOTHING_YET, icon="INFO")
            return
        draw_hook("export", "draw_export", self.layout, context)
        if bpy.app.is_job_running("RENDER"):
            self.layout.label(text="Blender is rendering", icon="INFO")
        else:
            self.layout.operator("meshpose.render_overlay", icon="RENDER_ANIMATION")


# -- helpers -----------------------------------------------------------------------------------------------------------


def draw_hook(module: str, name: str, layout: bpy.types.UILayout, context: bpy.types.Context) -> bool:
    """Let another room of the extension draw its part; whether it had one."""
    draw = HOOKS.get((module, name))
    if draw is None:
        return False
    draw(layout, context)
    return True


HOOKS: dict[tuple[str, str], Any] = {}


def picture(path: Path) -> int:
    """Blender's icon number of a picture file; 0 where it is not there.  A file that has changed is loaded anew."""
    if not path.is_file():
        return 0
    key = f"{path}:{os.stat(path).st_mtime_ns}"
    if _pictures.get("key") != key:
        if "previews" in _pictures:
            bpy.utils.previews.remove(_pictures["previews"])
        _pictures["previews"], _pictures["key"] = bpy.utils.previews.new(), key
        _pictures["previews"].load(key, str(path), "IMAGE")
    return int(_pictures["previews"][key].icon_id)


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


CLASSES = (
    MESHPOSE_PT_panel,
    MESHPOSE_PT_clip,
    MESHPOSE_PT_people,
    MESHPOSE_PT_mesh,
    MESHPOSE_PT_rig,
    MESHPOSE_PT_motion,
    MESHPOSE_PT_heatmap,
    MESHPOSE_PT_export,
)


def forget_pictures() -> None:
    """Give Blender's pictures back."""
    if "previews" in _pictures:
        bpy.utils.previews.remove(_pictures["previews"])
    _pictures.clear()
