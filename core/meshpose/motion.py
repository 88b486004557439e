# SPDX-License-Identifier: Apache-2.0
"""Motion: everything between the rig fit and an animator's keys.

    solve_take(take, MotionSettings(smooth=0.5))
    motion = take.person(1).motion()
    motion.vertices(Body.load())                  # (F, 13718, 3) metres, world frame

1. Each person: exchanged sides put right, short gaps filled, what was not seen held calm, rotations and the direction
   to the person smoothed (`repair`, `smooth`).
2. All together: which feet bear, the floor under them, and with both the distances from the camera (`contact`,
   `ground`, `trajectory`), twice, as each needs the others; then nobody stands in anybody (`order`).
3. Each person: feet stay where they stand (`feet`).

Frame of reference: the world. Metres, z up, the floor at z = 0, the camera above the origin and looking along +y
roughly: Blender's own axes. A rigid transform per frame (one for all where the camera stands) brings the camera's frame
there (`World`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from . import feet, ground, order
from .body import Body, quaternion, rotation_matrix
from .camera import in_picture, place
from .contact import LONGEST_FLOAT, UNSEEN, find_contact, stretches
from .errors import InputError
from .repair import bone_confidence, fill_gaps, hold_unseen, repair_flips
from .smooth import continuous, segments, smooth_positions, smooth_rotations
from .trajectory import steady_distance

if TYPE_CHECKING:
    from .camera import Camera
    from .rig import RigFit
    from .take import Take

Array = npt.NDArray[Any]

CONTACTS = ("heel.L", "toe.L", "heel.R", "toe.R")
CAMERAS = ("static", "moving")
FOOT_PERCENTILE, EYE_HEIGHT = 1.0, 1.5
ROUNDS = 2
"""How often contact, floor and distance are found from one another."""
RAY_CUTOFF = 5.0
"""Hz that pass half of the direction to a person at strength 0.5: the picture shows it well."""
RATIO_CUTOFF = 0.4
"""The same of what the aligned mesh's depth is to the root's distance: a body's measure, which hardly changes."""
SELDOM = 0.05
"""Share of the frames; who bears on the floor in fewer does not stand on it."""
FLIPPED, FILLED = 0.3, 0.05
"""What is left of the confidence where sides were put right, and where a gap was filled."""


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


@dataclass(frozen=True, eq=False)
class Looked:
    """The clip's frames that were looked at: frames (C,), times (C,) seconds, and for a camera that moves the turn
    (C, 3, 3) of its frame into the first one's, with what is to be said of it.
    """

    frames: Array
    times: Array
    turns: Array | None = None
    notes: tuple[str, ...] = ()


def solve(
    tracks: Mapping[int, Track], camera: Camera, settings: MotionSettings | None = None, looked: Looked | None = None
) -> tuple[dict[int, Motion], World]:
    """Everybody's motion, by id, and the world they share.

    looked: the frames that gaps may be filled with; without it all between a person's first and last.
    """
    settings = settings or MotionSettings()
    walkers = {number: _Walker(track, camera, settings, looked) for number, track in tracks.items()}
    people = list(walkers.values())
    floor = _stand(people, settings)
    _make_room(people, camera)
    motions = {number: walker.motion(floor, settings) for number, walker in walkers.items()}
    return motions, _world(floor, people, settings, looked)


