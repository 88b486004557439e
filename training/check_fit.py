# SPDX-License-Identifier: Apache-2.0
"""What the fitter's priors are worth, on poses that are known: the body is fitted to evidence made from test clips.

    python -m training.check_fit --data DATA [--code pose_code.pt] [--count 256]

Evidence as the teacher's and the labels' errors are: landmarks 3 % of a unit off, some of a limb's hidden; labels 3 %;
world points 60 mm off and the whole body leaning by some 8 degrees, the depth of one in ten turned round; no mask.
The last rows leave out one of the three recipes each (`fit.RECIPES`), with all the priors that are given.
A table: joints relative to the hips (12 of LSP, mm) as they are and after Procrustes alignment (PA), vertices after it,
persons with a limb in the body (more than five vertices of forearms, hands, shins and feet).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as functional
from torch import Tensor

from meshpose.metrics import procrustes

from . import collide, rotations
from .arguments import existing_file
from .fit import (
    COLLISION,
    LIMB_WEIGHT,
    LIMBS,
    MIDDLE,
    RECIPES,
    TORSO,
    Evidence,
    Prior,
    TorchBody,
    fitted,
    project,
)
from .fits import LSP, MID_HIPS, FitBody, rotation
from .poses import FITTED, without_heading
from .synth_body import from_quaternion, rotation_vector

LANDMARK_NOISE, LABEL_NOISE, WORLD_NOISE = 0.03, 0.03, 0.06
LEAN, TURNED, HIDDEN = np.radians(8.0), 0.1, 0.15
"""Of the whole body in the world points (standard deviation); share whose depth is turned; share of hidden limbs."""
DEEP_IN = 5  # vertices


def unseen_poses(data: Path, count: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Pelvis (n, 3, 3) in camera axes and turns (n, 18, 3) of random frames of the test clips, from any side."""
    z = np.load(data / "motion.npz")
    clips = zip(z["clip_start"], z["clip_end"], z["clip_test"], strict=True)
    frames = np.concatenate([np.arange(a, b)[z["ok"][a:b]] for a, b, is_test in clips if is_test])
    local = from_quaternion(z["quat"][rng.choice(frames, count)])
    pelvis = np.stack([without_heading(r)[0] for r in local[:, 0]])
    heading = rng.uniform(-np.pi, np.pi, count)
    turn = np.stack([0 * heading, heading, 0 * heading], -1)
    pitch = np.stack([rng.normal(0, 0.15, count), 0 * heading, 0 * heading], -1)
    upright = np.diag([1.0, -1.0, -1.0]) @ rotation(pitch) @ rotation(turn) @ pelvis
    turns = rotation_vector(local[:, FITTED[1:]])
    return torch.from_numpy(upright).float(), torch.from_numpy(turns).float()


