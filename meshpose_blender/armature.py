# SPDX-License-Identifier: GPL-3.0-or-later
"""A person's armature, on any rig: bones at the person's rest heads, keys on the bones that move, the skinned body.

The core says where a rig's bones are (`meshpose.rigs`): a linear part L (rest to pose) and a posed head w, per frame
and bone.  With a bone's rest matrix M = [B | h] in the armature and its parent p, Blender's pose channel is

    Q = B^T L_p^T L B,  t = B^T (L_p^T (w - w_p) - (h - h_p))        child of p
    Q = B^T C L B,      t = B^T (C w + o - h)                        no parent

where C turns the camera frame into Blender's axes and o lifts the camera to its height: all of the person's way through
space is on the hips, the armature object itself stands at the origin.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import bpy
import numpy as np
from mathutils import Matrix

from meshpose.body import Body, Shape
from meshpose.rigs import Posed, Rest, Rig, t_pose
from meshpose.rigs import channels as rig_channels

from . import compat, keys
from .playback import body_mesh

if TYPE_CHECKING:
    from meshpose.motion import Motion
    from meshpose.rig import RigFit

RIG = "meshpose_rig"
"""On an armature: the name of its rig."""
CONTACT = "meshpose_contact"
"""On an armature: when its feet stand on the floor, first and last scene frame of each time, left and right; JSON."""


@dataclass(frozen=True)
class Channels:
    """Pose channels of B bones `names`: rotations (F, B, 4) wxyz and shifts (F, B, 3) metres, both in each bone's own
    rest axes.
    """

    names: list[str]
    rotations: np.ndarray
    shifts: np.ndarray


def new_armature(
    name: str, body: Body, shape: Shape, scale: float, collection: bpy.types.Collection, rig: Rig | None = None
) -> bpy.types.Object:
    """An armature in the body's rest pose: metres, z up, facing -y, bones with the rig's names, places and rolls.

    rig: the body's own where none is given.  Needs the context's view layer to hold `collection`: bones can be made in
    edit mode only.
    """
    rig = rig or Rig.load("default")
    rest = rig.rest(body, shape)
    data = bpy.data.armatures.new(name)
    data.display_type = "STICK"
    target = bpy.data.objects.new(name, data)
    target[RIG] = rig.name
    collection.objects.link(target)
    layer = bpy.context.view_layer
    before = layer.objects.active
    if before is not None and before.mode != "OBJECT":
        bpy.ops.object.mode_set(mode="OBJECT")
    layer.objects.active = target
    bpy.ops.object.mode_set(mode="EDIT")
    try:
        bones: list[bpy.types.EditBone] = []
        for b, bone_name in enumerate(rest.names):
            bone = data.edit_bones.new(bone_name)
            bone.head, bone.tail = rest.heads[b] * scale, rest.tails[b] * scale
            bone.align_roll(rest.axes[b][:, 2].tolist())
            if rest.parents[b] >= 0:
                bone.parent = bones[rest.parents[b]]
            bones.append(bone)
    finally:
        bpy.ops.object.mode_set(mode="OBJECT")
        layer.objects.active = before
    return target


def channels(
    target: bpy.types.Object,
    body: Body,
    shape: Shape,
    fit: RigFit | Motion,
    turn: np.ndarray,
    lift: float,
    rig: Rig | None = None,
    only_turns: bool = False,
) -> Channels:
    """Blender's pose channels of `fit` on the bones of `target`, an armature of `rig` (default: the body's own).

    turn (3, 3): camera frame to Blender's axes; lift: metres that the camera stands above the ground; only_turns: see
    `keys.KeySettings`.
    """
    rig = rig or Rig.load("default")
    rest = as_built(target, rig.rest(body, shape))
    rotations, shifts = rig_channels(rest, placed(rest, body, shape, fit, turn, lift, rig, only_turns))
    shifts[:, np.abs(shifts).max((0, 2)) < keys.STILL] = 0
    return Channels(rest.names, continuous(rotations), shifts)


def placed(
    rest: Rest,
    body: Body,
    shape: Shape,
    fit: RigFit | Motion,
    turn: np.ndarray,
    lift: float,
    rig: Rig,
    only_turns: bool = False,
) -> Posed:
    """The bones of a rig in the scene, Blender units, on every frame of the fit; rest as Blender has built it."""
    posed = rig.posed(body, shape, fit.rotations, rigid=only_turns)
    scale = float(getattr(fit, "scale", 1.0))
    linear = turn @ np.asarray(posed.linear, np.float64)
    place = np.asarray(fit.translation, np.float64) @ turn.T + (0.0, 0.0, lift)
    heads = scale * np.asarray(posed.heads, np.float64) @ turn.T + place[:, None]
    if rest.root >= 0:  # it stays in one place, on the ground
        linear[:, rest.root], heads[:, rest.root] = np.eye(3), 0
    return Posed(linear, heads)


def as_built(target: bpy.types.Object, rest: Rest) -> Rest:
    """The rest pose with heads and axes as Blender keeps them, in Blender units."""
    matrices = np.array([target.data.bones[name].matrix_local for name in rest.names], np.float64)
    return Rest(
        rest.names, rest.parents, matrices[:, :3, 3], rest.tails, matrices[:, :3, :3], rest.shared, rest.hips, rest.root
    )


def continuous(rotations: np.ndarray) -> np.ndarray:
    """Quaternions (F, J, 4) with signs such that each is near the one before: interpolation goes the short way."""
    turned = (rotations[1:] * rotations[:-1]).sum(-1) < 0
    signs = np.where(np.cumsum(turned, 0) % 2, -1.0, 1.0)
    result = rotations.copy()
    result[1:] *= signs[..., None]
    return result


def animate(
    target: bpy.types.Object,
    pose: Channels,
    rows: np.ndarray,
    frames: np.ndarray,
    settings: keys.KeySettings = keys.EVERY_FRAME,
    seen: np.ndarray | None = None,
) -> None:
    """Keys on scene frames (n,) with the channels' rows (n,): on the bones that move; the others are posed once.

    seen (B,) bool: which bones were ever seen; the others are not keyed, unless the settings ask for it.
    """
    keys.write(target, pose.names, pose.rotations[rows], pose.shifts[rows], frames, settings, seen)


def remember_contact(target: bpy.types.Object, fit: RigFit | Motion, rows: np.ndarray, frames: np.ndarray) -> None:
    """Keep on the armature when its feet stand, as the Take has it, for who carries the motion to other bones."""
    contact = getattr(fit, "contact", None)
    if contact is None or not len(contact):
        return
    at, spans = np.rint(frames).astype(int), []
    for side in range(2):
        on = np.asarray(contact, bool)[rows, 2 * side : 2 * side + 2].any(1)
        begins = on & ~np.concatenate([[False], on[:-1] & (np.diff(at) == 1)])
        ends = on & ~np.concatenate([on[1:] & (np.diff(at) == 1), [False]])
        spans.append([[int(a), int(b)] for a, b in zip(at[begins], at[ends], strict=True)])
    target[CONTACT] = json.dumps(spans)


def contact_of(source: bpy.types.Object, frames: np.ndarray) -> np.ndarray | None:
    """What `remember_contact` has kept, (F, 2) on scene frames (F,); None where nothing can be read."""
    kept = source.get(CONTACT)
    if not isinstance(kept, str):
        return None
    out = np.zeros((len(frames), 2), bool)
    try:
        for side, spans in enumerate(json.loads(kept)):
            for first, last in spans:
                out[(frames >= first) & (frames <= last), side] = True
    except (ValueError, TypeError, IndexError):  # somebody wrote there
        return None
    return out if out.any() else None


def bones_seen(rig: Rig, fit: RigFit | Motion) -> np.ndarray | None:
    """Which of the rig's bones (B,) follow a bone of the body that was seen; None where nobody has looked."""
    keyed = getattr(fit, "keyed", None)
    return None if keyed is None or not len(keyed) else rig.seen(np.asarray(keyed, bool).any(0))