class _Walker:
    """One person on the way to a Motion. The frame of reference is the camera's as it stood at first, until the end.

    frames (G,) with gaps filled, times (G,), rotations (G, J, 4), rays (G, 3) unit vectors to the root, distance (G,)
    metres along them, observed (G,) as the body's size says; contact (G, 4).
    """

    def __init__(self, track: Track, camera: Camera, settings: MotionSettings, looked: Looked | None) -> None:
        body = Body.load()
        fit, self.track, self.strength = track.fit, track, settings.smooth
        self.legs = feet.Legs(body, body.shape(fit.phenotype), fit.scale)
        q, kinds = fit.rotations.astype(np.float64), np.zeros(len(fit.frames), np.int64)
        if settings.smooth > 0:
            q, kinds = repair_flips(q, track.times, body, fit.translation.mean(0))
        turns = _turns(fit.frames, looked)
        q[:, 0] = quaternion(turns @ rotation_matrix(q[:, 0]))
        root = np.einsum("fab,fb->fa", turns, fit.translation)
        possible = None if looked is None else looked.frames
        whole = fill_gaps(fit.frames, q, root, settings.fill_gaps, possible)
        self.frames, self.seen = whole.frames, whole.seen
        clock = (fit.frames, track.times) if looked is None else (looked.frames, looked.times)
        self.times = np.interp(self.frames, *clock)
        self.turns = _turns(self.frames, looked)
        visibility = track.visibility * in_picture(track.pixels, camera)  # whatever the network says of the rest
        self.confidence = self._spread(_confidence(body, visibility, kinds), FILLED)
        self.feet_seen = self._spread(_feet_seen(body, visibility), 0.0)
        self.rotations, self.keyed = whole.rotations, np.ones(whole.rotations.shape[:2], bool)
        self._steady(body, whole.translation)
        depth = self._between(track.metres_per_pixel)
        self.ratio = np.log(depth / self.observed)
        if self.strength > 0:
            self.ratio = smooth_positions(self.ratio[:, None], self.times, cutoff=RATIO_CUTOFF)[:, 0]
        self.distance = self.observed
        self.contact = np.zeros((len(self.frames), 4), bool)
        self.base = 0.0  # metres of what the person stands on, over the floor

    def _steady(self, body: Body, root: Array) -> None:
        strength = self.strength
        if strength > 0:
            self.rotations, self.keyed = hold_unseen(self.rotations, self.confidence, self.times)
            self.rotations = smooth_rotations(self.rotations, self.times, self.confidence, strength, body)
        self.observed = np.linalg.norm(root, axis=1)
        rays = root / np.maximum(self.observed[:, None], 1e-9)
        rays = smooth_positions(rays, self.times, self.confidence[:, 0], strength, RAY_CUTOFF)
        self.rays = rays / np.linalg.norm(rays, axis=1, keepdims=True)

    def _spread(self, values: Array, filled: float) -> Array:
        """Values (F, C) of the frames in which the person was found, on all frames."""
        out = np.full((len(self.frames), values.shape[1]), filled)
        out[self.seen] = values
        return out

    def _between(self, values: Array) -> Array:
        """Values (F,) of the frames in which the person was found, on all frames (G,)."""
        return np.interp(self.times, self.times[self.seen], values)

    def pose(self, rotation: Array, lift: float) -> tuple[feet.Pose, Array]:
        """Legs in the world that rotation (3, 3) and lift make of the camera's frame; and its bone rotations."""
        q = self.rotations.copy()
        q[:, 0] = quaternion(rotation @ rotation_matrix(q[:, 0]))
        return self.legs.pose(q, self.root(rotation, lift)), q

    def root(self, rotation: Array, lift: float) -> Array:
        """The root (G, 3) there."""
        return (self.rays * self.distance[:, None]) @ rotation.T + [0.0, 0.0, lift]

    def motion(self, floor: ground.Floor, settings: MotionSettings) -> Motion:
        """The Motion, feet locked where that is wanted."""
        fit = self.track.fit
        pose, q = self.pose(floor.rotation, floor.height)
        root = self.root(floor.rotation, floor.height)
        if settings.lock_feet and floor.found:
            base = np.array([0.0, 0.0, self.base])
            eye = np.array([0.0, 0.0, floor.height]) - base
            locked = feet.lock(self.legs, q, root - base, self.contact, self.times, eye)
            q, root = locked.rotations, locked.translation + base
        size = np.exp(self.ratio) * self.distance
        return Motion(
            phenotype=fit.phenotype,
            scale=fit.scale,
            rotations=continuous(q).astype(np.float32),
            translation=root,
            frames=self.frames,
            contact=self.contact,
            keyed=self.keyed,
            seen=self.seen,
            metres_per_pixel=np.where(self.seen, size, np.nan),
        )


def _turns(frames: Array, looked: Looked | None) -> Array:
    """How the camera's frame turns into the first one's on frames (F,): (F, 3, 3)."""
    if looked is None or looked.turns is None:
        return np.repeat(np.eye(3)[None], len(frames), 0)
    return looked.turns[np.clip(np.searchsorted(looked.frames, frames), 0, len(looked.frames) - 1)]


