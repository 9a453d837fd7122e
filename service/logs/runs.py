"""Records of kafka-python in columns: its parser makes eight calls and two objects of Python for each record, this one none.

What is taken from a fetch, which batches are aborted, corrupt or mark the end of a transaction, and where the consumer stands
remain kafka-python's (consumer/fetcher.py, `PartitionRecords`). It walks over the batches of a fetch and over the records of
each; here a batch pretends to hold one record, whose value is the Run of all that are in it. That way in is not public, so it
is taken with versions that it was tested with only; with any other, records come as kafka-python parses them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, groupby, islice
from typing import Any

import kafka
import numpy as np
from kafka import KafkaConsumer, TopicPartition
from kafka.consumer.fetcher import ConsumerRecord, Fetcher
from kafka.record import MemoryRecords
from kafka.record.default_records import DefaultRecord, DefaultRecordBatch
from numpy.typing import NDArray

from service.logs.spans import PARTS, scan

TESTED = ("3.0.12",)
SMALL = 1024  # bytes of a batch whose columns cost more than they save

Blob = bytes | memoryview
Hold = Callable[[bytearray], Blob]
Headers = list[tuple[str, bytes | None]]


@dataclass(frozen=True)
class Run:
    """N records of a partition in order: `offset` int64 [N]; `headers` may be empty if no record has any.

    Keys and values are bytes, or slices of what `in_columns` was asked to hold, or None.
    """

    offset: NDArray[np.int64]
    key: Sequence[Any]
    value: Sequence[Any]
    headers: Sequence[Headers] = ()

    def __len__(self) -> int:
        return len(self.value)

    def part(self, first: int, last: int | None = None) -> Run:
        """Some of them."""
        at = slice(first, last)
        return Run(self.offset[at], self.key[at], self.value[at], self.headers[at])


NOTHING = Run(np.zeros(0, np.int64), (), ())


def run_of(records: Iterable[Any]) -> Run:
    """The run of records that kafka-python has parsed."""
    found = [(r.offset, r.key, r.value, r.headers) for r in records]
    offset, key, value, headers = zip(*found, strict=True) if found else ((), (), (), ())
    return Run(np.array(offset, np.int64), key, value, headers if any(headers) else ())


def joined(found: Iterable[Run | ConsumerRecord]) -> Run:
    """One run of runs, and of records that kafka-python has parsed."""
    groups = [(kind, list(some)) for kind, some in groupby(found, type)]
    runs = [run for kind, some in groups for run in (some if kind is Run else [run_of(some)])]
    if len(runs) == 1:
        return runs[0]
    headers: list[Headers] = []
    if any(run.headers for run in runs):
        headers = list(chain.from_iterable(run.headers or [[]] * len(run) for run in runs))
    return Run(
        np.concatenate([NOTHING.offset, *(run.offset for run in runs)]),
        list(chain.from_iterable(run.key for run in runs)),
        list(chain.from_iterable(run.value for run in runs)),
        headers,
    )


def in_columns(consumer: KafkaConsumer, hold: Hold = bytes) -> Callable[..., dict[TopicPartition, Run]]:
    """The `poll` of a consumer that has polled nothing yet, with a run for each partition.

    `hold` makes of a batch what keys and values are sliced from: `bytes`, or `memoryview`, which copies nothing.
    """
    if kafka.__version__ in TESTED:
        consumer._fetcher.PartitionRecords = partial(_PartitionRuns, hold=hold)
    return lambda *given: {tp: joined(found) for tp, found in consumer.poll(*given).items()}


class _Taken:
    """Runs and records in order; it is as long as the records in them are many, which is what kafka-python wants to know."""

    def __init__(self) -> None:
        self._found: list[Run | ConsumerRecord] = []
        self._records = 0

    def __len__(self) -> int:
        return self._records

    def __iter__(self) -> Iterator[Run | ConsumerRecord]:
        return iter(self._found)

    def add(self, found: Run | ConsumerRecord, n: int) -> None:
        """One more, of `n` records."""
        self._found.append(found)
        self._records += n


class _PartitionRuns(Fetcher.PartitionRecords):  # type: ignore[misc]
    """What was fetched of a partition."""

    def __init__(self, offset: int, tp: TopicPartition, records: MemoryRecords, *, hold: Hold, **given: Any) -> None:
        super().__init__(offset, tp, _Batches(records, hold), **given)
        self._rest = NOTHING  # of the batch at hand
        self._after_rest = offset

    def take(self, n: int) -> _Taken:
        """The next `n` records, or what is there."""
        self._maybe_raise_next_inline_exception()
        taken = _Taken()
        try:
            while len(taken) < n and self.record_iterator is not None:  # it ends with the fetch
                if self._rest:
                    run = self._rest.part(0, n - len(taken))
                    taken.add(run, len(run))
                    self._rest = self._rest.part(len(run))
                    self.next_fetch_offset = int(self._rest.offset[0]) if self._rest else self._after_rest
                else:
                    self._go_on(taken)
        except Exception as error:
            if not taken:
                raise
            self._next_inline_exception = error  # for the next call, as in `PartitionRecords.take`
        return taken

    def _go_on(self, taken: _Taken) -> None:
        for record in islice(self.record_iterator, 1):
            if isinstance(record.value, Run):
                run = record.value
                first = int(np.searchsorted(run.offset, self.fetch_offset))  # a batch may begin before it
                self._rest = run.part(first)
                self._after_rest = self.next_fetch_offset
            else:
                taken.add(record, 1)


class _Batches:
    """The batches of a fetch, for `PartitionRecords`."""

    def __init__(self, records: MemoryRecords, hold: Hold) -> None:
        self._records = records
        self._hold = hold

    def next_batch(self) -> object | None:
        """The next one; as it is, if it marks the end of a transaction, is small or of an old format."""
        batch: object | None = self._records.next_batch()
        if not isinstance(batch, DefaultRecordBatch) or batch.is_control_batch or batch.size_in_bytes < SMALL:
            return batch
        return _Batch(batch, self._hold)


class _Batch:
    """A batch whose only record is the last one, with the run of all for a value."""

    def __init__(self, batch: DefaultRecordBatch, hold: Hold) -> None:
        self._batch = batch
        self._hold = hold

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def __iter__(self) -> Iterator[DefaultRecord]:
        batch = self._batch
        run = _parsed(iter(batch), self._hold)
        if run is None:
            return iter(batch)  # to say what is wrong, if it is not only that they have headers
        return iter([DefaultRecord(len(batch._buffer), batch.last_offset, batch.max_timestamp, 0, None, run, [])])


def _parsed(batch: DefaultRecordBatch, hold: Hold) -> Run | None:
    """The records of a batch that is not compressed any more; None if it is not that simple."""
    buffer, n = batch._buffer, batch.records_count
    spans = np.empty((max(0, min(n, len(buffer))), PARTS), np.int64)
    if len(spans) != n or not scan(np.frombuffer(buffer, np.uint8), batch._pos, spans):
        return None
    data = hold(buffer)
    key, key_end, value, value_end = spans.T[1:].tolist()
    return Run(spans[:, 0] + batch.base_offset, _cut(data, key, key_end), _cut(data, value, value_end))


def _cut(data: Blob, starts: list[int], ends: list[int]) -> list[Any]:
    if -1 in ends:
        return [None if b < 0 else data[a:b] for a, b in zip(starts, ends, strict=True)]
    return [data[a:b] for a, b in zip(starts, ends, strict=True)]
