# SPDX-License-Identifier: Apache-2.0
"""Networks from files: the untrained one, a run's checkpoint, an exported ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from google.protobuf.message import DecodeError
from onnx import numpy_helper
from torch import Tensor, nn

from .model import MeshPoseNet
from .pretrained import Encoder, fetch, read_tflite


class AnotherNetwork(ValueError):
    """A file that does not hold the network that it was read for."""


def build(models: Path, kind: str = "heavy") -> MeshPoseNet:
    """A network on the encoder of BlazePose `kind` (heavy or full), the new parts untrained."""
    net = MeshPoseNet(Encoder(read_tflite(fetch(models, kind)), kind))
    nn.init.normal_(net.heat.weight, std=0.01)
    nn.init.zeros_(net.heat.bias)
    return net


def load_net(file: Path, averaged: bool = True) -> MeshPoseNet:
    """The network of a checkpoint, its averaged weights by default."""
    state: dict[str, Any] = torch.load(file, weights_only=False, map_location="cpu")
    prefix = "encoder.weights."
    weights = {k.removeprefix(prefix): v.numpy() for k, v in state["net"].items() if k.startswith(prefix)}
    net = MeshPoseNet(Encoder.from_spec(state["encoder"], weights))
    load_fitting(net, state["net"] | (state["averaged"] if averaged else {}))
    return net.eval()


def load_fitting(net: MeshPoseNet, state: dict[str, Tensor]) -> None:
    """Load a state; what `training.lift` solves may be missing or of another size, and so may the overview, which older
    networks lack (it begins as nothing)."""
    own = net.state_dict()
    later = ("regression.", "score.", "fullness", "fuse.overview.")
    state = {k: v for k, v in state.items() if not k.startswith("auxiliary.")}  # of older checkpoints
    kept = {k: v for k, v in state.items() if not k.startswith(later) or (k in own and own[k].shape == v.shape)}
    wrong = [k for k in kept.keys() ^ own.keys() if not k.startswith(later)]
    wrong += [k for k in kept.keys() & own.keys() if own[k].shape != kept[k].shape]
    if wrong:
        raise AnotherNetwork(f"checkpoint does not fit this network: {', '.join(sorted(wrong)[:5])}")
    net.load_state_dict(kept, strict=False)


def read_back(net: MeshPoseNet, file: Path) -> None:
    """Set a network (in place) to the weights of an exported file, so that a training can go on from a shipped one.

    The exporter keeps the parameters' names, except for the features' mean and scale, which it folds into nameless
    constants of shape (C, 1, 1), in the order of use.  Raises AnotherNetwork.
    """
    try:
        initializers = onnx.load(str(file)).graph.initializer
    except DecodeError as error:
        raise AnotherNetwork(f"{file}: is no ONNX file") from error
    stored = {t.name: numpy_helper.to_array(t).astype(np.float32) for t in initializers}
    tensors = {k.removesuffix("/half"): torch.from_numpy(v.copy()) for k, v in stored.items()}
    state = {k.removeprefix("net."): v for k, v in tensors.items() if k.startswith("net.")}
    folded = [k for k in tensors if k.startswith("onnx::") and tensors[k].ndim == 3]
    nameless = sorted(folded, key=lambda k: int(k.split("_")[-1]))
    wanted = [f"{what}_{key}" for key in net.encoder.channels for what in ("mean", "scale")]
    if len(wanted) != len(nameless):
        raise AnotherNetwork(f"{file}: is no export of this network")
    state |= {name: tensors[k][:, 0, 0] for name, k in zip(wanted, nameless, strict=True)}
    try:
        load_fitting(net, state)
    except AnotherNetwork as error:
        raise AnotherNetwork(f"{file}: is no export of this network: {error}") from error
