# SPDX-License-Identifier: GPL-3.0-or-later
"""Write a .blend from a Take, and its people in the formats of other programs, without a window.

    python -m meshpose_blender dancer.take --out dancer.blend                  # with the bpy wheel
    python -m meshpose_blender dancer.take --out dancer.blend --export fbx,abc --rig mixamo --preset unreal
    python -m meshpose_blender export dancer.take --export fbx --out DIR       # the files alone
    blender -b --python-use-system-env -P meshpose_blender/__main__.py -- dancer.take --out dancer.blend

The last line needs PYTHONPATH to hold the folder of `meshpose_blender` and that of `meshpose` (`build.py` sets it).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import bpy

from meshpose.errors import MeshPoseError
from meshpose_blender import exporting


def main(argv: list[str]) -> int:
    """Exit code 0, or 2 with one line on stderr."""
    try:
        return exporting.main(argv[1:]) if argv[:1] == ["export"] else _scene(argv)
    except MeshPoseError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


def _scene(argv: list[str]) -> int:
    parser = exporting.Parser(prog="python -m meshpose_blender", description="Write a .blend from a Take.")
    parser.add_argument("take", type=Path, help="the Take that `meshpose run` wrote")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.blend", help="where the scene goes; replaced")
    parser.add_argument("--footage", type=Path, metavar="CLIP", help="where the clip lies now, if it was moved")
    parser.add_argument("--into", type=Path, metavar="FILE.blend", help="add to this scene instead of an empty one")
    exporting.add_options(parser)
    options = parser.parse_args(argv)
    wanted = exporting.request(options)
    built, files = exporting.produce(options.take, options.out, wanted, None, options.footage, options.into)
    print(f"{options.out}: {len(built.people)} {'person' if len(built.people) == 1 else 'people'}")
    exporting.tell(built, files)
    return 0


if __name__ == "__main__":
    inside = bool(bpy.app.binary_path)  # a Blender's own arguments stand before the dashes
    code = main(sys.argv[sys.argv.index("--") + 1 :] if inside and "--" in sys.argv else sys.argv[1:])
    if not inside:  # bpy's wheel can hang for ever while it takes down what Rigify has made (4.5.15)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