def bodies_and_cameras(count: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Phenotypes (n, 6) around the middle, cameras (n, 4) as `fit.State` has them, 3 to 8 m away."""
    phenotype = rng.normal(MIDDLE.numpy(), [0.2, 0.02, 0.1, 0.1, 0.15, 0.1], (count, 6)).clip(0.05, 0.95)
    camera = [rng.normal(0.7, 0.05, count), *np.zeros((2, count)), 1 / rng.uniform(3, 8, count)]
    return torch.from_numpy(phenotype).float(), torch.from_numpy(np.stack(camera, 1)).float()


def made_up(keys: Tensor, camera: Tensor, rng: np.random.Generator) -> Evidence:
    """The evidence of keypoints (n, 48, 3), metres, camera axes, under cameras (n, 4)."""
    n, flat = len(keys), project(keys, camera)

    def noise(*shape: int) -> Tensor:
        return torch.from_numpy(rng.normal(size=shape)).float()

    landmarks = flat[:, :33] + LANDMARK_NOISE * noise(n, 33, 2)
    weight = torch.full((n, 33), 0.9)
    for limb in ((13, 15, 17, 19, 21), (14, 16, 18, 20, 22), (25, 27, 29, 31), (26, 28, 30, 32)):
        weight[np.ix_(np.flatnonzero(rng.random(n) < HIDDEN), np.array(limb))] = 0.1
    labels = torch.cat([flat[:, LSP] + LABEL_NOISE * noise(n, 14, 2), torch.ones(n, 14, 1)], -1)
    lean = rotation(np.stack([rng.normal(LEAN / 2, LEAN, n), 0 * np.zeros(n), rng.normal(0, LEAN / 2, n)], -1))
    world = keys[:, :33] - keys[:, MID_HIPS, None]
    world = torch.einsum("nij,nkj->nki", torch.from_numpy(lean).float(), world) + WORLD_NOISE * noise(n, 33, 3)
    world[rng.random(n) < TURNED] *= torch.tensor([1.0, 1.0, -1.0])
    pairs = [torch.minimum(weight[:, a], weight[:, b]) for a, b in LIMBS]
    directions = torch.stack([world[:, b] - world[:, a] for a, b in LIMBS], 1)
    return Evidence(
        landmarks, weight, labels, functional.normalize(directions, dim=-1), LIMB_WEIGHT * torch.stack(pairs, 1),
        world[:, TORSO], torch.zeros(n, 1, 64, 64), torch.tensor([[0.0, 0.0, 100.0]]).repeat(n, 1), np.arange(n),
        np.zeros(n, bool),
    )  # fmt: skip


def figures(
    found: tuple[np.ndarray, np.ndarray], true: tuple[np.ndarray, np.ndarray], body: FitBody
) -> dict[str, float]:
    """Of vertices and keypoints, metres, camera axes: the table's row."""
    joints = [k[:, LSP][:, :12] - k[:, MID_HIPS, None] for _, k in (found, true)]

    def aligned(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.mean([np.linalg.norm(procrustes(p, q) - q, axis=-1).mean() for p, q in zip(a, b, strict=True)]))

    groups = [str(g) for g in body.data["groups"]]
    inside = collide.within(found[0], body.faces, body.data["weights"], groups).sum(1)
    return {
        "joints, mm": 1000 * float(np.linalg.norm(joints[0] - joints[1], axis=-1).mean()),
        "PA, mm": 1000 * aligned(*joints),
        "vertices PA, mm": 1000 * aligned(found[0], true[0]),
        "limb in the body, %": 100 * float((inside > DEEP_IN).mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="motion.npz, fit_body.npz, pose_prior.npz")
    parser.add_argument("--code", type=existing_file, help="of training.pose_code")
    parser.add_argument("--count", type=int, default=256)
    a = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    reader = FitBody(a.data / "fit_body.npz")
    body = TorchBody(reader)
    pelvis, turns = unseen_poses(a.data, a.count, rng)
    phenotype, camera = bodies_and_cameras(a.count, rng)
    with torch.no_grad():
        true = body.pose(pelvis, turns, phenotype)
        evidence = made_up(true[1], camera, rng)
    settings: dict[str, tuple[Path | None, float, str | None]] = {
        "mixtures": (None, 0.0, None),
        "mixtures, collisions": (None, COLLISION, None),
    }
    if a.code:
        settings |= {"mixtures, code": (a.code, 0.0, None), "mixtures, code, collisions": (a.code, COLLISION, None)}
    settings |= {f"without the {recipe}": (a.code, COLLISION, recipe) for recipe in RECIPES}
    row = figures((true[0].numpy(), true[1].numpy()), (true[0].numpy(), true[1].numpy()), reader)
    print(" | ".join(["", *row]) + f"\nthe truth itself | {tabled(row)}", flush=True)
    for name, (code, collision, recipe) in settings.items():
        s, _ = fitted(evidence, body, Prior.load(a.data, code, collision), recipe)
        with torch.no_grad():
            found = body.pose(rotations.rotation(s.turn) @ s.pelvis, s.a, s.phenotype)
        row = figures((found[0].numpy(), found[1].numpy()), (true[0].numpy(), true[1].numpy()), reader)
        print(f"{name} | {tabled(row)}", flush=True)


def tabled(row: dict[str, float]) -> str:
    """The figures of a row."""
    return " | ".join(f"{v:.1f}" for v in row.values())


if __name__ == "__main__":
    main()
