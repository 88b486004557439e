# SPDX-License-Identifier: Apache-2.0
"""Corrections by hand: a joint put where it belongs on a frame, a range of frames frozen or blended over.

    with Take.resume("dancer.take") as take:
        take.corrections.joint(1, 40, "wrist.L", (0.3, -0.2, 3.1), space="camera", reach=8)
        take.corrections.freeze(1, 80, 95)
        print(*take.corrections.all(), sep="\\n")
        take.corrections.undo(1)
    for _ in refit("dancer.take"): pass

A corrected joint is evidence, far stronger than the mesh: the frame's pose is solved again with it, its limb's mesh
counting little there.  What that changes, as a turn of each bone, fades out over `reach` frames on both sides
(Wendland's C2 kernel, so that several corrections near one another all hold); every other frame stays as it was.  After
smoothing and the locking of feet the same change is laid on the motion, and the joint brought exactly to its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from .body import Body, quaternion, rotation_matrix
from .errors import InputError
from .rig import RigFit, mesh_weights
from .rig_prior import HAND_WIDTHS, HINGES, WIDTHS, prior_of
from .rig_solve import Group, Posed, exponential, rotation_vector

Array = npt.NDArray[Any]

KINDS = ("joint", "freeze", "blend")
REACH = 8
"""Frames on each side over which a correction fades out, where none is said."""
TARGET_SIGMA = 0.001
"""Metres: how exactly a joint is brought to its place."""
LIMB_WEIGHT = 0.05
"""Of a vertex of the corrected joint's limb: the mesh is what was wrong there."""
FIT_STEPS, REACH_STEPS = 6, 12
STIFF = {"root": 0.01, "spine": 0.02, "clavicle": 0.06, "shoulder": 0.06}
"""One sigma, radians, of bones that give way little when a joint is brought to its place; SHIFT of the root, metres."""
SHIFT, LIMP = 0.004, 0.5
SAME_PLACE = 1e-9
ALIASES = {
    "hip": "upperleg01", "knee": "lowerleg01", "ankle": "foot", "shoulder": "upperarm01", "elbow": "lowerarm01",
    "hand": "wrist", "pelvis": "root", "neck": "neck01",
}  # fmt: skip
"""Names of joints that people use, and the bone that begins there (`elbow.L` is the head of `lowerarm01.L`)."""


@dataclass(frozen=True)
class Correction:
    """One correction.

    joint: `joint` (a bone's name: its head) is at `pixel` (x, y) on frame `first`, `depth` times as far from the camera
    as the mid-hips (None: somewhere on the ray through the pixel); it fades out over `reach` frames.  freeze: the pose
    of frame `first` is held to `last`, its last `reach` frames lead back.  blend: from the pose of `first` straight to
    that of `last`.  bones: only these and what hangs from them; empty: the whole person with the way through space.
    """

    id: int
    person: int
    kind: str
    first: int
    last: int
    joint: str = ""
    pixel: tuple[float, float] = (0.0, 0.0)
    depth: float | None = None
    reach: int = REACH
    bones: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.kind == "joint":
            where = f"pixel {self.pixel[0]:.1f}, {self.pixel[1]:.1f}"
            where += "" if self.depth is None else f", {self.depth:.3f} of the hips' depth"
            return f"{self.id}: person {self.person}@{self.first} {self.joint} to {where}, over {self.reach} frames"
        part = f" ({', '.join(self.bones)})" if self.bones else ""
        return f"{self.id}: {self.kind} person {self.person}@{self.first}-{self.last}{part}"


@dataclass(frozen=True)
class Target:
    """Where a joint belongs on a frame: bone whose head it is, point (3,) metres, camera frame; ray: anywhere on the
    ray through it will do; reach in frames.
    """

    frame: int
    bone: int
    point: tuple[float, float, float]
    ray: bool
    reach: int


