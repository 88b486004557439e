# SPDX-License-Identifier: Apache-2.0
"""Annotated pictures in COCO's format: the persons of a set, their truth, and the pictures from zips or a folder.

    people = load_set("val.json")              # [Person], those of the set's person category
    pictures = Pictures(["val.zip"])
    image = pictures.image(people[0].image)    # (H, W, 3) uint8 BGR

Beside COCO's own fields these are understood:
- images[].shard: name of the zip that holds the picture, where there are several;
- images[].mask: a PNG in the same place whose values are classes, 0 = nobody, those of `info.not_body_labels` are not
  the person's body (bags); the person's silhouette where an annotation has no `segmentation` and is alone in it;
- images[].camera: {"fx", "fy", "cx", "cy"} in pixels;
- annotations[].keypoints_3d: K x 3, mm, camera frame, in the order of the category's keypoints, null where missing;
- annotations[].vertices: the true mesh, N x 3 or (low-poly) V x 3, mm, camera frame: a list, or the name of an .npy
  file beside the pictures.
"""

from __future__ import annotations

import io
import json
import math
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np

from .errors import InputError

Json = Mapping[str, Any]


@dataclass(frozen=True)
class Person:
    """One annotation of a set.

    box: x, y, w, h in picture pixels. names: the joints that the set's category names, labelled or not. keypoints:
    name -> (3,) x, y, v. keypoints_3d: name -> (3,) mm, camera frame, known ones only. alone: no other annotation
    shares the picture. image: the set's record of the picture. not_body: classes of images[].mask off the body.
    """

    id: Any
    image_id: Any
    image: Json
    box: tuple[float, float, float, float]
    keypoints: dict[str, np.ndarray] = field(default_factory=dict)
    keypoints_3d: dict[str, np.ndarray] = field(default_factory=dict)
    area: float | None = None
    segmentation: Any = None
    vertices: Any = None
    alone: bool = True
    not_body: tuple[int, ...] = ()
    names: tuple[str, ...] = ()

    @property
    def camera(self) -> tuple[float, float, float, float] | None:
        """fx, fy, cx, cy in pixels, where the set gives them."""
        given = self.image.get("camera")
        return (given["fx"], given["fy"], given["cx"], given["cy"]) if given else None


def load_set(file: Path | str) -> list[Person]:
    """The persons of a COCO-format set, in the file's order; crowds and other categories are left out.

    Raises InputError, with one line that names what is missing, where the file is not such a set.
    """
    try:
        content = json.loads(Path(file).read_text("utf-8"))
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise InputError(f"{file}: not a JSON file ({error})") from error
    if not isinstance(content, dict) or not all(isinstance(content.get(k), list) for k in ("images", "annotations")):
        raise InputError(f"{file}: not a COCO set: it needs the lists `images` and `annotations`")
    try:
        people = _people(content)
    except (_Fault, TypeError, AttributeError) as fault:  # the latter two: a list or text where COCO has an object
        raise InputError(f"{file}: {fault}") from fault
    if not people:
        raise InputError(f"{file}: no annotation of a person in it")
    return people


class _Fault(ValueError):
    """What is wrong with a record of the set; becomes an InputError that names the file."""


def _people(content: Json) -> list[Person]:
    images: dict[Any, Json] = {}
    for record in content["images"]:
        if not isinstance(record, dict) or "id" not in record or not isinstance(record.get("file_name"), str):
            raise _Fault("every entry of `images` needs `id` and `file_name`")
        _check_camera(record)
        images[record["id"]] = record
    names = _keypoint_names(content.get("categories", []))
    not_body = tuple((content.get("info") or {}).get("not_body_labels", ()))
    annotations = [a for a in content["annotations"] if _counts(a, names)]
    per_image: dict[Any, int] = {}
    for a in annotations:
        per_image[a["image_id"]] = per_image.get(a["image_id"], 0) + 1
    return [_person(a, images, names, per_image[a["image_id"]] == 1, not_body) for a in annotations]


def _keypoint_names(categories: Any) -> dict[Any, list[str]]:
    """Category id -> names of its keypoints, for the persons' categories; {} where the set has no categories."""
    known = [c for c in categories if isinstance(c, dict) and "id" in c] if isinstance(categories, list) else []
    persons = [c for c in known if c.get("name") == "person"] or [c for c in known if c.get("keypoints")] or known
    return {c["id"]: list(c.get("keypoints", [])) for c in persons}


def _counts(annotation: Any, names: Mapping[Any, list[str]]) -> bool:
    if not isinstance(annotation, dict) or "id" not in annotation or "image_id" not in annotation:
        raise _Fault("every entry of `annotations` needs `id` and `image_id`")
    return not annotation.get("iscrowd") and (not names or annotation.get("category_id", next(iter(names))) in names)


