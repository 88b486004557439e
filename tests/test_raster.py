# SPDX-License-Identifier: Apache-2.0
"""The rasterizer against one that looks at every pixel and every triangle, and on scenes with known answers."""
from __future__ import annotations

import numpy as np
import pytest

from meshpose import raster


def brute_force(
    xy: np.ndarray, depth: np.ndarray, faces: np.ndarray, width: int, height: int
) -> tuple[np.ndarray, np.ndarray]:
    """Face (H, W) and depth (H, W) by solving for barycentric coordinates at each pixel and triangle."""
    face = np.full((height, width), -1)
    nearest = np.full((height, width), np.inf)
    for index, corners in enumerate(faces):
        system = np.vstack([xy[corners].T, np.ones(3)])
        if abs(np.linalg.det(system)) < 1e-12:
            continue
        for i in range(height):
            for j in range(width):
                b = np.linalg.solve(system, [j + 0.5, i + 0.5, 1.0])
                if (b >= 0).all() and b @ depth[corners] < nearest[i, j]:
                    nearest[i, j] = b @ depth[corners]
                    face[i, j] = index
    return face, nearest


def sphere(n: int = 24) -> tuple[np.ndarray, np.ndarray]:
    """A closed unit sphere, front faces turned as the body's: (n, 3) points, camera axes, and (m, 3) faces."""
    theta = np.linspace(0, np.pi, n)[1:-1]
    phi = np.linspace(0, 2 * np.pi, 2 * n, endpoint=False)
    along, around = (g.ravel() for g in np.meshgrid(theta, phi, indexing="ij"))
    ring = np.stack([np.sin(along) * np.cos(around), np.sin(along) * np.sin(around), np.cos(along)], axis=1)
    points = np.vstack([ring, [[0, 0, 1], [0, 0, -1]]])
    m, faces = 2 * n, []
    for i in range(n - 2):
        for j in range(m):
            a, b = i * m + j, i * m + (j + 1) % m
            if i < n - 3:
                faces += [[a, a + m, b + m], [a, b + m, b]]
            else:
                faces.append([a, len(points) - 1, b])
            if i == 0:
                faces.append([len(points) - 2, a, b])
    return points, np.array(faces)


@pytest.mark.parametrize("seed", range(4))
def test_rasterize_equals_brute_force(seed: int) -> None:
    rng = np.random.default_rng(seed)
    xy, depth = rng.uniform(-6, 26, (18, 2)), rng.uniform(1, 9, 18)
    faces = rng.permutation(18).reshape(6, 3)  # no two share an edge, where only rounding would decide
    got = raster.rasterize(xy, depth, faces, 20, 15)
    face, nearest = brute_force(xy, depth, faces, 20, 15)
    np.testing.assert_array_equal(got.face, face)
    np.testing.assert_allclose(got.depth, nearest, rtol=1e-5)
    np.testing.assert_array_equal(raster.silhouette(xy, faces, 20, 15), face >= 0)
    corners = faces[got.face[got.mask]]
    centre = np.argwhere(got.mask)[:, ::-1] + 0.5
    np.testing.assert_allclose(np.einsum("pk,pkc->pc", got.barycentric[got.mask], xy[corners]), centre, atol=1e-4)


def test_result_does_not_depend_on_the_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(7)
    xy, depth, faces = rng.uniform(0, 60, (90, 2)), rng.uniform(1, 9, 90), rng.integers(0, 90, (60, 3))
    whole = raster.rasterize(xy, depth, faces, 64, 48)
    monkeypatch.setattr(raster, "_CHUNK", 500)
    parts = raster.rasterize(xy, depth, faces, 64, 48)
    np.testing.assert_array_equal(whole.face, parts.face)
    np.testing.assert_array_equal(whole.depth, parts.depth)


def test_shared_edges_leave_no_cracks() -> None:
    points, faces = sphere(40)
    xy = points[:, :2] * 40 + (50, 50)  # many edges and vertices exactly on pixel centres
    mask = raster.silhouette(xy, faces, 100, 100)
    y, x = np.mgrid[:100, :100] + 0.5
    radius = np.hypot(x - 50, y - 50)
    assert mask[radius < 39.5].all()
    assert not mask[radius > 40.01].any()
    culled = raster.rasterize(xy, points[:, 2], faces, 100, 100, cull=True)
    np.testing.assert_array_equal(culled.mask, mask)  # the front of a closed mesh covers what all of it covers


def test_front_half_of_a_sphere_is_visible() -> None:
    points, faces = sphere()
    visible = raster.vertex_visibility(points[:, :2] * 60 + 64, points[:, 2] * 60, faces, 128, 128)
    np.testing.assert_array_equal(visible[points[:, 2] < -0.2], True)
    np.testing.assert_array_equal(visible[points[:, 2] > 0.05], False)


def test_what_is_behind_or_outside_is_not_visible() -> None:
    front = np.array([[0.0, 0, 5], [0, 20, 5], [20, 0, 5]])
    behind = np.array([[2.0, 2, 9], [2, 6, 9], [6, 2, 9], [38, 2, 9], [38, 6, 9], [45, 2, 9]])
    points = np.vstack([front, behind])
    faces = np.array([[0, 1, 2], [3, 4, 5], [6, 7, 8]])
    visible = raster.vertex_visibility(points[:, :2], points[:, 2], faces, 40, 30)
    assert visible.tolist() == [True, True, True, False, False, False, True, True, False]


def test_vertices_that_are_not_finite_are_left_out() -> None:
    xy = np.array([[0.0, 0], [0, 10], [10, 0], [np.nan, 3]])
    got = raster.rasterize(xy, np.ones(4), np.array([[0, 1, 2], [1, 2, 3]]), 10, 10)
    assert set(np.unique(got.face)) == {-1, 0}
    assert not raster.rasterize(xy, np.array([np.nan, 1, 1, 1]), np.array([[0, 1, 2]]), 10, 10).mask.any()
    assert not raster.silhouette(xy, np.zeros((0, 3), int), 10, 10).any()


def test_draw_mesh_paints_only_the_mesh() -> None:
    points, faces = sphere()
    image = np.full((90, 120, 3), 50, np.uint8)
    xy, depth = points[:, :2] * 30 + (10, 45), points[:, 2] * 30  # cut by the picture's left border
    red = np.tile(np.array([0, 0, 200]), (len(points), 1))
    out = raster.draw_mesh(image, xy, depth, faces, red, alpha=1.0)
    mask = raster.silhouette(xy, faces, 120, 90)
    np.testing.assert_array_equal(out[~mask], 50)
    assert (out[mask][:, :2] == 0).all()
    assert out[45, 10, 2] > 100 and np.unique(out[mask][:, 2]).size > 20  # shaded, not flat
    half = raster.draw_mesh(image, xy, depth, faces, red, alpha=0.5)
    np.testing.assert_allclose(half[mask], (out[mask].astype(float) + 50) / 2, atol=1)
    np.testing.assert_array_equal(image, 50)  # the caller's picture is untouched
    np.testing.assert_array_equal(raster.draw_mesh(image, xy + 1000, depth, faces), image)
