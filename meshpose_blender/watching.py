# SPDX-License-Identifier: GPL-3.0-or-later
"""The watch over the running job and the queue behind it: what is in work, what comes next, how the last one ended.

One job runs at a time, whatever window or file it was started from.  Its process is watched by a timer of Blender's;
when it is done, the scene it was started from gets the result by the same operator as "Load Take".  All of this lives
outside of the .blend: saving, undoing and loading files do not touch it, and the Take holds the finished frames anyway.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import bpy

from . import job as jobs
from . import settings as panel_settings
from .job import Job, State

POLL_SECONDS = 0.2
CANCEL_SECONDS = 0.05
"""Between looks at a job that is asked to stop: Cancel takes less than a second."""
STATUS_SECONDS = 12.0
"""How long a failure stands in the status bar."""
RENDERS = ("RENDER", "OBJECT_BAKE", "COMPOSITE")
"""Blender's own jobs that read the scene while they run: nothing is built under their feet."""


@dataclass
class Task:
    """Something to do: a clip to convert, a Take to re-fit, or a look at one frame.

    kind: "convert", "refit" or "look".  subject: path of the clip or of the Take.  out: folder (convert).  options: of
    the command.  scene: session_uid (a name can change, another file can have an equal one).  file, scene_name: where
    that scene is found again if the same file was loaded anew.  place: "here" (that scene), "new" (a scene of its own),
    "none" (the Take only).  frame_start: scene frame of the clip's first picture.  frame: the clip's frame (look).
    rig, reduce_keys: how the people are built.
    """

    kind: str
    subject: str
    out: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    scene: int = 0
    file: str = ""
    scene_name: str = ""
    place: str = "here"
    frame_start: int = 1
    frame: int = 0
    rig: str = ""
    reduce_keys: bool = False

    @property
    def name(self) -> str:
        """What lists show."""
        return Path(self.subject).name

    def start(self) -> Job:
        """Start its process."""
        if self.kind == "refit":
            return Job(jobs.refit_command(self.subject, **self.options), jobs.environment())
        if self.kind == "look":
            command = jobs.look_command(self.subject, self.frame, look_picture())
            return Job(command, jobs.environment())
        return jobs.start(self.subject, Path(self.out), **self.options)


@dataclass
class Watch:
    """The job in work, what waits behind it, and what the panel says about the last one.

    stopped: the task that was cancelled, which Resume takes up.  ready: a finished Take that no scene has got.
    detail: everything that somebody who is asked for help wants to know of the last failure.
    """

    job: Job | None = None
    building: bool = False  # the job is done, the scene comes next
    task: Task | None = None
    queue: list[Task] = field(default_factory=list)
    stopped: Task | None = None
    ready: Path | None = None
    message: str = ""
    failed: bool = False
    detail: str = ""
    warnings: list[str] = field(default_factory=list)

    @property
    def clip(self) -> str:
        """Path of what is, or was last, in work."""
        return self.task.subject if self.task is not None else ""

    def say(self, message: str, failed: bool = False, warnings: list[str] | None = None, detail: str = "") -> None:
        """Set what the panel shows until the next conversion."""
        self.message, self.failed, self.warnings = message, failed, list(warnings or [])
        self.detail, self.ready = detail, None


watch = Watch()


def look_picture() -> Path:
    """Where a look writes its picture: Blender's own temporary folder, which goes when Blender ends."""
    return Path(bpy.app.tempdir or tempfile.gettempdir()) / "meshpose_look.png"


def begin(task: Task) -> None:
    """Start `task` now; one must not be running."""
    watch.task, watch.stopped, watch.building = task, None, False
    watch.say("")
    watch.job = task.start()
    if not bpy.app.timers.is_registered(look):
        bpy.app.timers.register(look, first_interval=POLL_SECONDS, persistent=True)


def add(task: Task) -> None:
    """Start `task`, or put it at the end of the queue while another runs."""
    if watch.job is None and not watch.queue:
        begin(task)
    else:
        watch.queue.append(task)
        if watch.job is None and watch.stopped is None:
            go_on()


def go_on() -> None:
    """Take up what was cancelled, or else what waits first."""
    if watch.job is not None:
        return
    if watch.stopped is not None:
        begin(watch.stopped)
    elif watch.queue:
        begin(watch.queue.pop(0))


def look() -> float | None:
    """Blender's timer: bring the job up to date; when it has ended, conclude. Returns the seconds to the next call."""
    if watch.job is None:
        return None
    if watch.job.poll():
        redraw()
    if watch.job.state is State.RUNNING:
        return CANCEL_SECONDS if watch.job.cancelling else POLL_SECONDS
    if watch.job.state is State.DONE:
        if busy():
            return POLL_SECONDS
        if not watch.building:
            watch.building = True  # said first: Blender stands still while the scene is built
            redraw()
            return POLL_SECONDS
    ended, watch.job, watch.building = watch.job, None, False
    conclude(ended)
    if watch.stopped is None and watch.queue:
        said, failed, warnings, detail = watch.message, watch.failed, watch.warnings, watch.detail
        go_on()
        watch.say(said, failed, warnings, detail)  # how the one before ended can still be read
    redraw()
    return None if watch.job is None else POLL_SECONDS


