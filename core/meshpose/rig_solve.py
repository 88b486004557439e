# SPDX-License-Identifier: Apache-2.0
"""The skinned low-poly and the Gauss-Newton step that moves it onto a mesh; `rig.py` iterates it.

Bones that do not turn by themselves are taken together with the one above them that does: with S such bones and G_s the
turned frame of bone s, w_s its head, linear blend skinning of the n vertices is

    x = sum_s  G_s U_s + w_s W_s = sum_s T_s V_s          T_s = (G_s, w_s),  V_s = (U_s; W_s)

with V (S, 4, n) fixed by the shape: where a vertex lies from bone s, times its skin's weight, and that weight W.  The
sum over the bones below bone c, less its own head, is the arm on which a turn of c moves each vertex.  A turn about an
axis moves a vertex by axis x arm, so the normal equations need the products of arms only, summed over the vertices with
their weights, never the Jacobian of 3C x 3n.  These sums are taken before the bones turn:

    sum_v weight_v (T_s V_s)(T_t V_t)^T = T_s (sum_v weight_v V_s V_t^T) T_t^T

The middle is 4 x 4, linear in the weights, and 0 but for pairs of bones that share vertices.  Summed up the tree for
both bones it is the products of all arms: a tenth of the work of summing over posed vertices.

Arrays in here have the frames as their last axis where they are many: numpy's loops run along it.
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
    into turning of the one above, -1 for the root; levels: indices into turning, by their depth from the root; share
    (C, n): how much of a vertex a bone moves; skin (S, n): how much each turning bone holds of it; first and second
    (Q,): pairs of turning bones that free ones carry and that share vertices, each once; pairs: of free bones, each
    once, two arrays.
    """

    def __init__(self, body: Body, free: list[str], turning: list[str], side: str = "", shift: bool = True) -> None:
        """free, turning: names without side; side "L" or "R" takes the bones of that side, the vertices they move and
        the bones that hold these; shift: the root moves, too.
        """
        names = body.bone_names
        self.shift = shift
        self.free = np.array([c for c, n in enumerate(names) if n.split(".")[0] in free and n.endswith(side)])
        every = np.array([c for c, n in enumerate(names) if n.split(".")[0] in turning])
        skin, above, _ = _carried(body, every)
        below = skin.copy()
        for s in range(len(every) - 1, 0, -1):
            below[above[s]] += below[s]
        moved = below[np.searchsorted(every, self.free)]
        self.rows = np.flatnonzero(moved.max(0) > 0.05) if side else np.arange(len(body.lowpoly))
        self.share = moved[:, self.rows].astype(np.float32)
        if side:  # no others matter here
            needed = (skin[:, self.rows] > 0).any(1)
            for s in range(len(every) - 1, 0, -1):
                needed[above[s]] |= needed[s]
            every = every[needed]
            skin, above, _ = _carried(body, every)
        self.turning, self.above = every, above
        self.owner = _carried(body, every)[2]
        self.at = np.searchsorted(every, self.free)
        self.skin = skin[:, self.rows].astype(np.float32)
        depth = np.zeros(len(every), int)
        for s in range(1, len(every)):
            depth[s] = depth[above[s]] + 1
        self.levels = [np.flatnonzero(depth == d) for d in range(1, depth.max() + 1)]
        carried = np.isin(np.arange(len(every)), self.at)
        for s in range(1, len(every)):
            carried[s] |= carried[above[s]]
        held = (self.skin * carried[:, None] > 0).astype(int)
        self.first, self.second = np.nonzero(np.triu(held @ held.T))
        self.pairs = np.tril_indices(len(self.free))

    def offsets(self, rest: Array, heads: Array, align: Array, posed_heads: Array, body: Body) -> Array:
        """V of this module's head (S, 4, n) float32.

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

    def moments(self, offsets: Array) -> list[tuple[Array, Array]]:
        """The products V_s V_t^T of each vertex, by s: rows (m,) of the vertices that s holds, products (t * 16, m)
        with t in the order of `second`.
        """
        out = []
        for s in range(len(self.turning)):
            rows = np.flatnonzero(self.skin[s] > 0)
            others = self.second[self.first == s]
            products = offsets[s][:, None, rows] * offsets[others][:, None][..., rows]
            out.append((rows, products.reshape(16 * len(others), len(rows))))
        return out


def _carried(body: Body, turning: Array) -> tuple[Array, Array, Array]:
    """With turning (S,) bones: skin (S, V) that each carries, above (S,), owner (J,) as in Group."""
    parents, low = body.bone_parents, body.lowpoly
    owner = np.zeros(len(parents), int)
    place = {int(c): s for s, c in enumerate(turning)}
    for c in range(len(parents)):
        owner[c] = place[c] if c in place else owner[parents[c]]
    above = np.array([owner[parents[c]] if c else -1 for c in turning])
    skin = np.zeros((len(turning), len(low)))
    np.add.at(skin, (owner[body.skin_bones[low].astype(int)], np.arange(len(low))[:, None]), body.skin_weights[low])
    return skin, above, owner


@dataclass(frozen=True, eq=False)
class Linear:
    """The problem around a pose: place (S, 4, 3, F), T of this module's head, transposed; offsets (S, 4, n); weights
    (n, F) and residual (n, 3, F) metres of the vertices; turned (F, S, 3, 3) and heads (F, S, 3) of the turning bones,
    hessian (F, P, P), right (F, P).  Unknowns in the order of the axes: turns about x of all C bones, about y, about z,
    then the root's shift.
    """

    group: Group
    place: Array
    offsets: Array
    weights: Array
    residual: Array
    turned: Array
    heads: Array
    hessian: Array
    right: Array
    prior: Prior
    depth: float

    def onto(self, change: Array) -> Array:
        """Transposed weighted Jacobian times changes (n, 3, K, F) of the vertices -> (F, P, K)."""
        return _onto(self.group, self.place, self.offsets, self.weights, change, self.depth)

    def solve(self, right: Array | None = None) -> Array:
        """The step (F, P), or (F, P, K) for other right sides (F, P, K)."""
        if right is None:
            return np.linalg.solve(self.hessian, self.right[..., None])[..., 0]
        return np.linalg.solve(self.hessian, right.astype(self.hessian.dtype))


class Posed:
    """A shape's low-poly: chains, vertices and Gauss-Newton steps of groups, for one person; depth: what the vertices'
    depth counts against their place across the line of sight; outlier: metres from which on one counts less."""

    def __init__(self, body: Body, depth: float = DEPTH_WEIGHT, outlier: float = OUTLIER) -> None:
        self.body, self.depth, self.outlier = body, depth, outlier

    def set_shape(self, shape: Shape, scale: float) -> None:
        """Take a rest body of all vertices or of the low-poly's, grown by `scale`."""
        low = shape.vertices if len(shape.vertices) == len(self.body.lowpoly) else shape.vertices[self.body.lowpoly]
        self.rest = low.astype(np.float64) * scale
        self.heads = shape.heads.astype(np.float64) * scale
        self.align = self.body.reference.astype(np.float64) @ shape.orientations.transpose(0, 2, 1)
        self.align[0] = np.eye(3)
        posed = self.heads.copy()  # of the reference pose: nothing turned
        for c, p in enumerate(self.body.bone_parents):
            if p >= 0:
                posed[c] = posed[p] + self.align[p] @ (self.heads[c] - self.heads[p])
        self.reference_heads = posed
        self._offsets: dict[Group, Array] = {}
        self._moments: dict[Group, list[tuple[Array, Array]]] = {}

    def offsets(self, group: Group) -> Array:
        """V of this module's head for a group, kept until the shape changes."""
        if group not in self._offsets:
            known = (self.rest, self.heads, self.align, self.reference_heads)
            self._offsets[group] = group.offsets(*known, self.body)
        return self._offsets[group]

    def moments(self, group: Group) -> list[tuple[Array, Array]]:
        """`Group.moments`, kept until the shape changes."""
        if group not in self._moments:
            self._moments[group] = group.moments(self.offsets(group))
        return self._moments[group]

    def chain(self, group: Group, deltas: Array) -> tuple[Array, Array]:
        """Deltas (F, J, 3, 3) -> turned (F, S, 3, 3) and heads less the root's (F, S, 3) of the turning bones."""
        count = len(group.turning)
        turned = np.empty((len(deltas), count, 3, 3))
        heads = np.zeros((len(deltas), count, 3))
        place = self.reference_heads[group.turning]
        turned[:, 0] = deltas[:, 0]
        for bones in group.levels:
            above = group.above[bones]
            parents = turned[:, above]
            turned[:, bones] = parents @ deltas[:, group.turning[bones]]
            heads[:, bones] = heads[:, above] + (parents @ (place[bones] - place[above])[..., None])[..., 0]
        return turned, heads

    def place(self, turned: Array, heads: Array) -> Array:
        """T of this module's head, transposed, (S, 4, 3, F) float32."""
        out = np.empty((turned.shape[1], 4, 3, len(turned)), np.float32)
        out[:, :3] = turned.transpose(1, 3, 2, 0)
        out[:, 3] = heads.transpose(1, 2, 0)
        return out

    def vertices(self, group: Group, deltas: Array, root: Array) -> Array:
        """Skinned vertices (n, 3, F) float32, metres."""
        vertices = _skinned(self.offsets(group), self.place(*self.chain(group, deltas)))
        vertices += root.T.astype(np.float32)
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
        place, offsets = self.place(turned, heads), self.offsets(group)
        target = (low[:, group.rows] - root[:, None]).transpose(1, 2, 0).astype(np.float32)
        residual = target - _skinned(offsets, place)
        far = 1 + (residual**2).sum(1) / np.float32(self.outlier**2)
        squares = (weights[:, group.rows].T ** 2).astype(np.float32) / np.sqrt(far)
        hessian = _hessian(group, place, self.moments(group), squares, self.depth)
        right = _onto(group, place, offsets, squares, residual[:, :, None], self.depth)[..., 0]
        _add_prior(hessian, right, group, deltas, turned, prior, firm)
        index = np.arange(hessian.shape[1])
        hessian[:, index, index] *= 1 + DAMPING
        hessian[:, index, index] += 1e-3
        return Linear(group, place, offsets, squares, residual, turned, heads, hessian, right, prior, self.depth)

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


