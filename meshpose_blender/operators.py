# SPDX-License-Identifier: GPL-3.0-or-later
"""What the panel's buttons do, and the watch over the running job. The work itself is in `job` and `scene`.

One conversion runs at a time, whatever window or file it was started from. The job's process is watched by a timer of
Blender's; when it is done, the scene it was started from gets the result by the same operator as "Load Take".
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import bpy

from meshpose import MeshPoseError

from . import compat
from . import job as jobs
from .job import Job, State

POLL_SECONDS = 0.2
CLIPS = "*.mp4;*.mov;*.m4v;*.mkv;*.webm;*.avi;*.mpg;*.mpeg;*.mts;*.ogv;*.jpg;*.jpeg;*.png;*.bmp;*.tif;*.tiff"


@dataclass
class Watch:
    """The conversion in work, and what the panel says about the last one."""

    job: Job | None = None
    building: bool = False  # the job is done, the scene comes next
    clip: str = ""
    scene: int = 0  # session_uid: a name can change, and another file can have one that is equal
    message: str = ""
    failed: bool = False
    warnings: list[str] = field(default_factory=list)

    def say(self, message: str, failed: bool = False, warnings: list[str] | None = None) -> None:
        """Set what the panel shows until the next conversion."""
        self.message, self.failed, self.warnings = message, failed, warnings or []


watch = Watch()


class MeshPoseProperties(bpy.types.PropertyGroup):
    """What the panel edits; kept in the scene, and so in the file."""

    clip: bpy.props.StringProperty(  # type: ignore[valid-type]
        name="Clip",
        description="The video or picture to convert",
        subtype="FILE_PATH",
        options=compat.path_options(),
    )


class MESHPOSE_OT_choose_clip(bpy.types.Operator):
    """Choose the video or picture that Convert works on"""

    bl_idname = "meshpose.choose_clip"
    bl_label = "Choose a Clip"
    bl_options = {"INTERNAL", "UNDO"}

    filepath: bpy.props.StringProperty(subtype="FILE_PATH")  # type: ignore[valid-type]
    filter_glob: bpy.props.StringProperty(default=CLIPS, options={"HIDDEN"})  # type: ignore[valid-type]

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        """Open the file browser."""
        context.window_manager.fileselect_add(self)
        return {"RUNNING_MODAL"}

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Keep the chosen path in the scene."""
        context.scene.meshpose.clip = self.filepath
        return {"FINISHED"}


class MESHPOSE_OT_convert(bpy.types.Operator):
    """Find the people in the clip and build them in this scene"""

    bl_idname = "meshpose.convert"
    bl_label = "Convert"
    bl_description = (
        "Find the people in the clip and build them in this scene: the footage behind the camera, a moving mesh and "
        "a rig for each. Works in the background; a conversion that was stopped goes on where it was"
    )

    clip: bpy.props.StringProperty(  # type: ignore[valid-type]
        name="Clip", description="Video or picture; empty: the one chosen in the panel", subtype="FILE_PATH"
    )
    out: bpy.props.StringProperty(  # type: ignore[valid-type]
        name="Folder", description="Where the Take and the preview go; empty: beside the clip", subtype="DIR_PATH"
    )
    restart: bpy.props.BoolProperty(  # type: ignore[valid-type]
        name="Restart", description="Begin anew instead of going on with what an earlier conversion left"
    )
    max_people: bpy.props.IntProperty(  # type: ignore[valid-type]
        name="People", description="Follow at most this many people; 0: all", min=0
    )
    height: bpy.props.FloatProperty(  # type: ignore[valid-type]
        name="Height", description="Height of the person in metres; 0: from the shape of the body", min=0.0
    )
    focal_mm: bpy.props.FloatProperty(  # type: ignore[valid-type]
        name="Focal Length", description="Of the camera, as on 36 mm full frame; 0: unknown", min=0.0
    )

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        """One conversion at a time."""
        return watch.job is None

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Start the job and return; the timer does the rest."""
        clip = bpy.path.abspath(self.clip or context.scene.meshpose.clip)
        if not clip:
            self.report({"ERROR"}, "No clip chosen: choose one in the panel or pass its path")
            return {"CANCELLED"}
        settings: dict[str, Any] = {
            "restart": self.restart,
            "max_people": self.max_people or None,
            "height": self.height or None,
            "focal_mm": self.focal_mm or None,
        }
        watch.clip = clip
        watch.scene = context.scene.session_uid
        watch.say("")
        watch.job = jobs.start(clip, bpy.path.abspath(self.out) if self.out else result_folder(clip), **settings)
        bpy.app.timers.register(look, first_interval=POLL_SECONDS, persistent=True)
        return {"FINISHED"}


class MESHPOSE_OT_cancel(bpy.types.Operator):
    """Stop after the frame in work. The finished frames stay in the Take, and Convert goes on from there"""

    bl_idname = "meshpose.cancel"
    bl_label = "Cancel"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        """Only while a conversion runs and was not cancelled yet."""
        return watch.job is not None and not watch.building and not watch.job.cancelling

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Ask the job to stop; returns at once."""
        if watch.job is not None:
            watch.job.cancel()
        return {"FINISHED"}


