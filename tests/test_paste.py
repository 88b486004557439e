# SPDX-License-Identifier: Apache-2.0
"""Other people before photographed ones (slow: needs torch, which the training's samples are made of)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from meshpose.body import Body

pytestmark = pytest.mark.slow


def somebody(exact: bool = False) -> Any:
    """A person of random points on a black picture of 200 x 240."""
    from training.data import HIDDEN, OUTSIDE, SEEN, Person

    rng = np.random.default_rng(0)
    count = len(Body.load().lowpoly)
    vertices = np.concatenate([rng.uniform((60, 40), (140, 200), (count, 2)), rng.normal(0, 9, (count, 1))], 1)
    codes = rng.choice([HIDDEN, SEEN, OUTSIDE], count, p=(0.3, 0.6, 0.1)).astype(np.uint8)
    joints = np.concatenate([rng.uniform((60, 40), (140, 200), (14, 2)), np.full((14, 1), 2)], 1).astype(np.float32)
    jpeg = cv2.imencode(".png", np.zeros((240, 200, 3), np.uint8))[1].tobytes()
    box = np.array([60, 40, 80, 160], np.float32)
    return Person(jpeg, box, joints, vertices.astype(np.float32), codes, exact, "lspet train")


def test_what_others_hide_is_hidden_by_something_else() -> None:
    """White people before a black picture: the vertices under white are OCCLUDED, nobody vanishes, the truth stays."""
    pytest.importorskip("torch")
    from training.data import HIDDEN, OCCLUDED, OUTSIDE, SEEN
    from training.paste import LEFT, Crowd

    white = (np.full((120, 40, 3), 255, np.float32), np.ones((120, 40), np.float32))
    crowd = Crowd([white])
    person: Any = somebody()
    black = np.zeros((240, 200, 3), np.uint8)
    hidden, boxes = [], 0
    for seed in range(40):
        found, image = crowd.before(person, black, np.random.default_rng(seed))
        after: Any = found
        x, y = np.floor(person.vertices[:, :2]).astype(int).T
        under, outside = image[y, x, 0] > 140, person.visibility == OUTSIDE
        assert (after.visibility[outside] == OUTSIDE).all()
        assert ((after.visibility == OCCLUDED) == (under & ~outside)).mean() > 0.99, "the rim is soft"
        assert set(person.visibility[after.visibility == OCCLUDED]) <= {HIDDEN, SEEN}
        assert (after.visibility == SEEN).sum() >= LEFT * (person.visibility == SEEN).sum()
        np.testing.assert_array_equal(after.vertices, person.vertices)
        np.testing.assert_array_equal(after.joints, person.joints)
        hidden.append((after.visibility == OCCLUDED).sum())
        boxes += not np.array_equal(after.box, person.box)
    assert np.count_nonzero(hidden) > 20 and 8 < boxes < 32
    assert not black.any(), "the picture itself is left alone"


def test_nobody_is_put_before_renders_or_without_a_crowd(tmp_path: Path) -> None:
    """Renders have crowds of their own; a data folder without ccp has nobody; an unfitted person is left alone."""
    pytest.importorskip("torch")
    from dataclasses import replace

    from training.data import Crops
    from training.paste import Crowd

    assert Crowd.load(tmp_path).people == []
    body = Body.load()
    white = Crowd([(np.full((120, 40, 3), 255, np.float32), np.ones((120, 40), np.float32))])
    people = [somebody(), somebody(exact=True)]
    crops = Crops(people, body.lowpoly_faces, body.lowpoly_mirror, cut=0, stretched=0, crowded=1.0, crowd=white.before)
    bright = np.array([[float(crops[i, k]["crop"].mean()) for k in range(12)] for i in range(2)])
    assert np.median(bright[0]) > np.median(bright[1]) + 0.03
    unknown, image = replace(people[0], vertices=None, visibility=None), np.zeros((240, 200, 3), np.uint8)
    assert white.before(unknown, image, np.random.default_rng(0)) == (unknown, image)
