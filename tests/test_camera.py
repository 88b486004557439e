# SPDX-License-Identifier: Apache-2.0
"""The camera: intrinsics, vertices on their rays, and depth from the body's size against bodies of known depth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from takes import as_network, to_camera

from meshpose.body import Body
from meshpose.camera import Camera, body_of_height, bone_lengths, metres_per_pixel, place, smoothed
from meshpose.errors import InputError

LIMBS = ("upperarm01", "lowerarm01", "upperleg01", "lowerleg01")


def test_intrinsics() -> None:
    wide = Camera.from_fov(1920, 1080, 90)
    assert wide.fx == wide.fy == pytest.approx(960) and (wide.cx, wide.cy) == (960, 540)
    assert Camera.from_fov(1080, 1920, 90).fx == pytest.approx(960), "the longer side counts"
    assert Camera.from_focal_mm(3600, 2400, 50).fx == pytest.approx(5000)
    assert Camera.from_exif_35mm(3600, 2400, 50).fx == pytest.approx(5000, rel=1e-3), "3:2 as full frame"
    assert Camera.from_exif_35mm(4000, 3000, 26).fx == pytest.approx(26 / 43.267 * 5000), "a phone's 4:3: the diagonal"
    assert Camera.guess(640, 480).fx == pytest.approx(320 / np.tan(np.radians(27.5)))
    for wrong in (0.0, 180.0, float("nan")):
        with pytest.raises(InputError, match="field of view"):
            Camera.from_fov(640, 480, wrong)
    with pytest.raises(InputError, match="focal length"):
        Camera.from_focal_mm(640, 480, 0)


def test_project_and_back() -> None:
    camera = Camera(600, 620, 310, 250, 640, 480)
    points = np.random.default_rng(0).normal(size=(50, 3)) + (0, 0, 5)
    np.testing.assert_allclose(camera.unproject(camera.project(points), points[:, 2]), points)
    np.testing.assert_allclose(camera.project(np.array([0.0, 0, 1])), [310, 250])
    right, down = camera.project(np.array([[1.0, 0, 4], [0, 1, 4]]))
    assert right[0] > 310 and down[1] > 250


def test_placed_vertices_fall_on_their_pixels() -> None:
    random = np.random.default_rng(1)
    camera = Camera.guess(404, 712)
    vertices = random.normal(size=(20, 500, 3)) * (60, 150, 40) + (200, 350, 0)
    metres = place(vertices, random.uniform(0.002, 0.02, 20), camera)
    assert np.abs(camera.project(metres.astype(np.float32)) - vertices[..., :2]).max() < 0.01
    close_up = vertices * (1, 1, 30)  # behind the camera if z were believed
    metres = place(close_up, np.full(20, 0.001), camera)
    assert metres[..., 2].min() > 0
    assert np.abs(camera.project(metres) - vertices[..., :2]).max() < 0.01


def random_bodies(phenotype: dict[str, float], frames: int, seed: int) -> tuple[np.ndarray, float]:
    """Posed low-poly bodies (F, V, 3), body's frame, mid-hips at the origin; the stature."""
    body, random = Body.load(), np.random.default_rng(seed)
    vector = np.zeros((frames, len(body.bone_names), 3))
    for bone, name in enumerate(body.bone_names):
        vector[:, bone] = random.normal(size=(frames, 3)) * (0.5 if name.startswith(LIMBS) else 0.05)
    vector[:, 0] = random.normal(size=(frames, 3)) * (0.4, 0.4, 3)
    half = np.linalg.norm(vector, axis=-1, keepdims=True) / 2 + 1e-9
    rotations = np.concatenate([np.cos(half), vector / (2 * half) * np.sin(half)], -1)
    shape = body.shape(phenotype)
    vertices = body.pose(shape, rotations, np.zeros((frames, 3)))[:, body.lowpoly]
    return vertices - body.joints(vertices, "coco17")[:, 11:13].mean(1)[:, None], shape.stature


@pytest.mark.parametrize("fov", [30, 55, 90])
@pytest.mark.parametrize("depth", [1.5, 3.0, 10.0])
@pytest.mark.parametrize("phenotype", [{}, {"gender": 1.0, "height": 0.3}, {"age": 0.2}], ids=str)
def test_depth_from_a_known_height(fov: float, depth: float, phenotype: dict[str, float]) -> None:
    body, camera = Body.load(), Camera.from_fov(1280, 720, fov)
    vertices, height = random_bodies(phenotype, 40, seed=int(fov + depth))
    random = np.random.default_rng(0)
    root = random.uniform((-0.2, -0.1, 1), (0.2, 0.1, 1), (40, 3)) * depth
    pixels = as_network(to_camera(vertices, root), root, camera)
    pixels += random.normal(size=pixels.shape) * 0.008 * camera.fx / depth  # 8 mm of the network's scatter
    sizes, sure = metres_per_pixel(pixels, np.ones(pixels.shape[:2]), camera, bone_lengths(body, height), body)
    error = sizes * camera.fx / depth - 1
    assert abs(np.median(error)) < 0.03 and np.percentile(np.abs(error), 95) < 0.05
    assert (sure > 0).all()
    placed = place(pixels, sizes, camera)
    assert np.median(np.linalg.norm(placed - to_camera(vertices, root), axis=-1)) < 0.05 * depth


