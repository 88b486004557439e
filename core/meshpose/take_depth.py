# SPDX-License-Identifier: Apache-2.0
"""The depth part of a Take: table `depth`, by how much likely poses and the motion around a frame (`likely`) change
what the network said of it.

A Take without it (an older one, one that is not placed yet) has the depths as the network said them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from . import records
from .database import Database, blob

if TYPE_CHECKING:
    from .take import Frames, Person

SCHEMA = """
CREATE TABLE IF NOT EXISTS depth (person INTEGER NOT NULL, frame INTEGER NOT NULL, depth_change BLOB NOT NULL,
    UNIQUE (person, frame))
"""
TABLES = ("depth",)


def there(database: Database) -> bool:
    """Whether the table exists."""
    return bool(database.rows("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'depth'"))


def content(database: Database) -> tuple[str, ...]:
    """Queries whose rows are the content, for a Take's digest."""
    kept = "WHERE person IN (SELECT person FROM person WHERE kept)"
    query = f"SELECT person, frame, depth_change FROM depth {kept} ORDER BY person, frame"
    return (query,) if there(database) else ()


def write(database: Database, person: int, frames: np.ndarray, change: np.ndarray | None) -> None:
    """Replace a person's: frames (n,), change (n, V) pixels at the mid-hips' depth; None for none."""
    if there(database):
        database.run("DELETE FROM depth WHERE person = ?", (person,))
    if change is None:
        return
    database.run(SCHEMA)
    for frame, row in zip(frames, change, strict=True):
        database.run("INSERT INTO depth VALUES (?, ?, ?)", (person, int(frame), blob(row, np.float16)))


def laid_on(person: Person, frames: Frames, pixels: np.ndarray) -> np.ndarray:
    """The low-poly (n, V, 3) of some frames, pixels, with its depths changed."""
    database, frames = person.take._db, person.frames if frames is None else frames
    if not len(frames) or not there(database):
        return pixels
    between = (person.id, int(min(frames)), int(max(frames)))
    query = "SELECT frame, depth_change FROM depth WHERE person = ? AND frame BETWEEN ? AND ?"
    known = dict(database.rows(query, between))
    rows = [i for i, frame in enumerate(frames) if int(frame) in known]
    with database.sound():
        change = records.column("depth_change", [known[int(frames[i])] for i in rows])
    result = pixels.copy()
    result[rows, :, 2] += change
    return result
