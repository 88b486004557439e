# SPDX-License-Identifier: Apache-2.0
"""The shipped networks on the bundled sample, whose truth is known; the weights' checksums."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from meshpose import weights
from meshpose.body import Body
from meshpose.crop import CROP, Crop
from meshpose.errors import WeightsError
from meshpose.estimate import (
    Estimate,
    Estimator,
    TwiceEstimator,
    agreed,
    around,
    box_agreement,
    crop_from_coco,
    support,
)
from meshpose.network import Network

SAMPLES = Path(__file__).resolve().parents[1] / "samples"
FRAMES = (5, 40, 75)


@pytest.fixture(scope="module", params=weights.SIZES)
def estimator(request: pytest.FixtureRequest) -> Estimator:
    if request.param not in weights.models():
        pytest.skip(f"weights/{request.param}.onnx is not there (yet)")
    return Estimator(Network(request.param))


@pytest.fixture(scope="module")
def looser(estimator: Estimator) -> float:
    """How much farther from the truth the smaller network may be."""
    return 1.5 if estimator.network.model == "fast" else 1.0


@pytest.fixture(scope="module")
def truth() -> dict[int, np.ndarray]:
    """Frame -> true low-poly vertices (500, 3): picture px, depth in metres from the camera."""
    body = Body.load()
    with np.load(SAMPLES / "turn_truth.npz") as z:
        rows = list(FRAMES)
        posed = body.pose(body.shape(z["phenotype"]), z["rotations"][rows], z["translation"][rows])[:, body.lowpoly]
        fx, fy, cx, cy = z["camera"]
    xy = posed[..., :2] / posed[..., 2:] * (fx, fy) + (cx, cy)
    return dict(zip(FRAMES, np.concatenate([xy, posed[..., 2:]], -1), strict=True))


@pytest.fixture(scope="module")
def pictures() -> dict[int, np.ndarray]:
    clip, out = cv2.VideoCapture(str(SAMPLES / "turn.mp4")), {}
    for index in range(max(FRAMES) + 1):
        out[index] = clip.read()[1]
    return {i: out[i] for i in FRAMES}


@pytest.fixture(scope="module")
def estimates(estimator: Estimator, truth: dict, pictures: dict) -> dict[int, Estimate]:
    out = {}
    for index, points in truth.items():
        low, high = points[:, :2].min(0), points[:, :2].max(0)
        out[index] = estimator.from_box(pictures[index], (*low, *(high - low)))
    return out


def height(points: np.ndarray) -> float:
    return float(np.ptp(points[:, 1]))


def test_mesh_falls_on_the_walker(estimates: dict[int, Estimate], truth: dict[int, np.ndarray], looser: float) -> None:
    body = Body.load()
    for index, found in estimates.items():
        want = truth[index]
        joints = np.linalg.norm((body.joints(found.vertices, "lsp14") - body.joints(want, "lsp14"))[:, :2], axis=1)
        assert np.median(joints) < looser * 0.04 * height(want), index
        assert np.median(np.linalg.norm((found.vertices - want)[:, :2], axis=1)) < looser * 0.05 * height(want), index


def test_visibility_and_score_say_something(
    estimates: dict[int, Estimate], estimator: Estimator, pictures: dict
) -> None:
    """What faces the camera is called seen more often than what looks away; an empty corner scores low."""
    body = Body.load()
    for index, found in estimates.items():
        corners = found.vertices[body.lowpoly_faces]
        normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        seen = found.visibility[body.lowpoly_faces].mean(1)
        assert seen[normal[:, 2] < 0].mean() > seen[normal[:, 2] > 0].mean() + 0.2, index
        nothing = estimator.on_crops(pictures[index], [Crop(20, 20, 60)])[0]
        assert found.score > 0.5 and found.score > nothing.score + 0.2


def test_depth_has_the_right_sign(estimates: dict[int, Estimate], truth: dict[int, np.ndarray]) -> None:
    for index, found in estimates.items():
        assert np.corrcoef(found.vertices[:, 2], truth[index][:, 2])[0, 1] > 0.4, index


def test_one_crop_or_many_give_the_same(estimator: Estimator, estimates: dict, pictures: dict) -> None:
    crops = [e.crop for e in estimates.values()]
    picture = pictures[FRAMES[0]]
    together = estimator.on_crops(picture, crops)
    for crop, both in zip(crops, together, strict=True):
        assert np.abs(estimator.on_crops(picture, [crop])[0].vertices - both.vertices).max() < 0.05


def test_a_mirrored_picture_has_the_mirrored_answer(estimator: Estimator, estimates: dict, pictures: dict) -> None:
    """What the network says of a mirrored picture, mirrored back, is what `mirrored=True` says of the picture."""
    index = FRAMES[1]
    picture, crop = pictures[index], estimates[index].crop
    wide = picture.shape[1]
    turned = estimator.on_crops(picture[:, ::-1], [Crop(wide - crop.cx, crop.cy, crop.side, -crop.angle)])[0]
    back = turned.vertices[Body.load().lowpoly_mirror] * np.array([-1, 1, 1]) + np.array([wide, 0, 0])
    found = estimator.on_crops(picture, [crop], mirrored=True)[0]
    assert np.median(np.linalg.norm(back - found.vertices, axis=1)) < 0.01 * crop.side
    plain = estimator.on_crops(picture, [crop])[0]
    assert 0 < np.median(np.linalg.norm(plain.vertices - found.vertices, axis=1)) < 0.05 * crop.side


def test_two_looks_are_the_mean_of_both(estimator: Estimator, estimates: dict, pictures: dict) -> None:
    """Where plain and mirrored answer agree, what two looks say lies between them; a mirrored look is one."""
    index = FRAMES[1]
    picture, crop = pictures[index], estimates[index].crop
    plain, turned = (estimator.on_crops(picture, [crop], way)[0].vertices for way in (False, True))
    twice = TwiceEstimator(estimator.network)
    found, alone = (twice.on_crops(picture, [crop], way)[0].vertices for way in (False, True))
    away = lambda a, b: np.linalg.norm((a - b)[:, :2], axis=1)  # noqa: E731
    near = away(plain, turned) < 0.02 * crop.side
    assert near.mean() > 0.7
    between = away(found, plain) + away(found, turned)
    assert np.all(between[near] < away(plain, turned)[near] + 0.01) and away(alone, turned).max() < 0.01
    assert away(found, plain)[near].max() < 0.015 * crop.side and away(found, plain).max() > 0
    assert twice.on_crops(picture, []) == []


def test_what_is_agreed_on_is_seen_again_from_around(
    estimator: Estimator, truth: dict, pictures: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four starts, three crops both ways, then the crop of what these ten say and four about it, both ways."""
    index, seen = FRAMES[0], []
    points, answer = truth[index], estimator.on_crops
    low, high = points[:, :2].min(0), points[:, :2].max(0)
    box = (*low, *(high - low))
    ten = estimator.from_box(pictures[index], box, passes=2)

    def on_crops(image: np.ndarray, crops: list[Crop], mirrored: bool = False) -> list[Estimate]:
        seen.append((crops, mirrored))
        return answer(image, crops, mirrored)

    monkeypatch.setattr(estimator, "on_crops", on_crops)
    twenty = estimator.from_box(pictures[index], box)
    assert [len(crops) for crops, _ in seen] == [4, 3, 3, 5, 5]
    assert seen[3:] == [(around(estimator.next_crop(ten)), mirrored) for mirrored in (False, True)]
    away = np.median(np.linalg.norm(twenty.vertices - ten.vertices, axis=1))
    assert 0 < away < 0.02 * ten.crop.side
    seen.clear()
    alone = estimator.from_keypoints(pictures[index], box, np.zeros((17, 3)))
    assert [len(crops) for crops, _ in seen] == [4, 3, 3] and np.array_equal(alone.vertices, ten.vertices)


