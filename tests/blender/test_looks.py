# SPDX-License-Identifier: Apache-2.0
"""Every look, rendered by Workbench without a GPU and compared with numpy: modes, x-ray, ghosts, legend, overlay video.

`MESHPOSE_PICTURES=docs/images build.py test --all tests/blender/test_looks.py` also writes the page's picture.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import bpy
import cv2
import numpy as np
import pytest
from takes import FPS, HEIGHT, WIDTH, make_take

import meshpose_blender
from meshpose.body import Body
from meshpose.raster import Raster, rasterize
from meshpose.take import Take
from meshpose.upsample import Upsampler
from meshpose.video import Clip, write_preview
from meshpose_blender import legend, looks, overlay, playback
from meshpose_blender.scene import FRAMES, BuiltTake, build_scene

ROOT = Path(__file__).resolve().parents[2]
FRAMES_OF_CLIP, FRAME = 12, 7
CLOSE = 6.0
"""Levels of 255, as a median over the body: interpolation differs a little inside of a pixel."""


@pytest.fixture(scope="module")
def take(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two people who walk, over footage whose every frame has its own brightness."""
    path = tmp_path_factory.mktemp("looks") / "walk.take"
    with write_preview(path.with_suffix(".mp4"), FPS, (WIDTH, HEIGHT)) as writer:
        for frame in range(FRAMES_OF_CLIP):
            writer.write(footage(frame))
    make_take(path, frames=FRAMES_OF_CLIP, people=2, gaps=False).close()
    return path


def footage(frame: int) -> np.ndarray:
    """(H, W, 3) uint8 BGR: bluish, brighter from frame to frame and from left to right."""
    across = np.linspace(0, 60, WIDTH)[None, :, None]
    return np.clip(np.array([90, 40, 30]) + across + 8 * frame + np.zeros((HEIGHT, 1, 1)), 0, 255).astype(np.uint8)


@pytest.fixture
def built(take: Path) -> Iterator[BuiltTake]:
    bpy.ops.wm.read_factory_settings(use_empty=True)
    meshpose_blender.register()
    yield build_scene(take)
    meshpose_blender.unregister()


def render(path: Path, frame: int = FRAME) -> np.ndarray:
    """(h, w, 4) float BGRA over nothing, without shading: the colours themselves."""
    scene = bpy.context.scene
    scene.render.engine, scene.render.film_transparent = "BLENDER_WORKBENCH", True
    scene.display.shading.color_type, scene.display.shading.light = "VERTEX", "FLAT"
    scene.display.render_aa = "OFF"
    scene.render.image_settings.file_format, scene.render.image_settings.color_mode = "PNG", "RGBA"
    scene.render.filepath = str(path)
    scene.frame_set(frame)
    bpy.ops.render.render(write_still=True)
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED).astype(float)


class Truth:
    """What numpy says of a scene frame, by the core alone: who is seen at each pixel, and values of the vertices."""

    def __init__(self, path: Path, frame: int = FRAME) -> None:
        self.take, self.index = Take.open(path), frame - 1
        body, self.up = Body.load(), Upsampler.load()
        people = [self.take.person(number) for number in self.take.people]
        points = [person.vertices([self.index])[0] for person in people]
        self.points = np.concatenate(points)
        count = len(points[0])
        self.faces = np.concatenate([body.triangles + count * place for place in range(len(people))])
        pixels = self.take.camera.project(self.points)
        self.raster: Raster = rasterize(pixels, self.points[:, 2], self.faces, WIDTH, HEIGHT)
        self.people = people

    def lifted(self, values: list[np.ndarray]) -> np.ndarray:
        """Values of everybody's low-poly vertices, (V,) each -> (N,) of the mesh vertices, 0..1."""
        weights, indices = self.up.weights_at(), self.up.indices
        return np.concatenate([np.clip((weights * value[indices]).sum(1), 0, 1) for value in values])

    def picture(self, colours: np.ndarray) -> np.ndarray:
        """(N, 3) linear RGB of the vertices -> (H, W, 3) BGR of 255 as a display shows it."""
        linear = self.raster.interpolate(colours.astype(np.float32), self.faces)
        shown = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * np.maximum(linear, 1e-9) ** (1 / 2.4) - 0.055)
        return 255 * shown[..., ::-1]


def heat(amount: np.ndarray) -> np.ndarray:
    """Red to green, by its definition."""
    return np.stack([1 - amount, amount, 0 * amount], 1)


def compare(picture: np.ndarray, truth: Truth, wanted: np.ndarray) -> None:
    """The rendered body has numpy's outline and numpy's colours."""
    mask, drawn = truth.raster.mask, picture[..., 3] > 127
    assert (mask & drawn).sum() / (mask | drawn).sum() > 0.97
    inside = cv2.erode((mask & drawn).astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)
    assert inside.sum() > 500
    difference = np.abs(picture[..., :3] - wanted)[inside].max(1)
    print(f"median difference {np.median(difference):.1f} of 255, 95 % below {np.percentile(difference, 95):.0f}")
    assert np.median(difference) < CLOSE
    assert wanted[inside].std(0).max() > 3  # a picture of one colour would prove nothing


