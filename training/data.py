# SPDX-License-Identifier: Apache-2.0
"""Training samples: photographs with labels and fits, renders with exact truth, and the crops made of them.

    people = photographs(data_folder) + renders(synth_folder)
    sample = Crops(people, lowpoly, seed=0)[i]     # a dict of tensors, a fresh crop every time

A Person holds a JPEG and what is known of who is on it, in picture pixels; a sample is the same in crop pixels.
Visibility codes: 0 hidden by the body itself, 1 seen, 2 hidden by something else, 3 outside of the picture.
"""

from __future__ import annotations

import json
import pickle
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset

from meshpose.crop import CROP, Crop

from .fits import LSP, Fits
from .silhouette import filled, seen_cells

LSP_MIRROR = np.array([5, 4, 3, 2, 1, 0, 11, 10, 9, 8, 7, 6, 12, 13])
SAMPLES = 64  # surface samples (pixel, face, barycentric) per crop
SETS = {
    "lspet train": "fits_v0.npz",
    "lspet more": "fits_more.npz",
    "ccp train": "fits_v0.npz",
    "stanford40 train": "fits_v0.npz",
}
HIDDEN, SEEN, OCCLUDED, OUTSIDE = range(4)


@dataclass
class Person:
    """One person on one picture, picture pixels.

    jpeg bytes; box (4,) x y w h; joints (14, 3) x y v in LSP order (v = 0 unknown); vertices (500, 3) with z in px from
    the mid-hips, or None; visibility (500,) codes; exact: rendered truth (depth and hidden vertices count fully);
    cut: the picture was made smaller than the body, so that what lies outside is known (`cut`);
    mask: path-free foreground as packed bits of a (size, size) square over the picture, or None.
    """

    jpeg: bytes
    box: np.ndarray
    joints: np.ndarray
    vertices: np.ndarray | None = None
    visibility: np.ndarray | None = None
    exact: bool = False
    source: str = ""
    cut: bool = False


def photographs(data: Path, cache: Path | None = None, fits: Path | None = None) -> list[Person]:
    """All persons of the photograph sets under `data`, with the vertices of their accepted fits.

    A set that is not there is left out, with a line: a training without any of them goes by renders alone.
    `cache`, a pickle of our own making, saves the minutes that the fits' visibility costs.  Fit files in the folder
    `fits` (of `training.spin`) take the place of those of the same name in `data`.
    """
    if cache is not None and cache.exists():
        return pickle.loads(cache.read_bytes())
    newer = {file: str((fits / file).absolute()) for file in SETS.values() if fits and (fits / file).exists()}
    out = read_photographs(data, {name: newer.get(file, file) for name, file in SETS.items()})
    if cache is not None:
        cache.parent.mkdir(parents=True, exist_ok=True)
        cache.write_bytes(pickle.dumps(out))
    return out


def read_photographs(data: Path, sets: dict[str, str]) -> list[Person]:
    """The work of `photographs`."""
    out: list[Person] = []
    loaded: dict[str, Fits] = {}
    for name, file in sets.items():
        folder, split = name.split()
        if not (data / folder / f"{split}.json").exists():
            print(f"{data} has no {folder}/{split}.json: the training goes without that set", flush=True)
            continue
        fits = loaded.setdefault(file, Fits.load(data, file))
        code = [str(s) for s in fits.columns["sets"]].index(name)
        rows = {
            int(fits.columns["id"][r]): r
            for r in np.flatnonzero(fits.columns["set"] == code)
            if fits.columns["accepted"][r]
        }
        meta = json.loads((data / folder / f"{split}.json").read_text())
        images = {i["id"]: i for i in meta["images"]}
        if (data / folder / "machine_pose.json").exists():
            rows = not_contradicted(rows, fits, data / folder / "machine_pose.json", meta["annotations"])
        archives: dict[str, zipfile.ZipFile] = {}
        people: list[Person] = []
        which: list[tuple[int, int, tuple[int, int]]] = []
        for a in meta["annotations"]:
            image = images[a["image_id"]]
            archive = archives.setdefault(image["shard"], zipfile.ZipFile(data / folder / image["shard"]))
            joints = np.array(a.get("keypoints") or [0] * 42, np.float32).reshape(14, 3)
            person = Person(archive.read(image["file_name"]), np.array(a["bbox"], np.float32), joints, source=name)
            if a["id"] in rows:
                which.append((len(people), rows[a["id"]], (image["width"], image["height"])))
            elif folder != "lspet":
                continue  # neither labels nor an accepted fit
            people.append(person)
        add_fits(people, fits, which)
        out += people
    return out


