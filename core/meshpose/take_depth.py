# SPDX-License-Identifier: Apache-2.0
"""The depth part of a Take: by how much likely poses and the motion around a frame (`likely`) change what the network
said.  Table `depth` has the depths, `beyond` the places beyond the picture's border, of frames that have some.

A Take without them (an older one, one that is not placed yet) has all as the network said it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from . import records
from .database import Database, blob

if TYPE_CHECKING:
    from .take import Frames, Person

SCHEMA = """
CREATE TABLE IF NOT EXISTS depth (person INTEGER NOT NULL, frame INTEGER NOT NULL, depth_change BLOB NOT NULL,
    UNIQUE (person, frame));
CREATE TABLE IF NOT EXISTS beyond (person INTEGER NOT NULL, frame INTEGER NOT NULL, place_change BLOB NOT NULL,
    UNIQUE (person, frame))
"""
COLUMNS = {"depth": "depth_change", "beyond": "place_change"}
TABLES = tuple(COLUMNS)


def there(database: Database, table: str) -> bool:
    """Whether the table exists."""
    return bool(database.rows("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", (table,)))


def content(database: Database) -> tuple[str, ...]:
    """Queries whose rows are the content, for a Take's digest."""
    kept = "WHERE person IN (SELECT person FROM person WHERE kept)"
    return tuple(
        f"SELECT person, frame, {column} FROM {table} {kept} ORDER BY person, frame"
        for table, column in COLUMNS.items()
        if there(database, table)
    )


def write(database: Database, person: int, frames: np.ndarray, change: np.ndarray | None) -> None:
    """Replace a person's: frames (n,), change (n, V, 3) pixels, the depths' at the mid-hips' depth; None for none."""
    for table in TABLES:
        if there(database, table):
            database.run(f"DELETE FROM {table} WHERE person = ?", (person,))
    if change is None:
        return
    for statement in SCHEMA.split(";"):
        database.run(statement)
    most = float(np.finfo(np.float16).max)  # an 8K picture's legs may lie farther below it
    for frame, row in zip(frames, change, strict=True):
        row = np.clip(row, -most, most).astype(np.float16)
        database.run("INSERT INTO depth VALUES (?, ?, ?)", (person, int(frame), blob(row[:, 2], np.float16)))
        if row[:, :2].any():
            database.run("INSERT INTO beyond VALUES (?, ?, ?)", (person, int(frame), blob(row[:, :2], np.float16)))


def laid_on(person: Person, frames: Frames, pixels: np.ndarray) -> np.ndarray:
    """The low-poly (n, V, 3) of some frames, pixels, with its depths and the places beyond the picture changed."""
    frames = person.frames if frames is None else frames
    result = pixels.copy()
    for table, part in (("depth", 2), ("beyond", slice(0, 2))):
        rows, change = _changes(person, frames, table)
        result[rows, :, part] += change
    return result


def _changes(person: Person, frames: Sequence[int] | np.ndarray, table: str) -> tuple[list[int], np.ndarray]:
    """Which of the frames a table knows, and its changes of these."""
    database, column = person.take._db, COLUMNS[table]
    if not len(frames) or not there(database, table):
        return [], np.zeros((), np.float32)
    between = (person.id, int(min(frames)), int(max(frames)))
    query = f"SELECT frame, {column} FROM {table} WHERE person = ? AND frame BETWEEN ? AND ?"
    known = dict(database.rows(query, between))
    rows = [i for i, frame in enumerate(frames) if int(frame) in known]
    with database.sound():
        return rows, records.column(column, [known[int(frames[i])] for i in rows])
