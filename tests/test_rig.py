# SPDX-License-Identifier: Apache-2.0
"""The rig fit: posed true bodies with noise must come back as shape and bone rotations that reproduce the mesh."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from meshpose import rig, rig_solve, rig_start
from meshpose.body import Body, Shape, rotation_matrix
from meshpose.errors import InputError
from meshpose.rig import fit_rig
from meshpose.rig_prior import HINGES, WIDTHS, prior_of
from meshpose.rig_solve import rotation_vector
from meshpose.upsample import Upsampler
from training.random_bodies import random_bodies


@dataclass
class Clip:
    """A person in front of the camera: truth (F, N, 3) and a noisy mesh as the network would give it, camera frame."""

    truth: np.ndarray
    mesh: np.ndarray
    shape: Shape
    rotations: np.ndarray


@pytest.fixture(scope="module")
def body() -> Body:
    return Body.load()


def make_clip(body: Body, seed: int, frames: int = 8, noise: float = 0.005) -> Clip:
    """Different poses of one adult, fingers and face moving, any side to the camera."""
    rng = np.random.default_rng(seed)
    bodies = random_bodies(body, frames, rng, adults=True)
    shape = body.shape(bodies.phenotype[0])
    truth = body.pose(shape, bodies.rotations, bodies.translation + [0, 0, 4], bodies.face)
    low = truth[:, body.lowpoly] + rng.normal(0, noise, (frames, 500, 3))
    return Clip(truth, Upsampler.load().up(low), shape, bodies.rotations)


def distance(body: Body, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Mean distance (F,) of the outer skin, millimetres."""
    return np.linalg.norm(a - b, axis=-1)[:, ~body.inner].mean(1) * 1000


@pytest.mark.parametrize("seed", [1, 2])
def test_posed_body_reproduces_a_noisy_mesh(body: Body, seed: int) -> None:
    clip = make_clip(body, seed)
    fit = fit_rig(clip.mesh, np.ones((8, 500)), np.arange(8), body)
    posed = fit.vertices(body)
    assert posed.shape == clip.truth.shape and posed.dtype == np.float32
    assert distance(body, posed, clip.truth).mean() < 10
    assert distance(body, posed, clip.truth).max() < 18
    assert distance(body, posed, clip.mesh).mean() < 15, "the issue's measure: the predicted mesh"
    assert abs(fit.stature(body) / clip.shape.stature - 1) < 0.03


def test_bones_turn_as_they_did(body: Body) -> None:
    clip = make_clip(body, 5)
    fit = fit_rig(clip.mesh, np.ones((8, 500)), np.arange(8), body)
    root = rotation_matrix(fit.rotations[:, 0]).swapaxes(1, 2) @ rotation_matrix(clip.rotations[:, 0])
    assert np.degrees(np.linalg.norm(rotation_vector(root), axis=-1)).mean() < 8, "pelvis and lowest spine share a bend"
    joints = [body.joints(v, "lsp14") for v in (fit.vertices(body), clip.truth)]
    assert np.linalg.norm(joints[0] - joints[1], axis=-1).mean() < 0.010


def test_guessed_vertices_count_little(body: Body) -> None:
    """The left arm is occluded and guessed wrongly by 10 cm: the seen rest must not suffer."""
    clip = make_clip(body, 6)
    arm = np.isin(body.skin_bones[:, 0], [i for i, n in enumerate(body.bone_names) if "arm" in n and n.endswith("L")])
    mesh = clip.mesh.copy()
    mesh[:, arm] += np.random.default_rng(0).normal(0, 0.1, (8, 1, 3))
    visibility = np.where(arm[body.lowpoly], 0.02, 1.0) * np.ones((8, 1))
    seen = np.flatnonzero(~arm & ~body.inner)
    error = np.linalg.norm(fit_rig(mesh, visibility, np.arange(8), body).vertices(body) - clip.truth, axis=-1)[:, seen]
    assert error.mean() < 0.015


def test_given_height_fixes_the_stature(body: Body) -> None:
    clip = make_clip(body, 7)
    fit = fit_rig(clip.mesh, np.ones((8, 500)), np.arange(8), body, height=1.60)
    assert abs(fit.stature(body) - 1.60) < 1e-3


