# SPDX-License-Identifier: Apache-2.0
"""The command line: `meshpose run CLIP`, `look CLIP`, `refit TAKE`, `people TAKE`, `correct TAKE`, `batch CLIPS`,
`info TAKE`, `evaluate SET.json`.

Exit code 0; 2 after one line that says what is wrong; 130 when it was stopped (the finished frames are kept, the same
command goes on).  `run --progress json` writes one JSON object per line to stdout, for programs that watch:

    {"event": "progress", "stage", "frame", "frames", "fps", "seconds_left", "people"}
    {"event": "warning", "message"}      {"event": "cancelled"}      {"event": "error", "message"}
    {"event": "done", "take", "preview", "people"}
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import os
import signal
import stat
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

from . import __version__, exporter, weights
from .errors import Cancelled, InputError, MeshPoseError

if TYPE_CHECKING:
    from .convert import Progress, Settings
    from .take import Take

STAGES = {"track": "people and meshes", "place": "places", "rig": "rigs", "motion": "motion", "preview": "preview"}
QUIET_SECONDS = 10.0
"""Without a terminal a line of progress this often."""
STDIN_GRACE = 0.2
"""A stdin that ends this early was never held open by anybody."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that cannot show a clip's name still gets its line
            stream.reconfigure(errors="backslashreplace")
    # Before OpenCV is loaded: it warns on stderr of clips that do not open, beside our one line.
    os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")
    try:
        if arguments[:1] == ["evaluate"]:
            from .evaluate import main as evaluate

            return evaluate(arguments[1:])
        options = _parser().parse_args(arguments)
        command: Callable[[argparse.Namespace], int] = options.command
        return command(options)
    except MeshPoseError as error:
        print(f"error: {_one_line(error)}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("cancelled", file=sys.stderr)
        return Cancelled.exit_code
    except SystemExit as end:  # argparse's --help and --version
        return end.code if isinstance(end.code, int) else 0
    except BrokenPipeError:  # the reader of our output is gone (`meshpose info x | head`)
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - the interpreter flushes it at its end
        return Cancelled.exit_code


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


class _Parser(argparse.ArgumentParser):
    """argparse whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; `{self.prog} --help` says what there is")


def _parser() -> argparse.ArgumentParser:
    from . import edit_commands
    from .batch import add_options as add_batch_options
    from .batch import main as run_batch

    parser = _Parser(prog="meshpose", description="From a clip of people to animated bodies.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"meshpose {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)
    run = commands.add_parser("run", help="clip -> Take and preview", allow_abbrev=False)
    run.set_defaults(command=_run, job=_convert)
    run.add_argument("clip", help="a video, a picture, a folder or pattern (f_%%04d.png) of pictures")
    run.add_argument("--out", default=".", metavar="DIR", help="folder for CLIP.take and CLIP_preview.mp4 (here)")
    run.add_argument("--restart", action="store_true", help="begin anew instead of going on where a Take stopped")
    _add_settings(run)
    only = "keep the person in this box, as look finds it; again for more people"
    run.add_argument("--only", type=_box, action="append", default=[], metavar="FRAME:X,Y,W,H", help=only)
    run.add_argument("--progress", choices=("bar", "json", "none"), default="bar", help="how progress is told (bar)")
    exporter.add_options(run)
    _add_refit(commands.add_parser("refit", help="a finished Take with other settings, no network", allow_abbrev=False))
    _add_look(commands.add_parser("look", help="who is on a frame, before the long run", allow_abbrev=False))
    for name, told in (("people", "merge, split, swap, delete people"), ("correct", "put joints right by hand")):
        by_hand = commands.add_parser(name, help=f"{told} of a Take", allow_abbrev=False)
        edit_commands.add_options(by_hand, name)
        by_hand.set_defaults(command=_run, job=_by_hand)
    info = commands.add_parser("info", help="what a Take holds", allow_abbrev=False)
    info.set_defaults(command=_info)
    info.add_argument("take", help="a .take file")
    info.add_argument("--json", action="store_true", help="as JSON")
    many = commands.add_parser("batch", help="many clips, one process each", allow_abbrev=False)
    add_batch_options(many)
    settings = _add_settings(many)
    many.set_defaults(command=lambda options: run_batch(options, _settings(options), _said(settings, options)))
    commands.add_parser("evaluate", help="figures on a COCO-format set", add_help=False)
    return parser


def _add_settings(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """The options that say how a clip is converted: those of `run` and of `batch`."""
    before = len(parser._actions)
    size = f"the network ({weights.DEFAULT}): fast needs less time for each person and places limbs less exactly"
    parser.add_argument("--model", default=weights.DEFAULT, metavar="fast|accurate", help=size)
    once = "see each person once a frame: half the network's time, the mesh trembles more"
    parser.add_argument("--no-second-look", dest="second_look", action="store_false", help=once)
    parser.add_argument("--person", type=int, metavar="N", help="keep only this person")
    parser.add_argument("--max-people", type=int, metavar="N", help="follow at most so many at a time")
    parser.add_argument("--min-size", type=float, default=32.0, metavar="PX", help="smallest person looked for (32)")
    parser.add_argument("--detect-every", type=int, default=10, metavar="N", help="frames between looks (10)")
    lens = parser.add_mutually_exclusive_group()
    lens.add_argument("--focal-mm", type=float, metavar="F", help="focal length of the lens, full-frame equivalent")
    lens.add_argument("--fov", type=float, metavar="DEG", help="field of view along the longer side (55)")
    told = "height in metres, of all or by person: 1:1.80,2:1.65"
    parser.add_argument("--height", metavar="M", help=told)
    parser.add_argument("--smooth", type=float, default=0.5, metavar="S", help="steadiness, 0 raw to 1 (0.5)")
    parser.add_argument("--no-lock-feet", dest="lock_feet", action="store_false", help="let feet slide as seen")
    parser.add_argument("--no-level", dest="level", action="store_false", help="take the camera for level")
    parser.add_argument("--camera", default="static", metavar="KIND", help="static, or moving: turns are compensated")
    parser.add_argument("--fill-gaps", type=int, default=12, metavar="N", help="longest gap that is filled (12)")
    parser.add_argument("--start", type=int, default=0, metavar="N", help="first frame (0)")
    parser.add_argument("--end", type=int, metavar="N", help="frame to stop before")
    parser.add_argument("--no-preview", dest="preview", action="store_false", help="write no preview video")
    return parser._actions[before:]


def _settings(options: argparse.Namespace) -> Settings:
    """The settings that the options of `_add_settings` say.  InputError where one cannot be."""
    from .convert import Settings

    known = vars(options)
    given: dict[str, Any] = {f.name: known[f.name] for f in dataclasses.fields(Settings) if f.name in known}
    given["height"], given["heights"] = _heights(options.height)
    return Settings(**given)


def _said(actions: list[argparse.Action], options: argparse.Namespace) -> list[str]:
    """Those of `_add_settings`' options that were given, as words of a command line."""
    words = []
    for action in actions:
        value = getattr(options, action.dest)
        if value != action.default:
            words += [action.option_strings[-1]] + ([] if action.nargs == 0 else [str(value)])
    return words


def _heights(text: str | None) -> tuple[float | None, dict[int, float]]:
    """`1.75` (everybody), `1:1.80,2:1.65` (by id), or both: `1.75,2:1.65`.  InputError for anything else."""
    everybody, heights = None, {}
    try:
        for part in text.split(",") if text else []:
            number, colon, metres = part.rpartition(":")
            if colon:
                heights[int(number)] = float(metres)
            elif everybody is None:
                everybody = float(metres)
            else:
                raise ValueError
    except ValueError:
        raise InputError(f"--height {text}: give metres (1.75), or metres by person (1:1.80,2:1.65)") from None
    return everybody, heights


def _box(text: str) -> tuple[float, ...]:
    """`FRAME:X,Y,W,H` as five numbers."""
    try:
        frame, _, rest = text.partition(":")
        return (float(int(frame)), *map(float, rest.split(",")))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text}: give FRAME:X,Y,WIDTH,HEIGHT in pixels") from error


