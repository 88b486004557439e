# SPDX-License-Identifier: Apache-2.0
"""Edits of who is who: what they do to the people, that `raw` stays, that all after it follows, that undo undoes."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from takes import make_take

from meshpose.body import Body
from meshpose.convert import refit
from meshpose.edits import Edit, assign, exchange_sides
from meshpose.errors import InputError, TakeError
from meshpose.take import Take


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Two people in 12 frames; the second is missed in frames 0, 1 and 6."""
    make_take(tmp_path / "walk.take").close()
    with Take.resume(tmp_path / "walk.take") as take:
        take.set_settings({"model": "accurate"})
    return tmp_path / "walk.take"


def raw_bytes(path: Path) -> str:
    """Hash of the table `raw` itself, whatever the Take says of it."""
    digest = hashlib.sha256()
    with sqlite3.connect(path) as database:
        for row in database.execute("SELECT * FROM raw ORDER BY person, frame"):
            digest.update(repr(row).encode())
    return digest.hexdigest()


def frames(path: Path) -> dict[int, list[int]]:
    with Take.open(path) as take:
        return {number: take.person(number).frames.tolist() for number in take.people}


@pytest.fixture
def writer(path: Path) -> Iterator[Take]:
    with Take.resume(path) as take:
        yield take


ALL, SECOND = list(range(12)), [2, 3, 4, 5, 7, 8, 9, 10, 11]


def test_split_gives_the_later_one_a_new_number(path: Path) -> None:
    before = raw_bytes(path)
    with Take.resume(path) as take:
        old = take.person(1).lowpoly_pixels()
        edit = take.edits.split(1, 5)
        assert (edit.people, str(edit)) == ((1, 3), "1: split 1@5 (the later one is 3)")
        np.testing.assert_array_equal(take.person(3).lowpoly_pixels(), old[5:])
        np.testing.assert_array_equal(take.person(1).visibility([4]).shape, (1, 500))
        with pytest.raises(TakeError, match="frame 5"):
            take.person(1).lowpoly_pixels([5])
    assert frames(path) == {1: ALL[:5], 2: SECOND, 3: ALL[5:]}
    assert raw_bytes(path) == before


def test_merge_keeps_gaps_and_the_first_one_where_both_are(writer: Take) -> None:
    first = writer.edits.split(1, 5)
    writer.edits.delete(2)
    second = writer.edits.split(3, 9)
    assert second.people[1] == 4, "a new number each time"
    writer.edits.delete(3)
    merged = writer.edits.merge(1, 4)
    assert writer.people == [1] and writer.person(1).frames.tolist() == [0, 1, 2, 3, 4, 9, 10, 11]
    with pytest.raises(InputError, match="names"):
        writer.edits.undo(first.id)
    writer.edits.undo(merged.id)
    assert writer.people == [1, 4]


def test_merge_of_people_on_the_same_frames(writer: Take) -> None:
    mine = writer.person(1).lowpoly_pixels()
    writer.edits.merge(1, 2)
    np.testing.assert_array_equal(writer.person(1).lowpoly_pixels(), mine)
    writer.edits.undo(1)
    writer.edits.merge(2, 1)
    assert writer.person(2).frames.tolist() == ALL
    np.testing.assert_array_equal(writer.person(2).lowpoly_pixels([0, 6]), mine[[0, 6]])


def test_swap_in_a_range(writer: Take) -> None:
    one, two = writer.person(1).lowpoly_pixels(), writer.person(2).lowpoly_pixels()
    assert str(writer.edits.swap(1, 2, 4, 7)) == "1: swap 1 2@4-7"
    assert writer.person(1).frames.tolist() == [0, 1, 2, 3, 4, 5, 7, 8, 9, 10, 11]
    assert writer.person(2).frames.tolist() == ALL[2:]
    np.testing.assert_array_equal(writer.person(1).lowpoly_pixels([4, 5, 7]), two[[2, 3, 4]])
    np.testing.assert_array_equal(writer.person(2).lowpoly_pixels([3, 6, 8]), np.stack([two[1], one[6], two[5]]))


def test_everything_after_raw_follows_and_undo_brings_it_back(path: Path) -> None:
    run(path)
    with Take.open(path) as take:
        digest, other = take.digest(), take.made_from("fit", 2)
    with Take.resume(path) as take:
        take.edits.split(1, 6)
    run(path)
    with Take.open(path) as take:
        assert take.digest() != digest
        for number, wanted in {1: ALL[:6], 2: SECOND, 3: ALL[6:]}.items():
            fit, motion = take.person(number).fit(), take.person(number).motion()
            assert fit is not None and fit.frames.tolist() == wanted
            assert motion is not None and set(wanted) <= set(motion.frames.tolist())
            assert len(take.person(number).lowpoly()) == len(wanted)
        assert take.made_from("fit", 2) == other, "whom no edit touches is not made again"
    with Take.resume(path) as take:
        take.edits.undo(1)
    run(path)
    with Take.open(path) as take:
        assert take.digest() == digest
        assert take.people == [1, 2] and take.edits.all() == []


