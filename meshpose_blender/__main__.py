# SPDX-License-Identifier: GPL-3.0-or-later
"""Write a .blend from a Take, without a window.

    python -m meshpose_blender dancer.take --out dancer.blend                  # with the bpy wheel
    blender -b --python-use-system-env -P meshpose_blender/__main__.py -- dancer.take --out dancer.blend

The second line needs PYTHONPATH to hold the folder of `meshpose_blender` and that of `meshpose` (`build.py` sets it).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import bpy

from meshpose.errors import MeshPoseError
from meshpose_blender.export import write_blend


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


if __name__ == "__main__":
    inside = bool(bpy.app.binary_path)  # a Blender's own arguments stand before the dashes
    sys.exit(main(sys.argv[sys.argv.index("--") + 1 :] if inside and "--" in sys.argv else sys.argv[1:]))
