# SPDX-License-Identifier: GPL-3.0-or-later
"""What an exporter gets to see: a scene of its own with plain copies, taken away afterwards.

A user's rig may be moved by constraints, drivers, layers of actions; his scene holds other things and other frames.  So
the armature is sampled where it stands, frame by frame in world space, and keyed on a copy without any of that; the
skinned body is a copy that follows it; the moving mesh is a copy that keeps its number of vertices on every frame
(programs that read caches want that) and shrinks to nothing where
nobody is there.

With W the sampled world matrix of a bone, R its rest matrix and p its parent, the copy's channel is

    (R_p^-1 R)^-1 W_p^-1 W          R^-1 W  (no parent)

and all of the object's own movement is in the bones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import bpy
import numpy as np
from mathutils import Matrix

from meshpose.body import quaternion, rotation_matrix

from . import compat, playback
from .armature import continuous
from .graph import Graph

MOVED = 1e-5
"""Metres (or parts of a scale of 1) that a bone beside the root must move along or grow for keys of its own."""
ROOT = "motion_root"
"""The bone on the floor that `with_root` adds.  Not `root`: the body's own topmost bone has that name, at the hips."""
ON_THE_FLOOR = 0.1
"""Metres of height up to which a rig's topmost bone is such a root already."""
ROOT_LENGTH = 0.2
UP = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]])
"""Blender's axes (z up) to those of FBX and BVH (y up, facing z)."""


@dataclass(frozen=True, eq=False)
class Sampled:
    """An armature over a range of frames: frames (F,), names and parents (B,) of its bones (-1: none), world (F, B, 4,
    4) float64 of their matrices, scale of the object, rest (B, 4, 4)."""

    source: bpy.types.Object
    frames: np.ndarray
    names: list[str]
    parents: list[int]
    world: np.ndarray
    scale: float


@dataclass
class Studio:
    """The exporter's scene.  turn (3, 3): rotation of the data against the objects; size: units to the metre."""

    scene: bpy.types.Scene
    turn: np.ndarray = field(default_factory=lambda: np.eye(3))
    size: float = 1.0
    made: list[bpy.types.ID] = field(default_factory=list)
    renamed: list[tuple[bpy.types.ID, str]] = field(default_factory=list)

    def name(self, block: bpy.types.ID, name: str) -> None:
        """Give a data-block exactly this name, which files show; whoever has it now gets it back at the end."""
        same = bpy.data.objects if isinstance(block, bpy.types.Object) else bpy.data.armatures
        same = bpy.data.meshes if isinstance(block, bpy.types.Mesh) else same
        other = same.get(name)
        if other is not None and other != block:
            other.name = f"{name} (MeshPose export)"
            self.renamed.append((other, name))
        block.name = name

    def add(self, target: bpy.types.Object) -> None:
        """Show an object in this scene, and take it away at the end."""
        self.scene.collection.objects.link(target)
        self.made.append(target)

    def select(self, target: bpy.types.Object) -> None:
        """Make it the active and only selected object."""
        layer = self.scene.view_layers[0]
        for other in self.scene.objects:
            other.select_set(other == target, view_layer=layer)
        layer.objects.active = target

    @property
    def transform(self) -> Matrix:
        """Metres in Blender's axes to the data of this scene's objects."""
        matrix = Matrix.Identity(4)
        for row in range(3):
            for column in range(3):
                matrix[row][column] = self.turn[row, column] * self.size
        return matrix


@contextmanager
def studio(
    like: bpy.types.Scene, name: str, frames: Sequence[int], turn: np.ndarray | None = None, size: float = 1.0
) -> Iterator[Studio]:
    """An empty scene with the rate of `like`, on `frames` (first, last); it and all that was made for it goes at the
    end."""
    leave_modes()
    scene = bpy.data.scenes.new(name)
    scene.render.fps, scene.render.fps_base = like.render.fps, like.render.fps_base
    scene.unit_settings.scale_length = 1.0 / size
    scene.frame_start, scene.frame_end = int(frames[0]), int(frames[1])
    room = Studio(scene, np.eye(3) if turn is None else turn, size)
    window = bpy.context.window
    before = window.scene if window is not None else None
    try:
        if window is not None:
            window.scene = scene
            yield room
        else:
            with bpy.context.temp_override(scene=scene, view_layer=scene.view_layers[0]):
                yield room
    finally:
        if window is not None:
            window.scene = before
        for block in reversed(room.made):
            bpy.data.batch_remove([block])
        bpy.data.scenes.remove(scene)
        for block, name_before in reversed(room.renamed):
            block.name = name_before


