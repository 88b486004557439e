# SPDX-License-Identifier: GPL-3.0-or-later
"""A take in the place of what the scene holds of it already, with the looks that it had."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bpy

from . import compat, looks, people
from .armature import RIG
from .playback import MODES, SETTINGS
from .scene import PERSON, SOUND, BuiltTake, build_scene, takes

KEPT = tuple(name for name in SETTINGS if name != "Camera")


@dataclass(frozen=True)
class Looks:
    """How a take looked: values of its settings, its legend; by person
    what of the collection is hidden (viewport, render), and by kind of object what of the first is (eye, render)."""

    values: dict[str, Any]
    legend: bool
    hidden: dict[int, tuple[bool, bool]]
    shown: dict[str, tuple[bool, bool]]


def build_or_replace(scene: bpy.types.Scene, take: Path, replace: bool, **how: Any) -> BuiltTake:
    """Build the Take at `take` as `build_scene` does; `replace`: what stands of the same file in the scene goes, its
    looks stay.

    The new one is built first: a Take that cannot be used leaves everything as it is.
    """
    same = [built for built in takes(scene) if _is_at(built, take)] if replace else []
    kept = looks_of(same[0]) if same else None
    how.setdefault("rig", _rig_of(same))
    new = build_scene(take, **how)
    settings = getattr(scene, "meshpose_looks", None)  # scripts can use this without the panel
    for old in same:
        remove(scene, old)
    if kept is not None:
        put_looks(new, kept)
        _name_as_before(new, take)
    elif settings is not None and settings.legend:
        looks.set_legend(new, True)
    if settings is not None and settings.ghosts:
        looks.set_ghosts(new, settings.ghost_every, settings.ghosts_before, settings.ghosts_after)
    return new


def _rig_of(same: list[BuiltTake]) -> str:
    rigs = [person.armature for built in same for person in built.people if person.armature is not None]
    return str(rigs[0].get(RIG, "default")) if rigs else "default"


def _is_at(built: BuiltTake, take: Path) -> bool:
    path = people.take_path(built)
    return os.path.abspath(path) == os.path.abspath(take)


def _name_as_before(new: BuiltTake, take: Path) -> None:
    """While old and new stood side by side, the new names had numbers."""
    new.collection.name = take.stem


def looks_of(built: BuiltTake) -> Looks:
    """How the take looks now."""
    settings = looks.settings_in(built)
    values: dict[str, Any] = {}
    if settings is not None:
        for name in KEPT:
            value = looks.socket(settings, name).default_value
            values[name] = tuple(value) if hasattr(value, "__len__") else value
        if MODES[values["Mode"]] != "depth":  # new depths, new scale; unless somebody looks at it
            values.pop("Near"), values.pop("Far")
    people_of = [person.collection for person in built.people]
    hidden = {int(c[PERSON]): (c.hide_viewport, c.hide_render) for c in people_of}
    firsts = {which: looks.targets(built, which)[:1] for which in ("mesh", "body")}
    shown = {which: (target.hide_get(), target.hide_render) for which, found in firsts.items() for target in found}
    return Looks(values, looks.legend_of(built) is not None, hidden, shown)


def put_looks(built: BuiltTake, kept: Looks) -> None:
    """Let a take look as another did."""
    settings = looks.settings_in(built)
    if settings is not None:
        for name, value in kept.values.items():
            looks.put(settings, name, value)
    if kept.legend:
        looks.set_legend(built, True)
    for person in built.people:
        if person.id in kept.hidden:
            person.collection.hide_viewport, person.collection.hide_render = kept.hidden[person.id]
    for which, (eye, render) in kept.shown.items():
        for target in looks.targets(built, which):
            target.hide_set(eye)
            target.hide_render = render


def remove(scene: bpy.types.Scene, built: BuiltTake) -> None:
    """Take a take out of the file: its objects and what only they used, its footage and sound."""
    camera = built.camera
    footage = [b.clip or b.image for b in camera.data.background_images] if camera is not None else []
    sound = built.collection.get(SOUND)
    images = [looks.played(person.mesh)[0] for person in built.people if looks.settings_of(person.mesh) is not None]
    collections = [built.collection, *built.collection.children_recursive]
    # What the user has put into our collections is his: it moves out of them.
    ours = {value for c in collections for value in c.values() if isinstance(value, bpy.types.Object)}
    actions = [o.animation_data.action for o in ours if o.animation_data is not None and o.animation_data.action]
    for target in set(built.collection.all_objects) - ours:
        if target.name not in scene.collection.objects:
            scene.collection.objects.link(target)
    for target in ours:
        looks.remove(target)
    for child in reversed(collections):
        bpy.data.collections.remove(child)
    if sound is not None and compat.has_strips(scene):
        strips = compat.strips(scene)
        for strip in [strip for strip in strips if strip.type == "SOUND" and strip.sound == sound]:
            strips.remove(strip)
    looks.remove_unused([block for block in (*footage, *images, *actions, sound) if block is not None])
