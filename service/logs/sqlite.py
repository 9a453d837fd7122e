"""The embedded log: one SQLite file with the contract of Kafka, for one machine and one worker."""

from __future__ import annotations

import fcntl
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from service.errors import TickwatchError
from service.logs import Checkpoint, PartitionState, Poll, Records

RETAINED = 100_000  # consumed ticks that are kept, for looking at what led to an alert
SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS ticks (offset INTEGER PRIMARY KEY, key BLOB, value BLOB);
CREATE TABLE IF NOT EXISTS offsets (partition INTEGER PRIMARY KEY, next INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS state (stream TEXT PRIMARY KEY, row BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS alerts (id INTEGER PRIMARY KEY AUTOINCREMENT, stream BLOB NOT NULL, value BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS scores (id INTEGER PRIMARY KEY AUTOINCREMENT, value BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS dead_letters (offset INTEGER PRIMARY KEY, key BLOB, value BLOB, reason TEXT NOT NULL);
"""


class SqliteLog:
    """A log in the file `path`, made if absent. It has one partition, 0, whose first offset is 0.

    `layout` names the meaning of a state row; a file written under another layout is refused. Tables: `ticks` in;
    `alerts`, `scores`, `dead_letters`, `state`, `offsets` out, always changed in one transaction.
    `more_tables` is SQL that makes further ones, for `commit` with `more`.
    """

    name = "ticks"
    connect_attempts = 0
    connected = True  # a file is there or the constructor says why not
    restoring = 0  # the first poll brings all state

    def __init__(self, path: Path, layout: str, max_records: int = 5000, more_tables: str = "") -> None:
        self._path = path
        self._max_records = max_records
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = locked(path)
        self._db = sqlite3.connect(
            path, isolation_level=None, check_same_thread=False
        )  # opened here, used by one thread
        try:
            with self._explained():
                self._db.execute("PRAGMA journal_mode = WAL")
                self._db.execute("PRAGMA synchronous = FULL")  # an acknowledged commit survives a power cut
                self._db.executescript(SCHEMA + more_tables)
                self._check_layout(layout)
                self._next = self._one("SELECT next FROM offsets WHERE partition = 0") or 0
                self.end = self._one("SELECT coalesce(max(offset) + 1, 0) FROM ticks") or 0
        except TickwatchError:
            self.close()
            raise
        self._restored = False

    def _one(self, query: str) -> int | None:
        row = self._db.execute(query).fetchone()
        return None if row is None else int(row[0])

    def _check_layout(self, layout: str) -> None:
        self._db.execute("INSERT OR IGNORE INTO meta VALUES ('layout', ?)", (layout,))
        (found,) = self._db.execute("SELECT value FROM meta WHERE key = 'layout'").fetchone()
        if found != layout:
            raise TickwatchError(
                f"log {self._path}: its state was written by model and layout {found}, this worker has {layout};"
                " go on with that model, or start afresh (run: without --resume, serve: with --fresh)"
            )

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise TickwatchError(f"log {self._path}: {error}; nothing of the last transaction was kept") from error

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._explained():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def append(self, values: list[bytes], position: bytes) -> None:
        """Add records at the end of the log, together with the position of the feed that made them."""
        with self._transaction() as db:
            first = self.end
            db.executemany("INSERT INTO ticks (offset, value) VALUES (?, ?)", enumerate(values, start=first))
            db.execute("INSERT OR REPLACE INTO meta VALUES ('feed', ?)", (position,))
        self.end = first + len(values)

    def feed_position(self) -> bytes | None:
        """The position given with the last append, None if there was none."""
        row = self._db.execute("SELECT value FROM meta WHERE key = 'feed'").fetchone()
        return None if row is None else bytes(row[0])

    def poll(self, timeout_ms: int, before_revoke: Callable[[], None]) -> Poll:
        """The next records, at most `max_records`; never waits, since only this process appends."""
        with self._explained():
            restored = []
            if not self._restored:
                restored.append(self.restore())
                self._restored = True
            query = "SELECT offset, key, value FROM ticks WHERE offset >= ? ORDER BY offset LIMIT ?"
            found = self._db.execute(query, (self._next, self._max_records)).fetchall()
        offsets, keys, values = zip(*found, strict=True) if found else ((), (), ())
        if found:
            self._next = offsets[-1] + 1
        records = Records(np.zeros(len(found), np.int32), np.array(offsets, np.int64), list(keys), list(values))
        return Poll(records, restored)

    @property
    def position(self) -> int:
        """The next offset to read."""
        return self._next

    def restore(self) -> PartitionState:
        """The state of all streams as of the last commit."""
        names, rows = [], bytearray()
        for name, row in self._db.execute("SELECT stream, row FROM state"):
            names.append(name)
            rows += row
        table = np.frombuffer(bytes(rows), np.uint8).reshape(len(names), -1 if names else 0)
        return PartitionState(0, names, table)

    def commit(self, checkpoint: Checkpoint, more: Callable[[sqlite3.Connection], None] = lambda db: None) -> None:
        """Write everything in one transaction, to which `more` may add tables of its caller."""
        with self._transaction() as db:
            db.executemany("INSERT OR REPLACE INTO offsets VALUES (?, ?)", checkpoint.offsets.items())
            for state in checkpoint.states:
                rows = (row.tobytes() for row in state.rows[:])
                db.executemany("INSERT OR REPLACE INTO state VALUES (?, ?)", zip(state.streams, rows, strict=True))
                db.executemany("DELETE FROM state WHERE stream = ?", ((name,) for name in state.removed))
            db.executemany(
                "INSERT INTO alerts (stream, value) VALUES (?, ?)", ((a.key, a.value) for a in checkpoint.alerts)
            )
            db.executemany("INSERT INTO scores (value) VALUES (?)", ((s.value,) for s in checkpoint.scores))
            letters = ((d.offset, d.key, d.value, d.reason) for d in checkpoint.dead_letters)
            db.executemany("INSERT INTO dead_letters VALUES (?, ?, ?, ?)", letters)
            db.execute("DELETE FROM ticks WHERE offset < ?", (checkpoint.offsets.get(0, 0) - RETAINED,))
            more(db)

    def select(self, query: str, *parameters: object) -> list[tuple[Any, ...]]:
        """The rows that a query finds."""
        with self._explained():
            return self._db.execute(query, parameters).fetchall()

    def lag(self) -> dict[int, int]:
        """Records not yet polled."""
        return {0: self.end - self._next}

    def close(self) -> None:
        """Close the file; what was not committed is void."""
        self._db.close()
        self._lock.close()


def locked(path: Path) -> IO[bytes]:
    """Keeps other processes from a log until it is closed. Raises TickwatchError where one has it."""
    lock = path.with_name(path.name + ".lock").open("wb")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        raise TickwatchError(
            f"log {path}: another tickwatch is using it; stop that one or give another --data-dir"
        ) from error
    return lock
