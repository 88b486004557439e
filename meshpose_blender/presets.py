# SPDX-License-Identifier: GPL-3.0-or-later
"""What a file must be like for the program that opens it: units, axes, influences, which format it likes best.

Adding a program is adding an entry of PRESETS; nothing else names one.
"""

from __future__ import annotations

from dataclasses import dataclass

from meshpose.errors import InputError


@dataclass(frozen=True)
class Preset:
    """How one program wants its files.

    formats: what is written when none is named.  centimetres: FBX holds centimetres at scale 1, instead of metres under
    the unit of the file.  unit_in_file: FBX says its unit in the header and leaves scales at 1.  armature: name of the
    armature in the file ("": that of the file).  bvh_scale: BVH has no units; this many of the file's are a metre.
    influences: bones a vertex may follow in glTF (0: all).
    """

    formats: tuple[str, ...] = ("fbx",)
    centimetres: bool = False
    unit_in_file: bool = True
    armature: str = ""
    bvh_scale: float = 1.0
    influences: int = 0


PRESETS = {
    "": Preset(),
    # Unreal counts centimetres and takes a node above the bones for one more bone, unless it is called Armature.
    "unreal": Preset(("fbx",), centimetres=True, armature="Armature", bvh_scale=100.0, influences=8),
    "unity": Preset(("fbx",), influences=4),
    "godot": Preset(("glb",), influences=8),
}
"""`""` is for everybody else: metres, glTF's and FBX's own axes (y up), all influences."""


def preset(name: str | None) -> Preset:
    """The preset of a program.  InputError where there is none of that name."""
    found = PRESETS.get(name or "")
    if found is None:
        raise InputError(f"--preset {name}: there are {', '.join(sorted(filter(None, PRESETS)))}")
    return found
