# SPDX-License-Identifier: Apache-2.0
"""Many clips: one process each, a few at a time, one line of JSON per clip.

    results = convert_many(["a.mp4", "b.mp4"], "out", jobs=2, height=1.72)
    [result.clip for result in results if result.status == "failed"]

Every clip has a folder of its own in `out` with its Take, its preview and its `log.txt`; `out/results.jsonl` gets one
object per clip as it ends.  A clip that fails, crashes or is killed fails alone.  `out/batch.json` remembers which
folder is whose, so that the same batch with `resume` goes on where it stopped: what is finished stays, what was begun
goes on in its Take.  `ray_batch.py` runs the same tasks on a Ray cluster.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import queue
import shlex
import signal
import sys
import threading
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from . import exporter, weights
from .batch_task import PROGRAM, Report, Result, Task, run_task
from .convert import Settings, take_path
from .errors import Cancelled, InputError, MeshPoseError, OutputError
from .take import Take

RESULTS, MEMORY, LOCK = "results.jsonl", "batch.json", ".batch.lock"
VIDEO_SUFFIXES = frozenset(".avi .m2ts .m4v .mkv .mov .mp4 .mpeg .mpg .mts .mxf .ogv .ts .webm .wmv".split())
THREADS = 2
"""Of one job (its network's); by default there are as many jobs as that leaves room for."""


# -- for scripts and the command line ----------------------------------------------------------------------------------


def convert_many(
    clips: Iterable[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    jobs: int | None = None,
    resume: bool = False,
    ray: str | None = None,
    words: Sequence[str] = (),
    then: Sequence[Sequence[str]] = (),
    program: Sequence[str] = PROGRAM,
    watcher: Watcher | None = None,
    **settings: Any,
) -> list[Result]:
    """Convert clips (videos, pictures, sequences, folders of videos) into folders of `out`; their results, in order.

    jobs: processes at a time (default: what the cores have room for).  resume: go on with an earlier batch of this
    folder.  ray: address of a Ray cluster that does the work ("auto": the one of this machine).  then: commands for
    each finished Take, see `Task`.  settings: those of `Settings`, by name; words: the same as the command line has
    them.  Raises InputError, OutputError before anything is begun, Cancelled after SIGINT or SIGTERM.
    """
    watcher = watcher or Watcher()
    words = (*words, *_words(settings))
    weights.model_file(settings.get("model", weights.DEFAULT))  # or else every clip would fail with the same sentence
    listed = expand(clips)
    jobs = max(1, (os.cpu_count() or 1) // THREADS) if jobs is None else jobs
    if jobs < 1:
        raise InputError(f"--jobs {jobs}: it must be 1 or more")
    folder = Path(os.path.abspath(out))
    with _locked(folder), _cancelling() as cancelled:
        book = _Book.open(folder, [*words, *map(shlex.join, then)], resume)
        places = book.folders(listed)
        tasks = [Task(clip, str(folder / places[clip]), tuple(words), tuple(program), _frozen(then)) for clip in listed]
        finished = {task.clip: book.done[task.clip] for task in tasks if task.clip in book.done}
        watcher.begin([task.clip for task in tasks], list(finished.values()))
        todo = [task for task in tasks if task.clip not in finished]
        if ray is None:
            ended = _run_here(todo, jobs, watcher.progress, cancelled)
        else:
            from .ray_batch import run_on_ray

            ended = run_on_ray(todo, ray, cancelled)
        try:
            for result in ended:
                book.add(result)
                finished[result.clip] = result
                watcher.ended(result)
        finally:
            watcher.close()
        if cancelled.is_set():
            raise Cancelled
    return [finished[clip] for clip in listed]


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `meshpose batch` beside those of `meshpose run`."""
    parser.add_argument("clips", nargs="+", metavar="CLIP", help="as for run; a folder of videos means all of them")
    parser.add_argument("--out", required=True, metavar="DIR", help="gets results.jsonl and a folder per clip")
    parser.add_argument("--jobs", type=int, metavar="N", help="clips at a time (default: a job per two cores)")
    parser.add_argument("--resume", action="store_true", help="go on with the batch that was begun in DIR")
    exporter.add_options(parser)
    parser.add_argument("--then", action="append", default=[], metavar="COMMAND", help="run for each finished {take}")
    parser.add_argument("--ray", metavar="ADDRESS", help="let a Ray cluster do the work (auto: this machine's)")
    parser.add_argument("--quiet", action="store_true", help="tell nothing but the error that ends the batch")


def main(options: argparse.Namespace, settings: Settings, words: Sequence[str]) -> int:
    """`meshpose batch`: exit code 0 if all clips went well, 1 if some failed.  settings: `words`, checked."""
    watcher = Watcher() if options.quiet else Teller()
    weights.model_file(settings.model)
    try:
        then = [shlex.split(command) for command in options.then]
    except ValueError as error:
        raise InputError(f"--then {' '.join(options.then)}: {error}") from error
    asked = exporter.words(options)
    if asked:
        then.append(exporter.check(asked))
    try:
        results = convert_many(
            options.clips, options.out, options.jobs, options.resume, options.ray, words, then, watcher=watcher
        )
    except Cancelled:
        if not options.quiet:
            print("cancelled: what is done is kept, --resume goes on", file=sys.stderr)
        return Cancelled.exit_code
    failed = sum(result.status != "ok" for result in results)
    if not options.quiet:
        count = "1 clip" if len(results) == 1 else f"{len(results)} clips"
        print(f"{count}: {len(results) - failed} ok, {failed} failed; {Path(options.out) / RESULTS}")
    return int(failed > 0)


# -- which clips, which folders ----------------------------------------------------------------------------------------


def expand(clips: Iterable[str | os.PathLike[str]]) -> list[str]:
    """Absolute paths of the clips, each once: a folder of videos and a pattern such as `*.mp4` mean what is in them.

    A clip that is not there stays in the list: it will fail alone.  InputError where nothing is left.
    """
    found: dict[str, None] = {}
    for clip in clips:
        path = Path(os.path.abspath(clip))
        several = [path]
        if path.is_dir():
            several = _videos(path, "*") or [path]
        elif set(path.name) & set("*?") and path.suffix.lower() in VIDEO_SUFFIXES and not path.exists():
            several = _videos(path.parent, path.name) or [path]
        found.update(dict.fromkeys(map(str, several)))
    if not found:
        raise InputError("no clips were given; give videos, pictures, or folders of them")
    return list(found)


def _videos(folder: Path, pattern: str) -> list[Path]:
    files = (path for path in folder.glob(pattern) if not path.name.startswith("."))
    return sorted(path for path in files if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file())


@dataclass
class _Book:
    """What the batch's folder remembers: whose each folder is, with which options, and the results.

    done: results that need no more work.
    """

    folder: Path
    places: dict[str, str]
    words: tuple[str, ...]
    done: dict[str, Result]

    @classmethod
    def open(cls, folder: Path, words: Sequence[str], resume: bool) -> _Book:
        """Read what an earlier batch left.  InputError where there is one and `resume` is not asked for."""
        results, memory = folder / RESULTS, folder / MEMORY
        if not resume and (results.exists() or memory.exists()):
            raise InputError(f"{folder}: an earlier batch was here; --resume goes on with it, or choose another --out")
        with _readable(folder):
            known = _read_memory(memory)
            lines = _read_results(results)
        # A name that leads out of the folder was not written by us.
        places = {str(clip): str(name) for clip, name in known["folders"].items() if name == Path(str(name)).name}
        # With other options the finished Takes have to be brought up to date; that does not cost much.
        same = known.get("words") == list(words)
        done = {line.clip: line for line in lines if same and line.status == "ok" and _all_there(line.outputs)}
        book = cls(folder, places, tuple(words), done)
        book._write(RESULTS, "".join(_json(line) for line in done.values()))
        return book

    def folders(self, clips: Sequence[str]) -> dict[str, str]:
        """Name of each clip's folder: the clip's own name, numbered where several clips have it.

        A clip keeps the folder that it had in an earlier batch.
        """
        taken = {_same_name(name) for name in self.places.values()} | {_same_name(n) for n in (RESULTS, MEMORY, LOCK)}
        for clip in clips:
            if clip in self.places:
                continue
            stem = take_path(clip).stem
            name, number = stem, 2
            while _same_name(name) in taken or not _is_free(self.folder / name, clip):
                name, number = f"{stem}_{number}", number + 1
            self.places[clip] = name
            taken.add(_same_name(name))
        memory = {"words": list(self.words), "folders": self.places}
        self._write(MEMORY, json.dumps(memory, indent=1) + "\n")
        return {clip: self.places[clip] for clip in clips}

    def add(self, result: Result) -> None:
        """Append a result; a reader sees whole lines only."""
        with _writable(self.folder), (self.folder / RESULTS).open("a", encoding="utf-8") as file:
            file.write(_json(result))
            file.flush()
            os.fsync(file.fileno())

    def _write(self, name: str, text: str) -> None:
        part = self.folder / f".{name}.part"
        with _writable(self.folder):
            part.write_text(text, "utf-8")
            os.replace(part, self.folder / name)


def _json(result: Result) -> str:
    return json.dumps(asdict(result)) + "\n"


def _read_memory(path: Path) -> dict[str, Any]:
    """`words` and `folders` of an earlier batch.json; of a damaged one nothing (the Takes say whose they are)."""
    with suppress(FileNotFoundError, ValueError):
        known = json.loads(path.read_text("utf-8"))
        if isinstance(known, dict) and isinstance(known.get("folders"), dict):
            return known
    return {"words": None, "folders": {}}


def _read_results(path: Path) -> list[Result]:
    """Lines of an earlier results.jsonl; the last may have been cut by a kill, others written by hand."""
    results = []
    with suppress(FileNotFoundError):
        for line in path.read_text("utf-8", "replace").splitlines():
            with suppress(ValueError, TypeError):
                result = Result(**json.loads(line))
                result.outputs[:] = map(os.fspath, result.outputs)
                results.append(result)
    return results


def _all_there(outputs: Iterable[str]) -> bool:
    return all(Path(output).exists() for output in outputs)


def _same_name(name: str) -> str:
    """Equal for names that some file system takes for one."""
    return unicodedata.normalize("NFC", name).casefold()


def _is_free(folder: Path, clip: str) -> bool:
    """Whether a folder may become a clip's: it is new, or its Take is of this very clip."""
    if not folder.exists():
        return True
    takes = list(folder.glob("*.take")) if folder.is_dir() else []
    with suppress(MeshPoseError):
        for take in takes:
            with Take.open(take) as known:
                if str(known.clip.path) == os.path.realpath(clip):
                    return True
    return False


def _frozen(commands: Sequence[Sequence[str]]) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(map(str, command)) for command in commands)


def _words(settings: Mapping[str, Any]) -> list[str]:
    """Settings by name as words of a command line; InputError for one that does not exist or cannot be."""
    try:
        Settings(**settings)
    except TypeError as error:
        raise InputError(f"{', '.join(settings)}: {error}") from error
    words: list[str] = []
    people = ",".join(f"{number}:{height}" for number, height in settings.get("heights", {}).items())
    if people:
        everybody = settings.get("height")
        words += ["--height", people if everybody is None else f"{everybody},{people}"]
    for name, value in settings.items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            words += [] if value == getattr(Settings(), name) else [f"--{'' if value else 'no-'}{option}"]
        elif name == "only" and value:
            raise InputError("only: a batch does not know where people stand; convert such a clip by itself")
        elif value is not None and name != "heights" and not (name == "height" and people):
            words += [f"--{option}", str(value)]
    return words


@contextmanager
def _readable(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(f"{folder}: what an earlier batch left cannot be read ({error})") from error


@contextmanager
def _writable(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        text = f"{folder}: nothing can be written there ({error.strerror}); choose another folder with --out"
        raise OutputError(text) from error


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Only one batch works in a folder; the lock goes with its process, however that ends."""
    with _writable(folder):
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK).open("a")
    with file:
        try:
            if sys.platform == "win32":
                import msvcrt

                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            else:
                import fcntl

                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK):  # a file system without locks, say
                raise OutputError(f"{folder}: it cannot be locked ({error.strerror}); choose another --out") from error
            raise OutputError(f"{folder}: another batch is at work there; wait for it, or stop it") from error
        yield  # the file stays: taken away, it could be locked by one batch and made anew by another


# -- all of them, here -------------------------------------------------------------------------------------------------


def _run_here(tasks: Sequence[Task], jobs: int, report: Report, cancelled: threading.Event) -> Iterator[Result]:
    """Run tasks, `jobs` at a time; gives the results as they come.  After a stop only those that had ended."""
    ended: queue.SimpleQueue[Result | BaseException | None] = queue.SimpleQueue()

    def work(task: Task) -> None:
        try:
            ended.put(None if cancelled.is_set() else run_task(task, report, cancelled))
        except BaseException as error:  # noqa: BLE001 - raised again where somebody listens
            ended.put(error)

    with ThreadPoolExecutor(jobs) as pool:
        for task in tasks:
            pool.submit(work, task)
        try:
            for _ in tasks:
                result = ended.get()
                if isinstance(result, BaseException):
                    raise result
                if result is not None:
                    yield result
        except BaseException:  # the disk of results.jsonl is full, say: nothing goes on unwatched
            cancelled.set()
            raise


@contextmanager
def _cancelling() -> Iterator[threading.Event]:
    """An event that SIGINT or SIGTERM sets."""
    event = threading.Event()

    def stop(number: int, _: FrameType | None) -> None:
        event.set()

    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, stop)
    try:
        yield event
    finally:
        for caught, handler in before.items():
            signal.signal(caught, handler)


# -- told to people ----------------------------------------------------------------------------------------------------


class Watcher:
    """Is told how a batch goes; this one says nothing (`--quiet`)."""

    def begin(self, clips: Sequence[str], done: Sequence[Result]) -> None:
        """The batch begins; `done`: what an earlier one finished."""

    def progress(self, clip: str, part: float) -> None:
        """`part` (0 to 1) of a clip is done.  Called by several threads."""

    def ended(self, result: Result) -> None:
        """A clip is done or has failed."""

    def close(self) -> None:
        """The batch is over."""


class Teller(Watcher):
    """A line for each clip that ends, and on a terminal a bar over all of them."""

    def __init__(self) -> None:
        self.parts: dict[str, float] = {}
        self.total, self.failed = 0, 0
        self._lock = threading.Lock()
        self._bar: Any = None

    def begin(self, clips: Sequence[str], done: Sequence[Result]) -> None:
        self.total = len(clips)
        self.parts = dict.fromkeys((result.clip for result in done), 1.0)
        if done:
            print(f"{len(done)} of {len(clips)} clips are done already", flush=True)
        if sys.stderr.isatty():
            from tqdm import tqdm

            shape = "{percentage:3.0f}%|{bar}| {postfix} [{elapsed}<{remaining}]"
            self._bar = tqdm(total=float(len(clips)), initial=float(len(done)), dynamic_ncols=True, bar_format=shape)

    def progress(self, clip: str, part: float) -> None:
        with self._lock:
            self.parts[clip] = part
            if self._bar is not None:
                ended = sum(value == 1 for value in self.parts.values())
                running = len(self.parts) - ended
                failed = f", {self.failed} failed" if self.failed else ""
                self._bar.set_postfix_str(f"{ended} of {self.total} clips{failed}, {running} at work", refresh=False)
                self._bar.update(sum(self.parts.values()) - self._bar.n)

    def ended(self, result: Result) -> None:
        self.failed += result.status != "ok"
        people = "1 person" if result.people == 1 else f"{result.people or 'no'} people"
        line = result.error or f"{result.frames} frames, {people}, {result.seconds:.1f} s"
        clip = " ".join(result.clip.split())  # a name may hold a line break
        text = f"{'ok    ' if result.status == 'ok' else 'FAILED'} {clip}: {line}"
        with self._lock:
            if self._bar is not None:
                self._bar.write(text, file=sys.stdout)
            else:
                print(text, flush=True)
        self.progress(result.clip, 1.0)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
