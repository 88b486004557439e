# SPDX-License-Identifier: Apache-2.0
"""The Take: one SQLite file that holds everything computed from one clip.

    take = Take.open("dancer.take")
    person = take.person(1)
    person.frames                              # (n,) the clip's frames in which the person was found
    person.lowpoly(range(0, 20))               # (20, 500, 3) metres, camera frame

What the network said (`raw`) is written once and never changed; everything after it (`place`, `fit`) carries the hash
of what it was made from, so that it can be made again without the network.  Arrays are handed out by person and range
of frames; the schema is nobody's business but this file's.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from . import records, take_corrections, take_depth, take_edits, take_motion
from .database import Database, blob
from .errors import TakeError

if TYPE_CHECKING:
    from .camera import Camera
    from .estimate import Estimate
    from .motion import Motion, World
    from .rig import RigFit
    from .video import ClipInfo

COMMIT_SECONDS = 0.5
"""A kill loses at most about this much work."""
EDGE_BYTES = 1 << 20
"""How much of a clip's head and of its tail is hashed: clips can be very large."""
WINDOW = 128
"""Frames that are held in memory at once where all frames of a person are walked through."""

SCHEMA = """
CREATE TABLE clip (path TEXT NOT NULL, identity TEXT NOT NULL, info TEXT NOT NULL, camera TEXT NOT NULL);
CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE frame (frame INTEGER PRIMARY KEY, time REAL NOT NULL);
CREATE TABLE person (person INTEGER PRIMARY KEY, name TEXT NOT NULL, kept INTEGER NOT NULL DEFAULT 1);
CREATE TABLE raw (person INTEGER NOT NULL, frame INTEGER NOT NULL, crop BLOB NOT NULL, vertices BLOB NOT NULL,
                  visibility BLOB NOT NULL, score REAL NOT NULL, UNIQUE (person, frame));
CREATE TABLE place (person INTEGER NOT NULL, frame INTEGER NOT NULL, metres_per_pixel REAL NOT NULL,
                    UNIQUE (person, frame));
CREATE TABLE fit (person INTEGER PRIMARY KEY, phenotype BLOB NOT NULL, scale REAL NOT NULL);
CREATE TABLE fit_frame (person INTEGER NOT NULL, frame INTEGER NOT NULL, rotations BLOB NOT NULL,
                        translation BLOB NOT NULL, UNIQUE (person, frame));
CREATE TABLE made (what TEXT NOT NULL, person INTEGER NOT NULL, made_from TEXT NOT NULL, UNIQUE (what, person));
CREATE TABLE warning (message TEXT UNIQUE NOT NULL);
CREATE TABLE job (name TEXT PRIMARY KEY, value BLOB);
"""
TABLES = ("clip", "settings", "frame", "person", "raw", "place", "fit", "fit_frame", "made", "warning", "job")

Frames = Sequence[int] | np.ndarray | range | None


def clip_identity(path: str | os.PathLike[str]) -> str:
    """Hash of a clip's size, head and tail: the same for a copy, another one when a byte of the edges changes.

    A folder or a pattern of pictures (an image sequence) is known by its names, sizes and first and last picture.
    """
    digest = hashlib.sha256()
    path = Path(path)
    if path.is_file():
        _hash_edges(digest, path)
    else:
        from .video import Clip

        pictures = Clip(path).files
        for picture in pictures:
            digest.update(f"{picture.name}\0{picture.stat().st_size}\0".encode("utf-8", "surrogateescape"))
        for picture in pictures[:1] + pictures[-1:]:
            _hash_edges(digest, picture)
    return digest.hexdigest()


def _hash_edges(digest: hashlib._Hash, path: Path) -> None:
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        digest.update(str(size).encode())
        file.seek(0)
        digest.update(file.read(EDGE_BYTES))
        file.seek(max(0, size - EDGE_BYTES))
        digest.update(file.read(EDGE_BYTES))


