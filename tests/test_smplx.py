# SPDX-License-Identifier: Apache-2.0
"""SMPL-X parameters: fitted to a model file of the same format that is made here, from our own body in a T-pose.

The real files may not be passed on.  Ours has SMPL-X's 55 joints and names of arrays, another mesh, another rest pose
than our rig, and ten shapes; what is known is what the person's surface and joints should be.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from takes import make_take

from meshpose import smplx
from meshpose.body import AVERAGE_ADULT, Body, quaternion
from meshpose.errors import InputError
from meshpose.rig import RigFit
from meshpose.rigs import t_pose
from meshpose.smplx import BETAS, BONES, JOINTS, Model, Parameters, fit_motion, fit_person
from meshpose.take import Take

PARENTS = [
    -1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 15, 15, 15,
    *(20 + side if k == 0 else 25 + 15 * side + 3 * f + k - 1 for side in (0, 1) for f in range(5) for k in range(3)),
]  # fmt: skip


def write_model(path: Path, correctives: bool = True) -> Path:
    """A model file: the body's low-poly vertices in a T-pose, y up; shapes from phenotypes; merged skin weights."""
    body, random = Body.load(), np.random.default_rng(0)
    low = body.lowpoly
    names = body.bone_names

    def stand(phenotype: np.ndarray) -> np.ndarray:
        shape = body.shape(phenotype)
        posed = body.pose(shape, t_pose(body, shape)[None], np.zeros((1, 3)))[0]
        return posed[low].astype(np.float64) @ smplx.UP.T

    average = np.array(AVERAGE_ADULT)
    template = stand(average)
    shapes = np.zeros((len(low), 3, 20))
    for k in range(BETAS):
        step = random.normal(0, 0.15, 6) * (1, 0, 1, 1, 1, 1)
        shapes[:, :, k] = stand(np.clip(average + step, 0, 1)) - template
    regressor = np.zeros((JOINTS, len(low)))
    rig = body._regressors["lowpoly", "rig"]
    for j, bone in enumerate(BONES):
        c = names.index(bone or "head")
        np.add.at(regressor[j], rig.indices[c], rig.weights[c])
    owner = [BONES.index("spine02") if n == "spine01" else None for n in names]
    for c, name in enumerate(names):
        owner[c] = BONES.index(name) if name in BONES else owner[c]
        if owner[c] is None:
            owner[c] = owner[body.bone_parents[c]]
    weights = np.zeros((len(low), JOINTS))
    for slot in range(body.skin_bones.shape[1]):
        joints = np.array(owner, int)[body.skin_bones[low, slot]]
        np.add.at(weights, (np.arange(len(low)), joints), body.skin_weights[low, slot])
    pose = random.normal(0, 1e-4, (len(low), 3, 9 * (JOINTS - 1))) * correctives
    hand = {f"hands_{what}{side}": np.zeros(45) for what in ("mean",) for side in "lr"}
    hand |= {f"hands_components{side}": np.eye(45) for side in "lr"}
    np.savez(
        path, v_template=template, shapedirs=shapes, posedirs=pose, J_regressor=regressor, weights=weights,
        kintree_table=np.array([[2**32 - 1, *PARENTS[1:]], range(JOINTS)], np.int64), f=body.lowpoly_faces,
        lmk_faces_idx=np.zeros(51, int), lmk_bary_coords=np.full((51, 3), 1 / 3), **hand,
    )  # fmt: skip
    return path


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("smplx") / "SMPLX_FEMALE.npz")


def motion(frames: int = 12, scale: float = 1.05) -> RigFit:
    """Somebody not average who bends everything that SMPL-X has, too."""
    body, random = Body.load(), np.random.default_rng(5)
    rotations = np.zeros((frames, len(body.bone_names), 4))
    rotations[..., 0] = 1
    time = np.arange(frames)[:, None] / 4
    for bone in BONES:
        if bone and not bone.startswith(("eye", "toe", "finger")):
            angle = 0.35 * np.sin(time + random.uniform(0, 6)) * random.normal(size=3)
            rotations[:, body.bone_names.index(bone), 1:] = angle / 2
    rotations[:, 0] = (0.8, 0.1, 0.0, 0.6)
    rotations /= np.linalg.norm(rotations, axis=-1, keepdims=True)
    place = np.stack([0.1 * np.arange(frames), 4 + 0 * time[:, 0], 0.9 + 0 * time[:, 0]], -1)
    phenotype = np.array(AVERAGE_ADULT) + (0.3, 0, 0.2, 0.15, 0.1, -0.1)
    return RigFit(phenotype, scale, rotations, place, np.arange(frames))


