# SPDX-License-Identifier: GPL-3.0-or-later
"""The formats: what each holds, and Blender's own exporter called so that the file says what we mean.

A new format is an entry of FORMATS and a function that writes what stands in the exporter's scene (`bake.Studio`).

Frame k of a file is picture k of the clip, counted from 0.  FBX and glTF begin at time 0; Alembic and USD carry the
scene's own frame numbers, so that they come back beside the footage where they were.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bpy
import numpy as np

from meshpose.errors import InputError, OutputError

from . import bake, compat
from .presets import Preset

MESH, RIG, BONES = "mesh", "rig", "bones"
"""What a file holds: the moving mesh as it falls on the pixels, the skinned body with its bones, bones alone."""


@dataclass(frozen=True)
class Cast:
    """One person as exporters need it.  bones is None where there is no rig, or no file wants one."""

    name: str
    mesh: bpy.types.Object
    body: bpy.types.Object | None
    bones: bake.Sampled | None


@dataclass(frozen=True)
class Part:
    """One kind of file.  suffix: end of its name; holds: MESH, RIG or BONES; operator: of bpy.ops; options: of it for a
    preset; y_up: data are turned to y up, so that nothing in the file is; scene_frames: not from 0; below: the skinned
    body is a child of its armature; influences: bones that a vertex follows at most where the preset does not say;
    room: bytes that a person's frame takes at most; corner_colours: a mesh's colours go in as bytes at the corners.
    """

    suffix: str
    holds: str
    operator: str
    options: Callable[[Preset, Sequence[int]], dict[str, object]]
    y_up: bool = False
    scene_frames: bool = False
    below: bool = True
    influences: int = 0
    room: int = 0
    corner_colours: bool = False


def _fbx(preset: Preset, frames: Sequence[int]) -> dict[str, object]:
    return {
        "object_types": {"ARMATURE", "MESH"},
        # Both leave scales at 1; the former says a unit of exactly 1 centimetre, the latter of 100.
        "apply_scale_options": "FBX_SCALE_CUSTOM" if preset.centimetres else "FBX_SCALE_UNITS",
        "axis_forward": "-Z",
        "axis_up": "Y",
        "use_mesh_modifiers": False,
        "mesh_smooth_type": "FACE",
        "add_leaf_bones": False,
        "bake_anim": True,
        "bake_anim_use_all_bones": True,
        "bake_anim_use_nla_strips": False,
        "bake_anim_use_all_actions": False,
        "bake_anim_simplify_factor": 0.0,
    }


def _gltf(preset: Preset, frames: Sequence[int]) -> dict[str, object]:
    return {
        "use_active_scene": True,
        "export_animations": True,
        "export_animation_mode": "ACTIVE_ACTIONS",  # all people in one animation: players play one
        "export_nla_strips_merged_animation_name": "motion",
        "export_force_sampling": True,
        "export_frame_range": True,
        "export_optimize_animation_size": False,
        "export_all_influences": True,  # the body has been limited already
        "export_morph": False,
        "export_extras": False,
    }


def _glb(preset: Preset, frames: Sequence[int]) -> dict[str, object]:
    return {**_gltf(preset, frames), "export_format": "GLB"}


def _separate(preset: Preset, frames: Sequence[int]) -> dict[str, object]:
    return {**_gltf(preset, frames), "export_format": "GLTF_SEPARATE"}


def _bvh(preset: Preset, frames: Sequence[int]) -> dict[str, object]:
    return {
        "global_scale": preset.bvh_scale,
        "frame_start": int(frames[0]),
        "frame_end": int(frames[1]),
        "rotate_mode": "ZYX",
    }


def _alembic(preset: Preset, frames: Sequence[int]) -> dict[str, object]:
    return {
        "start": int(frames[0]),
        "end": int(frames[1]),
        "visible_objects_only": False,
        "uvs": True,
        "normals": True,
        "vcolors": True,
        "as_background_job": False,
        "evaluation_mode": "RENDER",
    }


def _usd(preset: Preset, frames: Sequence[int]) -> dict[str, object]:
    return {
        "export_animation": True,
        "export_armatures": True,
        "visible_objects_only": False,
        "evaluation_mode": "RENDER",
        "export_normals": False,  # a corner's on every frame: four times the size, and every program makes its own
        "export_textures": False,
        "export_textures_mode": "KEEP",
        "convert_world_material": False,
        "export_custom_properties": False,
    }


FORMATS: dict[str, tuple[Part, ...]] = {
    "fbx": (Part(".fbx", RIG, "export_scene.fbx", _fbx, y_up=True),),
    # A skinned mesh of glTF belongs at the top; a reader has to know four influences and may ignore more.
    "glb": (Part(".glb", RIG, "export_scene.gltf", _glb, below=False, influences=4),),
    "gltf": (Part(".gltf", RIG, "export_scene.gltf", _separate, below=False, influences=4),),
    "bvh": (Part(".bvh", BONES, "export_anim.bvh", _bvh, y_up=True),),
    "usd": (
        Part(".usdc", MESH, "wm.usd_export", _usd, scene_frames=True, room=600_000),
        Part("_rig.usdc", RIG, "wm.usd_export", _usd, scene_frames=True),
    ),
    "abc": (Part(".abc", MESH, "wm.alembic_export", _alembic, scene_frames=True, room=1_300_000, corner_colours=True),),
}


def parse(words: str | Sequence[str] | None, more: Sequence[str] = ()) -> list[str]:
    """Formats from `fbx,bvh`, each once.  InputError for one that is neither in FORMATS nor among `more`."""
    listed = words.split(",") if isinstance(words, str) else list(words or ())
    known = [*FORMATS, *more]
    names = list(dict.fromkeys(word.strip().lower().removeprefix(".") for word in listed))
    for name in names:
        if name not in known:
            raise InputError(f"--export {name or 'nothing'}: there are {', '.join(known)}")
    return names


def require(names: Sequence[str]) -> None:
    """InputError where this Blender cannot write one of the formats."""
    for name in names:
        for part in FORMATS.get(name, ()):
            if compat.known_options(_operator(part), {}) is None:
                ours = f"this Blender ({bpy.app.version_string})"
                raise InputError(f"--export {name}: {ours} was built without it, or its add-on is off")


def _operator(part: Part) -> Any:
    module, name = part.operator.split(".")
    return getattr(getattr(bpy.ops, module), name)


def write(part: Part, path: Path, people: Sequence[Cast], preset: Preset, frames: Sequence[int]) -> None:
    """Write one file with these people on the scene frames (first, last).  OutputError where the exporter fails."""
    first, last = int(frames[0]), int(frames[1])
    _require_room(path, part.room * (last - first + 1) * len(people))
    shown = (first, last) if part.scene_frames else (0, last - first)
    size = 100.0 if part.suffix == ".fbx" and preset.centimetres else 1.0
    turn = bake.UP if part.y_up else np.eye(3)
    with bake.studio(bpy.context.scene, "MeshPose export", shown, turn, size) as room:
        turns_only = True
        for person in people:
            if part.holds == MESH:
                bake.mesh(room, person.mesh, person.name, frames, part.corner_colours)
            elif person.bones is not None:
                turns_only = bake.only_turns(bake.unscaled(person.bones))
                _add_rig(room, part, person, preset, shown[0], len(people) == 1)
        options = {**part.options(preset, shown), "filepath": str(path), "check_existing": False}
        if part.holds == BONES:
            room.select(room.scene.objects[0])
            options["root_transform_only"] = turns_only
        room.scene.frame_set(shown[0])
        if part.operator == "export_scene.gltf":
            _call_gltf(room, part, path, options, last - first)
        else:
            _call(part, path, options)


def _require_room(path: Path, wanted: int) -> None:
    """OutputError where the disk has not that many bytes: on a full one the Alembic writer ends Blender itself."""
    free = shutil.disk_usage(path.parent).free
    if free < wanted:
        sizes = f"may take {wanted / 1e6:.0f} MB and the disk has {free / 1e6:.0f} MB left"
        raise OutputError(f"{path.name}: it {sizes}; make room, or choose another folder")


def _add_rig(room: bake.Studio, part: Part, person: Cast, preset: Preset, first: int, alone: bool) -> None:
    """The person's bones in the exporter's scene, and the body that they move where the format holds it."""
    sampled = person.bones
    if sampled is None:
        return
    if part.holds == BONES:
        sampled = bake.unscaled(sampled)
    if preset.root and part.holds == RIG:
        sampled = bake.with_root(sampled)
    name = preset.armature if preset.armature and alone else person.name
    bones = bake.armature(room, sampled, name, first)
    if part.holds == RIG and person.body is not None:
        influences = preset.influences or part.influences
        bake.body(room, person.body, bones, sampled, f"{person.name} body", influences, part.below)


def _call_gltf(room: bake.Studio, part: Part, path: Path, options: dict[str, object], frames: int) -> None:
    """Call the exporter of glTF such that the file has the scene's rate.

    From 4.2 to 5.2 it multiplies by `fps_base` where it should divide: 29.97 frames a second become 30.03.  With the
    reciprocal that comes out right; a version that divides is found by what it wrote.
    """
    render = room.scene.render
    base = render.fps_base
    seconds = frames * base / render.fps
    for tried in (base,) if base == 1 or not frames else (1 / base, base):
        render.fps_base = tried
        _call(part, path, options)
        if abs(_last_time(path) - seconds) < 1e-4 * seconds:
            return


def _last_time(path: Path) -> float:
    """Seconds at the end of a glTF file's animation, .glb or .gltf; 0 where there is none."""
    data = path.read_bytes()
    if data[:4] == b"glTF":  # header of 12 bytes, then the first chunk: length, kind, JSON
        data = data[20 : 20 + int.from_bytes(data[12:16], "little")]
    document = json.loads(data)
    samplers = [sampler for animation in document.get("animations", []) for sampler in animation["samplers"]]
    return max((float(document["accessors"][sampler["input"]]["max"][0]) for sampler in samplers), default=0.0)


