# SPDX-License-Identifier: Apache-2.0
"""Solves weights/upsampler.npz in closed form from random bodies; measures it and its rivals.

    python -m training.solve_upsampler                        # solve, write, measure (about 2 minutes of one core)
    python -m training.solve_upsampler --compare              # the table of UPSAMPLER.md, rivals included

For each of the 13,718 vertices the 40 nearest low-poly vertices are candidates, nearest along the skin (through the
air, fingers and lips would mix). 15 are kept at 3 mm of noise; on these the weights are solved twice: sharp (1 mm)
and smooth.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from meshpose.body import Body
from meshpose.upsample import Upsampler

from . import affine
from .random_bodies import random_bodies

Array = npt.NDArray[Any]

CANDIDATES, STEPS, CHOICE_NOISE = 40, (24, 15), 0.003
SHARP, SMOOTH = 0.001, 0.010  # metres of noise per coordinate
CHUNK = 64


def main() -> None:
    """Command line: see the module's docstring."""
    weights = Path(__file__).resolve().parents[1] / "weights"
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=weights / "upsampler.npz")
    parser.add_argument("--bodies", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sharp", type=float, default=SHARP, help="noise of the sharp weights, metres per coordinate")
    parser.add_argument("--smooth", type=float, default=SMOOTH, help="noise of the smooth weights")
    parser.add_argument("--errors", type=Path, help="of network_errors: its scatter by vertex instead of --smooth")
    parser.add_argument("--compare", action="store_true", help="measure this and its rivals; write nothing")
    parser.add_argument("--adam-steps", type=int, default=600, help="training of the paper's two dense layers")
    args = parser.parse_args()
    body = Body.load()
    meshes = sample(body, args.bodies, args.seed)
    test = sample(body, 60, args.seed + 1000)
    if args.compare:
        compare(body, Upsampler.load(), meshes, test, args.adam_steps)
        return
    noise = args.smooth if args.errors is None else scatter_covariance(args.errors)
    indices, sharp, smooth = solve(body, meshes, args.sharp, noise)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        args.out,
        sources=np.array(len(body.lowpoly)),
        indices=indices.astype(np.uint16),
        sharp=sharp.astype(np.float16),
        smooth=smooth.astype(np.float16),
    )
    print(f"{args.out}: {args.out.stat().st_size / 1e6:.2f} MB")
    with np.load(args.out) as arrays:
        upsampler = Upsampler(arrays)
    for amount in (0.0, 0.5, 1.0):
        report(body, f"smooth {amount}", lambda x, s=amount: upsampler.up(x, s), test)  # type: ignore[misc]


def sample(body: Body, count: int, seed: int) -> Array:
    """Meshes (count, N, 3) float32 of random bodies with fingers and faces, metres."""
    bodies = random_bodies(body, count, np.random.default_rng(seed + 7))
    out = np.empty((count, len(body.template), 3), np.float32)
    for i in range(count):
        out[i] = bodies.mesh(body, i)
    return out


def solve(body: Body, meshes: Array, sharp: float, smooth: float | Array) -> tuple[Array, Array, Array]:
    """indices (N, 15), sharp weights and smooth weights (N, 15).

    sharp, smooth: noise in metres per coordinate; smooth may be a covariance (V, V).
    """
    candidates = np.argsort(skin_distance(body), axis=1)[:, :CANDIDATES]
    low = np.ascontiguousarray(meshes[:, body.lowpoly].transpose(1, 0, 2))  # (V, n, 3)
    high = np.ascontiguousarray(meshes.transpose(1, 0, 2))
    parts = []
    for start in range(0, len(candidates), CHUNK):
        near = candidates[start : start + CHUNK]
        c = affine.covariance(high[start : start + CHUNK].astype(np.float64), low[near].transpose(0, 2, 3, 1))
        kept = affine.choose(c, CHOICE_NOISE, STEPS)
        c = affine.sub(c, kept)
        index = np.take_along_axis(near, kept, 1)
        order = np.argsort(index, 1)
        spread = smooth if isinstance(smooth, float) else smooth[index[:, :, None], index[:, None, :]]
        solved = [index, affine.solve(c, sharp), affine.solve(c, spread)]
        parts.append([np.take_along_axis(a, order, 1) for a in solved])
    indices, a, b = (np.concatenate(p) for p in zip(*parts, strict=True))
    return indices, a, b


def scatter_covariance(path: Path) -> Array:
    """Diagonal covariance (V, V) in square metres of what each vertex errs on its own, measured by network_errors.

    Only the scatter, not the whole error: what neighbours share no weights can remove, and weights that try (by
    leaving an arm that errs much for a trunk that errs little) tear the mesh apart; measured: 59 mm off on clean
    vertices.
    """
    with np.load(path) as z:
        return np.diag(z["scatter"].astype(np.float64) ** 2)


