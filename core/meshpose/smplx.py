# SPDX-License-Identifier: Apache-2.0
"""SMPL-X parameters of a person: the body of many research tools, posed as our rig is.

    model = Model.load("SMPLX_NEUTRAL.npz")                    # the user's own file, under its authors' licence
    parameters = fit_person(take.person(1), model)
    parameters.save("dancer_person01_smplx.npz")

Of SMPL-X (Pavlakos et al., CVPR 2019) only the arrays of the model file are used, with numpy: v_template, shapedirs,
posedirs, J_regressor, weights, kintree_table, f.  The `smplx` package is not needed; it reads what is written here with
`use_pca=False, flat_hand_mean=True`, and a test checks our vertices against its.

1. Rest poses are laid on one another: each SMPL-X bone takes the way to its next joint that ours has in our rest body
   (several next joints: the turn that suits them best), parents before children.
2. Shape: posed like that, joints and vertices are linear in betas; least squares on our joints and, point to plane, on
   our surface, with the betas' own normal distribution as prior.
3. Pose: each joint turns as our bone does, then swings so that the next joint lies where ours is; what is left in
   length goes into the place of the whole body.

Frame of reference: SMPL-X's own, metres, y up, facing +z in rest: our world (z up) by (x, z, -y).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .body import Body, Shape, quaternion, rotation_matrix
from .errors import InputError
from .rigs import nearest_rotation, swing

if TYPE_CHECKING:
    from .motion import Motion
    from .rig import RigFit
    from .take import Person

Array = npt.NDArray[Any]

UP = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]])
"""Our world's axes (z up) -> SMPL-X's (y up); and, the same turn again, a level camera's (y down) -> our world's."""
BETAS, EXPRESSIONS, JOINTS = 10, 10, 55
HANDS = {"index": 2, "middle": 3, "pinky": 5, "ring": 4, "thumb": 1}
"""SMPL-X's order of fingers, and the number that ours have."""
BODY_BONES = (
    "root", "upperleg01.L", "upperleg01.R", "spine04", "lowerleg01.L", "lowerleg01.R", "spine03", "foot.L", "foot.R",
    "spine02", "toe2-1.L", "toe2-1.R", "neck01", "clavicle.L", "clavicle.R", "head", "upperarm01.L", "upperarm01.R",
    "lowerarm01.L", "lowerarm01.R", "wrist.L", "wrist.R", "", "eye.L", "eye.R",
)  # fmt: skip
"""The bone of ours that has each joint of SMPL-X at its head, in SMPL-X's order; the jaw has none."""
BONES = (*BODY_BONES, *(f"finger{n}-{k}.{side}" for side in "LR" for n in HANDS.values() for k in (1, 2, 3)))
TURNS = {"spine02": "spine01"}
"""Where the chest's joint stands is not what turns the chest."""
NEXT = {
    0: (1, 2, 3), 1: (4,), 2: (5,), 3: (6,), 4: (7,), 5: (8,), 6: (9,), 7: (10,), 8: (11,), 9: (12, 13, 14), 12: (15,),
    13: (16,), 14: (17,), 15: (23, 24), 16: (18,), 17: (19,), 18: (20,), 19: (21,),
    20: (25, 28, 31, 34, 37), 21: (40, 43, 46, 49, 52),
    **{25 + 3 * f + k: (26 + 3 * f + k,) for f in range(10) for k in (0, 1)},
}  # fmt: skip
"""The joints that a joint's bone points at; the others (toes, finger tips, jaw, eyes) turn with the one before them."""
LOOSE = (3, 6, 9, 13, 14, 15, 23, 24)
"""Joints of spine, collars, head and eyes: the two bodies do not mean quite the same place by them."""
JOINT_SIGMA, LOOSE_SIGMA, SURFACE_SIGMA, FARTHEST = 0.01, 0.03, 0.01, 0.06  # metres
SURFACE_POINTS, SHAPE_STEPS, POSE_STEPS = 1500, 6, 3