def _skinned(offsets: Array, place: Array) -> Array:
    """V (S, 4, n) and T (S, 4, 3, F) of this module's head -> vertices (n, 3, F) less the root's head."""
    count = offsets.shape[-1]
    flat = offsets.reshape(-1, count).T @ place.reshape(offsets.shape[0] * 4, -1)
    return flat.reshape(count, 3, -1)


def _up_the_tree(group: Group, parts: Array) -> None:
    """Adds to each turning bone's part (S, ...), in place, those of the bones below it."""
    for s in range(len(parts) - 1, 0, -1):
        parts[group.above[s]] += parts[s]


def _products(group: Group, place: Array, moments: list[tuple[Array, Array]], squares: Array) -> Array:
    """Weighted sums over the vertices of the products of arms, the fourth coordinate is their share: (Q, 4, 4, F) for
    the group's pairs of free bones.

    squares (n, F) weights of the vertices.
    """
    frames = squares.shape[1]
    still = np.empty((len(group.first), 4, 4, frames), np.float32)
    at = 0
    for rows, table in moments:
        found = table @ squares[rows]
        still[at : at + len(found) // 16] = found.reshape(-1, 4, 4, frames)
        at += len(found) // 16
    half, whole = np.empty_like(still), np.empty_like(still)
    turn = place[group.first]
    np.multiply(turn[:, 0, :, None], still[:, 0, None], out=half[:, :3])
    for k in range(1, 4):
        half[:, :3] += turn[:, k, :, None] * still[:, k, None]
    half[:, 3] = still[:, 3]
    turn = place[group.second]
    np.multiply(half[:, :, 0, None], turn[:, None, 0], out=whole[:, :, :3])
    for k in range(1, 4):
        whole[:, :, :3] += half[:, :, k, None] * turn[:, None, k]
    whole[:, :, 3] = half[:, :, 3]
    count = len(group.turning)
    sums = np.zeros((count, count, 4, 4, frames), np.float32)
    sums[group.second, group.first] = whole.swapaxes(1, 2)
    sums[group.first, group.second] = whole
    _up_the_tree(group, sums)
    _up_the_tree(group, sums.swapaxes(0, 1))
    one, other = group.pairs
    return sums[group.at[one], group.at[other]]


def _hessian(group: Group, place: Array, moments: list[tuple[Array, Array]], squares: Array, depth: float) -> Array:
    """Gauss-Newton's hessian (F, P, P) of the vertices with weights squares (n, F)."""
    sums = _products(group, place, moments, squares)
    bones, frames = len(group.free), squares.shape[1]
    one, other = group.pairs
    heads = place[group.at, 3]  # (C, 3, F)
    arms = sums[:, :3] - heads[one][:, :, None] * sums[:, 3, None]
    products = arms[:, :, :3] - arms[:, :, 3, None] * heads[other][:, None]
    size = 3 * bones + 3 * group.shift
    hessian = np.zeros((size, size, frames), np.float32)
    d = (1.0, 1.0, depth**2)
    for k, i, j in CROSS:  # turn k moves coordinate j by arm i, and i by less arm j
        blocks = {
            k: d[j] * products[:, i, i] + d[i] * products[:, j, j],
            i: -d[j] * products[:, i, k],
            j: -d[i] * products[:, j, k],
        }
        for turn, block in blocks.items():
            hessian[k * bones + one, turn * bones + other] = block
            hessian[turn * bones + other, k * bones + one] = block
    if group.shift:
        single = arms[other == 0, :, 3]  # (C, 3, F): the root carries every vertex whole
        for k, i, j in CROSS:
            for coordinate, block in ((j, d[j] * single[:, i]), (i, -d[i] * single[:, j])):
                hessian[k * bones : (k + 1) * bones, 3 * bones + coordinate] = block
                hessian[3 * bones + coordinate, k * bones : (k + 1) * bones] = block
            hessian[3 * bones + k, 3 * bones + k] = d[k] * sums[0, 3, 3]
    return np.ascontiguousarray(hessian.reshape(-1, frames).T).reshape(frames, size, size)


def _onto(group: Group, place: Array, offsets: Array, squares: Array, change: Array, depth: float) -> Array:
    """Transposed Jacobian times weighted changes (n, 3, K, F) -> (F, P, K)."""
    count, _, wide, frames = change.shape
    scaled = change * squares[:, None, None]
    scaled[:, 2] *= np.float32(depth**2)
    flat = offsets.reshape(-1, count) @ scaled.reshape(count, -1)
    flat = flat.reshape(len(offsets), 4, 3, wide, frames)
    sums = np.empty_like(flat)  # arms' coordinate, then the change's
    np.multiply(place[:, 0, :, None, None], flat[:, 0, None], out=sums[:, :3])
    for k in range(1, 4):
        sums[:, :3] += place[:, k, :, None, None] * flat[:, k, None]
    sums[:, 3] = flat[:, 3]
    _up_the_tree(group, sums)
    found = sums[group.at]
    arms = found[:, :3] - place[group.at, 3][:, :, None, None] * found[:, 3, None]
    bones = len(group.free)
    out = np.empty((3 * bones + 3 * group.shift, wide, frames), np.float32)
    for k, i, j in CROSS:
        np.subtract(arms[:, i, j], arms[:, j, i], out=out[k * bones : (k + 1) * bones])
    if group.shift:
        out[3 * bones :] = sums[0, 3]
    return np.ascontiguousarray(out.transpose(2, 0, 1))


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
    mixtures = [m for m in prior.mixtures if np.isin(m.bones, bones).all()]
    alone = ~np.isin(bones, np.concatenate([m.bones for m in mixtures])) if mixtures else np.ones(len(bones), bool)
    strength = prior.width[bones] ** -2.0 * (1.0 if firm is None else firm[:, bones, None]) * alone[:, None]
    pull = strength * (along - prior.mean[bones]) + beyond / LIMIT_WIDTH**2
    at_limit = (along > prior.high[bones] - AT_LIMIT) | (along < prior.low[bones] + AT_LIMIT)
    stiffness = strength + at_limit / LIMIT_WIDTH**2
    to_world = turned[:, group.above[group.at[limbs]]]
    # A turn before the bone's own changes its rotation vector by the inverse left Jacobian of SO(3).
    turns = _inverse_left_jacobian(vector) @ to_world.swapaxes(-1, -2)
    change = axes.swapaxes(-1, -2) @ turns  # (F, c, 3, 3)
    transposed = change.swapaxes(-1, -2)
    blocks = (transposed * stiffness[:, :, None]) @ change
    gradient = (transposed @ pull[..., None])[..., 0]
    at = limbs[:, None] + np.arange(3) * len(group.free)
    hessian[:, at[:, :, None], at[:, None, :]] += blocks
    right[:, at] -= gradient
    for mixture in mixtures:
        place = np.searchsorted(bones, mixture.bones)
        away, precision = mixture.nearest(vector[:, place].reshape(len(vector), -1))
        if firm is not None:
            precision = precision * firm[:, mixture.bones].max(1)[:, None, None]
        jacobian = np.zeros((len(vector), *precision.shape[1:]))
        for k, turn in enumerate(turns[:, place].swapaxes(0, 1)):
            jacobian[:, 3 * k : 3 * k + 3, 3 * k : 3 * k + 3] = turn
        pulled = jacobian.swapaxes(-1, -2) @ precision
        rows = at[place].ravel()
        hessian[:, rows[:, None], rows] += pulled @ jacobian
        right[:, rows] -= (pulled @ away[..., None])[..., 0]


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
