"""`tickwatch worker` on a real broker: the bits of replay out, each alert once, clear words when something is wrong."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from kafka import KafkaProducer

from service.autoencoder import load
from service.connection import KafkaSettings
from service.logs import SCHEMA_HEADER
from service.scorer import Scorer
from service.ticks import Ticks, encode
from tests.kafka.broker import free_ports, produce, read_all
from tests.kafka.second_client import read_with_librdkafka
from tests.kafka.toy import fresh_names
from tests.samples import CELLS, random_ticks, shipped, with_numbers
from tests.service.formats.stub import knows_ticks, registry
from tests.service.formats.test_conformance import as_fields
from tests.service.formats.wires import WIRES, Wire

TICKWATCH = Path(sys.executable).parent / "tickwatch"
CALM = random_ticks(12_000, streams=6)
TICKS = with_numbers(with_numbers(CALM, 9_000, price=CALM.price[9_000] * 1.5), 11_000, size=1e9)
OTHER_WIRES = [wire for wire in WIRES if wire.name in ("avro by id", "protobuf by header", "binary")]
JUNK = [(b"S0", b"junk"), (b"S1", b'{"ts":1}'), (None, b'{"ts":1,"price":1}'), (b"S0", None)]

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts workers and ends them after the test."""
    started: list[subprocess.Popen[str]] = []

    def run(settings: KafkaSettings, *options: str) -> subprocess.Popen[str]:
        command = [str(TICKWATCH), "worker", "--port", "0", "--bootstrap-servers", settings.bootstrap_servers]
        command += ["--group", settings.group, "--instance", settings.instance, "--ticks-topic", settings.ticks]
        command += ["--alerts-topic", settings.alerts, "--scores-topic", settings.scores]
        command += ["--dead-letters-topic", settings.dead_letters, "--changelog-topic", settings.changelog, *options]
        with (tmp_path / "worker.err").open("a") as err:
            started.append(subprocess.Popen(command, stderr=err, text=True))
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.wait()


def keyed(ticks: Ticks) -> list[tuple[bytes | None, bytes | None]]:
    return [(name.encode(), value) for name, value in zip(ticks.stream, encode(ticks), strict=True)]


def scores_by_stream(settings: KafkaSettings) -> dict[str, list[float]]:
    """Published scores of each stream in the order of its partition."""
    found: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for record in read_all(settings.bootstrap_servers, settings.scores):
        frame = json.loads(record.value or b"")
        for name, offset, score in zip(frame["stream"], frame["offset"], frame["score"], strict=True):
            found[name].append((offset, score))
    return {name: [score for _, score in pairs] for name, pairs in found.items()}


def expected(cell: str) -> tuple[dict[str, list[float]], set[tuple[str, int, float]]]:
    """(scores by stream, alerts) of the code behind `tickwatch replay`."""
    verdicts = Scorer(load(shipped(cell)), 20).score(TICKS).verdicts
    scores: dict[str, list[float]] = defaultdict(list)
    for name, score in zip(TICKS.stream, verdicts.score.tolist(), strict=True):
        scores[name].append(score)
    at = np.flatnonzero(verdicts.alert).tolist()
    return scores, {(TICKS.stream[i], int(TICKS.ts[i]), float(verdicts.score[i])) for i in at}


