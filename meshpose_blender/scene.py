# SPDX-License-Identifier: GPL-3.0-or-later
"""A Take becomes a collection in the scene: camera and footage, and a child collection for each person.

    built = build_scene("dancer.take")
    built.people[0].mesh                       # the aligned mesh, an Object

Things are found again by reference (pointers in custom properties of the collections), never by their names, which a
user changes and a translation makes.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import bpy
import numpy as np
from mathutils import Matrix

from meshpose.body import Body
from meshpose.errors import InputError
from meshpose.motion import World
from meshpose.rigs import Rig
from meshpose.take import Person, Take
from meshpose.upsample import Upsampler

from . import compat, confidence, footage, looks, material, playback
from .keys import EVERY_FRAME, KeySettings
from .rigging import RigChoice, rig_person

if TYPE_CHECKING:  # it loads OpenCV, which Blender's start must not wait for, nor break by
    from meshpose.video import ClipInfo

FOOT_PERCENTILE = 1.0
EYE_HEIGHT = 1.5
"""Metres; where nobody is in the clip whose feet could say how high the camera stands."""

TAKE, DIGEST, CAMERA, PERSON = "meshpose_take", "meshpose_digest", "meshpose_camera", "meshpose_person"
MESH, ARMATURE, BODY = "meshpose_mesh", "meshpose_armature", "meshpose_body"
FRAMES = "meshpose_frames"
"""First and last scene frame of the clip: what an export holds, however long the user's scene is."""
START, FORMAT, SOUND = "meshpose_start", "meshpose_format", "meshpose_sound"
"""Scene frame of the clip's first picture; width, height, fx / fy and rate of the footage; its sound."""


@dataclass(frozen=True)
class BuiltPerson:
    """One person in the scene; armature and body are None where the Take holds no fit of them."""

    id: int
    collection: bpy.types.Collection
    mesh: bpy.types.Object
    armature: bpy.types.Object | None
    body: bpy.types.Object | None


