# SPDX-License-Identifier: Apache-2.0
"""What stands in a .blend, read by Blender alone: imports nothing of ours, so it also runs where nothing is installed.

    python tests/blender/read_back.py FILE.blend OBJECT FRAME...                                   # the bpy wheel
    blender -b --factory-startup -P tests/blender/read_back.py -- FILE.blend OBJECT FRAME...       # a real Blender

Prints one line of JSON (it begins with a brace): per frame the number of vertices, and position and colour of every
500th vertex.
"""

from __future__ import annotations

import json
import sys

import bpy
import numpy as np

STEP = 500


def evaluated(target: bpy.types.Object, frame: int, subframe: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """World positions (n, 3) and colours of `visibility` (n, 4; zeros where there is none) on a scene frame."""
    bpy.context.scene.frame_set(frame, subframe=subframe)
    mesh = target.evaluated_get(bpy.context.evaluated_depsgraph_get()).to_mesh()
    count = len(mesh.vertices)
    positions, colours = np.zeros((count, 3), np.float32), np.zeros((count, 4), np.float32)
    if count:
        mesh.attributes["position"].data.foreach_get("vector", positions.ravel())
        if "visibility" in mesh.attributes:
            mesh.attributes["visibility"].data.foreach_get("color", colours.ravel())
    matrix = np.array(target.matrix_world)
    return positions @ matrix[:3, :3].T + matrix[:3, 3], colours


def summary(target: bpy.types.Object, frames: list[int]) -> list[dict[str, object]]:
    """As printed: what `evaluated` says, thinned out."""
    result = []
    for frame in frames:
        positions, colours = evaluated(target, frame)
        entry = {"frame": frame, "vertices": len(positions)}
        result.append({**entry, "positions": positions[::STEP].tolist(), "colours": colours[::STEP].tolist()})
    return result


if __name__ == "__main__":
    words = sys.argv[sys.argv.index("--") + 1 :] if "--" in sys.argv else sys.argv[1:]
    bpy.ops.wm.read_factory_settings(use_empty=True)
    bpy.ops.wm.open_mainfile(filepath=words[0])
    ours = sorted(name for name in sys.modules if name.startswith("meshpose"))
    print(json.dumps({"ours": ours, "frames": summary(bpy.data.objects[words[1]], [int(w) for w in words[2:]])}))
