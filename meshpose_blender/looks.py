# SPDX-License-Identifier: GPL-3.0-or-later
"""How the bodies of a take look: what their colours say, the legend, ghosts of other frames, x-ray.

    looks.set_mode(built, "depth")
    looks.set_ghosts(built, every=5, before=3, after=3)
    looks.set_legend(built, True)

All of it is data of the .blend (node trees, objects, Blender's own shading): it shows and renders where the extension
is not installed, with and without a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import bpy
import numpy as np

from . import compat, legend, material
from .graph import new_tree
from .playback import DEPTHS, FRAME_MARK, GUESSED, MODES, SEEN, SETTINGS, VISIBILITY, Tree, add_playback

if TYPE_CHECKING:
    from .scene import BuiltTake

LEGEND, BEFORE, AFTER = "meshpose_legend", "meshpose_ghosts_before", "meshpose_ghosts_after"
"""Pointers to the objects: the legend on the take's collection, ghosts on each person's."""
MOST_GHOSTS = 12
GHOST_COLOURS = {BEFORE: (0.16, 0.42, 1.0, 0.28), AFTER: (1.0, 0.48, 0.08, 0.28)}
"""Linear RGBA of what was before (blue) and of what comes (orange)."""
XRAY = 0.4
"""Opacity of a surface in x-ray; a body has two, in front and behind."""
NEAR_FAR = (2.0, 98.0)
"""Percentiles of all depths that the ends of the scale are at first."""


def begin(camera: bpy.types.Object, meshes: Sequence[bpy.types.Object], lowpolys: Sequence[np.ndarray]) -> None:
    """Tell a new take's settings the camera, and the depths between which its people are.

    lowpolys: per person (n, V, 3) metres, Blender's axes.
    """
    settings = settings_of(meshes[0]) if meshes else None
    if settings is None:
        return
    put(settings, "Camera", camera)
    # The object's own matrix is computed later, with the rest of the scene.
    turn = np.array(camera.rotation_euler.to_matrix())
    depths = [(points.reshape(-1, 3) - np.array(camera.location)) @ -turn[:, 2] for points in lowpolys]
    known = np.concatenate([depth[np.isfinite(depth)] for depth in depths]) if depths else np.zeros(0)
    if len(known):
        near, far = (float(value) for value in np.percentile(known, NEAR_FAR))
        put(settings, "Near", near)
        put(settings, "Far", max(far, near + 0.1))


# -- the settings that all people of a take share ----------------------------------------------------------------------


def settings_of(mesh: bpy.types.Object | None) -> bpy.types.NodeTree | None:
    """The settings that colour an aligned mesh; None for a mesh of an older file."""
    frame = frame_tree_of(mesh)
    return None if frame is None else frame[FRAME_MARK]


def frame_tree_of(mesh: bpy.types.Object | None) -> bpy.types.NodeTree | None:
    """The node tree that makes one frame of an aligned mesh; found by its mark."""
    for modifier in mesh.modifiers if mesh is not None else ():
        tree = modifier.node_group if modifier.type == "NODES" else None
        for node in tree.nodes if tree is not None else ():
            inner = getattr(node, "node_tree", None)
            if inner is not None and inner.get(FRAME_MARK) is not None:
                return inner
    return None


def settings_in(built: BuiltTake | None) -> bpy.types.NodeTree | None:
    """The settings of a take; None where it has nobody, or is of an older file."""
    people = built.people if built is not None else []
    return next((found for person in people if (found := settings_of(person.mesh)) is not None), None)


def socket(settings: bpy.types.NodeTree, name: str) -> bpy.types.NodeSocket:
    """The socket that holds a setting of `playback.SETTINGS`; its `default_value` is the value, and can be keyed."""
    output = next(node for node in settings.nodes if node.bl_idname == "NodeGroupOutput")
    return output.inputs[list(SETTINGS).index(name)]


def put(settings: bpy.types.NodeTree, name: str, value: object) -> None:
    """Set a setting."""
    socket(settings, name).default_value = value


def mode(built: BuiltTake | None) -> str:
    """What the colours say: one of `playback.MODES`."""
    settings = settings_in(built)
    return MODES[0] if settings is None else MODES[socket(settings, "Mode").default_value]


def set_mode(built: BuiltTake, name: str) -> None:
    """Let the colours of all people of the take say something else."""
    settings = settings_in(built)
    if settings is not None:
        put(settings, "Mode", MODES.index(name))


def palette(name: str, amount: np.ndarray) -> np.ndarray:
    """(n,) 0..1 -> (n, 3) linear colours of a mode that has a scale: those of the node tree, for drawing."""
    if name == "depth":
        at = np.linspace(0.0, 1.0, len(DEPTHS))
        return np.stack([np.interp(amount, at, [colour[i] for colour in DEPTHS]) for i in range(3)], -1)
    return np.outer(1 - amount, GUESSED[:3]) + np.outer(amount, SEEN[:3])


# -- legend ------------------------------------------------------------------------------------------------------------


def legend_of(built: BuiltTake) -> bpy.types.Object | None:
    """The take's legend; None where it has none."""
    return built.collection.get(LEGEND)


def set_legend(built: BuiltTake, shown: bool) -> None:
    """Put a legend before the camera, for renders (a viewport with a GPU draws its own), or take it away."""
    old, settings = legend_of(built), settings_in(built)
    if old is not None:
        del built.collection[LEGEND]
        remove(old)
    if shown and settings is not None and built.camera is not None:
        new = legend.new_legend(f"{built.collection.name} legend", settings, built.camera, _size(built))
        built.collection.objects.link(new)
        new.hide_viewport = not bpy.app.background
        built.collection[LEGEND] = new


