# SPDX-License-Identifier: Apache-2.0
"""Exports from a shell: `python -m meshpose_blender TAKE --export ...`, `export TAKE ...`, and what they refuse."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import bpy
import numpy as np
import pytest
from exports import rigged_take
from panel_stand_ins import drawn
from takes import make_take
from test_smplx import write_model

import meshpose_blender
from meshpose.take import Take
from meshpose_blender import command, exporting, panel
from meshpose_blender.__main__ import main

FRAMES = 4


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rigged_take(tmp_path_factory.mktemp("takes") / "wälk 'it'.take", FRAMES)


@pytest.fixture
def take(original: Path, tmp_path: Path) -> Path:
    for file in original, original.with_suffix(".mp4"):
        shutil.copy(file, tmp_path)
    return tmp_path / original.name


def names(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


def test_scene_and_files_beside_it(take: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blend = take.with_name("scene.blend")
    assert main([str(take), "--out", str(blend), "--export", "bvh,abc", "--one-file"]) == 0
    lines = capsys.readouterr().out.splitlines()
    new = ["scene.abc", "scene_person01.bvh", "scene_person02.bvh"]
    assert f"{blend}: 2 people" in lines and [Path(line).name for line in lines if line.endswith(("abc", "bvh"))] == new
    assert names(take.parent) == {take.name, take.with_suffix(".mp4").name, "scene.blend", *new}


def test_files_alone_from_blenders_command(take: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    assert command.main(["export", str(take), "--export", "bvh", "--preset", "unreal", "--out", str(out)]) == 0
    assert names(out) == {f"{take.stem}_person01.bvh", f"{take.stem}_person02.bvh"}
    assert command.main(["export", str(take), "--export", "bvh"]) == 0
    assert f"{take.stem}_person01.bvh" in names(take.parent)


def test_bones_that_only_turn(take: Path, tmp_path: Path) -> None:
    """Of a mixamo rig none but the hips moves then: a BVH file has rotations alone below them."""
    channels = {}
    for extra in ([], ["--only-turns"]):
        out = tmp_path / f"out{len(extra)}"
        out.mkdir()
        words = ["export", str(take), "--export", "bvh", "--rig", "mixamo", "--out", str(out), *extra]
        assert command.main(words) == 0
        text = (out / f"{take.stem}_person01.bvh").read_text()
        channels[len(extra)] = [line.split()[1] for line in text.splitlines() if line.strip().startswith("CHANNELS")]
    assert channels[0].count("6") > 10, "shoulders and fingers shift"
    assert channels[1].count("6") == 1 and len(channels[1]) == len(channels[0])
    assert exporting.split(["run", "--only-turns", "a.mp4"]) == (["run", "a.mp4"], ["--only-turns"])


def test_smplx_beside_the_others(take: Path, tmp_path: Path) -> None:
    out, model = tmp_path / "out", write_model(tmp_path / "SMPLX_MALE.npz")
    out.mkdir()
    words = ["export", str(take), "--export", "smplx,bvh", "--smplx-model", str(model), "--out", str(out)]
    assert main(words) == 0
    people = [f"{take.stem}_person0{n}" for n in (1, 2)]
    assert names(out) == {f"{person}{end}" for person in people for end in (".bvh", "_smplx.npz")}
    with np.load(out / f"{people[1]}_smplx.npz") as file:
        assert file["body_pose"].shape == (FRAMES, 63) and str(file["gender"]) == "male"
        assert file["present"].tolist() == [False, False, False, True], "comes late, and is missed in the middle"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--export", "obj"], "--export obj: there are fbx, glb, gltf, bvh, usd, abc, smplx"),
        (["--export", "fbx", "--preset", "maya"], "--preset maya: there are godot, unity, unreal"),
        (["--export", "fbx", "--rig", "spider"], "--rig spider: there are "),
        (["--export", "smplx"], "--export smplx: give your own model file"),
        (["--export", "smplx", "--smplx-model", "no.npz"], "no.npz: "),
        (["--export"], "argument --export: expected one argument"),
        ([], "--export: say which formats: fbx,glb,gltf,bvh,usd,abc,smplx"),
    ],
)
def test_what_cannot_be_is_one_line(
    words: list[str], line: str, take: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = names(take.parent)
    assert main(["export", str(take), *words]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {line}") and said.count("\n") == 1
    assert names(take.parent) == before
    if words:
        assert main(["export", "--check", *words]) == 2


def test_nobody_and_unfinished_are_one_line(tmp_path: Path, take: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_take(tmp_path / "empty.take", frames=3, people=0).close()
    assert main(["export", str(tmp_path / "empty.take"), "--export", "abc"]) == 2
    assert "empty.take: there is nobody in it to be exported" in capsys.readouterr().err
    with Take.resume(take) as opened:
        opened._db.run("DELETE FROM job WHERE name = 'finished'")
    assert main([str(take), "--out", str(tmp_path / "x.blend"), "--export", "abc"]) == 2
    assert "this Take is not finished" in capsys.readouterr().err
    assert not (tmp_path / "x.blend").exists()


def test_check_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "--check", "--export=fbx,glb,usd,abc,bvh", "--preset=unity", "--one-file"]) == 0
    assert capsys.readouterr() == ("", "")


def test_batch_gives_every_take_to_this_blender(take: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []
    real = subprocess.run

    def stand_in(words: list[str], **options: Any) -> Any:
        started.append(words)
        return SimpleNamespace(returncode=1)

    monkeypatch.setattr(command.subprocess, "run", stand_in)
    words = ["batch", "a.mp4", "--out", "night", "--export=bvh", "--jobs", "2", "--preset", "unity"]
    assert command.main(words) == 1
    (core,) = started
    assert core[1:5] == ["-m", "meshpose", "batch", "--then"] and core[6:] == ["a.mp4", "--out", "night", "--jobs", "2"]
    names_of = {"{take}": str(take), "{folder}": str(tmp_path), "{name}": "made"}
    then = shlex.split(core[5])
    for name, value in names_of.items():
        then = [word.replace(name, value) for word in then]
    ended = real(then, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert {"made.blend", "made_person01.bvh", "made_person02.bvh"} <= names(tmp_path)
    monkeypatch.setattr(command.subprocess, "run", real)
    assert command.main(["batch", "a.mp4", "--out", str(tmp_path / "x"), "--export", "obj"]) == 2
    assert not (tmp_path / "x").exists()


def test_split() -> None:
    words = ["a.mp4", "--export", "fbx", "--height", "1.7", "--rig=mixamo", "--one-file", "--", "--export"]
    assert exporting.split(words) == (
        ["a.mp4", "--height", "1.7", "--", "--export"], ["--export", "fbx", "--rig=mixamo", "--one-file"]
    )  # fmt: skip
    assert exporting.parse([]) == exporting.Request() and not exporting.parse([])


# -- in the panel ------------------------------------------------------------------------------------------------------


@pytest.fixture
def registered() -> Iterator[None]:
    bpy.ops.wm.read_factory_settings(use_empty=True)
    meshpose_blender.register()
    yield
    meshpose_blender.unregister()


def test_button_and_script(registered: None, take: Path, tmp_path: Path) -> None:
    meshpose_blender.build_scene(take)
    settings = bpy.context.scene.meshpose_export
    assert settings.formats == {"FBX"} and settings.preset == "ANY"
    shown = drawn(panel.MESHPOSE_PT_export)
    assert ("prop", "formats") in shown and any("meshpose.export" in text for _, text in shown)
    settings.formats = {"ABC", "BVH"}
    settings.one_file = True
    assert bpy.ops.meshpose.export() == {"FINISHED"}
    beside = {f"{take.stem}.abc", f"{take.stem}_person01.bvh", f"{take.stem}_person02.bvh"}
    assert beside <= names(take.parent), "an unsaved file's go beside the Take"
    out = tmp_path / "out"
    out.mkdir()
    assert bpy.ops.meshpose.export(formats={"BVH"}, preset="UNREAL", folder=str(out)) == {"FINISHED"}
    assert names(out) == {f"{take.stem}_person01.bvh", f"{take.stem}_person02.bvh"}


def test_panel_says_what_is_missing(registered: None, take: Path, tmp_path: Path) -> None:
    assert not any("meshpose.export" in text for _, text in drawn(panel.MESHPOSE_PT_export)), "nobody there yet"
    meshpose_blender.build_scene(take)
    settings = bpy.context.scene.meshpose_export
    settings.formats = set()
    assert ("label", "Choose a format first") in drawn(panel.MESHPOSE_PT_export)
    settings.formats = {"SMPLX"}
    shown = drawn(panel.MESHPOSE_PT_export)
    assert ("label", "SMPL-X: choose your model file first") in shown and ("prop", "smplx_model") in shown
    with pytest.raises(RuntimeError, match="the folder is not there or cannot be written"):
        bpy.ops.meshpose.export(formats={"BVH"}, folder=str(tmp_path / "none"))
    with pytest.raises(RuntimeError, match="there is no such file"):
        bpy.ops.meshpose.export(formats={"SMPLX"}, smplx_model=str(tmp_path / "none.npz"))
