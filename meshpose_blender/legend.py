# SPDX-License-Identifier: GPL-3.0-or-later
"""The legend of the colours as an object before the camera, for renders (`view` draws the one of the viewport).

It is made by geometry nodes that ask the same palette and the same settings as the bodies, so it follows them;
it hangs on the camera, ten times nearer than anything that the camera sees.
"""

from __future__ import annotations

import bpy
import numpy as np

from . import material
from .graph import Graph, new_tree
from .playback import SETTINGS, VISIBILITY, add_visibility, body_mesh, palette_tree

DISTANCE = 0.1
"""Metres before the camera, in the units of a take (its clip_start is 0.01)."""
MARGIN, WIDTH, HEIGHT = 0.03, 0.32, 0.34
"""Of the whole panel, in parts of the picture's shorter side."""
BAR, TEXT, PAD = 0.035, 0.031, 0.022
STEPS = 65
PANEL = (0.012, 0.012, 0.014, 1.0)
LETTERS = (0.9, 0.9, 0.9, 1.0)
TITLE = {"visibility": "Visibility", "confidence": "Over {window:.0f} Frames", "depth": "Depth"}
ENDS = {"visibility": ("guessed", "seen"), "confidence": ("guessed", "seen"), "depth": ("{near:.1f} m", "{far:.1f} m")}
"""What stands above the bar, and at its lower and upper end, by mode; a mode that is not here has no legend."""


def new_legend(
    name: str, settings: bpy.types.NodeTree, camera: bpy.types.Object, size: tuple[int, int]
) -> bpy.types.Object:
    """An object in the lower left corner of the picture of `camera`; size: (width, height) of it in pixels."""
    mesh = body_mesh(name, np.zeros((3, 3)), np.array([[0, 1, 2]]))  # the nodes put theirs in its place
    add_visibility(mesh)
    mesh.materials.append(material.unlit(name))
    target = bpy.data.objects.new(name, mesh)
    graph, inputs, outputs, _ = new_tree(name, {"Geometry": "Geometry"}, {"Geometry": "Geometry"}, modifier=True)
    graph.connect(outputs[0], _parts(graph, inputs[0], settings, mesh.materials[0]))
    graph.arrange()
    target.modifiers.new("MeshPose legend", "NODES").node_group = graph.tree
    target.parent = camera
    target.hide_select = True
    width, height = size
    data = camera.data
    pixel = data.sensor_width / data.lens / width * DISTANCE  # metres of a pixel at that distance
    short = min(width, height) * pixel
    left = (-width / 2 + data.shift_x * width) * pixel + MARGIN * short
    low = (-height / 2 + data.shift_y * width) * pixel + MARGIN * short
    target.location = (left, low, -DISTANCE)
    target.scale = (short, short, short)
    return target


def _parts(
    graph: Graph, mesh: bpy.types.NodeSocket, settings: bpy.types.NodeTree, shown: bpy.types.Material
) -> bpy.types.NodeSocket:
    """Panel, bar and words, in units of the picture's shorter side, the panel's lower left corner at the origin.

    mesh: the object's own, a point without extent.  It comes first: it says which colours are the active ones.
    """
    wanted = dict(zip(SETTINGS, graph.group(settings)))
    panel = _plate(graph, (WIDTH / 2, HEIGHT / 2, -0.01), (WIDTH, HEIGHT), 2)
    panel = graph.store("FLOAT_COLOR", panel, VISIBILITY, PANEL)
    tall = HEIGHT - 3 * PAD - TEXT
    along = graph.components(graph.node("GeometryNodeInputPosition").outputs[0])[1]
    amount = graph.clamp(graph.math("DIVIDE", graph.math("SUBTRACT", along, PAD), tall))
    bar = _plate(graph, (PAD + BAR / 2, PAD + tall / 2, 0.0), (BAR, tall), STEPS)
    colour = graph.group(palette_tree(f"{graph.tree.name} palette", settings), amount)[0]
    bar = graph.store("FLOAT_COLOR", bar, VISIBILITY, colour)
    join = graph.node("GeometryNodeJoinGeometry")
    lower, upper, title = _words(graph, wanted)
    right = 2 * PAD + BAR
    for words, x, y in ((lower, right, PAD), (upper, right, PAD + tall - TEXT), (title, PAD, HEIGHT - PAD - TEXT)):
        graph.connect(join.inputs[0], _text(graph, words, (x, y, 0.0)))
    graph.connect(join.inputs[0], bar)
    graph.connect(join.inputs[0], panel)
    graph.connect(join.inputs[0], mesh)
    coloured = graph.node("GeometryNodeSetMaterial", Geometry=join.outputs[0], Material=shown).outputs[0]
    return graph.shown_if(graph.math("LESS_THAN", wanted["Mode"], 2.5), coloured)  # clay has no scale


def _words(graph: Graph, wanted: dict[str, bpy.types.NodeSocket]) -> tuple[bpy.types.NodeSocket, ...]:
    """Lower end, upper end and title, as strings that follow the settings."""
    near, far = (_joined(graph, _number(graph, wanted[end], 1), " m") for end in ("Near", "Far"))
    over = _joined(graph, "Over ", _number(graph, wanted["Window"], 0), " Frames")
    return (
        graph.choose("STRING", wanted["Mode"], "guessed", "guessed", near, ""),
        graph.choose("STRING", wanted["Mode"], "seen", "seen", far, ""),
        graph.choose("STRING", wanted["Mode"], TITLE["visibility"], over, TITLE["depth"], ""),
    )


def _number(graph: Graph, value: object, decimals: int) -> bpy.types.NodeSocket:
    return graph.node("FunctionNodeValueToString", Value=value, Decimals=decimals).outputs[0]


def _joined(graph: Graph, *parts: object) -> bpy.types.NodeSocket:
    """Strings one after the other.  Sockets that take many links give the last one the first place."""
    join = graph.node("GeometryNodeStringJoin")
    many = next(s for s in join.inputs if s.is_multi_input)
    for part in reversed(parts):
        if not isinstance(part, bpy.types.NodeSocket):
            node = graph.node("FunctionNodeInputString")
            node.string = str(part)
            part = node.outputs[0]
        graph.connect(many, part)
    return join.outputs[0]


def _plate(graph: Graph, centre: tuple[float, ...], size: tuple[float, float], steps: int) -> bpy.types.NodeSocket:
    """A flat rectangle that faces the camera, with `steps` rows of vertices."""
    grid = graph.node("GeometryNodeMeshGrid")
    known = {"Size X": size[0], "Size Y": size[1], "Vertices X": 2, "Vertices Y": steps}
    for name, value in known.items():
        graph.connect(next(s for s in grid.inputs if s.identifier == name), value)
    return _moved(graph, grid.outputs[0], centre)


def _text(graph: Graph, words: object, corner: tuple[float, ...]) -> bpy.types.NodeSocket:
    """Filled letters, their base line's left end at `corner`."""
    curves = graph.node("GeometryNodeStringToCurves", String=words, Size=TEXT * 1.25)
    filled = graph.node("GeometryNodeFillCurve", Curve=curves.outputs[0]).outputs[0]
    real = graph.node("GeometryNodeRealizeInstances", Geometry=filled).outputs[0]
    return graph.store("FLOAT_COLOR", _moved(graph, real, corner), VISIBILITY, LETTERS)


def _moved(graph: Graph, geometry: bpy.types.NodeSocket, by: tuple[float, ...]) -> bpy.types.NodeSocket:
    return graph.node("GeometryNodeTransform", Geometry=geometry, Translation=by).outputs[0]