class Model:
    """The arrays of a model file.  V vertices, 55 joints: template (V, 3), shapes (V, 3, 10), pose_shapes (V, 3, 486),
    regressor (55, V), weights (V, 55), parents (55,) with -1 for the pelvis, faces (T, 3); gender.
    """

    def __init__(self, arrays: dict[str, Array], gender: str = "neutral") -> None:
        self.gender = gender
        self.template = np.asarray(arrays["v_template"], np.float64)
        self.shapes = np.asarray(arrays["shapedirs"], np.float64)[:, :, :BETAS]
        self.pose_shapes = np.asarray(arrays["posedirs"], np.float32)
        self.regressor = np.asarray(arrays["J_regressor"], np.float64)
        self.weights = np.asarray(arrays["weights"], np.float64)
        self.faces = np.asarray(arrays["f"], np.int64)
        self.parents = np.asarray(arrays["kintree_table"], np.int64)[0].copy()
        self.parents[0] = -1

    @staticmethod
    def load(path: str | Path) -> Model:
        """Read a model file (.npz).  InputError where it is missing, damaged, or not one of SMPL-X."""
        path = Path(path)
        if not path.is_file():
            raise InputError(f"{path}: there is no such file; --smplx-model wants your own SMPLX_NEUTRAL.npz")
        wanted = ("v_template", "shapedirs", "posedirs", "J_regressor", "weights", "kintree_table", "f")
        try:
            with np.load(path, allow_pickle=False) as file:
                missing = [name for name in wanted if name not in file.files]
                arrays = {name: file[name] for name in wanted if name in file.files}
        except (OSError, ValueError, EOFError) as error:
            raise InputError(f"{path}: this is no .npz file of SMPL-X ({error})") from error
        if missing:
            raise InputError(f"{path}: this is no model file of SMPL-X: it has no {', '.join(missing)}")
        count = len(arrays["v_template"])
        shapes = {
            "v_template": (count, 3), "J_regressor": (JOINTS, count), "weights": (count, JOINTS),
            "kintree_table": (2, JOINTS), "posedirs": (count, 3, 9 * (JOINTS - 1)),
        }  # fmt: skip
        for name, shape in shapes.items():
            if arrays[name].shape != shape:
                raise InputError(f"{path}: {name} is {arrays[name].shape}, SMPL-X (not SMPL or SMPL-H) has {shape}")
        if arrays["shapedirs"].ndim != 3 or arrays["shapedirs"].shape[2] < BETAS:
            raise InputError(f"{path}: shapedirs is {arrays['shapedirs'].shape}; at least {BETAS} betas are needed")
        upper = path.stem.upper()
        return Model(arrays, "female" if "FEMALE" in upper else "male" if "MALE" in upper else "neutral")

    def rest(self, betas: Array) -> tuple[Array, Array]:
        """Vertices (V, 3) and joints (55, 3) of the rest pose."""
        vertices = self.template + self.shapes @ betas
        return vertices, self.regressor @ vertices

    def posed(self, betas: Array, turned: Array, pelvis: Array, rows: Any = slice(None)) -> Array:
        """Vertices (F, n, 3) with every joint's rotation turned (F, 55, 3, 3) in the world, the pelvis at (F, 3).

        rows: which of the vertices.
        """
        vertices, joints = self.rest(betas)
        heads = self.heads(joints, turned, pelvis)
        local = self.local(turned)
        bent = (local[:, 1:] - np.eye(3)).reshape(len(turned), -1).astype(np.float32)
        points = vertices[rows] + np.einsum("vck,fk->fvc", self.pose_shapes[rows], bent, optimize=True)
        weights = self.weights[rows]
        linear = np.einsum("vj,fjab->fvab", weights, turned, optimize=True)
        shift = weights @ (heads - np.einsum("fjab,jb->fja", turned, joints))
        return np.einsum("fvab,fvb->fva", linear, points) + shift

    def heads(self, joints: Array, turned: Array, pelvis: Array) -> Array:
        """Joints (F, 55, 3) in the world."""
        heads = np.empty((len(turned), JOINTS, 3))
        heads[:, 0] = pelvis
        for j in range(1, JOINTS):
            p = self.parents[j]
            heads[:, j] = heads[:, p] + turned[:, p] @ (joints[j] - joints[p])
        return heads

    def local(self, turned: Array) -> Array:
        """Rotations (F, 55, 3, 3) against the parent's, the pelvis's own in the world."""
        result = turned.copy()
        result[:, 1:] = turned[:, self.parents[1:]].swapaxes(-1, -2) @ turned[:, 1:]
        return result