def test_visibility(built: BuiltTake, take: Path, tmp_path: Path) -> None:
    truth = Truth(take)
    amount = truth.lifted([person.visibility([truth.index])[0] for person in truth.people])
    compare(render(tmp_path / "r.png"), truth, truth.picture(heat(amount)))


def test_confidence_over_time(built: BuiltTake, take: Path, tmp_path: Path) -> None:
    looks.set_mode(built, "confidence")
    settings = looks.settings_in(built)
    assert settings is not None
    looks.put(settings, "Window", 8.0)
    truth = Truth(take)
    around = truth.index + np.arange(-4, 5)  # nine samples over eight frames: one a frame
    amount = truth.lifted([person.visibility(around).mean(0) for person in truth.people])
    now = truth.lifted([person.visibility([truth.index])[0] for person in truth.people])
    wanted = truth.picture(heat(amount))
    assert np.abs(wanted - truth.picture(heat(now)))[truth.raster.mask].mean() > 2 * CLOSE / 3  # it is another picture
    compare(render(tmp_path / "r.png"), truth, wanted)


def test_depth(built: BuiltTake, take: Path, tmp_path: Path) -> None:
    looks.set_mode(built, "depth")
    settings = looks.settings_in(built)
    assert settings is not None
    truth = Truth(take)
    near, far = (looks.socket(settings, name).default_value for name in ("Near", "Far"))
    assert truth.points[:, 2].min() < near + 0.3 and far > near
    place = np.clip((truth.points[:, 2] - near) / (far - near), 0, 1) * (len(playback.DEPTHS) - 1)
    low = np.minimum(place.astype(int), len(playback.DEPTHS) - 2)
    stops, part = np.array(playback.DEPTHS), (place - low)[:, None]
    compare(render(tmp_path / "r.png"), truth, truth.picture(stops[low] * (1 - part) + stops[low + 1] * part))


def test_clay_is_one_colour_and_xray_lets_the_footage_through(built: BuiltTake, take: Path, tmp_path: Path) -> None:
    looks.set_mode(built, "clay")
    truth = Truth(take)
    clay = playback.SETTINGS["Clay"][1][:3]
    picture = render(tmp_path / "r.png")
    body = picture[picture[..., 3] == 255][:, :3]
    wanted = truth.picture(np.tile(clay, (len(truth.points), 1)))[truth.raster.mask][0]
    assert np.abs(body - wanted).max() < 2
    assert not looks.xray(bpy.context.scene)
    bpy.context.scene.meshpose_looks.xray = True
    alpha = render(tmp_path / "x.png")[..., 3] / 255
    inside = cv2.erode(truth.raster.mask.astype(np.uint8), np.ones((5, 5), np.uint8)).astype(bool)
    assert 1 - (1 - looks.XRAY) ** 2 == pytest.approx(np.median(alpha[inside]), abs=0.02)  # front and back side
    bpy.context.scene.meshpose_looks.xray = False
    assert render(tmp_path / "y.png")[..., 3][inside].min() == 255


def test_ghosts_are_the_bodies_of_other_frames(built: BuiltTake, take: Path, tmp_path: Path) -> None:
    shown = bpy.context.scene.meshpose_looks
    shown.ghost_every, shown.ghosts_before, shown.ghosts_after, shown.ghosts = 3, 1, 2, True
    assert len(looks.ghosts_of(built)) == 4  # before and after, of two people
    picture = render(tmp_path / "r.png")
    masks = {step: Truth(take, FRAME + step).raster.mask for step in (-3, 0, 3)}  # the second one after is not there
    wanted = np.logical_or.reduce(list(masks.values()))
    drawn = picture[..., 3] > 20
    assert (wanted & drawn).sum() / (wanted | drawn).sum() > 0.95
    before, after = masks[-3] & ~masks[0] & ~masks[3], masks[3] & ~masks[0] & ~masks[-3]
    assert 20 < picture[..., 3][before].mean() < 200
    assert picture[..., 0][before].mean() > 1.5 * picture[..., 2][before].mean()  # blue
    assert picture[..., 2][after].mean() > 1.5 * picture[..., 0][after].mean()  # orange
    trees = len(bpy.data.node_groups)
    shown.ghosts = False
    assert not looks.ghosts_of(built) and len(bpy.data.node_groups) == trees - 4


