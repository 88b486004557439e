# SPDX-License-Identifier: Apache-2.0
"""One clip of a batch: its process, watched by its lines of JSON, its log, and what became of it.

    result = run_task(Task("dancer.mp4", "out/dancer"), lambda clip, part: None, threading.Event())
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from .convert import take_path
from .errors import MeshPoseError, OutputError, TakeError
from .take import Take

LOG = "log.txt"
PROGRAM = (sys.executable, "-m", "meshpose")
STAGES = ("track", "place", "rig", "motion", "preview")
KILL_AFTER = 20.0
"""Seconds after a stop when a process that does not end is killed; its Take survives that."""
FREE_AFTER = 15.0
"""Seconds that a task waits for a Take which the process of an earlier, killed batch is just letting go of."""


@dataclass(frozen=True)
class Task:
    """One clip's work: `PROGRAM run CLIP --out FOLDER WORDS`, then each of `then` with the finished Take.

    then: commands in which {take}, {folder} and {name} (the Take's without ending) are put in.
    """

    clip: str
    folder: str
    words: tuple[str, ...] = ()
    program: tuple[str, ...] = PROGRAM
    then: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True)
class Result:
    """A line of results.jsonl.  status: ok or failed; error: one sentence; outputs: files of the clip's folder."""

    clip: str
    status: str
    error: str | None = None
    frames: int = 0
    people: int = 0
    seconds: float = 0.0
    outputs: list[str] = field(default_factory=list)


Report = Callable[[str, float], None]
"""Called with a clip and how much of it is done, 0 to 1."""


def run_task(task: Task, report: Report, cancelled: threading.Event) -> Result | None:
    """Run one clip's process to its end and then the commands for its Take; None when it was stopped."""
    try:
        return _run_task(task, report, cancelled)
    except Exception as error:  # noqa: BLE001 - a fault of ours ends this clip, not the other ones' night
        return Result(task.clip, "failed", f"unexpected {type(error).__name__}: {' '.join(str(error).split())}")


def _run_task(task: Task, report: Report, cancelled: threading.Event) -> Result | None:
    started, folder = time.monotonic(), Path(task.folder)
    path = take_path(task.clip, folder)
    error: str | None = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / LOG).open("a", encoding="utf-8", errors="backslashreplace") as file:
            log = _Log(file)
            _wait_until_free(path, cancelled)
            words = ["run", task.clip, "--out", task.folder, *task.words, "--progress", "json"]
            code, error = _watch([*task.program, *words], log, lambda part: report(task.clip, part), cancelled)
            names = {"{take}": str(path), "{folder}": task.folder, "{name}": path.stem}
            for command in task.then if error is None and code == 0 else ():
                code, error = _watch([_put_in(word, names) for word in command], log, None, cancelled)
                if error:
                    break
            log.write("stopped" if cancelled.is_set() and code else f"failed: {error}" if error else "ok")
    except OSError as problem:
        code, error = 2, f"{task.folder}: nothing can be written there ({problem.strerror}); choose another --out"
    if cancelled.is_set() and code:
        return None
    frames, people, unreadable = _counts(path)
    error = error or unreadable
    outputs = sorted(str(p) for p in folder.rglob("*") if p.is_file() and p.name != LOG and p.name[0] != ".")
    seconds = round(time.monotonic() - started, 3)
    return Result(task.clip, "failed" if error else "ok", error, frames, people, seconds, outputs)


def _put_in(word: str, names: Mapping[str, str]) -> str:
    return re.sub("|".join(map(re.escape, names)), lambda found: names[found.group()], word)


def _counts(path: Path) -> tuple[int, int, str | None]:
    """Frames and people of a Take, and why it cannot be read."""
    try:
        with Take.open(path) as take:
            return len(take.frames), len(take.people), None
    except MeshPoseError as error:
        return 0, 0, str(error)


def _wait_until_free(path: Path, cancelled: threading.Event) -> None:
    """Give the process of a batch or worker that was killed the time to finish its frame and go.

    Somebody who goes on writing is the job's own error.
    """
    until = time.monotonic() + FREE_AFTER
    while path.exists() and time.monotonic() < until and not cancelled.is_set():
        try:
            Take.resume(path).close()
        except TakeError as error:
            if "is writing this Take" in str(error):
                cancelled.wait(0.3)
                continue
        except OutputError:
            pass  # the job says it
        return