SECOND_OPINION = ((0, 0), (3, 7), (4, 8), (5, 11), (6, 12))
"""Nose, ears, shoulders: index among COCO's joints and among the fit body's keypoints."""
CONTRADICTED = 0.07  # of the box's longer side


def not_contradicted(rows: dict[int, int], fits: Fits, file: Path, annotations: list[dict]) -> dict[int, int]:
    """Those of rows (annotation -> fit) whose head and shoulders another estimator puts in the same place.

    file: COCO joints by annotation, of a machine.  Where a set has no labels a fit is judged by the teacher that it was
    made from; where that saw a small person in a face, or a whole one in what a table hides, fit and teacher agree.
    """
    machine = json.loads(file.read_text())["by_annotation_id"]
    boxes = {a["id"]: a["bbox"] for a in annotations}
    kept = {}
    known = [i for i in rows if str(i) in machine]
    for start in range(0, len(known), 256):
        part = known[start : start + 256]
        found = fits.in_picture(np.array([rows[i] for i in part]))[1]
        for i, keypoints in zip(part, found, strict=True):
            other = np.array(machine[str(i)], np.float32).reshape(-1, 3)
            away = [np.linalg.norm(other[a, :2] - keypoints[b, :2]) for a, b in SECOND_OPINION if other[a, 2] > 0]
            if not away or np.median(away) <= CONTRADICTED * max(boxes[i][2:]):
                kept[i] = rows[i]
    return kept | {i: r for i, r in rows.items() if str(i) not in machine}


def add_fits(people: list[Person], fits: Fits, which: list[tuple[int, int, tuple[int, int]]]) -> None:
    """Give people[i] the vertices of row r, for (i, r, picture size) in `which`."""
    for start in range(0, len(which), 256):
        part = which[start : start + 256]
        vertices, keypoints = fits.in_picture(np.array([r for _, r, _ in part]))
        hidden = self_occluded(vertices, fits.body.faces)
        for (i, _, size), v, k, h in zip(part, vertices, keypoints, hidden, strict=True):
            inside = np.all((v[:, :2] > 0) & (v[:, :2] < size), axis=1)
            people[i].vertices = v
            people[i].visibility = np.where(inside, np.where(h, HIDDEN, SEEN), OUTSIDE).astype(np.uint8)
            unknown = people[i].joints[:, 2] == 0
            joints_inside = np.all((k[LSP, :2] > 0) & (k[LSP, :2] < size), axis=1)
            people[i].joints[unknown] = np.concatenate([k[LSP, :2], 0.3 * joints_inside[:, None]], 1)[unknown]