def leave_modes() -> None:
    """Object mode: neither bones nor scenes can be changed from another."""
    active = bpy.context.view_layer.objects.active
    if active is not None and active.mode != "OBJECT":
        bpy.ops.object.mode_set(mode="OBJECT")


@contextmanager
def keeping_mode() -> Iterator[None]:
    """Inside, modes may be left; afterwards the active object is posed or edited again as before."""
    active = bpy.context.view_layer.objects.active
    mode = active.mode if active is not None else "OBJECT"
    try:
        yield
    finally:
        if mode != "OBJECT" and bpy.context.view_layer.objects.active == active:
            bpy.ops.object.mode_set(mode=mode)


def sample(source: bpy.types.Object, frames: Sequence[int]) -> Sampled:
    """The bones of an armature on the frames from the first to the last of `frames`, as they are evaluated."""
    names, parents = bones_to_keep(source)
    numbers = np.arange(int(frames[0]), int(frames[1]) + 1)
    world = np.empty((len(numbers), len(names), 4, 4))
    scale = 1.0
    for i, posed in enumerate(_evaluated(source, frames)):
        bones = posed.pose.bones
        world[i] = np.array(posed.matrix_world) @ np.array([bones[name].matrix for name in names])
        scale = float(np.mean(posed.matrix_world.to_scale()))
    return Sampled(source, numbers, names, parents, world, scale)


def _evaluated(source: bpy.types.Object, frames: Sequence[int]) -> Iterator[bpy.types.Object]:
    """The object as it is evaluated on each frame from first to last, whether it is shown or not."""
    hidden, source.hide_viewport = source.hide_viewport, False
    try:
        with studio(bpy.context.scene, "MeshPose sampling", frames) as room:
            room.scene.collection.objects.link(source)
            layer = room.scene.view_layers[0]
            for number in range(int(frames[0]), int(frames[1]) + 1):
                room.scene.frame_set(number)
                yield source.evaluated_get(layer.depsgraph)
            room.scene.collection.objects.unlink(source)
    finally:
        source.hide_viewport = hidden


def with_root(sampled: Sampled) -> Sampled:
    """With a bone above all others that goes over the floor under the topmost one and turns with nothing.

    As it was where the rig's topmost bone stands on the floor in rest already.
    """
    tops = [index for index, parent in enumerate(sampled.parents) if parent < 0]
    rests = [sampled.source.data.bones[sampled.names[index]].matrix_local.translation for index in tops]
    if len(tops) == 1 and rests[0].z * sampled.scale < ON_THE_FLOOR:
        return sampled
    # The one that carries most of the rig: a Rigify rig has several.
    family = [sum(_top(sampled.parents, i) == top for i in range(len(sampled.names))) for top in tops]
    carrier = tops[int(np.argmax(family))]
    root = np.tile(np.eye(4), (len(sampled.frames), 1, 1))
    root[:, :2, 3] = sampled.world[:, carrier, :2, 3]
    return replace(
        sampled,
        names=[ROOT, *sampled.names],
        parents=[-1, *(parent + 1 for parent in sampled.parents)],
        world=np.concatenate([root[:, None], sampled.world], 1),
    )


def _top(parents: list[int], index: int) -> int:
    while parents[index] >= 0:
        index = parents[index]
    return index


def bones_to_keep(source: bpy.types.Object) -> tuple[list[str], list[int]]:
    """Names and parents of the bones that an export holds: all, or of a Rigify rig those that carry the skin.

    Rigify hangs its deforming bones on helpers: the parent is then the deforming bone of the helper's name.
    """
    bones = source.data.bones
    if "rig_id" not in source.data:
        names = [bone.name for bone in bones]
        return names, [names.index(bone.parent.name) if bone.parent else -1 for bone in bones]
    names = [bone.name for bone in bones if bone.use_deform]
    parents = []
    for name in names:
        above, found = bones[name].parent, -1
        while above is not None and found < 0:
            like = "DEF-" + above.name.removeprefix("ORG-")
            found = next((names.index(n) for n in (above.name, like) if n in names and n != name), -1)
            above = above.parent
        parents.append(found)
    return names, parents


