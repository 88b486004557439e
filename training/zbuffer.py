# SPDX-License-Identifier: Apache-2.0
"""A z-buffer in numpy for meshes of small triangles: every (triangle, pixel) pair of the bounding boxes at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Samples:
    """Covered pixels of one mesh before depth is resolved, all (n,): flat pixel index, 1 / depth, triangle, and
    barycentric coordinates (n, 3) corrected for perspective."""

    pixel: np.ndarray
    inverse: np.ndarray
    triangle: np.ndarray
    barycentric: np.ndarray

    def keep(self, chosen: np.ndarray) -> Samples:
        """The samples where ``chosen`` (mask or indices) holds."""
        return Samples(self.pixel[chosen], self.inverse[chosen], self.triangle[chosen], self.barycentric[chosen])


def cover(
    xy: np.ndarray, inverse: np.ndarray, triangles: np.ndarray, size: tuple[int, int], two_sided: bool
) -> Samples:
    """Pixels whose centre lies in a triangle.

    xy (n, 2) picture pixels (centre of pixel i at i + 0.5), y down; inverse (n,) 1 / depth; triangles (m, 3), seen
    from their front when they turn clockwise on the picture (counter-clockwise with y up); size = (width, height).
    """
    x, y = xy[:, 0].astype(np.float32), xy[:, 1].astype(np.float32)
    i0, i1, i2 = np.ascontiguousarray(triangles.T)
    ax, ay, bx, by, cx, cy = x[i0], y[i0], x[i1], y[i1], x[i2], y[i2]
    area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
    left, top, width, height = _boxes((ax, bx, cx), (ay, by, cy), size)
    seen = (abs(area) if two_sided else -area) > 1e-6
    chosen = np.flatnonzero(seen & (width > 0) & (height > 0))
    ax, ay, bx, by, cx, cy, area = (v[chosen] for v in (ax, ay, bx, by, cx, cy, area))
    left, top, width, height = left[chosen], top[chosen], width[chosen], height[chosen]
    count = width * height
    row = np.repeat(np.arange(len(chosen), dtype=np.int32), count)
    k = np.arange(len(row), dtype=np.int32) - (np.cumsum(count, dtype=np.int32) - count)[row]
    wide = width[row]
    down = k // wide
    px, py = left[row] + (k - down * wide), top[row] + down
    fx, fy = px + np.float32(0.5), py + np.float32(0.5)
    # Edge functions b0 = A px + B py + C: one plane per triangle and corner.
    b0 = ((by - cy) / area)[row] * fx + ((cx - bx) / area)[row] * fy + ((bx * cy - by * cx) / area)[row]
    b1 = ((cy - ay) / area)[row] * fx + ((ax - cx) / area)[row] * fy + ((cx * ay - cy * ax) / area)[row]
    b2 = 1 - b0 - b1
    inside = np.flatnonzero((b0 >= 0) & (b1 >= 0) & (b2 >= -1e-6))
    tri = chosen[row[inside]]
    near = inverse.astype(np.float32)
    w0, w1, w2 = b0[inside] * near[i0[tri]], b1[inside] * near[i1[tri]], b2[inside] * near[i2[tri]]
    total = w0 + w1 + w2
    share = np.stack([w0 / total, w1 / total, w2 / total], 1)
    return Samples(py[inside].astype(np.int64) * size[0] + px[inside], total, tri, share)


def _boxes(
    x: tuple[np.ndarray, ...], y: tuple[np.ndarray, ...], size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Left, top, width, height (m,) int32 of the pixels whose centres may lie in each triangle."""
    out = []
    for (a, b, c), limit in zip((x, y), size):
        low = np.ceil(np.minimum(np.minimum(a, b), c) - 0.5).clip(0, limit).astype(np.int32)
        high = np.floor(np.maximum(np.maximum(a, b), c) - 0.5).clip(-1, limit - 1).astype(np.int32)
        out.append((low, high - low + 1))
    return out[0][0], out[1][0], out[0][1], out[1][1]


def interpolate(values: np.ndarray, corners: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Vertex values (n, ...) at samples: corners (s, 3) vertex numbers, share (s, 3) barycentric -> (s, ...)."""
    parts = [values[corners[:, k]] * (share[:, k, None] if values.ndim > 1 else share[:, k]) for k in range(3)]
    return parts[0] + parts[1] + parts[2]


def nearest(parts: list[Samples], pixels: int) -> tuple[np.ndarray, np.ndarray]:
    """Resolve depth: (mesh, sample) int32 (pixels,) of the nearest sample of each pixel, mesh -1 where none."""
    pixel = np.concatenate([s.pixel for s in parts])
    inverse = np.concatenate([s.inverse for s in parts])
    mesh = np.repeat(np.arange(len(parts), dtype=np.int32), [len(s.pixel) for s in parts])
    sample = np.concatenate([np.arange(len(s.pixel), dtype=np.int32) for s in parts])
    # Positive floats sort as their bits: depth in the upper, the running number in the lower half of one integer.
    key = (inverse.astype(np.float32).view(np.uint32).astype(np.int64) << 31) | np.arange(len(pixel), dtype=np.int64)
    best = np.full(pixels, -1, np.int64)
    np.maximum.at(best, pixel, key)
    winner = np.where(best >= 0, best & 0x7FFFFFFF, 0)
    if not len(pixel):
        return np.full(pixels, -1, np.int32), np.zeros(pixels, np.int32)
    return np.where(best >= 0, mesh[winner], -1).astype(np.int32), sample[winner]


def vertex_normals(points: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Unit normals (n, 3) as area-weighted means of the triangles' normals."""
    a, b, c = (points[triangles[:, k]] for k in range(3))
    (ux, uy, uz), (vx, vy, vz) = (b - a).T, (c - a).T
    flat = triangles.T.ravel()
    faces = (uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx)
    x, y, z = (np.bincount(flat, np.tile(n, 3), len(points)) for n in faces)
    length = np.maximum(np.sqrt(x * x + y * y + z * z), 1e-12)
    return np.stack([x / length, y / length, z / length], 1)