@dataclass(frozen=True, eq=False)
class Change:
    """What is laid on poses: frames (n,), turns (n, J, 3) rotation vectors after each bone's own rotation, shift
    (n, 3) metres of the root in the frame of the poses.
    """

    frames: Array
    turns: Array
    shift: Array

    def on(self, frames: Array, rotations: Array, translation: Array) -> tuple[Array, Array]:
        """rotations (F, J, 4) and translation (F, 3) on frames (F,) with the change; frames without one as they are."""
        out, moved = np.array(rotations), np.array(translation)
        _, mine, theirs = np.intersect1d(self.frames, frames, return_indices=True)
        frame, bone = np.nonzero(np.abs(self.turns[mine]).max(-1) > SAME_PLACE)
        before = rotation_matrix(out[theirs[frame], bone].astype(np.float64))
        turned = quaternion(before @ exponential(self.turns[mine[frame], bone]))
        turned *= np.where((turned * out[theirs[frame], bone]).sum(-1) < 0, -1.0, 1.0)[:, None]
        out[theirs[frame], bone] = turned
        moved[theirs] += self.shift[mine]
        return out, moved


def bone_of(body: Body, joint: str) -> int:
    """Index of the bone whose head a joint is.  InputError where there is none."""
    base, dot, side = joint.partition(".")
    name = ALIASES.get(base, base) + dot + side
    if name in body.bone_names:
        return body.bone_names.index(name)
    known = ", ".join([*ALIASES, "head"])
    raise InputError(f"there is no joint {joint}: name a bone of the rig, or one of {known} with .L or .R")


# -- a joint brought to its place ----------------------------------------------------------------------------------


class Solver:
    """Poses of one person's body, solved with joints that must be somewhere."""

    def __init__(self, body: Body, phenotype: Array, scale: float) -> None:
        every = list(dict.fromkeys([*WIDTHS, *HINGES, *HAND_WIDTHS]))
        self.body, self.prior = body, prior_of(body)
        self.group = Group(body, every, every)
        self.posed = Posed(body)
        self.posed.set_shape(body.shape(phenotype), scale)
        names = [body.bone_names[c] for c in self.group.free]
        self.give = np.array([next((v for k, v in STIFF.items() if n.startswith(k)), LIMP) for n in names])

    def joint(self, turned: Array, heads: Array, bone: int) -> Array:
        """The head (F, 3) of a bone less the root's."""
        carrier = self.group.owner[self.body.bone_parents[bone]] if bone else 0
        place = self.posed.reference_heads
        offset = place[bone] - place[self.group.turning[carrier]]
        result: Array = heads[:, carrier] + turned[:, carrier] @ offset
        return result

    def evidence(self, turned: Array, heads: Array, root: Array, target: Target) -> tuple[Array, Array, Array]:
        """Jacobian (3, P), metric (3, 3) and residual (3,) of a target at the pose of one frame (F = 1)."""
        at = self.joint(turned, heads, target.bone)[0]
        point, metric = np.array(target.point), np.eye(3)
        if target.ray:
            along = point / np.linalg.norm(point)
            metric = np.eye(3) - np.outer(along, along)
        count = len(self.group.free)
        jacobian = np.zeros((3, 3, count + 1))
        above = self.body.bone_parents[target.bone] if target.bone else -1
        while above >= 0:
            found = np.flatnonzero(self.group.free == above)
            for c in found:
                arm = at - heads[0, self.group.at[c]]
                jacobian[:, :, c] = np.cross(np.eye(3), arm).T
            above = self.body.bone_parents[above]
        jacobian[:, :, count] = np.eye(3)
        flat = np.concatenate([jacobian[:, :, :count].reshape(3, -1), jacobian[:, :, count]], 1)
        return flat, metric / TARGET_SIGMA**2, point - root[0] - at

    def with_mesh(self, deltas: Array, root: Array, low: Array, weights: Array, targets: list[Target]) -> Any:
        """The pose (1, J, 3, 3), (1, 3) of one frame from mesh low (1, V, 3), weights (1, V), and targets."""
        for _ in range(FIT_STEPS):
            problem = self.posed.linearise(self.group, deltas, root, low, weights, self.prior)
            hessian, right = problem.hessian[0].astype(np.float64), problem.right[0].astype(np.float64)
            for target in targets:
                jacobian, metric, residual = self.evidence(problem.turned, problem.heads, root, target)
                hessian += jacobian.T @ metric @ jacobian
                right += jacobian.T @ metric @ residual
            deltas, root = self.posed.move(problem, deltas, root, np.linalg.solve(hessian, right)[None])
        return deltas, root

    def exactly(self, deltas: Array, root: Array, targets: list[Target]) -> Any:
        """The pose of one frame with the joints where they belong, otherwise as near to the given one as can be."""
        stiffness = np.concatenate([np.tile(self.give**-2.0, 3), np.full(3, SHIFT**-2)])
        if any(target.bone == 0 for target in targets):
            stiffness[-3:] = 1.0
        away = np.zeros(len(stiffness))
        for _ in range(REACH_STEPS):
            turned, heads = self.posed.chain(self.group, deltas)
            hessian, right = np.diag(stiffness), -stiffness * away
            for target in targets:
                jacobian, metric, residual = self.evidence(turned, heads, root, target)
                hessian = hessian + jacobian.T @ metric @ jacobian
                right = right + jacobian.T @ metric @ residual
            step = np.linalg.solve(hessian, right)
            step *= min(1.0, 0.3 / max(float(np.abs(step[:-3]).max()), 1e-9))
            away += step
            deltas, root = self.posed.turn(self.group, turned, deltas, root, step[None])
        return deltas, root

    def limb(self, bone: int) -> Array:
        """(V,) share of each vertex that the joint's limb moves; 0 for joints of the trunk."""
        top, names = -1, self.body.bone_names
        above = self.body.bone_parents[bone] if bone else -1
        while above >= 0 and not names[above].startswith((*STIFF, "pelvis")):
            top, above = above, self.body.bone_parents[above]
        found = np.flatnonzero(self.group.free == top)
        result: Array = self.group.share[found[0]] if len(found) else np.zeros(len(self.body.lowpoly), np.float32)
        return result


