# SPDX-License-Identifier: Apache-2.0
"""Takes that were edited by hand, by a bad disk or by nobody knows whom; and a look at all that a Take can say.

    for way, path in damaged_copies(whole, folder, 200):
        ...
"""

from __future__ import annotations

import hashlib
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from meshpose.take import Take

Random = np.random.Generator
TABLES = ("clip", "settings", "frame", "person", "raw", "place", "fit", "fit_frame", "made", "warning", "job")
MOTION_TABLES = ("depth", "motion", "motion_frame", "world")


def as_it_was(path: Path, random: Random) -> None:
    """Not damaged at all."""


def random_bytes(path: Path, random: Random) -> None:
    data = bytearray(path.read_bytes())
    for at in random.integers(0, len(data), random.integers(1, 60)):
        data[at] = random.integers(256)
    path.write_bytes(data)


def zeroed_page(path: Path, random: Random) -> None:
    data = bytearray(path.read_bytes())
    at = 4096 * int(random.integers(0, len(data) // 4096))
    data[at : at + 4096] = bytes(4096)
    path.write_bytes(data)


def cut_off(path: Path, random: Random) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: random.integers(0, len(data))])


def header(path: Path, random: Random) -> None:
    """The first hundred bytes say the size of a page, versions, where free pages lie."""
    data = bytearray(path.read_bytes())
    for at in random.integers(0, 100, 4):
        data[at] = random.integers(256)
    path.write_bytes(data)


def _edited(*statements: str) -> Callable[[Path, Random], None]:
    """One of some statements, each with what `random` fills in for {person} and {frame}."""

    def edit(path: Path, random: Random) -> None:
        with sqlite3.connect(path) as database:
            statement = statements[random.integers(len(statements))]
            frame, person = int(random.integers(0, 10)), int(random.integers(1, 3))
            for part in statement.format(frame=frame, person=person).split(";"):
                database.execute(part)
        database.close()

    return edit


def wrong_blob(path: Path, random: Random) -> None:
    """A blob of another length, another column's, or text and numbers in its place."""
    columns = [("raw", "crop"), ("raw", "vertices"), ("raw", "visibility"), ("fit", "phenotype")]
    columns += [("fit_frame", "rotations"), ("fit_frame", "translation"), ("motion", "phenotype")]
    columns += [("motion_frame", name) for name in ("rotations", "translation", "contact", "keyed")]
    columns += [("world", "value"), ("motion_frame", "metres_per_pixel"), ("job", "value")]
    columns += [("depth", "depth_change"), ("beyond", "place_change")]
    table, column = columns[random.integers(len(columns))]
    values = [b"", random.bytes(6000), random.bytes(32), "text", 7, -1.5, b"\xff" * 24, bytes(1000)]
    with sqlite3.connect(path) as database:
        rows = database.execute(f"SELECT rowid FROM {table}").fetchall()
        chosen = rows[random.integers(len(rows))] if random.random() < 0.5 else None
        where = "" if chosen is None else f" WHERE rowid = {chosen[0]}"
        database.execute(f"UPDATE {table} SET {column} = ?{where}", (values[random.integers(len(values))],))
    database.close()


def not_finite(path: Path, random: Random) -> None:
    """NaN, infinities, and numbers that are finite and yet cannot be."""
    columns = [("raw", "vertices", "<f4"), ("raw", "visibility", "<f2"), ("raw", "crop", "<f8")]
    columns += [("fit", "phenotype", "<f8"), ("fit_frame", "rotations", "<f4"), ("fit_frame", "translation", "<f8")]
    columns += [("motion_frame", "rotations", "<f4"), ("motion_frame", "translation", "<f8")]
    columns += [("motion", "phenotype", "<f8"), ("depth", "depth_change", "<f2"), ("beyond", "place_change", "<f2")]
    table, column, kind = columns[random.integers(len(columns))]
    with sqlite3.connect(path) as database:
        rows = database.execute(f"SELECT rowid, {column} FROM {table}").fetchall()
        row, data = rows[random.integers(len(rows))]
        array = np.frombuffer(data, kind).copy()
        with np.errstate(over="ignore"):
            array[random.integers(len(array))] = [np.nan, np.inf, -np.inf, 3e38][random.integers(4)]
        database.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (array.tobytes(), row))
    database.close()


