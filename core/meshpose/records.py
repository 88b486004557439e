# SPDX-License-Identifier: Apache-2.0
"""What the values of a Take may be: blobs and JSON become arrays and numbers, or a ValueError that says what is wrong.

A Take may have been edited by hand, cut off by a bad disk or written by somebody else's program.  Whatever is read here
has the right shape, is finite, and lies where such a value can lie; nothing after it has to ask again.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .database import stack

VERTICES, BONES, PHENOTYPES = 500, 104, 6
"""Of the low-poly and of the body; a Take of other ones is not this version's."""
LAST_FRAME = 1_048_574
"""Blender's own last frame."""
LONGEST_SIDE = 1 << 16
GAPS, SPARE_FRAMES = 4, 10_000
"""Frames that were not looked at (pictures of a sequence that did not decode): so many for each that was, and some."""
FAR = 1e6
"""Pixels, or metres: nothing lies farther."""


@dataclass(frozen=True)
class Kind:
    """A column: type and shape of a value (shape () for plain numbers), lowest and highest of its numbers."""

    dtype: type
    shape: tuple[int, ...]
    low: float
    high: float

    def array(self, values: Sequence[Any], what: str) -> np.ndarray:
        """Values of a column -> (n, *shape).  ValueError where one of them cannot be."""
        if self.shape:
            array = self._blobs(values, what)
        else:
            wrong = next((v for v in values if isinstance(v, bool) or not isinstance(v, int | float)), None)
            if wrong is not None:
                raise ValueError(f"{what} {wrong!r:.40} is no number")
            array = np.array(values, np.float64)
        if len(array) and not (array.min() >= self.low and array.max() <= self.high):  # false for NaN, too
            raise ValueError(f"{what} holds a value that is not between {self.low:g} and {self.high:g}")
        return array

    def _blobs(self, values: Sequence[Any], what: str) -> np.ndarray:
        size = math.prod(self.shape) * np.dtype(self.dtype).itemsize
        for value in values:
            if not isinstance(value, bytes) or len(value) != size:
                length = f"{len(value)} bytes" if isinstance(value, bytes) else f"{value!r:.40}"
                raise ValueError(f"{what} has {length} in the place of {size} bytes")
        return stack(list(values), self.dtype, self.shape)


KINDS = {
    "crop": Kind(np.float64, (4,), -FAR, FAR),
    "vertices": Kind(np.float32, (VERTICES, 3), -FAR, FAR),
    "depth_change": Kind(np.float16, (VERTICES,), -FAR, FAR),
    "place_change": Kind(np.float16, (VERTICES, 2), -FAR, FAR),
    "visibility": Kind(np.float16, (VERTICES,), -0.01, 1.01),
    "score": Kind(np.float64, (), -FAR, FAR),
    "time": Kind(np.float64, (), -FAR, 1e9),
    "metres_per_pixel": Kind(np.float64, (), 1e-9, 1e3),
    "phenotype": Kind(np.float64, (PHENOTYPES,), -0.01, 1.01),
    "scale": Kind(np.float64, (), 0.02, 50.0),
    "rotations": Kind(np.float32, (BONES, 4), -1.1, 1.1),
    "translation": Kind(np.float64, (3,), -FAR, FAR),
}
"""The columns of a Take's tables by name."""


def column(name: str, values: Sequence[Any]) -> np.ndarray:
    """Values of a column of KINDS -> (n, *shape).  ValueError where one of them cannot be."""
    return KINDS[name].array(values, name)


def rotations(values: Sequence[Any]) -> np.ndarray:
    """(n, BONES, 4) float32 unit quaternions.  ValueError where one of them is none."""
    turned = column("rotations", values)
    if len(turned) and np.abs(np.einsum("fjq,fjq->fj", turned, turned) - 1).max() > 0.05:
        raise ValueError("rotations holds a quaternion that is not of length 1")
    return turned


