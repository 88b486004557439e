# SPDX-License-Identifier: GPL-3.0-or-later
"""Rigify: its control rig from our meta-rig, and keys on the FK controls of any rig that it made.

    controls = generate(meta, Rig.load("rigify"))
    key(controls, names, rest, posed, frames, settings, name)

A generated rig has controls that an animator moves, helpers between them, and the skeleton (ORG-...) that the deforming
bones (DEF-...) follow.  What is wanted is a place for each bone of the skeleton; what is keyed are controls.  With C a
control as it stands, B its own channels and S, W the skeleton's bone that it moves, as it stands and as it should:

    B' = (W_q S_q^-1 C B^-1)^-1  W S^-1 C

where q is the next control or bone of the skeleton above (if there is one): its move takes the control's parent along.
Constraints make that a guess, so Blender evaluates all frames with it and the same is done again, from what it says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import addon_utils
import bpy
import numpy as np
from mathutils import Matrix

from meshpose.body import Body, quaternion
from meshpose.errors import InputError
from meshpose.rigs import Posed, Rest, Rig, nearest_rotation

from . import keys
from .armature import RIG, continuous
from .bake import studio

MODULE = "rigify"
SKELETON, DEFORMING = "ORG-", "DEF-"
PASSES, TRUNK_PASSES = 4, 2
"""How often all frames are evaluated, and how many times the trunk's controls are set before its tweaks take the rest.
"""
Evaluate = Callable[[np.ndarray], np.ndarray]
FK_SWITCH, FOLLOW = "IK_FK", ("neck_follow", "head_follow")


def missing() -> str:
    """Empty where Rigify is there (it is enabled then), else one line that says what to do."""
    instead = "the people have its meta-rig, without controls"
    if MODULE not in {module.__name__ for module in addon_utils.modules()}:
        return f"rig rigify: this Blender has no Rigify add-on; {instead}"
    if not hasattr(bpy.types.PoseBone, "rigify_type"):
        addon_utils.enable(MODULE, default_set=True)  # its preferences are looked for while it starts
    if not hasattr(bpy.types.PoseBone, "rigify_type"):
        return f"rig rigify: the add-on Rigify cannot be enabled here; {instead}"
    return ""


def is_generated(target: bpy.types.Object) -> bool:
    """Whether an armature was made by Rigify."""
    return target.type == "ARMATURE" and "rig_id" in target.data


# -- making one ----------------------------------------------------------------------------------------------------


def generate(meta: bpy.types.Object, rig: Rig) -> bpy.types.Object:
    """The control rig of a meta-rig that `armature.new_armature` made, at its place, with limbs set to FK.

    Raises InputError with Rigify's own sentence when it fails.
    """
    data, told = meta.data, rig.generator
    for name in told["collections"]:
        collection, row = data.collections.new(name), told["rows"].get(name, {})
        collection.rigify_ui_row, collection.rigify_ui_title = row.get("ui_row", 0), row.get("ui_title", "")
    for bone, names in told["members"].items():
        for name in names:
            data.collections[name].assign(data.bones[bone])
    layer = bpy.context.view_layer
    before = layer.objects.active
    layer.objects.active = meta
    bpy.ops.object.mode_set(mode="EDIT")
    try:
        for name in told["connected"]:
            bone = data.edit_bones[name]
            bone.use_connect = bone.parent is not None and (bone.parent.tail - bone.head).length < 1e-4
    finally:
        bpy.ops.object.mode_set(mode="OBJECT")
    for name, options in told["types"].items():
        _set_type(meta, name, options)
    meta.select_set(True)
    try:
        bpy.ops.pose.rigify_generate()
    except RuntimeError as error:
        raise InputError(f"rig rigify: the rig could not be generated ({str(error).strip()})") from error
    finally:
        layer.objects.active = before
    controls: bpy.types.Object = data.rigify_target_rig
    controls.name = controls.data.name = meta.name.removesuffix(" meta-rig")
    controls[RIG] = rig.name
    _move(controls, meta)
    for collection in controls.data.collections_all:
        if collection.name in told["rows"]:
            collection.is_visible = bool(told["rows"][collection.name].get("is_visible", True))
    return controls


def _set_type(meta: bpy.types.Object, name: str, options: dict[str, object]) -> None:
    """What Rigify is to make of a bone."""
    bone = meta.pose.bones[name]
    bone.rigify_type = str(options.get("rigify_type", ""))
    parameters = options.get("rigify_parameters", {})
    for key_, value in parameters.items() if isinstance(parameters, dict) else ():
        if not hasattr(bone.rigify_parameters, key_):
            continue  # an option of another version of Rigify
        if key_.endswith("_coll_refs"):
            references = getattr(bone.rigify_parameters, key_)
            references.clear()
            setattr(bone.rigify_parameters, key_.replace("_coll_refs", "_layers_extra"), True)
            for collection in value:
                references.add().set_collection(meta.data.collections[collection])
        else:
            setattr(bone.rigify_parameters, key_, value)


def _move(controls: bpy.types.Object, meta: bpy.types.Object) -> None:
    """Into the meta-rig's collections."""
    for collection in controls.users_collection:
        collection.objects.unlink(controls)
    for collection in meta.users_collection:
        collection.objects.link(controls)