def posed(model: Model, betas: np.ndarray, pose: np.ndarray, transl: np.ndarray) -> np.ndarray:
    """Vertices (F, V, 3) of parameters, by rotations about joints one after the other: not the module's own way."""
    rest = model.template + model.shapes @ betas
    joints = model.regressor @ rest
    angle = np.linalg.norm(pose, axis=-1, keepdims=True)
    axis = pose / np.maximum(angle, 1e-12)
    half = angle / 2
    from meshpose.body import rotation_matrix

    local = rotation_matrix(np.concatenate([np.cos(half), np.sin(half) * axis], -1))
    result = []
    for f in range(len(pose)):
        bent = rest + model.pose_shapes @ (local[f, 1:] - np.eye(3)).ravel()
        chain: list[np.ndarray] = []
        for j in range(JOINTS):
            matrix = np.eye(4)
            matrix[:3, :3], matrix[:3, 3] = local[f, j], joints[j] - (joints[PARENTS[j]] if j else 0)
            chain.append(chain[PARENTS[j]] @ matrix if j else matrix)
        moves = np.array([m @ np.block([[np.eye(3), -x[:, None]], [0, 0, 0, 1]]) for m, x in zip(chain, joints)])
        blend = np.einsum("vj,jab->vab", model.weights, moves)
        result.append(np.einsum("vab,vb->va", blend[:, :3, :3], bent) + blend[:, :3, 3] + transl[f])
    return np.array(result)


def test_body_falls_on_ours(model_file: Path) -> None:
    model, body, moved = Model.load(model_file), Body.load(), motion()
    betas, pose, transl, error = fit_motion(moved, body, model)
    found = posed(model, betas, pose, transl)
    wanted = moved.vertices(body)[:, body.lowpoly] @ smplx.UP.T
    distance = np.linalg.norm(found - wanted, axis=-1)
    print(f"mesh {1e3 * distance.mean():.1f} mm, {1e3 * distance.max():.0f} at most; joints {1e3 * error.mean():.1f}")
    assert distance.mean() < 0.012 and error.mean() < 0.010 and error.max() < 0.012
    assert np.abs(betas).max() < 4
    # Somebody else gets another shape: the betas do say something.
    with_average = posed(model, 0 * betas, pose, transl)
    assert np.linalg.norm(with_average - wanted, axis=-1).mean() > 1.5 * distance.mean()


def test_the_same_body_is_found_exactly(model_file: Path) -> None:
    """The model's own template: no shape is needed, and its rest pose is reached by turns alone."""
    model, body = Model.load(model_file), Body.load()
    still = motion(1, 1.0)
    rotations = t_pose(body, body.shape(AVERAGE_ADULT))[None].copy()
    moved = RigFit(np.array(AVERAGE_ADULT), 1.0, rotations, still.translation, still.frames)
    betas, pose, transl, _ = fit_motion(moved, body, model)
    assert np.abs(betas).max() < 1  # ten shapes of five phenotypes: they can stand for one another
    assert np.linalg.norm(pose, axis=-1)[0, :22].max() < np.radians(12)
    wanted = moved.vertices(body)[0, body.lowpoly] @ smplx.UP.T
    assert np.linalg.norm(posed(model, betas, pose, transl)[0] - wanted, axis=-1).mean() < 0.006


def test_numpy_is_the_same_by_another_way(model_file: Path) -> None:
    model, random = Model.load(model_file), np.random.default_rng(1)
    turned = smplx.nearest_rotation(random.normal(size=(3, JOINTS, 3, 3)))
    betas, pelvis = random.normal(size=BETAS), random.normal(size=(3, 3))
    ours = model.posed(betas, turned, pelvis)
    pose = smplx._axis_angle(model.local(turned))
    theirs = posed(model, betas, pose, pelvis - model.rest(betas)[1][0])
    assert np.abs(ours - theirs).max() < 1e-5