def _add_refit(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(command=_run, job=_refit)
    parser.add_argument("take", help="a finished .take file")
    told = "a setting and its new value, as JSON: smooth=0.8, lock_feet=false, height=1.72, only=[]; others stay"
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help=told)
    parser.add_argument("--preview", action="store_true", help="write the preview anew, too (needs the clip)")
    parser.add_argument("--progress", choices=("bar", "json", "none"), default="bar", help="how progress is told (bar)")


def _add_look(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(command=_look)
    parser.add_argument("clip", help="as for run")
    parser.add_argument("--frame", type=int, default=0, metavar="N", help="which frame (0)")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="write the frame with numbered boxes (png, jpg)")
    parser.add_argument("--json", action="store_true", help="as one JSON object on one line")


# -- run -------------------------------------------------------------------------------------------------------------


def _run(options: argparse.Namespace) -> int:
    reporter: _Reporter = {"bar": _Bar, "json": _Json, "none": _Reporter}[options.progress]()
    job: Callable[[argparse.Namespace, _Reporter, threading.Event], int] = options.job
    try:
        with _cancelling(watch_stdin=options.progress == "json") as cancelled:
            return job(options, reporter, cancelled)
    except MeshPoseError as error:
        reporter.failed(_one_line(error))
        return error.exit_code
    except KeyboardInterrupt:
        reporter.cancelled()
        return Cancelled.exit_code
    finally:
        reporter.close()