def armature(room: Studio, sampled: Sampled, name: str, first: int) -> bpy.types.Object:
    """A plain copy of the sampled armature, keyed on consecutive frames from `first` on."""
    data = sampled.source.data.copy()
    data.animation_data_clear()
    target = bpy.data.objects.new(name, data)
    room.made.append(data)
    room.add(target)
    room.name(data, name)
    room.name(target, name)
    room.select(target)
    data.pose_position = "POSE"
    for bone in data.bones:
        bone.use_inherit_rotation, bone.use_local_location, bone.inherit_scale = True, True, "FULL"
        bone.hide = False
    data.transform(room.transform @ Matrix.Scale(sampled.scale, 4))
    _arrange(room, data, sampled)
    room.scene.view_layers[0].update()  # makes the pose, without which an action crashes Blender
    target.matrix_world = Matrix(room.turn.T.tolist()).to_4x4()
    rest = np.array([data.bones[name].matrix_local for name in sampled.names], np.float64)
    scales = np.array([1.0 if name == ROOT else sampled.scale for name in sampled.names])[:, None, None]
    wanted = np.zeros_like(sampled.world)
    wanted[..., :3, :3] = room.turn @ sampled.world[..., :3, :3] / scales
    wanted[..., :3, 3] = sampled.world[..., :3, 3] @ room.turn.T * room.size
    wanted[..., 3, 3] = 1.0
    if ROOT in sampled.names:
        wanted[:, sampled.names.index(ROOT), :3, :3] = rest[sampled.names.index(ROOT), :3, :3]
    _key(room, target, sampled, _basis(rest, wanted, sampled.parents), first)
    return target


def _arrange(room: Studio, data: bpy.types.Armature, sampled: Sampled) -> None:
    """Bones and parents as sampled: a root where it has one, and none but its own.

    None is joined to its parent: Blender and its BVH writer let such a bone not move along.
    """
    bpy.ops.object.mode_set(mode="EDIT")
    try:
        if ROOT in sampled.names:
            root = data.edit_bones.new(ROOT)
            root.head, root.tail = (0.0, 0.0, 0.0), (room.turn @ (0.0, 0.0, ROOT_LENGTH * room.size)).tolist()
            root.use_deform = False
        for name, parent in zip(sampled.names, sampled.parents):
            bone = data.edit_bones[name]
            bone.use_connect = False
            bone.parent = data.edit_bones[sampled.names[parent]] if parent >= 0 else None
        for bone in [bone for bone in data.edit_bones if bone.name not in sampled.names]:
            data.edit_bones.remove(bone)
    finally:
        bpy.ops.object.mode_set(mode="OBJECT")


def _basis(rest: np.ndarray, wanted: np.ndarray, parents: list[int]) -> np.ndarray:
    """Channel matrices (F, B, 4, 4) that bring bones of rest (B, 4, 4) to wanted (F, B, 4, 4), both armature space.

    A bone that is stretched (Rigify's spine, between two keys) shears what turns below it, and turns and scales cannot
    say that: such a bone is put against its parent as that will stand, so that all heads are where they belong.
    """
    result, stands = np.empty_like(wanted), np.empty_like(wanted)
    for c in sorted(range(len(parents)), key=lambda c: _depth(parents, c)):
        p = parents[c]
        local = rest[c] if p < 0 else np.linalg.inv(rest[p]) @ rest[c]
        above = local if p < 0 else stands[:, p] @ local
        result[:, c] = np.linalg.inv(above) @ wanted[:, c]
        turns, scale = _turns_and_scale(result[:, c])
        told = result[:, c].copy()
        told[:, :3, :3] = rotation_matrix(turns) * scale[:, None]
        stands[:, c] = above @ told
    return result


def _depth(parents: list[int], index: int) -> int:
    return 0 if parents[index] < 0 else 1 + _depth(parents, parents[index])


