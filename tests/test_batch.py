# SPDX-License-Identifier: Apache-2.0
"""`meshpose batch`: many clips, a process each; broken ones fail alone, a stopped or killed batch goes on.

The processes are real ones with a fake in the place of finding people and of the network (fake_network.py); one test
runs the real ones.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest
from fake_network import FRAMES

from meshpose import batch_task
from meshpose.batch import Watcher, _Book, convert_many, expand
from meshpose.batch_task import Result, Task, run_task
from meshpose.cli import main as command_line
from meshpose.errors import Cancelled, InputError, OutputError
from meshpose.take import Take

HERE = Path(__file__).parent

JOB = """\
import os, signal, sys
sys.path.insert(0, {here!r})
import fake_network
from meshpose.cli import main
clip = os.path.basename(sys.argv[2])
if clip.startswith("killed"):
    os.kill(os.getpid(), signal.SIGKILL)
if clip.startswith("crash"):
    raise RuntimeError("a bug")
fake_network.install(setattr)
sys.exit(main())
"""
"""The job as the batch starts it; clips of some names make it end as no job should."""


@pytest.fixture
def program(tmp_path: Path) -> Sequence[str]:
    """What the batch starts for each clip."""
    script = tmp_path / "job.py"
    script.write_text(JOB.format(here=str(HERE)))
    return sys.executable, str(script)


def write_clip(path: Path, frames: int = FRAMES) -> Path:
    """A small clip of noise, of its own for each name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = path.with_name("plain.avi")
    writer = cv2.VideoWriter(str(plain), cv2.VideoWriter.fourcc(*"MJPG"), 25, (64, 48))
    random = np.random.default_rng(len(path.name))
    for _ in range(frames):
        writer.write(random.integers(0, 255, (48, 64, 3), np.uint8))
    writer.release()
    return plain.rename(path)


# -- ten ways to be broken: each gives the clip's path and what its error says ---------------------------------------


def empty(clips: Path, out: Path, name: str) -> tuple[Path, str]:
    (clips / f"{name}.mp4").touch()
    return clips / f"{name}.mp4", "empty"


def text(clips: Path, out: Path, name: str) -> tuple[Path, str]:
    (clips / f"{name}.mp4").write_text("this is no video\n" * 99)
    return clips / f"{name}.mp4", "text file"


def noise(clips: Path, out: Path, name: str) -> tuple[Path, str]:
    (clips / f"{name}.mkv").write_bytes(np.random.default_rng(1).bytes(20_000))
    return clips / f"{name}.mkv", "not a video"


def missing(clips: Path, out: Path, name: str) -> tuple[Path, str]:
    return clips / f"{name}.mp4", "no such file"


def dangling(clips: Path, out: Path, name: str) -> tuple[Path, str]:
    (clips / f"{name}.mov").symlink_to(clips / "gone.mov")
    return clips / f"{name}.mov", "no such file"


def unfinished(clips: Path, out: Path, name: str) -> tuple[Path, str]:
    """A camera that lost its power: an mp4 whose index was never written."""
    head = struct.pack(">I4s4sI4s", 20, b"ftyp", b"isom", 512, b"mp41")
    (clips / f"{name}.mp4").write_bytes(head + struct.pack(">I4s", 5008, b"mdat") + bytes(5000))
    return clips / f"{name}.mp4", "not a video"


def only_header(clips: Path, out: Path, name: str) -> tuple[Path, str]:
    whole = write_clip(clips / f"{name}.avi").read_bytes()
    (clips / f"{name}.avi").write_bytes(whole[: whole.index(b"movi") + 4])
    return clips / f"{name}.avi", "avi"


def picture(clips: Path, out: Path, name: str) -> tuple[Path, str]:
    cv2.imwrite(str(clips / f"{name}.png"), np.zeros((48, 64, 3), np.uint8))
    (clips / f"{name}.png").write_bytes((clips / f"{name}.png").read_bytes()[:60])
    return clips / f"{name}.png", "damaged"


def killed(clips: Path, out: Path, name: str) -> tuple[Path, str]:
    return write_clip(clips / f"killed {name}.avi"), "SIGKILL"


def crash(clips: Path, out: Path, name: str) -> tuple[Path, str]:
    return write_clip(clips / f"crash {name}.avi"), "RuntimeError: a bug"


def in_the_way(clips: Path, out: Path, name: str) -> tuple[Path, str]:
    """The clip is good, but a folder lies where its Take has to go."""
    (out / name / f"{name}.take").mkdir(parents=True)
    (clips / "folders").mkdir(exist_ok=True)
    return write_clip(clips / f"{name}.avi"), "in the Take's place"


BROKEN: tuple[Callable[[Path, Path, str], tuple[Path, str]], ...] = (
    empty, text, noise, missing, dangling, unfinished, only_header, picture, killed, crash
)  # fmt: skip


