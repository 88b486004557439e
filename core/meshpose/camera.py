# SPDX-License-Identifier: Apache-2.0
"""Pixels to metres: the camera's focal length, the people's depth, and every vertex on the ray through its own pixel.

    camera = Camera.guess(1920, 1080)
    size = metres_per_pixel(vertices, visibility, camera, Body.load(), height=1.80)
    metres = place(vertices, size, camera)         # (F, V, 3), camera frame
    camera.project(metres)                         # the pixels they came from

Frames of reference: picture in pixels, x right, y down, centres at +0.5; camera in metres, x right, y down, z forward.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .errors import InputError

if TYPE_CHECKING:
    from .body import Body, Shape

DEFAULT_FOV = 55.0
"""Degrees along the longer side: between a phone's main lens (65) and a video camera's middle zoom (45)."""
FILM_WIDTH, FILM_DIAGONAL = 36.0, 43.267
"""Full frame, mm."""


@dataclass(frozen=True)
class Camera:
    """A pinhole camera without distortion: focal lengths and principal point in pixels, picture size in pixels."""

    fx: float
    fy: float
    cx: float
    cy: float
    width: int
    height: int

    @staticmethod
    def from_fov(width: int, height: int, degrees: float) -> Camera:
        """Camera that sees `degrees` along the longer side of the picture.  InputError outside of 1..170."""
        if not 1.0 <= degrees <= 170.0:
            raise InputError(f"field of view {degrees:g} degrees: it must lie between 1 and 170")
        return Camera._centred(width, height, max(width, height) / (2 * np.tan(np.radians(degrees) / 2)))

    @staticmethod
    def from_focal_mm(width: int, height: int, mm: float) -> Camera:
        """Camera with a full-frame equivalent focal length, counted on the longer side (36 mm)."""
        if not 2.0 <= mm <= 2000.0:
            raise InputError(f"focal length {mm:g} mm: it must lie between 2 and 2000 (full-frame equivalent)")
        return Camera._centred(width, height, max(width, height) * mm / FILM_WIDTH)

    @staticmethod
    def from_exif_35mm(width: int, height: int, mm: float) -> Camera:
        """Camera from EXIF's FocalLengthIn35mmFilm, which is defined on the diagonal (43.27 mm)."""
        return Camera._centred(width, height, float(np.hypot(width, height)) * mm / FILM_DIAGONAL)

    @staticmethod
    def guess(width: int, height: int) -> Camera:
        """Camera where nothing is known: 55 degrees along the longer side."""
        return Camera.from_fov(width, height, DEFAULT_FOV)

    @staticmethod
    def _centred(width: int, height: int, focal: float) -> Camera:
        return Camera(float(focal), float(focal), width / 2, height / 2, int(width), int(height))

    def project(self, points: np.ndarray) -> np.ndarray:
        """Points (..., 3) metres, camera frame -> picture pixels (..., 2)."""
        points = np.asarray(points)
        return points[..., :2] / points[..., 2:] * (self.fx, self.fy) + (self.cx, self.cy)

    def unproject(self, pixels: np.ndarray, depth: np.ndarray) -> np.ndarray:
        """Picture pixels (..., 2) and depth (...) metres -> points (..., 3) metres, camera frame."""
        depth = np.asarray(depth, np.float64)[..., None]
        xy = (np.asarray(pixels, np.float64)[..., :2] - (self.cx, self.cy)) / (self.fx, self.fy) * depth
        return np.concatenate([xy, depth], -1)


def place(lowpoly_px: np.ndarray, metres_per_pixel: np.ndarray, camera: Camera) -> np.ndarray:
    """Network's vertices -> metres.

    lowpoly_px (F, V, 3): x, y picture pixels, z picture pixels relative to the mid-hips; metres_per_pixel (F,) at the
    depth of the mid-hips.  Returns (F, V, 3) float64 metres, camera frame: the mid-hips stand at depth f * m/px, every
    vertex lies on the ray through its own pixel, so that projecting gives the pixels back.
    """
    lowpoly_px = np.asarray(lowpoly_px, np.float64)
    size = np.asarray(metres_per_pixel, np.float64)[:, None]
    focal = (camera.fx + camera.fy) / 2
    # What the network guesses behind the camera (a close-up's back) is kept in front of it: a ray has one direction.
    depth = np.maximum(focal + lowpoly_px[..., 2], 0.05 * focal) * size
    return camera.unproject(lowpoly_px[..., :2], depth)


def in_picture(lowpoly_px: np.ndarray, camera: Camera) -> np.ndarray:
    """(F, V) float32: 1 where a vertex (F, V, 2 or 3) pixels lies in the picture, 0 outside; a soft border of 1 %."""
    border = 0.01 * max(camera.width, camera.height)
    xy = np.asarray(lowpoly_px, np.float32)[..., :2]
    inwards = np.minimum(xy, (camera.width, camera.height) - xy).min(-1)
    return np.clip(inwards / border, 0, 1).astype(np.float32)


# -- the people's size ---------------------------------------------------------------------------------------------

BONES = (
    # right and left leg, arm; then across and along the trunk (LSP-14: ankles 0 5, knees 1 4, hips 2 3, wrists 6 11,
    # elbows 7 10, shoulders 8 9, neck 12, head top 13)
    (0, 1), (1, 2), (5, 4), (4, 3), (6, 7), (7, 8), (11, 10), (10, 9),
    (8, 9), (2, 3), (2, 8), (3, 9), (2, 9), (3, 8), (12, 13), (12, 2), (12, 3),
)  # fmt: skip


