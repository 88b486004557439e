# SPDX-License-Identifier: Apache-2.0
"""Clips: a video, a picture or a sequence of pictures as upright frames with true times; and the preview's file.

    info = probe("dancer.mp4")                 # size, rate, times, without decoding the whole clip
    for frame in Clip("dancer.mp4"):
        frame.index, frame.time, frame.image   # image (h, w, 3) uint8 BGR

A frame's time is its own timestamp in seconds from the clip's start, so that a variable rate stays in step: in
Blender the picture at time t stands at frame `1 + t * info.fps`.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from . import container
from .errors import InputError, OutputError

SEQUENCE_FPS = 24.0
"""Rate of pictures without a time of their own: Blender's default scene rate."""

PICTURE_SUFFIXES = frozenset({".bmp", ".jp2", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
RATE_FRAMES = 21
"""Frames that decide the rate: FFmpeg (and so Blender) looks at the first 20 intervals."""

_PATTERN = re.compile(r"%0?(\d*)d|[*?]|#+")


@dataclass(frozen=True)
class ClipInfo:
    """What is known of a clip before it is decoded.

    path: absolute.  width, height: pixels of the upright picture.  fps: the rate at which Blender plays the clip; for a
    variable rate this is not frames divided by seconds.  times (F,) float64 seconds: exact for mp4/mov and pictures,
    otherwise a guess (`exact_times` False); the decoded frames' own times are the truth.  variable_rate: some
    picture stands more than a quarter of a frame from `index / fps`.  rotation: degrees clockwise that the stored
    picture was turned by to stand upright.  has_audio: None where the container does not say.  is_image: a single
    picture; is_sequence: several.  exif_focal_35mm: focal length in 35 mm film terms from a picture's EXIF block.
    """

    path: Path
    width: int
    height: int
    fps: float
    times: np.ndarray
    exact_times: bool = True
    variable_rate: bool = False
    rotation: int = 0
    has_audio: bool | None = False
    is_image: bool = False
    is_sequence: bool = False
    exif_focal_35mm: float | None = None

    @property
    def frames(self) -> int:
        """Number of pictures, as far as the container tells."""
        return len(self.times)


@dataclass(frozen=True)
class Frame:
    """One picture of a clip: index from 0, time (s) from the clip's start, image (h, w, 3) uint8 BGR, upright."""

    index: int
    time: float
    image: np.ndarray


def probe(path: str | Path) -> ClipInfo:
    """Size, rate and times of a clip, without decoding all of it.

    path: a video, a picture, a folder of pictures, or a pattern such as `shot/f_%04d.png`, `shot/f_####.png` or
    `shot/*.png`.  Raises InputError when there is no such file, it is empty, or nothing of it can be decoded.
    """
    path = Path(os.path.abspath(path))
    try:
        str(path).encode()
    except UnicodeEncodeError as error:  # OpenCV crashes on such a name
        raise InputError(f"{os.fsencode(path)!r}: the file's name is not valid UTF-8; rename the file") from error
    if path.is_dir() or not path.exists():
        return _probe_sequence(path, _sequence_files(path))
    head = _head(path)
    if container.is_picture(head):
        image = _read_picture(path)
        if image is None:
            raise InputError(f"{path}: the picture cannot be decoded; is it damaged?")
        focal = container.exif_focal_35mm(head)
        times = np.zeros(1)
        return ClipInfo(path, image.shape[1], image.shape[0], SEQUENCE_FPS, times, is_image=True, exif_focal_35mm=focal)
    if container.is_text(head):
        raise InputError(f"{path}: a text file, not a video or picture")
    return _probe_video(path, head)


class Clip:
    """The frames of a clip in order; may be iterated again and again.

    start: index of the first frame wanted; those before it are skipped without being converted, but are still read in
    order (seeking is not exact in all containers), so that times and indices are those of a full pass.
    info: the probe's ClipInfo.  warnings: filled while iterating (a cut-off clip, pictures that do not decode).
    """

    def __init__(self, path: str | Path, start: int = 0) -> None:
        self.info = probe(path)
        self.start = start
        self.warnings: list[str] = []

    def __iter__(self) -> Iterator[Frame]:
        self.warnings.clear()
        if self.info.is_image or self.info.is_sequence:
            return self._pictures()
        return self._video()

    @property
    def files(self) -> list[Path]:
        """The file, or the pictures of a sequence in their order."""
        return _sequence_files(self.info.path) if self.info.is_sequence else [self.info.path]

    def _pictures(self) -> Iterator[Frame]:
        info = self.info
        for index, file in enumerate(self.files):
            if index < self.start:
                continue
            image = _read_picture(file)
            if image is None:
                self.warnings.append(f"{file.name}: cannot be decoded; left out")
            elif image.shape[:2] != (info.height, info.width):
                size = f"{image.shape[1]} x {image.shape[0]} pixels, the first is {info.width} x {info.height}"
                self.warnings.append(f"{file.name}: {size}; left out")
            else:
                yield Frame(index, float(index / info.fps), image)

    def _video(self) -> Iterator[Frame]:
        info = self.info
        capture = _open(info.path)
        try:
            index, time = 0, -1.0
            while capture.grab():
                time = _next_time(capture, index, time, info.fps)
                if index >= self.start:
                    ok, image = capture.retrieve()
                    if not ok:
                        break
                    yield Frame(index, time, _sized(image, info))
                index += 1
        finally:
            capture.release()
        if _cut_off(index, info):
            decoded = f"{index} of about {info.frames} frames can be decoded"
            self.warnings.append(f"{info.path.name}: the clip ends early: {decoded}")


@dataclass
class PreviewWriter:
    """Takes the preview's pictures; made by `write_preview`."""

    _writer: cv2.VideoWriter
    size: tuple[int, int]

    def write(self, image: np.ndarray) -> None:
        """Append a picture (h, w, 3) uint8 BGR; another size is scaled to the preview's."""
        if (image.shape[1], image.shape[0]) != self.size:
            image = cv2.resize(image, self.size, interpolation=cv2.INTER_AREA)
        # 4:2:0 video has even sides: the last row and column are repeated
        self._writer.write(cv2.copyMakeBorder(image, 0, self.size[1] % 2, 0, self.size[0] % 2, cv2.BORDER_REPLICATE))


@contextlib.contextmanager
def write_preview(path: str | Path, fps: float, size: tuple[int, int]) -> Iterator[PreviewWriter]:
    """A video file of constant rate, written under a temporary name: an earlier file stays until the new one is whole.

    path: a name that ends in .mp4.  size: (width, height) pixels.  MPEG-4 part 2, because OpenCV's wheels have no
    H.264 encoder and their VP9 takes 0.2 s a frame; Blender and video players show it, most browsers do not.
    Raises OutputError when the file cannot be written.
    """
    path = Path(os.path.abspath(path))
    part = path.with_name(f".{path.stem}.part{path.suffix}")
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise OutputError(f"{path}: the folder is not there or cannot be written; choose another with --out")
    even = (size[0] + size[0] % 2, size[1] + size[1] % 2)
    writer = cv2.VideoWriter(str(part), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"mp4v"), fps, even)
    try:
        if not writer.isOpened():
            raise OutputError(f"{path}: the preview cannot be written ({size[0]} x {size[1]} pixels at {fps:g} fps)")
        yield PreviewWriter(writer, size)
        writer.release()
        try:
            os.replace(part, path)
        except OSError as error:
            raise OutputError(f"{path}: cannot be written ({error.strerror})") from error
    finally:
        writer.release()
        part.unlink(missing_ok=True)


def playback_rate(times: np.ndarray, average: float) -> float:
    """Frames per second that FFmpeg, and Blender with it, assumes for pictures at `times` (F,) seconds.

    average: frames divided by seconds.  For a constant rate this is the answer; otherwise the slowest rate on whose
    grid the first pictures lie (FFmpeg's `r_frame_rate`), if it is a plausible one.
    """
    steps = np.diff(times[:RATE_FRAMES])
    if len(steps) < 2 or average > 0 and np.abs(steps * average - 1).max() < 0.05:
        return average
    rate = _grid_rate(steps) if len(steps) > 15 else None
    rate = rate or _standard_rate(times[:RATE_FRAMES] - times[0])
    if rate is None or (average < 70 and rate > 210):
        return average
    return rate


def _grid_rate(steps: np.ndarray, highest: float = 500.0) -> float | None:
    """The slowest rate whose interval divides all steps, None where there is none up to `highest`."""
    shortest = float(steps.min())
    parts = np.arange(1, max(2, int(highest * shortest) + 1))
    ticks = steps[:, None] * (parts / shortest)
    fits = np.abs(ticks - np.round(ticks)).max(0) < 1e-3
    return float(parts[fits.argmax()] / shortest) if fits.any() else None


def _standard_rate(times: np.ndarray) -> float | None:
    """The usual rate (every twelfth up to 30, whole ones up to 60, 80, 120, 240 and the NTSC ones) that fits best.

    The measure is FFmpeg's: variance of the distance to the grid, its phase free, at most 0.01 of a frame squared.
    """
    ntsc = np.array([24, 30, 60, 12, 15, 48]) * 1000 / 1001
    rates = np.concatenate([np.arange(1, 361) / 12, np.arange(31, 61), [80, 120, 240], ntsc])
    mean_step = float(times[-1] / (len(times) - 1))
    best, found = 0.01, None
    for rate in rates[(rates >= 1) & (mean_step * rates >= 0.8)]:
        place = times * rate
        for phase in (0.0, 0.5):
            error = float(np.var(place - np.round(place + phase)))
            if error < best and best > 1e-9:
                best, found = error, float(rate)
    return found


def _probe_video(path: Path, head: bytes) -> ClipInfo:
    capture = _open(path)
    try:
        average = float(capture.get(cv2.CAP_PROP_FPS))
        average = average if np.isfinite(average) and average > 0 else SEQUENCE_FPS
        ok, image = capture.read()
        if not ok:
            raise InputError(f"{path}: no frame of it can be decoded; the file is damaged or its codec is not known")
        first = [_next_time(capture, 0, -1.0, average)]
        while len(first) < RATE_FRAMES and capture.grab():
            first.append(_next_time(capture, len(first), first[-1], average))
        count = max(len(first), int(capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        rotation = int(capture.get(cv2.CAP_PROP_ORIENTATION_META)) % 360
    finally:
        capture.release()
    track = container.read(path, head)
    fps = track.rate or playback_rate(np.array(first), average)
    times = track.times if track.times is not None else np.arange(count) / average
    shown = track.times if track.times is not None else np.array(first)
    variable = bool(np.abs(shown * fps - np.arange(len(shown))).max() > 0.25)
    return ClipInfo(
        path, image.shape[1], image.shape[0], fps, times, track.times is not None, variable, rotation, track.has_audio
    )


def _probe_sequence(path: Path, files: list[Path]) -> ClipInfo:
    for file in files:
        image = _read_picture(file)
        if image is not None:
            break
    else:
        raise InputError(f"{path}: none of its {len(files)} pictures can be decoded")
    times = np.arange(len(files)) / SEQUENCE_FPS
    focal = container.exif_focal_35mm(_head(file))
    return ClipInfo(path, image.shape[1], image.shape[0], SEQUENCE_FPS, times, is_sequence=True, exif_focal_35mm=focal)


def _sequence_files(path: Path) -> list[Path]:
    """The pictures of a folder or pattern in their natural order (f2 before f10)."""
    if path.is_dir():
        files = [p for p in path.iterdir() if p.suffix.lower() in PICTURE_SUFFIXES and not p.name.startswith(".")]
        if not files:
            raise InputError(f"{path}: a folder without pictures; give a video, a picture or a folder of pictures")
    else:
        if not _PATTERN.search(path.name) or not path.parent.is_dir():
            raise InputError(f"{path}: there is no such file")
        name = re.compile(_pattern_regex(path.name), re.IGNORECASE)
        files = [p for p in path.parent.iterdir() if name.fullmatch(p.name) and p.suffix.lower() in PICTURE_SUFFIXES]
        if not files:
            raise InputError(f"{path}: no picture fits this pattern")
    return sorted(files, key=lambda p: [int(t) if t.isdigit() else t.casefold() for t in re.split(r"(\d+)", p.name)])


def _pattern_regex(name: str) -> str:
    """A file pattern (%04d, ####, *, ?) as a regular expression."""
    out, end = "", 0
    for match in _PATTERN.finditer(name):
        out += re.escape(name[end : match.start()])
        token, end = match.group(), match.end()
        digits = len(token) if token[0] == "#" else int(match.group(1) or 1)
        out += {"*": ".*", "?": "."}.get(token, rf"\d{{{digits},}}")
    return out + re.escape(name[end:])


def _head(path: Path, size: int = 256 * 1024) -> bytes:
    """The file's first bytes; InputError where it cannot be read or is empty."""
    try:
        with path.open("rb") as stream:
            head = stream.read(size)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    if not head:
        raise InputError(f"{path}: the file is empty")
    return head


def _read_picture(path: Path) -> np.ndarray | None:
    """(h, w, 3) uint8 BGR, upright by EXIF; None where it does not decode (imread fails on some names)."""
    try:
        data = np.frombuffer(path.read_bytes(), np.uint8)
        return cv2.imdecode(data, cv2.IMREAD_COLOR) if len(data) else None
    except (OSError, cv2.error):
        return None


def _open(path: Path) -> cv2.VideoCapture:
    """FFmpeg's reader on an absolute path (so that no name is taken for a protocol); InputError where it cannot."""
    # FFmpeg writes each damaged frame to stderr; what matters reaches the user as a warning of ours
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    if not capture.isOpened():
        capture.release()
        raise InputError(f"{path}: not a video or picture that can be read (or damaged at its head)")
    capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)
    return capture


def _next_time(capture: cv2.VideoCapture, index: int, last: float, fps: float) -> float:
    """Seconds of the frame just grabbed; where the stream has no usable timestamp, one frame after the last."""
    time = float(capture.get(cv2.CAP_PROP_POS_MSEC)) / 1000
    if index == 0:
        return max(0.0, time) if np.isfinite(time) else 0.0
    return time if np.isfinite(time) and time > last else last + 1 / fps


def _sized(image: np.ndarray, info: ClipInfo) -> np.ndarray:
    """The picture in the clip's size (a stream may change it on the way)."""
    if image.shape[:2] == (info.height, info.width):
        return image
    return cv2.resize(image, (info.width, info.height), interpolation=cv2.INTER_AREA)


def _cut_off(decoded: int, info: ClipInfo) -> bool:
    """Whether clearly fewer frames came than the container promised (exact promises: more than one and 1 %)."""
    slack = 1 + info.frames // 100 if info.exact_times else 2 + info.frames // 10
    return decoded < info.frames - slack
