# SPDX-License-Identifier: Apache-2.0
"""The tools behind the synthetic pictures: the z-buffer, rotations, the walk, and (with the shared data) the truth."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from meshpose.body import Body
from training import synth_body, walk, zbuffer
from training.sample import PHENOTYPE

CACHE = Path(os.environ.get("MESHPOSE_SYNTH_CACHE", Path.home() / ".cache" / "meshpose" / "synth_body.npz"))


def scene(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Random triangles: pixels (n, 2), depth (n,), corners (m, 3)."""
    xy = (rng.uniform(-5, size + 5, (20, 1, 2)) + rng.uniform(-9, 9, (20, 3, 2))).reshape(-1, 2)
    return xy, rng.uniform(1, 5, len(xy)), np.arange(60).reshape(-1, 3)


def test_zbuffer_against_one_pixel_at_a_time() -> None:
    rng, size = np.random.default_rng(3), 32
    xy, depth, triangles = scene(rng, size)
    samples = zbuffer.cover(xy, 1 / depth, triangles, (size, size), True)
    mesh, sample = zbuffer.nearest([samples], size * size)
    found = np.where(mesh == 0, samples.triangle[sample] if len(samples.triangle) else 0, -1)
    expected = np.full(size * size, -1)
    for k in range(size * size):
        at, best = np.array([k % size + 0.5, k // size + 0.5]), 0.0
        for t, corners in enumerate(triangles):
            a, b, c = xy[corners]
            share = np.linalg.solve(np.stack([b - a, c - a], 1), at - a)
            weights = np.array([1 - share.sum(), *share])
            if (weights >= 0).all() and weights @ (1 / depth[corners]) > best:
                best, expected[k] = weights @ (1 / depth[corners]), t
    assert (found != expected).mean() < 0.003  # pixel centres on an edge may fall either way
    assert (found >= 0).sum() > 100


def test_barycentric_coordinates_are_those_of_space() -> None:
    rng = np.random.default_rng(1)
    points = np.column_stack([rng.uniform(-1, 1, (3, 2)), [1.0, 2.5, 4.0]])
    xy = points[:, :2] / points[:, 2:] * 40 + 32
    s = zbuffer.cover(xy, 1 / points[:, 2], np.array([[0, 1, 2]]), (64, 64), True)
    inside = s.barycentric @ points
    pixel = np.stack([s.pixel % 64 + 0.5, s.pixel // 64 + 0.5], 1)
    assert len(pixel) > 20
    np.testing.assert_allclose(inside[:, :2] / inside[:, 2:] * 40 + 32, pixel, atol=1e-3)
    np.testing.assert_allclose(1 / s.inverse, inside[:, 2], rtol=1e-4)


def test_only_the_front_of_a_closed_surface_is_drawn() -> None:
    corners = np.array([[-1, -1, 5], [1, -1, 5], [0, 1, 5]], float)  # clockwise on the picture: seen from behind
    xy = corners[:, :2] * 10 + 16
    behind = zbuffer.cover(xy, 1 / corners[:, 2], np.array([[0, 1, 2]]), (32, 32), False)
    front = zbuffer.cover(xy, 1 / corners[:, 2], np.array([[0, 2, 1]]), (32, 32), False)
    assert len(behind.pixel) == 0 and len(front.pixel) > 50
    normal = zbuffer.vertex_normals(corners, np.array([[0, 2, 1]]))
    np.testing.assert_allclose(normal, [[0, 0, -1]] * 3, atol=1e-12)


def test_rotations_round_trip() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(0, 1, (200, 3))
    vectors *= (np.pi * 0.999) / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.pi * 0.999)
    matrices = synth_body.rotation(vectors)
    np.testing.assert_allclose(synth_body.rotation_vector(matrices), vectors, atol=1e-7)
    np.testing.assert_allclose(synth_body.from_quaternion(synth_body.quaternion(matrices)), matrices, atol=1e-12)
    np.testing.assert_allclose(synth_body.part_of(matrices[0], 0.5) @ synth_body.part_of(matrices[0], 0.5), matrices[0])


def test_limbs_point_where_the_joints_say() -> None:
    """A T-pose from anny's A-pose, then a bent knee: the posed heads lie in the directions asked for."""
    body = Body.load()
    shape = body.shape(PHENOTYPE)
    heads = (shape.heads @ synth_body.TO_ANNY).astype(float)
    local = np.tile(np.eye(3), (21, 1, 1))
    local[synth_body.JOINTS.index("knee.L")] = synth_body.rotation(np.array([np.pi / 2, 0, 0]))
    away = synth_body.bone_rotations(body.bone_names, body.bone_parents, heads, local)
    posed = heads.copy()
    for i in range(1, len(heads)):
        p = body.bone_parents[i]
        posed[i] = posed[p] + away[p] @ (heads[i] - heads[p])

    def direction(a: str, b: str) -> np.ndarray:
        d = posed[body.bone_names.index(b)] - posed[body.bone_names.index(a)]
        return d / np.linalg.norm(d)

    np.testing.assert_allclose(direction("upperarm01.L", "lowerarm01.L"), [1, 0, 0], atol=1e-6)
    np.testing.assert_allclose(direction("upperarm01.R", "lowerarm01.R"), [-1, 0, 0], atol=1e-6)
    np.testing.assert_allclose(direction("upperleg01.R", "lowerleg01.R"), [0, -1, 0], atol=1e-6)
    np.testing.assert_allclose(direction("lowerleg01.L", "foot.L"), [0, 0, -1], atol=1e-6)


def test_path_is_continuous_and_turns_left() -> None:
    path = walk.Path((0.0, 0.0), 0.0, 1.0, 0.5, np.pi)
    at = np.array([path(s)[0] for s in np.linspace(0, 3.5, 701)])
    step = np.linalg.norm(np.diff(at, axis=0), axis=1)
    assert step.max() < 0.0051
    np.testing.assert_allclose(path(1.0)[0], [0, 1], atol=1e-9)
    np.testing.assert_allclose(path(1.0 + 0.5 * np.pi)[0], [1, 1], atol=1e-9)  # the walker's left is x
    assert path(3.0)[1] == pytest.approx(np.pi)


@pytest.mark.slow
@pytest.mark.skipif(not CACHE.exists(), reason="needs the baked base mesh (training.render makes it)")
def test_truth_of_rendered_pictures(shared: Path) -> None:
    from training.render import SIZE, Renderer

    render = Renderer(shared / "data", CACHE, seed=11, with_mesh=True)
    body = Body.load()
    for _ in range(12):
        t = render()
        assert t.picture.shape == (SIZE, SIZE, 3)
        focal, cx, cy, root, scale, _ = t.camera
        xy = t.mesh[body.lowpoly, :2] / t.mesh[body.lowpoly, 2:] * focal + [cx, cy]
        np.testing.assert_allclose(t.vertices[:, :2], xy, atol=1e-2)
        np.testing.assert_allclose(t.vertices[:, 2], (t.mesh[body.lowpoly, 2] - root) * scale, atol=1e-2)
        hips = t.joints[2:4].mean(0)
        assert abs(hips[2]) < 1e-3
        # The surface samples are where their triangles are.
        corners = t.mesh[body.lowpoly][body.lowpoly_faces[t.iuv_face]]
        point = (corners * t.iuv_bary[..., None]).sum(1)
        np.testing.assert_allclose(point[:, :2] / point[:, 2:] * focal + [cx, cy], t.iuv_xy, atol=0.05)
        # Seen vertices lie on the seen person, up to the thin low-poly mesh's rim.
        near = cv2.dilate(t.silhouette.astype(np.uint8), np.ones((7, 7), np.uint8)) > 0
        seen = t.vertices[t.visibility == 1, :2].astype(int)
        assert near[seen[:, 1], seen[:, 0]].mean() > 0.97
        assert ((t.vertices[t.visibility == 3, :2] < 0) | (t.vertices[t.visibility == 3, :2] >= SIZE)).any(1).all()