def _turns_and_scale(basis: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Quaternions (..., 4) and scales (..., 3) of channel matrices (..., 4, 4)."""
    scale = np.linalg.norm(basis[..., :3, :3], axis=-2)
    return quaternion(basis[..., :3, :3] / np.maximum(scale[..., None, :], 1e-12)), scale


def _key(room: Studio, target: bpy.types.Object, sampled: Sampled, basis: np.ndarray, first: int) -> None:
    """Keys on every frame for every bone that turns, moves or grows; bones are looked up by the names given once."""
    action = compat.Action(target, target.name)
    room.made.append(action.action)
    turns, scale = _turns_and_scale(basis)
    turns = continuous(turns)
    frames = np.arange(len(basis)) + first
    for c, name in enumerate(sampled.names):
        bone = target.pose.bones[name]
        bone.rotation_mode = "QUATERNION"
        channels = {"rotation_quaternion": turns[:, c]}
        if sampled.parents[c] < 0 or np.abs(basis[:, c, :3, 3]).max() > MOVED * room.size:
            channels["location"] = basis[:, c, :3, 3]
        if np.abs(scale[:, c] - 1).max() > 10 * MOVED:
            channels["scale"] = scale[:, c]
        for path, values in channels.items():
            setattr(bone, path, values[0])
            for axis in range(values.shape[1]):
                action.curve(bone.path_from_id(path), axis, frames, values[:, axis], name)


def unscaled(sampled: Sampled) -> Sampled:
    """With bones that do not grow, as BVH has them (Rigify stretches some); their heads stay where they are."""
    world = sampled.world.copy()
    size = np.linalg.norm(world[..., :3, :3], axis=-2, keepdims=True)
    world[..., :3, :3] *= sampled.scale / np.maximum(size, 1e-12)
    return replace(sampled, world=world)


def only_turns(sampled: Sampled) -> bool:
    """Whether bones with a parent turn and do nothing else, as those of a BVH file should."""
    rest = np.array([sampled.source.data.bones[name].matrix_local for name in sampled.names], np.float64)
    scaled = sampled.world.copy()  # of bones without a root of ours
    scaled[..., :3, 3] /= sampled.scale
    scaled[..., :3, :3] /= sampled.scale
    moved = np.abs(_basis(rest, scaled, sampled.parents)[..., :3, 3]).max((0, 2))
    return not (moved[np.array(sampled.parents) >= 0] > 10 * MOVED).any()


def _copied(room: Studio, source: bpy.types.Object, name: str) -> bpy.types.Object:
    """A copy of an object and its data in the studio's scene, without animation."""
    target = source.copy()
    target.data = source.data.copy()
    room.made.append(target.data)
    room.add(target)
    room.name(target.data, name)
    room.name(target, name)
    target.animation_data_clear()
    return target


def body(
    room: Studio,
    source: bpy.types.Object,
    bones: bpy.types.Object,
    sampled: Sampled,
    name: str,
    influences: int = 0,
    below: bool = True,
) -> None:
    """A copy of the skinned body that follows the copied armature and has no other modifier.

    influences: bones that a vertex follows at most (0: all of them); the strongest stay.  below: a child of the
    armature; else beside it, and the armature stands at the origin.
    """
    target = _copied(room, source, name)
    target.modifiers.clear()
    target.modifiers.new("Armature", "ARMATURE").object = bones
    local = sampled.source.matrix_world.inverted() @ source.matrix_world
    target.data.transform(room.transform @ Matrix.Scale(sampled.scale, 4) @ local)
    target.parent = bones if below else None
    target.matrix_parent_inverse, target.matrix_basis = Matrix(), Matrix()
    _show(room, target)
    if influences:
        room.select(target)
        bpy.ops.object.vertex_group_limit_total(group_select_mode="ALL", limit=influences)
        bpy.ops.object.vertex_group_normalize_all(group_select_mode="ALL", lock_active=False)


def mesh(
    room: Studio, source: bpy.types.Object, name: str, frames: Sequence[int], corner_colours: bool = False
) -> None:
    """A copy of the moving mesh that has all its vertices on all `frames` (first, last), of scale 0 where it had none.

    corner_colours: its colours as bytes at the corners of the faces, the only ones that Alembic's writer knows.
    Not hidden: of an invisible mesh Blender's USD writer leaves out the frames and says nothing of its visibility, and
    the Alembic writer counts on as if they had not been, so that all later ones come too early.
    """
    numbers = np.arange(int(frames[0]), int(frames[1]) + 1)
    places = [posed.matrix_world.copy() for posed in _evaluated(source, frames)]
    target = _copied(room, source, name)
    target.constraints.clear()
    target.parent = None
    _show(room, target)
    present = np.ones(len(numbers), bool)
    for modifier in target.modifiers:
        if modifier.type == "NODES" and modifier.node_group is not None:
            there = _hold(room, modifier, frames)
            present &= True if there is None else there
    if corner_colours:
        _bytes_at_corners(room, target)
    curves = _places(target, places)
    if not present.all():
        curves["scale"] = np.array([place.to_scale() for place in places]) * present[:, None]
    if curves:
        action = compat.Action(target, name)
        room.made.append(action.action)
        for path, values in curves.items():
            for axis in range(values.shape[1]):
                action.curve(path, axis, numbers, values[:, axis])


def _bytes_at_corners(room: Studio, target: bpy.types.Object) -> None:
    """Adds a modifier that stores the heatmap's colours once more, for a writer that leaves others out."""
    tree = bpy.data.node_groups.new("MeshPose export", "GeometryNodeTree")
    room.made.append(tree)
    for direction in ("INPUT", "OUTPUT"):
        tree.interface.new_socket("Geometry", in_out=direction, socket_type="NodeSocketGeometry")
    graph = Graph(tree)
    given = graph.node("NodeGroupInput").outputs[0]
    colour = graph.attribute("FLOAT_COLOR", playback.VISIBILITY)
    stored = graph.store("BYTE_COLOR", given, playback.VISIBILITY, colour, domain="CORNER")
    graph.connect(graph.node("NodeGroupOutput").inputs[0], stored)
    target.modifiers.new("MeshPose export", "NODES").node_group = tree


def _places(target: bpy.types.Object, places: list[Matrix]) -> dict[str, np.ndarray]:
    """Stand as the first of `places` (F) says; the curves (F, 3 or 4) for the others where they differ."""
    target.rotation_mode = "QUATERNION"
    target.matrix_world = places[0]
    if all(place == places[0] for place in places):
        return {}
    parts = [place.decompose() for place in places]
    turns = continuous(np.array([part[1] for part in parts])[:, None])[:, 0]
    shifts, sizes = (np.array([part[i] for part in parts]) for i in (0, 2))
    return {"location": shifts, "rotation_quaternion": turns, "scale": sizes}


def _show(room: Studio, target: bpy.types.Object) -> None:
    target.hide_viewport = target.hide_render = False
    target.hide_set(False, view_layer=room.scene.view_layers[0])


def _hold(room: Studio, modifier: bpy.types.NodesModifier, frames: Sequence[int]) -> np.ndarray | None:
    """Give a playback modifier an image with the person on every frame: where nobody is, the nearest pose.

    Returns (F,) bool, on which of the frames the person is there; None where the modifier plays nothing.
    """
    image, start = (_input(modifier.node_group, kind) for kind in ("NodeSocketImage", "NodeSocketInt"))
    played = compat.modifier_input(modifier, image) if image else None
    if image is None or start is None or not isinstance(played, bpy.types.Image):
        return None
    rows = _unpack(played, int(str(compat.modifier_input(modifier, start))))
    if not rows.present.any():
        return np.zeros(int(frames[1]) - int(frames[0]) + 1, bool)
    numbers = np.arange(int(frames[0]), int(frames[1]) + 1)
    there = np.flatnonzero(rows.present)
    at = np.clip(np.searchsorted(there, numbers - rows.start), 1, len(there) - 1) if len(there) > 1 else 0 * numbers
    after = there[at]
    before = there[np.maximum(at - 1, 0)]
    wanted = numbers - rows.start
    nearest = np.where(np.abs(wanted - before) <= np.abs(after - wanted), before, after)
    held = playback.Rows(int(frames[0]), rows.positions[nearest], rows.visibility[nearest], np.ones(len(numbers), bool))
    block = playback.pack_rows("MeshPose export", held)
    room.made.append(block)
    compat.set_modifier_input(modifier, image, block)
    compat.set_modifier_input(modifier, start, int(frames[0]))
    return np.isin(wanted, there)


def _input(group: bpy.types.NodeTree, kind: str) -> str | None:
    """Identifier of a node group's first input of a kind: the image, the scene frame of its first row."""
    sockets = (item for item in group.interface.items_tree if item.item_type == "SOCKET" and item.in_out == "INPUT")
    return next((item.identifier for item in sockets if item.socket_type == kind), None)


def _unpack(image: bpy.types.Image, start: int) -> playback.Rows:
    """What `playback.pack_rows` has written into an image."""
    width, count = image.size
    pixels = np.empty(count * width * 4, np.float32)
    image.pixels.foreach_get(pixels)
    pixels = pixels.reshape(count, width, 4)
    return playback.Rows(start, pixels[:, :-1, :3], pixels[:, :-1, 3], pixels[:, -1, 0] > 0.5)