def discard(meta: bpy.types.Object) -> None:
    """Take the meta-rig away."""
    data = meta.data
    bpy.data.objects.remove(meta)
    bpy.data.armatures.remove(data)


def groups(rig: Rig, body: Body) -> list[str]:
    """Names of the vertex groups on a generated rig: its deforming bones, limbs in two halves each."""
    skin = rig.skin(body)
    return [g if g.startswith(DEFORMING) else DEFORMING + rig.names[b] for g, b in zip(skin.groups, skin.bones)]


# -- its skeleton --------------------------------------------------------------------------------------------------


def skeleton(target: bpy.types.Object) -> tuple[list[str], list[int]]:
    """Names and parents of the skeleton's bones, parents first.

    Rigify hangs a spine's bones on helpers: such a bone belongs to the one whose tail its head touches.
    """
    bones = [bone for bone in target.data.bones if bone.name.startswith(SKELETON)]
    inside = {bone.name for bone in bones}
    above: dict[str, str] = {}
    for bone in bones:
        names = [p.name.replace(DEFORMING, SKELETON, 1) for p in bone.parent_recursive]
        found = next((n for n in names if n in inside and n != bone.name), "")
        touching = [b.name for b in bones if b != bone and (b.tail_local - bone.head_local).length < 1e-4]
        found = found if found or not touching else touching[0]
        if found:
            above[bone.name] = found
    ordered: list[str] = []
    while len(ordered) < len(bones):
        ready = [b.name for b in bones if b.name not in ordered and above.get(b.name, "") in ("", *ordered)]
        ordered += ready or [b.name for b in bones if b.name not in ordered]
    return ordered, [ordered.index(above[name]) if name in above else -1 for name in ordered]


@dataclass
class _Control:
    """A bone that is keyed: name; bone: which of the skeleton it moves (index); carrier: the control (index) or bone of
    the skeleton (index) above, -1 for none; trunk: it is one of those that the spine's tweaks stand on; tweak: those.
    """

    name: str
    bone: int
    above: tuple[str, int] = ("", -1)
    trunk: bool = False
    tweak: bool = False


def controls_of(target: bpy.types.Object, names: list[str]) -> list[_Control]:
    """The FK controls, parents first, of a generated rig whose skeleton has these names."""
    bones = target.data.bones
    found: list[_Control] = []
    for i, name in enumerate(names):
        plain = name.removeprefix(SKELETON)
        base, _, rest = plain.partition(".")
        side = f".{rest}" if rest else ""
        if f"{base}_fk{side}" in bones:
            trunk = f"tweak_{plain}" in bones
            found.append(_Control(f"{base}_fk{side}", i, trunk=trunk))
            if trunk:
                found.append(_Control(f"tweak_{plain}", i, tweak=True))
        elif plain in bones:
            found.append(_Control(plain, i))
    spine = [c.bone for c in found if c.trunk]
    if "torso" in bones and spine:
        found.append(_Control("torso", spine[0], trunk=True))
    for name in ("neck", "head"):
        chain = [i for i, n in enumerate(names) if name in bones and _moves(bones[n], bones[name])]
        if chain and all(c.bone != chain[0] for c in found):
            found.append(_Control(name, chain[0]))
    found.sort(key=lambda c: len(bones[c.name].parent_recursive))
    index = {c.name: k for k, c in enumerate(found)}
    for control in found:
        for parent in bones[control.name].parent_recursive:
            like = parent.name.replace(DEFORMING, SKELETON, 1)
            if parent.name in index:
                control.above = ("control", index[parent.name])
                break
            if like in names:
                control.above = ("bone", names.index(like))
                break
    return found


def _moves(bone: bpy.types.Bone, control: bpy.types.Bone) -> bool:
    """Whether a control stands where a bone of the skeleton does."""
    return (bone.head_local - control.head_local).length < 1e-4 and (
        bone.tail_local - control.tail_local
    ).length < 0.5 * bone.length


def set_to_fk(target: bpy.types.Object) -> None:
    """Limbs follow their FK controls; neck and head turn with the chest, as FK does."""
    for bone in target.pose.bones:
        for name, value in ((FK_SWITCH, 1.0), *((name, 1.0) for name in FOLLOW)):
            if name in bone:
                bone[name] = value


