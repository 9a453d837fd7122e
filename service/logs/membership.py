"""A worker's place in the consumer group: which partitions are its own, and in what condition."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from itertools import count

from kafka import ConsumerRebalanceListener, KafkaConsumer, TopicPartition
from kafka.consumer.fetcher import ConsumerRecord
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.structs import ConsumerGroupMetadata, MemberState

from service.connection import KafkaSettings, connect

CONSUMER = {
    "enable_auto_commit": False,
    "isolation_level": "read_committed",
    "auto_offset_reset": "earliest",
    "session_timeout_ms": 8000,
    "heartbeat_interval_ms": 1000,
    "max_poll_interval_ms": 60_000,
    "retry_backoff_ms": 50,
    "fetch_max_bytes": 16 * 1024 * 1024,
}


FETCH_MS = 100  # how long a broker waits for a first tick
FETCH_BYTES = 64 * 1024  # so much is a batch worth scoring, and does not linger
JOIN_MS = 5000
HEARD_S = 4.0  # heartbeats go out every second


class Assignor(CooperativeStickyAssignor):  # type: ignore[misc]
    """Cooperative-sticky that never claims the partitions of a membership that has lapsed.

    When a member is dropped while it rejoins, kafka-python tries again without telling the listener and still claims what
    it owned (coordinator/base.py, `join_group_async`), though another member may have worked on it since.
    """

    def __init__(self) -> None:
        super().__init__()
        self.consumer: KafkaConsumer | None = None
        self.member_assignment: list[TopicPartition] | None = None
        self.lapsed = False

    def metadata(self, topics: Iterable[str]) -> object:
        """What this member tells the group when it joins."""
        if self.member_assignment and self.consumer is not None and self.consumer.group_metadata().generation_id < 0:
            self.member_assignment = None
            self.lapsed = True
        return super().metadata(topics)


class Membership(ConsumerRebalanceListener):  # type: ignore[misc]
    """A static member of the group that reads `settings.ticks`.

    Its partitions are `waiting` for their state, each with the serial number of its assignment, or `active` when records
    flow; `lost` lists those that were active and went since it was last emptied. With `linger_ms` the broker holds few records
    back for so long, that more may come: each fetch costs a client more than many ticks do. The methods named `on_...` run on the
    consumer's IO thread while another thread waits in `consumer.poll`.
    """

    def __init__(self, settings: KafkaSettings, linger_ms: int = 0) -> None:
        self._assignor = Assignor()
        self.consumer = connect(
            settings,
            KafkaConsumer,
            **CONSUMER,
            fetch_max_wait_ms=linger_ms or FETCH_MS,
            fetch_min_bytes=FETCH_BYTES if linger_ms else 1,
            group_id=settings.group,
            group_instance_id=settings.instance,
            partition_assignment_strategy=[self._assignor],
        )
        self._assignor.consumer = self.consumer
        metrics = self.consumer.metrics(raw=True).items()
        (self._heartbeat,) = (m for name, m in metrics if name.name == "last-heartbeat-seconds-ago")
        self.waiting: dict[int, int] = {}
        self.active: set[int] = set()
        self.lost: list[int] = []
        self.before_revoke: Callable[[], None] | None = None
        self._serial = count()
        self._topic = settings.ticks
        self.consumer.subscribe([settings.ticks], listener=self)

    def poll(self, timeout_ms: int, max_records: int) -> dict[TopicPartition, list[ConsumerRecord]]:
        """Records of the active partitions; joins the group, and lets partitions come and go, as needed."""
        # A poll that runs out of time during a join loses its outcome, and the next one joins anew: with short polls the group
        # would rebalance for ever, or a leader stay without its partitions (coordinator/base.py `join_group_async`,
        # coordinator/consumer.py `need_rejoin`). So joins are waited for here; there is no public way.
        coordinator = self.consumer._coordinator
        # a heartbeat that is refused because another process has this name ends them without a word (`_do_heartbeat`): the
        # next join raises what they should have said, and does no harm otherwise
        silent = not coordinator._heartbeat_enabled
        if coordinator.need_rejoin() or silent or self.consumer.group_metadata().state is not MemberState.STABLE:
            coordinator.request_rejoin()
            coordinator.poll(timeout_ms=JOIN_MS)
        found: dict[TopicPartition, list[ConsumerRecord]] = self.consumer.poll(timeout_ms, max_records)
        return found

    def heard(self) -> bool:
        """Whether the group's broker has answered lately, or was never asked."""
        age: float = self._heartbeat.value()
        return age < HEARD_S or math.isinf(age)

    def stands(self) -> dict[TopicPartition, int]:
        """The next offset to read of each active partition."""
        partitions = [TopicPartition(self._topic, p) for p in sorted(self.active)]
        at = {tp: self.consumer.position(tp, timeout_ms=0) for tp in partitions}
        return {tp: offset for tp, offset in at.items() if offset is not None}

    def identity(self) -> ConsumerGroupMetadata | None:
        """What proves to the broker that this member may commit; None while it is not in the group.

        Taken when it is needed and not once per assignment: a cooperative rebalance that moves nothing here still begins a
        new generation, without a word to the listener. Memberships that lapsed in between are told apart by the assignor.
        """
        metadata = self.consumer.group_metadata()
        # the broker would take offsets without a generation from anyone
        return None if self._assignor.lapsed or metadata.generation_id < 0 else metadata

    def take_lapse(self) -> bool:
        """Whether the group dropped this member, and what it holds may be out of date; asking settles it."""
        lapsed, self._assignor.lapsed = self._assignor.lapsed, False
        return lapsed

    def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """New partitions stand still until their state is here."""
        self.consumer.pause(*assigned)
        self._wait_for(tp.partition for tp in assigned)

    def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        """Commit while the partitions are still ours; their next owner gets them only when this returns."""
        try:
            if self.before_revoke is not None:
                self.before_revoke()
        finally:
            self.on_partitions_lost(revoked)

    def on_partitions_lost(self, lost: Iterable[TopicPartition]) -> None:
        """Another member may own them already: nothing of them may be committed any more."""
        gone = {tp.partition for tp in lost}
        self.lost += sorted(gone & self.active)
        self.active -= gone
        for partition in gone:
            self.waiting.pop(partition, None)

    def start_over(self) -> None:
        """Everything needs its state again."""
        self.consumer.pause(*self.consumer.assignment())
        self._wait_for(self.waiting.keys() | self.active)
        self.active.clear()

    def activate(self, tp: TopicPartition, offset: int) -> None:
        """Let the records of a restored partition flow, from `offset`."""
        self.consumer.seek(tp, offset)
        self.consumer.resume(tp)
        del self.waiting[tp.partition]
        self.active.add(tp.partition)

    def _wait_for(self, partitions: Iterable[int]) -> None:
        self.waiting |= {partition: next(self._serial) for partition in partitions}

    def close(self) -> None:
        """Stop without committing. A static member keeps its partitions until it is back or its session times out."""
        self.before_revoke = None
        self.consumer.close(autocommit=False, timeout_ms=2000)
