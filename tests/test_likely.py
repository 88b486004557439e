# SPDX-License-Identifier: Apache-2.0
"""Likely places and the learned pose prior behind them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from meshpose.body import Body
from meshpose.camera import in_picture, place
from meshpose.depth import points_of
from meshpose.errors import InputError
from meshpose.likely import LikelyPlaces, likely_places, steady_beyond, told_places
from meshpose.rig import LIKELY_DEPTH, LikelyBody, well_seen
from meshpose.rig_prior import LIMBS, learned_prior, prior_of
from meshpose.rig_solve import Group, Posed, exponential
from tools.walks import Noise, Truth, make_walk, observed
from training.pose_prior import mixture, straightened, vectors_of
from training.synth_body import JOINTS, rotation


@pytest.fixture(scope="module")
def walk() -> Truth:
    return make_walk(seconds=3.0)


def depths(pixels: np.ndarray, walk: Truth) -> np.ndarray:
    """(F, 16) metres: the points' depths relative to the mid-hips."""
    return points_of(place(pixels, sizes_of(walk), walk.camera), Body.load())[0][..., 2]


def sizes_of(walk: Truth) -> np.ndarray:
    return points_of(walk.vertices(), Body.load())[1][:, 2] / walk.camera.fx


def test_depths_come_nearer_and_places_stay(walk: Truth) -> None:
    pixels, visibility, flipped = observed(walk, Noise(seed=1, flips=0))
    assert not flipped.any()
    true = points_of(walk.vertices(), Body.load())[0][..., 2]
    found = likely_places(pixels, visibility, sizes_of(walk), walk.camera)
    told = told_places(pixels, visibility, sizes_of(walk), walk.times, walk.camera)
    np.testing.assert_array_equal(found[..., :2], np.asarray(pixels)[..., :2])
    errors = [np.abs(depths(x, walk) - true).mean() for x in (np.asarray(pixels), found, told)]
    assert errors[1] < 0.8 * errors[0] and errors[2] < errors[1], errors


def test_the_network_leans_and_the_body_does_not(walk: Truth) -> None:
    """Depths that are shrunk to a half, as the network's are on footage, come back; one frame alone is as good."""
    true = points_of(walk.vertices(), Body.load())
    size, body = sizes_of(walk), Body.load()
    flat = walk.camera.project(walk.vertices())
    relative = (walk.vertices()[..., 2] - true[1][:, None, 2]) / size[:, None]
    shrunk = np.concatenate([flat, 0.5 * relative[..., None]], -1)
    ones = np.ones(shrunk.shape[:2])
    found = likely_places(shrunk, ones, size, walk.camera)
    before, after = (np.abs(depths(x, walk) - true[0][..., 2]).mean() for x in (shrunk, found))
    assert after < 0.6 * before, (before, after)
    alone = likely_places(shrunk[7:8], ones[:1], size[7:8], walk.camera)
    assert np.abs(alone - found[7:8])[..., 2].max() * size[7] < 0.1, "another shape, much the same pose"
    assert likely_places(shrunk[:0], ones[:0], size[:0], walk.camera).shape == (0, len(body.lowpoly), 3)


def test_a_clip_in_parts_is_the_clip(walk: Truth) -> None:
    pixels, visibility, _ = observed(walk, Noise(seed=2))
    sizes, best = sizes_of(walk), well_seen(visibility)
    whole = likely_places(pixels, visibility, sizes, walk.camera)
    parts = LikelyPlaces(pixels[best], visibility[best], sizes[best], walk.camera)
    found = [parts(pixels[p], visibility[p], sizes[p]) for p in (slice(0, 20), slice(20, 21), slice(21, None))]
    np.testing.assert_allclose(np.concatenate(found), whole, atol=0.05)
    with pytest.raises(InputError, match="a frame"):
        LikelyPlaces(pixels[:0], visibility[:0], sizes[:0], walk.camera)


def test_a_mesh_that_is_no_body_keeps_its_depths(walk: Truth) -> None:
    pixels, visibility, _ = observed(walk, Noise(seed=1))
    torn = np.array(pixels[:4], np.float64)
    torn[:, ::2, 0] += 300
    found = likely_places(torn, visibility[:4], sizes_of(walk)[:4], walk.camera)
    np.testing.assert_array_equal(found, torn)


