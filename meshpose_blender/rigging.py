# SPDX-License-Identifier: GPL-3.0-or-later
"""One person's rig in the scene: the armature of the chosen rig, keyed, and the body skinned to it.

rigged = rig_person("dancer person 1", body, motion, clock_rows, scene_frames, collection, RigChoice("mixamo"))
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import bpy
import numpy as np

from meshpose.body import Body
from meshpose.rigs import Posed, Rig

from . import armature, keys, rigify

if TYPE_CHECKING:
    from meshpose.motion import Motion
    from meshpose.rig import RigFit


@dataclass(frozen=True)
class RigChoice:
    """Which rig, and how it is keyed.  rig: a name of `meshpose.rigs.names()`."""

    rig: str = "default"
    keys: keys.KeySettings = field(default_factory=keys.KeySettings)


@dataclass(frozen=True)
class Rigged:
    """armature: what an animator keys; body: skinned to it, hidden; notes: what the user should know."""

    armature: bpy.types.Object
    body: bpy.types.Object
    notes: list[str] = field(default_factory=list)


def rig_person(
    name: str,
    body: Body,
    fit: RigFit | Motion,
    rows: np.ndarray,
    frames: np.ndarray,
    collection: bpy.types.Collection,
    choice: RigChoice,
    turn: np.ndarray | None = None,
    lift: float = 0.0,
) -> Rigged:
    """The armature `NAME rig` and the hidden `NAME body`, in `collection`; keys on scene frames (n,) with the fit's
    rows (n,).

    turn (3, 3) and lift (metres) bring the fit's frame to Blender's axes; none for a motion, which stands there.
    """
    rig = Rig.load(choice.rig)
    shape = body.shape(fit.phenotype)
    turn = np.eye(3) if turn is None else turn
    missing = rigify.missing() if rig.generator else ""
    if rig.generator and not missing:
        return _with_controls(name, body, fit, rows, frames, collection, choice, turn, lift)
    bones = armature.new_armature(f"{name} rig", body, shape, fit.scale, collection, rig)
    pose = armature.channels(bones, body, shape, fit, turn, lift, rig, choice.keys.only_turns)
    armature.animate(bones, pose, rows, frames, choice.keys, armature.bones_seen(rig, fit))
    armature.remember_contact(bones, fit, rows, frames)
    if rig.t_pose:
        armature.add_t_pose(bones, body, shape, rig)
    skinned = armature.skinned_body(f"{name} body", body, shape, fit.scale, bones, collection, rig)
    return Rigged(bones, skinned, [missing] if missing else [])


def _with_controls(
    name: str,
    body: Body,
    fit: RigFit | Motion,
    rows: np.ndarray,
    frames: np.ndarray,
    collection: bpy.types.Collection,
    choice: RigChoice,
    turn: np.ndarray,
    lift: float,
) -> Rigged:
    """The same on the control rig that Rigify generates."""
    rig = Rig.load(choice.rig)
    shape = body.shape(fit.phenotype)
    meta = armature.new_armature(f"{name} rig meta-rig", body, shape, fit.scale, collection, rig)
    controls = rigify.generate(meta, rig)
    built = armature.as_built(meta, rig.rest(body, shape))
    posed = armature.placed(built, body, shape, fit, turn, lift, rig, choice.keys.only_turns)
    skeleton = [rigify.SKELETON + bone for bone in rig.names]
    rest = armature.as_built(controls, replace(rig.rest(body, shape), names=skeleton))
    wanted = Posed(posed.linear[rows], posed.heads[rows])
    seen = armature.bones_seen(rig, fit)
    rigify.key(controls, skeleton, rest, wanted, frames, choice.keys, controls.name, seen)
    armature.remember_contact(controls, fit, rows, frames)
    groups = rigify.groups(rig, body)
    skinned = armature.skinned_body(f"{name} body", body, shape, fit.scale, controls, collection, rig, groups)
    rigify.discard(meta)
    return Rigged(controls, skinned)
