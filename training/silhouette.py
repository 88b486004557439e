# SPDX-License-Identifier: Apache-2.0
"""The silhouette that the mesh and its visibility make, against the one that is seen (section C.2.2).

Soft rasterisation (SoftRas) of the low-poly in which a face counts as much as its vertices are said to be seen
(equation 12), on a crop with a margin: vertices outside of the picture are to be called unseen.  Of the (face, cell)
pairs only those near enough to matter are computed.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor

from .model import CELLS, STRIDE

MARGIN = 16
"""Cells of the heatmaps' size around the crop, on every side: a quarter of it."""
SIDE = CELLS + 2 * MARGIN
SOFT = 0.1
"""SoftRas' sigma, square cells.  The rims of three faces cover half of a cell whose middle is 0.37 cells outside."""
REACH = 1.0
"""Cells beyond its corners that a face reaches: there its influence is 5e-5."""
UNSEEN, SEEN, UNKNOWN = 0, 1, 2
"""What is known of a cell: nothing of the person is seen there, something is, it cannot be said."""


def soft_silhouette(xy: Tensor, seen: Tensor, faces: Tensor) -> Tensor:
    """Equation 12: vertices (B, V, 2) crop px, their visibility (B, V) 0..1, faces (F, 3) -> (B, SIDE, SIDE) 0..1.

    A face's influence on a cell is sigmoid(+-d^2 / SOFT), d the distance of the cell's middle to the face's rim
    (+ within the face, - outside of it).
    """
    corners = (xy / STRIDE + MARGIN)[:, faces]  # (B, F, 3, 2) cells
    with torch.no_grad():
        picture, face, cell = _pairs(corners)
        middle = torch.stack([cell % SIDE, cell // SIDE], -1) + 0.5
        a, b, c = corners[picture, face].unbind(1)
        rims = torch.stack([_to_segment(middle, p, q) for p, q in ((a, b), (b, c), (c, a))])
        first = rims.argmin(0)  # the rim that is nearest: from its corner to the next
        share = _barycentric(middle, a, b, c)
        sign = torch.where((share >= 0).all(-1), 1.0, -1.0)
        share = share.clamp(min=0)
        share = share / share.sum(-1, keepdim=True).clamp(min=1e-6)
        row = torch.arange(len(face))
        near, next_ = faces[face, first], faces[face, (first + 1) % 3]
        close = sign * rims[first, row] > -(REACH**2)
        picture, face, cell, middle = picture[close], face[close], cell[close], middle[close]
        near, next_, sign, share = near[close], next_[close], sign[close], share[close]
    ends = (xy / STRIDE + MARGIN).flatten(0, 1)
    offset = picture * xy.shape[1]
    away = _to_segment(middle, ends[offset + near], ends[offset + next_])
    influence = torch.sigmoid(sign * away / SOFT)
    weight = (seen.flatten()[offset[:, None] + faces[face]] * share).sum(-1)
    left = torch.log1p(-(influence * weight).clamp(max=0.999))  # logarithm of what the face lets through
    through = torch.zeros(len(xy) * SIDE * SIDE, dtype=left.dtype).index_add(0, picture * SIDE * SIDE + cell, left)
    return (1 - through.exp()).view(len(xy), SIDE, SIDE)


def _pairs(corners: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Triangles (B, F, 3, 2) in cells -> picture, face and cell (P,) of all cells within REACH of their boxes."""
    low = (corners.amin(2) - REACH - 0.5).ceil().clamp(0, SIDE).long()
    high = (corners.amax(2) + REACH - 0.5).floor().clamp(-1, SIDE - 1).long()
    wide, tall = (high - low + 1).clamp(min=0).flatten(0, 1).unbind(-1)
    count = wide * tall
    which = torch.repeat_interleave(count)
    k = torch.arange(len(which)) - (count.cumsum(0) - count)[which]
    corner = low.flatten(0, 1)[which]
    x, y = corner[:, 0] + k % wide[which], corner[:, 1] + k // wide[which]
    return which // corners.shape[1], which % corners.shape[1], y * SIDE + x


def _to_segment(point: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Points (P, 2) and segments from a to b (P, 2) -> squared distance (P,)."""
    along, off = b - a, point - a
    place = ((off * along).sum(-1) / (along.square().sum(-1) + 1e-8)).clamp(0, 1)
    return (off - place[:, None] * along).square().sum(-1)


def _barycentric(point: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """(P, 2) each -> (P, 3) shares of the corners, negative outside."""

    def area(p: Tensor, q: Tensor, r: Tensor) -> Tensor:
        return (q[:, 0] - p[:, 0]) * (r[:, 1] - p[:, 1]) - (q[:, 1] - p[:, 1]) * (r[:, 0] - p[:, 0])

    whole = area(a, b, c)
    whole = torch.where(whole.abs() < 1e-6, torch.full_like(whole, 1e-6), whole)
    return torch.stack([area(point, b, c), area(a, point, c), area(a, b, point)], -1) / whole[:, None]


def seen_cells(xy: np.ndarray, seen: np.ndarray, covered: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """What is known of each cell, (SIDE, SIDE) uint8: UNSEEN, SEEN or UNKNOWN.

    Vertices (V, 2) crop px, faces (F, 3); seen (V,) bool; covered (V,) bool: hidden by something else than the body, or
    outside of the picture.  Faces of which something is seen and nothing covered are the silhouette; a face that is
    seen in part, at the edge of what stands before the person, leaves it open.
    """
    some = seen[faces].any(1)
    whole = some & ~covered[faces].any(1)
    points, size = xy / STRIDE + MARGIN, (SIDE, SIDE)
    left_open = np.where(filled(points, faces[some & ~whole], size), UNKNOWN, UNSEEN)
    return np.where(filled(points, faces[whole], size), SEEN, left_open).astype(np.uint8)


def filled(points: np.ndarray, faces: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """What the triangles of points (V, 2) px and faces (F, 3) cover: (height, width) bool."""
    out = np.zeros(size, np.uint8)
    fixed = np.clip(np.round((points - 0.5) * 16), -20000, 20000).astype(np.int32)
    for triangle in fixed[faces]:
        cv2.fillConvexPoly(out, triangle, 1, lineType=cv2.LINE_8, shift=4)
    return out > 0


def depth_within(cells: np.ndarray) -> np.ndarray:
    """D of equation 14: distance to the silhouette's boundary within it, 0 elsewhere; (SIDE, SIDE) float32 cells."""
    return cv2.distanceTransform((cells == SEEN).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)


BOUNDARY = 0.1
"""Weight of the boundary term beside the squared one: limbs are two to four cells deep."""


def silhouette_loss(found: Tensor, cells: Tensor, has: Tensor) -> Tensor:
    """Equation 15 per cell of the silhouette: found and what is known of the truth, `seen_cells`, (B, SIDE, SIDE); has
    (B,) whether anything is.

    Both terms are divided by the silhouette's size, so that a person who is far away or cut counts like any other; the
    boundary term is D (1 - I), which differs from equation 13 by what no weight changes.
    """
    known = (cells != UNKNOWN).float() * has[:, None, None]
    size = (cells == SEEN).sum((1, 2)).clamp(min=50)
    within = torch.from_numpy(np.stack([depth_within(c) for c in cells.numpy()]))
    wrong = ((found - (cells == SEEN).float()).square() * known).sum((1, 2)) / size
    small = (within * (1 - found) * known).sum((1, 2)) / size
    return (wrong + BOUNDARY * small).sum() / has.sum().clamp(min=1)
