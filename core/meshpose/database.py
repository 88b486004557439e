# SPDX-License-Identifier: Apache-2.0
"""The SQLite side of a Take: opening and checking the file, one writer at a time, errors in our words.

A writer keeps SQLite's write lock as long as it lives (it begins the next transaction right after each commit), so that
a second one cannot slip in, and a killed one leaves nothing to clean up; readers see the last commit at any time.
"""

from __future__ import annotations

import hashlib
import os
import socket
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from .errors import MeshPoseError, OutputError, TakeError

APPLICATION_ID = 0x4D50544B  # "MPTK"
VERSION = 1

FAULTS = (sqlite3.DatabaseError, UnicodeDecodeError)
"""What Python's SQLite raises; the second where its own message quotes bytes of a damaged file."""

# No part of the Take's own tables: it outlives a restart, which replaces those in one transaction.
WRITER_TABLE = "CREATE TABLE IF NOT EXISTS writer (pid INTEGER NOT NULL, host TEXT NOT NULL)"


class Database:
    """A Take's file, open for reading, or (after `lock`) for writing.

    Raises TakeError for a file that is no Take, or one of a newer version; OutputError where it cannot be opened.
    """

    def __init__(self, path: Path, new: bool = False) -> None:
        """new: the file may be missing or empty; else a file on a read-only medium is opened for reading."""
        self.path = path
        self.writing = False
        mode = "rwc" if new else "rw" if os.access(path, os.W_OK) else "ro"
        try:
            self._connection = sqlite3.connect(
                f"{path.resolve().as_uri()}?mode={mode}", uri=True, timeout=30.0, isolation_level=None,
                check_same_thread=False,
            )  # fmt: skip
            self._connection.execute("PRAGMA synchronous = NORMAL")
            # A transaction that outgrows the cache would lock readers out before its commit.
            self._connection.execute("PRAGMA cache_size = -16384")
            known = self._connection.execute("PRAGMA application_id").fetchone()[0]
            version = self._connection.execute("PRAGMA user_version").fetchone()[0]
            empty = self._connection.execute("PRAGMA page_count").fetchone()[0] == 0
        except sqlite3.OperationalError as error:
            raise OutputError(f"{path}: the file cannot be opened ({error}); choose another --out") from error
        except (*FAULTS, TypeError) as error:  # TypeError: no row came
            raise TakeError(f"{path}: this is not a MeshPose Take") from error
        problem = None
        if known != APPLICATION_ID and not (new and empty):
            problem = "this is not a MeshPose Take"
        elif version > VERSION:
            problem = f"written by a newer MeshPose (Take version {version}, this one reads {VERSION}); update MeshPose"
        if problem:
            self._connection.close()
            raise TakeError(f"{path}: {problem}")

    def lock(self) -> None:
        """Take the write lock, say who holds it, and begin the first transaction.  TakeError where another holds it."""
        self._begin()
        self.writing = True
        self.run(WRITER_TABLE)
        # A name in the table without a lock: the writer was killed, or is just between two transactions (a
        # millisecond): give it time to take its lock back.
        if self.rows("SELECT 1 FROM writer"):
            self.rollback()
            time.sleep(0.05)
            self._begin()
            self.run("DELETE FROM writer")
        self.run("INSERT INTO writer VALUES (?, ?)", (os.getpid(), socket.gethostname()))

    def stamp(self) -> None:
        """Say in the file's header that this is a Take."""
        self.run(f"PRAGMA application_id = {APPLICATION_ID}")
        self.run(f"PRAGMA user_version = {VERSION}")

    def run(self, statement: str, values: tuple[Any, ...] = ()) -> None:
        """Write."""
        if not self.writing:
            raise TakeError(f"{self.path}: this Take is open for reading only")
        with self._errors():
            self._connection.execute(statement, values)

    def rows(self, query: str, values: tuple[Any, ...] = ()) -> list[Any]:
        """Read all rows of a query."""
        with self._errors():
            return self._connection.execute(query, values).fetchall()

    def hash(self, digest: hashlib._Hash, query: str, values: tuple[Any, ...] = ()) -> None:
        """Feed a query's rows to a hash, one at a time, each value with its type and length in front."""
        digest.update(query.encode())
        with self._errors():
            for row in self._connection.execute(query, values):
                for value in row:
                    data = value if isinstance(value, bytes) else repr(value).encode()
                    digest.update(f"{type(value).__name__}{len(data)}:".encode())
                    digest.update(data)

    def commit(self) -> None:
        """Make everything so far safe against a kill, and go on writing."""
        with self._errors():
            self._connection.execute("COMMIT")
            self._connection.execute("BEGIN IMMEDIATE")

    def rollback(self) -> None:
        """Forget what is not committed."""
        if self._connection.in_transaction:
            with self._errors():
                self._connection.execute("ROLLBACK")

    def close(self) -> None:
        """Forget what is not committed and let go of the file."""
        if self.writing:
            # On a full disk the name stays in the table; without the lock it means nothing.
            with suppress(MeshPoseError):
                self.rollback()
                self.run("DELETE FROM writer")
            self.writing = False
        self._connection.close()

    def _begin(self) -> None:
        try:
            self._connection.execute("PRAGMA busy_timeout = 200")
            self._connection.execute("BEGIN IMMEDIATE")
        except FAULTS as error:
            self.writing = False
            holder = self._writer() if "locked" in str(error) else None
            self._connection.close()
            if holder is None and not _is_of_the_place(error):
                raise self._damaged(error) from error
            if holder is None:
                raise OutputError(f"{self.path}: the Take cannot be written ({error})") from error
            raise TakeError(f"{self.path}: {holder} is writing this Take; wait for it, or stop it") from error
        self._connection.execute("PRAGMA busy_timeout = 30000")  # a commit waits for readers

    def _writer(self) -> str:
        """Who holds the write lock, in words."""
        try:
            row = self._connection.execute("SELECT pid, host FROM writer").fetchone()
        except FAULTS:  # a Take whose first transaction is still open
            row = None
        return f"process {row[0]} on {row[1]}" if row else "another process"

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """SQLite's errors in our words."""
        try:
            yield
        except FAULTS as error:
            if not _is_of_the_place(error):
                raise self._damaged(error) from error
            text = f"{self.path}: the Take cannot be read or written ({error}); is the disk full, or the file locked?"
            raise OutputError(text) from error

    @contextmanager
    def sound(self) -> Iterator[None]:
        """Inside, rows are made into what they mean: where that cannot be, the Take is damaged (TakeError)."""
        try:
            yield
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError) as error:
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> TakeError:
        why = f"{error} is missing" if isinstance(error, KeyError) else " ".join(str(error).split())
        return TakeError(f"{self.path}: the Take is damaged ({why}); delete it to make it again")


OF_THE_PLACE = frozenset(
    (
        sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_PROTOCOL,
    )
)  # fmt: skip
"""SQLite's codes that blame the disk or another process, not the file's content."""


def _is_of_the_place(error: Exception) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in OF_THE_PLACE


def blob(array: np.ndarray, dtype: type) -> bytes:
    """An array as bytes, little-endian."""
    return np.ascontiguousarray(array, np.dtype(dtype).newbyteorder("<")).tobytes()


def stack(blobs: list[bytes], dtype: type, shape: tuple[int, ...]) -> np.ndarray:
    """Blobs of one length -> (n, *shape); one side of the shape may be -1."""
    if not blobs:
        return np.zeros((0, *(max(size, 0) for size in shape)), dtype)
    return np.frombuffer(b"".join(blobs), np.dtype(dtype).newbyteorder("<")).astype(dtype).reshape(len(blobs), *shape)
