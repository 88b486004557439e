# SPDX-License-Identifier: Apache-2.0
"""Trains the regression branch (depth, hidden vertices, visibility) and the score on a trained encoder.

    python -m training.lift RUN/last.pt --data DATA --synth RENDERS --out RUN/lifted.pt [--crops 6000] [--minutes 10]

A part of every step are stored crops (features and truth), most are bodies under random cameras with the heatmaps' own
errors laid over them: depth from the layout of 500 vertices is geometry, and geometry needs no pictures.  The losses
are those of section 3.2 (vertices, edges, normals, joints, visibility; through equation 5).  `training.train` goes on
with the branch in its own steps.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from meshpose.body import Body

from . import boxed, fullness, losses, regular
from .branch import Store, Views, branch_loss, edges_of, load_bodies
from .checkpoint import load_net
from .data import Crops, Person, photographs, renders, set_apart, some_meshes
from .model import CROP, MeshPoseNet, fused
from .precision import mixed_precision
from .spatial import peaks_of
from .train import Geometry

STORED, VIEWS = 32, 160  # of a step: few thousand stored crops are soon known by heart, views never end
BODIES_OF_THE_FILTER = 1500
DECAYS = (3e-3, 1e-2, 3e-2, 1e-1)  # of the score's weights: of those that choose best, the largest AUC stays
ALIKE = 0.005
"""Difference of the quality of what two scores choose that some hundreds of persons do not tell from none."""


@torch.no_grad()
def collect(net: MeshPoseNet, data: Crops, keys: list[tuple[int, int]], batch: int = 16) -> Store:
    """Run the network's heatmap part on crops and keep what the regression reads, with the truth."""
    parts = []
    for start in range(0, len(keys), batch):
        sample = torch.utils.data.default_collate([data[k] for k in keys[start : start + batch]])
        with mixed_precision():
            features = net.features(sample["crop"].contiguous(memory_format=torch.channels_last))
            positions, peaks = peaks_of(net.heatmaps(features.dense, torch.arange(sample["vertices"].shape[1])))
        parts.append(Store.of(net.lifting_inputs(features.summary.float(), positions, peaks), sample))
    return Store.together(parts)


def begin(net: MeshPoseNet, store: Store) -> None:
    """Standardise the inputs by a store's; the outputs begin at its mean body around the heatmaps' answer."""
    branch = net.regression
    with torch.no_grad():
        branch.mean.copy_(store.inputs.mean(0))
        branch.scale.copy_(1 / (store.inputs.std(0) + 1e-2))
        branch.reduce.weight[:, : net.summary_size].mul_(0.1)  # geometry first, the picture's summary by and by
        branch.axes[2].mean.bias.copy_((store.vertices[store.exact(), :, 2] / CROP).mean(0))


def tune(
    net: MeshPoseNet, train: Store, held: Store, views: Views, geometry: Geometry, minutes: float, rate: float
) -> None:
    """Adam on the branch with a cosine; the weights of the best held-out loss stay."""
    edges = edges_of(geometry.faces)
    optimiser = torch.optim.AdamW(net.regression.parameters(), rate, weight_decay=1e-3)
    best, kept, began, steps = float("inf"), None, time.time(), 0

    def loss_of(s: Store) -> Tensor:
        return branch_loss(net, s, geometry.faces, edges, geometry.regressor)

    while True:
        done = (time.time() - began) / 60 / max(minutes, 1e-6)
        if steps % 200 == 0 or done >= 1:
            with torch.no_grad():
                parts = [loss_of(held.rows(i)) for i in torch.arange(len(held)).split(128)]
            loss = float(torch.stack(parts).mean())
            if loss < best:
                best, kept = loss, {k: v.clone() for k, v in net.regression.state_dict().items()}
            print(f"{done:5.2f} step {steps} held-out loss {loss:.4f}", flush=True)
        if done >= 1:
            break
        for group in optimiser.param_groups:
            group["lr"] = rate * min(1, (steps + 1) / 100) * (0.02 + 0.98 * (0.5 + 0.5 * np.cos(np.pi * done)))
        optimiser.zero_grad()
        batch = views.without_summary(train.rows(torch.randint(len(train), (STORED,))), 0.5)
        loss_of(Store.together([batch, views.draw(VIEWS)])).backward()
        torch.nn.utils.clip_grad_norm_(net.regression.parameters(), 20.0)
        optimiser.step()
        steps += 1
    net.regression.load_state_dict(kept or net.regression.state_dict())


