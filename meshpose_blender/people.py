# SPDX-License-Identifier: GPL-3.0-or-later
"""The people that stand in the scene: how surely each was seen, where least surely, which take is meant."""

from __future__ import annotations

from pathlib import Path

import bpy

from . import scene
from .confidence import CONFIDENCE, WORST
from .scene import BuiltPerson, BuiltTake


def active_take(context: bpy.types.Context) -> BuiltTake | None:
    """The take that the active object belongs to; else the one that came last."""
    found = scene.takes(context.scene)
    active = context.view_layer.objects.active if context.view_layer is not None else None
    for built in found:
        if active is not None and built.collection.all_objects.get(active.name) == active:
            return built
    return found[-1] if found else None


def can_write(operator: type[bpy.types.Operator], context: bpy.types.Context) -> bool:
    """For `poll`: whether there is a take in the scene and Blender does not render, with the reason where it does."""
    if bpy.app.is_job_running("RENDER"):
        operator.poll_message_set("Blender is rendering")
        return False
    return active_take(context) is not None


def take_path(built: BuiltTake) -> Path:
    """Where the Take's file lies (or lay)."""
    return Path(bpy.path.abspath(built.collection[scene.TAKE]))


def first_frame(built: BuiltTake) -> int:
    """Scene frame of the clip's first picture."""
    return int(built.collection.get(scene.START, 1))


def confidence(person: BuiltPerson) -> float | None:
    """0..1 over all frames; None where it was not kept (an older file)."""
    value = person.collection.get(CONFIDENCE)
    return None if value is None else float(value)


class MESHPOSE_OT_worst_frame(bpy.types.Operator):
    """Go to the frame on which least of this person was surely seen; again: to the next worst moment"""

    bl_idname = "meshpose.worst_frame"
    bl_label = "Go to the Worst Frame"
    bl_options = {"INTERNAL", "UNDO"}

    person: bpy.props.StringProperty()  # type: ignore[valid-type]

    def execute(self, context: bpy.types.Context) -> set[str]:
        """`person`: name of the collection, as long as it is drawn."""
        collection = bpy.data.collections.get(self.person)
        moments = [] if collection is None else list(collection.get(WORST, []))
        if not moments:
            self.report({"WARNING"}, "Its confidence is not kept here; Load Take builds it with it")
            return {"CANCELLED"}
        now = context.scene.frame_current
        at = (moments.index(now) + 1) % len(moments) if now in moments else 0
        context.scene.frame_set(int(moments[at]))
        return {"FINISHED"}


class MESHPOSE_OT_match_camera(bpy.types.Operator):
    """Render and look exactly as the footage was filmed: its size, rate, colours and camera become the scene's"""

    bl_idname = "meshpose.match_camera"
    bl_label = "Match the Footage"
    bl_options = {"REGISTER", "UNDO"}

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        """With a take in the scene whose camera is there."""
        built = active_take(context)
        return built is not None and built.camera is not None

    def execute(self, context: bpy.types.Context) -> set[str]:
        """The scene's format is that of the take's camera."""
        built = active_take(context)
        if built is None:
            return {"CANCELLED"}
        scene.match_footage(context.scene, built)
        return {"FINISHED"}


CLASSES = (MESHPOSE_OT_worst_frame, MESHPOSE_OT_match_camera)