def _confidence(body: Body, visibility: Array, kinds: Array) -> Array:
    """How well each bone was seen (F, J); what was exchanged counts for the side where it was put."""
    out = bone_confidence(body, visibility)
    flipped = kinds > 0
    out[flipped] = FLIPPED * out[flipped][:, body.bone_mirror]
    return out


def _feet_seen(body: Body, visibility: Array) -> Array:
    """Mean visibility (F, 2) of the feet."""
    parts = body.parts[body.lowpoly]
    return np.stack([visibility[:, parts == body.part_names.index(f"foot.{s}")].mean(1) for s in feet.SIDES], 1)


# -- floor, feet and distance --------------------------------------------------------------------------------------


def _stand(people: list[_Walker], settings: MotionSettings) -> ground.Floor:
    """The floor; people get their contact and their distance on the way."""
    upright = _upright(people) if settings.level else None
    floor = ground.find_floor(np.zeros((0, 3)), np.zeros(0), upright, settings.level, EYE_HEIGHT)
    for turn in range(ROUNDS + 1):
        places = [np.zeros((0, 4))]
        for walker in people:
            pose, _ = walker.pose(floor.rotation, floor.height)
            eye = np.array([0.0, 0.0, floor.height])
            walker.contact = find_contact(pose.soles, eye, walker.times, walker.feet_seen, turn > 0)
            if turn:
                _keep_distance(walker, pose, floor)
                pose, _ = walker.pose(floor.rotation, floor.height)
            places.append(_places(walker, (pose.soles - eye) @ floor.rotation))
        found = np.concatenate(places)
        floor = ground.find_floor(found[:, :3], found[:, 3], upright, settings.level, EYE_HEIGHT)
    if not floor.found:
        floor = _under_lowest(people, floor)
        for walker in people:
            walker.contact[:] = False
        return floor
    for walker in people:
        _stage(walker, floor)
    return floor


def _stage(walker: _Walker, floor: ground.Floor) -> None:
    """Somebody who never stands on the floor that the others show stands on something: at a height of its own."""
    if walker.contact.any(1).mean() > SELDOM:
        return
    soles, eye = walker.pose(floor.rotation, floor.height)[0].soles, np.array([0.0, 0.0, floor.height])
    contact = find_contact(soles, eye, walker.times, walker.feet_seen, grounded=False)
    base = float(np.median(soles[..., 2][contact])) if contact.any(1).mean() > SELDOM else 0.0
    if abs(base) > LONGEST_FLOAT:
        walker.base, walker.contact = base, contact


def _keep_distance(walker: _Walker, pose: feet.Pose, floor: ground.Floor) -> None:
    """Distances from the body's size, from feet that stand, and from the floor under them."""
    up = floor.normal
    slope = np.repeat((walker.rays @ up)[:, None], 4, 1)
    offset = pose.soles - walker.root(floor.rotation, floor.height)[:, None]
    offset = np.einsum("fkc,fc->fk", offset @ floor.rotation, walker.rays)
    stances = [
        (first, end, offset[first:end, k])
        for k in range(4)
        for first, end in stretches(walker.contact[:, k], segments(walker.times))
        if end - first > 2
    ]
    height = pose.soles[..., 2] + slope * (walker.observed - walker.distance)[:, None]  # where it was observed
    bears = walker.contact if floor.found else np.zeros_like(walker.contact)
    walker.distance = steady_distance(
        walker.observed, walker.times, walker.confidence[:, 0], stances, height, slope, bears, walker.strength
    )


def _places(walker: _Walker, soles: Array) -> Array:
    """Where the soles (F, 4, 3) stood: one mean place and weight a stance (n, 4)."""
    run, out = segments(walker.times), [np.zeros((0, 4))]
    for k in range(4):
        for first, end in stretches(walker.contact[:, k], run):
            seconds = walker.times[end - 1] - walker.times[first]
            if seconds > 0.12:
                place = np.median(soles[first:end, k], 0)
                out.append(np.append(place, min(1.0, 0.3 + seconds))[None])
    return np.concatenate(out)


