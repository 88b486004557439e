# SPDX-License-Identifier: GPL-3.0-or-later
"""The job: `meshpose run` as a process of its own, watched by its lines of JSON. Knows nothing of bpy.

    job = start("clip.mp4", "out", height=1.72)
    while job.state is State.RUNNING:
        job.poll()                      # never waits; call it from a timer
        print(job.progress.stage, job.progress.frame)

The process is Blender's own Python with the extension's packages on its path. It ends by itself when its stdin is
closed, so a Blender that quits or crashes leaves nothing running, and what it finished stays in the Take.
"""

from __future__ import annotations

import collections
import enum
import importlib.machinery
import importlib.util
import json
import os
import platform
import queue
import re
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

# Packages that the process needs and Blender's Python does not find by itself.
PACKAGES = ("meshpose", "cv2", "onnxruntime", "numpy")
# Seconds after Cancel when a process that does not end is told again (on Windows: ended), then killed.  The Take
# survives that: whoever takes so long for a frame has committed the frames before it.
TERMINATE_AFTER, KILL_AFTER = 0.5, 0.6
STDERR_LINES = 50
BROKEN = re.compile(r"^(ModuleNotFoundError|ImportError)\b:? *(.*)")
"""How Python says that a package is not there or does not work."""
USUALLY_ON = ("preview", "second_look", "lock_feet", "level")
"""Settings that are on unless `--no-NAME` is given."""


class State(enum.Enum):
    """What a job is doing."""

    RUNNING = "running"
    DONE = "done"
    CANCELLED = "cancelled"
    FAILED = "failed"


@dataclass(frozen=True)
class Progress:
    """The last progress that the process told: `frame` of `frames` in a stage, pictures a second, seconds left."""

    stage: str = "start"
    frame: int = 0
    frames: int = 0
    fps: float = 0.0
    seconds_left: float | None = None
    people: int = 0

    @property
    def fraction(self) -> float:
        """0 to 1 within the stage."""
        return min(max(self.frame / self.frames, 0.0), 1.0) if self.frames > 0 else 0.0


def command_line(clip: str | Path, out: str | Path, **settings: Any) -> list[str]:
    """The command of a conversion. Settings are its options with `_` for `-`; None and False are left out.

    `only` is a list of (frame, x, y, w, h).  Paths become absolute: the process does not depend on Blender's working
    folder, and no name looks like an option.
    """
    words = [sys.executable, "-m", "meshpose", "run", os.path.abspath(clip), "--out", os.path.abspath(out)]
    words += ["--progress", "json"]
    for name, value in settings.items():
        option = name.replace("_", "-")
        if name in USUALLY_ON:
            words += [] if value else [f"--no-{option}"]
        elif name == "only":
            words += [f"--only={int(frame)}:{','.join(f'{v:g}' for v in box)}" for frame, *box in value]
        elif value is not None and value is not False:
            words += [f"--{option}"] + ([] if value is True else [str(value)])
    return words


def refit_command(take: str | Path, **changes: Any) -> list[str]:
    """The command that makes a finished Take's later parts again with changed settings (`meshpose.convert.refit`)."""
    words = [sys.executable, "-m", "meshpose", "refit", os.path.abspath(take), "--progress", "json"]
    for name, value in changes.items():
        words += ["--set", f"{name}={json.dumps(value)}"]
    return words


def look_command(clip: str | Path, frame: int, picture: Path) -> list[str]:
    """The command that finds the people on one frame and draws them; its answer becomes `Job.answer`."""
    words = [sys.executable, "-m", "meshpose", "look", os.path.abspath(clip), "--frame", str(frame)]
    return [*words, "--json", "--picture", str(picture)]


def environment() -> dict[str, str]:
    """The process's environment: PYTHONPATH leads to the packages that this Blender found, and to nothing else.

    A PYTHONPATH of the user's is for another Python and is not passed on.
    """
    folders: list[str] = []
    for name in PACKAGES:
        folder = _folder_of(name, folders)
        if folder and folder not in folders:
            folders.append(folder)
    env = {key: value for key, value in os.environ.items() if key not in ("PYTHONHOME", "PYTHONSTARTUP")}
    return env | {"PYTHONPATH": os.pathsep.join(folders), "PYTHONUTF8": "1", "PYTHONUNBUFFERED": "1"}


