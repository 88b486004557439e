# SPDX-License-Identifier: Apache-2.0
"""Rigs: the armatures that other programs know, on our body, moved by its motion.

    rig = Rig.load("mixamo")
    rest = rig.rest(body, shape)                                   # heads, tails, axes of its bones, skin weights
    posed = rig.posed(body, shape, motion.rotations)               # where they are on every frame
    turns, shifts = channels(rest, posed)                          # what an animator keys

A rig is a data file, `weights/rigs/NAME.npz`, which `training/bake_rigs.py` makes; a new one needs no code.  `default`
is the body's own rig and has no file.  Frame of reference: the body's (metres, z up, facing -y), or the world that
`rotations` turn the root into; sizes are those of the shape, before a person's scale.

How a rig follows: each of its bones takes the mean turn of the body's own bones that move its skin (`driver`), and then
swings so that it points from its joint to the next joint that both rigs share.  Where the body bends between two such
joints (a thigh bends a little on its way to the knee) a bone also shifts, so that every shared joint stays in place.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from . import weights as weight_files
from .body import Body, Shape, quaternion, rotation_matrix
from .errors import InputError, WeightsError

Array = npt.NDArray[Any]

FORMAT = 1
OWN = "default"
SHORTEST = 0.01
"""Metres; Blender deletes bones without length."""
POINTS_AT = 0.9
"""Cosine between a bone and the way to its child from which on it points at it."""
OF_SKIN = 0.1
"""How much the turn of its skin counts against the joints of a bone that carries several limbs."""
STRAY = 5e-4
"""Metres that a joint may stand beside the body's before its bone gets a shift of its own."""


@dataclass(frozen=True, eq=False)
class Rest:
    """A rig in the rest pose of one body shape.  B bones, parents before children.

    names (B); parents (B,), -1 for none; heads and tails (B, 3) metres; axes (B, 3, 3) float64, columns x, y (from head
    to tail), z of each bone: its roll; shared (B,): which of the body's own joints a head is, -1 for none; hips: index
    of the bone that carries the body; root: index of the bone above it that stays on the ground, -1 for none.
    """

    names: list[str]
    parents: Array
    heads: Array
    tails: Array
    axes: Array
    shared: Array
    hips: int
    root: int


@dataclass(frozen=True, eq=False)
class Posed:
    """A rig's bones on F frames: linear (F, B, 3, 3) from rest to pose, heads (F, B, 3) metres."""

    linear: Array
    heads: Array


@dataclass(frozen=True, eq=False)
class Skin:
    """Weights of the body's vertices: groups (G,) their names, bones (G,) which bone each follows, indices (N, k) into
    the groups and weights (N, k), rows of sum 1.
    """

    groups: list[str]
    bones: Array
    indices: Array
    weights: Array


