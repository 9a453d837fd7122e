"""confluent-kafka (librdkafka) behind the seam of `client.py` (file names below are librdkafka's).

Callbacks run inside `poll` and `consume`, on the thread that calls them.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, cast

import confluent_kafka as ck
import msgspec
import numpy as np
from confluent_kafka import KafkaError, KafkaException, Message, TopicPartition

from service.connection import KafkaSettings, Unreachable, Unsettled
from service.errors import TickwatchError
from service.logs import Records
from service.logs.changelog import RECORD_BYTES
from service.logs.client import READ_BYTES, Change, Headers, Rebalance, carried
from service.logs.librdkafka import FINAL, config, explain, explained

CONSUMER: dict[str, Any] = {
    "partition.assignment.strategy": "cooperative-sticky",
    "enable.auto.commit": False,
    "isolation.level": "read_committed",
    "auto.offset.reset": "earliest",
    "session.timeout.ms": 8000,
    "heartbeat.interval.ms": 1000,
    "max.poll.interval.ms": 60_000,
    "fetch.max.bytes": 16 * 1024 * 1024,
    "queued.max.messages.kbytes": 16 * 1024,
    "fetch.queue.backoff.ms": 10,  # with the default of 1000 a full queue runs dry before the next fetch
    "statistics.interval.ms": 1000,
}
PRODUCER: dict[str, Any] = {
    "linger.ms": 5,
    "batch.size": 262_144,
    "message.max.bytes": RECORD_BYTES,
    "queue.buffering.max.messages": 0,  # a transaction is as large as it is
    "partitioner": "murmur2_random",  # as kafka-python and Java: a stream's alerts stay in their partition
    "retry.backoff.ms": 10,
    "delivery.report.only.error": True,
}
READER: dict[str, Any] = {
    "enable.auto.commit": False,
    "auto.offset.reset": "earliest",
    "enable.partition.eof": True,
    "fetch.message.max.bytes": READ_BYTES,
    "fetch.max.bytes": READ_BYTES,
    "queued.max.messages.kbytes": 16 * 1024,
    "fetch.queue.backoff.ms": 10,
    "fetch.wait.max.ms": 10,  # the end of a partition is told by a fetch that brings nothing
}
FETCH_MS = 100  # how long a broker waits for a first tick
FETCH_BYTES = 64 * 1024  # so much is a batch worth scoring, and does not linger
READ_AT_ONCE = 64
WAKE_S = 0.1  # for an answer that is not needed
HEARD_S = 4.0  # heartbeats go out every second
ANSWER_S = 8.0  # a commit asks twice and flushes, before the watchdog loses its patience
COORDINATOR = "GroupCoordinator"
IDENTITY = struct.Struct("=7si")  # rdkafka_cgrp.c, `rd_kafka_consumer_group_metadata_write`: magic, generation
MAGIC = b"CGMDv2:"


class Broker(msgspec.Struct):
    """What the statistics say of a broker: microseconds since it last sent something, -1 if it never did."""

    rxidle: int


class Statistics(msgspec.Struct):
    """Of librdkafka's statistics what is needed here."""

    brokers: dict[str, Broker]