def _convert(options: argparse.Namespace, reporter: _Reporter, cancelled: threading.Event) -> int:
    from .convert import steps, take_path
    from .preview import preview_path
    from .take import Take

    settings = _settings(options)
    asked = exporter.words(options)
    export = exporter.check(asked) if asked else None
    work = steps(options.clip, options.out, settings, options.restart)
    if not _follow(work, reporter, cancelled):
        return Cancelled.exit_code
    path = take_path(options.clip, options.out)
    with Take.open(path) as take:
        preview = preview_path(path, take.clip.is_image)
        # Without one asked for, a preview there is of an earlier run, and perhaps of other people.
        reporter.done(take, preview if settings.preview and preview.exists() else None)
    return exporter.run(export, path) if export else 0


def _follow(work: Generator[Progress, None, None], reporter: _Reporter, cancelled: threading.Event) -> bool:
    """Drive a job to its end and tell how it goes; False when it was stopped (what is done is kept)."""
    try:
        for progress in work:
            if progress.warning:
                reporter.warning(progress.warning)
            else:
                reporter.progress(progress)
            if cancelled.is_set():
                raise Cancelled
    except Cancelled:
        work.close()  # commits
        reporter.cancelled()
        return False
    finally:
        work.close()
    return True


def _refit(options: argparse.Namespace, reporter: _Reporter, cancelled: threading.Event) -> int:
    from .convert import refit
    from .preview import preview_path
    from .take import Take

    if not _follow(refit(options.take, options.preview, **_changes(options.set)), reporter, cancelled):
        return Cancelled.exit_code
    with Take.open(options.take) as take:
        reporter.done(take, preview_path(take.path, take.clip.is_image) if options.preview else None)
    return 0


def _by_hand(options: argparse.Namespace, reporter: _Reporter, cancelled: threading.Event) -> int:
    from .edit_commands import change

    return _refit(options, reporter, cancelled) if change(options) and not options.no_refit else 0


def _changes(words: list[str]) -> dict[str, Any]:
    """`NAME=VALUE` with VALUE as JSON; what is no JSON is text.  InputError for a name that is no setting."""
    from .convert import Settings

    names = {field.name for field in dataclasses.fields(Settings)} - {"preview"}
    changes: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if name not in names or not equals:
            raise InputError(f"--set {word}: give NAME=VALUE; there are {', '.join(sorted(names))}")
        try:
            changes[name] = json.loads(value)
        except ValueError:
            changes[name] = value
    return changes


