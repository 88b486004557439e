# SPDX-License-Identifier: Apache-2.0
"""Solves the regression branch (depth, hidden vertices, visibility) and the score on a trained encoder.

    python -m training.lift RUN/last.pt --data DATA --synth RENDERS --out RUN/lifted.pt [--crops 8000] [--minutes 5]

By Adam from nothing the branch hardly learns; a reduced-rank ridge regression gives it in closed form, and the losses
of section 3.2 (vertices, edges, normals, joints, visibility; through equation 5) then tune it on the same stored
features.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as functional
from torch import Tensor

from . import losses
from .checkpoint import load_net
from .data import LSP_MIRROR, Crops, Person, photographs, renders
from .model import CROP, RANGES, MeshPoseNet, Regression, fused
from .train import Geometry

GOOD = 0.06  # a vertex is right within this part of the crop's side (of a person who fills 0.8 of it)


@dataclass
class Store:
    """Features and truth of n crops: inputs (n, S + 3V), and the sample fields of `training.data`."""

    inputs: Tensor
    vertices: Tensor
    regression_weight: Tensor
    depth_weight: Tensor
    visible: Tensor
    visible_weight: Tensor
    heat_weight: Tensor
    joints: Tensor
    has: Tensor

    def positions(self) -> Tensor:
        """(n, V, 2) crop px: where the heatmaps have the vertices."""
        v = self.vertices.shape[1]
        return self.inputs[:, -3 * v : -v].unflatten(1, (v, 2)) * CROP

    def rows(self, index: Tensor) -> Store:
        return Store(*(getattr(self, f.name)[index] for f in fields(self)))


@torch.no_grad()
def collect(net: MeshPoseNet, data: Crops, keys: list[tuple[int, int]], batch: int = 16) -> Store:
    """Run the network's heatmap part on crops and keep what the regression reads, with the truth."""
    parts: dict[str, list[Tensor]] = {f.name: [] for f in fields(Store)}
    for start in range(0, len(keys), batch):
        sample = torch.utils.data.default_collate([data[k] for k in keys[start : start + batch]])
        features = net.features(sample["crop"].contiguous(memory_format=torch.channels_last))
        positions, peaks = net.localise(net.heat(features.dense))
        sample["inputs"] = net.lifting_inputs(features.summary, positions, peaks)
        for name, values in parts.items():
            values.append(sample[name])
    return Store(*(torch.cat(parts[f.name]) for f in fields(Store)))


def ridge(x: Tensor, y: Tensor, weight: Tensor, strength: float) -> tuple[Tensor, Tensor]:
    """Weighted ridge regression: x (n, p) standardised, y (n, q), weight (n,) -> slope (p, q), intercept (q,)."""
    w = (weight / weight.sum())[:, None].double()
    x, y = x.double(), y.double()
    mx, my = (w * x).sum(0), (w * y).sum(0)
    xc, yc = x - mx, y - my
    gram = xc.T @ (w * xc) + strength * torch.eye(x.shape[1], dtype=torch.float64)
    slope = torch.linalg.solve(gram, xc.T @ (w * yc))
    return slope, my - mx @ slope


PLANE, DEPTH, SEEN = 10.0, 1.0, 1.0
"""Strengths of the ridge, by held-out error.  X and Y only correct the heatmaps; a weak ridge harms them."""


