# SPDX-License-Identifier: Apache-2.0
"""What stands in exported files, read by Blender's importers alone: imports nothing of ours.

    python tests/blender/read_export.py OUT.npz FPS FRAMES FILE...

FBX is read by Blender's C++ importer (ufbx) where there is one, which shares nothing with its exporter.  Frame k of a
file, from 0 to FRAMES - 1, is read where the format puts it.  OUT.npz gets, for every file FILE (its name alone) and
object O: `FILE|O|bones` their names, `FILE|O|heads` (F, B, 3), `FILE|O|vertices` (F, N, 3), `FILE|O|shown` (F,) bool,
`FILE|O|influences` the most bones that a vertex follows, `FILE|O|matrix` (4, 4) of the object; metres, z up.
"""

from __future__ import annotations

import sys
from pathlib import Path

import bpy
import numpy as np

FIRST = {".fbx": 1, ".glb": 0, ".gltf": 0, ".usdc": 1, ".abc": 1}
"""Scene frame on which an importer puts a file's first frame, as we write them."""

STRETCH = {
    ".fbx": lambda rate: round(rate) / rate,
    ".glb": lambda rate: (round(rate) / rate) ** 2,
    ".gltf": lambda rate: (round(rate) / rate) ** 2,
}
"""Frames of the scene to one of the file at a rate such as 30 / 1.001: Blender's FBX importers leave `fps_base` out,
that of glTF multiplies by it instead of dividing."""


def load(path: Path, fps: float) -> None:
    """An empty scene of that rate with the file in it."""
    bpy.ops.wm.read_factory_settings(use_empty=True)
    scene = bpy.context.scene
    scene.render.fps, scene.render.fps_base = round(fps), round(fps) / fps
    kind = path.suffix
    if kind == ".fbx":
        new = hasattr(bpy.types, "WM_OT_fbx_import")
        operator = bpy.ops.wm.fbx_import if new else bpy.ops.import_scene.fbx
        operator(filepath=str(path))
        disconnect()
    elif kind in (".glb", ".gltf"):
        bpy.ops.import_scene.gltf(filepath=str(path))
    elif kind == ".usdc":
        bpy.ops.wm.usd_import(filepath=str(path), import_visible_only=False)
    else:
        bpy.ops.wm.alembic_import(filepath=str(path), as_background_job=False)


def disconnect() -> None:
    """Blender's FBX importer joins a bone to a parent whose tail it touches, and then ignores its location keys."""
    for target in [target for target in bpy.context.scene.objects if target.type == "ARMATURE"]:
        bpy.context.view_layer.objects.active = target
        bpy.ops.object.mode_set(mode="EDIT")
        for bone in target.data.edit_bones:
            bone.use_connect = False
        bpy.ops.object.mode_set(mode="OBJECT")


def read(path: Path, fps: float, frames: int) -> dict[str, np.ndarray]:
    """As OUT.npz has it, of one file."""
    load(path, fps)
    found: dict[str, list[np.ndarray]] = {}
    once: dict[str, np.ndarray] = {}
    scene = bpy.context.scene
    for number in range(frames):
        at = FIRST[path.suffix] + number * STRETCH.get(path.suffix, lambda rate: 1.0)(fps)
        scene.frame_set(int(at), subframe=at - int(at))
        graph = bpy.context.evaluated_depsgraph_get()
        for target in scene.objects:
            key = f"{path.name}|{target.name}"
            posed = target.evaluated_get(graph)
            matrix = np.array(posed.matrix_world)
            if target.type == "ARMATURE":
                heads = np.array([bone.head for bone in posed.pose.bones])
                found.setdefault(f"{key}|heads", []).append(heads @ matrix[:3, :3].T + matrix[:3, 3])
                once[f"{key}|bones"] = np.array([bone.name for bone in posed.pose.bones])
            elif target.type == "MESH" and not target.name.startswith("Icosphere"):  # glTF's shape for bones
                mesh = posed.to_mesh()
                points = np.empty(3 * len(mesh.vertices), np.float32)
                mesh.vertices.foreach_get("co", points)
                found.setdefault(f"{key}|vertices", []).append(points.reshape(-1, 3) @ matrix[:3, :3].T + matrix[:3, 3])
                found.setdefault(f"{key}|shown", []).append(np.array(not posed.hide_render))
                most = max((sum(g.weight > 1e-6 for g in v.groups) for v in target.data.vertices), default=0)
                once[f"{key}|influences"] = np.array(most)
                if "visibility" in mesh.color_attributes:
                    colours = mesh.color_attributes["visibility"]
                    shades = np.empty(4 * len(colours.data), np.float32)
                    colours.data.foreach_get("color", shades)
                    shades = shades.reshape(-1, 4)
                    once[f"{key}|colour"] = shades
                    if colours.domain == "CORNER":  # one of a vertex's corners stands for it: all are alike
                        corners = np.empty(len(mesh.loops), np.int64)
                        mesh.loops.foreach_get("vertex_index", corners)
                        shown = np.zeros((len(mesh.vertices), 4), np.float32)
                        shown[corners] = shades
                        found.setdefault(f"{key}|shades", []).append(shown)
            once[f"{key}|matrix"] = np.array(target.matrix_world)
    return {**{key: np.array(values) for key, values in found.items()}, **once}


if __name__ == "__main__":
    out, fps, frames, *files = sys.argv[sys.argv.index("--") + 1 :] if "--" in sys.argv else sys.argv[1:]
    result: dict[str, np.ndarray] = {}
    for file in files:
        result |= read(Path(file), float(fps), int(frames))
    np.savez(out, **result)
    sys.stdout.flush()
