"""kafka-python 3.0.12 behind the seam of `client.py` (file names below are its own).

Listeners run on the consumer's IO thread while the worker's thread waits in `poll` (net/selector.py): they only take notes, and
commit through the producer, which has a thread of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

import numpy as np
from kafka import ConsumerRebalanceListener, KafkaConsumer, KafkaProducer, TopicPartition, errors
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.producer.future import FutureRecordMetadata
from kafka.producer.transaction_manager import TransactionalRequestResult
from kafka.structs import ConsumerGroupMetadata, MemberState, OffsetAndMetadata

from service.connection import KafkaSettings, Unreachable, Unsettled, connect, explain_error
from service.logs import NOTHING, Records
from service.logs.changelog import RECORD_BYTES
from service.logs.client import READ_BYTES, Change, Rebalance, carried
from service.logs.runs import Run, in_columns, joined

CONSUMER = {
    "enable_auto_commit": False,
    "isolation_level": "read_committed",
    "auto_offset_reset": "earliest",
    "session_timeout_ms": 8000,
    "heartbeat_interval_ms": 1000,
    "max_poll_interval_ms": 60_000,
    "retry_backoff_ms": 10,  # `poll` sleeps for as long when an answer arrives just between two of its looks
    "fetch_max_bytes": 16 * 1024 * 1024,
}
PRODUCER = {
    "linger_ms": 5,
    "batch_size": 262_144,
    "max_request_size": RECORD_BYTES,
    "max_block_ms": 15_000,
    "retry_backoff_ms": 10,  # with the default of 100 every transaction sleeps 100 ms
    "delivery_timeout_ms": 120_000,
}
ANSWER_MS = 8000  # a commit asks twice and flushes, before the watchdog loses its patience
FETCH_MS = 100  # how long a broker waits for a first tick
FETCH_BYTES = 64 * 1024  # so much is a batch worth scoring, and does not linger
JOIN_MS = 5000
HEARD_S = 4.0  # heartbeats go out every second
POSITION_MS = 1000


@contextmanager
def _explained(settings: KafkaSettings) -> Iterator[None]:
    """The project's own errors for kafka-python's."""
    try:
        yield
    except errors.KafkaError as error:
        raise explain_error(settings, error) from error


class Assignor(CooperativeStickyAssignor):  # type: ignore[misc]
    """Cooperative-sticky that never claims the partitions of a membership that has lapsed.

    When a member is dropped while it rejoins, kafka-python tries again without telling the listener and still claims what
    it owned (coordinator/base.py, `join_group_async`), though another member may have worked on it since.
    """

    def __init__(self, lapse: Callable[[], None]) -> None:
        super().__init__()
        self.consumer: KafkaConsumer | None = None
        self.member_assignment: list[TopicPartition] | None = None
        self._lapse = lapse

    def metadata(self, topics: Iterable[str]) -> object:
        """What this member tells the group when it joins."""
        if self.member_assignment and self.consumer is not None and self.consumer.group_metadata().generation_id < 0:
            self.member_assignment = None
            self._lapse()
        return super().metadata(topics)


class Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    """Passes on what happens to partitions; new ones stand still."""

    def __init__(self, consumer: KafkaConsumer, rebalance: Rebalance) -> None:
        self._consumer = consumer
        self._rebalance = rebalance

    def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """See Rebalance.assigned."""
        self._consumer.pause(*assigned)
        self._rebalance.assigned([tp.partition for tp in assigned])

    def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        """See Rebalance.revoked."""
        self._rebalance.revoked([tp.partition for tp in revoked])

    def on_partitions_lost(self, lost: Iterable[TopicPartition]) -> None:
        """See Rebalance.lost."""
        self._rebalance.lost([tp.partition for tp in lost])


class Consumer:
    """See client.Consumer."""

    def __init__(self, settings: KafkaSettings, rebalance: Rebalance, linger_ms: int, traced: bool) -> None:
        self._settings = settings
        self._traced = traced
        assignor = Assignor(lambda: rebalance.lost([]))
        self._consumer = connect(
            settings,
            KafkaConsumer,
            **CONSUMER,
            fetch_max_wait_ms=linger_ms or FETCH_MS,
            fetch_min_bytes=FETCH_BYTES if linger_ms else 1,
            group_id=settings.group,
            group_instance_id=settings.instance,
            partition_assignment_strategy=[assignor],
        )
        assignor.consumer = self._consumer
        self._poll = in_columns(self._consumer)
        metrics = self._consumer.metrics(raw=True).items()
        (self._heartbeat,) = (m for name, m in metrics if name.name == "last-heartbeat-seconds-ago")
        self._consumer.subscribe([settings.ticks], listener=Listener(self._consumer, rebalance))

    def poll(self, timeout_ms: int, max_records: int) -> Records:
        """See client.Consumer."""
        # A poll that runs out of time during a join loses its outcome, and the next one joins anew: with short polls the group
        # would rebalance for ever, or a leader stay without its partitions (coordinator/base.py `join_group_async`,
        # coordinator/consumer.py `need_rejoin`). So joins are waited for here; there is no public way.
        coordinator = self._consumer._coordinator
        # a heartbeat that is refused because another process has this name ends them without a word (`_do_heartbeat`): the
        # next join raises what they should have said, and does no harm otherwise
        silent = not coordinator._heartbeat_enabled
        try:
            if coordinator.need_rejoin() or silent or self._consumer.group_metadata().state is not MemberState.STABLE:
                coordinator.request_rejoin()
                coordinator.poll(timeout_ms=JOIN_MS)
            found = self._poll(timeout_ms, max_records)
        except errors.KafkaError as error:
            if error.__cause__ is not None and not isinstance(error.__cause__, errors.KafkaError):
                raise error.__cause__ from None  # from `rebalance`, wrapped by kafka-python
            raise explain_error(self._settings, error) from error
        return _records(found, traced=self._traced)

    def _ticks(self, partitions: Iterable[int]) -> list[TopicPartition]:
        return [TopicPartition(self._settings.ticks, p) for p in partitions]

    def pause(self, partitions: Sequence[int]) -> None:
        """See client.Consumer."""
        held = self._consumer.assignment()  # what is being revoked is not in it any more
        self._consumer.pause(*(tp for tp in self._ticks(partitions) if tp in held))

    def flow(self, partition: int, offset: int) -> None:
        """See client.Consumer."""
        (tp,) = self._ticks([partition])
        self._consumer.seek(tp, offset)
        self._consumer.resume(tp)

    def committed(self, partition: int, timeout_ms: int) -> int | None:
        """See client.Consumer."""
        try:
            with _explained(self._settings):
                found: int | None = self._consumer.committed(*self._ticks([partition]), timeout_ms=timeout_ms)
        except Unreachable as error:
            if isinstance(error.__cause__, errors.KafkaTimeoutError):
                raise Unsettled(str(error)) from error
            raise
        return found

    def stands(self, partitions: Sequence[int]) -> dict[int, int]:
        """See client.Consumer."""
        at = {tp.partition: self._consumer.position(tp, timeout_ms=0) for tp in self._ticks(partitions)}
        return {p: offset for p, offset in at.items() if offset is not None}

    def ends(self, partitions: Sequence[int]) -> dict[int, int]:
        """See client.Consumer."""
        found = {tp.partition: self._consumer.highwater(tp) for tp in self._ticks(partitions)}
        return {p: end for p, end in found.items() if end is not None}

    def heard(self) -> bool:
        """See client.Consumer."""
        age: float = self._heartbeat.value()
        return age < HEARD_S or math.isinf(age)

    def member_id(self) -> str:
        """See client.Consumer."""
        found: str = self._consumer.group_metadata().member_id
        return found

    def identity(self) -> ConsumerGroupMetadata | None:
        """See client.Consumer."""
        metadata = self._consumer.group_metadata()
        return None if metadata.generation_id < 0 else metadata

    def close(self) -> None:
        """See client.Consumer."""
        self._consumer.close(autocommit=False, timeout_ms=2000)


class Producer:
    """See client.Producer."""

    def __init__(self, settings: KafkaSettings, *, transactional: bool = True) -> None:
        self._settings = settings
        self._sent: list[FutureRecordMetadata] = []
        if not transactional:
            self._producer = connect(settings, KafkaProducer, **PRODUCER | {"linger_ms": 0})
            return
        transactional_id = f"{settings.group}.{settings.instance}"
        transaction = {"transactional_id": transactional_id, "transaction_timeout_ms": 10_000}
        self._producer = connect(settings, KafkaProducer, **PRODUCER, **transaction)
        try:
            with _explained(settings):
                self._producer.init_transactions()
        except BaseException:
            self.discard()
            raise

    def begin(self) -> None:
        """See client.Producer."""
        with _explained(self._settings):
            self._producer.begin_transaction()

    def send(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None,
        partition: int | None = None,
        headers: Sequence[tuple[str, bytes]] = (),
    ) -> None:
        """See client.Producer."""
        with _explained(self._settings):
            self._sent.append(self._producer.send(topic, value, key, list(headers), partition))

    def flush(self, timeout_s: float) -> None:
        """See client.Producer."""
        sent, self._sent = self._sent, []
        with _explained(self._settings):
            self._producer.flush(timeout_s)
            for future in sent:  # `commit_transaction` may succeed although one expired (producer/sender.py)
                future.get(0)

    def add_offsets(self, offsets: dict[int, int], identity: object) -> None:
        """See client.Producer."""
        topic = self._settings.ticks
        following = {TopicPartition(topic, p): OffsetAndMetadata(offset, "", -1) for p, offset in offsets.items()}
        with _explained(self._settings):
            self._wait(self._producer._transaction_manager.send_offsets_to_transaction(following, identity))

    def commit(self) -> None:
        """See client.Producer."""
        with _explained(self._settings):
            self._wait(self._producer._transaction_manager.begin_commit())

    def _wait(self, result: TransactionalRequestResult) -> None:
        """As the public methods do, which wait for ever if a request is lost.

        That happens when a broker is away for longer than a connection may take (producer/sender.py,
        `_maybe_send_pending_request`).
        """
        self._producer._sender.wakeup()
        if not result.wait(ANSWER_MS):
            raise errors.KafkaTimeoutError(f"no answer to a transaction's request in {ANSWER_MS / 1000:g} s")

    def discard(self) -> None:
        """See client.Producer."""
        # `close` alone waits for what it holds in vain, gives up and leaves its thread sending (producer/kafka.py)
        self._producer._sender.force_close()
        with suppress(errors.KafkaError):
            self._producer.close(timeout=1)


class Reader:
    """See client.Reader."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._partitions: set[int] = set()
        plain = {"enable_auto_commit": False, "auto_offset_reset": "earliest", "metrics_enabled": False}
        self._ends = connect(settings, KafkaConsumer, **plain)
        self._reader = connect(
            settings,
            KafkaConsumer,
            **plain,
            isolation_level="read_committed",
            max_partition_fetch_bytes=READ_BYTES,
            fetch_max_bytes=READ_BYTES,
            max_poll_records=64,
        )
        self._poll = in_columns(self._reader, memoryview)

    def _place(self, partition: int) -> TopicPartition:
        return TopicPartition(self._settings.changelog, partition)

    def end(self, partition: int) -> int:
        """See client.Reader."""
        with _explained(self._settings):
            (found,) = self._ends.end_offsets([self._place(partition)]).values()
        return int(found)

    def first_tick(self, partition: int) -> int:
        """See client.Reader."""
        with _explained(self._settings):
            (found,) = self._ends.beginning_offsets([TopicPartition(self._settings.ticks, partition)]).values()
        return int(found)

    def start(self, partition: int) -> None:
        """See client.Reader."""
        self._partitions.add(partition)
        with _explained(self._settings):
            self._reader.assign([self._place(p) for p in self._partitions])
            self._reader.resume(self._place(partition))  # it may have been read, and stopped, before
            self._reader.seek_to_beginning(self._place(partition))

    def poll(self, timeout_ms: int) -> list[Change]:
        """See client.Reader."""
        with _explained(self._settings):
            found = self._poll(timeout_ms).items()
        return [(tp.partition, bytes(k), v) for tp, run in found for k, v in zip(run.key, run.value, strict=True)]

    def stands(self, partition: int) -> int | None:
        """See client.Reader."""
        with _explained(self._settings):
            found: int | None = self._reader.position(self._place(partition), timeout_ms=POSITION_MS)
        return found

    def stop(self, partition: int) -> None:
        """See client.Reader."""
        self._partitions.discard(partition)
        self._reader.pause(self._place(partition))

    def close(self) -> None:
        """See client.Reader."""
        self._ends.close()
        self._reader.close()


def _records(found: Mapping[TopicPartition, Run], *, traced: bool) -> Records:
    if not found:
        return NOTHING
    run = joined(found.values())
    partitions = np.array([tp.partition for tp in found], np.int32)
    return Records(
        np.repeat(partitions, [len(part) for part in found.values()]),
        run.offset,
        list(run.key),
        list(run.value),
        *carried(run.headers, traced=traced),
    )