def test_what_is_outside_of_the_picture_is_as_people_are(walk: Truth) -> None:
    """Legs that nobody saw stand below the body, whatever the mesh says of them."""
    body, low = Body.load(), walk.vertices()[:8].copy()
    joints = body.joints(low, "lsp14")
    legs = low[..., 1] > joints[:, 2:4, 1].mean(1)[:, None] + 0.15
    inside = np.where(legs, 0.0, 1.0)
    low[legs] += np.random.default_rng(0).normal(0, 0.2, (int(legs.sum()), 3))
    posed = body.joints(LikelyBody(low, inside, body, inside)(low, inside, inside), "lsp14")
    knees, hips = posed[:, [1, 4]], posed[:, 2:4].mean(1, keepdims=True)
    assert (knees[..., 1] - hips[..., 1]).min() > 0.25, "metres below the hips"


def test_a_mesh_goes_on_beyond_the_picture_as_people_do(walk: Truth) -> None:
    """The picture ends at the thighs and the legs lie crumpled below its border, as the network leaves them: knees and
    ankles go where they are, what is seen stays, and there is no step between."""
    pixels, visibility, _ = observed(walk, Noise(seed=3, flips=0))
    body, sizes, true = Body.load(), sizes_of(walk)[:20], walk.camera.project(walk.vertices())[:20]
    hips, knees = (body.joints(true, "lsp14")[:, rows, 1].mean() for rows in ([2, 3], [1, 4]))
    bottom = round(hips + 0.5 * (knees - hips))
    camera = dataclasses.replace(walk.camera, height=bottom)  # its principal point stays
    pixels, visibility = np.array(pixels[:20], np.float64), np.array(visibility[:20], np.float64)
    out = true[..., 1] > bottom
    pixels[out, 1] = bottom + 0.2 * (pixels[out, 1] - bottom)
    visibility[out] *= 0.1
    found = likely_places(pixels, visibility, sizes, camera)
    lower = [0, 1, 4, 5]  # ankles and knees
    before, after = (
        np.linalg.norm((body.joints(x[..., :2], "lsp14") - body.joints(true, "lsp14"))[:, lower], axis=-1).mean()
        for x in (pixels, found)
    )
    assert after < 0.5 * before, (before, after)
    seen = in_picture(pixels, camera) * in_picture(found, camera) * visibility > 0.9
    assert seen.mean() > 0.2 and np.abs((found - pixels)[seen, :2]).max() < 1.0
    a, b = body.lowpoly_faces, np.roll(body.lowpoly_faces, 1, axis=1)  # each edge's ends
    longest, usual = (np.linalg.norm((x[:, a] - x[:, b])[..., :2], axis=-1).max() for x in (found, true))
    assert longest < 1.5 * usual, (longest, usual)


def test_beyond_the_picture_a_mesh_is_steady_and_within_it_untouched(walk: Truth) -> None:
    times, camera = walk.times, dataclasses.replace(walk.camera, height=round(walk.camera.height / 2))
    pixels = np.random.default_rng(4).normal(0, 5, (len(times), 200, 3)) + (camera.width / 2, 0, 0)
    pixels[:, :100, 1] += camera.height / 2
    pixels[:, 100:, 1] += 1.5 * camera.height
    before = pixels.copy()
    steady_beyond(pixels, times, camera)
    np.testing.assert_array_equal(pixels[:, :100], before[:, :100])
    trembling, steady = (np.diff(x[:, 100:], 2, axis=0).std() for x in (before, pixels))
    assert steady < 0.3 * trembling, (trembling, steady)