def wait_for(done: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, "it never came about"
        time.sleep(0.3)


def scored(settings: KafkaSettings) -> int:
    return sum(map(len, scores_by_stream(settings).values()))


@pytest.mark.parametrize("cell", CELLS)
def test_scores_and_alerts_are_bit_equal_to_replay_and_bad_records_are_buried(
    settings: KafkaSettings, start: Start, cell: str
) -> None:
    records = keyed(TICKS)
    produce(settings.bootstrap_servers, settings.ticks, [*records[:5000], *JUNK, *records[5000:]])
    worker = start(settings, "--model", cell, "--scores")
    wait_for(lambda: scored(settings) >= len(TICKS))
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(timeout=60) == 0
    scores, alerts = expected(cell)
    assert scores_by_stream(settings) == scores
    published = [json.loads(r.value or b"") for r in read_all(settings.bootstrap_servers, settings.alerts)]
    assert len({e["id"] for e in published}) == len(published) == len(alerts)
    assert {(e["data"]["stream"], e["data"]["ts"], e["data"]["score"]) for e in published} == alerts
    letters = read_all(settings.bootstrap_servers, settings.dead_letters)
    assert len(letters) == len(JUNK)
    assert all(dict(letter.headers)["topic"] == settings.ticks.encode() for letter in letters)


@pytest.mark.parametrize("wire", OTHER_WIRES, ids=lambda wire: wire.name)
def test_every_wire_format_gives_the_same_scores_and_buries_what_it_cannot_read(
    settings: KafkaSettings, start: Start, wire: Wire
) -> None:
    rows = as_fields(TICKS.take(np.arange(2000)))
    values = [wire.frame + wire.write(row) for row in rows]
    headers = [] if wire.header is None else [(SCHEMA_HEADER, wire.header)]
    producer = KafkaProducer(bootstrap_servers=settings.bootstrap_servers, linger_ms=5)
    for row, value in zip(rows, values, strict=True):
        producer.send(settings.ticks, value, row["stream"].encode(), headers=headers)
    producer.send(settings.ticks, b"junk", b"S0", headers=headers)
    producer.close()
    with registry() as stub:
        options = ["--schema-registry", knows_ticks(stub, wire.format).url] if wire.framed else []
        start(settings, "--scores", "--format", wire.format, *options)
        wait_for(lambda: scored(settings) == len(rows))
    verdicts = Scorer(load(shipped("gru")), 20).score(TICKS.take(np.arange(2000))).verdicts
    expected_scores: dict[str, list[float]] = defaultdict(list)
    for row, score in zip(rows, verdicts.score.tolist(), strict=True):
        expected_scores[row["stream"]].append(score)
    assert scores_by_stream(settings) == expected_scores
    wait_for(lambda: bool(read_all(settings.bootstrap_servers, settings.dead_letters)))
    (letter,) = read_all(settings.bootstrap_servers, settings.dead_letters)
    assert letter.value == b"junk"
    assert letter.headers.get(SCHEMA_HEADER) == wire.header


def test_a_worker_killed_in_full_flight_loses_and_repeats_nothing(settings: KafkaSettings, start: Start) -> None:
    records = keyed(TICKS)
    produce(settings.bootstrap_servers, settings.ticks, records[:6000])
    for begin in range(6000, len(records), 2000):
        worker = start(settings, "--scores", "--commit-interval-ms", "20")
        before = scored(settings)
        produce(settings.bootstrap_servers, settings.ticks, records[begin : begin + 2000])
        wait_for(lambda before=before: scored(settings) > before)  # type: ignore[misc]
        worker.send_signal(signal.SIGKILL)
        worker.wait()
    start(settings, "--scores")
    wait_for(lambda: scored(settings) >= len(TICKS))
    scores, alerts = expected("gru")
    assert scores_by_stream(settings) == scores
    published = [json.loads(r.value or b"") for r in read_all(settings.bootstrap_servers, settings.alerts)]
    assert sorted((e["data"]["stream"], e["data"]["ts"], e["data"]["score"]) for e in published) == sorted(alerts)


def test_a_second_client_reads_the_same_records(settings: KafkaSettings, start: Start) -> None:
    records = keyed(TICKS)
    for begin in (0, 6000):
        produce(settings.bootstrap_servers, settings.ticks, [*records[begin : begin + 6000], *JUNK])
        worker = start(settings, "--scores")
        wait_for(lambda done=begin + 3000: scored(settings) >= done)  # type: ignore[misc]
        worker.send_signal(signal.SIGKILL if begin == 0 else signal.SIGTERM)  # the first leaves an open transaction
        worker.wait(timeout=60)
    for topic in (settings.alerts, settings.scores, settings.dead_letters, settings.changelog):
        seen = read_with_librdkafka(settings.bootstrap_servers, topic)
        assert seen == read_all(settings.bootstrap_servers, topic)
        assert seen, topic


def test_an_unreachable_broker_is_named_retried_and_visible_in_metrics(start: Start, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    worker = start(KafkaSettings(bootstrap_servers=f"127.0.0.1:{port}"))
    said = tmp_path / "worker.err"
    wait_for(lambda: "Attempt 2" in said.read_text(), 30)
    assert f"Kafka at 127.0.0.1:{port}: cannot be reached" in said.read_text()
    url = re.search(r"pages at (http://\S+)/", said.read_text())
    assert url
    with urllib.request.urlopen(url[1] + "/metrics", timeout=30) as answer:
        body = answer.read().decode()
    assert "tickwatch_log_connected 0.0" in body
    assert float(re.search(r"^tickwatch_log_connect_attempts (\S+)", body, re.MULTILINE)[1]) >= 2  # type: ignore[index]
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(timeout=60) == 0
    assert "Traceback" not in said.read_text()


def test_missing_topics_are_named_with_the_command_that_makes_them(kafka: str, start: Start, tmp_path: Path) -> None:
    worker = start(fresh_names(kafka))
    assert worker.wait(timeout=30) == 1
    last = (tmp_path / "worker.err").read_text().splitlines()[-1]
    assert "does not exist" in last
    assert "tickwatch topics create" in last
