"""`tickwatch train --from-kafka`: the same history as from files, and one sentence for each way it can't be had."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from rich.console import Console

from service import autoencoder
from service.connection import KafkaSettings, Unreachable
from service.errors import TickwatchError
from service.ticks import Ticks, encode
from tests.kafka.broker import free_ports
from tests.samples import random_ticks
from training.history import fingerprint, gather, read_history
from training.topic import read_topic

TICKWATCH = Path(sys.executable).parent / "tickwatch"
NAMES = (f"history{time.time_ns()}-{i}" for i in itertools.count())
QUIET = Console(quiet=True)
HOUR_MS = 3_600_000
NOW_MS = time.time_ns() // 1_000_000
TICKS = random_ticks(9_000, streams=3)


@pytest.fixture
def topic(kafka: str) -> str:
    """A new topic of three partitions."""
    name = next(NAMES)
    admin = KafkaAdminClient(bootstrap_servers=kafka)
    admin.create_topics({name: {"num_partitions": 3, "replication_factor": 1}}, wait_for_metadata=True)
    admin.close()
    return name


@pytest.fixture
def producer(kafka: str) -> Iterator[KafkaProducer]:
    """Writes only in transactions."""
    made = KafkaProducer(bootstrap_servers=kafka, transactional_id=f"{next(NAMES)}", linger_ms=5)
    made.init_transactions()
    yield made
    made.close(timeout=10)


def write(producer: KafkaProducer, topic: str, ticks: Ticks, hours_ago: float, commit: bool = True) -> None:
    """The ticks of each stream to a partition of its own, in one transaction, as if so long ago but committed now."""
    producer.begin_transaction()
    for name, value in zip(ticks.stream, encode(ticks), strict=True):
        sent = NOW_MS - round(hours_ago * HOUR_MS)
        producer.send(topic, value, key=name.encode(), partition=int(name[1:]), timestamp_ms=sent)
    producer.flush(60)
    if commit:
        producer.commit_transaction()
    else:
        producer.abort_transaction()
    readable(producer, topic)


def readable(producer: KafkaProducer, topic: str) -> None:
    """Wait until readers see that the transaction has ended, which is a little after it has."""
    to = producer.config["bootstrap_servers"]
    with (
        closing(KafkaConsumer(bootstrap_servers=to)) as all_of_it,
        closing(KafkaConsumer(bootstrap_servers=to, isolation_level="read_committed")) as what_ended,
    ):
        places = [TopicPartition(topic, p) for p in all_of_it.partitions_for_topic(topic)]
        deadline = time.monotonic() + 30
        while what_ended.end_offsets(places) != all_of_it.end_offsets(places):
            assert time.monotonic() < deadline, "the transaction has no end"


def read(kafka: str, topic: str, hours: float = 24.0, **options: int) -> dict[str, Ticks]:
    return read_topic(KafkaSettings(kafka), topic, hours, NOW_MS, QUIET, **options).streams


def part(first: int, last: int) -> Ticks:
    return TICKS.take(np.arange(first, last))


def test_the_committed_ticks_of_the_last_hours_are_read_and_nothing_else(
    kafka: str, topic: str, producer: KafkaProducer
) -> None:
    write(producer, topic, part(0, 1_000), hours_ago=30)
    write(producer, topic, part(1_000, 5_000), hours_ago=20)
    write(producer, topic, part(5_000, 6_000), hours_ago=10, commit=False)
    write(producer, topic, part(6_000, 9_000), hours_ago=1)
    wanted = gather([part(1_000, 5_000), part(6_000, 9_000)])
    assert fingerprint(read(kafka, topic)) == fingerprint(wanted)
    assert fingerprint(read(kafka, topic, hours=2)) == fingerprint(gather([part(6_000, 9_000)]))
    assert sum(map(len, read(kafka, topic, hours=100).values())) == 8_000


def test_ticks_of_an_open_transaction_are_not_waited_for(kafka: str, topic: str, producer: KafkaProducer) -> None:
    write(producer, topic, part(0, 1_000), hours_ago=1)
    producer.begin_transaction()
    producer.send(topic, encode(part(1_000, 1_001))[0], key=b"S0", partition=0).get(10)
    assert sum(map(len, read(kafka, topic).values())) == 1_000
    producer.abort_transaction()


def test_records_that_are_no_ticks_are_counted_and_the_first_is_told(
    kafka: str, topic: str, producer: KafkaProducer, capsys: pytest.CaptureFixture[str]
) -> None:
    write(producer, topic, part(0, 100), hours_ago=1)
    producer.begin_transaction()
    for junk in (b"junk", b'{"ts":1}', None):
        producer.send(topic, junk, key=b"S1", partition=1)
    producer.commit_transaction()
    readable(producer, topic)
    history = read_topic(KafkaSettings(kafka), topic, 24, NOW_MS, Console(width=200))
    assert (history.rejected, history.ticks) == (3, 100)
    assert "3 records could not be read, the first in partition 1 at offset" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("written", "hours", "words"),
    [
        ("nothing", 24.0, "is empty; give one that ticks have been written to"),
        ("old ticks", 2.0, "holds no tick of the last 2 hours; give more --hours"),
        ("an aborted transaction", 24.0, "holds no tick of the last 24 hours; give more --hours"),
        ("junk", 24.0, "holds no tick of the last 24 hours; 1 records could not be read, the first in partition 0"),
    ],
)
def test_a_topic_without_ticks_is_one_sentence(
    kafka: str, topic: str, producer: KafkaProducer, written: str, hours: float, words: str
) -> None:
    if written == "old ticks":
        write(producer, topic, part(0, 100), hours_ago=5)
    if written == "an aborted transaction":
        write(producer, topic, part(0, 100), hours_ago=1, commit=False)
    if written == "junk":
        producer.begin_transaction()
        producer.send(topic, b"junk", partition=0)
        producer.commit_transaction()
        readable(producer, topic)
    with pytest.raises(TickwatchError, match=words) as raised:
        read(kafka, topic, hours)
    assert topic in str(raised.value)


def test_a_topic_that_does_not_exist_is_one_sentence(kafka: str, topic: str) -> None:
    with pytest.raises(TickwatchError, match=r"topic nowhere at .* does not exist; name one that does \(there are: "):
        read(kafka, "nowhere")


def test_more_ticks_than_the_memory_holds_are_refused_before_they_are_read(
    kafka: str, topic: str, producer: KafkaProducer
) -> None:
    write(producer, topic, part(0, 1_000), hours_ago=1)
    with pytest.raises(TickwatchError, match=r"1,00\d records need about 0.0 GB .* give fewer --hours"):
        read(kafka, topic, memory=100_000)


def test_a_broker_that_is_away_is_one_sentence() -> None:
    (port,) = free_ports(1)
    with pytest.raises(Unreachable, match="cannot be reached"):
        read(f"127.0.0.1:{port}", "ticks")


def test_training_from_a_topic_makes_the_model_that_training_from_the_same_ticks_in_files_makes(
    kafka: str, topic: str, producer: KafkaProducer, tmp_path: Path
) -> None:
    write(producer, topic, TICKS, hours_ago=1)
    small = ["--hidden", "8", "--bottleneck", "2", "--epochs", "1"]

    def train(*arguments: str) -> str:
        command = [str(TICKWATCH), "train", *small, *arguments]
        environment = os.environ | {"TERM": "dumb", "COLUMNS": "250"}
        found = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=250
        )
        assert found.returncode == 0, found.stderr
        return found.stderr

    said = train("-o", "topic.onnx", "--from-kafka", topic, "--hours", "3", "--bootstrap-servers", kafka)
    assert "records to read; training on them takes about" in said
    assert f"Kafka topic {topic}, 3 hours up to" in (tmp_path / "topic.md").read_text()
    kept = tmp_path / "runs" / "topic" / "history.parquet"
    assert read_history(kept).fingerprint == fingerprint(gather([TICKS]))
    train("-o", "files.onnx", "--data", str(kept))
    assert (tmp_path / "topic.onnx").read_bytes() == (tmp_path / "files.onnx").read_bytes()
    assert autoencoder.load(tmp_path / "topic.onnx").card.data_fingerprint == fingerprint(gather([TICKS]))

    write(producer, topic, part(0, 10), hours_ago=0)
    train("-o", "topic.onnx", "--from-kafka", topic, "--hours", "3", "--bootstrap-servers", kafka, "--resume")
    assert (tmp_path / "topic.onnx").read_bytes() == (tmp_path / "files.onnx").read_bytes()
