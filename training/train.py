# SPDX-License-Identifier: Apache-2.0
"""Trains VertexPose and the encoder: one loop, configuration at the top, resumable.

    python -m training.train --data DATA --synth RENDERS --models TFLITE_FOLDER --out RUN [--minutes 60]

Frozen encoder first (a random head destroys it within a minute), then its weights behind stride 8 with a rate that
follows each tensor's RMS (batch norm is folded in: the RMS runs from 0.0025 to 323 and one rate fits none).
Matrices, of the encoder and of the heatmaps' head, move by Muon, everything else by Adam.
`RUN/last.pt` holds everything needed to go on; the same command goes on.  The regression branch is begun by
`training.lift`, trained on here, and finished by `training.lift --go-on`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from meshpose.body import Body

from . import losses
from .arguments import existing_file, existing_folder
from .branch import Replay, Store, Views, branch_loss, edges_of, mesh_loss
from .checkpoint import AnotherNetwork, build, load_fitting, read_back
from .data import LSP_MIRROR, Change, Crops, Draws, photographs, renders, set_apart, some_meshes
from .held import Held
from .model import Features, MeshPoseNet, fused
from .muon import Matrices, is_matrix
from .paste import Crowd
from .precision import mixed_precision
from .second_look import SecondLook
from .silhouette import silhouette_loss, soft_silhouette
from .spatial import localised, peaks_of


@dataclass
class Config:
    """One run.  Times are wall minutes of training, without loading."""

    encoder: str = "heavy"  # BlazePose's network that the encoder is taken from: heavy, or full for `fast`
    minutes: float = 60.0
    head_minutes: float = 8.0  # encoder frozen
    batch: int = 16
    rows: int = 256  # heatmaps of a step: those that carry joints and some random faces
    head_rate: float = 2e-3
    head_rate_tuned: float = 7e-4
    encoder_rate: float = 2e-5  # times the RMS of each tensor
    ramp_minutes: float = 1.0
    average: float = 0.998  # exponential moving average of the weights
    threads: int = 1
    workers: int = 1
    seed: int = 0
    crowded: float = 0.0  # share of the photographs that get other people before them
    # weights of the losses (equation 16 and our own)
    heat: float = 0.15
    localisation: float = 1.0
    barycentric: float = 0.2
    consistency: float = 0.3
    joint: float = 1.0
    mask: float = 0.5
    regression: float = 0.25
    visibility: float = 2.0  # within the regression
    silhouette: float = 0.0  # equation 15; only with the regression
    second: float = 0.25  # as the regression's, of a `SecondLook`
    summary_gradient: float = 0.2  # part of the regression's gradient that reaches the encoder
    held_minutes: float = 10.0  # between two looks at the persons who were set apart
    replayed: int = 80  # crops seen before, in every step of the regression
    views: int = 64  # bodies without pictures, in every step of the regression
    regression_rate: float = 3e-4


REPLAY = 4000
"""Crops whose features are kept for the regression."""
PAUSE = 30.0
"""Seconds that a step counts at most: a run that was stopped for a while (SIGSTOP, a lid closed) loses no minutes."""
SHARES = {"render": 0.38, "lspet train": 0.22, "lspet more": 0.18, "ccp train": 0.06, "stanford40 train": 0.16}


class Geometry:
    """The low-poly as tensors: faces, the joints' regressor, which rows carry joints.

    The body's regressors spread over nearly all vertices; a step that computes every heatmap for them costs twice.
    `meshes` (n, V, 3), any posed bodies, serve to solve regressors of 14 vertices a joint that answer the same.
    """

    def __init__(self, meshes: np.ndarray) -> None:
        body = Body.load()
        self.faces = torch.from_numpy(body.lowpoly_faces.astype(np.int64))
        self.mirror = body.lowpoly_mirror.astype(np.int64)
        count = len(body.lowpoly)
        unit = np.zeros((count, count, 3), np.float32)
        unit[np.arange(count), np.arange(count), 0] = 1
        dense = body.joints(unit, "lsp14")[..., 0].T.astype(np.float64)
        self.regressor = torch.from_numpy(thinned(dense, meshes.astype(np.float64)).astype(np.float32))
        self.carriers = torch.nonzero(self.regressor.abs().amax(0) > 1e-3)[:, 0]
        self.edges = edges_of(self.faces)
        self.replay = Replay(REPLAY)
        self.crowd: Change | None = None
        self.bodies: Tensor | None = None
        self.views: Views | None = None

    def renew_views(self, summary: int) -> None:
        """Views whose noise is that of the crops seen last."""
        store = self.replay.store
        if self.bodies is not None and store is not None:
            last = store.rows(torch.arange(self.replay.count))
            self.views = Views(self.bodies, last, last.inputs[:, :summary].mean(0, keepdim=True), self.mirror)

    def choose_rows(self, count: int) -> Tensor:
        """The joints' vertices and those of random faces, `count` in all (or all, when the joints need more)."""
        order = torch.cat([self.carriers, self.faces[torch.randperm(len(self.faces))].flatten()])
        rows, seen = [], set()
        for v in order.tolist():
            if v not in seen:
                seen.add(v)
                rows.append(v)
            if len(rows) >= max(count, len(self.carriers)):
                break
        return torch.tensor(rows)