def skin_distance(body: Body) -> Array:
    """Distance (N, V) in metres along the edges of the average adult; eyes and tongue hang on the nearest skin."""
    # Here, not above: the tests measure with this module where scipy is not installed.
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components, dijkstra
    from scipy.spatial import cKDTree

    n, x = len(body.template), body.template.astype(np.float64)
    edges = np.concatenate([body.triangles[:, pair] for pair in ([0, 1], [1, 2], [2, 0])])
    labels = connected_components(coo_matrix((np.ones(len(edges)), edges.T), shape=(n, n)), directed=False)[1]
    skin = np.flatnonzero(labels == np.bincount(labels).argmax())
    loose = np.setdiff1d(np.arange(n), skin)
    ties = np.stack([loose, skin[cKDTree(x[skin]).query(x[loose])[1]]], 1)
    edges = np.concatenate([edges, ties])
    length = np.linalg.norm(x[edges[:, 0]] - x[edges[:, 1]], axis=1)
    # Every edge comes once from each of its two triangles, in both directions; coo would add doubles up.
    pairs, first = np.unique(np.sort(edges, 1), axis=0, return_index=True)
    graph = coo_matrix((length[first], pairs.T), shape=(n, n)).tocsr()
    return dijkstra(graph, directed=False, indices=body.lowpoly).T


def regions(body: Body) -> dict[str, Array]:
    """Masks (N,) by name: all = outer skin, hands, head, inner."""
    name = np.array(body.part_names)[body.parts]
    return {
        "all": ~body.inner,
        "hands": np.char.startswith(name, "hand"),
        "head": name == "head",
        "inner": body.inner,
    }


def errors(body: Body, lift: Callable[[Array], Array], meshes: Array, noise: float = 0.0) -> dict[str, Array]:
    """Distances in mm of lifted from true vertices by region; noise: metres per coordinate on the low-poly vertices."""
    rng = np.random.default_rng(5)
    low = meshes[:, body.lowpoly] + rng.normal(0, noise, (len(meshes), len(body.lowpoly), 3)) * (noise > 0)
    error = np.linalg.norm(lift(low.astype(np.float32)) - meshes, axis=-1) * 1000
    return {name: error[:, mask] for name, mask in regions(body).items()}


def report(body: Body, title: str, lift: Callable[[Array], Array], meshes: Array) -> None:
    """Prints one row: mean / p95 of all, means of hands and head, for each amount of noise."""
    cells = []
    for noise in (0.0, 0.005, 0.010, 0.020):
        e = errors(body, lift, meshes, noise)
        all_ = f"{e['all'].mean():.2f} / {np.percentile(e['all'], 95):.1f}"
        cells.append(f"{all_}, {e['hands'].mean():.2f}, {e['head'].mean():.2f}")
    print(f"| {title} | " + " | ".join(cells) + " |", flush=True)


def nearest_on_triangles(points: Array, corners: Array) -> tuple[Array, Array]:
    """Nearest point on triangles: which (P,) and barycentric weights (P, 3). points (P, 3), corners (T, 3, 3)."""
    best = np.full(len(points), np.inf)
    for corner in np.unique(corners.reshape(-1, 3), axis=0):
        best = np.minimum(best, ((points - corner) ** 2).sum(1))
    best += 1e-12  # a first bound, not yet an answer: the corner's own triangles must still beat it
    which, weights = np.zeros(len(points), int), np.zeros((len(points), 3))
    for t, (a, b, c) in enumerate(corners.astype(np.float64)):
        middle = (a + b + c) / 3
        radius = np.sqrt(max(((p - middle) ** 2).sum() for p in (a, b, c)))
        near = np.flatnonzero(((points - middle) ** 2).sum(1) <= (np.sqrt(best) + radius) ** 2)
        if not len(near):
            continue
        u = _clamped_barycentric(points[near], a, b, c)
        distance = ((u @ np.stack([a, b, c]) - points[near]) ** 2).sum(1)
        closer = distance < best[near]
        best[near[closer]], which[near[closer]], weights[near[closer]] = distance[closer], t, u[closer]
    return which, weights


