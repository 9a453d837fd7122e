"""`tickwatch topics export`: the last hours of the topic of ticks as a Parquet file, to train on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from service.connection import KafkaSettings, connect
from service.errors import TickwatchError
from service.logs import Records
from service.ticks import NUMBERS, Ticks, decode

BATCH = 50_000
PATIENCE_S = 30  # without a record, though there are more


@dataclass(frozen=True)
class Exported:
    """How many ticks were written, and how many records were none."""

    ticks: int
    rejected: int


def export(settings: KafkaSettings, since_ms: int, output: Path) -> Exported:
    """Write the ticks that reached the topic since `since_ms`, milliseconds since 1970, up to its present end.

    Each stream keeps its order. The file appears when it is complete. Raises TickwatchError.
    """
    consumer = connect(settings, KafkaConsumer, isolation_level="read_committed", enable_auto_commit=False)
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(f".{output.name}.partial")
    written = rejected = 0
    try:
        schema = pa.schema([("stream", pa.string()), ("ts", pa.int64()), *((name, pa.float64()) for name in NUMBERS)])
        with pq.ParquetWriter(partial, schema) as file:
            for records in _read(consumer, settings, since_ms):
                ticks, letters = decode(records)
                file.write_table(_table(ticks, schema))
                written += len(ticks)
                rejected += len(letters)
        partial.replace(output)
    except KafkaError as error:
        raise TickwatchError(f"Kafka at {settings.bootstrap_servers}: {error}") from error
    finally:
        consumer.close()
        partial.unlink(missing_ok=True)
    return Exported(written, rejected)


def _read(consumer: KafkaConsumer, settings: KafkaSettings, since_ms: int) -> Iterator[Records]:
    numbers = consumer.partitions_for_topic(settings.ticks)
    if not numbers:
        raise TickwatchError(f"topic {settings.ticks} does not exist at {settings.bootstrap_servers}")
    partitions = [TopicPartition(settings.ticks, number) for number in sorted(numbers)]
    ends = consumer.end_offsets(partitions)
    starts = consumer.offsets_for_times(dict.fromkeys(partitions, since_ms))
    for partition in partitions:
        start = starts[partition]
        if start is None:  # nothing is that young
            continue
        consumer.assign([partition])
        consumer.seek(partition, start.offset)
        while consumer.position(partition) < ends[partition]:
            before = consumer.position(partition)
            batch = consumer.poll(PATIENCE_S * 1000, max_records=BATCH).get(partition, [])
            if not batch and consumer.position(partition) == before:
                raise TickwatchError(f"{settings.ticks}/{partition.partition}: no answer at offset {before}; try again")
            kept = [record for record in batch if record.offset < ends[partition]]
            yield Records(
                np.full(len(kept), partition.partition, np.int32),
                np.array([record.offset for record in kept], np.int64),
                [record.key for record in kept],
                [record.value for record in kept],
            )


def _table(ticks: Ticks, schema: pa.Schema) -> pa.Table:
    return pa.table([ticks.stream, ticks.ts, *(getattr(ticks, name) for name in NUMBERS)], schema=schema)
