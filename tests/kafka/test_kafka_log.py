"""Exactly once on a real broker: whatever happens to workers and brokers, every tick is counted once and in order."""

from __future__ import annotations

import logging
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType

from service.connection import KafkaSettings
from service.errors import TickwatchError
from service.logs import kafka
from service.logs.changelog import Changelog
from service.logs.client import CLIENTS
from service.topics import create_topics
from tests.kafka.broker import Broker, free_ports, produce, read_all
from tests.kafka.toy import Toy, names

ROOT = Path(__file__).parents[2]
with_each_client = pytest.mark.parametrize("client", CLIENTS)
TICKS = [(b"stream %d" % (i % 7), b"%d" % (i * i % 1000)) for i in range(300)]


def until(done: Callable[[], bool], *toys: Toy, timeout_s: float = 40) -> None:
    """Let toys work until something holds."""
    deadline = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < deadline, "it never came about"
        for toy in toys:
            toy.step()


def finished(settings: KafkaSettings) -> Callable[[], bool]:
    """Whether every good tick has its alert."""
    return lambda: len(read_all(settings.bootstrap_servers, settings.alerts)) >= good(settings)


def good(settings: KafkaSettings) -> int:
    """How many ticks can be counted."""
    return sum(
        r.key is not None and (r.value or b"").isdigit() for r in read_all(settings.bootstrap_servers, settings.ticks)
    )


def assert_exactly_once(settings: KafkaSettings) -> None:
    """Each tick has one alert, in order, with the count and sum that one undisturbed process would have found."""
    count: Counter[tuple[int, bytes]] = Counter()
    total: Counter[tuple[int, bytes]] = Counter()
    expected: dict[bytes, list[bytes]] = {}
    for tick in read_all(settings.bootstrap_servers, settings.ticks):
        if tick.key and (tick.value or b"").isdigit():
            at = tick.partition, tick.key
            count[at] += 1
            total[at] += int(tick.value or b"")
            expected.setdefault(tick.key, []).append(b"%d %d %d" % (tick.offset, count[at], total[at]))
    found: dict[bytes, list[bytes]] = {}
    for alert in read_all(settings.bootstrap_servers, settings.alerts):
        found.setdefault(alert.key or b"", []).append(alert.value or b"")
    assert found == expected


def test_ticks_that_come_one_by_one_linger_and_are_polled_together(
    settings: KafkaSettings, toys: Callable[..., Toy]
) -> None:
    toy = toys(settings, linger_ms=1000)
    until(lambda: len(toy.restored) == 2, toy)
    sizes = []
    for tick in TICKS[:30]:
        produce(settings.bootstrap_servers, settings.ticks, [tick])
        sizes.append(toy.step(0))
    while sum(sizes) < 30:
        sizes.append(toy.step())
    assert sum(size > 0 for size in sizes) < 10


@with_each_client
def test_every_tick_is_counted_once_and_state_survives_a_restart(
    settings: KafkaSettings, toys: Callable[..., Toy]
) -> None:
    for _ in range(2):
        produce(settings.bootstrap_servers, settings.ticks, TICKS)
        toy = toys(settings)
        until(finished(settings), toy)
        toy.log.close()
    assert sorted(toy.restored) == [0, 1]
    assert {name: n for (_, name), (n, _) in toy.state.items()} == Counter(k.decode() for k, _ in TICKS * 2)
    assert_exactly_once(settings)


@with_each_client
def test_lag_is_what_was_not_polled(settings: KafkaSettings, toys: Callable[..., Toy]) -> None:
    produce(settings.bootstrap_servers, settings.ticks, TICKS, partition=0)
    toy = toys(settings, max_records=100)
    until(lambda: toy.step() == 100)
    assert toy.log.lag()[0] == 200
    until(lambda: toy.log.lag() == {0: 0, 1: 0}, toy)