def _clamped_barycentric(p: Array, a: Array, b: Array, c: Array) -> Array:
    """Barycentric coordinates (P, 3) of the point of triangle abc nearest to p (P, 3)."""
    e, f = b - a, c - a
    gram = np.array([[e @ e, e @ f], [e @ f, f @ f]])
    v, w = np.linalg.solve(gram, np.stack([(p - a) @ e, (p - a) @ f]))
    inside = np.stack([1 - v - w, v, w], 1)
    candidates = [inside]
    for i, (start, end) in enumerate(((a, b), (b, c), (c, a))):  # where the foot lies outside: the nearest edge point
        t = np.clip((p - start) @ (end - start) / ((end - start) @ (end - start)), 0, 1)
        edge = np.zeros((len(p), 3))
        edge[:, i], edge[:, (i + 1) % 3] = 1 - t, t
        candidates.append(edge)
    stack = np.stack(candidates)
    distance = ((stack @ np.stack([a, b, c]) - p) ** 2).sum(-1)
    distance[0, (inside < 0).any(1)] = np.inf
    return np.take_along_axis(stack, distance.argmin(0)[None, :, None], 0)[0]


def barycentric_lift(body: Body) -> Callable[[Array], Array]:
    """The simple rival: every vertex stays on the low-poly triangle that is nearest in the average adult's rest
    pose.
    """
    corners = body.template[body.lowpoly][body.lowpoly_faces]
    which, weights = nearest_on_triangles(body.template.astype(np.float64), corners)
    rows = body.lowpoly_faces[which]
    return lambda x: np.einsum("...nkc,nk->...nc", x[..., rows, :], weights.astype(np.float32))


def dense_lift(body: Body, meshes: Array, noise: float) -> Callable[[Array], Array]:
    """All 500 vertices for each vertex, closed form: the best that any stack of affine layers can be.

    Solved as one ridge regression relative to the mean low-poly vertex; two dense layers are one affine map.
    """
    low = meshes[:, body.lowpoly].astype(np.float64)
    middle = low.mean(1, keepdims=True)
    x = (low - middle).transpose(0, 2, 1).reshape(-1, len(body.lowpoly))
    y = (meshes - middle).transpose(0, 2, 1).reshape(len(x), -1)
    gram = x.T @ x / len(x) + noise**2 * np.eye(x.shape[1])
    matrix = np.linalg.solve(gram, x.T @ y / len(x)).astype(np.float32).T

    def lift(points: Array) -> Array:
        centre = points.mean(1, keepdims=True)
        return matrix @ (points - centre) + centre

    return lift


def two_layer_lift(body: Body, meshes: Array, steps: int = 600) -> Callable[[Array], Array]:
    """The paper's upsampler: two dense layers, 500 -> 1,723 -> 13,718, trained by Adam with 10 mm of noise."""
    import torch

    torch.manual_seed(0)
    torch.set_num_threads(1)
    layers = torch.nn.Sequential(torch.nn.Linear(500, 1723), torch.nn.Linear(1723, len(body.template)))
    low = torch.as_tensor(meshes[:, body.lowpoly])
    high = torch.as_tensor(meshes)
    middle = low.mean(1, keepdim=True)
    low, high = (low - middle).transpose(1, 2), (high - middle).transpose(1, 2)
    optimiser = torch.optim.Adam(layers.parameters(), lr=3e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-3, total_steps=steps)
    for step in range(steps):
        rows = torch.randint(len(low), (32,))
        loss = (layers(low[rows] + 0.01 * torch.randn_like(low[rows])) - high[rows]).abs().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % 100 == 0:
            print(f"  two dense layers, step {step}: L1 {float(loss.detach()) * 1000:.1f} mm", flush=True)

    @torch.no_grad()
    def lift(points: Array) -> Array:
        x = torch.as_tensor(points)
        centre = x.mean(1, keepdim=True)
        return (layers((x - centre).transpose(1, 2)).transpose(1, 2) + centre).numpy()

    return lift


def compare(body: Body, upsampler: Upsampler, meshes: Array, test: Array, adam_steps: int) -> None:
    """Prints the table of UPSAMPLER.md."""
    print("| mm | noise 0 | 5 | 10 | 20 |\n|---|---|---|---|---|")
    for amount in (0.0, 0.5, 1.0):
        report(body, f"15 neighbours, smooth {amount}", lambda x, s=amount: upsampler.up(x, s), test)  # type: ignore[misc]
    report(body, "nearest point on triangle", barycentric_lift(body), test)
    for noise in (SHARP, SMOOTH):
        report(body, f"all 500, closed form, {noise * 1000:.0f} mm", dense_lift(body, meshes, noise), test)
    lift = two_layer_lift(body, meshes, adam_steps)
    report(body, f"the paper's two dense layers, {adam_steps} Adam steps", lift, test)


if __name__ == "__main__":
    main()
