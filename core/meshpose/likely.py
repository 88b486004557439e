# SPDX-License-Identifier: Apache-2.0
"""Likely depths: where a vertex lies in the picture is evidence, how deep it lies is a guess.

    pixels = likely_depths(pixels, visibility, sizes, camera)        # one person, single frames
    pixels = told_depths(pixels, visibility, sizes, times, camera)   # a clip: the motion tells, too

What the network says of depths is drawn to the middle, and on footage it leans (on a dancer's two views its joints err
by 91 mm; the same places with the depths of a likely body by 57 to 79).  So a body is fitted to the places, whose poses
are likely (`rig_prior.learned_prior`: a lifted thigh has its knee bent) and for which the network's depths only count
enough to tell front from back; its depths replace the network's, places stay.  Then the motion tells what single frames
do not (`depth.DepthFromMotion`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .body import Body
from .camera import Camera, in_picture, place
from .depth import DepthFromMotion
from .rig import LikelyBody, well_seen

Array = npt.NDArray[Any]
LOST, SURE = 0.14, 0.07
"""Metres across the line of sight, mean of the vertices that are seen: a body that lies farther from the mesh than LOST
tells nothing of its depths, one nearer than SURE all."""
LSP_HIPS = (2, 3)


class LikelyDepths:
    """A person's likely depths, part of a clip by part."""

    def __init__(self, pixels: npt.ArrayLike, visibility: npt.ArrayLike, sizes: npt.ArrayLike, camera: Camera) -> None:
        """Solves the person's shape on some frames (`rig.well_seen` names them); arguments as `likely_depths`'."""
        self._camera = camera
        self._likely = LikelyBody(*self._placed(pixels, sizes, visibility))

    def __call__(self, pixels: npt.ArrayLike, visibility: npt.ArrayLike, sizes: npt.ArrayLike) -> Array:
        """As `likely_depths`."""
        out, size = np.array(pixels, np.float64), np.asarray(sizes, np.float64)[:, None]
        low, seen, body, inside = self._placed(out, sizes, visibility)
        found = self._likely(low, seen, inside)
        weight = seen * inside + 1e-6
        away = np.linalg.norm((found - low)[..., :2], axis=-1)
        trust = np.clip((LOST - (away * weight).sum(1) / weight.sum(1)) / (LOST - SURE), 0, 1)
        hips = body.joints(found, "lsp14")[:, LSP_HIPS, 2].mean(1)
        out[..., 2] += trust[:, None] * ((found[..., 2] - hips[:, None]) / size - out[..., 2])
        return out

    def _placed(
        self, pixels: npt.ArrayLike, sizes: npt.ArrayLike, visibility: npt.ArrayLike
    ) -> tuple[Array, Array, Body, Array]:
        x = np.asarray(pixels, np.float64)
        low = place(x, np.asarray(sizes, np.float64), self._camera)
        return low, np.asarray(visibility, np.float64), Body.load(), in_picture(x, self._camera).astype(np.float64)


def likely_depths(pixels: npt.ArrayLike, visibility: npt.ArrayLike, sizes: npt.ArrayLike, camera: Camera) -> Array:
    """Low-poly pixels (F, V, 3) float64 with other depths; visibility (F, V), sizes (F,) metres per pixel at the
    mid-hips' depth (`camera.metres_per_pixel`)."""
    x, seen, size = np.asarray(pixels, np.float64), np.asarray(visibility), np.asarray(sizes)
    if not len(x):
        return x
    best = well_seen(seen)
    return LikelyDepths(x[best], seen[best], size[best], camera)(x, seen, size)


def told_depths(
    pixels: npt.ArrayLike, visibility: npt.ArrayLike, sizes: npt.ArrayLike, times: npt.ArrayLike, camera: Camera
) -> Array:
    """`likely_depths`, then what the motion tells; times (F,) seconds, rising."""
    found = likely_depths(pixels, visibility, sizes, camera)
    return DepthFromMotion().changed(found, visibility, sizes, times, camera)
