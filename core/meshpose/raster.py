# SPDX-License-Identifier: Apache-2.0
"""A small software rasterizer in numpy: z-buffer, silhouette, vertex visibility and a shaded preview.

    raster = rasterize(xy, depth, faces, width, height)      # who is in front, pixel by pixel
    mask = silhouette(xy, faces, width, height)              # (H, W) bool
    picture = draw_mesh(image, xy, depth, faces)             # the mesh over the picture

Frame of reference: picture pixels, x right, y down, pixel centres at +0.5, so pixel (row i, column j) is sampled at
(j + 0.5, i + 0.5). Depth grows away from the camera, in any unit. Inside a triangle, depth and barycentric coordinates
are linear in the picture, which is exact for the network's pixel depth (weak perspective) and good to the size of a
triangle otherwise. Faces turn as in the body's own mesh: seen from outside, with y down, a front face has negative
signed area.
"""
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
BoolArray = npt.NDArray[np.bool_]

# Candidate pixels (of the triangles' bounding boxes) looked at in one go: bounds the memory to about 100 MB.
_CHUNK = 1 << 20
# Barycentric coordinates this far below zero still count as inside: no cracks along shared edges after rounding.
_EDGE = 1e-7
# Body colour of draw_mesh where no vertex colours are given (BGR).
_BODY_COLOUR = (214, 178, 140)


@dataclass(frozen=True)
class Raster:
    """What each pixel sees.

    face: (H, W) int32, index of the nearest face, -1 where there is none.
    depth: (H, W) float32, depth of that surface point, +inf where there is none.
    barycentric: (H, W, 3) float32, weights of the face's three corners; zero where there is none.
    """

    face: npt.NDArray[np.int32]
    depth: npt.NDArray[np.float32]
    barycentric: npt.NDArray[np.float32]

    @property
    def mask(self) -> BoolArray:
        """(H, W) bool, True where a face is seen."""
        return self.face >= 0

    def interpolate(self, values: Array, faces: Array) -> npt.NDArray[np.float32]:
        """Per-vertex values (n, C) at each pixel -> (H, W, C) float32, zero where no face is seen."""
        out = np.zeros((self.face.size, values.shape[1]), np.float32)
        seen = np.flatnonzero(self.mask)
        out[seen] = self._at(seen, values, faces)
        return out.reshape(*self.face.shape, -1)

    def _at(self, pixels: Array, values: Array, faces: Array) -> npt.NDArray[np.float32]:
        """Per-vertex values (n, C) at seen pixels (p,), row-major -> (p, C)."""
        corners = faces[self.face.reshape(-1)[pixels]]
        weights = self.barycentric.reshape(-1, 3)[pixels]
        values = np.asarray(values, np.float32)
        out = values[corners[:, 0]] * weights[:, 0, None]
        for k in (1, 2):  # three products are several times faster than one einsum over gathered corners
            out += values[corners[:, k]] * weights[:, k, None]
        return np.asarray(out, np.float32)