def _upright(people: list[_Walker]) -> Array | None:
    """The direction (3,) in which people stand, in the camera's frame: the mean over those who stand or walk."""
    ways = [np.zeros((0, 3))]
    for walker in people:
        pose = walker.legs.pose(walker.rotations, walker.rays * walker.distance[:, None])
        legs = pose.hips.mean(1) - pose.ankles.mean(1)
        trunk = pose.turned[0][:, :, 2]  # the reference pose stands along z
        long = np.linalg.norm(legs, axis=1)
        legs /= np.maximum(long[:, None], 1e-9)
        way = 0.6 * legs + 0.4 * trunk
        straight = (long > 0.85 * (walker.legs.thigh + walker.legs.shin).mean()) & ((legs * trunk).sum(1) > 0.85)
        seen = walker.feet_seen.max(1) > UNSEEN
        ways.append(way[straight & seen & (way @ ground.UP > 0.6)])
    found = np.concatenate(ways)
    return found.mean(0) if len(found) >= 5 else None


def _under_lowest(people: list[_Walker], floor: ground.Floor) -> ground.Floor:
    """A floor under the lowest foot (1st percentile over the frames), tilted as `floor` is."""
    lowest = [np.zeros(0)] + [w.pose(floor.rotation, 0.0)[0].soles[..., 2].min(1) for w in people]
    heights = np.concatenate(lowest)
    lift = -float(np.percentile(heights, FOOT_PERCENTILE)) if len(heights) else EYE_HEIGHT
    return ground.Floor(floor.normal, lift, False)


def _make_room(people: list[_Walker], camera: Camera) -> None:
    """People who overlap in the picture: in their order, and not in one another."""
    if len(people) < 2:
        return
    views = []
    for walker in people:
        size = (np.exp(walker.ratio) * walker.distance)[walker.seen]
        points = place(walker.track.pixels, size, camera).astype(np.float32)
        views.append(order.Seen(walker.track.fit.frames, points, walker.track.visibility, walker.track.times))
    for walker, factor in zip(people, order.push_apart(views), strict=True):
        walker.distance = walker.distance * walker._between(factor)


def _world(floor: ground.Floor, people: list[_Walker], settings: MotionSettings, looked: Looked | None) -> World:
    notes = []
    if not floor.found:
        lowest = "the lowest foot stands on it" if people else "the camera is taken to stand 1.5 m over it"
        notes.append(f"the floor was not found, for no foot was seen to stand: {lowest}")
    if settings.lock_feet and not floor.found and people:
        notes.append("feet are not held: no contact with the floor was found")
    lift = np.array([0.0, 0.0, floor.height])
    if looked is None or looked.turns is None:
        rotation, frames = floor.rotation[None], np.zeros(1, np.int64)
    else:
        rotation, frames = floor.rotation @ looked.turns, looked.frames
    if looked is not None:
        notes += looked.notes
    return World(rotation, np.repeat(lift[None], len(rotation), 0), frames, floor.found, tuple(notes))


def solve_take(
    take: Take, settings: MotionSettings | None = None, made_from: str = "", looked: Looked | None = None
) -> Iterator[int]:
    """Make the motion of everybody in the Take and write it there; gives the frames done.

    made_from: hash to be kept with it; looked: how the camera moved.  People without a rig fit get no motion.
    """
    tracks = {}
    for number in take.people:
        person = take.person(number)
        fit = person.fit(corrected=False)
        if fit is not None and len(fit.frames):
            seen, times = person.visibility(fit.frames), person.times(fit.frames)
            size = person.metres_per_pixel(fit.frames)
            tracks[person.id] = Track(fit, person.lowpoly_pixels(fit.frames), seen, times, size)
    if looked is None:
        looked = Looked(take.frames, take.times())
    with threadpool_limits(1, "blas"):  # threads round otherwise: the same clip gives the same bits on every machine
        motions, world = solve(tracks, take.camera, settings, looked)
        # On top of it all: corrections by hand are neither smoothed nor moved with a foot, and move nothing else.
        motions = {number: take.corrections.motion(take.person(number), m, world) for number, m in motions.items()}
    world = replace(world, notes=(*world.notes, *take.corrections.unused()))
    take.set_motion(motions, world, made_from)
    for track in tracks.values():
        yield len(track.fit.frames)
