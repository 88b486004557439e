# SPDX-License-Identifier: Apache-2.0
"""`meshpose evaluate`: the product (or its peer) on an annotated set of pictures, from each person's box alone.

    report = evaluate("val.json", ["val.zip"])
    report.figures["pck@0.2"]                  # per cent
    report.results                             # one JSON-ready object per annotation

What a person's result holds is an `Answer`; `MeshAnswers` gives those of MeshPose, `PeerAnswers` those of BlazePose.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, Protocol

import numpy as np

from . import metrics, weights
from .body import Body
from .camera import Camera, bone_lengths, metres_per_pixel, place
from .coco import Person, Pictures, encode_segmentation, load_set
from .crop import CROP
from .errors import InputError, OutputError
from .estimate import Estimate, Estimator
from .landmarks import LandmarkEstimator, fetch
from .likely import likely_places
from .metrics import KEYPOINTS, PersonScore, SurfaceDistance, SurfacePoints
from .network import Network
from .raster import Raster, rasterize, silhouette
from .upsample import Upsampler

ESTIMATORS = ("meshpose", "landmarks")


@dataclass(frozen=True)
class Answer:
    """What an estimator says of one person.

    keypoints: name -> (3,) x, y picture pixels, score; keypoints_3d: name -> (3,) mm, camera frame; both with the names
    of metrics.KEYPOINTS. silhouette (H, W) bool, whole picture. vertices (N, 3) mm, camera frame, or None.
    on_mesh, by_iuv: the surface seen at the asked pixels, by the rendered mesh and by the network's own IUV, or None.
    lsp, lsp_3d: the joints that LSP's annotators set elsewhere than COCO's (hips above all), for sets of that kind.
    """

    score: float
    keypoints: Mapping[str, np.ndarray]
    keypoints_3d: Mapping[str, np.ndarray]
    silhouette: np.ndarray
    vertices: np.ndarray | None = None
    on_mesh: SurfacePoints | None = None
    by_iuv: SurfacePoints | None = None
    lsp: Mapping[str, np.ndarray] = field(default_factory=dict)
    lsp_3d: Mapping[str, np.ndarray] = field(default_factory=dict)


class Answers(Protocol):
    """An estimator as `evaluate` uses it."""

    def __call__(
        self, image: np.ndarray, box: tuple[float, float, float, float], camera: Camera, pixels: np.ndarray | None
    ) -> Answer:
        """The person in a box (x, y, w, h) of a picture (H, W, 3) uint8 BGR; pixels (p, 2): tell the surface there."""


class MeshAnswers:
    """MeshPose: box -> crop -> network -> metres -> upsampled mesh -> joints, silhouette, surface."""

    def __init__(self, model: str = weights.DEFAULT, threads: int = 2) -> None:
        self._estimator = Estimator(Network(model, threads))
        self._body = Body.load()
        self._upsampler = Upsampler.load()
        self._lengths = bone_lengths(self._body)

    def __call__(
        self, image: np.ndarray, box: tuple[float, float, float, float], camera: Camera, pixels: np.ndarray | None
    ) -> Answer:
        height, width = image.shape[:2]
        estimate = self._estimator.from_box(image, box)
        pixels_3d, visibility = estimate.vertices[None], estimate.visibility[None]
        size, _ = metres_per_pixel(pixels_3d, visibility, camera, self._lengths, self._body)
        lowpoly = place(likely_places(pixels_3d, visibility, size, camera), size, camera)[0]
        mesh = self._upsampler.up(lowpoly)
        mask = silhouette(camera.project(mesh), self._body.triangles, width, height)
        (flat, flat_3d), (lsp, lsp_3d) = (
            (self._keypoints(estimate, which), self._joints(lowpoly * 1000, which)) for which in ("coco17", "lsp14")
        )
        both = {name: lsp[name] for name in KEYPOINTS if name not in flat}
        both_3d = {name: lsp_3d[name] for name in both}
        surfaces = self._surfaces(image, estimate, pixels)
        return Answer(
            estimate.score, flat | both, flat_3d | both_3d, mask, mesh * 1000, *surfaces, lsp=lsp, lsp_3d=lsp_3d
        )

    def _keypoints(self, estimate: Estimate, which: str) -> dict[str, np.ndarray]:
        """Name -> (3,) x, y picture pixels and the visibility around the joint."""
        seen = self._joints(np.repeat(estimate.visibility[:, None], 3, axis=1), which)
        flat = self._joints(estimate.vertices, which)
        return {name: np.append(p[:2], np.clip(seen[name][0], 0, 1)) for name, p in flat.items()}

    def _surfaces(
        self, image: np.ndarray, estimate: Estimate, pixels: np.ndarray | None
    ) -> tuple[SurfacePoints | None, SurfacePoints | None]:
        """What the mesh, and what the network's IUV shows at pixels (p, 2); nothing where none are asked."""
        if pixels is None:
            return None, None
        raster = _lowpoly_raster(estimate.vertices, self._body, image.shape[1], image.shape[0])
        return _surface_at(raster, pixels), self._by_iuv(image, estimate, pixels)

    def _joints(self, lowpoly: np.ndarray, which: str) -> dict[str, np.ndarray]:
        """Low-poly vertices (V, 3) -> name: (3,), in the definition "coco17" or "lsp14"."""
        return dict(zip(self._body.joint_names[which], self._body.joints(lowpoly, which)))

    def _by_iuv(self, image: np.ndarray, estimate: Estimate, pixels: np.ndarray) -> SurfacePoints:
        """Which low-poly surface the network itself sees at pixels (p, 2), in the crop of its last pass."""
        faces, barycentric, mask = (a[0] for a in self._estimator.network.iuv(estimate.crop.warp(image)[None]))
        cells = np.floor(estimate.crop.to_crop(np.asarray(pixels, np.float64)) * (len(mask) / CROP)).astype(int)
        inside = (cells >= 0).all(axis=1) & (cells < len(mask)).all(axis=1)
        column, row = np.where(inside[:, None], cells, 0).T
        seen = inside & (mask[row, column] > 0.5)
        return SurfacePoints(np.where(seen, faces[row, column], -1), barycentric[row, column])


