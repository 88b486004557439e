# SPDX-License-Identifier: GPL-3.0-or-later
"""The command `blender -c meshpose`: the same conversion as in the panel, from a shell, ending in a .blend.

    blender -c meshpose run CLIP [--out DIR] [options of `meshpose run`]    the job, then DIR/<clip>.blend
    blender -c meshpose batch CLIPS --out DIR [options of `meshpose batch`] many clips, a folder with all that for each
    blender -c meshpose scene TAKE [--out FILE.blend]                       the scene alone
    blender -c meshpose export TAKE --export LIST [--out DIR]               its people as files for others
    blender -c meshpose info TAKE [--json]                                  what a Take holds

run, batch and scene take --export LIST, --rig, --preset, --one-file, --only-turns and --smplx-model, too: see
`export --help`.

Exit code 0, 2 with one line on stderr, or 130 when it was stopped (the finished frames are kept).
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import bpy

from meshpose.errors import MeshPoseError

from . import job as jobs
from .job import Job, State
from .watching import count_people

if TYPE_CHECKING:
    from .exporting import Request

BESIDE_THE_WHEEL = [sys.executable, "-c", "import sys, meshpose_blender as m; sys.exit(m.command.main(sys.argv[1:]))"]
"""What stands for `blender -c meshpose` where Blender is a Python module."""
EXIT_CODES = {State.DONE: 0, State.FAILED: 2, State.CANCELLED: 130}
REPORT_SECONDS = 2.0


def main(argv: list[str]) -> int:
    """Entry point that Blender calls with the words behind `-c meshpose`; returns the exit code."""
    try:
        if argv[:1] == ["scene"]:
            return scene(argv[1:])
        if argv[:1] == ["export"]:
            from .exporting import main as export

            return export(argv[1:])
        if argv[:1] == ["batch"] and not {"-h", "--help"} & set(argv):
            return batch(argv[1:])
        if argv[:1] == ["run"] and not {"-h", "--help"} & set(argv):
            return run(argv[1:])
        if argv[:1] in (["run"], ["batch"], ["info"]):
            from meshpose.cli import main as core_main

            return core_main(argv)
    except MeshPoseError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    usage = (__doc__ or "").split("\n\n")[1]
    print(f"usage:\n{usage}", file=sys.stdout if argv in ([], ["--help"], ["-h"]) else sys.stderr)
    return 0 if argv in (["--help"], ["-h"]) else 2


def run(words: list[str]) -> int:
    """`run CLIP ...`: the job as a process, then its Take as a .blend beside it, and what --export asks for."""
    from . import exporting

    words, ours = exporting.split(words)
    wanted = exporting.parse(ours)  # before the long job
    command = [sys.executable, "-m", "meshpose", "run", *words, "--progress", "json"]
    ended = Job(command, jobs.environment()).wait(Reporter())
    if ended.state is State.FAILED:
        print(f"error: {ended.error}", file=sys.stderr)
    elif ended.state is State.CANCELLED:
        print("cancelled: the finished frames are kept, the same command goes on", file=sys.stderr)
    elif ended.take is not None:
        save(ended.take, ended.take.with_suffix(".blend"), wanted)
    return EXIT_CODES[ended.state]


def batch(words: list[str]) -> int:
    """`batch CLIPS ...`: the core's batch, and for every finished Take this very Blender for its scene and exports."""
    from . import exporting

    words, ours = exporting.split(words)
    exporting.parse(ours)  # before the long job
    program = [bpy.app.binary_path, "-c", "meshpose"] if bpy.app.binary_path else BESIDE_THE_WHEEL
    scene = [*program, "scene", "{take}", "--out", "{folder}/{name}.blend", *ours]
    command = [sys.executable, "-m", "meshpose", "batch", "--then", shlex.join(map(as_posix, scene)), *words]
    return subprocess.run(command, env=jobs.environment(), check=False).returncode


def as_posix(word: str) -> str:
    """Windows' backslashes mean something else to who takes a command line apart."""
    return word.replace(os.sep, "/")


def scene(words: list[str]) -> int:
    """`scene TAKE [--out FILE.blend] [--export LIST ...]`."""
    from . import exporting

    parser = exporting.Parser(prog="blender -c meshpose scene")
    parser.add_argument("take", type=Path)
    parser.add_argument("--out", type=Path, help="default: beside the Take")
    exporting.add_options(parser)
    options = parser.parse_args(words)
    save(options.take, options.out or options.take.with_suffix(".blend"), exporting.request(options))
    return 0


def save(take: Path, blend: Path, wanted: Request) -> None:
    """Build the Take's people in an empty file, save it, export them, and say so."""
    from .exporting import produce, tell

    built, files = produce(take, blend, wanted)
    print(f"{blend}: {count_people(len(built.people))}", flush=True)
    tell(built, files)


class Reporter:
    """Prints a line of progress now and then: a log is read later, a terminal now."""

    def __init__(self) -> None:
        self._last = 0.0

    def __call__(self, job: Job) -> None:
        progress, now = job.progress, time.monotonic()
        if progress.frames > 0 and now - self._last >= REPORT_SECONDS:
            self._last = now
            left = "" if progress.seconds_left is None else f", {progress.seconds_left:.0f} s left"
            print(f"{progress.stage}: {progress.frame} / {progress.frames}{left}", flush=True)
