# SPDX-License-Identifier: Apache-2.0
"""The figures of `meshpose evaluate`: what was predicted for each person against what is true.

    scores = [PersonScore(...), ...]           # one per annotated person, made while the pictures go by
    summary(scores)                            # {"n": ..., "pck@0.2": ..., "mean_iou": ..., ...}

PCK, AP and AR are in per cent, IoU from 0 to 1, distances in mm; a figure that the set cannot give is None.
A person without a result counts as all wrong in PCK, IoU and AP; distances in mm are means over the persons found
(`n_failed` says how many are missing there).
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import InputError

if TYPE_CHECKING:
    from .body import Body

COCO17 = (
    "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow",
    "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle",
    "right_ankle",
)  # fmt: skip
KEYPOINTS = (*COCO17, "neck", "head_top")
"""The names that every estimator answers with."""
LIMBS = COCO17[5:]
"""The twelve limb joints of `pck@0.2`: shoulders, elbows, wrists, hips, knees, ankles."""

PCK_THRESHOLD = 0.2
LARGE_AREA = 128.0**2
GPS_KAPPA = 0.255
"""Metres; DensePose's constant: an error of this size along the surface scores exp(-1/2)."""
AP_THRESHOLDS = np.arange(0.5, 0.96, 0.05)
MISSING = float("nan")


@dataclass
class PersonScore:
    """One annotated person.

    errors: joint name -> distance in torsos, for labelled joints only (inf without a result); empty where there is
    no torso. iou, mpjpe, pa_mpjpe, pve, gps_iuv, gps_mesh: NaN where the set has no truth for them (in mm; GPS 0..1).
    area: px^2 of the true silhouette. score: the estimator's own. found: whether there is a result.
    """

    found: bool
    score: float = 0.0
    errors: Mapping[str, float] = field(default_factory=dict)
    iou: float = MISSING
    area: float = 0.0
    mpjpe: float = MISSING
    pa_mpjpe: float = MISSING
    pve: float = MISSING
    gps_iuv: float = MISSING
    gps_mesh: float = MISSING


def torso_length(points: Mapping[str, np.ndarray]) -> float | None:
    """left_shoulder to right_hip, else right_shoulder to left_hip; None where neither pair is labelled.

    points: name -> (3,) x, y, v of the annotation; labelled means v > 0.
    """
    for a, b in (("left_shoulder", "right_hip"), ("right_shoulder", "left_hip")):
        if a in points and b in points and points[a][2] > 0 and points[b][2] > 0:
            length = float(np.linalg.norm(points[a][:2] - points[b][:2]))
            if length > 0:
                return length
    return None