def test_standing_person_faces_the_camera(body: Body) -> None:
    """A body upright before the camera: its root's turn takes z up to y down, and its delta is nothing else."""
    turn = np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]], float)  # camera x = left of the person's, y = -z, z = +y
    identity = np.zeros((1, len(body.bone_names), 4), np.float32)
    identity[..., 0] = 1
    standing = body.pose(body.shape(), identity, np.zeros((1, 3))) @ turn.T.astype(np.float32) + np.array([0, 0, 3])
    fit = fit_rig(standing, np.ones((1, 500)), np.array([41]), body)
    assert list(fit.frames) == [41]
    np.testing.assert_allclose(rotation_matrix(fit.rotations[0, 0]), turn, atol=0.02)
    assert np.degrees(np.linalg.norm(rotation_vector(rotation_matrix(fit.rotations[0, 1:])), axis=-1)).max() < 6
    assert distance(body, fit.vertices(body), standing).max() < 6


def test_quaternions_are_unit_and_continuous(body: Body) -> None:
    angles = np.linspace(0, 4 * np.pi, 20)
    turn = np.stack([np.cos(angles / 2), 0 * angles, 0 * angles, np.sin(angles / 2)], 1)
    rotations = np.zeros((20, len(body.bone_names), 4))
    rotations[..., 0] = 1
    rotations[:, 0] = turn
    mesh = body.pose(body.shape(), rotations, np.zeros((20, 3)))
    fit = fit_rig(mesh, np.ones((20, 500)), np.arange(20), body)
    np.testing.assert_allclose(np.linalg.norm(fit.rotations, axis=-1), 1, atol=1e-6)
    assert (fit.rotations[1:] * fit.rotations[:-1]).sum(-1).min() > 0.9


