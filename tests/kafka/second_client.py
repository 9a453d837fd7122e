"""Topics as another client reads them: librdkafka, which most of the world reads Kafka with."""

from __future__ import annotations

import time
from typing import cast

from confluent_kafka import Consumer, Message, TopicPartition

from tests.kafka.broker import Seen


def read_with_librdkafka(bootstrap: str, topic: str) -> list[Seen]:
    """All committed records of a topic up to its present end, by partition and offset."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "reader",
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "enable.partition.eof": True,
            "fetch.message.max.bytes": 8 * 2**20,
        }
    )
    found: list[Seen] = []
    try:
        partitions = consumer.list_topics(topic, 10).topics[topic].partitions
        consumer.assign([TopicPartition(topic, p, 0) for p in partitions])
        open_ends = set(partitions)
        deadline = time.monotonic() + 30
        while open_ends:
            assert time.monotonic() < deadline, f"{topic}: the ends of {open_ends} do not come"
            record = consumer.poll(1.0)
            if record is None:
                continue
            if record.error() is not None:  # the end of a partition is the only one to expect
                open_ends.discard(record.partition())
                continue
            found.append(_seen(record))
    finally:
        consumer.close()
    return sorted(found, key=lambda r: (r.partition, r.offset))


def _seen(record: Message) -> Seen:
    partition, offset = record.partition(), record.offset()
    assert partition is not None
    assert offset is not None
    headers = cast("list[tuple[str, bytes]]", record.headers() or [])
    return Seen(partition, offset, record.key(), record.value(), dict(headers))
