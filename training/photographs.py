# SPDX-License-Identifier: Apache-2.0
"""Pieces of the training photographs for the synthetic pictures: backgrounds without their person, and people cut out.

Research-only material, so everything here is optional (`training.render --no-photographs`); weights trained with it
must name the sets.
"""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

Cutout = tuple[np.ndarray, np.ndarray]
"""Premultiplied colour (h, w, 3) float32 0..255, coverage (h, w) float32 0..1."""
BAGS = (2, 33, 56)  # ccp classes that are not the body
FILLED = 0.75
"""IoU of a machine's mask's box with the labelled one from which on a person is cut out along it."""


def fill(picture: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """The picture (h, w, 3) uint8 with the hole (bool) filled from its surroundings: pull-push over a pyramid
    (Gortler et al., "The Lumigraph", SIGGRAPH 1996)."""
    values = picture.astype(np.float32) * ~hole[..., None]
    levels = [(values, (~hole).astype(np.float32))]
    while min(levels[-1][1].shape) > 2:
        v, w = levels[-1]
        size = (-(-v.shape[1] // 2), -(-v.shape[0] // 2))
        v, w = (cv2.resize(x, size, interpolation=cv2.INTER_AREA) for x in (v, w))
        levels.append((v, w))
    v, w = levels.pop()
    below = v / np.maximum(w, 1e-6)[..., None]
    while levels:
        v, w = levels.pop()
        up = cv2.resize(below, (v.shape[1], v.shape[0]), interpolation=cv2.INTER_LINEAR)
        share = np.minimum(w, 1)[..., None]
        below = v + up * (1 - share)
    # A smooth patch would give the person's place away: grain of the mirrored picture is laid over it.
    fine = (picture - cv2.GaussianBlur(picture, (0, 0), 5).astype(np.float32)) * ~hole[..., None]
    for grain in (fine[:, ::-1], np.roll(fine, hole.shape[1] // 3, 1), fine[::-1]):
        below = below + grain * hole[..., None] * 0.8
    return np.clip(below, 0, 255).astype(np.uint8)


def over(picture: np.ndarray, layer: Cutout) -> np.ndarray:
    """The layer laid over the picture (float32)."""
    return picture * (1 - layer[1][..., None]) + layer[0]


@dataclass
class Photographs:
    """places: (picture (h, w, 3) uint8, (x, y) px where its person stood); people: cut out along ccp's label maps and,
    of the other sets, the teacher's masks."""

    places: list[tuple[np.ndarray, np.ndarray]]
    people: list[Cutout]

    @staticmethod
    def load(data: Path, rng: np.random.Generator, count: int = 700) -> Photographs:
        """A random choice of ``count`` pictures of stanford40, lspet and ccp, training splits only."""
        out = Photographs([], [])
        out._with_label_maps(data, rng, count // 3)
        with np.load(data / "teacher.npz") as z:
            names = [str(s) for s in z["sets"]]
            teacher = {k: z[k] for k in ("set", "id", "crop", "mask")}
        for name, share in (("stanford40 train", 0.45), ("lspet train", 0.2)):
            rows = np.flatnonzero(teacher["set"] == names.index(name))
            out._with_teacher(data, name, teacher, rng.choice(rows, int(count * share), replace=False))
        return out

    def _with_label_maps(self, data: Path, rng: np.random.Generator, count: int) -> None:
        meta = json.loads((data / "ccp" / "train.json").read_text())
        with zipfile.ZipFile(data / "ccp" / "train.zip") as archive:
            from PIL import Image

            for k in rng.choice(len(meta["images"]), min(count, len(meta["images"])), replace=False):
                image = meta["images"][k]
                picture = cv2.imdecode(np.frombuffer(archive.read(image["file_name"]), np.uint8), cv2.IMREAD_COLOR)
                classes = np.array(Image.open(io.BytesIO(archive.read(image["mask"]))))
                body = (classes > 0) & ~np.isin(classes, BAGS)
                wide = cv2.dilate((classes > 0).astype(np.uint8), np.ones((13, 13), np.uint8)) > 0
                y, x = np.nonzero(body)
                if len(x) < 500:
                    continue
                self.places.append((fill(picture, wide), np.array([x.mean(), y.mean()])))
                box = np.s_[y.min() : y.max() + 1, x.min() : x.max() + 1]
                soft = cv2.GaussianBlur(cv2.erode(body.astype(np.float32), np.ones((3, 3))), (0, 0), 0.8)[box]
                self.people.append((picture[box] * soft[..., None], soft))

    def _with_teacher(self, data: Path, name: str, teacher: dict[str, np.ndarray], rows: np.ndarray) -> None:
        folder, split = name.split()
        meta = json.loads((data / folder / f"{split}.json").read_text())
        images = {i["id"]: i for i in meta["images"]}
        image_of = {a["id"]: images[a["image_id"]] for a in meta["annotations"]}
        boxes = {a["id"]: a["bbox"] for a in meta["annotations"]}
        archives: dict[str, zipfile.ZipFile] = {}
        for r in rows:
            image = image_of[int(teacher["id"][r])]
            archive = archives.setdefault(image["shard"], zipfile.ZipFile(data / folder / image["shard"]))
            picture = cv2.imdecode(np.frombuffer(archive.read(image["file_name"]), np.uint8), cv2.IMREAD_COLOR)
            cx, cy, side, angle = teacher["crop"][r].astype(float)
            c, s, k = np.cos(angle), np.sin(angle), side / 64
            to_picture = np.array([[k * c, -k * s, cx - k * 32 * (c - s)], [k * s, k * c, cy - k * 32 * (s + c)]])
            mask = np.unpackbits(teacher["mask"][r]).reshape(64, 64)
            cover = cv2.warpAffine(mask.astype(np.float32), to_picture, picture.shape[1::-1])
            self._cut_out(picture, np.clip(3 * cover - 1.2, 0, 1), boxes[int(teacher["id"][r])])
            grow = max(5, int(side * 0.06)) | 1
            hole = cv2.dilate((cover >= 0.5).astype(np.uint8), np.ones((grow, grow), np.uint8)) > 0
            if 0.02 < hole.mean() < 0.6:
                self.places.append((fill(picture, hole), np.array([cx, cy])))

    def _cut_out(self, picture: np.ndarray, cover: np.ndarray, box: list[float]) -> None:
        """Keep a person along a machine's mask (h, w) 0..1, where that fills the labelled box and nothing else."""
        y, x = np.nonzero(cover > 0.5)
        if len(x) < 800:
            return
        low, high = np.array([x.min(), y.min()]), np.array([x.max(), y.max()]) + 1
        first, last = np.array(box[:2]), np.array(box[:2]) + box[2:]
        common = np.prod(np.clip(np.minimum(high, last) - np.maximum(low, first), 0, None))
        if common > FILLED * (np.prod(high - low) + np.prod(last - first) - common):
            part = np.s_[low[1] : high[1], low[0] : high[0]]
            self.people.append((picture[part] * cover[part][..., None], cover[part]))

    def background(self, rng: np.random.Generator, at: np.ndarray, span: float, roll: float, size: int) -> np.ndarray:
        """(size, size, 3) uint8: a place whose own person stood where ours stands (``at`` px, ``span`` px across)."""
        picture, spot = self.places[rng.integers(len(self.places))]
        h, w = picture.shape[:2]
        zoom = max(size / min(h, w) * rng.uniform(0.8, 1.3), span / max(h, w))
        flip = rng.choice([-1.0, 1.0])
        c, s = np.cos(roll) * zoom, np.sin(roll) * zoom
        turn = np.array([[c * flip, -s], [s * flip, c]])
        move = at + rng.normal(0, 0.06, 2) * size - turn @ spot
        matrix = np.column_stack([turn, move]).astype(np.float32)
        mode = cv2.INTER_AREA if zoom < 1 else cv2.INTER_LINEAR
        return cv2.warpAffine(picture, matrix, (size, size), flags=mode, borderMode=cv2.BORDER_REFLECT_101)
