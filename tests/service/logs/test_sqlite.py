"""The embedded log keeps what was committed, all of it or nothing, and says clearly when it can't."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import numpy as np
import pytest

from service.errors import TickwatchError
from service.logs import Checkpoint, DeadLetter, Output, PartitionState
from service.logs.sqlite import RETAINED, SqliteLog

ROW = 16


def nothing() -> None:
    """No other worker ever takes a partition away."""


def opened(path: Path, layout: str = "model/1", max_records: int = 5000) -> SqliteLog:
    return SqliteLog(path / "log.sqlite", layout, max_records)


def checkpoint(offset: int, *names: str, fill: int = 0) -> Checkpoint:
    rows = np.full((len(names), ROW), fill, np.uint8)
    return Checkpoint({0: offset}, [PartitionState(0, list(names), rows)])


def count(path: Path, table: str) -> int:
    with sqlite3.connect(path / "log.sqlite") as db:
        (found,) = db.execute(f"SELECT count(*) FROM {table}").fetchone()
    db.close()
    return int(found)


def test_a_commit_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    log = opened(tmp_path)
    log.append([b"a", b"b"], b"")
    log.poll(0, nothing)
    letter = DeadLetter(0, 0, None, b"a", "bad")
    log.commit(Checkpoint({0: 1}, dead_letters=[letter]))
    twice = Checkpoint({0: 2}, [], [Output(0, b"k", b"alert")], [Output(0, b"", b"frame")], [letter])
    with pytest.raises(TickwatchError, match=r"log\.sqlite: .*nothing of the last transaction was kept"):
        log.commit(twice)  # the same letter twice breaks a uniqueness rule in the middle of the transaction
    log.close()
    assert (count(tmp_path, "alerts"), count(tmp_path, "scores"), count(tmp_path, "dead_letters")) == (0, 0, 1)
    again = opened(tmp_path)
    assert again.poll(0, nothing).records.value == [b"b"]
    again.close()


def test_a_second_process_on_the_same_file_is_refused(tmp_path: Path) -> None:
    log = opened(tmp_path)
    with pytest.raises(TickwatchError, match="another tickwatch is using it"):
        opened(tmp_path)
    log.close()
    opened(tmp_path).close()


def test_a_file_that_is_no_database_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "log.sqlite").write_bytes(b"this is not a database at all, but long enough to look at" * 20)
    with pytest.raises(TickwatchError, match="not a database"):
        opened(tmp_path)


def test_consumed_ticks_are_dropped_after_a_while_and_others_never(tmp_path: Path) -> None:
    log = opened(tmp_path)
    log.append([b"x"] * (RETAINED + 500), b"")
    log.commit(checkpoint(RETAINED + 200))
    log.close()
    assert count(tmp_path, "ticks") == RETAINED + 300
    again = opened(tmp_path)
    assert again.lag() == {0: 300}
    again.append([b"y"], b"")
    assert again.end == RETAINED + 501
    again.close()