class Person:
    """One person of a Take.  Arrays have a row per frame in which the person was found, in the order of the frames.

    `frames=None` means all of them; else the clip's frame numbers wanted (TakeError where the person is not in one).
    """

    def __init__(self, take: Take, number: int, name: str) -> None:
        self.take, self.id, self.name = take, number, name

    def __repr__(self) -> str:
        return f"Person({self.id}, {self.name!r}, {len(self.frames)} frames)"

    @property
    def frames(self) -> np.ndarray:
        """(n,) int64: the clip's frames (0 is the first) in which the person was found."""
        source = take_edits.raw(self.take._db)
        rows = self.take._db.rows(f"SELECT frame FROM {source} WHERE person = ? ORDER BY frame", (self.id,))
        with self.take._db.sound():
            return records.frame_numbers([row[0] for row in rows])

    def times(self, frames: Frames = None) -> np.ndarray:
        """(n,) float64 seconds, from the clip's own timestamps."""
        return self.take.times(self.frames if frames is None else frames)

    def lowpoly_pixels(self, frames: Frames = None, raw: bool = False) -> np.ndarray:
        """(n, V, 3) float32: x, y picture pixels, in the picture as the network said it; z pixels relative to the
        mid-hips; z and what lies beyond the picture after `meshpose.likely`, or (raw) all as the network said it.
        """
        said = take_edits.exchanged(self, frames, self._array("raw", "vertices", frames))
        return said if raw else take_depth.laid_on(self, frames, said)

    def visibility(self, frames: Frames = None) -> np.ndarray:
        """(n, V) float32: 0 guessed, 1 seen."""
        return take_edits.exchanged(self, frames, self._array("raw", "visibility", frames).astype(np.float32))

    def score(self, frames: Frames = None) -> np.ndarray:
        """(n,) float64: how sure the network is of the person, 0..1."""
        return self._array("raw", "score", frames)

    def crops(self, frames: Frames = None) -> np.ndarray:
        """(n, 4) float64: centre x, y, side in picture pixels, angle in radians (`Crop.from_array` reads a row)."""
        return self._array("raw", "crop", frames)

    def metres_per_pixel(self, frames: Frames = None) -> np.ndarray:
        """(n,) float64: metres that a picture pixel spans at the depth of the mid-hips."""
        return self._array("place", "metres_per_pixel", frames)

    def lowpoly(self, frames: Frames = None) -> np.ndarray:
        """(n, V, 3) float32 metres, camera frame: every vertex on the ray through its own pixel."""
        from .camera import place

        frames, camera = self.frames if frames is None else np.asarray(frames), self.take.camera
        result = np.empty((len(frames), records.VERTICES, 3), np.float32)
        for at in range(0, len(frames), WINDOW):  # placing works in float64, on several arrays of that size
            part = frames[at : at + WINDOW]
            result[at : at + WINDOW] = place(self.lowpoly_pixels(part), self.metres_per_pixel(part), camera)
        return result

    def vertices(self, frames: Frames = None, smooth: float | None = None) -> np.ndarray:
        """(n, N, 3) float32 metres, camera frame: the low-poly, upsampled (165 KB a frame: ask for a few at a time)."""
        from .upsample import Upsampler

        lowpoly = self.lowpoly(frames)
        upsampler = Upsampler.load()
        return upsampler.up(lowpoly) if smooth is None else upsampler.up(lowpoly, smooth=smooth)

    def windows(self, size: int = WINDOW) -> Iterator[np.ndarray]:
        """The person's frames in pieces of at most `size`, for work in bounded memory."""
        frames = self.frames
        for start in range(0, len(frames), size):
            yield frames[start : start + size]

    def fit(self, corrected: bool = True) -> RigFit | None:
        """Shape and bone rotations of the whole clip, by hand `corrected`; None where they were not fitted (yet)."""
        head = self.take._db.rows("SELECT phenotype, scale FROM fit WHERE person = ?", (self.id,))
        if not head:
            return None
        from .rig import RigFit

        query = "SELECT frame, rotations, translation FROM fit_frame WHERE person = ? ORDER BY frame"
        rows = self.take._db.rows(query, (self.id,))
        with self.take._db.sound():
            fit = RigFit(
                phenotype=records.column("phenotype", [head[0][0]])[0],
                scale=float(records.column("scale", [head[0][1]])[0]),
                rotations=records.rotations([row[1] for row in rows]),
                translation=records.column("translation", [row[2] for row in rows]),
                frames=records.frame_numbers([row[0] for row in rows]),
            )
        return take_corrections.laid_on(fit, self) if corrected else fit

    def lowpoly_world(self, frames: Frames = None) -> np.ndarray:
        """(n, V, 3) float32 metres, world frame: the low-poly at the depth of the motion; pixels as in `lowpoly`.

        TakeError where the motion was not made (yet).
        """
        return take_motion.lowpoly_world(self, self.frames if frames is None else frames)

    def motion(self) -> Motion | None:
        """The finished motion, world frame; None where it was not made (yet)."""
        return take_motion.read_motion(self.take._db, self.id)

    def height(self) -> float | None:
        """Metres, sole to crown, of the fitted shape; None where it was not fitted (yet)."""
        fit = self.fit()
        if fit is None:
            return None
        from .body import Body

        return fit.stature(Body.load())

    def _array(self, table: str, column: str, frames: Frames) -> np.ndarray:
        """A column's values, checked: (n, ...)."""
        values = self._column(table, column, frames)
        with self.take._db.sound():
            return records.column(column, values)

    def _column(self, table: str, column: str, frames: Frames) -> list[Any]:
        source = take_edits.raw(self.take._db) if table == "raw" else table
        query = f"SELECT frame, {column} FROM {source} WHERE person = ?"
        if frames is None:
            rows = self.take._db.rows(f"{query} ORDER BY frame", (self.id,))
            if not rows and table == "place" and len(self.frames):
                text = f"{self.take.path}: {self.name} has no place in space yet; run the conversion to its end"
                raise TakeError(text)
            if table == "raw":
                return [row[1] for row in rows]
            frames = self.frames  # a row for each of them, or it is said which one has none
        wanted = [int(frame) for frame in frames]
        if not wanted:
            return []
        query += " AND frame BETWEEN ? AND ?"
        found = dict(self.take._db.rows(query, (self.id, min(wanted), max(wanted))))
        missing = [frame for frame in wanted if frame not in found]
        if missing:
            raise TakeError(f"{self.take.path}: no {table} data of {self.name} in frame {missing[0]}")
        return [found[frame] for frame in wanted]


