# SPDX-License-Identifier: GPL-3.0-or-later
"""One person's rig in the scene: the armature of the chosen rig, keyed, and the body skinned to it.

rigged = rig_person("dancer person 1", body, motion, clock_rows, scene_frames, collection, RigChoice("mixamo"))
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import bpy
import numpy as np

from meshpose.body import Body
from meshpose.rigs import Rig

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
    bones = armature.new_armature(f"{name} rig", body, shape, fit.scale, collection, rig)
    pose = armature.channels(bones, body, shape, fit, np.eye(3) if turn is None else turn, lift, rig)
    seen = armature.bones_seen(rig, fit)
    notes: list[str] = []
    if rig.generator:
        missing = rigify.missing()
        if not missing:
            controls = rigify.generate(bones, rig)
            skinned = armature.skinned_body(
                f"{name} body", body, shape, fit.scale, controls, collection, rig, rigify.groups(rig, body)
            )
            rigify.animate(controls, bones, pose, rows, frames, choice.keys, seen)
            rigify.discard(bones)
            return Rigged(controls, skinned, notes)
        notes.append(missing)
    armature.animate(bones, pose, rows, frames, choice.keys, seen)
    if rig.t_pose:
        armature.add_t_pose(bones, body, shape, rig)
    skinned = armature.skinned_body(f"{name} body", body, shape, fit.scale, bones, collection, rig)
    return Rigged(bones, skinned, notes)
