# SPDX-License-Identifier: Apache-2.0
"""Mesh over time -> one body shape and bone rotations per frame, so that the posed body reproduces the mesh.

    fit = fit_rig(vertices, visibility, frames, Body.load())
    posed = fit.vertices(Body.load())                       # (F, 13718, 3) metres, camera frame

1. Start, in closed form, by joints and surface (rig_start.py).
2. Shape: phenotype and scale of the person by Gauss-Newton over up to 24 well seen frames together, with their poses
   eliminated frame by frame (Schur complement).
3. Poses of all frames by Gauss-Newton on the skinned low-poly vertices (rig_solve.py), with a prior and limits for how
   far each bone turns (rig_prior.py), each frame until it is still; then each arm by itself, from shoulder to fingers.

The low-poly vertices carry all that the mesh knows (the rest is lifted from them), so the fit looks at these 500 only.
Frame of reference: OpenCV's camera (x right, y down, z forward), metres. Rotations are anny's local-ref deltas
(body.py); the root's holds the turn into the camera frame.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from .body import AVERAGE_ADULT, PHENOTYPES, Body, Shape, quaternion
from .errors import InputError
from .rig_prior import HAND_WIDTHS, HINGES, WIDTHS, learned_prior, prior_of
from .rig_solve import Group, Linear, Posed
from .rig_start import Start

Array = npt.NDArray[Any]

VERTEX_SIGMA = 0.015  # metres: how far the mesh may lie from the best posed body; more if it turns out to lie farther
GUESSED_WEIGHT = 0.15  # of an invisible vertex, against 1 of a visible one
OUTSIDE_WEIGHT = 1e-6  # of one outside of the picture
INSIDE = 0.5  # share of a bone's skin in the picture from which on it is no more held than others
FIRM = 100.0  # how many times stronger the prior holds a bone that is outside of the picture
# One sigma of the phenotypes around the average adult, and of the logarithm of the scale: size goes into the scale.
PHENOTYPE_WIDTHS = np.array([0.35, 0.02, 0.25, 0.25, 0.08, 0.25])
SCALE_WIDTH = 0.3
ARM = ("upperarm01", "upperarm02", "lowerarm01", "lowerarm02")  # with the wrist and fingers, the last to be solved
SHAPE_FRAMES, SHAPE_STEPS, POSE_STEPS, ARM_STEPS = 24, 7, 4, 6
SHAPE_LINEARISED = (2, 4)  # steps that ask anew how vertices follow the shape: it hardly depends on the pose
SHAPE_LEAST = 3  # frames from which on a LikelyBody has a shape of its own: one or two say more of their pose
STILL = 0.03  # of the rotations' matrices: a frame whose bones turn by less in a step is ready
LIKELY_SIGMA, LIKELY_OUTLIER = 0.09, 0.1  # metres: of the vertices of a LikelyBody, where neighbours err alike
LIKELY_DEPTH = 0.17  # what a vertex' depth counts there against its place across the line of sight
CUT_DEPTH, CUT = 0.8, 0.2  # the same of somebody of whom a share of CUT or more is beyond the picture
LIKELY_STEPS = 6
CHUNK, THREADS = 160, 2  # frames that are solved together
SEEN = 0.25  # of `bone_visibility`: a bone below it was not seen
LEAN = 1.0  # vertices' worth of its parent that a bone counts as its own skin


@dataclass(frozen=True, eq=False)
class RigFit:
    """One person's fit. phenotype (6,) in the order of PHENOTYPES; scale: size of the body against shape(phenotype);
    rotations (F, J, 4) w x y z local-ref deltas, continuous in sign; translation (F, 3) metres, the root's head in the
    camera frame; frames (F,) numbers of the clip's frames.
    """

    phenotype: Array
    scale: float
    rotations: Array
    translation: Array
    frames: Array

    def vertices(self, body: Body) -> Array:
        """The posed body (F, N, 3) float32, metres, camera frame."""
        posed = body.pose(body.shape(self.phenotype), self.rotations, np.zeros((len(self.frames), 3)))
        posed *= np.float32(self.scale)
        posed += self.translation[:, None].astype(np.float32)
        return posed

    def stature(self, body: Body) -> float:
        """Metres from sole to crown."""
        return self.scale * body.shape(self.phenotype).stature


def bone_visibility(body: Body, visibility: npt.ArrayLike) -> Array:
    """How well each bone was seen: (F, J) float32, 0 guessed .. 1 seen.

    visibility (F, V) of the low-poly vertices.  Half of a limb faces the camera at most, so a bone is wholly seen where
    half of its skin is.  A bone with little skin of its own (a toe, an eye) leans on its parent, the root on what hangs
    from it.  Below SEEN nobody saw how the bone turns.  Raises InputError for another number of vertices.
    """
    seen = np.asarray(visibility, np.float64)
    if seen.ndim != 2 or seen.shape[1] != len(body.lowpoly):
        raise InputError(
            f"bones need the visibility (F, {len(body.lowpoly)}) of the low-poly vertices, not {seen.shape}"
        )
    skin = body.lowpoly_skin
    children = body.bone_parents == 0
    own, mass = seen @ skin.T, skin.sum(1)
    result = np.empty_like(own)
    result[:, 0] = own[:, children].sum(1) / mass[children].sum()
    for c in range(1, len(mass)):
        parent = result[:, body.bone_parents[c]]
        result[:, c] = (own[:, c] + LEAN * parent) / (mass[c] + LEAN)
    return np.clip(2 * result, 0, 1).astype(np.float32)


def fit_rig(
    vertices: npt.ArrayLike,
    visibility: npt.ArrayLike,
    frames: npt.ArrayLike,
    body: Body,
    height: float | None = None,
    inside: npt.ArrayLike | None = None,
) -> RigFit:
    """Fits one person.

    vertices (F, N, 3) or (F, V, 3) metres, camera frame; visibility (F, V) 0..1; frames (F,); height in metres fixes
    the stature; inside (F, V) 0..1: in the picture. A guess outside of it counts nothing: such bones stay where the
    prior has them. Raises InputError when the arrays do not belong together, hold NaN, or the height is no height.
    """
    low, seen, numbers = _checked(vertices, visibility, frames, body, height)
    # Work is shared out by frames.  A BLAS that splits each product as well is three times as slow, our matrices being
    # many and small, and rounds otherwise on every machine.
    with threadpool_limits(1, "blas"):
        return _fit(low, seen, numbers, body, height, inside)


def _fit(
    low: Array, seen: Array, numbers: Array, body: Body, height: float | None, inside: npt.ArrayLike | None
) -> RigFit:
    """`fit_rig` with arrays that were looked at."""
    model = _Model(body, height)
    if not len(low):
        empty = np.zeros((0, len(body.bone_names), 4))
        return RigFit(model.phenotype, model.scale, empty, np.zeros((0, 3)), numbers)
    within = np.ones_like(seen) if inside is None else np.clip(np.asarray(inside, np.float64), 0, 1)
    if within.shape != seen.shape:
        raise InputError(f"the rig fit needs `inside` {seen.shape}, not {within.shape}")
    weights, seen = mesh_weights(body, seen, within), seen * within
    firm = _firmness(body, within)
    model.scale_to(low)
    best = well_seen(seen)
    weights /= model.fit_shape(low[best], weights[best], firm[best])
    with ThreadPoolExecutor(THREADS) as threads:  # numpy lets go of Python's lock while it computes
        parts = list(threads.map(lambda rows: model.fit_poses(low[rows], weights[rows], firm[rows]), _chunks(len(low))))
    rotations, translation = (np.concatenate(p) for p in zip(*parts, strict=True))
    return RigFit(model.phenotype, model.scale, _continuous(quaternion(rotations)), translation, numbers)


class LikelyBody:
    """One person as a body of likely poses: how deep the vertices of a mesh lie counts little for it (more, the more of
    the person is beyond the picture: a trunk alone does not show its lean), how bones turn together (`learned_prior`)
    much."""

    def __init__(self, vertices: npt.ArrayLike, visibility: npt.ArrayLike, body: Body, inside: npt.ArrayLike) -> None:
        """Solves the shape on some frames (`well_seen` names them): vertices (F, V, 3), visibility and inside (F, V) as
        `fit_rig`'s.  Raises InputError as that does, and where there is no frame."""
        self._body = body
        low, weights, firm = self._looked_at(vertices, visibility, inside)
        if not len(low):
            raise InputError("a body needs a frame to be seen on")
        self._model = model = _Model(body, None)
        model.posed, model.prior = Posed(body, LIKELY_DEPTH, LIKELY_OUTLIER), learned_prior(body)
        with threadpool_limits(1, "blas"):
            model.set_shape(model.phenotype, 0.0)
            model.scale_to(low)
            if len(low) >= SHAPE_LEAST:
                model.fit_shape(low, weights, firm)
        self._cut = Posed(body, CUT_DEPTH, LIKELY_OUTLIER)
        self._cut.set_shape(model.shape, model.scale)

    def __call__(self, vertices: npt.ArrayLike, visibility: npt.ArrayLike, inside: npt.ArrayLike) -> Array:
        """Its low-poly (F, V, 3) float64 metres where the mesh lies in the picture; arguments as before."""
        low, weights, firm = self._looked_at(vertices, visibility, inside)
        cut = np.clip((1 - np.asarray(inside, np.float64).mean(-1)) / CUT, 0, 1)
        result = low.copy()
        with threadpool_limits(1, "blas"), ThreadPoolExecutor(THREADS) as threads:
            for posed, share in ((self._model.posed, 1 - cut), (self._cut, cut)):
                frames = np.flatnonzero(share)
                parts = [frames[part] for part in _chunks(len(frames))] if len(frames) else []
                found = threads.map(lambda r, p=posed: self._posed(p, low[r], weights[r], firm[r]), parts)
                for rows, points in zip(parts, found, strict=True):
                    result[rows] += share[rows, None, None] * (points - low[rows])
        return result

    def _looked_at(
        self, vertices: npt.ArrayLike, visibility: npt.ArrayLike, inside: npt.ArrayLike
    ) -> tuple[Array, Array, Array]:
        """Vertices, their weights, and how firm bones are held."""
        low, seen, _ = _checked(vertices, visibility, np.arange(len(np.asarray(vertices))), self._body, None)
        within = np.clip(np.asarray(inside, np.float64), 0, 1)
        weights = mesh_weights(self._body, seen, within) * (VERTEX_SIGMA / LIKELY_SIGMA)
        return low, weights, _firmness(self._body, within)

    def _posed(self, posed: Posed, low: Array, weights: Array, firm: Array) -> Array:
        model = self._model
        deltas, root = model.start(posed, low, weights)
        deltas[firm > 0.5 * FIRM] = np.eye(3)
        for _ in range(LIKELY_STEPS):
            problem = posed.linearise(model.whole, deltas, root, low, weights, model.prior, firm)
            deltas, root = posed.move(problem, deltas, root, problem.solve())
        found: Array = posed.vertices(model.whole, deltas, root).transpose(2, 0, 1).astype(np.float64)
        return found