@with_each_client
def test_what_cannot_be_read_is_buried_once_with_its_origin(settings: KafkaSettings, toys: Callable[..., Toy]) -> None:
    bad: list[tuple[bytes | None, bytes | None]] = [
        (b"a", b"x"),
        (b"a", None),
        (None, b"7"),
        (b"a", b"9" + b"z" * 900_000),
    ]
    produce(settings.bootstrap_servers, settings.ticks, [(b"a", b"1"), *bad, (b"a", b"2")], partition=1)
    until(finished(settings), toys(settings))
    letters = read_all(settings.bootstrap_servers, settings.dead_letters)
    origin = {int(r.headers["offset"]): (r.key, r.value) for r in letters}
    assert origin == {1: bad[0], 2: (b"a", b""), 3: bad[2], 4: (b"a", (bad[3][1] or b"")[: 512 * 1024])}
    assert {r.headers["reason"] for r in letters} == {b"not a number"}
    assert {(r.headers["topic"], r.headers["partition"]) for r in letters} == {(settings.ticks.encode(), b"1")}
    assert_exactly_once(settings)


def test_partitions_that_stay_are_not_disturbed_when_a_worker_joins_and_leaves(
    settings: KafkaSettings, toys: Callable[..., Toy], processes: Callable[..., subprocess.Popen[bytes]]
) -> None:
    produce(settings.bootstrap_servers, settings.ticks, TICKS)
    first = toys(settings)
    until(lambda: len(first.restored) == 2, first)
    second = processes(settings, "two")
    until(lambda: len(first.lost) == 1, first)
    produce(settings.bootstrap_servers, settings.ticks, TICKS)
    until(finished(settings), first)
    assert len({partition for partition, _ in first.state}) == 1
    second.terminate()
    assert second.wait(20) == 0
    produce(settings.bootstrap_servers, settings.ticks, TICKS)
    until(finished(settings), first)
    assert (len(first.restored), len(first.lost), first.resets) == (3, 1, 0)
    assert_exactly_once(settings)


@pytest.fixture
def zombie(
    settings: KafkaSettings, processes: Callable[..., subprocess.Popen[bytes]]
) -> Callable[[str], subprocess.Popen[bytes]]:
    """Starts a worker that counts all ticks and is then frozen."""

    def freeze(instance: str) -> subprocess.Popen[bytes]:
        produce(settings.bootstrap_servers, settings.ticks, TICKS)
        process = processes(settings, instance)
        until(finished(settings))
        process.send_signal(signal.SIGSTOP)
        return process

    return freeze


@with_each_client
def test_a_worker_that_was_paused_writes_nothing_and_rejoins(
    settings: KafkaSettings, toys: Callable[..., Toy], zombie: Callable[[str], subprocess.Popen[bytes]]
) -> None:
    process = zombie("zombie")
    produce(settings.bootstrap_servers, settings.ticks, TICKS)
    other = toys(settings)
    until(finished(settings), other)
    process.send_signal(signal.SIGCONT)
    produce(settings.bootstrap_servers, settings.ticks, TICKS)
    until(lambda: len(other.lost) == 1, other)  # the zombie is back as a good member
    until(finished(settings), other)
    assert_exactly_once(settings)


@with_each_client
@pytest.mark.parametrize("idle", [False, True])
def test_a_worker_whose_name_was_taken_stops_and_says_so(
    settings: KafkaSettings,
    toys: Callable[..., Toy],
    zombie: Callable[[str], subprocess.Popen[bytes]],
    tmp_path: Path,
    idle: bool,
) -> None:
    process = zombie("one")
    if not idle:
        produce(settings.bootstrap_servers, settings.ticks, TICKS)
    other = toys(settings)
    until(lambda: len(other.restored) == 2, other)
    until(finished(settings), other)
    process.send_signal(signal.SIGCONT)
    deadline = time.monotonic() + 20
    while process.poll() is None:
        assert time.monotonic() < deadline, "it goes on"
        if not idle:
            produce(settings.bootstrap_servers, settings.ticks, TICKS[:50])
        other.step()
    assert process.returncode == 1
    assert b"another worker runs as instance one" in (tmp_path / "one.err").read_bytes()
    until(finished(settings), other)
    assert_exactly_once(settings)


