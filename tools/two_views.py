# SPDX-License-Identifier: Apache-2.0
"""Depth on real footage: one person in two synchronous clips of calibrated cameras, beside BlazePose heavy.

    python -m tools.two_views CLIP_A CLIP_B CAMERAS.json [--moments 25] [--model NAME] [--json FILE]

CAMERAS.json names each clip's file: {"CLIP": {"K": 3 x 3, "R_world_to_camera": 3 x 3, "t_metres": 3}}.  The truth of a
moment are BlazePose's landmarks of both views, triangulated (direct linear transform); each view is then answered
alone, from the person's box.  Error: twelve limb joints, relative to the mid-hips, in millimetres after the best
scale, and after the best similarity (PA).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from meshpose.camera import Camera
from meshpose.detect import PeopleDetector
from meshpose.evaluate import Answers, MeshAnswers, PeerAnswers
from meshpose.metrics import LIMBS, procrustes
from meshpose.video import Clip, probe

HIPS = [LIMBS.index("left_hip"), LIMBS.index("right_hip")]


def triangulated(views: Sequence[np.ndarray], projections: Sequence[np.ndarray]) -> np.ndarray:
    """Points (J, 2) px in each view, projections (3, 4) -> (J, 3) world metres: least algebraic error."""
    rows = []
    for points, p in zip(views, projections, strict=True):
        rows += [points[:, :1] * p[2] - p[0], points[:, 1:2] * p[2] - p[1]]
    vector = np.linalg.svd(np.stack(rows, 1))[2][:, -1]
    return vector[:, :3] / vector[:, 3:]


def off(found: np.ndarray, true: np.ndarray) -> tuple[float, float]:
    """(J, 3) each, any unit and mm -> mean distance after centring on the hips and scaling, and after Procrustes."""
    a, b = found - found[HIPS].mean(0), true - true[HIPS].mean(0)
    scaled = a * (a * b).sum() / (a * a).sum()
    return tuple(float(np.linalg.norm(x - b, axis=1).mean()) for x in (scaled, procrustes(a, b)))  # type: ignore[return-value]


def measure(clips: Sequence[Path], cameras: Mapping[str, Mapping[str, list]], moments: int, model: str) -> dict:
    """The figures by view and estimator, and the median reprojection error of the truth, px."""
    detector, peer = PeopleDetector(), PeerAnswers()
    estimators: dict[str, Answers] = {model: MeshAnswers(model), "BlazePose heavy": peer}
    known = [cameras[c.name] for c in clips]
    turns = [np.array(c["R_world_to_camera"]) for c in known]
    shifts = [np.array(c["t_metres"]) for c in known]
    intrinsics = [np.array(c["K"]) for c in known]
    projections = [k @ np.column_stack([r, t]) for k, r, t in zip(intrinsics, turns, shifts, strict=True)]
    wanted = np.linspace(0, min(probe(c).frames for c in clips) - 1, moments).round().astype(int)
    pictures = [{f.index: f.image for f in Clip(c) if f.index in wanted} for c in clips]
    errors: dict[str, list[tuple[float, float]]] = {}
    away: list[float] = []
    for index in wanted:
        seen = []
        for picture, k in zip(pictures, intrinsics, strict=True):
            image = picture[index]
            camera = Camera(k[0, 0], k[1, 1], k[0, 2], k[1, 2], image.shape[1], image.shape[0])
            found = detector(image)
            if not found:
                break
            box = tuple(float(v) for v in max(found, key=lambda d: d.score).box)
            seen.append({n: e(image, box, camera, None) for n, e in estimators.items()})  # type: ignore[arg-type]
        if len(seen) < 2:
            continue
        flat = [np.array([s["BlazePose heavy"].keypoints[n][:2] for n in LIMBS]) for s in seen]
        world = triangulated(flat, projections)
        for view, (answers, r, t) in enumerate(zip(seen, turns, shifts, strict=True)):
            true = world @ r.T + t
            there = true @ intrinsics[view].T
            away += list(np.linalg.norm(there[:, :2] / there[:, 2:] - flat[view], axis=1))
            for name, answer in answers.items():
                joints = np.array([answer.keypoints_3d[n] for n in LIMBS])
                errors.setdefault(f"{name}, {clips[view].name}", []).append(off(joints, 1000 * true))
    out: dict = {"moments": len(errors[f"{model}, {clips[0].name}"]), "reprojection px": float(np.median(away))}
    for name, pairs in errors.items():
        plain, aligned = np.mean(pairs, axis=0)
        out[name] = {"root-relative mm": round(plain, 1), "PA mm": round(aligned, 1)}
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("clips", type=Path, nargs=2, metavar="CLIP")
    parser.add_argument("cameras", type=Path)
    parser.add_argument("--moments", type=int, default=25)
    parser.add_argument("--model", default="accurate")
    parser.add_argument("--json", type=Path)
    a = parser.parse_args()
    found = measure(a.clips, json.loads(a.cameras.read_text()), a.moments, a.model)
    for key, value in found.items():
        print(f"{key}: {value}")
    if a.json:
        a.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