def _firmness(body: Body, within: Array) -> Array:
    """How many times stronger the prior holds each bone (F, J); within (F, V) 0..1: in the picture."""
    share = bone_visibility(body, within / 2)  # of a bone's skin
    return 1 + FIRM * np.clip(1 - share / INSIDE, 0, 1) ** 2


def mesh_weights(body: Body, visibility: Array, inside: Array) -> Array:
    """What each low-poly vertex counts (F, V): 1 / sigma, 1 / metres; visibility and inside (F, V) 0..1."""
    known = (GUESSED_WEIGHT + (1 - GUESSED_WEIGHT) * np.asarray(visibility, np.float64)) * inside
    weights: Array = np.sqrt(_vertex_areas(body) * np.maximum(known, OUTSIDE_WEIGHT)) / VERTEX_SIGMA
    return weights


class _Model:
    """The body with its current shape, as the fit sees it: its low-poly rows."""

    def __init__(self, body: Body, height: float | None) -> None:
        self.body, self.height = body, height
        arms_and_all = [*WIDTHS, *HINGES]
        every = [*arms_and_all, *HAND_WIDTHS]
        self.whole = Group(body, arms_and_all, arms_and_all)
        self.arms = [Group(body, [*ARM, *HAND_WIDTHS], every, side, shift=False) for side in "LR"]
        self.later = np.concatenate([arm.free for arm in self.arms])
        self.start = Start(body, self.whole)
        self.posed = Posed(body)
        self.prior = prior_of(body)
        self.phenotype = np.array(AVERAGE_ADULT)
        self.log_scale = 0.0
        self.set_shape(self.phenotype, 0.0)

    def set_shape(self, phenotype: Array, log_scale: float) -> None:
        """Takes a phenotype and scale; a given height overrules the scale."""
        self.phenotype = np.clip(phenotype, 0.0, 1.0)
        self.shape: Shape = self.body.lowpoly_shape(self.phenotype)
        if self.height is not None:
            log_scale = float(np.log(self.height / self.body.shape(self.phenotype).stature))
        self.log_scale, self.scale = log_scale, float(np.exp(log_scale))
        self.posed.set_shape(self.shape, self.scale)

    def scale_to(self, low: Array) -> None:
        """Scale from the lengths of limbs and trunk, average over the frames (skipped when the height is given)."""
        joints = self.body.joints(low, "lsp14").astype(np.float64)
        rest = self.body.joints(self.shape.vertices, "lsp14").astype(np.float64)
        pairs = np.array(
            [(0, 1), (1, 2), (3, 4), (4, 5), (6, 7), (7, 8), (9, 10), (10, 11), (2, 12), (3, 12), (12, 13)]
        )
        length = lambda j: np.linalg.norm(j[..., pairs[:, 0], :] - j[..., pairs[:, 1], :], axis=-1).sum(-1)  # noqa: E731
        self.set_shape(self.phenotype, float(np.log(np.median(length(joints)) / length(rest))))

    # -- Gauss-Newton -------------------------------------------------------------------------------------------------

    def fit_poses(self, low: Array, weights: Array, firm: Array) -> tuple[Array, Array]:
        """Deltas (F, J, 3, 3) and root (F, 3) of all frames with the present shape."""
        deltas, root = self.start(self.posed, low, weights)
        deltas[firm > 0.5 * FIRM] = np.eye(3)  # nothing says how these turn, and a wild start may not find home
        for group, steps in ((self.whole, POSE_STEPS), *((arm, ARM_STEPS) for arm in self.arms)):
            rows = np.arange(len(low))
            watched = np.setdiff1d(group.free, self.later) if group is self.whole else group.free
            for _ in range(steps):
                before = deltas[rows]
                now = (root[rows], low[rows], weights[rows], self.prior, firm[rows])
                problem = self.posed.linearise(group, before, *now)
                deltas[rows], root[rows] = self.posed.move(problem, before, root[rows], problem.solve())
                moved = np.abs(deltas[rows[:, None], watched] - before[:, watched]).max((1, 2, 3))
                rows = rows[moved > STILL]
                if not len(rows):
                    break
        return deltas, root

    def fit_shape(self, low: Array, weights: Array, firm: Array) -> float:
        """Phenotype and scale of the person from some frames, poses solved along and thrown away.

        Returns how many times farther than VERTEX_SIGMA the mesh lies from the posed body, at least 1: a mesh that is
        no body's must not drag bones and phenotypes to where no body goes.
        """
        deltas, root = self.start(self.posed, low, weights)
        excess = 1.0
        for step in range(SHAPE_STEPS):
            problem = self.posed.linearise(self.whole, deltas, root, low, weights / excess, self.prior, firm)
            if step in SHAPE_LINEARISED:
                change = self.shape_change(deltas)
            if step >= min(SHAPE_LINEARISED):  # first the poses, or a wrong turn is taken for a wrong shape
                pose_step, shape_step = self.both_steps(problem, change)
            else:
                pose_step, shape_step = problem.solve(), np.zeros(len(PHENOTYPES) + 1)
            deltas, root = self.posed.move(problem, deltas, root, pose_step)
            self.set_shape(self.phenotype + shape_step[:-1], self.log_scale + shape_step[-1])
            square = ((low.transpose(1, 2, 0) - self.posed.vertices(self.whole, deltas, root)) ** 2).mean(1).T
            excess = max(1.0, float(np.sqrt((square * weights**2).sum() / (weights**2).sum()) / VERTEX_SIGMA))
        return excess

    def both_steps(self, problem: Linear, change: Array) -> tuple[Array, Array]:
        """Steps of the poses (F, P) and (7,) of phenotypes and log scale: Schur complement of the joint problem.

        change (n, 3, 7, F) of the vertices by the shape.
        """
        cross = problem.onto(change)
        eliminated = problem.solve(np.concatenate([cross, problem.right[..., None]], -1))
        roots = np.sqrt(problem.weights)[:, None] * np.array([1, 1, problem.depth], np.float32)[:, None]  # (n, 3, F)
        flat = (change * roots[:, :, None]).transpose(2, 0, 1, 3).reshape(change.shape[2], -1)
        left = flat @ flat.T - np.einsum("fap,faq->pq", cross, eliminated[..., :-1])
        pull = flat @ (problem.residual * roots).ravel() - np.einsum("fap,fa->p", cross, eliminated[..., -1])
        width = np.append(PHENOTYPE_WIDTHS, SCALE_WIDTH)
        here = np.append(self.phenotype - AVERAGE_ADULT, self.log_scale)
        # The vertices of all frames err alike (the network's taste): they count as one frame's, not as thousands.
        share = 1 / len(problem.right)
        step = np.linalg.solve(left * share + np.diag(width**-2), pull * share - here / width**2)
        return eliminated[..., -1] - eliminated[..., :-1] @ step, step

    def shape_change(self, deltas: Array) -> Array:
        """Change of the vertices (V, 3, 7, F) by phenotypes and log scale, by finite differences at this pose."""
        phenotype, log_scale = self.phenotype, self.log_scale
        origin = np.zeros((len(deltas), 3))
        columns, base = [], self.posed.vertices(self.whole, deltas, origin)
        for k in range(len(phenotype) + 1):
            step = np.zeros(len(phenotype) + 1)
            step[k] = 0.02 if k == len(phenotype) or phenotype[k] < 0.95 else -0.02
            self.set_shape(phenotype + step[:-1], log_scale + step[-1])
            columns.append((self.posed.vertices(self.whole, deltas, origin) - base) / step[k])
        self.set_shape(phenotype, log_scale)
        return np.stack(columns, 2)