def _look(options: argparse.Namespace) -> int:
    from .look import look, write_picture

    seen = look(options.clip, options.frame)
    if options.picture is not None:
        write_picture(seen, options.picture)
    people = [
        {"number": number, "box": [round(float(v), 1) for v in person.box], "score": round(float(person.score), 3)}
        for number, person in enumerate(seen.people, 1)
    ]
    if options.json:
        picture = str(options.picture.resolve()) if options.picture else None
        known = {"event": "look", "clip": str(seen.info.path), "frame": seen.frame.index, "frames": seen.info.frames}
        size = {"width": seen.info.width, "height": seen.info.height, "fps": seen.info.fps}
        print(json.dumps({**known, **size, "picture": picture, "people": people}))
        return 0
    for person in people:
        print(f"person {person['number']}: box {person['box']}, score {person['score']}")
    count = "1 person" if len(people) == 1 else f"{len(people) or 'no'} people"
    print(f"{seen.info.path}, frame {seen.frame.index}: {count}")
    return 0


@contextmanager
def _cancelling(watch_stdin: bool) -> Iterator[threading.Event]:
    """An event that SIGINT, SIGTERM or (asked for) the end of stdin sets; a second SIGINT interrupts at once."""
    event, caught_before = threading.Event(), set[int]()

    def stop(number: int, _: FrameType | None) -> None:
        if number == signal.SIGINT and number in caught_before:
            raise KeyboardInterrupt
        caught_before.add(number)  # the event says too little: the end of stdin often comes with the first SIGINT
        event.set()

    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, stop)
    if watch_stdin:
        threading.Thread(target=_wait_for_end_of_stdin, args=(event,), daemon=True).start()
    try:
        yield event
    finally:
        for caught, handler in before.items():
            signal.signal(caught, handler)


def _wait_for_end_of_stdin(event: threading.Event) -> None:
    """Set the event when the program that holds our stdin closes it or ends.

    Only a pipe or a socket is held by somebody: /dev/null and files end at once and mean nothing, and so does a pipe
    whose other end was closed before we began.
    """
    started = time.monotonic()
    try:
        mode = os.fstat(0).st_mode
        if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)):
            return
        while os.read(0, 4096):
            pass
    except OSError:
        return
    if time.monotonic() - started > STDIN_GRACE:
        event.set()


class _Reporter:
    """Tells nothing but warnings and errors (`--progress none`)."""

    def progress(self, progress: Progress) -> None:
        """A step is done."""

    def warning(self, message: str) -> None:
        """Something that does not stop the job."""
        print(f"warning: {message}", file=sys.stderr)

    def done(self, take: Take, preview: Path | None) -> None:
        """All is written."""

    def cancelled(self) -> None:
        """Stopped by the user."""
        print("cancelled: the finished frames are kept, the same command goes on", file=sys.stderr)

    def failed(self, message: str) -> None:
        """Cannot be done."""
        print(f"error: {message}", file=sys.stderr)

    def close(self) -> None:
        """Nothing more will come."""


class _Json(_Reporter):
    """One JSON object a line."""

    def progress(self, progress: Progress) -> None:
        left = None if progress.seconds_left is None else round(progress.seconds_left, 2)
        self._write(
            "progress", stage=progress.stage, frame=progress.frame, frames=progress.frames,
            fps=round(progress.fps, 3), seconds_left=left, people=progress.people,
        )  # fmt: skip

    def warning(self, message: str) -> None:
        self._write("warning", message=message)

    def done(self, take: Take, preview: Path | None) -> None:
        shown = str(preview.resolve()) if preview else None
        self._write("done", take=str(take.path.resolve()), preview=shown, people=len(take.people))

    def cancelled(self) -> None:
        self._write("cancelled")

    def failed(self, message: str) -> None:
        self._write("error", message=message)

    def _write(self, event: str, **values: Any) -> None:
        try:
            print(json.dumps({"event": event, **values}), flush=True)
        except BrokenPipeError:  # nobody listens any more: the same as a closed stdin
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - the interpreter flushes it at its end
            raise Cancelled from None