def _watch(
    command: Sequence[str], log: _Log, report: Callable[[float], None] | None, cancelled: threading.Event
) -> tuple[int, str | None]:
    """Run a command; exit code, and one sentence when it failed.  report: it tells events (`--progress json`)."""
    log.write(f"$ {shlex.join(command)}")
    try:
        process = subprocess.Popen(
            list(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            encoding="utf-8", errors="replace", env={**os.environ, "PYTHONUTF8": "1", "PYTHONUNBUFFERED": "1"},
            start_new_session=True,  # Ctrl-C is for the batch, which tells its processes
        )  # fmt: skip
    except OSError as error:
        return 2, f"{command[0]}: cannot be started ({error.strerror})"
    told: dict[str, str] = {}
    last: list[str] = [""]

    def hear_stdout(line: str) -> None:
        event = _event(line) if report is not None else None
        if event is None:
            log.write(line)
        elif event["event"] == "progress":
            log.stage(str(event.get("stage")))
            if report is not None:
                report(_part(event))
        else:
            told[event["event"]] = " ".join(str(event.get("message", "")).split())
            log.write(f"{event['event']}: {told[event['event']]}" if told[event["event"]] else event["event"])

    def hear_stderr(line: str) -> None:
        log.write(line)
        last[0] = line.strip() or last[0]

    readers = [_read(process.stdout, hear_stdout), _read(process.stderr, hear_stderr)]
    _wait(process, cancelled)
    for reader in readers:
        reader.join()
    if process.stdin is not None:
        with suppress(OSError):
            process.stdin.close()
    return process.returncode, _sentence(process.returncode, told.get("error"), last[0], command)


def _sentence(code: int, told: str | None, last: str, command: Sequence[str]) -> str | None:
    """Why a process failed; None when it did not."""
    if code == 0 and told is None:
        return None
    if told or last.startswith("error: "):
        return told or last.removeprefix("error: ")
    name = Path(command[0]).name
    if code < 0:
        with suppress(ValueError):
            return f"{name} was ended by {signal.Signals(-code).name}; what it finished is kept, --resume goes on"
    return f"{name} ended unexpectedly (exit code {code}): {last or 'it left no message'}"


def _event(line: str) -> dict[str, Any] | None:
    with suppress(ValueError):
        event = json.loads(line)
        if isinstance(event, dict) and isinstance(event.get("event"), str):
            return event
    return None


def _part(event: Mapping[str, Any]) -> float:
    """How much of a clip is done, 0 to 1: by far the longest stage is the first."""
    stage, frames = event.get("stage"), max(1, int(event.get("frames", 1)))
    inside = min(1.0, int(event.get("frame", 0)) / frames)
    return 0.8 * inside if stage == STAGES[0] else 0.8 + 0.2 * inside * (stage == STAGES[-1])


def _read(stream: IO[str] | None, hear: Callable[[str], None]) -> threading.Thread:
    """Read a stream in a thread of its own: a full pipe would stop the process."""

    def body() -> None:
        with stream or open(os.devnull) as lines:
            for line in lines:
                hear(line.rstrip("\n"))

    thread = threading.Thread(target=body, daemon=True)
    thread.start()
    return thread


def _wait(process: subprocess.Popen[str], cancelled: threading.Event) -> None:
    """Wait for a process's end; a stop is handed on: its stdin ends, a signal comes, at last a kill."""
    asked: float | None = None
    while True:
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.2)
            return
        if cancelled.is_set() and asked is None:
            asked = time.monotonic()
            if process.stdin is not None:
                with suppress(OSError):
                    process.stdin.close()
            if os.name != "nt":
                process.terminate()
        elif asked is not None and time.monotonic() - asked > KILL_AFTER:
            _kill(process)


def _kill(process: subprocess.Popen[str]) -> None:
    """Kill a process and those that it has started (they are a session of their own)."""
    if sys.platform == "win32":
        process.kill()
    else:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


class _Log:
    """A clip's log.txt: every line with its time, stages once each; written by several threads."""

    def __init__(self, file: IO[str]) -> None:
        self._file, self._lock, self._stage = file, threading.Lock(), ""

    def write(self, line: str) -> None:
        with self._lock, suppress(OSError, ValueError):  # a full disk: the job itself says so
            self._file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")
            self._file.flush()

    def stage(self, name: str) -> None:
        if name != self._stage:
            self._stage = name
            self.write(f"stage {name}")
