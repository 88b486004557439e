# SPDX-License-Identifier: GPL-3.0-or-later
"""The clip in Blender: which picture stands on which frame, the camera that took it, the footage behind it, its sound.

Blender shows a clip of variable rate by time: on scene frame f stands the picture whose time covers (f - 1) / fps.
Everything that moves follows that (`shown_pictures`), so no copy is needed for it.  A copy is written where Blender
would show something else than the core saw: it ignores rotation metadata before 4.4, and knows no EXIF.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import bpy
import numpy as np

from meshpose.camera import Camera
from meshpose.errors import InputError, MeshPoseError

from . import compat

if TYPE_CHECKING:  # it loads OpenCV, which Blender's start must not wait for, nor break by
    from meshpose.video import ClipInfo

TURN = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]])
"""Camera frame (x right, y down, z forward) to Blender's axes (x right, y forward, z up)."""
SENSOR = 36.0
"""Width of the sensor in mm.  Only its ratio to the lens matters; this one makes `lens` a full-frame equivalent."""
TICKS = (600, 1000, 12288, 12800, 15360, 24000, 30000, 60000, 90000)
"""Ticks a second in which containers count time (QuickTime 600, Matroska and WebM 1000), coarse before fine."""


@dataclass
class Footage:
    """The clip as Blender has it.

    movie or picture: Blender's data-block, None of both when there is no file to show.  fps: the rate at which Blender
    plays it.  sound: a file to take the sound from.  notes: what the user should know, one line each.
    """

    movie: bpy.types.MovieClip | None
    picture: bpy.types.Image | None
    fps: float
    sound: Path | None
    notes: list[str]


def shown_pictures(times: np.ndarray, fps: float) -> np.ndarray:
    """Which picture Blender shows on each frame from the first on.

    times (F,) seconds from the clip's start, rising.  Returns (B,) indices into `times`; -1 before the first picture.
    The last frame is the one on which the last picture begins.

    Blender looks for (f - 1) / fps, rounded to the container's own ticks, and takes the picture that has begun then.
    """
    if not len(times):
        return np.zeros(0, np.int64)
    begins = np.arange(round(float(times[-1]) * fps) + 1) / fps
    fitting = (n for n in TICKS if np.abs(times * n - np.round(times * n)).max() < 1e-3)
    ticks = next(fitting, TICKS[-1])
    # Halves go up; both sides carry errors of their own, far below a tick.
    asked = np.floor(begins * ticks + 0.5 + 1e-4) / ticks
    return np.searchsorted(times, asked + 1e-6, side="right") - 1


def stored_path(path: Path) -> str:
    """The path as the .blend should keep it: relative to it, or absolute while it is unsaved or on another drive."""
    if not bpy.data.filepath:
        return str(path)
    try:
        return bpy.path.relpath(str(path))
    except ValueError:
        return str(path)


def load(info: ClipInfo, times: np.ndarray, folder: Path) -> Footage:
    """Load the clip for the background; where Blender would not show what the core saw, write a copy into `folder`.

    times (F,): seconds of all pictures from the clip's start.  A missing or unreadable file is a note, not an error:
    bodies and camera are worth having without the footage.
    """
    notes: list[str] = []
    present = info.path.exists() or info.is_sequence
    if not present:
        notes.append(f"{info.path}: the clip is not there any more, so no footage in the scene (--footage names it)")
        return Footage(None, None, info.fps, None, notes)
    try:
        return _load(info, times, folder, notes)
    except MeshPoseError as error:
        notes.append(f"no footage in the scene: {error}")
        return Footage(None, None, info.fps, None, notes)