@dataclass(frozen=True)
class BuiltTake:
    """What one conversion added to the scene.  notes: what the user should know, one line each."""

    collection: bpy.types.Collection
    camera: bpy.types.Object
    people: list[BuiltPerson]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Clock:
    """Scene frames (B,) and the clip's frame that Blender shows on each, -1 where that one was not looked at."""

    frames: np.ndarray
    shown: np.ndarray

    def rows(self, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Scene frames on which one of the clip's `frames` (n,) rising stands (m,), and which of them (m,)."""
        at = np.searchsorted(frames, self.shown)
        hit = np.flatnonzero(frames[np.minimum(at, len(frames) - 1)] == self.shown)
        return self.frames[hit], at[hit]


def build_scene(
    path: str | Path,
    clip: str | Path | None = None,
    folder: str | Path | None = None,
    frame_start: int = 1,
    rig: str = "default",
    keys: KeySettings = EVERY_FRAME,
) -> BuiltTake:
    """Add everything in the Take at `path` to the context's scene, as one new collection.

    clip: where the footage lies now, when it is not where the Take says.  folder: where a copy of the footage goes if
    Blender needs one (beside the .blend, else beside the Take).  frame_start: scene frame of the clip's first picture.
    An empty scene also gets the clip's rate, range, resolution and colours, and the camera as its own.
    rig: a name of `meshpose.rigs.names()`, for everybody.  keys: one a frame, or as few as a bound allows.
    Raises TakeError, InputError or WeightsError; the scene is unchanged then.
    """
    with Take.open(path) as take:
        # What may fail comes first.
        Body.load()
        Upsampler.load()
        Rig.load(rig)
        info = take.clip if clip is None else moved_clip(take.clip, Path(clip))
        people = [take.person(number) for number in take.people]
        for person in people:  # a damaged Take says so while nothing of it stands in the scene
            person.visibility(), person.score(), person.fit(), person.motion()
        clip_times(take), take.digest(), take.warnings
        levelled = take.world() is not None
        lowpolys = [person.lowpoly_world() if levelled else _in_blender(person.lowpoly()) for person in people]
        return _build(take, info, people, lowpolys, folder, frame_start, RigChoice(rig, keys))


def moved_clip(info: ClipInfo, path: Path) -> ClipInfo:
    """The Take's clip at another place.  InputError when what lies there is not the same clip in size and rate."""
    from meshpose.video import probe

    found = probe(path)
    ours, other = (f"{i.width} x {i.height} pixels at {i.fps:.4g} fps" for i in (info, found))
    if ours != other:
        raise InputError(f"{path}: {other}, but the Take was made from a clip of {ours}; give --footage that one")
    return replace(info, path=found.path)


def _build(
    take: Take,
    info: ClipInfo,
    people: list[Person],
    lowpolys: list[np.ndarray],
    folder: str | Path | None,
    start: int,
    choice: RigChoice,
) -> BuiltTake:
    scene = bpy.context.scene
    empty = is_untouched(scene)
    times = clip_times(take)
    home = Path(folder) if folder else Path(bpy.data.filepath or take.path.resolve()).parent
    film = footage.load(info, times, home)
    shown = footage.shown_pictures(times, film.fps)
    clock = _Clock(np.arange(len(shown)) + start, np.where(np.isin(shown, take.frames), shown, -1))
    name = info.path.stem
    collection = bpy.data.collections.new(name)
    scene.collection.children.link(collection)
    world = take.world() or _upright(lowpolys, people)
    farthest = max((float(p[..., 1].max()) for p in lowpolys if p.size), default=10.0)
    camera = footage.new_camera(f"{name} camera", take.camera, farthest)
    collection.objects.link(camera)
    _stand(camera, world, clock)
    if empty:
        _adopt(scene, take, film, camera, clock)
    footage.put_behind(camera, film, scene, start)
    strip = footage.add_sound(scene, film, name, start)
    if strip is not None:
        collection[SOUND] = strip.sound
    lens = take.camera
    collection[START], collection[FORMAT] = start, [lens.width, lens.height, lens.fx / lens.fy, float(film.fps)]
    collection[TAKE], collection[DIGEST] = footage.stored_path(take.path.resolve()), take.digest()
    collection[CAMERA] = camera
    within = clock.frames[clock.shown >= 0]
    collection[FRAMES] = [int(within[0]), int(within[-1])] if len(within) else [start, start]
    shared = _Shared(name, choice)
    built = [
        _person(person, positions, clock, shared, collection, world) for person, positions in zip(people, lowpolys)
    ]
    looks.begin(camera, [person.mesh for person in built], lowpolys)
    if empty:
        _look_through_camera(scene)
    unfinished = f"{take.path.name} is not finished: convert {info.path.name} again, and it goes on"
    notes = [*take.warnings, *world.notes, *film.notes, *dict.fromkeys(shared.notes)]
    notes += [] if take.finished else [unfinished]
    return BuiltTake(collection, camera, built, notes)


def clip_times(take: Take) -> np.ndarray:
    """Seconds (F,) of all of the clip's pictures from its start, rising; those looked at as they were decoded."""
    times, looked, seconds = np.asarray(take.clip.times, np.float64), take.frames, take.times()
    if not len(looked):
        return times - times[:1]
    first, last = int(looked[0]), int(looked[-1])
    start = seconds[0] if first == 0 else times[0]
    times = np.concatenate([times, np.full(max(0, last + 1 - len(times)), seconds[-1])])
    times[looked] = seconds
    # What the container says of the others is a guess for some containers.
    times[:first] = np.minimum(times[:first], seconds[0])
    times[last + 1 :] = np.maximum(times[last + 1 :], seconds[-1])
    return np.maximum.accumulate(times) - start


class _Shared:
    """What all people of a take have in common: the mesh with the upsampler's weights, the node tree, the materials,
    the rig that was chosen; and what came up while they were built.
    """

    def __init__(self, name: str, choice: RigChoice) -> None:
        self.name, self.choice = name, choice
        self.notes: list[str] = []
        self.model = Body.load()
        upsampler = Upsampler.load()
        body = self.model
        self.mesh = playback.body_mesh(f"{name} mesh", body.template, body.quads, body.uv, body.uv_quads)
        playback.add_visibility(self.mesh)
        groups = playback.add_weights(self.mesh, upsampler.indices, upsampler.weights_at())
        self.tree = playback.playback_tree(f"{name} playback", groups)
        self.mesh.materials.append(material.heatmap(f"{name} visibility"))
        self.skin = material.skin(f"{name} skin")
        self.presence = playback.presence_tree(f"{name} presence")


def _person(
    person: Person,
    positions: np.ndarray,
    clock: _Clock,
    shared: _Shared,
    parent: bpy.types.Collection,
    world: World,
) -> BuiltPerson:
    """One person's collection: the aligned mesh, and where there is a fit the armature with the skinned body."""
    name = f"{shared.name} {person.name}"
    collection = bpy.data.collections.new(name)
    parent.children.link(collection)
    mesh = bpy.data.objects.new(name, shared.mesh)
    collection.objects.link(mesh)
    frames, rows = clock.rows(person.frames)
    image = playback.pack_rows(f"{name} positions", _rows(frames, positions, person.visibility(), rows))
    first = int(frames[0]) if len(frames) else 1
    playback.add_playback(mesh, shared.tree, image, first)
    collection[PERSON], collection[MESH] = person.id, mesh
    confidence.keep(collection, frames, confidence.measure(person.visibility(), person.score())[rows])
    motion = person.motion()
    fit = person.fit() if motion is None else motion
    if fit is None or not len(fit.frames):
        return BuiltPerson(person.id, collection, mesh, None, None)
    turn, lift = (footage.TURN, float(world.translation[0, 2])) if motion is None else (np.eye(3), 0.0)
    keyed, fit_rows = clock.rows(fit.frames)
    rigged = rig_person(name, shared.model, fit, fit_rows, keyed, collection, shared.choice, turn, lift)
    bones, body = rigged.armature, rigged.body
    shared.notes += rigged.notes
    body.data.materials.append(shared.skin)
    playback.add_playback(body, shared.presence, image, first, "MeshPose presence")  # nobody there, no body
    collection[ARMATURE], collection[BODY] = bones, body
    return BuiltPerson(person.id, collection, mesh, bones, body)


def _rows(frames: np.ndarray, positions: np.ndarray, visibility: np.ndarray, rows: np.ndarray) -> playback.Rows:
    """Rows for every scene frame from the first to the last of `frames` (m,), present on those with `rows` (m,) of the
    person's positions and visibility.
    """
    if not len(frames):
        columns = positions.shape[1]
        nobody = np.zeros((1, columns, 3), np.float32)
        return playback.Rows(1, nobody, nobody[..., 0], np.zeros(1, bool))
    start, count = int(frames[0]), int(frames[-1] - frames[0]) + 1
    if np.array_equal(rows, np.arange(count)) and len(positions) == count:  # as it mostly is: nothing is copied
        return playback.Rows(start, positions, visibility, np.ones(count, bool))
    at = frames - start
    result = playback.Rows(
        start,
        np.zeros((count, *positions.shape[1:]), np.float32),
        np.zeros((count, positions.shape[1]), np.float32),
        np.zeros(count, bool),
    )
    result.positions[at], result.visibility[at], result.present[at] = positions[rows], visibility[rows], True
    return result


def _in_blender(points: np.ndarray) -> np.ndarray:
    """Camera frame (..., 3) to Blender's axes, the camera at the origin; float64, metres."""
    return np.asarray(points, np.float64) @ footage.TURN.T


def _upright(lowpolys: list[np.ndarray], people: list[Person]) -> World:
    """Where the motion was not made yet: a level camera above the lowest foot; lifts the people (in place)."""
    lift = camera_height(lowpolys, people)
    for positions in lowpolys:
        positions[..., 2] += lift
    return World(footage.TURN[None], np.array([[0.0, 0.0, lift]]), np.zeros(1, np.int64))


def _stand(camera: bpy.types.Object, world: World, clock: _Clock) -> None:
    """Put the camera where the world has it; a moving one gets keys on the scene frames that show the clip."""
    shown = clock.shown >= 0
    frames, wanted = clock.frames[shown], clock.shown[shown]
    if world.static or not len(wanted):
        frames, wanted = frames[:0], np.zeros(1, np.int64)
    rotation, location = world.at(wanted)
    # Blender's camera looks along its -z, with y up.
    turns = [Matrix(turn.tolist()).to_quaternion() for turn in rotation @ np.diag([1.0, -1.0, -1.0])]
    angles = [turns[0].to_euler("XYZ")]
    for turn in turns[1:]:
        angles.append(turn.to_euler("XYZ", angles[-1]))
    camera.location, camera.rotation_euler = location[0], angles[0]
    if len(frames):
        action = compat.Action(camera, camera.name)
        for axis in range(3):
            action.curve("location", axis, frames, location[:, axis])
            action.curve("rotation_euler", axis, frames, np.array([angle[axis] for angle in angles]))


def camera_height(lowpolys: list[np.ndarray], people: list[Person]) -> float:
    """Metres from the ground up to the camera: the lowest foot (1st percentile over frames) stands on z = 0.

    lowpolys: per person (n, V, 3), Blender's axes, camera at the origin.  Feet that were seen decide, if any were.
    """
    body = Body.load()
    lowest, seen = [np.zeros(0)], [np.zeros(0, bool)]
    named = np.array(["foot" in part or "feet" in part for part in body.part_names])
    feet = named[body.parts[body.lowpoly]]
    for positions, person in zip(lowpolys, people):
        if not len(positions):
            continue
        chosen = feet if feet.any() else np.ones(len(feet), bool)
        lowest.append(positions[:, chosen, 2].min(1))
        seen.append(person.visibility()[:, chosen].mean(1) > 0.5)
    heights, visible = np.concatenate(lowest), np.concatenate(seen)
    if not len(heights):
        return EYE_HEIGHT
    return -float(np.percentile(heights[visible] if visible.any() else heights, FOOT_PERCENTILE))


# -- the scene around it -------------------------------------------------------------------------------------------


def is_untouched(scene: bpy.types.Scene) -> bool:
    """Whether the scene holds nothing of the user's: no objects, or those of the startup file as they come."""
    if compat.has_strips(scene) or any(o.animation_data for o in scene.objects):
        return False
    kinds = sorted(o.type for o in scene.objects)
    if not kinds:
        return True
    cubes = [o for o in scene.objects if o.type == "MESH"]
    return (
        not bpy.data.filepath
        and kinds == ["CAMERA", "LIGHT", "MESH"]
        and len(cubes[0].data.vertices) == 8
        and not cubes[0].modifiers
    )


def _adopt(
    scene: bpy.types.Scene, take: Take, film: footage.Footage, camera: bpy.types.Object, clock: _Clock
) -> None:
    """Make the clip's format the scene's."""
    footage.set_rate(scene, film.fps)
    footage.set_format(scene, take.camera)
    footage.keep_colours(scene)
    within = clock.frames[clock.shown >= 0]
    if len(within):
        scene.frame_start, scene.frame_end = int(within[0]), int(within[-1])
        scene.frame_set(scene.frame_start)
    scene.camera = camera
    for cube in [o for o in scene.objects if o.type == "MESH"]:
        cube.hide_set(True)  # the startup cube: the camera stands inside of it
        cube.hide_render = True


def match_footage(scene: bpy.types.Scene, built: BuiltTake) -> None:
    """Give the scene the size, shape of pixels, rate, colours and camera of a take's footage, and look through it."""
    match_format(scene, built)
    scene.camera = built.camera
    _look_through_camera(scene)


def match_format(scene: bpy.types.Scene, built: BuiltTake) -> None:
    """Size, shape of pixels, rate and colours of a take's footage."""
    if FORMAT in built.collection:
        width, height, tall, fps = built.collection[FORMAT]
        render = scene.render
        render.resolution_x, render.resolution_y, render.resolution_percentage = int(width), int(height), 100
        render.pixel_aspect_x, render.pixel_aspect_y = max(1.0, 1 / tall), max(1.0, tall)
        footage.set_rate(scene, fps)
    footage.keep_colours(scene)


def _look_through_camera(scene: bpy.types.Scene) -> None:
    """Open on the body over the footage: camera view, solid mode with the colours of `visibility`."""
    for screen in bpy.data.screens:
        for area in screen.areas:
            for space in area.spaces:
                if space.type == "VIEW_3D":
                    space.shading.type = "SOLID"
                    space.shading.color_type = "VERTEX"
                    if space.region_3d is not None:
                        space.region_3d.view_perspective = "CAMERA"


def takes(scene: bpy.types.Scene) -> list[BuiltTake]:
    """All takes in the scene, found by reference; people whose mesh was deleted are left out."""
    found = []
    for collection in scene.collection.children_recursive:
        if TAKE not in collection:
            continue
        people = [_found(child) for child in collection.children_recursive if child.get(MESH) is not None]
        found.append(BuiltTake(collection, collection.get(CAMERA), people))
    return found


def _found(collection: bpy.types.Collection) -> BuiltPerson:
    return BuiltPerson(
        int(collection[PERSON]), collection, collection[MESH], collection.get(ARMATURE), collection.get(BODY)
    )
