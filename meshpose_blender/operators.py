# SPDX-License-Identifier: GPL-3.0-or-later
"""What the panel's buttons do with jobs: convert, cancel, resume, the queue, a look at one frame, re-fit, load a Take.

The work itself is in `job` (the process), `watching` (which one runs, what comes next) and `scene`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import bpy

from meshpose import MeshPoseError

from . import job as jobs
from . import people, watching
from . import settings as panel_settings
from .settings import result_folder
from .watching import Task, count_people, watch


def task_of(context: bpy.types.Context, kind: str, subject: str, **more: Any) -> Task:
    """A task for the context's scene."""
    scene = context.scene
    known = {"scene": scene.session_uid, "file": bpy.data.filepath, "scene_name": scene.name}
    known |= {"rig": scene.meshpose.rig, "reduce_keys": scene.meshpose.reduce_keys}
    return Task(kind, subject, **{**known, **more})


def conversion_of(context: bpy.types.Context, clip: str, **more: Any) -> Task:
    """The conversion of `clip` as the panel is set; the choice of people and frames only for the panel's own clip."""
    settings = context.scene.meshpose
    options = panel_settings.conversion(settings)
    if clip != bpy.path.abspath(settings.clip):
        options |= {"only": []}
        for name in ("start", "end"):
            options.pop(name, None)
    out = str(result_folder(clip, settings))
    return task_of(context, "convert", clip, out=out, options=options, frame_start=settings.frame_start, **more)


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
        name="People", description="Follow at most this many people; 0: as in the panel", min=0
    )
    height: bpy.props.FloatProperty(  # type: ignore[valid-type]
        name="Height", description="Height of the person in metres; 0: as in the panel", min=0.0
    )
    focal_mm: bpy.props.FloatProperty(  # type: ignore[valid-type]
        name="Focal Length", description="Of the camera, as on 36 mm full frame; 0: as in the panel", min=0.0
    )
    model: bpy.props.StringProperty(  # type: ignore[valid-type]
        name="Network", description="The network to use, accurate or fast; empty: as in the panel"
    )

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        """One conversion at a time; further clips wait in the queue."""
        if watch.job is not None:
            cls.poll_message_set("A conversion is running; add further clips to its queue")
        return watch.job is None

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Start the job and return; the timer does the rest."""
        settings = context.scene.meshpose
        clip = bpy.path.abspath(self.clip or settings.clip)
        if not clip:
            self.report({"ERROR"}, "No clip chosen: choose one in the panel or pass its path")
            return {"CANCELLED"}
        if not self.clip and panel_settings.nobody_chosen(settings):
            self.report({"ERROR"}, "Nobody is chosen: tick at least one person, or look for people again")
            return {"CANCELLED"}
        task = conversion_of(context, clip)
        task.options["restart"] = self.restart
        task.options |= {name: getattr(self, name) for name in ("max_people", "height", "model") if getattr(self, name)}
        if self.focal_mm:
            task.options |= {"focal_mm": self.focal_mm, "fov": None}
        if self.out:
            task.out = bpy.path.abspath(self.out)
        watching.begin(task)
        return {"FINISHED"}


class MESHPOSE_OT_cancel(bpy.types.Operator):
    """Stop within a second. The finished frames stay in the Take, and Resume goes on from there; the queue waits"""

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


class MESHPOSE_OT_resume(bpy.types.Operator):
    """Go on with what was cancelled, from the first frame that is not finished; then with the queue"""

    bl_idname = "meshpose.resume"
    bl_label = "Resume"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        """Only where something was cancelled or waits."""
        return watch.job is None and (watch.stopped is not None or bool(watch.queue))

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Start the job and return."""
        if watch.stopped is not None:
            watch.stopped.options.pop("restart", None)
        watching.go_on()
        return {"FINISHED"}


class MESHPOSE_OT_unqueue(bpy.types.Operator):
    """Take this clip out of the queue"""

    bl_idname = "meshpose.unqueue"
    bl_label = "Remove from Queue"
    bl_options = {"INTERNAL"}

    index: bpy.props.IntProperty(default=-1)  # type: ignore[valid-type]

    def execute(self, context: bpy.types.Context) -> set[str]:
        """-1: all of them, and what was cancelled."""
        if self.index < 0:
            watch.queue.clear()
            watch.stopped = None
        elif self.index < len(watch.queue):
            watch.queue.pop(self.index)
        return {"FINISHED"}


