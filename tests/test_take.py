# SPDX-License-Identifier: Apache-2.0
"""The Take: what goes in comes out, exactly; foreign and newer files are refused; one writer at a time."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from takes import FPS, clip_info, estimates, make_take

from meshpose.errors import OutputError, TakeError
from meshpose.take import COMMIT_SECONDS, Take, clip_identity


def test_what_goes_in_comes_out(tmp_path: Path) -> None:
    take = make_take(tmp_path / "a.take", frames=8)
    expected = list(estimates(8, 0, take.camera))
    person = take.person(1)
    assert take.people == [1, 2] and person.name == "Person 1"
    np.testing.assert_array_equal(person.frames, np.arange(8))
    np.testing.assert_array_equal(person.lowpoly_pixels(), [e.vertices for e in expected])
    np.testing.assert_allclose(person.visibility(), [e.visibility for e in expected], atol=5e-4)
    np.testing.assert_array_equal(person.crops(), [e.crop.as_array() for e in expected])
    np.testing.assert_array_equal(person.score(), [e.score for e in expected])
    np.testing.assert_allclose(take.times(), np.arange(8) / FPS)
    np.testing.assert_array_equal(take.frames, np.arange(8))
    assert take.settings == {"model": "fake", "seed": 0}
    assert take.clip.width == 320 and take.clip.path == (tmp_path / "a.mp4").resolve()
    np.testing.assert_array_equal(take.clip.times, np.arange(8) / FPS)
    assert take.finished and take.tracker_state is None


def test_ranges_of_frames(tmp_path: Path) -> None:
    take = make_take(tmp_path / "a.take", frames=9)
    second = take.person(2)
    np.testing.assert_array_equal(second.frames, [2, 3, 5, 6, 7, 8])
    np.testing.assert_array_equal(second.lowpoly_pixels([5, 3]), second.lowpoly_pixels()[[2, 1]])
    np.testing.assert_array_equal(second.visibility(range(5, 8)), second.visibility()[2:5])
    assert second.lowpoly_pixels([]).shape == (0, 500, 3)
    with pytest.raises(TakeError, match="Person 2 in frame 4"):
        second.lowpoly_pixels(range(3, 6))
    assert np.concatenate(list(second.windows(4))).tolist() == second.frames.tolist()
    assert max(len(w) for w in second.windows(4)) == 4
    with pytest.raises(TakeError, match="no person 7; the Take holds 1, 2"):
        take.person(7)


def test_metres_fall_on_the_pixels(tmp_path: Path) -> None:
    take = make_take(tmp_path / "a.take", frames=5)
    person = take.person(1)
    metres = person.lowpoly()
    assert 3 < metres[..., 2].mean() < 6
    np.testing.assert_allclose(take.camera.project(metres), person.lowpoly_pixels()[..., :2], atol=0.01)


def test_digest_is_of_the_content(tmp_path: Path) -> None:
    digest = make_take(tmp_path / "a.take").digest()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "b.mp4").write_bytes((tmp_path / "a.mp4").read_bytes())
    again = make_take(tmp_path / "elsewhere" / "b.take")
    assert again.digest() == digest, "the same content, written again elsewhere"
    with sqlite3.connect(tmp_path / "a.take") as other:
        other.execute("VACUUM")
    assert Take.open(tmp_path / "a.take").digest() == digest, "another page layout"
    with sqlite3.connect(tmp_path / "a.take") as other:
        other.execute("UPDATE raw SET score = score + 1e-9 WHERE person = 2 AND frame = 5")
    assert Take.open(tmp_path / "a.take").digest() != digest, "one number changed"
    assert make_take(tmp_path / "elsewhere" / "b.take", seed=1, replace=True).digest() != digest


def test_take_and_clip_move_together(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    make_take(tmp_path / "old" / "a.take").close()
    (tmp_path / "old").rename(tmp_path / "new")
    take = Take.open(tmp_path / "new" / "a.take")
    assert take.clip.path == (tmp_path / "new" / "a.mp4").resolve()
    assert take.clip_identity == clip_identity(take.clip.path)
    (tmp_path / "new" / "a.mp4").write_bytes(b"cut")
    assert take.clip_identity != clip_identity(take.clip.path)


def test_commits_are_whole_frames_with_the_tracker(tmp_path: Path) -> None:
    people = [(1, e) for e in estimates(4)]
    take = Take.create(tmp_path / "a.take", clip_info(tmp_path / "a.mp4", 4))
    for index in range(3):
        take.add_frame(index, people[index : index + 1], f"after {index}".encode())
    take.commit()
    take.add_frame(3, people[3:], b"never committed")
    reader = Take.open(tmp_path / "a.take")
    assert reader.frames.tolist() == [0, 1, 2] and reader.tracker_state == b"after 2" and not reader.finished
    take.close()
    assert reader.frames.tolist() == [0, 1, 2]


def test_commits_by_itself(tmp_path: Path) -> None:
    take = Take.create(tmp_path / "a.take", clip_info(tmp_path / "a.mp4", 4))
    assert not take.add_frame(0, [], b"0")
    take._last_commit -= COMMIT_SECONDS
    asked: list[int] = []
    assert take.add_frame(1, [], lambda: asked.append(1) or b"1")  # type: ignore[func-returns-value]
    assert asked == [1] and Take.open(take.path).tracker_state == b"1"


def test_second_writer_is_told_who_holds_it(tmp_path: Path) -> None:
    path = tmp_path / "a.take"
    take = Take.create(path, clip_info(tmp_path / "a.mp4", 4))
    for attempt in (lambda: Take.resume(path), lambda: Take.create(path, take.clip, replace=True)):
        with pytest.raises(TakeError, match=f"process {os.getpid()} on .* is writing this Take"):
            attempt()
    take.add_frame(0, [], b"")
    take.commit()
    with pytest.raises(TakeError, match="is writing"):
        Take.resume(path)
    take.close()
    Take.resume(path).close()


def test_killed_writer_leaves_no_lock(tmp_path: Path) -> None:
    path = tmp_path / "a.take"
    make_take(path).close()
    code = "import os, sys; from meshpose.take import Take; Take.resume(sys.argv[1]).add_warning('x'); os._exit(9)"
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == 9
    take = Take.resume(path)
    assert take.warnings == [] and take.people == [1, 2]
    take.close()


def test_replacing_is_one_transaction(tmp_path: Path) -> None:
    path = tmp_path / "a.take"
    digest = make_take(path, frames=4).digest()
    clip = clip_info(tmp_path / "a.mp4", 6)
    with pytest.raises(TakeError, match="--restart"):
        Take.create(path, clip)
    take = Take.create(path, clip, replace=True)
    take.add_frame(0, [], b"")
    assert Take.open(path).digest() == digest, "the old Take is whole until the new one's first commit"
    take.close()
    assert Take.open(path).digest() == digest, "and stays where the new one failed before that"
    with Take.create(path, clip, replace=True) as take:
        take.add_frame(0, [], b"")
    assert Take.open(path).people == [] and Take.open(path).frames.tolist() == [0]


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TakeError, match="no such Take"):
        Take.open(tmp_path / "none.take")
    text = tmp_path / "text.take"
    text.write_text("hello " * 1000)
    other = tmp_path / "other.take"
    with sqlite3.connect(other) as database:
        database.execute("CREATE TABLE x (y)")
    for path in (text, other):
        before = path.read_bytes()
        for attempt in (Take.open, lambda p: Take.create(p, clip_info(tmp_path / "a.mp4", 2), replace=True)):
            with pytest.raises(TakeError, match="not a MeshPose Take"):
                attempt(path)
        assert path.read_bytes() == before


def test_newer_version_is_refused(tmp_path: Path) -> None:
    make_take(tmp_path / "a.take").close()
    with sqlite3.connect(tmp_path / "a.take") as database:
        database.execute("PRAGMA user_version = 99")
    with pytest.raises(TakeError, match="newer MeshPose .*99"):
        Take.open(tmp_path / "a.take")


def test_reader_cannot_write(tmp_path: Path) -> None:
    take = make_take(tmp_path / "a.take")
    with pytest.raises(TakeError, match="reading only"):
        take.add_warning("x")


def test_full_disk_is_one_line_and_loses_nothing_committed(tmp_path: Path) -> None:
    people = [(1, e) for e in estimates(40)]
    take = Take.create(tmp_path / "a.take", clip_info(tmp_path / "a.mp4", 40))
    for index in range(10):
        take.add_frame(index, people[index : index + 1], b"")
    take.commit()
    pages = take._db.rows("PRAGMA page_count")[0][0]
    take._db.rows(f"PRAGMA max_page_count = {pages + 5}")
    with pytest.raises(OutputError, match="a.take: .*full"):
        for index in range(10, 40):
            take.add_frame(index, people[index : index + 1], b"")
    take.close()
    with Take.resume(tmp_path / "a.take") as again:
        assert again.frames.tolist() == list(range(10)) and len(again.person(1).lowpoly_pixels()) == 10


def test_names_of_all_kinds(tmp_path: Path) -> None:
    folder = tmp_path / "it's a \"test\" #1? 50% ü 舞踊"
    folder.mkdir()
    make_take(folder / "été & co.take").close()
    assert Take.open(folder / "été & co.take").clip.path.name == "été & co.mp4"
