# SPDX-License-Identifier: GPL-3.0-or-later
"""What a file must be like for the program that opens it: units, root, influences, which format it likes best.

Adding a program is adding an entry of PRESETS; nothing else names one.
"""

from __future__ import annotations

from dataclasses import dataclass

from meshpose.errors import InputError


@dataclass(frozen=True)
class Preset:
    """How one program wants its files.

    label: the program.  formats: what is written when none is named.  centimetres: FBX holds centimetres, the unit of
    the format itself, instead of metres under a unit of 100 centimetres; scales are 1 either way.  armature: name of
    the armature in a file of one person ("": the person's).  root: a bone on the floor above all others carries the way
    over the floor, unless the rig has one.  bvh_scale: BVH has no units; this many of the file's are a metre.
    influences: bones that a vertex may follow in FBX, glTF and USD (0: all).
    """

    label: str
    formats: tuple[str, ...] = ("fbx",)
    centimetres: bool = False
    armature: str = ""
    root: bool = False
    bvh_scale: float = 1.0
    influences: int = 0


PRESETS = {
    "": Preset("Any program"),
    # Unreal counts centimetres, takes root motion from the topmost bone, and makes a node above it one bone more unless
    # that is called Armature in a file from Blender.  Eight influences are its skeletal meshes' usual limit.
    "unreal": Preset("Unreal", centimetres=True, armature="Armature", root=True, bvh_scale=100.0, influences=8),
    # Unity reads the file's unit, and four influences unless its quality settings say otherwise.
    "unity": Preset("Unity", root=True, influences=4),
    # Godot's root motion track is a bone of glTF; its skins hold four or eight.
    "godot": Preset("Godot", ("glb",), root=True, influences=8),
}
"""`""` is for everybody else: metres, the formats' own axes (y up, facing z), all influences."""


def preset(name: str | None) -> Preset:
    """The preset of a program.  InputError where there is none of that name."""
    found = PRESETS.get(name or "")
    if found is None:
        raise InputError(f"--preset {name}: there are {', '.join(sorted(filter(None, PRESETS)))}")
    return found
