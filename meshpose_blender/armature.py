# SPDX-License-Identifier: GPL-3.0-or-later
"""The body's own rig: bones at the person's rest heads, keys on the bones that move, the skinned body.

The fit gives `local-ref` deltas (core, `body.py`).  Its posed bones are a linear part L (rest to pose) and a posed head
w, per frame and bone.  With a bone's rest matrix M = [B | h] in the armature, Blender's pose channel is

    Q = B^T L_p^T L B      (child of p)          Q = B^T C L B,  t = B^T (C w + o - h)      (root)

where C turns the camera frame into Blender's axes and o lifts the camera to its height: all of the person's way through
space is on the root, the armature object itself stands at the origin.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import bpy
import numpy as np
from mathutils import Matrix

from meshpose.body import Body, Shape, quaternion

from . import compat
from .playback import body_mesh

if TYPE_CHECKING:
    from meshpose.motion import Motion
from meshpose.rig import RigFit

STILL = 1e-5
"""Quaternion components that change less over the whole clip are not a movement; such a bone gets no keys."""
SHORTEST = 0.01
"""Metres; Blender deletes bones without length."""
POINTS_AT = 0.9
"""Cosine between a bone and the way to its child from which on it points at it."""


@dataclass(frozen=True)
class Channels:
    """Pose channels: rotations (F, J, 4) wxyz in each bone's own rest axes, root (F, 3) metres in the root's axes."""

    rotations: np.ndarray
    root: np.ndarray


def new_armature(
    name: str, body: Body, shape: Shape, scale: float, collection: bpy.types.Collection
) -> bpy.types.Object:
    """An armature in the body's rest pose: metres, z up, facing -y, a bone per bone of the body, same names.

    Needs the context's view layer to hold `collection`: bones can be made in edit mode only.
    """
    heads, tails = rest_bones(body, shape)
    data = bpy.data.armatures.new(name)
    data.display_type = "STICK"
    target = bpy.data.objects.new(name, data)
    collection.objects.link(target)
    layer = bpy.context.view_layer
    before = layer.objects.active
    if before is not None and before.mode != "OBJECT":
        bpy.ops.object.mode_set(mode="OBJECT")
    layer.objects.active = target
    bpy.ops.object.mode_set(mode="EDIT")
    try:
        bones: list[bpy.types.EditBone] = []
        for c, bone_name in enumerate(body.bone_names):
            bone = data.edit_bones.new(bone_name)
            bone.head, bone.tail = heads[c] * scale, tails[c] * scale
            bone.align_roll(shape.orientations[c][:, 2].tolist())
            if body.bone_parents[c] >= 0:
                bone.parent = bones[body.bone_parents[c]]
            bones.append(bone)
    finally:
        bpy.ops.object.mode_set(mode="OBJECT")
        layer.objects.active = before
    return target


def rest_bones(body: Body, shape: Shape) -> tuple[np.ndarray, np.ndarray]:
    """Rest heads and tails (J, 3), metres, z up.

    The body knows heads and directions.  A bone ends where the child begins that it points at; one that points at no
    child (finger tips, the head, eyes) ends with the skin that follows it most.
    """
    heads = np.asarray(shape.heads, np.float64)
    along = np.asarray(shape.orientations, np.float64)[:, :, 1]
    strongest = body.skin_bones[np.arange(len(body.skin_bones)), body.skin_weights.argmax(1)]
    length = np.zeros(len(heads))
    for c in range(len(heads)):
        ways = heads[body.bone_parents == c] - heads[c]
        reach = ways @ along[c]
        straight = reach / np.maximum(np.linalg.norm(ways, axis=1), 1e-9)
        if len(ways) and straight.max() > POINTS_AT:
            length[c] = reach[straight.argmax()]
        elif (strongest == c).any():
            length[c] = ((shape.vertices[strongest == c] - heads[c]) @ along[c]).max()
    return heads, heads + along * np.maximum(length, SHORTEST)[:, None]


def channels(
    target: bpy.types.Object, body: Body, shape: Shape, fit: RigFit | Motion, turn: np.ndarray, lift: float
) -> Channels:
    """Blender's pose channels of `fit` on the bones of `target`.

    turn (3, 3): camera frame to Blender's axes; lift: metres that the camera stands above the ground.
    """
    rest = np.array([target.data.bones[name].matrix_local for name in body.bone_names], np.float64)
    basis = rest[:, :3, :3]
    linear, _ = body.transforms(shape, fit.rotations, np.zeros((len(fit.rotations), 3)))
    linear = np.asarray(linear, np.float64)
    parents = np.asarray(body.bone_parents)
    root = int(np.flatnonzero(parents < 0)[0])
    above = linear[:, np.maximum(parents, 0)]
    above[:, root] = turn.T
    local = np.einsum("jba,fjcb,fjcd,jde->fjae", basis, above, linear, basis, optimize=True)
    head = np.asarray(fit.translation, np.float64) @ turn.T + (0.0, 0.0, lift)
    place = (head - rest[root, :3, 3]) @ basis[root]
    return Channels(continuous(quaternion(local)), place)


def continuous(rotations: np.ndarray) -> np.ndarray:
    """Quaternions (F, J, 4) with signs such that each is near the one before: interpolation goes the short way."""
    turned = (rotations[1:] * rotations[:-1]).sum(-1) < 0
    signs = np.where(np.cumsum(turned, 0) % 2, -1.0, 1.0)
    result = rotations.copy()
    result[1:] *= signs[..., None]
    return result


def animate(target: bpy.types.Object, body: Body, pose: Channels, rows: np.ndarray, frames: np.ndarray) -> None:
    """Keys on scene frames (n,) with the channels' rows (n,): on the bones that move; the others are posed once."""
    action = compat.Action(target, target.name)
    for c, name in enumerate(body.bone_names):
        bone = target.pose.bones[name]
        values = pose.rotations[rows, c]
        bone.rotation_mode = "QUATERNION"
        bone.rotation_quaternion = values[0]
        if np.ptp(values, 0).max() > STILL:
            for axis in range(4):
                action.curve(bone.path_from_id("rotation_quaternion"), axis, frames, values[:, axis], name)
        if body.bone_parents[c] < 0:
            bone.location = pose.root[rows[0]]
            for axis in range(3):
                action.curve(bone.path_from_id("location"), axis, frames, pose.root[rows, axis], name)


def skinned_body(
    name: str, body: Body, shape: Shape, scale: float, armature: bpy.types.Object, collection: bpy.types.Collection
) -> bpy.types.Object:
    """The person's rest body, skinned to the armature with all of the body's weights; hidden."""
    mesh = body_mesh(name, shape.vertices * scale, body.quads, body.uv, body.uv_quads)
    target = bpy.data.objects.new(name, mesh)
    collection.objects.link(target)
    groups = [target.vertex_groups.new(name=bone) for bone in body.bone_names]
    for bone, group in enumerate(groups):
        vertices, slots = np.nonzero((body.skin_bones == bone) & (body.skin_weights > 0))
        for vertex, weight in zip(vertices.tolist(), body.skin_weights[vertices, slots].tolist()):
            group.add((vertex,), weight, "ADD")
    modifier = target.modifiers.new("Armature", "ARMATURE")
    modifier.object = armature
    target.parent = armature
    target.matrix_parent_inverse = Matrix.Identity(4)
    target.hide_render = True
    target.hide_set(True)
    return target
