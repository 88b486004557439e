# SPDX-License-Identifier: GPL-3.0-or-later
"""Materials: the visibility heatmap of the aligned mesh, a plain skin for the skinned body, legend and ghosts."""

from __future__ import annotations

import bpy

from . import compat
from .playback import VISIBILITY

SKIN = (0.62, 0.40, 0.30, 1.0)
LIGHT = (-0.55, 0.5, -0.67)
SHADE = (0.02, 0.95)
"""Where the heatmap's own light comes from, in the shader's camera space (z away from the camera): over the left
shoulder; and its brightness on the far and on the near side."""


def heatmap(name: str) -> bpy.types.Material:
    """Shows the point attribute `visibility`, green (seen) to red (guessed), in Cycles and in Eevee.

    It glows by itself, shaded by a light of its own: the colours mean something, so no light of the scene may change
    them, and they show in a scene without one.
    """
    material = bpy.data.materials.new(name)
    tree = compat.nodes_of(material)
    attribute = tree.nodes.new("ShaderNodeAttribute")
    attribute.attribute_name = VISIBILITY
    surface = tree.nodes.new("ShaderNodeNewGeometry")
    turned = tree.nodes.new("ShaderNodeVectorTransform")
    turned.vector_type, turned.convert_from, turned.convert_to = "NORMAL", "WORLD", "CAMERA"
    towards = tree.nodes.new("ShaderNodeVectorMath")
    towards.operation = "DOT_PRODUCT"
    towards.inputs[1].default_value = LIGHT
    shade = tree.nodes.new("ShaderNodeMapRange")
    for socket, value in zip(shade.inputs[1:5], (-1.0, 1.0, *SHADE)):
        socket.default_value = value
    emission = tree.nodes.new("ShaderNodeEmission")
    output = tree.nodes.new("ShaderNodeOutputMaterial")
    tree.links.new(next(s for s in surface.outputs if s.identifier == "Normal"), turned.inputs[0])
    tree.links.new(turned.outputs[0], towards.inputs[0])
    tree.links.new(next(s for s in towards.outputs if s.identifier == "Value"), shade.inputs[0])
    tree.links.new(attribute.outputs[0], emission.inputs[0])
    tree.links.new(shade.outputs[0], emission.inputs[1])
    alpha = next(s for s in attribute.outputs if s.identifier == "Alpha")
    tree.links.new(_see_through(tree, emission.outputs[0], alpha), output.inputs[0])
    for place, node in enumerate((surface, turned, towards, shade, emission, output)):
        node.location = (220.0 * place, -200.0)
    attribute.location = (660.0, 100.0)
    return material


def skin(name: str) -> bpy.types.Material:
    """A plain skin, matt, the same colour in the viewport's solid mode."""
    material = bpy.data.materials.new(name)
    tree = compat.nodes_of(material)
    surface = tree.nodes.new("ShaderNodeBsdfPrincipled")
    surface.inputs[0].default_value = SKIN
    next(s for s in surface.inputs if s.identifier == "Roughness").default_value = 0.6
    output = tree.nodes.new("ShaderNodeOutputMaterial")
    output.location = (320.0, 0.0)
    tree.links.new(surface.outputs[0], output.inputs[0])
    material.diffuse_color = SKIN
    return material


def unlit(name: str) -> bpy.types.Material:
    """Shows the point attribute `visibility` as it is, without any light: for the legend."""
    material = bpy.data.materials.new(name)
    tree = compat.nodes_of(material)
    attribute = tree.nodes.new("ShaderNodeAttribute")
    attribute.attribute_name = VISIBILITY
    emission = tree.nodes.new("ShaderNodeEmission")
    output = tree.nodes.new("ShaderNodeOutputMaterial")
    tree.links.new(attribute.outputs[0], emission.inputs[0])
    tree.links.new(emission.outputs[0], output.inputs[0])
    return material


def ghost(name: str) -> bpy.types.Material:
    """The object's own colour and transparency, for Cycles and Eevee as Workbench shows them."""
    material = bpy.data.materials.new(name)
    tree = compat.nodes_of(material)
    info = tree.nodes.new("ShaderNodeObjectInfo")
    emission = tree.nodes.new("ShaderNodeEmission")
    output = tree.nodes.new("ShaderNodeOutputMaterial")
    colour, alpha = (next(s for s in info.outputs if s.identifier == key) for key in ("Color", "Alpha"))
    tree.links.new(colour, emission.inputs[0])
    tree.links.new(_see_through(tree, emission.outputs[0], alpha), output.inputs[0])
    return material


def _see_through(
    tree: bpy.types.NodeTree, surface: bpy.types.NodeSocket, alpha: bpy.types.NodeSocket
) -> bpy.types.NodeSocket:
    """`surface` in parts of `alpha` over what lies behind it."""
    clear = tree.nodes.new("ShaderNodeBsdfTransparent")
    mix = tree.nodes.new("ShaderNodeMixShader")
    tree.links.new(alpha, mix.inputs[0])
    tree.links.new(clear.outputs[0], mix.inputs[1])
    tree.links.new(surface, mix.inputs[2])
    return mix.outputs[0]