@torch.no_grad()
def shrink(net: MeshPoseNet, held: Store) -> float:
    """Keep as much of the corrections of X and Y as held-out crops bear out, by all vertices whose place is known, with
    those outside of the crop, where no heatmap reaches; return that share.

    Every distance counts as it is: of 200 renders 0, 0.75 and the whole of `accurate`'s correction leave vertices that
    are seen at 18.0, 18.0 and 18.1 px, hidden ones at 26.3, 25.6 and 25.7, those outside at 225, 176 and 166.
    """
    axes = [net.regression.axes[k].mean for k in (0, 1)]
    learnt = [(a.weight.clone(), a.bias.clone()) for a in axes]

    def error(share: float) -> float:
        for axis, (weight, bias) in zip(axes, learnt, strict=True):
            axis.weight.copy_(weight * share)
            axis.bias.copy_(bias * share)
        positions = held.positions()
        regressed, seen = net.regression.without_bins(held.inputs, positions)
        mesh = fused(positions, regressed, seen.sigmoid())
        away = (mesh[..., :2] - held.vertices[..., :2]).norm(dim=-1)
        return float(losses.weighted_mean(away, held.regression_weight))

    best = min((0.0, 0.25, 0.5, 0.75, 1.0), key=error)
    error(best)
    return best