def _size(built: BuiltTake) -> tuple[int, int]:
    width, height, *_ = built.collection.get("meshpose_format", (1920, 1080))
    return int(width), int(height)


# -- ghosts ------------------------------------------------------------------------------------------------------------


def set_ghosts(built: BuiltTake, every: int = 5, before: int = 0, after: int = 0) -> None:
    """Show everybody as he was and will be: `before` and `after` ghosts, `every` frames apart; 0 of both: none."""
    for person in built.people:
        for place, count, sign in ((BEFORE, before, -1), (AFTER, after, 1)):
            old = person.collection.get(place)
            if old is not None:
                del person.collection[place]
                remove(old)
            frame = frame_tree_of(person.mesh)
            if count < 1 or frame is None:
                continue
            steps = [sign * every * (number + 1) for number in range(min(count, MOST_GHOSTS))]
            name = f"{person.collection.name} {'before' if sign < 0 else 'after'}"
            new = _ghosts(name, person.mesh, frame, steps, GHOST_COLOURS[place])
            person.collection.objects.link(new)
            person.collection[place] = new


def ghosts_of(built: BuiltTake) -> list[bpy.types.Object]:
    """All ghosts of a take."""
    found = (person.collection.get(place) for person in built.people for place in (BEFORE, AFTER))
    return [ghost for ghost in found if ghost is not None]


def _ghosts(
    name: str, mesh: bpy.types.Object, frame: bpy.types.NodeTree, steps: list[int], colour: tuple[float, ...]
) -> bpy.types.Object:
    """An object that plays the same image as `mesh`, on several frames at once, all in one colour.

    Without a colour attribute Workbench shows the object's own colour, with its transparency.
    """
    inputs = {"Geometry": "Geometry", "Positions": "Image", "Start": "Int"}
    graph, ins, outs, names = new_tree(name, inputs, {"Geometry": "Geometry"}, modifier=True)
    now = graph.math("SUBTRACT", graph.node("GeometryNodeInputSceneTime").outputs[1], ins[2])
    join = graph.node("GeometryNodeJoinGeometry")
    for step in steps:
        body = graph.group(frame, ins[0], ins[1], graph.math("ADD", now, float(step)))[0]
        graph.connect(join.inputs[0], body)
    plain = graph.node("GeometryNodeRemoveAttribute", Geometry=join.outputs[0], Name=VISIBILITY).outputs[0]
    graph.connect(outs[0], plain)
    graph.arrange()
    target = bpy.data.objects.new(name, mesh.data)
    image, start = played(mesh)
    add_playback(target, Tree(graph.tree, names["Positions"], names["Start"]), image, start, "MeshPose ghosts")
    target.color = colour
    target.hide_select = True
    if target.material_slots:
        target.material_slots[0].link = "OBJECT"
        target.material_slots[0].material = material.ghost(name)
    return target


def played(mesh: bpy.types.Object) -> tuple[bpy.types.Image, int]:
    """The image that an aligned mesh plays, and the scene frame of its first row."""
    modifier = next(m for m in mesh.modifiers if m.type == "NODES" and m.node_group is not None)
    sockets = [item for item in modifier.node_group.interface.items_tree if item.item_type == "SOCKET"]
    of = {item.socket_type: item.identifier for item in sockets if item.in_out == "INPUT"}
    image = compat.modifier_input(modifier, of["NodeSocketImage"])
    return image, int(compat.modifier_input(modifier, of["NodeSocketInt"]))  # type: ignore[call-overload,return-value]


def targets(built: BuiltTake | None, which: str) -> list[bpy.types.Object]:
    """Everybody's aligned mesh ("mesh") or skinned body ("body")."""
    found = [getattr(person, which) for person in built.people] if built is not None else []
    return [target for target in found if target is not None]


# -- the viewport's and the render's shading --------------------------------------------------------------------------


def shadings(scene: bpy.types.Scene) -> list[bpy.types.View3DShading]:
    """Shading of the scene's own Workbench render and of the 3D views that show the scene."""
    found = [scene.display.shading]
    for window in bpy.context.window_manager.windows:
        if window.scene == scene:
            spaces = [space for area in window.screen.areas for space in area.spaces if space.type == "VIEW_3D"]
            found += [space.shading for space in spaces]
    return found


def xray(scene: bpy.types.Scene) -> bool:
    """Whether everything is see-through."""
    return bool(scene.display.shading.show_xray)


def set_xray(scene: bpy.types.Scene, built: BuiltTake | None, on: bool) -> None:
    """See the footage, and the arm behind the body, through the bodies: in the viewport and in all renders."""
    for shading in shadings(scene):
        shading.show_xray, shading.xray_alpha = on, XRAY
    settings = settings_in(built)
    if settings is not None:
        put(settings, "Opacity", XRAY if on else 1.0)


def remove(target: bpy.types.Object) -> None:
    """Take an object away with the trees, data and materials that nobody else uses."""
    used: list[bpy.types.ID] = [m.node_group for m in target.modifiers if m.type == "NODES" and m.node_group]
    used += [slot.material for slot in target.material_slots if slot.material is not None]
    data = target.data
    bpy.data.objects.remove(target)
    remove_unused([*([data] if data is not None else []), *used])


def remove_unused(blocks: Sequence[bpy.types.ID]) -> None:
    """Remove those that have no users, and the node trees inside of them that have none then."""
    for block in blocks:
        inner: list[bpy.types.ID] = []
        if block.id_type == "NODETREE":
            inner = [node.node_tree for node in block.nodes if getattr(node, "node_tree", None) is not None]
        if block.users == 0:
            bpy.data.batch_remove([block])
            remove_unused(list(dict.fromkeys(inner)))
