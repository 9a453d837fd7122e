"""The Kafka log: one transaction per checkpoint, state in a compacted changelog, partitions shared by a consumer group.

What keeps it exact, whichever client (`client.py`) carries it:
- A commit sends outputs, changelog and input offsets in one transaction, under this member's identity in the group, so that
  the broker refuses it from a member that was replaced or left behind (KIP-447).
- Every record is known to have arrived before the transaction is committed.
- Waits without a timeout stand under a watchdog. After any error the producer is dropped and all state restored.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np
from kafka import KafkaAdminClient, errors
from numpy.typing import NDArray

from service.connection import Denied, KafkaSettings, Unreachable, connect, explain_error, explain_replaced
from service.errors import TickwatchError
from service.journal import event
from service.logs import NOTHING, Checkpoint, DeadLetter, LogReset, Output, PartitionState, Poll
from service.logs.changelog import Changelog
from service.logs.client import Consumer, find
from service.logs.membership import Membership
from service.logs.outbox import Outbox
from service.logs.restore import Restore, Restored
from service.logs.silence import Silence, ends
from service.topics import check_topics

LOG = logging.getLogger("tickwatch")
FAILURES = 10  # commits in a row; what fails so often will not pass by itself
BACKOFF_S = (0.5, 5.0)
STRANGERS = 5  # looks at the group, over some seconds, that find another worker under this one's name
SOON_MS = 5  # the longest linger where no result waits for a commit
PATIENCE_S = 15.0  # with a partition that brings nothing, until somebody else is asked whether that is right

Current = Callable[[int, list[str]], NDArray[np.uint8]]


class KafkaLog:
    """A log in Kafka, over the client of the name `client`.

    `layout` names the meaning of a state row of `row_bytes` bytes; state of another layout is refused, or with `fresh` given up
    when this worker first commits. `rows(partition, streams)` gives the present state rows, uint8 [n, row_bytes], of any streams
    of a partition; the log asks for them inside `commit` when it writes some again (`changelog.py`), which spares it a second
    copy of all state. `poll` may call `before_revoke` on another thread, while it blocks. Few records linger at the broker for
    `linger_ms`, None: as long as suits the client and `at_once`. With `traced` records bring their header TRACE_HEADER. With
    `at_once` there is `send` for at-least-once results. `connect_attempts` counts attempts since the last success.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        row_bytes: int,
        layout: str,
        rows: Current,
        *,
        client: str = "kafka-python",
        max_records: int = 5000,
        linger_ms: int | None = None,
        fresh: bool = False,
        traced: bool = False,
        at_once: bool = False,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self.name = settings.ticks
        self.connect_attempts = 0
        self._settings = settings
        self._client = find(client)
        self._row_bytes = row_bytes
        self._layout = layout
        self._rows = rows
        self._max_records = max_records
        usual_ms = min(self._client.linger_ms, SOON_MS) if at_once else self._client.linger_ms
        self._linger_ms = usual_ms if linger_ms is None else linger_ms
        self._fresh = fresh
        self._traced = traced
        self._at_once = at_once
        self._outbox = Outbox(settings, self._client, at_once=at_once)
        self._silence = Silence(patience_s, partial(ends, settings))
        self._member: Membership | None = None
        self._restore: Restore | None = None
        self._changelogs: dict[int, Changelog] = {}
        self._next: dict[int, int] = {}
        self._failures = 0
        self._strangers = 0
        self._try_at = 0.0

    @property
    def connected(self) -> bool:
        """Whether the log has its connections and the group's broker answers."""
        return self._outbox.is_open and self._member is not None and self._member.consumer.heard()

    @property
    def restoring(self) -> int:
        """See Log.restoring."""
        return 0 if self._member is None else len(self._member.waiting)

    # -- polling ------------------------------------------------------------------------------------------------------

    def poll(self, timeout_ms: int, before_revoke: Callable[[], None]) -> Poll:
        """See Log.poll. Raises TickwatchError when a person has to act."""
        member = self._open(timeout_ms)
        if member is None:
            return Poll(NOTHING)
        self._settle(patient=False)

        def leave() -> None:
            before_revoke()
            self._settle()

        member.before_revoke = leave
        try:
            self._end_silence(member)
            # with partitions to restore there is something else to do meanwhile
            records = member.consumer.poll(0 if member.waiting else timeout_ms, self._max_records)
        except Unreachable:
            return Poll(NOTHING)
        if member.take_lapse():
            self._reset("the group had dropped this member")
            raise LogReset
        ready = self._restored(member)
        gone, member.gone = member.gone, []
        for partition in gone:
            LOG.info("topic %s partition %d moves on", self.name, partition, extra=self._at("lost", partition))
            self._changelogs.pop(partition, None)
            self._next.pop(partition, None)
        for restored in ready:
            partition = restored.state.partition
            self._changelogs[partition] = restored.changelog
            self._next[partition] = restored.offset
            try:
                member.activate(partition, restored.offset)
            except Unreachable as error:
                self._reset(str(error))
                raise LogReset from error
            words = "topic %s partition %d goes on at offset %d"
            LOG.info(words, self.name, partition, restored.offset, extra=self._at("restored", partition))
        for partition in np.flatnonzero(np.bincount(records.partition)).tolist():
            offsets = records.offset[records.partition == partition]
            self._check_order(partition, int(offsets[0]))
            self._next[partition] = int(offsets[-1]) + 1
        return Poll(records, [r.state for r in ready], gone)

    def _at(self, name: str, partition: int) -> dict[str, object]:
        return event(f"partition_{name}", topic=self.name, partition=partition, offset=self._next.get(partition))

    def _end_silence(self, member: Membership) -> None:
        """Get a new consumer when the one at hand has stopped reading."""
        silent = self._silence.look(member.stands, time.monotonic())
        if not silent:
            return
        self._reset(f"nothing comes of partitions {silent} although there are ticks to read")
        self._end_restore()
        member.close()
        self._member = None
        raise LogReset

    def _end_restore(self) -> None:
        if self._restore is not None:
            self._restore.close()
            self._restore = None

    def _check_order(self, partition: int, offset: int) -> None:
        """The consumer begins at the start again when the topic ends before the place that it stood at."""
        if offset < self._next.get(partition, 0):
            raise TickwatchError(
                f"topic {self.name} partition {partition} was cut off before offset {self._next[partition]}, up to which its"
                " ticks are scored, or made anew: the ticks that it holds now may have been scored before. Start with a new"
                " group and changelog to score what it holds"
            )

    def _restored(self, member: Membership) -> list[Restored]:
        try:
            if not member.waiting:
                self._end_restore()
                return []
            if self._restore is None:
                new = partial(Changelog, self._layout, self._row_bytes, fresh=self._fresh)
                reader = self._client.reader(self._settings)
                self._restore = Restore(self._settings, member.consumer, reader, self._row_bytes, new)
            return self._restore.step(member.waiting)
        except Unreachable as error:
            LOG.warning("restoring state waits: %s", error, extra=event("restore_waits", topic=self.name))
            return []

    # -- committing ---------------------------------------------------------------------------------------------------

    def commit(self, checkpoint: Checkpoint) -> None:
        """See Log.commit. What belongs to partitions that are no longer owned is left out.

        With `at_once` it returns while the transaction is under way; if that fails, the next call of any method raises LogReset.
        """
        self._settle()
        member = self._member
        identity = None if member is None else member.identity()
        if member is None or identity is None or not self._outbox.is_open:
            self._reset("this worker is not in the group at the moment")
            raise LogReset
        owned = checkpoint.only(member.active)
        if not owned.offsets:
            return
        with self._voiding():
            self._outbox.commit(owned, self._changes(owned), identity)
        if not self._at_once:
            self._settle()

    def _changes(self, checkpoint: Checkpoint) -> Iterator[tuple[int, bytes, bytes | None]]:
        """The (partition, key, value) records of the changelog."""
        states = {state.partition: state for state in checkpoint.states}
        for partition, offset in checkpoint.offsets.items():
            state = states.get(partition) or PartitionState(partition, [], np.zeros((0, self._row_bytes), np.uint8))
            current = partial(self._rows, partition)
            write = self._changelogs[partition].write
            for key, value in write(offset, state.streams, state.rows, state.removed, current):
                yield partition, key, value

    def send(self, alerts: list[Output], scores: list[Output], dead_letters: list[DeadLetter]) -> None:
        """Let readers see results before their checkpoint, with `at_once`. Raises LogReset when what is uncommitted is void."""
        with self._voiding():
            self._outbox.send(alerts, scores, dead_letters)

    def _settle(self, *, patient: bool = True) -> None:
        """Wait, or only look, for the commit that is under way."""
        with self._voiding():
            if self._outbox.settle(patient=patient):
                self._failures = 0

    @contextmanager
    def _voiding(self) -> Iterator[None]:
        """Voids all uncommitted work if something goes wrong."""
        try:
            yield
        except TickwatchError as error:
            self._failures += 1
            self._reset(str(error))
            if self._failures >= FAILURES or isinstance(error, Denied):
                raise TickwatchError(str(error)) from error  # worth no other attempt, whatever it was
            raise LogReset from error

    def lag(self) -> dict[int, int]:
        """See Log.lag."""
        if self._member is None:
            return {}
        ends = self._member.consumer.ends(sorted(self._member.active))
        return {p: max(0, end - self._next[p]) for p, end in ends.items()}

    # -- connections --------------------------------------------------------------------------------------------------

    def _open(self, timeout_ms: int) -> Membership | None:
        """The membership, with a producer beside it. Makes one attempt at both if it is time for one, else waits a little."""
        if self._member is not None and self._outbox.is_open:
            return self._member
        wait_s = self._try_at - time.monotonic()
        if wait_s > 0:
            time.sleep(min(wait_s, timeout_ms / 1000))
            return None
        self.connect_attempts += 1
        try:
            member = self._connect()
        except Unreachable as error:
            first_s, most_s = BACKOFF_S
            wait_s = min(most_s, first_s * 2 ** (self.connect_attempts - 1)) * random.uniform(0.5, 1)
            self._try_at = time.monotonic() + wait_s
            attempt = event("unreachable", attempt=self.connect_attempts, wait_s=wait_s)
            LOG.warning("Attempt %d failed, next in %.1f s: %s", self.connect_attempts, wait_s, error, extra=attempt)
            return None
        self.connect_attempts = 0
        return member

    def _connect(self) -> Membership:
        if self._member is None:
            check_topics(self._settings)
            self._member = Membership(self._settings, self._client, self._linger_ms, traced=self._traced)
        else:
            self._check_not_replaced(self._member.consumer)
        self._outbox.open()
        return self._member

    def _check_not_replaced(self, consumer: Consumer) -> None:
        """A member that comes back from a long pause must not throw out the one that took its place.

        One that joins anew, as librdkafka does by itself, gets another id, and for a moment only the broker knows it.
        """
        settings = self._settings
        own = {consumer.member_id()}
        admin = connect(settings, KafkaAdminClient)
        try:
            members = admin.describe_groups([settings.group])[settings.group]["members"]
        except errors.KafkaError as error:
            raise explain_error(settings, error) from error
        finally:
            admin.close()
        own.add(consumer.member_id())
        named = {member["member_id"] for member in members if member["group_instance_id"] == settings.instance}
        if "" in own or not named - own:
            self._strangers = 0
            return
        self._strangers += 1
        if self._strangers >= STRANGERS:
            raise explain_replaced(settings)
        raise Unreachable(
            f"group {settings.group}: instance {settings.instance} is another worker, or this one joins anew"
        )

    def _reset(self, why: str) -> None:
        void = event("void", topic=self.name, next_offsets=dict(self._next))
        LOG.warning("uncommitted work is void and state will be restored: %s", why, extra=void)
        self._changelogs.clear()
        self._next.clear()
        self._silence.forget()
        if self._member is not None:
            self._member.start_over()
        self._outbox.discard()

    def close(self) -> None:
        """See Log.close. The partitions stay with this instance until it is back or its session times out."""
        self._outbox.close()
        self._end_restore()
        if self._member is not None:
            self._member.close()
