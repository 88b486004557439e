# SPDX-License-Identifier: Apache-2.0
"""Synthetic walks: a true motion over a true floor, and what a network as good as ours would have said of it.

    walk = make_walk(seconds=10)
    track = walk.track(Noise(seed=1))              # what `meshpose.motion.solve` takes
    walk.contact, walk.vertices()                  # what is true

The motion is procedural (training/walk.py): planted footsteps, no recorded data. The camera stands at EYE and looks
down by TILT. The noise is like the network's: each part of the body (trunk, thigh, foot ...) errs as one, for some
frames on end, in depth far more than in the picture, the ends of the limbs most; now and then somebody is taken for
being turned round. Its figures were read off the network's low-poly against the truth of the sample clip (PARTS).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from meshpose.body import Body, Shape, quaternion
from meshpose.camera import Camera, bone_lengths, metres_per_pixel, place, smoothed
from meshpose.likely import told_places
from meshpose.motion import Track
from meshpose.rig import RigFit, fit_rig
from training.synth_body import TO_ANNY, bone_rotations, rotation
from training.walk import Path, Walk, legs_of

Array = npt.NDArray[Any]

RATE = 25.0
"""Frames a second of a walk, where nothing else is said; errors are as alike from frame to frame as PARTS and ALIKE say
at this rate, more so where frames follow closer."""
PARTS = {  # mm across the picture, mm in depth, and how alike the depth is from frame to frame
    "trunk": (8, 18, 0.85), "head": (9, 55, 0.87), "upperarm": (10, 50, 0.91), "lowerarm": (18, 100, 0.95),
    "hand": (35, 160, 0.95), "upperleg": (12, 40, 0.87), "lowerleg": (16, 75, 0.9), "foot": (22, 110, 0.91),
}  # fmt: skip
ALIKE = 0.6
"""How alike the error across the picture is from frame to frame."""
SCATTER = 6.0
"""mm by which each vertex errs for itself."""
EYE = np.array([0.15, 1.35, 4.6])
TILT = 0.14
PHENOTYPE = {"gender": 0.08, "age": 0.63, "muscle": 0.6, "weight": 0.45, "height": 0.42, "proportions": 0.6}
ROUND = Path((-1.0, 0.2), np.pi / 2, 1.6, 0.9, 50.0)
"""Across the picture, then round in a circle: to the camera, away from it, and across."""
TOWARDS = Path((0.3, -2.2), -0.05, 20.0, 1.0, 0.0)
"""Straight to the camera, for five seconds at 0.9 m/s."""
ACROSS = Path((-1.6, 0.3), np.pi / 2, 20.0, 1.0, 0.0)
"""Across the picture, from edge to edge in three seconds."""
DIAGONAL = Path((-1.3, -1.8), np.pi / 5, 20.0, 1.0, 0.0)
"""From the back left to the front right, for three seconds and a half."""
AWAY = Path((0.1, 1.0), np.pi, 20.0, 1.0, 0.0)
"""Straight away from the camera, for four seconds."""
UP = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]])
"""Axes of the walk (x right, y up, z to the camera) -> of the world (x right, y away from the camera, z up)."""


@dataclass(frozen=True)
class Noise:
    """How the network errs: strength times PARTS; flips: how many stretches of 1 to 5 frames are seen turned round."""

    seed: int = 0
    strength: float = 1.0
    flips: int = 0


@dataclass(frozen=True, eq=False)
class Truth:
    """A true motion. rotations (F, J, 4) and translation (F, 3) in the camera frame, contact (F, 4) in the order of
    `meshpose.motion.CONTACTS`, times (F,) seconds, to_world (3, 3) and eye (3,): the camera in the world.
    """

    shape: Shape
    rotations: Array
    translation: Array
    contact: Array
    times: Array
    camera: Camera
    to_world: Array
    eye: Array
    frames: Array = field(default_factory=lambda: np.zeros(0, np.int64))

    def vertices(self) -> Array:
        """Low-poly vertices (F, V, 3) metres, camera frame."""
        body = Body.load()
        parts = [slice(i, i + 64) for i in range(0, len(self.times), 64)]
        posed = [body.pose(self.shape, self.rotations[p], self.translation[p])[:, body.lowpoly] for p in parts]
        return np.concatenate(posed).astype(np.float64)

    def track(self, noise: Noise | None = None, height: bool = True, from_motion: bool = True) -> Track:
        """What the network, the place in space and the rig fit make of it.  height: the stature is told; from_motion:
        depths are those that the motion tells (`meshpose.depth`), as in a Take, not the network's own.
        """
        pixels, visibility, _ = observed(self, noise)
        body, stature = Body.load(), self.shape.stature if height else None
        sizes, sure = metres_per_pixel(pixels, visibility, self.camera, bone_lengths(body, stature), body)
        sizes = smoothed(sizes, sure, self.times)
        if from_motion:
            pixels = told_places(pixels, visibility, sizes, self.times, self.camera)
        fit = fit_rig(place(pixels, sizes, self.camera), visibility, self.frames, body, stature)
        return Track(fit, pixels, visibility, self.times, sizes)

    def perfect(self) -> RigFit:
        """The fit that has no error."""
        return RigFit(self.shape.phenotype, 1.0, self.rotations, self.translation, self.frames)


def make_walk(
    seconds: float = 10.0,
    fps: float = RATE,
    path: Path | None = None,
    speed: float = 1.12,
    stand: bool = False,
    size: tuple[int, int] = (640, 720),
    focal: float = 700.0,
) -> Truth:
    """Somebody who walks (or stands and sways), filmed by a camera that stands."""
    body = Body.load()
    shape = body.shape(PHENOTYPE)
    heads = (shape.heads @ TO_ANNY).astype(np.float64)
    legs = legs_of(dict(zip(body.bone_names, heads, strict=True)), float((shape.vertices @ TO_ANNY)[:, 1].min()))
    if stand:
        walk: Walk = _Stander(path or Path((0.1, 0.4), 0.2, 9.0, 1.0, 0.0), legs, period=5.0, speed=0.0)
    else:
        walk = Walk(path or ROUND, legs, speed=speed)
    turn = rotation(np.array([TILT, 0, 0])) @ np.diag([1.0, -1.0, -1.0])
    times = np.arange(round(seconds * fps)) / fps
    rotations, translation, contact = [], [], []
    for t in times:
        frame = walk.frame(float(t))
        rotations.append(_deltas(body, shape, heads, frame.local, turn, toe_bend(walk, float(t))))
        translation.append(turn @ (frame.pelvis - EYE))
        contact.append(np.ones(4, bool) if stand else standing(walk, float(t)))
    camera = Camera(focal, focal, size[0] / 2, size[1] / 2, *size)
    return Truth(
        shape, np.array(rotations), np.array(translation), np.array(contact), times, camera,
        UP @ turn.T, UP @ EYE, np.arange(len(times)),
    )  # fmt: skip


class _Stander(Walk):
    """Both feet stay where they are, the body sways."""

    def _foot(self, side: str, t: float) -> tuple[np.ndarray, float, float]:
        here, heading = self._plant(side, 0)
        return np.array([here[0], self.legs[side].ankle, here[1]]), heading, 0.0


def standing(walk: Walk, t: float) -> Array:
    """Which of the heels and balls of the feet bear on the floor (4,): that of a planted foot which is not lifted."""
    out = []
    for side in "LR":
        phase = t / walk.period - (0.0 if side == "L" else 0.5)
        planted = phase - np.floor(phase + walk.STANCE / 2) + walk.STANCE / 2 < walk.STANCE
        pitch = walk._foot(side, t)[2]
        out += [planted and pitch < 0.03, planted and pitch > -0.03]
    return np.array(out)


def toe_bend(walk: Walk, t: float) -> tuple[float, float]:
    """How far the toes of both feet bend up, radians: they stay flat while the heel rises about the ball."""
    return tuple(max(0.0, walk._foot(side, t)[2]) for side in "LR")  # type: ignore[return-value]


def _deltas(body: Body, shape: Shape, heads: Array, local: Array, turn: Array, toes: tuple[float, float]) -> Array:
    """Local-ref rotations (J, 4), the root's turned into the camera frame; see training/sample.py."""
    align = body.reference.astype(np.float64) @ shape.orientations.astype(np.float64).transpose(0, 2, 1)
    align[0] = np.eye(3)
    curl = {i: rotation(np.array([-bend, 0, 0])) for s, bend in zip("LR", toes, strict=True)
            for i, n in enumerate(body.bone_names) if n.startswith("toe") and n.endswith(f"-1.{s}")}  # fmt: skip
    away = turn @ bone_rotations(body.bone_names, body.bone_parents, heads, local, curl) @ TO_ANNY.T
    full = away @ align.transpose(0, 2, 1)
    delta = full.copy()
    delta[1:] = full[body.bone_parents[1:]].transpose(0, 2, 1) @ full[1:]
    out: Array = quaternion(delta)
    return out


