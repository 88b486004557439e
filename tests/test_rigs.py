# SPDX-License-Identifier: Apache-2.0
"""Rigs of other programs on the body: the same rest mesh, the same joints, nearly the same surface; a rig is a file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from meshpose import rigs, weights
from meshpose.body import Body, Shape, rotation_matrix
from meshpose.errors import InputError, WeightsError
from meshpose.rigs import Posed, Rest, Rig, channels
from training.random_bodies import random_bodies

SAMPLES = Path(__file__).resolve().parents[1] / "samples"
OTHERS = ("game_engine", "mixamo", "rigify")


@pytest.fixture(scope="module")
def body() -> Body:
    return Body.load()


def still(body: Body, count: int = 1) -> np.ndarray:
    rotations = np.zeros((count, len(body.bone_names), 4))
    rotations[..., 0] = 1
    return rotations


def poses(body: Body, which: str) -> tuple[Shape, np.ndarray]:
    if which == "sample":
        with np.load(SAMPLES / "turn_truth.npz") as z:
            return body.shape(z["phenotype"]), z["rotations"][::9]
    bodies = random_bodies(body, 24, np.random.default_rng(5), adults=True)
    return body.shape(bodies.phenotype[0]), bodies.rotations


def skinned(rig: Rig, body: Body, shape: Shape, rest: Rest, posed: Posed) -> np.ndarray:
    """The rest body moved by the rig's bones and weights (F, N, 3)."""
    skin = rig.skin(body)
    dense = np.zeros((len(body.template), len(rest.names)))
    np.add.at(dense, (np.arange(len(dense))[:, None], skin.bones[skin.indices]), skin.weights)
    assert np.allclose(dense.sum(1), 1, atol=1e-4)
    offset = posed.heads - np.einsum("fbxy,by->fbx", posed.linear, rest.heads)
    affine = np.concatenate([posed.linear, offset[..., None]], -1).reshape(len(offset), -1, 12)
    blend = (dense @ affine).reshape(len(offset), -1, 3, 4)
    return np.einsum("fnxy,ny->fnx", blend[..., :3], shape.vertices) + blend[..., 3]


@pytest.mark.parametrize("which", ["sample", "random"])
@pytest.mark.parametrize("name", OTHERS)
def test_joints_and_surface_stay_with_the_body(body: Body, name: str, which: str) -> None:
    """Shared joints within 3 mm on every frame, the surface within 10 mm on average."""
    shape, rotations = poses(body, which)
    rig = Rig.load(name)
    rest, posed = rig.rest(body, shape), rig.posed(body, shape, rotations)
    _, heads = body.transforms(shape, rotations, np.zeros((len(rotations), 3)))
    shared = rest.shared >= 0
    assert shared.sum() >= 40
    apart = 1000 * np.linalg.norm(posed.heads[:, shared] - heads[:, rest.shared[shared]], axis=-1)
    mesh = body.pose(shape, rotations, np.zeros((len(rotations), 3)))
    surface = 1000 * np.linalg.norm(skinned(rig, body, shape, rest, posed) - mesh, axis=-1)
    print(f"{name}, {which}: joints within {apart.max():.2f} mm, surface {surface.mean():.2f} mm on average")
    assert apart.max() < 3
    assert surface.mean() < 10


@pytest.mark.parametrize("name", ("default", *OTHERS))
def test_rest_pose_is_the_rest_body(body: Body, name: str) -> None:
    """Axes are rotations along the bones, on bodies unlike the average too."""
    rig = Rig.load(name)
    for phenotype in ({}, {"height": 0.9, "gender": 0.0, "weight": 0.8}, {"age": 0.3}):
        shape = body.shape(phenotype)
        rest = rig.rest(body, shape)
        along = rest.tails - rest.heads
        length = np.linalg.norm(along, axis=1)
        assert length.min() > 0.009 and np.abs(along / length[:, None] - rest.axes[:, :, 1]).max() < 1e-3
        assert np.allclose(rest.axes.swapaxes(1, 2) @ rest.axes, np.eye(3), atol=1e-5)
        assert np.allclose(np.linalg.det(rest.axes), 1)
        inside = (rest.heads > shape.vertices.min(0) - 0.05) & (rest.heads < shape.vertices.max(0) + 0.05)
        assert inside[np.arange(len(rest.names)) != rest.root].all()


@pytest.mark.parametrize("name", OTHERS)
def test_channels_give_the_bones_back(body: Body, name: str) -> None:
    """Chained as Blender chains pose channels; only the hips and bones with a stray joint shift."""
    shape, rotations = poses(body, "random")
    rig = Rig.load(name)
    rest = rig.rest(body, shape)
    for rigid in (False, True):
        posed = rig.posed(body, shape, rotations, rigid=rigid)
        turns, shifts = channels(rest, posed)
        matrix = np.zeros((len(rotations), len(rest.names), 4, 4))
        local = np.tile(np.eye(4), (*matrix.shape[:2], 1, 1))
        local[..., :3, :3], local[..., :3, 3] = rotation_matrix(turns), shifts
        own = np.tile(np.eye(4), (len(rest.names), 1, 1))
        own[:, :3, :3], own[:, :3, 3] = rest.axes, rest.heads
        for b, p in enumerate(rest.parents):
            above = np.eye(4) if p < 0 else matrix[:, p] @ np.linalg.inv(own[p])
            matrix[:, b] = above @ own[b] @ local[:, b]
        assert np.abs(matrix[..., :3, 3] - posed.heads).max() < 1e-5
        assert np.abs(matrix[..., :3, :3] - posed.linear @ rest.axes).max() < 1e-5
        moved = {rest.names[b] for b in np.flatnonzero(np.abs(shifts).max((0, 2)) > 1e-5)}
        assert not rigid or moved <= {rig.hips}


