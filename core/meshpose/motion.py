# SPDX-License-Identifier: Apache-2.0
"""Motion: everything between the rig fit and an animator's keys.

    solve_take(take, MotionSettings(smooth=0.5))
    motion = take.person(1).motion()
    motion.vertices(Body.load())                  # (F, 13718, 3) metres, world frame

Frame of reference: the world. Metres, z up, the floor at z = 0, the camera above the origin and looking along +y
roughly: Blender's own axes. A rigid transform per frame (one for all where the camera stands) brings the camera's frame
there (`World`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .body import Body, quaternion, rotation_matrix
from .errors import InputError

if TYPE_CHECKING:
    from .rig import RigFit
    from .take import Take

Array = npt.NDArray[Any]

LEVEL = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]])
"""Camera frame (x right, y down, z forward) -> world axes, for a camera that looks straight ahead."""
CONTACTS = ("heel.L", "toe.L", "heel.R", "toe.R")
CAMERAS = ("static", "moving")
FOOT_PERCENTILE, EYE_HEIGHT = 1.0, 1.5


@dataclass(frozen=True)
class MotionSettings:
    """smooth: 0 raw to 1; lock_feet: feet that touch the floor stay where they are; level: the camera's tilt and roll
    from the floor; camera: "static" or "moving"; fill_gaps: longest gap, in frames, that is filled.
    """

    smooth: float = 0.5
    lock_feet: bool = True
    level: bool = True
    camera: str = "static"
    fill_gaps: int = 12

    def __post_init__(self) -> None:
        if not (math.isfinite(self.smooth) and 0 <= self.smooth <= 1):
            raise InputError(f"--smooth {self.smooth:g}: give a strength from 0 (raw) to 1")
        if self.camera not in CAMERAS:
            raise InputError(f"--camera {self.camera}: it is static or moving")
        if self.fill_gaps < 0:
            raise InputError(f"fill_gaps {self.fill_gaps}: give a number of frames, 0 for none")


@dataclass(frozen=True, eq=False)
class Motion:
    """One person's motion in the world.

    phenotype (6,) in the order of PHENOTYPES; scale: size of the body against shape(phenotype); rotations (F, J, 4)
    w x y z local-ref deltas, continuous in sign, the root's holds the turn into the world; translation (F, 3) metres,
    the root's head; frames (F,) the clip's frames, rising: short gaps are filled, long ones stay; contact (F, 4) bool
    in the order of CONTACTS; keyed (F, J) bool: False where the bone was never seen and a prior holds it; seen (F,)
    bool: False where a gap was filled; metres_per_pixel (F,) at the depth of the mid-hips, as this motion has it (the
    aligned mesh stands there), nan in filled gaps.
    """

    phenotype: Array
    scale: float
    rotations: Array
    translation: Array
    frames: Array
    contact: Array
    keyed: Array
    seen: Array
    metres_per_pixel: Array = field(default_factory=lambda: np.zeros(0))

    def vertices(self, body: Body, rows: Any = None) -> Array:
        """The posed body (F, N, 3) float32, metres, world frame; rows: which of the frames (a slice, indices)."""
        rotations, translation = self.rotations, self.translation
        if rows is not None:
            rotations, translation = rotations[rows], translation[rows]
        posed = body.pose(body.shape(self.phenotype), rotations, np.zeros((len(rotations), 3)))
        posed *= np.float32(self.scale)
        posed += translation[:, None].astype(np.float32)
        return posed

    def stature(self, body: Body) -> float:
        """Metres from sole to crown."""
        return self.scale * body.shape(self.phenotype).stature


@dataclass(frozen=True, eq=False)
class World:
    """Where the camera stands: p_world = rotation p_camera + translation.

    rotation (R, 3, 3), translation (R, 3) metres, frames (R,) of the clip; R is 1 for a static camera, and frames then
    counts nothing.  floor: whether the floor was found from feet.  notes: what the user should know.
    """

    rotation: Array
    translation: Array
    frames: Array
    floor: bool = False
    notes: tuple[str, ...] = ()

    @property
    def static(self) -> bool:
        """One place for all frames."""
        return len(self.rotation) == 1

    def at(self, frames: npt.ArrayLike) -> tuple[Array, Array]:
        """rotation (n, 3, 3) and translation (n, 3) on frames (n,) of the clip: the nearest that was looked at."""
        wanted = np.asarray(frames, np.int64)
        if self.static:
            count = len(wanted)
            return np.repeat(self.rotation, count, 0), np.repeat(self.translation, count, 0)
        after = np.clip(np.searchsorted(self.frames, wanted), 0, len(self.frames) - 1)
        before = np.maximum(after - 1, 0)
        nearer = np.abs(self.frames[before] - wanted) < np.abs(self.frames[after] - wanted)
        rows = np.where(nearer, before, after)
        return self.rotation[rows], self.translation[rows]

    def points(self, points: npt.ArrayLike, frames: npt.ArrayLike) -> Array:
        """Camera frame (n, ..., 3) on frames (n,) -> world (n, ..., 3) float64."""
        x = np.asarray(points, np.float64)
        rotation, translation = self.at(frames)
        shape = (len(x), *[1] * (x.ndim - 2), 3)
        flat = x.reshape(len(x), -1, 3) @ rotation.swapaxes(1, 2)
        return flat.reshape(x.shape) + translation.reshape(shape)


@dataclass(frozen=True, eq=False)
class Track:
    """What `solve` needs of one person: the fit, the network's low-poly in pixels (F, V, 3), visibility (F, V),
    times (F,) seconds and metres_per_pixel (F,), rows as in fit.frames.
    """

    fit: RigFit
    pixels: Array
    visibility: Array
    times: Array
    metres_per_pixel: Array


def solve(track: Track, world: World, body: Body, settings: MotionSettings | None = None) -> Motion:
    """One person's motion in the world."""
    fit = track.fit
    rotation, _ = world.at(fit.frames)
    rotations = fit.rotations.astype(np.float64)
    if len(rotations):
        rotations[:, 0] = quaternion(rotation @ rotation_matrix(rotations[:, 0]))
        rotations = continuous(rotations)
    count = len(fit.frames)
    return Motion(
        phenotype=fit.phenotype,
        scale=fit.scale,
        rotations=rotations.astype(np.float32),
        translation=world.points(fit.translation, fit.frames),
        frames=fit.frames,
        contact=np.zeros((count, 4), bool),
        keyed=np.ones(rotations.shape[:2], bool),
        seen=np.ones(count, bool),
        metres_per_pixel=track.metres_per_pixel,
    )