def finish(net: MeshPoseNet, data: Path, people: list[Person], count: int) -> None:
    """Solve score, regularity and fullness on persons who were set apart from the training, seen as the product sees
    them."""
    body, network = Body.load(), boxed.TorchNetwork(net)
    apart = set_apart(people)[1]
    made, taken = [p for p in apart if p.exact], [p for p in apart if not p.exact]
    net.fullness.copy_(torch.eye(len(net.fullness)))
    seen = list(boxed.boxed(network, taken[: count * 2 // 3] + made[: count // 3]))
    np.random.default_rng(0).shuffle(seen)  # type: ignore[arg-type]
    boxed.understate(net, seen, by := boxed.overstated(seen))
    print(f"log odds of being seen lowered by {by:.2f}", flush=True)
    worth = {decay: boxed.solve_score(net, seen, decay) for decay in DECAYS}
    for decay, figures in worth.items():
        print(f"score, decay {decay}:", {k: round(v, 3) for k, v in figures.items()}, flush=True)
    # Choices differ by less than they can be measured: of those that choose alike the one that tells good from bad.
    chosen = max(figures["chosen"] for figures in worth.values()) - ALIKE
    best = max(DECAYS, key=lambda d: (worth[d]["chosen"] >= chosen, np.nan_to_num(worth[d]["AUC"])))
    boxed.solve_score(net, seen, best)
    calm = calming(seen, body)
    widths = fullness.true_widths(seen, body, calm)
    groups = [fullness.bare(seen, body), fullness.clothed(network, data, count // 4)]
    factors, before, after = fullness.solve(groups, body, calm, widths)
    print(f"true widths {widths}", flush=True)
    print(f"fullness {factors}: mean IoU {before:.3f} to {after:.3f}, {[len(g) for g in groups]} persons", flush=True)
    net.fullness.copy_(torch.from_numpy(fullness.matrix(body, factors) @ calm))


def calming(seen: list[boxed.Boxed], body: Body) -> np.ndarray:
    """(V, V): `regular.matrix` for the scatter of these persons; the identity where too few were found."""
    bodies = regular.low_polys(body, BODIES_OF_THE_FILTER)
    noise = regular.scatter(seen, body, bodies)
    if noise is None:
        print("too few exactly known persons were found: no regularity is solved", flush=True)
        return np.eye(len(body.lowpoly), dtype=np.float32)
    print(f"scatter of the vertices: median {1000 * np.median(noise):.1f} mm", flush=True)
    return regular.matrix(noise, bodies)


def report(net: MeshPoseNet, s: Store) -> None:
    """Errors of the branch on held-out crops, in px of the crop."""
    v = s.vertices.shape[1]
    with torch.no_grad():
        positions = s.positions()
        regressed, seen = net.regression(s.inputs, positions)
    mesh = fused(positions, regressed, seen.sigmoid())
    exact = s.exact()[:, None]
    for name, mask in (("renders", exact), ("fits", ~exact & (s.has > 0))):
        if not mask.any():
            continue
        for kind, place in (("heatmaps", positions), ("regressed", regressed[..., :2]), ("equation 5", mesh[..., :2])):
            e = (place - s.vertices[..., :2]).norm(dim=-1)
            a, b = e[(s.visible > 0) & mask], e[(s.visible == 0) & mask & (s.heat_weight > 0)]
            print(f"{name:8s} {kind:10s} visible {a.mean():5.1f} (median {a.median():4.1f})  hidden {b.mean():5.1f}")
        z = (regressed[..., 2] - s.vertices[..., 2]).abs()[mask.expand(-1, v) & (s.regression_weight > 0)]
        centred = [x - x.mean(1, keepdim=True) for x in (regressed[..., 2], s.vertices[..., 2])]
        along = torch.cosine_similarity(*centred)[mask[:, 0] & (s.regression_weight.sum(1) > 0)].mean()
        right = ((seen > 0) == (s.visible > 0))[mask.expand(-1, v)].float().mean()
        print(f"{name:8s} depth {z.mean():.1f} px (median {z.median():.1f}), correlation {along:.3f}")
        print(f"{name:8s} visibility right {right:.3f}", flush=True)


def choose(people: list[Person], count: int, seed: int) -> list[tuple[int, int]]:
    """Keys of crops, half renders, half fits; everybody comes once before any comes twice."""
    rng = np.random.default_rng(seed)
    made = [i for i, p in enumerate(people) if p.exact]
    photographed = [i for i, p in enumerate(people) if not p.exact and p.vertices is not None]
    pools = ((made, count // 2), (photographed, count - count // 2))
    picked: list[int] = []
    for pool, n in pools:
        while pool and n > 0:
            picked += (part := rng.permutation(pool)[:n].tolist())
            n -= len(part)
    rng.shuffle(picked)  # type: ignore[arg-type]
    return [(i, 10_000_000 + k) for k, i in enumerate(picked)]


def stores(net: MeshPoseNet, people: list[Person], geometry: Geometry, count: int, out: Path) -> tuple[Store, Store]:
    """`count` stored crops of those who are trained on, and a tenth as many of those set apart; kept beside `out`."""
    found = []
    for name, group, n in zip(("train", "held"), set_apart(people), (count, count // 10), strict=True):
        file = out.with_suffix(f".{name}")
        if file.exists():
            store = torch.load(file, weights_only=False)
        else:
            data = Crops(group, geometry.faces.numpy(), geometry.mirror, 1, tracked=0.75)
            store = collect(net, data, choose(group, n, 0))
            torch.save(store, file)
        found.append(store)
    return found[0], found[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--synth", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "meshpose", help="posed bodies")
    parser.add_argument("--bodies", type=int, default=30_000)
    parser.add_argument("--crops", type=int, default=6000)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--rate", type=float, help="default 1e-3; 2e-4 with --go-on, where more throws it back")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--judged", type=int, default=500, help="persons for score and fullness")
    parser.add_argument("--go-on", action="store_true", help="with the checkpoint's depth and visibility")
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(0)
    net = load_net(a.checkpoint).to(memory_format=torch.channels_last)
    people = photographs(a.data, cache=a.checkpoint.parent / "photographs.pickle") + renders(a.synth)
    geometry = Geometry(some_meshes(people))
    train, held = stores(net, people, geometry, a.crops, a.out)
    if not a.go_on:
        begin(net, train)
    bodies = load_bodies(a.data, a.cache / f"bodies_{a.bodies}.npy", a.bodies)
    views = Views(bodies, train, train.inputs[:, : net.summary_size].mean(0, keepdim=True), geometry.mirror)
    report(net, held)
    tune(net, train, held, views, geometry, a.minutes, a.rate or (2e-4 if a.go_on else 1e-3))
    print(f"share of the corrections of X and Y that is kept: {shrink(net, held)}")
    report(net, held)
    finish(net, a.data, people, a.judged)
    state = torch.load(a.checkpoint, weights_only=False)
    state.pop("branch_optimiser", None)
    torch.save(state | {"net": net.state_dict(), "averaged": {}}, a.out)


if __name__ == "__main__":
    main()
