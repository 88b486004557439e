# SPDX-License-Identifier: Apache-2.0
"""The plots and pictures of docs/motion.md, from the sample clip and its truth.

    .venv/bin/python -m meshpose run samples/turn.mp4 --out out --fov 41.112 --no-preview
    .venv/bin/python -m pip install -r requirements/figures.txt
    .venv/bin/python -m tools.motion_figures out/turn.take docs/images

Before is the rig fit, after the finished motion, both of the network's own output.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from meshpose.body import Body
from meshpose.camera import Camera
from meshpose.errors import InputError, MeshPoseError
from meshpose.feet import Legs, Pose
from meshpose.motion import Motion, Track, World
from meshpose.raster import draw_mesh
from meshpose.rig import RigFit
from meshpose.take import Person, Take
from meshpose.video import Clip
from tools.motion_measures import before
from tools.walks import Truth

Array = npt.NDArray[Any]

TRUTH = Path(__file__).resolve().parents[1] / "samples" / "turn_truth.npz"
COLOURS = {"before": "#c8553d", "after": "#2a6f97", "truth": "#8a8a8a"}
INK, GRID, FLOOR = (60, 60, 60), (0, 190, 190), 28


class Scene:
    """One person of a Take, before, after and as it truly was."""

    def __init__(self, take: Take, person: Person) -> None:
        fit, motion, world = person.fit(), person.motion(), take.world()
        if fit is None or motion is None or world is None:
            raise InputError(f"{take.path}: {person.name} has no motion yet; run the conversion to its end")
        self.fit, self.after, self.world = fit, motion, world
        self.camera, self.clip, self.times = take.camera, take.clip, person.times(fit.frames)
        with np.load(TRUTH) as z:
            self.truth = {name: z[name] for name in z.files}
        track = Track(fit, np.zeros(0), np.zeros(0), self.times, person.metres_per_pixel(fit.frames))
        self.before = before(_as_truth(self.truth, world, self.camera), track)[0]
        true = RigFit(self.truth["phenotype"], 1.0, self.truth["rotations"], self.truth["translation"], fit.frames)
        self.true = before(_as_truth(self.truth, world, self.camera), Track(true, *[np.zeros(0)] * 4))[0]

    def legs(self, motion: Motion) -> Pose:
        """Soles and the rest in the world."""
        legs = Legs(Body.load(), Body.load().shape(motion.phenotype), motion.scale)
        return legs.pose(np.asarray(motion.rotations, np.float64), motion.translation)

    def each(self) -> dict[str, Motion]:
        """The three, by name."""
        return {"before": self.before, "after": self.after, "truth": self.true}


def _as_truth(truth: dict[str, Array], world: World, camera: Camera) -> Truth:
    """What `before` needs to know: the way up, as the motion found it."""
    body = Body.load()
    return Truth(
        body.shape(truth["phenotype"]), truth["rotations"], truth["translation"], np.zeros(0), np.zeros(0), camera,
        world.rotation[0], world.translation[0],
    )  # fmt: skip


# -- plots ---------------------------------------------------------------------------------------------------------


def plot_feet(scene: Scene, axes: Any) -> None:
    """Speed of the left ball of the foot along the floor, contact shaded; height of the heel."""
    for name, motion in scene.each().items():
        pose = scene.legs(motion)
        speed = np.linalg.norm(np.gradient(pose.soles[:, 1, :2], scene.times, axis=0), axis=-1)
        axes[0].plot(scene.times, speed, color=COLOURS[name], label=name, lw=1.4)
        axes[1].plot(scene.times, 100 * pose.soles[:, 1, 2], color=COLOURS[name], lw=1.4)
    bears = scene.after.contact[:, 1]
    for axis in axes:
        axis.fill_between(
            scene.times, 0, 1, where=bears, transform=axis.get_xaxis_transform(), color="#2a6f97", alpha=0.12, lw=0
        )
    axes[0].set(ylabel="speed, m/s", title="Left ball of the foot (shaded: found in contact)", ylim=(0, 4))
    axes[1].set(ylabel="height, cm", xlabel="seconds", ylim=(-8, 25))
    axes[0].legend(frameon=False, ncols=3)


def plot_jitter(scene: Scene, axes: Any) -> None:
    """The right knee's angle, and its angular acceleration."""
    for name, motion in scene.each().items():
        pose = scene.legs(motion)
        thigh, shin = pose.knees - pose.hips, pose.ankles - pose.knees
        cosine = (thigh * shin).sum(-1) / np.linalg.norm(thigh, axis=-1) / np.linalg.norm(shin, axis=-1)
        angle = np.degrees(np.arccos(np.clip(cosine, -1, 1)))[:, 1]
        bend = np.gradient(np.gradient(angle, scene.times), scene.times) / 1000
        axes[0].plot(scene.times, angle, color=COLOURS[name], label=name, lw=1.4)
        axes[1].plot(scene.times, bend, color=COLOURS[name], lw=1.4)
    axes[0].set(ylabel="degrees", title="Bend of the right knee")
    axes[1].set(ylabel="1,000 degrees/s²", xlabel="seconds")
    axes[0].legend(frameon=False, ncols=3)


