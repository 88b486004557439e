# SPDX-License-Identifier: Apache-2.0
"""Whether the network's visibility means what it says: reliability curve and expected calibration error.

    python -m training.confidence synth_test.json --images synth_test.zip [--plot reliability.png] [--model NAME]

The set is one of `training.make_test_set` (its `visibility` is the truth).  A vertex that the network calls visible
with 0.8 should be seen in 80 of 100 cases; the error is the mean distance of the two over ten bins, weighted by how
many vertices fall into each (Guo et al., "On calibration of modern neural networks", ICML 2017).  Vertices outside of
the network's last crop count as not seen, as they do in training.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from meshpose.coco import Pictures, load_set
from meshpose.crop import CROP
from meshpose.estimate import Estimator
from meshpose.network import Network

BINS = 10
LOST = 0.15  # of the crop's side: mean distance at which somebody else was found


def reliability(said: np.ndarray, seen: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Said (n,) 0..1 and seen (n,) bool -> share of all vertices, mean said and share seen of each bin (BINS,)."""
    which = np.minimum((said * BINS).astype(int), BINS - 1)
    count = np.bincount(which, minlength=BINS)
    total = np.maximum(count, 1)
    return (
        count / max(len(said), 1),
        np.bincount(which, said, BINS) / total,
        np.bincount(which, seen.astype(float), BINS) / total,
    )


def calibration_error(said: np.ndarray, seen: np.ndarray) -> float:
    """Expected calibration error, 0..1."""
    share, mean, true = reliability(said, seen)
    return float((share * np.abs(mean - true)).sum())


def collect(file: Path, images: Path, model: str, limit: int | None) -> tuple[np.ndarray, np.ndarray, int]:
    """Said and seen (n * V,) of the persons that were found, and how many those are."""
    estimator, pictures = Estimator(Network(model)), Pictures([images])
    codes = {a["id"]: a["visibility"] for a in json.loads(file.read_text())["annotations"]}
    said, seen = [], []
    for person in load_set(file)[:limit]:
        estimate = estimator.from_box(pictures.image(person.image), person.box)
        mesh, camera = pictures.vertices(person), person.camera
        if mesh is None or camera is None:
            raise SystemExit(f"{file}: annotation {person.id} has no true vertices or no camera")
        low = mesh[estimator.body.lowpoly].astype(np.float64)
        flat = low[:, :2] / low[:, 2:] * camera[:2] + camera[2:]
        away = np.linalg.norm(flat - estimate.vertices[:, :2], axis=1).mean()
        if away > LOST * estimate.crop.side:
            continue
        inside = estimate.crop.to_crop(flat)
        within = ((inside > 1) & (inside < CROP - 1)).all(1)
        said.append(estimate.visibility)
        seen.append((np.frombuffer(codes[person.id].encode(), np.uint8) == ord("1")) & within)
    return np.concatenate(said), np.concatenate(seen), len(said)


def plot(file: Path, said: np.ndarray, seen: np.ndarray) -> None:
    """The reliability curve as a picture: said to the right, seen upwards, the area of a dot is its bin's share."""
    import cv2

    n, edge = 320, 30
    picture = np.full((n + 2 * edge, n + 2 * edge, 3), 255, np.uint8)
    cv2.rectangle(picture, (edge, edge), (edge + n, edge + n), (0, 0, 0), 1)
    cv2.line(picture, (edge, edge + n), (edge + n, edge), (180, 180, 180), 1, cv2.LINE_AA)
    for share, x, y in zip(*reliability(said, seen), strict=True):
        at = (int(edge + n * x), int(edge + n * (1 - y)))
        cv2.circle(picture, at, max(2, int(40 * np.sqrt(share / np.pi))), (60, 120, 20), -1, cv2.LINE_AA)
    cv2.putText(picture, "said", (edge + n - 40, edge + n + 20), 0, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
    cv2.putText(picture, "seen", (4, edge - 8), 0, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
    cv2.imwrite(str(file), picture)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("set", type=Path)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--model", default="accurate")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--plot", type=Path)
    a = parser.parse_args()
    said, seen, found = collect(a.set, a.images, a.model, a.limit)
    for share, mean, true in zip(*reliability(said, seen), strict=True):
        print(f"said {mean:.2f}  seen {true:.2f}  ({share:.1%} of the vertices)")
    error = calibration_error(said, seen)
    right = float(((said > 0.5) == seen).mean())
    print(f"expected calibration error {error:.3f}, right {right:.3f}, {found} persons found")
    if a.plot:
        plot(a.plot, said, seen)


if __name__ == "__main__":
    main()
