# SPDX-License-Identifier: GPL-3.0-or-later
"""Results as files: a Take as a .blend of its own, its people in the formats of other programs.

    built = write_blend(Path("dancer.take"), Path("dancer.blend"))
    export_people(built, Path("dancer"), ExportSettings(("fbx", "abc"), preset="unreal"))
"""

from __future__ import annotations

import glob
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import bpy

from meshpose.errors import InputError, OutputError

from . import bake, formats
from .keys import EVERY_FRAME, KeySettings
from .presets import preset
from .scene import FRAMES, BuiltPerson, BuiltTake, build_scene

LEFT_BEHIND = 6 * 3600.0
"""Seconds after which a half-written export belongs to nobody any more."""


def write_blend(
    take: Path,
    out: Path,
    clip: Path | None = None,
    into: Path | None = None,
    rig: str = "default",
    keys: KeySettings = EVERY_FRAME,
) -> BuiltTake:
    """Build the scene of `take` and save it at `out`; an earlier file there stays until the new one is whole.

    clip: where the footage lies now, if it was moved.  into: add to this .blend instead of an empty scene.  rig: of
    `meshpose.rigs`; keys: how it is keyed.
    What was open in this Blender is gone afterwards. Raises TakeError, InputError or OutputError.
    """
    out = Path(os.path.abspath(out))
    if not out.parent.is_dir() or not os.access(out.parent, os.W_OK):
        raise OutputError(f"{out}: the folder is not there or cannot be written; choose another with --out")
    if out.is_dir():
        raise OutputError(f"{out}: this is a folder; give --out a name that ends in .blend")
    part = out.with_name(f".{out.stem}.part.blend")
    paths = bpy.context.preferences.filepaths
    versions, paths.save_version = paths.save_version, 0  # no .blend1 beside it
    try:
        if into is None:
            # Not read_factory_settings: that would take away the extension, and this function with it.
            bpy.ops.wm.read_homefile(use_empty=True, use_factory_startup=True)
        else:
            _open(into)
        _save(part)  # paths relative to the .blend need a place for it
        built = build_scene(take, clip, rig=rig, keys=keys)
        _save(part)
        os.replace(part, out)
    except OSError as error:
        raise OutputError(f"{out}: cannot be written ({error.strerror})") from error
    finally:
        part.unlink(missing_ok=True)
        bpy.context.preferences.filepaths.save_version = versions
    return built


def _open(path: Path) -> None:
    try:
        bpy.ops.wm.open_mainfile(filepath=str(path.resolve()))
    except RuntimeError as error:
        raise InputError(f"{path}: this .blend cannot be opened ({str(error).strip()})") from error


def _save(path: Path) -> None:
    try:
        bpy.ops.wm.save_as_mainfile(filepath=str(path), check_existing=False, compress=True)
    except RuntimeError as error:
        raise OutputError(f"{path}: Blender cannot save there ({str(error).strip()})") from error


# -- formats of other programs -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ExportSettings:
    """What to write: formats (names of `formats.FORMATS`; none: what the preset likes best), preset (a program of
    `presets.PRESETS`, "" for any), one_file: all people in one file instead of one file each.
    """

    formats: tuple[str, ...] = ()
    preset: str = ""
    one_file: bool = False

    def __post_init__(self) -> None:
        chosen = preset(self.preset)
        object.__setattr__(self, "formats", tuple(formats.parse(self.formats or chosen.formats)))
        formats.require(self.formats)


def export_people(
    built: BuiltTake,
    stem: Path,
    settings: ExportSettings | None,
    people: Sequence[int] | None = None,
    also: Callable[[Path], None] | None = None,
) -> list[Path]:
    """Write the people of a take that stands in the context's scene as files `stem_personNN.fbx` and so on.

    As they stand there: whatever moves the armatures and meshes now is in the files.  people: only these ids.
    also: writes more files into the folder that it is given; they come and go with ours.
    Earlier files of these names stay until all new ones are whole.  Raises InputError where nobody is there or nobody
    has the rig that a format needs, OutputError where a file cannot be written.
    """
    stem = Path(os.path.abspath(stem))
    chosen = [person for person in built.people if people is None or person.id in people]
    if not chosen:
        raise InputError(f"{stem.name}: there is nobody in it to be exported")
    with _beside(stem) as part, bake.keeping_mode():
        if settings is not None:
            _write_people(built, chosen, part, stem.name, settings)
        if also is not None:
            also(part)
        return formats.replace_all(part, stem.parent)


def _write_people(
    built: BuiltTake, people: Sequence[BuiltPerson], folder: Path, name: str, settings: ExportSettings
) -> None:
    """All files of the settings' formats."""
    needs_rig = any(part.holds != formats.MESH for kind in settings.formats for part in formats.FORMATS[kind])
    if needs_rig and all(person.armature is None for person in people):
        raise InputError(f"{name}: nobody in it has a rig; {', '.join(settings.formats)} cannot be written")
    frames = built.collection.get(FRAMES) or (bpy.context.scene.frame_start, bpy.context.scene.frame_end)
    cast = [_cast(person, frames, needs_rig) for person in people]
    for kind in settings.formats:
        for part, file, indices in formats.expected(kind, [c.name for c in cast], settings.one_file, name):
            shown = [cast[i] for i in indices if part.holds == formats.MESH or cast[i].bones is not None]
            if shown:
                formats.write(part, folder / file, shown, preset(settings.preset), frames)


def _cast(person: BuiltPerson, frames: Sequence[int], with_rig: bool) -> formats.Cast:
    sampled = bake.sample(person.armature, frames) if with_rig and person.armature is not None else None
    return formats.Cast(f"person{person.id:02d}", person.mesh, person.body, sampled)


@contextmanager
def _beside(stem: Path) -> Iterator[Path]:
    """A hidden folder beside the files to be, gone at the end.  OutputError where it cannot be made or filled."""
    if not stem.parent.is_dir() or not os.access(stem.parent, os.W_OK):
        raise OutputError(f"{stem.parent}: the folder is not there or cannot be written; choose another with --out")
    try:
        for left in stem.parent.glob(f".{glob.escape(stem.name)}.*.part"):  # by a Blender that was killed
            if time.time() - left.stat().st_mtime > LEFT_BEHIND:
                shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=f".{stem.name}.", suffix=".part", dir=stem.parent) as folder:
            yield Path(folder)
    except OSError as error:
        raise OutputError(f"{stem.parent}: cannot be written ({error.strerror or error})") from error