def _checked(
    vertices: npt.ArrayLike, visibility: npt.ArrayLike, frames: npt.ArrayLike, body: Body, height: float | None
) -> tuple[Array, Array, Array]:
    """Low-poly vertices (F, V, 3) float64, visibility (F, V) in 0..1, frames (F,) int."""
    x, seen, numbers = np.asarray(vertices), np.asarray(visibility, np.float64), np.asarray(frames, np.int64)
    if x.ndim == 3 and x.shape[1] == len(body.template):
        x = x[:, body.lowpoly]
    wanted = (len(numbers), len(body.lowpoly), 3)
    if x.shape != wanted or seen.shape != wanted[:2]:
        raise InputError(
            f"the rig fit needs vertices {wanted} and visibility {wanted[:2]}, not {x.shape} and {seen.shape}"
        )
    if not (np.isfinite(x).all() and np.isfinite(seen).all()):
        raise InputError("the rig fit was given vertices or visibilities that are not finite numbers")
    if height is not None and not 0.3 <= height <= 3:
        raise InputError(f"a height of {height} m is no person's: give metres, such as 1.75")
    return x.astype(np.float64), np.clip(seen, 0, 1), numbers


def well_seen(seen: Array) -> Array:
    """SHAPE_FRAMES frames spread over time among the better seen half, ascending; all where there are no more."""
    half = np.sort(np.argsort(-seen.mean(1), kind="stable")[: max(SHAPE_FRAMES, len(seen) // 2)])
    return half[np.unique(np.linspace(0, len(half) - 1, SHAPE_FRAMES).round().astype(int))]


def _chunks(count: int) -> Iterator[slice]:
    """Even parts of at most CHUNK frames, as many for each thread."""
    parts = -(-count // (CHUNK * THREADS)) * THREADS
    edges = [k * count // parts for k in range(parts + 1)]
    yield from (slice(a, b) for a, b in zip(edges[:-1], edges[1:], strict=True) if b > a)


def _vertex_areas(body: Body) -> Array:
    """Share (V,) of the low-poly surface around each vertex, mean 1, evened out by the square root."""
    corners = body.template[body.lowpoly][body.lowpoly_faces].astype(np.float64)
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    share = np.sqrt(np.bincount(body.lowpoly_faces.ravel(), np.repeat(area, 3), len(body.lowpoly)))
    return share / share.mean()


def _continuous(q: Array) -> Array:
    """The same rotations (F, J, 4) with signs such that neighbours in time are near each other: curves without
    jumps.
    """
    sign = np.where((q[1:] * q[:-1]).sum(-1) < 0, -1.0, 1.0)
    return q * np.concatenate([np.ones_like(q[:1, :, 0]), np.cumprod(sign, 0)])[..., None]