def test_a_trunk_alone_leans_as_the_network_says(walk: Truth, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trunk that is seen too short is no trunk that leans towards the camera, where no leg says so."""
    body, size = Body.load(), sizes_of(walk)[:12]
    flat = walk.camera.project(walk.vertices()[:12])
    hips = body.joints(walk.vertices()[:12], "lsp14")[:, [2, 3], 2].mean(1)
    pixels = np.concatenate([flat, ((walk.vertices()[:12, :, 2] - hips[:, None]) / size[:, None])[..., None]], -1)
    middle = body.joints(flat, "lsp14")[:, [2, 3], 1].mean(1)[:, None]
    pixels[::3, :, 1] = (middle + 0.9 * (pixels[..., 1] - middle))[::3]
    camera = dataclasses.replace(walk.camera, height=round(float(middle.mean()) + 20))
    visibility = in_picture(pixels, camera).astype(np.float64)

    def lean() -> float:
        """Metres by which the neck lies nearer to or farther from the camera than it should."""
        necks = [body.joints(x, "lsp14")[:, 12, 2] for x in (likely_places(pixels, visibility, size, camera), pixels)]
        return float(np.abs((necks[0] - necks[1]) * size)[::3].mean())

    found = lean()
    monkeypatch.setattr("meshpose.rig.CUT_DEPTH", LIKELY_DEPTH)
    assert found < 0.4 * (leaning := lean()) and found < 0.02 < leaning, (found, leaning)


def test_the_learned_prior_is_the_same_on_both_sides() -> None:
    prior, body = learned_prior(Body.load()), Body.load()
    assert len(prior.mixtures) == 2 * len(LIMBS)
    names = [[body.bone_names[b] for b in m.bones] for m in prior.mixtures]
    assert names[:2] == [[f"{b}.{s}" for b in LIMBS["leg"]] for s in "LR"]
    vector = np.random.default_rng(0).normal(0, 0.4, (20, 9))
    left, right = (
        m.nearest(vector * np.tile([1.0, s, s], 3)) for m, s in zip(prior.mixtures[:2], (1, -1), strict=True)
    )
    np.testing.assert_allclose(left[0], right[0] * np.tile([1.0, -1.0, -1.0], 3))
    assert np.linalg.eigvalsh(left[1]).min() > 0
    assert (prior.width <= prior_of(body).width + 1e-12).all()


def test_a_limb_is_drawn_to_its_likeliest_gaussian() -> None:
    """With no mesh to follow the steps of Gauss-Newton end at a mean of the mixture."""
    body, prior = Body.load(), learned_prior(Body.load())
    leg = prior.mixtures[0]
    group = Group(body, ["root", *LIMBS["leg"]], ["root", *LIMBS["leg"]])
    posed = Posed(body)
    posed.set_shape(body.shape(), 1.0)
    deltas = np.tile(np.eye(3), (2, len(body.bone_names), 1, 1))
    start = leg.mean[[3, 7]] + np.random.default_rng(0).normal(0, 0.1, (2, 9))
    deltas[:, leg.bones] = exponential(start.reshape(2, 3, 3))
    goal = np.array(
        [leg.mean[k] for k in ((leg.nearest(start)[0][:, None] + leg.mean - start[:, None]) ** 2).sum(-1).argmin(1)]
    )
    root, low, nothing = np.zeros((2, 3)), np.zeros((2, len(body.lowpoly), 3)), np.full((2, len(body.lowpoly)), 1e-6)
    free = dataclasses.replace(prior, low=np.full_like(prior.low, -9.0), high=np.full_like(prior.high, 9.0))
    for _ in range(12):
        problem = posed.linearise(group, deltas, root, low, nothing, free)
        deltas, root = posed.move(problem, deltas, root, problem.solve())
    np.testing.assert_allclose(deltas[:, leg.bones], exponential(goal.reshape(2, 3, 3)), atol=0.02)


def test_expectation_maximisation_finds_the_gaussians() -> None:
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(0, 0.1, (900, 3)) * (1, 2, 1) + (2, 0, 0), rng.normal(0, 0.2, (300, 3))])
    found = mixture(x, 2, rng)
    order = found["weight"].argsort()
    np.testing.assert_allclose(found["weight"][order], [0.25, 0.75], atol=0.02)
    np.testing.assert_allclose(found["mean"][order], [[0, 0, 0], [2, 0, 0]], atol=0.05)
    deviation = np.sqrt(found["covariance"][order[1]].diagonal())
    np.testing.assert_allclose(deviation, np.hypot([0.1, 0.2, 0.1], np.radians(4)), rtol=0.1)


def test_recorded_poses_become_the_bodys_own() -> None:
    """A bent knee turns the core's shin about its hinge, straightened legs bend less and keep their feet below."""
    local = np.tile(np.eye(3), (1, len(JOINTS), 1, 1))
    for joint, angle in (("knee", 0.6), ("hip", -0.3), ("ankle", -0.3)):
        local[0, JOINTS.index(f"{joint}.L")] = rotation(np.array([angle, 0, 0]))
    body = Body.load()
    before, after = (vectors_of(x, body)[0] for x in (local, straightened(local, np.array([0.4]))))
    shin, thigh = (body.bone_names.index(f"{name}.L") for name in ("lowerleg01", "upperleg01"))
    rest = vectors_of(np.tile(np.eye(3), (1, len(JOINTS), 1, 1)), body)[0]
    assert abs(before[shin, 0] - rest[shin, 0] - 0.6) < 0.05 and abs(before[thigh, 0] - rest[thigh, 0] + 0.3) < 0.05
    assert abs(after[shin, 0] - rest[shin, 0] - 0.2) < 0.05 and abs(after[thigh, 0] - rest[thigh, 0] + 0.1) < 0.05