def add_t_pose(target: bpy.types.Object, body: Body, shape: Shape, rig: Rig) -> bpy.types.Action:
    """An action of one key, named as the armature with "T-pose", that stands it in one; kept in the file, not used."""
    still = t_pose(body, shape)[None]
    rest = as_built(target, rig.rest(body, shape))
    posed = rig.posed(body, shape, still)
    turns, _ = rig_channels(rest, Posed(np.asarray(posed.linear, np.float64), posed.heads))
    action = compat.Action(target, f"{target.name} T-pose", use=False)
    for b, name in enumerate(rest.names):
        path = target.pose.bones[name].path_from_id("rotation_quaternion")
        for axis in range(4):
            action.curve(path, axis, np.zeros(1), turns[0, b, axis : axis + 1], name)
    action.action.use_fake_user = True
    return action.action


def skinned_body(
    name: str,
    body: Body,
    shape: Shape,
    scale: float,
    armature: bpy.types.Object,
    collection: bpy.types.Collection,
    rig: Rig | None = None,
    groups: Sequence[str] | None = None,
) -> bpy.types.Object:
    """The person's rest body, skinned to the armature with all of the rig's weights; hidden.

    groups: names of the vertex groups, one for each of the rig's (default: that of the bone it follows).
    """
    mesh = body_mesh(name, shape.vertices * scale, body.quads, body.uv, body.uv_quads)
    target = bpy.data.objects.new(name, mesh)
    collection.objects.link(target)
    rig = rig or Rig.load("default")
    skin = rig.skin(body)
    names = groups or [rig.names[bone] for bone in skin.bones]
    for group_name in dict.fromkeys(names):
        group = target.vertex_groups.new(name=group_name)
        parts = [i for i, other in enumerate(names) if other == group_name]
        vertices, slots = np.nonzero(np.isin(skin.indices, parts) & (skin.weights > 0))
        for vertex, weight in zip(vertices.tolist(), skin.weights[vertices, slots].tolist()):
            group.add((vertex,), weight, "ADD")
    modifier = target.modifiers.new("Armature", "ARMATURE")
    modifier.object = armature
    target.parent = armature
    target.matrix_parent_inverse = Matrix.Identity(4)
    target.hide_render = True
    target.hide_set(True)
    return target
