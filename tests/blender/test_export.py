# SPDX-License-Identifier: Apache-2.0
"""Exports, read back by what did not write them: Blender's importers in a fresh process, the Khronos validator, bvhio,
Pixar's USD.  Two people, one of whom comes late, is missed for a frame, and has a rig that the user has moved.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bpy
import bvhio
import numpy as np
import pytest
from exports import bone_names, bone_order, move_rig, read_back, rigged_take, seen, validate

from meshpose.errors import InputError, OutputError
from meshpose_blender import bake, formats
from meshpose_blender.export import ExportSettings, export_people, write_blend
from meshpose_blender.scene import BuiltTake, takes

FRAMES, FPS = 8, 25.0
ALL = ("fbx", "glb", "gltf", "bvh", "usd", "abc")
EXACT, CLOSE = 1e-4, 1e-3  # metres: meshes, joints


class Case:
    """The saved scene, what Blender shows of it, its exports and what the importers make of them."""

    def __init__(self, folder: Path) -> None:
        take = rigged_take(folder / "walk.take", FRAMES)
        write_blend(take, folder / "walk.blend")
        bpy.ops.wm.open_mainfile(filepath=str(folder / "walk.blend"))
        built = takes(bpy.context.scene)[0]
        move_rig(built)
        bpy.context.scene.frame_set(3)
        bpy.context.view_layer.objects.active = built.people[0].armature
        bpy.ops.object.mode_set(mode="POSE")
        before = inventory()
        self.folder, self.out = folder, folder / "out"
        self.out.mkdir()
        self.files = export_people(built, self.out / "walk", ExportSettings(ALL))
        self.after = (before, inventory())
        bpy.ops.object.mode_set(mode="OBJECT")
        bpy.ops.wm.save_as_mainfile(filepath=str(folder / "moved.blend"), check_existing=False)
        self.names = bone_names(built)
        self.shown = seen(built, range(1, FRAMES + 1))
        readable = [file for file in self.files if file.suffix not in (".bvh", ".bin")]
        self.read = read_back(readable, folder, FPS, FRAMES)

    def objects(self, file: str, what: str) -> list[np.ndarray]:
        return [values for key, values in self.read.items() if key.startswith(f"{file}|") and key.endswith(f"|{what}")]


def inventory() -> dict[str, object]:
    """What a user would see changed."""
    scene = bpy.context.scene
    kinds = ("objects", "meshes", "armatures", "actions", "scenes", "images", "node_groups", "collections")
    names = {kind: sorted(block.name for block in getattr(bpy.data, kind)) for kind in kinds}
    active = bpy.context.view_layer.objects.active
    now = {"scene": scene.name, "frame": scene.frame_current, "active": active and (active.name, active.mode)}
    return {**names, **now}


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(tmp_path_factory.mktemp("export"))


def test_a_file_for_each_person_and_nothing_else(case: Case) -> None:
    names = {file.name for file in case.files}
    ends = [".fbx", ".glb", ".gltf", ".bin", ".bvh", ".usdc", "_rig.usdc", ".abc"]
    assert names == {f"walk_person0{n}{end}" for n in (1, 2) for end in ends}
    assert {file.name for file in case.out.iterdir()} == names
    assert case.after[0] == case.after[1], "the user's file is as it was"


@pytest.mark.parametrize("end", [".fbx", ".glb", ".gltf", "_rig.usdc"])
@pytest.mark.parametrize("person", [1, 2])
def test_joints_of_skinned_rigs(case: Case, end: str, person: int) -> None:
    file = f"walk_person0{person}{end}"
    (bones,), (heads,) = case.objects(file, "bones"), case.objects(file, "heads")
    wanted = case.shown[person, "heads"]
    assert heads.shape == (FRAMES, len(case.names[person]), 3), "no bone more or less"
    error = np.linalg.norm(heads[:, bone_order(bones, case.names[person])] - wanted, axis=-1).max()
    print(f"{file}: joints off by at most {1e3 * error:.4f} mm")
    assert error < CLOSE
    assert np.linalg.norm(np.diff(wanted, axis=0), axis=-1).max() > 0.05  # something moved


@pytest.mark.parametrize("end", [".fbx", "_rig.usdc"])
@pytest.mark.parametrize("person", [1, 2])
def test_skinned_surface(case: Case, end: str, person: int) -> None:
    (vertices,) = case.objects(f"walk_person0{person}{end}", "vertices")
    wanted = case.shown[person, "body"]
    there = np.isfinite(wanted).all((1, 2))
    assert there.sum() == (FRAMES if person == 1 else FRAMES - 3)
    assert np.linalg.norm(vertices[there] - wanted[there], axis=-1).max() < EXACT


@pytest.mark.parametrize("end", [".glb", ".gltf"])
def test_gltf_surface_with_four_influences(case: Case, end: str) -> None:
    """glTF splits vertices at the borders of the UV map: each is found by where it is on the first frame."""
    (vertices,) = case.objects(f"walk_person01{end}", "vertices")
    (influences,) = case.objects(f"walk_person01{end}", "influences")
    assert influences == 4
    wanted, some = case.shown[1, "body"], np.arange(0, vertices.shape[1], 40)
    nearest = np.linalg.norm(vertices[0, some, None] - wanted[0][None], axis=-1).argmin(1)
    error = np.linalg.norm(vertices[:, some] - wanted[:, nearest], axis=-1)
    print(f"{end}: mean {1e3 * error.mean():.2f} mm, worst {1e3 * error.max():.1f} mm")
    assert error.mean() < 1e-3 and error.max() < 0.03


@pytest.mark.parametrize("end", [".usdc", ".abc"])
@pytest.mark.parametrize("person", [1, 2])
def test_moving_mesh_is_exact(case: Case, end: str, person: int) -> None:
    (vertices,) = case.objects(f"walk_person0{person}{end}", "vertices")
    wanted = case.shown[person, "mesh"]
    there = np.isfinite(wanted).all((1, 2))
    assert vertices.shape == (FRAMES, 13718, 3)
    assert np.linalg.norm(vertices[there] - wanted[there], axis=-1).max() < EXACT
    assert np.ptp(vertices[~there], axis=1).max(initial=0) < 1e-6, "nobody there: nothing to see"
    assert there.all() == (person == 1)


def test_alembic_has_the_heatmap(case: Case) -> None:
    """On every frame its own, as bytes; the same as in the USD file of the last frame."""
    (shades,) = case.objects("walk_person01.abc", "shades")
    (exact,) = case.objects("walk_person01.usdc", "colour")
    assert shades.shape == (FRAMES, 13718, 4) and exact.shape == (13718, 4)
    print(f"colours off by at most {np.abs(shades[-1] - exact).max():.4f}")
    np.testing.assert_allclose(shades[-1], exact, atol=0.01)
    assert np.ptp(exact[:, :3], axis=0).max() > 0.1 and np.abs(np.diff(shades, axis=0)).max() > 0.1
    size = next(file for file in case.files if file.name == "walk_person01.abc").stat().st_size
    print(f"{size / FRAMES / 1e6:.2f} MB a frame")


def test_usd_as_pixars_library_reads_it(case: Case) -> None:
    code = (
        "import json, sys\nfrom pxr import Usd, UsdGeom\n"
        "stage = Usd.Stage.Open(sys.argv[1])\n"
        "mesh = next(UsdGeom.Mesh(p) for p in stage.Traverse() if p.IsA(UsdGeom.Mesh))\n"
        "frames = list(range(int(stage.GetStartTimeCode()), int(stage.GetEndTimeCode()) + 1))\n"
        "points = [[UsdGeom.XformCache(f).GetLocalToWorldTransform(mesh.GetPrim()).Transform(p)[:] for p in \n"
        "          [tuple(map(float, q)) for q in mesh.GetPointsAttr().Get(f)[::500]]] for f in frames]\n"
        "json.dump({'up': str(UsdGeom.GetStageUpAxis(stage)), 'metres': UsdGeom.GetStageMetersPerUnit(stage),\n"
        "  'rate': stage.GetTimeCodesPerSecond(), 'frames': frames, 'points': [[list(p) for p in f] for f in points],\n"
        "  'colours': sorted(p.GetPrimvarName() for p in UsdGeom.PrimvarsAPI(mesh).GetPrimvars())}, sys.stdout)\n"
    )
    file = case.out / "walk_person02.usdc"
    said = subprocess.run([sys.executable, "-c", code, str(file)], capture_output=True, text=True)
    if "No module named 'pxr'" in said.stderr:
        pytest.skip("needs usd-core")
    assert said.returncode == 0, said.stderr
    known = json.loads(said.stdout)
    assert (known["up"], known["metres"], known["rate"]) == ("Z", 1.0, FPS)
    assert known["frames"] == list(range(1, FRAMES + 1)) and "visibility" in known["colours"]
    wanted = case.shown[2, "mesh"][:, ::500]
    there = np.isfinite(wanted).all((1, 2))
    assert np.linalg.norm(np.array(known["points"])[there] - wanted[there], axis=-1).max() < EXACT


@pytest.mark.parametrize("person", [1, 2])
def test_bvh_as_bvhio_reads_it(case: Case, person: int) -> None:
    file = case.out / f"walk_person0{person}.bvh"
    head = bvhio.readAsBvh(str(file))
    assert head.FrameCount == FRAMES and abs(head.FrameTime - 1 / FPS) < 1e-6
    root = bvhio.readAsHierarchy(str(file))
    wanted = case.shown[person, "heads"]
    for frame in range(FRAMES):
        root.loadPose(frame)
        found = {joint.Name: joint.PositionWorld for joint, _, _ in root.layout()}
        x, y, z = np.array([list(found[name]) for name in case.names[person]]).T
        error = np.linalg.norm(np.stack([x, -z, y], -1) - wanted[frame], axis=-1).max()  # y up to z up
        assert error < CLOSE, f"frame {frame}: {1e3 * error:.2f} mm"
    channels = {len(joint.Channels) for joint, _, _ in head.Root.layout() if joint is not head.Root}
    assert channels <= {3, 0} and len(head.Root.Channels) == 6, "bones turn, the root moves"


@pytest.mark.parametrize("end", [".glb", ".gltf"])
def test_gltf_as_khronos_validates_it(case: Case, end: str) -> None:
    for person in (1, 2):
        report = validate(case.out / f"walk_person0{person}{end}")
        issues, info = report["issues"], report["info"]
        assert isinstance(issues, dict) and isinstance(info, dict)
        assert issues["numErrors"] == 0 and issues["numWarnings"] == 0, issues["messages"]
        assert info["animationCount"] == 1 and info["hasSkins"]


def test_gltf_times_are_the_clips(case: Case) -> None:
    document = json.loads((case.out / "walk_person01.gltf").read_text("utf-8"))
    inputs = {sampler["input"] for sampler in document["animations"][0]["samplers"]}
    ends = {(document["accessors"][i]["count"], document["accessors"][i]["min"][0]) for i in inputs}
    last = max(document["accessors"][i]["max"][0] for i in inputs)
    assert (FRAMES, 0.0) in ends and {start for _, start in ends} == {0.0}
    assert abs(last - (FRAMES - 1) / FPS) < 1e-6


def test_gltf_times_at_a_rate_that_is_no_whole_number(case: Case, tmp_path: Path) -> None:
    built = opened(case)
    bpy.context.scene.render.fps, bpy.context.scene.render.fps_base = 24, 1.001
    (_, file) = export_people(built, tmp_path / "x", ExportSettings(("gltf",)), people=[1])
    document = json.loads(file.read_text("utf-8"))
    samplers = document["animations"][0]["samplers"]
    last = max(document["accessors"][sampler["input"]]["max"][0] for sampler in samplers)
    assert abs(last - (FRAMES - 1) * 1.001 / 24) < 1e-5
    assert abs(bpy.context.scene.render.fps_base - 1.001) < 1e-6


# -- faults ------------------------------------------------------------------------------------------------------------


def test_unknown_formats_and_presets_are_one_line() -> None:
    with pytest.raises(InputError, match="--export obj: there are fbx, glb, gltf, bvh, usd, abc"):
        ExportSettings(("obj",))
    with pytest.raises(InputError, match="--preset maya: there are godot, unity, unreal"):
        ExportSettings(("fbx",), preset="maya")
    assert ExportSettings(preset="godot").formats == ("glb",)
    assert formats.parse("FBX, .bvh,fbx") == ["fbx", "bvh"]


def test_a_blender_without_the_format_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    lacking = formats.Part(".abc", formats.MESH, "wm.not_in_this_build", lambda preset, frames: {})
    monkeypatch.setitem(formats.FORMATS, "abc", (lacking,))
    with pytest.raises(InputError, match=r"--export abc: this Blender \(.*\) was built without it"):
        ExportSettings(("abc",))


def opened(case: Case) -> BuiltTake:
    bpy.ops.wm.open_mainfile(filepath=str(case.folder / "moved.blend"))
    return takes(bpy.context.scene)[0]


def test_nobody_and_no_rig_are_one_line(case: Case, tmp_path: Path) -> None:
    built = opened(case)
    with pytest.raises(InputError, match="nobody in it to be exported"):
        export_people(built, tmp_path / "x", ExportSettings(("fbx",)), people=[7])
    for person in built.people:
        bpy.data.objects.remove(person.armature)
    again = takes(bpy.context.scene)[0]
    with pytest.raises(InputError, match="nobody in it has a rig; bvh cannot be written"):
        export_people(again, tmp_path / "x", ExportSettings(("bvh",)))
    assert list(tmp_path.iterdir()) == []


def test_a_failure_leaves_earlier_files_alone(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = opened(case)
    earlier = tmp_path / "x_person01.bvh"
    earlier.write_text("of yesterday")
    before = inventory()
    broken = formats.Part(".abc", formats.MESH, "wm.alembic_export", lambda preset, frames: {"start": 3, "end": 1})
    monkeypatch.setitem(formats.FORMATS, "abc", (broken,))
    monkeypatch.setattr(formats, "_call", failing(formats._call))
    with pytest.raises(OutputError, match="x_person01.abc"):
        export_people(built, tmp_path / "x", ExportSettings(("bvh", "abc")))
    assert earlier.read_text() == "of yesterday" and list(tmp_path.iterdir()) == [earlier]
    assert inventory() == before


def failing(call: Callable[..., None]) -> Callable[..., None]:
    """The exporter's call, which fails for Alembic as Blender fails: with a RuntimeError inside."""

    def instead(part: formats.Part, path: Path, options: dict[str, object]) -> None:
        if part.suffix == ".abc":
            options = {**options, "filepath": str(path / "no" / "such" / "folder" / "x.abc")}
        call(part, path, options)

    return instead


