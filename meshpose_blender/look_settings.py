# SPDX-License-Identifier: GPL-3.0-or-later
"""The looks as the panel edits them.  What the .blend's own data says is read from there, never kept twice."""

from __future__ import annotations

import bpy

from . import looks, people
from .playback import MODES

MODE_ITEMS = (
    ("visibility", "Visibility", "Green: seen on this frame. Red: hidden or out of the picture, so guessed"),
    (
        "confidence",
        "Confidence over Time",
        "The same, as a mean over the frames around: red is what was guessed for long, and wants your eyes first",
    ),
    ("depth", "Depth", "How far from the camera: light is near, dark is far"),
    ("clay", "Clay", "One plain colour: the form alone, over the footage"),
)


def _mode(self: MeshPoseLooks) -> int:
    return MODES.index(looks.mode(people.active_take(bpy.context)))


def _set_mode(self: MeshPoseLooks, value: int) -> None:
    built = people.active_take(bpy.context)
    if built is not None:
        looks.set_mode(built, MODES[value])


def _xray(self: MeshPoseLooks) -> bool:
    return looks.xray(self.id_data)


def _set_xray(self: MeshPoseLooks, value: bool) -> None:
    looks.set_xray(self.id_data, people.active_take(bpy.context), value)


def _shown(which: str) -> bool:
    built = people.active_take(bpy.context)
    layer = bpy.context.view_layer
    return any(not t.hide_get(view_layer=layer) for t in looks.targets(built, which) if t.name in layer.objects)


def _show(which: str, value: bool) -> None:
    built = people.active_take(bpy.context)
    layer = bpy.context.view_layer
    for target in looks.targets(built, which):
        target.hide_render = not value
        if target.name in layer.objects:  # else it is in a collection that this view layer leaves out
            target.hide_set(not value, view_layer=layer)


def _mesh_shown(self: MeshPoseLooks) -> bool:
    return _shown("mesh")


def _show_mesh(self: MeshPoseLooks, value: bool) -> None:
    _show("mesh", value)


def _body_shown(self: MeshPoseLooks) -> bool:
    return _shown("body")


def _show_body(self: MeshPoseLooks, value: bool) -> None:
    _show("body", value)


def _legend_changed(self: MeshPoseLooks, context: bpy.types.Context) -> None:
    built = people.active_take(context)
    if built is not None:
        looks.set_legend(built, self.legend)


def _ghosts_changed(self: MeshPoseLooks, context: bpy.types.Context) -> None:
    built = people.active_take(context)
    if built is not None:
        counts = (self.ghosts_before, self.ghosts_after) if self.ghosts else (0, 0)
        looks.set_ghosts(built, self.ghost_every, *counts)


class MeshPoseLooks(bpy.types.PropertyGroup):
    """How the bodies look."""

    mode: bpy.props.EnumProperty(  # type: ignore[valid-type]
        name="Colors", description="What the colors of the mesh say", items=MODE_ITEMS, get=_mode, set=_set_mode
    )
    legend: bpy.props.BoolProperty(  # type: ignore[valid-type]
        name="Legend",
        description="Show what the colors mean: in the 3D view, and as an object in the corner of renders",
        update=_legend_changed,
    )
    xray: bpy.props.BoolProperty(  # type: ignore[valid-type]
        name="X-Ray",
        description="See the footage, and what is behind the body, through it",
        get=_xray,
        set=_set_xray,
    )
    show_mesh: bpy.props.BoolProperty(  # type: ignore[valid-type]
        name="Aligned Mesh",
        description="The mesh that falls on the pixels, in the colors of the heatmap",
        get=_mesh_shown,
        set=_show_mesh,
    )
    show_body: bpy.props.BoolProperty(  # type: ignore[valid-type]
        name="Skinned Body",
        description="The body that follows the rig: this one changes when you pose or edit keys",
        get=_body_shown,
        set=_show_body,
    )
    ghosts: bpy.props.BoolProperty(  # type: ignore[valid-type]
        name="Onion Skin",
        description="Show where everybody was (blue) and will be (orange), see-through",
        update=_ghosts_changed,
    )
    ghost_every: bpy.props.IntProperty(  # type: ignore[valid-type]
        name="Every",
        description="Frames from one ghost to the next",
        default=5,
        min=1,
        soft_max=50,
        update=_ghosts_changed,
    )
    ghosts_before: bpy.props.IntProperty(  # type: ignore[valid-type]
        name="Before",
        description="How many ghosts of earlier frames; each costs as much time as the body itself",
        default=3,
        min=0,
        max=looks.MOST_GHOSTS,
        update=_ghosts_changed,
    )
    ghosts_after: bpy.props.IntProperty(  # type: ignore[valid-type]
        name="After",
        description="How many ghosts of later frames; each costs as much time as the body itself",
        default=3,
        min=0,
        max=looks.MOST_GHOSTS,
        update=_ghosts_changed,
    )


CLASSES = (MeshPoseLooks,)
