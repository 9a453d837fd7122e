"""What every log promises, and every cell on it: one suite for the embedded log and for a real Kafka."""

from __future__ import annotations

import itertools
import json
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import pytest
from numpy.typing import NDArray

from service.autoencoder import load
from service.errors import TickwatchError
from service.logs import Checkpoint, DeadLetter, Log, Output, PartitionState
from service.logs.client import CLIENTS
from service.logs.kafka import KafkaLog
from service.logs.sqlite import SqliteLog
from service.scorer import Scored, Scorer
from service.ticks import Ticks, encode
from service.topics import create_topics
from service.worker import Worker
from tests.kafka.broker import produce, read_all
from tests.kafka.dying import BATCH, IDLE_HOURS, MAX_STREAMS, worker_on
from tests.kafka.toy import names
from tests.samples import CELLS, random_ticks, shipped, with_numbers

ROOT = Path(__file__).parents[3]
ROW = 16
PREFIXES = (f"c{time.time_ns()}-{i}" for i in itertools.count())
LOGS = ("sqlite", *CLIENTS)


class Place(Protocol):
    """Where logs of one kind are kept, seen from outside."""

    where: str
    held: dict[str, int]  # what each byte of a stream's row is

    def open(self, layout: str = "model/1", max_records: int = 5000) -> Log: ...

    def append(self, log: Log, values: list[bytes]) -> None: ...

    def alerts(self) -> list[bytes]: ...

    def frames(self) -> list[bytes]: ...

    def letters(self) -> list[tuple[int, bytes, str]]: ...


@dataclass
class Embedded:
    """An embedded log in a file."""

    where: str
    held: dict[str, int] = field(default_factory=dict)

    def open(self, layout: str = "model/1", max_records: int = 5000) -> Log:
        return SqliteLog(Path(self.where), layout, max_records)

    def append(self, log: Log, values: list[bytes]) -> None:
        assert isinstance(log, SqliteLog)
        log.append(values, b"")

    def _rows(self, query: str) -> list[tuple[int, bytes, str]]:
        db = sqlite3.connect(self.where)
        found = db.execute(query).fetchall()
        db.close()
        return found

    def alerts(self) -> list[bytes]:
        return [value for _, value, _ in self._rows("SELECT 0, value, '' FROM alerts ORDER BY id")]

    def frames(self) -> list[bytes]:
        return [value for _, value, _ in self._rows("SELECT 0, value, '' FROM scores ORDER BY id")]

    def letters(self) -> list[tuple[int, bytes, str]]:
        return self._rows("SELECT offset, value, reason FROM dead_letters ORDER BY offset")


@dataclass
class Kafka:
    """Topics with one partition on a real broker."""

    where: str
    held: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        bootstrap, prefix, self.client = self.where.split("/")
        self.settings = names(bootstrap, prefix, "one")
        create_topics(self.settings, partitions=1, replication=1)

    def open(self, layout: str = "model/1", max_records: int = 5000) -> Log:
        return KafkaLog(self.settings, ROW, layout, self._packed, client=self.client, max_records=max_records)

    def _packed(self, partition: int, streams: list[str]) -> NDArray[np.uint8]:
        return np.array([[self.held[name]] * ROW for name in streams], np.uint8).reshape(len(streams), ROW)

    def append(self, log: Log, values: list[bytes]) -> None:
        produce(self.settings.bootstrap_servers, self.settings.ticks, [(None, value) for value in values])

    def _values(self, topic: str) -> list[bytes]:
        return [r.value or b"" for r in read_all(self.settings.bootstrap_servers, topic)]

    def alerts(self) -> list[bytes]:
        return self._values(self.settings.alerts)

    def frames(self) -> list[bytes]:
        return self._values(self.settings.scores)

    def letters(self) -> list[tuple[int, bytes, str]]:
        found = read_all(self.settings.bootstrap_servers, self.settings.dead_letters)
        return sorted((int(r.headers["offset"]), r.value or b"", r.headers["reason"].decode()) for r in found)


def make(kind: str, folder: Path, request: pytest.FixtureRequest) -> Place:
    if kind == "sqlite":
        return Embedded(str(folder / "log.sqlite"))
    return Kafka(f"{request.getfixturevalue('kafka')}/{next(PREFIXES)}/{kind}")


