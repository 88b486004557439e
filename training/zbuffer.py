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
    p = xy[triangles].astype(np.float32)
    a, b, c = p[:, 0], p[:, 1], p[:, 2]
    area = (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (c[:, 0] - a[:, 0])
    low = np.ceil(p.min(1) - 0.5).astype(np.int32).clip(0, None)
    high = np.floor(p.max(1) - 0.5).astype(np.int32).clip(None, np.array(size, np.int32) - 1)
    span = high - low + 1
    seen = (abs(area) if two_sided else -area) > 1e-6
    chosen = np.flatnonzero(seen & (span > 0).all(1))
    low, span, area = low[chosen], span[chosen], area[chosen]
    count = span[:, 0] * span[:, 1]
    row = np.repeat(np.arange(len(chosen), dtype=np.int32), count)
    k = np.arange(len(row), dtype=np.int32) - np.repeat((np.cumsum(count) - count).astype(np.int32), count)
    down = k // span[row, 0]
    px = low[row, 0] + k - down * span[row, 0]
    py = low[row, 1] + down
    a, b, c = a[chosen], b[chosen], c[chosen]
    # Edge functions b0 = (A px + B py + C): one plane per triangle and corner.
    plane = (
        np.stack(
            [
                (b[:, 1] - c[:, 1]),
                (c[:, 0] - b[:, 0]),
                b[:, 0] * c[:, 1] - b[:, 1] * c[:, 0],
                (c[:, 1] - a[:, 1]),
                (a[:, 0] - c[:, 0]),
                c[:, 0] * a[:, 1] - c[:, 1] * a[:, 0],
            ],
            1,
        )
        / area[:, None]
    )
    fx, fy = px + np.float32(0.5), py + np.float32(0.5)
    g = plane[row]
    b0 = g[:, 0] * fx + g[:, 1] * fy + g[:, 2]
    b1 = g[:, 3] * fx + g[:, 4] * fy + g[:, 5]
    b2 = 1 - b0 - b1
    inside = np.flatnonzero((b0 >= 0) & (b1 >= 0) & (b2 >= -1e-6))
    bary = np.stack([b0[inside], b1[inside], b2[inside]], 1)
    tri = chosen[row[inside]]
    bary *= inverse[triangles[tri]]
    total = bary.sum(1)
    return Samples(py[inside].astype(np.int64) * size[0] + px[inside], total, tri, bary / total[:, None])


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
    p = points[triangles]
    n = np.cross(p[:, 1] - p[:, 0], p[:, 2] - p[:, 0])
    flat = triangles.ravel()
    out = np.stack([np.bincount(flat, np.repeat(n[:, i], 3), len(points)) for i in range(3)], 1)
    return out / np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-12)
