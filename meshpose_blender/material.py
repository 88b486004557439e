# SPDX-License-Identifier: GPL-3.0-or-later
"""Two materials: the visibility heatmap of the aligned mesh, and a plain skin for the skinned body."""

from __future__ import annotations

import bpy

from . import compat
from .playback import VISIBILITY

SKIN = (0.62, 0.40, 0.30, 1.0)
RIM = 0.65
"""How much darker the heatmap is where the surface turns away: enough to see the form, in a scene without a light."""


def heatmap(name: str) -> bpy.types.Material:
    """Shows the point attribute `visibility`, green (seen) to red (guessed), in Cycles and in Eevee.

    It glows by itself: the colours mean something and no light of the scene may change them.
    """
    material = bpy.data.materials.new(name)
    tree = compat.nodes_of(material)
    attribute = tree.nodes.new("ShaderNodeAttribute")
    attribute.attribute_name = VISIBILITY
    facing = tree.nodes.new("ShaderNodeLayerWeight")
    shade = tree.nodes.new("ShaderNodeMapRange")
    shade.inputs[3].default_value, shade.inputs[4].default_value = 1.0, 1.0 - RIM
    emission = tree.nodes.new("ShaderNodeEmission")
    output = tree.nodes.new("ShaderNodeOutputMaterial")
    tree.links.new(attribute.outputs[0], emission.inputs[0])
    tree.links.new(facing.outputs[1], shade.inputs[0])
    tree.links.new(shade.outputs[0], emission.inputs[1])
    tree.links.new(emission.outputs[0], output.inputs[0])
    for place, node in enumerate((facing, attribute, shade, emission, output)):
        node.location = (220.0 * place, -200.0 * (node == facing))
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
