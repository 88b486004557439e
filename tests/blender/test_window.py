# SPDX-License-Identifier: Apache-2.0
"""The extension in a window: a real mouse click on Convert, progress in the panel, the body over the footage.

The window stands on a virtual screen of the fetched Blender's folder. Pictures go to the folder that the environment
variable MESHPOSE_PICTURES names (docs/images when the pages' pictures are made anew), else to a temporary one.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from test_real_blender import SAMPLE, archive, blender, cannot, launcher  # noqa: F401 - fixtures

from tools import get_blender

pytestmark = pytest.mark.slow

SCREEN = (1280, 800)
CONVERT = 73  # pixels from the sidebar's upper edge to the middle of the button Convert, at the normal scale
HEATMAP = 292  # the same to the header of the sub-panel Heatmap, once the sample is converted
LEGEND = HEATMAP + 57  # and to its switch Legend, once that is open
FRAME = 40  # the scene frame of the last picture
STEPS = Path(__file__).with_name("window_steps.py")


class Screen:
    """A virtual screen and the programs that act on it."""

    def __init__(self, folder: Path, number: int) -> None:
        self.enter, self.name = folder / "enter", f":{number}"
        size = f"{SCREEN[0]}x{SCREEN[1]}x24"
        command = [str(self.enter), "Xvfb", self.name, "-screen", "0", size, "+extension", "GLX", "-nolisten", "tcp"]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until(Path(f"/tmp/.X11-unix/X{number}").exists, 30)

    def do(self, *words: str | Path) -> None:
        """Run a program of the folder on this screen."""
        env = os.environ | {"DISPLAY": self.name}
        subprocess.run([self.enter, *words], check=True, env=env, timeout=60, capture_output=True)

    def click(self, x: int, y: int) -> None:
        """Move the mouse there and press its left button."""
        self.do("xdotool", "mousemove", str(x), str(y), "sleep", "0.5", "click", "1")

    def picture(self, path: Path, crop: tuple[int, int, int, int] | None = None) -> Path:
        """Write what the screen shows (or x, y, width, height of it) as a small PNG or JPEG."""
        cut = [] if crop is None else ["-crop", f"{crop[2]}x{crop[3]}+{crop[0]}+{crop[1]}", "+repage"]
        small = ["-quality", "88"] if path.suffix == ".jpg" else ["-depth", "8", "+dither", "-colors", "200"]
        self.do("import", "-window", "root", *cut, *small, "-strip", path)
        return path


def until(condition: Callable[[], Any], seconds: float) -> Any:
    """Wait for a true answer and return it."""
    end = time.monotonic() + seconds
    while not (answer := condition()):
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.2)
    return answer


@pytest.fixture(scope="module")
def screen(launcher: Path) -> Iterator[Screen]:  # noqa: F811
    number = next(n for n in range(87, 187) if not Path(f"/tmp/.X11-unix/X{n}").exists())
    screen = Screen(launcher.parent, number)
    yield screen
    screen.process.terminate()
    screen.process.wait()


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short name: it is on the pictures."""
    with tempfile.TemporaryDirectory(prefix="clips-") as name:
        yield Path(name)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return Path(os.environ.get("MESHPOSE_PICTURES", tmp_path)).resolve()


def test_click_on_convert(screen: Screen, blender: Any, pictures: Path, folder: Path, tmp_path: Path) -> None:  # noqa: F811
    if not SAMPLE.is_file():
        cannot(f"{SAMPLE} is missing")
    clip = folder / "turn.mp4"
    clip.write_bytes(SAMPLE.read_bytes())
    log = tmp_path / "window.log"
    command = [blender.launcher, "--window-geometry", "0", "0", *map(str, SCREEN), "--no-window-focus"]
    command += ["--python", str(STEPS), "--", str(clip), str(FRAME)]
    env = os.environ | {"DISPLAY": screen.name, "BLENDER_USER_RESOURCES": str(blender.resources)}

    def said(key: str) -> list[dict[str, Any]]:
        lines = [line for line in log.read_text().splitlines() if line.startswith("{")]
        return [entry for entry in map(json.loads, lines) if key in entry]

    with log.open("w") as stream, subprocess.Popen(command, stdout=stream, stderr=stream, env=env) as window:
        try:
            x, top, width = until(lambda: said("panel"), 300)[0]["panel"]
            sidebar = (x - 60, top, width + 60, 330)
            screen.picture(pictures / "panel.png", sidebar)
            screen.click(x + (width - 20) // 2, top + CONVERT)
            until(lambda: any(e["stage"] == "track" and e["frame"] > 30 for e in said("running")), 600)
            screen.picture(pictures / "panel-progress.png", sidebar)
            until(lambda: said("running")[-1]["message"], 900)
            assert not said("running")[-1]["failed"], said("running")[-1]["message"]
            assert until(lambda: said("vertices"), 300)[-1]["vertices"] == 13718
            screen.picture(pictures / "window.jpg")
            screen.click(x + width // 3, top + HEATMAP)
            time.sleep(10)  # software draws slowly
            screen.click(x + width // 2 - 22, top + LEGEND)
            until(lambda: said("legend")[-1]["legend"], 30)
            time.sleep(10)
            screen.picture(pictures / "window-heatmap.jpg")
        finally:
            window.terminate()
    assert said("running")[-1]["message"].startswith("turn.take: ")
    assert clip.with_suffix(".take").is_file()
    for name in ("panel.png", "panel-progress.png", "window.jpg", "window-heatmap.jpg"):
        assert 2_000 < (pictures / name).stat().st_size < 300_000


def test_folder_has_what_the_screen_needs(launcher: Path) -> None:  # noqa: F811
    root = get_blender.default_folder() / "root/usr/bin"
    assert {"Xvfb", "xdotool", "import"} <= {path.name for path in root.iterdir()}
