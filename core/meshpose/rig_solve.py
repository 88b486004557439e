# SPDX-License-Identifier: Apache-2.0
"""The skinned low-poly and the Gauss-Newton step that moves it onto a mesh; `rig.py` iterates it.

Bones that do not turn by themselves are taken together with the one above them that does: with S such bones and G_s the
turned frame of bone s, w_s its head, linear blend skinning of the n vertices is

    x = sum_s  G_s U_s + w_s W_s          U (S, 3, n) fixed by the shape, W (S, n) the skin's weights

and the sum over the bones below bone c, less its own head, is the arm on which a turn of c moves each vertex.  A turn
about an axis moves a vertex by axis x arm, so that the normal equations need the arms' products only (3C x n times n x
3C for C bones), never the Jacobian of 3C x 3n.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .body import Body, Shape, quaternion, rotation_matrix
from .rig_prior import LIMIT_WIDTH, Prior

Array = npt.NDArray[Any]

DEPTH_WEIGHT = 0.85  # depth of a vertex counts less: it is a monocular guess
OUTLIER = (
    0.015  # metres from which on a vertex counts less and less (pseudo-Huber): one limb that is off drags no other
)
LARGEST_STEP = 0.5  # radians
DAMPING = 1e-3
AT_LIMIT = 1e-4  # radians: a joint so near its limit is held there for a step; the mesh can pull it off again
CROSS = ((0, 1, 2), (1, 2, 0), (2, 0, 1))


class Group:
    """Bones that are solved together, and the low-poly vertices that judge them.

    free (C,) bones; turning (S,) bones that may be turned while these are solved; rows (n,) vertices; above (S,) index
    into turning of the one above, -1 for the root; share (C, n): how much of a vertex a bone moves.
    """

    def __init__(self, body: Body, free: list[str], turning: list[str], side: str = "", shift: bool = True) -> None:
        """free, turning: names without side; side "L" or "R" takes the bones of that side and the vertices they move;
        shift: the root moves, too.
        """
        names, parents = body.bone_names, body.bone_parents
        self.shift = shift
        self.free = np.array([c for c, n in enumerate(names) if n.split(".")[0] in free and n.endswith(side)])
        self.turning = np.array([c for c, n in enumerate(names) if n.split(".")[0] in turning])
        owner = np.zeros(len(names), int)  # of each bone: the turning bone that carries it
        for c in range(len(names)):
            owner[c] = c if c in self.turning else owner[parents[c]]
        place = {int(c): s for s, c in enumerate(self.turning)}
        self.owner = np.array([place[int(c)] for c in owner])
        self.above = np.array([place[int(owner[parents[c]])] if c else -1 for c in self.turning])
        self.at = np.array([place[int(c)] for c in self.free])
        low = body.lowpoly
        skin = np.zeros((len(self.turning), len(low)))
        np.add.at(skin, (self.owner[body.skin_bones[low].astype(int)], np.arange(len(low))[:, None]),
                  body.skin_weights[low])  # fmt: skip
        below = skin.copy()
        for s in range(len(self.turning) - 1, 0, -1):
            below[self.above[s]] += below[s]
        moved = below[self.at]
        self.rows = np.flatnonzero(moved.max(0) > 0.05) if side else np.arange(len(low))
        self.share = moved[:, self.rows].astype(np.float32)
        self.skin = skin[:, self.rows].astype(np.float32)

    def offsets(self, rest: Array, heads: Array, align: Array, posed_heads: Array, body: Body) -> Array:
        """U and W of this module's head as one array (S, 4, n) float32.

        rest (V, 3) vertices and heads (J, 3) of the shape; align (J, 3, 3) rest to reference pose, posed_heads (J, 3)
        of the reference pose.
        """
        bones = body.skin_bones[body.lowpoly[self.rows]].astype(int)  # (n, 9)
        moved = np.einsum("nsab,nsb->nsa", align[bones], rest[self.rows, None] - heads[bones])
        carrier = self.turning[self.owner[bones]]
        moved += posed_heads[bones] - posed_heads[carrier]
        weights = body.skin_weights[body.lowpoly[self.rows]].astype(np.float64)
        out = np.zeros((len(self.turning), 4, len(self.rows)))
        columns = np.arange(len(self.rows))[:, None]
        for axis in range(3):
            np.add.at(out[:, axis], (self.owner[bones], columns), moved[..., axis] * weights)
        np.add.at(out[:, 3], (self.owner[bones], columns), weights)
        return out.astype(np.float32)


@dataclass(frozen=True, eq=False)
class Linear:
    """The problem around a pose: arms (F, 3C, n) and weights (F, n) as square roots, residual (F, 3, n) metres,
    turned (F, S, 3, 3) and heads (F, S, 3) of the turning bones, hessian (F, P, P), right (F, P).  Unknowns in the
    order of the axes: turns about x of all C bones, about y, about z, then the root's shift.
    """

    group: Group
    arms: Array
    weights: Array
    residual: Array
    turned: Array
    heads: Array
    hessian: Array
    right: Array
    prior: Prior

    def onto(self, change: Array) -> Array:
        """Transposed weighted Jacobian times changes (F, 3, n, K) of the vertices -> (F, P, K)."""
        return _onto(self.arms, self.weights, change, self.group.shift)

    def solve(self, right: Array | None = None) -> Array:
        """The step (F, P), or (F, P, K) for other right sides (F, P, K)."""
        if right is None:
            return np.linalg.solve(self.hessian, self.right[..., None])[..., 0]
        return np.linalg.solve(self.hessian, right.astype(self.hessian.dtype))


class Posed:
    """A shape's low-poly: chains, vertices and Gauss-Newton steps of groups, for one person."""

    def __init__(self, body: Body) -> None:
        self.body = body

    def set_shape(self, shape: Shape, scale: float) -> None:
        """Take a rest body, grown by `scale`."""
        self.rest = shape.vertices[self.body.lowpoly].astype(np.float64) * scale
        self.heads = shape.heads.astype(np.float64) * scale
        self.align = self.body.reference.astype(np.float64) @ shape.orientations.transpose(0, 2, 1)
        self.align[0] = np.eye(3)
        posed = self.heads.copy()  # of the reference pose: nothing turned
        for c, p in enumerate(self.body.bone_parents):
            if p >= 0:
                posed[c] = posed[p] + self.align[p] @ (self.heads[c] - self.heads[p])
        self.reference_heads = posed
        self._offsets: dict[Group, Array] = {}

    def offsets(self, group: Group) -> Array:
        """U and W of this module's head for a group, kept until the shape changes."""
        if group not in self._offsets:
            known = (self.rest, self.heads, self.align, self.reference_heads)
            self._offsets[group] = group.offsets(*known, self.body)
        return self._offsets[group]

    def chain(self, group: Group, deltas: Array) -> tuple[Array, Array]:
        """Deltas (F, J, 3, 3) -> turned (F, S, 3, 3) and heads less the root's (F, S, 3) of the turning bones."""
        count = len(group.turning)
        turned = np.empty((len(deltas), count, 3, 3))
        heads = np.zeros((len(deltas), count, 3))
        place = self.reference_heads[group.turning]
        turned[:, 0] = deltas[:, 0]
        for s in range(1, count):
            p = group.above[s]
            turned[:, s] = turned[:, p] @ deltas[:, group.turning[s]]
            heads[:, s] = heads[:, p] + turned[:, p] @ (place[s] - place[p])
        return turned, heads

    def parts(self, group: Group, turned: Array, heads: Array) -> Array:
        """What each turning bone adds to each vertex, less the root's head: (F, 3, S, n) float32."""
        move = np.concatenate([turned, heads[..., None]], -1).astype(np.float32)
        offsets = self.offsets(group)
        out = np.empty((len(heads), 3, offsets.shape[0], offsets.shape[-1]), np.float32)
        for s in range(len(offsets)):
            np.matmul(move[:, s], offsets[s], out=out[:, :, s])
        return out

    def vertices(self, group: Group, deltas: Array, root: Array) -> Array:
        """Skinned vertices (F, 3, n) float32, metres."""
        vertices: Array = self.parts(group, *self.chain(group, deltas)).sum(2)
        vertices += root[:, :, None].astype(np.float32)
        return vertices

    def linearise(
        self,
        group: Group,
        deltas: Array,
        root: Array,
        low: Array,
        weights: Array,
        prior: Prior,
        firm: Array | None = None,
    ) -> Linear:
        """The problem around a pose.  low (F, V, 3) metres, weights (F, V): 1 / sigma; firm (F, J): how many times
        stronger the prior holds a bone.

        Unknowns: a turn about the world's axes for each free bone, and the root's shift.
        """
        turned, heads = self.chain(group, deltas)
        parts = self.parts(group, turned, heads)
        rows = group.rows
        target = (low[:, rows] - root[:, None]).astype(np.float32).swapaxes(1, 2)
        residual = target - parts.sum(2)
        for s in range(len(group.turning) - 1, 0, -1):  # what hangs below a bone is carried by it
            parts[:, :, group.above[s]] += parts[:, :, s]
        arms = parts[:, :, group.at] if len(group.at) < len(group.turning) else parts
        arms -= heads[:, group.at].swapaxes(1, 2)[..., None].astype(np.float32) * group.share
        w = weights[:, rows] * (1 + (residual**2).sum(1) / OUTLIER**2) ** -0.25
        w = w.astype(np.float32)
        arms *= w[:, None, None]
        arms = arms.reshape(len(low), -1, len(rows))
        hessian = _hessian(arms, w, group.shift)
        right = _onto(arms, w, residual[..., None], group.shift)[..., 0]
        _add_prior(hessian, right, group, deltas, turned, prior, firm)
        index = np.arange(hessian.shape[1])
        hessian[:, index, index] *= 1 + DAMPING
        hessian[:, index, index] += 1e-3
        return Linear(group, arms, w, residual, turned, heads, hessian, right, prior)

    def move(self, linear: Linear, deltas: Array, root: Array, step: Array) -> tuple[Array, Array]:
        """Applies a step (F, P): turns about world axes, longest LARGEST_STEP, and a shift of the root.

        Joints end inside of their limits.
        """
        out, root = self.turn(linear.group, linear.turned, deltas, root, step)
        _into_limits(out, linear.group.free[linear.group.at > 0], linear.prior)
        return out, root

    def turn(self, group: Group, turned: Array, deltas: Array, root: Array, step: Array) -> tuple[Array, Array]:
        """`move` for a group whose turning bones stand at turned (F, S, 3, 3)."""
        count = 3 * len(group.free)
        turns = step[:, :count].reshape(len(step), 3, -1).swapaxes(1, 2).astype(np.float64)
        turns = turns * np.minimum(1, LARGEST_STEP / np.maximum(np.linalg.norm(turns, axis=-1, keepdims=True), 1e-9))
        local = turns.copy()
        limbs = group.at > 0
        parents = turned[:, group.above[group.at[limbs]]]
        local[:, limbs] = (parents.swapaxes(-1, -2) @ turns[:, limbs, :, None])[..., 0]
        out = deltas.copy()
        out[:, group.free] = exponential(local) @ deltas[:, group.free]
        return out, root + step[:, count:] if group.shift else root


