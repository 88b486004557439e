# SPDX-License-Identifier: GPL-3.0-or-later
"""The aligned mesh, animated inside the .blend: a packed float image read by geometry nodes.

The image has one row a frame and one column a low-poly vertex (RGBA: x, y, z, visibility), and a last column whose red
says whether the person is there.  The nodes read the row of the current frame onto a cloud of points, once per low-poly
vertex, and lift it to the 13,718 vertices by the upsampler's weights, which the mesh carries as attributes.  Nothing of
ours has to be installed for that: no handler, no cache file, no path.

Between two frames (slow motion, motion blur) the rows are mixed; on a whole frame the row is exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import bpy
import numpy as np

from . import compat
from .graph import Graph, new_tree

VISIBILITY = "visibility"
"""The colour attribute.  Not `heat`, `color` or `density`: Cycles keeps those names for smoke and shows them black."""

GUESSED = (1.0, 0.0, 0.0, 1.0)
SEEN = (0.0, 1.0, 0.0, 1.0)
"""Linear colours of visibility 0 and 1, mixed linearly: green is the visibility, red one minus it."""

DEPTHS = (
    (0.973, 0.798, 0.017),
    (0.107, 0.584, 0.121),
    (0.014, 0.279, 0.263),
    (0.042, 0.084, 0.258),
    (0.058, 0.0003, 0.089),
)
"""Linear colours from near to far: matplotlib's viridis from its bright end, whose lightness alone tells the order."""

MODES = ("visibility", "confidence", "depth", "clay")
"""What the mesh's colours say; the setting `Mode` is the place in this list."""
SETTINGS: dict[str, tuple[str, Any]] = {
    "Mode": ("Int", 0),
    "Window": ("Float", 25.0),  # frames, mode "confidence"
    "Near": ("Float", 1.0),  # metres, mode "depth"
    "Far": ("Float", 6.0),
    "Opacity": ("Float", 1.0),
    "Clay": ("Color", (0.6, 0.58, 0.55, 1.0)),
    "Camera": ("Object", None),
}
"""Output sockets of `settings_group`: kind and value at first."""
SETTINGS_MARK, FRAME_MARK = "meshpose_looks", "meshpose_frame"
"""Custom properties by which trees are found again: on the settings, and on a frame tree (which points to them)."""
SAMPLES = 9
"""Frames that stand for a window of time."""

GRID = 1 / 16384
"""Metres between the places that a position can have in the image: with the lowest bits gone a saved .blend is a third
smaller.  A low-poly vertex moves by at most 0.06 mm, the mesh by less than 0.1 (tests/blender/test_scene.py)."""

WINDOW = 512
"""Rows that are worked on at once."""

_INPUTS = {"Geometry": "Geometry", "Positions": "Image", "Start": "Int"}
_VECTOR = 3  # weights and indices per FLOAT_VECTOR attribute


@dataclass(frozen=True)
class Rows:
    """What a person does on consecutive frames of the scene, the first of them `start`.

    positions (R, V, 3) float32, metres, Blender's world; visibility (R, V) float32, 0..1; present (R,) bool.
    Rows without the person may hold anything: they are written as zeros.
    """

    start: int
    positions: np.ndarray
    visibility: np.ndarray
    present: np.ndarray


@dataclass(frozen=True)
class Tree:
    """The node group and the identifiers of its two inputs (by which a modifier is set; names get translated)."""

    group: bpy.types.NodeTree
    image: str
    start: str


def pack_rows(name: str, rows: Rows) -> bpy.types.Image:
    """Write `rows` into a new image, packed into the .blend: (R, V + 1) RGBA, 32-bit float.

    Positions are rounded to GRID.  A row with a value that is not finite counts as absent: a NaN would stay in the file
    and break bounds and renders.
    """
    count, columns = rows.positions.shape[:2]
    pixels = np.zeros((count, columns + 1, 4), np.float32)
    for at in range(0, count, WINDOW):  # a long clip is large enough as it is: no second one beside it
        part = slice(at, at + WINDOW)
        positions, visibility = rows.positions[part], rows.visibility[part]
        present = rows.present[part] & np.isfinite(positions).all((1, 2)) & np.isfinite(visibility).all(1)
        pixels[part, :columns, :3] = np.rint(positions / np.float32(GRID)) * np.float32(GRID)
        pixels[part, :columns, 3] = visibility
        pixels[part, columns, 0] = 1.0
        pixels[part][~present] = 0
    pixels[:, columns, 3] = 1.0
    image = bpy.data.images.new(name, columns + 1, count, alpha=True, float_buffer=True, is_data=True)
    image.alpha_mode = "CHANNEL_PACKED"  # alpha is data here, not coverage
    image.pixels.foreach_set(pixels.ravel())
    image.update()
    image.pack()  # a generated image that is not packed, or changed after packing, comes back black or old
    return image