def swapped_tables(path: Path, random: Random) -> None:
    names = [*TABLES, *MOTION_TABLES]
    first, second = random.choice(len(names), 2, replace=False)
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA legacy_alter_table = ON")
        database.execute(f"ALTER TABLE {names[first]} RENAME TO aside")
        database.execute(f"ALTER TABLE {names[second]} RENAME TO {names[first]}")
        database.execute(f"ALTER TABLE aside RENAME TO {names[second]}")
    database.close()


def lost_table(path: Path, random: Random) -> None:
    names = [*TABLES, *MOTION_TABLES]
    with sqlite3.connect(path) as database:
        database.execute(f"{['DROP TABLE', 'DELETE FROM'][random.integers(2)]} {names[random.integers(len(names))]}")
    database.close()


WAYS: dict[str, Callable[[Path, Random], None]] = {
    "as it was": as_it_was,
    "random bytes": random_bytes,
    "zeroed page": zeroed_page,
    "cut off": cut_off,
    "header": header,
    "wrong blob": wrong_blob,
    "not finite": not_finite,
    "swapped tables": swapped_tables,
    "lost table": lost_table,
    "wrong text": _edited(
        "UPDATE clip SET info = '{{'", "UPDATE clip SET info = '[]'", "UPDATE clip SET info = '{{\"times\": []}}'",
        "UPDATE clip SET info = NULL", "UPDATE clip SET info = replace(info, '320', 'NaN')",
        "UPDATE clip SET path = ''",
        "UPDATE clip SET info = replace(info, '25.0', '-25.0')", "UPDATE clip SET path = x'00ff'",
        "UPDATE clip SET info = replace(info, '\"width\"', '\"wide\"')", "UPDATE clip SET camera = '{{}}'",
        "UPDATE clip SET camera = replace(camera, '\"fx\": ', '\"fx\": -')", "UPDATE clip SET camera = 'null'",
        "UPDATE clip SET camera = replace(camera, '320', '1e400')", "UPDATE settings SET value = 'no json'",
        "UPDATE settings SET value = '{{\"deep\": [1e999]}}'", "INSERT INTO settings VALUES ('smooth', '\"a lot\"')",
        "INSERT INTO settings VALUES ('height', '[]')", "INSERT INTO settings VALUES ('only', '7')",
        "INSERT INTO settings VALUES ('heights', '{{\"x\": null}}')", "INSERT INTO settings VALUES ('camera', '5')",
        "INSERT INTO settings VALUES ('fov', 'NaN')", "INSERT INTO settings VALUES ('focal_mm', '\"long\"')",
        "INSERT INTO settings VALUES ('level', '\"yes\"')", "INSERT INTO settings VALUES ('fill_gaps', '1.5')",
    ),
    "wrong number": _edited(
        "UPDATE frame SET frame = -5 WHERE frame = {frame}", "UPDATE frame SET frame = 1000000000000 WHERE frame = 9",
        "UPDATE frame SET frame = 900000 WHERE frame = 9", "UPDATE frame SET time = 'late' WHERE frame = {frame}",
        "UPDATE frame SET time = 9e999 WHERE frame = {frame}", "UPDATE raw SET frame = 'x' WHERE frame = {frame}",
        "UPDATE raw SET frame = 5000000 WHERE frame = 9", "UPDATE raw SET score = 'good' WHERE frame = {frame}",
        "UPDATE raw SET frame = 9223372036854775807 WHERE frame = 9", "UPDATE raw SET frame = 77 WHERE frame = 9",
        "UPDATE place SET metres_per_pixel = 0 WHERE frame = {frame}", "DELETE FROM place WHERE frame = {frame}",
        "UPDATE place SET metres_per_pixel = 'near' WHERE person = {person}", "UPDATE fit SET scale = 1e300",
        "UPDATE fit SET scale = -1", "UPDATE fit_frame SET frame = 4000 + frame", "UPDATE motion SET scale = 'big'",
        "UPDATE fit_frame SET frame = 2.5 WHERE frame = {frame}", "UPDATE motion_frame SET metres_per_pixel = -3",
        "UPDATE motion_frame SET seen = 'yes'", "UPDATE job SET value = '[3, \"x\"]' WHERE name = 'found'",
        "UPDATE job SET value = '{{' WHERE name = 'found'", "UPDATE job SET value = '[8]' WHERE name = 'found'",
        "UPDATE depth SET frame = 'x' WHERE frame = {frame}", "DELETE FROM depth WHERE person = {person}",
        "DELETE FROM frame WHERE frame = {frame}", "DELETE FROM fit_frame WHERE person = {person}",
    ),
    "swapped people": _edited(
        "UPDATE raw SET person = 3 - person WHERE frame = 0; UPDATE person SET name = NULL",
        "UPDATE person SET name = 'two' || char(10) || 'lines'",
        "UPDATE person SET kept = 'perhaps'",
    ),
}  # fmt: skip
"""Ways to damage a Take, by name."""


