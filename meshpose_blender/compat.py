# SPDX-License-Identifier: GPL-3.0-or-later
"""Every difference between Blender 4.2 and 5.2 that touches us, and nothing else.

Functions ask Blender what it has (`hasattr`), not which version it is, where they can.  When the oldest supported
version moves, this is the file that shrinks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import bpy
import numpy as np

LINEAR, BEZIER = 1, 2
"""`Keyframe.interpolation` as `foreach_set` wants it: its number (0 is 'CONSTANT')."""
ALIGNED = 3
"""`Keyframe.handle_left_type`, the same."""


class Action:
    """A new action on `owner`, ready to take curves: layered with a slot (4.4 and later) or flat (4.2, 4.3).

    `owner` is any data-block of type Object; its earlier action, if any, is replaced as the active one, not changed.
    use: False makes an action for it without moving it.
    """

    def __init__(self, owner: bpy.types.Object, name: str, use: bool = True) -> None:
        self.action = bpy.data.actions.new(name)
        animation = owner.animation_data_create()
        if hasattr(self.action, "slots"):
            slot = self.action.slots.new("OBJECT", owner.name)
            strip = self.action.layers.new("Layer").strips.new(type="KEYFRAME")
            self._holder = strip.channelbag(slot, ensure=True)
            if use:
                animation.action = self.action
                animation.action_slot = slot  # a slot is not chosen by itself, and without one nothing moves
        else:
            self._holder = self.action
            if use:
                animation.action = self.action

    def curve(
        self,
        path: str,
        index: int,
        frames: np.ndarray,
        values: np.ndarray,
        group: str = "",
        slopes: np.ndarray | None = None,
    ) -> None:
        """Add one curve: `frames` (n,) in scene frames, `values` (n,), linear between them or, with `slopes` (n,) per
        frame, smooth with aligned handles.

        `group` is the heading under which lists show the curve; given or not for the whole action.
        """
        curve = self._holder.fcurves.new(path, index=index)
        if group:
            curve.group = self._holder.groups.get(group) or self._holder.groups.new(group)
        count = len(frames)
        points = np.empty((count, 2), np.float32)
        points[:, 0], points[:, 1] = frames, values
        curve.keyframe_points.add(count)
        curve.keyframe_points.foreach_set("co", points.ravel())
        interpolation = LINEAR if slopes is None else BEZIER
        curve.keyframe_points.foreach_set("interpolation", np.full(count, interpolation, np.int32))
        if slopes is not None:
            thirds = np.diff(frames) / 3 if count > 1 else np.ones(1)  # so that time runs evenly between two keys
            reaches = {"left": -np.append(thirds[:1], thirds), "right": np.append(thirds, thirds[-1:])}
            for side, reach in reaches.items():
                points[:, 0], points[:, 1] = frames + reach[:count], values + reach[:count] * slopes
                curve.keyframe_points.foreach_set(f"handle_{side}_type", np.full(count, ALIGNED, np.int32))
                curve.keyframe_points.foreach_set(f"handle_{side}", points.ravel())
        curve.update()


def action_curves(owner: bpy.types.Object) -> Sequence[bpy.types.FCurve]:
    """The curves that move `owner` now; an empty list when it has no action."""
    animation = owner.animation_data
    if animation is None or animation.action is None:
        return []
    if not hasattr(animation.action, "slots"):
        return animation.action.fcurves
    for layer in animation.action.layers:
        for strip in layer.strips:
            bag = strip.channelbag(animation.action_slot)
            if bag is not None:
                return bag.fcurves
    return []


def set_modifier_input(modifier: bpy.types.NodesModifier, identifier: str, value: object) -> None:
    """Set an input of a geometry-nodes modifier by its socket's identifier (a name is translated)."""
    if hasattr(modifier, "properties"):
        getattr(modifier.properties.inputs, identifier).value = value
    else:
        modifier[identifier] = value
    modifier.id_data.update_tag()  # a value set from Python is not noticed otherwise


def modifier_input(modifier: bpy.types.NodesModifier, identifier: str) -> object:
    """The value of a geometry-nodes modifier's input."""
    if hasattr(modifier, "properties"):
        return getattr(modifier.properties.inputs, identifier).value
    return modifier[identifier]


def strips(scene: bpy.types.Scene) -> bpy.types.bpy_prop_collection:
    """The strips of the scene's sequencer (`sequences` before 4.4), made on first use."""
    editor = scene.sequence_editor_create()
    return editor.strips if hasattr(editor, "strips") else editor.sequences


def has_strips(scene: bpy.types.Scene) -> bool:
    """Whether the scene's sequencer holds anything; does not create it."""
    return scene.sequence_editor is not None and len(strips(scene)) > 0


def nodes_of(material: bpy.types.Material) -> bpy.types.NodeTree:
    """The node tree of a new material, emptied (5.0 and later make it at once, earlier ones on `use_nodes`)."""
    if material.node_tree is None:
        material.use_nodes = True
    material.node_tree.nodes.clear()
    return material.node_tree


def turns_footage() -> bool:
    """Whether clips with rotation metadata stand upright (4.4 and later); nothing but the version tells."""
    return bpy.app.version >= (4, 4, 0)


def path_options() -> set[str]:
    """Options of a path property that may begin with `//` (4.5 and later want it, earlier ones refuse it)."""
    return {"PATH_SUPPORTS_BLEND_RELATIVE"} if bpy.app.version >= (4, 5, 0) else set()


def known_options(operator: Any, wanted: Mapping[str, object]) -> dict[str, object] | None:
    """Those of `wanted` that this Blender's operator has; None where there is no such operator here.

    Exporters gain options from version to version; builds lack whole formats.
    """
    try:
        known = operator.get_rna_type().properties.keys()
    except (AttributeError, KeyError):
        return None
    return {name: value for name, value in wanted.items() if name in known}


def write_video(render: bpy.types.RenderSettings, path: Path) -> None:
    """Let a render write an H.264 video to exactly `path` (5.0 and later want the kind of media first)."""
    image = render.image_settings
    if hasattr(image, "media_type"):
        image.media_type = "VIDEO"
    image.file_format = "FFMPEG"
    render.ffmpeg.format, render.ffmpeg.codec, render.ffmpeg.audio_codec = "MPEG4", "H264", "NONE"
    render.ffmpeg.constant_rate_factor = "HIGH"
    render.filepath, render.use_file_extension = str(path), False  # no frame numbers in its name