class MESHPOSE_OT_find_people(bpy.types.Operator):
    """Look at the current frame only and show who is there, to choose whom to convert before the long run"""

    bl_idname = "meshpose.find_people"
    bl_label = "Find People on This Frame"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        """With a clip, and while nothing else runs."""
        if watch.job is not None:
            cls.poll_message_set("A conversion is running")
        return watch.job is None and bool(context.scene.meshpose.clip)

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Start the look and return; the people appear in the panel."""
        settings = context.scene.meshpose
        frame = max(0, context.scene.frame_current - settings.frame_start)
        watching.begin(task_of(context, "look", bpy.path.abspath(settings.clip), frame=frame))
        return {"FINISHED"}


class MESHPOSE_OT_refit(bpy.types.Operator):
    """Make bodies and rigs again with the settings of the panel, without running the network: seconds, not minutes"""

    bl_idname = "meshpose.refit"
    bl_label = "Re-fit"
    bl_description = (
        "Make bodies and rigs of this take again with the settings under People, Motion and Clip, without running the "
        "network: seconds instead of minutes. Its objects are replaced, with keys that you changed; Undo brings them "
        "back"
    )

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        """With a take whose file is there, and while nothing else runs."""
        if watch.job is not None:
            cls.poll_message_set("A conversion is running")
            return False
        built = people.active_take(context)
        path = people.take_path(built) if built is not None else None
        if path is None or not path.is_file():
            cls.poll_message_set("The Take's file is not there; Load Take finds it elsewhere")
            return False
        return True

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Start the job and return."""
        built = people.active_take(context)
        if built is None:
            return {"CANCELLED"}
        changes = panel_settings.changes(context.scene.meshpose)
        start = people.first_frame(built)
        task = task_of(context, "refit", str(people.take_path(built)), options=changes, frame_start=start)
        watching.begin(task)
        return {"FINISHED"}


class MESHPOSE_OT_load_take(bpy.types.Operator):
    """Build the people of a Take (what an earlier conversion made) in this scene"""

    bl_idname = "meshpose.load_take"
    bl_label = "Load Take"
    bl_options = {"REGISTER", "UNDO"}

    filepath: bpy.props.StringProperty(subtype="FILE_PATH")  # type: ignore[valid-type]
    filter_glob: bpy.props.StringProperty(default="*.take", options={"HIDDEN"})  # type: ignore[valid-type]
    frame_start: bpy.props.IntProperty(  # type: ignore[valid-type]
        name="Start Frame", description="Scene frame on which the clip's first frame stands", default=1
    )
    replace: bpy.props.BoolProperty(  # type: ignore[valid-type]
        name="Replace", description="Put it in the place of what the scene holds of the same Take"
    )
    rig: bpy.props.StringProperty(  # type: ignore[valid-type]
        name="Rig", description="Name of the rig to build; empty: the body's own"
    )
    reduce_keys: bpy.props.BoolProperty(  # type: ignore[valid-type]
        name="Fewer Keys", description="As few keys as stay within half a degree and a few millimetres"
    )

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        """Open the file browser."""
        settings = context.scene.meshpose
        self.frame_start, self.rig, self.reduce_keys = settings.frame_start, settings.rig, settings.reduce_keys
        context.window_manager.fileselect_add(self)
        return {"RUNNING_MODAL"}

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Build the scene; an unusable Take, or a package that does not work, is one line in the report."""
        take = Path(bpy.path.abspath(self.filepath))
        try:
            from .keys import KeySettings
            from .rebuild import build_or_replace

            how = {"frame_start": self.frame_start, "rig": self.rig or "default"}
            how["keys"] = KeySettings(reduce=self.reduce_keys)
            built = build_or_replace(context.scene, take, self.replace, **how)
        except MeshPoseError as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        except ImportError as error:
            self.report({"ERROR"}, jobs.advice([error.name or "cv2"], str(error)))
            return {"CANCELLED"}
        watch.say(f"{take.name}: {count_people(len(built.people))}", warnings=built.notes)
        return {"FINISHED"}


class MESHPOSE_OT_copy_details(bpy.types.Operator):
    """Copy what went wrong, with the command and the versions, to paste into a bug report"""

    bl_idname = "meshpose.copy_details"
    bl_label = "Copy Details"
    bl_options = {"INTERNAL"}

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        """After a failure."""
        return bool(watch.detail)

    def execute(self, context: bpy.types.Context) -> set[str]:
        """To the clipboard."""
        system = f"Blender {bpy.app.version_string}, {bpy.app.build_platform.decode(errors='replace')}"
        context.window_manager.clipboard = f"{watch.detail}\n{system}"
        self.report({"INFO"}, "Details copied")
        return {"FINISHED"}


class MESHPOSE_OT_dismiss(bpy.types.Operator):
    """Take this message away"""

    bl_idname = "meshpose.dismiss"
    bl_label = "Dismiss"
    bl_options = {"INTERNAL"}

    def execute(self, context: bpy.types.Context) -> set[str]:
        """The panel is as it was before."""
        watch.say("")
        return {"FINISHED"}


CLASSES = (
    MESHPOSE_OT_convert,
    MESHPOSE_OT_cancel,
    MESHPOSE_OT_resume,
    MESHPOSE_OT_unqueue,
    MESHPOSE_OT_find_people,
    MESHPOSE_OT_refit,
    MESHPOSE_OT_load_take,
    MESHPOSE_OT_copy_details,
    MESHPOSE_OT_dismiss,
)
