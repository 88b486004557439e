# SPDX-License-Identifier: GPL-3.0-or-later
"""Write a .blend from a Take, without a window.

    python -m meshpose_blender dancer.take --out dancer.blend                  # with the bpy wheel
    blender -b --python-use-system-env -P meshpose_blender/__main__.py -- dancer.take --out dancer.blend

The second line needs PYTHONPATH to hold the folder of `meshpose_blender` and that of `meshpose` (`build.py` sets it).
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import bpy

from meshpose.errors import MeshPoseError, OutputError
from meshpose_blender.scene import BuiltTake, build_scene


def main(argv: list[str]) -> int:
    """Exit code 0, or 2 with one line on stderr."""
    parser = argparse.ArgumentParser(prog="python -m meshpose_blender", description="Write a .blend from a Take.")
    parser.add_argument("take", type=Path, help="the Take that `meshpose run` wrote")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.blend", help="where the scene goes; replaced")
    parser.add_argument("--footage", type=Path, metavar="CLIP", help="where the clip lies now, if it was moved")
    parser.add_argument("--into", type=Path, metavar="FILE.blend", help="add to this scene instead of an empty one")
    options = parser.parse_args(argv)
    try:
        built = write_blend(options.take, options.out, options.footage, options.into)
    except MeshPoseError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    for note in built.notes:
        print(f"warning: {note}", file=sys.stderr)
    print(f"{options.out}: {len(built.people)} {'person' if len(built.people) == 1 else 'people'}")
    return 0


def write_blend(take: Path, out: Path, clip: Path | None = None, into: Path | None = None) -> BuiltTake:
    """Build the scene of `take` and save it at `out`; an earlier file there stays until the new one is whole.

    Raises TakeError, InputError or OutputError.
    """
    out = Path(os.path.abspath(out))
    if not out.parent.is_dir() or not os.access(out.parent, os.W_OK):
        raise OutputError(f"{out}: the folder is not there or cannot be written; choose another with --out")
    if out.is_dir():
        raise OutputError(f"{out}: this is a folder; give --out a name that ends in .blend")
    part = out.with_name(f".{out.stem}.part.blend")
    try:
        if into is None:
            bpy.ops.wm.read_factory_settings(use_empty=True)
        else:
            bpy.ops.wm.open_mainfile(filepath=str(into.resolve()))
        bpy.context.preferences.filepaths.save_version = 0  # no .blend1 beside it
        _save(part)  # paths relative to the .blend need a place for it
        built = build_scene(take, clip)
        _save(part)
        os.replace(part, out)
    except OSError as error:
        raise OutputError(f"{out}: cannot be written ({error.strerror})") from error
    finally:
        part.unlink(missing_ok=True)
    return built


def _save(path: Path) -> None:
    try:
        bpy.ops.wm.save_as_mainfile(filepath=str(path), check_existing=False, compress=True)
    except RuntimeError as error:
        raise OutputError(f"{path}: Blender cannot save there ({str(error).strip()})") from error


if __name__ == "__main__":
    inside = bool(bpy.app.binary_path)  # a Blender's own arguments stand before the dashes
    sys.exit(main(sys.argv[sys.argv.index("--") + 1 :] if inside and "--" in sys.argv else sys.argv[1:]))