def test_a_full_disk_is_one_line(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before it begins: the Alembic writer ends Blender on a full disk (seen on a small tmpfs)."""
    left = shutil.disk_usage(tmp_path)._replace(free=1_000_000)
    monkeypatch.setattr(formats.shutil, "disk_usage", lambda path: left)
    with pytest.raises(OutputError, match="x_person01.abc: it may take [0-9]+ MB and the disk has 1 MB left"):
        export_people(opened(case), tmp_path / "x", ExportSettings(("abc",)))
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_blender_left_behind_goes(case: Case, tmp_path: Path) -> None:
    for name, age in ((".x.abc.part", 1e6), (".x.new.part", 0.0), (".y.old.part", 1e6)):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    export_people(opened(case), tmp_path / "x", ExportSettings(("bvh",)), people=[1])
    assert {file.name for file in tmp_path.iterdir()} == {".x.new.part", ".y.old.part", "x_person01.bvh"}


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_one_line(case: Case, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="cannot be written; choose another"):
        export_people(opened(case), tmp_path / "x", ExportSettings(("bvh",)))


def test_a_folder_that_is_not_there_is_one_line(case: Case, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="the folder is not there or cannot be written"):
        export_people(opened(case), tmp_path / "no" / "x", ExportSettings(("bvh",)))


# -- one file, programs ------------------------------------------------------------------------------------------------


def test_one_file_with_everybody(case: Case, tmp_path: Path) -> None:
    built = opened(case)
    settings = ExportSettings(("fbx", "glb", "abc"), one_file=True)
    files = export_people(built, tmp_path / "walk", settings)
    assert [file.name for file in files] == ["walk.abc", "walk.fbx", "walk.glb"]
    read = read_back(files, case.folder, FPS, FRAMES)
    for file in ("walk.fbx", "walk.glb"):
        for person in (1, 2):
            heads = read[f"{file}|person0{person}|heads"]
            order = bone_order(read[f"{file}|person0{person}|bones"], case.names[person])
            assert np.linalg.norm(heads[:, order] - case.shown[person, "heads"], axis=-1).max() < CLOSE
    assert sum(key.startswith("walk.abc|") and key.endswith("|vertices") for key in read) == 2


@pytest.mark.parametrize("program", ["unreal", "unity"])
def test_fbx_says_what_the_program_wants(case: Case, tmp_path: Path, program: str) -> None:
    built = opened(case)
    (_, file) = export_people(built, tmp_path / "walk", ExportSettings(("fbx",), program))
    known = fbx_facts(file)
    assert known["up"] == 1 and known["fps"] == FPS
    assert known["unit"] == {"unreal": 1.0, "unity": 100.0}[program]
    armature = {"unreal": "Armature", "unity": "person02"}[program]
    assert armature in known["nodes"] and not known["turned"] and not known["scaled"], known
    assert known["top"] == [bake.ROOT]
    read = read_back([file], case.folder, FPS, FRAMES)
    (bones,) = [value for key, value in read.items() if key.endswith("|bones")]
    (heads,) = [value for key, value in read.items() if key.endswith("|heads")]
    error = np.linalg.norm(heads[:, bone_order(bones, case.names[2])] - case.shown[2, "heads"], axis=-1).max()
    assert error < CLOSE
    root = heads[:, list(bones).index(bake.ROOT)]
    assert np.abs(root[:, 2]).max() < CLOSE
    assert np.abs(root[:, :2] - case.shown[2, "heads"][:, 0, :2]).max() < CLOSE, "under the hips"
    assert max(int(v) for key, v in read.items() if key.endswith("|influences")) == {"unreal": 8, "unity": 4}[program]


def fbx_facts(file: Path) -> dict[str, Any]:
    """What an FBX file says of itself, from its elements as Blender's own parser gives them."""
    from io_scene_fbx import parse_fbx

    top, _ = parse_fbx.parse(str(file))
    part = {element.id: element for element in top.elems if element is not None}
    settings = {p.props[0]: p.props[4:] for p in _child(part[b"GlobalSettings"], b"Properties70").elems}
    modes = {6: 30.0, 10: 25.0, 11: 24.0, 14: settings.get(b"CustomFrameRate", [0.0])[0]}
    models = {e.props[0]: e for e in part[b"Objects"].elems if e.id == b"Model"}
    names = {number: e.props[1].split(b"\0")[0].decode() for number, e in models.items()}
    kinds = {number: e.props[2] for number, e in models.items()}
    links = [(e.props[1], e.props[2]) for e in part[b"Connections"].elems if e.props[0] == b"OO"]
    nulls = {number for number, kind in kinds.items() if kind == b"Null"}
    top_bones = [names[c] for c, p in links if kinds.get(c) == b"LimbNode" and p in nulls]
    turned, scaled = [], []
    for number in nulls | {n for n, kind in kinds.items() if kind == b"Mesh"}:
        for p in _child(models[number], b"Properties70").elems:
            if p.props[0] == b"Lcl Rotation" and np.abs(p.props[4:]).max() > 1e-4:
                turned.append((names[number], p.props[4:]))
            if p.props[0] == b"Lcl Scaling" and np.abs(np.array(p.props[4:]) - 1).max() > 1e-6:
                scaled.append((names[number], p.props[4:]))
    return {
        "unit": settings[b"UnitScaleFactor"][0],
        "up": settings[b"UpAxis"][0],
        "fps": modes.get(settings[b"TimeMode"][0]),
        "nodes": sorted(names[number] for number in nulls),
        "top": top_bones,
        "turned": turned,
        "scaled": scaled,
    }


def _child(element: Any, name: bytes) -> Any:
    return next(e for e in element.elems if e.id == name)


def test_glb_says_what_godot_wants(case: Case, tmp_path: Path) -> None:
    built = opened(case)
    settings = ExportSettings(("gltf",), "godot")
    export_people(built, tmp_path / "walk", settings, people=[2])
    document = json.loads((tmp_path / "walk_person02.gltf").read_text("utf-8"))
    attributes = document["meshes"][0]["primitives"][0]["attributes"]
    assert {name for name in attributes if name.startswith("JOINTS")} == {"JOINTS_0", "JOINTS_1"}
    nodes = document["nodes"]
    child_of = {child: number for number, node in enumerate(nodes) for child in node.get("children", [])}
    joints = document["skins"][0]["joints"]
    tops = [number for number in joints if child_of.get(number) not in joints]
    assert [nodes[number]["name"] for number in tops] == [bake.ROOT]
    armature = nodes[child_of[tops[0]]]
    assert not {"rotation", "scale", "translation", "matrix"} & set(armature), armature


def test_bvh_of_unreal_is_in_centimetres(case: Case, tmp_path: Path) -> None:
    (file,) = export_people(opened(case), tmp_path / "w", ExportSettings(("bvh",), "unreal"), people=[1])
    root = bvhio.readAsHierarchy(str(file))
    root.loadPose(0)
    x, y, z = np.array(root.PositionWorld) / 100
    assert np.abs(np.array([x, -z, y]) - case.shown[1, "heads"][0, 0]).max() < CLOSE


def test_the_exporters_scene_is_gone_after_a_crash_of_ours(case: Case) -> None:
    opened(case)
    before = inventory()
    with pytest.raises(ZeroDivisionError), bake.studio(bpy.context.scene, "x", (0, 1)) as room:
        target = bpy.data.objects.new("walk camera", None)
        room.add(target)
        room.name(target, "walk camera")
        raise ZeroDivisionError
    assert inventory() == before
