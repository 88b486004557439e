# SPDX-License-Identifier: Apache-2.0
"""Every figure of `evaluate` against values worked out by hand, on a tiny set and an estimator with known answers."""

from __future__ import annotations

import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from meshpose import coco, evaluate, metrics
from meshpose.body import Body
from meshpose.camera import Camera
from meshpose.crop import Crop
from meshpose.errors import InputError, MeshPoseError, OutputError
from meshpose.estimate import Estimate
from meshpose.evaluate import Answer
from meshpose.raster import rasterize, silhouette

WIDTH, HEIGHT = 160, 120
LSP = [
    "right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle", "right_wrist", "right_elbow",
    "right_shoulder", "left_shoulder", "left_elbow", "left_wrist", "neck", "head_top",
]  # fmt: skip
Box = tuple[float, float, float, float]
Points = dict[str, list[float]]


def standing(names: list[str], x: float = 50.0, y: float = 10.0) -> Points:
    """A stick person: all joints labelled, left_shoulder straight above right_hip, 50 px apart."""
    places = {name: [x + 3 * i, y + 4.0 * i] for i, name in enumerate(names)}
    places |= {"left_shoulder": [x, y], "right_hip": [x, y + 50]}
    places |= {"right_shoulder": [x - 9, y], "left_hip": [x - 9, y + 30]}
    return {name: [*places[name], 2] for name in names}


class Fake:
    """Answers by the box's x (or raises), and remembers what it was asked."""

    def __init__(self, answers: dict[float, Answer | Exception]) -> None:
        self.answers = answers
        self.asked: list[tuple[Any, ...]] = []

    def __call__(self, image: np.ndarray, box: Box, camera: Camera, pixels: np.ndarray | None) -> Answer:
        self.asked.append((image.copy(), box, camera, pixels))
        answer = self.answers[box[0]]
        if isinstance(answer, Exception):
            raise answer
        return answer


def answer(
    points: Points, score: float = 0.9, mask: np.ndarray | None = None, **moved: tuple[float, float]
) -> Answer:
    """An answer with the given joints, some of them moved by (dx, dy)."""
    shift = {name: (*moved.get(name, (0.0, 0.0)), 0.0) for name in points}
    keypoints = {name: np.array(p, float) + shift[name] for name, p in points.items()}
    return Answer(score, keypoints, {}, np.zeros((HEIGHT, WIDTH), bool) if mask is None else mask)


def annotation(number: int, box: Box, points: Points | None = None, **more: Any) -> dict[str, Any]:
    flat = [v for p in points.values() for v in p] if points else None
    extra = {"keypoints": flat} if flat else {}
    return {"id": number, "image_id": 1, "category_id": 1, "bbox": list(box), "area": 5000.0, **extra, **more}


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., tuple[Path, Path]]:
    """make(annotations, names, images=..., files=...) -> (SET.json, ZIP): pictures of one grey value each, 10 x id."""

    def write(
        annotations: list[dict[str, Any]], names: list[str] | None = None, images: list[dict[str, Any]] | None = None,
        files: dict[str, bytes] | None = None, **content: Any,
    ) -> tuple[Path, Path]:
        images = images or [{"id": 1}]
        with zipfile.ZipFile(tmp_path / "pictures.zip", "w") as archive:
            for image in images:
                image.setdefault("file_name", f"{image['id']}.png")
                pixels = np.full((HEIGHT, WIDTH, 3), 10 * image["id"], np.uint8)
                archive.writestr(image["file_name"], cv2.imencode(".png", pixels)[1].tobytes())
            for name, data in (files or {}).items():
                archive.writestr(name, data)
        category = {"id": 1, "name": "person", **({"keypoints": names} if names else {})}
        whole = {"images": images, "annotations": annotations, "categories": [category], **content}
        (tmp_path / "set.json").write_text(json.dumps(whole))
        return tmp_path / "set.json", tmp_path / "pictures.zip"

    return write


Make = Callable[..., tuple[Path, Path]]


def figures(files: tuple[Path, Path], fake: Fake) -> dict[str, Any]:
    return evaluate.evaluate(files[0], [files[1]], fake).figures


