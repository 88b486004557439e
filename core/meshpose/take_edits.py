# SPDX-License-Identifier: Apache-2.0
"""The edits of a Take: tables `edit` (what was done) and `assigned` (whose each row of `raw` is then).

A Take without edits has neither table, or empty ones; its people are the tracks as the tracker followed them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from . import edits, records
from .database import Database
from .edits import Assigned, Edit
from .errors import InputError, TakeError

if TYPE_CHECKING:
    from .take import Frames, Person

SCHEMA = """
CREATE TABLE IF NOT EXISTS edit (edit INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, people TEXT NOT NULL,
    first INTEGER, last INTEGER, part TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS assigned (person INTEGER NOT NULL, frame INTEGER NOT NULL, track INTEGER NOT NULL,
    sides INTEGER NOT NULL, UNIQUE (person, frame))
"""
TABLES = ("edit", "assigned")
CONTENT = "SELECT kind, people, first, last, part FROM edit ORDER BY edit"
READ = """(SELECT assigned.person AS person, raw.frame AS frame, raw.crop AS crop, raw.vertices AS vertices,
raw.visibility AS visibility, raw.score AS score, assigned.sides AS sides
FROM assigned JOIN raw ON raw.person = assigned.track AND raw.frame = assigned.frame)"""
"""What stands for the table `raw` where there are edits."""


def there(database: Database) -> bool:
    """Whether anything was edited."""
    known = database.rows("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'assigned'")
    return bool(known) and bool(database.rows("SELECT 1 FROM edit LIMIT 1"))


def raw(database: Database) -> str:
    """What to read the network's rows from, by person and frame."""
    return READ if there(database) else "raw"


def content(database: Database) -> tuple[str, ...]:
    """Queries whose rows are the content, for a Take's digest."""
    return (CONTENT,) if there(database) else ()


def exchanged(person: Person, frames: Frames, values: np.ndarray) -> np.ndarray:
    """Pixels (n, V, 3) or visibility (n, V) with left and right exchanged where an edit says so."""
    database = person.take._db
    if not there(database):
        return values
    bits = sides(database, person.id, person.frames if frames is None else frames)
    if not bits.any():
        return values
    from .body import Body

    if values.ndim == 3:
        return edits.exchange_sides(values, bits, Body.load())
    return np.take_along_axis(values, edits.exchanged_order(bits, Body.load()), 1)


def sides(database: Database, person: int, frames: Sequence[int] | np.ndarray) -> np.ndarray:
    """(n,) bits of `edits.PARTS` on frames (n,): what was exchanged; all 0 where nothing was."""
    rows: list[tuple[int, int]] = []
    if there(database):
        rows = database.rows("SELECT frame, sides FROM assigned WHERE person = ? AND sides", (person,))
    known = dict(rows)
    return np.array([known.get(int(frame), 0) for frame in frames], np.int64)


def hash_of(database: Database, person: int, digest: hashlib._Hash) -> bool:
    """Feed the rows of a person whom an edit has changed to a hash; False, and nothing fed, for one whom none has."""
    if not there(database):
        return False
    own = "SELECT frame, track, sides FROM assigned WHERE person = ? ORDER BY frame"
    mine = database.rows(own, (person,))
    before = [(frame, person, 0) for (frame,) in database.rows(
        "SELECT frame FROM raw WHERE person = ? ORDER BY frame", (person,))]  # fmt: skip
    if mine == before:
        return False
    query = f"SELECT frame, crop, vertices, visibility, score, sides FROM {READ} WHERE person = ? ORDER BY frame"
    database.hash(digest, query, (person,))
    return True


class Edits:
    """A Take's edits of who is who; see `meshpose.edits`.  Made by `Take.edits`; writing needs a Take open for it.

    Every method that changes something raises InputError where it cannot be done, TakeError where the Take is not
    finished or is open for reading only.  Call `meshpose.convert.refit` when all is said.
    """

    def __init__(self, database: Database) -> None:
        self._db = database

    def all(self) -> list[Edit]:
        """In the order they were made."""
        if not self._db.rows("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'edit'"):
            return []
        rows = self._db.rows("SELECT edit, kind, people, first, last, part FROM edit ORDER BY edit")
        with self._db.sound():
            found = [Edit(int(row[0]), str(row[1]), tuple(json.loads(row[2])), *row[3:6]) for row in rows]
            if any(edit.kind not in edits.KINDS or not edit.people for edit in found):
                raise ValueError("an edit is of no kind that there is")
        return found

    def merge(self, keeps: int, goes: int) -> Edit:
        """`goes` becomes `keeps`; on frames of both, what `keeps` was there counts."""
        return self._add("merge", (keeps, goes))

    def split(self, person: int, frame: int) -> Edit:
        """From `frame` on a person is somebody else, whose number is `people[1]` of the edit."""
        return self._add("split", (person, self._new_number()), frame)

    def swap(self, one: int, other: int, first: int | None = None, last: int | None = None) -> Edit:
        """Two people are exchanged from frame `first` to `last`, both included (None: from the start, to the end)."""
        return self._add("swap", (one, other), first, last)

    def delete(self, person: int) -> Edit:
        """A person is no person.  What the network said of it stays in the Take."""
        return self._add("delete", (person,))

    def sides(self, person: int, first: int, last: int, part: str = "body") -> Edit:
        """A person's left and right are exchanged from frame `first` to `last`: part "legs", "arms" or "body"."""
        return self._add("sides", (person,), first, last, part)

    def undo(self, number: int) -> Edit:
        """Take an edit back; all others stay.  InputError where there is none of that number, or one builds on it."""
        known = {edit.id: edit for edit in self.all()}
        if number not in known:
            there = ", ".join(map(str, known)) or "none"
            raise InputError(f"there is no edit {number}; there are {there}")
        if known[number].kind == "split":
            new = known[number].people[1]
            later = [edit.id for edit in known.values() if edit.id > number and new in edit.people]
            if later:
                raise InputError(f"edit {number} made person {new}, whom edit {later[-1]} names: undo that one first")
        before = self.assigned().people()
        self._db.run("DELETE FROM edit WHERE edit = ?", (int(number),))
        self._apply(before)
        return known[number]

    def people(self) -> list[int]:
        """Everybody there is, those who are not kept too, as the edits have it."""
        return self.assigned().people()

    def owner(self, track: int, frame: int) -> int | None:
        """Whose a row of the network's is: that of a track on a frame; None for nobody's."""
        if not there(self._db):
            return track
        rows = self._db.rows("SELECT person FROM assigned WHERE track = ? AND frame = ?", (track, frame))
        return int(rows[0][0]) if rows else None

    def track(self, person: int, frame: int) -> int:
        """Which of the tracker's tracks a person is on a frame."""
        if not there(self._db):
            return person
        rows = self._db.rows("SELECT track FROM assigned WHERE person = ? AND frame = ?", (person, frame))
        return int(rows[0][0]) if rows else person

    def assigned(self, known: Sequence[Edit] | None = None) -> Assigned:
        """Whose each of the network's rows is."""
        found = self._db.rows("SELECT value FROM job WHERE name = 'found'")
        rows = self._db.rows("SELECT person, frame FROM raw ORDER BY person, frame")
        with self._db.sound():
            pairs = np.array(rows, np.int64).reshape(-1, 2)
            if found:  # whom the tracker dropped is nobody's business
                pairs = pairs[np.isin(pairs[:, 0], records.whole_numbers(json.loads(found[0][0])))]
            return edits.assign(pairs[:, 0], pairs[:, 1], self.all() if known is None else known)

    def _add(
        self, kind: str, people: tuple[int, ...], first: int | None = None, last: int | None = None, part: str = ""
    ) -> Edit:
        if not self._db.rows("SELECT 1 FROM job WHERE name = 'finished'"):
            raise TakeError(f"{self._db.path}: this Take is not finished; convert its clip again, and it goes on")
        before = self.assigned()
        edits.checked(Edit(0, kind, tuple(map(int, people)), first, last, part), before)
        for statement in SCHEMA.split(";"):
            self._db.run(statement)
        values = (kind, json.dumps(list(map(int, people))), first, last, part)
        self._db.run("INSERT INTO edit (kind, people, first, last, part) VALUES (?, ?, ?, ?, ?)", values)
        self._apply(before.people())
        return self.all()[-1]

    def _new_number(self) -> int:
        """Greater than any that was ever anybody's."""
        used = [row[0] for row in self._db.rows("SELECT MAX(person) FROM person") if row[0] is not None]
        return max([*used, *(person for edit in self.all() for person in edit.people)], default=0) + 1

    def _apply(self, before: list[int]) -> None:
        """Bring the tables to what the edits say; before: who was there until now.  Commits."""
        now = self.assigned()
        self._db.run("DELETE FROM assigned")
        for row in np.flatnonzero(now.person):
            values = (int(now.person[row]), int(now.frame[row]), int(now.track[row]), int(now.sides[row]))
            self._db.run("INSERT INTO assigned VALUES (?, ?, ?, ?)", values)
        kept = {row[0] for row in self._db.rows("SELECT person FROM person WHERE kept")}
        hidden = set(before) - kept  # not chosen by the settings
        self._db.run("UPDATE person SET kept = 0")
        for person in now.people():
            self._db.run("INSERT OR IGNORE INTO person (person, name) VALUES (?, ?)", (person, f"Person {person}"))
            self._db.run("UPDATE person SET kept = ? WHERE person = ?", (int(person not in hidden), person))
        known = {row[0] for row in self._db.rows("SELECT name FROM sqlite_master WHERE type = 'table'")}
        for (gone,) in self._db.rows("SELECT person FROM person WHERE person NOT IN (SELECT person FROM raw)"):
            if gone not in now.people():  # the new number of a split that was undone
                for table in known & {"person", "place", "depth", "beyond", "fit", "fit_frame", "made"}:
                    self._db.run(f"DELETE FROM {table} WHERE person = ?", (gone,))
        self._db.commit()
