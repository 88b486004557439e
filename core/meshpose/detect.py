# SPDX-License-Identifier: Apache-2.0
"""Finds the people of a picture: any number, near and far.

    detector = PeopleDetector()
    for person in detector(image):             # image (h, w, 3) uint8 BGR
        person.score, person.box, person.keypoints

The network is MoveNet MultiPose's (`training/convert_movenet.py`), a CenterNet: a heatmap of person centres, and at
each centre the box and the keypoints.  It finds persons whose longer box side is 64 to 256 pixels at its input, so that
a picture is shown to it at several sizes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from .matching import box_overlap
from .session import open_session

ALL_SIDES = (224, 384, 640)
"""Long sides of the network's input that together cover persons of a tenth of the picture to all of it."""

BEST_PERSON = 150.0
"""Longer box side, in pixels of the network's input, at which a person is found best."""

STRIDE, CELL = 4, 32
MOST_PEOPLE = 64
LEAST_CENTRE, SURE_KEYPOINT = 0.05, 0.127
HEADS = ["center", "box_scale", "box_offset", "kpt_heatmap", "kpt_regress", "kpt_offset"]


@dataclass(frozen=True)
class Detection:
    """A person of a picture: score 0..1, box (4,) x y w h, keypoints (17, 3) x y score in COCO's order; pixels."""

    score: float
    box: np.ndarray
    keypoints: np.ndarray


class PeopleDetector:
    """One ONNX session.  threads: those of one operator.  threshold: persons of a lower score are left out."""

    def __init__(self, threads: int = 2, threshold: float = 0.15) -> None:
        self._session = open_session("people.onnx", threads)
        self.threshold = threshold

    def __call__(self, image: np.ndarray, sides: Sequence[int] | None = None) -> list[Detection]:
        """The people of a picture (h, w, 3) uint8 BGR, the surest first.

        sides: long sides of the network's input, one pass each; ALL_SIDES when left out.
        """
        found: list[Detection] = []
        for side in sides or ALL_SIDES:
            found += self._at_side(image, side)
        return without_repeats(found)

    def _at_side(self, image: np.ndarray, side: int) -> Iterator[Detection]:
        h, w = image.shape[:2]
        scale = side / max(h, w)
        size = max(1, round(w * scale)), max(1, round(h * scale))
        small = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
        small = cv2.copyMakeBorder(small, 0, -size[1] % CELL, 0, -size[0] % CELL, cv2.BORDER_CONSTANT)
        rgb = np.ascontiguousarray(small[..., ::-1].transpose(2, 0, 1)[None], np.float32)
        heads = dict(zip(HEADS, (v[0] for v in self._session.run(HEADS, {"input": rgb}))))
        grow = np.array([w / size[0], h / size[1]]) * STRIDE
        for score, box, keypoints in decode(heads):
            if score >= self.threshold:
                corners = np.clip(box.reshape(2, 2) * grow, 0, [w, h])
                keypoints[:, :2] *= grow
                yield Detection(score, np.concatenate([corners[0], corners[1] - corners[0]]), keypoints)


def sides_for(people: Iterable[float], image_shape: Sequence[int]) -> list[int]:
    """The sides at which persons of the given longer box sides (picture pixels) are found best, few of them."""
    long_side = max(image_shape[:2])
    groups: list[list[float]] = []
    for side in sorted(min(max(long_side * BEST_PERSON / max(p, 1.0), 128), 960) for p in people):
        if groups and side <= 1.6 * groups[-1][0]:  # one side serves persons of 0.8 to 1.3 times the best size
            groups[-1].append(side)
        else:
            groups.append([side])
    return [max(1, round((g[0] * g[-1]) ** 0.5 / CELL)) * CELL for g in groups]


def decode(heads: dict[str, np.ndarray]) -> Iterator[tuple[float, np.ndarray, np.ndarray]]:
    """The persons of one picture's heads (C, rows, cols), in cells.

    Each is a score, a box (4,) x0 y0 x1 y1 and keypoints (17, 3) x y score.  A person is a local maximum (5 x 5) of the
    centre map.  A keypoint is the cell of its person's box where the keypoint map, weighted by the distance to the
    place that the centre regresses for it, is highest.
    """
    centre = heads["center"][0]
    rows, cols = centre.shape
    peaks = np.where(centre >= cv2.dilate(centre, np.ones((5, 5))), centre, 0).ravel()
    order = np.argsort(-peaks, kind="stable")[:MOST_PEOPLE]
    keypoint_map = heads["kpt_heatmap"].transpose(1, 2, 0)
    offset = heads["kpt_offset"].reshape(17, 2, rows, cols)
    regressed = heads["kpt_regress"].reshape(17, 2, rows, cols)
    reach = 0.3 * min(rows, cols)
    y, x = np.arange(rows, dtype=np.float32)[:, None, None], np.arange(cols, dtype=np.float32)[None, :, None]
    each = np.arange(17)
    for cell in order[peaks[order] >= LEAST_CENTRE]:
        r, c = divmod(int(cell), cols)
        half = np.maximum(heads["box_scale"][:, r, c], 0) / 2
        middle = heads["box_offset"][:, r, c] + (r, c)
        box = np.clip(np.concatenate([middle - half, middle + half]), 0, [rows, cols, rows, cols])
        y0, x0, y1, x1 = np.ceil(box).astype(int)
        if y1 <= y0 or x1 <= x0:
            continue
        expected = regressed[:, :, r, c] + (r, c)
        distance = (y[y0:y1] - expected[:, 0]) ** 2 + (x[:, x0:x1] - expected[:, 1]) ** 2
        near = (keypoint_map[y0:y1, x0:x1] * np.exp(-distance / reach)).reshape(-1, 17)
        best = near.argmax(0)
        ky, kx = best // (x1 - x0) + y0, best % (x1 - x0) + x0
        scores = near[best, each]
        points = np.stack([kx + offset[each, 1, ky, kx], ky + offset[each, 0, ky, kx], scores], 1).astype(np.float64)
        sure = scores > SURE_KEYPOINT
        score = float(centre[r, c] * scores[sure].mean()) if sure.any() else 0.0
        yield score, box[[1, 0, 3, 2]].astype(np.float64), points


def without_repeats(people: Iterable[Detection]) -> list[Detection]:
    """The surest detection of each person, the surest person first."""
    kept: list[Detection] = []
    for person in sorted(people, key=lambda p: -p.score):
        if not any(same_person(person, other) for other in kept):
            kept.append(person)
    return kept


def same_person(a: Detection, b: Detection) -> bool:
    """Whether two detections show one person: most keypoints coincide (people stand close, boxes alone do not tell)."""
    size = np.sqrt(min(a.box[2] * a.box[3], b.box[2] * b.box[3]))
    sure = (a.keypoints[:, 2] > SURE_KEYPOINT) & (b.keypoints[:, 2] > SURE_KEYPOINT)
    near = np.linalg.norm(a.keypoints[:, :2] - b.keypoints[:, :2], axis=1) < 0.15 * size
    fewer = min((a.keypoints[:, 2] > SURE_KEYPOINT).sum(), (b.keypoints[:, 2] > SURE_KEYPOINT).sum())
    return bool((near & sure).sum() > 0.5 * max(fewer, 4)) or box_overlap(a.box, b.box) > 0.8