def self_occluded(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """(n, V, 3) picture px and depth, (F, 3) -> (n, V) True where a face lies before the vertex (or it looks away)."""
    out = np.zeros(vertices.shape[:2], bool)
    touching = (faces[None] == np.arange(vertices.shape[1])[:, None, None]).any(-1)  # (V, F)
    for i, v in enumerate(torch.from_numpy(np.ascontiguousarray(vertices, np.float32))):
        a, b, c = (v[faces[:, k]] for k in range(3))
        area = (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (c[:, 0] - a[:, 0])
        area = torch.where(area.abs() < 1e-3, torch.full_like(area, 1e-3), area)
        x, y = v[:, None, 0], v[:, None, 1]
        wb = ((x - a[:, 0]) * (c[:, 1] - a[:, 1]) - (y - a[:, 1]) * (c[:, 0] - a[:, 0])) / area
        wc = ((b[:, 0] - a[:, 0]) * (y - a[:, 1]) - (b[:, 1] - a[:, 1]) * (x - a[:, 0])) / area
        z = a[:, 2] + wb * (b[:, 2] - a[:, 2]) + wc * (c[:, 2] - a[:, 2])
        tall = float((v[:, :2].max(0).values - v[:, :2].min(0).values).max())
        covers = (wb > 0) & (wc > 0) & (wb + wc < 1) & (z < v[:, None, 2] - 0.012 * tall)
        out[i] = (covers & ~torch.from_numpy(touching)).any(1).numpy()
    return out


def set_apart(people: list[Person], one_in: int = 16) -> tuple[list[Person], list[Person]]:
    """(to train on, held out): one person in sixteen with known vertices, always the same, is never trained on."""
    held = [p for p in people if p.vertices is not None and zlib.crc32(p.jpeg) % one_in == 0]
    chosen = {id(p) for p in held}
    return [p for p in people if id(p) not in chosen], held


def some_meshes(people: list[Person], count: int = 1500) -> np.ndarray:
    """Vertices (at most `count`, V, 3) of persons, the photographed before the rendered."""
    by_kind = sorted(people, key=lambda p: p.exact)
    return np.stack([p.vertices for p in by_kind if p.vertices is not None][:count])


def renders(folder: Path, limit: int | None = None) -> list[Person]:
    """The rendered persons of `training.render`'s shards (shard_*.npz) in a folder."""
    out: list[Person] = []
    for file in sorted(folder.glob("shard_*.npz")):
        with np.load(file) as z:
            s = {k: z[k] for k in z.files}
        for i in range(len(s["vertices"])):
            jpeg = s["bytes"][s["offsets"][i] : s["offsets"][i + 1]].tobytes()
            vertices, visibility = s["vertices"][i].astype(np.float32), s["visibility"][i]
            joints = s["joints"][i].astype(np.float32).copy()
            joints[:, 2] = 1
            shown = vertices[visibility != OUTSIDE] if (visibility != OUTSIDE).sum() > 20 else vertices
            low, high = shown[:, :2].min(0), shown[:, :2].max(0)
            out.append(Person(jpeg, np.concatenate([low, high - low]), joints, vertices, visibility, True, "render"))
        if limit and len(out) >= limit:
            break
    return out[:limit]


def own_crop(person: Person, size: tuple[int, int], beyond: float = 0.0) -> Crop | None:
    """The crop that tracking would come to on a picture of this size (w, h), if it counts vertices up to `beyond` times
    the size outside of it; None where hips or neck are unknown."""
    hips, neck = person.joints[[2, 3]], person.joints[12]
    if not hips[:, 2].any() or not neck[2] > 0:
        return None
    centre = hips[hips[:, 2] > 0, :2].mean(0)
    if person.vertices is not None:
        far = beyond * np.array(size)
        inside = np.all((person.vertices[:, :2] > -far) & (person.vertices[:, :2] < size + far), axis=1)
        return Crop.from_body(person.vertices, inside.astype(float), centre, neck[:2])
    points = person.joints[person.joints[:, 2] > 0, :2]
    radius = 1.12 * float(np.linalg.norm(points - centre, axis=1).max())
    up = neck[:2] - centre
    turn = float(np.arctan2(up[0], -up[1])) if np.linalg.norm(up) > 1 else 0.0
    return Crop(float(centre[0]), float(centre[1]), 2.5 * radius, turn)


def draw_crop(person: Person, rng: np.random.Generator, size: tuple[int, int], tracked: float = 0.6) -> Crop:
    """A crop as tracking (a share `tracked` of them) or a box would give it, with their errors."""
    own = own_crop(person, size, beyond=float(rng.choice((0.0, 0.2, 2.0))) if person.cut else 0.0)
    turn = own.angle if own is not None else 0.0
    if own is not None and rng.random() < tracked:
        crop = own
        angle, scale, shift = rng.normal(0, 0.14), rng.normal(0, 0.09), rng.normal(0, 0.025, 2)
    else:
        right_angle = np.round(turn / (np.pi / 2)) * np.pi / 2 if rng.random() < 0.85 else rng.integers(4) * np.pi / 2
        crop = Crop.from_box(tuple(person.box), angle=float(right_angle))
        angle, scale, shift = rng.normal(0, 0.05), rng.normal(0, 0.08), rng.normal(0, 0.03, 2)
    side = max(crop.side * float(np.exp(scale)), 16.0)
    return Crop(crop.cx + shift[0] * side, crop.cy + shift[1] * side, side, crop.angle + float(angle))


def disturb_colours(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Brightness, contrast, gamma, tint, grey, blur, low resolution, noise: what cameras and codecs do."""
    x = image.astype(np.float32) / 255
    if rng.random() < 0.8:
        x = np.clip((x - 0.5) * np.exp(rng.normal(0, 0.2)) + 0.5 + rng.normal(0, 0.08), 0, 1) ** np.exp(
            rng.normal(0, 0.2)
        )
        x = x * np.exp(rng.normal(0, 0.07, 3)).astype(np.float32)
    if rng.random() < 0.07:
        x = np.repeat(x.mean(-1, keepdims=True), 3, -1)
    if rng.random() < 0.2:
        small = int(CROP / rng.uniform(1.5, 4))
        x = cv2.resize(
            cv2.resize(x, (small, small), interpolation=cv2.INTER_AREA), (CROP, CROP), interpolation=cv2.INTER_LINEAR
        )
    elif rng.random() < 0.25:
        x = cv2.GaussianBlur(x, (0, 0), rng.uniform(0.4, 1.8))
    if rng.random() < 0.3:
        x = x + rng.normal(0, rng.uniform(0.01, 0.05), x.shape).astype(np.float32)
    return np.clip(x, 0, 1).astype(np.float32)


def cut_out(image: np.ndarray, rng: np.random.Generator) -> np.ndarray | None:
    """Covers one random rectangle of a crop in place; returns it as x0, y0, x1, y1 (or None)."""
    if rng.random() > 0.2:
        return None
    w, h = rng.uniform(25, 110, 2)
    x, y = rng.uniform(20, 236, 2)
    box = np.clip([x - w / 2, y - h / 2, x + w / 2, y + h / 2], 0, CROP).astype(int)
    colour = (
        rng.random(3).astype(np.float32)
        if rng.random() < 0.5
        else rng.random((box[3] - box[1], box[2] - box[0], 3)).astype(np.float32)
    )
    image[box[1] : box[3], box[0] : box[2]] = colour
    return box


def cut(person: Person, image: np.ndarray, rng: np.random.Generator) -> tuple[Person, np.ndarray]:
    """The same person on a picture that ends within the body, as close-ups and crowded frames show people: mostly
    below (a bust), now and then beside or above; what is left keeps 25 to 85 % of the box."""
    x, y, w, h = (float(v) for v in person.box)
    x0, y0, x1, y1 = max(x, 0.0), max(y, 0.0), min(x + w, image.shape[1]), min(y + h, image.shape[0])
    keep, side = rng.uniform(0.25, 0.85), rng.choice(4, p=(0.55, 0.15, 0.15, 0.15))
    left, top, right, bottom = 0, 0, image.shape[1], image.shape[0]
    if side == 0:
        bottom = round(y0 + keep * (y1 - y0))
    elif side == 1:
        top = round(y1 - keep * (y1 - y0))
    elif side == 2:
        right = round(x0 + keep * (x1 - x0))
    else:
        left = round(x1 - keep * (x1 - x0))
    if right - left < 24 or bottom - top < 24 or person.vertices is None or person.visibility is None:
        return person, image
    size = np.array([right - left, bottom - top])
    vertices: np.ndarray = person.vertices - np.array([left, top, 0], np.float32)
    joints = person.joints.copy()
    inside = np.all((vertices[:, :2] > 0) & (vertices[:, :2] < size), axis=1)
    if inside.sum() < 60:
        return person, image
    joints[:, :2] -= (left, top)
    joints[~np.all((joints[:, :2] > 0) & (joints[:, :2] < size), axis=1), 2] *= 0.4
    shown_points: np.ndarray = vertices[inside, :2]
    low, high = shown_points.min(0), shown_points.max(0)
    visibility = np.where(inside, person.visibility, OUTSIDE).astype(np.uint8)
    box = np.concatenate([low, high - low]).astype(np.float32)
    shown = replace(person, box=box, joints=joints, vertices=vertices, visibility=visibility, cut=True)
    return shown, image[top:bottom, left:right]


def stretched(person: Person, image: np.ndarray, rng: np.random.Generator) -> tuple[Person, np.ndarray]:
    """The same person on a picture made wider or narrower (standard deviation 8 %), as other builds would look: there
    are few photographs, and they are seen often."""
    width = max(round(image.shape[1] * float(np.exp(rng.normal(0, 0.08)))), 16)
    factor = np.float32(width / image.shape[1])
    box, joints = person.box.copy(), person.joints.copy()
    box[[0, 2]] *= factor
    joints[:, 0] *= factor
    vertices = None if person.vertices is None else person.vertices * np.array([factor, 1, 1], np.float32)
    return replace(person, box=box, joints=joints, vertices=vertices), cv2.resize(image, (width, image.shape[0]))


Change = Callable[[Person, np.ndarray, np.random.Generator], tuple[Person, np.ndarray]]


class Crops(Dataset):
    """Fresh crops of people; index -> dict of tensors (crop pixels)."""

    def __init__(
        self,
        people: list[Person],
        faces: np.ndarray,
        mirror: np.ndarray,
        seed: int = 0,
        tracked: float = 0.6,
        cut: float = 0.15,
        stretched: float = 0.5,
        upright: bool = False,
        crowded: float = 0.0,
        crowd: Change | None = None,
    ) -> None:
        """tracked, cut, stretched: shares of the crops that are so; upright: crops stand as the picture does; crowded:
        share of the photographs that `crowd` (of `training.paste`) puts others before."""
        self.tracked, self.cut, self.stretched, self.upright = tracked, cut, stretched, upright
        self.crowded, self.crowd = crowded, crowd
        self.people, self.faces, self.mirror, self.seed = people, faces.astype(np.int64), mirror.astype(np.int64), seed

    def __len__(self) -> int:
        return len(self.people)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, torch.Tensor]:
        """key = (person, draw): the same key gives the same crop."""
        index, draw = key
        rng = np.random.default_rng((self.seed, index, draw))
        person = self.people[index]
        image = cv2.imdecode(np.frombuffer(person.jpeg, np.uint8), cv2.IMREAD_COLOR)
        if self.crowd is not None and not person.exact and rng.random() < self.crowded:  # renders have crowds
            person, image = self.crowd(person, image, rng)
        if not person.exact and rng.random() < self.cut:  # renders are cut already
            person, image = cut(person, image, rng)
        if self.stretched and not person.exact and rng.random() < self.stretched:
            person, image = stretched(person, image, rng)
        size = (image.shape[1], image.shape[0])
        crop = draw_crop(person, rng, size, self.tracked)
        if self.upright:
            crop = replace(crop, angle=0.0)
        x = disturb_colours(crop.warp(image), rng)
        covered = cut_out(x, rng)
        sample = self._truth(person, crop, covered)
        if rng.random() < 0.5:
            x, sample = x[:, ::-1], self._mirrored(sample)
        sample |= self._surface(sample, rng)
        sample["crop"] = x[..., ::-1].transpose(2, 0, 1)
        sample["mask"] = self._mask(sample)
        known = (sample["visible"] > 0, sample["covered"] > 0)
        sample["cells"] = seen_cells(sample["vertices"][:, :2], *known, self.faces)
        return {k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in sample.items()}

    def _truth(self, person: Person, crop: Crop, covered: np.ndarray | None) -> dict[str, np.ndarray]:
        joints = np.concatenate([crop.to_crop(person.joints[:, :2]), person.joints[:, 2:]], 1).astype(np.float32)
        if person.joints[:, 2].max() == 2:  # labelled photographs mark joints with 2
            joints[:, 2] = np.where(joints[:, 2] == 2, 1.0, joints[:, 2])
        vertices, code, has = np.zeros((500, 3), np.float32), np.full(500, OUTSIDE, np.uint8), False
        if person.vertices is not None and person.visibility is not None:
            vertices, code, has = crop.to_crop(person.vertices).astype(np.float32), person.visibility, True
        inside = np.all((vertices[:, :2] > 1) & (vertices[:, :2] < CROP - 1), axis=1)
        seen, covers = (code == SEEN) & inside, (code == OCCLUDED) | (code == OUTSIDE) | ~inside
        trust = np.choose(code, [0.6, 1.0, 0.5, 0.4 if person.exact or person.cut else 0.0]).astype(np.float32)
        if covered is not None:
            under = np.all((vertices[:, :2] >= covered[:2]) & (vertices[:, :2] < covered[2:]), axis=1)
            seen, covers = seen & ~under, covers | under
            trust = np.where(under, np.minimum(trust, 0.4), trust)
        return {
            "vertices": vertices,
            "heat_weight": trust * inside * has,
            "regression_weight": (np.ones(500) if person.exact else (trust > 0) * 1.0).astype(np.float32) * has,
            "depth_weight": np.full(500, 1.0 if person.exact else 0.25, np.float32) * has,
            "visible": seen.astype(np.float32),
            "covered": covers.astype(np.float32),
            "visible_weight": np.full(500, 1.0 if person.exact else 0.5, np.float32) * has,
            "joints": joints,
            "exact": np.array([person.exact], np.float32),
            "has": np.array([has], np.float32),
        }

    def _mirrored(self, s: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        out = dict(s)
        weights = ("heat_weight", "regression_weight", "depth_weight", "visible_weight")
        for key in ("vertices", "visible", "covered", *weights):
            out[key] = s[key][self.mirror].copy()
        out["vertices"][:, 0] = CROP - out["vertices"][:, 0]
        out["joints"] = s["joints"][LSP_MIRROR].copy()
        out["joints"][:, 0] = CROP - out["joints"][:, 0]
        return out

    def _surface(self, s: dict[str, np.ndarray], rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Random points of faces that are wholly seen: our DensePose annotation (pixel, face, barycentric)."""
        xy, f = s["vertices"][:, :2], self.faces
        a, b, c = (xy[f[:, k]] for k in range(3))
        area = np.abs((b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (c[:, 0] - a[:, 0]))
        weight = area * (s["visible"][f].min(1) > 0)
        out: dict[str, np.ndarray] = {
            "surface_face": np.zeros(SAMPLES, np.int64),
            "surface_bary": np.full((SAMPLES, 3), 1 / 3, np.float32),
            "surface_weight": np.zeros(SAMPLES, np.float32),
        }
        if weight.sum() > 1:
            out["surface_face"] = rng.choice(len(f), SAMPLES, p=weight / weight.sum())
            out["surface_bary"] = rng.dirichlet([1, 1, 1], SAMPLES).astype(np.float32)
            out["surface_weight"] = np.ones(SAMPLES, np.float32)
        out["surface_xy"] = np.einsum("pk,pkd->pd", out["surface_bary"], xy[f[out["surface_face"]]]).astype(np.float32)
        return out

    def _mask(self, s: dict[str, np.ndarray]) -> np.ndarray:
        """(64, 64) silhouette of the low-poly, uint8; nothing of it is known where there are no vertices (has = 0)."""
        if not s["has"][0]:
            return np.zeros((64, 64), np.uint8)
        return filled(s["vertices"][:, :2] / 4, self.faces, (64, 64)).astype(np.uint8)


class Draws(torch.utils.data.Sampler):
    """Endless (person, draw) keys: sources mixed by shares, every person of a source once before any comes twice."""

    def __init__(self, people: list[Person], shares: dict[str, float], seed: int = 0) -> None:
        self.seed = seed
        found = sorted({p.source for p in people})
        self.rows = {s: [i for i, p in enumerate(people) if p.source == s] for s in found}
        total = sum(shares.get(s, 1.0) for s in found)
        self.share = {s: shares.get(s, 1.0) / total for s in found}

    def __iter__(self) -> Iterator[tuple[int, int]]:
        rng = np.random.default_rng(self.seed)
        waiting: dict[str, list[int]] = {s: [] for s in self.rows}
        names, p = list(self.share), list(self.share.values())
        draw = 0
        while True:
            source = names[int(rng.choice(len(names), p=p))]
            if not waiting[source]:
                waiting[source] = list(rng.permutation(self.rows[source]))
            draw += 1
            yield int(waiting[source].pop()), draw
