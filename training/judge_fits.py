# SPDX-License-Identifier: Apache-2.0
"""How good the pseudo ground truth is: share kept, joint error, silhouettes, and overlays to look at.

    python -m training.judge_fits --data DATA [--fits FOLDER] [--sheets FOLDER]

For each photograph set: persons, share of accepted fits; of the accepted the mean distance of the labelled joints (of
the twelve of the limbs, per cent of the torso), PCK@0.2 and @0.1 of the same, and the mean IoU of the fit's silhouette
with the mask: the set's own where it has class maps (of clothes, too, while the body is bare), else the teacher's,
which errs itself.  `--fits`: newer fit files (of `training.spin`).  `--sheets`: 48 overlays of each set, spread over
its accepted persons; they show the set's photographs and are for looking at only.
"""

from __future__ import annotations

import argparse
import zipfile
from pathlib import Path

import cv2
import numpy as np

from meshpose.coco import Person, Pictures, load_set
from meshpose.crop import CROP, Crop
from meshpose.errors import InputError, MeshPoseError

from .data import SETS
from .fits import LSP, MID_HIPS, Fits
from .silhouette import filled

LIMB_JOINTS, NECK = 12, 12
RIGHT = (0, 1, 2, 6, 7, 8)
MASK = 64  # cells of a side of the teacher's mask
SHEET = (6, 8)  # rows, columns
TILE = 200
TINT = (120, 255, 120)


class Judged:
    """One set's fits in picture px: people (n,) of the set with a row in the fit file, accepted (n,), vertices
    (n, 500, 3) and keypoints (n, 48, 3)."""

    def __init__(self, data: Path, name: str, file: Path) -> None:
        """Raises InputError where a file is missing or does not know the set."""
        folder, split = name.split()
        self.name, self.folder = name, data / folder
        if not file.exists() or not (data / "fit_body.npz").exists():
            raise InputError(f"{file} or {data / 'fit_body.npz'} is missing: no fits of {name}")
        fits = Fits.load(data, str(file.absolute()))
        known = [str(s) for s in fits.columns["sets"]]
        if name not in known:
            raise InputError(f"{file} has fits of {', '.join(known)}, none of {name}")
        rows = np.flatnonzero(fits.columns["set"] == known.index(name))
        by_id = {p.id: p for p in load_set(self.folder / f"{split}.json")}
        rows = rows[[int(i) in by_id for i in fits.columns["id"][rows]]]
        self.people: list[Person] = [by_id[int(i)] for i in fits.columns["id"][rows]]
        self.pictures = Pictures(sorted({self.folder / str(p.image["shard"]) for p in self.people}))
        self.accepted = fits.columns["accepted"][rows].astype(bool)
        parts = [fits.in_picture(rows[i : i + 256]) for i in range(0, len(rows), 256)]
        self.vertices, self.keypoints = (np.concatenate(p) for p in zip(*parts, strict=True))
        self.faces = fits.body.faces
        teacher = data / ("teacher_more.npz" if split == "more" else "teacher.npz")
        self.masks = teacher_masks(teacher, name) if teacher.exists() else {}

    def joint_errors(self) -> np.ndarray:
        """(n, 12) distances to the labelled joints in parts of the torso, nan where there is no label."""
        labels = np.full((len(self.people), LIMB_JOINTS, 3), np.nan)
        for row, person in zip(labels, self.people, strict=True):
            points = [person.keypoints[k] for k in person.names[:LIMB_JOINTS]] if len(person.keypoints) >= 14 else []
            row[: len(points)] = points or row[:0]
        labels[~(labels[..., 2] > 0)] = np.nan
        found = self.keypoints[:, LSP, :2]
        torso = np.linalg.norm(found[:, NECK] - self.keypoints[:, MID_HIPS, :2], axis=-1)
        return np.linalg.norm(found[:, :LIMB_JOINTS] - labels[..., :2], axis=-1) / torso[:, None]

    def iou(self, i: int) -> float:
        """Of person i's silhouette with the set's class map, else with the teacher's mask; nan without either."""
        person, points = self.people[i], self.vertices[i, :, :2]
        if "mask" in person.image:
            size = (int(person.image["height"]), int(person.image["width"]))
            true = self.pictures.silhouette(person, *size)
        elif person.id in self.masks:
            crop, true = self.masks[person.id]
            points, size = crop.to_crop(points) * (MASK / CROP), (MASK, MASK)
        else:
            true = None
        if true is None or not true.any():
            return float("nan")
        own = filled(points, self.faces, size)
        return float((own & true).sum() / (own | true).sum())

    def figures(self) -> tuple[float, float, float, float, float]:
        """Share of accepted fits; of these mean joint error in parts of the torso, PCK@0.2, @0.1, IoU; nan: unknown."""
        kept = np.flatnonzero(self.accepted)
        errors = self.joint_errors()[kept]
        errors = errors[~np.isnan(errors)]
        iou = np.array([self.iou(int(i)) for i in kept])
        means = [x.mean() if len(x) else np.nan for x in (errors, errors < 0.2, errors < 0.1, iou[~np.isnan(iou)])]
        return float(self.accepted.mean()), *(float(m) for m in means)  # type: ignore[return-value]

    def sheet(self) -> np.ndarray:
        """48 accepted persons, spread over the set, with the fit's silhouette and joints."""
        kept = np.flatnonzero(self.accepted)
        count = SHEET[0] * SHEET[1]
        chosen = kept[np.linspace(0, len(kept) - 1, min(count, len(kept))).round().astype(int)]
        tiles = [self.tile(int(i)) for i in chosen]
        tiles += [np.zeros_like(tiles[0])] * (count - len(tiles))
        return np.vstack([np.hstack(tiles[r * SHEET[1] : (r + 1) * SHEET[1]]) for r in range(SHEET[0])])

    def tile(self, i: int) -> np.ndarray:
        """(TILE, TILE, 3) the person under the tinted fit, right joints warm, left ones cold."""
        person = self.people[i]
        crop, scale = Crop.from_box(person.box, scale=1.3), TILE / CROP
        seen = np.ascontiguousarray(cv2.resize(crop.warp(self.pictures.image(person.image)), (TILE, TILE)))
        own = filled(crop.to_crop(self.vertices[i, :, :2]) * scale, self.faces, (TILE, TILE))
        seen[own] = (0.6 * seen[own] + 0.4 * np.array(TINT)).astype(np.uint8)
        joints = np.round(crop.to_crop(self.keypoints[i, LSP, :2]) * scale).astype(int)
        for j, (x, y) in enumerate(joints.tolist()):
            colour = (60, 60, 255) if j in RIGHT else (255, 90, 60)
            cv2.circle(seen, (x, y), 2, colour, -1, cv2.LINE_AA)
        return seen


