# SPDX-License-Identifier: Apache-2.0
"""`meshpose people` and `meshpose correct`: what they do, what they list, and one line for what cannot be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from takes import make_take

from meshpose.cli import main
from meshpose.take import Take


@pytest.fixture
def path(tmp_path: Path) -> Path:
    make_take(tmp_path / "walk.take", gaps=False).close()
    with Take.resume(tmp_path / "walk.take") as take:
        take.set_settings({"model": "accurate"})
    return tmp_path / "walk.take"


def test_people(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["people", str(path), "split", "1@5", "+", "swap", "2", "3@6-8", "+", "delete", "2", "--no-refit"]
    assert main(words) == 0
    assert capsys.readouterr().out.splitlines() == [
        "1: split 1@5 (the later one is 3)", "2: swap 2 3@6-8", "3: delete 2",
    ]  # fmt: skip
    assert main(["people", str(path), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert [person["id"] for person in said["people"]] == [1, 3] and len(said["edits"]) == 3
    assert main(["people", str(path), "undo", "3", "--no-refit"]) == 0
    with Take.open(path) as take:
        assert take.people == [1, 2, 3]


def test_correct_and_the_rest_follows(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    joint = ["correct", str(path), "joint", "1@4", "elbow.L", "150", "100", "--space", "pixel", "--reach", "3"]
    assert main([*joint, "--progress", "none"]) == 0
    assert main(["correct", str(path), "freeze", "1@6-9", "--bones", "head", "--no-refit"]) == 0
    assert main(["correct", str(path), "sides", "1@1-2", "arms", "--no-refit"]) == 0
    capsys.readouterr()
    assert main(["correct", str(path)]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert listed[0] == "correction 1: person 1@4 lowerarm01.L to pixel 150.0, 100.0, over 3 frames"
    assert listed[1:] == ["correction 2: freeze person 1@6-9 (head)", "edit 1: sides 1@1-2 arms"]
    with Take.open(path) as take:
        fit, plain = take.person(1).fit(), take.person(1).fit(corrected=False)
        assert fit is not None and plain is not None and (fit.rotations[4] != plain.rotations[4]).any()
        assert (fit.rotations[[0, 8]] == plain.rotations[[0, 8]]).all()


def test_what_a_later_edit_takes_from_a_correction_is_said(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["correct", str(path), "freeze", "1@4-8", "--no-refit"]) == 0
    capsys.readouterr()
    lost = "warning: correction 1: freeze person 1@4-8: person 1 is there in a part of these frames only"
    for words in (["people", str(path), "split", "1@6", "--no-refit"], ["correct", str(path)]):
        assert main(words) == 0
        assert capsys.readouterr().err.splitlines() == [lost]


@pytest.mark.parametrize(
    ("words", "message"),
    [(["people", "merge", "1"], "give one of list, merge"), (["people", "merge", "1", "9"], "no person 9"),
     (["people", "split", "1"], "PERSON@FRAME"), (["people", "undo", "x"], "give a number"),
     (["correct", "joint", "1@3", "wrist.L", "1", "2"], "give one of list, joint"),
     (["correct", "joint", "1@3", "wrist.L", "1", "2", "z"], "give a number"),
     (["correct", "blend", "1@3-2"], "range")],
)  # fmt: skip
def test_what_cannot_be(path: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([words[0], str(path), *words[1:], "--progress", "none"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and said[0].startswith("error: ") and message in said[0]
