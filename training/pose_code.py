# SPDX-License-Identifier: Apache-2.0
"""A variational autoencoder of poses, as VPoser is: the prior of the third recipe for pseudo ground truth.

    python -m training.pose_code --data DATA --out pose_code.pt [--steps 3000]

(Pavlakos et al., "Expressive Body Capture", CVPR 2019; "Three Recipes for Better 3D Pseudo-GTs", 2023: VPoser with an
L2 penalty on its code.)  The mixtures of `fit.Prior` know one limb at a time; this knows how trunk, arms and legs go
together.  It learns from the training clips' frames with their knees straightened (`pose_prior.frames_of`), mirrored,
some with the upper half of one and the lower half of another.  Gymnasts bend further than any clip does, so a fit's
rotations stay free: what costs is the length of their code, and how far they are from what the code says.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from .pose_prior import frames_of
from .poses import FITTED, FLIP, LEGS
from .rotations import of_six, rotation
from .synth_body import MIRROR, rotation_vector

TURNS, CODE, HIDDEN = 18, 24, 256
APART = 0.2  # radians between a pose and what its code says that cost as much as one standard deviation of the code
RECOMBINED = 0.3
UNSEEN = 1000


class PoseCode(nn.Module):
    """Local turns (n, 18, 3) in `training.fit`'s order <-> a code (n, 24) that is standard normal over motion."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Linear(TURNS * 9, HIDDEN), nn.SiLU(), nn.Linear(HIDDEN, HIDDEN), nn.SiLU(), nn.Linear(HIDDEN, 2 * CODE)
        )
        self.decoder = nn.Sequential(
            nn.Linear(CODE, HIDDEN), nn.SiLU(), nn.Linear(HIDDEN, HIDDEN), nn.SiLU(), nn.Linear(HIDDEN, TURNS * 6)
        )

    def encode(self, r: Tensor) -> tuple[Tensor, Tensor]:
        """Rotations (n, 18, 3, 3) -> mean and log variance (n, 24) of the code."""
        mean, log = self.encoder(r.flatten(1)).chunk(2, -1)
        return mean, log.clamp(-8, 4)

    def decode(self, code: Tensor) -> Tensor:
        """(n, 24) -> rotations (n, 18, 3, 3)."""
        return of_six(self.decoder(code).unflatten(-1, (TURNS, 6)))

    def forward(self, a: Tensor) -> Tensor:
        """Rotation vectors (n, 18, 3) -> what they cost (n,): half of the code's squared length, and of the distance of
        the pose from its code's in units of APART."""
        r = rotation(a)
        code, _ = self.encode(r)
        apart = (self.decode(code) - r).square().sum((-1, -2)) / 2  # squared angle, for small ones
        return 0.5 * code.square().sum(-1) + 0.5 * apart.sum(-1) / APART**2


def loss(net: PoseCode, r: Tensor, share: float) -> Tensor:
    """Negative evidence lower bound, a pose: `share` is what the code's divergence from the normal counts."""
    mean, log = net.encode(r)
    out = net.decode(mean + torch.randn_like(mean) * (0.5 * log).exp())
    apart = (out - r).square().sum((-1, -2)) / 2
    divergence = 0.5 * (mean.square() + log.exp() - 1 - log).sum(-1)
    return (0.5 * apart.sum(-1) / APART**2 + share * divergence).mean()


def turns_of(local: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Local rotations (n, 21, 3, 3) of clips -> the fit's (n, 18, 3, 3): half of them mirrored, some put together."""
    out = local.copy()
    flip = rng.random(len(out)) < 0.5
    out[flip] = FLIP @ out[flip][:, list(MIRROR)] @ FLIP
    mixed = np.flatnonzero(rng.random(len(out)) < RECOMBINED)
    others, legs = rng.permutation(len(out))[: len(mixed)], np.array(LEGS)
    out[np.ix_(mixed, legs)] = out[np.ix_(others, legs)]
    return out[:, FITTED[1:]]


def train(local: np.ndarray, steps: int, batch: int = 256) -> PoseCode:
    """A PoseCode of frames (n, 21, 3, 3)."""
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    net = PoseCode()
    adam = torch.optim.Adam(net.parameters(), 1e-3)
    for k in range(steps):
        for group in adam.param_groups:
            group["lr"] = 1e-3 * (0.02 + 0.98 * (0.5 + 0.5 * np.cos(np.pi * k / steps)))
        rows = local[rng.integers(len(local), size=batch)]
        value = loss(net, torch.from_numpy(turns_of(rows, rng)).float(), min(1.0, k / (0.3 * steps)))
        adam.zero_grad()
        value.backward()
        adam.step()
    return net.requires_grad_(False)


def told(net: PoseCode, local: np.ndarray) -> dict[str, float]:
    """Of frames (n, 21, 3, 3): degrees a joint between them and their codes', the code's length squared, what they
    cost, and what poses cost whose joints are drawn from different ones (medians)."""
    r = torch.from_numpy(turns_of(local, np.random.default_rng(1))).float()
    code, _ = net.encode(r)
    apart = rotation_vector((net.decode(code).transpose(-1, -2) @ r).double().numpy())
    degrees = np.degrees(np.linalg.norm(apart, axis=-1)).mean()
    strange = torch.stack([r[torch.randperm(len(r)), j] for j in range(TURNS)], 1)
    a, b = (torch.from_numpy(rotation_vector(x.numpy())).float() for x in (r, strange))
    return {
        "degrees": float(degrees),
        "code": float(code.square().sum(-1).mean()),
        "cost": float(net(a).median()),
        "cost of strange poses": float(net(b).median()),
    }


def load(file: Path) -> PoseCode:
    """The PoseCode of a file of this command."""
    net = PoseCode()
    net.load_state_dict(torch.load(file, weights_only=True))
    return net.requires_grad_(False)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of motion.npz")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--frames", type=int, default=20000)
    parser.add_argument("--steps", type=int, default=4000)
    a = parser.parse_args()
    file = a.data / "motion.npz"
    net = train(frames_of(file, a.frames, np.random.default_rng(0)), a.steps)
    unseen = frames_of(file, UNSEEN, np.random.default_rng(0), test=True)
    print("test clips:", ", ".join(f"{k} {v:.2f}" for k, v in told(net, unseen).items()))
    torch.save(net.state_dict(), a.out)


if __name__ == "__main__":
    main()