def teacher_masks(file: Path, name: str) -> dict[int, tuple[Crop, np.ndarray]]:
    """Annotation -> the teacher's crop and its mask (64, 64) bool there."""
    with np.load(file) as z:
        known = [str(s) for s in z["sets"]]
        rows = np.flatnonzero(z["set"] == known.index(name)) if name in known else np.zeros(0, int)
        ids, crops, bits = z["id"][rows], z["crop"][rows].astype(float), z["mask"][rows]
    masks = np.unpackbits(bits, axis=1).reshape(-1, MASK, MASK) > 0
    return {int(i): (Crop(*c), m) for i, c, m in zip(ids, crops, masks, strict=True)}


def main() -> None:
    """Command line: see the module's docstring."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with the photograph sets and their fits")
    parser.add_argument("--fits", type=Path, help="folder with newer fit files of the same names")
    parser.add_argument("--sheets", type=Path, help="folder for the pictures of overlays")
    args = parser.parse_args()
    print("| set | persons | kept | joint error, % of torso | PCK@0.2 | @0.1 | IoU |\n|---|---|---|---|---|---|---|")
    for name, file in SETS.items():
        newer = args.fits / file if args.fits else args.data / file
        try:
            judged = Judged(args.data, name, newer if newer.exists() else args.data / file)
            share, error, *others = judged.figures()
            figures = [(100 * error, ".1f"), *((x, ".3f") for x in others)]
            cells = ["-" if np.isnan(x) else format(x, form) for x, form in figures]
            print("| " + " | ".join([name, str(len(judged.people)), f"{share:.1%}", *cells]) + " |", flush=True)
            if args.sheets:
                args.sheets.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(args.sheets / f"{name.replace(' ', '_')}.jpg"), judged.sheet())
        except (MeshPoseError, OSError, zipfile.BadZipFile) as error:
            parser.error(str(error))


if __name__ == "__main__":
    main()