def test_chunks_do_not_show(body: Body, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = make_clip(body, 8, frames=6)
    together = fit_rig(clip.mesh, np.ones((6, 500)), np.arange(6), body)
    monkeypatch.setattr(rig, "CHUNK", 4)
    apart = fit_rig(clip.mesh[:, body.lowpoly], np.ones((6, 500)), np.arange(6), body)
    np.testing.assert_allclose(together.rotations, apart.rotations, atol=1e-4)
    np.testing.assert_allclose(together.translation, apart.translation, atol=1e-4)


def test_threads_of_blas_do_not_show(body: Body) -> None:
    """A Take made in a script and one made by a job, on few cores and on many, are equal to the bit."""
    clip = make_clip(body, 8, frames=6)
    fits = []
    for count in (1, 2):
        with threadpool_limits(count, "blas"):
            before = [(found["filepath"], found["num_threads"]) for found in threadpool_info()]
            fits.append(fit_rig(clip.mesh, np.ones((6, 500)), np.arange(6), body))
            assert before == [(found["filepath"], found["num_threads"]) for found in threadpool_info()]
    assert np.array_equal(fits[0].rotations, fits[1].rotations) and fits[0].scale == fits[1].scale
    assert np.array_equal(fits[0].translation, fits[1].translation)


def test_slow_frames_are_solved_as_well(body: Body) -> None:
    """A forearm and hand that lie far off: where Gauss-Newton takes long, more steps change little."""
    clip = make_clip(body, 11, frames=4, noise=0.0)
    bones = np.take_along_axis(body.skin_bones, body.skin_weights.argmax(1)[:, None], 1)[body.lowpoly, 0]
    hand = [i for i, n in enumerate(body.bone_names) if n.endswith(".R") and n.startswith(("wrist", "meta", "finger"))]
    low = clip.truth[:, body.lowpoly].astype(np.float64)
    low[:, np.isin(bones, hand)] += np.random.default_rng(3).normal(0, 0.1, (4, 1, 3))
    fit = fit_rig(low, np.ones((4, 500)), np.arange(4), body)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("POSE_STEPS", "ARM_STEPS"):
            patch.setattr(rig, name, 30)
        patch.setattr(rig, "STILL", 1e-4)
        best = fit_rig(low, np.ones((4, 500)), np.arange(4), body)
    apart = [np.linalg.norm(f.vertices(body)[:, body.lowpoly] - low, axis=-1).mean() for f in (fit, best)]
    print(f"body to mesh {1000 * apart[0]:.2f} mm, {1000 * apart[1]:.2f} with many steps")
    assert apart[0] < apart[1] + 0.001


def test_sums_before_the_bones_turn_are_those_of_posed_vertices(body: Body) -> None:
    """The normal equations against a Jacobian by finite differences of the skinned vertices."""
    clip = make_clip(body, 12, frames=2)
    low, weights = clip.truth[:, body.lowpoly].astype(np.float64), np.full((2, 500), 60.0)
    posed, group = rig_solve.Posed(body), rig_solve.Group(body, ["root", "spine03", "upperarm01"], [*WIDTHS, *HINGES])
    posed.set_shape(body.shape(), 1.0)
    prior = dataclasses.replace(prior_of(body), width=np.full_like(prior_of(body).width, 1e6))
    deltas, root = rotation_matrix(clip.rotations.astype(np.float64)), low.mean(1)
    found = posed.linearise(group, deltas, root, low, weights, prior)
    columns = []
    for k in range(found.right.shape[1]):
        ends = [np.zeros_like(found.right, np.float64) for _ in range(2)]
        ends[0][:, k], ends[1][:, k] = 1e-3, -1e-3
        a, b = (posed.vertices(group, *posed.turn(group, found.turned, deltas, root, step)) for step in ends)
        columns.append((a.astype(np.float64) - b) / 2e-3)
    jacobian = np.stack(columns, -1)  # (n, 3, F, P)
    axes = np.array([1, 1, rig_solve.DEPTH_WEIGHT**2])[:, None]
    weighted = jacobian * (axes * found.weights[:, None])[..., None]
    hessian = np.einsum("ncfp,ncfq->fpq", weighted, jacobian)
    right = np.einsum("ncfp,ncf->fp", weighted, found.residual)
    inside = ~np.eye(hessian.shape[1], dtype=bool)  # the diagonal is damped
    assert np.abs(found.hessian - hessian)[:, inside].max() < 2e-3 * hessian.max()
    assert np.abs(found.right - right).max() < 2e-3 * np.abs(right).max()


def test_start_lies_near_the_mesh(body: Body) -> None:
    """In closed form, before any step: joints and surface alone tell how bones turn, within some centimetres."""
    clip = make_clip(body, 4, frames=12, noise=0.0)
    low, bones = clip.truth[:, body.lowpoly].astype(np.float64), [*WIDTHS, *HINGES]
    group, posed = rig_solve.Group(body, bones, bones), rig_solve.Posed(body)
    posed.set_shape(clip.shape, 1.0)
    begun = posed.vertices(group, *rig_start.Start(body, group)(posed, low, np.ones(low.shape[:2])))
    away = 1000 * np.linalg.norm(begun.transpose(2, 0, 1) - low, axis=-1)
    print(f"start to mesh: mean {away.mean():.1f} mm, worst frame {away.mean(1).max():.1f}")
    assert away.mean(1).max() < 40


def test_swing_and_twist() -> None:
    """A swing points where it should, turned right round too; a twist is the turn about its axis that was made."""
    rng = np.random.default_rng(1)
    a = rng.normal(size=(50, 3))
    a /= np.linalg.norm(a, axis=1, keepdims=True)
    b = np.concatenate([a[1:26], -a[25:40], a[40:]])
    turn = rig_start._swing(a, b)
    assert np.abs((turn @ a[..., None])[..., 0] - b).max() < 1e-9
    assert np.abs(turn @ turn.swapaxes(1, 2) - np.eye(3)).max() < 1e-9
    assert np.abs(turn[40:] - np.eye(3)).max() < 1e-9
    angle, arms = rng.uniform(-3, 3, 50), rng.normal(size=(50, 7, 3))
    twisted = arms @ rig_solve.exponential(a * angle[:, None]).swapaxes(1, 2)
    found = rig_start._twist(a, np.einsum("fva,fvb->fab", arms, twisted))
    assert np.abs(rig_solve.rotation_vector(found) - a * angle[:, None]).max() < 1e-9
    assert np.abs(rig_start._twist(a, np.zeros((50, 3, 3))) - np.eye(3)).max() == 0


def test_nobody_gives_an_empty_fit(body: Body) -> None:
    fit = fit_rig(np.zeros((0, 500, 3)), np.zeros((0, 500)), np.zeros(0), body)
    assert fit.rotations.shape == (0, len(body.bone_names), 4) and fit.vertices(body).shape == (0, 13718, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"vertices": np.zeros((2, 400, 3))}, "vertices"), ({"visibility": np.ones((3, 500))}, "visibility"),
     ({"vertices": np.full((2, 500, 3), np.nan)}, "finite"), ({"height": 175.0}, "metres")],
)  # fmt: skip
def test_bad_input_is_one_clear_line(body: Body, change: dict[str, object], message: str) -> None:
    given: dict[str, object] = {"vertices": np.zeros((2, 500, 3)), "visibility": np.ones((2, 500)), "frames": [0, 1]}
    with pytest.raises(InputError, match=message) as error:
        fit_rig(**(given | change), body=body)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)


