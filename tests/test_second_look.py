# SPDX-License-Identifier: Apache-2.0
"""Feedback and graph convolutions behind the mesh, and other fits to train on (slow: needs torch, npm for a graph)."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from noise import models_folder, people_in_noise

from meshpose import weights

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The network of `fast`."""
    pytest.importorskip("torch")
    pytest.importorskip("tflite")
    from training.checkpoint import build, read_back

    net = build(models_folder(tmp_path_factory.mktemp("models")), "full")
    read_back(net, weights.path("fast.onnx"))
    return net.eval()


@pytest.mark.parametrize(("feedback", "graph"), [(True, False), (False, True), (True, True)])
def test_a_second_look_begins_as_nothing_and_is_learnt(shipped: Any, feedback: bool, graph: bool) -> None:
    """The same mesh at first; its loss reaches its own weights, and by feedback alone the dense features."""
    import torch

    from training.second_look import SecondLook

    torch.manual_seed(0)
    net, crops = SecondLook(shipped, feedback, graph).eval(), torch.rand(2, 3, 256, 256)
    with torch.no_grad():
        before, after = shipped(crops), net(crops)
    assert (before["vertices"] - after["vertices"]).abs().max() < 1e-3
    assert (before["visibility"] - after["visibility"]).abs().max() < 1e-4
    last = ([net.feedback.correction] if feedback else []) + ([net.graph.end] if graph else [])
    ends = [p for layer in last for p in layer.parameters()]
    for p in ends:
        torch.nn.init.normal_(p, std=0.05)
    dense = before["dense"].clone().requires_grad_(True)
    features = replace(net.features(crops), dense=dense)
    places = torch.rand(2, 500, 2) * 256
    inputs = net.lifting_inputs(features.summary.float(), places, -2 * torch.ones(2, 500)).detach()
    vertices, seen = net.corrected(features, inputs, places)
    assert (vertices - shipped.regression.without_bins(inputs, places)[0]).abs().mean() > 0.1
    (vertices.square().mean() + seen.square().mean()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in ends)
    assert (dense.grad is not None and bool(dense.grad.abs().sum() > 0)) == feedback


def test_a_correction_of_one_vertex_is_its_neighbours(shipped: Any) -> None:
    """With three blocks what is moved lies within three edges."""
    import torch

    from training.second_look import Graph

    torch.manual_seed(0)
    graph = Graph(256)
    torch.nn.init.normal_(graph.end.weight)
    mesh, code = torch.rand(1, 500, 3) * 256, torch.zeros(1, 256)
    flat = torch.zeros(1, 500)
    moved = mesh.clone()
    moved[0, 7] += 50
    with torch.no_grad():
        change = (graph(moved, flat, flat, code) - graph(mesh, flat, flat, code)).abs().amax((0, 2))
    reached = torch.linalg.matrix_power(graph.near, 3)[:, 7] > 0
    assert 10 < reached.sum() < 400
    assert (change[~reached] < 1e-5).all() and change[7] > 0.01


def test_other_fits_are_trained_on_and_not_judged_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The persons set apart keep their own vertices and are never trained on with others."""
    pytest.importorskip("torch")
    pytest.importorskip("tflite")
    from training import ablate
    from training.data import set_apart

    monkeypatch.setattr(ablate, "STEPS", 2)
    monkeypatch.setattr(ablate, "FROZEN", 1)
    people = people_in_noise(400)
    bare = [replace(p, vertices=None, visibility=None) for p in people]
    fits = ("none", [b if i % 2 else p for i, (p, b) in enumerate(zip(people, bare, strict=True))])
    setting = ablate.Setting(models_folder(tmp_path), fits=fits)
    chosen, apart = setting.trained_on(people)
    assert [id(p) for p in apart] == [id(p) for p in set_apart(people)[1]]
    assert not {p.jpeg for p in chosen} & {p.jpeg for p in apart}
    assert 0.4 < np.mean([p.vertices is None for p in chosen]) < 0.6
    found = ablate.run("with the regression and feedback", people, setting)
    assert found["variant"] == "with the regression and feedback, fits of none"
    assert found["people"] == len(chosen) and "renders depth" in found
    (tmp_path / "a.json").write_text(json.dumps(found))
    assert "fits of none" in ablate.table(tmp_path)