def _folder_of(name: str, before: Sequence[str]) -> str | None:
    """Where a package lies: in one of the folders `before`, else where Blender would find it; None where it is not.

    The first folder is our own package's, where the extension's wheels are: what another extension has put in front of
    everybody's path does not come before them.
    """
    spec = importlib.machinery.PathFinder.find_spec(name, list(before)) if before else None
    try:
        spec = spec or importlib.util.find_spec(name)
    except ValueError:  # a module without a specification stands in its place
        return None
    return None if spec is None or spec.origin is None else str(Path(spec.origin).parents[1])


def missing_packages() -> list[str]:
    """Packages that the conversion needs and this Blender does not have; none of them is loaded for that."""
    return [name for name in PACKAGES if _folder_of(name, ()) is None]


def advice(packages: Sequence[str], reason: str = "") -> str:
    """What somebody can do where a package is missing or does not work: one sentence."""
    names, many = " and ".join(packages), len(packages) > 1
    wrong = f"{'do' if many else 'does'} not work in this Blender ({reason})" if reason else "is missing"
    machine = f"Python {sys.version_info[0]}.{sys.version_info[1]}, {platform.system()} {platform.machine()}"
    return (
        f"{names} {'are missing' if many and not reason else wrong}: install the MeshPose zip for this Blender "
        f"({machine}) again with Edit > Preferences > Get Extensions > Install from Disk, then start Blender anew"
    )


def start(clip: str | Path, out: str | Path, **settings: Any) -> Job:
    """Start converting `clip` into the folder `out`; see `command_line` for the settings."""
    return Job(command_line(clip, out, **settings), environment())


