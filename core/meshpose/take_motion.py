# SPDX-License-Identifier: Apache-2.0
"""The motion part of a Take: tables `motion`, `motion_frame` and `world`, written and read.

An older Take has none of these tables; its people have no motion then, and it has no world.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from . import records
from .database import Database, blob
from .errors import TakeError
from .motion import Motion, World

if TYPE_CHECKING:
    from .take import Person

SCHEMA = """
CREATE TABLE IF NOT EXISTS motion (person INTEGER PRIMARY KEY, phenotype BLOB NOT NULL, scale REAL NOT NULL);
CREATE TABLE IF NOT EXISTS motion_frame (person INTEGER NOT NULL, frame INTEGER NOT NULL, rotations BLOB NOT NULL,
    translation BLOB NOT NULL, contact BLOB NOT NULL, keyed BLOB NOT NULL, seen INTEGER NOT NULL,
    metres_per_pixel REAL, UNIQUE (person, frame));
CREATE TABLE IF NOT EXISTS world (name TEXT PRIMARY KEY, value BLOB NOT NULL)
"""
TABLES = ("motion", "motion_frame", "world")
WINDOW = 128
"""Frames that are worked on at once."""
CONTENT = (
    "SELECT person, phenotype, scale FROM motion ORDER BY person",
    "SELECT * FROM motion_frame ORDER BY person, frame",
    "SELECT name, value FROM world ORDER BY name",
)
"""Queries whose rows are the content, for a Take's digest."""


def there(database: Database) -> bool:
    """Whether the tables exist."""
    return bool(database.rows("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'world'"))


def drop(database: Database) -> None:
    """Forget all motion (what it was made from has changed)."""
    if there(database):
        for table in TABLES:
            database.run(f"DELETE FROM {table}")
    database.run("DELETE FROM made WHERE what = 'motion'")


def write(database: Database, motions: Mapping[int, Motion], world: World) -> None:
    """Replace the motion of everybody (by id) and the world they share."""
    for statement in SCHEMA.split(";"):
        database.run(statement)
    drop(database)
    for person, motion in motions.items():
        head = (person, blob(motion.phenotype, np.float64), float(motion.scale))
        database.run("INSERT INTO motion VALUES (?, ?, ?)", head)
        for i, frame in enumerate(motion.frames):
            size = float(motion.metres_per_pixel[i])
            row = (
                person, int(frame), blob(motion.rotations[i], np.float32), blob(motion.translation[i], np.float64),
                np.packbits(motion.contact[i]).tobytes(), np.packbits(motion.keyed[i]).tobytes(),
                int(motion.seen[i]), size if np.isfinite(size) else None,
            )  # fmt: skip
            database.run("INSERT INTO motion_frame VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
    told = json.dumps({"floor": bool(world.floor), "notes": list(world.notes)}).encode()
    values = {
        "rotation": blob(world.rotation, np.float64),
        "translation": blob(world.translation, np.float64),
        "frames": blob(world.frames, np.int64),
        "told": told,
    }
    for name, value in values.items():
        database.run("INSERT INTO world VALUES (?, ?)", (name, value))


def read_motion(database: Database, person: int) -> Motion | None:
    """One person's motion; None where it was not made (yet)."""
    if not there(database):
        return None
    head = database.rows("SELECT phenotype, scale FROM motion WHERE person = ?", (person,))
    if not head:
        return None
    query = (
        "SELECT frame, rotations, translation, contact, keyed, seen, metres_per_pixel FROM motion_frame "
        "WHERE person = ? ORDER BY frame"
    )
    columns = list(zip(*database.rows(query, (person,)), strict=True)) or [()] * 7
    with database.sound():
        rotations = records.rotations(columns[1])
        return Motion(
            phenotype=records.column("phenotype", [head[0][0]])[0],
            scale=float(records.column("scale", [head[0][1]])[0]),
            rotations=rotations,
            translation=records.column("translation", columns[2]),
            frames=records.frame_numbers(columns[0]),
            contact=records.bits(columns[3], 4),
            keyed=records.bits(columns[4], rotations.shape[1]),
            seen=np.array(columns[5], bool),
            metres_per_pixel=records.metres_where_known(columns[6]),
        )


def lowpoly_world(person: Person, frames: Sequence[int] | np.ndarray) -> np.ndarray:
    """See `Person.lowpoly_world`."""
    from .camera import place

    take = person.take
    world = take.world()
    if world is None:
        raise TakeError(f"{take.path}: {person.name} has no motion yet; run the conversion to its end")
    query = "SELECT frame, metres_per_pixel FROM motion_frame WHERE person = ?"
    moved = dict(take._db.rows(query, (person.id,)))
    sizes = [moved.get(int(f)) or s for f, s in zip(frames, person.metres_per_pixel(frames).tolist(), strict=True)]
    with take._db.sound():
        metres = records.column("metres_per_pixel", sizes)
    result = np.empty((len(frames), records.VERTICES, 3), np.float32)
    for at in range(0, len(frames), WINDOW):  # float64 and several arrays of that size inside
        part = slice(at, at + WINDOW)
        placed = place(person.lowpoly_pixels(frames[part]), metres[part], take.camera)
        result[part] = world.points(placed, frames[part])
    return result


def read_world(database: Database) -> World | None:
    """Where the camera stands; None where it was not found out (yet)."""
    rows = dict(database.rows("SELECT name, value FROM world")) if there(database) else {}
    if not rows:
        return None
    with database.sound():
        told = json.loads(rows["told"])
        rotation, translation, frames = records.places(rows["rotation"], rows["translation"], rows["frames"])
        notes = tuple(map(str, told["notes"]))
        return World(rotation, translation, frames, floor=bool(told["floor"]), notes=notes)
