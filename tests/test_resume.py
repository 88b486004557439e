# SPDX-License-Identifier: Apache-2.0
"""The job is killed (SIGKILL) at random moments and run again each time: the Take equals an undisturbed run's.

25 moments of a job; 100 more with `test --all`, of a job, an edit of its Take and the refit that follows.

The real job with the real network on a short, small version of the bundled sample.  Each run is a process of its own,
forked from a server that has the imports done, so that the kills hit the work and not Python's start.
"""

from __future__ import annotations

import multiprocessing
import random
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import cv2
import pytest

from meshpose import Take
from meshpose.convert import Settings, refit, steps
from meshpose.errors import MeshPoseError
from meshpose.weights import folder

ROOT = Path(__file__).resolve().parents[1]
SAMPLE = ROOT / "samples" / "turn.mp4"
FRAMES, LONGEST, KILLS, MANY_KILLS = 16, 256, 25, 100

Work = Callable[[str, str, Connection], None]

pytestmark = pytest.mark.skipif(
    not (SAMPLE.exists() and (folder() / "accurate.onnx").exists()), reason="needs the sample clip and the network"
)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample's first frames, made small."""
    path = tmp_path_factory.mktemp("clip") / "short.avi"
    capture, writer = cv2.VideoCapture(str(SAMPLE)), None
    for _ in range(FRAMES):
        ok, image = capture.read()
        assert ok
        scale = LONGEST / max(image.shape[:2])
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        if writer is None:
            writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25, image.shape[1::-1])
        writer.write(image)
    assert writer is not None
    writer.release()
    return path


def job(clip: str, out: str, told: Connection) -> None:
    """What runs in the process: the job, telling each step."""
    for progress in steps(clip, out, Settings(detect_every=5)):
        told.send(progress.stage)
    told.send("end")


def edited_job(clip: str, out: str, told: Connection) -> None:
    """The same, and then an edit (once) and the stages that follow it."""
    for progress in steps(clip, out, Settings(detect_every=5)):
        told.send(progress.stage)
    path = Path(out) / "short.take"
    with Take.resume(path) as take:
        if not take.edits.all():
            take.edits.sides(1, 4, 8, "legs")
    for progress in refit(path, smooth=0.8):
        told.send(f"refit {progress.stage}")
    told.send("end")


@pytest.fixture(scope="module")
def server() -> Any:
    """Starts processes; forked from one that has loaded the job's rooms where the system can fork."""
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(method)
    if method == "forkserver":
        rooms = ("convert", "video", "detect", "network", "estimate", "track", "rig", "preview")
        context.set_forkserver_preload([f"meshpose.{room}" for room in rooms])
    return context


def start(server: Any, clip: Path, out: Path, work: Work = job) -> tuple[BaseProcess, Iterator[str]]:
    """Start a job; gives the process and what it tells."""
    ours, theirs = server.Pipe(duplex=False)
    process = server.Process(target=work, args=(str(clip), str(out), theirs))
    process.start()
    theirs.close()

    def told() -> Iterator[str]:
        try:
            while True:
                yield ours.recv()
        except EOFError:
            return
        finally:
            ours.close()

    return process, told()


def run_to_end(server: Any, clip: Path, out: Path, work: Work = job) -> str:
    """Run the job undisturbed; the Take's digest."""
    process, told = start(server, clip, out, work)
    assert list(told)[-1] == "end"
    process.join()
    with Take.open(out / "short.take") as take:
        assert take.finished and len(take.frames) == FRAMES
        return take.digest()


def test_killed_25_times(server: Any, clip: Path, tmp_path: Path) -> None:
    kill_and_go_on(server, clip, tmp_path, KILLS, job, (0, 1, 2, 4, 8, 12, 17, 20, 26))


@pytest.mark.slow
def test_killed_100_times(server: Any, clip: Path, tmp_path: Path) -> None:
    hit = kill_and_go_on(server, clip, tmp_path, MANY_KILLS, edited_job, range(48))
    assert "track" in hit and any(stage.startswith("refit") for stage in hit), hit


def kill_and_go_on(
    server: Any, clip: Path, tmp_path: Path, count: int, work: Work, moments: Sequence[int]
) -> list[str]:
    """Kill the job `count` times, after some of the steps that it tells; the stages in which it died."""
    expected = run_to_end(server, clip, tmp_path / "undisturbed", work)
    dice, kills, rounds = random.Random(7), 0, 0
    hit: list[str] = []
    while kills < count:
        out = tmp_path / f"round{rounds}"
        process, told = start(server, clip, out, work)
        # After some steps (0: while it loads), and a little later, so that commits and writes are hit, too.
        last = "load"
        for _, stage in zip(range(dice.choice(moments)), told):
            last = stage
        time.sleep(dice.uniform(0, 0.3))
        process.kill()
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL), f"the job failed by itself after kills in {hit}"
        if process.exitcode:
            kills += 1
            hit.append(last)
        whole = (out / "short_preview.mp4").exists() and work is job
        if last == "end" or whole or kills == count:
            assert run_to_end(server, clip, out, work) == expected, f"after kills in {hit}"
            left = sorted(p.name for p in out.iterdir() if not p.name.startswith("."))
            assert left == ["short.take", "short_preview.mp4"]
            rounds += 1
    assert "track" in hit and len(set(hit)) > 1, hit
    return hit


def test_take_can_be_read_while_it_is_written(server: Any, clip: Path, tmp_path: Path) -> None:
    process, told = start(server, clip, tmp_path)
    seen: set[int] = set()
    for _ in told:
        with Take.open(tmp_path / "short.take") as take:
            frames = take.frames
            assert frames.tolist() == list(range(len(frames)))
            for number in take.people:
                person = take.person(number)
                rows = person.frames  # read once: the writer goes on between two reads
                assert len(person.lowpoly_pixels(rows)) == len(person.visibility(rows)) == len(rows)
        seen.add(len(frames))
    process.join()
    assert process.exitcode == 0 and max(seen) == FRAMES


def test_second_job_is_refused(server: Any, clip: Path, tmp_path: Path) -> None:
    process, told = start(server, clip, tmp_path)
    next(told)
    with pytest.raises(MeshPoseError, match=f"process {process.pid} on .* is writing this Take"):
        list(steps(clip, tmp_path, Settings(detect_every=5)))
    process.kill()
    process.join()
