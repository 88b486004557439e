# SPDX-License-Identifier: Apache-2.0
"""Trains the network of `meshpose.depth` on motion capture, and writes `weights/depth.onnx`.

    python -m training.depth --data DATA --out RUN --minutes 60 [--threads 2] [--start weights/depth.onnx]
    python -m training.depth --data DATA --out RUN --minutes 0 --export weights/depth.onnx --bodies BODIES.npy

The run is kept in RUN/depth.pt; the same command goes on.  No picture is needed: motion, cameras and a single-frame
network's errors are drawn by `training.sequences`.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from meshpose.body import Body
from meshpose.depth import HIPS, POINTS, RATE

from .sequences import Seen, Windows, load_clips
from .train import PAUSE, append, cosine

WIDTH = 192
DILATIONS = (1, 2, 4, 8, 16, 1)
"""67 frames at 30 a second are read for each: 1.1 s before it and after it."""
BATCH, FRAMES = 32, 81
STEP = 4
"""Frames before and after between which the hips' speed is taken."""
LINES = ((0, 1, 0, 4, 5, 4, 8, 9, 8, 11, 12, 11), (1, 2, 2, 5, 6, 6, 9, 10, 10, 12, 13, 13))
"""Thigh, shin, whole leg, then upper arm, lower arm, whole arm, left and right: their ends in POINTS."""
SHARE = 0.7
"""How much of the change is made: footage errs otherwise than the drawn errors do, and these are all it knows."""
FEATURES = len(POINTS) * 4 + 3