class Rig:
    """One rig.  name, title; names (B) and parents (B,) of its bones; hips, root: names ("": none); t_pose: whether
    programs that use it want a T-pose beside the rest pose; generator: what Rigify needs to build its controls, {} for
    other rigs.

    The file's arrays: `points` (P, 3) and `point_shapes` (K, P, 3), linear in `Body.coefficients`; `head`, `tail` (B,)
    into them; `own_point` (P,) the body's own joint or -1; `along`, `across` (B, 3): y and z axis of each bone in the
    pose that the rig was drawn in; `groups`, `group_bones` (G,), `skin_groups`, `skin_weights` (N, k, uint16); and
    `driver_bones`, `driver_own`, `driver_weights`: how much of each own bone moves a bone.
    """

    def __init__(self, arrays: Mapping[str, Array], source: str = "") -> None:
        """From the arrays of a rig file.  Raises WeightsError when they are of another format or do not fit."""
        z = {name: arrays[name] for name in arrays}
        if int(z.get("format", np.int64(-1))) != FORMAT:
            raise WeightsError(f"{source or 'rig'}: of another version than this program; make it with bake_rigs.py")
        self.name, self.title, self.licence = (str(z[k]) for k in ("name", "title", "licence"))
        self.names = [str(n) for n in z["bones"]]
        self.parents = z["parents"].astype(np.int32)
        self.hips, self.root = str(z["hips"]), str(z["root"])
        self.t_pose = bool(z.get("t_pose", np.bool_(False)))
        self.generator: dict[str, Any] = json.loads(str(z.get("generator", "{}")))
        self._head, self._tail = z["head"].astype(int), z["tail"].astype(int)
        self._points, self._point_shapes = (z[k].astype(np.float64) for k in ("points", "point_shapes"))
        self._own = z["own_point"].astype(int)
        along, across = z["along"].astype(np.float64), z["across"].astype(np.float64)
        self._axes = np.stack([np.cross(along, across), along, across], -1)
        weights = z["skin_weights"].astype(np.float32) / 65535
        groups = [str(n) for n in z["groups"]]
        self._skin = Skin(groups, z["group_bones"].astype(int), z["skin_groups"].astype(int), weights)
        self._drivers = np.zeros((len(self.names), int(z["driver_own"].max(initial=0)) + 1))
        self._drivers[z["driver_bones"], z["driver_own"]] = z["driver_weights"]
        if (self.parents >= np.arange(len(self.names))).any() or self.hips not in self.names:
            raise WeightsError(f"{source or self.name}: a bone comes before its parent, or there is no {self.hips!r}")

    @staticmethod
    def load(name: str) -> Rig:
        """The rig of this name ("default": the body's own).  InputError where there is none; WeightsError when its file
        is missing or damaged.
        """
        return _load(name)

    @staticmethod
    def read(path: str | Path) -> Rig:
        """A rig from a file of one's own."""
        with np.load(path, allow_pickle=False) as arrays:
            return Rig(arrays, str(path))

    def rest(self, body: Body, shape: Shape) -> Rest:
        """The rig on the rest body of a shape."""
        points = self._points + np.tensordot(body.coefficients(shape.phenotype), self._point_shapes, 1)
        points = np.where(self._own[:, None] >= 0, shape.heads[self._own], points)
        heads, tails = points[self._head], points[self._tail]
        length = np.linalg.norm(tails - heads, axis=1)
        short = length < SHORTEST
        along = np.where(short[:, None], self._axes[:, :, 1], (tails - heads) / np.maximum(length, SHORTEST)[:, None])
        axes = swing(self._axes[:, :, 1], along) @ self._axes
        tails = np.where(short[:, None], heads + SHORTEST * along, tails)
        root = self.names.index(self.root) if self.root else -1
        hips = self.names.index(self.hips)
        return Rest(self.names, self.parents, heads, tails, axes, self._own[self._head], hips, root)

    def skin(self, body: Body) -> Skin:
        """The rig's own weights.  WeightsError when they are of another mesh."""
        if len(self._skin.weights) != len(body.template):
            raise WeightsError(f"rig {self.name}: {len(self._skin.weights)} weights, the body has {len(body.template)}")
        return self._skin

    def seen(self, own: npt.ArrayLike) -> Array:
        """Which bones (B,) follow one of the body's own bones that was seen (J,); bones that follow none do."""
        wanted = np.asarray(own, bool)[: self._drivers.shape[1]]
        result: Array = (self._drivers @ wanted > 0) | (self._drivers.sum(1) == 0)
        return result

    def posed(self, body: Body, shape: Shape, rotations: npt.ArrayLike, rigid: bool = False) -> Posed:
        """The bones on every frame; the body's root head stands at the origin.

        rotations (F, J, 4) local-ref deltas of the body.  rigid: bones never leave their parent's end (only the hips
        move), which lets shared joints stray by some millimetres where the body bends between them.
        """
        rest = self.rest(body, shape)
        linear, heads = body.transforms(shape, rotations, np.zeros((len(np.asarray(rotations)), 3)))
        return self._follow(rest, shape, np.asarray(linear, np.float64), np.asarray(heads, np.float64), rigid)

    def _follow(self, rest: Rest, shape: Shape, linear: Array, heads: Array, rigid: bool) -> Posed:
        share = np.zeros((len(rest.names), linear.shape[1]))
        share[:, : self._drivers.shape[1]] = self._drivers
        led = share.sum(1) > 0
        mean = np.einsum("bj,fjxy->fbxy", share, linear)
        offset = heads - np.einsum("fjxy,jy->fjx", linear, shape.heads)
        wanted = np.einsum("fbxy,by->fbx", mean, rest.heads) + np.einsum("bj,fjx->fbx", share, offset)
        shared = rest.shared >= 0
        wanted[:, shared] = heads[:, rest.shared[shared]]
        turn = nearest_rotation(mean)
        children = [np.flatnonzero(rest.parents == b) for b in range(len(rest.names))]
        place = np.empty_like(wanted)
        for b, p in enumerate(rest.parents):
            if p < 0 or b == rest.hips:
                place[:, b] = wanted[:, b] if led[b] or shared[b] and b != rest.root else rest.heads[b]
            else:
                place[:, b] = place[:, p] + np.einsum("fxy,y->fx", turn[:, p], rest.heads[b] - rest.heads[p])
                if not rigid and shared[b]:
                    stray = np.linalg.norm(wanted[:, b] - place[:, b], axis=-1)
                    if stray.max(initial=0.0) > STRAY:
                        place[:, b] = wanted[:, b]
            if b == rest.root or not led[b] and p < 0:
                turn[:, b] = np.eye(3)
                continue
            if not led[b]:
                turn[:, b] = turn[:, p]
            aims = [c for c in children[b] if shared[c]] if led[b] else []
            at_tail = [c for c in aims if np.linalg.norm(rest.heads[c] - rest.tails[b]) < SHORTEST]
            arms = rest.heads[aims] - rest.heads[b]
            ways = wanted[:, aims] - place[:, b, None]
            if len(aims) > 1:
                # Hips, chest, hand: as its joints have it, and as its skin turns where they leave it free.
                size = max(float((arms**2).sum()), 1e-12)
                turn[:, b] = nearest_rotation(np.einsum("fcx,cy->fxy", ways, arms) / size + OF_SKIN * turn[:, b])
            elif aims and (not at_tail or aims == at_tail):
                turn[:, b] = swing(np.einsum("fxy,y->fx", turn[:, b], arms[0]), ways[:, 0]) @ turn[:, b]
        return Posed(turn, place)


