# SPDX-License-Identifier: GPL-3.0-or-later
"""Ways in which a clip comes to the panel: file browser, drag and drop, the sequencer's strip, a movie clip.

Files that are dropped are converted at once: one in this scene, several one after the other in scenes of their own.
Pictures are not taken from a drop: Blender has uses of its own for them there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import bpy

from . import compat, watching
from .operators import conversion_of
from .settings import MeshPoseProperties
from .watching import watch

VIDEOS = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".mts", ".ogv")
PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff")
CLIPS = ";".join(f"*{ending}" for ending in (*VIDEOS, *PICTURES))
NUMBERED = re.compile(r"^(.*?)(\d+)$")


def as_clips(files: Iterable[Path]) -> list[str]:
    """Clips of the chosen files: numbered pictures of one name are one sequence (`f_%04d.png`)."""
    clips: dict[str, None] = {}
    chosen = list(files)
    for file in chosen:
        found = NUMBERED.match(file.stem) if file.suffix.lower() in PICTURES else None
        if found is None:
            clips[str(file)] = None
            continue
        name, digits = found.groups()
        like = re.compile(rf"{re.escape(name)}\d{{{len(digits)}}}{re.escape(file.suffix)}$")
        alone = sum(other.parent == file.parent and like.match(other.name) is not None for other in chosen) < 2
        pattern = f"{name}%0{len(digits)}d{file.suffix}"
        # A percent sign in the name itself would be taken for a pattern, too.
        clips[str(file if alone or "%" in name else file.parent / pattern)] = None
    return list(clips)


def take_clips(context: bpy.types.Context, clips: list[str], start: bool) -> None:
    """Put the first clip into the panel; `start`: convert it; others always go to the queue."""
    first, others = clips[0], clips[1:]
    if watch.job is None:
        context.scene.meshpose.clip = first
    if start or watch.job is not None:
        watching.add(conversion_of(context, first))
    for clip in others:
        watching.add(conversion_of(context, clip, place="new"))


class MESHPOSE_OT_choose_clip(bpy.types.Operator):
    """Choose the video or picture that Convert works on"""

    bl_idname = "meshpose.choose_clip"
    bl_label = "Choose a Clip"
    bl_description = (
        "Choose what to convert: a video, a picture, or all pictures of a sequence. Several videos: the first is "
        "converted here, the others wait in the queue and get scenes of their own"
    )
    bl_options = {"INTERNAL", "UNDO"}

    filepath: bpy.props.StringProperty(subtype="FILE_PATH", options={"SKIP_SAVE"})  # type: ignore[valid-type]
    directory: bpy.props.StringProperty(subtype="DIR_PATH", options={"SKIP_SAVE"})  # type: ignore[valid-type]
    files: bpy.props.CollectionProperty(  # type: ignore[valid-type]
        type=bpy.types.OperatorFileListElement, options={"SKIP_SAVE"}
    )
    filter_glob: bpy.props.StringProperty(default=CLIPS, options={"HIDDEN"})  # type: ignore[valid-type]
    queue: bpy.props.BoolProperty(options={"HIDDEN", "SKIP_SAVE"})  # type: ignore[valid-type]

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        """Open the file browser."""
        context.window_manager.fileselect_add(self)
        return {"RUNNING_MODAL"}

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Keep the chosen path in the scene; start only what goes to the queue."""
        names = [file.name for file in self.files if file.name]
        clips = as_clips(Path(self.directory) / name for name in names) if names else [self.filepath]
        if not clips[0]:
            return {"CANCELLED"}
        if self.queue:
            for clip in clips:
                watching.add(conversion_of(context, bpy.path.abspath(clip), place="new"))
        else:
            take_clips(context, clips, start=len(clips) > 1)
        return {"FINISHED"}


