# SPDX-License-Identifier: Apache-2.0
"""Facts of media files that OpenCV does not tell, read from their headers: exact times of mp4/mov, sound, EXIF."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

_LARGEST_HEADER = 256 << 20
_MOST_SAMPLES = 1 << 24
_EXIF_IFD, _FOCAL_35MM = 0x8769, 0xA405


@dataclass(frozen=True)
class Track:
    """times (F,) float64 seconds of the pictures in the order of showing (None: the container has no table of them);
    has_audio None where this reader does not know the container.  rate: frames per second that the container itself
    declares for the pictures (Matroska's default duration)."""

    times: np.ndarray | None = None
    has_audio: bool | None = None
    rate: float | None = None


def is_picture(head: bytes) -> bool:
    """Whether a file's first bytes are those of a still picture that OpenCV reads."""
    starts = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"II*\0", b"MM\0*", b"\0\0\0\x0cjP  ")
    bitmap = head[:2] == b"BM" and head[6:10] == b"\0\0\0\0"
    return head.startswith(starts) or bitmap or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")


def is_text(head: bytes) -> bool:
    """Whether the first bytes are plain text: FFmpeg would draw it letter by letter, or follow a playlist."""
    return all(byte in b"\t\n\r\f" or 32 <= byte < 127 for byte in head[:4096])


def read(path: Path, head: bytes) -> Track:
    """What the header of a video file says; an empty Track for containers or damage that this reader cannot follow."""
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
        try:
            return _read_mp4(path)
        except (OSError, struct.error, ValueError):
            return Track()
    if head.startswith(b"\x1a\x45\xdf\xa3"):
        return _read_matroska(head)
    if head[:4] == b"RIFF" and head[8:11] == b"AVI":
        return Track(has_audio=re.search(rb"strh.{4}auds", head, re.DOTALL) is not None)
    return Track()


def _read_matroska(head: bytes) -> Track:
    """Sound: a CodecID element whose text begins with A_.  Rate: the DefaultDuration (ns) after TrackType video."""
    sound = re.search(rb"\x86[\x81-\xff]A_", head) is not None
    declared = re.search(rb"\x83\x81\x01.{0,200}?\x23\xe3\x83([\x81-\x88])", head, re.DOTALL)
    if declared is None:
        return Track(has_audio=sound)
    nanoseconds = int.from_bytes(head[declared.end() : declared.end() + declared.group(1)[0] - 0x80], "big")
    return Track(has_audio=sound, rate=1e9 / nanoseconds if nanoseconds else None)


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(type, content) of the boxes that fill `data`."""
    at = 0
    while at + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        begin = at + 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", data, at + 8)
            begin = at + 16
        end = len(data) if size == 0 else at + size
        if end < begin:
            raise ValueError("a box shorter than its own header")
        yield kind, data[begin:end]
        at = end


def _find(data: bytes, *kinds: bytes) -> bytes | None:
    """Content of the first box at the end of a path of box types."""
    for kind in kinds:
        found = next((content for k, content in _boxes(data) if k == kind), None)
        if found is None:
            return None
        data = found
    return data


def _read_mp4(path: Path) -> Track:
    movie = _top_level(path, b"moov")
    if movie is None:
        return Track()
    media = [m for m in (_find(c, b"mdia") for k, c in _boxes(movie) if k == b"trak") if m is not None]
    kinds = [(_find(m, b"hdlr") or bytes(12))[8:12] for m in media]
    video = next((m for m, kind in zip(media, kinds, strict=True) if kind == b"vide"), None)
    return Track(None if video is None else _times(video), b"soun" in kinds)


def _top_level(path: Path, wanted: bytes) -> bytes | None:
    """Content of a box of the file's top level; the rest (the pictures themselves) is skipped."""
    with path.open("rb") as stream:
        at, end = 0, path.stat().st_size
        while at + 8 <= end:
            stream.seek(at)
            header = stream.read(16)
            size, kind = struct.unpack_from(">I4s", header)
            begin = 8
            if size == 1:
                (size,), begin = struct.unpack_from(">Q", header, 8), 16
            elif size == 0:
                size = end - at
            if size < begin:
                return None
            if kind == wanted:
                if size > _LARGEST_HEADER:
                    return None
                stream.seek(at + begin)
                return stream.read(size - begin)
            at += size
    return None


def _times(media: bytes) -> np.ndarray | None:
    """(F,) seconds from the sample tables: decoding times (stts) plus offsets (ctts), sorted, the first at 0."""
    header = _find(media, b"mdhd")
    table = _find(media, b"minf", b"stbl")
    if header is None or table is None:
        return None
    scale = struct.unpack_from(">I", header, 20 if header[0] == 1 else 12)[0]
    steps = _runs(_find(table, b"stts"), ">u4")
    if scale == 0 or steps is None or len(steps) == 0:
        return None
    ticks = np.concatenate([[0], np.cumsum(steps[:-1], dtype=np.int64)])
    offsets = _runs(_find(table, b"ctts"), ">i4")
    if offsets is not None and len(offsets) == len(ticks):
        ticks = np.sort(ticks + offsets)
    return (ticks - ticks[0]) / scale


def _runs(box: bytes | None, kind: str) -> np.ndarray | None:
    """A table of (count, value) pairs written out, int64; None where it is missing or absurd."""
    if box is None:
        return None
    (n,) = struct.unpack_from(">I", box, 4)
    pairs = np.frombuffer(box, np.dtype([("count", ">u4"), ("value", kind)]), n, 8)
    if pairs["count"].sum(dtype=np.int64) > _MOST_SAMPLES:
        return None
    return np.repeat(pairs["value"].astype(np.int64), pairs["count"])


def exif_focal_35mm(head: bytes) -> float | None:
    """Focal length in 35 mm film terms (millimetres) from the EXIF block of a picture's first bytes, if any."""
    at = head.find(b"Exif\0\0")
    if at < 0:
        return None
    tiff = head[at + 6 :]
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return None
    try:
        (first,) = struct.unpack_from(order + "I", tiff, 4)
        inner = _tiff_value(tiff, first, _EXIF_IFD, order)
        focal = None if inner is None else _tiff_value(tiff, inner, _FOCAL_35MM, order)
    except struct.error:
        return None
    return float(focal) if focal else None


def _tiff_value(tiff: bytes, folder: int, tag: int, order: str) -> int | None:
    """A short or long value of one tag of a TIFF directory at the offset `folder`."""
    (n,) = struct.unpack_from(order + "H", tiff, folder)
    for i in range(n):
        entry = folder + 2 + 12 * i
        found, kind = struct.unpack_from(order + "HH", tiff, entry)
        if found == tag:
            return int(struct.unpack_from(order + ("H" if kind == 3 else "I"), tiff, entry + 8)[0])
    return None