def test_what_most_say_counts() -> None:
    """Four of five answers agree but for one arm; the fifth, the most sure of all, is somebody else."""
    body, rng = Body.load(), np.random.default_rng(0)
    true = (body.template[body.lowpoly] * (100, -100, 100) + (128, 128, 0)).astype(np.float32)
    crop, seen = Crop(128, 128, 256), np.full(len(true), 0.7, np.float32)
    answers = [Estimate(crop, true + rng.normal(0, 2, true.shape).astype(np.float32), seen, 0.8) for _ in range(4)]
    hand = np.argsort(true[:, 0])[:40]
    answers[0].vertices[hand] += (0, 60, 0)
    answers.append(Estimate(crop, true + np.array([70, 0, 0], np.float32), seen, 0.95))
    found = agreed(answers, np.ones(5), body)
    single = np.linalg.norm(answers[1].vertices - true, axis=1).mean()
    assert np.linalg.norm(found.vertices - true, axis=1).mean() < 0.7 * single
    assert np.linalg.norm(found.vertices - true, axis=1)[hand].max() < 10
    assert found.score == 0.8 and found.visibility.min() > 0.7 and found.visibility.max() < 0.8


def test_an_answer_is_borne_out_by_those_that_say_the_same() -> None:
    """By all, by none, by half of them, by those trusted more, and in one half of the body."""
    body, seen = Body.load(), np.ones(500, np.float32)
    here, there = (Estimate(Crop(150, 150, 256), standing(x), seen, 0.8) for x in (150, 250))
    even = np.ones(4)
    assert support(here, [here] * 4, even, body) == pytest.approx(1)
    assert support(here, [there] * 4, even, body) < 1e-3
    assert support(here, [here, here, there, there], even, body) == pytest.approx(0.5, abs=1e-3)
    assert support(here, [here, here, there, there], np.array([2, 2, 1, 1.0]), body) == pytest.approx(8 / 9, abs=1e-3)
    half = np.where(here.vertices[:, :1] > 150, here.vertices + np.array([90, 0, 0], np.float32), here.vertices)
    assert 0.35 < support(here, [replace(here, vertices=half)], np.ones(1), body) < 0.65


