# SPDX-License-Identifier: Apache-2.0
"""The job with a fake in the place of finding people and of the network: every case of the job is fast with it.

As a program it is the command line with that fake: `python tests/fake_network.py run CLIP ...`; the environment's
MESHPOSE_FAKE_SECONDS makes each frame slow.
"""

from __future__ import annotations

import os
import pickle
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from takes import estimates

import meshpose.convert  # noqa: F401 - loads the room; the package's attribute of this name is the function
from meshpose.body import Body
from meshpose.errors import MeshPoseError
from meshpose.rig import RigFit

FRAMES = 10
job = sys.modules["meshpose.convert"]


class FakeTracker:
    """Two people: the first always there, the second from frame 3; each picture leaves a trace in the scores."""

    looked: list[int] = []
    nobody = False
    fails_at: int | None = None

    def __init__(self, *arguments: Any) -> None:
        self.memory = 0.0

    def step(self, index: int, image: np.ndarray) -> list[Any]:
        if index == self.fails_at:
            raise MeshPoseError("the fake fails here")
        self.looked.append(index)
        time.sleep(float(os.environ.get("MESHPOSE_FAKE_SECONDS", "0")))
        self.memory = 0.5 * self.memory + float(image.mean()) / 1000
        if self.nobody:
            return []
        people = [(1, PEOPLE[0][index])] + ([(2, PEOPLE[1][index])] if index >= 3 else [])
        return [(n, type(e)(e.crop, e.vertices, e.visibility, self.memory)) for n, e in people]

    def state(self) -> bytes:
        return pickle.dumps(self.memory)

    @classmethod
    def restore(cls, state: bytes, *arguments: Any) -> FakeTracker:
        tracker = cls()
        tracker.memory = pickle.loads(state)
        return tracker

    def finished(self) -> list[int]:
        return [] if self.nobody else [1, 2]


def standing_still(
    lowpoly: np.ndarray, visibility: np.ndarray, frames: np.ndarray, body: Body, height: Any, **more: Any
) -> RigFit:
    """A rig fit that costs nothing."""
    rotations = np.zeros((len(frames), len(body.bone_names), 4))
    rotations[..., 0] = 1
    return RigFit(np.full(6, 0.5), (height or 1.7) / 1.7, rotations, lowpoly.mean(1), frames)


PEOPLE = [list(estimates(FRAMES, seed)) for seed in range(2)]


def install(put: Callable[[Any, str, Any], None]) -> type[FakeTracker]:
    """Put the fake in place by `put(object, name, value)`; returns it."""
    from meshpose import detect, estimate, network, preview, rig, track

    for room, name in ((network, "Network"), (estimate, "Estimator"), (detect, "PeopleDetector")):
        put(room, name, lambda *a: None)
    fake = type("Fake", (FakeTracker,), {"looked": []})
    put(track, "Tracker", fake)
    put(job, "_weights_hash", lambda name: f"hash of {name}")
    put(rig, "fit_rig", standing_still)
    put(preview, "draw_mesh", lambda image, *a: image.copy())
    return fake


if __name__ == "__main__":
    from meshpose.cli import main

    install(setattr)
    sys.exit(main())