def check_batch(folder: Path, program: Sequence[str], good: int, broken: int) -> None:
    """`good` clips and `broken` ones in one batch: all of the good ones come out, each broken one says why it fails."""
    clips, out = folder / "clips", folder / "out"
    names = [f"c{number // 2}" for number in range(good)]  # two of each name, in different folders
    wanted = [write_clip(clips / f"{number % 2}" / f"{name}.avi") for number, name in enumerate(names)]
    failing = {}
    for number in range(broken):
        way = BROKEN[number % len(BROKEN)]
        clip, reason = way(clips, out, f"{way.__name__} {number}")
        failing[str(clip)] = reason
    order = [*map(str, wanted), *failing]
    np.random.default_rng(5).shuffle(order)
    results = convert_many(order, out, jobs=2, program=program, preview=False)
    assert [result.clip for result in results] == order
    for result in results:
        if result.clip in failing:
            assert result.status == "failed" and result.error is not None, result
            assert failing[result.clip] in result.error and "\n" not in result.error, result
            assert "Traceback" not in result.error
        else:
            assert (result.status, result.error, result.frames, result.people) == ("ok", None, FRAMES, 2), result
            assert [Path(output).suffix for output in result.outputs] == [".take"] and result.seconds > 0
            with Take.open(result.outputs[0]) as take:
                assert take.finished and str(take.clip.path) == result.clip
    takes = [output for result in results if result.status == "ok" for output in result.outputs]
    assert len(set(takes)) == good
    written = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert sorted(line["clip"] for line in written) == sorted(order)
    assert set(written[0]) == {"clip", "status", "error", "frames", "people", "seconds", "outputs"}
    again: list[str] = []
    watcher = Ended(again)
    # A second time only what failed is tried.
    convert_many(order, out, jobs=2, resume=True, program=program, watcher=watcher, preview=False)
    assert sorted(again) == sorted(failing)


class Ended(Watcher):
    """Lists the clips that end."""

    def __init__(self, clips: list[str]) -> None:
        self.clips = clips

    def ended(self, result: Result) -> None:
        self.clips.append(result.clip)


def test_each_broken_clip_fails_alone(tmp_path: Path, program: Sequence[str]) -> None:
    check_batch(tmp_path, program, good=4, broken=len(BROKEN))


@pytest.mark.slow
def test_200_clips_of_which_20_are_broken(tmp_path: Path, program: Sequence[str]) -> None:
    check_batch(tmp_path, program, good=180, broken=20)


# -- one clip ----------------------------------------------------------------------------------------------------------


def quiet(clip: str, part: float) -> None:
    """No progress."""


def run_one(clip: Path, folder: Path, program: Sequence[str], **task: Any) -> Result:
    """One task, to its end."""
    import threading

    result = run_task(Task(str(clip), str(folder), program=tuple(program), **task), quiet, threading.Event())
    assert result is not None
    return result


def test_log_and_commands_for_the_take(tmp_path: Path, program: Sequence[str]) -> None:
    clip = write_clip(tmp_path / 'it\'s {name} "1"\n#é.avi')
    code = "import pathlib, sys; pathlib.Path(sys.argv[1]).write_text(sys.argv[2]); print('made it')"
    then = ((sys.executable, "-c", code, "{folder}/{name}.txt", "{take}"),)
    result = run_one(clip, tmp_path / "out", program, then=then, words=("--no-preview",))
    take = tmp_path / "out" / f"{clip.stem}.take"
    assert result.status == "ok" and result.outputs == [str(take), str(take.with_suffix(".txt"))]
    assert take.with_suffix(".txt").read_text() == str(take)
    log = (tmp_path / "out" / "log.txt").read_text()
    for word in ("stage track", "stage rig", "made it", "ok"):
        assert word in log, log
    failing = ((sys.executable, "-c", "raise SystemExit('error: no room left')"), ("never",))
    result = run_one(clip, tmp_path / "out", program, then=failing)
    assert (result.status, result.error, result.frames) == ("failed", "no room left", FRAMES)
    result = run_one(clip, tmp_path / "out", program, then=(("no such program",),))
    assert result.status == "failed" and "cannot be started" in str(result.error)


def test_a_fault_of_ours_is_one_clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fault(path: Path) -> None:
        raise ZeroDivisionError("what\nnobody thought of")

    monkeypatch.setattr(batch_task, "_counts", fault)
    result = run_one(tmp_path / "none.avi", tmp_path / "out", (sys.executable, "-c", "pass"))
    assert (result.status, result.error) == ("failed", "unexpected ZeroDivisionError: what nobody thought of")