def body_mesh(
    name: str, vertices: np.ndarray, faces: np.ndarray, uv: np.ndarray | None = None, uv_faces: np.ndarray | None = None
) -> bpy.types.Mesh:
    """A smooth-shaded mesh: `vertices` (N, 3) metres, `faces` (F, 3|4), `uv` (T, 2) with `uv_faces` like `faces`."""
    mesh = bpy.data.meshes.new(name)
    count, corners = faces.shape
    mesh.vertices.add(len(vertices))
    mesh.loops.add(faces.size)
    mesh.polygons.add(count)
    mesh.attributes["position"].data.foreach_set("vector", np.ascontiguousarray(vertices, np.float32).ravel())
    mesh.loops.foreach_set("vertex_index", np.ascontiguousarray(faces, np.int32).ravel())
    mesh.polygons.foreach_set("loop_start", np.arange(0, faces.size, corners, dtype=np.int32))
    mesh.update(calc_edges=True)
    if uv is not None and uv_faces is not None:
        layer = mesh.uv_layers.new(name="UVMap")
        layer.data.foreach_set("uv", np.ascontiguousarray(uv[uv_faces.ravel()], np.float32).ravel())
    mesh.shade_smooth()
    return mesh


def add_visibility(mesh: bpy.types.Mesh) -> None:
    """Give the mesh the colour attribute that the nodes fill, as the active one, which Workbench shows."""
    attribute = mesh.color_attributes.new(VISIBILITY, "FLOAT_COLOR", "POINT")
    mesh.color_attributes.active_color = attribute
    mesh.color_attributes.render_color_index = mesh.color_attributes.active_color_index


