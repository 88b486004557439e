# SPDX-License-Identifier: Apache-2.0
"""The network as pure modules: encoder, VertexPose heatmaps, regression branch, fusion (MeshPose, sections 3 and C).

    net = MeshPoseNet(encoder, vertices=500)
    found = net(crops)                         # crops (B, 3, 256, 256) RGB 0..1
    found["vertices"]                          # (B, 500, 3) crop px
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from .pretrained import Encoder, doubled

CROP, CELLS = 256, 64
STRIDE = CROP / CELLS
BINS = 64
NEAR = 40.0
"""Standard deviation in crop px of the window within which `gathered` looks around a first answer."""
RANGES = ((-1.0, 2.0), (-1.0, 3.0), (-2.0, 2.0))
"""X, Y, Z ranges of the regression in crop sides (C.2.1); the long Y range is for legs below a close-up."""

DENSE = ("fpn4", "down8", "down16", "down32")
"""The encoder's tensors that the heatmaps are made from, fine to coarse."""
CONTEXT = {"heavy": 0, "full": 64}
"""Width of the blocks that give `Fuse` the context that an encoder with one way down lacks (0: none)."""
BRANCH = {"heavy": (384, 768), "full": (256, 512)}
"""Code and hidden width of the regression: what remains for it in a file of 14 MB."""


@dataclass
class Features:
    """dense (B, 256, 64, 64), the stride-4 tensor F of C.1; summary (B, S), standardised pooled features."""

    dense: Tensor
    summary: Tensor


