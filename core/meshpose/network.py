# SPDX-License-Identifier: Apache-2.0
"""The network: crops in, low-poly vertices and their visibility out (ONNX Runtime on the CPU).

    net = Network("accurate")
    prediction = net(crops)                    # crops (n, 256, 256, 3) uint8 BGR, as Crop.warp makes them
    prediction.vertices                        # (n, 500, 3) crop pixels

Sources: MeshPose, equation 1 (argsoftmax, behind it one step of mean shift) and equation 5 (fusion), both inside the
ONNX graph; equation 2 (IUV).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from . import weights
from .body import Body
from .crop import CROP
from .session import open_session


@dataclass(frozen=True)
class Prediction:
    """What the network says of n crops.

    vertices (n, V, 3) float32: x, y crop pixels (centres at +0.5), z crop pixels away from the camera, mid-hips = 0.
    visibility (n, V) float32: 0 guessed (hidden or outside of the crop) to 1 seen.
    score (n,) float32: 0..1, how much the crop looks like a person whose mesh was found.
    """

    vertices: np.ndarray
    visibility: np.ndarray
    score: np.ndarray


class Network:
    """One ONNX session.  `model` is one of `weights.models()`, `threads` those of one operator.

    Raises InputError for another model, WeightsError for a damaged file.
    """

    def __init__(self, model: str = weights.DEFAULT, threads: int = 2) -> None:
        self._session = open_session(weights.model_file(model), threads)
        self.model = model

    def __call__(self, crops: np.ndarray) -> Prediction:
        """crops (n, 256, 256, 3) uint8 BGR -> Prediction."""
        return Prediction(*self._run(["vertices", "visibility", "score"], crops))

    def iuv(self, crops: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Per pixel of a 64 x 64 grid over the crop (equation 2): which point of the low-poly surface is seen there.

        crops (n, 256, 256, 3) uint8 BGR -> faces (n, 64, 64) int64 (rows of Body.lowpoly_faces), barycentric
        (n, 64, 64, 3) float32, mask (n, 64, 64) float32 (probability of the person).
        """
        scores, mask = self._run(["scores", "mask"], crops)
        corners = Body.load().lowpoly_faces
        faces = np.empty(mask.shape, np.int64)
        barycentric = np.empty((*mask.shape, 3), np.float32)
        for i, s in enumerate(scores):
            q = np.exp(s - s.max(0))  # the posterior over the vertices, up to a factor that cancels
            total = q[corners[:, 0]] + q[corners[:, 1]] + q[corners[:, 2]]
            faces[i] = total.argmax(0)
            chosen = np.take_along_axis(q, corners[faces[i]].transpose(2, 0, 1), 0)
            barycentric[i] = (chosen / chosen.sum(0)).transpose(1, 2, 0)
        return faces, barycentric, mask

    def _run(self, names: list[str], crops: np.ndarray) -> list[np.ndarray]:
        if crops.ndim != 4 or crops.shape[1:] != (CROP, CROP, 3) or crops.dtype != np.uint8:
            raise ValueError(f"crops are (n, {CROP}, {CROP}, 3) uint8, not {crops.shape} {crops.dtype}")
        rgb = np.ascontiguousarray(crops[..., ::-1].transpose(0, 3, 1, 2), np.float32) / 255
        return list(self._session.run(names, {"crop": rgb}))
