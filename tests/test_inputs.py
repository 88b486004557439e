# SPDX-License-Identifier: Apache-2.0
"""Input as it comes: odd, single, cut-off, rotated, empty and broken clips through the whole job, as users start it.

Every clip is made here. Bad input ends with exit code 2 and exactly one line; what was there before stays as it was.
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest

from meshpose.cli import main
from meshpose.take import Take

ROOT = Path(__file__).resolve().parents[1]
Meshpose = Callable[..., "subprocess.CompletedProcess[str]"]


def pictures(count: int, width: int = 160, height: int = 96) -> Iterator[np.ndarray]:
    """Pictures without a person: a soft gradient and a small square that moves to the right. (h, w, 3) uint8 BGR."""
    ramp = np.linspace(40, 200, width, dtype=np.float32)[None, :, None] * np.array([1.0, 0.8, 0.6], np.float32)
    ground = np.repeat(ramp, height, axis=0).astype(np.uint8)
    for index in range(count):
        image = ground.copy()
        x = 4 + index * (width - 20) // max(1, count)
        image[height // 3 : height // 3 + 12, x : x + 12] = (30, 60, 230)
        yield image


def write_avi(path: Path, images: Sequence[np.ndarray] | Iterator[np.ndarray], fps: float = 24) -> Path:
    """Motion JPEG in AVI by OpenCV's own writer: any size, any frame can be cut off."""
    images = list(images)
    plain = path.with_name("plain.avi")
    size = images[0].shape[1::-1]
    writer = cv2.VideoWriter(str(plain), cv2.CAP_OPENCV_MJPEG, cv2.VideoWriter.fourcc(*"MJPG"), fps, size)
    assert writer.isOpened()
    for image in images:
        writer.write(image)
    writer.release()
    plain.rename(path)
    return path


def write_mp4(path: Path, ticks: Sequence[int], scale: int = 24) -> Path:
    """MPEG-4 in mp4 with the header in front; picture i is shown at ticks[i] / scale seconds."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as file:
        stream = file.add_stream("mpeg4", rate=scale)
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
        stream.codec_context.time_base = Fraction(1, scale)
        stream.codec_context.max_b_frames = 0
        for tick, image in zip(ticks, pictures(len(ticks))):
            frame = av.VideoFrame.from_ndarray(image, format="bgr24")
            frame.pts, frame.time_base = tick, Fraction(1, scale)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


def rotate_metadata(path: Path) -> None:
    """Write "turn a quarter clockwise" into the track's matrix, as a phone that is held upright does."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40
    data[at : at + 36] = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 96 << 16, 0, 1 << 30)
    path.write_bytes(data)


def convert(*arguments: object) -> int:
    """The command line, in this process."""
    return main(["run", *map(str, arguments)])


def only_line(text: str) -> str:
    """The one line of an error text."""
    lines = [line for line in text.replace("\r", "\n").split("\n") if line.strip()]
    assert len(lines) == 1, f"one line wanted, not:\n{text}"
    assert "Traceback" not in text
    return lines[0]


def empty_take(path: Path) -> Take:
    """A Take without persons, which says so."""
    take = Take.open(path)
    assert take.people == []
    assert any("nobody" in w.lower() or "no person" in w.lower() for w in take.warnings), take.warnings
    return take


# ---------------------------------------------------------------- what must convert


@pytest.mark.parametrize(("width", "height"), [(161, 99), (33, 241)])
def test_odd_sizes(tmp_path: Path, width: int, height: int) -> None:
    clip = write_avi(tmp_path / "odd.avi", pictures(2, width, height))
    assert convert(clip, "--out", tmp_path / "out") == 0
    take = empty_take(tmp_path / "out" / "odd.take")
    assert (take.clip.width, take.clip.height) == (width, height)