def test_hidden_limbs_count_less() -> None:
    """Legs out of sight and guessed twice too long do not move the person."""
    body, camera = Body.load(), Camera.guess(1280, 720)
    vertices, height = random_bodies({}, 20, seed=3)
    root = np.tile([0.0, 0, 4], (20, 1))
    pixels = as_network(to_camera(vertices, root), root, camera)
    legs = body.template[body.lowpoly, 2] < body.joints(body.template, "lsp14")[[1, 4], 2].mean()
    wrong = pixels.copy()
    wrong[:, legs, :2] = 2 * (wrong[:, legs, :2] - camera.project(root)[:, None]) + camera.project(root)[:, None]
    seen = np.where(legs, 0.0, 1.0)[None].repeat(20, 0)
    lengths = bone_lengths(body, height)
    honest = metres_per_pixel(wrong, seen, camera, lengths, body)[0] * camera.fx / 4
    fooled = metres_per_pixel(wrong, np.ones_like(seen), camera, lengths, body)[0] * camera.fx / 4
    assert np.median(np.abs(honest - 1)) < 0.03
    assert np.median(np.abs(fooled - 1)) > np.median(np.abs(honest - 1))


def test_height_makes_the_body() -> None:
    body = Body.load()
    for height in (0.8, 1.1, 1.45, 1.6, 1.75, 1.95):
        assert body_of_height(body, height).stature == pytest.approx(height, abs=0.01)
    assert body_of_height(body, 1.1).phenotype[1] < 0.5, "a child, not a small adult"
    child, adult = bone_lengths(body, 1.1), bone_lengths(body, 1.8)
    assert (child < adult).all()
    for wrong in (0.1, 18.0, float("nan")):
        with pytest.raises(InputError, match="height"):
            body_of_height(body, wrong)


def test_flat_depth_and_wrong_joints_move_the_person_little() -> None:
    """What a real network does: z too small by a fifth, each part of the body off by some centimetres."""
    body, camera, random = Body.load(), Camera.guess(1280, 720), np.random.default_rng(0)
    vertices, height = random_bodies({}, 60, seed=5)
    root = np.tile([0.3, 0, 4], (60, 1))
    pixels = as_network(to_camera(vertices, root), root, camera)
    pixels[..., 2] *= 0.8
    anchors = body.template[body.lowpoly][random.integers(0, len(body.lowpoly), 12)]
    nearest = np.argmin(((body.template[body.lowpoly][:, None] - anchors) ** 2).sum(-1), 1)
    pixels += (random.normal(size=(60, 12, 3)) * 0.03 * camera.fx / 4)[:, nearest]
    sizes, _ = metres_per_pixel(pixels, np.ones(pixels.shape[:2]), camera, bone_lengths(body, height), body)
    error = sizes * camera.fx / 4 - 1
    assert abs(np.median(error)) < 0.04 and np.percentile(np.abs(error), 95) < 0.12


def test_smoothing_takes_jitter_and_leaves_motion() -> None:
    times = np.arange(120) / 30
    truth = 0.004 * (1 + 0.1 * np.sin(2 * np.pi * 0.7 * times) - 0.05 * times)
    random = np.random.default_rng(0)
    noisy = truth * np.exp(random.normal(size=120) * 0.03)
    noisy[[20, 70]] *= 1.6
    result = smoothed(noisy, np.ones(120), times)
    error, before = np.abs(result / truth - 1), np.abs(noisy / truth - 1)
    assert np.sqrt((error**2).mean()) < 0.016 and before.max() > 0.5 and error.max() < 0.05
    assert np.abs(smoothed(truth, np.ones(120), times) / truth - 1).max() < 0.02, "slow motion is left alone"
    np.testing.assert_array_equal(smoothed(truth[:2], np.ones(2), times[:2]), truth[:2])
    gap = np.r_[times[:60], times[60:] + 10]
    assert np.isfinite(smoothed(noisy, np.ones(120), gap)).all()


def test_depth_of_the_samples_walker(root: Path) -> None:
    """The bundled sample's true body, seen by a perfect network, stands where the truth says."""
    truth, body = np.load(root / "samples" / "turn_truth.npz"), Body.load()
    (fx, fy, cx, cy), (width, height) = truth["camera"].tolist(), truth["size"].tolist()
    camera = Camera(fx, fy, cx, cy, width, height)
    rows = slice(0, None, 6)
    mesh = body.pose(body.shape(truth["phenotype"]), truth["rotations"][rows], truth["translation"][rows])
    lowpoly = mesh[:, body.lowpoly]
    hips = body.joints(lowpoly, "lsp14")[:, 2:4].mean(1)
    pixels, seen = as_network(lowpoly, hips, camera), np.ones(lowpoly.shape[:2])
    known = metres_per_pixel(pixels, seen, camera, bone_lengths(body, float(truth["stature"])), body)[0] * camera.fx
    assert np.abs(known / hips[:, 2] - 1).max() < 0.01
    guessed = metres_per_pixel(pixels, seen, camera, bone_lengths(body), body)[0] * camera.fx
    assert np.abs(guessed / hips[:, 2] - 1).max() < 0.05, "an average adult in place of this one of 1.76 m"