class Block(nn.Module):
    """A residual block: a dilated convolution over 3 frames, then 1x1; it begins as the identity."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.dilation = dilation
        self.around = nn.Conv1d(width, width, 3, dilation=dilation)
        self.up = nn.Conv1d(width, width, 1)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        wide = functional.pad(functional.relu(x), (self.dilation, self.dilation), mode="replicate")
        result: Tensor = x + self.up(functional.relu(self.around(wide)))
        return result


class DepthNet(nn.Module):
    """Points (B, T, 16, 3), seen (B, T, 16) and mid-hips (B, T, 3), see `sequences.Seen` -> the points' depths."""

    def __init__(self) -> None:
        super().__init__()
        self.into = nn.Conv1d(FEATURES, WIDTH, 1)
        self.blocks = nn.ModuleList(Block(WIDTH, dilation) for dilation in DILATIONS)
        self.out = nn.Conv1d(WIDTH, len(POINTS), 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def change(self, points: Tensor, seen: Tensor, hips: Tensor) -> Tensor:
        """By how much the depths are to change: (B, T, 16) metres."""
        wide = functional.pad(hips.transpose(1, 2), (STEP, STEP), mode="replicate")
        speed = (wide[..., 2 * STEP :] - wide[..., : -2 * STEP]) * (RATE / (2 * STEP))
        x = torch.cat([3 * points.flatten(2), 2 * seen - 1, speed.transpose(1, 2)], 2).transpose(1, 2)
        x = self.into(x)
        for block in self.blocks:
            x = block(x)
        return self.out(functional.relu(x)).transpose(1, 2) / 3

    def forward(self, said: Seen) -> Tensor:
        """Depths (B, T, 16), metres."""
        return said.points[..., 2] + self.change(said.points, said.seen, said.hips)


class Exported(nn.Module):
    """The network with the map from the points' change to that of every vertex."""

    def __init__(self, net: DepthNet, spread: Tensor) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("spread", spread)

    def forward(self, points: Tensor, seen: Tensor, hips: Tensor) -> Tensor:
        result: Tensor = self.net.change(points, seen, hips) @ self.spread
        return result


def spread_of(bodies: np.ndarray, body: Body, ridge: float = 1e-4) -> np.ndarray:
    """(16, V): the linear map from the points' depths to the vertices', both relative to the mid-hips, that fits posed
    bodies (n, V, 3), metres, best in the least squares' sense (along each axis)."""
    points = body.joints(bodies, "rig")[:, [body.bone_names.index(n) for n in POINTS]].astype(np.float64)
    hips = points[:, HIPS].mean(1, keepdims=True)
    a = (points - hips).transpose(0, 2, 1).reshape(-1, len(POINTS))
    b = (bodies - hips).transpose(0, 2, 1).reshape(-1, bodies.shape[1])
    return np.linalg.solve(a.T @ a + ridge * len(a) * np.eye(len(POINTS)), a.T @ b)


def loss_of(said: Seen, found: Tensor, true: Tensor) -> Tensor:
    """Depths, their steps from frame to frame, and the lengths of the limbs' bones and of whole limbs that they give.

    A doubtful depth tends to the middle of what it may be, which shortens the limb: a body of fixed bones would have to
    bend its knee for that.
    """
    steps = (found[:, 1:] - found[:, :-1]) - (true[:, 1:] - true[:, :-1])
    long = lengths(said, found) - lengths(said, true)
    return 10 * functional.smooth_l1_loss(found, true, beta=0.05) + 3 * steps.abs().mean() + 3 * long.abs().mean()


def lengths(said: Seen, depth: Tensor) -> Tensor:
    """(B, T, 12) metres between the ends of LINES, each point on its ray at a depth (B, T, 16)."""
    flat = said.points[..., :2] + said.hips[:, :, None, :2]
    places = torch.cat([flat * (1 + depth / said.hips[..., 2:])[..., None], depth[..., None]], -1)
    a, b = LINES
    return (places[:, :, a] - places[:, :, b]).square().sum(-1).add(1e-6).sqrt()


class Run:
    """Network, its average over the last steps, optimiser; kept in RUN/depth.pt."""

    def __init__(self, out: Path, rate: float, start: Path | None = None) -> None:
        """start: an exported file that a new run begins with."""
        self.file, self.rate = out / "depth.pt", rate
        self.net, self.averaged = read_back(start) if start else DepthNet(), DepthNet()
        self.optimiser = torch.optim.AdamW(self.net.parameters(), rate, weight_decay=1e-2)
        self.minutes, self.steps = 0.0, 0
        if self.file.exists():
            state = torch.load(self.file, weights_only=True)
            self.net.load_state_dict(state["net"])
            self.averaged.load_state_dict(state["averaged"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.minutes, self.steps = state["minutes"], state["steps"]
        else:
            self.averaged.load_state_dict(self.net.state_dict())

    def step(self, said: Seen, true: Tensor, done: float) -> float:
        """One step; done: share of the run that is behind it."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate * min(1, self.steps / 100) * (0.02 + 0.98 * cosine(done))
        loss = loss_of(said, self.net(said), true)
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.optimiser.step()
        self.steps += 1
        with torch.no_grad():
            keep = min(0.998, 1 - 1 / (self.steps + 1))
            for mean, own in zip(self.averaged.parameters(), self.net.parameters(), strict=True):
                mean.lerp_(own, 1 - keep)
        return float(loss.detach())

    def save(self) -> None:
        state = {"net": self.net.state_dict(), "averaged": self.averaged.state_dict(), "minutes": self.minutes,
                 "steps": self.steps, "optimiser": self.optimiser.state_dict()}  # fmt: skip
        part = self.file.with_suffix(".part")
        torch.save(state, part)
        part.replace(self.file)


@torch.no_grad()
def judged(net: DepthNet, test: list[tuple[Seen, Tensor]]) -> dict[str, float]:
    """Mean error of the depths, millimetres: as they were said, and as the network has them; of all, ankles, wrists."""
    found, before = (torch.cat(x).abs() * 1e3 for x in zip(
        *((net(said) - true, said.points[..., 2] - true) for said, true in test), strict=True))  # fmt: skip
    rows = {"all": slice(None), "ankles": [2, 6], "wrists": [10, 13]}
    return {f"{name}, {when}": round(float(x[..., at].mean()), 1)
            for name, at in rows.items() for when, x in (("said", before), ("found", found))}  # fmt: skip


def train(data: Path, out: Path, minutes: float, rate: float, seed: int, start: Path | None = None) -> None:
    """Train until the run is `minutes` old."""
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(1)
    judge = Windows(load_clips(data / "motion.npz", test=True))
    test = [judge.draw(BATCH, FRAMES) for _ in range(8)]
    run, windows = Run(out, rate, start), Windows(load_clips(data / "motion.npz", test=False))
    torch.manual_seed(seed + run.steps)
    losses, last, before = [], 0.0, time.time()
    while run.minutes < minutes:
        losses.append(run.step(*windows.draw(BATCH, FRAMES), run.minutes / minutes))
        now = time.time()
        run.minutes += min(now - before, PAUSE) / 60
        before = now
        if now - last > 60 or run.minutes >= minutes:
            last, row = now, {"minutes": round(run.minutes, 1), "steps": run.steps, "loss": round(np.mean(losses), 4)}
            row |= judged(run.averaged, test)
            print(json.dumps(row), flush=True)
            append(out / "depth.jsonl", row)
            run.save()
            losses, before = [], time.time()


def read_back(file: Path) -> DepthNet:
    """The network of an exported file, for a training to go on from a shipped one.  ValueError where it is none."""
    import onnx
    from onnx import numpy_helper

    stored = {t.name.removesuffix("/half"): t for t in onnx.load(str(file)).graph.initializer}
    net = DepthNet()
    try:
        state = {
            name: torch.from_numpy(numpy_helper.to_array(stored[f"net.{name}"]).astype(np.float32))
            for name in net.state_dict()
        }
        net.load_state_dict(state)
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"{file}: is no export of this network: {error}") from error
    return net


def export(net: DepthNet, bodies: np.ndarray, file: Path, share: float = 1.0) -> None:
    """Write the ONNX file; bodies: those of `training.branch.make_bodies`; share: of the change that is made."""
    import onnx

    from .export import store_as_half

    body = Body.load()
    low = np.asarray(bodies[:4000, : len(body.lowpoly)], np.float64)
    module = Exported(net.eval(), torch.from_numpy(share * spread_of(low, body)).float())
    part = file.with_suffix(".part")
    fed = (torch.rand(1, 40, len(POINTS), 3), torch.rand(1, 40, len(POINTS)), torch.rand(1, 40, 3))
    names = ["points", "seen", "hips"]
    torch.onnx.export(
        module, fed, str(part), input_names=names, output_names=["change"], opset_version=17, dynamo=False,
        dynamic_axes={name: {1: "t"} for name in [*names, "change"]},
    )  # fmt: skip
    model = store_as_half(onnx.load(str(part)))
    part.unlink()
    onnx.save(model, str(file))


def main() -> None:
    """Command line: see the module's docstring."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of motion.npz")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--rate", type=float, default=1.2e-3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--export", type=Path, help="the ONNX file to write")
    parser.add_argument("--start", type=Path, help="an exported file to go on from, in a new run")
    parser.add_argument("--share", type=float, default=SHARE, help="of the change that is made, for --export")
    parser.add_argument("--bodies", type=Path, help="posed bodies that training.lift has made (a .npy), for --export")
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    if not (a.data / "motion.npz").exists():
        parser.error(f"{a.data} has no motion.npz")
    if a.export and (a.bodies is None or not a.bodies.exists()):
        parser.error("--export needs --bodies, a file of posed bodies that is there")
    try:
        train(a.data, a.out, a.minutes, a.rate, a.seed, a.start)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    if a.export:
        if not (a.out / "depth.pt").exists():
            parser.error(f"--export: {a.out} holds no run; train one first")
        export(Run(a.out, a.rate).averaged, np.load(a.bodies, mmap_mode="r"), a.export, a.share)


if __name__ == "__main__":
    main()