@pytest.fixture(params=LOGS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return make(request.param, tmp_path, request)


@pytest.fixture
def opened(place: Place) -> Iterator[Callable[..., Log]]:
    """Opens a log, and closes the one before: a worker has one."""
    logs: list[Log] = []

    def open_one(*args: object, **options: object) -> Log:
        if logs:
            logs[-1].close()
        logs.append(place.open(*args, **options))  # type: ignore[arg-type]
        return logs[-1]

    yield open_one
    logs[-1].close()


def polled(log: Log, n: int) -> tuple[list[tuple[int, bytes | None]], dict[str, list[int]]]:
    """(the next n or more records, the state restored meanwhile)."""
    records: list[tuple[int, bytes | None]] = []
    state: dict[str, list[int]] = {}
    restored = False
    deadline = time.monotonic() + 30
    while len(records) < n or not restored:
        assert time.monotonic() < deadline, f"{len(records)} of {n} records came"
        poll = log.poll(50, lambda: None)
        for found in poll.restored:
            restored = True
            state |= dict(zip(found.streams, found.rows[:].tolist(), strict=True))
        records += zip(poll.records.offset.tolist(), poll.records.value, strict=True)
    return records, state


def commit(
    place: Place, log: Log, offset: int, fill: int, *streams: str, removed: tuple[str, ...] = (), loud: bool = False
) -> None:
    """Commit rows full of `fill`, and with `loud` one output of each kind."""
    place.held |= dict.fromkeys(streams, fill)
    for name in removed:
        place.held.pop(name, None)
    state = PartitionState(0, list(streams), np.full((len(streams), ROW), fill, np.uint8), list(removed))
    outputs = ([Output(0, b"x", b"alert")], [Output(0, b"", b"{}")], [DeadLetter(0, 0, None, b"a", "why")])
    log.commit(Checkpoint({0: offset}, [state], *(outputs if loud else ())))


def test_records_come_in_order_with_consecutive_offsets(place: Place, opened: Callable[..., Log]) -> None:
    log = opened(max_records=3)
    place.append(log, [b"%d" % i for i in range(10)])
    assert polled(log, 10)[0] == [(i, b"%d" % i) for i in range(10)]


def test_a_restart_goes_on_after_the_last_commit_with_its_state_and_voids_the_rest(
    place: Place, opened: Callable[..., Log]
) -> None:
    log = opened()
    place.append(log, [b"a", b"b", b"c"])
    polled(log, 3)
    commit(place, log, 1, 7, "x", "y", loud=True)
    commit(place, log, 2, 9, "y")
    records, state = polled(opened(), 1)
    assert records == [(2, b"c")]
    assert state == {"x": [7] * ROW, "y": [9] * ROW}
    assert (place.alerts(), place.frames(), place.letters()) == ([b"alert"], [b"{}"], [(0, b"a", "why")])


def test_removed_streams_stay_removed_and_may_come_back(place: Place, opened: Callable[..., Log]) -> None:
    log = opened()
    place.append(log, [b"a"] * 5)
    polled(log, 5)
    commit(place, log, 1, 1, "x", "y", "z")
    commit(place, log, 2, 2, "w", removed=("x", "z", "never seen"))
    log = opened()
    assert polled(log, 3)[1] == {"y": [1] * ROW, "w": [2] * ROW}
    commit(place, log, 3, 3, "z", removed=("y",))
    commit(place, log, 4, 4, "x")
    assert polled(opened(), 1)[1] == {"w": [2] * ROW, "z": [3] * ROW, "x": [4] * ROW}


def test_state_of_another_layout_is_refused_with_both_names(place: Place, opened: Callable[..., Log]) -> None:
    log = opened("gru-1/a")
    place.append(log, [b"a"])
    polled(log, 1)
    commit(place, log, 1, 1, "x")
    with pytest.raises(TickwatchError, match=r"gru-1/a, this worker has lstm-2/b"):
        polled(opened("lstm-2/b"), 1)


def market(n: int) -> Ticks:
    """Ticks with faults, a late one, a repetition, a gap that outlasts IDLE_HOURS, and more streams than MAX_STREAMS."""
    calm = random_ticks(n, streams=7, seed=3)
    ticks = with_numbers(calm, n * 3 // 4, price=calm.price[n * 3 // 4] * 1.5)
    ticks.ts[n // 2 :] += round(20 * IDLE_HOURS * 3.6e12)
    ticks.ts[n // 3] -= 10**10
    which = np.arange(n)
    which[n // 4] = n // 4 - 1
    again = ticks.take(which)
    again.offset[:] = np.arange(n)
    return again


def expected(cell: str, ticks: Ticks) -> Scored:
    """What one undisturbed process says of all ticks in one batch."""
    return Scorer(load(shipped(cell)), 20, IDLE_HOURS, MAX_STREAMS).score(ticks)


def work(worker: Worker, offset: int) -> None:
    """Until everything before `offset` is committed."""
    deadline = time.monotonic() + 60
    while worker.ticks + worker.rejected < offset:
        assert time.monotonic() < deadline, f"{worker.ticks} scored, {worker.rejected} rejected of {offset}"
        worker.step(50)


def assert_as_expected(place: Place, whole: Scored) -> None:
    frames = [json.loads(value) for value in place.frames()]
    assert [o for f in frames for o in f["offset"]] == whole.ticks.offset.tolist()
    assert [s for f in frames for s in f["score"]] == whole.verdicts.score.tolist()
    alerts = [json.loads(value)["data"]["offset"] for value in place.alerts()]
    assert alerts == whole.ticks.offset[whole.verdicts.alert].tolist()
    assert [offset for offset, _, _ in place.letters()] == whole.refused.offset.tolist()
    assert all("--max-streams" in reason for _, _, reason in place.letters())


def settled(place: Place, worker: Worker, log: Log, done: int) -> None:
    """Let a worker finish `done` further ticks and leave."""
    work(worker, done)
    log.close()


def committed(place: Place) -> int:
    """How many ticks have an outcome."""
    return sum(len(json.loads(value)["offset"]) for value in place.frames()) + len(place.letters())


def test_a_commit_does_not_wait_for_ticks_that_do_not_come(place: Place) -> None:
    values = encode(market(20))
    worker, log = worker_on(place.where, "gru", commit_interval_ms=1000)
    place.append(log, values[:10])
    work(worker, 10)
    place.append(log, values[10:])
    while not worker.step(50):
        pass
    began = time.monotonic()
    while worker.ticks < 20:
        worker.step(60_000)
    assert time.monotonic() - began < 30
    log.close()


@pytest.mark.parametrize("cell", CELLS)
def test_a_worker_that_restarts_has_the_bits_of_one_that_never_did(place: Place, cell: str) -> None:
    ticks = market(4000)
    whole = expected(cell, ticks)
    assert len(whole.refused)
    assert whole.verdicts.alert.any() & (whole.features.repeats > 0).any()
    values = encode(ticks)
    for part in (values[:1700], values[1700:]):
        worker, log = worker_on(place.where, cell)
        place.append(log, part)
        settled(place, worker, log, len(part))
    assert_as_expected(place, whole)
    assert_state(place, cell, ticks)


def assert_state(place: Place, cell: str, ticks: Ticks) -> None:
    """The state that a new worker restores has the bits of one undisturbed process after all ticks."""
    reference = Scorer(load(shipped(cell)), 20, IDLE_HOURS, MAX_STREAMS)
    reference.score(ticks)
    (state,) = reference.streams.changed()
    _, log = worker_on(place.where, cell)
    deadline = time.monotonic() + 30
    restored: list[PartitionState] = []
    while not restored:
        assert time.monotonic() < deadline
        restored = log.poll(50, lambda: None).restored
    log.close()
    want = dict(zip(state.streams, map(bytes, state.rows[:]), strict=True))
    assert dict(zip(restored[0].streams, map(bytes, restored[0].rows[:]), strict=True)) == want


SQL = [
    "BEGIN",
    "INSERT OR REPLACE INTO offsets",
    "INSERT OR REPLACE INTO state",
    "DELETE FROM state",
    "INSERT INTO alerts",
    "INSERT INTO scores",
    "INSERT INTO dead_letters",
    "DELETE FROM ticks",
    "COMMIT",
]
PRODUCER = ["begin", "send", "flush", "add_offsets", "commit"]
BOTH = [(step, when) for step in ("poll", "score", "commit") for when in ("before", "after")]
DEATHS = [
    *[("sqlite", step, when) for step, when in BOTH],
    *[("sqlite", step, "before") for step in SQL],
    *[("kafka-python", step, when) for step, when in BOTH[:4]],
    *[(client, step, "after") for client in CLIENTS for step in PRODUCER],
    *[("kafka-python", step, "before") for step in PRODUCER],
    ("confluent-kafka", "commit", "before"),
]


@pytest.mark.parametrize(("kind", "step", "when"), DEATHS)
def test_a_worker_killed_at_any_step_of_a_checkpoint_loses_and_repeats_nothing(
    kind: str, step: str, when: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    place = make(kind, tmp_path, request)
    ticks = market(1500)
    _, log = worker_on(place.where, "gru")
    place.append(log, encode(ticks))
    log.close()
    nth = {"DELETE FROM state": "1", "INSERT INTO alerts": "1", "INSERT OR REPLACE INTO state": "9", "send": "12"}
    command = [sys.executable, "-m", "tests.kafka.dying", place.where, "gru", step, when, nth.get(step, "4")]
    assert subprocess.run(command, cwd=ROOT, timeout=60, check=False).returncode == -signal.SIGKILL
    before = committed(place)
    worker, log = worker_on(place.where, "gru")
    settled(place, worker, log, len(ticks) - before)
    assert before % BATCH == 0
    assert_as_expected(place, expected("gru", ticks))