def test_nobody_is_a_plain_warning(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    clip = write_avi(tmp_path / "nobody.avi", pictures(3))
    assert convert(clip, "--out", tmp_path) == 0
    empty_take(tmp_path / "nobody.take")
    shown = capfd.readouterr()
    assert "nobody" in (shown.out + shown.err).lower() and "Traceback" not in shown.err


@pytest.mark.parametrize("kind", ["colour.jpg", "grey.png", "alpha.png", "deep.png"])
def test_single_picture_is_one_frame(tmp_path: Path, kind: str) -> None:
    image = next(pictures(1))
    if kind == "grey.png":
        image = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    elif kind == "alpha.png":
        image = cv2.cvtColor(image, cv2.COLOR_BGR2BGRA)
    elif kind == "deep.png":
        image = image.astype(np.uint16) * 257
    cv2.imwrite(str(tmp_path / kind), image)
    assert convert(tmp_path / kind, "--out", tmp_path / "out") == 0
    take = empty_take((tmp_path / "out" / kind).with_suffix(".take"))
    assert len(take.clip.times) == 1 and take.clip.is_image


def test_sequence_of_pictures(tmp_path: Path) -> None:
    folder = tmp_path / "shot"
    folder.mkdir()
    for index, image in enumerate(pictures(5)):
        cv2.imwrite(str(folder / f"f_{index:04d}.png"), image)
    assert convert(folder, "--out", tmp_path / "out") == 0
    assert len(empty_take(tmp_path / "out" / "shot.take").clip.times) == 5


@pytest.mark.parametrize("suffix", [".avi", ".mp4"])
def test_cut_off_in_the_middle_converts_what_decodes(tmp_path: Path, suffix: str) -> None:
    clip = tmp_path / f"cut{suffix}"
    write_avi(clip, pictures(16)) if suffix == ".avi" else write_mp4(clip, range(16))
    data = clip.read_bytes()
    start = data.index(b"movi" if suffix == ".avi" else b"mdat")
    clip.write_bytes(data[: start + (len(data) - start) * 6 // 10])
    assert convert(clip, "--out", tmp_path / "out") == 0
    take = Take.open(tmp_path / "out" / "cut.take")
    assert 3 <= len(take.clip.times) < 16
    assert any("early" in w or "cut" in w.lower() for w in take.warnings), take.warnings


@pytest.mark.parametrize("name", ['it\'s "my" clip', "танец 踊り e\u0301té", "100%d #1 [x] {y}", "-dash"])
def test_names(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / f"{name} out"
    write_avi(tmp_path / f"{name}.avi", pictures(1))
    monkeypatch.chdir(tmp_path)
    assert convert(f"./{name}.avi", "--out", out) == 0
    empty_take(out / f"{name}.take")


def test_variable_rate_keeps_each_pictures_time(tmp_path: Path) -> None:
    ticks = [*range(6), *range(6, 24, 3)]
    clip = write_mp4(tmp_path / "phone.mp4", ticks)
    assert convert(clip, "--out", tmp_path) == 0
    info = Take.open(tmp_path / "phone.take").clip
    assert info.variable_rate
    assert info.fps == pytest.approx(24, abs=0.01)
    np.testing.assert_allclose(info.times, np.array(ticks) / 24, atol=2e-3)


def test_rotation_metadata_stands_upright(tmp_path: Path) -> None:
    clip = write_mp4(tmp_path / "upright.mp4", range(3))
    rotate_metadata(clip)
    assert convert(clip, "--out", tmp_path) == 0
    info = Take.open(tmp_path / "upright.take").clip
    assert (info.width, info.height) == (96, 160)


# ---------------------------------------------------------------- what must be refused


def junk(path: Path, what: str) -> Path:
    """A file that is no clip."""
    if what == "missing":
        return path
    if what == "folder without pictures":
        path.mkdir()
        (path / "notes.txt").write_text("nothing to see")
        return path
    contents = {
        "empty": b"",
        "text": b"this is not a video\n" * 20,
        "noise": np.random.default_rng(1).bytes(20_000),
        "zip": b"PK\x03\x04" + bytes(5000),
        "half a jpeg": cv2.imencode(".jpg", next(pictures(1)))[1].tobytes()[:200],
    }
    path.write_bytes(contents[what])
    return path


@pytest.mark.parametrize("what", ["missing", "empty", "text", "noise", "zip", "half a jpeg", "folder without pictures"])
def test_no_clip_is_one_line(tmp_path: Path, what: str, meshpose: Meshpose) -> None:
    """In a process of its own, so that what the libraries print by themselves counts, too."""
    clip = junk(tmp_path / ("bad.jpg" if "jpeg" in what else "bad.mp4"), what)
    result = meshpose("run", clip, "--out", tmp_path / "out")
    assert result.returncode == 2
    assert clip.name in only_line(result.stderr)
    assert not list((tmp_path / "out").glob("*.take*")), "nothing may be left behind"


def test_video_of_which_nothing_decodes(tmp_path: Path, meshpose: Meshpose) -> None:
    clip = write_mp4(tmp_path / "dead.mp4", range(12))
    data = clip.read_bytes()
    start = data.index(b"mdat") + 4
    clip.write_bytes(data[:start] + bytes(len(data) - start))
    result = meshpose("run", clip, "--out", tmp_path / "out")
    assert result.returncode == 2
    assert "dead.mp4" in only_line(result.stderr)


def test_header_cut_off(tmp_path: Path, meshpose: Meshpose) -> None:
    clip = write_mp4(tmp_path / "head.mp4", range(12))
    clip.write_bytes(clip.read_bytes()[:300])
    result = meshpose("run", clip, "--out", tmp_path / "out")
    assert result.returncode == 2
    assert "head.mp4" in only_line(result.stderr)


@pytest.mark.parametrize("where", ["a file", "under a file", "a closed folder"])
def test_unwritable_output(tmp_path: Path, where: str, capfd: pytest.CaptureFixture[str]) -> None:
    clip = write_avi(tmp_path / "good.avi", pictures(3))
    out = tmp_path / "out"
    if where == "a closed folder":
        out.mkdir(mode=0o555)
        if os.access(out, os.W_OK):
            out = Path("/proc/self")  # root may write everywhere but here
            if not out.is_dir():
                pytest.skip("no folder is closed to this user")
    else:
        out.write_text("a file of the user's")
        out = out / "deeper" if where == "under a file" else out
    assert convert(clip, "--out", out) == 2
    assert str(out) in only_line(capfd.readouterr().err)
    assert where == "a closed folder" or (tmp_path / "out").read_text() == "a file of the user's"


def test_earlier_output_stays(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    clip = write_avi(tmp_path / "clip.avi", pictures(2))
    assert convert(clip, "--out", tmp_path) == 0
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir() if p != clip}
    assert "clip.take" in before
    capfd.readouterr()
    for bad in (b"", b"no video at all"):
        clip.write_bytes(bad)
        for options in ([], ["--restart"]):
            assert convert(clip, "--out", tmp_path, *options) == 2
            only_line(capfd.readouterr().err)
            assert {p.name: p.read_bytes() for p in tmp_path.iterdir() if p != clip} == before


def test_take_of_something_else_is_not_overwritten(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    clip = write_avi(tmp_path / "clip.avi", pictures(3))
    (tmp_path / "clip.take").write_text("somebody's shopping list")
    assert convert(clip, "--out", tmp_path) == 2
    assert "clip.take" in only_line(capfd.readouterr().err)
    assert (tmp_path / "clip.take").read_text() == "somebody's shopping list"


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package as it is installed, weights inside."""
    folder = tmp_path_factory.mktemp("package")
    shutil.copytree(ROOT / "core" / "meshpose", folder / "meshpose", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "weights", folder / "meshpose" / "weights")
    return folder


@pytest.mark.parametrize("harm", ["one byte", "missing", "cut off"])
@pytest.mark.parametrize(
    "name",
    ["body.npz", "upsampler.npz", "accurate.onnx", "people.onnx", "depth.onnx", "pose_prior.npz", "sha256.json"],
)
def test_corrupt_weight_file(package: Path, name: str, harm: str, tmp_path: Path) -> None:
    if name == "sha256.json" and harm == "one byte":
        pytest.skip("the list has no list of its own")
    clip = write_avi(tmp_path / "clip.avi", pictures(2))
    assert convert(clip, "--out", tmp_path, "--no-preview") == 0
    before = (tmp_path / "clip.take").read_bytes()
    (tmp_path / "clip_preview.mp4").write_bytes(b"an earlier preview")
    file = package / "meshpose" / "weights" / name
    good = file.read_bytes()
    try:
        if harm == "one byte":
            changed = bytearray(good)
            changed[len(good) // 2] ^= 1
            file.write_bytes(changed)
        elif harm == "cut off":
            file.write_bytes(good[: len(good) // 2])
        else:
            file.unlink()
        result = subprocess.run(
            [sys.executable, "-m", "meshpose", "run", clip, "--out", tmp_path, "--restart"],
            env={**os.environ, "PYTHONPATH": str(package)},
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
    finally:
        file.write_bytes(good)
    assert result.returncode == 2, result.stderr
    assert name in only_line(result.stderr)
    assert (tmp_path / "clip_preview.mp4").read_bytes() == b"an earlier preview"
    assert (tmp_path / "clip.take").read_bytes() == before