def thinned(dense: np.ndarray, meshes: np.ndarray, keep: int = 14, noise: float = 0.01) -> np.ndarray:
    """Regressors (J, V) of `keep` vertices each that come nearest to the dense ones on meshes (n, V, 3).

    Minimises the squared distance plus that of independent vertex noise (in units of the body's size) under sum 1.
    """
    out = np.zeros_like(dense)
    size = meshes.std()
    for j, row in enumerate(dense):
        chosen = np.argsort(-np.abs(row))[:keep]
        offset = (meshes[:, chosen] - np.einsum("v,nvd->nd", row, meshes)[:, None]) / size
        c = np.einsum("nkd,nld->kl", offset, offset) / (3 * len(meshes)) + noise**2 * np.eye(keep)
        w = np.linalg.solve(c, np.ones(keep))
        out[j, chosen] = w / w.sum()
    return out


def batches(
    people: list, geometry: Geometry, config: Config, start: int, upright: bool = False
) -> Iterator[dict[str, Tensor]]:
    """Endless batches; `start` moves the seed on, so that a resumed run sees new crops; upright: see `Crops`."""
    shape, crowd = (geometry.faces.numpy(), geometry.mirror), geometry.crowd
    data = Crops(people, *shape, config.seed + start, upright=upright, crowded=config.crowded, crowd=crowd)
    loader: DataLoader = DataLoader(
        data,
        batch_size=config.batch,
        sampler=Draws(people, SHARES, config.seed + start),
        num_workers=config.workers,
        prefetch_factor=6 if config.workers else None,
        worker_init_fn=_quiet_worker,
    )
    yield from loader


def _quiet_worker(_: int) -> None:
    torch.set_num_threads(1)


def step_losses(
    net: MeshPoseNet, sample: dict[str, Tensor], geometry: Geometry, config: Config, frozen: bool
) -> dict[str, Tensor]:
    """All losses of one batch, unweighted."""
    with mixed_precision():
        crops = sample["crop"].contiguous(memory_format=torch.channels_last)
        with torch.set_grad_enabled(not frozen):
            raw = net.encoder(crops)
        features = net.fused_features(raw)
        rows = geometry.choose_rows(config.rows)
        heat = net.heatmaps(features.dense, rows)
        mask = net.mask(features.dense)[:, 0]
    target, weight = sample["vertices"][:, rows], sample["heat_weight"][:, rows]
    positions, entropy, peaks = localised(heat, target[..., :2])
    answer = (rows, positions.detach(), peaks)
    fresh = stored(net, features, answer, sample, geometry, config) if config.regression else None
    place = torch.full((len(geometry.regressor[0]),), -1)
    place[rows] = torch.arange(len(rows))
    corners = geometry.faces[sample["surface_face"]]
    found = torch.einsum("jv,bvd->bjd", geometry.regressor[:, rows], positions)
    shape = torch.zeros(())
    if fresh is not None and config.silhouette:
        shape = silhouette_losses(net, fresh, positions, rows, sample, geometry.faces)
    return {
        "heat": losses.weighted_mean(entropy, weight),
        "localisation": losses.localisation(positions, target[..., :2], weight),
        "barycentric": losses.barycentric(
            net.scores_at(features.dense, sample["surface_xy"]),
            corners,
            sample["surface_bary"],
            sample["surface_weight"],
        ),
        "consistency": losses.consistency(
            positions, place[corners], sample["surface_bary"], sample["surface_xy"], sample["surface_weight"]
        ),
        "joint": losses.joints(found, sample["joints"], torch.from_numpy(LSP_MIRROR), sample["has"][:, 0]),
        "mask": losses.mask(mask.float(), sample["mask"], sample["has"]),
        "regression": torch.zeros(()) if fresh is None else branch_losses(net, fresh, geometry, config),
        "silhouette": shape,
        "second": second_losses(net, features, fresh, geometry, config),
    }


