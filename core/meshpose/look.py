# SPDX-License-Identifier: Apache-2.0
"""A first look at one frame of a clip: who is there, before the long run.

    seen = look("dancer.mp4", frame=40)
    seen.people[0].box                         # (4,) x, y, w, h, pixels of the upright picture
    draw(seen)                                 # the picture with numbered boxes

The numbers are those of this look only, from left to right.  `Settings.only` (`--only FRAME:X,Y,W,H`) takes the boxes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from .detect import Detection, PeopleDetector
from .errors import InputError, OutputError
from .video import Clip, ClipInfo, Frame

LONGEST_SIDE = 640
"""Pixels of the drawn picture's longer side: it is shown small."""
COLOURS = ((110, 190, 70), (220, 150, 60), (60, 200, 230), (200, 90, 180), (225, 200, 255), (190, 190, 60))
"""BGR of the boxes, in turn."""
SURE = 0.2
"""Who is less sure is not shown: nobody could choose whom he cannot see."""
DARK = (25, 25, 25)


@dataclass(frozen=True)
class Look:
    """One frame of a clip and the people on it, from left to right."""

    info: ClipInfo
    frame: Frame
    people: list[Detection]


def look(clip: str | Path, frame: int = 0, detector: PeopleDetector | None = None) -> Look:
    """Find the people on frame number `frame` (0 is the first).

    Raises InputError for a clip that cannot be read or is shorter.
    """
    if frame < 0:
        raise InputError(f"--frame {frame}: the first frame is 0")
    film = Clip(clip, start=frame)
    picture = next(iter(film), None)
    if picture is None:
        raise InputError(f"{film.info.path}: it has no frame {frame}; give --frame one before the clip's end")
    people = (detector or PeopleDetector(threshold=SURE))(picture.image)
    return Look(film.info, picture, sorted(people, key=lambda person: person.box[0] + person.box[2] / 2))


def draw(seen: Look) -> np.ndarray:
    """The frame (h, w, 3) uint8 BGR, made small, with a numbered box around each person."""
    height, width = seen.frame.image.shape[:2]
    scale = LONGEST_SIDE / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    image = cv2.resize(seen.frame.image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    for number, person in enumerate(seen.people, 1):
        colour = COLOURS[(number - 1) % len(COLOURS)]
        x, y, w, h = (int(round(v * scale)) for v in person.box)
        cv2.rectangle(image, (x, y), (x + w, y + h), DARK, 5, cv2.LINE_AA)
        cv2.rectangle(image, (x, y), (x + w, y + h), colour, 3, cv2.LINE_AA)
        _badge(image, str(number), (x, y), colour)
    return image


def _badge(image: np.ndarray, text: str, corner: tuple[int, int], colour: tuple[int, int, int]) -> None:
    """The number on a filled field above the box's upper left corner, inside of the picture."""
    (wide, tall), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.9, 2)
    x = int(np.clip(corner[0] - 1, 0, max(0, image.shape[1] - wide - 8)))
    y = int(np.clip(corner[1] - tall - 10, 0, max(0, image.shape[0] - tall - 10)))
    cv2.rectangle(image, (x, y), (x + wide + 8, y + tall + 10), colour, cv2.FILLED)
    cv2.putText(image, text, (x + 4, y + tall + 5), cv2.FONT_HERSHEY_SIMPLEX, 0.9, DARK, 2, cv2.LINE_AA)


def write_picture(seen: Look, path: Path) -> None:
    """Write `draw` as a PNG or JPEG.  OutputError where that cannot be."""
    suffix = path.suffix.lower()
    if suffix not in (".png", ".jpg", ".jpeg"):
        raise OutputError(f"{path}: give --picture a name that ends in .png or .jpg")
    try:
        path.write_bytes(cv2.imencode(suffix, draw(seen))[1].tobytes())
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror})") from error