def busy() -> bool:
    """Whether a render or a movement of the user's is going on that a new scene would disturb."""
    if any(bpy.app.is_job_running(kind) for kind in RENDERS):
        return True
    windows = bpy.context.window_manager.windows
    return any(op.bl_idname.startswith("TRANSFORM_OT") for window in windows for op in window.modal_operators)


def conclude(ended: Job) -> None:
    """Build the scene of a job that is done, and say in the panel how it ended."""
    task = watch.task or Task("convert", "")
    if ended.state is State.FAILED:
        fail(ended.error, ended.warnings, ended.detail)
    elif ended.state is State.CANCELLED:
        watch.say(_cancelled(task))
        watch.stopped = task if task.kind != "look" else None
    elif task.kind == "look":
        _looked(task, ended)
    elif ended.take is not None and ended.people == 0:
        watch.say(f"{task.name}: nobody was found", warnings=ended.warnings)
    elif ended.take is not None:
        _build(task, ended)


def _cancelled(task: Task) -> str:
    if task.kind == "look":
        return ""
    if task.kind == "refit":
        return "Cancelled. Bodies and rigs in the scene are as they were"
    return "Cancelled. The finished frames are kept; Convert goes on from there"


def _looked(task: Task, ended: Job) -> None:
    """Keep who was seen with the scene that asked, if its clip is still the same."""
    scene = scene_of(task)
    answer = ended.answer or {}
    if scene is None or bpy.path.abspath(scene.meshpose.clip) != task.subject:
        return
    panel_settings.take_look(scene.meshpose, answer)
    if not answer["people"]:
        watch.say(f"{task.name}: nobody is seen on frame {task.frame + 1}; look at another frame")


def _build(task: Task, ended: Job) -> None:
    """Put the Take into the scene by the operator, so that it is one step of Undo."""
    take = ended.take
    if take is None or task.place == "none":
        watch.say(f"{task.name}: {count_people(ended.people)}; the Take is ready", warnings=ended.warnings)
        watch.ready = take
        return
    with scene_context(task) as found:
        if not found:
            watch.say(f"{take.name} is ready. Its scene is closed: use Load Take to put it here")
            watch.ready = take
            return
        how = {"frame_start": task.frame_start, "rig": task.rig, "reduce_keys": task.reduce_keys}
        try:
            bpy.ops.meshpose.load_take("EXEC_DEFAULT", True, filepath=str(take), replace=task.kind == "refit", **how)
            if task.place == "new":
                watch.message += f", in the scene {bpy.context.scene.name}"
        except RuntimeError as error:  # so bpy.ops hands on what an operator reports as an error
            fail(str(error).strip().removeprefix("Error: "), ended.warnings, ended.detail)


def fail(sentence: str, warnings: list[str] | None = None, detail: str = "") -> None:
    """Say one sentence in the panel, in Blender's status bar for a while, and on the console."""
    watch.say(sentence, failed=True, warnings=warnings, detail=detail or f"error: {sentence}")
    print(f"MeshPose: {sentence}", file=sys.stderr)
    # An operator's report, made while no operator of the user's runs, is shown to nobody.
    for workspace in bpy.data.workspaces:
        workspace.status_text_set(f"MeshPose: {sentence}")
    if bpy.app.timers.is_registered(clear_status):
        bpy.app.timers.unregister(clear_status)
    bpy.app.timers.register(clear_status, first_interval=STATUS_SECONDS, persistent=True)


def clear_status() -> None:
    """Give the status bar back to Blender."""
    for workspace in bpy.data.workspaces:
        workspace.status_text_set(None)


def count_people(count: int) -> str:
    """`1 person`, `2 people`."""
    return "1 person" if count == 1 else f"{count} people"


def scene_of(task: Task) -> bpy.types.Scene | None:
    """The scene that a task was started from; None when it is gone."""
    for scene in bpy.data.scenes:
        if scene.session_uid == task.scene:
            return scene
    if task.file and task.file == bpy.data.filepath:  # the same file, loaded anew
        return bpy.data.scenes.get(task.scene_name)
    return None


@contextmanager
def scene_context(task: Task) -> Iterator[bool]:
    """Work in the task's scene, in a window that shows it where there is one; False when it is gone."""
    scene = scene_of(task)
    if scene is None:
        yield False
        return
    if task.place == "new":
        scene = bpy.data.scenes.new(Path(task.subject).stem)
    windows = bpy.context.window_manager.windows
    window = next((window for window in windows if window.scene == scene), None)
    override = {"scene": scene, "view_layer": scene.view_layers[0]} if window is None else {"window": window}
    with bpy.context.temp_override(**override):
        yield True
    if task.place == "new" and not scene.objects:  # nothing could be built
        bpy.data.scenes.remove(scene)


def redraw() -> None:
    """Draw the sidebars again, wherever they are shown."""
    for window in bpy.context.window_manager.windows:
        for area in window.screen.areas:
            if area.type == "VIEW_3D":
                for region in area.regions:
                    if region.type == "UI":
                        region.tag_redraw()


def close() -> None:
    """End a running job now and forget the rest (the extension is taken away)."""
    if watch.job is not None:
        watch.job.close()
        watch.job, watch.building = None, False
    watch.queue.clear()
    watch.task = watch.stopped = None
    watch.say("")
    for timer in (look, clear_status):
        if bpy.app.timers.is_registered(timer):
            bpy.app.timers.unregister(timer)
            clear_status()
