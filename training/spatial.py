# SPDX-License-Identifier: Apache-2.0
"""Equation 1 and the heatmaps' cross-entropy as one operation with its own backward pass.

Written out in torch, log-softmax, argsoftmax and the four gathers of the cross-entropy make about twenty passes over a
(B, R, 4096) float32 tensor forwards and backwards, half of a training step on a CPU.  In closed form it is two:

    d position / d score_c = p_c (cell_c - position)        d cross-entropy / d score_c = p_c - share_c
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .model import CELLS, STRIDE, target_cells

LEAST_PEAK = math.log(1e-6)
"""As `MeshPoseNet.localise` has it."""


class _Localised(torch.autograd.Function):
    """(B, 4096, R) scores, cells and shares (B, 4, R) -> positions (B, R, 2), cross-entropy (B, R), the logarithm of
    each map's peak (B, R), which has no gradient.

    The vertices lie innermost, as a 1x1 convolution in channels_last leaves them.
    """

    @staticmethod
    def forward(ctx: Any, scores: Tensor, cells: Tensor, shares: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        axis = (torch.arange(CELLS, dtype=torch.float32, device=scores.device) + 0.5) * STRIDE
        grid = torch.stack([axis.repeat(CELLS), axis.repeat_interleave(CELLS)])
        count, _, rows = scores.shape
        positions = scores.new_empty((count, 2, rows), dtype=torch.float32)
        entropy = scores.new_empty((count, rows), dtype=torch.float32)
        peaks = torch.empty_like(entropy)
        kept = torch.empty_like(scores)
        for b, score in enumerate(scores):  # a picture at a time stays in the cache
            score = score.float()
            p = score.softmax(0)
            positions[b] = grid @ p
            peak = p.amax(0).log()
            log_total = score.amax(0) - peak
            peaks[b] = peak.clamp(min=LEAST_PEAK)
            entropy[b] = (shares[b] * (log_total - score.gather(0, cells[b]))).sum(0)
            kept[b] = p
        ctx.save_for_backward(kept, cells, shares, positions, axis)
        ctx.mark_non_differentiable(peaks)
        return positions.transpose(1, 2), entropy, peaks

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        kept, cells, shares, positions, axis = ctx.saved_tensors
        place, entropy = grads[0].transpose(1, 2), grads[1]
        out = torch.empty_like(kept)
        level = entropy - (place * positions).sum(1)
        for b, p in enumerate(kept):
            along_x = axis[:, None] * place[b, 0] + level[b]  # (64, R)
            slope = along_x + (axis[:, None] * place[b, 1])[:, None]  # (64 y, 64 x, R)
            slope = slope.flatten(0, 1).mul_(p)
            slope.scatter_add_(0, cells[b], -entropy[b] * shares[b])
            out[b] = slope
        return out, None, None


def localised(scores: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Scores (B, 4096, R) and true places (B, R, 2) crop px -> argsoftmax (B, R, 2) crop px (equation 1), each map's
    cross-entropy with its true place (B, R) and, without a gradient, the logarithm of its peak (B, R); all float32."""
    cells, shares = target_cells(target)
    positions, entropy, peaks = _Localised.apply(scores, cells.transpose(1, 2), shares.transpose(1, 2))
    return positions, entropy, peaks


def peaks_of(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Scores (B, 4096, R) -> argsoftmax (B, R, 2) crop px and the logarithm of each map's peak (B, R), float32; as
    `MeshPoseNet.localise`, a picture at a time, without a gradient."""
    axis = (torch.arange(CELLS, dtype=torch.float32, device=scores.device) + 0.5) * STRIDE
    grid = torch.stack([axis.repeat(CELLS), axis.repeat_interleave(CELLS)])
    places, peaks = [], []
    for score in scores:
        p = score.float().softmax(0)
        places.append((grid @ p).T)
        peaks.append(p.amax(0).log().clamp(min=LEAST_PEAK))
    return torch.stack(places), torch.stack(peaks)