def frame_numbers(values: Sequence[Any]) -> np.ndarray:
    """(n,) int64 rising.  ValueError where one of them is no frame of a clip."""
    wrong = next((v for v in values if not isinstance(v, int) or not 0 <= v <= LAST_FRAME), None)
    if wrong is not None:
        raise ValueError(f"frame {wrong!r:.40} cannot be")
    frames = np.array(values, np.int64)
    if len(frames) and frames[-1] - frames[0] > GAPS * len(frames) + SPARE_FRAMES:
        raise ValueError(f"{len(frames)} frames lie between {frames[0]} and {frames[-1]}")
    return frames


def bits(values: Sequence[Any], count: int) -> np.ndarray:
    """Packed bits -> (n, count) bool.  ValueError where a value has not so many."""
    size = -(-count // 8)
    packed = Kind(np.uint8, (size,), 0, 255).array(values, "bits")
    return np.unpackbits(packed, axis=1, count=count).astype(bool)


def metres_where_known(values: Sequence[Any]) -> np.ndarray:
    """(n,) metres per pixel, nan where there is none.  ValueError where one cannot be."""
    known = np.array([value is not None for value in values], bool)
    result = np.full(len(values), np.nan)
    result[known] = column("metres_per_pixel", [value for value in values if value is not None])
    return result


def places(rotation: Any, translation: Any, frames: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where a camera stands: (R, 3, 3) rotations, (R, 3) metres, (R,) frames.  ValueError where that cannot be."""
    turns = np.frombuffer(rotation, "<f8").astype(np.float64).reshape(-1, 3, 3)
    metres = np.frombuffer(translation, "<f8").astype(np.float64).reshape(-1, 3)
    numbers = frame_numbers(np.frombuffer(frames, "<i8").tolist())
    if not len(turns) == len(metres) == len(numbers) > 0:
        raise ValueError("the camera's places do not belong together")
    if not np.abs(turns @ turns.swapaxes(1, 2) - np.eye(3)).max() < 1e-3 or not np.abs(metres).max() <= FAR:
        raise ValueError("the camera's place cannot be")
    if len(numbers) > 1 and not (np.diff(numbers) > 0).all():
        raise ValueError("the camera's frames do not rise")
    return turns, metres, numbers


def clip_fields(path: Any, info: Any) -> dict[str, Any]:
    """`ClipInfo`'s fields but the path, as they were written.  ValueError where they cannot be."""
    if not isinstance(path, str) or not path or "\0" in path:
        raise ValueError(f"the clip's path is {path!r:.40}")
    fields = json.loads(info)
    times = np.array(fields["times"], np.float64)
    if times.ndim != 1 or not 1 <= len(times) <= LAST_FRAME or not (np.abs(times) <= 1e9).all():
        raise ValueError("the clip's times are no list of seconds")
    _whole(fields, ("width", "height"), 1, LONGEST_SIDE)
    _number(fields, ("fps",), 1e-3, 1e5)
    fields["times"] = times
    return dict(fields)


def camera_fields(text: Any) -> dict[str, Any]:
    """`Camera`'s fields as they were written.  ValueError where they cannot be."""
    fields = json.loads(text)
    _whole(fields, ("width", "height"), 1, LONGEST_SIDE)
    _number(fields, ("fx", "fy"), 1e-3, 1e9)
    _number(fields, ("cx", "cy"), -FAR, FAR)
    return dict(fields)


def whole_numbers(values: Any) -> list[int]:
    """A list of ids.  ValueError where it is none."""
    if not isinstance(values, list) or not all(type(value) is int for value in values):
        raise ValueError(f"{values!r:.40} is no list of numbers")
    return values


def plain(value: Any) -> Any:
    """A value that JSON can hold."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return list(value) if isinstance(value, tuple) else value


def _whole(fields: dict[str, Any], names: tuple[str, ...], low: int, high: int) -> None:
    for name in names:
        if type(fields[name]) is not int or not low <= fields[name] <= high:
            raise ValueError(f"{name} is {fields[name]!r:.40}")


def _number(fields: dict[str, Any], names: tuple[str, ...], low: float, high: float) -> None:
    for name in names:
        value = fields[name]
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise ValueError(f"{name} is {value!r:.40}")