def standing(x: float, tall: float = 200.0) -> np.ndarray:
    """Low-poly vertices (V, 3) picture px of somebody upright around (x, 150)."""
    body = Body.load()
    rest = body.template[body.lowpoly] * (1, 1, -1)  # z is up there
    size = tall / np.ptp(rest[:, 2])
    return ((rest - rest.mean(0))[:, [0, 2, 1]] * size + (x, 150, 0)).astype(np.float32)


def box_around(points: np.ndarray) -> tuple[float, float, float, float]:
    (x, y), (w, h) = points[:, :2].min(0), np.ptp(points[:, :2], axis=0)
    return float(x), float(y), float(w), float(h)


def test_a_box_fits_the_whole_mesh_or_what_shows_of_it() -> None:
    points = standing(150)
    whole = Estimate(Crop(150, 150, 256), points, np.ones(len(points), np.float32), 0.8)
    upper = np.where(points[:, 1] < 150, 0.9, 0.1).astype(np.float32)
    half = Estimate(whole.crop, points, upper, 0.8)
    assert box_agreement(whole, box_around(points), (300, 300)) > 0.9
    assert box_agreement(half, box_around(points), (300, 300)) > 0.9
    assert box_agreement(half, box_around(points[upper > 0.5]), (300, 300)) > 0.9
    assert 0.4 < box_agreement(whole, box_around(points[upper > 0.5]), (300, 300)) < 0.65
    assert box_agreement(whole, (0, 0, 40, 40), (300, 300)) == 0.02
    assert box_agreement(Estimate(whole.crop, points + 1000, upper, 0.8), box_around(points), (300, 300)) == 0.02


def test_of_two_people_the_one_in_the_box_counts(estimator: Estimator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Most answers, and the surest, are a neighbour who stands half in the box."""
    asked, neighbour = standing(150), standing(210, tall=150)
    seen = np.ones(len(asked), np.float32)
    calls: list[int] = []

    def on_crops(_: np.ndarray, crops: list[Crop], mirrored: bool = False) -> list[Estimate]:
        calls.append(len(crops))
        found = [(asked, 0.75), (neighbour, 0.8), (neighbour, 0.8), (neighbour, 0.8)][: len(crops)]
        return [Estimate(crop, points, seen, score) for crop, (points, score) in zip(crops, found, strict=True)]

    monkeypatch.setattr(estimator, "on_crops", on_crops)
    picture = np.zeros((300, 300, 3), np.uint8)
    of_the_asked, of_the_other = (estimator.from_box(picture, box_around(p), passes=2) for p in (asked, neighbour))
    assert np.abs(of_the_asked.vertices - asked).max() < 1 and 0.6 < of_the_asked.score < np.sqrt(0.75)
    assert np.abs(of_the_other.vertices - neighbour).max() < 1 and 0.8 < of_the_other.score < np.sqrt(0.8)
    assert calls == [4, 3, 3] * 2


def test_iuv_names_the_faces_that_lie_there(
    estimator: Estimator, estimates: dict, pictures: dict, looser: float
) -> None:
    """Equation 2: the point of the mesh that a pixel shows lies near that pixel."""
    index = FRAMES[0]
    found = estimates[index]
    faces, barycentric, mask = estimator.network.iuv(found.crop.warp(pictures[index])[None])
    assert faces.shape == mask.shape == (1, 64, 64) and np.allclose(barycentric.sum(-1), 1, atol=1e-4)
    y, x = np.nonzero(mask[0] > 0.5)
    corners = found.crop.to_crop(found.vertices)[Body.load().lowpoly_faces[faces[0, y, x]], :2]
    place = np.einsum("pk,pkd->pd", barycentric[0, y, x], corners)
    away = np.linalg.norm(place - (np.stack([x, y], 1) + 0.5) * (CROP / 64), axis=1)
    assert len(y) > 100 and np.median(away) < looser * 14


def test_keypoints_give_a_turned_crop() -> None:
    keypoints = np.zeros((17, 3))
    keypoints[[5, 6, 11, 12]] = [[300, 90, 0.9], [300, 110, 0.9], [200, 90, 0.9], [200, 110, 0.9]]
    crop = crop_from_coco(keypoints)
    assert crop is not None and crop.angle == pytest.approx(np.pi / 2) and (crop.cx, crop.cy) == (200, 100)
    keypoints[11:13, 2] = 0.1
    assert crop_from_coco(keypoints) is None


def test_crops_of_another_size_are_refused(estimator: Estimator) -> None:
    with pytest.raises(ValueError, match="256"):
        estimator.network(np.zeros((1, 128, 128, 3), np.uint8))


def test_damaged_weights_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(weights.folder() / "sha256.json", tmp_path)
    (tmp_path / "upsampler.npz").write_bytes(b"not it")
    monkeypatch.setattr(weights, "folder", lambda: tmp_path)
    weights.path.cache_clear()
    for name in ("upsampler.npz", "body.npz", "nothing.npz"):
        with pytest.raises(WeightsError) as raised:
            weights.path(name)
        assert name in str(raised.value) and "\n" not in str(raised.value)
    weights.path.cache_clear()
