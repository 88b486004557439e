# SPDX-License-Identifier: Apache-2.0
"""Writes a trained network as the ONNX file that the product runs, and checks it against torch.

    python -m training.export RUN/lifted.pt weights/accurate.onnx

Outputs: vertices (n, V, 3) crop px, visibility (n, V), score (n,); for the IUV of equation 2 the scores S
(n, V, 64, 64) and the mask (n, 64, 64).  Weights are stored as float16 and cast to float32 when the file is loaded
(biases stay float32: a fine-tuned encoder is sensitive there).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from meshpose.crop import CROP

from .checkpoint import load_net
from .model import MeshPoseNet

OUTPUTS = ["vertices", "visibility", "score", "scores", "mask"]


class Exported(nn.Module):
    """The network's outputs in the order of OUTPUTS.

    Equation 2 is left to `meshpose.network`: ONNX Runtime computes every branch of a graph whether it is asked for or
    not, and a softmax over the vertices and an argmax over the faces of every pixel double the time of a person.
    """

    def __init__(self, net: MeshPoseNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, crop: Tensor) -> tuple[Tensor, ...]:
        out = self.net(crop)
        mask = self.net.mask(out["dense"]).sigmoid()[:, 0]
        return out["vertices"], out["visibility"], out["score"], out["heat"], mask


def store_as_half(model: onnx.ModelProto, least: int = 256) -> onnx.ModelProto:
    """Float32 weights of two or more axes and at least `least` numbers become float16 with a Cast behind them."""
    graph, casts = model.graph, []
    for tensor in list(graph.initializer):
        value = numpy_helper.to_array(tensor)
        if value.dtype != np.float32 or value.ndim < 2 or value.size < least:
            continue
        half = numpy_helper.from_array(value.astype(np.float16), tensor.name + "/half")
        graph.initializer.remove(tensor)
        graph.initializer.append(half)
        casts.append(helper.make_node("Cast", [half.name], [tensor.name], to=TensorProto.FLOAT))
    for node in reversed(casts):
        graph.node.insert(0, node)
    onnx.checker.check_model(model)
    return model


def without_pads(model: onnx.ModelProto) -> onnx.ModelProto:
    """Zeros laid around a convolution's input become its own padding, which in ONNX, unlike in torch, may differ from
    side to side; with the changes of memory layout that they cost they are 7 % of the network's time."""
    graph = model.graph
    users: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    pads = [n for n in graph.node if n.op_type == "Pad" and [u.op_type for u in users[n.output[0]]] == ["Conv"]]
    for node, widths in zip(pads, values_of(model, [n.input[1] for n in pads]), strict=True):
        (convolution,) = users[node.output[0]]
        if widths[[0, 1, 4, 5]].any():
            raise ValueError(f"{node.name} lays channels or pictures around, which no convolution does")
        own = next(a for a in convolution.attribute if a.name == "pads").ints
        own[:] = [a + int(b) for a, b in zip(own, widths[[2, 3, 6, 7]], strict=True)]
        convolution.input[0] = node.input[0]
        graph.node.remove(node)
    return without_the_unused(model)


def values_of(model: onnx.ModelProto, names: list[str]) -> list[np.ndarray]:
    """The values of integer tensors that no input changes."""
    asked = onnx.ModelProto()
    asked.CopyFrom(model)
    del asked.graph.output[:]
    asked.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.INT64, None) for name in names)
    session = onnxruntime.InferenceSession(asked.SerializeToString(), providers=["CPUExecutionProvider"])
    fed = {i.name: np.zeros((1, 3, CROP, CROP), np.float32) for i in session.get_inputs()}
    values: list[np.ndarray] = session.run(names, fed)
    return values


def without_the_unused(model: onnx.ModelProto) -> onnx.ModelProto:
    """Nodes and initializers that no output needs are taken away."""
    graph = model.graph
    while True:
        needed = {name for node in graph.node for name in node.input} | {out.name for out in graph.output}
        unused = [node for node in graph.node if needed.isdisjoint(node.output)]
        if not unused:
            break
        for node in unused:
            graph.node.remove(node)
    for tensor in [t for t in graph.initializer if t.name not in needed]:
        graph.initializer.remove(tensor)
    return model


def export(net: MeshPoseNet, file: Path) -> None:
    """Write the ONNX file."""
    module = Exported(net.float().eval().to(memory_format=torch.contiguous_format))
    part = file.with_suffix(".part")
    torch.onnx.export(
        module,
        (torch.rand(1, 3, CROP, CROP),),
        str(part),
        input_names=["crop"],
        output_names=OUTPUTS,
        opset_version=17,
        dynamo=False,
        dynamic_axes={k: {0: "n"} for k in ["crop", *OUTPUTS]},
    )
    model = store_as_half(without_pads(onnx.load(str(part))))
    part.unlink()
    onnx.save(model, str(file))


def check(net: MeshPoseNet, file: Path, crops: Tensor) -> dict[str, float]:
    """Largest and mean difference of the file's vertices from torch on crops (n, 3, 256, 256), px."""
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    got = session.run(["vertices"], {"crop": crops.numpy()})[0]
    with torch.no_grad():
        want = net.eval()(crops)["vertices"].numpy()
    distance = np.linalg.norm(got - want, axis=-1)
    return {"mean px": float(distance.mean()), "max px": float(distance.max()), "MB": file.stat().st_size / 1e6}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("file", type=Path)
    a = parser.parse_args()
    net = load_net(a.checkpoint, averaged=False)
    export(net, a.file)
    torch.manual_seed(0)
    smooth = torch.nn.functional.interpolate(torch.rand(4, 3, 9, 9), size=256, mode="bicubic").clamp(0, 1)
    print({k: round(v, 4) for k, v in check(net, a.file, smooth).items()})


if __name__ == "__main__":
    main()
