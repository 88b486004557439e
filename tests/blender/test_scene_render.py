# SPDX-License-Identifier: Apache-2.0
"""The scene rendered: the body's outline is the core's, and the heatmap is green and red in Workbench and in Cycles.

`MESHPOSE_PICTURES=docs/images build.py test --all tests/blender/test_scene_render.py` also writes the page's picture.
"""

from __future__ import annotations

import os
from pathlib import Path

import bpy
import cv2
import numpy as np
import pytest
from mathutils import Matrix
from read_back import evaluated

from meshpose.body import Body
from meshpose.raster import silhouette
from meshpose.take import Take
from meshpose_blender.scene import BuiltTake, build_scene

ROOT = Path(__file__).resolve().parents[2]
FRAME = 6


@pytest.fixture
def built(tmp_path: Path) -> tuple[Path, BuiltTake]:
    from takes import make_take

    path = tmp_path / "walk.take"
    make_take(path, frames=8, people=1).close()
    bpy.ops.wm.read_factory_settings(use_empty=True)
    return path, build_scene(path)


def render(engine: str, frame: int, path: Path) -> np.ndarray:
    """(h, w, 4) uint8 BGRA over nothing."""
    scene = bpy.context.scene
    scene.render.engine, scene.render.film_transparent = engine, True
    scene.display.shading.color_type, scene.display.shading.light = "VERTEX", "FLAT"
    scene.cycles.samples, scene.cycles.use_denoising = 8, False
    scene.render.image_settings.file_format, scene.render.image_settings.color_mode = "PNG", "RGBA"
    scene.render.filepath = str(path)
    scene.frame_set(frame)
    bpy.ops.render.render(write_still=True)
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


@pytest.mark.parametrize("engine", ["BLENDER_WORKBENCH", "CYCLES"])
def test_outline_and_colours(built: tuple[Path, BuiltTake], engine: str, tmp_path: Path) -> None:
    path, _ = built
    picture = render(engine, FRAME, tmp_path / "r.png")
    with Take.open(path) as take:
        person = take.person(1)
        pixels = take.camera.project(person.vertices([FRAME - 1])[0])
        height, width = take.camera.height, take.camera.width
        visibility = person.visibility([FRAME - 1])[0]
    assert picture.shape[:2] == (height, width)
    drawn, wanted = picture[..., 3] > 127, silhouette(pixels, Body.load().triangles, width, height)
    overlap = (drawn & wanted).sum() / (drawn | wanted).sum()
    print(f"{engine}: IoU with the core's outline {overlap:.3f}")
    assert overlap > 0.95  # a body 130 pixels tall: a pixel along its outline is 5 %
    blue, green, red = (picture[drawn][:, c].astype(int) for c in range(3))
    assert blue.max() < 20  # nothing but green and red
    assert visibility.min() < 0.2 and visibility.max() > 0.8
    assert ((green > 1.5 * red) & (green > 60)).mean() > 0.2 and ((red > 1.5 * green) & (red > 60)).mean() > 0.005


def over(layer: np.ndarray, image: np.ndarray) -> np.ndarray:
    """A render (h, w, 4) over a picture (h, w, 3)."""
    alpha = layer[..., 3:] / 255
    return image * (1 - alpha) + layer[..., :3] * alpha


@pytest.mark.slow
@pytest.mark.skipif("MESHPOSE_PICTURES" not in os.environ, reason="MESHPOSE_PICTURES names the folder for pictures")
def test_picture_of_the_heatmap(tmp_path: Path) -> None:
    """Four frames of the sample: as it was shot, with the rendered heatmap over it, and the same from behind."""
    from meshpose.convert import convert
    from meshpose.video import Clip

    sample = ROOT / "samples" / "turn.mp4"
    take = convert(sample, tmp_path, preview=False)
    bpy.ops.wm.read_factory_settings(use_empty=True)
    built = build_scene(take.path)
    count = len(take.frames)
    shown = np.linspace(0, count - 1, 6)[1:5].astype(int)
    columns = []
    for frame in (f for f in Clip(sample) if f.index in shown):
        front = over(render("CYCLES", frame.index + 1, tmp_path / "r.png"), frame.image)
        before = built.camera.matrix_world.copy()
        middle = Matrix.Translation(evaluated(built.people[0].mesh, frame.index + 1)[0].mean(0).tolist())
        built.camera.matrix_world = middle @ Matrix.Rotation(np.radians(150), 4, "Z") @ middle.inverted() @ before
        behind = over(render("CYCLES", frame.index + 1, tmp_path / "r.png"), np.full_like(frame.image, 225))
        built.camera.matrix_world = before
        columns.append(np.concatenate([frame.image[40:420], front[40:420], behind[40:420]]))
    picture = np.concatenate(columns, 1).astype(np.uint8)
    scale = min(1.0, 720 / picture.shape[1])
    small = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    cv2.imwrite(str(Path(os.environ["MESHPOSE_PICTURES"]) / "heatmap.png"), small)