def test_pck(make: Make) -> None:
    whole: Points = standing(LSP)
    hidden: Points = {**standing(LSP), "left_shoulder": [0, 0, 0], "right_elbow": [0, 0, 0]}  # other torso: 30 px
    torsoless: Points = {**standing(LSP), "right_hip": [0, 0, 0], "right_shoulder": [0, 0, 0]}
    boxes: list[Box] = [(1, 2, 30, 40), (2, 2, 30, 40), (3, 2, 30, 40), (4, 2, 30, 40)]
    people = [annotation(i + 1, box, p) for i, (box, p) in enumerate(zip(boxes, (whole, hidden, torsoless, whole)))]
    fake = Fake({
        1: answer(whole, left_wrist=(0, 9.9), right_wrist=(10.1, 0), neck=(0, 30)),  # limit: 10 px
        2: answer(standing(LSP), left_knee=(6.5, 0), right_knee=(5.5, 0)),  # limit: 6 px
        3: answer(torsoless, left_knee=(99, 99)),
        4: RuntimeError("no"),
    })  # fmt: skip
    got = figures(make(people, LSP), fake)
    assert (got["n"], got["n_pck"], got["n_failed"]) == (4, 3, 1)
    # limbs: 11 of 12, 9 of 10 (two not labelled), 0 of 12
    assert got["pck@0.2"] == pytest.approx(100 * (11 + 9 + 0) / (12 + 10 + 12))
    assert got["pck@0.2_all_joints"] == pytest.approx(100 * (12 + 11) / (14 + 12 + 14))
    by_joint = got["pck@0.2_by_joint"]
    assert set(by_joint) == set(LSP)
    assert by_joint["neck"] == pytest.approx(100 / 3) and by_joint["head_top"] == pytest.approx(200 / 3)
    assert by_joint["left_knee"] == pytest.approx(100 / 3) and by_joint["left_shoulder"] == pytest.approx(50)
    assert got["mean_iou"] is None and got["oks_ap"] is None and got["mpjpe_mm"] is None and got["pve_mm"] is None
    assert got["ms_per_person"] >= 0


def test_a_set_with_lsps_joints_gets_lsps_hips(make: Make) -> None:
    points = standing(LSP)
    hips = {name: np.array(points[name], float) for name in ("left_hip", "right_hip")}
    shifted = answer(points, left_hip=(30, 0), right_hip=(30, 0))  # elsewhere than LSP's annotators set them
    both = Answer(0.9, shifted.keypoints, {}, shifted.silhouette, lsp=hips)
    people = [annotation(1, (1, 2, 30, 40), points)]
    assert figures(make(people, LSP), Fake({1: both}))["pck@0.2"] == 100
    coco_points = {**standing(list(metrics.COCO17)), **{name: points[name] for name in metrics.LIMBS}}
    people = [annotation(1, (1, 2, 30, 40), coco_points)]
    got = figures(make(people, list(coco_points)), Fake({1: both}))
    assert got["pck@0.2"] == pytest.approx(100 * 10 / 12)


