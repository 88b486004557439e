# SPDX-License-Identifier: Apache-2.0
"""Depth from motion: what it reads, where it keeps away, and that it brings a walk's depths nearer to the truth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from takes import make_take

from meshpose.body import Body
from meshpose.camera import place
from meshpose.convert import refit
from meshpose.depth import HIPS, LONGEST_GAP, POINTS, SHORTEST, DepthFromMotion, pieces, points_of, resampled
from meshpose.likely import told_places
from meshpose.take import Take
from tools.walks import Noise, Truth, make_walk, observed


@pytest.fixture(scope="module")
def walk() -> Truth:
    return make_walk(5.0)


@pytest.fixture(scope="module")
def depth() -> DepthFromMotion:
    return DepthFromMotion()


def true_points(walk: Truth) -> np.ndarray:
    return points_of(walk.vertices(), Body.load())[0]


def sizes_of(walk: Truth) -> np.ndarray:
    return points_of(walk.vertices(), Body.load())[1][:, 2] / walk.camera.fx


def test_points_are_where_they_are_in_the_picture(walk: Truth) -> None:
    """At the mid-hips' depth a metre is as many pixels as `sizes` say."""
    body, low = Body.load(), walk.vertices()
    points, hips = points_of(low, body)
    assert points.shape == (len(low), len(POINTS), 3)
    np.testing.assert_allclose(points[:, HIPS].mean(1), 0, atol=0.02)
    joints = body.joints(low, "rig")[:, [body.bone_names.index(name) for name in POINTS]]
    size = hips[:, None, 2:] / walk.camera.fx
    apart = (walk.camera.project(joints) - walk.camera.project(hips)[:, None]) * size
    np.testing.assert_allclose(points[..., :2], apart, atol=1e-3)
    np.testing.assert_allclose(points[..., 2], joints[..., 2] - hips[:, None, 2], atol=1e-5)


@pytest.mark.parametrize("seed", [0, 1])
def test_depths_of_a_walk_come_nearer_to_the_truth(walk: Truth, depth: DepthFromMotion, seed: int) -> None:
    body, true, sizes = Body.load(), true_points(walk)[..., 2], sizes_of(walk)
    pixels, visibility, _ = observed(walk, Noise(seed=seed))
    after = depth.changed(pixels, visibility, sizes, walk.times, walk.camera)
    said, found = (points_of(place(x, sizes, walk.camera), body)[0][..., 2] for x in (pixels, after))
    assert np.abs(found - true).mean() < 0.9 * np.abs(said - true).mean()
    steps = [np.abs(np.diff(x - true, 2, axis=0)).mean() for x in (said, found)]
    assert steps[1] < 0.9 * steps[0], "calmer"


def test_somebody_seen_turned_round_stays_so(walk: Truth, depth: DepthFromMotion) -> None:
    """`repair` finds such frames by how far the limbs jump: they must not be drawn half way."""
    sizes = sizes_of(walk)
    pixels, visibility, flipped = observed(walk, Noise(seed=5, strength=0.5, flips=2))
    assert 1 < flipped.sum() < 12
    points, seen, hips = depth.read(pixels, visibility, sizes, walk.camera)
    change = np.abs(depth.change(points, seen, hips, walk.times)).mean(1)
    assert change[flipped].mean() < 0.5 * np.abs(points[flipped][..., 2]).mean()


def test_a_picture_and_a_short_glimpse_have_no_motion(walk: Truth, depth: DepthFromMotion) -> None:
    pixels, visibility, _ = observed(walk, Noise(seed=0))
    for count in (1, 2, int(SHORTEST * 25)):
        read = depth.read(pixels[:count], visibility[:count], sizes_of(walk)[:count], walk.camera)
        assert not depth.change(*read, walk.times[:count]).any()