@dataclass(frozen=True, eq=False)
class Parameters:
    """One person.  betas (10,); pose (F, 55, 3) axis-angle against the parent; transl (F, 3); frames (F,) of the clip;
    present (F,) bool: False where the nearest pose is held; joint_error (F,) mean distance of the body's joints from
    ours, metres; rate: frames a second; gender: of the model file.
    """

    betas: Array
    pose: Array
    transl: Array
    frames: Array
    present: Array
    joint_error: Array
    rate: float
    gender: str = "neutral"

    def save(self, path: str | Path) -> None:
        """Write the usual names into an .npz: those of the smplx package, and AMASS's `poses` and `trans` beside them.

        Raises OSError.
        """
        count = len(self.pose)
        flat = self.pose.reshape(count, -1).astype(np.float32)
        transl = self.transl.astype(np.float32)
        np.savez_compressed(
            path,
            model_type="smplx", gender=self.gender, up="y", betas=self.betas.astype(np.float32),
            global_orient=flat[:, :3], body_pose=flat[:, 3:66], jaw_pose=flat[:, 66:69], leye_pose=flat[:, 69:72],
            reye_pose=flat[:, 72:75], left_hand_pose=flat[:, 75:120], right_hand_pose=flat[:, 120:165],
            expression=np.zeros((count, EXPRESSIONS), np.float32), transl=transl, poses=flat, trans=transl,
            mocap_frame_rate=float(self.rate), frames=self.frames, present=self.present,
            joint_error=self.joint_error.astype(np.float32),
        )  # fmt: skip


def fit_person(person: Person, model: Model) -> Parameters | None:
    """A person's parameters on all frames of the Take that were looked at; None where she has no rig.

    Where she is not there, the nearest pose is held.
    """
    motion = person.motion() or _level(person)
    take = person.take
    if motion is None or not len(motion.frames):
        return None
    betas, pose, transl, error = fit_motion(motion, Body.load(), model)
    frames = take.frames
    after = np.clip(np.searchsorted(motion.frames, frames), 0, len(motion.frames) - 1)
    before = np.maximum(after - 1, 0)
    nearer = np.abs(motion.frames[before] - frames) <= np.abs(motion.frames[after] - frames)
    rows = np.where(nearer, before, after)
    present = np.isin(frames, motion.frames)
    return Parameters(
        betas, pose[rows], transl[rows], frames, present, error[rows], take.clip.fps, model.gender
    )  # fmt: skip


def _level(person: Person) -> RigFit | None:
    """The rig fit where the motion was not made (yet): a level camera at the origin."""
    fit = person.fit()
    if fit is None:
        return None
    rotations = fit.rotations.astype(np.float64)
    rotations[:, 0] = quaternion(UP @ rotation_matrix(rotations[:, 0]))
    return replace(fit, rotations=rotations, translation=fit.translation @ UP.T)


def fit_motion(motion: Motion | RigFit, body: Body, model: Model) -> tuple[Array, Array, Array, Array]:
    """betas (10,), pose (F, 55, 3) axis-angle, transl (F, 3) and joint_error (F,) of a motion."""
    shape = body.shape(motion.phenotype)
    index = [body.bone_names.index(name) if name else -1 for name in BONES]
    turns = [body.bone_names.index(TURNS.get(name, name)) if name else -1 for name in BONES]
    rest = (shape.heads * motion.scale @ UP.T)[index]
    betas, aligned = _fit_shape(model, body, shape, motion.scale, rest)
    linear, heads = body.transforms(shape, motion.rotations, np.zeros((len(motion.rotations), 3)))
    heads = (heads.astype(np.float64) * motion.scale + motion.translation[:, None]) @ UP.T
    turned = UP @ linear[:, turns].astype(np.float64) @ UP.T @ aligned
    turned[:, 22] = turned[:, 15]  # the jaw stays shut
    joints = model.rest(betas)[1]
    turned, pelvis = _reach(model, joints, turned, heads[:, index])
    found = model.heads(joints, turned, pelvis)
    error = np.linalg.norm(found - heads[:, index], axis=-1)[:, :22].mean(1)
    # smplx turns the body about the rest pelvis and moves it then.
    return betas, _axis_angle(model.local(turned)), pelvis - joints[0], error