def run(path: Path) -> None:
    for _ in refit(path):
        pass


def test_an_edit_of_a_person_who_was_not_chosen_stays_unseen(path: Path) -> None:
    with Take.resume(path) as take:
        take.keep([1])
        take.edits.split(1, 5)
        assert take.people == [1, 3], "2 was not chosen before and is not now"


@pytest.mark.parametrize(
    ("call", "message"),
    [(("merge", 1, 7), "no person 7; the Take holds 1, 2"), (("merge", 1, 1), "two different"),
     (("split", 1, 0), "0 to 11"), (("split", 2, 12), "2 to 11"), (("swap", 1, 2, 7, 3), "no range"),
     (("swap", 1, 2, 50, 60), "nobody"), (("sides", 1, 2, 3, "ears"), "legs"), (("undo", 9), "no edit 9")],
)  # fmt: skip
def test_what_cannot_be_is_one_line_and_changes_nothing(writer: Take, call: tuple[object, ...], message: str) -> None:
    name, *arguments = call
    with pytest.raises(InputError, match=message) as error:
        getattr(writer.edits, str(name))(*arguments)
    assert "\n" not in str(error.value)
    assert writer.edits.all() == [] and writer.people == [1, 2]


def test_only_a_finished_take_that_is_open_for_writing(path: Path, tmp_path: Path) -> None:
    with Take.open(path) as take, pytest.raises(TakeError, match="reading only"):
        take.edits.delete(1)
    with sqlite3.connect(path) as database:
        database.execute("DELETE FROM job WHERE name = 'finished'")
    with Take.resume(path) as take, pytest.raises(TakeError, match="not finished"):
        take.edits.delete(1)


def test_edits_apply_in_order() -> None:
    track, frame = np.repeat([1, 2], 4), np.tile(np.arange(4), 2)
    twice = [Edit(1, "swap", (1, 2), 1, 2), Edit(2, "swap", (1, 2), 2, None)]
    assert assign(track, frame, twice).person.tolist() == [1, 2, 1, 2, 2, 1, 2, 1]
    sides = assign(track, frame, [Edit(1, "sides", (1,), 1, 2, "legs"), Edit(2, "sides", (1,), 2, 2, "legs")]).sides
    assert sides.tolist() == [0, 1, 0, 0, 0, 0, 0, 0], "exchanged twice is not exchanged"


def test_a_body_that_was_taken_for_turned_round() -> None:
    """What a network that errs says is the mirrored body with its depth turned round: `sides` undoes exactly that."""
    body = Body.load()
    true = body.template[body.lowpoly].astype(np.float32) * [200, 200, -200]
    pixels = (true[:, [0, 2, 1]] * [1, 1, 1]).astype(np.float32)[None]  # x right, y down, z away
    wrong = pixels[:, body.lowpoly_mirror] * np.array([1, 1, -1], np.float32)
    np.testing.assert_allclose(exchange_sides(wrong, np.array([4]), body), pixels, atol=1e-5)
    # Sides exchanged in the picture alone: depth is right and stays.
    flat = pixels[:, body.lowpoly_mirror]
    np.testing.assert_allclose(exchange_sides(flat, np.array([4]), body), pixels, atol=1e-5)


def test_legs_alone(writer: Take) -> None:
    body = Body.load()
    before, seen = writer.person(1).lowpoly_pixels(), writer.person(1).visibility()
    writer.edits.sides(1, 3, 5, "legs")
    after = writer.person(1).lowpoly_pixels()
    rest = [f for f in ALL if f not in (3, 4, 5)]
    np.testing.assert_array_equal(after[rest], before[rest])
    names = [body.bone_names[i] for i in body.skin_bones[body.lowpoly, 0]]
    foot = [i for i, n in enumerate(names) if n.startswith(("lowerleg", "foot"))]
    arm = [i for i, n in enumerate(names) if n.startswith(("lowerarm", "spine01"))]
    np.testing.assert_array_equal(after[3:6, foot], before[3:6][:, body.lowpoly_mirror[foot]])
    np.testing.assert_array_equal(after[3:6, arm], before[3:6, arm])
    np.testing.assert_array_equal(writer.person(1).visibility([4])[:, foot], seen[[4]][:, body.lowpoly_mirror[foot]])
