# SPDX-License-Identifier: Apache-2.0
"""What goes wrong around a job: a full disk, a clip that goes away, folders that cannot be written, odd names.

The real command line with a fake in the network's place.  Each fault ends in one line (exit code 2) or in a warning;
what was finished is kept, and the same command goes on once the fault is mended.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from fake_network import FRAMES, install

from meshpose.cli import main
from meshpose.take import Take

FAKE = Path(__file__).with_name("fake_network.py")
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="tmpfs, limits and permissions of Linux")


def write_clip(path: Path, frames: int = FRAMES, size: tuple[int, int] = (320, 240)) -> Path:
    """A clip of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = path.with_name("plain.avi")
    writer = cv2.VideoWriter(str(plain), cv2.VideoWriter.fourcc(*"MJPG"), 25, size)
    random = np.random.default_rng(0)
    for _ in range(frames):
        writer.write(random.integers(0, 255, (size[1], size[0], 3), np.uint8))
    writer.release()
    return plain.rename(path)


def start(*words: object, slow: float = 0.0, limit: int | None = None) -> subprocess.Popen[str]:
    """`meshpose run WORDS` as a process; slow: seconds a frame; limit: bytes that a file may have at most."""

    def before() -> None:
        if limit is not None:
            import resource
            import signal

            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    env = {**os.environ, "MESHPOSE_FAKE_SECONDS": str(slow)}
    command = [sys.executable, str(FAKE), "run", *map(str, words)]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=env,
        preexec_fn=before if limit else None,
    )


def only_line(process: subprocess.Popen[str]) -> str:
    """The one line of a job that has failed."""
    shown = process.communicate(timeout=120)
    lines = [line for line in shown[1].splitlines() if not line.startswith("warning: ")]
    assert process.returncode == 2 and len(lines) == 1 and lines[0].startswith("error: "), shown
    return lines[0]


def finish(clip: Path, out: Path, expected: str) -> None:
    """The same command goes on, to the Take of an undisturbed run."""
    process = start(clip, "--out", out)
    shown = process.communicate(timeout=120)
    assert process.returncode == 0, shown
    with Take.open(out / f"{clip.stem}.take") as take:
        assert take.digest() == expected


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip."""
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.avi")


@pytest.fixture(scope="module")
def undisturbed(clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Take of a run without a fault."""
    out = tmp_path_factory.mktemp("undisturbed")
    process = start(clip, "--out", out)
    assert process.wait(120) == 0
    return out / "clip.take"


@pytest.fixture(scope="module")
def expected(undisturbed: Path) -> str:
    """Its digest."""
    with Take.open(undisturbed) as take:
        return take.digest()


# -- a full disk -------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 KiB; skips where this may not be mounted."""
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)], capture_output=True)
    if done.returncode:
        pytest.skip("a small tmpfs needs the right to mount")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


@linux
@pytest.mark.parametrize("free", [0, 30, 90, 150, 200])
def test_full_disk(clip: Path, expected: str, small_disk: Path, free: int) -> None:
    """The disk has room for so many KiB: for nothing, for the empty Take, for some frames, for all but the preview."""
    filler = small_disk / "filler"
    filler.write_bytes(bytes(1024 * (256 - free)))
    line = only_line(start(clip, "--out", small_disk, slow=0.1))
    assert str(small_disk) in line, line
    filler.unlink()
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    finish(clip, small_disk, expected)
    assert sorted(p.name for p in small_disk.iterdir()) == ["clip.take", "clip_preview.mp4"]


@linux
@pytest.mark.parametrize("limit", [10_000, 60_000, 150_000])
def test_file_that_may_not_grow(clip: Path, expected: str, tmp_path: Path, limit: int) -> None:
    """A quota, as SQLite sees it."""
    line = only_line(start(clip, "--out", tmp_path, "--no-preview", limit=limit, slow=0.1))
    assert str(tmp_path) in line and "disk full" in line, line
    finish(clip, tmp_path, expected)


# -- a clip that goes away ---------------------------------------------------------------------------------------------


