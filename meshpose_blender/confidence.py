# SPDX-License-Identifier: GPL-3.0-or-later
"""How surely a person was seen: kept with the person's collection, so that it is known without the Take.

The confidence of a frame is the seen share of what a camera can see of a body at once, times the network's own score.
"""

from __future__ import annotations

import bpy
import numpy as np

CONFIDENCE, WORST = "meshpose_confidence", "meshpose_worst"
"""On a person's collection: mean confidence of all frames (0..1), and the scene frames of the worst moments."""
AT_ONCE = 0.5
"""Share of a body's surface that one camera can see: the rest is its far side."""
MOMENTS, APART = 8, 12
"""So many worst moments are kept, so many frames from each other."""


def measure(visibility: np.ndarray, score: np.ndarray) -> np.ndarray:
    """(n,) 0..1 of frames; visibility (n, V) and score (n,) as the Take has them."""
    return np.minimum(visibility.mean(1) / AT_ONCE, 1.0) * score


def keep(collection: bpy.types.Collection, frames: np.ndarray, confidence: np.ndarray) -> None:
    """Store with a person what the list shows: frames (n,) of the scene, confidence (n,)."""
    if not len(frames):
        return
    collection[CONFIDENCE] = float(confidence.mean())
    collection[WORST] = [int(frame) for frame in worst_moments(frames, confidence)]


def worst_moments(frames: np.ndarray, confidence: np.ndarray) -> list[int]:
    """Frames of least confidence, the worst first, none closer than APART to another."""
    chosen: list[int] = []
    for frame in frames[np.argsort(confidence, kind="stable")]:
        if all(abs(int(frame) - other) >= APART for other in chosen):
            chosen.append(int(frame))
        if len(chosen) == MOMENTS:
            break
    return chosen