def add_weights(mesh: bpy.types.Mesh, indices: np.ndarray, weights: np.ndarray) -> int:
    """Store the upsampler on the mesh: `indices` (N, k) into the low-poly, `weights` (N, k), rows of sum 1.

    Three per FLOAT_VECTOR attribute, which unlike colours do not clutter the lists that a user picks from; the last one
    is filled up with weights of zero.  Returns how many such pairs of attributes there are.
    """
    count, k = indices.shape
    groups = -(-k // _VECTOR)
    wanted = {"index": indices, "weight": weights}
    for kind, values in wanted.items():
        padded = np.zeros((count, groups * _VECTOR), np.float32)
        padded[:, :k] = values
        for group in range(groups):
            attribute = mesh.attributes.new(_attribute(kind, group), "FLOAT_VECTOR", "POINT")
            part = padded[:, group * _VECTOR : (group + 1) * _VECTOR]
            attribute.data.foreach_set("vector", np.ascontiguousarray(part).ravel())
    return groups


def add_playback(
    target: bpy.types.Object, tree: Tree, image: bpy.types.Image, start: int, name: str = "MeshPose"
) -> bpy.types.Modifier:
    """Let `tree` animate `target` from `image`, whose first row belongs to scene frame `start`."""
    modifier = target.modifiers.new(name, "NODES")
    modifier.node_group = tree.group
    compat.set_modifier_input(modifier, tree.image, image)
    compat.set_modifier_input(modifier, tree.start, start)
    return modifier


def playback_tree(name: str, groups: int) -> Tree:
    """The node group that plays an image of `pack_rows` on a mesh with `groups` pairs of `add_weights`' attributes.

    Knows neither the clip's length nor the number of low-poly vertices: both come from the image's size.
    """
    frame = frame_tree(f"{name} frame", groups, settings_group(f"{name} looks"))
    graph, inputs, outputs, names = new_tree(name, _INPUTS, {"Geometry": "Geometry"}, modifier=True)
    moved = graph.group(frame, inputs[0], inputs[1], _row(graph, inputs[2]))
    graph.connect(outputs[0], moved[0])
    graph.arrange()
    return Tree(graph.tree, names["Positions"], names["Start"])


def presence_tree(name: str) -> Tree:
    """A node group that shows a mesh on the frames that the image of `pack_rows` has the person on, else nothing.

    For the skinned body, which has an armature to move it: where nobody is, nobody stands still.
    """
    graph, inputs, outputs, names = new_tree(name, _INPUTS, {"Geometry": "Geometry"}, modifier=True)
    _, shown = _presence(graph, _Texture(graph, inputs[1]), _row(graph, inputs[2]))
    graph.connect(outputs[0], graph.shown_if(shown, inputs[0]))
    graph.arrange()
    return Tree(graph.tree, names["Positions"], names["Start"])


def _row(graph: Graph, start: bpy.types.NodeSocket) -> bpy.types.NodeSocket:
    """The image's row for the scene's current frame, with a fraction between two frames."""
    return graph.math("SUBTRACT", graph.node("GeometryNodeInputSceneTime").outputs[1], start)


# -- colours: one group of settings for all people of a take ---------------------------------------------------------


def settings_group(name: str) -> bpy.types.NodeTree:
    """What `looks` sets, in one place that every tree of the take reads: the values of this group's output sockets."""
    graph, _, outputs, _ = new_tree(name, {}, {label: kind for label, (kind, _) in SETTINGS.items()})
    for socket, (_, value) in zip(outputs, SETTINGS.values()):
        if value is not None:
            socket.default_value = value
    graph.tree[SETTINGS_MARK] = True
    return graph.tree


def palette_tree(name: str, settings: bpy.types.NodeTree) -> bpy.types.NodeTree:
    """Amount 0..1 -> the colour that stands for it in the mode that is set; the legend asks it, too."""
    graph, inputs, outputs, _ = new_tree(name, {"Amount": "Float"}, {"Color": "Color"})
    wanted = dict(zip(SETTINGS, graph.group(settings)))
    heat = graph.mix_colour(inputs[0], GUESSED, SEEN)
    ramp = graph.node("ShaderNodeValToRGB", Fac=inputs[0])
    stops = ramp.color_ramp.elements
    while len(stops) < len(DEPTHS):
        stops.new(0.5)
    for number, (stop, colour) in enumerate(zip(stops, DEPTHS)):
        stop.position, stop.color = number / (len(DEPTHS) - 1), (*colour, 1.0)
    graph.connect(outputs[0], graph.choose("RGBA", wanted["Mode"], heat, heat, ramp.outputs[0], wanted["Clay"]))
    graph.arrange()
    return graph.tree


def frame_tree(name: str, groups: int, settings: bpy.types.NodeTree) -> bpy.types.NodeTree:
    """Geometry, image, row -> the body of that row in the colours of the mode; nothing where the person is absent."""
    inputs_of = {"Geometry": "Geometry", "Positions": "Image", "Row": "Float"}
    graph, inputs, outputs, _ = new_tree(name, inputs_of, {"Geometry": "Geometry"})
    wanted = dict(zip(SETTINGS, graph.group(settings)))
    cloud, shown = _cloud(graph, _Texture(graph, inputs[1]), inputs[2], wanted)
    position, seen = _lift(graph, cloud, groups)
    moved = graph.node("GeometryNodeSetPosition", Geometry=inputs[0], Position=position).outputs[0]
    amount = graph.choose("FLOAT", wanted["Mode"], seen, seen, _depth(graph, wanted), 0.0)
    palette = graph.group(palette_tree(f"{name} palette", settings), amount)
    coloured = graph.store("FLOAT_COLOR", moved, VISIBILITY, graph.with_alpha(palette[0], wanted["Opacity"]))
    for kind in ("index", "weight"):  # of no use to whoever exports or bakes the result
        for number in range(groups):
            remove = graph.node("GeometryNodeRemoveAttribute", Geometry=coloured, Name=_attribute(kind, number))
            coloured = remove.outputs[0]
    graph.connect(outputs[0], graph.shown_if(shown, coloured))
    graph.arrange()
    graph.tree[FRAME_MARK] = settings
    return graph.tree


def _depth(graph: Graph, wanted: dict[str, bpy.types.NodeSocket]) -> bpy.types.NodeSocket:
    """0 at the near, 1 at the far end: how far each point lies in front of the camera, along its axis."""
    camera = graph.node("GeometryNodeObjectInfo", {"transform_space": "RELATIVE"}, Object=wanted["Camera"])
    place = {socket.identifier: socket for socket in camera.outputs}
    ahead = graph.node("FunctionNodeRotateVector", Vector=(0.0, 0.0, -1.0), Rotation=place["Rotation"]).outputs[0]
    towards = graph.vector("SUBTRACT", graph.node("GeometryNodeInputPosition").outputs[0], place["Location"])
    metres = graph.dot(towards, ahead)
    span = graph.math("MAXIMUM", graph.math("SUBTRACT", wanted["Far"], wanted["Near"]), 1e-6)
    return graph.clamp(graph.math("DIVIDE", graph.math("SUBTRACT", metres, wanted["Near"]), span))


def _attribute(kind: str, group: int) -> str:
    return f"meshpose_{kind}_{group}"


class _Texture:
    """Reads texels of the image by row and column."""

    def __init__(self, graph: Graph, image: bpy.types.NodeSocket) -> None:
        info = graph.node("GeometryNodeImageInfo", Image=image).outputs
        self._graph, self._image = graph, image
        self._width, self.count = info[0], info[1]
        self.columns = graph.math("SUBTRACT", self._width, 1.0)

    def texel(
        self, column: bpy.types.NodeSocket, row: bpy.types.NodeSocket
    ) -> tuple[bpy.types.NodeSocket, bpy.types.NodeSocket]:
        """Colour and alpha at the texel's centre: on its border two texels would be equally near."""
        math = self._graph.math
        u = math("DIVIDE", math("ADD", column, 0.5), self._width)
        v = math("DIVIDE", math("ADD", row, 0.5), self.count)
        place = self._graph.node("ShaderNodeCombineXYZ", X=u, Y=v).outputs[0]
        settings = {"interpolation": "Closest", "extension": "EXTEND"}
        outputs = self._graph.node("GeometryNodeImageTexture", settings, Image=self._image, Vector=place).outputs
        return outputs[0], outputs[1]

    def present(self, row: bpy.types.NodeSocket) -> bpy.types.NodeSocket:
        """1 where the person is there on that row, else 0; outside of the image the nearest row answers."""
        colour, _ = self.texel(self.columns, row)
        return self._graph.math("GREATER_THAN", self._graph.components(colour)[0], 0.5)


def _presence(
    graph: Graph, rows: _Texture, row: bpy.types.NodeSocket
) -> tuple[bpy.types.NodeSocket, bpy.types.NodeSocket]:
    """The whole row at or before `row`, and whether the image has it and the person is there."""
    here = graph.math("FLOOR", row)
    inside = graph.math("MULTIPLY", graph.math("GREATER_THAN", here, -0.5), graph.math("LESS_THAN", here, rows.count))
    return here, graph.math("MULTIPLY", inside, rows.present(here))


def _cloud(
    graph: Graph, rows: _Texture, row: bpy.types.NodeSocket, wanted: dict[str, bpy.types.NodeSocket]
) -> tuple[bpy.types.NodeSocket, bpy.types.NodeSocket]:
    """The low-poly of the frame as points with a float attribute of visibility, and whether there is anybody at all."""
    here, shown = _presence(graph, rows, row)
    after = graph.math("ADD", here, 1.0)
    # Half way to a frame without the person there is nothing to mix with: the last one seen stays.
    factor = graph.math("MULTIPLY", graph.math("SUBTRACT", row, here), rows.present(after))
    index = graph.node("GeometryNodeInputIndex").outputs[0]
    place_here, seen_here = rows.texel(index, here)
    place_after, seen_after = rows.texel(index, after)
    points = graph.node(
        "GeometryNodePoints", Count=rows.columns, Position=graph.mix_vector(factor, place_here, place_after)
    ).outputs[0]
    now = graph.mix(factor, seen_here, seen_after)
    lasting = _lasting(graph, rows, here, index, wanted["Window"])
    seen = graph.choose("FLOAT", wanted["Mode"], now, lasting, now, now)
    return graph.store("FLOAT", points, VISIBILITY, seen), shown


def _lasting(
    graph: Graph, rows: _Texture, here: bpy.types.NodeSocket, index: bpy.types.NodeSocket, window: bpy.types.NodeSocket
) -> bpy.types.NodeSocket:
    """Mean visibility of each low-poly vertex over `window` frames around the row, by `SAMPLES` of them; frames
    without the person do not count."""
    total = count = None
    for step in range(SAMPLES):
        away = graph.math("MULTIPLY", window, step / (SAMPLES - 1) - 0.5)
        at, there = _presence(graph, rows, graph.math("ADD", here, graph.math("ROUND", away)))
        seen = graph.math("MULTIPLY", rows.texel(index, at)[1], there)
        total = seen if total is None else graph.math("ADD", total, seen)
        count = there if count is None else graph.math("ADD", count, there)
    return graph.math("DIVIDE", total, graph.math("MAXIMUM", count, 1.0))


def _lift(graph: Graph, cloud: bpy.types.NodeSocket, groups: int) -> tuple[bpy.types.NodeSocket, bpy.types.NodeSocket]:
    """Position and visibility of every mesh vertex: the sparse affine combination of the cloud's."""
    place = graph.node("GeometryNodeInputPosition").outputs[0]
    seen = graph.attribute("FLOAT", VISIBILITY)
    position = visibility = None
    for group in range(groups):
        indices = graph.components(graph.attribute("FLOAT_VECTOR", _attribute("index", group)))
        weights = graph.components(graph.attribute("FLOAT_VECTOR", _attribute("weight", group)))
        for index, weight in zip(indices, weights):
            vector = graph.scaled(graph.sample("FLOAT_VECTOR", cloud, place, index), weight)
            number = graph.math("MULTIPLY", graph.sample("FLOAT", cloud, seen, index), weight)
            position = vector if position is None else graph.vector("ADD", position, vector)
            visibility = number if visibility is None else graph.math("ADD", visibility, number)
    # A third of the weights are negative: lifted visibility leaves 0..1 a little.
    return position, graph.clamp(visibility)