def rectangle(x: int, y: int, w: int, h: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[y : y + h, x : x + w] = True
    return mask


def test_iou_of_every_kind_of_segmentation(make: Make) -> None:
    truth = rectangle(20, 10, 40, 50)
    polygon = [[20, 10, 60, 10, 60, 60, 20, 60]]
    runs = {"size": [HEIGHT, WIDTH], "counts": [20 * HEIGHT + 10, *[50, HEIGHT - 50] * 39, 50, HEIGHT * 100 + 60]}
    packed = coco.encode_segmentation(truth)
    people = [
        annotation(1, (1, 0, 9, 9), segmentation=polygon, area=20000.0),
        annotation(2, (2, 0, 9, 9), segmentation=runs),
        annotation(3, (3, 0, 9, 9), segmentation=packed),
        annotation(4, (4, 0, 9, 9), segmentation=polygon, area=17000.0),
        annotation(5, (5, 0, 9, 9)),
    ]
    half = rectangle(20, 10, 20, 50)
    fake = Fake({
        1: answer({}, mask=truth),  # IoU 1
        2: answer({}, mask=half),  # 1/2
        3: answer({}, mask=rectangle(40, 10, 40, 50)),  # 1000 of 3000
        4: ValueError("broken"),  # 0
        5: answer({}, mask=half),  # no truth
    })  # fmt: skip
    got = figures(make(people), fake)
    assert got["mean_iou"] == pytest.approx((1 + 1 / 2 + 1 / 3 + 0) / 4)
    assert got["median_iou"] == pytest.approx((1 / 2 + 1 / 3) / 2)
    assert got["mean_iou_large"] == pytest.approx(1 / 2)  # the first and the fourth
    assert got["pck@0.2"] is None and got["n_pck"] == 0


def grey_png(values: np.ndarray) -> bytes:
    data: bytes = cv2.imencode(".png", values)[1].tobytes()
    return data


def palette_png(values: np.ndarray) -> bytes:
    """A palette PNG: OpenCV's grey one with the colour type changed and a palette put in."""
    grey = grey_png(values)
    header = b"IHDR" + grey[16:25] + b"\x03" + grey[26:29]
    palette = b"PLTE" + bytes(3 * 256)
    chunk = struct.pack(">I", 768) + palette + struct.pack(">I", zlib.crc32(palette))
    return grey[:12] + header + struct.pack(">I", zlib.crc32(header)) + chunk + grey[33:]


@pytest.mark.parametrize("encode", [palette_png, grey_png])
def test_iou_with_a_class_map(make: Make, encode: Callable[[np.ndarray], bytes]) -> None:
    classes = np.zeros((HEIGHT, WIDTH), np.uint8)
    classes[10:60, 20:60] = 41
    classes[10:60, 60:70] = 2  # a bag
    files = make(
        [annotation(1, (1, 0, 9, 9), area=2000)], images=[{"id": 1, "mask": "1-classes.png"}],
        files={"1-classes.png": encode(classes)}, info={"not_body_labels": [2]},
    )  # fmt: skip
    got = figures(files, Fake({1: answer({}, mask=rectangle(20, 10, 20, 50))}))
    assert got["mean_iou"] == pytest.approx(0.5)


def test_oks_is_cocos_own(make: Make) -> None:
    names = list(metrics.COCO17)
    first, second = standing(names), standing(names, x=90)
    people = [annotation(1, (1, 2, 60, 90), first), annotation(2, (2, 2, 60, 90), second, image_id=2)]
    images = [{"id": 1}, {"id": 2}]
    got = figures(make(people, names, images), Fake({1: answer(first), 2: answer(second, score=0.2)}))
    assert (got["oks_ap"], got["oks_ar"]) == (pytest.approx(100), pytest.approx(100))
    got = figures(make(people, names, images), Fake({1: answer(first), 2: RuntimeError("no")}))
    assert got["oks_ap"] == pytest.approx(100 * 51 / 101) and got["oks_ar"] == pytest.approx(50)
    # All joints off by the same d: OKS is the mean of exp(-d^2 / (2 area (2 sigma)^2)); COCO's sigmas of the 17 joints.
    sigmas = np.array([26, 25, 25, 35, 35, 79, 79, 72, 72, 62, 62, 107, 107, 87, 87, 89, 89]) / 1000
    d = 7.0
    oks = np.exp(-(d**2) / (2 * 5000 * (2 * sigmas) ** 2)).mean()
    passed = (oks >= np.arange(0.5, 0.96, 0.05)).mean()
    assert 0 < passed < 1
    off = answer({name: [x + d, y, v] for name, (x, y, v) in second.items()})
    got = figures(make([people[1]], names, images), Fake({2: off}))
    assert got["oks_ap"] == pytest.approx(100 * passed)


def test_mpjpe_is_root_relative_and_pa_mpjpe_aligned(make: Make) -> None:
    rng = np.random.default_rng(3)
    truth = {name: rng.normal(0, 300, 3) for name in LSP}
    rows: list[Any] = [truth[name].tolist() for name in LSP]
    rows[0] = None  # right_ankle is not known
    rows[1] = [None, None, None]
    people = [annotation(i, (i, 2, 3, 4), keypoints_3d=rows) for i in (1, 2, 3)]

    def found(points: dict[str, np.ndarray]) -> Answer:
        return Answer(1.0, {}, points, np.zeros((HEIGHT, WIDTH), bool))

    turn = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    root = (truth["left_hip"] + truth["right_hip"]) / 2
    known = [name for name in LSP if name not in ("right_ankle", "right_knee")]
    fake = Fake({
        1: found({name: p + (10, -20, 3000) for name, p in truth.items()}),  # moved away: the root takes it out
        2: found({name: 2 * turn @ p + (5, 5, 5) for name, p in truth.items()}),  # turned and twice as large
        3: RuntimeError("no"),
    })  # fmt: skip
    got = figures(make(people, LSP), fake)
    wrong = np.mean([np.linalg.norm(2 * turn @ (truth[n] - root) - (truth[n] - root)) for n in known])
    assert got["mpjpe_mm"] == pytest.approx(wrong / 2)
    assert got["pa_mpjpe_mm"] == pytest.approx(0, abs=1e-6)
    mirrored = metrics.joint_distances(truth, {name: p * (-1, 1, 1) for name, p in truth.items()})
    assert mirrored[1] > 50  # a mirror image is not the same body
    headless = {name: p for name, p in truth.items() if name != "left_hip"}
    assert np.isnan(metrics.joint_distances(headless, truth)).all()


def body_in_camera() -> np.ndarray:
    """The template 3 m before the camera, (N, 3) mm, camera frame."""
    points = Body.load().template.astype(np.float64)
    points = np.stack([points[:, 0], -points[:, 2], points[:, 1] + 3], axis=1)
    return (points - (0, points[:, 1].mean(), 0)) * 1000


CAMERA = {"fx": 150.0, "fy": 150.0, "cx": WIDTH / 2, "cy": HEIGHT / 2}


def test_mesh_figures(make: Make) -> None:
    body, mesh = Body.load(), body_in_camera()
    names = list(body.joint_names["coco17"])
    root = body.joints(mesh, "coco17")[[names.index("left_hip"), names.index("right_hip")]].mean(axis=0)
    people = [annotation(i, (i, 2, 3, 4), image_id=1, vertices="mesh.npy") for i in (1, 2, 3)]
    people.append(annotation(4, (4, 2, 3, 4), vertices=mesh[body.lowpoly].round(3).tolist()))
    stream = io.BytesIO()
    np.save(stream, mesh.astype(np.float32))
    files = make(people, images=[{"id": 1, "camera": CAMERA}], files={"mesh.npy": stream.getvalue()})
    seen: dict[float, np.ndarray] = {}

    class Answering(Fake):
        def __call__(self, image: np.ndarray, box: Box, camera: Camera, pixels: np.ndarray | None) -> Answer:
            if box[0] == 3:
                raise RuntimeError("no")
            assert pixels is not None
            seen[box[0]] = pixels
            lowpoly = mesh[body.lowpoly]
            drawn = rasterize(camera.project(lowpoly), lowpoly[:, 2], body.lowpoly_faces, WIDTH, HEIGHT)
            column, row = np.floor(pixels).astype(int).T
            exact = metrics.SurfacePoints(drawn.face[row, column], drawn.barycentric[row, column])
            most = np.where(np.arange(len(pixels)) < 0.72 * len(pixels), exact.faces, -1)
            partly = metrics.SurfacePoints(most, exact.barycentric)
            grown = root + 1.1 * (mesh - root) + 500 if box[0] == 2 else mesh + 77.0
            return Answer(0.8, {}, {}, np.zeros((HEIGHT, WIDTH), bool), grown, exact, partly if box[0] == 1 else exact)

    got = figures(files, Answering({}))
    assert 100 < len(seen[1]) < 500  # a pixel for each of the low-poly faces that are seen
    np.testing.assert_allclose(seen[1], seen[4])
    grown = 0.1 * np.linalg.norm(mesh - root, axis=1).mean()
    assert got["pve_mm"] == pytest.approx(grown / 3, rel=1e-3)  # 0, grown, none, 0
    recall = np.linspace(0, 1, 101)
    assert got["gps_ap_mesh"] == pytest.approx(100 * (recall <= 3 / 4).mean())
    # The first has 72 % of the points right, GPS 0.72, which five of the ten thresholds let pass; of the same score as
    # the second and fourth, it comes before them: their precision is 1/2 and 2/3 at the other five.
    low, others = (recall <= 3 / 4).mean(), 2 / 3 * (recall <= 2 / 4).mean()
    assert got["gps_ap_iuv"] == pytest.approx(50 * low + 50 * others)


def test_average_precision_by_hand() -> None:
    # Surest first: right, wrong, right. Precision at recall up to 1/3: 1, up to 2/3: 2/3, beyond: 0.
    value = metrics.average_precision(np.array([0.99, 0.1, 0.99]), np.array([0.9, 0.8, 0.7]))
    assert value == pytest.approx((34 * 1 + 33 * 2 / 3) / 101)
    assert metrics.average_precision(np.array([0.72]), np.array([1.0])) == pytest.approx(0.5)  # .5 .55 .6 .65 .7


def test_point_similarity_by_hand() -> None:
    assert metrics.point_similarity(np.array([0, 0.255, np.inf])) == pytest.approx((1 + np.exp(-0.5) + 0) / 3)
    assert np.isnan(metrics.point_similarity(np.zeros(0)))


def test_distances_between_surface_points() -> None:
    # A strip of squares, 1 m each, folded by a right angle after the second: along it, not through the air.
    corners = np.array([[0, 0, 0], [1, 0, 0], [2, 0, 0], [2, 0, 1], [2, 0, 2]], float)
    points = np.concatenate([corners, corners + (0, 1, 0)])
    faces = np.array([f for i in range(4) for f in ([i, i + 1, i + 6], [i, i + 6, i + 5])])
    distance = metrics.SurfaceDistance(points, faces)
    first = metrics.SurfacePoints(np.array([0, 0, 0, 0]), np.array([[1.0, 0, 0]] * 4))  # vertex 0
    second = metrics.SurfacePoints(  # half way along the first edge; vertex 5; vertex 4; nothing
        np.array([0, 1, 6, -1]), np.array([[0.5, 0.5, 0], [0, 0, 1], [0, 1, 0], [1, 0, 0]])
    )
    np.testing.assert_allclose(distance(first, second), [0.5, 1, 4, np.inf])


def test_geodesics_go_along_the_surface() -> None:
    body = Body.load()
    points = body.template[body.lowpoly].astype(np.float64)
    distance = metrics.geodesic_distances(points, body.lowpoly_faces)
    straight = np.linalg.norm(points[:, None] - points[None], axis=2)
    assert np.isfinite(distance).all() and (distance >= straight - 1e-9).all()
    np.testing.assert_allclose(distance, distance.T)
    left, right = points[:, 0].argmax(), points[:, 0].argmin()  # finger tip to finger tip: up the arms, over the chest
    assert 1.05 * straight[left, right] < distance[left, right] < 1.6 * straight[left, right]


def test_results(make: Make, tmp_path: Path) -> None:
    points = standing([*metrics.KEYPOINTS])
    images = [{"id": 7, "camera": CAMERA}, {"id": 3}]
    people = [annotation(5, (1, 2, 30, 40), image_id=7), annotation(2, (2, 2, 30, 40), image_id=3)]
    people += [annotation(9, (3, 2, 30, 40), image_id=7), annotation(4, (4, 2, 30, 40), image_id=3)]
    mask = rectangle(5, 6, 70, 8)
    good = Answer(0.75, {n: np.array(p, float) for n, p in points.items()}, {"nose": np.array([1.0, 2, 3000])}, mask)
    broken = Answer(0.5, {"nose": np.array([np.nan, 1, 1]), "neck": np.ones(3)}, {}, mask)
    fake = Fake({1: good, 2: RuntimeError("two\nlines"), 3: broken, 4: good})
    files = make(people, images=images)
    report = evaluate.evaluate(files[0], [files[1]], fake, with_masks=True)
    assert [(r["image_id"], r["id"]) for r in report.results] == [(7, 5), (3, 2), (7, 9), (3, 4)]
    first, failed, partly, _ = json.loads(json.dumps(report.results, allow_nan=False))
    assert first["score"] == 0.75 and set(first["keypoints"]) == set(metrics.KEYPOINTS)
    assert first["keypoints"]["nose"] == pytest.approx(points["nose"], abs=1e-3)
    assert first["keypoints_3d"] == {"nose": [1, 2, 3000]}
    np.testing.assert_array_equal(coco.decode_segmentation(first["segmentation"], HEIGHT, WIDTH), mask)
    assert (failed["score"], failed["keypoints"]) == (0, {})
    assert not coco.decode_segmentation(failed["segmentation"], HEIGHT, WIDTH).any()
    assert set(partly["keypoints"]) == {"neck"}
    assert report.warnings == ["annotation 2: no result (RuntimeError: two lines)"]
    asked = {box[0]: (image[0, 0, 0], camera) for image, box, camera, _ in fake.asked}
    assert asked[1][0] == 70 and asked[2][0] == 30  # each person in its own picture
    assert asked[3][1] == Camera(150, 150, WIDTH / 2, HEIGHT / 2, WIDTH, HEIGHT)
    assert asked[4][1] == Camera.guess(WIDTH, HEIGHT)
    assert len(evaluate.evaluate(files[0], [files[1]], fake, limit=2).results) == 2


def test_crowds_and_other_categories_are_left_out(make: Make) -> None:
    box = (1, 0, 9, 9)
    file, _ = make([annotation(1, box), annotation(2, box, iscrowd=1), annotation(3, box, category_id=2)])
    content = json.loads(file.read_text())
    content["categories"].append({"id": 2, "name": "bicycle"})
    file.write_text(json.dumps(content))
    assert [p.id for p in coco.load_set(file)] == [1]


def test_pictures_from_shards_and_folders(make: Make, tmp_path: Path) -> None:
    images = [{"shard": "a.zip", "file_name": "same.png"}, {"shard": "b.zip", "file_name": "same.png"}]
    for image, value in zip(images, (10, 20)):
        with zipfile.ZipFile(tmp_path / image["shard"], "w") as archive:
            archive.writestr("inside/same.png", grey_png(np.full((8, 8, 3), value, np.uint8)))
    for sources in ([tmp_path / "a.zip", tmp_path / "b.zip"], [tmp_path]):
        pictures = coco.Pictures(sources)
        assert [pictures.image(image)[0, 0, 0] for image in images] == [10, 20]
    (tmp_path / "folder").mkdir()
    cv2.imwrite(str(tmp_path / "folder" / "3.png"), np.full((8, 8, 3), 30, np.uint8))
    assert coco.Pictures([tmp_path / "folder"]).image({"file_name": "val/3.png"})[0, 0, 0] == 30


def test_a_picture_that_cannot_be_decoded_is_one_wrong_person(make: Make) -> None:
    points = standing(LSP)
    people = [annotation(1, (1, 0, 9, 9), points), annotation(2, (2, 0, 9, 9), points, image_id=2)]
    file, pictures = make(people, LSP, [{"id": 1}, {"id": 2, "file_name": "2.png"}])
    with zipfile.ZipFile(pictures, "w") as archive:
        archive.writestr("1.png", b"\x89PNG nothing more")
        archive.writestr("2.png", cv2.imencode(".png", np.zeros((HEIGHT, WIDTH, 3), np.uint8))[1].tobytes())
    report = evaluate.evaluate(file, [pictures], Fake({2: answer(points)}), with_masks=True)
    assert report.figures["n_failed"] == 1 and report.figures["pck@0.2"] == pytest.approx(50)
    assert report.warnings == ["annotation 1: no result (1.png: not a picture that can be decoded)"]


class KnownEstimator:
    """Stands where Estimator does: the body of `body_in_camera` as a perfect network would give it in any crop."""

    def __init__(self, network: Any) -> None:
        self.network = network
        self.camera = Camera(150, 150, WIDTH / 2, HEIGHT / 2, WIDTH, HEIGHT)
        lowpoly = body_in_camera()[Body.load().lowpoly] / 1000
        self.pixels = np.column_stack([self.camera.project(lowpoly), (lowpoly[:, 2] - 3) * 150 / 3]).astype(np.float32)

    def from_box(self, image: np.ndarray, box: Box) -> Estimate:
        return Estimate(Crop.from_box(box, angle=0.3), self.pixels, np.ones(len(self.pixels), np.float32), 0.7)


class KnownNetwork:
    """Its IUV is that of the true mesh, drawn in the crop that KnownEstimator used; the right half is not masked."""

    crop = Crop.from_box((40, 5, 80, 110), angle=0.3)

    def iuv(self, crops: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        local = self.crop.to_crop(KnownEstimator(None).pixels) / 4
        seen = rasterize(local[:, :2], local[:, 2], Body.load().lowpoly_faces, 64, 64)
        mask = seen.mask * (np.arange(64) < 32)
        return seen.face.astype(np.int64)[None], seen.barycentric[None], mask.astype(np.float32)[None]


def mesh_answers(monkeypatch: pytest.MonkeyPatch) -> evaluate.MeshAnswers:
    monkeypatch.setattr(evaluate, "Estimator", KnownEstimator)
    monkeypatch.setattr(evaluate, "Network", lambda model, threads: KnownNetwork())
    return evaluate.MeshAnswers()


def test_mesh_answers_are_the_mesh_that_the_network_gave(monkeypatch: pytest.MonkeyPatch) -> None:
    body, mesh = Body.load(), body_in_camera() / 1000
    camera = KnownEstimator(None).camera
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    got = mesh_answers(monkeypatch)(image, (40, 5, 80, 110), camera, None)
    truth = silhouette(camera.project(mesh), body.triangles, WIDTH, HEIGHT)
    assert metrics.intersection_over_union(got.silhouette, truth) > 0.93
    for which in ("coco17", "lsp14"):
        for name, point in zip(body.joint_names[which], body.joints(mesh, which)):
            if name in ("neck", "head_top") or which == "coco17":
                assert np.linalg.norm(got.keypoints[name][:2] - camera.project(point)) < 2
                assert np.linalg.norm(got.keypoints_3d[name] / 1000 - point) < 0.06 * 3  # of the distance: 3 m
    assert got.vertices is not None
    assert np.linalg.norm(got.vertices / 1000 - mesh, axis=1).mean() < 0.06 * 3
    assert got.score == 0.7 and got.on_mesh is None


def test_the_surface_that_a_perfect_mesh_shows(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    people = [annotation(1, (40, 5, 80, 110), vertices="mesh.npy")]
    stream = io.BytesIO()
    np.save(stream, body_in_camera())
    files = make(people, images=[{"id": 1, "camera": CAMERA}], files={"mesh.npy": stream.getvalue()})
    answers = mesh_answers(monkeypatch)
    judge = evaluate.Judge(coco.Pictures([files[1]]), answers)
    person = coco.load_set(files[0])[0]
    score = judge.outcome(person, np.zeros((HEIGHT, WIDTH, 3), np.uint8)).score
    assert not judge.warnings
    assert score.gps_mesh > 0.99
    assert 0.3 < score.gps_iuv < 0.6  # only half of the crop is masked as the person, and its cells are coarse
    assert score.pve < 20  # the body's own size is taken for granted, and it is the template


BAD: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
    (lambda c: c.pop("images"), "not a COCO set"),
    (lambda c: c.update(annotations=[]), "no annotation of a person"),
    (lambda c: c["annotations"][0].pop("bbox"), "`bbox` must be four numbers"),
    (lambda c: c["annotations"][0].update(bbox=[1, 2, None, 4]), "`bbox` must be four numbers"),
    (lambda c: c["annotations"][0].update(bbox=[1, 2, float("nan"), 4]), "`bbox` must be four numbers"),
    (lambda c: c["annotations"][0].update(image_id=99), "there is no image 99"),
    (lambda c: c["annotations"][0].update(image_id=[1]), "unhashable"),
    (lambda c: c["annotations"][0].update(keypoints=[1, 2, 2]), "`keypoints` must be 42 numbers"),
    (lambda c: c["annotations"][0].update(keypoints_3d=[[1, 2, 3]]), "`keypoints_3d` must be 14 rows"),
    (lambda c: c["annotations"][0].update(segmentation=[[1, 2, 3]]), "`segmentation` must be polygons"),
    (lambda c: c["annotations"].append("x"), "`annotations` needs"),
    (lambda c: c["images"][0].update(camera={"fx": 1}), "`camera` needs"),
    (lambda c: c["images"][0].update(file_name="gone.png"), "gone.png: not in --images (1 picture of the set missing)"),
]


@pytest.mark.parametrize(("spoil", "said"), BAD, ids=[said for _, said in BAD])
def test_a_bad_set_is_one_line(make: Make, spoil: Callable[[dict[str, Any]], Any], said: str) -> None:
    file, pictures = make([annotation(1, (1, 0, 9, 9), standing(LSP))], LSP)
    content = json.loads(file.read_text())
    spoil(content)
    file.write_text(json.dumps(content))
    with pytest.raises(InputError) as caught:
        evaluate.evaluate(file, [pictures], Fake({}))
    assert said in str(caught.value) and "\n" not in str(caught.value)


def command(*arguments: object) -> int:
    return evaluate.main([str(a) for a in arguments])


def test_the_command(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    points = standing(LSP)
    file, pictures = make([annotation(1, (1, 0, 9, 9), points)], LSP)
    monkeypatch.setattr(evaluate, "MeshAnswers", lambda model, threads: Fake({1: answer(points)}))
    results, summary = tmp_path / "results.json", tmp_path / "figures.json"
    assert command(file, "--images", pictures, "--results", results, "--json", summary) == 0
    assert json.loads(results.read_text())[0]["id"] == 1
    keys = "n n_pck pck@0.2 pck@0.2_by_joint mean_iou median_iou mean_iou_large oks_ap oks_ar mpjpe_mm pa_mpjpe_mm"
    written = json.loads(summary.read_text())
    assert {*keys.split(), "pve_mm", "gps_ap_iuv", "gps_ap_mesh", "ms_per_person"} <= set(written)
    assert written["pck@0.2"] == 100 and (written["estimator"], written["model"]) == ("meshpose", "accurate")
    shown = capsys.readouterr()
    assert "pck@0.2" in shown.out and "1/1" in shown.err  # the figures, the progress bar


def test_bad_arguments_are_one_line(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, pictures = make([annotation(1, (1, 0, 9, 9))])
    monkeypatch.setattr(evaluate, "MeshAnswers", lambda model, threads: Fake({}))
    (tmp_path / "text.zip").write_text("no zip")
    for arguments, error, said in (
        ((tmp_path / "none.json", "--images", pictures), InputError, "none.json: cannot be read"),
        ((pictures, "--images", pictures), InputError, "pictures.zip"),
        ((file, "--images", tmp_path / "text.zip"), InputError, "text.zip: not a zip file"),
        ((file, "--images", tmp_path / "nowhere"), InputError, "nowhere: there is no such zip or folder"),
        ((file, "--images", pictures, "--limit", 0), InputError, "--limit 0"),
        ((file,), InputError, "required: --images"),
        ((file, "--images", pictures, "--estimator", "x"), InputError, "invalid choice"),
        ((file, "--images", pictures, "--json", tmp_path / "no" / "f.json"), OutputError, "its folder does not exist"),
        ((file, "--images", pictures, "--results", tmp_path), OutputError, "a folder of this name"),
    ):
        with pytest.raises(MeshPoseError) as caught:
            command(*arguments)
        assert isinstance(caught.value, error) and said in str(caught.value) and "\n" not in str(caught.value)


def test_the_command_line_says_one_line_and_ends_with_2(tmp_path: Path, meshpose: Callable[..., Any]) -> None:
    done = meshpose("evaluate", tmp_path / "none.json", "--images", tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and "none.json: cannot be read" in done.stderr


def test_score_auc() -> None:
    quality = np.array([1.0, 0.9, 0.8, 0.1, 0.0])
    assert metrics.score_auc(quality, np.array([0.9, 0.8, 0.7, 0.3, 0.2])) == 1
    assert metrics.score_auc(quality, np.array([0.9, 0.8, 0.25, 0.3, 0.2])) == pytest.approx(5 / 6)
    assert metrics.score_auc(np.ones(3), np.arange(3.0)) is None
