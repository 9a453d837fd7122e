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


def test_records_come_back_in_order_with_consecutive_offsets(tmp_path: Path) -> None:
    log = opened(tmp_path, max_records=3)
    log.append([b"a", b"b"], b"1")
    log.append([b"c", b"d"], b"2")
    first, second, third = (log.poll(0, nothing).records for _ in range(3))
    assert (first.value, second.value, len(third)) == ([b"a", b"b", b"c"], [b"d"], 0)
    assert first.offset.tolist() + second.offset.tolist() == [0, 1, 2, 3]
    log.close()


def test_a_reopened_log_goes_on_after_the_last_commit_with_its_state(tmp_path: Path) -> None:
    log = opened(tmp_path)
    log.append([b"a", b"b", b"c"], b"three")
    log.poll(0, nothing)
    log.commit(checkpoint(2, "x", "y", fill=7))
    log.close()
    again = opened(tmp_path)
    found = again.poll(0, nothing)
    assert found.records.value == [b"c"]
    assert found.records.offset.tolist() == [2]
    (state,) = found.restored
    assert sorted(state.streams) == ["x", "y"]
    assert state.rows.tolist() == [[7] * ROW] * 2
    assert again.feed_position() == b"three"
    assert again.poll(0, nothing).restored == []
    again.close()


def test_what_was_not_committed_is_polled_again(tmp_path: Path) -> None:
    log = opened(tmp_path)
    log.append([b"a"], b"")
    assert len(log.poll(0, nothing).records) == 1
    log.close()
    again = opened(tmp_path)
    assert len(again.poll(0, nothing).records) == 1
    again.close()


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


def test_outputs_are_rows_that_any_sqlite_client_reads(tmp_path: Path) -> None:
    log = opened(tmp_path)
    log.append([b"a"], b"")
    alert, frame, letter = Output(0, b"k", b"{}"), Output(0, b"", b"{}"), DeadLetter(0, 0, b"k", b"a", "why")
    log.commit(Checkpoint({0: 1}, alerts=[alert], scores=[frame], dead_letters=[letter]))
    assert [count(tmp_path, t) for t in ("alerts", "scores", "dead_letters", "offsets")] == [1, 1, 1, 1]
    log.close()


def test_state_of_another_layout_is_refused_with_both_names(tmp_path: Path) -> None:
    opened(tmp_path, "gru-1/abc").close()
    with pytest.raises(TickwatchError, match=r"gru-1/abc.*lstm-2/def.*--resume"):
        opened(tmp_path, "lstm-2/def")


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
