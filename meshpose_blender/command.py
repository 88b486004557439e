# SPDX-License-Identifier: GPL-3.0-or-later
"""The command `blender -c meshpose`: the same conversion as in the panel, from a shell, ending in a .blend.

    blender -c meshpose run CLIP [--out DIR] [options of `meshpose run`]    the job, then DIR/<clip>.blend
    blender -c meshpose scene TAKE [--out FILE.blend]                       the scene alone
    blender -c meshpose info TAKE [--json]                                  what a Take holds

Exit code 0, 2 with one line on stderr, or 130 when it was stopped (the finished frames are kept).
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from meshpose.errors import MeshPoseError

from . import job as jobs
from .job import Job, State
from .operators import count_people

EXIT_CODES = {State.DONE: 0, State.FAILED: 2, State.CANCELLED: 130}
REPORT_SECONDS = 2.0


def main(argv: list[str]) -> int:
    """Entry point that Blender calls with the words behind `-c meshpose`; returns the exit code."""
    try:
        if argv[:1] == ["scene"]:
            return scene(argv[1:])
        if argv[:1] == ["run"] and not {"-h", "--help"} & set(argv):
            return run(argv[1:])
        if argv[:1] in (["run"], ["info"]):
            from meshpose.cli import main as core_main

            return core_main(argv)
    except MeshPoseError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    usage = (__doc__ or "").split("\n\n")[1]
    print(f"usage:\n{usage}", file=sys.stdout if argv in ([], ["--help"], ["-h"]) else sys.stderr)
    return 0 if argv in (["--help"], ["-h"]) else 2


def run(words: list[str]) -> int:
    """`run CLIP ...`: the job as a process, then its Take as a .blend beside it."""
    command = [sys.executable, "-m", "meshpose", "run", *words, "--progress", "json"]
    ended = Job(command, jobs.environment()).wait(Reporter())
    if ended.state is State.FAILED:
        print(f"error: {ended.error}", file=sys.stderr)
    elif ended.state is State.CANCELLED:
        print("cancelled: the finished frames are kept, the same command goes on", file=sys.stderr)
    elif ended.take is not None:
        save(ended.take, ended.take.with_suffix(".blend"))
    return EXIT_CODES[ended.state]


def scene(words: list[str]) -> int:
    """`scene TAKE [--out FILE.blend]`."""
    parser = argparse.ArgumentParser(prog="blender -c meshpose scene")
    parser.add_argument("take", type=Path)
    parser.add_argument("--out", type=Path, help="default: beside the Take")
    options = parser.parse_args(words)
    save(options.take, options.out or options.take.with_suffix(".blend"))
    return 0


def save(take: Path, blend: Path) -> None:
    """Build the Take's people in an empty file, save it and say so."""
    from .export import write_blend

    built = write_blend(take, blend)
    for note in built.notes:
        print(f"warning: {note}", file=sys.stderr)
    print(f"{blend}: {count_people(len(built.people))}", flush=True)


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
