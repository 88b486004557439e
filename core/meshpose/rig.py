# SPDX-License-Identifier: Apache-2.0
"""Mesh over time -> one body shape and bone rotations per frame, so that the posed body reproduces the mesh.

    fit = fit_rig(vertices, visibility, frames, Body.load())
    posed = fit.vertices(Body.load())                       # (F, 13718, 3) metres, camera frame

1. Start, in closed form, parents before children (HybrIK's decomposition): the root, chest, head, hands and feet turn
by
   weighted Procrustes; every other bone swings so that it points from its joint to its child's joint, and its twist
   is the turn around that axis which brings the surface that the bone carries onto the mesh.
2. Shape: phenotype and scale of the person by Gauss-Newton over up to 24 well seen frames together, with their poses
   eliminated frame by frame (Schur complement).
3. Poses of all frames by Gauss-Newton on the skinned low-poly vertices, with widths for how far each bone likely turns;
   then each hand by itself, wrist and fingers.

The low-poly vertices carry all that the mesh knows (the rest is lifted from them), so the fit looks at these 500 only.
Frame of reference: OpenCV's camera (x right, y down, z forward), metres. Rotations are anny's local-ref deltas
(body.py); the root's holds the turn into the camera frame.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .body import AVERAGE_ADULT, PHENOTYPES, Body, Shape, quaternion, rotation_matrix
from .errors import InputError

Array = npt.NDArray[Any]

# How far a bone likely turns from the reference pose, radians (one sigma per axis); bones not named here follow their
# parent.
WIDTHS = {
    "root": 100.0, "spine05": 0.2, "spine04": 0.2, "spine03": 0.2, "spine02": 0.2, "spine01": 0.2,
    "neck01": 0.25, "neck02": 0.25, "neck03": 0.25, "head": 0.25,
    "clavicle": 0.15, "shoulder01": 0.15, "upperarm01": 1.0, "upperarm02": 0.25, "lowerarm01": 0.8, "lowerarm02": 0.4,
    "wrist": 0.4, "upperleg01": 0.8, "upperleg02": 0.15, "lowerleg01": 0.8, "lowerleg02": 0.15, "foot": 0.35,
}  # fmt: skip
HAND_WIDTHS = {"wrist": 0.4, **{f"finger{f}-{k}": 0.6 for f in range(1, 6) for k in range(1, 4)}}
# Bones that turn as a whole by Procrustes at the start: name -> bones whose vertices say how.
BLOCKS = {
    "root": ("root", "pelvis.L", "pelvis.R", "spine05"),
    "spine01": ("spine01", "spine02", "clavicle.L", "clavicle.R", "shoulder01.L", "shoulder01.R"),
    "head": ("head",),
    **{f"wrist.{s}": (f"wrist.{s}", *(f"metacarpal{i}.{s}" for i in range(1, 5))) for s in "LR"},
    **{f"foot.{s}": (f"foot.{s}", *(f"toe{i}-1.{s}" for i in range(1, 6))) for s in "LR"},
}
# The next bone along a limb, where a bone has several children or skips some.
NEXT = {
    "clavicle": "upperarm01",
    "shoulder01": "upperarm01",
    "spine05": "spine03",
    "spine04": "spine02",
    "spine03": "spine01",
}

VERTEX_SIGMA = 0.015  # metres: how far the mesh may lie from the best posed body; more if it turns out to lie farther
DEPTH_WEIGHT = 0.5  # depth of a vertex counts half: it is a monocular guess
GUESSED_WEIGHT = 0.15  # of an invisible vertex, against 1 of a visible one
# One sigma of the phenotypes around the average adult, and of the logarithm of the scale: size goes into the scale.
PHENOTYPE_WIDTHS = np.array([0.35, 0.02, 0.25, 0.25, 0.08, 0.25])
SCALE_WIDTH = 0.3
SHAPE_FRAMES, SHAPE_STEPS, POSE_STEPS, HAND_STEPS, CHUNK = 24, 8, 4, 4, 32
LARGEST_STEP = 0.5  # radians
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
    skin = np.zeros((len(body.bone_names), len(body.lowpoly)))
    np.add.at(skin, (body.skin_bones[body.lowpoly].astype(int), np.arange(len(body.lowpoly))[:, None]),
              body.skin_weights[body.lowpoly])  # fmt: skip
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
) -> RigFit:
    """Fits one person.

    vertices (F, N, 3) or (F, V, 3) metres, camera frame; visibility (F, V) 0..1; frames (F,); height in metres fixes
    the stature. Raises InputError when the arrays do not belong together, hold NaN, or the height is no height.
    """
    low, seen, numbers = _checked(vertices, visibility, frames, body, height)
    model = _Model(body, height)
    if not len(low):
        empty = np.zeros((0, len(body.bone_names), 4))
        return RigFit(model.phenotype, model.scale, empty, np.zeros((0, 3)), numbers)
    weights = np.sqrt(model.area * (GUESSED_WEIGHT + (1 - GUESSED_WEIGHT) * seen)) / VERTEX_SIGMA
    model.scale_to(low)
    best = _well_seen(seen)
    weights /= model.fit_shape(low[best], weights[best])
    parts = [model.fit_poses(low[rows], weights[rows]) for rows in _chunks(len(low))]
    rotations, translation = (np.concatenate(p) for p in zip(*parts, strict=True))
    return RigFit(model.phenotype, model.scale, _continuous(quaternion(rotations)), translation, numbers)


class _Group:
    """Bones that are solved together, and the low-poly vertices that judge them.

    free (C,) bones; width (C,) of each; rows (n,) vertices; carried (n, C, 9): does the bone move what a slot of the
    vertex's skin adds to it; share (n, C): how much of the vertex the bone moves.
    """

    def __init__(self, body: Body, widths: dict[str, float], side: str = "") -> None:
        """widths by bone name without side; side "L" or "R" takes that side only, and the vertices that it moves."""
        names = body.bone_names
        wanted = [n for n in names if n.split(".")[0] in widths and n.endswith(side)]
        self.free = np.array([names.index(n) for n in wanted])
        self.width = np.array([widths[n.split(".")[0]] for n in wanted])
        below = np.eye(len(names), dtype=bool)
        for c in range(len(names) - 1, 0, -1):
            below[body.bone_parents[c]] |= below[c]
        carried = below[self.free][:, body.skin_bones[body.lowpoly].astype(int)].transpose(1, 0, 2)  # (V, C, 9)
        share = np.einsum("vcs,vs->vc", carried, body.skin_weights[body.lowpoly])
        self.rows = np.flatnonzero(share.max(1) > 0.05) if side else np.arange(len(share))
        self.carried = carried[self.rows].astype(np.float32)
        self.share = share[self.rows].astype(np.float32)


@dataclass(frozen=True, eq=False)
class _Linear:
    """Weighted residual (F, 3n) and transposed Jacobian (F, P, 3n), coordinates before vertices; gradient (F, P) and
    diagonal (P,) of the widths; turned (F, J, 3, 3) bones it was taken at.
    """

    residual: Array
    jacobian: Array
    gradient: Array
    diagonal: Array
    turned: Array

    def normal_equations(self) -> tuple[Array, Array]:
        """hessian (F, P, P) and right side (F, P) of the Gauss-Newton step, float64, slightly damped."""
        hessian = (self.jacobian @ self.jacobian.transpose(0, 2, 1)).astype(np.float64)
        index = np.arange(len(self.diagonal))
        hessian[:, index, index] += self.diagonal + 1e-3 * hessian[:, index, index] + 1e-6
        right = (self.jacobian @ self.residual[..., None].astype(np.float32))[..., 0]
        return hessian, right.astype(np.float64) + self.gradient


class _Model:
    """The body with its current shape, as the fit sees it: its low-poly rows."""

    def __init__(self, body: Body, height: float | None) -> None:
        self.body, self.height = body, height
        self.bones = body.skin_bones[body.lowpoly].astype(int)
        self.skin = body.skin_weights[body.lowpoly].astype(np.float64)
        self.whole = _Group(body, WIDTHS)
        self.hands = [_Group(body, HAND_WIDTHS, side) for side in "LR"]
        self.area = _vertex_areas(body)
        self.phenotype = np.array(AVERAGE_ADULT)
        self.log_scale = 0.0
        self.set_shape(self.phenotype, 0.0)

    def set_shape(self, phenotype: Array, log_scale: float) -> None:
        """Takes a phenotype and scale; a given height overrules the scale."""
        self.phenotype = np.clip(phenotype, 0.0, 1.0)
        self.shape: Shape = self.body.shape(self.phenotype)
        if self.height is not None:
            log_scale = float(np.log(self.height / self.shape.stature))
        self.log_scale, self.scale = log_scale, float(np.exp(log_scale))
        self.rest = self.shape.vertices[self.body.lowpoly].astype(np.float64) * self.scale
        self.heads = self.shape.heads.astype(np.float64) * self.scale
        self.align = self.body.reference.astype(np.float64) @ self.shape.orientations.transpose(0, 2, 1)
        self.align[0] = np.eye(3)

    def scale_to(self, low: Array) -> None:
        """Scale from the lengths of limbs and trunk, average over the frames (skipped when the height is given)."""
        joints = self.body.joints(low, "lsp14").astype(np.float64)
        rest = self.body.joints(self.shape.vertices[self.body.lowpoly], "lsp14").astype(np.float64)
        pairs = np.array(
            [(0, 1), (1, 2), (3, 4), (4, 5), (6, 7), (7, 8), (9, 10), (10, 11), (2, 12), (3, 12), (12, 13)]
        )
        length = lambda j: np.linalg.norm(j[..., pairs[:, 0], :] - j[..., pairs[:, 1], :], axis=-1).sum(-1)  # noqa: E731
        self.set_shape(self.phenotype, float(np.log(np.median(length(joints)) / length(rest))))

    # -- posing -------------------------------------------------------------------------------------------------------

    def chain(self, deltas: Array, root: Array) -> tuple[Array, Array, Array]:
        """Deltas (F, J, 3, 3), root (F, 3) -> turned G, linear G A (F, J, 3, 3), heads (F, J, 3)."""
        turned, linear = np.empty_like(deltas), np.empty_like(deltas)
        heads = np.empty(deltas.shape[:3])
        turned[:, 0] = linear[:, 0] = deltas[:, 0]
        heads[:, 0] = root
        for c in range(1, deltas.shape[1]):
            p = self.body.bone_parents[c]
            turned[:, c] = turned[:, p] @ deltas[:, c]
            linear[:, c] = turned[:, c] @ self.align[c]
            heads[:, c] = heads[:, p] + linear[:, p] @ (self.heads[c] - self.heads[p])
        return turned, linear, heads

    def contributions(self, linear: Array, heads: Array, rows: Array) -> Array:
        """What each of its 9 bones adds to each vertex: (F, n, 9, 3); their sum is the skinned vertex."""
        offset = heads - (linear @ self.heads[..., None])[..., 0]
        bones = self.bones[rows]
        moved = np.einsum("fvsab,vb->fvsa", linear[:, bones], self.rest[rows]) + offset[:, bones]
        return moved * self.skin[rows, :, None]

    # -- the closed-form start ----------------------------------------------------------------------------------------

    def start(self, low: Array, weights: Array) -> tuple[Array, Array]:
        """Deltas (F, J, 3, 3) and root (F, 3) from joints and surface, parents before children."""
        body = self.body
        joints = body.joints(low, "rig").astype(np.float64)
        index = {n: i for i, n in enumerate(body.bone_names)}
        dense = np.zeros((len(body.bone_names), len(low[0])))
        np.add.at(dense, (self.bones, np.arange(len(low[0]))[:, None]), self.skin)
        turned = np.empty((len(low), len(index), 3, 3))
        deltas = np.empty_like(turned)
        for c, name in enumerate(body.bone_names):
            parent = turned[:, body.bone_parents[c]] if c else np.broadcast_to(np.eye(3), (len(low), 3, 3))
            if name in BLOCKS:
                share = dense[[index[b] for b in BLOCKS[name]]].sum(0) * weights**2
                turned[:, c] = _procrustes(self.rest, low, share) @ self.align[c].T
            elif c in self.whole.free and (child := self._next(name, index)) is not None:
                base = parent @ self.align[c]
                along = base @ (self.heads[child] - self.heads[c])
                swing = _swing(along, joints[:, child] - joints[:, c]) @ base
                arms = np.einsum("fab,vb->fva", swing, self.rest - self.heads[c])
                twist = _twist(joints[:, child] - joints[:, c], arms, low - joints[:, c, None], dense[c] * weights**2)
                turned[:, c] = twist @ swing @ self.align[c].T
            else:
                turned[:, c] = parent
            deltas[:, c] = parent.swapaxes(1, 2) @ turned[:, c]
        return deltas, joints[:, 0]

    def _next(self, name: str, index: dict[str, int]) -> int | None:
        """The bone whose head a bone points to."""
        base, _, side = name.partition(".")
        if base in NEXT:
            return index[NEXT[base] + ("." + side if side else "")]
        children = np.flatnonzero(self.body.bone_parents == index[name])
        return int(children[0]) if len(children) == 1 else None

    # -- Gauss-Newton -------------------------------------------------------------------------------------------------

    def linearise(self, group: _Group, deltas: Array, root: Array, low: Array, weights: Array) -> _Linear:
        """The problem around a pose. Unknowns: a turn about the world's axes for each free bone, then the root's
        shift.
        """
        turned, linear, heads = self.chain(deltas, root)
        rows = group.rows
        parts = self.contributions(linear, heads, rows)
        axis_weights = np.array([1.0, 1.0, DEPTH_WEIGHT])[:, None] * weights[:, None, rows]  # (F, 3, n)
        residual = (low[:, rows] - parts.sum(2)).swapaxes(1, 2) * axis_weights
        arm = group.carried @ parts.astype(np.float32)  # (F, n, C, 3)
        arm -= group.share[..., None] * heads[:, None, group.free].astype(np.float32)
        arm = np.ascontiguousarray(arm.transpose(3, 0, 2, 1))  # (3, F, C, n)
        scaled = axis_weights.astype(np.float32).swapaxes(0, 1)[:, :, None]  # (3, F, 1, n)
        jacobian = np.zeros((len(low), len(group.free) + 1, 3, *residual.shape[1:]), np.float32)
        for axis, (i, j) in enumerate(((1, 2), (2, 0), (0, 1))):  # e_axis x arm: coordinate j gets arm_i, i gets -arm_j
            jacobian[:, :-1, axis, j] = arm[i] * scaled[j]
            jacobian[:, :-1, axis, i] = -arm[j] * scaled[i]
            jacobian[:, -1, axis, axis] = axis_weights[:, axis]
        away = rotation_vector(deltas[:, group.free]) / group.width[:, None] ** 2
        parents = np.where(group.free > 0, self.body.bone_parents[group.free], 0)
        world = (turned[:, parents] @ away[..., None])[..., 0]
        world[:, group.free == 0] = 0
        gradient = np.concatenate([-world.reshape(len(low), -1), np.zeros((len(low), 3))], 1)
        diagonal = np.concatenate([np.repeat(group.width**-2.0, 3), np.full(3, 0.0 if group is self.whole else 1e12)])
        flat = residual.reshape(len(low), -1)
        return _Linear(flat, jacobian.reshape(len(low), -1, flat.shape[1]), gradient, diagonal, turned)

    def move(self, group: _Group, deltas: Array, root: Array, turned: Array, step: Array) -> tuple[Array, Array]:
        """Applies a step (F, 3C + 3): turns about world axes, longest LARGEST_STEP, and a shift of the root."""
        turns = step[:, :-3].reshape(len(step), -1, 3)
        turns = turns * np.minimum(1, LARGEST_STEP / np.maximum(np.linalg.norm(turns, axis=-1, keepdims=True), 1e-9))
        out = deltas.copy()
        for i, c in enumerate(group.free):
            local = turns[:, i]
            if c:
                local = np.einsum("fba,fb->fa", turned[:, self.body.bone_parents[c]], local)
            out[:, c] = _exponential(local) @ deltas[:, c]
        return out, root + step[:, -3:]

    def fit_poses(self, low: Array, weights: Array) -> tuple[Array, Array]:
        """Deltas (F, J, 3, 3) and root (F, 3) of all frames with the present shape."""
        deltas, root = self.start(low, weights)
        for group in [self.whole] * POSE_STEPS + [hand for hand in self.hands for _ in range(HAND_STEPS)]:
            problem = self.linearise(group, deltas, root, low, weights)
            hessian, right = problem.normal_equations()
            step = np.linalg.solve(hessian, right[..., None])[..., 0]
            deltas, root = self.move(group, deltas, root, problem.turned, step)
        return deltas, root

    def fit_shape(self, low: Array, weights: Array) -> float:
        """Phenotype and scale of the person from some frames, poses solved along and thrown away.

        Returns how many times farther than VERTEX_SIGMA the mesh lies from the posed body, at least 1: a mesh that is
        no body's must not drag bones and phenotypes to where no body goes.
        """
        deltas, root = self.start(low, weights)
        excess = 1.0
        for step in range(SHAPE_STEPS):
            problem = self.linearise(self.whole, deltas, root, low, weights / excess)
            hessian, right = problem.normal_equations()
            shape_step = np.zeros(len(PHENOTYPES) + 1)
            if step >= 2:  # first the poses, or a wrong turn is taken for a wrong shape
                by_shape = self.shape_jacobian(deltas, root, weights / excess)
                cross = (problem.jacobian @ by_shape.astype(np.float32)).astype(np.float64)
                shape_step = self.shape_step(by_shape, problem.residual, cross, hessian, right)
                right = right - np.einsum("fap,p->fa", cross, shape_step)
            pose_step = np.linalg.solve(hessian, right[..., None])[..., 0]
            deltas, root = self.move(self.whole, deltas, root, problem.turned, pose_step)
            self.set_shape(self.phenotype + shape_step[:-1], self.log_scale + shape_step[-1])
            square = ((low - self._posed(deltas, root)) ** 2).mean(-1)
            excess = max(1.0, float(np.sqrt((square * weights**2).sum() / (weights**2).sum()) / VERTEX_SIGMA))
        return excess

    def shape_step(self, by_shape: Array, residual: Array, cross: Array, hessian: Array, right: Array) -> Array:
        """Step (7,) of phenotypes and log scale with the poses eliminated: Schur complement of the joint problem."""
        eliminated = np.linalg.solve(hessian, np.concatenate([cross, right[..., None]], -1))
        left = np.einsum("frp,frq->pq", by_shape, by_shape) - np.einsum("fap,faq->pq", cross, eliminated[..., :-1])
        pull = np.einsum("frp,fr->p", by_shape, residual) - np.einsum("fap,fa->p", cross, eliminated[..., -1])
        width = np.append(PHENOTYPE_WIDTHS, SCALE_WIDTH)
        here = np.append(self.phenotype - AVERAGE_ADULT, self.log_scale)
        # The vertices of all frames err alike (the network's taste): they count as one frame's, not as thousands.
        share = 1 / len(residual)
        return np.linalg.solve(left * share + np.diag(width**-2), pull * share - here / width**2)

    def shape_jacobian(self, deltas: Array, root: Array, weights: Array) -> Array:
        """Weighted change of the vertices (F, 3V, 7), coordinates first, by phenotypes and log scale, by finite
        differences at this pose.
        """
        phenotype, log_scale = self.phenotype, self.log_scale
        columns, base = [], self._posed(deltas, root)
        for k in range(len(phenotype) + 1):
            step = np.zeros(len(phenotype) + 1)
            step[k] = 0.02 if k == len(phenotype) or phenotype[k] < 0.95 else -0.02
            self.set_shape(phenotype + step[:-1], log_scale + step[-1])
            columns.append((self._posed(deltas, root) - base) / step[k])
        self.set_shape(phenotype, log_scale)
        change = np.stack(columns, -1) * (weights[..., None] * np.array([1.0, 1.0, DEPTH_WEIGHT]))[..., None]
        return change.swapaxes(1, 2).reshape(len(root), -1, len(columns))

    def _posed(self, deltas: Array, root: Array) -> Array:
        _, linear, heads = self.chain(deltas, root)
        return self.contributions(linear, heads, self.whole.rows).sum(2)


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


def _well_seen(seen: Array) -> Array:
    """SHAPE_FRAMES frames spread over time among the better seen half, ascending; all where there are no more."""
    half = np.sort(np.argsort(-seen.mean(1), kind="stable")[: max(SHAPE_FRAMES, len(seen) // 2)])
    return half[np.unique(np.linspace(0, len(half) - 1, SHAPE_FRAMES).round().astype(int))]


def _chunks(count: int) -> Iterator[slice]:
    for start in range(0, count, CHUNK):
        yield slice(start, start + CHUNK)


def _vertex_areas(body: Body) -> Array:
    """Share (V,) of the low-poly surface around each vertex, mean 1, evened out by the square root."""
    corners = body.template[body.lowpoly][body.lowpoly_faces].astype(np.float64)
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    share = np.sqrt(np.bincount(body.lowpoly_faces.ravel(), np.repeat(area, 3), len(body.lowpoly)))
    return share / share.mean()


def _procrustes(rest: Array, posed: Array, weights: Array) -> Array:
    """Rotations (F, 3, 3) that turn rest (V, 3) into posed (F, V, 3) best; weights (F, V)."""
    w = weights / np.maximum(weights.sum(1, keepdims=True), 1e-12)
    a = rest - np.einsum("fv,vx->fx", w, rest)[:, None]
    b = posed - np.einsum("fv,fvx->fx", w, posed)[:, None]
    u, _, vt = np.linalg.svd(np.einsum("fv,fva,fvb->fab", w, b, a, optimize=True))
    u[..., 2] *= np.sign(np.linalg.det(u @ vt))[:, None]
    return u @ vt


def _swing(a: Array, b: Array) -> Array:
    """Smallest rotations (F, 3, 3) that point a (F, 3) along b (F, 3); HybrIK equation 5."""
    a, b = (v / np.maximum(np.linalg.norm(v, axis=-1, keepdims=True), 1e-9) for v in (a, b))
    axis = np.cross(a, b)
    sine, cosine = np.linalg.norm(axis, axis=-1, keepdims=True), (a * b).sum(-1, keepdims=True)
    # Turned right round: any axis across a will do.
    across = np.cross(a, np.eye(3)[np.abs(a).argmin(-1)])
    axis = np.where(sine > 1e-6, axis, across / np.linalg.norm(across, axis=-1, keepdims=True) * 1e-6)
    axis = axis / np.linalg.norm(axis, axis=-1, keepdims=True)
    return _exponential(axis * np.arctan2(sine, cosine))


def _twist(axis: Array, a: Array, b: Array, weights: Array) -> Array:
    """Rotations (F, 3, 3) about axis (F, 3) that bring the arms a (F, V, 3) onto b best; weights (F, V)."""
    t = (axis / np.maximum(np.linalg.norm(axis, axis=-1, keepdims=True), 1e-9))[:, None]
    a = a - (a * t).sum(-1, keepdims=True) * t
    b = b - (b * t).sum(-1, keepdims=True) * t
    sine = (weights * (np.cross(a, b) * t).sum(-1)).sum(1)
    cosine = (weights * (a * b).sum(-1)).sum(1)
    return _exponential(t[:, 0] * np.arctan2(sine, cosine)[:, None])


def _exponential(vector: Array) -> Array:
    """Rotation vectors (..., 3), radians -> matrices (..., 3, 3)."""
    half = np.linalg.norm(vector, axis=-1, keepdims=True) / 2
    return rotation_matrix(np.concatenate([np.cos(half), vector * 0.5 * np.sinc(half / np.pi)], -1))


def rotation_vector(matrix: Array) -> Array:
    """Rotation matrices (..., 3, 3) -> rotation vectors (..., 3) of at most pi."""
    q = quaternion(matrix)
    sine = np.linalg.norm(q[..., 1:], axis=-1, keepdims=True)
    return q[..., 1:] * np.where(sine > 1e-9, 2 * np.arctan2(sine, q[..., :1]) / np.maximum(sine, 1e-12), 2.0)


def _continuous(q: Array) -> Array:
    """The same rotations (F, J, 4) with signs such that neighbours in time are near each other: curves without
    jumps.
    """
    sign = np.where((q[1:] * q[:-1]).sum(-1) < 0, -1.0, 1.0)
    return q * np.concatenate([np.ones_like(q[:1, :, 0]), np.cumprod(sign, 0)])[..., None]