def test_bones_that_were_seen(body: Body) -> None:
    """Half of the skin is enough; a left arm out of the picture is not seen, its neighbours are."""
    of_arm = [i for i, n in enumerate(body.bone_names) if n.endswith(".L") and ("arm" in n or "wrist" in n)]
    arm = np.isin(body.skin_bones[body.lowpoly, 0], of_arm)
    front = body.template[body.lowpoly][:, 1] < 0
    seen = rig.bone_visibility(body, np.stack([np.ones(500), front, ~arm, np.zeros(500)]))
    names = body.bone_names
    assert seen.shape == (4, len(names)) and (seen[0] == 1).all() and (seen[3] == 0).all()
    trunk_and_limbs = [i for i, n in enumerate(names) if n.startswith(("spine", "upperleg", "lowerleg", "upperarm"))]
    assert seen[1, trunk_and_limbs].min() > rig.SEEN
    assert seen[2, names.index("lowerarm01.L")] < rig.SEEN and seen[2, names.index("lowerarm01.R")] == 1
    assert seen[2, 0] > 0.9, "the root has no skin: what hangs from it says how it was seen"
    with pytest.raises(InputError, match="visibility"):
        rig.bone_visibility(body, np.ones((2, 499)))


def test_joints_stay_within_their_limits(body: Body) -> None:
    """A mesh whose knee bends forward by 50 degrees and whose elbow bends back: no body's."""
    rotations = np.zeros((2, len(body.bone_names), 4))
    rotations[..., 0] = 1
    for name, axis, degrees in (("lowerleg01.L", (1, 0, 0), -50), ("lowerarm01.R", (-0.74, 0.22, 0.635), -90)):
        half = np.radians(degrees) / 2
        rotations[:, body.bone_names.index(name)] = np.append(np.cos(half), np.sin(half) * np.array(axis))
    mesh = body.pose(body.shape(), rotations, np.zeros((2, 3)))
    fit = fit_rig(mesh, np.ones((2, 500)), np.arange(2), body)
    prior = prior_of(body)
    for name in ("lowerleg01.L", "lowerarm01.R"):
        bone = body.bone_names.index(name)
        turn = rotation_vector(rotation_matrix(fit.rotations[0, bone].astype(float))) @ prior.axes[bone]
        beyond = np.degrees(np.maximum(turn - prior.high[bone], prior.low[bone] - turn))
        assert -15 < beyond[0] < 3, f"{name} goes to its limit, not beyond: {beyond}"


def test_what_is_out_of_the_picture_stays_calm(body: Body) -> None:
    """A close-up: the legs are made up anew on every frame. They do not follow, and the rest does not suffer."""
    clip = make_clip(body, 9, frames=1)
    bones = np.take_along_axis(body.skin_bones, body.skin_weights.argmax(1)[:, None], 1)[body.lowpoly, 0]
    legs = np.array([body.bone_names[c].startswith(("upperleg", "lowerleg", "foot", "toe")) for c in bones])
    low = np.repeat(clip.truth[:, body.lowpoly], 6, 0).astype(np.float64)
    low[:, legs] += np.random.default_rng(1).normal(0, 0.2, (6, 1, 3))
    fit = fit_rig(low, np.where(legs, 0.1, 1.0) * np.ones((6, 1)), np.arange(6), body, inside=np.ones((6, 1)) * ~legs)
    below = [i for i, n in enumerate(body.bone_names) if n.startswith(("lowerleg", "foot"))]
    turned = rotation_matrix(fit.rotations[:, below].astype(float))
    assert np.degrees(np.linalg.norm(rotation_vector(turned[:-1].swapaxes(-1, -2) @ turned[1:]), axis=-1)).max() < 1
    upper = ~legs[None] & (body.template[body.lowpoly][:, 2] > body.template[body.lowpoly][:, 2].mean())[None]
    error = np.linalg.norm(fit.vertices(body)[:, body.lowpoly] - low, axis=-1)[upper.repeat(6, 0)]
    assert error.mean() < 0.02
    with pytest.raises(InputError, match="inside"):
        fit_rig(low, np.ones((6, 500)), np.arange(6), body, inside=np.ones((5, 500)))