def _lowpoly_raster(vertices: np.ndarray, body: Body, width: int, height: int) -> Raster:
    """The low-poly mesh of vertices (V, 3), x and y picture pixels, in a picture."""
    return rasterize(vertices[:, :2], vertices[:, 2], body.lowpoly_faces, width, height)


def _surface_at(raster: Raster, pixels: np.ndarray) -> SurfacePoints:
    column, row = np.floor(pixels).astype(int).T
    return SurfacePoints(raster.face[row, column], raster.barycentric[row, column])


class PeerAnswers:
    """BlazePose heavy on its own path; it has no mesh."""

    def __init__(self, threads: int = 2) -> None:
        self._estimator = LandmarkEstimator(fetch(), threads)

    def __call__(
        self, image: np.ndarray, box: tuple[float, float, float, float], camera: Camera, pixels: np.ndarray | None
    ) -> Answer:
        person = self._estimator.from_box(image, box)
        # Metres relative to the hips -> camera frame, at the depth where the body has its size in the picture.
        spread = [np.linalg.norm(p[:, :2] - p[:, :2].mean(axis=0)) for p in (person.world, person.points)]
        depth = (camera.fx + camera.fy) / 2 * spread[0] / max(float(spread[1]), 1e-6)
        hips = camera.unproject(person.points[[23, 24], :2].mean(axis=0), np.array(depth))
        metres = {name: (hips + point) * 1000 for name, point in person.keypoints_3d().items()}
        return Answer(person.score, person.keypoints(), metres, person.silhouette)


@dataclass(frozen=True)
class Outcome:
    """One person, done: score against the truth, JSON-ready result, keypoints for COCOeval (17, 3), seconds it took."""

    score: PersonScore
    result: dict[str, Any]
    coco17: np.ndarray | None
    seconds: float


@dataclass(frozen=True)
class Truth:
    """What the set knows of one person, beside its keypoints.

    silhouette (H, W) bool or None; vertices (N or V, 3) mm, camera frame, or None; pixels (p, 2) with the surface
    points truly seen there, both None where the set has no mesh or no camera.
    """

    silhouette: np.ndarray | None
    vertices: np.ndarray | None
    pixels: np.ndarray | None = None
    points: SurfacePoints | None = None


