"""Both clients do the same, and get along with each other."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from kafka import KafkaConsumer, TopicPartition

from service.connection import KafkaSettings, Unreachable, connect
from service.errors import TickwatchError
from service.logs import confluent, kafka_python, runs
from service.logs.client import Producer, find
from service.logs.membership import Membership
from service.topics import create_topics
from tests.kafka.broker import Broker, produce, read_all
from tests.kafka.test_kafka_log import TICKS, assert_exactly_once, finished, until, with_each_client
from tests.kafka.toy import Toy, names


def test_workers_with_different_clients_share_a_group_and_take_over_from_each_other(
    settings: KafkaSettings, toys: Callable[..., Toy], processes: Callable[..., subprocess.Popen[bytes]]
) -> None:
    produce(settings.bootstrap_servers, settings.ticks, TICKS)
    first = toys(settings)
    until(finished(settings), first)
    processes(settings, "two", "confluent-kafka")
    until(lambda: len(first.lost) == 1, first)
    produce(settings.bootstrap_servers, settings.ticks, TICKS)
    until(finished(settings), first)
    first.log.close()
    processes(settings, "one", "confluent-kafka")
    produce(settings.bootstrap_servers, settings.ticks, TICKS)
    until(finished(settings))
    assert_exactly_once(settings)


@with_each_client
def test_a_transaction_with_a_record_that_was_refused_is_not_committed(settings: KafkaSettings, client: str) -> None:
    consumer = Membership(settings, find(client))
    until(lambda: consumer.consumer.poll(100, 1) is not None and consumer.identity() is not None)
    for pause_ms in range(0, 12, 2):  # the refusal comes before, while or after the commit asks for something else
        producer = find(client).producer(settings)
        producer.begin()
        producer.send(settings.scores, b"good", None)
        producer.send(settings.alerts, bytes(3 * 2**20), None)  # more than its topic takes
        time.sleep(pause_ms / 1000)
        with pytest.raises(TickwatchError, match=r"(?i)large"):
            commit_all(producer, consumer.identity())
        producer.discard()
    consumer.close()
    find(client).producer(settings).discard()  # settles what was left open
    assert read_all(settings.bootstrap_servers, settings.scores) == []


@with_each_client
@pytest.mark.parametrize("step", ["add_offsets", "commit"])
def test_a_transaction_at_a_broker_that_does_not_answer_is_given_up(
    own_broker: Broker, client: str, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_broker.format()
    own_broker.start()
    settings = names(own_broker.bootstrap, "b", "one")
    create_topics(settings, partitions=1, replication=1)
    member = Membership(settings, find(client))
    until(lambda: member.consumer.poll(100, 1) is not None and member.identity() is not None)
    producer = find(client).producer(settings)
    producer.begin()
    producer.send(settings.alerts, b"an alert", None)
    producer.flush(10)
    if step == "commit":
        producer.add_offsets({0: 1}, member.identity())
    monkeypatch.setattr(kafka_python, "ANSWER_MS", 500)
    monkeypatch.setattr(confluent, "ANSWER_S", 0.5)
    own_broker.pause()
    with pytest.raises(Unreachable):
        producer.commit() if step == "commit" else producer.add_offsets({0: 1}, member.identity())
    own_broker.resume()
    producer.discard()
    member.close()


@with_each_client
def test_a_partition_that_is_not_held_any_more_may_be_paused(settings: KafkaSettings, client: str) -> None:
    """As when a commit fails while its partitions are being taken away."""
    member = Membership(settings, find(client))
    until(lambda: member.consumer.poll(100, 1) is not None and bool(member.waiting))
    member.activate(0, 0)
    member.active.add(10**6)
    member.start_over()
    assert {0, 10**6} <= set(member.waiting)
    member.close()


def test_an_untested_kafka_python_brings_the_same_records(
    settings: KafkaSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    produce(settings.bootstrap_servers, settings.ticks, TICKS * 20, partition=0)
    place = TopicPartition(settings.ticks, 0)
    found: list[tuple[list[int], list[bytes], list[bytes]]] = []
    for tested in (runs.TESTED, ()):
        monkeypatch.setattr(runs, "TESTED", tested)
        consumer = connect(settings, KafkaConsumer, auto_offset_reset="earliest")
        consumer.assign([place])
        poll, polled = runs.in_columns(consumer), runs.NOTHING
        while len(polled) < 20 * len(TICKS):
            polled = runs.joined([polled, *poll(1000, 7).values()])
        consumer.close()
        found.append((polled.offset.tolist(), list(polled.key), list(polled.value)))
    assert found[0] == found[1]
    assert found[0][2] == [value for _, value in TICKS * 20]


def commit_all(producer: Producer, identity: object) -> None:
    """The steps of a commit, behind the records."""
    producer.add_offsets({0: 1}, identity)
    producer.flush(10)
    producer.commit()


@with_each_client
def test_a_changelog_far_larger_than_the_memory_of_a_container_is_read_in_little(
    settings: KafkaSettings, client: str
) -> None:
    large = os.urandom(5 * 2**20)  # by itself more than a fetch
    value = os.urandom(2**20)
    produce(settings.bootstrap_servers, settings.changelog, [(b"B0", large), *[(b"D0", value)] * 80], partition=0)
    reader = find(client).reader(settings)
    end, before, most, found = reader.end(0), held(), 0, []
    reader.start(0)
    while reader.stands(0) != end:
        found += [len(value or b"") for _, _, value in reader.poll(50)]
        most = max(most, held() - before)
    reader.close()
    assert found == [len(large), *[len(value)] * 80]
    assert most < 64 * 2**20


def held() -> int:
    """Bytes of memory of this process that no file stands for."""
    found = re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) * 1024
