# SPDX-License-Identifier: Apache-2.0
"""The peer that MeshPose is measured beside: BlazePose heavy on its own path (`evaluate --estimator landmarks`).

    peer = LandmarkEstimator(fetch())
    person = peer.from_box(image, (x, y, w, h))
    person.keypoints()                         # name -> (x, y, score), picture pixels

The path is MediaPipe's: its person detector (here inside the grown box), a crop turned by the line hips -> head, the
landmark network, the crop that its own landmarks ask for, the network again; each landmark is then moved to the local
mean of its heatmap. The models (c) Google, Apache-2.0, are not shipped: `fetch` takes them from their npm package into
a cache. They run in their own runtime, LiteRT (`ai-edge-litert`, part of the `evaluate` extra).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from .crop import BODY_SCALE, CROP, Crop
from .errors import InputError

PACKAGE = "@mediapipe/pose@0.5.1675469404"
# File in the package (the detector's name there is misleading: it is a plain TFLite file) -> our name and SHA-256.
MODELS = {
    "pose_solution_packed_assets.data": (
        "pose_detection.tflite",
        "a63c614bef30d35947f13be361820b1e4e3bec9cfeebf4d11216a18373108e85",
    ),
    "pose_landmark_heavy.tflite": (
        "pose_landmark_heavy.tflite",
        "59e42d71bcd44cbdbabc419f0ff76686595fd265419566bd4009ef703ea8e1fe",
    ),
}

# BlazePose's 33 landmarks under COCO's names.
COCO17 = {
    "nose": 0, "left_eye": 2, "right_eye": 5, "left_ear": 7, "right_ear": 8, "left_shoulder": 11, "right_shoulder": 12,
    "left_elbow": 13, "right_elbow": 14, "left_wrist": 15, "right_wrist": 16, "left_hip": 23, "right_hip": 24,
    "left_knee": 25, "right_knee": 26, "left_ankle": 27, "right_ankle": 28,
}  # fmt: skip
LANDMARKS = 33
HIPS, CIRCLE = 33, 34
"""Landmarks that only make the next crop: mid-hips, and a point on the circle around the whole body."""
# BlazePose has neither neck nor head top: both lie on the line mid-shoulders -> mid-ears, at these parts of it.
NECK_AT, HEAD_TOP_AT = 0.29, 1.62

DETECTOR_SIDE = 224
# The detector's anchors: (stride, anchors per cell); every anchor is a cell's centre.
DETECTOR_LAYERS = ((8, 2), (16, 2), (32, 6))
GROWN = 1.5
"""The detector looks into the box grown by this factor: it needs some room around a person."""


def cache_folder() -> Path:
    """Where fetched models are kept: $MESHPOSE_CACHE, else the user's cache folder."""
    if "MESHPOSE_CACHE" in os.environ:
        return Path(os.environ["MESHPOSE_CACHE"])
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "meshpose"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "meshpose"
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "meshpose"


def fetch(folder: Path | None = None) -> Path:
    """The folder that holds both models, filled by `npm pack` on first use (41 MB to load, 40 MB kept).

    Raises InputError when npm is missing, the package cannot be had, or its files are not the expected ones.
    """
    folder = folder or cache_folder() / "mediapipe-pose-0.5.1675469404"
    if all(_is_whole(folder / name, digest) for name, digest in MODELS.values()):
        return folder
    npm = shutil.which("npm")
    if npm is None:
        raise InputError(f"--estimator landmarks: npm is not installed; it loads {PACKAGE} into {folder} on first use")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            archive = _npm_pack(npm, Path(scratch))
            for member, (name, digest) in MODELS.items():
                unpacked = _unpack(archive, member, Path(scratch))
                if not _is_whole(unpacked, digest):
                    raise InputError(f"{PACKAGE}: {member} is not the expected file (SHA-256 differs); try again later")
                unpacked.replace(folder / name)
    except OSError as error:
        raise InputError(f"{folder}: cannot keep the models of {PACKAGE} ({error}); set MESHPOSE_CACHE") from error
    return folder


def _npm_pack(npm: str, folder: Path) -> Path:
    command = [npm, "pack", PACKAGE, "--silent", "--pack-destination", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, cwd=folder, check=False)
    archives = list(folder.glob("*.tgz"))
    if done.returncode or not archives:
        said = (done.stderr.strip() or done.stdout.strip() or "no reason given").splitlines()[0]
        raise InputError(f"npm cannot load {PACKAGE}: {said}; check the network or npm's registry setting")
    return archives[0]


def _unpack(archive: Path, member: str, folder: Path) -> Path:
    target = folder / member
    try:
        with tarfile.open(archive) as tar, target.open("wb") as out:
            source = tar.extractfile(f"package/{member}")
            if source is not None:
                shutil.copyfileobj(source, out)
    except (tarfile.TarError, KeyError) as error:
        raise InputError(f"{PACKAGE}: {member} cannot be unpacked ({error}); try again later") from error
    return target


def _is_whole(file: Path, digest: str) -> bool:
    if not file.is_file():
        return False
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest() == digest