def _person(
    annotation: Json, images: Mapping[Any, Json], names: Mapping[Any, list[str]], alone: bool, not_body: tuple[int, ...]
) -> Person:
    where = f"annotation {annotation['id']}"
    if annotation["image_id"] not in images:
        raise _Fault(f"{where}: there is no image {annotation['image_id']}")
    box = annotation.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(_is_number(v) for v in box):
        raise _Fault(f"{where}: `bbox` must be four numbers x, y, width, height")
    labels = names.get(annotation.get("category_id", next(iter(names), None)), [])
    area = annotation.get("area")
    return Person(
        annotation["id"], annotation["image_id"], images[annotation["image_id"]],
        (float(box[0]), float(box[1]), float(box[2]), float(box[3])),
        _keypoints(annotation.get("keypoints"), labels, where),
        _keypoints_3d(annotation.get("keypoints_3d"), labels, where),
        float(area) if isinstance(area, int | float) and _is_number(area) else None,
        _checked_segmentation(annotation.get("segmentation"), where),
        annotation.get("vertices"), alone, not_body, tuple(labels),
    )  # fmt: skip


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _check_camera(record: Json) -> None:
    camera = record.get("camera")
    if camera is not None and not (isinstance(camera, dict) and all(_is_number(camera.get(k)) for k in _INTRINSICS)):
        raise _Fault(f"image {record['id']}: `camera` needs the numbers fx, fy, cx, cy (pixels)")


_INTRINSICS = ("fx", "fy", "cx", "cy")


def _keypoints(values: Any, names: Sequence[str], where: str) -> dict[str, np.ndarray]:
    if not values:
        return {}
    if not isinstance(values, list) or len(values) != 3 * len(names) or not all(_is_number(v) for v in values):
        raise _Fault(f"{where}: `keypoints` must be {3 * len(names)} numbers, as its category has {len(names)} names")
    return dict(zip(names, np.array(values, np.float64).reshape(-1, 3)))


def _keypoints_3d(rows: Any, names: Sequence[str], where: str) -> dict[str, np.ndarray]:
    if not rows:
        return {}
    if not isinstance(rows, list) or len(rows) != len(names):
        raise _Fault(f"{where}: `keypoints_3d` must be {len(names)} rows of x, y, z (mm) or null")
    known = {}
    for name, row in zip(names, rows):
        if row is None or (isinstance(row, list) and None in row):
            continue
        if not isinstance(row, list) or len(row) != 3 or not all(_is_number(v) for v in row):
            raise _Fault(f"{where}: `keypoints_3d` of {name} must be x, y, z in mm, or null")
        known[name] = np.array(row, np.float64)
    return known


def _checked_segmentation(value: Any, where: str) -> Any:
    """The annotation's segmentation, or None where there is none."""
    if not value:
        return None
    polygons = isinstance(value, list) and all(
        isinstance(p, list) and len(p) >= 6 and len(p) % 2 == 0 and all(_is_number(v) for v in p) for p in value
    )
    runs = isinstance(value, dict) and isinstance(value.get("counts"), list | str) and len(value.get("size", ())) == 2
    if not polygons and not runs:
        raise _Fault(f"{where}: `segmentation` must be polygons of x, y pairs, or an RLE with `size` and `counts`")
    return value


