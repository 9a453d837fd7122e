"""A producer of random-market ticks that goes on whatever happens to the brokers, and a reader that watches the output."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress

import msgspec
import numpy as np
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import KafkaError

from service.ticks import encode
from tests.kafka.broker import Seen
from tests.samples import random_ticks

JUNK = (b"not a tick", b"{", b"")
SLICE_S = 0.05
FRESH_S = 5.0


class Feed(threading.Thread):
    """Sends `rate` ticks per second, one in 2000 of them junk, one in 1000 late, until `stop`; then a trickle, until `end`."""

    def __init__(self, bootstrap: str, topic: str, partitions: int, rate: float, seed: int) -> None:
        super().__init__(name="feed", daemon=True)
        self.rate = rate
        self.sent = 0
        self._servers = bootstrap
        self._topic = topic
        self._partitions = partitions
        self._random = np.random.default_rng(seed)
        self._seed = seed
        self._ts = time.time_ns()
        self._ended = threading.Event()

    def run(self) -> None:
        """See the class."""
        producer = KafkaProducer(
            bootstrap_servers=self._servers.split(","), enable_idempotence=True, acks="all", linger_ms=10,
            max_block_ms=5000, reconnect_backoff_max_ms=1000, retry_backoff_ms=50,
        )  # fmt: skip
        pool: list[tuple[int, bytes, bytes]] = []
        due = 0.0
        last = time.monotonic()
        try:
            while not self._ended.wait(SLICE_S):
                now = time.monotonic()
                due, last = (
                    min(due + self.rate * (now - last), self.rate),
                    now,
                )  # what an outage held up is not made up for
                while due >= 1:
                    pool = pool or self._more()
                    partition, key, value = pool.pop()
                    try:
                        producer.send(self._topic, value, key, partition=partition)
                    except KafkaError:
                        break
                    self.sent += 1
                    due -= 1
            producer.flush(60)
        finally:
            producer.close(timeout=10)

    def _more(self) -> list[tuple[int, bytes, bytes]]:
        """The next 20,000 records (partition, key, value), last first: keys may be anything, a partition has its streams."""
        n, self._seed = 20_000, self._seed + 1
        ticks = random_ticks(n, streams=40 * self._partitions, seed=self._seed)
        ticks.ts[:] += self._ts - ticks.ts[0]
        self._ts = int(ticks.ts[-1])
        ticks.ts[self._random.random(n) < 0.001] -= 10**9
        wild = self._random.random(n) < 0.0005
        ticks.price[wild] *= 1.2
        values = encode(ticks)
        for i in np.flatnonzero(self._random.random(n) < 0.0005).tolist():
            values[i] = JUNK[i % len(JUNK)]
        keys = [name.encode() for name in ticks.stream]
        partitions = [int(name[1:]) % self._partitions for name in ticks.stream]
        return list(zip(partitions, keys, values, strict=True))[::-1]

    def end(self) -> None:
        """Send what is left and stop."""
        self._ended.set()
        self.join(90)


class Frame(msgspec.Struct):
    """What the observer wants of a score frame."""

    partition: int
    offset: list[int]


class Observer(threading.Thread):
    """Reads the scores as a client would; `arrivals` lists, by input partition, (time made, time seen) of each frame."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        super().__init__(name="observer", daemon=True)
        self.arrivals: dict[int, list[tuple[float, float]]] = defaultdict(list)
        self.next: dict[int, int] = defaultdict(int)
        self.ticks = 0
        self._at: dict[int, int] = defaultdict(int)
        self._servers = bootstrap
        self._topic = topic
        self._ended = threading.Event()

    def run(self) -> None:
        """See the class."""
        while not self._ended.is_set():
            # kafka-python 3.0.12 may fall silent for good when one of several brokers dies: a new consumer goes on
            with suppress(KafkaError):
                self._read(time.monotonic() + FRESH_S)

    def _read(self, until: float) -> None:
        """Go on where the last consumer stopped."""
        decode = msgspec.json.Decoder(Frame).decode
        consumer = reader(self._servers)
        try:
            tps = [TopicPartition(self._topic, p) for p in sorted(consumer.partitions_for_topic(self._topic) or ())]
            consumer.assign(tps)
            for tp in tps:
                consumer.seek(tp, self._at[tp.partition])
            while not self._ended.is_set() and time.monotonic() < until:
                for tp, records in consumer.poll(50).items():
                    for record in records:
                        frame = decode(record.value)
                        self.arrivals[frame.partition].append((record.timestamp / 1000, time.time()))
                        self.next[frame.partition] = frame.offset[-1] + 1
                        self.ticks += len(frame.offset)
                    self._at[tp.partition] = records[-1].offset + 1
                    until = time.monotonic() + FRESH_S
        finally:
            consumer.close()

    def end(self) -> None:
        """Stop reading."""
        self._ended.set()
        self.join(20)


def reader(bootstrap: str) -> KafkaConsumer:
    """A plain read_committed consumer."""
    return KafkaConsumer(
        bootstrap_servers=bootstrap.split(","), isolation_level="read_committed", enable_auto_commit=False,
        auto_offset_reset="earliest", reconnect_backoff_max_ms=500, retry_backoff_ms=50, fetch_max_wait_ms=50,
        max_partition_fetch_bytes=8 * 2**20, fetch_max_bytes=32 * 2**20,
    )  # fmt: skip


def ends(bootstrap: str, topic: str) -> dict[int, int]:
    """The last stable offset of each partition."""
    consumer = reader(bootstrap)
    try:
        partitions = [TopicPartition(topic, p) for p in sorted(consumer.partitions_for_topic(topic))]
        return {tp.partition: end for tp, end in consumer.end_offsets(partitions).items()}
    finally:
        consumer.close()


def read(bootstrap: str, topic: str, progress: Callable[[str], None]) -> list[Seen]:
    """All records of a topic up to its present end, by partition and offset; TimeoutError when they stop coming."""
    until = ends(bootstrap, topic)
    consumer = reader(bootstrap)
    found: list[Seen] = []
    try:
        tps = [TopicPartition(topic, p) for p in until]
        consumer.assign(tps)
        stalled = time.monotonic() + 30
        while any(consumer.position(tp) < until[tp.partition] for tp in tps):
            batch = consumer.poll(200, max_records=50_000)
            for records in batch.values():
                found += [Seen(r.partition, r.offset, r.key, r.value, dict(r.headers)) for r in records]
            if batch:
                stalled = time.monotonic() + 30
            elif time.monotonic() > stalled:
                raise TimeoutError(f"{topic}: nothing comes before {until}, {[consumer.position(tp) for tp in tps]}")
            progress(f"reading {topic}: {len(found)}")
    finally:
        consumer.close()
    found.sort(key=lambda r: (r.partition, r.offset))
    return [r for r in found if r.offset < until[r.partition]]
