# SPDX-License-Identifier: GPL-3.0-or-later
"""Node trees written as expressions: `graph.math("ADD", a, 0.5)`.

Sockets are given by identifier or by their place, never by a shown name: both are the same in every language.
"""

from __future__ import annotations

from typing import Any

import bpy


class Graph:
    """Adds nodes to a geometry-nodes tree; an argument that is a socket is linked, any other is the socket's value."""

    def __init__(self, tree: bpy.types.NodeTree) -> None:
        self.tree = tree

    def node(self, kind: str, settings: dict[str, Any] | None = None, **inputs: Any) -> bpy.types.Node:
        """A new node; `inputs` by identifier."""
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

    def group(self, tree: bpy.types.NodeTree, *values: object) -> list[bpy.types.NodeSocket]:
        """A node that runs `tree` on `values` (in the order of its inputs) -> its outputs."""
        node = self.node("GeometryNodeGroup", {"node_tree": tree})
        for socket, value in zip(node.inputs, values):
            self.connect(socket, value)
        return list(node.outputs)

    def _operation(self, kind: str, operation: str, values: tuple[object, ...]) -> bpy.types.NodeSocket:
        node = self.node(kind, {"operation": operation})
        for socket, value in zip(node.inputs, values):
            self.connect(socket, value)
        return node.outputs[0]

    def math(self, operation: str, *values: object) -> bpy.types.NodeSocket:
        return self._operation("ShaderNodeMath", operation, values)

    def vector(self, operation: str, *values: object) -> bpy.types.NodeSocket:
        """Vector operations whose result is a vector."""
        return self._operation("ShaderNodeVectorMath", operation, values)

    def dot(self, a: object, b: object) -> bpy.types.NodeSocket:
        node = self.node("ShaderNodeVectorMath", {"operation": "DOT_PRODUCT"})
        self.connect(node.inputs[0], a)
        self.connect(node.inputs[1], b)
        return next(s for s in node.outputs if s.identifier == "Value")

    def scaled(self, vector: bpy.types.NodeSocket, factor: bpy.types.NodeSocket) -> bpy.types.NodeSocket:
        return self.node("ShaderNodeVectorMath", {"operation": "SCALE"}, Vector=vector, Scale=factor).outputs[0]

    def clamp(self, value: object) -> bpy.types.NodeSocket:
        """`value` within 0..1."""
        return self.node("ShaderNodeClamp", Value=value).outputs[0]

    def xyz(self, x: object = 0.0, y: object = 0.0, z: object = 0.0) -> bpy.types.NodeSocket:
        return self.node("ShaderNodeCombineXYZ", X=x, Y=y, Z=z).outputs[0]

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

    def with_alpha(self, colour: object, alpha: object) -> bpy.types.NodeSocket:
        """The colour with this alpha instead of its own."""
        apart = self.node("FunctionNodeSeparateColor", {"mode": "RGB"})
        self.connect(apart.inputs[0], colour)
        together = self.node("FunctionNodeCombineColor", {"mode": "RGB"})
        for socket, value in zip(together.inputs, (*list(apart.outputs)[:3], alpha)):
            self.connect(socket, value)
        return together.outputs[0]

    def choose(self, kind: str, index: object, *values: object) -> bpy.types.NodeSocket:
        """`values[index]`; what is not chosen is not computed.  kind: FLOAT, STRING, RGBA, GEOMETRY."""
        node = self.node("GeometryNodeIndexSwitch", {"data_type": kind})
        while len(node.index_switch_items) < len(values):
            node.index_switch_items.new()
        self.connect(node.inputs[0], index)
        for socket, value in zip(list(node.inputs)[1:], values):
            self.connect(socket, value)
        return node.outputs[0]

    def attribute(self, kind: str, name: str) -> bpy.types.NodeSocket:
        return self.node("GeometryNodeInputNamedAttribute", {"data_type": kind}, Name=name).outputs[0]

    def components(self, vector: bpy.types.NodeSocket) -> list[bpy.types.NodeSocket]:
        return list(self.node("ShaderNodeSeparateXYZ", Vector=vector).outputs)

    def store(
        self, kind: str, geometry: object, name: str, value: object, domain: str = "POINT"
    ) -> bpy.types.NodeSocket:
        settings = {"data_type": kind, "domain": domain}
        inputs = {"Geometry": geometry, "Name": name, "Value": value}
        return self.node("GeometryNodeStoreNamedAttribute", settings, **inputs).outputs[0]

    def sample(self, kind: str, geometry: object, value: object, index: object) -> bpy.types.NodeSocket:
        settings = {"data_type": kind, "domain": "POINT"}
        return self.node("GeometryNodeSampleIndex", settings, Geometry=geometry, Value=value, Index=index).outputs[0]

    def shown_if(self, shown: object, geometry: object) -> bpy.types.NodeSocket:
        """`geometry` where `shown`, else none."""
        node = self.node("GeometryNodeSwitch", {"input_type": "GEOMETRY"}, Switch=shown, **{"True": geometry})
        return node.outputs[0]

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
            column = depth.get(node.name, 0)
            node.location = (-220.0 * column, -180.0 * rows.get(column, 0))
            node.hide = True
            rows[column] = rows.get(column, 0) + 1


def new_tree(
    name: str, inputs: dict[str, str], outputs: dict[str, str], modifier: bool = False
) -> tuple[Graph, list[bpy.types.NodeSocket], list[bpy.types.NodeSocket], dict[str, str]]:
    """A new geometry-nodes tree with sockets of these names and kinds (`Float` for `NodeSocketFloat`).

    Returns the graph, the input node's outputs, the output node's inputs, and the inputs' identifiers by name.
    """
    tree = bpy.data.node_groups.new(name, "GeometryNodeTree")
    tree.is_modifier = modifier
    found = {}
    for direction, sockets in (("INPUT", inputs), ("OUTPUT", outputs)):
        for label, kind in sockets.items():
            socket = tree.interface.new_socket(name=label, in_out=direction, socket_type=f"NodeSocket{kind}")
            if direction == "INPUT":
                found[label] = socket.identifier
    graph = Graph(tree)
    entry = list(graph.node("NodeGroupInput").outputs)[: len(inputs)] if inputs else []
    return graph, entry, list(graph.node("NodeGroupOutput").inputs)[: len(outputs)], found
