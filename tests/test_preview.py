# SPDX-License-Identifier: Apache-2.0
"""The preview: meshes on their frames, each picture as long as it stands in the clip."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from takes import HEIGHT, WIDTH, make_take

from meshpose import preview
from meshpose.body import Body
from meshpose.errors import OutputError
from meshpose.raster import silhouette
from meshpose.video import Frame

GREY = np.full((HEIGHT, WIDTH, 3), 120, np.uint8)


class FakeClip:
    """Grey pictures, each a little brighter, at times of its own."""

    times: tuple[float, ...] = ()

    def __init__(self, path: Path, start: int = 0) -> None:
        self.start = start

    def __iter__(self) -> Iterator[Frame]:
        for index, time in enumerate(self.times):
            if index >= self.start:
                yield Frame(index, time, np.full((HEIGHT, WIDTH, 3), 40 + 20 * index, np.uint8))


def levels(path: Path) -> list[int]:
    """Index of the fake picture behind each frame of a preview."""
    capture = cv2.VideoCapture(str(path))
    found: list[int] = []
    while True:
        ok, image = capture.read()
        if not ok:
            return found
        found.append(round((float(np.median(image)) - 40) / 20))


def test_pictures_stand_as_long_as_in_the_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    take = make_take(tmp_path / "a.take", frames=5, people=1)
    monkeypatch.setattr(preview, "Clip", FakeClip)
    monkeypatch.setattr(FakeClip, "times", (0.0, 0.04, 0.08, 0.2, 0.24))
    monkeypatch.setattr(preview, "draw_mesh", lambda image, *a: image.copy())
    assert list(preview.write(take, tmp_path / "p.mp4")) == [1, 2, 3, 4, 5]
    assert levels(tmp_path / "p.mp4") == [0, 1, 2, 2, 2, 3, 4]


def test_half_a_preview_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    take = make_take(tmp_path / "a.take", frames=5, people=1)
    monkeypatch.setattr(preview, "Clip", FakeClip)
    monkeypatch.setattr(FakeClip, "times", (0.0, 0.04, 0.08, 0.12, 0.16))
    (tmp_path / "p.mp4").write_bytes(b"old")
    work = preview.write(take, tmp_path / "p.mp4")
    next(work)
    work.close()  # type: ignore[attr-defined]
    assert (tmp_path / "p.mp4").read_bytes() == b"old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.mp4", "a.take", "p.mp4"]
    with pytest.raises(OutputError):
        next(preview.write(take, tmp_path / "no such folder" / "p.mp4"))


def test_mesh_is_drawn_where_the_person_is(tmp_path: Path) -> None:
    take = make_take(tmp_path / "a.take", frames=3, people=1)
    drawn = preview.Painter(take).draw(1, GREY.copy())
    changed = np.abs(drawn.astype(int) - GREY).max(-1) > 8
    pixels = take.person(1).lowpoly_pixels([1])[0]
    body = silhouette(pixels[:, :2], Body.load().lowpoly_faces, WIDTH, HEIGHT)
    assert body.sum() > 500
    assert (changed & body).sum() > 0.95 * body.sum() and (changed & ~body).sum() < 0.25 * body.sum()
    green = drawn[body].astype(float).mean(0)
    assert green[1] > green[2], "seen: the person's colour"
    np.testing.assert_array_equal(preview.Painter(take).draw(99, GREY.copy()), GREY)


def test_several_people_are_told_apart(tmp_path: Path) -> None:
    take = make_take(tmp_path / "a.take", frames=5, people=2, gaps=False)
    painter = preview.Painter(take)
    both = painter.draw(3, GREY.copy())
    painter.people = painter.people[:1]
    alone = painter.draw(3, GREY.copy())
    pixels = take.person(2).lowpoly_pixels([3])[0]
    second = silhouette(pixels[:, :2], Body.load().lowpoly_faces, WIDTH, HEIGHT)
    only = second & (np.abs(alone.astype(int) - GREY).max(-1) < 4)
    assert only.sum() > 100 and np.abs(both[only].astype(int) - alone[only]).max(-1).mean() > 8
    top = np.where(np.abs(both.astype(int) - GREY).max(-1) > 8)[0].min()
    assert top < pixels[:, 1].min() - 5, "the number stands above the head"
