# SPDX-License-Identifier: Apache-2.0
"""How good a motion is, against a true one: steadiness, feet, floor, distance. The table of docs/motion.md.

    .venv/bin/python -m tools.motion_measures [--walk round|towards|across|diagonal|away|standing] [--seconds 12]
        [--fps 25] [--seeds 2] [--json FILE]

makes walks (tools/walks.py), lets the network err as it does, fits the rig, and measures the fit of what the network
said as it is ("before": on a level floor under the lowest foot) and the finished motion ("after").
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from meshpose.body import Body, quaternion, rotation_matrix
from meshpose.feet import Legs, Pose
from meshpose.motion import Motion, MotionSettings, Track, World, solve
from tools.walks import ACROSS, AWAY, DIAGONAL, RATE, TOWARDS, Noise, Truth, make_walk

Array = npt.NDArray[Any]

JOINTS = ("upperleg01", "lowerleg01", "foot", "upperarm01", "lowerarm01", "wrist")
MIDDLE = ("root", "spine03", "neck01", "head")

WALKS: dict[str, Callable[..., Truth]] = {
    "round": make_walk,
    "towards": partial(make_walk, path=TOWARDS, speed=0.9),
    "across": partial(make_walk, path=ACROSS),
    "diagonal": partial(make_walk, path=DIAGONAL),
    "away": partial(make_walk, path=AWAY),
    "standing": partial(make_walk, stand=True),
}
"""Seconds, frames a second -> walk."""


@dataclass(frozen=True)
class Measures:
    """joints, absolute: mean distance of joints from the truth, mm, hips on hips or in space; acceleration: mean error
    of the joints' acceleration, hips on hips, m/s^2; lag: frames by which it comes late; flips: frames in 1,000 in
    which sides are exchanged; skate: mean slide of points of the sole that truly bear, mm a frame; floating, sunk: mean
    height of those over the floor, and depth under it, mm; through: mean depth of the lowest point of the soles under
    the floor over all frames, mm; precision, recall of contact; tilt, roll: of the camera, degrees off; depth: standard
    deviation of the distance's error, percent of the distance; knee: 99.9th percentile of the knees' angular
    acceleration, against the truth's; bend, bend_noise: mean of the knees' bend over the truth's, and its root mean
    square, degrees.
    """

    joints: float
    absolute: float
    acceleration: float
    lag: int
    flips: float
    skate: float
    floating: float
    sunk: float
    through: float
    precision: float
    recall: float
    tilt: float
    roll: float
    depth: float
    knee: float
    bend: float
    bend_noise: float


def measure(truth: Truth, rows: Array, motion: Motion, world: World) -> Measures:
    """rows: which of the true frames the motion's are."""
    times = truth.times[rows]
    step = float(np.median(np.diff(times)))
    true = _joints(truth.shape.phenotype, 1.0, truth.rotations, truth.translation)[rows]
    rotation, shift = world.at(motion.frames)
    found = _joints(motion.phenotype, motion.scale, motion.rotations, motion.translation)
    found = np.einsum("fba,fjb->fja", rotation, found - shift[:, None])
    near, near_true = (x - x[:, :1] for x in (found, true))
    bend = lambda x: np.diff(x, 2, axis=0) / step**2  # noqa: E731
    legs = Legs(Body.load(), Body.load().shape(motion.phenotype), motion.scale)
    pose = legs.pose(motion.rotations.astype(np.float64), motion.translation)
    own = Legs(Body.load(), truth.shape, 1.0)
    own_pose = own.pose(truth.rotations[rows], truth.translation[rows])
    bent = np.degrees(_knees(pose) - _knees(own_pose))
    bears = truth.contact[rows]
    pairs = bears[1:] & bears[:-1]
    slide = np.linalg.norm(np.diff(pose.soles[..., :2], axis=0), axis=-1)
    height = pose.soles[..., 2]
    hit = (motion.contact & bears).sum()
    distance, true_distance = found[:, 0, 2], true[:, 0, 2]
    away = world.rotation[0] @ truth.to_world.T  # the true world in the found one
    turned = np.linalg.norm(near[:, _mirror()] * [1, 1, -1] - near_true, axis=-1).mean(1)
    straight = np.linalg.norm(near - near_true, axis=-1).mean(1)
    return Measures(
        joints=1000 * float(straight.mean()),
        absolute=1000 * float(np.linalg.norm(found - true, axis=-1).mean()),
        acceleration=float(np.linalg.norm(bend(near) - bend(near_true), axis=-1).mean()),
        lag=_lag(near, near_true),
        flips=1000 * float((turned < straight).mean()),
        skate=1000 * float(slide[pairs].mean()),
        floating=1000 * float(np.maximum(height[bears], 0).mean()),
        sunk=1000 * float(np.maximum(-height[bears], 0).mean()),
        through=1000 * float(np.maximum(-height.min(1), 0).mean()),
        precision=float(hit / max(motion.contact.sum(), 1)),
        recall=float(hit / max(bears.sum(), 1)),
        tilt=float(np.degrees(np.arcsin(np.clip(away[1, 2], -1, 1)))),
        roll=float(np.degrees(np.arcsin(np.clip(away[0, 2], -1, 1)))),
        depth=100 * float(np.std(distance / true_distance)),
        knee=_knee(pose, step) / max(_knee(own_pose, step), 1e-9),
        bend=float(bent.mean()),
        bend_noise=float(np.sqrt((bent**2).mean())),
    )


