# SPDX-License-Identifier: Apache-2.0
"""Where the network fails, on pictures that may be shown: a table by kinds of picture, and the worst of them drawn.

    python -m training.failures synth_test.json --images synth_test.zip --sheet failures.jpg [--model NAME] [--limit N]

The set is one of `training.make_test_set`, whose pictures are rendered from free material alone.  The sheet has the
persons of whom the fewest joints are right, and below them some that were drawn by lot; each as the picture, the mesh
that was found over it, and the true one.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from meshpose import metrics, weights
from meshpose.body import Body
from meshpose.camera import Camera
from meshpose.coco import Person, Pictures, load_set
from meshpose.errors import InputError, MeshPoseError
from meshpose.evaluate import Answer, MeshAnswers
from meshpose.raster import draw_mesh

RIGHT = 0.2  # of the torso
TILE, ACROSS, WORST, BY_LOT = 132, 4, 8, 4
LABEL = (40, 40, 40)


@dataclass(frozen=True)
class Case:
    """One person: share of the joints in the picture that are right, whether more are with the sides exchanged, IoU,
    PA-MPJPE mm, shares of the low-poly that are seen and outside of the picture, the torso's degrees from upright.
    """

    person: Person
    right: float
    exchanged: bool
    iou: float
    pa_mpjpe: float
    seen: float
    outside: float
    lean: float


KINDS: dict[str, Callable[[Case], bool]] = {
    "all": lambda c: True,
    "upright (within 45 degrees)": lambda c: c.lean < 45,
    "lying, bent over (45 to 135)": lambda c: 45 <= c.lean < 135,
    "upside down": lambda c: c.lean >= 135,
    "whole body in the picture": lambda c: c.outside == 0,
    "a tenth or more outside": lambda c: c.outside >= 0.1,
    "a third or more outside": lambda c: c.outside >= 1 / 3,
    "less than a quarter of the vertices seen": lambda c: c.seen < 0.25,
}


def case(person: Person, answer: Answer, silhouette: np.ndarray | None, codes: str) -> Case | None:
    """What became of one person; None without a torso in the picture.  codes: the annotation's `visibility`."""
    errors = metrics.joint_errors(person.keypoints, answer.keypoints)
    if not errors:
        return None
    other = {_mirrored(name): point for name, point in answer.keypoints.items()}
    right, exchanged = (
        float(np.mean([e < RIGHT for e in metrics.joint_errors(person.keypoints, found).values()]))
        for found in (answer.keypoints, other)
    )
    truth = person.keypoints_3d
    neck, hips = truth["neck"], (truth["left_hip"] + truth["right_hip"]) / 2
    iou = metrics.intersection_over_union(silhouette, answer.silhouette) if silhouette is not None else np.nan
    return Case(
        person, right, exchanged > right, iou, metrics.joint_distances(truth, answer.keypoints_3d)[1],
        codes.count("1") / len(codes), codes.count("3") / len(codes),
        float(np.degrees(np.arctan2(abs(neck[0] - hips[0]), hips[1] - neck[1]))),
    )  # fmt: skip


def _mirrored(name: str) -> str:
    side, _, rest = name.partition("_")
    return {"left": f"right_{rest}", "right": f"left_{rest}"}.get(side, name)


def table(cases: list[Case]) -> Iterator[str]:
    """Lines of a Markdown table, one for each kind that there is."""
    yield "| renders | persons | joints right, % | sides exchanged, % of the persons | IoU | PA-MPJPE, mm |"
    yield "|---|---|---|---|---|---|"
    for name, belongs in KINDS.items():
        of = [c for c in cases if belongs(c)]
        if of:
            right, sides, iou = (100 * np.mean([getattr(c, k) for c in of]) for k in ("right", "exchanged", "iou"))
            known = [c.pa_mpjpe for c in of if np.isfinite(c.pa_mpjpe)]
            pa = f"{np.mean(known):.0f}" if known else "–"
            yield f"| {name} | {len(of)} | {right:.0f} | {sides:.0f} | {iou / 100:.2f} | {pa} |"


