# SPDX-License-Identifier: Apache-2.0
"""Points as affine combinations of other points, solved in closed form against noise.

A target point p is written as sum_j w_j q_j with sum w = 1, which commutes with rotation, shift and uniform scale.
Over many sampled bodies, with independent noise of standard deviation `noise` per coordinate on every q,

    C_jk = mean over bodies and x, y, z of (q_j - p)(q_k - p)
    w = (C + noise^2 I)^-1 1 / (1^T (C + noise^2 I)^-1 1)          minimises E |p - sum_j w_j (q_j + noise)|^2.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def covariance(target: Array, sources: Array) -> Array:
    """C (P, k, k) in square metres. target (P, n, 3): P points on n bodies; sources (P, n, 3, k): the candidates of
    each.
    """
    d = sources - target[..., None]
    d = d.reshape(len(d), -1, d.shape[-1])
    return d.transpose(0, 2, 1) @ d / (3 * target.shape[1])


def solve(c: Array, noise: float | Array) -> Array:
    """Weights (P, k) from C (P, k, k); every row sums to 1.

    noise: metres per coordinate, independent, or the covariance (P, k, k) of the candidates' errors in square metres.
    """
    k = c.shape[-1]
    spread = noise**2 * np.eye(k) if isinstance(noise, float) else noise
    w = np.linalg.solve(c + spread, np.ones((len(c), k, 1)))[..., 0]
    return w / w.sum(-1, keepdims=True)


def choose(c: Array, noise: float, steps: tuple[int, ...]) -> Array:
    """Which candidates to keep: indices (P, steps[-1]) into the k, ascending.

    The largest |w| survive each step and the rest is solved again, so that a candidate whose work another can do
    drops out.
    """
    kept = np.broadcast_to(np.arange(c.shape[-1]), c.shape[:2]).copy()
    for step in steps:
        w = solve(sub(c, kept), noise)
        best = np.argsort(-np.abs(w), axis=-1)[:, :step]
        kept = np.sort(np.take_along_axis(kept, best, -1), -1)
    return kept


def sub(c: Array, kept: Array) -> Array:
    """The rows and columns `kept` (P, m) of C (P, k, k) -> (P, m, m)."""
    return np.take_along_axis(np.take_along_axis(c, kept[:, :, None], 1), kept[:, None, :], 2)