def _fit_shape(model: Model, body: Body, shape: Shape, scale: float, heads: Array) -> tuple[Array, Array]:
    """betas (10,), and the turns (55, 3, 3) from SMPL-X's rest pose to our rest body's with joints heads (55, 3)."""
    surface = shape.vertices.astype(np.float64) * scale @ UP.T
    normals = _normals(surface, body.triangles)
    skin = np.flatnonzero(~body.inner)
    rows = np.unique(np.linspace(0, len(model.template) - 1, SURFACE_POINTS).astype(int))
    known = [j for j, name in enumerate(BONES) if name]
    sigma = np.array([LOOSE_SIGMA if j in LOOSE else JOINT_SIGMA for j in known])[:, None]
    betas, place = np.zeros(BETAS), np.zeros(3)
    for step in range(SHAPE_STEPS):
        joints = model.rest(betas)[1]
        aligned = _align(model, joints, heads)
        # Joints and vertices are linear in betas while the turns stay: eleven evaluations say everything.
        basis = [_posed_once(model, b, aligned, rows) for b in (np.zeros(BETAS), *np.eye(BETAS))]
        slopes = [[b[i] - basis[0][i] for b in basis[1:]] for i in (0, 1)]
        points, found = (basis[0][i] + np.tensordot(betas, np.array(slopes[i]), 1) + place for i in (0, 1))
        left = [(heads[known] - found[known]) / sigma]
        right = [np.array([*[s[known] / sigma for s in slopes[1]], *(np.eye(3)[k] / sigma for k in range(3))])]
        matrix, target = [right[0].reshape(BETAS + 3, -1).T], [left[0].ravel()]
        if step:  # the first step brings them near to each other
            near = skin[_nearest(points, surface[skin])]
            way = surface[near] - points
            close = (np.linalg.norm(way, axis=1) < FARTHEST)[:, None] / SURFACE_SIGMA / np.sqrt(len(rows) / 50)
            target.append((way * normals[near] * close).sum(1))
            columns = [*slopes[0], *(np.broadcast_to(np.eye(3)[k], way.shape) for k in range(3))]
            matrix.append(np.array([(c * normals[near] * close).sum(1) for c in columns]).T)
        matrix.append(np.eye(BETAS, BETAS + 3))
        target.append(-betas)
        change = np.linalg.lstsq(np.concatenate(matrix), np.concatenate(target), rcond=None)[0]
        betas, place = betas + change[:BETAS], place + change[BETAS:]
    return betas, _align(model, model.rest(betas)[1], heads)


def _posed_once(model: Model, betas: Array, turned: Array, rows: Array) -> tuple[Array, Array]:
    """Vertices (n, 3) and joints (55, 3) with the pelvis where the rest pose has it."""
    joints = model.rest(betas)[1]
    return model.posed(betas, turned[None], joints[:1], rows)[0], model.heads(joints, turned[None], joints[:1])[0]


def _align(model: Model, joints: Array, heads: Array) -> Array:
    """Turns (55, 3, 3) that give the bones of a rest pose with `joints` the ways that `heads` have."""
    aligned = np.tile(np.eye(3), (JOINTS, 1, 1))
    for j in range(JOINTS):
        before = aligned[model.parents[j]] if j else np.eye(3)
        after = NEXT.get(j, ())
        if len(after) == 1:
            way = before @ (joints[after[0]] - joints[j])
            aligned[j] = swing(way, heads[after[0]] - heads[j]) @ before
        elif after and j != 15:
            ways = [_unit(x[list(after)] - x[j]) for x in (joints, heads)]
            aligned[j] = nearest_rotation(ways[1].T @ ways[0])
        else:
            aligned[j] = before
    return aligned


def _reach(model: Model, joints: Array, turned: Array, wanted: Array) -> tuple[Array, Array]:
    """Swing bones until the next joints lie where they are wanted (F, 55, 3): turns (F, 55, 3, 3), pelvis (F, 3)."""
    firm = [j for j in range(22) if j not in LOOSE]
    pelvis = wanted[:, 0].copy()
    for _ in range(POSE_STEPS):
        heads = np.empty_like(wanted)
        heads[:, 0] = pelvis
        for j in range(JOINTS):
            p = model.parents[j]
            if j:
                heads[:, j] = heads[:, p] + turned[:, p] @ (joints[j] - joints[p])
            after = NEXT.get(j, ())
            if len(after) == 1:
                way = turned[:, j] @ (joints[after[0]] - joints[j])
                turned[:, j] = swing(way, wanted[:, after[0]] - heads[:, j]) @ turned[:, j]
        turned[:, 22] = turned[:, 15]
        pelvis = pelvis + (wanted - heads)[:, firm].mean(1)
    return turned, pelvis


def _unit(vectors: Array) -> Array:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9)


def _normals(vertices: Array, triangles: Array) -> Array:
    """Unit normals (N, 3) of vertices."""
    corners = vertices[triangles]
    across = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    result = np.zeros_like(vertices)
    for k in range(3):
        np.add.at(result, triangles[:, k], across)
    return _unit(result)


def _nearest(points: Array, others: Array) -> Array:
    """Index (n,) of the nearest of others (m, 3) for each of points (n, 3); brute force, a few hundred at a time."""
    square = (others**2).sum(1)
    parts = [(square - 2 * points[i : i + 256] @ others.T).argmin(1) for i in range(0, len(points), 256)]
    return np.concatenate(parts)


def _axis_angle(matrices: Array) -> Array:
    """Rotations (..., 3, 3) -> axis times angle (..., 3), radians."""
    q = quaternion(matrices)
    sine = np.linalg.norm(q[..., 1:], axis=-1, keepdims=True)
    angle = 2 * np.arctan2(sine, q[..., :1])
    return q[..., 1:] / np.maximum(sine, 1e-12) * angle