def before(truth: Truth, track: Track) -> tuple[Motion, World]:
    """The rig fit as it is, on a floor under its lowest foot, in a camera that looks as the true one does."""
    fit, turn = track.fit, truth.to_world
    rotations = fit.rotations.astype(np.float64)
    rotations[:, 0] = quaternion(turn @ rotation_matrix(rotations[:, 0]))
    root: Array = fit.translation @ turn.T
    legs = Legs(Body.load(), Body.load().shape(fit.phenotype), fit.scale)
    lift = -float(np.percentile(legs.pose(rotations, root).soles[..., 2].min(1), 1))
    count = len(fit.frames)
    root = root + [0.0, 0.0, lift]
    motion = Motion(
        fit.phenotype, fit.scale, rotations, root, fit.frames, np.zeros((count, 4), bool),
        np.ones(rotations.shape[:2], bool), np.ones(count, bool), track.metres_per_pixel,
    )  # fmt: skip
    return motion, World(turn[None], np.array([[0.0, 0.0, lift]]), np.zeros(1, np.int64))


def _joints(phenotype: Array, scale: float, rotations: Array, translation: Array) -> Array:
    """Heads (F, P, 3) of the root and the limbs' bones, metres."""
    body = Body.load()
    heads = body.transforms(body.shape(phenotype), rotations, np.zeros((len(rotations), 3)))[1].astype(np.float64)
    return heads[:, _bones()] * scale + np.asarray(translation)[:, None]


def _bones() -> list[int]:
    names = Body.load().bone_names
    return [names.index(n) for n in (*MIDDLE, *(f"{j}.{s}" for j in JOINTS for s in "LR"))]


def _mirror() -> list[int]:
    """The other side's place of each of the joints."""
    count = len(MIDDLE)
    return [*range(count), *(count + 2 * k + 1 - s for k in range(len(JOINTS)) for s in range(2))]


def _lag(found: Array, true: Array, most: int = 5) -> int:
    """Frames by which the found velocities come late, from the peak of the cross-correlation."""
    a, b = (np.diff(x.reshape(len(x), -1), axis=0) for x in (found, true))
    inner = b[most:-most]
    return int(np.argmax([(a[most + k : len(a) - most + k] * inner).sum() for k in range(-most, most + 1)]) - most)


def _knees(pose: Pose) -> Array:
    """How far the knees are bent (F, 2), radians."""
    thigh, shin = pose.knees - pose.hips, pose.ankles - pose.knees
    cosine = (thigh * shin).sum(-1) / np.linalg.norm(thigh, axis=-1) / np.linalg.norm(shin, axis=-1)
    out: Array = np.arccos(np.clip(cosine, -1, 1))
    return out


def _knee(pose: Pose, step: float) -> float:
    """99.9th percentile of the knees' angular acceleration, rad/s^2."""
    return float(np.quantile(np.abs(np.diff(_knees(pose), 2, axis=0)), 0.999)) / step**2


def compare(
    truth: Truth, track: Track, settings: MotionSettings | None = None, said: Track | None = None
) -> tuple[Measures, Measures]:
    """Before and after.  said: the track whose fit is "before", where it is another."""
    raw = track if said is None else said
    motions, world = solve({1: track}, truth.camera, settings)
    rows = np.searchsorted(truth.frames, motions[1].frames)
    return measure(truth, np.searchsorted(truth.frames, raw.fit.frames), *before(truth, raw)), measure(
        truth, rows, motions[1], world
    )


def main(argv: list[str]) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="tools/motion_measures.py", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--walk", choices=sorted(WALKS), default="round")
    parser.add_argument("--seconds", type=float, default=12.0)
    parser.add_argument("--fps", type=float, default=RATE, help="frames a second")
    parser.add_argument("--seeds", type=int, default=2, help="walks with errors of their own, averaged")
    parser.add_argument("--strength", type=float, default=0.5, help="of the smoothing")
    parser.add_argument("--noise", type=float, default=1.0, help="the network's errors, times so much")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(argv)
    walk, rows = WALKS[options.walk](options.seconds, options.fps), []
    for seed in range(options.seeds):
        noise = Noise(seed=seed, strength=options.noise, flips=max(1, round(options.seconds / 4)))
        track, said = walk.track(noise), walk.track(noise, from_motion=False)
        rows.append([asdict(m) for m in compare(walk, track, MotionSettings(smooth=options.strength), said)])
    table = {name: [float(np.mean([r[k][name] for r in rows])) for k in range(2)] for name in rows[0][0]}
    print("| | before | after |\n|---|---|---|")
    for name, (a, b) in table.items():
        print(f"| {name} | {a:.3g} | {b:.3g} |")
    if options.json:
        options.json.write_text(json.dumps(table, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