def signed_areas(xy: Array, faces: Array) -> npt.NDArray[np.float64]:
    """Twice the signed area of each face in the picture, (m,) px^2; negative = front side seen, 0 = edge on."""
    a, b, c = (np.asarray(xy, np.float64)[faces[:, k], :2] for k in range(3))
    return (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (c[:, 0] - a[:, 0])


def rasterize(
    xy: Array, depth: Array, faces: Array, width: int, height: int, cull: bool = False
) -> Raster:
    """Draws a triangle mesh into a z-buffer.

    xy: (n, 2) picture pixels. depth: (n,), larger = farther. faces: (m, 3) vertex indices.
    cull: leave out faces that show their back (halves the work on a closed mesh).
    Faces with a corner that is not finite are left out. Of two faces at the same depth the lower index wins.
    """
    z_vertex = np.asarray(depth, np.float64)
    face = np.full(width * height, -1, np.int32)
    nearest = np.full(width * height, np.inf)
    barycentric = np.zeros((width * height, 3), np.float32)
    finite = np.isfinite(z_vertex)
    usable = None if finite.all() else finite[faces].all(axis=1)
    for which, pixel, weights in _covered(xy, faces, width, height, cull, usable):
        corner = faces[which]
        z = sum(weights[:, k] * z_vertex[corner[:, k]] for k in range(3))
        before = nearest[pixel]
        closer = z < before
        which, pixel, weights, z = which[closer], pixel[closer], weights[closer], z[closer]
        np.minimum.at(nearest, pixel, z)
        won = np.flatnonzero(z == nearest[pixel])[::-1]  # reversed: of equal depths the lowest face is written last
        face[pixel[won]] = which[won]
        barycentric[pixel[won]] = weights[won]
    shape = (height, width)
    return Raster(face.reshape(shape), nearest.astype(np.float32).reshape(shape), barycentric.reshape(*shape, 3))


def silhouette(xy: Array, faces: Array, width: int, height: int) -> BoolArray:
    """The pixels whose centre any face covers, (H, W) bool. xy: (n, 2) picture pixels; faces: (m, 3)."""
    mask = np.zeros(width * height, bool)
    for _, pixel, _ in _covered(xy, faces, width, height, cull=False, usable=None):
        mask[pixel] = True
    return mask.reshape(height, width)


def vertex_visibility(
    xy: Array, depth: Array, faces: Array, width: int, height: int,
    tolerance: float | None = None, raster: Raster | None = None,
) -> BoolArray:
    """Which vertices the camera sees, (n,) bool: inside the picture, on a front face, and nothing in front.

    tolerance: how far behind the z-buffer a vertex may lie, in units of depth; default 1 % of the mesh's extent in
        depth and picture together (1.5 to 2 cm on a body), for depth in the same unit as xy.
    raster: the z-buffer, where it is there already (it may hold other things too, with the same depth).
    """
    xy = np.asarray(xy, np.float64)[:, :2]
    z = np.asarray(depth, np.float64)
    if raster is None:
        raster = rasterize(xy, z, faces, width, height)
    if tolerance is None:
        extent = np.append(np.ptp(xy, axis=0), np.ptp(z))
        tolerance = 0.01 * float(np.linalg.norm(extent))
    inside = np.isfinite(xy).all(axis=1) & (xy >= 0).all(axis=1) & (xy[:, 0] < width) & (xy[:, 1] < height)
    front = np.zeros(len(xy), bool)
    front[faces[signed_areas(xy, faces) < 0]] = True
    # A vertex lies between four pixel centres; it is hidden only when something is in front of it at all of them.
    padded = np.pad(raster.depth, 1, mode="edge")
    corner = np.floor(np.where(inside[:, None], xy, 0.5) - 0.5).astype(int) + 1
    around = [padded[corner[:, 1] + dy, corner[:, 0] + dx] for dy in (0, 1) for dx in (0, 1)]
    visible: BoolArray = inside & front & (z <= np.max(around, axis=0) + tolerance)
    return visible


def vertex_normals(points: Array, faces: Array) -> npt.NDArray[np.float64]:
    """Smooth unit normals, weighted by area, (n, 3); zero for a vertex without a face. points: (n, 3)."""
    p = np.asarray(points, np.float64)
    a = p[faces[:, 0]]
    (x1, y1, z1), (x2, y2, z2) = (p[faces[:, 1]] - a).T, (p[faces[:, 2]] - a).T
    normal = (y1 * z2 - z1 * y2, z1 * x2 - x1 * z2, x1 * y2 - y1 * x2)
    corner = faces.ravel()
    total = np.stack([np.bincount(corner, np.repeat(n, 3), minlength=len(p)) for n in normal], axis=1)
    unit: npt.NDArray[np.float64] = total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-12)
    return unit


def draw_mesh(
    image: npt.NDArray[np.uint8], xy: Array, depth: Array, faces: Array,
    colours: Array | None = None, alpha: float = 0.8,
) -> npt.NDArray[np.uint8]:
    """The mesh, smoothly shaded, over a picture -> a new (H, W, 3) uint8 BGR picture.

    xy: (n, 2) picture pixels; depth: (n,) away from the camera in the same unit (it gives the normals).
    colours: (n, 3) BGR 0..255 per vertex, or None for the body's own colour. alpha: 0 = only picture, 1 = only mesh.
    """
    out = image.copy()
    window = _window(xy, image.shape[1], image.shape[0])
    if window is None:
        return out
    x0, y0, x1, y1 = window
    local = np.asarray(xy, np.float64)[:, :2] - (x0, y0)
    raster = rasterize(local, depth, faces, x1 - x0, y1 - y0, cull=True)
    normals = vertex_normals(np.column_stack([local, depth]), faces)
    light = _shade(normals)
    paint = np.broadcast_to(np.asarray(_BODY_COLOUR, np.float64), (len(local), 3)) if colours is None else colours
    lit = np.clip(np.asarray(paint, np.float64) * light[:, None], 0, 255).astype(np.float32)
    seen = np.flatnonzero(raster.mask)
    part = np.ascontiguousarray(out[y0:y1, x0:x1])
    pixels = part.reshape(-1, 3)
    pixels[seen] = (1 - alpha) * pixels[seen] + alpha * raster._at(seen, lit, faces) + 0.5
    out[y0:y1, x0:x1] = part
    return out