class OwnRig(Rig):
    """The body's own rig: its joints, its weights."""

    def __init__(self) -> None:
        """Nothing is read: all of it is in the body."""
        body = Body.load()
        self.name, self.title, self.licence = OWN, "MeshPose", "Apache-2.0"
        self.names, self.parents = body.bone_names, body.bone_parents
        self.hips, self.root, self.t_pose, self.generator = body.bone_names[0], "", False, {}

    def rest(self, body: Body, shape: Shape) -> Rest:
        """Heads and directions are the body's.  A bone ends where the child begins that it points at; one that points
        at no child (finger tips, the head, eyes) ends with the skin that follows it most.
        """
        heads, axes = (np.asarray(a, np.float64) for a in (shape.heads, shape.orientations))
        along = axes[:, :, 1]
        strongest = body.skin_bones[np.arange(len(body.skin_bones)), body.skin_weights.argmax(1)]
        length = np.zeros(len(heads))
        for c in range(len(heads)):
            ways = heads[body.bone_parents == c] - heads[c]
            reach = ways @ along[c]
            straight = reach / np.maximum(np.linalg.norm(ways, axis=1), 1e-9)
            if len(ways) and straight.max() > POINTS_AT:
                length[c] = reach[straight.argmax()]
            elif (strongest == c).any():
                length[c] = ((shape.vertices[strongest == c] - heads[c]) @ along[c]).max()
        tails = heads + along * np.maximum(length, SHORTEST)[:, None]
        return Rest(self.names, self.parents, heads, tails, axes, np.arange(len(heads)), 0, -1)

    def skin(self, body: Body) -> Skin:
        """The body's weights, at most nine a vertex."""
        count = len(body.bone_names)
        return Skin(body.bone_names, np.arange(count), body.skin_bones.astype(int), body.skin_weights)

    def seen(self, own: npt.ArrayLike) -> Array:
        """The same bones."""
        return np.asarray(own, bool)

    def _follow(self, rest: Rest, shape: Shape, linear: Array, heads: Array, rigid: bool) -> Posed:
        return Posed(linear, heads)


@lru_cache(maxsize=8)
def _load(name: str) -> Rig:
    if name == OWN:
        return OwnRig()
    if name not in names():
        raise InputError(f"--rig {name}: there are {', '.join(names())}")
    path = weight_files.path(f"rigs/{name}.npz")
    with np.load(path, allow_pickle=False) as arrays:
        return Rig(arrays, str(path))


def names() -> list[str]:
    """The rigs of this installation: `default` and every file of `weights/rigs`."""
    return [OWN, *sorted(path.stem for path in (weight_files.folder() / "rigs").glob("*.npz"))]


def channels(rest: Rest, posed: Posed) -> tuple[Array, Array]:
    """What is keyed: turns (F, B, 4) w x y z and shifts (F, B, 3) metres, both in each bone's rest axes.

    With B the rest axes, L the linear part, h and w rest and posed head, p the parent:

        turn = B^T L_p^T L B        shift = B^T (L_p^T (w - w_p) - (h - h_p))        (no parent: L_p = 1, w_p = h_p = 0)
    """
    above = np.maximum(rest.parents, 0)
    free = rest.parents < 0
    turn = posed.linear[:, above].swapaxes(-1, -2).copy()
    turn[:, free] = np.eye(3)
    way = posed.heads - np.where(free[:, None], 0.0, posed.heads[:, above])
    far = rest.heads - np.where(free[:, None], 0.0, rest.heads[above])
    back = rest.axes.swapaxes(-1, -2)
    local = back @ turn @ posed.linear @ rest.axes
    shift = np.einsum("bxy,fby->fbx", back, np.einsum("fbxy,fby->fbx", turn, way) - far)
    return quaternion(local), shift