def second_losses(
    net: MeshPoseNet, features: Features, fresh: Store | None, geometry: Geometry, config: Config
) -> Tensor:
    """The corrected mesh of this batch; 0 of a network that corrects nothing."""
    if fresh is None or not isinstance(net, SecondLook):
        return torch.zeros(())
    answer = net.corrected(features, fresh.inputs, fresh.positions())
    return mesh_loss(answer, fresh, geometry.faces, geometry.edges, geometry.regressor, config.visibility)


def stored(
    net: MeshPoseNet,
    features: Features,
    known: tuple[Tensor, Tensor, Tensor],
    sample: dict[str, Tensor],
    geometry: Geometry,
    config: Config,
) -> Store:
    """This batch as the regression branch reads it: the heatmaps' answer without a gradient, the encoder's summary with
    a part of it.  `known`: rows (R,) and what is found there already, (B, R, 2) and (B, R)."""
    rows, found, found_peaks = known
    rest = torch.ones(len(geometry.mirror), dtype=torch.bool).index_fill(0, rows, False).nonzero()[:, 0]
    with torch.no_grad(), mixed_precision():
        others, other_peaks = peaks_of(net.heatmaps(features.dense, rest))
    order = torch.cat([rows, rest]).argsort()
    positions, peaks = torch.cat([found, others], 1)[:, order], torch.cat([found_peaks, other_peaks], 1)[:, order]
    summary = features.summary.float()
    held = summary.detach() + (summary - summary.detach()) * config.summary_gradient
    return Store.of(net.lifting_inputs(held, positions, peaks), sample)


def branch_losses(net: MeshPoseNet, fresh: Store, geometry: Geometry, config: Config) -> Tensor:
    """The regression branch on this batch, on crops seen before, and on bodies without pictures."""
    parts = [fresh]
    if (before := geometry.replay.draw(config.replayed)) is not None:
        parts.append(before)
        # The noise of the views keeps up with the heatmaps.
        if config.views and geometry.replay.count >= 400 and geometry.replay.next % 640 < config.batch:
            geometry.renew_views(net.summary_size)
        if geometry.views is not None:
            parts.append(geometry.views.draw(config.views))
    geometry.replay.add(fresh)
    shape = (geometry.faces, geometry.edges, geometry.regressor)
    return branch_loss(net, Store.together(parts), *shape, config.visibility)


def silhouette_losses(
    net: MeshPoseNet, fresh: Store, positions: Tensor, rows: Tensor, sample: dict[str, Tensor], faces: Tensor
) -> Tensor:
    """Equation 15 on the mesh as it is delivered, with the last linear map.  Its gradient reaches the heatmaps of
    `rows` by their positions (B, R, 2), and the branch's X, Y and visibility."""
    everywhere = fresh.positions().index_copy(1, rows, positions)
    regressed, logits = net.regression.without_bins(fresh.inputs, fresh.positions())
    seen = logits.sigmoid()
    mesh = net.fullness @ fused(everywhere, regressed, seen)
    found = soft_silhouette(mesh[..., :2], seen, faces)
    return silhouette_loss(found, sample["cells"], sample["has"][:, 0])


