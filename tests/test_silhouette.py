# SPDX-License-Identifier: Apache-2.0
"""The training's soft silhouette (slow: needs torch)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from meshpose.body import Body

pytestmark = pytest.mark.slow


def standing(turn: float = 0.5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A body in the crop: low-poly (V, 3) px with depth, faces (F, 3), seen (V,) bool."""
    from training.data import self_occluded

    body = Body.load()
    points = body.template[body.lowpoly].astype(np.float64)
    up = int(np.ptp(points, axis=0).argmax())
    side, front = ((0, 2) if up == 1 else (0, 1)) if up != 0 else (1, 2)
    x, y, z = (points[:, k] - (points[:, k].max() + points[:, k].min()) / 2 for k in (side, up, front))
    scale = 200 / np.ptp(y)
    x, z = np.cos(turn) * x + np.sin(turn) * z, np.cos(turn) * z - np.sin(turn) * x
    vertices = np.stack([128 + scale * x, 128 - scale * y, scale * z], 1).astype(np.float32)
    hidden = self_occluded(vertices[None], body.lowpoly_faces)[0]
    return vertices, body.lowpoly_faces.astype(np.int64), ~hidden


def as_tensors(torch: Any, *arrays: np.ndarray) -> list[Any]:
    return [torch.from_numpy(np.ascontiguousarray(a)) for a in arrays]


def test_soft_silhouette_is_equation_12_written_out() -> None:
    """Against all faces at a cell, one by one."""
    torch = pytest.importorskip("torch")
    from training import silhouette as s

    vertices, faces, _ = standing()
    seen = np.random.default_rng(0).uniform(0.1, 0.9, len(vertices))
    xy = vertices[:, :2].astype(np.float64)
    found = s.soft_silhouette(*as_tensors(torch, xy[None], seen[None], faces))[0].numpy()
    cells = [(40, 48), (48, 48), (57, 45), (70, 52), (30, 30), (90, 20)]
    for row, column in cells:
        middle, through = np.array([column + 0.5, row + 0.5]), 1.0
        for face in faces:
            corners = xy[face] / s.STRIDE + s.MARGIN
            a, b, c = corners
            share = np.linalg.solve(np.stack([np.append(p, 1) for p in (a, b, c)], 1), np.append(middle, 1))
            away = np.inf
            for p, q in ((a, b), (b, c), (c, a)):
                place = np.clip((middle - p) @ (q - p) / ((q - p) @ (q - p)), 0, 1)
                away = min(away, ((middle - p - place * (q - p)) ** 2).sum())
            sign = 1 if (share >= 0).all() else -1
            share = np.clip(share, 0, None) / np.clip(share, 0, None).sum()
            through *= 1 - (share @ seen[face]) / (1 + np.exp(min(-sign * away / s.SOFT, 50)))
        assert found[row, column] == pytest.approx(1 - through, abs=2e-3), (row, column)
    assert found[48, 48] > 0.5 and found[90, 20] == 0


def test_silhouette_of_the_truth_is_the_truth_s() -> None:
    """The mesh with its true visibility covers what is seen; nothing is seen of a mesh whose visibility is 0."""
    torch = pytest.importorskip("torch")
    from training import silhouette as s

    vertices, faces, seen = standing()
    cells = s.seen_cells(vertices[:, :2], seen, np.zeros(len(seen), bool), faces)
    xy, w, f = as_tensors(torch, vertices[None, :, :2], seen[None].astype(np.float32), faces)
    found = (s.soft_silhouette(xy, w, f)[0] > 0.5).numpy()
    truth = cells == s.SEEN
    assert (found & truth).sum() / (found | truth).sum() > 0.9
    assert s.soft_silhouette(xy, torch.zeros_like(w), f).abs().max() == 0
    within = s.depth_within(cells)
    assert (within[~truth] == 0).all() and within.max() > 3, "deepest in the trunk"