def camera_of(person: Person, image: np.ndarray) -> Camera:
    """The camera that the set tells for a picture (H, W, 3)."""
    if person.camera is None:
        raise InputError(f"annotation {person.id}: it has no camera")
    fx, fy, cx, cy = person.camera
    return Camera(fx, fy, cx, cy, image.shape[1], image.shape[0])


def tiles(pictures: Pictures, shown: Case, answer: Answer) -> np.ndarray:
    """(TILE, 3 TILE, 3) picture, found mesh, true mesh."""
    person, body = shown.person, Body.load()
    image, true = pictures.image(person.image), pictures.vertices(person)
    camera, cells = camera_of(person, image), [image]
    for mesh in (answer.vertices, true):
        if mesh is None:
            raise InputError(f"annotation {person.id}: it has no mesh to show")
        metres = np.asarray(mesh, np.float64) / 1000
        cells.append(draw_mesh(image, camera.project(metres), metres[:, 2] * camera.fx, body.triangles, None, 0.9))
    row = np.hstack([cv2.resize(c, (TILE, TILE), interpolation=cv2.INTER_AREA) for c in cells])
    text = f"{100 * shown.right:.0f} %" + (" sides" if shown.exchanged else "")
    cv2.putText(row, text, (5, TILE - 6), cv2.FONT_HERSHEY_SIMPLEX, 0.42, LABEL, 3, cv2.LINE_AA)
    cv2.putText(row, text, (5, TILE - 6), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (255, 255, 255), 1, cv2.LINE_AA)
    return np.pad(row, ((2, 2), (2, 2), (0, 0)), constant_values=255)


def sheet(pictures: Pictures, found: list[tuple[Case, Answer]]) -> np.ndarray:
    """The WORST, then BY_LOT others."""
    order = sorted(found, key=lambda f: (f[0].right, f[0].iou))
    rest = order[WORST:]
    lot = np.random.default_rng(0).choice(len(rest), min(BY_LOT, len(rest)), replace=False)
    made = [tiles(pictures, *f) for f in order[:WORST] + [rest[i] for i in sorted(lot)]]
    made += [np.full_like(made[0], 255)] * (-len(made) % ACROSS)
    return np.vstack([np.hstack(made[i : i + ACROSS]) for i in range(0, len(made), ACROSS)])


def cases_of(file: Path, pictures: Pictures, answers: MeshAnswers, limit: int | None) -> list[tuple[Case, Answer]]:
    """The persons of a set whose torso is in the picture, found from their boxes.  InputError where the set's own truth
    is missing."""
    from tqdm import tqdm

    people = load_set(file)[:limit]
    pictures.check(people)
    codes = {row["id"]: row.get("visibility") for row in json.loads(file.read_text("utf-8"))["annotations"]}
    found = []
    for person in tqdm(people):
        if not codes[person.id]:
            raise InputError(f"{file}: annotation {person.id} has no `visibility`; make_test_set writes such sets")
        image = pictures.image(person.image)
        answer = answers(image, person.box, camera_of(person, image), None)
        one = case(person, answer, pictures.silhouette(person, *image.shape[:2]), codes[person.id])
        if one is not None:
            found.append((one, answer))
    return found


def main() -> None:
    """Command line: see the module's text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", type=Path)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--sheet", type=Path, required=True, help="picture to write")
    parser.add_argument("--model", default=weights.DEFAULT)
    parser.add_argument("--limit", type=int)
    a = parser.parse_args()
    if a.sheet.suffix.lower() not in (".jpg", ".png") or not a.sheet.absolute().parent.is_dir():
        parser.error(f"--sheet {a.sheet}: give it a name that ends in .jpg or .png, in a folder that is there")
    try:
        pictures = Pictures([a.images])
        found = cases_of(a.set, pictures, MeshAnswers(a.model), a.limit)
        if not found:
            raise InputError(f"{a.set}: nobody's torso is in the picture")
        print("\n".join(table([c for c, _ in found])))
        cv2.imwrite(str(a.sheet), sheet(pictures, found), [cv2.IMWRITE_JPEG_QUALITY, 82])
    except MeshPoseError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