def _load(info: ClipInfo, times: np.ndarray, folder: Path, notes: list[str]) -> Footage:
    sound = info.path if info.has_audio is not False and not (info.is_image or info.is_sequence) else None
    if info.is_image:
        picture = _fitting(bpy.data.images, info.path, info)
        if picture is None:
            path = folder / f"{info.path.stem}_footage.png"
            _copy_picture(info, path)
            notes.append(f"Blender would not show {info.path.name} upright; {path} is a copy that it does")
            picture = _fitting(bpy.data.images, path, info)
        return Footage(None, picture, info.fps, None, notes)
    first = _first_of_sequence(info) if info.is_sequence else info.path
    movie = _fitting(bpy.data.movieclips, first, info) if first is not None else None
    if movie is not None and info.is_sequence and movie.frame_duration != info.frames:
        bpy.data.movieclips.remove(movie)  # gaps in the numbers
        movie = None
    elif movie is not None and info.rotation and not compat.turns_footage():
        bpy.data.movieclips.remove(movie)  # turned by 180 degrees, which the size does not tell
        movie = None
    if movie is None:
        path = folder / f"{info.path.stem}_footage.mp4"
        _copy_movie(info, times, path)
        notes.append(f"Blender would not show {info.path.name} as it is; {path} is a copy that it does")
        movie = _fitting(bpy.data.movieclips, path, info)
    fps = info.fps if info.is_sequence or movie is None or not movie.fps > 0 else float(movie.fps)
    return Footage(movie, None, fps, sound, notes)


def _fitting(collection: bpy.types.bpy_prop_collection, path: Path, info: ClipInfo) -> bpy.types.ID | None:
    """Load `path` when Blender can, in the size that the core saw; else None, and nothing stays behind."""
    try:
        block = collection.load(str(path), check_existing=False)
    except RuntimeError:
        return None
    if tuple(block.size) != (info.width, info.height):
        collection.remove(block)
        return None
    block.filepath = stored_path(path)
    return block


def _first_of_sequence(info: ClipInfo) -> Path | None:
    """The first file of a sequence as Blender counts them (one folder, one pattern of names); None where it cannot."""
    from meshpose.video import Clip

    files = Clip(info.path).files
    stems = {(file.suffix, file.stem.rstrip("0123456789"), len(file.stem)) for file in files}
    return files[0] if len(stems) == 1 and files[0].stem[-1].isdigit() else None


def files_of(movie: bpy.types.MovieClip) -> list[Path]:
    """The pictures of a sequence that was loaded as a movie clip, in order."""
    from meshpose.video import Clip

    return list(Clip(_pattern(Path(bpy.path.abspath(movie.filepath)))).files)


def _pattern(first: Path) -> Path:
    """The pattern of a sequence by its first file: `f_0001.png` -> `f_%04d.png`."""
    name = first.stem.rstrip("0123456789")
    return first.with_name(f"{name}%0{len(first.stem) - len(name)}d{first.suffix}")


def _copy_movie(info: ClipInfo, times: np.ndarray, path: Path) -> None:
    """Write the upright pictures at a constant rate: on each frame the one that Blender would have shown."""
    from meshpose.video import Clip, write_preview

    repeats = np.bincount(np.maximum(shown_pictures(times, info.fps), 0), minlength=len(times))
    with write_preview(path, info.fps, (info.width, info.height)) as writer:
        for frame in Clip(info.path):
            for _ in range(repeats[frame.index] if frame.index < len(repeats) else 0):
                writer.write(frame.image)


def _copy_picture(info: ClipInfo, path: Path) -> None:
    """Write the upright picture by Blender itself, which keeps every pixel."""
    from meshpose.video import Clip

    image = next(iter(Clip(info.path))).image
    pixels = np.ones((*image.shape[:2], 4), np.float32)
    pixels[..., :3] = image[::-1, :, ::-1] / np.float32(255)
    block = bpy.data.images.new(path.stem, info.width, info.height)
    block.pixels.foreach_set(pixels.ravel())
    block.file_format = "PNG"
    block.filepath_raw = str(path)
    try:
        block.save()
    except RuntimeError as error:
        raise InputError(f"{path}: the upright copy of the picture cannot be written ({error})") from error
    finally:
        bpy.data.images.remove(block)