def observed(truth: Truth, noise: Noise | None = None) -> tuple[Array, Array, Array]:
    """What a network would say: pixels (F, V, 3), visibility (F, V), and which frames it took for turned round (F,)."""
    body = Body.load()
    metres = truth.vertices()
    hips = body.joints(metres, "lsp14")[:, 2:4].mean(1)
    flipped = np.zeros(len(metres), bool)
    error = np.zeros_like(metres)
    if noise is not None:
        rng = np.random.default_rng(noise.seed)
        step = round(RATE * float(np.median(np.diff(truth.times))), 6) if len(metres) > 1 else 1.0
        error = noise.strength * _errors(body, len(metres), rng, step)
        for start in rng.choice(np.arange(5, len(metres) - 10), noise.flips, replace=False):
            flipped[start : start + rng.integers(1, 6)] = True
    focal = truth.camera.fx
    size = (hips[:, 2] / focal)[:, None]
    depth = (metres[..., 2] - hips[:, None, 2] + error[..., 2]) / size
    flat = truth.camera.project(metres) + error[..., :2] / size[..., None]
    pixels = np.concatenate([flat, depth[..., None]], -1)
    pixels[flipped] = pixels[flipped][:, body.lowpoly_mirror] * [1, 1, -1]
    return pixels, _visibility(body, metres), flipped


