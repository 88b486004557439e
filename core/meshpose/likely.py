# SPDX-License-Identifier: Apache-2.0
"""Likely places: where a vertex lies in the picture is evidence; how deep it lies, and what lies beyond, is a guess.

    pixels = likely_places(pixels, visibility, sizes, camera)        # one person, single frames
    pixels = told_places(pixels, visibility, sizes, times, camera)   # a clip: the motion tells, too

What the network says of depths is drawn to the middle, and on footage it leans (on a dancer's two views its joints err
by 91 mm; the same places with the depths of a likely body by 57 to 79).  So a body is fitted to the places, whose poses
are likely (`rig_prior.learned_prior`: a lifted thigh has its knee bent) and for which the network's depths only count
enough to tell front from back; its depths replace the network's.  Places in the picture stay.  Beyond its border no
heatmap reaches, and the network leaves what lies there near to it, legs as stumps: there the mesh is the likely body's,
laid on to what is seen.  Then the motion tells what single frames do not (`depth.DepthFromMotion`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .body import Body
from .camera import Camera, in_picture, place
from .depth import DepthFromMotion
from .rig import LikelyBody, well_seen
from .smooth import smooth_positions

Array = npt.NDArray[Any]
LOST, SURE = 0.14, 0.07
"""Metres across the line of sight, mean of the vertices that are seen: a body that lies farther from the mesh than LOST
tells nothing of its depths, one nearer than SURE all."""
REACH = 0.1
"""Metres along the body at rest: so far beyond the picture's border the mesh goes on as it lies before it."""
NEAREST, FARTHEST = 0.1, 10.0
"""Metres before the camera, and sides of the picture: nothing is laid nearer, or farther beyond the border."""
AT_ONCE = 64
"""Vertices whose courses are smoothed together, for the memory's sake."""
LSP_HIPS = (2, 3)


class LikelyPlaces:
    """A person's likely places, part of a clip by part."""

    def __init__(self, pixels: npt.ArrayLike, visibility: npt.ArrayLike, sizes: npt.ArrayLike, camera: Camera) -> None:
        """Solves the person's shape on some frames (`rig.well_seen` names them); arguments as `likely_places`'."""
        self._camera = camera
        self._likely = LikelyBody(*self._placed(pixels, sizes, visibility))
        self._neighbours = _neighbours(Body.load())

    def __call__(self, pixels: npt.ArrayLike, visibility: npt.ArrayLike, sizes: npt.ArrayLike) -> Array:
        """As `likely_places`."""
        out, size = np.array(pixels, np.float64), np.asarray(sizes, np.float64)[:, None]
        low, seen, body, inside = self._placed(out, sizes, visibility)
        found = self._likely(low, seen, inside)
        weight = seen * inside + 1e-6
        away = np.linalg.norm((found - low)[..., :2], axis=-1)
        trust = np.clip((LOST - (away * weight).sum(1) / weight.sum(1)) / (LOST - SURE), 0, 1)
        hips = body.joints(found, "lsp14")[:, LSP_HIPS, 2].mean(1)
        depth = (found[..., 2] - hips[:, None]) / size
        likely = np.concatenate([self._beyond(out[..., :2], seen, inside, found), depth[..., None]], -1)
        out += trust[:, None, None] * (likely - out)
        return out

    def _beyond(self, places: Array, seen: Array, inside: Array, found: Array) -> Array:
        """Places (F, V, 2) pixels; those beyond the picture's border where the body found (F, V, 3) has them.

        What the network has just within the border counts as beyond it where it was not seen and the body is beyond.
        """
        flat = self._camera.project(np.concatenate([found[..., :2], np.maximum(found[..., 2:], NEAREST)], -1))
        size = np.array([self._camera.width, self._camera.height])
        flat = np.clip(flat, -FARTHEST * size, (1 + FARTHEST) * size)
        kept = inside * (1 - (1 - in_picture(flat, self._camera)) * (1 - seen))
        # The body goes on from the mesh as it lies before the border, or there would be a step.
        carried = self._neighbours @ (kept[..., None] * (places - flat))
        carried /= (1 + kept @ self._neighbours)[..., None]
        return places + (1 - kept[..., None]) * (flat + carried - places)

    def _placed(
        self, pixels: npt.ArrayLike, sizes: npt.ArrayLike, visibility: npt.ArrayLike
    ) -> tuple[Array, Array, Body, Array]:
        x = np.asarray(pixels, np.float64)
        low = place(x, np.asarray(sizes, np.float64), self._camera)
        return low, np.asarray(visibility, np.float64), Body.load(), in_picture(x, self._camera).astype(np.float64)


def _neighbours(body: Body) -> Array:
    """(V, V): how near the low-poly's vertices lie to each other on the body at rest, 1 for one and itself."""
    points = body.template[body.lowpoly].astype(np.float64)
    square = ((points[:, None] - points) ** 2).sum(-1)
    return np.exp(-square / (2 * REACH**2))


def likely_places(pixels: npt.ArrayLike, visibility: npt.ArrayLike, sizes: npt.ArrayLike, camera: Camera) -> Array:
    """Low-poly pixels (F, V, 3) float64 with other depths, and other places beyond the picture; visibility (F, V),
    sizes (F,) metres per pixel at the mid-hips' depth (`camera.metres_per_pixel`)."""
    x, seen, size = np.asarray(pixels, np.float64), np.asarray(visibility), np.asarray(sizes)
    if not len(x):
        return x
    best = well_seen(seen)
    return LikelyPlaces(x[best], seen[best], size[best], camera)(x, seen, size)


def told_places(
    pixels: npt.ArrayLike, visibility: npt.ArrayLike, sizes: npt.ArrayLike, times: npt.ArrayLike, camera: Camera
) -> Array:
    """`likely_places`, then what the motion tells; times (F,) seconds, rising."""
    found = likely_places(pixels, visibility, sizes, camera)
    told = DepthFromMotion().changed(found, visibility, sizes, times, camera)
    steady_beyond(told, times, camera)
    return told


def steady_beyond(pixels: Array, times: npt.ArrayLike, camera: Camera) -> None:
    """Smooths a clip's low-poly (F, V, 3) where it lies beyond the picture, in place: no pixel says where it is, each
    frame's body guesses anew.  times (F,) seconds, rising."""
    beyond = 1 - in_picture(pixels, camera)
    for some in np.array_split(rows := np.flatnonzero(beyond.any(0)), len(rows) // AT_ONCE + 1):
        places = pixels[:, some]
        pixels[:, some] += beyond[:, some, None] * (smooth_positions(places, times) - places)