def solve(net: MeshPoseNet, store: Store) -> None:
    """Set the regression in closed form: ridge for X, Y (all crops alike), Z (renders first), visibility; rank 256."""
    branch: Regression = net.regression
    mean, scale = store.inputs.mean(0), 1 / (store.inputs.std(0) + 1e-3)
    x = (store.inputs - mean) * scale
    n, v = store.vertices.shape[:2]
    limits = torch.tensor(RANGES).T + torch.tensor([[0.02], [-0.02]])
    target = (store.vertices / CROP).clamp(limits[0], limits[1])
    target = target - torch.cat([store.positions() / CROP, torch.zeros(n, v, 1)], -1)  # X and Y correct the heatmaps
    person = store.has[:, 0] * 1.0
    depth = store.depth_weight.mean(1)
    answers = [
        ridge(x, target[..., 0], person, PLANE),
        ridge(x, target[..., 1], person, PLANE),
        ridge(x, target[..., 2], person * depth, DEPTH),
        ridge(x, store.visible * 2 - 1, person * store.visible_weight.mean(1), SEEN),
    ]
    slope = torch.cat([a[0] for a in answers], 1)
    factor = torch.cat([torch.full((v,), f) for f in (1.0, 1.0, 1.0, 0.1)]).double()  # ±1 against parts of a crop
    values, vectors = torch.linalg.eigh((lambda p: p.T @ p / n)((x.double() @ slope) * factor))
    basis = vectors[:, -branch.reduce.out_features :]  # (4V, code): what the answers vary in
    spread = values[-branch.reduce.out_features :].clamp(min=1e-12).sqrt()
    with torch.no_grad():
        branch.mean.copy_(mean)
        branch.scale.copy_(scale)
        branch.reduce.weight.copy_((((slope * factor) @ basis) / spread).T)
        branch.reduce.bias.zero_()
        out = (basis * spread).T / factor  # code -> 4V
        for k, axis in enumerate(branch.axes):
            axis.mean.weight.copy_(out[:, k * v : (k + 1) * v].T)
            axis.mean.bias.copy_(answers[k][1])
        branch.visibility.weight.copy_(out[:, 3 * v :].T * 2)
        branch.visibility.bias.copy_(answers[3][1] * 2)


def edges_of(geometry: Geometry) -> Tensor:
    """(E, 2) edges of the low-poly, each once."""
    f = geometry.faces
    return torch.unique(torch.cat([f[:, [0, 1]], f[:, [1, 2]], f[:, [2, 0]]]).sort(1).values, dim=0)


def branch_loss(net: MeshPoseNet, s: Store, geometry: Geometry, edges: Tensor) -> Tensor:
    """Equation 16 without the heatmap terms, on stored features."""
    positions = s.positions()
    regressed, seen = net.regression(s.inputs, positions)
    mesh = fused(positions, regressed, seen.sigmoid())
    weight = s.regression_weight
    plane = losses.localisation(regressed[..., :2], s.vertices[..., :2], weight)
    both = losses.localisation(mesh[..., :2], s.vertices[..., :2], weight)
    depth = (
        losses.weighted_mean(losses.saturating((regressed[..., 2] - s.vertices[..., 2]).abs()), weight * s.depth_weight)
        / 4
    )
    shaped = weight * s.depth_weight
    joints = torch.einsum("jv,bvd->bjd", geometry.regressor, mesh[..., :2])
    return (
        plane
        + both
        + depth
        + 0.5 * losses.edge(mesh, s.vertices, edges, shaped)
        + 0.3 * losses.normal(mesh, s.vertices, geometry.faces, shaped)
        + 0.5 * losses.joints(joints, s.joints, torch.from_numpy(LSP_MIRROR))
        + 2.0 * losses.visibility(seen, s.visible, s.visible_weight)
    )


def tune(
    net: MeshPoseNet,
    train: Store,
    held: Store,
    geometry: Geometry,
    minutes: float,
    rate: float = 3e-4,
    slow_rate: float = 3e-5,
) -> None:
    """Adam on the branch; the weights of the best held-out loss stay."""
    edges = edges_of(geometry)
    branch = net.regression
    fast = list(branch.block.parameters())
    slow = [p for p in branch.parameters() if not any(p is q for q in fast)]
    optimiser = torch.optim.Adam([{"params": fast, "f": rate}, {"params": slow, "f": slow_rate}], rate)
    best, kept, began = float("inf"), None, time.time()
    while True:
        done = (time.time() - began) / 60 / max(minutes, 1e-6)
        with torch.no_grad():
            loss = float(
                np.mean(
                    [
                        float(branch_loss(net, held.rows(torch.arange(i, min(i + 64, len(held.has)))), geometry, edges))
                        for i in range(0, len(held.has), 64)
                    ]
                )
            )
        if loss < best:
            best, kept = loss, {k: v.clone() for k, v in branch.state_dict().items()}
        print(f"{done:5.2f} held-out loss {loss:.4f}", flush=True)
        if done >= 1:
            break
        for group in optimiser.param_groups:
            group["lr"] = group["f"] * max(0.05, 1 - done)
        for index in torch.randperm(len(train.has)).split(64):
            optimiser.zero_grad()
            branch_loss(net, train.rows(index), geometry, edges).backward()
            optimiser.step()
    branch.load_state_dict(kept or branch.state_dict())