class Consumer:
    """See client.Consumer."""

    def __init__(self, settings: KafkaSettings, rebalance: Rebalance, linger_ms: int, traced: bool) -> None:
        self._settings = settings
        self._traced = traced
        self._rebalance = rebalance
        self._heard_at: float | None = None
        self._gone: set[int] = set()
        self._consumer = ck.Consumer(
            config(settings)
            | CONSUMER
            | {
                "group.id": settings.group,
                "group.instance.id": settings.instance,
                "fetch.wait.max.ms": linger_ms or FETCH_MS,
                "fetch.min.bytes": FETCH_BYTES if linger_ms else 1,
                "stats_cb": self._take_statistics,
            }
        )
        self._consumer.subscribe(
            [settings.ticks], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost
        )

    def poll(self, timeout_ms: int, max_records: int) -> Records:
        """See client.Consumer."""
        self._gone.clear()
        try:
            batch = self._consumer.consume(max_records, 0)
            if not batch:  # `consume` waits for the last record that it may bring, `poll` for the first
                first = self._consumer.poll(timeout_ms / 1000)
                batch = [] if first is None else [first, *self._consumer.consume(max_records - 1, 0)]
        except KafkaException as error:
            self._rebalance.lost([])  # what it had taken from its queue before is lost: all must be read again
            raise explain(self._settings, error.args[0]) from error
        errors = [met for met in map(Message.error, batch) if met is not None]
        if errors:
            for met in errors:
                if met.code() in FINAL:
                    raise explain(self._settings, met)
            batch = [m for m in batch if m.error() is None]  # the others pass: librdkafka goes on by itself
        if self._gone:  # in the middle of the batch
            batch = [m for m in batch if m.partition() not in self._gone]
        return _records(batch, traced=self._traced)

    def _assigned(self, consumer: ck.Consumer, assigned: list[TopicPartition]) -> None:
        # from anywhere, or it would look for the committed offset first
        consumer.incremental_assign([TopicPartition(tp.topic, tp.partition, 0) for tp in assigned])
        consumer.pause(assigned)
        self._rebalance.assigned([tp.partition for tp in assigned])

    def _revoked(self, consumer: ck.Consumer, revoked: list[TopicPartition]) -> None:
        self._gone |= {tp.partition for tp in revoked}
        self._rebalance.revoked([tp.partition for tp in revoked])  # afterwards confluent-kafka unassigns them

    def _lost(self, consumer: ck.Consumer, lost: list[TopicPartition]) -> None:
        self._gone |= {tp.partition for tp in lost}
        self._rebalance.lost([tp.partition for tp in lost])

    def _take_statistics(self, text: str) -> None:
        broker = msgspec.json.decode(text, type=Statistics).brokers.get(COORDINATOR)
        if broker is not None and broker.rxidle >= 0:
            self._heard_at = time.monotonic() - broker.rxidle / 1e6

    def _ticks(self, partitions: Sequence[int]) -> list[TopicPartition]:
        return [TopicPartition(self._settings.ticks, p) for p in partitions]

    def pause(self, partitions: Sequence[int]) -> None:
        """See client.Consumer."""
        self._consumer.pause(self._ticks(partitions))

    def flow(self, partition: int, offset: int) -> None:
        """See client.Consumer."""
        place = TopicPartition(self._settings.ticks, partition, offset)
        with explained(self._settings):
            self._consumer.seek(place)
            self._consumer.resume([place])
        with suppress(KafkaException):  # its broker's thread may sleep for another second, and only a request wakes it
            self._consumer.get_watermark_offsets(place, WAKE_S)

    def committed(self, partition: int, timeout_ms: int) -> int | None:
        """See client.Consumer."""
        try:
            with explained(self._settings):
                (found,) = self._consumer.committed(self._ticks([partition]), timeout_ms / 1000)
                if found.error is not None:
                    raise KafkaException(found.error)
        except Unreachable as error:
            raise Unsettled(str(error)) from error
        return None if found.offset < 0 else found.offset

    def stands(self, partitions: Sequence[int]) -> dict[int, int]:
        """See client.Consumer."""
        return {tp.partition: tp.offset for tp in self._consumer.position(self._ticks(partitions)) if tp.offset >= 0}

    def ends(self, partitions: Sequence[int]) -> dict[int, int]:
        """See client.Consumer."""
        found = {tp.partition: self._consumer.get_watermark_offsets(tp, cached=True) for tp in self._ticks(partitions)}
        return {p: end for p, (_, end) in found.items() if end >= 0}

    def heard(self) -> bool:
        """See client.Consumer."""
        return self._heard_at is None or time.monotonic() - self._heard_at < HEARD_S

    def member_id(self) -> str:
        """See client.Consumer."""
        return self._consumer.memberid() or ""

    def identity(self) -> bytes | None:
        """See client.Consumer. Raises TickwatchError if librdkafka writes it in an unknown way."""
        metadata = self._consumer.consumer_group_metadata()
        magic, generation = IDENTITY.unpack_from(metadata)
        if magic != MAGIC:
            raise TickwatchError(f"confluent-kafka {ck.__version__} is too new for this version; install an older one")
        return None if generation < 0 else metadata

    def close(self) -> None:
        """See client.Consumer."""
        self._consumer.close()