def test_folder_that_cannot_be(tmp_path: Path, program: Sequence[str]) -> None:
    (tmp_path / "file").touch()
    result = run_one(tmp_path / "clip.avi", tmp_path / "file" / "clip", program)
    assert result.status == "failed" and "nothing can be written there" in str(result.error)
    with pytest.raises(OutputError, match="nothing can be written"):
        convert_many([tmp_path / "clip.avi"], tmp_path / "file" / "out")


# -- which clips, which folders ----------------------------------------------------------------------------------------


def test_clips_are_found_in_folders_and_patterns(tmp_path: Path) -> None:
    clips = [write_clip(tmp_path / name, 1) for name in ("a/x.avi", "a/y.MP4", "b/x.avi")]
    (tmp_path / "a" / ".hidden.avi").touch()
    (tmp_path / "a" / "notes.txt").touch()
    (tmp_path / "pictures").mkdir()
    assert expand([tmp_path / "a"]) == [str(clips[0]), str(clips[1])]
    assert expand([tmp_path / "b" / "*.avi", clips[2], tmp_path / "a" / ".." / "b" / "x.avi"]) == [str(clips[2])]
    assert expand([tmp_path / "pictures", tmp_path / "f_%04d.png"]) == [
        str(tmp_path / "pictures"), str(tmp_path / "f_%04d.png")
    ]  # fmt: skip
    with pytest.raises(InputError, match="no clips"):
        expand([])


def test_names_that_some_file_systems_take_for_one(tmp_path: Path) -> None:
    names = ["É.avi", "é.avi", "e\u0301.avi", "results.jsonl.avi", "é_2.avi", "é.mp4", "é"]
    clips = [str(tmp_path / str(number) / name) for number, name in enumerate(names)]
    folders = _Book.open(tmp_path, (), False).folders(clips)
    same = {unicodedata.normalize("NFC", name).casefold() for name in folders.values()}
    assert len(same) == len(clips) and "results.jsonl" not in same
    assert _Book.open(tmp_path, (), True).folders(clips[::-1]) == folders, "the same ones when it goes on"


def test_an_earlier_batch_is_not_mixed_up(tmp_path: Path, program: Sequence[str]) -> None:
    clip, out = write_clip(tmp_path / "a" / "x.avi"), tmp_path / "out"
    convert_many([clip], out, program=program, preview=False)
    with pytest.raises(InputError, match="--resume goes on with it"):
        convert_many([clip], out, program=program, preview=False)
    other = write_clip(tmp_path / "b" / "x.avi")
    # What remembers the folders is damaged: the Takes say whose they are.
    for nonsense in ("[1, 2", '{"folders": {"' + str(other) + '": "../../outside"}}'):
        (out / "batch.json").write_text(nonsense)
        with (out / "results.jsonl").open("a") as file:
            file.write('{"clip": 3}\n[]\n{"clip": "cut')
        results = convert_many([other, clip], out, program=program, resume=True, preview=False)
        assert [Path(r.outputs[0]).relative_to(out).parts[0] for r in results] == ["x_2", "x"]
        assert [r.status for r in results] == ["ok", "ok"]
    assert not (tmp_path / "outside").exists()
    for line in (out / "results.jsonl").read_text().splitlines():
        json.loads(line)


def test_changed_settings_bring_finished_takes_up_to_date(tmp_path: Path, program: Sequence[str]) -> None:
    clip, out = write_clip(tmp_path / "x.avi"), tmp_path / "out"
    convert_many([clip], out, program=program, preview=False)
    (result,) = convert_many([clip], out, program=program, resume=True, preview=False, height=1.9)
    with Take.open(result.outputs[0]) as take:
        assert take.settings["height"] == 1.9
    with pytest.raises(InputError, match="no_such"):
        convert_many([clip], out, resume=True, no_such=1)
    with pytest.raises(InputError, match="--jobs 0"):
        convert_many([clip], out, resume=True, jobs=0)


# -- stopped, killed, two at once --------------------------------------------------------------------------------------


