# SPDX-License-Identifier: Apache-2.0
"""The pages: their examples run word for word, their tables name what is there, their pictures are small."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
FRAMES = 6


def examples(page: str, heading: str) -> str:
    """The Python code below a heading of a page."""
    text = (ROOT / page).read_text("utf-8")
    match = re.search(rf"^## {heading}\n(?:(?!^## ).*\n)*?```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert match, f"{page} has no Python below {heading!r}"
    return match.group(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with `samples/turn.mp4` (its first frames) and two clips in `clips/`."""
    folder = tmp_path_factory.mktemp("docs")
    for name in ("samples/turn.mp4", "clips/a.mp4", "clips/b.mp4"):
        (folder / name).parent.mkdir(exist_ok=True)
    capture = cv2.VideoCapture(str(ROOT / "samples/turn.mp4"))
    size = int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
    writer = cv2.VideoWriter(str(folder / "samples/turn.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 30, size)
    for _ in range(FRAMES):
        writer.write(capture.read()[1])
    writer.release()
    for name in "ab":
        shutil.copy(folder / "samples/turn.mp4", folder / f"clips/{name}.mp4")
    return folder


def run(code: str, folder: Path) -> list[str]:
    """Run an example in a Python of its own; the lines that it prints."""
    env = {**os.environ, "PYTHONPATH": str(ROOT / "core"), "PYTHONUTF8": "1"}
    result = subprocess.run([sys.executable, "-c", code], cwd=folder, env=env, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


def test_one_clip_and_its_heatmap(folder: Path) -> None:
    said = run(examples("docs/SCRIPTING.md", "One clip"), folder)
    assert said[0] == "360 480 30.0 [1]" and said[1].endswith(f" 0 {FRAMES - 1} (4, 13718, 3) ({FRAMES}, 104, 4)")
    (line,) = run(examples("docs/SCRIPTING.md", "The heatmap as numpy"), folder)
    with np.load(folder / "out/turn_heat.npz") as stored:
        heat = stored["heat"].astype(float)
    assert heat.shape == (FRAMES, 13718) and heat.min() >= 0 and heat.max() <= 1 and 0.2 < heat.mean() < 0.9
    assert f"frame {heat.mean(1).argmin()}: {heat.mean(1).min():.0%} " in line


def test_a_batch(folder: Path) -> None:
    said = run(examples("docs/SCRIPTING.md", "A batch"), folder)
    assert len(said) == 2 and all(line.startswith("ok ") and f".mp4 {FRAMES} " in line for line in said)
    lines = (folder / "night/results.jsonl").read_text("utf-8").splitlines()
    assert {Path(json.loads(line)["clip"]).name for line in lines} == {"a.mp4", "b.mp4"}


def test_pictures_are_small() -> None:
    """The pages load quickly, and the repository stays small."""
    for picture in (ROOT / "docs/images").iterdir():
        assert picture.suffix in (".png", ".jpg") and picture.stat().st_size < 400_000, picture.name


def test_architecture_names_files_that_are_there() -> None:
    """Every file that "where a new thing goes" names exists, so that the table stays true."""
    text = (ROOT / "docs/ARCHITECTURE.md").read_text("utf-8")
    table = text.split("## Where a new thing goes")[1].split("\n## ")[0]
    named = set(re.findall(r"`((?:core|meshpose_blender|training|tests|tools|weights|docs)/[\w./-]+\.\w+)`", table))
    assert len(named) > 10
    assert not [name for name in sorted(named) if not list(ROOT.glob(name.replace("NAME", "*")))]


@pytest.mark.parametrize("package", ["core/meshpose", "meshpose_blender"])
def test_architecture_names_every_room(package: str) -> None:
    text = (ROOT / "docs/ARCHITECTURE.md").read_text("utf-8")
    rooms = [file.stem for file in sorted((ROOT / package).glob("*.py")) if not file.stem.startswith("__")]
    assert len(rooms) > 10 and not [room for room in rooms if f"`{room}`" not in text]
