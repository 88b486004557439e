# SPDX-License-Identifier: Apache-2.0
"""BlazePose's landmark network (TFLite, Apache-2.0, Google) as a torch encoder that can be fine-tuned.

    graph = read_tflite("pose_landmark_heavy.tflite")
    encoder = Encoder(graph, "heavy")          # forward (B, 3, 256, 256) RGB 0..1 -> the tensors of HEAVY, NCHW

The file is carried by the npm package `@mediapipe/pose@0.5.1675469404`.  Batch norm is folded into its convolutions and
the weights are stored as float16.  `Encoder.spec` (a JSON-able graph without weights) rebuilds the module from a
checkpoint, so the TFLite file is needed once.
"""

from __future__ import annotations

import subprocess
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as functional
from torch import Tensor, nn

PACKAGE = "@mediapipe/pose@0.5.1675469404"

HEAVY = {
    "fpn4": "add_25/add",  # 48 x 64 x 64, stride 4: top-down sum of all stages
    "down8": "add_33/add",  # 96 x 32 x 32: second way down
    "down16": "add_42/add",  # 192 x 16 x 16
    "down32": "add_51/add",  # 288 x 8 x 8
    "down128": "re_lu_151/Relu6",  # 288 x 2 x 2: what BlazePose's own landmarks are read from
}
"""Feature tensors of `pose_landmark_heavy` at 256 px, found by reading its graph."""

FULL = {
    "fpn4": "add_11/add",  # 48 x 64 x 64, stride 4: top-down sum of all stages
    "down8": "add_1/add",  # 32 x 32 x 32: there is one way down only, so these are its stages
    "down16": "add_5/add",  # 88 x 16 x 16
    "down32": "re_lu_31/Relu6",  # 864 x 8 x 8: what both the heatmaps and the landmarks of BlazePose begin with
    "down128": "re_lu_63/Relu6",  # 288 x 2 x 2: what BlazePose's own landmarks are read from
}
"""The tensors of `pose_landmark_full` in the same roles."""

OUTPUTS = {"heavy": HEAVY, "full": FULL}
STRIDE8 = {"heavy": "add_5/add", "full": "add_1/add"}
"""The end of the stride-8 stage of the (first) way down, by kind of encoder."""


@dataclass
class Graph:
    """Operations in order (kind, input names, output name, options) and the weights that they name."""

    input: str
    ops: list[dict[str, Any]]
    weights: dict[str, np.ndarray] = field(default_factory=dict)


