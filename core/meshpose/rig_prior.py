# SPDX-License-Identifier: Apache-2.0
"""How far each bone likely turns, and how far it can: the prior and the joint limits of the rig fit.

Rotations are the rotation vectors of anny's local-ref deltas (body.py): away from the reference pose, in its axes (x
the person's left, y back, z up), so that bending forward is about x.  Figures of the left side in degrees; the right
side is its mirror image.  Means and hinges are those of 1,500 frames of motion capture (mocap.cs.cmu.edu) on this body;
limits are the literature's, a little wide.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from . import weights
from .body import Body

Array = npt.NDArray[Any]

LIMIT_WIDTH = np.radians(0.5)
"""One sigma beyond a limit."""

WIDTHS = {
    "root": 5730.0, "spine05": 11.5, "spine04": 11.5, "spine03": 11.5, "spine02": 11.5, "spine01": 11.5,
    "neck01": 14.0, "neck02": 14.0, "neck03": 14.0, "head": 14.0,
    "clavicle": 8.5, "shoulder01": 8.5, "upperarm01": 57.0, "upperarm02": 14.0, "wrist": 23.0,
    "upperleg01": 46.0, "upperleg02": 8.5, "lowerleg02": 8.5, "foot": 20.0,
}  # fmt: skip
"""How far a bone likely turns about each axis: one sigma."""
HAND_WIDTHS = {"wrist": 23.0, **{f"finger{f}-{k}": 34.0 for f in range(1, 6) for k in range(1, 4)}}
MEANS = {"upperarm01": (3.0, 16.0, -20.0), "neck01": (2.0, 0.0, 0.0), "neck03": (5.0, 0.0, 0.0)}
"""Where a bone likely is, other than in the reference pose: arms hang."""
LIMITS = {
    **{f"spine0{k}": ((-20, 35), (-20, 20), (-20, 20)) for k in range(1, 6)},
    **{f"neck0{k}": ((-30, 30), (-30, 30), (-30, 30)) for k in range(1, 4)},
    "head": ((-35, 35), (-35, 35), (-35, 35)),
    "clavicle": ((-12, 12), (-25, 18), (-25, 25)), "shoulder01": ((-15, 15), (-20, 15), (-18, 18)),
    "upperarm01": ((-135, 90), (-125, 75), (-120, 100)), "upperarm02": ((-45, 45), (-45, 45), (-45, 45)),
    "wrist": ((-75, 75), (-75, 75), (-75, 75)),
    "upperleg01": ((-135, 45), (-70, 70), (-60, 60)), "upperleg02": ((-15, 15), (-15, 15), (-20, 20)),
    "lowerleg02": ((-12, 12), (-12, 12), (-30, 30)), "foot": ((-65, 45), (-35, 35), (-50, 55)),
}  # fmt: skip
"""Lowest and highest turn about x, y and z."""


@dataclass(frozen=True)
class Hinge:
    """A bone that turns about one axis: the axis; the likely turn and its sigma about it; sigma across; limits."""

    axis: tuple[float, float, float]
    mean: float
    width: float
    across: float
    low: float
    high: float


HINGES = {
    "lowerleg01": Hinge((0.997, 0.0, 0.08), 5.0, 46.0, 5.0, -12.0, 155.0),
    # The reference pose has the elbow bent by 41 degrees.
    "lowerarm01": Hinge((-0.74, -0.22, -0.635), 10.0, 57.0, 7.0, -48.0, 115.0),
    "lowerarm02": Hinge((0.512, -0.682, -0.522), 0.0, 30.0, 5.0, -95.0, 95.0),
}
"""Knee, elbow, and the turn of the lower arm about itself."""
LIMBS = {"leg": ("upperleg01", "lowerleg01", "foot"), "arm": ("upperarm01", "lowerarm01")}
"""Bones whose turns the learned prior (weights/pose_prior.npz, `training/pose_prior.py`) knows together."""
STRENGTH, CALM_SPINE = 2.0, 0.5
"""What the learned prior's Gaussians count, and the width of the spine's bones beside them: chosen with `likely.py`."""
ACROSS_LIMIT = 4.0
"""A hinge turns at most so many sigmas across."""


@dataclass(frozen=True, eq=False)
class Mixture:
    """How some bones turn together: a mixture of K Gaussians over their stacked rotation vectors.

    bones (b,); mean (K, 3b) radians, precision (K, 3b, 3b), constant (K,) logarithm of weight and normalisation.
    """

    bones: Array
    mean: Array
    precision: Array
    constant: Array

    def nearest(self, vector: Array) -> tuple[Array, Array]:
        """The likeliest Gaussian at vector (F, 3b): how far it is from its mean (F, 3b), and precision (F, 3b, 3b)."""
        away = vector[:, None] - self.mean
        cost = 0.5 * ((away[:, :, None] @ self.precision)[:, :, 0] * away).sum(-1) - self.constant
        k = cost.argmin(1)
        return away[np.arange(len(k)), k], self.precision[k]


@dataclass(frozen=True, eq=False)
class Prior:
    """By bone: axes (J, 3, 3), columns; mean, width, low and high (J, 3) radians about these.  mixtures: what is known
    of some bones together, in place of mean and width."""

    axes: Array
    mean: Array
    width: Array
    low: Array
    high: Array
    mixtures: tuple[Mixture, ...] = ()


@lru_cache(maxsize=1)
def prior_of(body: Body) -> Prior:
    """The tables of this module for all bones; bones that they do not name never turn by themselves."""
    count = len(body.bone_names)
    axes = np.repeat(np.eye(3)[None], count, 0)
    mean, width = np.zeros((count, 3)), np.full((count, 3), 1.0)
    low, high = np.full((count, 3), -180.0), np.full((count, 3), 180.0)
    for c, name in enumerate(body.bone_names):
        base, _, side = name.partition(".")
        mirror = np.array([1.0, -1.0, -1.0]) if side == "R" else np.ones(3)  # rotation vectors are axial
        if base in HINGES:
            hinge = HINGES[base]
            axes[c] = _frame(np.array(hinge.axis) * mirror)
            across = ACROSS_LIMIT * hinge.across
            mean[c], width[c] = (hinge.mean, 0, 0), (hinge.width, hinge.across, hinge.across)
            low[c], high[c] = (hinge.low, -across, -across), (hinge.high, across, across)
            continue
        width[c] = WIDTHS.get(base, HAND_WIDTHS.get(base, 1.0))
        mean[c] = mirror * MEANS.get(base, (0.0, 0.0, 0.0))
        if base in LIMITS:
            both = np.sort(np.array(LIMITS[base], np.float64) * mirror[:, None], 1)
            low[c], high[c] = both[:, 0], both[:, 1]
    mean, width, low, high = (np.radians(x) for x in (mean, width, low, high))
    return Prior(axes, mean, width, low, high)


@lru_cache(maxsize=1)
def learned_prior(body: Body) -> Prior:
    """`prior_of` with the mixtures of weights/pose_prior.npz for both sides' LIMBS.

    Raises WeightsError where the file is missing or is not what it should be.
    """
    stored, index = dict(np.load(weights.path("pose_prior.npz"))), {n: i for i, n in enumerate(body.bone_names)}
    found = []
    for limb, names in LIMBS.items():
        columns = (stored[f"{limb}_{k}"].astype(np.float64) for k in ("mean", "precision", "constant"))
        mean, precision, constant = columns
        for side in "LR":
            sign = np.tile([1.0, -1.0, -1.0], len(names)) if side == "R" else np.ones(3 * len(names))
            bones = np.array([index[f"{name}.{side}"] for name in names])
            found.append(Mixture(bones, mean * sign, STRENGTH * precision * np.outer(sign, sign), constant))
    plain = prior_of(body)
    spine = np.array([name.startswith("spine") for name in body.bone_names])
    return replace(plain, width=np.where(spine[:, None], CALM_SPINE, 1.0) * plain.width, mixtures=tuple(found))


def _frame(axis: Array) -> Array:
    """A right-handed frame (3, 3) whose first column is the axis."""
    first = axis / np.linalg.norm(axis)
    second = np.cross(first, np.eye(3)[np.abs(first).argmin()])
    second /= np.linalg.norm(second)
    return np.stack([first, second, np.cross(first, second)], 1)