class Judge:
    """Asks an estimator about one person after another and scores the answers."""

    def __init__(self, pictures: Pictures, answers: Answers, with_masks: bool = False) -> None:
        self._pictures, self._answers, self._with_masks = pictures, answers, with_masks
        self._distance: SurfaceDistance | None = None
        self.warnings: list[str] = []

    def outcome(self, person: Person, image: np.ndarray | None) -> Outcome:
        """The person in a picture (None where it cannot be decoded). Raises InputError where the truth is broken."""
        if image is None:
            return self._scored(person, Truth(None, None), None, 0.0, (0, 0))
        height, width = image.shape[:2]
        camera = Camera(*person.camera, width, height) if person.camera else Camera.guess(width, height)
        truth = self._truth(person, height, width)
        start, answer = time.perf_counter(), None
        try:
            answer = self._answers(image, person.box, camera, truth.pixels)
        except Exception as error:  # noqa: BLE001 - whatever it is: this person has no result, the next one may have
            self._warn(person, f"{type(error).__name__}: {error}")
        return self._scored(person, truth, answer, time.perf_counter() - start, (height, width))

    def decoded(self, person: Person) -> np.ndarray | None:
        """The person's picture, or None and a warning."""
        try:
            return self._pictures.image(person.image)
        except InputError as error:
            self._warn(person, str(error))
            return None

    def _warn(self, person: Person, reason: str) -> None:
        self.warnings.append(f"annotation {person.id}: no result ({' '.join(reason.split())})")

    def _truth(self, person: Person, height: int, width: int) -> Truth:
        mask = self._pictures.silhouette(person, height, width)
        vertices = self._pictures.vertices(person)
        if vertices is None:
            return Truth(mask, None)
        body = Body.load()
        if len(vertices) not in (len(body.template), len(body.lowpoly)):
            sizes = f"{len(body.template)} or {len(body.lowpoly)}"
            raise InputError(f"annotation {person.id}: `vertices` has {len(vertices)} rows, it must have {sizes}")
        if person.camera is None:
            return Truth(mask, vertices)
        camera = Camera(*person.camera, width, height)
        lowpoly = vertices if len(vertices) == len(body.lowpoly) else vertices[body.lowpoly]
        raster = _lowpoly_raster(np.column_stack([camera.project(lowpoly), lowpoly[:, 2]]), body, width, height)
        pixels = _central_pixels(raster, mask)  # the mask takes out what somebody else hides
        return Truth(mask, vertices, pixels, _surface_at(raster, pixels))

    def _scored(
        self, person: Person, truth: Truth, answer: Answer | None, seconds: float, size: tuple[int, int]
    ) -> Outcome:
        found, found_3d = _named_joints(answer, person.names) if answer else ({}, {})
        score = PersonScore(answer is not None, answer.score if answer else 0.0)
        score.errors = metrics.joint_errors(person.keypoints, found)
        if truth.silhouette is not None:
            score.iou = metrics.intersection_over_union(truth.silhouette, answer.silhouette) if answer else 0.0
            score.area = person.area if person.area is not None else float(truth.silhouette.sum())
        if answer and person.keypoints_3d:
            score.mpjpe, score.pa_mpjpe = metrics.joint_distances(person.keypoints_3d, found_3d)
        if truth.vertices is not None:
            self._score_mesh(score, truth, answer)
        mask = answer.silhouette if answer else np.zeros(size, bool)
        result = {
            "image_id": person.image_id,
            "id": person.id,
            "score": round(score.score, 5),
            "keypoints": {name: [round(float(v), 3) for v in point] for name, point in found.items()},
            "keypoints_3d": {name: [round(float(v), 2) for v in point] for name, point in found_3d.items()},
            "segmentation": encode_segmentation(mask) if self._with_masks and mask.size else None,
        }
        complete = bool(found) and all(name in found for name in metrics.COCO17)
        return Outcome(score, result, np.array([found[n] for n in metrics.COCO17]) if complete else None, seconds)

    def _score_mesh(self, score: PersonScore, truth: Truth, answer: Answer | None) -> None:
        body = Body.load()
        if answer and answer.vertices is not None and truth.vertices is not None:
            score.pve = metrics.vertex_distance(truth.vertices, answer.vertices, body)
        if truth.points is None or not len(truth.points.faces):
            return
        if answer is None:
            score.gps_iuv = score.gps_mesh = 0.0
            return
        if self._distance is None:
            self._distance = SurfaceDistance(body.template[body.lowpoly], body.lowpoly_faces)
        if answer.by_iuv is not None:
            score.gps_iuv = metrics.point_similarity(self._distance(truth.points, answer.by_iuv))
        if answer.on_mesh is not None:
            score.gps_mesh = metrics.point_similarity(self._distance(truth.points, answer.on_mesh))


