"""Reads the state of newly owned partitions back from the changelog, a slice at a time."""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np

from service.connection import KafkaSettings, Unsettled
from service.errors import TickwatchError
from service.journal import event
from service.logs import PartitionState
from service.logs.changelog import Changelog, ForeignLayout
from service.logs.client import Consumer, Reader
from service.table import Table

LOG = logging.getLogger("tickwatch")
SLICE_S = 0.25  # the other partitions wait no longer than this for records
STABLE_MS = 200
ATTEMPTS = 5
GARBAGE_BYTES = 64 * 1024 * 1024  # worth the tenth of a second that it takes to look for garbage
AT_ONCE = 2  # partitions; the next ones use their tables again: to touch memory for the first time is slow


@dataclass(frozen=True)
class Restored:
    """A partition that is ready: its state, its changelog and the offset of its next record."""

    state: PartitionState
    changelog: Changelog
    offset: int


@dataclass
class Reading:
    """A partition on its way: `end` is the log end of its changelog when its committed offset was `committed`."""

    serial: int
    changelog: Changelog
    committed: int | None
    end: int
    table: Table = field(repr=False)

    def take(self, key: bytes, value: bytes | memoryview | None) -> None:
        """Apply one record."""
        numbers, found = self.changelog.read(key, value)
        n = len(self.changelog.names)
        if n > len(self.table.rows):
            self.table.grow(n + n // 4)
        self.table.rows[numbers] = found

    def state(self, partition: int) -> PartitionState:
        """The streams that are held now and their rows."""
        names = self.changelog.names
        streams = [name for name in names if name]
        if len(streams) == len(names):
            return PartitionState(partition, streams, self.table.rows[: len(names)])
        held = np.array([number for number, name in enumerate(names) if name], np.int64)
        return PartitionState(partition, streams, self.table.rows[held])


class Restore:
    """Restores partitions of `settings.changelog` for the group member `consumer` by means of `reader`, which it closes.

    The order is what makes it right: committed offset with pending transactions settled; the true end of the changelog, open
    transactions included, which only a read_uncommitted client sees; then everything committed up to that end; and the
    changelog's own next offset must be the committed one.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        consumer: Consumer,
        reader: Reader,
        row_bytes: int,
        new: Callable[[], Changelog],
    ) -> None:
        self._settings = settings
        self._group = consumer
        self._reader = reader
        self._row_bytes = row_bytes
        self._new = new
        self._reading: dict[int, Reading] = {}
        self._mismatches: dict[int, int] = {}
        self._lent: list[Table] = []  # which the caller is about to copy
        self._spare: list[Table] = []

    def step(self, waiting: dict[int, int]) -> list[Restored]:
        """Go on with the partitions in `waiting` for about SLICE_S; returns those that are ready.

        `waiting` maps a partition to the serial number of its assignment: one that was taken away and given back in between
        has another, and is read from the start. The rows are good until the next step.
        """
        self._spare += self._lent
        self._lent = []
        for partition in [p for p, r in self._reading.items() if waiting.get(p) != r.serial]:
            del self._reading[partition]
            self._reader.stop(partition)
        for partition in sorted(waiting.keys() - self._reading.keys())[: AT_ONCE - len(self._reading)]:
            with suppress(Unsettled):  # its former owner's transaction is; it is tried again
                self._begin(partition, waiting[partition])
        ready = self._finished()
        until = time.monotonic() + SLICE_S
        while self._reading and time.monotonic() < until:
            for partition, key, value in self._reader.poll(50):
                reading = self._reading.get(partition)
                if reading is not None:
                    self._take(reading, key, value)
            ready += self._finished()
        return ready

    def _begin(self, partition: int, serial: int) -> None:
        committed = self._group.committed(partition, STABLE_MS)
        end = self._reader.end(partition)
        table = self._spare.pop() if self._spare else Table(0, np.uint8, (self._row_bytes,))
        self._reading[partition] = Reading(serial, self._new(), committed, end, table)
        self._reader.start(partition)

    def _finished(self) -> list[Restored]:
        ready = []
        for partition, reading in list(self._reading.items()):
            at = self._reader.stands(partition)
            if at is not None and at >= reading.end:
                del self._reading[partition]
                self._reader.stop(partition)
                ready += self._check(partition, reading)
                self._lent.append(reading.table)
        return ready

    def _check(self, partition: int, reading: Reading) -> list[Restored]:
        changelog = reading.changelog
        if changelog.next_offset != reading.committed:
            self._mismatches[partition] = self._mismatches.get(partition, 0) + 1
            if self._mismatches[partition] >= ATTEMPTS:
                raise TickwatchError(
                    f"topic {self._settings.changelog} partition {partition} holds the state as of offset"
                    f" {changelog.next_offset} of topic {self._settings.ticks}, but group {self._settings.group} committed"
                    f" {reading.committed}: offsets or changelog were changed from outside; set them to the same offset, or"
                    " start with a new group and changelog"
                )
            return []  # another member committed in between: read again
        self._mismatches.pop(partition, None)
        try:
            changelog.finish()
        except ForeignLayout as error:
            raise self._foreign(changelog, error) from error
        first = self._reader.first_tick(partition)
        offset = first if reading.committed is None else reading.committed
        if offset < first:
            LOG.warning(
                "topic %s partition %d: %d ticks after offset %d were deleted by retention before they were scored",
                *(self._settings.ticks, partition, first - offset, offset),
                extra=event(
                    "ticks_lost", topic=self._settings.ticks, partition=partition, offset=offset, ticks=first - offset
                ),
            )
        return [Restored(reading.state(partition), changelog, offset)]

    def _take(self, reading: Reading, key: bytes, value: bytes | memoryview | None) -> None:
        try:
            reading.take(key, value)
        except ForeignLayout as error:
            raise self._foreign(reading.changelog, error) from error

    def _foreign(self, changelog: Changelog, error: ForeignLayout) -> TickwatchError:
        return TickwatchError(
            f"topic {self._settings.changelog}: its state was written by model and layout {error}, this worker has"
            f" {changelog.layout}; run that model, or give up that state and start afresh (--fresh)"
        )

    def close(self) -> None:
        """Give connections and memory back."""
        self._reader.close()
        held = sum(table.rows.nbytes for table in self._spare + self._lent)
        self._spare, self._lent = [], []
        if held > GARBAGE_BYTES:  # kafka-python's timeouts leave cycles of frames and tracebacks that hold the tables
            gc.collect()