def test_a_rig_is_a_file(body: Body, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A made-up rig of three bones, found by its file's name: no code knows it."""
    names = body.bone_names
    own = [names.index(n) for n in ("root", "upperleg01.L", "lowerleg01.L", "foot.L")]
    points = np.stack([body.shape().heads[i] for i in own])
    halves = (np.arange(len(body.template)) % 2).astype(np.uint8)
    arrays = {
        "format": rigs.FORMAT, "name": "toy", "title": "Toy", "licence": "CC0", "hips": "base", "root": "",
        "bones": np.array(["base", "thigh", "shin"]), "parents": np.array([-1, 0, 1]),
        "along": np.array([[0, 0, 1.0], [0, 0, -1], [0, 0, -1]]), "across": np.tile([0, -1.0, 0], (3, 1)),
        "head": np.array([0, 1, 2]), "tail": np.array([1, 2, 3]), "own_point": np.array(own), "points": points,
        "point_shapes": np.zeros((len(body.coefficients()), 4, 3)), "groups": np.array(["base", "shin"]),
        "group_bones": np.array([0, 2]), "skin_groups": halves[:, None],
        "skin_weights": np.full((len(halves), 1), 65535, np.uint16),
        "driver_bones": np.array([0, 1, 2]), "driver_own": np.array(own[:3]), "driver_weights": np.ones(3),
    }  # fmt: skip
    (tmp_path / "rigs").mkdir()
    np.savez(tmp_path / "rigs" / "toy.npz", **arrays)  # type: ignore[arg-type]
    digest = weights.digest(tmp_path / "rigs" / "toy.npz")
    (tmp_path / "sha256.json").write_text(json.dumps({"rigs/toy.npz": digest}))
    monkeypatch.setattr(weights, "folder", lambda: tmp_path)
    assert rigs.names() == ["default", "toy"]
    assert weights.write_list() == {"rigs/toy.npz": digest}
    rig, shape = Rig.load("toy"), body.shape()
    rotations = still(body, 2)
    rotations[1, own[1]] = (np.cos(0.4), np.sin(0.4), 0, 0)
    rest, posed = rig.rest(body, shape), rig.posed(body, shape, rotations)
    _, heads = body.transforms(shape, rotations, np.zeros((2, 3)))
    assert np.abs(posed.heads - heads[:, own[:3]]).max() < 1.1 * rigs.STRAY
    turned = posed.linear[1, 1] @ posed.linear[0, 1].T
    assert np.degrees(np.arccos((np.trace(turned) - 1) / 2)) == pytest.approx(np.degrees(0.8), abs=1)
    assert rest.names == rig.names and rig.skin(body).groups == ["base", "shin"]


def test_own_rig_is_the_body(body: Body) -> None:
    shape, rotations = poses(body, "random")
    posed = Rig.load("default").posed(body, shape, rotations)
    linear, heads = body.transforms(shape, rotations, np.zeros((len(rotations), 3)))
    assert np.array_equal(posed.linear, linear) and np.array_equal(posed.heads, heads)


def test_rolls_follow_blender() -> None:
    """Values of Blender's own bones (4.5): y, then the x axis for that roll."""
    assert np.allclose(rigs.roll_axes([0, 1.0, 0], 0.0), np.eye(3))
    assert np.allclose(rigs.roll_axes([0, -1.0, 0], 0.0), np.diag([-1.0, -1.0, 1.0]))
    turned = rigs.roll_axes([1.0, 0, 0], np.pi / 2)
    assert np.allclose(turned[:, 1], [1, 0, 0]) and np.allclose(turned[:, 0], [0, 0, -1], atol=1e-7)


def test_t_pose_has_its_arms_along_x_and_its_legs_down(body: Body) -> None:
    shape = body.shape({"gender": 1.0})
    rotations = rigs.t_pose(body, shape)[None]
    for name in ("default", *OTHERS):
        posed, rest = Rig.load(name).posed(body, shape, rotations), Rig.load(name).rest(body, shape)
        at = {int(own): posed.heads[0, b] for b, own in enumerate(rest.shared) if own >= 0}
        joint = {n: at[body.bone_names.index(n)] for n in (
            "upperarm01.L", "lowerarm01.L", "wrist.L", "upperarm01.R", "wrist.R", "upperleg01.L", "foot.L",
            "finger2-1.L", "finger5-1.L",
        )}  # fmt: skip
        for start, end, way in (
            ("upperarm01.L", "lowerarm01.L", (1, 0, 0)), ("lowerarm01.L", "wrist.L", (1, 0, 0)),
            ("upperarm01.R", "wrist.R", (-1, 0, 0)), ("upperleg01.L", "foot.L", (0, 0, -1)),
        ):  # fmt: skip
            arm = joint[end] - joint[start]
            assert np.degrees(np.arccos(arm @ way / np.linalg.norm(arm))) < 1, (name, start)
        thumbwards = joint["finger2-1.L"] - joint["finger5-1.L"]
        assert thumbwards[1] / np.linalg.norm(thumbwards) < -0.95, "palms look down"


def test_what_there_is_not_is_one_line(body: Body) -> None:
    with pytest.raises(InputError, match="--rig cat: there are default, game_engine, mixamo, rigify"):
        Rig.load("cat")
    with pytest.raises(WeightsError, match="another version"):
        Rig({"format": np.array(99)}, "old.npz")


def test_rigs_are_small_and_listed() -> None:
    listed = json.loads((weights.folder() / weights.LIST).read_text())
    for name in OTHERS:
        assert f"rigs/{name}.npz" in listed
        assert weights.path(f"rigs/{name}.npz").stat().st_size < 200_000
