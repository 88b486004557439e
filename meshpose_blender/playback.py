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

VISIBILITY = "visibility"
"""The colour attribute.  Not `heat`, `color` or `density`: Cycles keeps those names for smoke and shows them black."""

GUESSED = (1.0, 0.0, 0.0, 1.0)
SEEN = (0.0, 1.0, 0.0, 1.0)
"""Linear colours of visibility 0 and 1, mixed linearly: green is the visibility, red one minus it."""

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

    A row with a value that is not finite counts as absent: a NaN would stay in the file and break bounds and renders.
    """
    count, columns = rows.positions.shape[:2]
    finite = np.isfinite(rows.positions).all((1, 2)) & np.isfinite(rows.visibility).all(1)
    present = np.asarray(rows.present, bool) & finite
    pixels = np.zeros((count, columns + 1, 4), np.float32)
    pixels[present, :columns, :3] = rows.positions[present]
    pixels[present, :columns, 3] = rows.visibility[present]
    pixels[:, columns, 0] = present
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
    group = bpy.data.node_groups.new(name, "GeometryNodeTree")
    graph, inputs, image, start = _interface(group)
    rows = _Texture(graph, inputs[1])
    row = _row(graph, inputs[2])
    cloud, shown = _cloud(graph, rows, row)
    position, visibility = _lift(graph, cloud, groups)
    moved = graph.node("GeometryNodeSetPosition", Geometry=inputs[0], Position=position).outputs[0]
    coloured = graph.store("FLOAT_COLOR", moved, VISIBILITY, graph.mix_colour(visibility, GUESSED, SEEN))
    for kind in ("index", "weight"):  # of no use to whoever exports or bakes the result
        for number in range(groups):
            remove = graph.node("GeometryNodeRemoveAttribute", Geometry=coloured, Name=_attribute(kind, number))
            coloured = remove.outputs[0]
    _output(graph, shown, coloured)
    return Tree(group, image, start)


def presence_tree(name: str) -> Tree:
    """A node group that shows a mesh on the frames that the image of `pack_rows` has the person on, else nothing.

    For the skinned body, which has an armature to move it: where nobody is, nobody stands still.
    """
    group = bpy.data.node_groups.new(name, "GeometryNodeTree")
    graph, inputs, image, start = _interface(group)
    _, shown = _presence(graph, _Texture(graph, inputs[1]), _row(graph, inputs[2]))
    _output(graph, shown, inputs[0])
    return Tree(group, image, start)


def _interface(group: bpy.types.NodeTree) -> tuple[_Graph, Any, str, str]:
    """Give `group` its sockets -> graph, outputs of the input node (geometry, image, start), their identifiers."""
    group.is_modifier = True
    face = group.interface
    face.new_socket(name="Geometry", in_out="INPUT", socket_type="NodeSocketGeometry")
    image = face.new_socket(name="Positions", in_out="INPUT", socket_type="NodeSocketImage")
    start = face.new_socket(name="Start", in_out="INPUT", socket_type="NodeSocketInt")
    face.new_socket(name="Geometry", in_out="OUTPUT", socket_type="NodeSocketGeometry")
    graph = _Graph(group)
    return graph, graph.node("NodeGroupInput").outputs, image.identifier, start.identifier


def _row(graph: _Graph, start: bpy.types.NodeSocket) -> bpy.types.NodeSocket:
    """The image's row for the scene's current frame, with a fraction between two frames."""
    return graph.math("SUBTRACT", graph.node("GeometryNodeInputSceneTime").outputs[1], start)


def _output(graph: _Graph, shown: bpy.types.NodeSocket, geometry: bpy.types.NodeSocket) -> None:
    """`geometry` where `shown`, else none, as the group's result."""
    switch = graph.node("GeometryNodeSwitch", {"input_type": "GEOMETRY"}, Switch=shown, **{"True": geometry})
    output = graph.node("NodeGroupOutput")
    graph.tree.links.new(switch.outputs[0], output.inputs[0])
    graph.arrange()


def _attribute(kind: str, group: int) -> str:
    return f"meshpose_{kind}_{group}"


