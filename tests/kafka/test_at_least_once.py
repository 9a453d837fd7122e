"""At least once on a real broker: results are seen before they are committed, may come again, and never differ."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from service.connection import KafkaSettings
from service.consume import AT_LEAST_ONCE, EXACTLY_ONCE
from service.errors import TickwatchError
from service.logs import Log
from service.logs.client import find
from service.scorer import Scored
from service.ticks import encode
from service.worker import Worker
from tests.kafka.broker import read_all
from tests.kafka.dying import worker_on
from tests.kafka.test_kafka_log import with_each_client
from tests.service.logs.test_conformance import (
    ROOT,
    Kafka,
    assert_as_expected,
    assert_state,
    expected,
    make,
    market,
    settled,
)

NEVER_MS = 3_600_000
DEATHS = [
    *[("kafka-python", step) for step in ("send", "flush", "add_offsets", "commit")],
    ("confluent-kafka", "flush"),
]


@pytest.fixture
def place(request: pytest.FixtureRequest, client: str, tmp_path: Path) -> Kafka:
    found = make(client, tmp_path, request)
    assert isinstance(found, Kafka)
    return found


def drain(worker: Worker, log: Log) -> None:
    """Score whatever there is."""
    deadline = time.monotonic() + 60
    while log.lag() != {0: 0} or log.restoring:
        assert time.monotonic() < deadline, f"{log.lag()} are left"
        worker.step(50)


def first(outcomes: Sequence[tuple[int, Any]]) -> tuple[list[tuple[int, Any]], int]:
    """(outcomes by offset without their repetitions, in the order of the log; how many were repeated)."""
    seen: dict[int, Any] = {}
    for offset, outcome in outcomes:
        assert seen.setdefault(offset, outcome) == outcome, f"offset {offset} has another outcome when it comes again"
    return list(seen.items()), len(outcomes) - len(seen)


def assert_at_least_once(place: Kafka, whole: Scored) -> int:
    """All outcomes are there with the bits of one undisturbed process and in its order; returns how many came again."""
    frames = [json.loads(value) for value in place.frames()]
    scores, again = first([pair for f in frames for pair in zip(f["offset"], f["score"], strict=True)])
    assert scores == list(zip(whole.ticks.offset.tolist(), whole.verdicts.score.tolist(), strict=True))
    alerts, _ = first([(json.loads(value)["data"]["offset"], value) for value in place.alerts()])
    assert [offset for offset, _ in alerts] == whole.ticks.offset[whole.verdicts.alert].tolist()
    letters, _ = first([(offset, reason) for offset, _, reason in place.letters()])
    assert [offset for offset, _ in letters] == whole.refused.offset.tolist()
    return again


@with_each_client
def test_results_are_seen_before_the_commit_and_come_again_with_the_same_bits_if_it_never_happens(place: Kafka) -> None:
    ticks = market(1500)
    worker, log = worker_on(place.where, "gru", AT_LEAST_ONCE, NEVER_MS)
    place.append(log, encode(ticks))
    drain(worker, log)
    whole = expected("gru", ticks)
    deadline = time.monotonic() + 20
    while sum(len(json.loads(value)["offset"]) for value in place.frames()) < len(whole.ticks):
        assert time.monotonic() < deadline
    assert read_all(place.settings.bootstrap_servers, place.settings.changelog) == []
    log.close()
    worker, log = worker_on(place.where, "gru", AT_LEAST_ONCE)
    drain(worker, log)
    worker.finish()
    log.close()
    assert assert_at_least_once(place, whole) == len(whole.ticks)
    assert_state(place, "gru", ticks)


@pytest.mark.parametrize(("client", "step"), DEATHS)
def test_a_worker_killed_at_any_step_loses_nothing_and_its_state_counts_every_tick_once(
    place: Kafka, step: str
) -> None:
    ticks = market(1500)
    _, log = worker_on(place.where, "gru")
    place.append(log, encode(ticks))
    log.close()
    nth = "12" if step == "send" else "4"
    command = [sys.executable, "-m", "tests.kafka.dying", place.where, "gru", step, "after", nth, AT_LEAST_ONCE]
    assert subprocess.run(command, cwd=ROOT, timeout=60, check=False).returncode == -signal.SIGKILL
    worker, log = worker_on(place.where, "gru", AT_LEAST_ONCE)
    drain(worker, log)
    worker.finish()
    log.close()
    again = assert_at_least_once(place, expected("gru", ticks))
    assert again > 0 or step in ("send", "commit")
    assert_state(place, "gru", ticks)


@with_each_client
def test_a_worker_goes_on_with_the_other_guarantee_where_it_stopped(place: Kafka) -> None:
    ticks = market(1500)
    values = encode(ticks)
    for i, guarantee in enumerate((AT_LEAST_ONCE, EXACTLY_ONCE, AT_LEAST_ONCE)):
        worker, log = worker_on(place.where, "gru", guarantee)
        place.append(log, values[500 * i : 500 * (i + 1)])
        settled(place, worker, log, 500)
    assert_as_expected(place, expected("gru", ticks))
    assert_state(place, "gru", ticks)


@with_each_client
def test_a_result_that_was_refused_is_noticed_before_its_tick_is_committed(
    settings: KafkaSettings, client: str
) -> None:
    outlet = find(client).outlet(settings)
    outlet.send(settings.scores, b"good", None)
    outlet.send(settings.alerts, bytes(3 * 2**20), None)  # more than its topic takes
    with pytest.raises(TickwatchError, match=r"(?i)large"):
        outlet.flush(10)
    outlet.discard()
    assert [r.value for r in read_all(settings.bootstrap_servers, settings.scores)] == [b"good"]
