# SPDX-License-Identifier: Apache-2.0
"""The way without an installed Blender: `pip install .[blender]` in a fresh environment, then a clip to a .blend."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import cv2
import pytest

ROOT = Path(__file__).resolve().parents[1]
FRAMES = 4

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.version_info[:2] not in ((3, 11), (3, 13)), reason="no bpy wheel for this Python"),
]


def test_pip_install_with_blender(tmp_path: Path) -> None:
    env = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}
    python = tmp_path / "venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")

    def run(*words: str | Path, cwd: Path = tmp_path) -> str:
        result = subprocess.run([*map(str, words)], cwd=cwd, env=env, capture_output=True, text=True, timeout=3000)
        assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
        return result.stdout

    run(sys.executable, "-m", "venv", tmp_path / "venv")
    run(python, "-m", "pip", "install", "--quiet", f"{ROOT}[blender]")
    where = run(python, "-c", "import meshpose; print(meshpose.__file__)").strip()
    assert where.startswith(str(tmp_path / "venv"))

    capture = cv2.VideoCapture(str(ROOT / "samples/turn.mp4"))
    (tmp_path / "clip").mkdir()
    for index in range(FRAMES):
        cv2.imwrite(str(tmp_path / f"clip/{index:04}.png"), capture.read()[1])
    run(python.with_name("meshpose"), "run", tmp_path / "clip", "--out", tmp_path / "out", "--no-preview")
    # The extension is GPL and not in the core's wheel: it is run from the checkout.
    take, blend = tmp_path / "out/clip.take", tmp_path / "out/clip.blend"
    run(python, "-m", "meshpose_blender", take, "--out", blend, cwd=ROOT)
    seen = "import bpy, sys; bpy.ops.wm.open_mainfile(filepath=sys.argv[1]); print([o.type for o in bpy.data.objects])"
    kinds = run(python, "-c", seen, blend)
    assert "ARMATURE" in kinds and "CAMERA" in kinds and "MESH" in kinds
