"""What an orchestrator does to a worker: it stops it under load, and reads the answers of its probes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from service.connection import KafkaSettings
from service.ticks import encode
from service.topics import create_topics
from tests.deploy.monitoring import within
from tests.kafka.broker import free_ports, produce, read_all
from tests.kafka.toy import names
from tests.samples import random_ticks

TICKWATCH = Path(sys.executable).with_name("tickwatch")
TICKS = random_ticks(40_000, streams=200)
GRACE_S = 10


@pytest.fixture
def settings(kafka: str) -> KafkaSettings:
    """Topics of this test alone."""
    found = names(kafka, f"drain{time.time_ns()}", "one")
    create_topics(found, partitions=2, replication=1)
    return found


def start(settings: KafkaSettings, port: int, log: Path) -> subprocess.Popen[bytes]:
    """A worker by environment variables, as a container gets them."""
    environment = {
        "TICKWATCH_BOOTSTRAP_SERVERS": settings.bootstrap_servers,
        "TICKWATCH_GROUP": settings.group,
        "TICKWATCH_INSTANCE": settings.instance,
        "TICKWATCH_TICKS_TOPIC": settings.ticks,
        "TICKWATCH_ALERTS_TOPIC": settings.alerts,
        "TICKWATCH_SCORES_TOPIC": settings.scores,
        "TICKWATCH_DEAD_LETTERS_TOPIC": settings.dead_letters,
        "TICKWATCH_CHANGELOG_TOPIC": settings.changelog,
        "TICKWATCH_SCORES": "true",
        "TICKWATCH_PORT": str(port),
    }
    with log.open("ab") as out:
        return subprocess.Popen([TICKWATCH, "worker"], env=os.environ | environment, stderr=out)


def probe(port: int, path: str) -> int:
    """Status code of an answer; OSError where there is none."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=2) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def scored(settings: KafkaSettings) -> list[tuple[int, int]]:
    """(partition, offset) of every tick whose score was published."""
    frames = [json.loads(record.value or b"") for record in read_all(settings.bootstrap_servers, settings.scores)]
    return [(frame["partition"], offset) for frame in frames for offset in frame["offset"]]


def test_sigterm_under_load_commits_leaves_and_exits_with_0_in_time(settings: KafkaSettings, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    records = [(name.encode(), value) for name, value in zip(TICKS.stream, encode(TICKS), strict=True)]

    def send() -> None:
        for at in range(0, len(records), 1000):
            produce(settings.bootstrap_servers, settings.ticks, records[at : at + 1000])

    feed = threading.Thread(target=send)
    worker = start(settings, port, tmp_path / "worker.log")
    try:
        within(60, lambda: probe(port, "/readyz") == 200)
        feed.start()
        within(60, lambda: bool(scored(settings)))
        began = time.monotonic()
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(GRACE_S) == 0
        assert time.monotonic() - began < GRACE_S
        assert feed.is_alive(), "it was stopped under load"
    finally:
        worker.kill()
        worker.wait()
        feed.join()
    before = scored(settings)
    said = re.search(r"stopped after (\d+) ticks", (tmp_path / "worker.log").read_text())
    assert said
    assert int(said[1]) == len(before) > 0
    again = start(settings, port, tmp_path / "worker.log")
    try:
        within(60, lambda: len(scored(settings)) >= len(TICKS))
    finally:
        again.terminate()
        assert again.wait(GRACE_S) == 0
    assert len(set(scored(settings))) == len(scored(settings)) == len(TICKS), "each once, over the restart"


def test_without_kafka_a_worker_is_alive_but_not_ready(tmp_path: Path) -> None:
    nobody, port = free_ports(2)
    worker = start(KafkaSettings(bootstrap_servers=f"127.0.0.1:{nobody}"), port, tmp_path / "worker.log")
    try:
        assert within(60, lambda: probe(port, "/healthz")) == 200
        assert probe(port, "/readyz") == 503
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(GRACE_S) == 0
    finally:
        worker.kill()
        worker.wait()