class Job:
    """One running (or ended) process. `poll` brings everything else up to date and never waits.

    Attributes: `state`, `progress`, `people` (how many), `warnings` (sentences), `error` (one sentence when FAILED),
    `take` and `preview` (paths when DONE), `answer` (what a look found, when DONE).
    """

    def __init__(self, command: Sequence[str], env: Mapping[str, str] | None = None) -> None:
        self.state = State.RUNNING
        self.progress = Progress()
        self.people = 0
        self.warnings: list[str] = []
        self.error = ""
        self.take: Path | None = None
        self.preview: Path | None = None
        self.command = list(command)
        self.answer: dict[str, Any] | None = None
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._stderr: collections.deque[str] = collections.deque(maxlen=STDERR_LINES)
        self._cancelled_at: float | None = None
        self._ended = False  # the process has closed its stdout
        self._stderr_ended = threading.Event()
        self._process: subprocess.Popen[str] | None = None
        try:
            self._process = subprocess.Popen(
                list(command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                encoding="utf-8",
                errors="replace",
                env=None if env is None else dict(env),
                creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),  # no console window on Windows
            )
        except OSError as error:
            self._fail(f"{command[0]}: cannot be started ({error.strerror}); is this Blender installed completely?")
            return
        _listen(self._process.stdout, self._lines.put)
        _listen(self._process.stderr, self._hear)

    @property
    def cancelling(self) -> bool:
        """Whether Cancel was asked for and the process is finishing its frame."""
        return self.state is State.RUNNING and self._cancelled_at is not None

    @property
    def detail(self) -> str:
        """Everything that somebody who is asked for help wants to know, some lines."""
        code = None if self._process is None else self._process.poll()
        lines = [f"error: {self.error}"] if self.error else []
        lines += [f"warning: {warning}" for warning in self.warnings]
        lines += [f"command: {shlex.join(self.command)}", f"exit code: {code}", f"progress: {self.progress}"]
        lines += [f"Python {sys.version.split()[0]} on {platform.platform()}"]
        return "\n".join([*lines, "what it wrote:", *(line.rstrip() for line in self._stderr)])

    def poll(self) -> bool:
        """Take in what the process said since the last call; returns whether anything changed. Never waits."""
        if self._process is None or self.state is not State.RUNNING:
            return False
        changed = False
        while not self._lines.empty():
            line = self._lines.get()
            if line is None:
                self._ended = True
            else:
                self._event(line)
            changed = True
        ended = self._ended and self._stderr_ended.is_set()  # its last words can come after its end
        if ended and self._process.poll() is not None and self.state is State.RUNNING:
            self._conclude(self._process.returncode)
            changed = True
        self._insist()
        return changed

    def cancel(self) -> None:
        """Ask the process to stop after the frame in work; it keeps what is done. Returns at once."""
        if self._process is None or self.state is not State.RUNNING or self._cancelled_at is not None:
            return
        self._cancelled_at = time.monotonic()
        _close(self._process.stdin)
        if os.name != "nt":
            self._process.terminate()  # at once: a process that has just begun does not listen to its stdin yet

    def close(self) -> None:
        """End the process now (Blender takes the extension away). The Take keeps what was committed."""
        if self._process is None:
            return
        _close(self._process.stdin)
        try:
            self._process.wait(timeout=2.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self.state is State.RUNNING:
            self.state = State.CANCELLED

    def wait(self, report: Callable[[Job], None] | None = None, interval: float = 0.1) -> Job:
        """Block until the job ends, calling `report(job)` after each change; KeyboardInterrupt cancels it."""
        while self.state is State.RUNNING:
            try:
                if self.poll() and report is not None:
                    report(self)
                if self.state is State.RUNNING:
                    time.sleep(interval)
            except KeyboardInterrupt:
                self.cancel()
        return self

    def _event(self, line: str) -> None:
        """One line of the process's stdout. Lines that are no event of ours (a library's chatter) are left out."""
        try:
            event = json.loads(line)
            kind = event["event"]
        except (ValueError, KeyError, TypeError):
            return
        if kind == "progress":
            known = {key: value for key, value in event.items() if key in Progress.__dataclass_fields__}
            self.progress = Progress(**known)
            self.people = max(self.people, self.progress.people)
        elif kind == "warning":
            self.warnings.append(str(event["message"]))
        elif kind == "error":
            self.error = " ".join(str(event["message"]).split())
        elif kind == "look":
            self.answer = event
        elif kind == "done":
            self.take = Path(event["take"])
            self.preview = Path(event["preview"]) if event.get("preview") else None
            people = event.get("people", 0)
            self.people = people if isinstance(people, int) else len(people)

    def _hear(self, line: str | None) -> None:
        """One line of the process's stderr, or its end; called by the reader thread."""
        if line is None:
            self._stderr_ended.set()
        else:
            self._stderr.append(line)

    def _conclude(self, code: int) -> None:
        """The process has ended by itself: done, cancelled, or broken without a word."""
        if self.error:
            self.state = State.FAILED
        elif code == 0 and (self.take is not None or self.answer is not None):
            self.state = State.DONE
        elif self._cancelled_at is not None or code == 130:
            self.state = State.CANCELLED
        else:
            last = next((line.strip() for line in reversed(self._stderr) if line.strip()), "it left no message")
            broken = next(filter(None, (BROKEN.match(line) for line in reversed(self._stderr))), None)
            if broken:
                named = next((name for name in PACKAGES if name in broken[2]), "onnxruntime")
                missing = f"No module named '{named}'" == broken[2].strip()
                self._fail(advice([named], "" if missing else broken[2].strip() or "it breaks off"))
            elif code == 2 and last.startswith("error: "):  # said before it knew that we listen: a wrong option
                self._fail(last.removeprefix("error: "))
            else:
                self._fail(f"The conversion ended unexpectedly (exit code {code}): {last}")

    def _insist(self) -> None:
        """A process that does not end after Cancel is told so, then killed; the Take survives both."""
        if self._process is None or self._cancelled_at is None or self.state is not State.RUNNING:
            return
        waited = time.monotonic() - self._cancelled_at
        if waited > KILL_AFTER:
            self._process.kill()
        elif waited > TERMINATE_AFTER:
            self._process.terminate()

    def _fail(self, sentence: str) -> None:
        self.state = State.FAILED
        self.error = " ".join(sentence.split())


def _listen(stream: IO[str] | None, take_line: Callable[[str | None], None]) -> None:
    """Read a stream of the process in a thread of its own (a full pipe would stop the process)."""
    if stream is not None:
        threading.Thread(target=_read, args=(stream, take_line), daemon=True).start()


def _read(stream: IO[str], take_line: Callable[[str | None], None]) -> None:
    """Body of a reader thread: hand over each line, then None."""
    with stream:
        for line in stream:
            take_line(line)
    take_line(None)


def _close(stream: IO[str] | None) -> None:
    """Close the process's stdin; it may have ended meanwhile."""
    try:
        if stream is not None:
            stream.close()
    except BrokenPipeError:
        pass