class Pictures:
    """The files of a set: zips or folders (a folder may hold the files themselves, or the zips that `shard` names).

    A picture is looked for by its `file_name` in its `shard` where it names one, else in every source; folders before
    the name, in the set or inside of a zip, may be missing on the other side.
    """

    def __init__(self, sources: Sequence[Path | str]) -> None:
        """Raises InputError when a source is neither a zip nor a folder."""
        self._folders: list[Path] = []
        self._zips: dict[str, zipfile.ZipFile] = {}
        self._members: dict[str, dict[str, str]] = {}
        for source in map(Path, sources):
            if source.is_dir():
                self._folders.append(source)
            elif source.is_file():
                self._open(source)
            else:
                raise InputError(f"{source}: there is no such zip or folder of pictures")

    def _open(self, file: Path) -> None:
        try:
            archive = zipfile.ZipFile(file)
        except (zipfile.BadZipFile, OSError) as error:
            raise InputError(f"{file}: not a zip file ({error}); --images takes zips and folders") from error
        self._zips[file.name] = archive
        members = {PurePosixPath(name).name: name for name in archive.namelist()}
        self._members[file.name] = members | {name: name for name in archive.namelist()}

    def find(self, record: Json, name: str) -> tuple[str, str] | Path | None:
        """Where the file `name` of an image record is: (zip, member), a path, or None."""
        shard = record.get("shard")
        if isinstance(shard, str) and shard not in self._zips:
            for folder in self._folders:
                if (folder / shard).is_file():
                    self._open(folder / shard)
                    break
        for wanted in (name, PurePosixPath(name).name):
            for key in [shard] if shard in self._zips else list(self._zips):
                if wanted in self._members[key]:
                    return key, self._members[key][wanted]
            for folder in self._folders:
                if (folder / wanted).is_file():
                    return folder / wanted
        return None

    def check(self, people: Sequence[Person]) -> None:
        """Raises InputError, with the first name, where pictures of the set are not there at all."""
        missing = [p.image["file_name"] for p in people if self.find(p.image, p.image["file_name"]) is None]
        if missing:
            count = len(set(missing))
            raise InputError(f"{missing[0]}: not in --images ({count} picture{'s' * (count > 1)} of the set missing)")

    def read(self, record: Json, name: str) -> bytes:
        """The bytes of a file. Raises InputError when it is missing or cannot be read."""
        place = self.find(record, name)
        try:
            if place is None:
                raise InputError(f"{name}: not in --images")
            return place.read_bytes() if isinstance(place, Path) else self._zips[place[0]].read(place[1])
        except (OSError, zipfile.BadZipFile, zlib.error) as error:
            raise InputError(f"{name}: cannot be read ({error})") from error

    def image(self, record: Json) -> np.ndarray:
        """The picture, (H, W, 3) uint8 BGR, as stored (EXIF rotation is not applied: the labels do not know of it)."""
        data = np.frombuffer(self.read(record, record["file_name"]), np.uint8)
        flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
        image = cv2.imdecode(data, flags) if len(data) else None
        if image is None:
            raise InputError(f"{record['file_name']}: not a picture that can be decoded")
        return np.asarray(image)

    def silhouette(self, person: Person, height: int, width: int) -> np.ndarray | None:
        """The person's true silhouette, (height, width) bool; None where the set has none.

        Raises InputError where it does not fit the picture, or without pycocotools.
        """
        if person.segmentation is not None:
            return decode_segmentation(person.segmentation, height, width)
        name = person.image.get("mask")
        if not isinstance(name, str) or not person.alone:
            return None
        classes = decode_classes(self.read(person.image, name))
        if classes is None or classes.shape != (height, width):
            raise InputError(f"{name}: not an 8-bit grey or palette PNG of {width} x {height} pixels")
        return (classes > 0) & ~np.isin(classes, person.not_body)

    def vertices(self, person: Person) -> np.ndarray | None:
        """The true mesh (N, 3) or (V, 3), mm, camera frame; None where the set has none. Raises InputError."""
        value = person.vertices
        if value is None:
            return None
        try:
            if isinstance(value, str):
                value = np.load(io.BytesIO(self.read(person.image, value)), allow_pickle=False)
            points = np.asarray(value, np.float64)
        except ValueError as error:
            raise InputError(f"annotation {person.id}: `vertices` cannot be read ({error})") from error
        if points.ndim != 2 or points.shape[1] != 3 or not np.isfinite(points).all():
            raise InputError(f"annotation {person.id}: `vertices` must be rows of x, y, z in mm")
        return points


def _masks() -> Any:
    try:
        from pycocotools import mask
    except ImportError as error:
        raise InputError("evaluate: the package pycocotools is missing; pip install 'meshpose[evaluate]'") from error
    return mask


def decode_segmentation(value: Any, height: int, width: int) -> np.ndarray:
    """COCO polygons or RLE -> (height, width) bool. Raises InputError where an RLE is of another size."""
    masks = _masks()
    if isinstance(value, list):
        runs = masks.merge(masks.frPyObjects(value, height, width))
    else:
        if list(value["size"]) != [height, width]:
            raise InputError(f"a `segmentation` is of size {value['size']}, its picture of {[height, width]}")
        runs = masks.frPyObjects(value, height, width) if isinstance(value["counts"], list) else value
    return np.asarray(masks.decode(runs), bool)


def encode_segmentation(mask: np.ndarray) -> dict[str, Any]:
    """(H, W) bool -> COCO's compressed RLE, ready for JSON."""
    runs = _masks().encode(np.asfortranarray(mask, np.uint8))
    return {"size": [int(v) for v in runs["size"]], "counts": runs["counts"].decode("ascii")}


def decode_classes(png: bytes) -> np.ndarray | None:
    """Class map from a grey or palette PNG, (H, W) uint8; None where it is neither.

    OpenCV turns a palette into colours, which are of no use here. The same pixels declared as grey give the indices:
    so the header's colour type is changed and the palette dropped.
    """
    if png[:8] != b"\x89PNG\r\n\x1a\n" or png[12:16] != b"IHDR":
        return None
    depth, colour = png[24], png[25]
    if colour not in (0, 3) or depth > 8:
        return None
    header = b"IHDR" + png[16:25] + b"\x00" + png[26:29]
    chunks, at = [png[:12] + header + struct.pack(">I", zlib.crc32(header))], 33
    while at + 12 <= len(png):
        size = 12 + struct.unpack(">I", png[at : at + 4])[0]
        if png[at + 4 : at + 8] in (b"IDAT", b"IEND"):
            chunks.append(png[at : at + size])
        at += size
    values = cv2.imdecode(np.frombuffer(b"".join(chunks), np.uint8), cv2.IMREAD_GRAYSCALE)
    # Grey of less than 8 bits is stretched to 0..255 by the decoder.
    return None if values is None else np.asarray(values // (255 // (2**depth - 1)), np.uint8)
