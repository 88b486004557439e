# SPDX-License-Identifier: Apache-2.0
"""Muon for the weights that are matrices, 1x1 convolutions among them; Adam keeps the rest.

Muon (K. Jordan et al. 2024) turns the averaged gradient of a matrix into the nearest orthogonal one before it steps, so
that directions which few examples ask for move as fast as those that all ask for.  A step's size is that of Adam
(Liu et al. 2025, "Muon is scalable"), times what each weight's rate says.  torch.optim.Muon does the same in bfloat16
alone: on a CPU that has to emulate it, its products take several times as long as all the rest of a step.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from .precision import has_bfloat16

LEAST = 16
"""Rows and columns below which a weight is no matrix worth orthogonalising."""


def is_matrix(weight: Tensor) -> bool:
    """Whether a weight (rows, columns) or (rows, columns, 1, 1) is large enough both ways."""
    flat = weight.ndim == 2 or (weight.ndim == 4 and weight.shape[2:] == (1, 1))
    return flat and min(weight.shape[:2]) >= LEAST


def orthogonal(matrix: Tensor, steps: int = 5) -> Tensor:
    """A matrix (rows, columns) with its singular values brought near to 1 (0.7 to 1.2, which is enough): Newton and
    Schulz's iteration with Jordan's coefficients."""
    a, b, c = 3.4445, -4.775, 2.0315
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / x.norm().clamp(min=1e-7)
    if has_bfloat16():
        x = x.bfloat16()
    # Every iterate is a polynomial of the Gram matrix times x: iterating on that small matrix saves the products with
    # x, most of the work for the long matrices of an encoder.  In bfloat16 the powers of small values would be lost.
    if x.dtype == torch.float32 and x.shape[1] > 2 * x.shape[0]:
        x = _polynomial(x @ x.T, steps, a, b, c) @ x
    else:
        for _ in range(steps):
            gram = x @ x.T
            x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    x = x.to(matrix.dtype)
    return x.T if tall else x


def _polynomial(gram: Tensor, steps: int, a: float, b: float, c: float) -> Tensor:
    """What `steps` iterations multiply x by, from x x^T (n, n): all factors are symmetric and commute."""
    total: Tensor | None = None
    for step in range(steps):
        factor = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        factor.diagonal().add_(a)
        total = factor if total is None else factor @ total
        if step < steps - 1:
            gram = factor @ gram @ factor
    return total


class Muon(torch.optim.Optimizer):
    """Steps of matrices: Nesterov's momentum, made orthogonal, of the size of Adam's steps (root mean square of the
    numbers 0.2 times the rate)."""

    def __init__(self, groups: list[dict], momentum: float = 0.95) -> None:
        super().__init__(groups, {"lr": 1e-3, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """One step of the parameters that have a gradient."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                if "momentum_buffer" not in self.state[p]:
                    self.state[p]["momentum_buffer"] = torch.zeros_like(p)
                mean = self.state[p]["momentum_buffer"].lerp_(p.grad, 1 - group["momentum"])
                update = orthogonal(p.grad.lerp(mean, group["momentum"]))
                p.add_(update, alpha=-group["lr"] * 0.2 * max(p.shape) ** 0.5)


class Matrices:
    """Muon on views of weights; each weight has a rate of its own."""

    def __init__(self, weights: Iterable[nn.Parameter]) -> None:
        self.weights = list(weights)
        self.views = [nn.Parameter(w.data.flatten(1)) for w in self.weights]
        if any(v.data_ptr() != w.data_ptr() for v, w in zip(self.views, self.weights, strict=True)):
            raise ValueError("a weight's memory is in no order that Muon can work on in place")
        groups = [{"params": [v]} for v in self.views]
        self.optimiser = Muon(groups)

    def set_rates(self, rates: Iterable[float]) -> None:
        """One for each weight."""
        for group, rate in zip(self.optimiser.param_groups, rates, strict=True):
            group["lr"] = rate

    def step(self) -> None:
        """One step with the weights' gradients; a weight without one stays."""
        for weight, view in zip(self.weights, self.views, strict=True):
            view.grad = None if weight.grad is None else weight.grad.flatten(1)
        self.optimiser.step()