def plot_depth(scene: Scene, axes: Any) -> None:
    """The hips' distance from the camera, and their speed along it."""
    for name, motion in scene.each().items():
        distance = np.linalg.norm(motion.translation - scene.world.translation[0], axis=1)
        if name == "truth":  # the size of somebody unknown is a guess; the way is what is compared
            distance *= np.median(np.linalg.norm(scene.fit.translation, axis=1) / distance)
        axes[0].plot(scene.times, distance, color=COLOURS[name], label=name, lw=1.4)
        axes[1].plot(scene.times, np.gradient(distance, scene.times), color=COLOURS[name], lw=1.4)
    axes[0].set(ylabel="metres", title="The hips' distance from the camera (truth at the scale of the guess)")
    axes[1].set(ylabel="m/s", xlabel="seconds")
    axes[0].legend(frameon=False, ncols=3)


def plots(scene: Scene, out: Path) -> None:
    """motion-feet.png, motion-jitter.png, motion-depth.png."""
    try:
        import matplotlib
    except ImportError as error:
        raise InputError("plots need matplotlib: pip install -r requirements/figures.txt") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    for name, draw in (("feet", plot_feet), ("jitter", plot_jitter), ("depth", plot_depth)):
        figure, axes = pyplot.subplots(2, 1, figsize=(8, 4.2), sharex=True, constrained_layout=True)
        for axis in axes:
            axis.grid(color="#e4e4e4", lw=0.6)
            axis.spines[["top", "right"]].set_visible(False)
        draw(scene, axes)
        figure.savefig(out / f"motion-{name}.png", dpi=90)
        pyplot.close(figure)


# -- pictures ------------------------------------------------------------------------------------------------------