def t_pose(body: Body, shape: Shape) -> Array:
    """Local-ref deltas (J, 4) that stand the body in a T-pose: arms along x, palms down, legs straight down."""
    still = np.zeros((1, len(body.bone_names), 4))
    still[..., 0] = 1
    linear, heads = body.transforms(shape, still, np.zeros((1, 3)))
    heads = heads[0].astype(np.float64)
    index = {name: i for i, name in enumerate(body.bone_names)}
    turned = np.tile(np.eye(3), (len(index), 1, 1))
    for side, sign in (("L", 1.0), ("R", -1.0)):
        out, down = np.array([sign, 0.0, 0.0]), np.array([0.0, 0.0, -1.0])
        limbs = (
            (("upperarm01", "upperarm02"), "lowerarm01", out), (("lowerarm01", "lowerarm02"), "wrist", out),
            (("upperleg01", "upperleg02"), "lowerleg01", down), (("lowerleg01", "lowerleg02"), "foot", down),
        )  # fmt: skip
        for bones, end, way in limbs:
            first, last = index[f"{bones[0]}.{side}"], index[f"{end}.{side}"]
            above = turned[body.bone_parents[first]]
            arm = above @ (heads[last] - heads[first])
            for bone in bones:
                turned[index[f"{bone}.{side}"]] = swing(arm, way) @ above
        hand = index[f"wrist.{side}"]
        knuckles = [heads[index[f"finger{f}-1.{side}"]] for f in (2, 5)]
        forward = knuckles[0] - knuckles[1]  # from the little finger to the index: forwards, with the palm down
        along = np.mean(knuckles, 0) - heads[hand]
        turned[hand] = frame(out, np.array([0.0, -1.0, 0.0])) @ frame(along, forward).T
        for c in range(len(index)):
            inherited = body.bone_parents[c] >= hand and body.bone_names[c].endswith(side)
            if inherited and body.bone_names[c].split(".")[0].startswith(("finger", "metacarpal")):
                turned[c] = turned[body.bone_parents[c]]
    deltas = turned.copy()
    for c in range(1, len(index)):
        deltas[c] = turned[body.bone_parents[c]].T @ turned[c]
    return quaternion(deltas)


# -- geometry ------------------------------------------------------------------------------------------------------


def frame(along: npt.ArrayLike, side: npt.ArrayLike) -> Array:
    """Orthonormal axes (..., 3, 3): column y is `along` (..., 3), column x is `side` as far as it is across."""
    y = np.asarray(along, np.float64)
    y = y / np.maximum(np.linalg.norm(y, axis=-1, keepdims=True), 1e-12)
    x = np.asarray(side, np.float64)
    x = x - (x * y).sum(-1, keepdims=True) * y
    x = x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
    return np.stack([x, y, np.cross(x, y)], -1)


def swing(start: npt.ArrayLike, end: npt.ArrayLike) -> Array:
    """The smallest rotations (..., 3, 3) that point start (..., 3) along end (..., 3)."""
    vectors = [np.asarray(v, np.float64) for v in (start, end)]
    a, b = (v / np.maximum(np.linalg.norm(v, axis=-1, keepdims=True), 1e-12) for v in vectors)
    half = np.broadcast_to(a, np.broadcast(a, b).shape) + b
    size = np.linalg.norm(half, axis=-1, keepdims=True)
    across = np.cross(a, np.eye(3)[np.abs(a).argmin(-1)])  # turned right round: any axis across a will do
    across = across / np.maximum(np.linalg.norm(across, axis=-1, keepdims=True), 1e-12)
    half = half / np.maximum(size, 1e-12)
    q = np.concatenate([(a * half).sum(-1, keepdims=True), np.cross(a, half)], -1)
    q = np.where(size > 1e-8, q, np.concatenate([0 * size, np.broadcast_to(across, half.shape)], -1))
    return rotation_matrix(q)


def nearest_rotation(matrix: npt.ArrayLike) -> Array:
    """Rotations (..., 3, 3) nearest to matrices (..., 3, 3), such as means of rotations."""
    u, _, vt = np.linalg.svd(np.asarray(matrix, np.float64))
    u = u.copy()
    u[..., 2] *= np.sign(np.linalg.det(u @ vt))[..., None]
    return u @ vt


def roll_axes(along: npt.ArrayLike, roll: npt.ArrayLike) -> Array:
    """Axes (..., 3, 3) of bones with Blender's `roll` (...), radians: y along (..., 3), x and z as y was swung from +y,
    then turned by the roll.
    """
    y = np.asarray(along, np.float64)
    y = y / np.linalg.norm(y, axis=-1, keepdims=True)
    half = np.asarray(roll, np.float64)[..., None] / 2
    turn = rotation_matrix(np.concatenate([np.cos(half), np.sin(half) * y], -1))
    return turn @ swing(np.array([0.0, 1.0, 0.0]), y)