def test_a_worker_that_joined_anew_is_not_taken_for_another_one(
    settings: KafkaSettings, toys: Callable[..., Toy], monkeypatch: pytest.MonkeyPatch
) -> None:
    produce(settings.bootstrap_servers, settings.ticks, TICKS)
    toy = toys(settings)
    until(finished(settings), toy)
    assert toy.log._member is not None
    consumer = toy.log._member.consumer
    ids = iter(["one-of-before", "one-of-before"])  # what it believes before it hears of its new id
    monkeypatch.setattr(consumer, "member_id", lambda: next(ids, None) or type(consumer).member_id(consumer))
    toy.log._reset("a test")
    produce(settings.bootstrap_servers, settings.ticks, TICKS)
    until(finished(settings), toy)
    assert toy.log._strangers == 0
    assert next(ids, None) is None
    assert_exactly_once(settings)


def test_what_compaction_leaves_is_enough(
    settings: KafkaSettings, toys: Callable[..., Toy], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        kafka, "Changelog", partial(Changelog, light=0)
    )  # or no place is used twice before thousands of ticks
    produce(settings.bootstrap_servers, settings.ticks, TICKS * 4)
    toy = toys(settings, max_records=20)
    until(finished(settings), toy)
    written = len(read_all(settings.bootstrap_servers, settings.changelog))
    compact_now(settings)

    def compacted() -> bool:
        produce(
            settings.bootstrap_servers, settings.ticks, [(b"stream 1", b"1"), (b"stream 2", b"1")]
        )  # rolls segments
        return len(read_all(settings.bootstrap_servers, settings.changelog)) < written / 2

    until(compacted, toy, timeout_s=80)  # the broker's cleaner takes its time
    until(finished(settings), toy)
    toy.log.close()
    again = toys(settings)
    until(lambda: len(again.restored) == 2, again)
    assert again.state == toy.state
    produce(settings.bootstrap_servers, settings.ticks, TICKS)
    until(finished(settings), again)
    assert_exactly_once(settings)


def compact_now(settings: KafkaSettings) -> None:
    """Make the broker's cleaner eager on the changelog."""
    admin = KafkaAdminClient(bootstrap_servers=settings.bootstrap_servers)
    eager = {"segment.ms": "100", "min.cleanable.dirty.ratio": "0.01", "max.compaction.lag.ms": "100"}
    admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, settings.changelog, eager)])
    admin.close()


def test_a_broker_that_dies_and_comes_back_costs_nothing(own_broker: Broker, toys: Callable[..., Toy]) -> None:
    own_broker.format()
    own_broker.start()
    settings = names(own_broker.bootstrap, "b", "one")
    create_topics(settings, partitions=2, replication=1)
    toy = toys(settings)
    for _ in range(2):
        produce(settings.bootstrap_servers, settings.ticks, TICKS)
        until(lambda: toy.step() > 0)
        own_broker.kill()
        for _ in range(3):
            toy.step()
        own_broker.start()
        # Kafka 4.3.1, killed alone, may show its last acknowledged transaction to readers only once the next one comes
        produce(settings.bootstrap_servers, settings.ticks, TICKS)
        until(finished(settings), toy)
    assert_exactly_once(settings)
    producers = [t for t in threading.enumerate() if t.name == "tickwatch-one-network-thread"]
    assert len(producers) == 1  # those that were given up are gone


@with_each_client
def test_a_broker_that_freezes_shows_although_nothing_is_to_be_committed(
    own_broker: Broker, toys: Callable[..., Toy]
) -> None:
    own_broker.format()
    own_broker.start()
    settings = names(own_broker.bootstrap, "b", "one")
    create_topics(settings, partitions=1, replication=1)
    toy = toys(settings)
    until(lambda: toy.restored == [0], toy)
    assert toy.log.connected
    own_broker.pause()
    until(lambda: not toy.log.connected, toy)
    own_broker.resume()
    until(lambda: toy.log.connected, toy)