def metres_per_pixel(
    lowpoly_px: np.ndarray, visibility: np.ndarray, camera: Camera, lengths: np.ndarray, body: Body
) -> tuple[np.ndarray, np.ndarray]:
    """How many metres a picture pixel spans at the mid-hips' depth, frame by frame: the body is the yardstick.

    lowpoly_px (F, V, 3), visibility (F, V), lengths (B,) of the person's BONES in metres (`bone_lengths`).  Returns
    sizes (F,) and how sure they are (F,), > 0.

    The network's z has the scale of x and y at the mid-hips (weak perspective), its x and y are seen through a real
    camera.  So the vertices are placed at depth 1 first, where perspective is undone exactly; everything then grows
    in proportion with the depth, which is true length over placed length, both summed over the bones: a knee that is
    found too high shortens the thigh by what it adds to the shin.  Bones that lie in the picture plane count, those
    that point at the camera hardly: z is what a network knows least, and mostly too small.
    """
    lowpoly_px = np.asarray(lowpoly_px, np.float64)
    focal = (camera.fx + camera.fy) / 2
    unit = place(lowpoly_px, np.full(len(lowpoly_px), 1 / focal), camera)
    joints = body.joints(unit, "lsp14")
    seen = np.clip(body.joints(np.repeat(np.asarray(visibility, np.float64)[..., None], 3, -1), "lsp14")[..., 0], 0, 1)
    a, b = np.array(BONES).T
    bones = joints[:, a] - joints[:, b]
    length = np.linalg.norm(bones, axis=-1) + 1e-9
    towards = (joints[:, a] + joints[:, b]) / 2
    towards /= np.linalg.norm(towards, axis=-1, keepdims=True)
    flat = 1 - (np.einsum("fbc,fbc->fb", bones, towards) / length) ** 2
    weight = (0.02 + np.minimum(seen[:, a], seen[:, b])) * (0.05 + flat**4)
    depth = (weight * lengths).sum(1) / (weight * length).sum(1)
    return depth / focal, (weight * lengths).sum(1)


def bone_lengths(body: Body, height: float | None = None) -> np.ndarray:
    """(B,) lengths of BONES in metres for an average person, or one of `height` metres."""
    shape = body_of_height(body, height)
    lowpoly = shape.vertices[body.lowpoly] * ((height or shape.stature) / shape.stature)
    joints = body.joints(lowpoly, "lsp14")
    a, b = np.array(BONES).T
    return np.linalg.norm(joints[a] - joints[b], axis=-1).astype(np.float64)


def body_of_height(body: Body, height: float | None) -> Shape:
    """Rest body of an average adult (None), or of a person of that height: a child's proportions where it is small.

    The shape's stature comes as near as the phenotypes reach; the rest is for the caller to scale.
    """
    if height is None:
        return body.shape()
    if not 0.4 <= height <= 2.6:
        raise InputError(f"height {height:g} m: it must lie between 0.4 and 2.6 metres")
    small = body.shape({"height": 0.2})
    if height >= small.stature:
        return _bisect(body, "height", 0.2, 1.0, height)
    return _bisect(body, "age", -1 / 3, 2 / 3, height)


def _bisect(body: Body, name: str, low: float, high: float, height: float) -> Shape:
    fixed = {"height": 0.2} if name == "age" else {}
    for _ in range(12):
        middle = (low + high) / 2
        shape = body.shape({**fixed, name: middle})
        low, high = (middle, high) if shape.stature < height else (low, middle)
    return shape


def smoothed(sizes: np.ndarray, sure: np.ndarray, times: np.ndarray, window: float = 0.25) -> np.ndarray:
    """Sizes (F,) freed of the frame to frame jitter that the pixels do not show.

    A depth error moves a person along the rays, so it is unseen in the picture and loud from the side.  In the log,
    a parabola through the neighbours (Gaussian of `window` seconds, robust: two rounds of Tukey's weights) leaves real
    motion under 1 Hz alone.  times (F,) seconds; sure (F,) weights.
    """
    count = len(sizes)
    if count < 3:
        return sizes
    logs, times = np.log(sizes), np.asarray(times, np.float64)
    reach = max(1, int(np.ceil(3 * window / max(float(np.median(np.diff(times))), 1e-3))))
    near = np.arange(count)[:, None] + np.arange(-reach, reach + 1)
    inside = (near >= 0) & (near < count)
    near = np.clip(near, 0, count - 1)
    t = (times[near] - times[:, None]) / window
    base = np.where(inside, np.exp(-0.5 * t * t) * sure[near], 0)
    powers = np.stack([np.ones_like(t), t, t * t], -1)
    ridge = np.diag([1e-9, 1e-3, 1e-2]) * base.sum(1)[:, None, None]
    robust, result = np.ones(count), logs
    for _ in range(3):
        weight = base * robust[near]
        normal = np.einsum("fwi,fw,fwj->fij", powers, weight, powers) + ridge
        right = np.einsum("fwi,fw->fi", powers, weight * logs[near])
        result = np.linalg.solve(normal, right[..., None])[:, 0, 0]
        residual = np.abs(logs - result)
        scale = max(1.4826 * float(np.median(residual)), 0.005)
        robust = np.maximum((1 - np.minimum(residual / (4.7 * scale), 1) ** 2) ** 2, 1e-3)
    return np.exp(result)
