# SPDX-License-Identifier: Apache-2.0
"""What every body's low-poly has in common, against the scatter of single vertices: a linear map solved in closed form.

The network places 500 vertices one by one, so each also errs on its own (`scatter`: some 15 mm of neighbours'
disagreement).  With n independent on every vertex and x a body turned any way,

    D = argmin E |x - D (x + n)|^2 = G (G + S)^-1,   G = E x x^T about the vertices' mean,   S = diag(scatter^2)

is the Wiener filter: it keeps what bodies do and takes back what none does.  It belongs to the network's last step
(`MeshPoseNet.fullness`), where it costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from meshpose.body import Body

from .boxed import Boxed, well_found
from .network_errors import neighbour_mean
from .random_bodies import random_bodies

LEAST = 20  # persons from which the scatter is known well enough


def low_polys(body: Body, count: int, seed: int = 7) -> np.ndarray:
    """(count, V, 3) metres: random bodies, each about the mean of its own vertices."""
    bodies = random_bodies(body, count, np.random.default_rng(seed))
    points = np.stack([bodies.mesh(body, i)[body.lowpoly] for i in range(count)]).astype(np.float64)
    return points - points.mean(1, keepdims=True)


def scatter(seen: Iterable[Boxed], body: Body, bodies: np.ndarray) -> np.ndarray | None:
    """(V,) metres per coordinate: what each vertex of well-found, exactly known persons errs apart from its neighbours.

    Pixels become metres by the size of the true low-poly beside that of `bodies` (n, V, 3); None where too few persons
    were found.
    """
    apart = np.eye(len(body.lowpoly)) - neighbour_mean(body)
    size, found = np.sqrt((bodies**2).sum(-1).mean()), []
    for estimate, truth in well_found(seen):
        metres = size / np.sqrt(((truth - truth.mean(0)) ** 2).sum(-1).mean())
        found.append(apart @ (estimate.vertices - truth) * metres)
    return np.stack(found).std((0, 2)) if len(found) >= LEAST else None


def matrix(noise: np.ndarray, bodies: np.ndarray) -> np.ndarray:
    """(V, V) float32, rows of sum 1: D for errors `noise` (V,) metres, solved on `bodies` (n, V, 3) of `low_polys`."""
    points = bodies.transpose(0, 2, 1).reshape(-1, bodies.shape[1])
    gram = points.T @ points / len(points)
    kept = np.linalg.solve(gram + np.diag(noise**2), gram).T
    mean = np.full_like(gram, 1 / len(gram))
    return (kept @ (np.eye(len(gram)) - mean) + mean).astype(np.float32)