def joint_errors(truth: Mapping[str, np.ndarray], found: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Labelled joint -> distance to the truth in torsos, inf where the joint was not found; {} without a torso.

    truth: name -> x, y, v; found: name -> x, y, ... Joints that no estimator answers with are left out.
    """
    torso = torso_length(truth)
    if torso is None:
        return {}
    errors = {}
    for name, point in truth.items():
        if point[2] > 0 and name in KEYPOINTS:
            distance = np.linalg.norm(found[name][:2] - point[:2]) if name in found else np.inf
            errors[name] = float(distance) / torso
    return errors


def intersection_over_union(a: np.ndarray, b: np.ndarray) -> float:
    """IoU of two bool masks (H, W); 0 where both are empty."""
    union = np.count_nonzero(a | b)
    return float(np.count_nonzero(a & b) / union) if union else 0.0


def joint_distances(truth: Mapping[str, np.ndarray], found: Mapping[str, np.ndarray]) -> tuple[float, float]:
    """(MPJPE, PA-MPJPE) of one person in the unit of the input; NaN where the truth does not allow them.

    truth, found: name -> (3,) camera frame; both are taken relative to their mid-hips (so both true hips are needed).
    """
    names = [name for name in truth if name in found]
    hips = ("left_hip", "right_hip")
    if any(hip not in names for hip in hips):
        return MISSING, MISSING
    a, b = (np.array([side[name] for name in names], np.float64) for side in (truth, found))
    roots = [np.mean([side[hip] for hip in hips], axis=0) for side in (truth, found)]
    plain = np.linalg.norm((a - roots[0]) - (b - roots[1]), axis=1).mean()
    aligned = np.linalg.norm(a - procrustes(b, a), axis=1).mean() if len(names) >= 3 else MISSING
    return float(plain), float(aligned)


def procrustes(points: np.ndarray, onto: np.ndarray) -> np.ndarray:
    """points (n, 3) moved, turned and scaled (no mirror) so that they fall on `onto` (n, 3), least squares."""
    p, q = points - points.mean(axis=0), onto - onto.mean(axis=0)
    u, sizes, vt = np.linalg.svd(p.T @ q)
    flip = np.array([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    scale = (sizes * flip).sum() / max(float((p**2).sum()), 1e-12)
    return np.asarray(scale * p @ (u * flip) @ vt + onto.mean(axis=0))


def vertex_distance(truth: np.ndarray, found: np.ndarray, body: Body) -> float:
    """PVE of one person: mean distance of vertices, both relative to their mid-hips.

    truth: (N, 3) or, of the low-poly alone, (V, 3); found: (N, 3). The unit is that of the input.
    """
    if len(truth) == len(body.lowpoly):
        found = found[body.lowpoly]
    names = list(body.joint_names["coco17"])
    hips = [names.index("left_hip"), names.index("right_hip")]
    a, b = (points - body.joints(points, "coco17")[hips].mean(axis=0) for points in (truth, found))
    return float(np.linalg.norm(a - b, axis=1).mean())


# -- dense correspondence --------------------------------------------------------------------------------------------


def geodesic_distances(points: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Distances along a closed triangle mesh between all its vertices, (V, V); for a mesh of some hundred vertices.

    Shortest paths along edges and across pairs of neighbouring triangles (which halves the detour of edges alone).
    points: (V, 3), faces: (F, 3).
    """
    points = np.asarray(points, np.float64)
    distance = np.full((len(points), len(points)), np.inf)
    np.fill_diagonal(distance, 0)
    a = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    opposite = np.concatenate([faces[:, 2], faces[:, 0], faces[:, 1]])
    order = np.lexsort((a.max(axis=1), a.min(axis=1)))
    edges, opposite = np.sort(a, axis=1)[order], opposite[order]
    twins = np.flatnonzero((edges[1:] == edges[:-1]).all(axis=1))
    links = np.concatenate([edges, np.stack([opposite[twins], opposite[twins + 1]], axis=1)])
    length = np.linalg.norm(points[links[:, 0]] - points[links[:, 1]], axis=1)
    distance[links[:, 0], links[:, 1]] = distance[links[:, 1], links[:, 0]] = length
    for middle in range(len(points)):  # Floyd-Warshall
        np.minimum(distance, distance[:, middle, None] + distance[None, middle], out=distance)
    return distance


@dataclass(frozen=True)
class SurfacePoints:
    """Points on the low-poly surface: faces (p,), rows of Body.lowpoly_faces, -1 for none, and barycentric (p, 3)."""

    faces: np.ndarray
    barycentric: np.ndarray


class SurfaceDistance:
    """Distances in metres along the low-poly body at rest, between points of its surface."""

    def __init__(self, points: np.ndarray, faces: np.ndarray) -> None:
        """points (V, 3) metres, faces (F, 3)."""
        self._points, self._faces = np.asarray(points, np.float64), faces
        self._between = geodesic_distances(points, faces)

    def __call__(self, a: SurfacePoints, b: SurfacePoints) -> np.ndarray:
        """Distance of each point of a to its fellow of b, (p,); inf where either is none.

        Straight where the two faces touch, else the mean of the ways between their corners.
        """
        known = (a.faces >= 0) & (b.faces >= 0)
        corners = [self._faces[np.where(known, side.faces, 0)] for side in (a, b)]
        places = [np.einsum("pk,pkc->pc", s.barycentric, self._points[c]) for s, c in zip((a, b), corners)]
        straight = np.linalg.norm(places[0] - places[1], axis=1)
        ways = self._between[corners[0][:, :, None], corners[1][:, None, :]]
        along = np.einsum("pi,pij,pj->p", a.barycentric, ways, b.barycentric)
        touching = (corners[0][:, :, None] == corners[1][:, None, :]).any(axis=(1, 2))
        return np.where(known, np.where(touching, straight, along), np.inf)


def point_similarity(distances: np.ndarray) -> float:
    """DensePose's geodesic point similarity of one person, 0..1, from the distances (p,) of its points in metres."""
    return float(np.exp(-(distances**2) / (2 * GPS_KAPPA**2)).mean()) if len(distances) else MISSING


def average_precision(similarity: np.ndarray, scores: np.ndarray) -> float:
    """COCO's AP, 0..1, where each person's box is given, so that a result can only belong to its own person.

    similarity (n,): of every true person, 0 without a result. scores (n,): the estimator's.
    Mean over thresholds 0.50 to 0.95 of the precision that is interpolated at 101 recalls.
    """
    order = np.argsort(-scores, kind="stable")
    count = np.arange(1, len(order) + 1)
    values = []
    for threshold in AP_THRESHOLDS:
        hits = np.cumsum(similarity[order] >= threshold)
        best = np.maximum.accumulate((hits / count)[::-1])[::-1]
        place = np.searchsorted(hits / len(order), np.linspace(0, 1, 101), side="left")
        values.append(np.append(best, 0.0)[place].mean())
    return float(np.mean(values))


def keypoint_ap(truths: Sequence[Mapping[str, Any]], found: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """(AP, AR) of COCO's own COCOeval on keypoints, 0..1.

    truths: dicts with image (any hashable), box (4,), area, keypoints (17, 3) x y v in COCO's order.
    found: dicts with image, score, keypoints (17, 3) x y score. Raises InputError without pycocotools.
    """
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        raise InputError("evaluate: the package pycocotools is missing; pip install 'meshpose[evaluate]'") from error
    images = {image: i + 1 for i, image in enumerate(dict.fromkeys(t["image"] for t in truths))}
    truth = COCO()
    truth.dataset = {
        "info": {},
        "images": [{"id": i} for i in images.values()],
        "categories": [{"id": 1, "name": "person", "keypoints": list(COCO17)}],
        "annotations": [  # numbered from 1: COCOeval takes the id 0 for "no match"
            {
                "id": i + 1, "image_id": images[t["image"]], "category_id": 1, "iscrowd": 0, "area": float(t["area"]),
                "bbox": [float(v) for v in t["box"]], "keypoints": np.asarray(t["keypoints"], float).ravel().tolist(),
                "num_keypoints": int(np.count_nonzero(np.asarray(t["keypoints"])[:, 2] > 0)),
            }
            for i, t in enumerate(truths)
        ],
    }  # fmt: skip
    results = [
        {"image_id": images[f["image"]], "category_id": 1, "score": float(f["score"]),
         "keypoints": np.asarray(f["keypoints"], float).ravel().tolist()}
        for f in found
    ]  # fmt: skip
    if not results:
        return 0.0, 0.0
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), "keypoints")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(max(evaluation.stats[0], 0)), float(max(evaluation.stats[5], 0))


