# SPDX-License-Identifier: Apache-2.0
"""Depth from motion: what limbs do over two seconds tells better than one picture how far they point to the camera.

    pixels = DepthFromMotion().changed(pixels, visibility, sizes, times, camera)

The network of the mesh sees one frame at a time, and of a leg that swings towards the camera it sees little: on the
bundled sample its depths have half of their true spread.  A small temporal convolutional network (dilated
convolutions over time, Pavllo et al., "3D human pose estimation in video with temporal convolutions", 2019) reads where
POINTS of the body are, frame by frame, and answers by how much the depth of each low-poly vertex is to change.  Where a
vertex is in the picture stays as it was said.  `training/depth.py` makes the weights, from motion capture.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from .body import Body
from .camera import Camera, place
from .session import open_session

Array = npt.NDArray[Any]

POINTS = (
    "upperleg01.L", "lowerleg01.L", "foot.L", "toe2-1.L", "upperleg01.R", "lowerleg01.R", "foot.R", "toe2-1.R",
    "upperarm01.L", "lowerarm01.L", "wrist.L", "upperarm01.R", "lowerarm01.R", "wrist.R", "neck01", "head",
)  # fmt: skip
"""Bones whose heads the network reads; the first and fifth are the hips, whose middle is the origin."""
HIPS = (0, 4)
RATE = 30.0
"""Frames a second that the network was trained at."""
LONGEST_GAP = 0.5
"""Seconds without the person after which what follows is another motion."""
SHORTEST = 0.3
"""Seconds of motion under which nothing is changed: a picture has none."""
NEAR = 12
"""Low-poly vertices around a point that say whether it was seen."""


class DepthFromMotion:
    """The network `depth.onnx`.  Raises WeightsError where it cannot be loaded."""

    def __init__(self) -> None:
        self._session = open_session("depth.onnx", threads=2)
        self._body = Body.load()

    def read(
        self, pixels: npt.ArrayLike, visibility: npt.ArrayLike, sizes: npt.ArrayLike, camera: Camera
    ) -> tuple[Array, Array, Array]:
        """What the network reads (`points_of`, `points_seen`) of frames as they were said: pixels (F, V, 3), visibility
        (F, V), and sizes (F,) metres per pixel at the mid-hips."""
        low = place(np.asarray(pixels), np.asarray(sizes, np.float64), camera)
        points, hips = points_of(low, self._body)
        return points, points_seen(np.asarray(visibility, np.float64), self._body), hips

    def change(self, points: Array, seen: Array, hips: Array, times: npt.ArrayLike) -> Array:
        """By how much the depth of each vertex is to change: (F, V) float32 metres, away from the camera.

        points (F, 16, 3), seen (F, 16), hips (F, 3): of `read`; times (F,) seconds, rising.
        """
        times = np.asarray(times, np.float64)
        out = np.zeros((len(points), len(self._body.lowpoly)), np.float32)
        for part in pieces(times):
            if times[part][-1] - times[part][0] >= SHORTEST:
                out[part] = self._run(points[part], seen[part], hips[part], times[part])
        return out

    def changed(
        self, pixels: npt.ArrayLike, visibility: npt.ArrayLike, sizes: npt.ArrayLike, times: npt.ArrayLike,
        camera: Camera,
    ) -> Array:  # fmt: skip
        """`read` and `change` in one: pixels (F, V, 3) float64 with their depths changed."""
        out = np.array(pixels, np.float64)
        change = self.change(*self.read(out, visibility, sizes, camera), times)
        out[..., 2] += change / np.asarray(sizes, np.float64)[:, None]
        return out

    def _run(self, points: Array, seen: Array, hips: Array, times: Array) -> Array:
        grid = np.arange(times[0], times[-1] + 0.5 / RATE, 1 / RATE)
        fed = {name: resampled(x, times, grid)[None].astype(np.float32)
               for name, x in (("points", points), ("seen", seen), ("hips", hips))}  # fmt: skip
        (answer,) = self._session.run(["change"], fed)
        return resampled(answer[0].astype(np.float64), grid, times)


def points_of(low: Array, body: Body) -> tuple[Array, Array]:
    """What the network reads of a low-poly (F, V, 3), metres, camera frame: points (F, 16, 3) relative to the mid-hips,
    x and y as if they stood at the mid-hips' depth (that is where they are in the picture), and mid-hips (F, 3)."""
    joints = body.joints(low, "rig")[:, _point_bones(body)].astype(np.float64)
    hips = joints[:, HIPS].mean(1)
    flat = joints[..., :2] * (hips[:, None, 2:] / joints[..., 2:]) - hips[:, None, :2]
    return np.concatenate([flat, joints[..., 2:] - hips[:, None, 2:]], -1), hips


def points_seen(visibility: Array, body: Body) -> Array:
    """(F, 16) 0 guessed .. 1 seen; visibility (F, V).  Half of a limb looks away from the camera at most."""
    return np.clip(2 * visibility[:, _near_points(body)].mean(2), 0, 1)


def resampled(values: Array, times: Array, at: Array) -> Array:
    """Values (F, ...) at `times` (F,), linearly at other times (G,): (G, ...)."""
    after = np.clip(np.searchsorted(times, at), 1, len(times) - 1)
    share = np.clip((at - times[after - 1]) / np.maximum(times[after] - times[after - 1], 1e-9), 0, 1)
    share = share.reshape(-1, *[1] * (values.ndim - 1))
    result: Array = values[after - 1] * (1 - share) + values[after] * share
    return result


def pieces(times: Array) -> list[slice]:
    """Stretches of times (F,) without a gap over LONGEST_GAP."""
    ends = [0, *(np.flatnonzero(np.diff(times) > LONGEST_GAP) + 1).tolist(), len(times)]
    return [slice(a, b) for a, b in zip(ends[:-1], ends[1:], strict=True) if b > a]


@lru_cache(maxsize=1)
def _point_bones(body: Body) -> list[int]:
    return [body.bone_names.index(name) for name in POINTS]


@lru_cache(maxsize=1)
def _near_points(body: Body) -> Array:
    """(16, NEAR) low-poly vertices around each point, in the rest pose."""
    low = body.template[body.lowpoly].astype(np.float64)
    points = body.joints(low[None], "rig")[0, _point_bones(body)]
    return np.argsort(np.linalg.norm(low[None] - points[:, None], axis=-1), axis=1)[:, :NEAR]