def _call(part: Part, path: Path, options: dict[str, object]) -> None:
    """Call Blender's exporter; what it prints goes nowhere, what it says as an error is raised."""
    operator = _operator(part)
    known = compat.known_options(operator, options)
    if known is None:
        raise InputError(f"{path.name}: this Blender has no {part.operator}")
    try:
        with _silent():
            ended = operator(**known)
    except RuntimeError as error:
        raise OutputError(f"{path.name}: Blender cannot write it ({_reason(error)})") from error
    if "FINISHED" not in ended or not path.is_file():
        raise OutputError(f"{path.name}: Blender's exporter wrote nothing")


def _reason(error: RuntimeError) -> str:
    """The line of an operator's error that says what went wrong: of a traceback that is its last one."""
    lines = [line for line in str(error).splitlines() if line[:1].strip() and not line.startswith("Location:")]
    return lines[-1].removeprefix("Error: ") if lines else "no reason given"


@contextmanager
def _silent() -> Iterator[None]:
    """Exporters in Python print what they do, and where they fail; we say that in one line."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def expected(name: str, people: Sequence[str], one_file: bool, stem: str) -> list[tuple[Part, str, list[int]]]:
    """Files of a format: its part, the file's name, which of the people are in it."""
    files = []
    for part in FORMATS[name]:
        if one_file and part.holds != BONES:  # a BVH file holds one skeleton
            files.append((part, f"{stem}{part.suffix}", list(range(len(people)))))
        else:
            files += [(part, f"{stem}_{person}{part.suffix}", [index]) for index, person in enumerate(people)]
    return files


def replace_all(folder: Path, target: Path) -> list[Path]:
    """Move all files of a folder into another, over those that have their names; in the order of their names."""
    moved = []
    for file in sorted(folder.iterdir()):
        os.replace(file, target / file.name)
        moved.append(target / file.name)
    return moved