@linux
@pytest.mark.parametrize("how", ["moved", "deleted", "another"])
def test_clip_goes_away_while_the_job_runs(clip: Path, undisturbed: Path, tmp_path: Path, how: str) -> None:
    """An open file stays readable: what was read is kept, and a warning says why there is no preview."""
    mine, out = Path(shutil.copy(clip, tmp_path / "clip.avi")), tmp_path / "out"
    process = start(mine, "--out", out, slow=0.1)
    take = out / "clip.take"
    while not Take.begun(take):
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    if how == "moved":
        mine.rename(tmp_path / "moved.avi")
    elif how == "deleted":
        mine.unlink()
    else:
        write_clip(tmp_path / "other.avi", 3, (64, 48)).replace(mine)
    shown = process.communicate(timeout=120)
    assert process.returncode == 0 and "clip.avi: the clip was moved or deleted" in shown[1], shown
    assert "Traceback" not in shown[1] and [p.name for p in out.iterdir()] == ["clip.take"]
    with Take.open(undisturbed) as wanted, Take.open(take) as reader:
        assert len(reader.frames) == FRAMES and reader.finished, "all that was read is kept"
        assert [reader.raw_hash(n) for n in reader.people] == [wanted.raw_hash(n) for n in wanted.people]
        assert reader.clip_identity == wanted.clip_identity
    shutil.copy(clip, mine)
    assert start(mine, "--out", out).wait(120) == 0
    assert (out / "clip_preview.mp4").exists()


# -- folders and names -------------------------------------------------------------------------------------------------


@linux
def test_folders_that_cannot_be_written(clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in (Path("/proc/self"), Path("/sys/kernel"), clip, clip / "below"):
        if folder.exists() or folder.parent.exists():
            assert main(["run", str(clip), "--out", str(folder)]) == 2
            shown = capsys.readouterr().err.splitlines()
            assert len(shown) == 1 and str(folder) in shown[0] and "nothing can be written" in shown[0], shown


@linux
def test_take_on_a_read_only_disk(
    clip: Path, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It can be read; what wants to write says that it cannot."""
    out = tmp_path / "out"
    finish(clip, out, expected)
    done = subprocess.run(["mount", "--bind", str(out), str(out)], capture_output=True)
    if done.returncode:
        pytest.skip("a read-only folder needs the right to mount (root writes everywhere else)")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", str(out)], check=True)
        install(monkeypatch.setattr)
        take = str(out / "clip.take")
        assert main(["info", take]) == 0
        for words in (["refit", take, "--set", "smooth=0.1"], ["run", str(clip), "--out", str(out), "--restart"]):
            capsys.readouterr()
            assert main(words) == 2
            shown = capsys.readouterr().err.splitlines()
            assert len(shown) == 1 and str(out) in shown[0], shown
        with Take.open(take) as reader:
            assert reader.digest() == expected
    finally:
        subprocess.run(["umount", "-l", str(out)], check=True)


@linux
@pytest.mark.parametrize(
    "name",
    [
        "it's \"quoted\" 'twice'",
        "two\nlines\ttab",
        "été 舞踊 🕺",
        " spaces at both ends ",
        "-dash",
        "100% #1?&*",
        "n" * 200,
    ],
)
def test_names(
    clip: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install(monkeypatch.setattr)
    folder = tmp_path / name
    folder.mkdir()
    mine = Path(shutil.copy(clip, folder / f"{name}.avi"))
    assert main(["run", str(mine), "--out", str(folder), "--progress", "none"]) == 0
    assert sorted(p.name for p in folder.iterdir()) == sorted([f"{name}.avi", f"{name}.take", f"{name}_preview.mp4"])
    assert main(["info", str(folder / f"{name}.take")]) == 0
    assert main(["refit", str(folder / f"{name}.take"), "--set", "smooth=0.3", "--preview"]) == 0
    capsys.readouterr()
    assert main(["run", str(mine.with_suffix(".mp4")), "--out", str(folder)]) == 2
    shown = capsys.readouterr().err.splitlines()
    assert len(shown) == 1 and ("no such file" in shown[0] or "no picture fits" in shown[0]), shown
