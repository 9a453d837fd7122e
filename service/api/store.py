"""What the service keeps of streams and answers: the embedded log with three tables more, in the same transactions."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from service.logs import Checkpoint, PartitionState
from service.logs.sqlite import SqliteLog

SCHEMA = """
CREATE TABLE IF NOT EXISTS streams (
    stream TEXT PRIMARY KEY, ticks INTEGER NOT NULL, ts INTEGER NOT NULL, score REAL NOT NULL, alert INTEGER NOT NULL,
    at REAL NOT NULL, last BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS answers (
    id INTEGER PRIMARY KEY AUTOINCREMENT, stream TEXT NOT NULL, key TEXT NOT NULL, digest BLOB NOT NULL, value BLOB NOT NULL,
    UNIQUE (stream, key)
);
CREATE INDEX IF NOT EXISTS answers_of_stream ON answers (stream, id);
CREATE TABLE IF NOT EXISTS verdicts (
    id INTEGER PRIMARY KEY AUTOINCREMENT, stream TEXT NOT NULL, tick BLOB NOT NULL, value BLOB NOT NULL, UNIQUE (stream, tick)
);
CREATE INDEX IF NOT EXISTS verdicts_of_stream ON verdicts (stream, id);
"""
KEPT_ANSWERS = 256  # of each stream, for retries with an idempotency key
KEPT_VERDICTS = 10_000  # of each stream, for retries of ticks with sequence numbers
ALERTS_LOOKED_AT = 20_000  # by one page, however few of them it shows


@dataclass(frozen=True)
class Answered:
    """An answer to remember: the digest of the request that had the key, and the answer's bytes."""

    stream: str
    key: str
    digest: bytes
    value: bytes


@dataclass(frozen=True)
class LastTick:
    """The newest known of a stream; `last` is the JSON of the tick and its features."""

    stream: str
    ticks: int
    ts: int
    score: float
    alert: bool
    at: float
    last: bytes


@dataclass
class Changes:
    """What one batch changes beside the log's own tables. `verdicts` are (stream, identity of the tick, JSON)."""

    answers: list[Answered] = field(default_factory=list)
    verdicts: list[tuple[str, bytes, bytes]] = field(default_factory=list)
    streams: list[LastTick] = field(default_factory=list)


class Store:
    """Writes through one connection, of the scoring thread; `reading` opens others for everyone else.

    Raises TickwatchError when the file can't be had or a transaction fails, of which then nothing is kept.
    """

    def __init__(self, path: Path, layout: str) -> None:
        self._log = SqliteLog(path, layout, more_tables=SCHEMA)
        self._uri = f"{path.resolve().as_uri()}?mode=ro"
        with self.reading() as db:
            self.ticks: dict[str, int] = dict(db.execute("SELECT stream, ticks FROM streams").fetchall())
            (self.newest_alert,) = db.execute("SELECT coalesce(max(id), 0) FROM alerts").fetchone()
        self.next = self._log.position
        self._counts: dict[str, int] = {}

    def count(self, prefix: str) -> int:
        """How many streams begin with a prefix."""
        if prefix not in self._counts:
            self._counts[prefix] = sum(name.startswith(prefix) for name in self.ticks)
        return self._counts[prefix]

    def _counted(self, stream: str, change: int) -> None:
        for prefix in self._counts:
            self._counts[prefix] += change * stream.startswith(prefix)

    def restore(self) -> PartitionState:
        """The state of all streams as of the last commit."""
        return self._log.restore()

    def commit(self, checkpoint: Checkpoint, changes: Changes) -> None:
        """Make a batch durable, or nothing of it."""

        def more(db: sqlite3.Connection) -> None:
            db.executemany(
                "INSERT INTO answers (stream, key, digest, value) VALUES (?, ?, ?, ?)",
                ((a.stream, a.key, a.digest, a.value) for a in changes.answers),
            )
            db.executemany("INSERT INTO verdicts (stream, tick, value) VALUES (?, ?, ?)", changes.verdicts)
            db.executemany(
                "INSERT OR REPLACE INTO streams VALUES (?, ?, ?, ?, ?, ?, ?)",
                ((s.stream, s.ticks, s.ts, s.score, s.alert, s.at, s.last) for s in changes.streams),
            )
            for table, kept, names in (
                ("answers", KEPT_ANSWERS, {a.stream for a in changes.answers}),
                (
                    "verdicts",
                    KEPT_VERDICTS,
                    {s.stream for s in changes.streams if self._due(s)} if changes.verdicts else (),
                ),
            ):
                db.executemany(
                    f"DELETE FROM {table} WHERE stream = ?1 AND id <="  # noqa: S608  (one of two names)
                    f" (SELECT id FROM {table} WHERE stream = ?1 ORDER BY id DESC LIMIT 1 OFFSET {kept})",
                    ((name,) for name in names),
                )

        self._log.commit(checkpoint, more)
        self.next = checkpoint.offsets.get(0, self.next)
        self.newest_alert += len(checkpoint.alerts)
        for stream in changes.streams:
            if stream.stream not in self.ticks:
                self._counted(stream.stream, 1)
            self.ticks[stream.stream] = stream.ticks

    def _due(self, stream: LastTick) -> bool:
        return stream.ticks // 1024 != self.ticks.get(stream.stream, 0) // 1024

    def remove(self, stream: str) -> None:
        """Forget a stream and what was answered for it; its alerts stay."""

        def more(db: sqlite3.Connection) -> None:
            for table in ("streams", "answers", "verdicts"):
                db.execute(f"DELETE FROM {table} WHERE stream = ?", (stream,))  # noqa: S608  (one of three names)

        removed = PartitionState(0, [], np.empty((0, 0), np.uint8), [stream])
        self._log.commit(Checkpoint({0: self.next}, [removed]), more)
        del self.ticks[stream]
        self._counted(stream, -1)

    def answer(self, stream: str, key: str) -> tuple[bytes, bytes] | None:
        """(digest of the request, answer) that an idempotency key stands for, None if it is new."""
        found = self._log.select("SELECT digest, value FROM answers WHERE stream = ? AND key = ?", stream, key)
        return found[0] if found else None

    def verdict(self, stream: str, tick: bytes) -> bytes | None:
        """The JSON that was answered for a tick, None if it is new."""
        found = self._log.select("SELECT value FROM verdicts WHERE stream = ? AND tick = ?", stream, tick)
        return found[0][0] if found else None

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A connection that sees what is committed; may be used from any one thread."""
        with closing(sqlite3.connect(self._uri, uri=True, timeout=10)) as db:
            yield db

    def summaries(self, prefix: str, after: str, limit: int) -> list[Sequence[Any]]:
        """(stream, ticks, ts, score, alert, at) of the streams behind `after` by name."""
        query = (
            "SELECT stream, ticks, ts, score, alert, at FROM streams"
            " WHERE stream > ?1 AND stream >= ?2 AND stream <= ?3 ORDER BY stream LIMIT ?4"
        )
        with self.reading() as db:
            return db.execute(query, (after, prefix, _end(prefix), limit)).fetchall()

    def detail(self, stream: str) -> Sequence[Any] | None:
        """(stream, ticks, ts, score, alert, at, last) of one stream."""
        with self.reading() as db:
            found: Sequence[Any] | None = db.execute("SELECT * FROM streams WHERE stream = ?", (stream,)).fetchone()
        return found

    def alerts(self, prefix: str, after: int, stream: str | None) -> tuple[list[tuple[int, bytes]], int, bool]:
        """(id and event of alerts behind `after`, the last id looked at, whether there are more) of a range of ids."""
        first, last = (stream, stream) if stream is not None else (prefix, _end(prefix))
        query = "SELECT id, value FROM alerts WHERE id > ? AND id <= ? AND stream >= ? AND stream <= ? ORDER BY id"
        with self.reading() as db:
            (newest,) = db.execute("SELECT coalesce(max(id), 0) FROM alerts").fetchone()
            until = min(after + ALERTS_LOOKED_AT, max(newest, after))
            found = db.execute(query, (after, until, first.encode(), last.encode())).fetchall()
        return found, until, until < newest

    def newest(self, prefix: str, after: int, until: int, most: int) -> list[bytes]:
        """At most so many alert events of a prefix, the newest first, with ids behind `after` up to `until`."""
        query = (
            "SELECT value FROM alerts WHERE id > ? AND id <= ? AND stream >= ? AND stream <= ? ORDER BY id DESC LIMIT ?"
        )
        after = max(after, until - ALERTS_LOOKED_AT)
        with self.reading() as db:
            found = db.execute(query, (after, until, prefix.encode(), _end(prefix).encode(), most)).fetchall()
        return [value for (value,) in found]

    def reachable(self) -> bool:
        """Whether the file can be read."""
        try:
            with self.reading() as db:
                db.execute("SELECT count(*) FROM meta")
        except sqlite3.Error:
            return False
        return True

    def close(self) -> None:
        """Release the file; what was not committed is void."""
        self._log.close()


def _end(prefix: str) -> str:
    """No name with the prefix comes after this."""
    return prefix + "\U0010ffff" * 256
