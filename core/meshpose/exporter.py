# SPDX-License-Identifier: Apache-2.0
"""Exports need a Blender: which one, and the words that it is given.

The core knows no Blender; it starts one as a program, the extension's `export` command (meshpose_blender/exporting.py),
and says before a long job whether that can be.
"""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

from .errors import InputError

FORMATS = "fbx, glb, gltf, bvh, usd, abc, smplx"


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that `words` reads."""
    parser.add_argument("--export", metavar="LIST", help=f"files for other programs, by a Blender: {FORMATS}")
    parser.add_argument("--preset", metavar="PROGRAM", help="exports made for unreal, unity or godot")
    parser.add_argument("--rig", metavar="NAME", help="exported bones: default, mixamo, game_engine, rigify")
    parser.add_argument("--one-file", action="store_true", help="all people in one exported file")
    parser.add_argument("--only-turns", action="store_true", help="bones do not shift against their parents")
    parser.add_argument("--smplx-model", metavar="FILE", help="your SMPLX_NEUTRAL.npz, for --export smplx")


def words(options: argparse.Namespace) -> list[str]:
    """The options of `add_options` that were given, as words for the program; empty where nothing is to be exported.

    InputError where there are options and no formats.
    """
    names = {"--export": "export", "--preset": "preset", "--rig": "rig", "--smplx-model": "smplx_model"}
    said = {name: getattr(options, field) for name, field in names.items()}
    given = [f"{name}={said[name]}" for name in ("--export", "--preset") if said[name]]
    more = [f"{name}={said[name]}" for name in ("--rig", "--smplx-model") if said[name]]
    more += [name for name, on in (("--one-file", options.one_file), ("--only-turns", options.only_turns)) if on]
    if more and not given:
        raise InputError(f"{more[0].partition('=')[0]}: it goes with --export, for example --export fbx,abc")
    return given + more


def program() -> list[str]:
    """What `export TAKE --out DIR WORDS` is given to: Blender as this Python's module, else an installed one.

    InputError where there is neither.
    """
    if all(importlib.util.find_spec(name) for name in ("bpy", "meshpose_blender")):
        return [sys.executable, "-m", "meshpose_blender"]
    blender = shutil.which("blender")
    if blender is None:
        raise InputError("--export: needs Blender with the MeshPose extension, and no `blender` is on the PATH")
    return [blender, "-c", "meshpose"]


def check(asked: list[str]) -> list[str]:
    """The command that exports a `{take}` into `{folder}` as asked; tried before a long job.

    InputError with the program's own line where it cannot be.
    """
    command = [*program(), "export"]
    tried = subprocess.run([*command, "--check", *asked], capture_output=True, text=True, errors="replace")
    if tried.returncode:
        lines = [line for line in tried.stderr.splitlines() if line.strip()] or ["it left no message"]
        said = [line for line in lines if line.startswith("error: ")]
        raise InputError((said or lines)[-1].removeprefix("error: "))
    return [*command, "{take}", "--out", "{folder}", *asked]


def run(command: list[str], take: Path) -> int:
    """Run `check`'s command for one Take; its exit code, after one line on stderr where that is not 0."""
    names = {"{take}": str(take), "{folder}": str(take.absolute().parent)}
    return subprocess.run([names.get(word, word) for word in command], check=False).returncode