def continuous(rotations: Array) -> Array:
    """Quaternions (F, ..., 4) with signs such that each is near the one before."""
    turned = (rotations[1:] * rotations[:-1]).sum(-1) < 0
    signs = np.where(np.cumsum(turned, 0) % 2, -1.0, 1.0)
    result = rotations.copy()
    result[1:] *= signs[..., None]
    return result


def solve_take(take: Take, settings: MotionSettings | None = None, made_from: str = "") -> Iterator[int]:
    """Make the motion of everybody in the Take and write it there; gives the frames done after each person.

    made_from: hash to be kept with it.  People without a rig fit get no motion.
    """
    body = Body.load()
    people = [take.person(number) for number in take.people]
    tracks = {}
    for person in people:
        fit = person.fit()
        if fit is not None and len(fit.frames):
            seen, times = person.visibility(fit.frames), person.times(fit.frames)
            size = person.metres_per_pixel(fit.frames)
            tracks[person.id] = Track(fit, person.lowpoly_pixels(fit.frames), seen, times, size)
    world = lowest_foot(list(tracks.values()), body)
    motions = {}
    for number, track in tracks.items():
        motions[number] = solve(track, world, body, settings)
        yield len(track.fit.frames)
    take.set_motion(motions, world, made_from)


def lowest_foot(tracks: list[Track], body: Body) -> World:
    """A level world whose floor is under the lowest foot (1st percentile over the frames)."""
    named = np.array(["foot" in part or "feet" in part for part in body.part_names])
    feet = body.lowpoly[named[body.parts[body.lowpoly]]]
    lowest = [np.zeros(0)]
    for track in tracks:
        for rows in range(0, len(track.fit.frames), 128):
            cut = slice(rows, rows + 128)
            fit = track.fit
            part = Motion(
                fit.phenotype, fit.scale, fit.rotations[cut], fit.translation[cut],
                fit.frames[cut], np.zeros(0), np.zeros(0), np.zeros(0),
            )  # fmt: skip
            lowest.append(-part.vertices(body)[:, feet, 1].max(1))
    heights = np.concatenate(lowest)
    lift = -float(np.percentile(heights, FOOT_PERCENTILE)) if len(heights) else EYE_HEIGHT
    notes = ("the floor was not found: the lowest foot stands on it",)
    return World(LEVEL[None], np.array([[0.0, 0.0, lift]]), np.zeros(1, np.int64), False, notes)
