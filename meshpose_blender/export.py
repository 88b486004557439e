# SPDX-License-Identifier: GPL-3.0-or-later
"""Results as files: a Take as a .blend of its own."""

from __future__ import annotations

import os
from pathlib import Path

import bpy

from meshpose.errors import InputError, OutputError

from .scene import BuiltTake, build_scene


def write_blend(take: Path, out: Path, clip: Path | None = None, into: Path | None = None) -> BuiltTake:
    """Build the scene of `take` and save it at `out`; an earlier file there stays until the new one is whole.

    clip: where the footage lies now, if it was moved.  into: add to this .blend instead of an empty scene.
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
        built = build_scene(take, clip)
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
