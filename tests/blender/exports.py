# SPDX-License-Identifier: Apache-2.0
"""What the export tests share: a small Take with rigs, the scene as Blender evaluates it, readers that are not ours."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import bpy
import numpy as np
import pytest
from takes import make_take

from meshpose.body import AVERAGE_ADULT, Body, quaternion
from meshpose.landmarks import cache_folder
from meshpose.rig import RigFit
from meshpose.take import Take
from meshpose_blender.scene import BuiltTake

HERE = Path(__file__).resolve().parent
VALIDATOR = "gltf-validator@2.0.0-dev.3.10"
UPRIGHT = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]])
"""Body frame (z up) to camera frame (y down)."""


def rigged_take(path: Path, frames: int) -> Path:
    """Two people with made-up fits that bend and walk through the room: quick, and every bone has something to say.

    The second comes two frames late and is missed in the middle (`make_take`).
    """
    make_take(path, frames=frames, people=2).close()
    body = Body.load()
    with Take.resume(path) as take:
        for number in take.people:
            rows = take.person(number).frames
            random = np.random.default_rng(number)
            phase = rows[:, None] / 3 + random.uniform(0, 6, len(body.bone_names))
            turns = np.zeros((len(rows), len(body.bone_names), 4))
            turns[..., 0] = 1
            turns[..., 1:] = 0.12 * np.sin(phase)[..., None] * random.normal(size=(1, len(body.bone_names), 3))
            turns[:, 0] = quaternion(UPRIGHT) + (0, 0, 0, 0.1) * np.sin(rows / 2)[:, None]
            turns /= np.linalg.norm(turns, axis=-1, keepdims=True)
            place = np.stack([0.2 * rows + number, 0.9 + 0 * rows, 4 + 0.05 * rows], -1)
            phenotype = np.array(AVERAGE_ADULT) + (0.3 * number - 0.4, 0, 0.1, 0, 0.1 * number, 0)
            fit = RigFit(phenotype, 0.9 + 0.05 * number, turns.astype(np.float32), place, rows)
            take.set_fit(number, fit, "made by tests/blender/exports.py")
    return path


def rigs(built: BuiltTake) -> list[tuple[Any, Any]]:
    """Armature and skinned body of everybody, who all have them here."""
    return [(person.armature, person.body) for person in built.people]


def bone_names(built: BuiltTake) -> dict[int, list[str]]:
    """Names of the bones of everybody by id."""
    return {p.id: [bone.name for bone in armature.data.bones] for p, (armature, _) in zip(built.people, rigs(built))}


def seen(built: BuiltTake, frames: Sequence[int]) -> dict[tuple[int, str], np.ndarray]:
    """(person, "heads" | "body" | "mesh") -> world positions (F, n, 3) as Blender shows them; nan where nobody is."""
    names = bone_names(built)
    result: dict[tuple[int, str], list[np.ndarray]] = {}
    for _, body in rigs(built):
        body.hide_set(False)
    for frame in frames:
        bpy.context.scene.frame_set(int(frame))
        graph = bpy.context.evaluated_depsgraph_get()
        for person, (armature, body) in zip(built.people, rigs(built)):
            bones = armature.evaluated_get(graph)
            heads = np.array([bones.pose.bones[name].head for name in names[person.id]])
            result.setdefault((person.id, "heads"), []).append(_moved(heads, bones))
            for what, target in {"mesh": person.mesh, "body": body}.items():
                posed = target.evaluated_get(graph)
                mesh = posed.to_mesh()
                points = np.full((len(target.data.vertices), 3), np.nan, np.float32)
                if len(mesh.vertices):
                    mesh.vertices.foreach_get("co", points.ravel())
                result.setdefault((person.id, what), []).append(_moved(points, posed))
    return {key: np.array(values) for key, values in result.items()}


def _moved(points: np.ndarray, target: bpy.types.Object) -> np.ndarray:
    matrix = np.array(target.matrix_world)
    return points @ matrix[:3, :3].T + matrix[:3, 3]


def move_rig(built: BuiltTake) -> None:
    """What a user does: the second person's armature turned, enlarged, and sliding over the floor by its own keys."""
    rig, mesh = rigs(built)[1][0], built.people[1].mesh
    rig.scale, rig.rotation_euler = (1.3, 1.3, 1.3), (0.1, -0.2, 0.7)
    for frame, place in ((1, (0.0, 0.0, 0.0)), (8, (0.7, -0.4, 0.1))):
        rig.location = mesh.location = place
        for target in rig, mesh:
            target.keyframe_insert("location", frame=frame)
    mesh.rotation_euler, mesh.scale = (0.0, 0.0, 0.5), (0.8, 0.8, 0.8)


def read_back(files: Sequence[Path], folder: Path, fps: float, frames: int) -> dict[str, np.ndarray]:
    """What Blender's importers see in files, in a fresh process: see read_export.py."""
    out = folder / "read.npz"
    words = [str(out), str(fps), str(frames), *map(str, files)]
    done = subprocess.run([sys.executable, str(HERE / "read_export.py"), *words], capture_output=True, text=True)
    assert out.exists(), done.stdout[-2000:] + done.stderr[-4000:]  # 4.2 ends with a crash after a glTF file
    with np.load(out) as arrays:
        return {name: arrays[name] for name in arrays}


def bone_order(found: np.ndarray, wanted: Sequence[str]) -> list[int]:
    """Where the wanted bones are; USD has nothing but letters and digits in names."""
    plain = [re.sub(r"\W", "_", str(name)) for name in found]
    return [plain.index(re.sub(r"\W", "_", name)) for name in wanted]


def validate(file: Path) -> dict[str, object]:
    """The report of the Khronos validator, fetched by npm into the cache on first use; skips without npm or network."""
    npm, node = shutil.which("npm"), shutil.which("node")
    if npm is None or node is None:
        pytest.skip("needs npm and node")
    home = cache_folder() / VALIDATOR.replace("@", "-")
    if not (home / "package" / "index.js").is_file():
        home.mkdir(parents=True, exist_ok=True)
        command = [npm, "pack", VALIDATOR, "--silent", "--pack-destination", str(home)]
        packed = subprocess.run(command, capture_output=True, text=True, cwd=home)
        archives = list(home.glob("*.tgz"))
        if packed.returncode or not archives:
            pytest.skip(f"npm cannot load {VALIDATOR}")
        shutil.unpack_archive(archives[0], home, filter="data")
    code = (
        "const fs = require('fs'), path = require('path'), file = process.argv[1];"
        "const validator = require(process.argv[2]);"
        "const read = uri => Promise.resolve(new Uint8Array(fs.readFileSync(path.join(path.dirname(file), uri))));"
        "validator.validateBytes(new Uint8Array(fs.readFileSync(file)), {externalResourceFunction: read})"
        ".then(report => console.log(JSON.stringify(report)));"
    )
    command = [node, "-e", code, str(file), str(home / "package" / "index.js")]
    said = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "NODE_PATH": ""})
    assert said.returncode == 0, said.stderr
    report: dict[str, object] = json.loads(said.stdout)
    return report
