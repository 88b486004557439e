# SPDX-License-Identifier: GPL-3.0-or-later
"""Keys of an armature: one a frame, or as few as a bound of error allows, written by arrays.

    write(bones, names, rotations, shifts, frames)                                    # a key a frame, linear
    write(bones, names, rotations, shifts, frames, KeySettings(True, 1.0, 3.0))       # few keys, smooth curves

A reduced curve is a chain of cubics through kept keys.  Handles stand at a third of the way to the next key, so that
time runs evenly and the curve between two keys is Hermite's cubic; slopes are those that fit the dropped frames best.
All components of one bone's turn keep the same frames, and what is compared is the turn itself, not its components.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import bpy
import numpy as np

from meshpose.errors import InputError

from . import compat

STILL = 1e-5
"""Quaternion components, or metres, that change less over the whole clip are not a movement; they get no keys."""
TURN_GRID = 1 / 32768
"""Steps of a keyed quaternion's components: no turn changes by over 0.004 degrees, and what is saved compresses."""
SWEEPS = 40
"""Of Jacobi's method for the slopes; each sweep leaves three quarters of the error, at worst."""
GAP = 3.0
"""Times the usual step between frames from which on a step is a gap in the clip."""
DEGREES, MILLIMETRES = 1.0, 3.0


@dataclass(frozen=True)
class KeySettings:
    """reduce: as few keys as stay within `degrees` of each bone's turn and `millimetres` of its place on every frame,
    instead of one key a frame; unseen: also bones that were never seen in the clip; only_turns: nothing but the hips
    moves, which rigs of other programs buy with joints that stray by millimetres to centimetres.
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
    for b, bone_name in enumerate(names):
        bone = target.pose.bones[bone_name]
        bone.rotation_mode = "QUATERNION"
        bone.rotation_quaternion, bone.location = rotations[0, b], shifts[0, b]
        if turning[b]:
            path = bone.path_from_id("rotation_quaternion")
            _curves(action, path, frames, rotations[:, b], bone_name, settings, _turned_by(settings.degrees))
        if moving[b]:
            metre = 1000 / settings.millimetres
            path = bone.path_from_id("location")
            _curves(action, path, frames, shifts[:, b], bone_name, settings, _moved_by(metre))
    return action.action


def _curves(
    action: compat.Action,
    path: str,
    frames: np.ndarray,
    values: np.ndarray,
    group: str,
    settings: KeySettings,
    error: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> None:
    values = np.asarray(values, np.float64)
    slopes = None
    if settings.reduce:
        kept, slopes = reduced(frames, values, error)
        frames, values = frames[kept], values[kept]
    for axis in range(values.shape[1]):
        slope = None if slopes is None else slopes[:, axis]
        action.curve(path, axis, frames, values[:, axis], group, slope)


def _turned_by(degrees: float) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Angle between quaternions (n, 4), the second of any length, in units of the bound."""

    def error(true: np.ndarray, found: np.ndarray) -> np.ndarray:
        unit = found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)
        chord = np.linalg.norm(unit - true, axis=1)
        return np.degrees(4 * np.arcsin(np.minimum(chord / 2, 1))) / degrees

    return error


def _moved_by(units: float) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    return lambda true, found: np.linalg.norm(found - true, axis=1) * units


def reduced(
    frames: np.ndarray, values: np.ndarray, error: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Which of values (F, C) on rising frames (F,) to keep (K,), and the slopes (K, C) per frame there.

    error(true, found) (F,): 1 is the bound.  Begins with both ends and adds the worst frame between each two keys.
    """
    count = len(frames)
    if count < 2:
        return np.arange(count), np.zeros((count, values.shape[1]))
    gaps = np.flatnonzero(np.diff(frames) > GAP * np.median(np.diff(frames)))
    edges = np.concatenate([gaps, gaps + 1])
    kept = np.unique(np.concatenate([[0, count - 1], edges]))
    natural = np.gradient(values, frames, axis=0)
    while True:
        slopes = best_slopes(frames, values, kept, natural[kept])
        slopes[np.isin(kept, edges)] = 0  # what nobody saw must not swing
        off = error(values, hermite(frames, frames[kept], values[kept], slopes))
        off[kept] = 0
        worst = np.maximum.reduceat(off, kept[:-1])
        if not (worst > 1).any():
            return kept, slopes
        between = np.searchsorted(kept[1:], np.arange(count), side="right").clip(max=len(kept) - 2)
        is_worst = (off > 1) & (off >= worst[between])
        _, first = np.unique(between[is_worst], return_index=True)
        kept = np.unique(np.concatenate([kept, np.flatnonzero(is_worst)[first]]))


def _basis(frames: np.ndarray, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Segment (F,) of each frame, its length (F,), and Hermite's four weights (F, 1)."""
    segment = np.searchsorted(keys, frames, side="right").clip(1, len(keys) - 1) - 1
    length = keys[segment + 1] - keys[segment]
    u = ((frames - keys[segment]) / length)[:, None]
    return segment, length, [(1 + 2 * u) * (1 - u) ** 2, u * (1 - u) ** 2, u**2 * (3 - 2 * u), u**2 * (u - 1)]


def hermite(frames: np.ndarray, keys: np.ndarray, values: np.ndarray, slopes: np.ndarray) -> np.ndarray:
    """The chain of cubics through values (K, C) with slopes (K, C) at keys (K,), on frames (F,) -> (F, C)."""
    segment, length, (v0, m0, v1, m1) = _basis(frames, keys)
    bent = m0 * slopes[segment] + m1 * slopes[segment + 1]
    result: np.ndarray = v0 * values[segment] + v1 * values[segment + 1] + bent * length[:, None]
    return result


def best_slopes(frames: np.ndarray, values: np.ndarray, kept: np.ndarray, natural: np.ndarray) -> np.ndarray:
    """Slopes (K, C) at the kept frames that bring the chain nearest to all values (F, C), by least squares.

    Each slope meets its neighbours only: three diagonals, solved by sweeps.  natural (K, C): where nothing was dropped.
    """
    keys = frames[kept]
    segment, length, (v0, m0, v1, m1) = _basis(frames, keys)
    rest = values - v0 * values[kept][segment] - v1 * values[kept][segment + 1]
    here, there = m0[:, 0] * length, m1[:, 0] * length
    count = len(keys)
    span = np.diff(keys)
    ridge = 1e-4 * np.concatenate([span, [0]]) ** 2 + 1e-4 * np.concatenate([[0], span]) ** 2
    diagonal = ridge + np.bincount(segment, here**2, count) + np.bincount(segment + 1, there**2, count)
    beside = np.bincount(segment, here * there, count)[:-1, None]
    right = natural * ridge[:, None]
    for c in range(values.shape[1]):
        right[:, c] += np.bincount(segment, here * rest[:, c], count)
        right[:, c] += np.bincount(segment + 1, there * rest[:, c], count)
    slopes = natural.copy()
    for _ in range(SWEEPS):
        pull = right.copy()
        pull[:-1] -= beside * slopes[1:]
        pull[1:] -= beside * slopes[:-1]
        slopes = pull / diagonal[:, None]
    return slopes
