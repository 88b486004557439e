# SPDX-License-Identifier: Apache-2.0
"""The command line and the job around the network: events, going on, refusals, what is made again and what is not.

Finding people and the network are played by a fake here, so that every case is fast; test_resume.py and test_inputs.py
run the real ones.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from fake_network import FRAMES, FakeTracker, install, job

from meshpose import Take, __version__, convert
from meshpose.cli import main
from meshpose.errors import InputError

FAKE = Path(__file__).with_name("fake_network.py")


@pytest.fixture(autouse=True)
def fake_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[FakeTracker]]:
    """The job with the fake in the network's place; gives the fake."""
    yield install(monkeypatch.setattr)


def write_clip(path: Path, frames: int = FRAMES, seed: int = 0) -> Path:
    """A short clip of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25, (320, 240))
    random = np.random.default_rng(seed)
    for _ in range(frames):
        writer.write(random.integers(0, 255, (240, 320, 3), np.uint8))
    writer.release()
    return path


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """A clip in the test's folder."""
    return write_clip(tmp_path / "clip.avi")


def run(*arguments: object) -> int:
    """`meshpose run` in this process."""
    return main(["run", *map(str, arguments)])


Events = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def events(capsys: pytest.CaptureFixture[str]) -> Events:
    """`meshpose run --progress json` in this process: its events; the exit code is checked."""

    def start(*arguments: object, code: int = 0) -> list[dict[str, Any]]:
        capsys.readouterr()
        assert run(*arguments, "--progress", "json") == code
        shown = capsys.readouterr()
        assert shown.err == ""
        return [json.loads(line) for line in shown.out.splitlines()]

    return start


def stages(told: list[dict[str, Any]]) -> list[str]:
    """The stages in their order."""
    return list(dict.fromkeys(e["stage"] for e in told if e["event"] == "progress"))