def test_the_legend_is_in_the_corner_and_follows_the_mode(built: BuiltTake, take: Path, tmp_path: Path) -> None:
    shown, scene = bpy.context.scene.meshpose_looks, bpy.context.scene
    plain = render(tmp_path / "p.png")
    shown.legend = True
    scene.render.resolution_percentage = 200
    short = 2 * HEIGHT
    left, low = int(legend.MARGIN * short), 2 * HEIGHT - int(legend.MARGIN * short)
    right, high = left + int(legend.WIDTH * short), low - int(legend.HEIGHT * short)
    column = left + int((legend.PAD + legend.BAR / 2) * short)
    bottom = low - int(legend.PAD * short)
    top = bottom - int((legend.HEIGHT - 3 * legend.PAD - legend.TEXT) * short)
    for mode in ("visibility", "confidence", "depth"):
        shown.mode = mode
        picture = render(tmp_path / f"{mode}.png")
        assert (picture[high + 3 : low - 3, left + 3 : right - 3, 3] == 255).all()
        assert not picture[high - 12 : high - 4, :right, 3].any()
        for part in (0.05, 0.5, 0.95):
            linear = looks.palette(mode, np.array([part]))[0][::-1]
            wanted = 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
            found = picture[int(round(bottom + part * (top - bottom))), column, :3]
            assert np.abs(found - wanted).max() < 12, (mode, part, found, wanted)
        words = picture[high:low, column + int(legend.BAR * short) : right, :3].min(2) > 180
        assert 50 < words.sum() < 0.3 * words.size  # light letters on the dark panel
    shown.mode = "clay"
    scene.render.resolution_percentage = 100
    clay = render(tmp_path / "c.png")
    assert ((clay[..., 3] > 0) == (plain[..., 3] > 0)).all()
    shown.mode, shown.legend = "visibility", False
    assert looks.legend_of(built) is None


def test_the_overlay_video_is_the_footage_with_the_bodies_on_it(built: BuiltTake, take: Path, tmp_path: Path) -> None:
    """Workbench, no GPU; the user's scene and its render settings stay as they are."""
    scene = bpy.context.scene
    scene.render.engine, scene.render.filepath = "CYCLES", "//mine"
    names = {item.name for item in bpy.data.scenes}
    built.collection[FRAMES] = [3, 8]
    looks.set_mode(built, "clay")
    settings = looks.settings_in(built)
    assert settings is not None
    looks.put(settings, "Clay", (1.0, 0.9, 0.0, 1.0))  # unlike the footage, also in the shade
    path = tmp_path / "a folder" / "over.mp4"
    path.parent.mkdir()
    bpy.ops.meshpose.render_overlay(filepath=str(path))
    assert {item.name for item in bpy.data.scenes} == names
    assert (scene.render.engine, scene.render.filepath) == ("CYCLES", "//mine")
    shown = [frame.image.astype(float) for frame in Clip(path)]
    assert len(shown) == 6 and shown[0].shape == (HEIGHT, WIDTH, 3)
    originals = {frame.index: frame.image.astype(float) for frame in Clip(take.with_suffix(".mp4"))}
    for place, picture in enumerate(shown):
        truth = Truth(take, 3 + place)
        original = originals[truth.index]
        wide = cv2.dilate(truth.raster.mask.astype(np.uint8), np.ones((9, 9), np.uint8)).astype(bool)
        assert np.abs(picture - original)[~wide].mean() < 2.5  # what the video's compression leaves
        other = originals[truth.index + 1]
        assert np.abs(picture - other)[~wide].mean() > 5  # the frame before or after would be seen
        drawn = np.abs(picture - original).max(2) > 40
        overlap = (drawn & truth.raster.mask).sum() / (drawn | truth.raster.mask).sum()
        assert overlap > 0.85, overlap  # the body falls on the pixels that the core says


def test_an_overlay_that_cannot_be_is_one_line(built: BuiltTake, take: Path, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="no such folder"):
        bpy.ops.meshpose.render_overlay(filepath=str(tmp_path / "nowhere" / "a.mp4"))
    movie = built.camera.data.background_images[0].clip
    movie.filepath = str(tmp_path / "gone.mp4")
    with pytest.raises(RuntimeError, match="gone.mp4: the footage is not there any more"):
        bpy.ops.meshpose.render_overlay(filepath=str(tmp_path / "a.mp4"))
    assert len(bpy.data.scenes) == 1
    assert overlay.default_path(built) == take.with_name("walk_overlay.mp4")


@pytest.mark.slow
@pytest.mark.skipif("MESHPOSE_PICTURES" not in os.environ, reason="MESHPOSE_PICTURES names the folder for pictures")
def test_picture_of_the_looks(tmp_path: Path) -> None:
    """The sample in every look, as the overlay video shows it."""
    from meshpose.convert import convert

    sample = ROOT / "samples" / "turn.mp4"
    path = convert(sample, tmp_path, preview=False).path
    bpy.ops.wm.read_factory_settings(use_empty=True)
    meshpose_blender.register()
    built = build_scene(path)
    built.collection[FRAMES] = [31, 31]
    shown = bpy.context.scene.meshpose_looks
    shown.legend = True
    pictures = []
    for mode in ("visibility", "confidence", "depth", "clay", "x-ray", "onion skin"):
        shown.mode = mode if mode in playback.MODES else "clay" if mode == "x-ray" else "visibility"
        shown.xray, shown.ghosts = mode == "x-ray", mode == "onion skin"
        shown.ghost_every = 8
        overlay.render(built, tmp_path / "o.mp4")
        pictures.append(next(iter(Clip(tmp_path / "o.mp4"))).image)
    rows = [np.concatenate(pictures[i : i + 3], 1) for i in (0, 3)]
    cv2.imwrite(str(Path(os.environ["MESHPOSE_PICTURES"]) / "looks.png"), np.concatenate(rows))
    meshpose_blender.unregister()