def test_a_gap_parts_two_motions(walk: Truth, depth: DepthFromMotion) -> None:
    times = walk.times.copy()
    times[60:] += LONGEST_GAP + 0.1
    assert pieces(times) == [slice(0, 60), slice(60, len(times))]
    pixels, visibility, _ = observed(walk, Noise(seed=0))
    points, seen, hips = depth.read(pixels, visibility, sizes_of(walk), walk.camera)
    whole = depth.change(points, seen, hips, times)
    alone = depth.change(points[:60], seen[:60], hips[:60], times[:60])
    np.testing.assert_array_equal(whole[:60], alone)


@pytest.mark.parametrize("rate", [12.0, 25.0, 60.0])
def test_any_frame_rate(walk: Truth, depth: DepthFromMotion, rate: float) -> None:
    """The same walk at another rate says much the same."""
    pixels, visibility, _ = observed(walk)
    points, seen, hips = depth.read(pixels, visibility, sizes_of(walk), walk.camera)
    own = depth.change(points, seen, hips, walk.times)
    times = np.arange(0, walk.times[-1], 1 / rate)
    there = resampled(points, walk.times, times), resampled(seen, walk.times, times), resampled(hips, walk.times, times)
    other = resampled(depth.change(*there, times), times, walk.times)
    inner = walk.times < times[-1]
    assert np.abs(other - own)[inner].mean() < 0.01, "metres"


def test_a_take_keeps_it_and_its_pixels(tmp_path: Path) -> None:
    """Refit changes depths, never where a vertex is in the picture; a second refit changes nothing."""
    path = tmp_path / "walk.take"
    make_take(path, frames=20, people=1).close()
    with Take.resume(path) as take:
        take.set_settings({"model": "accurate"})
    for _ in refit(path, preview=False):
        pass
    with Take.open(path) as take:
        person = take.person(1)
        said, now, digest = person.lowpoly_pixels(raw=True), person.lowpoly_pixels(), take.digest()
        np.testing.assert_array_equal(said[..., :2], now[..., :2])
        assert np.abs(said[..., 2] - now[..., 2]).max() > 0.1, "pixels"
        np.testing.assert_array_equal(person.lowpoly_pixels([3, 7]), now[[3, 7]])
        size = person.metres_per_pixel()
        told = told_places(said, person.visibility(), size, person.times(), take.camera)
        np.testing.assert_allclose(now[..., 2], told[..., 2], atol=0.1)
    for _ in refit(path, preview=False):
        pass
    with Take.open(path) as take:
        assert take.digest() == digest


def test_places_beyond_the_picture_are_kept_by_frame(tmp_path: Path) -> None:
    """Frames that have some are laid on, others stay; the digest knows them; a new place without them drops them."""
    path = tmp_path / "walk.take"
    make_take(path, frames=6, people=1).close()
    with Take.resume(path) as take:
        person, digest = take.person(1), take.digest()
        said, size = person.lowpoly_pixels(raw=True), person.metres_per_pixel()
        change = np.zeros_like(said)
        change[2:4, 100:120, :2] = (-3.0, 2500.0)
        take.set_place(1, person.frames, size, "made by the test", change)
        np.testing.assert_array_equal(person.lowpoly_pixels(raw=True), said)
        np.testing.assert_allclose(person.lowpoly_pixels(), said + change, rtol=1e-6)
        np.testing.assert_allclose(person.lowpoly_pixels([3, 5]), (said + change)[[3, 5]], rtol=1e-6)
        assert take._db.rows("SELECT frame FROM beyond") == [(2,), (3,)] and take.digest() != digest
        change[4, 7] = (9e4, -9e4, 9e4)
        take.set_place(1, person.frames, size, "made by the test", change)
        assert np.abs(person.lowpoly_pixels([4])[0, 7]).min() > 6e4, "as far as two bytes can say"
        take.set_place(1, person.frames, size, "made by the test")
        np.testing.assert_array_equal(person.lowpoly_pixels(), said)
        assert not take._db.rows("SELECT frame FROM beyond")