def change_of_fit(
    fit: RigFit, targets: Sequence[Target], ranges: Sequence[Correction], low: Array, visibility: Array,
    inside: Array, body: Body,
) -> Change:  # fmt: skip
    """What corrections change in a fit (camera frame).

    low (F, V, 3) metres, visibility and inside (F, V): what the fit was made of, rows as in fit.frames.
    """
    solver = Solver(body, fit.phenotype, fit.scale)
    weights = mesh_weights(body, visibility, inside)

    def solve(row: int, deltas: Array, root: Array, wanted: list[Target]) -> Any:
        mesh = weights[[row]]
        for target in wanted:
            mesh = mesh * np.sqrt(1 - (1 - LIMB_WEIGHT) * solver.limb(target.bone))
        # Only what the joints change counts: the same steps without them are no change.
        plain, plain_root = solver.with_mesh(deltas, root, low[[row]], mesh, [])
        turned, moved = solver.with_mesh(deltas, root, low[[row]], mesh, wanted)
        turns = rotation_vector(plain.swapaxes(-1, -2) @ turned)
        return solver.exactly(deltas @ exponential(turns), root + moved - plain_root, wanted)

    return _change(fit.frames, fit.rotations, fit.translation, targets, ranges, body, solve)


def change_of_motion(
    motion: Any, to_camera: tuple[Array, Array], change: Change, targets: Sequence[Target],
    ranges: Sequence[Correction], body: Body,
) -> Change:  # fmt: skip
    """What corrections change in a finished motion (world frame): `change` of the fit, and the joints exactly there.

    to_camera: rotation (F, 3, 3) and translation (F, 3) of the world on motion.frames: p_world = R p_camera + t.
    """
    solver = Solver(body, motion.phenotype, motion.scale)
    turn, origin = to_camera
    in_camera = motion.rotations.astype(np.float64)
    in_camera[:, 0] = quaternion(turn.swapaxes(1, 2) @ rotation_matrix(in_camera[:, 0]))
    place = np.einsum("fba,fb->fa", turn, motion.translation - origin)

    def solve(row: int, deltas: Array, root: Array, wanted: list[Target]) -> Any:
        known = np.flatnonzero(change.frames == motion.frames[row])
        if len(known):
            deltas = deltas @ exponential(change.turns[known])
        return solver.exactly(deltas, root, wanted)

    made = _change(motion.frames, in_camera, place, targets, ranges, body, solve)
    rows = np.searchsorted(motion.frames, made.frames)
    return replace(made, shift=np.einsum("fab,fb->fa", turn[rows], made.shift))


