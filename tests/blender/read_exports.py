# SPDX-License-Identifier: Apache-2.0
"""What stands in an exported file, read by Blender's own importers: nothing of ours is imported.

    python tests/blender/read_exports.py FILE.fbx FILE.glb ...                                  # the bpy wheel
    blender -b --factory-startup -P tests/blender/read_exports.py -- FILE.fbx FILE.glb ...

Prints one line of JSON: per file the bones of its armatures, the vertices of its meshes, and how far the bone that
moves most travels over the scene, in metres.
"""

from __future__ import annotations

import json
import os
import sys

import bpy
import numpy as np

IMPORTERS = {
    ".fbx": lambda path: bpy.ops.import_scene.fbx(filepath=path),
    ".glb": lambda path: bpy.ops.import_scene.gltf(filepath=path),
}


def look(path: str) -> dict[str, object]:
    """One file, in an empty scene."""
    bpy.ops.wm.read_factory_settings(use_empty=True)
    IMPORTERS[os.path.splitext(path)[1]](path)
    rigs = [o for o in bpy.data.objects if o.type == "ARMATURE"]
    frames = [a.frame_range for a in bpy.data.actions]
    first, last = min(f[0] for f in frames), max(f[1] for f in frames)
    places = []
    for frame in np.linspace(first, last, 5):
        bpy.context.scene.frame_set(int(frame))
        places.append([[list((rig.matrix_world @ b.matrix).translation) for b in rig.pose.bones] for rig in rigs][0])
    travel = np.ptp(np.array(places), axis=0).max() if rigs else 0.0
    return {
        "file": os.path.basename(path),
        "bones": [len(rig.data.bones) for rig in rigs],
        "vertices": sorted(len(o.data.vertices) for o in bpy.data.objects if o.type == "MESH"),
        "frames": [float(first), float(last)],
        "travel": float(travel),
    }


if __name__ == "__main__":
    words = sys.argv[sys.argv.index("--") + 1 :] if "--" in sys.argv else sys.argv[1:]
    print(json.dumps([look(word) for word in words]), flush=True)
    os._exit(0)  # bpy 4.2 crashes when Python ends after glTF
