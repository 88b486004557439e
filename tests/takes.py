# SPDX-License-Identifier: Apache-2.0
"""Small Takes for tests: people who walk in front of a camera, without a network and without a clip's pictures.

    take = make_take(tmp_path / "walk.take", frames=12, people=2)
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from meshpose.camera import Camera
from meshpose.crop import Crop
from meshpose.errors import WeightsError
from meshpose.estimate import Estimate
from meshpose.take import Take
from meshpose.video import ClipInfo

WIDTH, HEIGHT, FPS = 320, 240, 25.0


def clip_info(path: Path, frames: int) -> ClipInfo:
    """A clip of `frames` frames; a file of some bytes stands for it where there is none."""
    if not path.exists():
        path.write_bytes(b"not a real clip: " + path.name.encode() * 100)
    return ClipInfo(path=path.resolve(), width=WIDTH, height=HEIGHT, fps=FPS, times=np.arange(frames) / FPS)


def body_motion(frames: int, seed: int = 0, phenotype: dict[str, float] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """A body that walks on the spot and turns: (F, N, 3) metres in the body's frame (z up), (F,) seconds."""
    from meshpose.body import Body

    body, random = Body.load(), np.random.default_rng(seed)
    rotations = np.zeros((frames, len(body.bone_names), 4))
    rotations[..., 0] = 1
    phase = np.linspace(0, 2 * np.pi, frames, endpoint=False) + random.uniform(0, 6)
    for name, swing in {"upperleg01.L": 0.5, "upperleg01.R": -0.5, "upperarm01.L": -0.4, "upperarm01.R": 0.4}.items():
        if name in body.bone_names:
            angle = swing * np.sin(phase) / 2
            rotations[:, body.bone_names.index(name)] = np.stack(
                [np.cos(angle), np.sin(angle), 0 * angle, 0 * angle], -1
            )
    turn = (random.uniform(-1, 1) + phase / 3) / 2
    rotations[:, 0] = np.stack([np.cos(turn), 0 * turn, 0 * turn, np.sin(turn)], -1)
    vertices = body.pose(body.shape(phenotype), rotations, np.zeros((frames, 3)))
    return vertices, np.arange(frames) / FPS


def to_camera(points: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Body frame (z up, facing the camera at -y) -> camera frame, moved to `position` (F, 3)."""
    return np.stack([points[..., 0], -points[..., 2], points[..., 1]], -1) + position[:, None]


def as_network(metres: np.ndarray, root: np.ndarray, camera: Camera) -> np.ndarray:
    """(F, V, 3) metres -> what a perfect network says: x, y pixels, z pixels relative to the root (F, 3)."""
    focal = (camera.fx + camera.fy) / 2
    depth = (metres[..., 2] - root[:, None, 2]) * (focal / root[:, 2])[:, None]
    return np.concatenate([camera.project(metres), depth[..., None]], -1)


def estimates(frames: int, seed: int = 0, camera: Camera | None = None) -> Iterator[Estimate]:
    """A person's estimates, frame by frame: a body 4 metres away that crosses the picture (without Body: a cloud)."""
    camera = camera or Camera.guess(WIDTH, HEIGHT)
    random = np.random.default_rng(seed + 100)
    position = np.stack([np.linspace(-0.8, 0.8, frames), np.full(frames, 0.1), np.linspace(4, 4.5, frames)], -1)
    position[:, 0] += 0.3 * seed
    try:
        from meshpose.body import Body

        vertices, _ = body_motion(frames, seed)
        body = Body.load()
        metres = to_camera(vertices[:, body.lowpoly], position)
        hips = body.joints(metres, "coco17")[:, 11:13].mean(1)
    except (ImportError, OSError, WeightsError):  # the body is baked in another room; the Take does not need it
        ball = random.normal(size=(500, 3)) * (0.2, 0.5, 0.15)
        metres, hips = to_camera(np.broadcast_to(ball, (frames, 500, 3)), position), position
    pixels = as_network(metres, hips, camera)
    for i in range(frames):
        low, high = pixels[i, :, :2].min(0), pixels[i, :, :2].max(0)
        (x, y), side = (low + high) / 2, 1.25 * (high - low).max()
        crop = Crop(float(x), float(y), float(side), 0.1 * float(np.sin(i)))
        visibility = np.clip(0.5 - 2 * (metres[i, :, 2] - metres[i, :, 2].mean()), 0, 1)
        yield Estimate(crop, pixels[i].astype(np.float32), visibility.astype(np.float32), 0.9 - 0.01 * (i % 7))


def make_take(
    path: Path, frames: int = 12, people: int = 2, seed: int = 0, fit: bool = False, gaps: bool = True, **create: Any
) -> Take:
    """Write a small Take and open it for reading.

    The clip is `<stem>.mp4` beside it (made of some bytes where there is none).  gaps: the second person comes two
    frames later and is missed in one.  fit: with the rig fit, where that room is there.
    """
    clip = clip_info(path.with_suffix(".mp4"), frames)
    camera = create.pop("camera", None) or Camera.guess(clip.width, clip.height)
    with Take.create(path, clip, {"model": "fake", "seed": seed}, camera=camera, **create) as take:
        tracks = {number: list(estimates(frames, seed + number - 1, camera)) for number in range(1, people + 1)}
        for index in range(frames):
            there = [n for n in tracks if not (gaps and n == 2 and (index < 2 or index == frames // 2))]
            take.add_frame(index, [(n, tracks[n][index]) for n in there], b"state", seconds=index / FPS)
        take.set_job_value("found", str(take.all_people))
        take.finish()
        for number in take.people:
            person = take.person(number)
            depth = 4.0 + 0.5 * person.frames / max(frames - 1, 1)
            take.set_place(number, person.frames, depth / camera.fx, "made by tests/takes.py")
            if fit:
                add_fit(take, number)
    return Take.open(path)


def add_fit(take: Take, number: int) -> None:
    """Fit the rig to a person of a small Take."""
    from meshpose.body import Body
    from meshpose.rig import fit_rig

    person = take.person(number)
    fit = fit_rig(person.vertices(), person.visibility(), person.frames, Body.load())
    take.set_fit(number, fit, "made by tests/takes.py")