class Producer:
    """See client.Producer."""

    def __init__(self, settings: KafkaSettings, *, transactional: bool = True) -> None:
        self._settings = settings
        self._transactional = transactional
        self._refused: KafkaError | None = None
        own: dict[str, Any] = {"enable.idempotence": True, "linger.ms": 0}
        if transactional:
            own = {"transactional.id": f"{settings.group}.{settings.instance}", "transaction.timeout.ms": 10_000}
        self._producer: ck.Producer | None = ck.Producer(config(settings) | PRODUCER | own)
        if not transactional:
            return
        try:
            with explained(settings):
                self._producer.init_transactions(ANSWER_S)
        except BaseException:
            self.discard()
            raise

    def begin(self) -> None:
        """See client.Producer."""
        with self._open() as producer:
            producer.begin_transaction()

    def send(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None,
        partition: int | None = None,
        headers: Sequence[tuple[str, bytes]] = (),
    ) -> None:
        """See client.Producer."""
        with self._open() as producer:
            producer.produce(
                topic, value, key, -1 if partition is None else partition, self._take_report, headers=list(headers)
            )

    def _take_report(self, error: KafkaError | None, message: Message) -> None:
        if error is not None and self._refused is None:
            words = f"a record for {message.topic()} was refused: {error.str()}"
            self._refused = KafkaError(error.code(), words, error.fatal())

    def flush(self, timeout_s: float) -> None:
        """See client.Producer."""
        with self._open() as producer:
            left = producer.flush(timeout_s)
        if left:
            raise Unreachable(f"Kafka at {self._settings.bootstrap_servers}: {left} records did not arrive in time")
        if self._refused is not None and not self._transactional:
            raise explain(self._settings, self._refused)
        # of one refused in a transaction the next two calls tell (rdkafka_request.c, `rd_kafka_txn_set_abortable_error`)

    def add_offsets(self, offsets: dict[int, int], identity: object) -> None:
        """See client.Producer."""
        following = [TopicPartition(self._settings.ticks, p, offset) for p, offset in offsets.items()]
        with self._open() as producer:
            producer.send_offsets_to_transaction(following, identity, ANSWER_S)

    def commit(self) -> None:
        """See client.Producer."""
        with self._open() as producer:
            producer.commit_transaction(ANSWER_S)

    @contextmanager
    def _open(self) -> Iterator[ck.Producer]:
        if self._producer is None:
            raise ValueError("it was discarded")
        try:
            yield self._producer
        except KafkaException as error:
            known = error.args[0]
            if known.code() == KafkaError._STATE:
                self._producer.poll(WAKE_S)  # the report of a record that was refused while the call waited
                known = self._refused or known
            raise explain(self._settings, known) from error

    def discard(self) -> None:
        """See client.Producer."""
        if self._producer is not None:
            self._producer.purge()
            self._producer = None  # the last reference: it ends here


class Reader:
    """See client.Reader."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._stands: dict[int, int] = {}
        shared = config(settings) | READER | {"group.id": settings.group}  # which nobody joins
        self._ends = ck.Consumer(shared | {"isolation.level": "read_uncommitted"})
        self._reader = ck.Consumer(shared | {"isolation.level": "read_committed"})

    def _bounds(self, topic: str, partition: int) -> tuple[int, int]:
        with explained(self._settings):
            found = self._ends.get_watermark_offsets(TopicPartition(topic, partition), ANSWER_S)
        if found is None:
            raise Unreachable(f"Kafka at {self._settings.bootstrap_servers}: no answer")
        return found

    def end(self, partition: int) -> int:
        """See client.Reader."""
        return self._bounds(self._settings.changelog, partition)[1]

    def first_tick(self, partition: int) -> int:
        """See client.Reader."""
        return self._bounds(self._settings.ticks, partition)[0]

    def start(self, partition: int) -> None:
        """See client.Reader."""
        self._stands[partition] = 0
        with explained(self._settings):
            self._reader.incremental_assign([TopicPartition(self._settings.changelog, partition, ck.OFFSET_BEGINNING)])

    def poll(self, timeout_ms: int) -> list[Change]:
        """See client.Reader."""
        with explained(self._settings):
            first = self._reader.poll(timeout_ms / 1000)
            batch = [] if first is None else [first, *self._reader.consume(READ_AT_ONCE - 1, 0)]
            found: list[Change] = []
            for record in batch:
                error = record.error()
                partition, offset = cast("int", record.partition()), cast("int", record.offset())
                if error is None:
                    found.append((partition, record.key() or b"", record.value()))
                    self._stands[partition] = offset + 1
                elif error.code() == KafkaError._PARTITION_EOF:  # behind whatever is not shown: aborts and markers
                    self._stands[partition] = offset
                elif error.code() in FINAL:
                    raise KafkaException(error)
        return found

    def stands(self, partition: int) -> int | None:
        """See client.Reader."""
        return self._stands[partition]

    def stop(self, partition: int) -> None:
        """See client.Reader."""
        del self._stands[partition]
        with explained(self._settings):
            self._reader.incremental_unassign([TopicPartition(self._settings.changelog, partition)])

    def close(self) -> None:
        """See client.Reader."""
        self._ends.close()
        self._reader.close()


def _records(batch: list[Message], *, traced: bool) -> Records:
    n = len(batch)
    headers = cast("list[Headers | None]", list(map(Message.headers, batch)))
    return Records(
        np.fromiter(map(Message.partition, batch), np.int32, n),
        np.fromiter(map(Message.offset, batch), np.int64, n),
        list(map(Message.key, batch)),
        list(map(Message.value, batch)),
        *carried(headers, traced=traced),
    )