def start(clips: Sequence[Path], out: Path, program: Sequence[str]) -> subprocess.Popen[str]:
    """A batch as a process of its own; its clips are slow."""
    code = (
        "import json, sys; from meshpose.batch import Teller, convert_many; "
        "clips, out, program, words = json.loads(sys.argv[1]); "
        "convert_many(clips, out, jobs=2, program=program, words=words, watcher=Teller())"
    )
    told = json.dumps([[str(clip) for clip in clips], str(out), list(program), ["--no-preview"]])
    env = {**os.environ, "MESHPOSE_FAKE_SECONDS": "0.3"}
    return subprocess.Popen(
        [sys.executable, "-c", code, told], env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def wait_for_frames(take: Path, frames: int) -> None:
    """Until a job has committed so many frames."""
    for _ in range(600):
        if Take.begun(take):
            with Take.open(take) as reader:
                if len(reader.frames) >= frames:
                    return
        time.sleep(0.1)
    raise AssertionError(f"{take} did not get {frames} frames")


@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_stopped_batch_goes_on(tmp_path: Path, program: Sequence[str], number: signal.Signals) -> None:
    clips, out = [write_clip(tmp_path / f"{name}.avi") for name in "ab"], tmp_path / "out"
    batch = start(clips, out, program)
    wait_for_frames(out / "a" / "a.take", 2)
    with pytest.raises(OutputError, match="another batch is at work there"):
        convert_many(clips, out, resume=True, program=program, preview=False)
    batch.send_signal(number)
    shown = batch.communicate(timeout=60)
    assert batch.returncode != 0
    if number == signal.SIGINT:
        assert "Cancelled" in shown[1]
    results = convert_many(clips, out, jobs=2, program=program, resume=True, preview=False)
    assert [result.status for result in results] == ["ok"] * 2, results
    for clip, result in zip(clips, results):
        with Take.open(result.outputs[0]) as take:
            convert_many([clip], tmp_path / f"alone {clip.stem}", program=program, preview=False)
            with Take.open(tmp_path / f"alone {clip.stem}" / clip.stem / f"{clip.stem}.take") as alone:
                assert take.digest() == alone.digest()


def test_cancelled_command_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*arguments: Any, **options: Any) -> list[Result]:
        raise Cancelled

    monkeypatch.setattr("meshpose.batch.convert_many", stopped)
    assert command_line(["batch", "x.mp4", "--out", str(tmp_path)]) == 130
    assert capsys.readouterr().err == "cancelled: what is done is kept, --resume goes on\n"
    assert command_line(["batch", "x.mp4", "--out", str(tmp_path), "--quiet"]) == 130
    assert capsys.readouterr() == ("", "")


# -- as it is used -----------------------------------------------------------------------------------------------------


@pytest.fixture
def fake_program(program: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The command line's own batch, its jobs with the fake."""
    monkeypatch.setitem(convert_many.__kwdefaults__ or {}, "program", tuple(program))
    defaults = list(convert_many.__defaults__ or ())
    defaults[defaults.index(batch_task.PROGRAM)] = tuple(program)
    monkeypatch.setattr(convert_many, "__defaults__", tuple(defaults))
    yield


@pytest.mark.usefixtures("fake_program")
def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip = write_clip(tmp_path / "a.avi")
    words = ["--out", str(tmp_path / "out"), "--no-preview"]
    arguments = ["batch", str(clip), *words]
    more = ["batch", str(clip), str(tmp_path / "no.avi"), *words, "--resume"]
    assert command_line(arguments) == 0
    shown = capsys.readouterr()
    assert f"ok     {clip}: {FRAMES} frames, 2 people" in shown.out and "1 clip: 1 ok, 0 failed" in shown.out
    assert command_line(arguments) == 2
    assert "earlier batch" in capsys.readouterr().err
    assert command_line(more) == 1
    shown = capsys.readouterr()
    assert "1 of 2 clips are done already" in shown.out and "FAILED" in shown.out and "2 clips: 1 ok" in shown.out
    assert command_line([*more, "--quiet"]) == 1
    assert capsys.readouterr() == ("", ""), "for machines: results.jsonl and the exit code"
    assert command_line([*arguments, "--resume", "--then", "'"]) == 2
    assert "--then" in capsys.readouterr().err


def test_ray_that_is_not_there_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match="Ray is missing .*pip install 'meshpose\\[ray\\]'"):
        convert_many([tmp_path / "a.avi"], tmp_path / "out", ray="auto")


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "127.0.0.1:99999", "[::1]:1"])
def test_no_cluster_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setitem(sys.modules, "ray", ModuleType("ray"))
    with pytest.raises(InputError, match="no Ray cluster answers there .*ray start"):
        convert_many([tmp_path / "a.avi"], tmp_path / "out", ray=address)


def test_the_real_job(tmp_path: Path, root: Path) -> None:
    """As users start it, with the real network."""
    sample, out = root / "samples" / "turn.mp4", tmp_path / "out"
    if not sample.exists():
        pytest.skip("needs the sample clip")
    shutil.copy(sample, tmp_path / "it's one.mp4")
    command = [sys.executable, "-m", "meshpose", "batch", str(tmp_path), "--out", str(out), "--end", "2", "--quiet"]
    env = {**os.environ, "PYTHONPATH": str(root / "core")}
    ended = subprocess.run(command, capture_output=True, text=True, env=env)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    (result,) = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert result["frames"] == 2 and result["people"] == 1
    assert [Path(output).name for output in result["outputs"]] == ["it's one.take", "it's one_preview.mp4"]