def _hessian(arms: Array, weights: Array, shift: bool) -> Array:
    """Gauss-Newton's hessian (F, P, P) of the vertices: arms (F, 3C, n) weighted, weights (F, n)."""
    frames, bones = len(arms), arms.shape[1] // 3
    products = (arms @ arms.swapaxes(1, 2)).reshape(frames, 3, bones, 3, bones)
    size = 3 * bones + 3 * shift
    hessian = np.zeros((frames, size, size), np.float32)
    at = [slice(k * bones, (k + 1) * bones) for k in range(3)]
    d = (1.0, 1.0, DEPTH_WEIGHT**2)
    for k, i, j in CROSS:  # turn k moves coordinate j by arm i, and i by less arm j
        np.multiply(products[:, i, :, i], d[j], out=hessian[:, at[k], at[k]])
        hessian[:, at[k], at[k]] += d[i] * products[:, j, :, j]
        np.multiply(products[:, i, :, k], -d[j], out=hessian[:, at[k], at[i]])
        np.multiply(products[:, j, :, k], -d[i], out=hessian[:, at[k], at[j]])
    if shift:
        sums = (arms @ weights[..., None]).reshape(frames, 3, bones)
        cross = np.zeros((frames, 3, bones, 3), np.float32)
        for k, i, j in CROSS:
            cross[:, k, :, j] = d[j] * sums[:, i]
            cross[:, k, :, i] = -d[i] * sums[:, j]
        cross = cross.reshape(frames, 3 * bones, 3)
        hessian[:, : 3 * bones, 3 * bones :] = cross
        hessian[:, 3 * bones :, : 3 * bones] = cross.swapaxes(1, 2)
        index = 3 * bones + np.arange(3)
        hessian[:, index, index] = (weights.astype(np.float64) ** 2).sum(1)[:, None] * d
    return hessian


