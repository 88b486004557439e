# SPDX-License-Identifier: Apache-2.0
"""The losses of MeshPose (sections 3.1.2, 3.2.4) on the samples of `training.data`.  All positions in crop px."""

from __future__ import annotations

import torch
import torch.nn.functional as functional
from torch import Tensor

from .model import CROP, STRIDE

FAR = 60.0  # px at which a wrong label stops to pull: labels and fits err, an L1 of 200 px would rule the batch


def saturating(error: Tensor) -> Tensor:
    """e / (1 + e / FAR) for e >= 0: linear near zero, bounded by FAR."""
    return error / (1 + error / FAR)


def weighted_mean(value: Tensor, weight: Tensor) -> Tensor:
    return (value * weight).sum() / weight.sum().clamp(min=1.0)


def localisation(positions: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """L_V in the picture: (B, R, 2), (B, R, 2), (B, R) -> mean distance in cells."""
    return weighted_mean(saturating((positions - target).square().sum(-1).add(0.25).sqrt()) / STRIDE, weight)


def barycentric(scores: Tensor, faces: Tensor, bary: Tensor, weight: Tensor) -> Tensor:
    """L_BL, equation 3: scores (B, P, V) at surface samples, faces (B, P, 3), bary (B, P, 3), weight (B, P)."""
    log_q = scores.log_softmax(-1)
    return weighted_mean(-(bary * log_q.gather(-1, faces)).sum(-1), weight)


def consistency(positions: Tensor, place: Tensor, bary: Tensor, xy: Tensor, weight: Tensor) -> Tensor:
    """L_consistency, equation 4: positions (B, R, 2) of some rows; place (B, P, 3) index of each corner among the rows
    (-1 where it is not one of them: the sample does not count); distance in cells."""
    known = (place >= 0).all(-1).float() * weight
    corners = torch.gather(
        positions[:, None].expand(-1, place.shape[1], -1, -1), 2, place.clamp(min=0)[..., None].expand(-1, -1, -1, 2)
    )
    found = (corners * bary[..., None]).sum(2)
    return weighted_mean(saturating((found - xy).square().sum(-1).add(0.25).sqrt()) / STRIDE, known)


def joints(found: Tensor, target: Tensor, mirror: Tensor, sure: Tensor) -> Tensor:
    """L_J in the picture: found (B, 14, 2), target (B, 14, 3) x, y, weight; survives exchanged left and right.

    3 to 5 % of the photographs are labelled with the sides exchanged: where they are not sure (sure (B,), an accepted
    fit or a render, whose evidence agrees), the smaller of the loss and the exchanged loss (plus 6 px, so that it is
    not the easy way out) counts.  A network that exchanges sides itself would never be told, were it allowed always.
    """

    def distance(t: Tensor) -> Tensor:
        inside = ((t[..., :2] > 0) & (t[..., :2] < CROP)).all(-1).float()
        e = saturating((found - t[..., :2]).square().sum(-1).add(0.25).sqrt()) * t[..., 2] * inside
        return e.sum(1) / (t[..., 2] * inside).sum(1).clamp(min=1.0)

    straight = distance(target)
    return torch.where(sure > 0, straight, torch.minimum(straight, distance(target[:, mirror]) + 6)).mean() / STRIDE


def edge(vertices: Tensor, target: Tensor, edges: Tensor, weight: Tensor) -> Tensor:
    """L_E: difference of edge lengths in 3D (B, V, 3), edges (E, 2), weight (B, V), px."""

    def length(x: Tensor) -> Tensor:
        return (x[:, edges[:, 0]] - x[:, edges[:, 1]]).square().sum(-1).add(1e-2).sqrt()

    return weighted_mean((length(vertices) - length(target)).abs(), weight[:, edges].amin(-1))


def normal(vertices: Tensor, target: Tensor, faces: Tensor, weight: Tensor) -> Tensor:
    """L_N: one minus the cosine between predicted and true face normals."""

    def normals(x: Tensor) -> Tensor:
        a, b, c = (x[:, faces[:, k]] for k in range(3))
        return functional.normalize(torch.linalg.cross(b - a, c - a), dim=-1, eps=1e-4)

    return weighted_mean(1 - (normals(vertices) * normals(target)).sum(-1), weight[:, faces].amin(-1))


def visibility(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """L_W: binary cross-entropy of the visibility."""
    return weighted_mean(functional.binary_cross_entropy_with_logits(logits, target, reduction="none"), weight)


def mask(logits: Tensor, target: Tensor, has: Tensor) -> Tensor:
    """Cross-entropy of the foreground mask: (B, 64, 64), where there is a silhouette (has (B, 1))."""
    each = functional.binary_cross_entropy_with_logits(logits, target.float(), reduction="none").mean((1, 2))
    return weighted_mean(each, has[:, 0])
