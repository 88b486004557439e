# SPDX-License-Identifier: Apache-2.0
"""Depth on real footage: one person in two synchronous clips of calibrated cameras, beside BlazePose heavy.

    python -m tools.two_views CLIP_A CLIP_B CAMERAS.json [--moments 25] [--model NAME] [--as-clips] [--json FILE]

CAMERAS.json names each clip's file: {"CLIP": {"K": 3 x 3, "R_world_to_camera": 3 x 3, "t_metres": 3}}.  The truth of a
moment are BlazePose's landmarks of both views, triangulated (direct linear transform); each view is then answered
alone, from the person's box, or (--as-clips) converted as a clip: the mesh as the network said it, frame by frame, the
mesh with the depth that the motion tells, and the finished motion.  Error: twelve limb joints, relative to the
mid-hips, in millimetres after the best scale, and after the best similarity (PA).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from meshpose import weights
from meshpose.body import Body
from meshpose.camera import Camera, place
from meshpose.convert import convert
from meshpose.detect import PeopleDetector
from meshpose.errors import InputError, MeshPoseError
from meshpose.evaluate import Answers, MeshAnswers, PeerAnswers
from meshpose.metrics import COCO17, LIMBS, procrustes
from meshpose.video import Clip, probe

PEER = "BlazePose heavy"
LIMB_ROWS = [COCO17.index(name) for name in LIMBS]
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
    scaled, aligned = a * (a * b).sum() / (a * a).sum(), procrustes(a, b)
    return float(np.linalg.norm(scaled - b, axis=1).mean()), float(np.linalg.norm(aligned - b, axis=1).mean())


@dataclass(frozen=True)
class View:
    """A clip's pictures by frame, and its camera: intrinsics K (3, 3), rotation R (3, 3), shift t (3,) metres."""

    name: str
    pictures: Mapping[int, np.ndarray]
    k: np.ndarray
    r: np.ndarray
    t: np.ndarray

    def camera(self, image: np.ndarray) -> Camera:
        """For a picture (H, W, 3)."""
        k = self.k
        return Camera(k[0, 0], k[1, 1], k[0, 2], k[1, 2], image.shape[1], image.shape[0])


def views_of(clips: Sequence[Path], cameras: Mapping[str, Mapping[str, list]], moments: int) -> list[View]:
    """Both clips' pictures at the same frames.  InputError where a clip's camera is not given."""
    wanted = np.linspace(0, min(probe(c).frames for c in clips) - 1, moments).round().astype(int)
    out = []
    for clip in clips:
        try:
            k, r, t = (np.array(cameras[clip.name][key]) for key in ("K", "R_world_to_camera", "t_metres"))
        except KeyError as missing:
            raise InputError(f"{clip.name}: the cameras' file has no {missing}") from None
        out.append(View(clip.name, {f.index: f.image for f in Clip(clip) if f.index in wanted}, k, r, t))
    return out


def as_clips(clips: Sequence[Path], views: Sequence[View], model: str) -> Iterator[dict[str, dict[int, np.ndarray]]]:
    """By view: what a conversion makes of the person of the most frames, joints (12, 3) mm by moment, by name."""
    body = Body.load()
    with tempfile.TemporaryDirectory() as folder:
        for clip, view in zip(clips, views, strict=True):
            fov = float(np.degrees(2 * np.arctan(max(probe(clip).width, probe(clip).height) / 2 / view.k[0, 0])))
            with convert(clip, folder, model=model, fov=fov, preview=False) as take:
                person = max(map(take.person, take.people), key=lambda p: len(p.frames), default=None)
                motion, world = None if person is None else person.motion(), take.world()
                if person is None or motion is None or world is None:
                    raise InputError(f"{clip.name}: nobody was found in it")
                frames = person.frames
                posed = body.pose(body.shape(motion.phenotype), motion.rotations, np.zeros((len(motion.frames), 3)))
                said = place(person.lowpoly_pixels(raw=True), person.metres_per_pixel(), take.camera)
                answers = {
                    "as the network said it": (frames, said),
                    "depth from motion": (frames, person.lowpoly()),
                    "finished motion": (motion.frames, (posed @ world.rotation[0])[:, body.lowpoly]),
                }
                yield {
                    name: dict(zip(at.tolist(), 1000 * body.joints(low, "coco17")[:, LIMB_ROWS], strict=True))
                    for name, (at, low) in answers.items()
                }


def measure(views: Sequence[View], model: str, clips: Sequence[Path] = ()) -> dict:
    """The figures by view and estimator, and the median reprojection error of the truth, px.  clips: the views' files,
    to be converted; without them each moment is answered alone."""
    converted = dict(zip((v.name for v in views), as_clips(clips, views, model), strict=True)) if clips else {}
    detector = PeopleDetector()
    estimators: dict[str, Answers] = {PEER: PeerAnswers()}
    if not clips:
        estimators = {model: MeshAnswers(model)} | estimators
    errors: dict[str, list[tuple[float, float]]] = {}
    away: list[float] = []
    for index in sorted(set.intersection(*(set(v.pictures) for v in views))):
        people_of = [detector(v.pictures[index]) for v in views]
        if not all(people_of):
            continue
        seen = []
        for view, people in zip(views, people_of, strict=True):
            image, (x, y, w, h) = view.pictures[index], max(people, key=lambda d: d.score).box
            seen.append({n: e(image, (x, y, w, h), view.camera(image), None) for n, e in estimators.items()})
        flat = [np.array([s[PEER].keypoints[n][:2] for n in LIMBS]) for s in seen]
        world = triangulated(flat, [v.k @ np.column_stack([v.r, v.t]) for v in views])
        for view, answers, points in zip(views, seen, flat, strict=True):
            true = world @ view.r.T + view.t
            there = true @ view.k.T
            away += list(np.linalg.norm(there[:, :2] / there[:, 2:] - points, axis=1))
            found = {name: np.array([answer.keypoints_3d[n] for n in LIMBS]) for name, answer in answers.items()}
            found |= {name: by[index] for name, by in converted.get(view.name, {}).items() if index in by}
            for name, joints in found.items():
                errors.setdefault(f"{name}, {view.name}", []).append(off(joints, 1000 * true))
    if not errors:
        raise InputError("on no frame both views show somebody")
    out: dict = {"moments": len(away) // (len(views) * len(LIMBS)), "reprojection px": float(np.median(away))}
    for name, pairs in errors.items():
        plain, aligned = np.mean(pairs, axis=0)
        out[name] = {"root-relative mm": round(plain, 1), "PA mm": round(aligned, 1)}
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("clips", type=Path, nargs=2, metavar="CLIP")
    parser.add_argument("cameras", type=Path)
    parser.add_argument("--moments", type=int, default=25)
    parser.add_argument("--model", default=weights.DEFAULT)
    parser.add_argument("--as-clips", action="store_true", help="convert the clips, a minute or two each")
    parser.add_argument("--json", type=Path)
    a = parser.parse_args()
    try:
        views = views_of(a.clips, json.loads(a.cameras.read_text()), a.moments)
        found = measure(views, a.model, a.clips if a.as_clips else ())
    except (MeshPoseError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    for key, value in found.items():
        print(f"{key}: {value}")
    if a.json:
        a.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