class Trainer:
    """The state of a run: network, optimisers, average, log."""

    def __init__(self, net: MeshPoseNet, config: Config, out: Path) -> None:
        self.net, self.config, self.out = net.to(memory_format=torch.channels_last), config, out
        self.minutes, self.steps, self.norm = 0.0, 0, 0.0
        head = [p for n, p in net.named_parameters() if not n.startswith(("encoder.", "regression.", "score."))]
        self.branch = list(net.regression.parameters())
        net.encoder.freeze_to_stride8()
        names = set(net.encoder.trainable())
        self.encoder = [p for n, p in net.encoder.weights.items() if n in names]
        for parameter in net.encoder.parameters():
            parameter.requires_grad_(False)
        self.head = head
        self.head_optimiser = torch.optim.Adam(
            [p for p in head if not is_matrix(p)], config.head_rate, betas=(0.9, 0.98)
        )
        self.branch_optimiser = torch.optim.AdamW(self.branch, config.regression_rate, weight_decay=1e-3)
        spread = {p: float(p.detach().square().mean().sqrt()) for p in self.encoder}
        groups = [{"params": [p], "rms": spread[p]} for p in self.encoder if not is_matrix(p)]
        self.encoder_optimiser = torch.optim.Adam(groups, 1.0, betas=(0.9, 0.98))
        self.matrices = Matrices(p for p in [*head, *self.encoder] if is_matrix(p))
        self.spreads = [spread.get(p) for p in self.matrices.weights]  # None: the head's
        self.averaged = {n: p.detach().clone() for n, p in net.named_parameters()}

    @contextlib.contextmanager
    def with_average(self) -> Iterator[MeshPoseNet]:
        """The network with the averaged weights, for as long as the block lasts."""
        own = {n: p.detach().clone() for n, p in self.net.named_parameters()}
        try:
            self._set(self.averaged)
            yield self.net
        finally:
            self._set(own)

    @torch.no_grad()
    def _set(self, values: dict[str, Tensor]) -> None:
        for name, p in self.net.named_parameters():
            p.copy_(values[name])

    @property
    def frozen(self) -> bool:
        return self.minutes < self.config.head_minutes

    def set_rates(self) -> None:
        """Cosine within each phase; with the encoder all ramps up first, for the momenta of a new run are noise."""
        c, m = self.config, self.minutes
        if self.frozen:
            rate, encoder = c.head_rate * (0.25 + 0.75 * cosine(m / c.head_minutes)), 0.0
        else:
            done = min(1.0, (m - c.head_minutes) / max(c.minutes - c.head_minutes, 1e-6))
            fall = 0.05 + 0.95 * cosine(done)
            ramp = min(1.0, (m - c.head_minutes) / c.ramp_minutes)
            rate, encoder = c.head_rate_tuned * fall * ramp, c.encoder_rate * fall * ramp
        for group in self.head_optimiser.param_groups:
            group["lr"] = rate
        for group in self.branch_optimiser.param_groups:
            group["lr"] = c.regression_rate * min(1.0, rate / c.head_rate_tuned)
        for group in self.encoder_optimiser.param_groups:
            group["lr"] = encoder * group["rms"]
        self.matrices.set_rates(rate if spread is None else encoder * spread for spread in self.spreads)

    def step(self, sample: dict[str, Tensor], geometry: Geometry) -> dict[str, float]:
        frozen = self.frozen
        self.set_rates()
        for p in self.encoder:
            p.requires_grad_(not frozen)
        found = step_losses(self.net, sample, geometry, self.config, frozen)
        total = sum((getattr(self.config, name) * value for name, value in found.items()), torch.zeros(()))
        self.net.zero_grad(set_to_none=True)
        total.backward()
        nn.utils.clip_grad_norm_(self.head, 5.0)
        nn.utils.clip_grad_norm_(self.branch, 20.0 * self.config.regression)
        if not frozen:
            norm = float(nn.utils.clip_grad_norm_(self.encoder, max(2 * self.norm, 1e-6) if self.norm else 1e9))
            self.norm = norm if not self.norm else 0.98 * self.norm + 0.02 * min(norm, 3 * self.norm)
            self.encoder_optimiser.step()
        self.head_optimiser.step()
        self.branch_optimiser.step()
        self.matrices.step()
        self.steps += 1
        if self.steps % 4 == 0:
            self.update_average()
        return {k: float(v.detach()) for k, v in found.items()} | {"norm": self.norm}

    @torch.no_grad()
    def update_average(self) -> None:
        keep = min(self.config.average**4, 1 - 1 / (self.steps / 4 + 1))
        for name, p in self.net.named_parameters():
            self.averaged[name].lerp_(p.detach(), 1 - keep)

    def save(self) -> None:
        state = {
            "net": self.net.state_dict(),
            "averaged": self.averaged,
            "head_optimiser": self.head_optimiser.state_dict(),
            "encoder_optimiser": self.encoder_optimiser.state_dict(),
            "branch_optimiser": self.branch_optimiser.state_dict(),
            "matrices": self.matrices.optimiser.state_dict(),
            "minutes": self.minutes,
            "steps": self.steps,
            "norm": self.norm,
            "encoder": self.net.encoder.spec,
            "config": asdict(self.config),
        }
        part = self.out / "last.part"
        torch.save(state, part)
        part.replace(self.out / "last.pt")

    def load(self, file: Path) -> None:
        state = torch.load(file, weights_only=False)
        load_fitting(self.net, state["net"])
        self.averaged = {n: p.detach().clone() for n, p in self.net.named_parameters()}
        self.averaged |= {k: v for k, v in state["averaged"].items() if self.averaged[k].shape == v.shape}
        optimisers = {
            "head_optimiser": self.head_optimiser,
            "branch_optimiser": self.branch_optimiser,
            "encoder_optimiser": self.encoder_optimiser,
            "matrices": self.matrices.optimiser,
        }
        for name, optimiser in optimisers.items():
            # The branch's is not there after training.lift.  Without Muon's the checkpoint is of a time when Adam moved
            # the matrices, too, with fewer groups of one when depthwise weights stayed: those begin anew.
            known = name in state and "matrices" in state
            if known and len(state[name]["param_groups"]) == len(optimiser.param_groups):
                optimiser.load_state_dict(state[name])
        self.minutes, self.steps, self.norm = state["minutes"], state["steps"], state["norm"]