def _change(
    frames: Array, rotations: Array, translation: Array, targets: Sequence[Target], ranges: Sequence[Correction],
    body: Body, solve: Any,
) -> Change:  # fmt: skip
    """Ranges first, in their order; then the joints, frame by frame, spread over their neighbours."""
    before = rotations.astype(np.float64)
    q, root = before.copy(), translation.astype(np.float64)
    for correction in ranges:
        _hold_range(correction, frames, q, root, body)
    turns = rotation_vector(rotation_matrix(before).swapaxes(-1, -2) @ rotation_matrix(q)) if ranges else np.zeros(
        (len(frames), q.shape[1], 3))  # fmt: skip
    shift = root - translation
    if ranges:
        turns[np.abs(turns).max(-1) < 1e-6] = 0
    at = sorted({target.frame for target in targets} & set(frames.tolist()))
    if at:
        rows = np.searchsorted(frames, at)
        new_turns, new_shift, reach = [], [], []
        for frame, row in zip(at, rows, strict=True):
            wanted = [target for target in targets if target.frame == frame]
            deltas = rotation_matrix(q[[row]])
            solved, moved = solve(int(row), deltas, root[[row]], wanted)
            new_turns.append(rotation_vector(deltas.swapaxes(-1, -2) @ solved)[0])
            new_shift.append((moved - root[[row]])[0])
            reach.append(max(target.reach for target in wanted))
        share = spread(np.array(at), np.array(reach), frames)
        if not ranges:
            turns = np.einsum("fk,kjc->fjc", share, np.array(new_turns))
        else:
            laid = np.einsum("fk,kjc->fjc", share, np.array(new_turns))
            turns = rotation_vector(exponential(turns) @ exponential(laid))
        shift = shift + share @ np.array(new_shift)
    touched = (np.abs(turns).max((1, 2)) > SAME_PLACE) | (np.abs(shift).max(1) > SAME_PLACE)
    return Change(frames[touched], turns[touched], shift[touched])


def spread(at: Array, reach: Array, frames: Array) -> Array:
    """(F, k) how much of each of k changes, made on frames `at` (k,), stands on frames (F,).

    Each is whole on its own frame whatever the others do, and nothing from its `reach` (k,) on.
    """
    kernel = lambda distance: np.maximum(1 - distance, 0) ** 4 * (4 * distance + 1)  # noqa: E731 - Wendland's C2
    apart = np.abs(at[:, None] - at[None]) / np.maximum(reach, 1)[None]
    near = np.abs(frames[:, None] - at[None]) / np.maximum(reach, 1)[None]
    result: Array = np.linalg.solve(kernel(apart).T, kernel(near).T).T
    result[(near >= 1).all(1)] = 0
    result[np.searchsorted(frames, at)] = np.eye(len(at))
    return result


def _hold_range(correction: Correction, frames: Array, q: Array, root: Array, body: Body) -> None:
    """Freeze or blend a range, in place: q (F, J, 4), root (F, 3)."""
    rows = np.flatnonzero((frames >= correction.first) & (frames <= correction.last))
    if len(rows) < 2:
        return
    bones = np.arange(q.shape[1])
    if correction.bones:
        chosen = np.zeros(q.shape[1], bool)
        chosen[[bone_of(body, name) for name in correction.bones]] = True
        for c in range(1, len(chosen)):
            chosen[c] |= chosen[body.bone_parents[c]]
        bones = np.flatnonzero(chosen)
    first, last = rows[0], rows[-1]
    span = frames[rows] - frames[first]
    if correction.kind == "blend":
        share = span / span[-1]
        start, end, begin, finish = q[[first]], q[[last]], root[first], root[last]
    else:  # back to what was there, at the end
        back = np.clip(1 - (span[-1] - span) / max(min(correction.reach, int(span[-1])), 1), 0, 1)
        share = back * back * (3 - 2 * back)
        start, end, begin, finish = q[[first]], q[rows], root[first], root[rows]
    mixed = _slerp(start[:, bones], end[:, bones], share)
    q[rows[:, None], bones] = mixed
    if not correction.bones:
        root[rows] = begin + share[:, None] * (finish - begin)


def _slerp(a: Array, b: Array, share: Array) -> Array:
    """From a to b (n or 1, B, 4), the short way, at shares (n,)."""
    away = rotation_vector(rotation_matrix(a).swapaxes(-1, -2) @ rotation_matrix(b))
    mixed: Array = quaternion(rotation_matrix(a) @ exponential(share[:, None, None] * away))
    return mixed
