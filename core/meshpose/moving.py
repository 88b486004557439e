# SPDX-License-Identifier: Apache-2.0
"""A camera that moves: a pass over the clip's background, and what it says, kept in the Take.

background = Background(take)
for people in background: ...               # a frame each
solve_take(take, settings, looked=background.looked)
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from .body import quaternion, rotation_matrix
from .motion import Looked
from .take import Take
from .trajectory import Turning

VERSION = 1
"""Count up when the pass finds something else."""


class Background:
    """How the camera turned, from what lies behind the people; iterate it to the end, then read `looked`.

    The pass is left out where the Take knows its answer, for the same clip, people and lens.  InputError where the clip
    cannot be read any more.
    """

    def __init__(self, take: Take) -> None:
        self.take = take
        self.frames = take.frames
        raw = [take.raw_hash(number) for number in take.people]
        parts = (VERSION, take.clip_identity, raw, dataclasses.astuple(take.camera), len(self.frames))
        self.made_from = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
        self.looked = Looked(self.frames, take.times())

    def __iter__(self) -> Iterator[int]:
        """The number of people in each frame that was just looked at."""
        kept: dict[str, Any] = json.loads(self.take.job_value("turning") or "{}")
        if kept.get("made_from") == self.made_from:
            self._keep(rotation_matrix(np.array(kept["turns"], np.float64).reshape(-1, 4)), tuple(kept["notes"]))
            return
        from .video import Clip

        boxes, turning = _boxes(self.take), Turning(self.take.camera)
        for frame in Clip(self.take.clip.path, start=int(self.frames[0]) if len(self.frames) else 0):
            done = len(turning.rotations)
            if done == len(self.frames):
                break
            if frame.index == self.frames[done]:
                there = boxes.get(frame.index, [])
                turning.step(frame.image, np.array(there))
                yield len(there)
        turns, notes = turning.result()
        missing = len(self.frames) - len(turns)
        if missing:  # the clip has lost frames since; the camera stays as it was
            turns = np.concatenate([turns, np.repeat(turns[-1:] if len(turns) else np.eye(3)[None], missing, 0)])
        self._keep(turns, notes)
        value = {"made_from": self.made_from, "turns": quaternion(turns).ravel().tolist(), "notes": notes}
        self.take.set_job_value("turning", json.dumps(value))

    def _keep(self, turns: np.ndarray, notes: tuple[str, ...]) -> None:
        """A camera that stood after all has no turns: its world is that of a static one."""
        stood = np.allclose(turns, np.eye(3), atol=1e-7)
        self.looked = dataclasses.replace(self.looked, turns=None if stood else turns, notes=notes)


def _boxes(take: Take) -> dict[int, list[np.ndarray]]:
    """Boxes x, y, w, h of the people by frame of the clip, pixels."""
    boxes: dict[int, list[np.ndarray]] = {}
    for number in take.people:
        person = take.person(number)
        for frames in person.windows():
            points = person.lowpoly_pixels(frames)[..., :2]
            for frame, low, high in zip(frames, points.min(1), points.max(1), strict=True):
                boxes.setdefault(int(frame), []).append(np.concatenate([low, high - low]))
    return boxes