def only_line(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr."""
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def test_events_and_files(clip: Path, tmp_path: Path, events: Events) -> None:
    told = events(clip, "--out", tmp_path / "out")
    assert stages(told) == ["track", "place", "rig", "motion", "preview"]
    tracks = [e for e in told if e.get("stage") == "track"]
    assert [e["frame"] for e in tracks] == list(range(1, FRAMES + 1)) and tracks[0]["frames"] == FRAMES
    assert tracks[0]["people"] == 1 and tracks[-1]["people"] == 2
    assert set(tracks[0]) == {"event", "stage", "frame", "frames", "fps", "seconds_left", "people"}
    take, preview = tmp_path / "out" / "clip.take", tmp_path / "out" / "clip_preview.mp4"
    assert told[-1] == {"event": "done", "take": str(take), "preview": str(preview), "people": 2}
    capture = cv2.VideoCapture(str(preview))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == FRAMES and capture.get(cv2.CAP_PROP_FRAME_WIDTH) == 320
    assert sorted(p.name for p in take.parent.iterdir()) == ["clip.take", "clip_preview.mp4"], "nothing else is left"
    with Take.open(take) as result:
        assert result.finished and result.people == [1, 2]
        person = result.person(2)
        np.testing.assert_array_equal(person.frames, np.arange(3, FRAMES))
        fit = person.fit()
        assert fit is not None and len(fit.frames) == FRAMES - 3
        assert person.vertices([5]).shape == (1, 13718, 3)


def test_finished_is_not_done_again(
    clip: Path, tmp_path: Path, events: Events, fake_network: type[FakeTracker]
) -> None:
    events(clip, "--out", tmp_path)
    before = Take.open(tmp_path / "clip.take").digest()
    fake_network.looked.clear()
    told = events(clip, "--out", tmp_path)
    assert fake_network.looked == [] and "preview" not in stages(told) and told[-1]["event"] == "done"
    assert Take.open(tmp_path / "clip.take").digest() == before
    (tmp_path / "clip_preview.mp4").unlink()
    assert "preview" in stages(events(clip, "--out", tmp_path)) and (tmp_path / "clip_preview.mp4").exists()
    assert events(clip, "--out", tmp_path, "--no-preview")[-1]["preview"] is None, "an earlier run's is not this one's"


def test_other_lens_or_height_needs_no_network(
    clip: Path, tmp_path: Path, events: Events, fake_network: type[FakeTracker]
) -> None:
    events(clip, "--out", tmp_path)
    with Take.open(tmp_path / "clip.take") as take:
        raw, near = take.raw_hash(1), take.person(1).lowpoly()[..., 2].mean()
    fake_network.looked.clear()
    assert "place" in stages(events(clip, "--out", tmp_path, "--height", "1.9", "--fov", "40"))
    assert fake_network.looked == []
    with Take.open(tmp_path / "clip.take") as take:
        assert take.raw_hash(1) == raw and take.settings["height"] == 1.9
        assert take.camera.fx == pytest.approx(160 / np.tan(np.radians(20)))
        assert take.person(1).lowpoly()[..., 2].mean() != pytest.approx(near, rel=0.05)
        digest = take.digest()
    events(clip, "--out", tmp_path / "direct", "--height", "1.9", "--fov", "40")
    assert Take.open(tmp_path / "direct" / "clip.take").digest() == digest


def test_one_person(clip: Path, tmp_path: Path, events: Events) -> None:
    events(clip, "--out", tmp_path)
    assert events(clip, "--out", tmp_path, "--person", "2")[-1]["people"] == 1
    assert Take.open(tmp_path / "clip.take").people == [2]
    direct = tmp_path / "direct"
    events(clip, "--out", direct, "--person", "2")
    assert Take.open(direct / "clip.take").digest() == Take.open(tmp_path / "clip.take").digest()
    told = events(clip, "--out", tmp_path, "--person", "9", code=2)
    assert "--person 9" in told[-1]["message"] and "1, 2" in told[-1]["message"]
    assert events(clip, "--out", tmp_path)[-1]["people"] == 2


def test_stopped_generator_keeps_work_and_goes_on(clip: Path, tmp_path: Path, fake_network: type[FakeTracker]) -> None:
    take_path = tmp_path / "a" / "clip.take"
    work = job.steps(clip, tmp_path / "a")
    for _ in range(4):
        next(work)
    work.close()
    with Take.open(take_path) as take:
        assert take.frames.tolist() == [0, 1, 2, 3] and not take.finished
    assert main(["info", str(take_path)]) == 0
    fake_network.looked.clear()
    assert run(clip, "--out", tmp_path / "a") == 0
    assert fake_network.looked == list(range(4, FRAMES))
    assert run(clip, "--out", tmp_path / "b") == 0
    digests = [Take.open(tmp_path / name / "clip.take").digest() for name in "ab"]
    assert digests[0] == digests[1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_cancels(
    clip: Path, tmp_path: Path, events: Events, fake_network: type[FakeTracker], number: signal.Signals
) -> None:
    step = fake_network.step

    def stop_at_five(self: FakeTracker, index: int, image: np.ndarray) -> list[Any]:
        if index == 5:
            signal.raise_signal(number)
        return step(self, index, image)

    fake_network.step = stop_at_five  # type: ignore[method-assign]
    before = signal.getsignal(number)
    told = events(clip, "--out", tmp_path, code=130)
    assert told[-1] == {"event": "cancelled"}
    assert signal.getsignal(number) == before
    assert Take.open(tmp_path / "clip.take").frames.tolist() == list(range(6)), "the frame in work was finished"


def test_other_settings_and_other_clips_are_refused(
    clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(clip, "--out", tmp_path) == 0
    digest = Take.open(tmp_path / "clip.take").digest()
    capsys.readouterr()
    assert run(clip, "--out", tmp_path, "--max-people", "1") == 2
    line = only_line(capsys)
    assert "max_people None -> 1" in line and "--restart" in line
    other = write_clip(tmp_path / "other" / "clip.avi", seed=1)
    for options in ([], ["--restart"]):
        assert run(other, "--out", tmp_path, *options) == 2
        line = only_line(capsys)
        assert str(clip) in line and "--out" in line
    assert Take.open(tmp_path / "clip.take").digest() == digest
    write_clip(clip, seed=2)
    assert run(clip, "--out", tmp_path) == 2
    assert "has changed" in only_line(capsys)
    assert run(clip, "--out", tmp_path, "--restart") == 0
    assert Take.open(tmp_path / "clip.take").digest() != digest


def test_moved_clip_goes_on(clip: Path, tmp_path: Path, fake_network: type[FakeTracker]) -> None:
    assert run(clip, "--out", tmp_path / "out") == 0
    moved = tmp_path / "elsewhere" / "clip.avi"
    moved.parent.mkdir()
    clip.rename(moved)
    fake_network.looked.clear()
    assert run(moved, "--out", tmp_path / "out") == 0
    assert fake_network.looked == [] and Take.open(tmp_path / "out" / "clip.take").clip.path == moved


def test_restart_leaves_the_old_take_until_the_new_has_begun(
    clip: Path, tmp_path: Path, fake_network: type[FakeTracker], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(clip, "--out", tmp_path) == 0
    digest = Take.open(tmp_path / "clip.take").digest()
    fake_network.fails_at = 0
    assert run(clip, "--out", tmp_path, "--restart") == 2
    assert Take.open(tmp_path / "clip.take").digest() == digest
    assert run(clip, "--out", tmp_path / "fresh") == 2
    assert list((tmp_path / "fresh").iterdir()) == [], "a Take without a frame is taken away"
    fake_network.fails_at = None
    assert run(clip, "--out", tmp_path, "--restart") == 0
    assert Take.open(tmp_path / "clip.take").digest() == digest


def test_held_take_is_named(clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    work = job.steps(clip, tmp_path)
    next(work)
    assert run(clip, "--out", tmp_path) == 2
    assert "process" in only_line(capsys)
    assert run(clip, "--out", tmp_path, "--restart") == 2
    work.close()
    assert run(clip, "--out", tmp_path) == 0


def test_nobody(clip: Path, tmp_path: Path, events: Events, fake_network: type[FakeTracker]) -> None:
    fake_network.nobody = True
    told = events(clip, "--out", tmp_path)
    warnings = [e["message"] for e in told if e["event"] == "warning"]
    assert warnings == ["nobody was found in clip.avi: the Take is empty"]
    assert told[-1]["event"] == "done" and told[-1]["people"] == 0
    take = Take.open(tmp_path / "clip.take")
    assert take.people == [] and take.finished and "nobody" in take.warnings[0]


def test_range_of_frames(clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(clip, "--out", tmp_path, "--start", "4", "--end", "7") == 0
    take = Take.open(tmp_path / "clip.take")
    assert take.frames.tolist() == [4, 5, 6]
    np.testing.assert_allclose(take.times(), np.array([4, 5, 6]) / 25, atol=1e-6)
    assert cv2.VideoCapture(str(tmp_path / "clip_preview.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) == 3
    capsys.readouterr()
    assert run(clip, "--out", tmp_path / "late", "--start", "99") == 2
    assert "--start 99" in only_line(capsys)


def test_picture(tmp_path: Path, events: Events) -> None:
    cv2.imwrite(str(tmp_path / "photo.png"), np.full((240, 320, 3), 90, np.uint8))
    told = events(tmp_path / "photo.png", "--out", tmp_path)
    assert told[-1]["preview"] == str(tmp_path / "photo_preview.jpg")
    assert cv2.imread(told[-1]["preview"]).shape == (240, 320, 3)
    assert Take.open(tmp_path / "photo.take").frames.tolist() == [0]


def test_info(clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(clip, "--out", tmp_path, "--height", "1.8") == 0
    capsys.readouterr()
    assert main(["info", str(tmp_path / "clip.take"), "--json"]) == 0
    known = json.loads(capsys.readouterr().out)
    assert known["digest"] == Take.open(tmp_path / "clip.take").digest()
    assert known["clip"]["path"] == str(clip) and known["clip"]["frames"] == known["frames"] == FRAMES
    assert [p["id"] for p in known["people"]] == [1, 2] and known["people"][1]["frames"] == FRAMES - 3
    assert known["settings"]["height"] == 1.8 and known["finished"] and known["warnings"] == []
    assert main(["info", str(tmp_path / "clip.take")]) == 0
    text = capsys.readouterr().out
    assert known["digest"] in text and str(clip) in text and "person 2" in text and "height 1.8" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "COMMAND"),
        (["dance"], "dance"),
        (["run"], "clip"),
        (["run", "x.mp4", "--focal-mm", "35", "--fov", "50"], "--fov"),
        (["run", "x.mp4", "--max-people", "0"], "--max-people"),
        (["run", "x.mp4", "--height", "180"], "--height"),
        (["run", "x.mp4", "--height", "nan"], "--height"),
        (["run", "x.mp4", "--min-size", "nan"], "--min-size"),
        (["run", "x.mp4", "--fov", "0"], "x.mp4"),
        (["run", "x.mp4", "--start", "5", "--end", "5"], "--end"),
        (["run", "x.mp4", "--frames", "5"], "--frames"),
        (["run", "no such clip.mp4"], "no such clip.mp4"),
        (["info", "no such.take"], "no such.take"),
    ],
)
def test_wrong_use_is_one_line(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert words in only_line(capsys)
    assert list(tmp_path.iterdir()) == []


def test_wrong_lens_is_one_line(clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(clip, "--out", tmp_path, "--fov", "0") == 2
    assert "field of view" in only_line(capsys)


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0 and __version__ in capsys.readouterr().out
    assert main(["run", "--help"]) == 0 and "--restart" in capsys.readouterr().out


def test_convert_function(clip: Path, tmp_path: Path) -> None:
    take = convert(clip, out=tmp_path, height=1.7, preview=False)
    assert take.people == [1, 2] and take.settings["height"] == 1.7
    assert not (tmp_path / "clip_preview.mp4").exists()
    with pytest.raises(InputError, match="no such file"):
        convert(tmp_path / "none.mp4")


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="file names are always valid Unicode there")
def test_name_that_is_no_text(clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    odd = tmp_path / os.fsdecode(b"caf\xe9.avi")
    clip.rename(odd)
    assert run(odd, "--out", tmp_path) == 2
    assert "UTF-8" in only_line(capsys)


# -- as a process of its own -----------------------------------------------------------------------------------------


@pytest.fixture
def process(clip: Path, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts `run CLIP --progress json` with the fake as a process and waits for its third frame."""
    started: list[subprocess.Popen[str]] = []

    def start(stdin: Any = subprocess.PIPE) -> subprocess.Popen[str]:
        command = [sys.executable, str(FAKE), "run", str(clip), "--out", str(tmp_path), "--progress", "json"]
        env = {**os.environ, "MESHPOSE_FAKE_SECONDS": "0.1"}
        pipes = {"stdin": stdin, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        child = subprocess.Popen(command, text=True, env=env, **pipes)
        started.append(child)
        assert child.stdout is not None
        while json.loads(child.stdout.readline())["frame"] < 3:
            pass
        return child

    yield start
    for child in started:
        child.kill()
        child.communicate()


@pytest.mark.parametrize("how", ["stdin", "SIGINT", "SIGTERM"])
@pytest.mark.skipif(sys.platform == "win32", reason="signals of Unix")
def test_process_is_cancelled(
    process: Callable[..., subprocess.Popen[str]], clip: Path, tmp_path: Path, how: str
) -> None:
    child = process()
    if how == "stdin":
        assert child.stdin is not None
        child.stdin.close()
        child.stdin = None
    else:
        child.send_signal(signal.Signals[how])
    out, err = child.communicate(timeout=60)
    assert child.returncode == 130 and err == ""
    assert json.loads(out.splitlines()[-1]) == {"event": "cancelled"}
    with Take.open(tmp_path / "clip.take") as take:
        kept = take.frames.tolist()
    assert 3 <= len(kept) < FRAMES
    assert run(clip, "--out", tmp_path) == 0
    assert Take.open(tmp_path / "clip.take").frames.tolist() == list(range(FRAMES))


def test_process_without_stdin_runs_to_its_end(process: Callable[..., subprocess.Popen[str]]) -> None:
    child = process(stdin=subprocess.DEVNULL)
    out, err = child.communicate(timeout=60)
    assert child.returncode == 0 and err == "" and json.loads(out.splitlines()[-1])["event"] == "done"


def test_reader_of_the_events_goes_away(process: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    child = process()
    assert child.stdout is not None
    child.stdout.close()
    assert child.wait(timeout=60) == 130
    assert child.stderr is not None and child.stderr.read() == ""
    assert len(Take.open(tmp_path / "clip.take").frames) >= 3