class MESHPOSE_OT_drop(bpy.types.Operator):
    """Convert the dropped videos, or build the dropped Takes, in this scene"""

    bl_idname = "meshpose.drop"
    bl_label = "Convert to Bodies"
    bl_options = {"INTERNAL", "UNDO"}

    filepath: bpy.props.StringProperty(subtype="FILE_PATH", options={"SKIP_SAVE"})  # type: ignore[valid-type]
    directory: bpy.props.StringProperty(  # type: ignore[valid-type]
        subtype="DIR_PATH", options={"SKIP_SAVE", "HIDDEN"}
    )
    files: bpy.props.CollectionProperty(  # type: ignore[valid-type]
        type=bpy.types.OperatorFileListElement, options={"SKIP_SAVE", "HIDDEN"}
    )

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        """No questions: the work is seen in the panel and can be cancelled there."""
        show_panel(context)
        return self.execute(context)

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Start the conversions; Takes are built at once."""
        names = [file.name for file in self.files if file.name]
        paths = [Path(self.directory) / name for name in names] or [Path(self.filepath)]
        takes = [path for path in paths if path.suffix.lower() == ".take"]
        clips = [str(path) for path in paths if path.suffix.lower() in VIDEOS]
        if not takes and not clips:
            self.report({"ERROR"}, f"{paths[0].name}: drop a video or a Take; choose pictures in the panel")
            return {"CANCELLED"}
        for take in takes:
            bpy.ops.meshpose.load_take(filepath=str(take), frame_start=context.scene.meshpose.frame_start)
        if clips:
            take_clips(context, clips, start=True)
        return {"FINISHED"}


class MESHPOSE_FH_clip(bpy.types.FileHandler):
    """Videos and Takes that are dropped on a 3D view or on the outliner"""

    bl_idname = "MESHPOSE_FH_clip"
    bl_label = "MeshPose"
    bl_import_operator = "meshpose.drop"
    bl_file_extensions = ";".join((*VIDEOS, ".take"))

    @classmethod
    def poll_drop(cls, context: bpy.types.Context) -> bool:
        """The sequencer, the clip editor and others keep what they do with a video."""
        return context.area is not None and context.area.type in {"VIEW_3D", "OUTLINER"}


class MESHPOSE_OT_from_strip(bpy.types.Operator):
    """Take clip, range of frames and start frame from the sequencer's active strip"""

    bl_idname = "meshpose.from_strip"
    bl_label = "Use the Sequencer's Strip"
    bl_options = {"INTERNAL", "UNDO"}

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        """With a strip of a movie or of pictures."""
        return active_strip(context.scene) is not None

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Keep it in the panel."""
        strip: Any = active_strip(context.scene)
        settings = context.scene.meshpose
        if strip.type == "MOVIE":
            settings.clip = strip.filepath
            length = strip.frame_duration + strip.animation_offset_start + strip.animation_offset_end
        else:
            folder = Path(bpy.path.abspath(strip.directory))
            settings.clip = as_clips(folder / element.filename for element in strip.elements)[0]
            length = len(strip.elements)
        begins = round(strip.frame_start) - strip.animation_offset_start
        _use_range(settings, begins, strip.frame_final_start, strip.frame_final_end, length)
        return {"FINISHED"}


class MESHPOSE_OT_from_movie_clip(bpy.types.Operator):
    """Take clip and start frame from a movie clip of this file (as loaded for tracking)"""

    bl_idname = "meshpose.from_movie_clip"
    bl_label = "Use a Movie Clip"
    bl_options = {"INTERNAL", "UNDO"}

    name: bpy.props.StringProperty()  # type: ignore[valid-type]

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        """With a movie clip in the file."""
        return len(bpy.data.movieclips) > 0

    def execute(self, context: bpy.types.Context) -> set[str]:
        """The one of this name; else that of the clip editor in which this was called."""
        shown = getattr(context.space_data, "clip", None)
        movie = bpy.data.movieclips.get(self.name) if self.name else shown or context.scene.active_clip
        if movie is None:
            self.report({"ERROR"}, "No movie clip is open here: choose one by its name in the panel")
            return {"CANCELLED"}
        settings = context.scene.meshpose
        path = Path(bpy.path.abspath(movie.filepath))
        numbered = NUMBERED.match(path.stem) if movie.source == "SEQUENCE" else None
        if numbered:
            path = path.with_name(f"{numbered[1]}%0{len(numbered[2])}d{path.suffix}")
        settings.clip = str(path)
        settings.frame_start = movie.frame_start
        return {"FINISHED"}


class MESHPOSE_MT_movie_clips(bpy.types.Menu):
    """The file's movie clips"""

    bl_idname = "MESHPOSE_MT_movie_clips"
    bl_label = "Use a Movie Clip"

    def draw(self, context: bpy.types.Context) -> None:
        """One line each."""
        for movie in bpy.data.movieclips:
            self.layout.operator("meshpose.from_movie_clip", text=movie.name, icon="TRACKER").name = movie.name


def _use_range(settings: MeshPoseProperties, begins: int, first: int, end: int, length: int) -> None:
    """The part of a clip that a strip shows: scene frames first..end-1 of a clip that begins on `begins`."""
    settings.frame_start = begins
    settings.use_range = first > begins or end < begins + length
    settings.first, settings.last = first - begins + 1, end - begins


def active_strip(scene: bpy.types.Scene) -> bpy.types.ID | None:
    """The sequencer's active strip where it is a movie or pictures."""
    strip = scene.sequence_editor.active_strip if compat.has_strips(scene) else None
    return strip if strip is not None and strip.type in {"MOVIE", "IMAGE"} else None


def show_panel(context: bpy.types.Context) -> None:
    """Open the sidebar at our tab where the files were dropped on a 3D view, so that the progress is seen."""
    area = context.area
    if area is None or area.type != "VIEW_3D":
        return
    area.spaces.active.show_region_ui = True
    sidebar: Any = next((region for region in area.regions if region.type == "UI"), None)
    try:
        sidebar.active_panel_category = "MeshPose"
    except (AttributeError, TypeError):  # it was never drawn yet: then it knows no tabs, and the user opens ours
        return


def _strip_menu(menu: bpy.types.Menu, context: bpy.types.Context) -> None:
    if active_strip(context.scene) is not None:
        menu.layout.operator("meshpose.from_strip", text="Use for MeshPose")


def _clip_menu(menu: bpy.types.Menu, context: bpy.types.Context) -> None:
    menu.layout.operator("meshpose.from_movie_clip", text="Use for MeshPose")


MENUS = (("SEQUENCER_MT_context_menu", _strip_menu), ("CLIP_MT_clip", _clip_menu))
CLASSES = (
    MESHPOSE_OT_choose_clip,
    MESHPOSE_OT_drop,
    MESHPOSE_FH_clip,
    MESHPOSE_OT_from_strip,
    MESHPOSE_OT_from_movie_clip,
    MESHPOSE_MT_movie_clips,
)


def register_menus() -> None:
    """Entries in the sequencer's and the clip editor's menus."""
    for name, draw in MENUS:
        menu = getattr(bpy.types, name, None)
        if menu is not None:
            menu.append(draw)


def unregister_menus() -> None:
    """Take them away again."""
    for name, draw in MENUS:
        menu = getattr(bpy.types, name, None)
        if menu is not None:
            menu.remove(draw)
