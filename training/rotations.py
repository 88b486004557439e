# SPDX-License-Identifier: Apache-2.0
"""Rotations in torch, with gradients."""

from __future__ import annotations

import torch
import torch.nn.functional as functional
from torch import Tensor


def rotation(a: Tensor) -> Tensor:
    """Axis-angle (..., 3) -> (..., 3, 3), differentiable at zero."""
    angle = a.square().sum(-1, keepdim=True).add(1e-12).sqrt()
    x, y, z = a.unbind(-1)
    o = torch.zeros_like(x)
    k = torch.stack([o, -z, y, z, o, -x, -y, x, o], -1).unflatten(-1, (3, 3))
    s, c = (angle.sin() / angle)[..., None], ((1 - angle.cos()) / angle.square())[..., None]
    return torch.eye(3) + s * k + c * (k @ k)


def swing(a: Tensor, b: Tensor) -> Tensor:
    """Smallest rotation that takes direction a to b."""
    a, b = functional.normalize(a, dim=-1), functional.normalize(b, dim=-1)
    x, y, z = torch.linalg.cross(a, b).unbind(-1)
    o = torch.zeros_like(x)
    k = torch.stack([o, -z, y, z, o, -x, -y, x, o], -1).unflatten(-1, (3, 3))
    return torch.eye(3) + k + k @ k / (1 + (a * b).sum(-1)[..., None, None]).clamp(min=1e-3)


def of_six(six: Tensor) -> Tensor:
    """(..., 6) -> (..., 3, 3), Gram-Schmidt of the first two columns (Zhou et al., 2019)."""
    a, b = six.unflatten(-1, (2, 3)).unbind(-2)
    x = functional.normalize(a, dim=-1)
    y = functional.normalize(b - (x * b).sum(-1, keepdim=True) * x, dim=-1)
    return torch.stack([x, y, torch.linalg.cross(x, y)], -1)
