# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs inside any Blender (see test_every_blender.py): what a user does with the zip, from installing to exporting.

    python tests/blender/end_to_end.py OLD_ZIP ZIP CLIP OUT [LANGUAGE]                          # the bpy wheel
    blender -b --python-exit-code 1 -P tests/blender/end_to_end.py -- OLD_ZIP ZIP CLIP OUT [LANGUAGE]

Installs the older zip and the present one over it, switches the extension off and on, converts the clip by the
extension's command (OUT/<clip>.take, .blend, FBX and GLB), and prints one line of JSON about what it has seen.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import bpy  # brings addon_utils with it where it is a module
import numpy as np

import addon_utils  # isort: skip

NAME = "bl_ext.user_default.meshpose"


def install(path: str) -> None:
    """As the preferences' Install from Disk does it, over what is there."""
    bpy.ops.extensions.package_install_files(filepath=path, repo="user_default", enable_on_install=True)


def classes() -> list[str]:
    """Everything of ours that Blender knows as a type."""
    return sorted(name for name in dir(bpy.types) if name.upper().startswith("MESHPOSE_"))


def handlers() -> int:
    """How many functions of ours Blender calls by itself."""
    lists = [value for name in dir(bpy.app.handlers) if isinstance(value := getattr(bpy.app.handlers, name), list)]
    return sum(getattr(function, "__module__", "").startswith(NAME) for each in lists for function in each)


def off_and_on() -> dict[str, Any]:
    """What is registered with the extension on, off, and on again."""
    on = [classes(), handlers(), hasattr(bpy.types.Scene, "meshpose")]
    addon_utils.disable(NAME)
    off = [classes(), handlers(), hasattr(bpy.types.Scene, "meshpose")]
    assert addon_utils.enable(NAME) is not None
    again = [classes(), handlers(), hasattr(bpy.types.Scene, "meshpose")]
    return {"on": on, "off": off, "again": again}


def main(old: str, new: str, clip: str, out: str, language: str = "") -> dict[str, Any]:
    """All of it; what is printed."""
    if language:
        bpy.context.preferences.view.language = language
        bpy.context.preferences.view.use_translate_new_dataname = True
    install(old)
    before = importlib.import_module(NAME)
    aged = [before.AGE, importlib.import_module(f"{NAME}.aged").AGE]
    install(new)
    meshpose = importlib.import_module(NAME)
    folder = Path(str(meshpose.__file__)).parent
    switched = off_and_on()
    meshpose = importlib.import_module(NAME)
    code = meshpose.command.main(["run", clip, "--out", out, "--no-preview", "--export", "fbx,glb"])
    core = importlib.import_module("meshpose")
    return {
        "blender": bpy.app.version_string,
        "python": sys.version.split()[0],
        "numpy": np.__version__,
        "mesh": bpy.app.translations.pgettext_data("Mesh"),
        "aged": aged,
        "stale": [hasattr(meshpose, "AGE"), (folder / "aged.py").exists(), f"{NAME}.aged" in sys.modules],
        "registered": switched,
        "core": core.__file__,
        "code": code,
    }


if __name__ == "__main__":
    words = sys.argv[sys.argv.index("--") + 1 :] if "--" in sys.argv else sys.argv[1:]
    print(json.dumps(main(*words)), flush=True)
    sys.stdout.flush()
    os._exit(0)  # bpy 4.2 crashes when Python ends after an export of glTF
