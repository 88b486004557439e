# SPDX-License-Identifier: Apache-2.0
"""Two ideas that correct a mesh once it is there, for `training.ablate`: feedback and graph convolutions.

    net = SecondLook(MeshPoseNet(encoder), feedback=True, graph=True)
    net(crops)["vertices"]                     # as MeshPoseNet's, corrected

Both begin as nothing, behind the regression branch, and are trained along with the network.  No shipped file has them:
what they are worth is in training/README.md.
"""

from __future__ import annotations

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from meshpose.body import Body

from .branch import edges_of
from .model import CROP, Features, MeshPoseNet, fused


class Feedback(nn.Module):
    """A correction of the regression's code from the dense features at the projected vertices.

    Source: PyMAF, section 3.2 (mesh-aligned features, reduced point by point, then all together), one round of it.
    """

    def __init__(self, channels: int, vertices: int, code: int, each: int = 8, hidden: int = 256) -> None:
        super().__init__()
        self.points = nn.Sequential(nn.Linear(channels, 32), nn.ReLU(), nn.Linear(32, each))
        self.together = nn.Linear(vertices * each + code, hidden)
        self.correction = nn.Linear(hidden, code)
        nn.init.zeros_(self.correction.weight)
        nn.init.zeros_(self.correction.bias)

    def forward(self, dense: Tensor, mesh: Tensor, code: Tensor) -> Tensor:
        """dense (B, C, 64, 64), mesh (B, V, 3) crop px, code (B, K) -> (B, K); no gradient reaches the places."""
        places = (mesh[:, :, None, :2].detach() / CROP * 2 - 1).clamp(-1, 1)
        picked = functional.grid_sample(dense.float(), places, align_corners=False)[..., 0].transpose(1, 2)
        points = self.points(picked).flatten(1)
        return self.correction(functional.relu(self.together(torch.cat([points, code], 1))))


class Graph(nn.Module):
    """A correction of every vertex from its neighbours on the low-poly and the code of the whole.

    Source: GraphCMR (the thesis, chapter 2: graph convolutions, equation of Kipf and Welling, residual blocks).
    """

    def __init__(self, code: int, width: int = 64, blocks: int = 3) -> None:
        super().__init__()
        body = Body.load()
        edges = edges_of(torch.from_numpy(body.lowpoly_faces.astype("int64")))
        near = torch.eye(len(body.lowpoly))
        near[edges[:, 0], edges[:, 1]] = near[edges[:, 1], edges[:, 0]] = 1.0
        self.register_buffer("near", near / near.sum(1, keepdim=True))
        self.whole, self.begin = nn.Linear(code, width), nn.Linear(5, width)
        self.blocks = nn.ModuleList(
            nn.ModuleList([nn.Linear(width, width // 2), nn.Linear(width // 2, width)]) for _ in range(blocks)
        )
        self.end = nn.Linear(width, 4)
        nn.init.zeros_(self.end.weight)
        nn.init.zeros_(self.end.bias)

    def forward(self, mesh: Tensor, seen: Tensor, peaks: Tensor, code: Tensor) -> Tensor:
        """mesh (B, V, 3) crop px, logits and log peaks (B, V), code (B, K) -> (B, V, 4): x, y, z in crop sides, and
        logit."""
        told = torch.cat([mesh / CROP, seen[..., None] / 4, peaks[..., None] / 4], -1)
        x = self.begin(told) + self.whole(code)[:, None]
        for narrow, wide in self.blocks:  # type: ignore[misc]
            x = x + wide(functional.relu(self.near @ narrow(functional.relu(x))))
        return self.end(functional.relu(x))


class SecondLook(MeshPoseNet):
    """A trained or untrained network, the same tensors, with one or both of the corrections behind it."""

    def __init__(self, net: MeshPoseNet, feedback: bool, graph: bool) -> None:
        vertices = net.heat.out_channels
        super().__init__(net.encoder, vertices)
        self.load_state_dict(net.state_dict())
        code = self.regression.reduce.out_features
        self.feedback = Feedback(self.heat.in_channels, vertices, code) if feedback else None
        self.graph = Graph(code) if graph else None

    def corrected(self, features: Features, inputs: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """As `Regression.without_bins`: vertices (B, V, 3) crop px, visibility logits (B, V)."""
        branch = self.regression
        code = branch.code(inputs)
        regressed, seen = branch.spread_without_bins(code, positions)
        if self.feedback is not None:
            code = code + self.feedback(features.dense, fused(positions, regressed, seen.sigmoid()), code)
            regressed, seen = branch.spread_without_bins(code, positions)
        if self.graph is not None:
            mesh = fused(positions, regressed, seen.sigmoid())
            more = self.graph(mesh, seen, inputs[:, -positions.shape[1] :], code)
            regressed, seen = regressed + more[..., :3] * CROP, seen + more[..., 3]
        return regressed, seen

    def forward(self, crops: Tensor) -> dict[str, Tensor]:
        """As MeshPoseNet's."""
        features = self.features(crops)
        heat = self.heat(features.dense)
        mean, positions, peaks = self.localise(heat.float())
        inputs = self.lifting_inputs(features.summary.float(), mean, peaks)
        # Read as in the training, by equation 1's places; delivered with the gathered ones.
        regressed, seen = self.corrected(features, inputs, mean)
        regressed = torch.cat([regressed[..., :2] - mean + positions, regressed[..., 2:]], -1)
        mesh = self.fullness @ fused(positions, regressed, seen.sigmoid())
        return {"vertices": mesh, "visibility": seen.sigmoid(), "heat": heat, "dense": features.dense}