class _Bar(_Reporter):
    """A bar on a terminal; elsewhere a line now and then, and the result."""

    def __init__(self) -> None:
        self.stage, self.bar, self.last = "", None, time.monotonic()

    def progress(self, progress: Progress) -> None:
        if not sys.stderr.isatty():
            if time.monotonic() - self.last > QUIET_SECONDS:
                self.last = time.monotonic()
                left = "" if progress.seconds_left is None else f", {progress.seconds_left:.0f} s left"
                stage = STAGES.get(progress.stage, progress.stage)
                print(f"{stage}: {progress.frame} of {progress.frames}, {progress.fps:.1f} fps{left}", flush=True)
            return
        if progress.stage != self.stage:
            self.close()
            self._begin(progress)
        if self.bar is not None:
            self.bar.total = progress.frames
            self.bar.update(progress.frame - self.bar.n)

    def _begin(self, progress: Progress) -> None:
        from tqdm import tqdm

        title = STAGES.get(progress.stage, progress.stage)
        first = progress.frame - 1 if progress.frame else 0
        self.stage = progress.stage
        self.bar = tqdm(desc=title, total=progress.frames, initial=first, unit="frame", dynamic_ncols=True)

    def warning(self, message: str) -> None:
        self.close()
        super().warning(message)

    def done(self, take: Take, preview: Path | None) -> None:
        self.close()
        people = "1 person" if len(take.people) == 1 else f"{len(take.people) or 'no'} people"
        frames = "1 frame" if len(take.frames) == 1 else f"{len(take.frames)} frames"
        print(f"{take.path}: {people} in {frames}" + (f"; preview {preview}" if preview else ""))

    def cancelled(self) -> None:
        self.close()
        super().cancelled()

    def failed(self, message: str) -> None:
        self.close()
        super().failed(message)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
        self.bar, self.stage = None, ""


# -- info ------------------------------------------------------------------------------------------------------------


def _info(options: argparse.Namespace) -> int:
    from .take import Take

    with Take.open(options.take) as take:
        known = describe(take)
    if options.json:
        print(json.dumps(known, indent=1))
        return 0
    clip = known["clip"]
    print(f"{known['take']}{'' if known['finished'] else ' (not finished)'}")
    print(f"clip      {clip['path']}, {clip['width']} x {clip['height']}, {clip['fps']:g} fps, {clip['frames']} frames")
    print(f"frames    {known['frames']} looked at, {known['seconds']:.2f} s")
    for person in known["people"]:
        height = "" if person["height"] is None else f", {person['height']:.2f} m tall"
        print(f"person {person['id']:<3}{person['frames']} frames, {person['first']} to {person['last']}{height}")
    if not known["people"]:
        print("people    nobody")
    told = {name: value for name, value in known["settings"].items() if value is not None and name != "network"}
    print("settings  " + ", ".join(f"{name} {value}" for name, value in told.items()))
    for warning in known["warnings"]:
        print(f"warning   {warning}")
    print(f"digest    {known['digest']}")
    return 0


def describe(take: Take) -> dict[str, Any]:
    """What `info` tells of a Take, as plain values."""
    clip, times = take.clip, take.times()
    people = []
    for number in take.people:
        person = take.person(number)
        frames = person.frames.tolist()
        ends = {"first": frames[0] if frames else None, "last": frames[-1] if frames else None}
        people.append({"id": number, "name": person.name, "frames": len(frames), **ends, "height": person.height()})
    camera = take.camera
    return {
        "take": str(take.path.resolve()),
        "clip": {
            "path": str(clip.path), "width": clip.width, "height": clip.height, "fps": clip.fps,
            "frames": len(clip.times), "variable_rate": clip.variable_rate,
        },
        "frames": len(times),
        "seconds": float(times[-1] - times[0]) if len(times) else 0.0,
        "finished": take.finished,
        "people": people,
        "settings": take.settings,
        "camera": {"fx": camera.fx, "fy": camera.fy, "cx": camera.cx, "cy": camera.cy},
        "warnings": take.warnings,
        "digest": take.digest(),
    }  # fmt: skip
