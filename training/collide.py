# SPDX-License-Identifier: Apache-2.0
"""Limbs that pass through the body: a cost for the fitter (capsules), and a measure that knows nothing of it (winding
numbers).

Limbs and trunk are capsules between the fit body's keypoints, thinner than flesh, so that a hand on a hip or crossed
arms cost nothing.  A vertex of a limb lies within the rest of the body where the rest's generalised winding number is
nearly one (Jacobson et al., "Robust Inside-Outside Segmentation using Generalized Winding Numbers", SIGGRAPH 2013).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

NECK, MID_HIPS = 45, 47
DEEP = 0.02
"""Metres that capsules may share for the cost of one standard deviation."""
SIDES = {"left": (11, 13, 15, 19, 23, 25, 27), "right": (12, 14, 16, 20, 24, 26, 28)}


class Capsule(NamedTuple):
    """Room around a part of the way from one keypoint to another: from `begin` to `end` of it, radius in metres."""

    start: int
    goal: int
    begin: float
    end: float
    radius: float


def capsules() -> tuple[list[Capsule], list[tuple[int, int]]]:
    """All of them, and which pairs (indices) are not to share room."""
    parts: dict[str, Capsule] = {}
    for side, (shoulder, elbow, wrist, finger, hip, knee, ankle) in SIDES.items():
        parts[f"trunk {side}"] = Capsule(hip, shoulder, 0.0, 0.55, 0.055)
        parts[f"upper arm {side}"] = Capsule(shoulder, elbow, 0.5, 1.0, 0.035)
        parts[f"forearm {side}"] = Capsule(elbow, wrist, 0.15, 1.0, 0.032)
        parts[f"hand {side}"] = Capsule(wrist, finger, 0.0, 1.0, 0.026)
        parts[f"thigh {side}"] = Capsule(hip, knee, 0.4, 1.0, 0.05)
        parts[f"shin {side}"] = Capsule(knee, ankle, 0.1, 1.0, 0.045)
    parts["trunk"] = Capsule(MID_HIPS, NECK, 0.0, 0.9, 0.1)
    parts["head"] = Capsule(7, 8, 0.35, 0.65, 0.08)
    trunk = ["trunk left", "trunk right", "trunk"]
    legs = [f"{leg} {side}" for leg in ("thigh", "shin") for side in SIDES]
    pairs = [(f"{arm} {side}", o) for arm in ("forearm", "hand") for side in SIDES for o in [*trunk, "head", *legs]]
    pairs += [(f"{a} left", f"{b} right") for a in ("forearm", "hand") for b in ("forearm", "hand")]
    pairs += [(f"shin {side}", o) for side in SIDES for o in trunk]
    pairs += [("upper arm left", "trunk right"), ("upper arm right", "trunk left")]
    pairs += [(a, b) for a in legs[::2] for b in legs[1::2]]  # the left ones with the right ones
    names = list(parts)
    return list(parts.values()), [(names.index(a), names.index(b)) for a, b in pairs]


PARTS, PAIRS = capsules()
START, GOAL, BEGIN, END, RADIUS = (torch.tensor(column) for column in zip(*PARTS, strict=True))
FIRST, SECOND = torch.tensor(PAIRS).T


def between(p: Tensor, q: Tensor, r: Tensor, s: Tensor) -> Tensor:
    """Distance (...) of the segments p q and r s, (..., 3) each: the closest points of the lines, clamped (Ericson,
    "Real-Time Collision Detection", 5.1.9)."""
    d, e, w = q - p, s - r, p - r
    a, c, b = (d * d).sum(-1).clamp(min=1e-9), (e * e).sum(-1).clamp(min=1e-9), (d * e).sum(-1)
    f, g = (d * w).sum(-1), (e * w).sum(-1)
    t = ((b * g - c * f) / (a * c - b * b).clamp(min=1e-9)).clamp(0, 1)
    u = ((b * t + g) / c).clamp(0, 1)
    t = ((b * u - f) / a).clamp(0, 1)
    return (w + t[..., None] * d - u[..., None] * e).square().sum(-1).add(1e-12).sqrt()


def cost(keypoints: Tensor) -> Tensor:
    """Keypoints (n, 48, 3), metres -> (n,): half of the squared depths in units of DEEP, of all pairs."""
    way = keypoints[:, GOAL] - keypoints[:, START]
    p, q = (keypoints[:, START] + share[:, None] * way for share in (BEGIN, END))
    apart = between(p[:, FIRST], q[:, FIRST], p[:, SECOND], q[:, SECOND])
    return 0.5 * ((RADIUS[FIRST] + RADIUS[SECOND] - apart).clamp(min=0) / DEEP).square().sum(1)


ENDS = (("la1L", "la2L", "wrL"), ("la1R", "la2R", "wrR"), ("llL", "ftL"), ("llR", "ftR"))
"""Groups of bones of each forearm with its hand, each shin with its foot."""
INSIDE = 0.7


def within(vertices: np.ndarray, faces: np.ndarray, weights: np.ndarray, groups: list[str]) -> np.ndarray:
    """(n, V) True for vertices (n, V, 3) of forearms, hands, shins and feet that lie within the rest of the body.

    faces (F, 3) of the closed mesh; weights (V, G) and the groups' names say which vertices are a limb's.  The rest is
    open where the limb was, so that the winding number falls off there instead of jumping.
    """
    owner = np.array(groups)[weights.argmax(1)]
    out = np.zeros(vertices.shape[:2], bool)
    for end in ENDS:
        mine = np.isin(owner, end)
        rest = faces[~mine[faces].any(1)]
        for i, v in enumerate(vertices):
            out[i, mine] = np.abs(winding(v[mine], v[rest])) > INSIDE
    return out


def winding(points: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """(p,) generalised winding number of triangles (F, 3, 3) around points (p, 3): the sum of the solid angles (van
    Oosterom and Strackee, 1983) by 4 pi."""
    a, b, c = (triangles[None, :, k] - points[:, None] for k in range(3))
    x, y, z = (np.linalg.norm(v, axis=-1) for v in (a, b, c))
    volume = (a * np.cross(b, c)).sum(-1)
    bottom = x * y * z + (a * b).sum(-1) * z + (b * c).sum(-1) * x + (c * a).sum(-1) * y
    total: np.ndarray = 2 * np.arctan2(volume, bottom).sum(-1) / (4 * np.pi)
    return total
