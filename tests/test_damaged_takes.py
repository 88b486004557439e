# SPDX-License-Identifier: Apache-2.0
"""A Take edited into nonsense: 200 damaged copies, each of which opens right or is refused in one line.

"Opens right": every array that the Take hands out has its shape, is finite and lies where such values can lie, and the
later stages (`refit`) run on it.  tests/blender/test_scene_damaged.py builds scenes from some of the same copies.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from damage import WAYS, damaged_copies, look_at_everything
from fake_network import install
from takes import add_fit, make_take

from meshpose import records
from meshpose.body import Body
from meshpose.cli import main
from meshpose.convert import refit
from meshpose.errors import MeshPoseError, TakeError
from meshpose.motion import MotionSettings, solve_take
from meshpose.take import Take

COPIES = 200


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished Take with everything in it."""
    path = tmp_path_factory.mktemp("whole") / "walk.take"
    make_take(path, frames=10, people=2).close()
    with Take.resume(path) as take:
        take.set_job_value("found", "[1, 2]")
        for number in take.people:
            frames, size = take.person(number).frames, take.person(number).metres_per_pixel()
            take.set_place(number, frames, size, "made by the test", np.full((len(frames), 500, 3), 0.5))
            add_fit(take, number)
        for _ in solve_take(take, MotionSettings(), "made by the test"):
            pass
    return path


def test_200_damaged_copies(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with Take.open(whole) as take:
        expected = look_at_everything(take)
        digest = take.digest()
    install(monkeypatch.setattr)  # the rig fit costs nothing; what it is given is checked by the real one's rules
    told: dict[str, list[str]] = {way: [] for way in WAYS}
    for number, (way, path) in enumerate(damaged_copies(whole, tmp_path, COPIES)):
        shutil.copy(whole.with_suffix(".mp4"), path.with_suffix(".mp4"))
        try:
            with Take.open(path) as take:
                seen = look_at_everything(take)
            told[way].append("opens")
            if way == "as it was":
                assert seen == expected
        except MeshPoseError as error:
            assert "\n" not in str(error) and str(path) in str(error), error
            told[way].append(str(error))
        for words in (["info", str(path), "--json"], ["refit", str(path), "--set", "smooth=0.2", "--progress", "none"]):
            assert main(words) in (0, 2), (number, way, words)
            shown = capsys.readouterr().err.splitlines()
            shown = [line for line in shown if not line.startswith("warning: ")]
            assert len(shown) <= 1 and "Traceback" not in "".join(shown), (number, way, words, shown)
    for way, answers in told.items():
        if way == "as it was":
            assert set(answers) == {"opens"}
        else:
            assert any(answer != "opens" for answer in answers) or way == "swapped people", (way, answers)
    with Take.open(whole) as take:
        assert take.digest() == digest


def test_values_are_named(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is wrong is said, with the name of the file."""
    install(monkeypatch.setattr)
    path = tmp_path / "a.take"
    shutil.copy(whole, path)
    take = Take.resume(path)
    take._db.run("UPDATE raw SET vertices = ? WHERE frame = 3", (np.full((500, 3), np.nan, np.float32).tobytes(),))
    take._db.run("UPDATE raw SET visibility = x'00' WHERE frame = 4 AND person = 1")
    take._db.run("UPDATE place SET metres_per_pixel = -1 WHERE frame = 2")
    take._db.run("UPDATE fit_frame SET rotations = zeroblob(104 * 16) WHERE frame = 2")
    take.commit()
    take.close()
    person = Take.open(path).person(1)
    for read, words in (
        (lambda: person.lowpoly_pixels([3]), "vertices holds a value that is not between"),
        (lambda: person.visibility(), "visibility has 1 bytes in the place of 1000 bytes"),
        (lambda: person.metres_per_pixel([2]), "metres_per_pixel holds a value"),
        (lambda: person.fit(), "quaternion that is not of length 1"),
    ):
        with pytest.raises(TakeError, match=f"{path.name}: the Take is damaged .*{words}"):
            read()
    assert person.lowpoly_pixels([0, 1]).shape == (2, 500, 3), "the other frames are as good as they were"
    with pytest.raises(TakeError, match="damaged"):
        list(refit(path, smooth=0.1))


@pytest.mark.parametrize(
    "words",
    ["smooth=a lot", "level=1", "fill_gaps=1.5", "only=7", "only=[[1]]", "heights=[]", 'heights={"x": 1}', "fov=[]"],
)
def test_settings_that_cannot_be_are_one_line(whole: Path, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["refit", str(whole), "--set", words]) == 2
    shown = capsys.readouterr().err.splitlines()
    assert len(shown) == 1 and words.partition("=")[0].replace("_", "-") in shown[0]


def test_sizes_are_the_bodys() -> None:
    body = Body.load()
    assert (records.VERTICES, records.BONES) == (len(body.lowpoly), len(body.bone_names))