def _onto(arms: Array, weights: Array, change: Array, shift: bool) -> Array:
    """Transposed Jacobian times weighted changes (F, 3, n, K) -> (F, P, K)."""
    frames, _, count, wide = change.shape
    bones = arms.shape[1] // 3
    scaled = change * (weights[:, None, :, None] * np.array([1, 1, DEPTH_WEIGHT**2], np.float32)[:, None, None])
    scaled = scaled.astype(np.float32)
    columns = np.ascontiguousarray(scaled.transpose(0, 2, 1, 3)).reshape(frames, count, 3 * wide)
    products = (arms @ columns).reshape(frames, 3, bones, 3, wide)
    out = np.empty((frames, 3 * bones + 3 * shift, wide), np.float32)
    for k, i, j in CROSS:
        out[:, k * bones : (k + 1) * bones] = products[:, i, :, j] - products[:, j, :, i]
    if shift:
        out[:, 3 * bones :] = np.einsum("fcnk,fn->fck", scaled, weights)
    return out


def _add_prior(
    hessian: Array, right: Array, group: Group, deltas: Array, turned: Array, prior: Prior, firm: Array | None
) -> None:
    """Adds, in place, what pulls the free bones to where they likely are, and keeps them inside their limits."""
    limbs = np.flatnonzero(group.at > 0)
    bones = group.free[limbs]
    vector = rotation_vector(deltas[:, bones])
    axes = prior.axes[bones]
    along = (vector[:, :, None] @ axes)[:, :, 0]
    beyond = np.maximum(along - prior.high[bones], 0) + np.minimum(along - prior.low[bones], 0)
    strength = prior.width[bones] ** -2.0 * (1.0 if firm is None else firm[:, bones, None])
    pull = strength * (along - prior.mean[bones]) + beyond / LIMIT_WIDTH**2
    at_limit = (along > prior.high[bones] - AT_LIMIT) | (along < prior.low[bones] + AT_LIMIT)
    stiffness = strength + at_limit / LIMIT_WIDTH**2
    to_world = turned[:, group.above[group.at[limbs]]]
    # A turn before the bone's own changes its rotation vector by the inverse left Jacobian of SO(3).
    change = axes.swapaxes(-1, -2) @ _inverse_left_jacobian(vector) @ to_world.swapaxes(-1, -2)  # (F, c, 3, 3)
    transposed = change.swapaxes(-1, -2)
    blocks = (transposed * stiffness[:, :, None]) @ change
    gradient = (transposed @ pull[..., None])[..., 0]
    at = limbs[:, None] + np.arange(3) * len(group.free)
    hessian[:, at[:, :, None], at[:, None, :]] += blocks
    right[:, at] -= gradient


