# SPDX-License-Identifier: GPL-3.0-or-later
"""Keys of an armature: one a frame, or as few as a bound of error allows, written by arrays.

    write(bones, names, rotations, shifts, frames)                                    # a key a frame, linear
    write(bones, names, rotations, shifts, frames, KeySettings(True, 1.0, 3.0))       # few keys, smooth curves

How keys are chosen stands in `reduction`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import bpy
import numpy as np

from meshpose.errors import InputError

from . import compat, reduction

STILL = 1e-5
"""Quaternion components, or metres, that change less over the whole clip are not a movement; they get no keys."""
TURN_GRID = 1 / 32768
"""Steps of a keyed quaternion's components: no turn changes by over 0.004 degrees, and what is saved compresses."""
DEGREES, MILLIMETRES = 1.0, 3.0


@dataclass(frozen=True)
class KeySettings:
    """reduce: as few keys as stay within `degrees` of each bone's turn and `millimetres` of where it ends on every
    frame, hands, feet and head too, instead of one key a frame; unseen: also bones that were never seen in the clip;
    only_turns: nothing but the hips moves, which rigs of other programs buy with joints that stray by millimetres to
    centimetres.
    """

    reduce: bool = False
    degrees: float = DEGREES
    millimetres: float = MILLIMETRES
    unseen: bool = False
    only_turns: bool = False

    def __post_init__(self) -> None:
        for value, unit in ((self.degrees, "degrees"), (self.millimetres, "mm")):
            if not (math.isfinite(value) and value > 0):
                raise InputError(f"keys within {value:g} {unit}: give a bound above 0")


EVERY_FRAME = KeySettings()


def write(
    target: bpy.types.Object,
    names: Sequence[str],
    rotations: np.ndarray,
    shifts: np.ndarray,
    frames: np.ndarray,
    settings: KeySettings = EVERY_FRAME,
    seen: np.ndarray | None = None,
    name: str = "",
) -> bpy.types.Action:
    """A new action for bones `names` (B) of `target`: rotations (F, B, 4) w x y z, neighbours in time near each other;
    shifts (F, B, 3) in Blender units, both in the bones' own axes; frames (F,) of the scene, rising.

    Bones that stand still are posed once and get no keys; the same for bones that were not seen (seen (B,) bool) unless
    the settings ask for them.  Returns the action, called `name` (default: as the armature).
    """
    action = compat.Action(target, name or target.name)
    frames = np.asarray(frames, np.float64)
    rotations = np.rint(np.asarray(rotations) / TURN_GRID) * TURN_GRID
    wanted = np.ones(len(names), bool) if seen is None or settings.unseen else np.asarray(seen, bool)
    turning = wanted & (np.ptp(rotations, 0).max(-1) > STILL)
    moving = wanted & (np.ptp(shifts, 0).max(-1) > STILL)
    chain, scale = _chain(target, names)
    channels = []
    for b, bone_name in enumerate(names):
        bone = target.pose.bones[bone_name]
        bone.rotation_mode = "QUATERNION"
        bone.rotation_quaternion, bone.location = rotations[0, b], shifts[0, b]
        if turning[b]:
            channels.append(reduction.Channel(b, "turn", rotations[:, b], reduction.turned_by(settings.degrees)))
        if moving[b]:
            bound = reduction.moved_by(scale / settings.millimetres)
            channels.append(reduction.Channel(b, "shift", np.asarray(shifts[:, b], np.float64), bound))
    curves: list[reduction.Curve | None] = [None] * len(channels)
    if settings.reduce:
        curves = [*reduction.reduce(frames, channels, chain, scale / settings.millimetres)]
    for channel, curve in zip(channels, curves, strict=True):
        bone = target.pose.bones[names[channel.bone]]
        path = bone.path_from_id("rotation_quaternion" if channel.kind == "turn" else "location")
        _write(action, path, frames, channel.values, bone.name, curve)
    return action.action


def _write(
    action: compat.Action,
    path: str,
    frames: np.ndarray,
    values: np.ndarray,
    group: str,
    curve: reduction.Curve | None,
) -> None:
    slopes = None
    if curve is not None:
        kept, slopes = curve
        frames, values = frames[kept], values[kept]
    for axis in range(values.shape[1]):
        slope = None if slopes is None else slopes[:, axis]
        action.curve(path, axis, frames, values[:, axis], group, slope)


def _chain(target: bpy.types.Object, names: Sequence[str]) -> tuple[reduction.Chain, float]:
    """How the target's bones hang on one another, and millimetres in the world to one of its units."""
    bones = sorted(target.data.bones, key=lambda bone: len(bone.parent_recursive))
    at = {bone.name: a for a, bone in enumerate(bones)}
    matrices = np.array([bone.matrix_local for bone in bones], np.float64)
    parents = np.array([at[bone.parent.name] if bone.parent else -1 for bone in bones])
    local = np.where((parents < 0)[:, None, None], matrices, np.linalg.inv(matrices[parents]) @ matrices)
    index = {name: b for b, name in enumerate(names)}
    channels = np.array([index.get(bone.name, -1) for bone in bones])
    lengths = np.array([bone.length for bone in bones])
    scale = 1000 * float(np.mean(target.matrix_world.to_scale()))
    return reduction.Chain(parents, local[:, :3, 3], local[:, :3, :3], lengths, channels), scale
