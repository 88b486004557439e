# SPDX-License-Identifier: Apache-2.0
"""`--export` of the core's commands: a Blender as a program, which a shell script stands in for here."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from takes import make_take

from meshpose import exporter
from meshpose.cli import main
from meshpose.errors import InputError

posix_only = pytest.mark.skipif(sys.platform == "win32", reason="the stand-in for Blender is a shell script")
Stand = Callable[[str], Path]

EXPORTS = """
[ "$1 $2 $3" = "-c meshpose export" ] || exit 9
case "$*" in *obj*) echo "warning: one" >&2; echo "error: --export obj: there are fbx" >&2; exit 2;; esac
case "$*" in *--check*) exit 0;; esac
out=$6; [ "$5" = --out ] || exit 8
[ "$FAIL" ] && { echo "error: cannot be written" >&2; exit 2; }
echo made > "$out/made.fbx"; echo "$out/made.fbx"; echo "$*" > "$out/words.txt"
"""


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A `blender` on the PATH that runs EXPORTS, and no Blender as a module."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "blender").write_text(f"#!/bin/sh\n{EXPORTS}")
    (folder / "blender").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    monkeypatch.setattr(exporter.importlib.util, "find_spec", lambda name: None)
    return folder


def options(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    exporter.add_options(parser)
    return parser.parse_args(words)


def test_words() -> None:
    assert exporter.words(options()) == []
    assert exporter.words(options("--preset", "godot")) == ["--preset=godot"]
    asked = exporter.words(options("--export", "fbx", "--rig", "mixamo", "--one-file", "--smplx-model", "a b.npz"))
    assert asked == ["--export=fbx", "--rig=mixamo", "--smplx-model=a b.npz", "--one-file"]
    assert exporter.words(options("--export", "bvh", "--only-turns")) == ["--export=bvh", "--only-turns"]
    with pytest.raises(InputError, match="--only-turns: it goes with --export"):
        exporter.words(options("--only-turns"))
    with pytest.raises(InputError, match="--rig: it goes with --export"):
        exporter.words(options("--rig", "mixamo"))


def test_without_blender_one_line_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(exporter.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="needs Blender with the MeshPose extension"):
        exporter.check(["--export=fbx"])


@posix_only
def test_the_programs_own_line(stand_in: Path) -> None:
    with pytest.raises(InputError, match=r"^--export obj: there are fbx$"):
        exporter.check(["--export=obj"])
    assert exporter.check(["--export=fbx"])[-4:] == ["{take}", "--out", "{folder}", "--export=fbx"]


@posix_only
def test_run_refuses_before_the_long_job(stand_in: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip = tmp_path / "no clip.mp4"
    assert main(["run", str(clip), "--out", str(tmp_path), "--export", "obj"]) == 2
    assert capsys.readouterr().err == "error: --export obj: there are fbx\n"


@posix_only
def test_export_of_a_take(stand_in: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_take(tmp_path / "x y.take", frames=1, people=1).close()
    command = exporter.check(["--export=fbx"])
    assert exporter.run(command, tmp_path / "x y.take") == 0
    assert "x y.take" in (tmp_path / "words.txt").read_text()
    monkeypatch.setenv("FAIL", "1")
    assert exporter.run(command, tmp_path / "x y.take") == 2


@posix_only
def test_batch_lists_what_was_exported(stand_in: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The job itself is a stand-in, too: what matters is who is called with the finished Take, and results.jsonl."""
    from meshpose import batch

    clip = tmp_path / "a.mp4"
    make_take(tmp_path / "source.take", frames=2, people=1).close()
    clip.write_bytes((tmp_path / "source.mp4").read_bytes())
    code = "import shutil, sys; a = sys.argv; shutil.copy(a[1], a[a.index('--out') + 1] + '/a.take')"
    program = (sys.executable, "-c", code, str(tmp_path / "source.take"))
    out = tmp_path / "out"
    then = [exporter.check(["--export=fbx"])]
    (result,) = batch.convert_many([clip], out, 1, words=(), then=then, program=program)
    assert result.status == "ok", result.error
    assert str(out / "a" / "made.fbx") in result.outputs
    line = json.loads((out / "results.jsonl").read_text())
    assert line["outputs"] == result.outputs
    # Other exports are wanted now: what is finished does not count.
    assert batch.convert_many([clip], out, 1, resume=True, then=then, program=program) == [result]
    monkeypatch.setenv("FAIL", "1")
    (again,) = batch.convert_many([clip], out, 1, True, then=[exporter.check(["--export=abc"])], program=program)
    assert again.status == "failed" and again.error == "cannot be written"