def test_a_consumer_that_falls_silent_is_replaced(settings: KafkaSettings, toys: Callable[..., Toy]) -> None:
    toy = toys(settings, patience_s=1.0)
    for _ in range(2):
        produce(settings.bootstrap_servers, settings.ticks, TICKS)
        until(finished(settings), toy)
        quiet_until = time.monotonic() + 3
        until(lambda at=quiet_until: time.monotonic() > at, toy)  # type: ignore[misc]
    assert toy.resets == 0  # a topic without ticks is no silence
    fetcher = toy.log._member.consumer._consumer._fetcher  # type: ignore[union-attr]
    fetcher._nodes_with_pending_fetch_requests |= {1, 2, 3}  # what it looks like when the outcome of a fetch gets lost
    until(lambda: not fetcher.in_flight_fetches(), toy)
    fetcher._nodes_with_pending_fetch_requests |= {1, 2, 3}
    produce(settings.bootstrap_servers, settings.ticks, TICKS)
    until(finished(settings), toy)
    assert toy.resets == 1
    assert_exactly_once(settings)


def test_a_topic_that_lost_what_was_scored_is_not_scored_again(own_broker: Broker, toys: Callable[..., Toy]) -> None:
    own_broker.format()
    own_broker.start()
    settings = names(own_broker.bootstrap, "b", "one")
    create_topics(settings, partitions=1, replication=1)
    produce(settings.bootstrap_servers, settings.ticks, TICKS)
    toy = toys(settings)
    until(finished(settings), toy)
    toy.log.close()
    own_broker.kill()
    shutil.rmtree(own_broker.folder / "data" / f"{settings.ticks}-0")
    own_broker.start()
    produce(settings.bootstrap_servers, settings.ticks, TICKS[:10])
    again = toys(settings)
    with pytest.raises(TickwatchError, match=r"partition 0 was cut off before offset 300, up to which its ticks are"):
        until(lambda: False, again)


def test_state_of_another_layout_is_given_up_when_asked_and_offsets_go_on(
    settings: KafkaSettings, toys: Callable[..., Toy]
) -> None:
    for layout in ("gru/1", "lstm/2", "gru/1"):  # the third must not find what the first left
        produce(settings.bootstrap_servers, settings.ticks, TICKS)
        toy = toys(settings, layout=layout, fresh=True)
        until(finished(settings), toy)
        toy.log.close()
        assert {name: n for (_, name), (n, _) in toy.state.items()} == Counter(k.decode() for k, _ in TICKS)
    again = toys(settings, layout="gru/1")
    until(lambda: len(again.restored) == 2, again)
    assert again.state == toy.state


def test_a_changelog_that_does_not_fit_the_offsets_is_refused(
    settings: KafkaSettings, toys: Callable[..., Toy]
) -> None:
    produce(settings.bootstrap_servers, settings.ticks, TICKS, partition=0)
    toy = toys(settings)
    until(finished(settings), toy)
    toy.log.close()
    with pytest.raises(TickwatchError, match=r"as of offset 300 of topic .* but group other committed None"):
        until(lambda: False, toys(replace(settings, group="other")))


def test_a_broker_that_nobody_started_is_named_and_tried_again(
    toys: Callable[..., Toy], caplog: pytest.LogCaptureFixture
) -> None:
    (port,) = free_ports(1)
    toy = toys(names(f"127.0.0.1:{port}", "x", "one"))
    with caplog.at_level(logging.WARNING, "tickwatch"):
        until(lambda: toy.log.connect_attempts == 2, toy)
    assert not toy.log.connected
    lines = [r.getMessage() for r in caplog.records if r.name == "tickwatch"]
    assert f"Kafka at 127.0.0.1:{port}: cannot be reached (PLAINTEXT;" in lines[0]
    assert lines[1].startswith("Attempt 2 failed, next in")


def test_a_transaction_that_hangs_ends_the_process() -> None:
    code = "from service.logs.watchdog import Watchdog; import time\nwith Watchdog('a transaction', 0): time.sleep(60)"
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, timeout=30, check=False)
    assert ended.returncode == 70
    assert b"a transaction hung for 0 seconds; the process ends with code 70" in ended.stderr
