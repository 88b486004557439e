# SPDX-License-Identifier: Apache-2.0
"""training.failures: what counts as a failure, and of which kind."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from meshpose.body import Body
from meshpose.camera import Camera
from meshpose.coco import Person, Pictures
from meshpose.evaluate import Answer
from meshpose.metrics import KEYPOINTS
from meshpose.raster import silhouette
from training.failures import TILE, Case, _mirrored, case, sheet, table

CAMERA = {"fx": 300.0, "fy": 300.0, "cx": 64.0, "cy": 64.0}


def standing() -> tuple[Person, Answer, np.ndarray]:
    """Somebody four metres away who stands upright, and the answer that is wholly right; the true silhouette."""
    body = Body.load()
    mesh = body.template.astype(np.float64) @ np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]]) + [0, 0.9, 4.0]
    camera = Camera(300.0, 300.0, 64.0, 64.0, 128, 128)
    metres = dict(zip(body.joint_names["coco17"], body.joints(mesh, "coco17"), strict=True))
    lsp = dict(zip(body.joint_names["lsp14"], body.joints(mesh, "lsp14"), strict=True))
    metres |= {name: lsp[name] for name in KEYPOINTS if name not in metres}
    flat = {name: np.append(camera.project(p[None])[0], 2.0) for name, p in metres.items()}
    mm = {name: 1000 * p for name, p in metres.items()}
    mask = silhouette(camera.project(mesh), body.triangles, 128, 128)
    image = {"file_name": "a.png", "width": 128, "height": 128, "camera": CAMERA}
    person = Person(1, 1, image, (0, 0, 128, 128), flat, mm, vertices="a.npy")
    return person, Answer(0.9, flat, mm, mask, 1000 * mesh), mask


def test_right_wrong_and_exchanged() -> None:
    """All right; everything a torso off; left for right."""
    person, answer, mask = standing()
    good = case(person, answer, mask, "1" * 300 + "0" * 150 + "3" * 50)
    assert good is not None
    assert (good.right, good.exchanged, good.iou, good.seen, good.outside) == (1.0, False, 1.0, 0.6, 0.1)
    assert good.lean < 5 and good.pa_mpjpe < 1e-6
    moved = {name: p + [80, 0, 0] for name, p in answer.keypoints.items()}
    assert case(person, Answer(0.9, moved, answer.keypoints_3d, mask), mask, "1").right == 0  # type: ignore[union-attr]
    other = {_mirrored(name): p for name, p in answer.keypoints.items()}
    swapped = case(person, Answer(0.9, other, answer.keypoints_3d, mask), mask, "1")
    assert swapped is not None and swapped.exchanged and swapped.right < 0.6


def test_the_table_has_the_kinds_that_there_are() -> None:
    """One row for each kind with somebody in it, figures of those alone."""
    person = standing()[0]
    cases = [Case(person, 1.0, False, 0.8, 50.0, 0.5, 0.0, 3.0), Case(person, 0.5, True, 0.6, np.nan, 0.2, 0.0, 170.0)]
    lines = list(table(cases))
    assert lines[2] == "| all | 2 | 75 | 50 | 0.70 | 50 |"
    assert "| upright (within 45 degrees) | 1 | 100 | 0 | 0.80 | 50 |" in lines
    assert not any("outside" in line for line in lines)


def test_the_sheet_shows_the_worst_first(tmp_path: Path) -> None:
    """Three tiles for each person, the worst on top."""
    person, answer, mask = standing()
    cv2.imwrite(str(tmp_path / "a.png"), np.full((128, 128, 3), 90, np.uint8))
    np.save(tmp_path / "a.npy", np.asarray(answer.vertices))
    good = case(person, answer, mask, "1")
    assert good is not None
    bad = Case(person, 0.0, False, 0.0, 90.0, 1.0, 0.0, 2.0)
    off = Answer(0.1, answer.keypoints, answer.keypoints_3d, mask, np.asarray(answer.vertices) + [300.0, 0, 0])
    drawn = sheet(Pictures([tmp_path]), [(good, answer), (bad, off)])
    first, second = (drawn[2 : TILE + 2, at : at + 3 * TILE].astype(int) for at in (2, 3 * TILE + 6))
    label = TILE - 20
    assert np.abs(second[:label, TILE : 2 * TILE] - second[:label, 2 * TILE :]).max() < 3
    assert np.abs(first[:label, TILE : 2 * TILE] - first[:label, 2 * TILE :]).max() > 40