def _shade(normals: Array) -> npt.NDArray[np.float64]:
    """Brightness 0..1.1 of unit normals (n, 3), camera frame: key light from above left, a fill light, some ambient."""
    key = np.array([-0.45, -0.65, -0.62])
    fill = np.array([0.75, 0.1, -0.65])
    bright = 0.32 + 0.62 * np.clip(normals @ key, 0, None) + 0.22 * np.clip(normals @ fill, 0, None)
    return np.asarray(bright, np.float64)


def _window(xy: Array, width: int, height: int) -> tuple[int, int, int, int] | None:
    """The part of the picture that the points can touch: x0, y0, x1, y1 (end exclusive), or None."""
    finite = np.asarray(xy, np.float64)[:, :2]
    finite = finite[np.isfinite(finite).all(axis=1)]
    if not len(finite):
        return None
    low = np.clip(np.floor(finite.min(axis=0)), 0, (width, height)).astype(int)
    high = np.clip(np.ceil(finite.max(axis=0)), 0, (width, height)).astype(int)
    if (high <= low).any():
        return None
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])


def _covered(
    xy: Array, faces: Array, width: int, height: int, cull: bool, usable: BoolArray | None
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float64]]]:
    """Yields (face (p,), pixel row-major (p,), barycentric (p, 3)) of covered pixel centres, faces ascending.

    Every bounding box is unrolled into its pixels, so that the loop runs over chunks of pixels, never over triangles.
    Triangles between the pixel centres, most of a fine mesh, fall out before that.
    """
    if not len(faces):
        return
    points = np.asarray(xy, np.float64)[:, :2] - 0.5  # now pixel centres are whole numbers
    area = signed_areas(points, faces)
    keep = np.isfinite(area) & (area < 0 if cull else area != 0)
    if usable is not None:
        keep &= usable
    which = np.flatnonzero(keep)
    a, b, c = (points[faces[which, k]] for k in range(3))
    low = np.maximum(np.ceil(np.minimum(np.minimum(a, b), c)), 0)
    high = np.minimum(np.floor(np.maximum(np.maximum(a, b), c)), (width - 1, height - 1))
    hit = np.flatnonzero((high[:, 0] >= low[:, 0]) & (high[:, 1] >= low[:, 1]))
    which = which[hit]
    (x0, y0), (x1, y1) = low[hit].astype(np.int64).T, high[hit].astype(np.int64).T
    edges = _edge_functions(a[hit], b[hit], c[hit], area[which])
    columns = x1 - x0 + 1
    count = columns * (y1 - y0 + 1)
    end = np.cumsum(count)
    first = 0
    while first < len(which):
        done = int(end[first - 1]) if first else 0
        last = max(first + 1, int(np.searchsorted(end, done + _CHUNK, side="right")))
        part = slice(first, last)
        owner = np.repeat(np.arange(first, last), count[part])
        offset = np.arange(int(end[last - 1]) - done) - (end[owner] - count[owner] - done)
        row = offset // columns[owner]
        y = y0[owner] + row
        x = x0[owner] + offset - row * columns[owner]
        b0, b1 = (edges[k, 0][owner] * x + edges[k, 1][owner] * y + edges[k, 2][owner] for k in range(2))
        b2 = 1 - b0 - b1
        inside = np.flatnonzero((b0 >= -_EDGE) & (b1 >= -_EDGE) & (b2 >= -_EDGE))
        weights = np.stack([b0[inside], b1[inside], b2[inside]], axis=1)
        yield which[owner[inside]], y[inside] * width + x[inside], weights
        first = last


def _edge_functions(a: Array, b: Array, c: Array, area: Array) -> npt.NDArray[np.float64]:
    """Coefficients of the first two barycentric coordinates, (2, 3, m): b = c0 x + c1 y + c2. a, b, c (m, 2) px."""
    out = np.empty((2, 3, len(area)))
    for k, (p, q) in enumerate(((b, c), (c, a))):
        out[k, 0] = (p[:, 1] - q[:, 1]) / area
        out[k, 1] = (q[:, 0] - p[:, 0]) / area
        out[k, 2] = (p[:, 0] * q[:, 1] - q[:, 0] * p[:, 1]) / area
    return out
