# SPDX-License-Identifier: Apache-2.0
"""Keys: one a frame or within a bound, as Blender evaluates them; quick; one action a person; unseen bones are left."""

from __future__ import annotations

import time

import bpy
import numpy as np
import pytest

from meshpose.errors import InputError
from meshpose_blender import compat, keys, reduction
from meshpose_blender.armature import continuous

FRAMES = np.arange(1, 121)


def walk(count: int, bones: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Smooth turns (F, B, 4) with a little noise, and shifts (F, B, 3) of the first bone."""
    random = np.random.default_rng(seed)
    time_ = np.arange(count)[:, None, None] / 25
    size, rate, phase = (random.uniform(low, high, (1, bones, 3)) for low, high in ((0.1, 0.5), (1, 5), (0, 6)))
    turn = size * np.sin(rate * time_ + phase) + random.normal(0, 5e-4, (count, bones, 3))
    half = np.linalg.norm(turn, axis=-1, keepdims=True) / 2
    rotations = np.concatenate([np.cos(half), turn / 2 * np.sinc(half / np.pi)], -1)
    shifts = np.zeros((count, bones, 3))
    shifts[:, 0] = np.concatenate([time_[:, 0], np.sin(2 * time_[:, 0]), 0.05 * np.sin(9 * time_[:, 0])], 1)
    return continuous(rotations), shifts


def new_bones(count: int, chain: bool = False) -> bpy.types.Object:
    """Bones side by side, a metre long; or each on the one before, 20 cm long."""
    bpy.ops.wm.read_factory_settings(use_empty=True)
    data = bpy.data.armatures.new("bones")
    target = bpy.data.objects.new("bones", data)
    bpy.context.scene.collection.objects.link(target)
    bpy.context.view_layer.objects.active = target
    bpy.ops.object.mode_set(mode="EDIT")
    for i in range(count):
        bone = data.edit_bones.new(f"bone{i}")
        bone.head, bone.tail = ((0, 0, 0.2 * i), (0, 0, 0.2 * i + 0.2)) if chain else ((i, 0, 0), (i, 0, 1))
        if chain and i:
            bone.parent = data.edit_bones[i - 1]
    bpy.ops.object.mode_set(mode="OBJECT")
    return target


def names(count: int) -> list[str]:
    return [f"bone{i}" for i in range(count)]


def played(target: bpy.types.Object, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What Blender makes of the keys: unit quaternions (F, B, 4) and locations (F, B, 3)."""
    turns, places = [], []
    for frame in frames:
        bpy.context.scene.frame_set(int(frame))
        bones = target.evaluated_get(bpy.context.evaluated_depsgraph_get()).pose.bones
        turns.append(np.array([bone.rotation_quaternion for bone in bones]))
        places.append(np.array([bone.location for bone in bones]))
    found = np.array(turns)
    return found / np.linalg.norm(found, axis=-1, keepdims=True), np.array(places)


def degrees_apart(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.degrees(4 * np.arcsin(np.minimum(np.linalg.norm(a - b, axis=-1) / 2, 1)))


def test_a_key_a_frame_is_exact() -> None:
    target = new_bones(3)
    rotations, shifts = walk(len(FRAMES), 3)
    action = keys.write(target, names(3), rotations, shifts, FRAMES)
    assert action.name == "bones" and target.animation_data.action == action
    turns, places = played(target, FRAMES[::7])
    assert degrees_apart(turns, rotations[::7]).max() < 0.01 and np.abs(places - shifts[::7]).max() < 1e-5
    curves = compat.action_curves(target)
    assert len(curves) == 3 * 4 + 3 and all(len(curve.keyframe_points) == len(FRAMES) for curve in curves)


@pytest.mark.parametrize(("degrees", "millimetres"), [(0.5, 1.0), (2.0, 10.0)])
def test_reduced_keys_keep_the_bound(degrees: float, millimetres: float) -> None:
    """Checked on every frame, in Blender; and they are few."""
    target = new_bones(4)
    rotations, shifts = walk(len(FRAMES), 4)
    keys.write(target, names(4), rotations, shifts, FRAMES, keys.KeySettings(True, degrees, millimetres))
    turns, places = played(target, FRAMES)
    off, away = degrees_apart(turns, rotations), 1000 * np.linalg.norm(places - shifts, axis=-1)
    curves = compat.action_curves(target)
    share = np.mean([len(curve.keyframe_points) for curve in curves]) / len(FRAMES)
    print(f"within {degrees} degrees, {millimetres} mm: worst {off.max():.3f}, {away.max():.3f}; keys {share:.1%}")
    assert off.max() < 1.02 * degrees + 1e-3 and away.max() < 1.02 * millimetres + 1e-3
    assert share < (0.45 if degrees < 1 else 0.25)
    for curve in curves:  # clean: a bone's components have the same frames, handles are in line
        point = curve.keyframe_points[1]
        left, key, right = (np.array(p) for p in (point.handle_left, point.co, point.handle_right))
        assert point.interpolation == "BEZIER" and point.handle_left_type == "ALIGNED"
        slopes = (key - left)[1] / (key - left)[0], (right - key)[1] / (right - key)[0]
        assert slopes[0] == pytest.approx(slopes[1], abs=1e-3)
    frames_of = [tuple(p.co[0] for p in curve.keyframe_points) for curve in curves if "rotation" in curve.data_path]
    assert len(set(frames_of)) == 4


def test_the_end_of_a_chain_keeps_the_bound() -> None:
    """Ten bones of 20 cm on one another: a degree at the first is 35 mm at the last one's tail. As Blender plays it."""
    target = new_bones(10, chain=True)
    rotations, shifts = walk(len(FRAMES), 10, seed=3)
    bones = target.pose.bones

    def tails() -> np.ndarray:
        places = []
        for frame in FRAMES:
            bpy.context.scene.frame_set(int(frame))
            bpy.context.view_layer.update()
            places.append([[*bone.tail] for bone in bones])
        return np.array(places)

    keys.write(target, names(10), rotations, shifts, FRAMES)
    true = tails()
    target.animation_data_clear()
    keys.write(target, names(10), rotations, shifts, FRAMES, keys.KeySettings(True, 2.0, 8.0))
    away = 1000 * np.linalg.norm(tails() - true, axis=-1)
    curves = compat.action_curves(target)
    share = np.mean([len(curve.keyframe_points) for curve in curves]) / len(FRAMES)
    free = [reduction.reduced(FRAMES.astype(float), rotations[:, b], reduction.turned_by(2.0)) for b in range(10)]
    print(f"tails within {away.max():.2f} of 8 mm; keys {share:.1%}, each bone for itself {len(free[0][0]) / 120:.1%}")
    assert away.max() < 8.05, "mm"
    assert share < 0.6


def test_pieces_join_smoothly_and_do_not_take_longer() -> None:
    """A long clip is reduced in pieces: as many keys a frame, no kink where they meet, and no more work a frame."""
    rotations, _ = walk(6000, 1)
    found, spent = [], []
    for count in (1000, 6000):
        start = time.process_time()
        found.append(reduction.reduced(np.arange(float(count)), rotations[:count, 0], reduction.turned_by(1.0)))
        spent.append((time.process_time() - start) / count)
    shares = [len(kept) / count for (kept, _), count in zip(found, (1000, 6000), strict=True)]
    print(f"keys {shares[0]:.1%}, {shares[1]:.1%}; {1e6 * spent[0]:.0f}, {1e6 * spent[1]:.0f} us a frame")
    kept, slopes = found[1]
    assert len(np.unique(kept)) == len(kept) and kept[0] == 0 and kept[-1] == 5999 and len(slopes) == len(kept)
    played = reduction.hermite(np.arange(6000.0), kept.astype(float), rotations[kept, 0], slopes)
    assert degrees_apart(played / np.linalg.norm(played, axis=1, keepdims=True), rotations[:, 0]).max() <= 1.0
    assert shares[1] < 1.15 * shares[0] and spent[1] < 2 * spent[0]


def test_a_tighter_bound_needs_more_keys() -> None:
    rotations, _ = walk(400, 1)
    counts = []
    for degrees in (0.25, 1.0, 4.0):
        kept, slopes = reduction.reduced(np.arange(400.0), rotations[:, 0], reduction.turned_by(degrees))
        found = reduction.hermite(np.arange(400.0), kept.astype(float), rotations[kept, 0], slopes)
        found /= np.linalg.norm(found, axis=1, keepdims=True)
        assert degrees_apart(found, rotations[:, 0]).max() <= degrees
        counts.append(len(kept))
    print(counts)
    assert counts[0] > counts[1] > counts[2] >= 2


def test_curves_do_not_swing_in_a_gap() -> None:
    frames = np.concatenate([np.arange(0, 50.0), np.arange(150, 200.0)])
    values = np.stack([np.sin(frames / 6), 0 * frames, 0 * frames], 1)
    kept, slopes = reduction.reduced(frames, values, reduction.moved_by(100.0))
    assert {49, 50} <= set(kept.tolist())
    between = reduction.hermite(np.arange(50, 150.0), frames[kept], values[kept], slopes)
    assert np.abs(between).max() < 1.5


@pytest.mark.parametrize("count", [1, 2])
def test_very_short_clips(count: int) -> None:
    target = new_bones(2)
    rotations, shifts = walk(2, 2)
    keys.write(target, names(2), rotations[:count], shifts[:count], FRAMES[:count], keys.KeySettings(True))
    turns, _ = played(target, FRAMES[:count])
    assert degrees_apart(turns, rotations[:count]).max() < 0.01


def test_unseen_bones_are_keyed_only_when_asked() -> None:
    rotations, shifts = walk(len(FRAMES), 3)
    seen = np.array([True, False, True])
    for settings, wanted in (keys.EVERY_FRAME, {"bone0", "bone2"}), (keys.KeySettings(unseen=True), set(names(3))):
        target = new_bones(3)
        keys.write(target, names(3), rotations, shifts, FRAMES, settings, seen)
        assert {curve.data_path.split('"')[1] for curve in compat.action_curves(target)} == wanted
        assert degrees_apart(np.array(target.pose.bones["bone1"].rotation_quaternion), rotations[0, 1]) < 0.01


def test_a_thousand_frames_of_a_full_rig_take_less_than_two_seconds() -> None:
    """104 bones that all turn, the first one moves: 419 curves of 1,000 keys.  Processor time."""
    target = new_bones(104)
    rotations, shifts = walk(1000, 104)
    frames = np.arange(1, 1001)
    start = time.process_time()
    keys.write(target, names(104), rotations, shifts, frames)
    spent = time.process_time() - start
    print(f"{spent:.2f} s")
    assert len(compat.action_curves(target)) == 4 * 104 + 3 and spent < 2
    start = time.process_time()
    keys.write(target, names(104), rotations, shifts, frames, keys.KeySettings(True))
    share = np.mean([len(curve.keyframe_points) for curve in compat.action_curves(target)]) / 1000
    print(f"reduced: {time.process_time() - start:.2f} s, {share:.1%} of the keys")


def test_bounds_must_be_bounds() -> None:
    for degrees, millimetres in (0.0, 1.0), (1.0, float("nan")):
        with pytest.raises(InputError, match="above 0"):
            keys.KeySettings(True, degrees, millimetres)