def _central_pixels(raster: Raster, mask: np.ndarray | None) -> np.ndarray:
    """One pixel for each face that is seen, the nearest to its middle -> centres (p, 2).

    So the points lie evenly on the body, not on the picture, as DensePose's annotators were made to set theirs.
    """
    row, column = np.nonzero(raster.mask if mask is None else raster.mask & mask)
    face, middle = raster.face[row, column], raster.barycentric[row, column].min(axis=1)
    order = np.lexsort((-middle, face))
    first = order[np.unique(face[order], return_index=True)[1]]
    return np.stack([column[first], row[first]], axis=1) + 0.5


def _named_joints(
    answer: Answer, names: Sequence[str]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The answer's joints, 2D and 3D, as a set of these joint names means them.

    LSP's annotators set some joints, hips above all, elsewhere than COCO's: a set that has LSP's neck but not COCO's
    nose gets LSP's.
    """
    lsp = "neck" in names and "nose" not in names
    return (
        _finite({**answer.keypoints, **(answer.lsp if lsp else {})}),
        _finite({**answer.keypoints_3d, **(answer.lsp_3d if lsp else {})}),
    )


def _finite(points: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The points that are numbers; a joint that is not counts as not found."""
    return {name: point for name, point in points.items() if np.isfinite(point).all()}


@dataclass
class Report:
    """Figures (metrics.summary and more), results (one object per annotation) and what went wrong on the way."""

    figures: dict[str, Any]
    results: list[dict[str, Any]]
    warnings: list[str] = field(default_factory=list)


def evaluate(
    set_file: Path | str,
    images: Sequence[Path | str],
    estimator: str | Answers = "meshpose",
    model: str = weights.DEFAULT,
    limit: int | None = None,
    threads: int = 2,
    with_masks: bool = False,
    progress: Callable[[Sequence[Person]], Iterable[Person]] = iter,
) -> Report:
    """Runs an estimator on every person of a COCO-format set.

    images: zips and folders of its pictures. estimator: "meshpose", "landmarks" or anything that answers alike.
    model: of "meshpose", one of `weights.models()`.
    limit: only the first persons. with_masks: the results hold the silhouettes too. progress: wraps the walk over the
    persons (tqdm does). Raises InputError for bad input, WeightsError for bad weights; a person whose estimate fails
    is a warning and counts as wrong.
    """
    people = load_set(set_file)[:limit]
    pictures = Pictures(images)
    pictures.check(people)
    judge = Judge(pictures, _answers(estimator, model, threads), with_masks)
    # Picture by picture, so that each is decoded once and one is held; the results keep the set's order.
    groups: dict[int, list[int]] = {}
    for index, person in enumerate(people):
        groups.setdefault(id(person.image), []).append(index)
    order = [index for group in groups.values() for index in group]
    outcomes: dict[int, Outcome] = {}
    held: Person | None = None
    image: np.ndarray | None = None
    for person, index in zip(progress([people[i] for i in order]), order):  # the bar first: it is to see its end
        if held is None or held.image is not person.image:
            held, image = person, judge.decoded(person)
        outcomes[index] = judge.outcome(person, image)
    done = [outcomes[i] for i in range(len(people))]
    name = estimator if isinstance(estimator, str) else type(estimator).__name__
    named = {"estimator": name} | ({"model": model} if name == "meshpose" else {})
    figures = named | metrics.summary([o.score for o in done]) | _oks_figures(people, done)
    figures["ms_per_person"] = 1000 * float(np.mean([o.seconds for o in done]))
    return Report(figures, [o.result for o in done], judge.warnings)


def _answers(estimator: str | Answers, model: str, threads: int) -> Answers:
    if not isinstance(estimator, str):
        return estimator
    if estimator not in ESTIMATORS:
        raise InputError(f"estimator {estimator!r}: it must be one of {', '.join(ESTIMATORS)}")
    return MeshAnswers(model, threads) if estimator == "meshpose" else PeerAnswers(threads)


def _oks_figures(people: Sequence[Person], done: Sequence[Outcome]) -> dict[str, float | None]:
    """COCO's AP and AR in per cent for sets with COCO's 17 names, else None."""
    if not any(all(name in p.keypoints for name in metrics.COCO17) for p in people):
        return {"oks_ap": None, "oks_ar": None}
    nothing = np.zeros(3)
    truths = [
        {
            "image": id(p.image), "box": p.box, "area": p.box[2] * p.box[3] if p.area is None else p.area,
            "keypoints": np.array([p.keypoints.get(name, nothing) for name in metrics.COCO17]),
        }
        for p in people
    ]  # fmt: skip
    found = [
        {"image": id(p.image), "score": o.score.score, "keypoints": o.coco17}
        for p, o in zip(people, done)
        if o.coco17 is not None
    ]
    ap, ar = metrics.keypoint_ap(truths, found)
    return {"oks_ap": 100 * ap, "oks_ar": 100 * ar}


# -- the command -----------------------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    """argparse whose errors are one line, as everywhere."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; `{self.prog} --help` says what there is")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="meshpose evaluate",
        description="Figures of MeshPose, or its peer, on annotated pictures; each person's box is all it is given.",
        allow_abbrev=False,
    )
    parser.add_argument("set", metavar="SET.json", type=Path, help="annotated pictures in COCO's format")
    parser.add_argument(
        "--images", required=True, nargs="+", type=Path, metavar="ZIP_OR_FOLDER", help="where the set's pictures are"
    )
    parser.add_argument("--results", type=Path, metavar="FILE", help="write one JSON object per annotation")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as JSON")
    parser.add_argument("--estimator", choices=ESTIMATORS, default="meshpose", help="landmarks = BlazePose heavy")
    size = f"MeshPose's network ({weights.DEFAULT})"
    parser.add_argument("--model", default=weights.DEFAULT, metavar="fast|accurate", help=size)
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N persons")
    return parser