@dataclass(frozen=True)
class Landmarks:
    """One person as BlazePose sees it.

    points (33, 3): x, y picture pixels, z picture pixels relative to the hips, towards the camera negative.
    world (33, 3): metres, origin mid-hips, camera axes (x right, y down, z forward). visibility (33,) 0..1.
    score: presence of a person 0..1. silhouette (H, W) bool, whole picture. crop: the last one it was seen through;
    next_crop: the one that follows the person.
    """

    points: np.ndarray
    world: np.ndarray
    visibility: np.ndarray
    score: float
    silhouette: np.ndarray
    crop: Crop
    next_crop: Crop

    def keypoints(self) -> dict[str, np.ndarray]:
        """Name -> (3,) x, y picture pixels and score: COCO-17, neck, head_top."""
        return _named(np.column_stack([self.points[:, :2], self.visibility]))

    def keypoints_3d(self) -> dict[str, np.ndarray]:
        """Name -> (3,) metres relative to the mid-hips, camera axes: COCO-17, neck, head_top."""
        return _named(self.world)


def _named(values: np.ndarray) -> dict[str, np.ndarray]:
    """Values (33, C) of the landmarks -> the 17 COCO names, neck and head_top."""
    named = {name: values[index] for name, index in COCO17.items()}
    shoulders = (named["left_shoulder"] + named["right_shoulder"]) / 2
    up = (named["left_ear"] + named["right_ear"]) / 2 - shoulders
    return named | {"neck": shoulders + NECK_AT * up, "head_top": shoulders + HEAD_TOP_AT * up}


class LandmarkEstimator:
    """BlazePose heavy with its own person detector. `folder` holds the models (see `fetch`)."""

    def __init__(self, folder: Path, threads: int = 2) -> None:
        self._detector = _Model(folder / "pose_detection.tflite", threads)
        self._landmarks = _Model(folder / "pose_landmark_heavy.tflite", threads)
        self._anchors = _anchors()

    def from_box(self, image: np.ndarray, box: tuple[float, float, float, float], passes: int = 2) -> Landmarks:
        """The person in a box (x, y, w, h) of a picture (H, W, 3) uint8 BGR, seen `passes` times."""
        crop = self._first_crop(image, box)
        for _ in range(passes - 1):
            points = self._on_crop(image, crop)[0]
            crop = _body_crop(points[HIPS, :2], points[CIRCLE, :2])
        return self.from_crop(image, crop)

    def from_crop(self, image: np.ndarray, crop: Crop) -> Landmarks:
        """The person in a given crop, seen once, as BlazePose follows somebody through a video."""
        points, world, visibility, score, mask = self._on_crop(image, crop)
        size = (image.shape[1], image.shape[0])
        silhouette = cv2.warpAffine(mask, crop.matrix(), size, flags=cv2.INTER_LINEAR) > 0.5
        following = _body_crop(points[HIPS, :2], points[CIRCLE, :2])
        return Landmarks(
            points[:LANDMARKS], world[:LANDMARKS], visibility[:LANDMARKS], score, silhouette, crop, following
        )

    def _on_crop(self, image: np.ndarray, crop: Crop) -> tuple[np.ndarray, np.ndarray, np.ndarray, float, np.ndarray]:
        """-> 39 points (picture pixels), 39 world points (camera axes), visibility (39,), presence, mask (256, 256)."""
        rgb = cv2.cvtColor(crop.warp(image), cv2.COLOR_BGR2RGB).astype(np.float32) / 255
        out = self._landmarks(rgb)
        raw = out["Identity"].reshape(-1, 5)
        local = raw[:, :3].astype(np.float64)
        local[:, :2] = _refine(local[:, :2] / CROP, _sigmoid(out["Identity_3"][0])) * CROP
        c, s = np.cos(crop.angle), np.sin(crop.angle)
        world = out["Identity_4"].reshape(-1, 3) @ np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])
        mask = _sigmoid(out["Identity_2"].reshape(CROP, CROP)).astype(np.float32)
        return crop.to_picture(local), world, _sigmoid(raw[:, 3]), float(out["Identity_1"].ravel()[0]), mask

    def _first_crop(self, image: np.ndarray, box: tuple[float, float, float, float]) -> Crop:
        """Of the persons that the detector finds in the grown box, the one who fits the box best; else the box."""
        x, y, w, h = box
        w, h = max(w, 1.0), max(h, 1.0)
        best, least = Crop.from_box(box), 1.0
        for score, hips, circle in self._detect(image, Crop.from_box(box, scale=GROWN)):
            crop = _body_crop(hips, circle)
            # Hips off the box's middle, size off the box's size; a sure detection may be off by a little more.
            off = np.hypot((crop.cx - x - w / 2) / w, (crop.cy - y - h / 2) / h)
            cost = off + 0.3 * abs(np.log(crop.side / (1.25 * max(w, h)))) - 0.3 * score
            if cost < least:
                best, least = crop, cost
        return best

    def _detect(
        self, image: np.ndarray, view: Crop, threshold: float = 0.3
    ) -> list[tuple[float, np.ndarray, np.ndarray]]:
        """Persons in an upright square -> (score, hips (2,), point on the body's circle (2,)), picture pixels."""
        side = DETECTOR_SIDE * (2 if view.side >= 2 * DETECTOR_SIDE else 1)
        pixels = cv2.warpAffine(
            image, view.matrix(side), (side, side), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        )  # black outside of the picture, as the detector was trained
        if side > DETECTOR_SIDE:
            pixels = cv2.resize(pixels, (DETECTOR_SIDE, DETECTOR_SIDE), interpolation=cv2.INTER_AREA)
        out = self._detector(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB).astype(np.float32) / 127.5 - 1)
        scores = _sigmoid(out["Identity_1"].ravel())
        sure = np.flatnonzero(scores > threshold)
        # Per anchor: face box as centre and size, then four points; all but the size are relative to the anchor.
        values = out["Identity"][0, sure].reshape(-1, 6, 2).astype(np.float64) / DETECTOR_SIDE
        values[:, [0, 2, 3, 4, 5]] += self._anchors[sure, None]
        found = []
        for members, weights in _groups(values[:, 0], values[:, 1], scores[sure]):
            points = np.tensordot(weights, values[members], 1) * CROP
            found.append((float(scores[sure][members].max()), view.to_picture(points[2]), view.to_picture(points[3])))
        return found


