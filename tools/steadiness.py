# SPDX-License-Identifier: Apache-2.0
"""How steady the network is by itself, beside BlazePose heavy: nothing is smoothed here.

    python -m tools.steadiness CLIP [--frames 60] [--model NAME] [--json FILE]

Two rows of figures. `still`: the clip's first frame again and again under fresh sensor noise, written as a video and
read back, as a camera on a tripod gives somebody who stands still; every movement is jitter. `clip`: the clip itself,
where the second difference of a joint holds the person's own acceleration too, the same for all estimators. Each
follows the person by its own crops, as in tracking; `one look` is a job with --no-second-look. Pixels of the picture;
the twelve limb joints.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from meshpose.detect import PeopleDetector
from meshpose.estimate import Estimator, TwiceEstimator
from meshpose.landmarks import LandmarkEstimator, fetch
from meshpose.metrics import LIMBS
from meshpose.network import Network
from meshpose.video import Clip, probe, write_preview

NOISE = 4.0  # grey levels, standard deviation: a phone indoors
Box = tuple[float, float, float, float]
Joints = Callable[[np.ndarray], np.ndarray]


def still(frame: np.ndarray, count: int, file: Path) -> Iterator[np.ndarray]:
    """`count` frames of one picture with fresh noise, through a video file."""
    rng = np.random.default_rng(0)
    height, width = (n // 2 * 2 for n in frame.shape[:2])
    with write_preview(file, 25.0, (width, height)) as writer:
        for _ in range(count):
            noisy = frame[:height, :width] + rng.normal(0, NOISE, (height, width, 3))
            writer.write(np.clip(noisy, 0, 255).astype(np.uint8))
    return (f.image for f in Clip(file))


def mesh_joints(estimator: Estimator, box: Box) -> Joints:
    """A follower: frame (H, W, 3) -> joints (12, 2) of MeshPose; each crop comes from the frame before."""
    last: list = []

    def follow(image: np.ndarray) -> np.ndarray:
        if last:
            found = estimator.on_crops(image, [estimator.next_crop(last[0])])[0]
        else:
            found = estimator.from_box(image, box)
        last[:] = [found]
        points = dict(zip(estimator.body.joint_names["coco17"], estimator.body.joints(found.vertices, "coco17")))
        return np.array([points[name][:2] for name in LIMBS])

    return follow


def landmark_joints(box: Box) -> Joints:
    """The same of BlazePose heavy."""
    estimator = LandmarkEstimator(fetch(), 2)
    last: list = []

    def follow(image: np.ndarray) -> np.ndarray:
        found = estimator.from_crop(image, last[0].next_crop) if last else estimator.from_box(image, box)
        last[:] = [found]
        return np.array([found.keypoints()[name][:2] for name in LIMBS])

    return follow


def figures(track: np.ndarray) -> dict[str, float]:
    """track (F, 12, 2) px -> mean step and mean second difference a frame, and the scatter around the mean, px."""
    return {
        "step px": float(np.linalg.norm(np.diff(track, axis=0), axis=-1).mean()),
        "acceleration px": float(np.linalg.norm(np.diff(track, 2, axis=0), axis=-1).mean()),
        "scatter px": float(np.linalg.norm(track - track.mean(0), axis=-1).mean()),
    }


def first_box(image: np.ndarray) -> Box:
    """Of the largest person on a frame."""
    people = PeopleDetector()(image)
    if not people:
        raise SystemExit("nobody is found on the first frame")
    x, y, w, h = max((p.box for p in people), key=lambda b: float(b[2] * b[3]))
    return float(x), float(y), float(w), float(h)


def measure(frames: Callable[[], Iterable[np.ndarray]], box: Box, model: str, count: int) -> dict[str, dict]:
    """All estimators over the same frames."""
    out, network = {}, Network(model)
    followers = {
        "meshpose": mesh_joints(TwiceEstimator(network), box),
        "one look": mesh_joints(Estimator(network), box),
        "landmarks": landmark_joints(box),
    }
    for name, joints in followers.items():
        track = [joints(image) for image, _ in zip(frames(), range(count))]
        out[name] = figures(np.array(track))
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("clip", type=Path)
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--model", default="accurate")
    parser.add_argument("--json", type=Path)
    a = parser.parse_args()
    path = probe(a.clip).path
    first = next(iter(Clip(path))).image
    box = first_box(first)
    with tempfile.TemporaryDirectory() as folder:
        noisy = list(still(first, a.frames, Path(folder) / "still.mp4"))
    result = {
        "still": measure(lambda: noisy, box, a.model, a.frames),
        "clip": measure(lambda: (f.image for f in Clip(path)), box, a.model, a.frames),
    }
    for kind, rows in result.items():
        for name, row in rows.items():
            print(f"{kind:6} {name:10} " + ", ".join(f"{key} {value:.2f}" for key, value in row.items()))
    if a.json:
        a.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