def damaged_copies(whole: Path, folder: Path, count: int, seed: int = 0) -> Iterator[tuple[str, Path]]:
    """Copies of a Take, damaged in all ways in turn: the way's name and the copy."""
    names = list(WAYS)
    for number in range(count):
        way, path = names[number % len(names)], folder / f"copy {number}.take"
        shutil.copy(whole, path)
        random = np.random.default_rng((seed, number))
        try:
            WAYS[way](path, random)
        except sqlite3.Error:  # SQLite itself did not allow it (UNIQUE, NOT NULL)
            shutil.copy(whole, path)
            way = "as it was"
        yield way, path


def look_at_everything(take: Take) -> str:
    """Read all that a Take hands out and check that it can be; a hash of it."""
    seen = hashlib.sha256()

    def check(array: np.ndarray, *shape: int, low: float = -1e7, high: float = 1e7) -> None:
        assert array.shape == shape and array.dtype != object, (array.shape, shape)
        if array.size:
            assert np.isfinite(array).all() and array.min() >= low and array.max() <= high
        seen.update(np.ascontiguousarray(array).tobytes())

    clip, camera, world = take.clip, take.camera, take.world()
    assert clip.width > 0 and clip.height > 0 and 0 < clip.fps < 1e6 and camera.fx > 0
    check(clip.times, clip.frames, high=1e9)
    check(take.times(), len(take.frames), high=1e9)
    if world is not None:
        check(world.rotation, len(world.frames), 3, 3)
        check(world.translation, len(world.frames), 3)
    assert isinstance(take.settings, dict) and isinstance(take.digest(), str)
    assert all(isinstance(line, str) for line in take.warnings)
    for number in take.people:
        person = take.person(number)
        count = len(person.frames)
        assert isinstance(person.name, str) and "\n" not in person.name
        check(person.lowpoly_pixels(), count, 500, 3)
        check(person.visibility(), count, 500, low=-0.01, high=1.01)
        check(person.crops(), count, 4)
        check(person.score(), count)
        check(person.times(), count, high=1e9)
        check(person.lowpoly(), count, 500, 3, low=-1e10, high=1e10)
        check(person.vertices(person.frames[:1]), min(count, 1), 13718, 3, low=-1e10, high=1e10)
        if (fit := person.fit()) is not None:
            check(fit.rotations, len(fit.frames), 104, 4, low=-1.1, high=1.1)
            check(fit.translation, len(fit.frames), 3)
            check(fit.phenotype, 6, low=-0.01, high=1.01)
            assert 0 < fit.scale < 100
        if (motion := person.motion()) is not None:
            check(motion.rotations, len(motion.frames), 104, 4, low=-1.1, high=1.1)
            check(motion.translation, len(motion.frames), 3)
            check(motion.contact, len(motion.frames), 4)
            check(motion.keyed, len(motion.frames), 104)
            check(motion.seen, len(motion.frames))
            if world is not None:
                check(person.lowpoly_world(person.frames), count, 500, 3, low=-1e10, high=1e10)
    return seen.hexdigest()