def main(argv: Sequence[str]) -> int:
    """`meshpose evaluate ...`: prints the figures and writes the files. Raises MeshPoseError."""
    from tqdm import tqdm

    arguments = _parser().parse_args(argv)
    if arguments.limit is not None and arguments.limit < 1:
        raise InputError(f"--limit {arguments.limit}: it must be at least 1")
    for file in (arguments.results, arguments.json):
        if file is not None:
            _check_writable(file)

    def bar(people: Sequence[Person]) -> Iterable[Person]:
        shown: Iterable[Person] = tqdm(people, desc=arguments.estimator, unit="person", file=sys.stderr)
        return shown

    report = evaluate(
        arguments.set, arguments.images, arguments.estimator, arguments.model, arguments.limit,
        with_masks=arguments.results is not None, progress=bar,
    )  # fmt: skip
    if arguments.results is not None:
        _write_json(arguments.results, report.results)
    if arguments.json is not None:
        _write_json(arguments.json, _rounded(report.figures), indent=1)
    for line in report.warnings[:5]:
        print(line, file=sys.stderr)
    if len(report.warnings) > 5:
        print(f"... {len(report.warnings)} persons without a result in all", file=sys.stderr)
    print("\n".join(_lines(_rounded(report.figures))))
    return 0


def _rounded(figures: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _rounded(v) if isinstance(v, Mapping) else round(v, 4) if isinstance(v, float) else v
        for key, v in figures.items()
    }


def _lines(figures: Mapping[str, Any]) -> list[str]:
    """The figures for reading: one a line, those that the set does not give left out."""
    lines = []
    for key, value in figures.items():
        if isinstance(value, Mapping):
            value = ", ".join(f"{name} {v:.1f}" for name, v in value.items())
        if value not in (None, ""):
            lines.append(f"{key:20} {value}")
    return lines


def _check_writable(file: Path) -> None:
    """OutputError before the work rather than after it."""
    folder = file.absolute().parent
    if file.is_dir():
        raise OutputError(f"{file}: a folder of this name is in the way")
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise OutputError(f"{file}: its folder does not exist or cannot be written to")


def _write_json(file: Path, content: Any, indent: int | None = None) -> None:
    """Writes beside the target first, so that an interrupted run leaves an earlier file whole."""
    scratch = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        scratch.write_text(json.dumps(content, indent=indent, allow_nan=False) + "\n", "utf-8")
        scratch.replace(file)
    except OSError as error:
        scratch.unlink(missing_ok=True)
        raise OutputError(f"{file}: cannot be written ({error.strerror})") from error