def _into_limits(deltas: Array, bones: Array, prior: Prior) -> None:
    """Turns bones (c,) of deltas (F, J, 3, 3), in place, back to their limits where they are beyond."""
    axes = prior.axes[bones]
    along = (rotation_vector(deltas[:, bones])[:, :, None] @ axes)[:, :, 0]
    inside = np.clip(along, prior.low[bones], prior.high[bones])
    frame, bone = np.nonzero((along != inside).any(-1))
    vector = (axes[bone] @ inside[frame, bone][..., None])[..., 0]
    deltas[frame, bones[bone]] = exponential(vector)


def _inverse_left_jacobian(vector: Array) -> Array:
    """(..., 3) rotation vectors below 2 pi -> (..., 3, 3): by how much the vector changes with a small turn before."""
    angle = np.linalg.norm(vector, axis=-1)[..., None, None]
    x, y, z = np.moveaxis(vector, -1, 0)
    zero = np.zeros_like(x)
    skew = np.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).reshape(*vector.shape, 3)
    half = np.maximum(angle, 1e-4) / 2
    factor = np.where(angle > 1e-3, (1 - half / np.tan(half)) / np.maximum(angle, 1e-4) ** 2, 1 / 12)
    result: Array = np.eye(3) - skew / 2 + factor * (skew @ skew)
    return result


def exponential(vector: Array) -> Array:
    """Rotation vectors (..., 3), radians -> matrices (..., 3, 3)."""
    half = np.linalg.norm(vector, axis=-1, keepdims=True) / 2
    return rotation_matrix(np.concatenate([np.cos(half), vector * 0.5 * np.sinc(half / np.pi)], -1))


def rotation_vector(matrix: Array) -> Array:
    """Rotation matrices (..., 3, 3) -> rotation vectors (..., 3) of at most pi."""
    q = quaternion(matrix)
    sine = np.linalg.norm(q[..., 1:], axis=-1, keepdims=True)
    return q[..., 1:] * np.where(sine > 1e-9, 2 * np.arctan2(sine, q[..., :1]) / np.maximum(sine, 1e-12), 2.0)