def new_camera(name: str, camera: Camera, farthest: float) -> bpy.types.Object:
    """A Blender camera with these intrinsics; it looks along +y from the origin, as the camera frame's z does.

    Exact where the scene renders in the clip's proportions (`set_format`).  farthest: metres that must be in view.
    """
    data = bpy.data.cameras.new(name)
    data.sensor_fit = "HORIZONTAL"
    data.sensor_width = SENSOR
    data.lens = camera.fx * SENSOR / camera.width
    data.shift_x = (camera.width / 2 - camera.cx) / camera.width
    data.shift_y = (camera.cy - camera.height / 2) * (camera.fx / camera.fy) / camera.width
    data.clip_start = 0.01
    data.clip_end = max(100.0, 2 * farthest)
    target = bpy.data.objects.new(name, data)
    target.rotation_euler = (np.pi / 2, 0.0, 0.0)
    return target


def set_format(scene: bpy.types.Scene, camera: Camera) -> None:
    """Resolution and, where the focal lengths differ, shape of the pixels."""
    render = scene.render
    render.resolution_x, render.resolution_y, render.resolution_percentage = camera.width, camera.height, 100
    tall = camera.fx / camera.fy
    render.pixel_aspect_x, render.pixel_aspect_y = max(1.0, 1 / tall), max(1.0, tall)


def set_rate(scene: bpy.types.Scene, fps: float) -> None:
    """Frame rate; 29.97 becomes 30 with a base of 1.001, as Blender writes it."""
    whole = max(1, round(fps))
    scene.render.fps, scene.render.fps_base = whole, whole / fps


def put_behind(target: bpy.types.Object, footage: Footage, scene: bpy.types.Scene, start: int) -> None:
    """Show the footage behind everything in the view of camera `target`, its first picture on frame `start`."""
    shown = footage.movie or footage.picture
    if shown is None:
        return
    data = target.data
    background = data.background_images.new()
    if footage.movie is not None:
        footage.movie.frame_start = start
        background.source, background.clip = "MOVIE_CLIP", footage.movie
    else:
        background.source, background.image = "IMAGE", footage.picture
    width, height = shown.size
    render = scene.render
    shape = render.resolution_x * render.pixel_aspect_x / (render.resolution_y * render.pixel_aspect_y)
    # The camera's width is the picture's width, so the picture has to fill the width of another format, too.
    background.frame_method = "CROP" if width / height < shape else "FIT"
    background.alpha = 1.0
    background.display_depth = "BACK"
    data.show_background_images = True


def keep_colours(scene: bpy.types.Scene) -> None:
    """A view transform that shows the footage as it was shot; Blender's own (AgX, Filmic) greys it."""
    settings = scene.view_settings
    _ = _set(settings, "view_transform", "Standard") or _set(settings, "view_transform", "Raw")
    _set(settings, "look", "None")
    settings.exposure, settings.gamma = 0.0, 1.0


def _set(settings: bpy.types.ColorManagedViewSettings, name: str, value: str) -> bool:
    """Whether Blender took the value; what a studio's own colour configuration lacks is left as it is."""
    try:
        setattr(settings, name, value)
    except TypeError:
        return False
    return True


def add_sound(scene: bpy.types.Scene, footage: Footage, name: str, start: int) -> bpy.types.ID | None:
    """The clip's sound as a strip of the sequencer on a channel of its own; None where there is none."""
    if footage.sound is None:
        return None
    strips = compat.strips(scene)
    channel = 1 + max((strip.channel for strip in strips), default=0)
    try:
        strip = strips.new_sound(name, str(footage.sound), channel, start)
    except RuntimeError:
        return None
    if strip.sound is None or strip.sound.channels == "INVALID":  # the file has no sound
        silent = strip.sound
        strips.remove(strip)
        if silent is not None and silent.users == 0:
            bpy.data.sounds.remove(silent)
        return None
    strip.sound.filepath = stored_path(footage.sound)
    return strip