# -- keys ----------------------------------------------------------------------------------------------------------


def key(
    target: bpy.types.Object,
    names: list[str],
    rest: Rest,
    posed: Posed,
    frames: np.ndarray,
    settings: keys.KeySettings,
    title: str,
    seen: np.ndarray | None = None,
) -> bpy.types.Action:
    """Keys on the controls that bring the skeleton's bones `names` (B) to posed (F frames), both in the world.

    rest: where these bones are in rest.  seen (B,): bones that were never seen get no keys on their controls.
    """
    set_to_fk(target)
    for bone in target.pose.bones:
        bone.matrix_basis.identity()
    size = float(np.mean(target.matrix_world.to_scale()))
    place = np.linalg.inv(np.array(target.matrix_world, np.float64))
    wanted = np.zeros((*posed.heads.shape[:2], 4, 4))
    wanted[..., :3, :3] = place[:3, :3] @ (posed.linear @ rest.axes) * size
    wanted[..., :3, 3] = posed.heads @ place[:3, :3].T + place[:3, 3]
    wanted[..., 3, 3] = 1
    controls = controls_of(target, names)
    basis = solve(target, names, controls, wanted)
    rotations = continuous(quaternion(basis[..., :3, :3]))
    shifts = basis[..., :3, 3].copy()
    shifts[:, np.abs(shifts).max((0, 2)) < keys.STILL] = 0
    shown = None if seen is None else np.asarray(seen)[[control.bone for control in controls]]
    return keys.write(target, [c.name for c in controls], rotations, shifts, frames, settings, shown, title)


def solve(target: bpy.types.Object, names: list[str], controls: list[_Control], wanted: np.ndarray) -> np.ndarray:
    """Channels (F, C, 4, 4) of the controls that bring the skeleton's bones to wanted (F, B, 4, 4), armature space."""
    frames = len(wanted)
    basis = np.tile(np.eye(4), (frames, len(controls), 1, 1))
    with _evaluating(target, [*names, *(c.name for c in controls)], [c.name for c in controls]) as evaluate:
        for turn in range(PASSES):
            stand = np.array([evaluate(basis[f]) for f in range(frames)])
            bones, now = stand[:, : len(names)], stand[:, len(names) :]
            change = wanted @ np.linalg.inv(bones)
            goal = np.stack([change[:, c.bone] @ now[:, k] for k, c in enumerate(controls)], 1)
            fixed = turn >= TRUNK_PASSES
            moved = np.tile(np.eye(4), (frames, len(controls), 1, 1))  # how far each control goes in this pass
            for k, control in enumerate(controls):
                kind, q = control.above
                carried = moved[:, q] if kind == "control" else change[:, q] if kind == "bone" else np.eye(4)
                if control.trunk and fixed or control.tweak and not fixed:
                    moved[:, k] = carried
                    continue
                parent = carried @ now[:, k] @ np.linalg.inv(basis[:, k])
                local = np.linalg.inv(parent) @ goal[:, k]
                local[..., :3, :3] = nearest_rotation(local[..., :3, :3])
                if control.trunk and control.name != "torso":
                    local[..., :3, 3] = 0  # turns only; what is missing is the tweaks'
                basis[:, k] = local
                moved[:, k] = goal[:, k] @ np.linalg.inv(now[:, k])
    return basis


@contextmanager
def _evaluating(target: bpy.types.Object, watched: list[str], moved: list[str]) -> Iterator[Evaluate]:
    """A function: channels (C, 4, 4) of bones `moved` -> matrices (n, 4, 4) of bones `watched`, armature space."""
    animation = target.animation_data
    action = animation.action if animation is not None else None
    if animation is not None:
        animation.action = None
    bones = target.pose.bones
    at = [bones.find(name) for name in watched]
    flat = np.empty(len(bones) * 16, np.float32)
    for name in moved:
        bones[name].rotation_mode = "QUATERNION"

    try:
        with studio(bpy.context.scene, "MeshPose controls", (1, 1)) as room:  # nothing but the rig is evaluated there
            room.scene.collection.objects.link(target)
            layer = room.scene.view_layers[0]

            def evaluate(basis: np.ndarray) -> np.ndarray:
                for name, matrix in zip(moved, basis.tolist()):
                    bones[name].matrix_basis = Matrix(matrix)
                layer.update()
                target.evaluated_get(layer.depsgraph).pose.bones.foreach_get("matrix", flat)
                result: np.ndarray = flat.reshape(-1, 4, 4)[at].swapaxes(-1, -2).astype(np.float64)
                return result

            yield evaluate
            room.scene.collection.objects.unlink(target)
    finally:
        if animation is not None and action is not None:
            animation.action = action