def test_file_has_the_usual_names_and_all_frames(model_file: Path, tmp_path: Path) -> None:
    make_take(tmp_path / "walk.take", frames=8, people=2).close()
    body = Body.load()
    with Take.resume(tmp_path / "walk.take") as take:
        rows = take.person(2).frames
        turns = np.zeros((len(rows), len(body.bone_names), 4), np.float32)
        turns[..., 0] = 1
        turns[:, 0] = quaternion(np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]]))
        place = np.stack([0.1 * rows, 0 * rows, 4 + 0 * rows], -1).astype(np.float64)
        take.set_fit(2, RigFit(np.array(AVERAGE_ADULT), 1.0, turns, place, rows), "a test")
    with Take.open(tmp_path / "walk.take") as take:
        assert fit_person(take.person(1), Model.load(model_file)) is None
        parameters = fit_person(take.person(2), Model.load(model_file))
    assert isinstance(parameters, Parameters)
    parameters.save(tmp_path / "x.npz")
    with np.load(tmp_path / "x.npz") as file:
        sizes = {"global_orient": 3, "body_pose": 63, "left_hand_pose": 45, "right_hand_pose": 45, "jaw_pose": 3}
        assert all(file[name].shape == (8, size) for name, size in sizes.items())
        assert file["transl"].shape == (8, 3) and file["betas"].shape == (BETAS,) and file["poses"].shape == (8, 165)
        assert str(file["gender"]) == "female" and float(file["mocap_frame_rate"]) == 25.0
        assert file["present"].tolist() == [frame in rows for frame in range(8)]
        transl = file["transl"]
        assert np.abs(transl[0] - transl[rows[0]]).max() == 0, "held before the first"
        assert np.allclose(np.diff(transl[5:, 0]), 0.1, atol=1e-3)
        upright = np.linalg.norm(file["global_orient"], axis=1)
        assert upright.max() < np.radians(15), "standing upright, y up, is hardly a turn"


@pytest.mark.parametrize(
    ("spoil", "line"),
    [
        (lambda a: a.pop("posedirs"), "it has no posedirs"),
        (lambda a: a.update(J_regressor=a["J_regressor"][:24]), r"J_regressor is \(24, 500\), SMPL-X"),
        (lambda a: a.update(shapedirs=a["shapedirs"][:, :, :5]), "at least 10 betas"),
    ],
)
def test_other_files_are_one_line(model_file: Path, tmp_path: Path, spoil: object, line: str) -> None:
    with np.load(model_file) as file:
        arrays = {name: file[name] for name in file.files}
    spoil(arrays)  # type: ignore[operator]
    np.savez(tmp_path / "other.npz", **arrays)
    with pytest.raises(InputError, match=line):
        Model.load(tmp_path / "other.npz")
    (tmp_path / "text.npz").write_text("nothing")
    with pytest.raises(InputError, match="this is no .npz file of SMPL-X"):
        Model.load(tmp_path / "text.npz")
    with pytest.raises(InputError, match="there is no such file"):
        Model.load(tmp_path / "none.npz")


@pytest.mark.slow
def test_the_smplx_package_reads_it_as_we_do(model_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their own model class on torch: the vertices of the parameters that we write."""
    torch = pytest.importorskip("torch")
    package = pytest.importorskip("smplx")
    model, moved = Model.load(model_file), motion(4)
    betas, pose, transl, _ = fit_motion(moved, Body.load(), model)
    flat = torch.tensor(pose.reshape(len(pose), -1), dtype=torch.float32)
    # Its class takes some more joints from vertices of the real mesh, which ours has not.
    known = package.body_models.VERTEX_IDS
    monkeypatch.setitem(known, "smplx", dict.fromkeys(known["smplx"], 0))
    body = package.SMPLX(
        str(model_file), ext="npz", use_pca=False, flat_hand_mean=True, num_betas=BETAS, batch_size=len(pose),
        use_face_contour=False,
    )  # fmt: skip
    result = body(
        betas=torch.tensor(np.tile(betas, (len(pose), 1)), dtype=torch.float32), global_orient=flat[:, :3],
        body_pose=flat[:, 3:66], jaw_pose=flat[:, 66:69], leye_pose=flat[:, 69:72], reye_pose=flat[:, 72:75],
        left_hand_pose=flat[:, 75:120], right_hand_pose=flat[:, 120:165],
        transl=torch.tensor(transl, dtype=torch.float32),
    )  # fmt: skip
    theirs = result.vertices.detach().numpy()
    assert np.abs(theirs - posed(model, betas, pose, transl)).max() < 1e-4