def append(file: Path, row: dict) -> None:
    """One more line of a JSON Lines file."""
    with file.open("a") as stream:
        stream.write(json.dumps(row) + "\n")


def cosine(part: float) -> float:
    return 0.5 + 0.5 * math.cos(math.pi * min(max(part, 0.0), 1.0))


def train(
    config: Config,
    people: list,
    models: Path,
    out: Path,
    start: Path | None = None,
    bodies: Tensor | None = None,
    crowd: Change | None = None,
) -> None:
    """Train until `config.minutes`; `start`, an exported file, gives the first weights of a new run; `bodies`: see
    `branch.Views`; `crowd`: see `paste.Crowd`."""
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(config.threads)
    cv2.setNumThreads(1)  # before OpenCV makes threads: they do not survive the fork of a worker, which then hangs
    torch.manual_seed(config.seed)
    geometry = Geometry(some_meshes(people))
    geometry.bodies, geometry.crowd = bodies, crowd
    people, apart = set_apart(people)
    held = Held(apart, geometry.mirror, geometry.regressor)
    net = build(models, config.encoder)
    if start is not None:
        read_back(net, start)
    trainer = Trainer(net, config, out)
    if (out / "last.pt").exists():
        trainer.load(out / "last.pt")
        print(f"going on after {trainer.minutes:.1f} minutes, {trainer.steps} steps", flush=True)
    stream = batches(people, geometry, config, trainer.steps)
    if trainer.steps == 0 and start is None:
        trainer.net.standardise([next(stream)["crop"] for _ in range(6)])
    trainer.net.train()
    log, last_log, last_save, next_look = out / "log.jsonl", time.time(), time.time(), trainer.minutes
    sums: dict[str, list[float]] = {}
    before = time.time()
    for sample in stream:
        for key, value in trainer.step(sample, geometry).items():
            sums.setdefault(key, []).append(value)
        now = time.time()
        trainer.minutes += min(now - before, PAUSE) / 60
        if held.batches and trainer.minutes >= min(next_look, config.minutes):
            with trainer.with_average() as averaged:
                row = {"minutes": round(trainer.minutes, 2), "steps": trainer.steps, "held": held.look(averaged)}
            next_look += config.held_minutes
            print(json.dumps(row), flush=True)
            append(log, row)
        before = time.time()
        if now - last_log > 30:
            row = {"minutes": round(trainer.minutes, 2), "steps": trainer.steps} | {
                k: round(float(np.mean(v)), 4) for k, v in sums.items()
            }
            append(log, row)
            sums, last_log = {}, now
        if now - last_save > 180 or trainer.minutes >= config.minutes:
            trainer.save()
            last_save = before = time.time()
        if trainer.minutes >= config.minutes:
            break


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the photograph sets and their fits")
    parser.add_argument("--synth", type=Path, help="folder of training.render's shards")
    parser.add_argument(
        "--models", type=Path, required=True, help="where the encoder's TFLite file is, or is fetched to"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the run: last.pt, log.jsonl")
    parser.add_argument("--bodies", type=existing_file, help="posed bodies that training.lift has made (a .npy)")
    parser.add_argument(
        "--fits", type=existing_folder, help="folder of newer fit files (training.spin's) than those of DATA"
    )
    parser.add_argument("--start", type=existing_file, help="an exported ONNX file to go on from, in a new run")
    for name, default in asdict(Config()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    a = vars(parser.parse_args())
    paths = {k: a.pop(k) for k in ("data", "synth", "models", "out", "start", "bodies", "fits")}
    people = photographs(paths["data"], paths["out"] / "photographs.pickle", paths["fits"]) + (
        renders(paths["synth"]) if paths["synth"] else []
    )
    print({s: sum(p.source == s for p in people) for s in {p.source for p in people}}, flush=True)
    if not people:
        parser.error(f"{paths['data']} has no photographs, and --synth names no renders: nothing to train on")
    bodies = torch.from_numpy(np.load(paths["bodies"])) if paths["bodies"] else None
    crowd = Crowd.load(paths["data"]).before if a["crowded"] else None
    try:
        train(Config(**a), people, paths["models"], paths["out"], paths["start"], bodies, crowd)
    except AnotherNetwork as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