def fetch(folder: Path, kind: str = "heavy") -> Path:
    """The TFLite file of the npm package, fetched by `npm pack` into `folder` when it is not there yet."""
    file = folder / f"pose_landmark_{kind}.tflite"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        archive = folder / "mediapipe-pose-0.5.1675469404.tgz"
        if not archive.exists():
            subprocess.run(["npm", "pack", PACKAGE], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        with tarfile.open(archive) as tar:
            member = tar.extractfile(f"package/{file.name}")
            if member is None:
                raise FileNotFoundError(f"{archive}: has no {file.name}")
            file.write_bytes(member.read())
    return file


def read_tflite(file: Path) -> Graph:
    """Read a float TFLite model whose constants are float16 behind DEQUANTIZE."""
    import tflite

    kinds = {v: k for k, v in vars(tflite.BuiltinOperator).items() if isinstance(v, int)}
    model = tflite.Model.GetRootAs(file.read_bytes(), 0)
    graph = model.Subgraphs(0)
    constants: dict[int, Any] = {}
    names: dict[int, str] = {}
    seen: dict[str, int] = {}
    for i in range(graph.TensorsLength()):
        tensor = graph.Tensors(i)
        base = tensor.Name().decode().split(";")[0].removeprefix("model_1/model/")
        seen[base] = seen.get(base, 0) + 1
        names[i] = base if seen[base] == 1 else f"{base}#{seen[base]}"
        buffer = model.Buffers(tensor.Buffer())
        if buffer.DataLength():
            dtype = {tflite.TensorType.FLOAT16: np.float16, tflite.TensorType.INT32: np.int32}.get(
                tensor.Type(), np.float32
            )
            constants[i] = np.frombuffer(buffer.DataAsNumpy().tobytes(), dtype).reshape(tensor.ShapeAsNumpy())
    out = Graph(names[int(graph.Inputs(0))], [])
    for i in range(graph.OperatorsLength()):
        op = graph.Operators(i)
        code = model.OperatorCodes(op.OpcodeIndex())
        kind = kinds[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]
        inputs, target = [int(v) for v in op.InputsAsNumpy()], int(op.OutputsAsNumpy()[0])
        if kind == "DEQUANTIZE":
            constants[target] = constants[inputs[0]].astype(np.float32)
            continue
        entry = _operation(tflite, kind, op, inputs, constants, out.weights)
        if entry is not None:
            sources = [names[j] for j in inputs if j not in constants]
            out.ops.append({"kind": kind, "inputs": sources, "output": names[target], **entry})
    return out


def _operation(
    tflite: Any, kind: str, op: Any, inputs: list[int], constants: dict, weights: dict
) -> dict[str, Any] | None:
    """Options of one operation; stores its weights.  None for operations behind the encoder (landmark heads)."""

    def options(cls: Any) -> Any:
        o = cls()
        o.Init(op.BuiltinOptions().Bytes, op.BuiltinOptions().Pos)
        return o

    if kind in ("CONV_2D", "DEPTHWISE_CONV_2D"):
        deep = kind == "DEPTHWISE_CONV_2D"
        o = options(tflite.DepthwiseConv2DOptions if deep else tflite.Conv2DOptions)
        weight = constants[inputs[1]].transpose((3, 0, 1, 2) if deep else (0, 3, 1, 2))
        weights[f"w{inputs[1]}"], weights[f"b{inputs[2]}"] = (
            np.ascontiguousarray(weight, np.float32),
            constants[inputs[2]],
        )
        return {
            "weight": f"w{inputs[1]}",
            "bias": f"b{inputs[2]}",
            "stride": [o.StrideH(), o.StrideW()],
            "same": o.Padding() == 0,
            "activation": o.FusedActivationFunction(),
            "groups": weight.shape[0] if deep else 1,
        }
    if kind == "MAX_POOL_2D":
        o = options(tflite.Pool2DOptions)
        return {"size": [o.FilterHeight(), o.FilterWidth()], "stride": [o.StrideH(), o.StrideW()]}
    if kind == "PAD":
        p = constants[inputs[1]].reshape(-1, 2).tolist()  # NHWC; torch pads from the last axis: W, H, C
        return {"pad": [*p[2], *p[1], *p[3]]}
    if kind == "RESIZE_BILINEAR":
        return {"size": [int(v) for v in constants[inputs[1]]]}
    if kind == "ADD":
        return {"activation": options(tflite.AddOptions).FusedActivationFunction()}
    return None


class Encoder(nn.Module):
    """The part of a Graph that some named tensors need, with its weights as parameters."""

    def __init__(self, graph: Graph, kind: str) -> None:
        """`kind` is a key of OUTPUTS: whose graph it is."""
        super().__init__()
        outputs = OUTPUTS[kind]
        self.kind = kind
        makers = {op["output"]: op for op in graph.ops}
        needed, stack = set(), list(outputs.values())
        while stack:
            name = stack.pop()
            if name in makers and name not in needed:
                needed.add(name)
                stack += makers[name]["inputs"]
        self.spec: dict[str, Any] = {
            "input": graph.input,
            "outputs": dict(outputs),
            "ops": [op for op in graph.ops if op["output"] in needed],
        }
        self.frozen_ops = 0
        used = {op[k] for op in self.spec["ops"] for k in ("weight", "bias") if k in op}
        self.weights = nn.ParameterDict(
            {k: nn.Parameter(torch.from_numpy(np.array(v, np.float32))) for k, v in graph.weights.items() if k in used}
        )
        self.channels = {key: self._channels(name) for key, name in outputs.items()}

    def _channels(self, tensor: str) -> int:
        """How many channels a tensor of the graph has."""
        if tensor == self.spec["input"]:
            return 3
        op = next(op for op in self.spec["ops"] if op["output"] == tensor)
        if "weight" in op:
            return len(self.weights[op["weight"]])
        return self._channels(op["inputs"][0]) + sum(op.get("pad", [])[4:])

    def freeze_to_stride8(self) -> None:
        """No gradient for the operations up to the end of stride 8 (edges and textures need no tuning)."""
        self.frozen_ops = 1 + [op["output"] for op in self.spec["ops"]].index(STRIDE8[self.kind])

    def trainable(self) -> list[str]:
        """Names of the weights and biases that training may move: all behind the frozen stages."""
        return [op[k] for op in self.spec["ops"][self.frozen_ops :] if "weight" in op for k in ("weight", "bias")]

    @staticmethod
    def from_spec(spec: dict[str, Any], weights: dict[str, np.ndarray]) -> Encoder:
        """The encoder of a checkpoint; which one it is, its tensors' names tell."""
        kind = next((k for k, outputs in OUTPUTS.items() if outputs == spec["outputs"]), None)
        if kind is None:
            raise ValueError("the checkpoint's encoder is none that this version knows")
        return Encoder(Graph(spec["input"], spec["ops"], weights), kind)

    def forward(self, picture: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) RGB 0..1, H and W multiples of 128 -> the named feature tensors, NCHW."""
        value = {self.spec["input"]: picture}
        grad = torch.is_grad_enabled()
        for i, op in enumerate(self.spec["ops"]):
            with torch.set_grad_enabled(grad and i >= self.frozen_ops):
                value[op["output"]] = self._operate(op, [value[name] for name in op["inputs"]])
        return {key: value[name] for key, name in self.spec["outputs"].items()}

    def _operate(self, op: dict[str, Any], inputs: list[Tensor]) -> Tensor:
        x, kind = inputs[0], op["kind"]
        if kind in ("CONV_2D", "DEPTHWISE_CONV_2D"):
            weight, padding = self.weights[op["weight"]], (0, 0)
            if op["same"]:
                (top, bottom), (left, right) = (
                    same_padding(x.shape[2 + i], weight.shape[2 + i], op["stride"][i]) for i in (0, 1)
                )
                if top == bottom and left == right:
                    padding = (top, left)
                else:  # SAME with stride 2 pads only right and below
                    x = functional.pad(x, (left, right, top, bottom))
            x = self._convolve(x, weight, self.weights[op["bias"]], op, padding)
        elif kind == "ADD":
            x = inputs[0] + inputs[1]
        elif kind == "PAD":
            return functional.pad(x, op["pad"])
        elif kind == "MAX_POOL_2D":
            return functional.max_pool2d(x, tuple(op["size"]), tuple(op["stride"]))
        elif kind == "RESIZE_BILINEAR":  # always doubles, half-pixel centres
            return doubled(x)
        else:
            raise ValueError(f"operation {kind} is not part of an encoder")
        return activated(x, op["activation"])

    def _convolve(
        self, x: Tensor, weight: Tensor, bias: Tensor, op: dict[str, Any], padding: tuple[int, int]
    ) -> Tensor:
        """The convolution; in training by bfloat16 a depthwise one of stride 2 is done at stride 1 and thinned out,
        because its backward pass is many times slower on a CPU than that of stride 1."""
        stride = tuple(op["stride"])
        slow = op["groups"] > 1 and stride == (2, 2) and torch.is_autocast_enabled("cpu")
        if slow and self.training and torch.is_grad_enabled():
            return functional.conv2d(x, weight, bias, 1, padding, 1, op["groups"])[:, :, ::2, ::2]
        return functional.conv2d(x, weight, bias, stride, padding, 1, op["groups"])


def doubled(x: Tensor) -> Tensor:
    """Twice as high and wide, bilinear about the pixels' centres; for ONNX Runtime, whose Resize takes up to 5 % of the
    network's time, as two products with fixed matrices."""
    if not torch.onnx.is_in_onnx_export():
        return functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
    rows, columns = (
        functional.interpolate(torch.eye(int(n))[None], scale_factor=2, mode="linear", align_corners=False)[0]
        for n in x.shape[2:]
    )  # (n, 2n): what each pixel gives
    return rows.T @ (x @ columns)


def activated(x: Tensor, code: int) -> Tensor:
    """TFLite's fused activation: 0 none, 1 ReLU, 3 ReLU6; in place, for x is always a fresh result."""
    if code == 1:
        return functional.relu_(x)
    return functional.hardtanh_(x, 0.0, 6.0) if code == 3 else x


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """TFLite's SAME padding (before, after) of one axis."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2