def picture_side(scene: Scene, frames: list[int], size: int = 250) -> Array:
    """Before above, after below: the body from its side, on the floor."""
    rows = []
    for name in ("before", "after"):
        motion, cells = scene.each()[name], []
        meshes = motion.vertices(Body.load(), frames).astype(np.float64)
        for k, mesh in zip(frames, meshes, strict=True):
            cell = np.full((size, size * 2 // 3, 3), 246, np.uint8)
            cv2.line(cell, (0, size - FLOOR), (size, size - FLOOR), (150, 150, 150), 1, cv2.LINE_AA)
            scale = (size - FLOOR) / 1.95
            across = (mesh[:, 1] - motion.translation[k, 1]) * scale + size / 3
            flat = np.stack([across, size - FLOOR - mesh[:, 2] * scale], 1)
            cells.append(draw_mesh(cell, flat, -mesh[:, 0] * scale, Body.load().triangles, None, 1.0))
        row = np.concatenate(cells, 1)
        cv2.putText(row, name, (8, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.5, INK, 1, cv2.LINE_AA)
        rows.append(row)
    return np.concatenate(rows)


def picture_floor(scene: Scene, frames: list[int]) -> Array:
    """The floor that was found, and the skinned body that stands on it, over the footage."""
    turn, shift = scene.world.rotation[0], scene.world.translation[0]
    cells = []
    for frame in Clip(scene.clip.path):
        if frame.index not in frames:
            continue
        row = int(np.flatnonzero(scene.after.frames == frame.index)[0])
        picture = frame.image.copy()
        for line in _lines():
            seen = (line - shift) @ turn
            flat = scene.camera.project(seen[seen[:, 2] > 0.3])
            cv2.polylines(picture, [np.round(flat * 8).astype(np.int32)], False, GRID, 1, cv2.LINE_AA, 3)
        mesh = (scene.after.vertices(Body.load(), slice(row, row + 1))[0] - shift) @ turn
        flat = scene.camera.project(mesh)
        cells.append(draw_mesh(picture, flat, mesh[:, 2] * scene.camera.fx / 3, Body.load().triangles, None, 0.75))
    return np.concatenate(cells, 1)


def _lines() -> list[Array]:
    """A grid of half metres on the floor."""
    steps = np.linspace(0, 1, 60)
    across = [np.stack([-2 + 4 * steps, np.full(60, y), np.zeros(60)], 1) for y in np.arange(1.5, 7.1, 0.5)]
    return across + [np.stack([np.full(60, x), 1.5 + 5.5 * steps, np.zeros(60)], 1) for x in np.arange(-2, 2.1, 0.5)]


def picture_trails(scene: Scene, size: int = 420) -> Array:
    """The way of heels and balls of the feet, from above; dots where they bear (the contact that was found)."""
    cells, points = [], scene.legs(scene.after).soles[..., :2]
    low, high = points.min((0, 1)) - 0.25, points.max((0, 1)) + 0.25
    scale = size / (high - low).max()
    for name in ("before", "after"):
        soles = scene.legs(scene.each()[name]).soles[..., :2]
        cell = np.full((int((high - low)[1] * scale), int((high - low)[0] * scale), 3), 246, np.uint8)
        flat = np.stack([(soles[..., 0] - low[0]) * scale, len(cell) - (soles[..., 1] - low[1]) * scale], -1)
        for k, colour in enumerate(((200, 120, 40), (200, 120, 40), (60, 90, 200), (60, 90, 200))):
            way = np.round(flat[:, k] * 8).astype(np.int32)
            cv2.polylines(cell, [way], False, colour, 1, cv2.LINE_AA, 3)
            for x, y in way[scene.after.contact[:, k]]:
                cv2.circle(cell, (int(x), int(y)), 3 * 8, colour, -1, cv2.LINE_AA, 3)
        cv2.putText(cell, name, (8, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.5, INK, 1, cv2.LINE_AA)
        cells.append(cell)
    return np.concatenate(cells, 1)


def main(argv: list[str]) -> int:
    """Write them."""
    parser = argparse.ArgumentParser(prog="tools/motion_figures.py", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("take", type=Path, help="of samples/turn.mp4")
    parser.add_argument("out", type=Path, help="folder")
    options = parser.parse_args(argv)
    try:
        with Take.open(options.take) as take:
            scene = Scene(take, take.person(take.people[0]))
        plots(scene, options.out)
    except MeshPoseError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    quality = [cv2.IMWRITE_JPEG_QUALITY, 85]
    frames = np.linspace(4, len(scene.after.frames) - 6, 6).astype(int).tolist()
    cv2.imwrite(str(options.out / "motion-side.jpg"), picture_side(scene, frames), quality)
    cv2.imwrite(str(options.out / "motion-floor.jpg"), picture_floor(scene, frames[::2]), quality)
    cv2.imwrite(str(options.out / "motion-trails.png"), picture_trails(scene))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