class MESHPOSE_OT_load_take(bpy.types.Operator):
    """Build the people of a Take (what an earlier conversion made) in this scene"""

    bl_idname = "meshpose.load_take"
    bl_label = "Load Take"
    bl_options = {"REGISTER", "UNDO"}

    filepath: bpy.props.StringProperty(subtype="FILE_PATH")  # type: ignore[valid-type]
    filter_glob: bpy.props.StringProperty(default="*.take", options={"HIDDEN"})  # type: ignore[valid-type]

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        """Open the file browser."""
        context.window_manager.fileselect_add(self)
        return {"RUNNING_MODAL"}

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Build the scene; an unusable Take is one line in the report."""
        from .scene import build_scene

        take = Path(bpy.path.abspath(self.filepath))
        try:
            built = build_scene(take)
        except MeshPoseError as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        watch.say(f"{take.name}: {count_people(len(built.people))}", warnings=built.notes)
        return {"FINISHED"}


CLASSES = (
    MeshPoseProperties,
    MESHPOSE_OT_choose_clip,
    MESHPOSE_OT_convert,
    MESHPOSE_OT_cancel,
    MESHPOSE_OT_load_take,
)


def result_folder(clip: str) -> Path:
    """Beside the clip; where that cannot be written, beside the .blend."""
    beside = Path(clip).absolute().parent
    if not os.access(beside, os.W_OK) and bpy.data.filepath:
        return Path(bpy.data.filepath).parent
    return beside


def look() -> float | None:
    """Blender's timer: bring the job up to date; when it has ended, conclude. Returns the seconds to the next call."""
    if watch.job is None:
        return None
    if watch.job.poll():
        redraw()
    if watch.job.state is State.RUNNING:
        return POLL_SECONDS
    if watch.job.state is State.DONE and not watch.building:
        watch.building = True  # said first: Blender stands still while the scene is built
        redraw()
        return POLL_SECONDS
    ended, watch.job, watch.building = watch.job, None, False
    conclude(ended)
    redraw()
    return None


def conclude(ended: Job) -> None:
    """Build the scene of a job that is done, and say in the panel how it ended."""
    name = Path(watch.clip).name
    if ended.state is State.FAILED:
        watch.say(ended.error, failed=True, warnings=ended.warnings)
    elif ended.state is State.CANCELLED:
        watch.say("Cancelled. The finished frames are kept; Convert goes on from there")
    elif ended.take is not None and ended.people == 0:
        watch.say(f"{name}: nobody was found", warnings=ended.warnings)
    elif ended.take is not None:
        with scene_context(watch.scene) as found:
            if not found:
                watch.say(f"{ended.take.name} is ready. Its scene is closed: use Load Take to put it here")
                return
            try:
                bpy.ops.meshpose.load_take("EXEC_DEFAULT", True, filepath=str(ended.take))
            except RuntimeError as error:  # so bpy.ops hands on what an operator reports as an error
                watch.say(str(error).strip().removeprefix("Error: "), failed=True, warnings=ended.warnings)


def count_people(count: int) -> str:
    """`1 person`, `2 people`."""
    return "1 person" if count == 1 else f"{count} people"


@contextmanager
def scene_context(uid: int) -> Iterator[bool]:
    """Work in the scene with this session_uid, in a window that shows it where there is one; False when it is gone."""
    scene = next((scene for scene in bpy.data.scenes if scene.session_uid == uid), None)
    if scene is None:
        yield False
        return
    windows = bpy.context.window_manager.windows
    window = next((window for window in windows if window.scene == scene), None)
    override = {"scene": scene} if window is None else {"window": window}
    with bpy.context.temp_override(**override):
        yield True


def redraw() -> None:
    """Draw the sidebars again, wherever they are shown."""
    for window in bpy.context.window_manager.windows:
        for area in window.screen.areas:
            if area.type == "VIEW_3D":
                for region in area.regions:
                    if region.type == "UI":
                        region.tag_redraw()


def register() -> None:
    """Classes, and the panel's settings in the scene."""
    for cls in CLASSES:
        bpy.utils.register_class(cls)
    bpy.types.Scene.meshpose = bpy.props.PointerProperty(type=MeshPoseProperties)


def unregister() -> None:
    """End a running job, then take everything away again."""
    if watch.job is not None:
        watch.job.close()
        watch.job, watch.building = None, False
    watch.say("")
    if bpy.app.timers.is_registered(look):
        bpy.app.timers.unregister(look)
    del bpy.types.Scene.meshpose
    for cls in reversed(CLASSES):
        bpy.utils.unregister_class(cls)
