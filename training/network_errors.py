# SPDX-License-Identifier: Apache-2.0
"""How the network's low-poly vertices err, on a set with true meshes: what the upsampler can be solved against.

    python -m training.network_errors synth_test.json --images synth_test.zip --out errors.npz
    python -m training.solve_upsampler --errors errors.npz

The set is COCO's format with `vertices` and `images[].camera` (training/make_test_set.py writes such a set). Every
person is found from its box alone. Written: errors (n, V, 3) float16, metres at the person's own depth, camera axes, of
the persons whose mesh was found (mean error under 0.3 m), and scatter (V,), which is what lifting can smooth: a
vertex's error less the mean error of its neighbours, standard deviation per coordinate in metres.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from meshpose.body import Body
from meshpose.coco import Pictures, load_set
from meshpose.estimate import Estimate, Estimator
from meshpose.network import Network

Array = npt.NDArray[Any]

LOST = 0.3  # metres of mean error: the person was not found, which is no noise


def main() -> None:
    """Command line: see the module's docstring."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("set", type=Path)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--limit", type=int, help="only so many persons")
    args = parser.parse_args()
    body = Body.load()
    estimator, pictures = Estimator(Network()), Pictures([args.images])
    found = []
    for person in load_set(args.set)[: args.limit]:
        estimate = estimator.from_box(pictures.image(person.image), person.box)
        vertices = pictures.vertices(person)
        if vertices is None or person.camera is None:
            raise SystemExit(f"{args.set}: annotation {person.id} has no true vertices or no camera")
        found.append(error_of(estimate, vertices.astype(np.float64) / 1000, person.camera, body))
    errors = np.stack(found)
    errors = errors[np.linalg.norm(errors, axis=-1).mean(1) < LOST]
    apart = errors - neighbour_mean(body) @ errors
    scatter = apart.std((0, 2))
    np.savez_compressed(args.out, errors=errors.astype(np.float16), scatter=scatter)
    total = np.linalg.norm(errors, axis=-1).mean() * 1000
    figures = ", ".join(f"{axis} {s:.1f}" for axis, s in zip("xyz", apart.std((0, 1)) * 1000, strict=True))
    print(f"{len(errors)} of {len(found)} persons; total {total:.1f} mm; scatter {figures} mm")


def error_of(estimate: Estimate, truth: Array, camera: tuple[float, float, float, float], body: Body) -> Array:
    """Errors (V, 3) in metres. truth (N or V, 3) metres, camera frame; camera fx, fy, cx, cy."""
    low = truth[body.lowpoly] if len(truth) == len(body.template) else truth
    depth = body.joints(low, "lsp14")[2:4, 2].mean()
    flat = low[:, :2] / low[:, 2:] * camera[:2] + camera[2:]
    size = depth / camera[0]
    across = (estimate.vertices[:, :2] - flat) * size
    return np.column_stack([across, estimate.vertices[:, 2] * size - (low[:, 2] - depth)])


def neighbour_mean(body: Body) -> Array:
    """Matrix (V, V) that takes each low-poly vertex to the mean of its neighbours in the triangles."""
    near = np.zeros((len(body.lowpoly), len(body.lowpoly)))
    for a, b in ([0, 1], [1, 2], [2, 0]):
        near[body.lowpoly_faces[:, a], body.lowpoly_faces[:, b]] = 1
        near[body.lowpoly_faces[:, b], body.lowpoly_faces[:, a]] = 1
    return near / near.sum(1, keepdims=True)


if __name__ == "__main__":
    main()