class Take:
    """A Take file, open for reading (`open`) or for one job's writing (`create`, `resume`)."""

    def __init__(self, database: Database) -> None:
        self.path = database.path
        self._db = database
        self.edits = take_edits.Edits(database)
        self.corrections = take_corrections.Corrections(self)
        self._state: Callable[[], bytes] | bytes | None = None
        self._last_commit = time.monotonic()

    # -- opening ---------------------------------------------------------------------------------------------------

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Take:
        """Open a Take for reading; also one that a job is writing.

        TakeError: it is missing, is no Take, or is from a newer version.
        """
        path = Path(path)
        if not path.is_file():
            raise TakeError(f"{path}: there is no such Take")
        return cls(Database(path))

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        clip: ClipInfo,
        settings: dict[str, Any] | None = None,
        camera: Camera | None = None,
        replace: bool = False,
    ) -> Take:
        """Begin a new Take.

        `replace` allows an older Take at this path; it stays as it is until the new one's first frames are committed.
        TakeError: something is there already, or another job writes it.  OutputError: the folder cannot be written.
        """
        path = Path(path)
        exists = cls.begun(path)
        if exists and not replace:
            raise TakeError(f"{path}: there is a Take already; --restart begins it anew")
        take = cls(Database(path, new=not exists))
        take._db.lock()
        if exists:
            take.commit()  # only the writer's name; the old content goes in the transaction that brings the new
            parts = (take_depth, take_motion, take_edits, take_corrections)
            for table in (*TABLES, *(name for part in parts for name in part.TABLES)):
                take._db.run(f"DROP TABLE IF EXISTS {table}")
        else:
            take._db.stamp()
        for statement in (*SCHEMA.split(";"), *take_motion.SCHEMA.split(";")):
            take._db.run(statement)
        take._db.run("INSERT INTO clip VALUES ('', '', '', '')")
        take.set_clip(clip)
        take.set_settings(settings or {})
        if camera is None:
            from .camera import Camera

            camera = Camera.guess(clip.width, clip.height)
        take.set_camera(camera)
        if not exists:
            take.commit()
        return take

    @classmethod
    def resume(cls, path: str | os.PathLike[str]) -> Take:
        """Open a Take to go on writing it.  TakeError as `open`, or when another job writes it."""
        take = cls.open(path)
        take._db.lock()
        take.commit()
        return take

    @staticmethod
    def begun(path: str | os.PathLike[str]) -> bool:
        """Whether anything was ever committed to the file (a job killed at once leaves an empty one)."""
        path = Path(path)
        if not path.is_file() or path.stat().st_size == 0:
            return False
        database = Database(path, new=True)
        pages = database.rows("PRAGMA page_count")[0][0]
        database.close()
        return pages > 0

    def close(self) -> None:
        """Forget what is not committed and let go of the file."""
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and self._db.writing:
            self.commit()
        self.close()

    # -- reading ---------------------------------------------------------------------------------------------------

    @property
    def clip(self) -> ClipInfo:
        """The clip as it was probed.  Its path is kept relative to the Take, so both may move together."""
        from .video import ClipInfo

        rows = self._db.rows("SELECT path, info FROM clip")
        with self._db.sound():
            path, info = rows[0]
            fields = records.clip_fields(path, info)
            resolved = Path(os.path.normpath(self.path.resolve().parent / Path(path)))
            return ClipInfo(path=resolved, **fields)

    @property
    def clip_identity(self) -> str:
        """Hash of the clip's size, head and tail (`clip_identity` of this module)."""
        rows = self._db.rows("SELECT identity FROM clip")
        with self._db.sound():
            return str(rows[0][0])

    @property
    def settings(self) -> dict[str, Any]:
        """What the Take was made with."""
        rows = self._db.rows("SELECT name, value FROM settings ORDER BY name")
        with self._db.sound():
            return {str(name): json.loads(value) for name, value in rows}

    @property
    def camera(self) -> Camera:
        """The one camera in front of which all people stand."""
        from .camera import Camera

        rows = self._db.rows("SELECT camera FROM clip")
        with self._db.sound():
            return Camera(**records.camera_fields(rows[0][0]))

    def world(self) -> World | None:
        """Where the camera stands in the world; None where the motion was not made (yet)."""
        return take_motion.read_world(self._db)

    @property
    def warnings(self) -> list[str]:
        """One line each."""
        return [str(row[0]) for row in self._db.rows("SELECT message FROM warning ORDER BY rowid")]

    @property
    def people(self) -> list[int]:
        """Ids of the people that are kept, in the order they came."""
        return self._ids("SELECT person FROM person WHERE kept ORDER BY person")

    def person(self, number: int) -> Person:
        """One person.  TakeError where there is none of that id."""
        rows = self._db.rows("SELECT name FROM person WHERE person = ? AND kept", (int(number),))
        if not rows:
            known = ", ".join(map(str, self.people)) or "nobody"
            raise TakeError(f"{self.path}: there is no person {number}; the Take holds {known}")
        return Person(self, int(number), " ".join(str(rows[0][0]).split()))

    @property
    def all_people(self) -> list[int]:
        """Ids of everybody found, those that are not kept too."""
        return self._ids("SELECT person FROM person ORDER BY person")

    def _ids(self, query: str) -> list[int]:
        with self._db.sound():
            return records.whole_numbers([row[0] for row in self._db.rows(query)])

    @property
    def frames(self) -> np.ndarray:
        """(F,) int64: the clip's frames that were looked at, with or without people."""
        rows = self._db.rows("SELECT frame FROM frame ORDER BY frame")
        with self._db.sound():
            return records.frame_numbers([row[0] for row in rows])

    def times(self, frames: Frames = None) -> np.ndarray:
        """(F,) float64 seconds of the frames looked at, from the clip's own timestamps."""
        rows = dict(self._db.rows("SELECT frame, time FROM frame ORDER BY frame"))
        wanted = None if frames is None else [int(frame) for frame in frames]
        with self._db.sound():
            return records.column("time", list(rows.values()) if wanted is None else [rows[frame] for frame in wanted])

    @property
    def finished(self) -> bool:
        """Whether the whole clip has been looked at (place, fit and preview may still be missing)."""
        return bool(self._db.rows("SELECT 1 FROM job WHERE name = 'finished'"))

    @property
    def tracker_state(self) -> bytes | None:
        """The tracker as it was after the last committed frame."""
        rows = self._db.rows("SELECT value FROM job WHERE name = 'tracker'")
        return rows[0][0] if rows else None

    def made_from(self, what: str, person: int = 0) -> str | None:
        """Hash of what a derived part (`place`, `fit`, `preview`) was made from; None where it was not made."""
        rows = self._db.rows("SELECT made_from FROM made WHERE what = ? AND person = ?", (what, person))
        return rows[0][0] if rows else None

    def raw_hash(self, person: int) -> str:
        """Hash of what the network said of one person."""
        digest = hashlib.sha256()
        query = "SELECT frame, crop, vertices, visibility, score FROM raw WHERE person = ? ORDER BY frame"
        if not take_edits.hash_of(self._db, person, digest):
            self._db.hash(digest, query, (person,))
        return digest.hexdigest()

    def digest(self) -> str:
        """Hash of the content: clip, settings, frames, people, raw, place and fit of those who are kept.

        Equal for equal content however it came about: it knows nothing of the file's pages, of the commits, of where
        clip and Take lie, or of how long anything took.
        """
        digest = hashlib.sha256()
        kept = "WHERE person IN (SELECT person FROM person WHERE kept)"
        for query in (
            "SELECT identity, info, camera FROM clip",
            "SELECT name, value FROM settings ORDER BY name",
            "SELECT frame, time FROM frame ORDER BY frame",
            "SELECT person, name, kept FROM person ORDER BY person",
            "SELECT person, frame, crop, vertices, visibility, score FROM raw ORDER BY person, frame",
            f"SELECT person, frame, metres_per_pixel FROM place {kept} ORDER BY person, frame",
            f"SELECT person, phenotype, scale FROM fit {kept} ORDER BY person",
            f"SELECT person, frame, rotations, translation FROM fit_frame {kept} ORDER BY person, frame",
            "SELECT message FROM warning ORDER BY message",
            *(take_motion.CONTENT if take_motion.there(self._db) else ()),
            *(query for part in (take_depth, take_edits, take_corrections) for query in part.content(self._db)),
        ):
            self._db.hash(digest, query)
        return digest.hexdigest()

    # -- writing ---------------------------------------------------------------------------------------------------

    def set_clip(self, clip: ClipInfo) -> None:
        """Say which clip this is (also after the clip was moved)."""
        path = Path(clip.path).resolve()
        try:
            relative = os.path.relpath(path, self.path.resolve().parent)
        except ValueError:  # another drive of a Windows machine
            relative = str(path)
        info = {f.name: records.plain(getattr(clip, f.name)) for f in dataclasses.fields(clip) if f.name != "path"}
        values = (Path(relative).as_posix(), clip_identity(path), json.dumps(info, sort_keys=True))
        self._db.run("UPDATE clip SET path = ?, identity = ?, info = ?", values)

    def set_settings(self, settings: dict[str, Any]) -> None:
        """Replace the settings (values that JSON can hold)."""
        self._db.run("DELETE FROM settings")
        for name, value in settings.items():
            self._db.run("INSERT INTO settings VALUES (?, ?)", (name, json.dumps(records.plain(value), sort_keys=True)))

    def set_camera(self, camera: Camera) -> None:
        """Replace the camera; people have to be placed again then."""
        self._db.run("UPDATE clip SET camera = ?", (json.dumps(dataclasses.asdict(camera), sort_keys=True),))

    def add_warning(self, message: str) -> None:
        """Keep a warning; the same text only once."""
        self._db.run("INSERT OR IGNORE INTO warning VALUES (?)", (message,))

    def add_frame(
        self,
        index: int,
        people: Iterable[tuple[int, Estimate]],
        tracker_state: Callable[[], bytes] | bytes | None = None,
        seconds: float | None = None,
    ) -> bool:
        """Keep what was found in a frame (nobody is a finding too); commits by itself about twice a second.

        tracker_state: the tracker as it is after this frame, or a function that says it; it is asked only at a commit,
        which therefore has to happen before the tracker goes on.  seconds: the frame's timestamp.  Returns whether it
        was committed.
        """
        if seconds is None:
            seconds = index / float(self.clip.fps or 1.0)
        self._db.run("INSERT INTO frame VALUES (?, ?)", (int(index), float(seconds)))
        for number, estimate in people:
            known = (int(number), f"Person {int(number)}")
            self._db.run("INSERT OR IGNORE INTO person (person, name) VALUES (?, ?)", known)
            crop, vertices = blob(estimate.crop.as_array(), np.float64), blob(estimate.vertices, np.float32)
            visibility, score = blob(estimate.visibility, np.float16), float(estimate.score)
            row = (int(number), int(index), crop, vertices, visibility, score)
            self._db.run("INSERT INTO raw VALUES (?, ?, ?, ?, ?, ?)", row)
        self._state = tracker_state
        return self.commit_if_due()

    def commit_if_due(self) -> bool:
        """Commit when half a second has passed since the last time."""
        due = time.monotonic() - self._last_commit >= COMMIT_SECONDS
        if due:
            self.commit()
        return due

    def commit(self) -> None:
        """Make everything so far safe against a kill: whole frames and the tracker's state, together or not at all."""
        state = self._state() if callable(self._state) else self._state
        if state is not None:
            self._db.run("INSERT OR REPLACE INTO job VALUES ('tracker', ?)", (state,))
        self._state = None
        self._db.commit()
        self._last_commit = time.monotonic()

    def finish(self, keep: Iterable[int] | None = None) -> None:
        """The whole clip has been looked at.  keep: ids of the people to show (others stay in the file, unseen)."""
        self.keep(self.all_people if keep is None else keep)
        self._state = None
        self._db.run("DELETE FROM job WHERE name = 'tracker'")
        self._db.run("INSERT OR REPLACE INTO job VALUES ('finished', 1)")
        self.commit()

    def keep(self, numbers: Iterable[int]) -> None:
        """Choose whom `people` names."""
        self._db.run("UPDATE person SET kept = 0")
        for number in numbers:
            self._db.run("UPDATE person SET kept = 1 WHERE person = ?", (int(number),))

    def set_job_value(self, name: str, value: str) -> None:
        """Keep a note of the job's own (whom the tracker keeps, say); no part of the digest."""
        self._db.run("INSERT OR REPLACE INTO job VALUES (?, ?)", (name, value))

    def job_value(self, name: str) -> str | None:
        """A note of `set_job_value`."""
        rows = self._db.rows("SELECT value FROM job WHERE name = ?", (name,))
        return rows[0][0] if rows else None

    @property
    def found(self) -> list[int]:
        """Ids of the people whom the tracker keeps (`people` are those of them that were chosen)."""
        return self.edits.people() if self.job_value("found") else []

    def set_place(
        self, person: int, frames: np.ndarray, metres_per_pixel: np.ndarray, made_from: str,
        change: np.ndarray | None = None,
    ) -> None:  # fmt: skip
        """Replace a person's depth: frames (n,), metres_per_pixel (n,), change (n, V, 3) of the vertices in pixels
        (`take_depth`); a rig fit of the old one goes.  Commits."""
        self.drop_fit(person)
        take_depth.write(self._db, person, frames, change)
        self._db.run("DELETE FROM place WHERE person = ?", (person,))
        for frame, size in zip(frames, metres_per_pixel, strict=True):
            self._db.run("INSERT INTO place VALUES (?, ?, ?)", (person, int(frame), float(size)))
        self.set_made("place", person, made_from)

    def set_fit(self, person: int, fit: RigFit, made_from: str) -> None:
        """Replace a person's shape and bones.  Commits."""
        self.drop_fit(person)
        self._db.run("INSERT INTO fit VALUES (?, ?, ?)", (person, blob(fit.phenotype, np.float64), float(fit.scale)))
        for i, frame in enumerate(fit.frames):
            row = (person, int(frame), blob(fit.rotations[i], np.float32), blob(fit.translation[i], np.float64))
            self._db.run("INSERT INTO fit_frame VALUES (?, ?, ?, ?)", row)
        self.set_made("fit", person, made_from)

    def drop_fit(self, person: int) -> None:
        """Forget a person's shape and bones (what they were made from has changed)."""
        self._db.run("DELETE FROM fit WHERE person = ?", (person,))
        self._db.run("DELETE FROM fit_frame WHERE person = ?", (person,))
        self._db.run("DELETE FROM made WHERE what = 'fit' AND person = ?", (person,))
        take_corrections.drop(self._db, person)
        take_motion.drop(self._db)

    def set_motion(self, motions: Mapping[int, Motion], world: World, made_from: str) -> None:
        """Replace everybody's motion (by id) and the world.  Commits."""
        take_motion.write(self._db, motions, world)
        self.set_made("motion", 0, made_from)

    def set_made(self, what: str, person: int, made_from: str) -> None:
        """Say what a derived part was made from.  Commits."""
        self._db.run("INSERT OR REPLACE INTO made VALUES (?, ?, ?)", (what, person, made_from))
        self.commit()