class Context(nn.Module):
    """A residual bottleneck: 1x1 down to `width`, 3x3, 1x1 up; it begins as the identity."""

    def __init__(self, hidden: int, width: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(hidden, width, 1)
        self.around = nn.Conv2d(width, width, 3, padding=1)
        self.up = nn.Conv2d(width, hidden, 1)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.up(functional.relu(self.around(functional.relu(self.down(functional.relu(x))))))


class Mix(nn.Module):
    """A linear map of the channels of tokens (B, inputs, T); unlike nn.Linear's its weight keeps its name in ONNX."""

    def __init__(self, inputs: int, outputs: int, zero: bool = False) -> None:
        super().__init__()
        spread = 0.0 if zero else inputs**-0.5
        self.weight = nn.Parameter(torch.randn(outputs, inputs) * spread)
        self.bias = nn.Parameter(torch.zeros(outputs, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight @ x + self.bias


def normalised(x: Tensor) -> Tensor:
    """Tokens (B, C, T) with mean 0 and variance 1 over their channels (a layer norm; the maps behind it scale)."""
    x = x.float()
    centred = x - x.mean(1, keepdim=True)
    return centred * (centred.square().mean(1, keepdim=True) + 1e-5).rsqrt()


class Attention(nn.Module):
    """One block of a transformer over tokens (B, width, T), 32 channels a head."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = width // 32
        self.ask, self.answer = Mix(width, 3 * width), Mix(width, width)
        self.widen, self.narrow = Mix(width, 2 * width), Mix(2 * width, width)
        with torch.no_grad():
            self.answer.weight.mul_(0.3)
            self.narrow.weight.mul_(0.3)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.ask(normalised(x)).unflatten(1, (3, self.heads, 32)).unbind(1)
        share = (query.transpose(2, 3) @ key * 32**-0.5).float().softmax(-1)  # (B, heads, T asks, T answers)
        x = x + self.answer((value @ share.to(value.dtype).transpose(2, 3)).flatten(1, 2))
        return x + self.narrow(functional.relu(self.widen(normalised(x))))


class Overview(nn.Module):
    """Attention over the 8 x 8 cells and the encoder's last 2 x 2: which side is which, and whose limb it is, shows
    only in the whole picture.

    Answers what is added to the cells, and a factor for each channel of the stride-4 tensor; it begins with 0 and 1.
    """

    def __init__(self, last: int, hidden: int, width: int = 192, blocks: int = 2) -> None:
        super().__init__()
        self.cells, self.last = Mix(hidden, width), Mix(last, width)
        self.place = nn.Parameter(torch.randn(width, 8 * 8 + 2 * 2) * 0.3)
        self.blocks = nn.ModuleList(Attention(width) for _ in range(blocks))
        self.addition, self.factor = Mix(width, hidden, zero=True), Mix(width, hidden, zero=True)

    def forward(self, cells: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
        """(B, hidden, 8, 8), (B, last, 2, 2) -> (B, hidden, 8, 8), (B, hidden, 1, 1)."""
        tokens = torch.cat([self.cells(normalised(cells.flatten(2))), self.last(normalised(last.flatten(2)))], 2)
        tokens = tokens + self.place
        for block in self.blocks:
            tokens = block(tokens)
        tokens = normalised(tokens)
        factor = 1 + self.factor(tokens[:, :, 64:].mean(2, keepdim=True))
        return self.addition(tokens[:, :, :64]).unflatten(2, (8, 8)), factor[..., None]


class Fuse(nn.Module):
    """Laterals of all stages, 1x1 to 256 channels each, brought to 64 x 64, summed, ReLU (C.1).

    The coarsest sum is corrected by an Overview; with `context` every sum above stride 4 passes a Context block of that
    width.
    """

    def __init__(self, channels: dict[str, int], hidden: int = 256, context: int = 0) -> None:
        super().__init__()
        self.lateral = nn.ModuleDict({k: nn.Conv2d(channels[k], hidden, 1) for k in DENSE})
        self.context = nn.ModuleDict({k: Context(hidden, context) for k in DENSE[1:] if context})
        self.overview = Overview(channels["down128"], hidden)

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        total = self.lateral[DENSE[-1]](features[DENSE[-1]])
        addition, factor = self.overview(total, features["down128"])
        total = self._around(DENSE[-1], total + addition)
        for key in reversed(DENSE[:-1]):  # coarse to fine: only one sum is made at 64 x 64
            total = self._around(key, doubled(total) + self.lateral[key](features[key]))
        return functional.relu(total * factor.to(total.dtype))

    def _around(self, key: str, total: Tensor) -> Tensor:
        return self.context[key](total) if key in self.context else total


class Bins(nn.Module):
    """One coordinate of C.2.1: a linear map of the features to V, spread over 64 bins, argsoftmax over the bins.

    The paper's two 1D convolutions (1 -> 64 along the bins, C -> V along the channels) are a rank-one map from
    mean to bins: logits[v, b] = mean[v] * slope[b] + offset[b].  With slope = c / s^2 and offset = -c^2 / (2 s^2) for
    bin centres c this is a Gaussian around the mean, so that a mean that was solved in closed form is kept exactly
    (inside of the range), and everything can still be trained.
    """

    def __init__(self, inputs: int, vertices: int, low: float, high: float) -> None:
        super().__init__()
        width = (high - low) / BINS
        centres = low + (torch.arange(BINS) + 0.5) * width
        self.mean = nn.Linear(inputs, vertices)
        self.register_buffer("centres", centres)
        self.slope = nn.Parameter(centres / width**2)
        self.offset = nn.Parameter(-(centres**2) / (2 * width**2))
        nn.init.zeros_(self.mean.weight)
        nn.init.zeros_(self.mean.bias)

    def forward(self, x: Tensor, base: Tensor | float = 0.0) -> Tensor:
        """(B, inputs) -> (B, V) in crop sides; `base` (B, V) is what the mean corrects."""
        logits = (self.mean(x) + base)[..., None] * self.slope + self.offset
        return (logits.softmax(-1) * self.centres).sum(-1)


class Regression(nn.Module):
    """X, Y, Z of every vertex, seen or not, and its visibility (C.2.1, equations 8 to 11).

    `reduce` brings the features to a small code (a body has far fewer degrees of freedom than coordinates), residual
    `blocks` correct it, the bins spread it over the vertices.  X and Y correct the heatmaps' own answer: where nothing
    better is known, a hidden vertex stays where its heatmap has it.
    """

    def __init__(self, inputs: int, vertices: int, code: int = 384, hidden: int = 768, blocks: int = 2) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(inputs))
        self.register_buffer("scale", torch.ones(inputs))
        self.reduce = nn.Linear(inputs, code)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.ReLU(), nn.Linear(code, hidden), nn.ReLU(), nn.Linear(hidden, code)) for _ in range(blocks)
        )
        for block in self.blocks:
            nn.init.zeros_(block[3].weight)
            nn.init.zeros_(block[3].bias)
        self.axes = nn.ModuleList(Bins(code, vertices, low, high) for low, high in RANGES)
        self.visibility = nn.Linear(code, vertices)

    def code(self, x: Tensor) -> Tensor:
        """(B, inputs) -> (B, code)."""
        h = self.reduce((x - self.mean) * self.scale)
        for block in self.blocks:
            h = h + block(h)
        return h

    def forward(self, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, inputs), positions (B, V, 2) crop px -> vertices (B, V, 3) in crop px, visibility logits (B, V)."""
        return self.spread(self.code(x), positions)

    def spread(self, h: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """The second half of `forward`: from the code (B, code)."""
        base = (positions[..., 0] / CROP, positions[..., 1] / CROP, 0.0)
        return torch.stack([axis(h, b) for axis, b in zip(self.axes, base, strict=True)], -1) * CROP, self.visibility(h)

    def without_bins(self, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """The same inside of the bins' range, at a tenth of the cost: what training computes."""
        return self.spread_without_bins(self.code(x), positions)

    def spread_without_bins(self, h: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """The second half of `without_bins`: from the code (B, code)."""
        base = torch.cat([positions / CROP, torch.zeros_like(positions[..., :1])], -1)
        return (torch.stack([axis.mean(h) for axis in self.axes], -1) + base) * CROP, self.visibility(h)


def gathered(p: Tensor, first: Tensor) -> Tensor:
    """Probabilities (..., 64, 64), a first answer (..., 2) crop px -> the mean of what lies near it (..., 2) crop px.

    One step of mean shift.  Equation 1's mean is drawn away by whatever is far off, a second limb above all.  On
    persons set apart the distances fall by 1 % (photographs) and 2 % (renders), the share of vertices within 15 px
    rises from 0.772 to 0.779 and from 0.613 to 0.629; narrower windows and more steps give no more.
    """
    cells = (torch.arange(CELLS, dtype=p.dtype, device=p.device) + 0.5) * STRIDE
    near = torch.exp(-((cells - first[..., None]) ** 2) / (2 * NEAR**2))  # (..., 2, 64)
    across, down = near[..., 0, :], near[..., 1, :]
    rows = p @ torch.stack([across, across * cells], -1)  # (..., 64 y, 2)
    mass = (rows[..., 0] * down).sum(-1).clamp(min=1e-9)
    return torch.stack([(rows[..., 1] * down).sum(-1), (rows[..., 0] * down * cells).sum(-1)], -1) / mass[..., None]


def target_cells(target: Tensor) -> tuple[Tensor, Tensor]:
    """The four cells around points (B, R, 2) crop px, and the bilinear share of each: two (B, R, 4).

    The shares have the point as their mean, so that the cross-entropy with them and the argsoftmax agree.
    """
    place = (target / STRIDE - 0.5).clamp(0, CELLS - 1.001)
    low = place.floor()
    part, low = place - low, low.long()
    x, y = part[..., 0], part[..., 1]
    cell = low[..., 1] * CELLS + low[..., 0]
    cells = torch.stack([cell, cell + 1, cell + CELLS, cell + CELLS + 1], -1)
    shares = torch.stack([(1 - x) * (1 - y), x * (1 - y), (1 - x) * y, x * y], -1)
    return cells, shares


class MeshPoseNet(nn.Module):
    """Encoder, VertexPose (heatmaps, mask) and the regression branch.

    The regression reads the encoder's summary and the heatmaps' own answer (positions and peaks), as a lifting network
    does.
    """

    def __init__(self, encoder: Encoder, vertices: int = 500, hidden: int = 256) -> None:
        super().__init__()
        self.encoder = encoder
        self.fuse = Fuse(encoder.channels, hidden, CONTEXT[encoder.kind])
        self.heat = nn.Conv2d(hidden, vertices, 1)
        self.mask = nn.Conv2d(hidden, 1, 1)
        self.summary_size = 4 * encoder.channels["down128"]
        self.regression = Regression(self.summary_size + 3 * vertices, vertices, *BRANCH[encoder.kind])
        judged = self.summary_size + vertices + self.regression.reduce.out_features + vertices
        self.score = nn.Linear(judged, 1)
        self.register_buffer("fullness", torch.eye(vertices))
        for key, count in encoder.channels.items():
            self.register_buffer(f"mean_{key}", torch.zeros(count))
            self.register_buffer(f"scale_{key}", torch.ones(count))
        cells = (torch.arange(CELLS) + 0.5) * STRIDE
        self.register_buffer("cells", cells)

    @torch.no_grad()
    def standardise(self, batches: list[Tensor]) -> None:
        """Set the per-channel mean and scale of the encoder's features from some crops."""
        found: dict[str, list[Tensor]] = {k: [] for k in self.encoder.channels}
        for crops in batches:
            for key, x in self.encoder(crops).items():
                found[key].append(x.float().transpose(0, 1).flatten(1))
        for key, values in found.items():
            x = torch.cat(values, 1)
            getattr(self, f"mean_{key}").copy_(x.mean(1))
            getattr(self, f"scale_{key}").copy_(1 / (x.std(1) + 1e-3))

    def features(self, crops: Tensor) -> Features:
        """(B, 3, 256, 256) RGB 0..1 -> Features."""
        return self.fused_features(self.encoder(crops))

    def fused_features(self, raw: dict[str, Tensor]) -> Features:
        """The encoder's tensors -> Features."""
        x = {
            k: (v - getattr(self, f"mean_{k}")[:, None, None]) * getattr(self, f"scale_{k}")[:, None, None]
            for k, v in raw.items()
        }
        return Features(self.fuse(x), x["down128"].flatten(1))

    def heatmaps(self, dense: Tensor, rows: Tensor) -> Tensor:
        """(B, 256, 64, 64) -> scores S (B, 4096, R) of some rows, but for each map's bias, which the softmax over the
        picture ignores."""
        cells = dense.permute(0, 2, 3, 1).flatten(1, 2)  # (B, 4096, C); no copy in channels_last
        return cells @ self.heat.weight[rows, :, 0, 0].T

    def scores_at(self, dense: Tensor, points: Tensor) -> Tensor:
        """Scores s of all vertices at points (B, P, 2) crop px, bilinear: (B, P, V)."""
        cells, shares = target_cells(points)
        rows = dense.permute(0, 2, 3, 1).flatten(1, 2)  # (B, 4096, C); no copy in channels_last
        picked = rows.gather(1, cells.flatten(1)[..., None].expand(-1, -1, rows.shape[-1])).float()
        x = (picked.unflatten(1, cells.shape[1:]) * shares[..., None]).sum(2)
        return torch.einsum("bpc,vc->bpv", x, self.heat.weight[:, :, 0, 0].float()) + self.heat.bias.float()

    def localise(self, heat: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Written for export: scores S (B, V, 64, 64) -> equation 1 and what is `gathered` around it, both (B, V, 2)
        crop px, and the log of the peak (B, V)."""
        p = heat.flatten(2).softmax(-1)
        x, y = self.cells.repeat(CELLS), self.cells.repeat_interleave(CELLS)
        mean = p @ torch.stack([x, y], -1)
        return mean, gathered(p.unflatten(2, (CELLS, CELLS)), mean), p.amax(-1).clamp(min=1e-6).log()

    @staticmethod
    def lifting_inputs(summary: Tensor, positions: Tensor, peaks: Tensor) -> Tensor:
        """What the regression reads: (B, S), (B, V, 2), (B, V) -> (B, S + 3V)."""
        return torch.cat([summary, positions.flatten(1) / CROP, peaks], 1)

    def forward(self, crops: Tensor) -> dict[str, Tensor]:
        """(B, 3, 256, 256) RGB 0..1 -> vertices (B, V, 3) crop px, visibility (B, V), score (B,), heat (B, V, 64, 64)
        and dense (B, 256, 64, 64)."""
        features = self.features(crops)
        heat = self.heat(features.dense)
        return {**self.answer(features.summary, heat), "heat": heat, "dense": features.dense}

    def answer(self, summary: Tensor, heat: Tensor) -> dict[str, Tensor]:
        """Summary (B, S) and scores S (B, V, 64, 64) -> vertices (B, V, 3) crop px, visibility (B, V), score (B,) and
        score_inputs (B, n), what it is made from."""
        mean, positions, peaks = self.localise(heat)
        inputs = self.lifting_inputs(summary, mean, peaks)
        code = self.regression.code(inputs)
        regressed, seen = self.regression.spread(code, positions)
        visibility = seen.sigmoid()
        judged = torch.cat([summary, peaks, code, visibility], 1)
        mesh = self.fullness @ fused(positions, regressed, visibility)
        score = self.score(judged).sigmoid()[:, 0]
        return {"vertices": mesh, "visibility": visibility, "score": score, "score_inputs": judged}


def fused(positions: Tensor, regressed: Tensor, visibility: Tensor) -> Tensor:
    """Equation 5: (B, V, 2), (B, V, 3), (B, V) 0..1 -> (B, V, 3)."""
    w = visibility[..., None]
    return torch.cat([positions * w + regressed[..., :2] * (1 - w), regressed[..., 2:]], -1)
