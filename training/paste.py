# SPDX-License-Identifier: Apache-2.0
"""Other people before a photographed person: crowds, as sport, the street and the stage have them.

The photographs that we learn from show nearly everybody whole and alone.  People cut out of other photographs
(`training.photographs`) are laid before or beside the person, whose own joints and vertices stay where they are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from .data import OCCLUDED, OUTSIDE, SEEN, Person
from .photographs import Cutout, Photographs, over

LEFT = 0.45
"""Share of the vertices seen before that is to be seen afterwards: less, and it is the other one's picture."""
TRIES = 4


@dataclass(frozen=True)
class Crowd:
    """People cut out of photographs."""

    people: list[Cutout]

    @staticmethod
    def load(data: Path, count: int = 900) -> Crowd:
        """Those of some training pictures; nobody where a set of `Photographs.load` is missing from `data`."""
        files = ("ccp/train.json", "stanford40/train.json", "lspet/train.json", "teacher.npz")
        missing = [file for file in files if not (data / file).exists()]
        if missing:
            print(f"{data} has no {missing[0]}: nobody is put before the photographed", flush=True)
            return Crowd([])
        return Crowd(Photographs.load(data, np.random.default_rng(0), count).people)

    def before(self, person: Person, image: np.ndarray, rng: np.random.Generator) -> tuple[Person, np.ndarray]:
        """The person with one or two others before or beside them; as they were where that hides too much.

        Half of the time the box becomes that of what is still seen, as a detector would draw it.
        """
        if person.vertices is None or person.visibility is None or not self.people:
            return person, image
        seen = person.visibility == SEEN
        x, y = np.floor(person.vertices[:, :2]).astype(int).T
        inside = (x >= 0) & (y >= 0) & (x < image.shape[1]) & (y < image.shape[0])
        for _ in range(TRIES):
            colour, cover = self._somebody(person, image.shape, rng)
            if rng.random() < 0.25:
                more, above = self._somebody(person, image.shape, rng)
                colour, cover = over(colour, (more, above)), above + cover * (1 - above)
            under = np.zeros(len(x), bool)
            under[inside] = cover[y[inside], x[inside]] > 0.5
            if (seen & ~under).sum() >= max(LEFT * seen.sum(), 40):
                break
        else:
            return person, image
        hidden = under & (person.visibility != OUTSIDE)
        visibility = np.where(hidden, OCCLUDED, person.visibility).astype(np.uint8)
        box = person.box
        if rng.random() < 0.5:
            shown = person.vertices[visibility == SEEN, :2]
            box = np.concatenate([shown.min(0), np.ptp(shown, axis=0)]).astype(np.float32)
        pasted = np.clip(over(image, (colour, cover)), 0, 255).astype(np.uint8)
        return replace(person, visibility=visibility, box=box), pasted

    def _somebody(self, person: Person, shape: tuple[int, ...], rng: np.random.Generator) -> Cutout:
        """One of them somewhere about the person: colour (h, w, 3) and coverage (h, w) of the picture's size."""
        colour, cover = self.people[rng.integers(len(self.people))]
        x, y, w, h = (float(v) for v in person.box)
        size = max(w, h)
        zoom = size * float(np.exp(rng.normal(0.0, 0.35))) / max(cover.shape)
        if rng.random() < 0.4:  # a bust
            keep = max(int(cover.shape[0] * rng.uniform(0.3, 0.9)), 8)
            colour, cover = colour[:keep], cover[:keep]
        turn = rng.normal(0, 0.15) if rng.random() < 0.8 else rng.uniform(-np.pi, np.pi)
        flip = rng.choice([-1.0, 1.0])
        c, s = np.cos(turn) * zoom, np.sin(turn) * zoom
        axes = np.array([[c * flip, -s], [s * flip, c]])
        middle = np.array([x + w / 2, y + h / 2]) + rng.normal(0, 0.45, 2) * (size, 0.7 * size)
        matrix = np.column_stack([axes, middle - axes @ (np.array(cover.shape[::-1]) / 2)]).astype(np.float32)
        mode = cv2.INTER_AREA if zoom < 0.7 else cv2.INTER_LINEAR
        colour, cover = (cv2.warpAffine(part, matrix, shape[1::-1], flags=mode) for part in (colour, cover))
        return colour * np.float32(rng.uniform(0.7, 1.15)), cover
