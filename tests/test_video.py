# SPDX-License-Identifier: Apache-2.0
"""Clips as they come: rates, rotation, cut files, pictures, odd names; judged by PyAV where it is installed."""

from __future__ import annotations

import os
import struct
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from meshpose import video
from meshpose.errors import InputError, OutputError

SIZE = (96, 64)


def picture(k: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Upper left corner red, upper right green, lower half grey that tells the frame's number."""
    image = np.full((size[1], size[0], 3), 40 + 5 * (k % 40), np.uint8)
    image[: size[1] // 2, : size[0] // 2] = (0, 0, 255)
    image[: size[1] // 2, size[0] // 2 :] = (0, 255, 0)
    return image


def number(image: np.ndarray) -> float:
    """The frame's number as `picture` painted it (lower half)."""
    return float((image[image.shape[0] * 3 // 4 :].mean() - 40) / 5)


def constant(path: Path, n: int = 30, fps: float = 25.0, size: tuple[int, int] = SIZE) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"mp4v"), fps, size)
    for k in range(n):
        writer.write(picture(k, size))
    writer.release()
    return path


def timed(path: Path, ticks: list[int], base: int, rate: int, sound: bool = False, b_frames: int = 0) -> Path:
    """A clip whose pictures stand at ticks / base seconds (H.264; MPEG-4 in avi)."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream("mpeg4" if path.suffix == ".avi" else "libx264", rate=rate)
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, base)
        stream.codec_context.max_b_frames = b_frames
        if sound:
            track: Any = out.add_stream("pcm_s16le" if path.suffix == ".avi" else "aac", rate=44100, layout="mono")
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.int16), format="s16", layout="mono")
            silence.rate = 44100
        for k, tick in enumerate(ticks):
            frame = av.VideoFrame.from_ndarray(picture(k), format="bgr24")
            frame.pts, frame.time_base = tick, Fraction(1, base)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
        if sound:
            out.mux([*track.encode(silence), *track.encode(None)])
    return path


def rotated(path: Path, degrees: int) -> Path:
    """Write the display matrix of a phone held upright (90 clockwise) into an mp4's track header."""
    data = bytearray(path.read_bytes())
    at = data.find(b"tkhd") + 4
    matrix = {90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}[degrees]
    one = 1 << 16
    a, b, c, d = (v * one for v in matrix)
    struct.pack_into(">9i", data, at + 40, a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


def test_constant_rate(tmp_path: Path) -> None:
    info = video.probe(constant(tmp_path / "a.mp4", 30, 25))
    assert (info.width, info.height, info.fps, info.frames) == (*SIZE, 25.0, 30)
    assert info.exact_times and not info.variable_rate and info.has_audio is False and not info.is_image
    frames = list(video.Clip(info.path))
    assert [f.index for f in frames] == list(range(30))
    np.testing.assert_allclose([f.time for f in frames], np.arange(30) / 25, atol=1e-9)
    np.testing.assert_allclose(info.times, np.arange(30) / 25, atol=1e-9)
    shades = [number(f.image) for f in frames]  # the codec darkens all of them alike
    np.testing.assert_allclose(np.diff(shades), 1, atol=0.4)


def test_start_skips_and_gives_the_same_frames(tmp_path: Path) -> None:
    path = constant(tmp_path / "a.mp4", 40)
    whole, rest = list(video.Clip(path)), list(video.Clip(path, start=17))
    assert [f.index for f in rest] == list(range(17, 40))
    for a, b in zip(whole[17:], rest):
        assert a.time == b.time and np.array_equal(a.image, b.image)
    clip = video.Clip(path)
    assert len(list(clip)) == len(list(clip)) == 40


def test_variable_rate_keeps_true_times(tmp_path: Path) -> None:
    """24 pictures at 24 fps, then 24 of 3/24 s: Blender plays it at 24, though the average is about 12."""
    av = pytest.importorskip("av")
    ticks = [512 * (k if k < 24 else 24 + 3 * (k - 24)) for k in range(48)]
    path = timed(tmp_path / "v.mp4", ticks, 12288, 24)
    info = video.probe(path)
    with av.open(str(path)) as file:
        assert info.fps == pytest.approx(float(file.streams.video[0].guessed_rate)) == 24
    assert info.variable_rate and info.exact_times
    frames = list(video.Clip(path))
    np.testing.assert_allclose([f.time for f in frames], np.array(ticks) / 12288, atol=1e-9)
    np.testing.assert_allclose(info.times, np.array(ticks) / 12288, atol=1e-9)
    assert 1 + frames[36].time * info.fps == pytest.approx(61)  # where Blender was seen to show picture 36


@pytest.mark.parametrize("name", ["30 with gaps", "phone jitter", "slow start", "60 grid", "ntsc", "irregular"])
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_rate_is_the_one_that_ffmpeg_guesses(tmp_path: Path, name: str, suffix: str) -> None:
    av = pytest.importorskip("av")
    rng = np.random.default_rng(3)
    steps = {
        "30 with gaps": [3000 * (1 + (k % 7 == 3)) for k in range(60)],
        "phone jitter": [3000 + int(rng.integers(-40, 40)) for _ in range(60)],
        "slow start": [6000] * 5 + [3000] * 55,
        "60 grid": [1500 * int(rng.integers(1, 4)) for _ in range(60)],
        "ntsc": [3003] * 60,
        "irregular": [int(rng.integers(1500, 9000)) for _ in range(60)],
    }[name]
    ticks = np.concatenate([[0], np.cumsum(steps)]).tolist()
    if suffix == "mkv":  # Matroska counts milliseconds
        ticks = [round(t / 90) for t in ticks]
    path = timed(tmp_path / f"v.{suffix}", ticks, 90000 if suffix == "mp4" else 1000, 30)
    with av.open(str(path)) as file:
        guessed = float(file.streams.video[0].guessed_rate)
    assert video.probe(path).fps == pytest.approx(guessed, rel=2e-3)


def test_times_with_reordered_pictures(tmp_path: Path) -> None:
    path = timed(tmp_path / "b.mp4", [512 * k for k in range(40)], 12288, 24, b_frames=2)
    info = video.probe(path)
    np.testing.assert_allclose([f.time for f in video.Clip(path)], info.times, atol=1e-9)
    assert info.fps == pytest.approx(24) and not info.variable_rate


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotation_is_applied(tmp_path: Path, degrees: int) -> None:
    path = rotated(constant(tmp_path / "r.mp4"), degrees)
    info = video.probe(path)
    assert info.rotation == degrees
    first = next(iter(video.Clip(path))).image
    upright = np.rot90(picture(0), -degrees // 90)
    assert first.shape[:2] == upright.shape[:2] == (info.height, info.width)
    assert np.abs(first.astype(int) - upright).mean() < 20


def test_sound_is_seen(tmp_path: Path) -> None:
    for suffix in ("mp4", "mkv", "avi"):
        sound = timed(tmp_path / f"s.{suffix}", list(range(24)), 24, 24, sound=True)
        assert video.probe(sound).has_audio is True, suffix
        mute = timed(tmp_path / f"m.{suffix}", list(range(24)), 24, 24)
        assert video.probe(mute).has_audio is False, suffix


def test_cut_off_clip_gives_what_decodes(tmp_path: Path) -> None:
    whole = constant(tmp_path / "w.avi", 60)
    cut = tmp_path / "cut.avi"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 6 // 10])
    clip = video.Clip(cut)
    n = len(list(clip))
    assert 10 < n < 55
    assert len(clip.warnings) == 1 and "ends early" in clip.warnings[0]
    resumed = video.Clip(cut, start=5)
    assert len(list(resumed)) == n - 5 and resumed.warnings == clip.warnings
    fine = video.Clip(whole)
    assert len(list(fine)) == 60 and fine.warnings == []


def test_cut_off_mp4_with_its_header_in_front(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    path = tmp_path / "front.mp4"
    with av.open(str(path), "w", options={"movflags": "faststart"}) as out:
        stream: Any = out.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        rng = np.random.default_rng(0)
        for _ in range(60):
            frame = av.VideoFrame.from_ndarray(rng.integers(0, 255, (SIZE[1], SIZE[0], 3), np.uint8), format="bgr24")
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    clip = video.Clip(path)
    assert clip.info.frames == 60
    assert 15 < len(list(clip)) < 45 and "ends early" in clip.warnings[0]


NAMES = ["a b.mp4", 'l\'été "x".mp4', "Танец.mp4", "舞者 100%.mp4", "file:1.mp4", "%04d.mp4", "-x.mp4"]


@pytest.mark.parametrize("name", NAMES)
def test_names(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    constant(tmp_path / "plain.mp4", 5).rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert len(list(video.Clip(name))) == 5
    still = Path(name).with_suffix(".png")
    still.write_bytes(cv2.imencode(".png", picture(3))[1].tobytes())
    assert np.array_equal(next(iter(video.Clip(still))).image, picture(3))


def test_odd_sizes(tmp_path: Path) -> None:
    with video.write_preview(tmp_path / "odd.mp4", 12.5, (95, 63)) as out:
        for k in range(6):
            out.write(picture(k, (95, 63)))
    info = video.probe(tmp_path / "odd.mp4")
    assert (info.width, info.height, info.fps) == (96, 64, 12.5)
    still = tmp_path / "odd.png"
    still.write_bytes(cv2.imencode(".png", picture(0, (33, 71)))[1].tobytes())
    assert video.probe(still).width == 33


def test_single_picture_with_exif(tmp_path: Path) -> None:
    """EXIF orientation 6 (a phone held upright) and 28 mm in film terms."""
    entries = struct.pack("<HHII", 0x0112, 3, 1, 6) + struct.pack("<HHII", 0x8769, 4, 1, 38)
    tiff = b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", 2) + entries + bytes(4)
    tiff += struct.pack("<H", 1) + struct.pack("<HHII", 0xA405, 3, 1, 28) + bytes(4)
    block = b"Exif\0\0" + tiff
    plain = cv2.imencode(".jpg", picture(0))[1].tobytes()
    path = tmp_path / "p.jpg"
    path.write_bytes(plain[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + plain[2:])
    info = video.probe(path)
    assert info.is_image and info.exif_focal_35mm == 28 and (info.width, info.height) == (SIZE[1], SIZE[0])
    frames = list(video.Clip(path))
    assert len(frames) == 1 and frames[0].time == 0 and frames[0].image.shape == (SIZE[0], SIZE[1], 3)
    assert list(video.Clip(path, start=1)) == []


def test_sequence_in_natural_order(tmp_path: Path) -> None:
    for k in (1, 2, 10, 9):
        cv2.imwrite(str(tmp_path / f"f{k}.png"), picture(k))
    (tmp_path / "notes.txt").write_text("x")
    for given in (tmp_path, tmp_path / "f%d.png", tmp_path / "f#.png", tmp_path / "f*.png"):
        frames = list(video.Clip(given))
        assert [round(number(f.image)) for f in frames] == [1, 2, 9, 10]
        assert [f.time for f in frames] == [k / 24 for k in range(4)]
    assert video.probe(tmp_path).is_sequence
    (tmp_path / "f3.png").write_bytes(b"broken")
    cv2.imwrite(str(tmp_path / "f4.png"), picture(4, (32, 32)))
    clip = video.Clip(tmp_path)
    assert [f.index for f in clip] == [0, 1, 4, 5] and len(clip.warnings) == 2


NO_CLIPS = [b"", b"just words, no video\n" * 200, b"\x89PNG\r\n\x1a\nbroken", b"\0\0\0\x18ftypmp42" + bytes(2000)]


@pytest.mark.parametrize("content", NO_CLIPS)
@pytest.mark.parametrize("name", ["x.mp4", "x.txt", "x.png"])
def test_what_is_no_clip_is_told_in_one_line(tmp_path: Path, content: bytes, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError) as error:
        list(video.Clip(path))
    assert name in str(error.value) and "\n" not in str(error.value)
    if not content:
        assert "empty" in str(error.value)


def test_missing_files(tmp_path: Path) -> None:
    for given in ("none.mp4", "f%04d.png", "no/such/f_*.png"):
        with pytest.raises(InputError):
            video.probe(tmp_path / given)
    with pytest.raises(InputError, match="without pictures"):
        video.probe(tmp_path)


def test_preview_is_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "p.mp4"
    path.write_bytes(b"earlier")
    with pytest.raises(RuntimeError), video.write_preview(path, 25, SIZE) as out:
        out.write(picture(0))
        raise RuntimeError
    assert path.read_bytes() == b"earlier" and os.listdir(tmp_path) == ["p.mp4"]
    with video.write_preview(path, 25, SIZE) as out:
        for k in range(10):
            out.write(picture(k, (192, 128)))
    assert len(list(video.Clip(path))) == 10 and os.listdir(tmp_path) == ["p.mp4"]
    with pytest.raises(OutputError), video.write_preview(tmp_path / "no" / "p.mp4", 25, SIZE):
        pass