def test_a_hidden_part_is_no_part_of_what_is_seen() -> None:
    """Legs behind something are unseen, the edge of what hides them is left open."""
    pytest.importorskip("torch")
    from training import silhouette as s

    vertices, faces, seen = standing()
    whole = s.seen_cells(vertices[:, :2], seen, np.zeros(len(seen), bool), faces)
    covered = vertices[:, 1] > 160
    cells = s.seen_cells(vertices[:, :2], seen & ~covered, covered, faces)
    rows = (np.arange(s.SIDE) + 0.5 - s.MARGIN) * s.STRIDE
    assert (cells[rows > 175] == s.UNSEEN).all() and (whole[rows > 175] == s.SEEN).any()
    assert (cells[rows < 140] == whole[rows < 140]).all()
    assert (cells == s.UNKNOWN).any() and (np.abs(rows[np.nonzero(cells == s.UNKNOWN)[0]] - 160) < 20).all()


def test_nothing_is_seen_out_of_the_crop() -> None:
    """Of somebody of whom the picture shows a half no cell of the margin is SEEN, mirrored or not; of the crop many."""
    pytest.importorskip("torch")
    import cv2

    from training import silhouette as s
    from training.data import OUTSIDE, SEEN, Crops, Person

    vertices, faces, _ = standing()
    vertices[:, 0] += 120
    codes = np.where(vertices[:, 0] < 256, SEEN, OUTSIDE).astype(np.uint8)
    box = np.array([200, 28, 56, 200], np.float32)
    jpeg = cv2.imencode(".jpg", np.zeros((256, 256, 3), np.uint8))[1].tobytes()
    person = Person(jpeg, box, np.zeros((14, 3), np.float32), vertices, codes, True, "render")
    crops = Crops([person], faces, Body.load().lowpoly_mirror)
    margin = np.ones((s.SIDE, s.SIDE), bool)
    margin[s.MARGIN : -s.MARGIN, s.MARGIN : -s.MARGIN] = False
    for draw in range(12):
        cells = crops[0, draw]["cells"].numpy()
        assert not (cells[margin] == s.SEEN).any() and (cells == s.SEEN).sum() > 100


def test_the_loss_draws_the_mesh_to_the_silhouette() -> None:
    """Some steps of descent from a body that is too thin, too small, or called unseen end nearer to the truth; nothing
    is asked of pictures without a truth, and degenerate faces have finite gradients."""
    torch = pytest.importorskip("torch")
    from training import silhouette as s

    vertices, faces, seen = standing()
    cells = s.seen_cells(vertices[:, :2], seen, np.zeros(len(seen), bool), faces)
    truth, f, true_xy, true_seen = as_tensors(
        torch, cells[None], faces, vertices[None, :, :2], seen[None].astype(np.float32)
    )
    has = torch.ones(1)

    def loss(factor: Any, logit: Any) -> Any:
        xy = (true_xy - 128) * factor + 128
        return s.silhouette_loss(s.soft_silhouette(xy, true_seen * logit.sigmoid(), f), truth, has)

    for start in ((0.8, 1.0), (1.0, 0.85), (1.15, 1.05)):
        factor, logit = torch.tensor(start, requires_grad=True), torch.tensor(0.0, requires_grad=True)
        optimiser = torch.optim.Adam([factor, logit], 0.02)
        for _ in range(60):
            optimiser.zero_grad()
            loss(factor, logit).backward()
            optimiser.step()
        assert float(logit.detach()) > 0.5
        before = abs(np.array(start) - 1).max()
        assert abs(factor.detach().numpy() - 1).max() < max(before / 2, 0.06), (start, factor)
    flat = torch.zeros(2, len(seen), 2, requires_grad=True)
    found = s.soft_silhouette(flat, true_seen.expand(2, -1), f)
    value = s.silhouette_loss(found, truth.expand(2, -1, -1), torch.zeros(2))
    value.backward()
    assert float(value.detach()) == 0 and torch.isfinite(flat.grad).all()