def _errors(body: Body, frames: int, rng: np.random.Generator, step: float) -> Array:
    """Errors (F, V, 3) in metres, in the axes of the picture and its depth; step: of a frame, in those of RATE."""
    groups = sorted({part for name in body.bone_names if (part := _part(name))})
    share = np.zeros((len(body.lowpoly), len(groups)))
    bones, skin = body.skin_bones[body.lowpoly].astype(int), body.skin_weights[body.lowpoly]
    member = np.array([groups.index(_part(name)) for name in body.bone_names])
    np.add.at(share, (np.arange(len(share))[:, None], member[bones]), skin)
    out = np.zeros((frames, len(groups), 3))
    for g, name in enumerate(groups):
        across, depth, alike = PARTS[name.split(".")[0]]
        out[:, g, :2] = across * wandering(rng, frames, 2, ALIKE**step)
        out[:, g, 2:] = depth * wandering(rng, frames, 1, alike**step)
    own = SCATTER * np.stack([wandering(rng, frames, len(share), ALIKE**step) for _ in range(3)], -1)
    return (np.einsum("vg,fgc->fvc", share, out) + own) / 1000


def wandering(rng: np.random.Generator, frames: int, count: int, alike: float) -> Array:
    """First-order autoregressive noise (F, count) of deviation 1."""
    steps = rng.normal(size=(frames, count)) * np.sqrt(1 - alike**2)
    out = np.empty_like(steps)
    out[0] = rng.normal(size=count)
    for f in range(1, frames):
        out[f] = alike * out[f - 1] + steps[f]
    return out


def _part(bone: str) -> str:
    """Which of PARTS a bone belongs to, with its side."""
    base, _, side = bone.partition(".")
    base = base.split("-")[0].rstrip("0123456789")
    kin = {"spine": "trunk", "root": "trunk", "pelvis": "trunk", "clavicle": "trunk", "shoulder": "trunk",
           "neck": "head", "eye": "head", "toe": "foot", "finger": "hand", "metacarpal": "hand",
           "wrist": "hand"}  # fmt: skip
    base = kin.get(base, base)
    return base if base in ("trunk", "head") else f"{base}.{side}"


def _visibility(body: Body, metres: Array) -> Array:
    """Visibility (F, V): what faces the camera was seen."""
    from meshpose.raster import vertex_normals

    seen = np.empty(metres.shape[:2])
    for f, points in enumerate(metres):
        towards = -points / np.linalg.norm(points, axis=-1, keepdims=True)
        seen[f] = (vertex_normals(points, body.lowpoly_faces) * towards).sum(-1)
    return np.clip(0.5 + 2 * seen, 0.02, 0.98)