# -- all persons -----------------------------------------------------------------------------------------------------


def summary(scores: Sequence[PersonScore]) -> dict[str, Any]:
    """The figures over all persons that need no more than their scores; None where the set does not give them."""
    measured = [s for s in scores if s.errors]
    overlaps = np.array([s.iou for s in scores])
    large = np.array([s.area > LARGE_AREA for s in scores], bool)
    figures: dict[str, Any] = {
        "n": len(scores),
        "n_failed": sum(not s.found for s in scores),
        "n_pck": len(measured),
        "pck@0.2": _pck(measured, LIMBS),
        "pck@0.2_all_joints": _pck(measured, KEYPOINTS),
        "pck@0.2_by_joint": {
            name: value for name in KEYPOINTS if (value := _pck(measured, (name,))) is not None
        },
        "mean_iou": _mean(overlaps),
        "median_iou": _mean(overlaps, np.median),
        "mean_iou_large": _mean(overlaps[large]),
        "mpjpe_mm": _mean(np.array([s.mpjpe for s in scores])),
        "pa_mpjpe_mm": _mean(np.array([s.pa_mpjpe for s in scores])),
        "pve_mm": _mean(np.array([s.pve for s in scores])),
    }
    sureness = np.array([s.score for s in scores])
    right = np.array([np.mean(np.array(list(s.errors.values())) < PCK_THRESHOLD) for s in measured])
    figures["score_auc_pck"] = score_auc(right, np.array([s.score for s in measured]))
    figures["score_auc_iou"] = score_auc(overlaps[~np.isnan(overlaps)], sureness[~np.isnan(overlaps)])
    for key, values in (("gps_ap_iuv", [s.gps_iuv for s in scores]), ("gps_ap_mesh", [s.gps_mesh for s in scores])):
        known = ~np.isnan(values)
        figures[key] = 100 * average_precision(np.array(values)[known], sureness[known]) if known.any() else None
    return figures


def score_auc(quality: np.ndarray, scores: np.ndarray) -> float | None:
    """Area under the ROC curve of the scores (n,) in telling bad persons, whose quality (n,) is below half of the mean,
    from the others: 0.5 is chance, 1 perfect; None where there is no person of one kind.
    """
    if not len(quality):
        return None
    bad = quality < 0.5 * quality.mean()
    if bad.all() or not bad.any():
        return None
    good, low = scores[~bad][:, None], scores[bad][None]
    return float((good > low).mean() + 0.5 * (good == low).mean())


def _pck(scores: Sequence[PersonScore], names: Sequence[str]) -> float | None:
    """Per cent of the labelled joints of these names that lie within the threshold, all persons together."""
    errors = np.array([s.errors[name] for s in scores for name in names if name in s.errors])
    return 100 * float((errors < PCK_THRESHOLD).mean()) if len(errors) else None


def _mean(values: np.ndarray, of: Any = np.mean) -> float | None:
    known = values[~np.isnan(values)]
    return float(of(known)) if len(known) else None
