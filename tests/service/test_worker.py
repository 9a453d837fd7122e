"""The worker's loop on the embedded log: everything counted, nothing lost, nothing poisoned."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from service.alerts import Alert
from service.autoencoder import load
from service.logs import Checkpoint, LogReset, Poll
from service.logs.sqlite import SqliteLog
from service.metrics import Metrics
from service.scorer import Scorer
from service.ticks import encode
from service.worker import Worker
from tests.samples import random_ticks, shipped, with_numbers

MODEL = load(shipped("gru"))
CALM = random_ticks(4000, streams=1)
FAULTY = encode(with_numbers(CALM, 3900, price=CALM.price[3900] * 1.2))


class Clock:
    """Time that passes only when told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def sample(registry: CollectorRegistry, name: str, **labels: str) -> float:
    return registry.get_sample_value(name, labels) or 0.0


def rows(path: Path, query: str) -> list[tuple[Any, ...]]:
    db = sqlite3.connect(path)
    found = db.execute(query).fetchall()
    db.close()
    return found


def drained(worker: Worker) -> None:
    while worker.step(0):
        pass
    worker.finish()


def test_times_in_another_unit_are_scored_and_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    scorer = Scorer(MODEL, 20)
    log = SqliteLog(tmp_path / "log.sqlite", scorer.layout)
    worker = Worker(log, scorer, Metrics())
    wrong = replace(CALM, stream=["WRONG"] * len(CALM), ts=CALM.ts // 10**6)
    for _ in range(2):
        log.append([record for pair in zip(encode(CALM), encode(wrong), strict=True) for record in pair], b"")
        drained(worker)
    log.close()
    assert worker.ticks == 4 * len(CALM)
    (told,) = caplog.messages
    assert told.startswith(
        f"WRONG of {log.name}: ts {wrong.ts[0]} is in January 1970; it looks like milliseconds, but must be"
    )


def test_alerts_state_and_offsets_become_durable_and_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "log.sqlite"
    scorer, metrics, told = Scorer(MODEL, 20), Metrics(), list[Alert]()
    log = SqliteLog(path, scorer.layout)
    log.append(FAULTY, b"")
    worker = Worker(log, scorer, metrics, publish_scores=True, on_commit=told.extend)
    drained(worker)
    log.close()
    assert rows(path, "SELECT next FROM offsets") == [(4000,)]
    assert rows(path, "SELECT stream, length(row) FROM state") == [("S0", scorer.streams.row_bytes)]
    events = [json.loads(value) for (value,) in rows(path, "SELECT value FROM alerts")]
    assert [e["data"]["offset"] for e in events] == [a.offset for a in told]
    assert 3900 in {a.offset for a in told}
    frames = [json.loads(value) for (value,) in rows(path, "SELECT value FROM scores ORDER BY id")]
    assert [o for f in frames for o in f["offset"]] == list(range(4000))
    whole = Scorer(MODEL, 20).score(with_numbers(CALM, 3900, price=CALM.price[3900] * 1.2)).verdicts.score
    assert [s for f in frames for s in f["score"]] == whole.tolist()
    assert worker.ticks == 4000
    r = metrics.registry
    assert sample(r, "tickwatch_ticks_total", outcome="scored") == 4000
    assert sample(r, "tickwatch_alerts_total", phase="opened") >= 1
    assert sample(r, "tickwatch_score_count") == 4000
    assert sample(r, "tickwatch_streams") == 1
    assert sample(r, "tickwatch_lag_ticks", partition="0") == 0


def test_bad_records_are_buried_with_a_reason_and_move_no_state(tmp_path: Path) -> None:
    good = encode(CALM)[:300]
    bad = [b"junk", b'{"stream":"S0","ts":1,"price":"x"}', b'{"stream":"S0","ts":1,"price":1,"size":-1}']
    mixed = [*good[:100], bad[0], *good[100:200], bad[1], bad[2], *good[200:]]
    states = []
    for name, values in (("clean", good), ("mixed", mixed)):
        scorer, metrics = Scorer(MODEL, 20), Metrics()
        log = SqliteLog(tmp_path / name, scorer.layout)
        log.append(values, b"")
        drained(Worker(log, scorer, metrics))
        log.close()
        states.append(rows(tmp_path / name, "SELECT stream, row FROM state"))
    assert states[0] == states[1]
    letters = rows(tmp_path / "mixed", "SELECT offset, value, reason FROM dead_letters ORDER BY offset")
    assert [(o, v) for o, v, _ in letters] == [(100, bad[0]), (201, bad[1]), (202, bad[2])]
    assert all(reason for _, _, reason in letters)
    assert sample(metrics.registry, "tickwatch_ticks_total", outcome="rejected") == 3


def test_repeated_ticks_and_those_of_too_many_streams_are_counted_and_idle_streams_leave(tmp_path: Path) -> None:
    hour = 3_600_000_000_000
    sent = [("a", 1), ("a", 1), ("b", 1), ("c", 1), ("b", 12), ("b", 13), ("c", 13), ("b", 12)]
    values = [b'{"stream":"%s","ts":%d,"price":1}' % (name.encode(), hours * hour) for name, hours in sent]
    scorer, metrics = Scorer(MODEL, 20, idle_hours=10, max_streams=2), Metrics()
    log = SqliteLog(tmp_path / "log.sqlite", scorer.layout)
    log.append(values, b"")
    worker = Worker(log, scorer, metrics)
    drained(worker)
    log.close()
    outcomes = {"scored": 5, "late": 1, "repeated": 1, "rejected": 0, "over_limit": 1}
    found = {name: sample(metrics.registry, "tickwatch_ticks_total", outcome=name) for name in outcomes}
    assert found == outcomes
    assert sample(metrics.registry, "tickwatch_streams_expired_total") == 1
    ((offset, reason),) = rows(tmp_path / "log.sqlite", "SELECT offset, reason FROM dead_letters")
    assert offset == 3
    assert reason == "stream is new and its partition holds 2 already, the limit (--max-streams)"
    assert rows(tmp_path / "log.sqlite", "SELECT stream FROM state ORDER BY stream") == [("b",), ("c",)]


def test_commits_come_at_the_interval_or_when_enough_ticks_wait(tmp_path: Path) -> None:
    clock, metrics, scorer = Clock(), Metrics(), Scorer(MODEL, 20)
    log = SqliteLog(tmp_path / "log.sqlite", scorer.layout, max_records=100)
    log.append(FAULTY[:1000], b"")
    worker = Worker(log, scorer, metrics, commit_interval_ms=200, commit_ticks=300, clock=clock)
    worker.step(0)
    assert worker.ticks == 0
    clock.now += 0.2
    worker.step(0)
    assert worker.ticks == 200
    for _ in range(3):
        worker.step(0)
    assert worker.ticks == 500
    log.close()


def test_a_commit_that_comes_late_delays_no_later_one(tmp_path: Path) -> None:
    clock, scorer = Clock(), Scorer(MODEL, 20)
    log = SqliteLog(tmp_path / "log.sqlite", scorer.layout, max_records=100)
    log.append(FAULTY[:1000], b"")
    worker = Worker(log, scorer, Metrics(), commit_interval_ms=200, clock=clock)
    committed = []
    for at in (0.05, 0.25, 0.35, 0.41, 1.1, 1.25, 1.31):
        clock.now = at
        worker.step(0)
        committed.append(worker.ticks)
    assert committed == [0, 200, 200, 400, 500, 500, 700], "0.25 and 1.1 were late; 0.41 is due at 0.4, 1.31 at 1.3"
    log.close()


def test_a_late_tick_is_counted_alerts_and_leaves_the_features_alone(tmp_path: Path) -> None:
    late = CALM.ts.copy()
    late[3950] -= 10_000_000_000
    metrics, scorer, told = Metrics(), Scorer(MODEL, 20), list[Alert]()
    log = SqliteLog(tmp_path / "log.sqlite", scorer.layout)
    values = encode(CALM)
    values[3950] = values[3950].replace(str(CALM.ts[3950]).encode(), str(late[3950]).encode())
    log.append(values, b"")
    drained(Worker(log, scorer, metrics, on_commit=told.extend))
    log.close()
    assert sample(metrics.registry, "tickwatch_ticks_total", outcome="late") == 1
    assert 3950 in {a.offset for a in told}
    assert scorer.streams.features["seen"][0] == 3999


class Unsteady:
    """A real log that voids a commit when asked to, as Kafka does after a lost transaction."""

    def __init__(self, log: SqliteLog, reopen: Callable[[], SqliteLog]) -> None:
        self.name, self.connect_attempts, self.connected, self.restoring = log.name, 0, True, 0
        self.fail = False
        self._log, self._reopen = log, reopen

    def poll(self, timeout_ms: int, before_revoke: Callable[[], None]) -> Poll:
        return self._log.poll(timeout_ms, before_revoke)

    def commit(self, checkpoint: Checkpoint) -> None:
        if self.fail:
            self.fail = False
            self._log.close()
            self._log = self._reopen()
            raise LogReset
        self._log.commit(checkpoint)

    def lag(self) -> dict[int, int]:
        return self._log.lag()

    def close(self) -> None:
        self._log.close()


def test_after_a_reset_the_worker_scores_again_from_the_restored_state_with_the_same_bits(tmp_path: Path) -> None:
    path = tmp_path / "log.sqlite"
    scorer, metrics, clock = Scorer(MODEL, 20), Metrics(), Clock()
    inner = SqliteLog(path, scorer.layout, 500)
    inner.append(FAULTY, b"")
    log = Unsteady(inner, lambda: SqliteLog(path, scorer.layout, 500))
    worker = Worker(log, scorer, metrics, publish_scores=True, clock=clock)
    for turn in range(40):
        clock.now += 1.0
        log.fail = turn in (2, 3, 6)
        worker.step(0)
    worker.finish()
    log.close()
    frames = [json.loads(value) for (value,) in rows(path, "SELECT value FROM scores ORDER BY id")]
    whole = Scorer(MODEL, 20).score(with_numbers(CALM, 3900, price=CALM.price[3900] * 1.2)).verdicts.score
    assert [s for f in frames for s in f["score"]] == whole.tolist()
    assert sample(metrics.registry, "tickwatch_log_resets_total") == 3
    assert worker.ticks == 4000


@pytest.mark.parametrize("value", [b"", b"\x00", b"{}"])
def test_a_log_of_nothing_but_junk_is_consumed_to_its_end(tmp_path: Path, value: bytes) -> None:
    scorer = Scorer(MODEL, 20)
    log = SqliteLog(tmp_path / "log.sqlite", scorer.layout)
    log.append([value] * 50, b"")
    worker = Worker(log, scorer, Metrics())
    drained(worker)
    log.close()
    assert (worker.ticks, worker.rejected, worker.alerts) == (0, 50, 0)
    assert rows(tmp_path / "log.sqlite", "SELECT next FROM offsets") == [(50,)]
    assert np.all(scorer.streams.features["seen"] == 0)


def test_a_late_tick_that_comes_twice_is_late_twice_and_nothing_else(tmp_path: Path) -> None:
    values = encode(CALM)[:300]
    late = values[299].replace(str(CALM.ts[299]).encode(), str(CALM.ts[0]).encode())
    metrics, scorer, clock = Metrics(), Scorer(MODEL, 20), Clock()
    log = SqliteLog(tmp_path / "log.sqlite", scorer.layout)
    worker = Worker(log, scorer, metrics, clock=clock)
    for batch in (values, [late, late]):
        log.append(batch, b"")
        clock.now += 1.0
        worker.step(0)
    log.close()
    outcomes = {o: sample(metrics.registry, "tickwatch_ticks_total", outcome=o) for o in ("scored", "late", "repeated")}
    assert outcomes == {"scored": 300, "late": 2, "repeated": 0}