class _Model:
    """A TFLite file in LiteRT on the CPU: one picture in, outputs by name."""

    def __init__(self, file: Path, threads: int) -> None:
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ImportError as error:
            raise InputError(
                "--estimator landmarks: the package ai-edge-litert is missing; pip install 'meshpose[evaluate]'"
            ) from error
        self._net: Any = Interpreter(model_path=str(file), num_threads=threads)
        self._net.allocate_tensors()
        self._input = self._net.get_input_details()[0]["index"]
        self._outputs = {d["name"]: d["index"] for d in self._net.get_output_details()}

    def __call__(self, picture: np.ndarray) -> dict[str, np.ndarray]:
        """picture (h, w, 3) float32 -> name: array; copies, so that the next call leaves them alone."""
        self._net.set_tensor(self._input, picture[None])
        self._net.invoke()
        return {name: self._net.get_tensor(index) for name, index in self._outputs.items()}


def _sigmoid(v: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-np.clip(v, -80, 80))))


def _body_crop(hips: np.ndarray, circle: np.ndarray) -> Crop:
    """MediaPipe's crop: centred on the hips, 1.25 x the body's circle, hips -> circle point up. Both (2,) px."""
    up = np.asarray(circle, np.float64) - hips
    side = max(BODY_SCALE * float(np.hypot(*up)), 8.0)
    return Crop(float(hips[0]), float(hips[1]), side, float(np.arctan2(up[0], -up[1])))


def _anchors() -> np.ndarray:
    """Centres of the detector's 2254 anchors, (2254, 2), 0..1."""
    layers = []
    for stride, per_cell in DETECTOR_LAYERS:
        cells = DETECTOR_SIDE // stride
        y, x = np.mgrid[:cells, :cells]
        centres = (np.stack([x, y], axis=-1).reshape(-1, 2) + 0.5) / cells
        layers.append(np.repeat(centres, per_cell, axis=0))
    return np.concatenate(layers)


def _groups(centre: np.ndarray, size: np.ndarray, scores: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Weighted non-maximum suppression: groups of anchors that mean the same person, with their weights, best first."""
    low, high = centre - size / 2, centre + size / 2
    left, groups = np.argsort(-scores), []
    while len(left):
        top = left[0]
        overlap = np.clip(np.minimum(high[top], high[left]) - np.maximum(low[top], low[left]), 0, None).prod(axis=1)
        union = size[top].prod() + size[left].prod(axis=1) - overlap
        same = overlap > 0.3 * union
        same[0] = True
        members = left[same]
        groups.append((members, scores[members] / scores[members].sum()))
        left = left[~same]
    return groups


def _refine(points: np.ndarray, heatmaps: np.ndarray, reach: int = 3, least: float = 0.5) -> np.ndarray:
    """Moves each point (n, 2), 0..1, to the mean of its heatmap (h, w, n) around it, where that is sure (>= least)."""
    out, size = points.copy(), heatmaps.shape[0]
    for i, (column, row) in enumerate(np.floor(points * size).astype(int)):
        if not (0 <= column < size and 0 <= row < size):
            continue
        x0, y0 = max(column - reach, 0), max(row - reach, 0)
        part = heatmaps[y0 : row + reach + 1, x0 : column + reach + 1, i].astype(np.float64)
        if part.max() >= least:
            y, x = np.mgrid[y0 : y0 + part.shape[0], x0 : x0 + part.shape[1]]
            # The mean of cell INDICES, as MediaPipe takes it: the network's maps are meant so.
            out[i] = np.array([(part * x).sum(), (part * y).sum()]) / part.sum() / size
    return out