def solve_score(net: MeshPoseNet, store: Store, decay: float = 3e-3) -> None:
    """Logistic regression of the share of vertices that the heatmaps place right, from the summary and the peaks."""
    v, s = store.vertices.shape[1], net.summary_size
    error = (store.positions() - store.vertices[..., :2]).norm(dim=-1)
    weight = store.heat_weight * store.visible.clamp(min=0.3)
    quality = (weight * (error < GOOD * CROP)).sum(1) / weight.sum(1).clamp(min=1)
    x = torch.cat([store.inputs[:, :s], store.inputs[:, s + 2 * v :]], 1)
    mean, scale = x.mean(0), 1 / (x.std(0) + 1e-2)
    x = (x - mean) * scale
    w, b = torch.zeros(x.shape[1], requires_grad=True), torch.zeros((), requires_grad=True)
    optimiser = torch.optim.LBFGS([w, b], max_iter=120, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = functional.binary_cross_entropy_with_logits(x @ w + b, quality) + decay * w.square().sum()
        loss.backward()
        return loss

    optimiser.step(closure)
    with torch.no_grad():
        net.score.weight.copy_((w * scale)[None])
        net.score.bias.copy_((b - (w * scale * mean).sum())[None])
        correlation = float(torch.corrcoef(torch.stack([x @ w + b, quality]))[0, 1])
        print(f"score: correlation with quality {correlation:.3f}, mean {float(quality.mean()):.2f}")


def report(net: MeshPoseNet, s: Store) -> None:
    """Errors of the branch on held-out crops, in px of the crop."""
    v = s.vertices.shape[1]
    with torch.no_grad():
        positions = s.positions()
        regressed, seen = net.regression(s.inputs, positions)
    mesh = fused(positions, regressed, seen.sigmoid())
    exact = s.depth_weight[:, :1] > 0.9
    for name, mask in (("renders", exact), ("fits", ~exact & (s.has > 0))):
        for kind, place in (("heatmaps", positions), ("regressed", regressed[..., :2]), ("equation 5", mesh[..., :2])):
            e = (place - s.vertices[..., :2]).norm(dim=-1)
            a, b = e[(s.visible > 0) & mask], e[(s.visible == 0) & mask & (s.heat_weight > 0)]
            print(f"{name:8s} {kind:10s} visible {a.mean():5.1f} (median {a.median():4.1f})  hidden {b.mean():5.1f}")
        z = (regressed[..., 2] - s.vertices[..., 2]).abs()[mask.expand(-1, v) & (s.regression_weight > 0)]
        right = ((seen > 0) == (s.visible > 0))[mask.expand(-1, v)].float().mean()
        print(f"{name:8s} depth {z.mean():.1f} px, visibility right {right:.3f}")


def choose(people: list[Person], count: int, seed: int) -> list[tuple[int, int]]:
    """Keys of crops: half of renders, half of fits."""
    rng = np.random.default_rng(seed)
    made = [i for i, p in enumerate(people) if p.exact]
    photographed = [i for i, p in enumerate(people) if not p.exact and p.vertices is not None]
    picked = [
        int(i)
        for pool in (made, photographed)
        if pool
        for i in rng.choice(pool, count // 2, replace=len(pool) < count // 2)
    ]
    return [(i, 10_000_000 + k) for k, i in enumerate(picked)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--synth", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--crops", type=int, default=8000)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--threads", type=int, default=1)
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(0)
    net = load_net(a.checkpoint).to(memory_format=torch.channels_last)
    people = photographs(a.data, cache=a.checkpoint.parent / "photographs.pickle") + renders(a.synth)
    geometry = Geometry(np.stack([p.vertices for p in people if p.vertices is not None and not p.exact][:1500]))
    data = Crops(people, geometry.faces.numpy(), geometry.mirror, 1, tracked=0.75)
    store = collect(net, data, choose(people, a.crops, 0))
    order = torch.randperm(len(store.has))
    held, train = store.rows(order[: len(order) // 12]), store.rows(order[len(order) // 12 :])
    torch.save({"store": store, "order": order}, a.out.with_suffix(".store"))
    solve(net, train)
    report(net, held)
    if a.minutes:
        tune(net, train, held, geometry, a.minutes)
        report(net, held)
    solve_score(net, store)
    state = torch.load(a.checkpoint, weights_only=False)
    torch.save(
        {
            "net": net.state_dict(),
            "averaged": {},
            "encoder": net.encoder.spec,
            "minutes": state["minutes"],
            "steps": state["steps"],
        },
        a.out,
    )


if __name__ == "__main__":
    main()
