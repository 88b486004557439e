# SPDX-License-Identifier: GPL-3.0-or-later
"""The bodies over the footage as a video, rendered by Workbench: no GPU is needed, and nothing of the scene changes.

    overlay.render(built, Path("dancer_overlay.mp4"))      # blocks; the panel's operator does not

Two helper scenes do it: one with the take's collection alone and Workbench set up for it, one whose sequencer lays that
over the footage.  They go when the render has ended.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import bpy

from meshpose.errors import InputError, OutputError

from . import compat, footage, people
from .scene import FRAMES, BuiltTake, match_format

HELPER = "meshpose_overlay"
"""Custom property that marks the helper scenes."""
POLL_SECONDS = 0.5
"""Between looks whether Blender's render has ended."""


def prepare(source: bpy.types.Scene, built: BuiltTake, path: Path) -> bpy.types.Scene:
    """The scene whose render writes the video to `path`, as `source` shows the take: its looks, its x-ray.

    Raises InputError where the take has no footage, no camera or no frames, OutputError where `path` cannot be written.
    """
    if built.camera is None:
        raise InputError(f"{built.collection.name}: its camera was deleted; Load Take brings it back")
    if not path.parent.is_dir():
        raise OutputError(f"{path.parent}: there is no such folder; choose another")
    background = next(iter(built.camera.data.background_images), None)
    if background is None:
        raise InputError(f"{built.collection.name}: there is no footage behind the camera to lay the bodies over")
    bodies = _bodies(source, built)
    scene = bpy.data.scenes.new(f"{built.collection.name} overlay")
    scene[HELPER] = True
    _format(scene, built)
    strips = compat.strips(scene)
    _add_footage(strips, scene, background)
    layer = strips.new_scene(bodies.name, bodies, 2, scene.frame_start)
    layer.scene_camera = built.camera
    layer.frame_start = scene.frame_start
    layer.frame_final_end = scene.frame_end + 1
    layer.blend_type = "ALPHA_OVER"
    scene.render.use_sequencer = True
    compat.write_video(scene.render, path)
    return scene


def _bodies(source: bpy.types.Scene, built: BuiltTake) -> bpy.types.Scene:
    """The take's collection alone, by Workbench, over nothing."""
    scene = bpy.data.scenes.new(f"{built.collection.name} bodies")
    scene[HELPER] = True
    _format(scene, built)
    scene.collection.children.link(built.collection)
    scene.camera = built.camera
    scene.render.engine, scene.render.film_transparent = "BLENDER_WORKBENCH", True
    scene.render.use_sequencer = scene.render.use_compositing = False
    own, shown = scene.display.shading, source.display.shading
    own.light, own.color_type = "STUDIO", "VERTEX"
    own.show_xray, own.xray_alpha = shown.show_xray, shown.xray_alpha
    own.show_specular_highlight = False  # white spots would say something that the colours do not
    return scene


def _format(scene: bpy.types.Scene, built: BuiltTake) -> None:
    match_format(scene, built)
    scene.frame_start, scene.frame_end = (int(frame) for frame in built.collection[FRAMES])


def _add_footage(strips: bpy.types.bpy_prop_collection, scene: bpy.types.Scene, background: bpy.types.ID) -> None:
    """The clip as a strip on the first channel, in step with the bodies."""
    if background.source == "IMAGE":
        path = bpy.path.abspath(background.image.filepath)
        strip = strips.new_image("footage", path, 1, scene.frame_start, fit_method="STRETCH")
        strip.frame_final_end = scene.frame_end + 1
        return
    movie = background.clip
    path = Path(bpy.path.abspath(movie.filepath))
    if not path.exists():
        raise InputError(f"{path}: the footage is not there any more; put it back, or set its path in the movie clip")
    if movie.source == "SEQUENCE":
        files = footage.files_of(movie)
        strip = strips.new_image("footage", str(files[0]), 1, movie.frame_start, fit_method="STRETCH")
        for file in files[1:]:
            strip.elements.append(file.name)
    else:
        strips.new_movie("footage", str(path), 1, movie.frame_start, fit_method="STRETCH")


def forget() -> None:
    """Take the helper scenes away."""
    for scene in [scene for scene in bpy.data.scenes if scene.get(HELPER)]:
        if len(bpy.data.scenes) > 1:
            bpy.data.scenes.remove(scene)


@contextmanager
def prepared(built: BuiltTake, path: Path) -> Iterator[bpy.types.Scene]:
    """`prepare` for a render that blocks."""
    try:
        yield prepare(bpy.context.scene, built, path)
    finally:
        forget()


def render(built: BuiltTake, path: Path) -> None:
    """Write the video; blocks.  Raises as `prepare`, and OutputError where Blender cannot write it."""
    with prepared(built, path) as scene:
        try:
            bpy.ops.render.render(animation=True, scene=scene.name)
        except RuntimeError as error:
            raise OutputError(f"{path}: the video cannot be written ({str(error).strip()})") from error


def _forget_when_rendered() -> float | None:
    """Timer: the helper scenes go when Blender's render has ended."""
    if bpy.app.is_job_running("RENDER"):
        return POLL_SECONDS
    forget()
    return None


class MESHPOSE_OT_render_overlay(bpy.types.Operator):
    """Write the bodies over the footage as a video, as the 3D view shows them (colors, x-ray, ghosts, legend)"""

    bl_idname = "meshpose.render_overlay"
    bl_label = "Render Overlay Video"
    bl_description = (
        "Write a video of the bodies over the footage, with the colors, x-ray, ghosts and legend that are set. "
        "Rendered by Workbench: fast, and without a graphics card. Your own render settings stay as they are"
    )

    filepath: bpy.props.StringProperty(  # type: ignore[valid-type]
        name="File", description="Empty: CLIP_overlay.mp4 beside the Take", subtype="FILE_PATH", options={"SKIP_SAVE"}
    )

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        """With a take in the scene, and while Blender does not render."""
        return people.can_write(cls, context)

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Render and wait (scripts, background)."""
        return self._render(context, wait=True)

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        """Render as the menu's Render Animation does: in a window of its own, Esc stops it."""
        return self._render(context, wait=bpy.app.background)

    def _render(self, context: bpy.types.Context, wait: bool) -> set[str]:
        built = people.active_take(context)
        if built is None:
            return {"CANCELLED"}
        path = Path(bpy.path.abspath(self.filepath)) if self.filepath else default_path(built)
        try:
            if wait:
                render(built, path)
            else:
                scene = prepare(context.scene, built, path)
                bpy.ops.render.render("INVOKE_DEFAULT", animation=True, scene=scene.name)
                bpy.app.timers.register(_forget_when_rendered, first_interval=POLL_SECONDS)
        except (InputError, OutputError) as error:
            forget()
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        self.report({"INFO"}, f"{'Written' if wait else 'Writing'} {path}")
        return {"FINISHED"}


def default_path(built: BuiltTake) -> Path:
    """`CLIP_overlay.mp4` beside the Take, or beside the .blend where the Take's folder is gone."""
    take = people.take_path(built)
    folder = take.parent if take.parent.is_dir() else Path(bpy.data.filepath or bpy.app.tempdir).parent
    return folder / f"{take.stem}_overlay.mp4"


CLASSES = (MESHPOSE_OT_render_overlay,)