class _Graph:
    """Adds nodes to a tree; sockets are given by identifier or by their place, both the same in every language."""

    def __init__(self, tree: bpy.types.NodeTree) -> None:
        self.tree = tree

    def node(self, kind: str, settings: dict[str, str] | None = None, **inputs: Any) -> bpy.types.Node:
        node = self.tree.nodes.new(kind)
        for key, value in (settings or {}).items():
            setattr(node, key, value)
        for key, value in inputs.items():
            self.connect(next(s for s in node.inputs if s.identifier == key), value)
        return node

    def connect(self, socket: bpy.types.NodeSocket, value: object) -> None:
        """Link an output to `socket`, or set the socket's own value."""
        if isinstance(value, bpy.types.NodeSocket):
            self.tree.links.new(value, socket)
        else:
            socket.default_value = value

    def _operation(self, kind: str, operation: str, values: tuple[object, ...]) -> bpy.types.NodeSocket:
        node = self.node(kind, {"operation": operation})
        for socket, value in zip(node.inputs, values):
            self.connect(socket, value)
        return node.outputs[0]

    def math(self, operation: str, *values: object) -> bpy.types.NodeSocket:
        return self._operation("ShaderNodeMath", operation, values)

    def vector(self, operation: str, *values: object) -> bpy.types.NodeSocket:
        return self._operation("ShaderNodeVectorMath", operation, values)

    def scaled(self, vector: bpy.types.NodeSocket, factor: bpy.types.NodeSocket) -> bpy.types.NodeSocket:
        return self.node("ShaderNodeVectorMath", {"operation": "SCALE"}, Vector=vector, Scale=factor).outputs[0]

    def mix(self, factor: bpy.types.NodeSocket, a: object, b: object) -> bpy.types.NodeSocket:
        """a + factor (b - a) for numbers; exactly `a` where `factor` is 0."""
        node = self.node("ShaderNodeMix", {"data_type": "FLOAT"}, Factor_Float=factor, A_Float=a, B_Float=b)
        return next(s for s in node.outputs if s.identifier == "Result_Float")

    def mix_vector(self, factor: bpy.types.NodeSocket, a: object, b: object) -> bpy.types.NodeSocket:
        node = self.node("ShaderNodeMix", {"data_type": "VECTOR"}, Factor_Float=factor, A_Vector=a, B_Vector=b)
        return next(s for s in node.outputs if s.identifier == "Result_Vector")

    def mix_colour(self, factor: bpy.types.NodeSocket, a: object, b: object) -> bpy.types.NodeSocket:
        node = self.node("ShaderNodeMix", {"data_type": "RGBA"}, Factor_Float=factor, A_Color=a, B_Color=b)
        return next(s for s in node.outputs if s.identifier == "Result_Color")

    def attribute(self, kind: str, name: str) -> bpy.types.NodeSocket:
        return self.node("GeometryNodeInputNamedAttribute", {"data_type": kind}, Name=name).outputs[0]

    def components(self, vector: bpy.types.NodeSocket) -> list[bpy.types.NodeSocket]:
        return list(self.node("ShaderNodeSeparateXYZ", Vector=vector).outputs)

    def store(self, kind: str, geometry: object, name: str, value: object) -> bpy.types.NodeSocket:
        settings = {"data_type": kind, "domain": "POINT"}
        inputs = {"Geometry": geometry, "Name": name, "Value": value}
        return self.node("GeometryNodeStoreNamedAttribute", settings, **inputs).outputs[0]

    def sample(self, kind: str, geometry: object, value: object, index: object) -> bpy.types.NodeSocket:
        settings = {"data_type": kind, "domain": "POINT"}
        return self.node("GeometryNodeSampleIndex", settings, Geometry=geometry, Value=value, Index=index).outputs[0]

    def arrange(self) -> None:
        """Lay the nodes out by their distance from the output, so that whoever opens the group can read it."""
        depth: dict[str, int] = {}
        links: dict[str, list[str]] = {}
        for link in self.tree.links:
            links.setdefault(link.to_node.name, []).append(link.from_node.name)
        wave = [n.name for n in self.tree.nodes if not any(link.from_node == n for link in self.tree.links)]
        step = 0
        while wave:
            depth.update(dict.fromkeys(wave, step))
            wave = list(dict.fromkeys(source for name in wave for source in links.get(name, [])))
            step += 1
        rows: dict[int, int] = {}
        for node in self.tree.nodes:
            column = depth[node.name]
            node.location = (-220.0 * column, -180.0 * rows.get(column, 0))
            node.hide = True
            rows[column] = rows.get(column, 0) + 1


class _Texture:
    """Reads texels of the image by row and column."""

    def __init__(self, graph: _Graph, image: bpy.types.NodeSocket) -> None:
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
    graph: _Graph, rows: _Texture, row: bpy.types.NodeSocket
) -> tuple[bpy.types.NodeSocket, bpy.types.NodeSocket]:
    """The whole row at or before `row`, and whether the image has it and the person is there."""
    here = graph.math("FLOOR", row)
    inside = graph.math("MULTIPLY", graph.math("GREATER_THAN", here, -0.5), graph.math("LESS_THAN", here, rows.count))
    return here, graph.math("MULTIPLY", inside, rows.present(here))


def _cloud(
    graph: _Graph, rows: _Texture, row: bpy.types.NodeSocket
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
    return graph.store("FLOAT", points, VISIBILITY, graph.mix(factor, seen_here, seen_after)), shown


def _lift(graph: _Graph, cloud: bpy.types.NodeSocket, groups: int) -> tuple[bpy.types.NodeSocket, bpy.types.NodeSocket]:
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
    return position, graph.node("ShaderNodeClamp", Value=visibility).outputs[0]
