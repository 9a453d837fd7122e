"""History from a Kafka topic: the ticks of its last hours, read without a group, so that nothing there remembers it."""

from __future__ import annotations

import os
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime, timezone
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from kafka import KafkaConsumer, TopicPartition
from kafka.consumer.fetcher import ConsumerRecord
from kafka.errors import AuthorizationError, KafkaError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from service.connection import KafkaSettings, connect
from service.errors import TickwatchError
from service.logs import DeadLetter, Records
from service.ticks import NO_SEQ, NUMBERS, Ticks, decode
from training.history import History, fingerprint, gather

BYTES_PER_TICK = 1300  # measured over a whole training run on 1.16 million ticks
POLL_RECORDS = 50_000
PATIENCE_S = 30.0  # without a record, before the broker counts as gone

Span = dict[TopicPartition, tuple[int, int]]  # first offset to read, and the one after the last


def read_topic(
    settings: KafkaSettings, topic: str, hours: float, now_ms: int, console: Console, memory: int | None = None
) -> History:
    """The committed ticks whose records are not older than `hours` before `now_ms`, milliseconds since 1970.

    Raises TickwatchError where Kafka can't be reached or denies it, the topic does not exist or holds no tick of that
    time, or where training on so many ticks needs more than `memory` bytes, all that this machine has by default.
    """
    options: dict[str, Any] = {"group_id": None, "enable_auto_commit": False, "auto_offset_reset": "none"}
    options |= {"isolation_level": "read_committed", "max_partition_fetch_bytes": 8 << 20}
    consumer = connect(settings, KafkaConsumer, **options)
    where = f"topic {topic} at {settings.bootstrap_servers}"
    try:
        since = max(0, now_ms - round(hours * 3_600_000))
        span = _span(consumer, topic, since, where)
        records = sum(end - first for first, end in span.values())
        _affordable(records, memory, console, where)
        ticks, rejected, first = _read(consumer, span, since, where, console)
    except AuthorizationError as error:
        raise TickwatchError(f"{where}: not allowed ({error}); grant read and describe on it") from error
    except KafkaError as error:
        raise TickwatchError(f"{where}: {type(error).__name__}: {error}; try again") from error
    finally:
        consumer.close(autocommit=False)
    told = ""
    if first is not None:
        told = f"{rejected:,} records could not be read, the first in partition {first.partition} at offset"
        told += f" {first.offset}: {first.reason}"
        console.print(told, markup=False, highlight=False, soft_wrap=True)
    streams = gather(chain.from_iterable(ticks[partition] for partition in sorted(ticks)))
    if not streams:
        raise TickwatchError(f"{where} holds no tick of the last {hours:g} hours; {told or 'give more --hours'}")
    until = datetime.fromtimestamp(now_ms // 1000, timezone.utc).strftime("%Y-%m-%dT%H:%MZ")
    origin = f"Kafka topic {topic}, {hours:g} hours up to {until}"
    return History(streams, rejected, fingerprint(streams), origin)


def keep(history: History, path: Path) -> None:
    """Write the ticks to a Parquet file from which `read_history` gives the same streams and fingerprint again."""
    names = [pa.array([name] * len(ticks)).dictionary_encode() for name, ticks in history.streams.items()]
    columns = {
        column: np.concatenate([getattr(ticks, column) for ticks in history.streams.values()])
        for column in ("ts", *NUMBERS, "seq")
    }
    columns["seq"] = pa.array(columns["seq"], mask=columns["seq"] == NO_SEQ)
    try:
        pq.write_table(pa.table({"stream": pa.chunked_array(names).cast(pa.string()), **columns}), path)
    except OSError as error:
        raise TickwatchError(f"{path} can't be written ({error.strerror}); choose another --folder") from error


def _span(consumer: KafkaConsumer, topic: str, since: int, where: str) -> Span:
    """What to read of each partition: from the first record on that is not older than `since`."""
    partitions = [TopicPartition(topic, p) for p in sorted(consumer.partitions_for_topic(topic))]
    if not partitions:
        others = ", ".join(sorted(name for name in consumer.topics() if not name.startswith("__"))[:5])
        raise TickwatchError(f"{where} does not exist; name one that does (there are: {others or 'none'})")
    ends = consumer.end_offsets(partitions)  # of a read_committed consumer: where open transactions begin
    if consumer.beginning_offsets(partitions) == ends:
        raise TickwatchError(f"{where} is empty; give one that ticks have been written to")
    first = consumer.offsets_for_times(dict.fromkeys(partitions, since))
    return {tp: (found.offset, ends[tp]) for tp, found in first.items() if found and found.offset < ends[tp]}


def _affordable(records: int, memory: int | None, console: Console, where: str) -> None:
    """Say what it will take, or refuse before the machine runs out of memory."""
    there = memory or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    needed = records * BYTES_PER_TICK
    console.print(f"{records:,} records to read; training on them takes about {needed / 1e9:.1f} GB of memory")
    if needed > there:
        raise TickwatchError(
            f"{where}: {records:,} records need about {needed / 1e9:.1f} GB of memory and this machine has"
            f" {there / 1e9:.1f}; give fewer --hours"
        )


def _read(
    consumer: KafkaConsumer, span: Span, since: int, where: str, console: Console
) -> tuple[dict[int, list[Ticks]], int, DeadLetter | None]:
    """The ticks of each partition in order, however the polls interleave them; how many records are none, and the first."""
    ticks: dict[int, list[Ticks]] = defaultdict(list)
    rejected, first = 0, None
    columns = (TextColumn("reading"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        bar = progress.add_task("", total=sum(end - first for first, end in span.values()))
        for partition, records in _polled(consumer, span, since, where):
            found, rejects = decode(_records(records))
            found.stream[:] = map(sys.intern, found.stream)  # one text a stream, not one a tick
            ticks[partition].append(found)
            rejected += len(rejects)
            first = first or next(iter(rejects), None)
            progress.advance(bar, len(records))
    return ticks, rejected, first


def _polled(consumer: KafkaConsumer, span: Span, since: int, where: str) -> Iterator[tuple[int, list[ConsumerRecord]]]:
    """Records of each partition in order until the ends of the span are reached.

    The span may begin with older ones: the end of a transaction that came late counts as a record of that time.
    """
    left = {tp: end for tp, (_, end) in span.items()}
    consumer.assign(list(span))
    for tp, (first, _) in span.items():
        consumer.seek(tp, first)
    heard = time.monotonic()
    while left:
        for tp, records in consumer.poll(200, max_records=POLL_RECORDS).items():
            heard = time.monotonic()
            yield tp.partition, [r for r in records if r.offset < span[tp][1] and r.timestamp >= since]
        for tp in [tp for tp, end in left.items() if consumer.position(tp) >= end]:  # also behind aborted ones
            consumer.pause(tp)
            del left[tp]
        if time.monotonic() - heard > PATIENCE_S:
            raise TickwatchError(f"{where}: the broker has sent nothing for {PATIENCE_S:g} s; is it still there?")


def _records(found: list[ConsumerRecord]) -> Records:
    return Records(
        partition=np.array([r.partition for r in found], np.int32),
        offset=np.array([r.offset for r in found], np.int64),
        key=[r.key for r in found],
        value=[r.value for r in found],
    )
