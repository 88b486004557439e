# SPDX-License-Identifier: Apache-2.0
"""What tests of the training train on: persons in pictures of noise, and the encoder's graph."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest


def people_in_noise(count: int) -> list[Any]:
    """Rendered persons (`training.data.Person`) who stand in pictures of noise."""
    cv2 = pytest.importorskip("cv2")
    from meshpose.body import Body
    from training.data import SEEN, Person

    body, rng = Body.load(), np.random.default_rng(0)
    rest = body.template[body.lowpoly].astype(np.float32) * [1, 1, -1]
    rest = (rest[:, [0, 2, 1]] - rest[:, [0, 2, 1]].mean(0)) / np.ptp(rest[:, 2])
    people = []
    for size in rng.uniform(150, 220, count):
        vertices = (rest * size + [128, 128, 0]).astype(np.float32)
        joints = np.concatenate([body.joints(vertices[None], "lsp14")[0, :, :2], np.ones((14, 1))], 1)
        jpeg = cv2.imencode(".jpg", rng.integers(0, 255, (256, 256, 3), np.uint8))[1].tobytes()
        low, high = vertices[:, :2].min(0), vertices[:, :2].max(0)
        box = np.concatenate([low, high - low])
        seen = np.full(500, SEEN, np.uint8)
        people.append(Person(jpeg, box, joints.astype(np.float32), vertices, seen, True, "render"))
    return people


def models_folder(tmp_path: Path) -> Path:
    """Where the encoder's graph is, or can be fetched to."""
    models = Path(os.environ.get("MESHPOSE_MODELS", tmp_path))
    if not (models / "pose_landmark_full.tflite").exists() and shutil.which("npm") is None:
        pytest.skip("needs npm to fetch the encoder's graph")
    return models
