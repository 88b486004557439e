# SPDX-License-Identifier: Apache-2.0
"""The bundled clip and its truth belong together: counts, sizes, and the true body covers the walker in the picture."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from meshpose.body import Body

SAMPLES = Path(__file__).resolve().parents[1] / "samples"


@pytest.fixture(scope="module")
def truth() -> dict[str, np.ndarray]:
    with np.load(SAMPLES / "turn_truth.npz") as z:
        return {k: z[k] for k in z.files}


@pytest.fixture(scope="module")
def frames() -> list[np.ndarray]:
    clip = cv2.VideoCapture(str(SAMPLES / "turn.mp4"))
    out: list[np.ndarray] = []
    while True:
        ok, picture = clip.read()
        if not ok:
            return out
        out.append(picture)


def vertices(truth: dict[str, np.ndarray], rows: slice) -> np.ndarray:
    body = Body.load()
    return body.pose(body.shape(truth["phenotype"]), truth["rotations"][rows], truth["translation"][rows])


def project(points: np.ndarray, camera: np.ndarray) -> np.ndarray:
    return points[..., :2] / points[..., 2:] * camera[:2] + camera[2:]


def silhouette(xy: np.ndarray, triangles: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    out = np.zeros((size[1], size[0]), np.uint8)
    for corners in np.round((xy[triangles] - 0.5) * 16).astype(np.int32):
        cv2.fillConvexPoly(out, corners, 1, shift=4)
    return out > 0


def walker(picture: np.ndarray, empty: np.ndarray) -> np.ndarray:
    """Where the picture is not the empty room, nor the empty room in shadow (the same colour, darker)."""
    a, b = picture.astype(np.float32), empty.astype(np.float32)
    share = np.clip((a * b).sum(-1) / np.maximum((b * b).sum(-1), 1), 0.4, 1.05)
    away = np.linalg.norm(a - share[..., None] * b, axis=-1)
    return cv2.morphologyEx((away > 16).astype(np.uint8), cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8)) > 0


def test_files_are_small_and_agree(truth: dict[str, np.ndarray], frames: list[np.ndarray]) -> None:
    assert (SAMPLES / "turn.mp4").stat().st_size < 1_000_000
    assert (SAMPLES / "turn_truth.npz").stat().st_size < 300_000
    assert 3 <= len(frames) / float(truth["fps"]) <= 4
    assert truth["rotations"].shape == (len(frames), len(Body.load().bone_names), 4)
    assert truth["translation"].shape == (len(frames), 3)
    assert tuple(truth["size"]) == frames[0].shape[1::-1]
    assert Body.load().shape(truth["phenotype"]).stature == pytest.approx(float(truth["stature"]), abs=1e-3)


def test_true_body_covers_the_walker(truth: dict[str, np.ndarray], frames: list[np.ndarray]) -> None:
    empty = np.median(frames[::3], axis=0)
    body = Body.load()
    rows = range(2, len(frames), 12)
    overlaps = []
    for k, points in zip(rows, vertices(truth, slice(2, None, 12))):
        mesh = silhouette(project(points, truth["camera"]), body.triangles, tuple(truth["size"]))
        seen = walker(frames[k], empty)
        near = cv2.dilate(mesh.astype(np.uint8), np.ones((15, 15), np.uint8)) > 0
        seen &= near  # what lies farther off is video noise or the rim of the shadow
        overlaps.append((mesh & seen).sum() / (mesh | seen).sum())
    assert min(overlaps) > 0.85, f"IoU of the true body with the walker per frame: {np.round(overlaps, 2)}"


def test_walker_turns_and_feet_stand(truth: dict[str, np.ndarray]) -> None:
    body = Body.load()
    points = vertices(truth, slice(None))
    joints = body.joints(points, "lsp14")
    right = joints[:, 2, 0] - joints[:, 3, 0]  # right hip left of the left one in the picture: facing the camera
    assert right[0] < -0.1 and right[-1] > 0.1
    # Steps: the slower ankle of each moment hardly moves, while the body goes on at walking speed.
    ankle = np.linalg.norm(np.diff(joints[:, [0, 5]], axis=0), axis=-1) * float(truth["fps"])
    hips = np.linalg.norm(np.diff(joints[:, [2, 3]].mean(1), axis=0), axis=-1) * float(truth["fps"])
    assert np.median(ankle.min(1)) < 0.25
    assert 0.7 < np.median(hips) < 1.6
    height = np.ptp(points[0, ~body.inner, 1])
    assert height == pytest.approx(float(truth["stature"]), rel=0.08)
