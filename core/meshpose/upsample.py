# SPDX-License-Identifier: Apache-2.0
"""Low-poly vertices -> the whole mesh: a sparse matrix of affine combinations.

    upsampler = Upsampler.load()
    mesh = upsampler.up(lowpoly)                # (F, 500, 3) -> (F, 13718, 3), any frame of reference, any unit

Every mesh vertex is a weighted sum of 15 low-poly vertices near it along the skin; the weights of a row sum to 1, so
lifting commutes with shift, rotation and uniform scale. `training/solve_upsampler.py` solves them in closed form,
once against little noise (sharp) and once against the network's (smooth), on the same indices: a mix of both is again
an upsampler.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from . import weights as weight_files
from .errors import InputError

Array = npt.NDArray[Any]

RAW = 0.5  # smooth for vertices as the network gives them
CLEAN = 0.0  # smooth for vertices of a fitted body
ROWS = 512  # mesh vertices that are lifted at once: what they gather stays in the cache


class Upsampler:
    """indices (N, 15) int32 into the V low-poly vertices; sharp and smooth weights (N, 15) float32, rows sum to 1."""

    def __init__(self, arrays: Mapping[str, Array]) -> None:
        """From the arrays of upsampler.npz."""
        self.indices = arrays["indices"].astype(np.int32)
        self.sources = int(arrays["sources"])
        # float16 storage: rows must be brought back to sum 1, or the mesh shrinks towards the origin.
        self._sharp = _normalised(arrays["sharp"])
        self._smooth = _normalised(arrays["smooth"])
        self._kept: tuple[float, Array] | None = None

    @staticmethod
    def load() -> Upsampler:
        """The upsampler of this installation, read once and kept. Raises WeightsError when the file is not right."""
        return _load()

    def weights_at(self, smooth: float = RAW) -> Array:
        """Weights (N, 15) float32 between sharp (0) and smooth (1); rows sum to 1."""
        if not 0 <= smooth <= 1:
            raise InputError(f"smooth must lie between 0 (sharp) and 1 (smooth), not {smooth}")
        return _normalised((1 - smooth) * self._sharp + smooth * self._smooth)

    def up(self, x: npt.ArrayLike, smooth: float = RAW) -> Array:
        """x (..., V, C) -> (..., N, C) float32.

        Positions in pixels or metres, or any other quantity; what has bounds (visibility) must be clamped afterwards,
        because weights can be negative. Raises InputError when x has not V rows.
        """
        low = np.asarray(x, np.float32)
        if low.ndim < 2 or low.shape[-2] != self.sources:
            raise InputError(f"the upsampler lifts (..., {self.sources}, C), not {low.shape}")
        # Relative to the middle: far from the origin float32 would lose micrometres.
        middle = low.mean(-2, keepdims=True)
        first = np.moveaxis(low - middle, -2, 0)
        flat, weights = first.reshape(self.sources, -1), self._kept_weights(smooth)
        lifted = np.empty((len(weights), flat.shape[1]), np.float32)
        for start in range(0, len(weights), ROWS):
            rows = slice(start, start + ROWS)
            np.matmul(weights[rows, None], flat[self.indices[rows]], out=lifted[rows, None])
        return np.ascontiguousarray(np.moveaxis(lifted.reshape(-1, *first.shape[1:]), 0, -2) + middle)

    def _kept_weights(self, smooth: float) -> Array:
        """`weights_at`, the last of which is kept."""
        if self._kept is None or self._kept[0] != smooth:
            self._kept = (smooth, self.weights_at(smooth))
        return self._kept[1]


def _normalised(weights: Array) -> Array:
    w = weights.astype(np.float64)
    return (w / w.sum(1, keepdims=True)).astype(np.float32)


@lru_cache(maxsize=1)
def _load() -> Upsampler:
    with np.load(weight_files.path("upsampler.npz"), allow_pickle=False) as arrays:
        return Upsampler(arrays)
