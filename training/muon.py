# SPDX-License-Identifier: Apache-2.0
"""Muon for the weights that are matrices, 1x1 convolutions among them; Adam keeps the rest.

Muon (K. Jordan et al. 2024; torch's own implementation) turns the averaged gradient of a matrix into the nearest
orthogonal one before it steps, so that directions which few examples ask for move as fast as those that all ask for.
A step's size is that of Adam (Liu et al. 2025, "Muon is scalable"), times what each weight's rate says.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

LEAST = 16
"""Rows and columns below which a weight is no matrix worth orthogonalising."""


def is_matrix(weight: Tensor) -> bool:
    """Whether a weight (rows, columns) or (rows, columns, 1, 1) is large enough both ways."""
    flat = weight.ndim == 2 or (weight.ndim == 4 and weight.shape[2:] == (1, 1))
    return flat and min(weight.shape[:2]) >= LEAST


class Matrices:
    """Muon on views of weights; each weight has a rate of its own."""

    def __init__(self, weights: Iterable[nn.Parameter]) -> None:
        self.weights = list(weights)
        self.views = [nn.Parameter(w.data.flatten(1)) for w in self.weights]
        if any(v.data_ptr() != w.data_ptr() for v, w in zip(self.views, self.weights, strict=True)):
            raise ValueError("a weight's memory is in no order that Muon can work on in place")
        groups = [{"params": [v]} for v in self.views]
        self.optimiser = torch.optim.Muon(groups, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")

    def set_rates(self, rates: Iterable[float]) -> None:
        """One for each weight."""
        for group, rate in zip(self.optimiser.param_groups, rates, strict=True):
            group["lr"] = rate

    def step(self) -> None:
        """One step with the weights' gradients; a weight without one stays."""
        for weight, view in zip(self.weights, self.views, strict=True):
            view.grad = None if weight.grad is None else weight.grad.flatten(1)
        self.optimiser.step()
