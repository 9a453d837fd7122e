"""How alerts, frames of scores and dead letters are written to their topics."""

from __future__ import annotations

from collections.abc import Iterable

from service.connection import KafkaSettings
from service.logs import SCHEMA_HEADER, DeadLetter, Output
from service.logs.client import Producer

LETTER_BYTES = 512 * 1024  # a dead letter's value is cut here, or its topic might refuse it for ever
SCHEMA_BYTES = 64  # a longer one names no schema, and is left out for the same reason


def send_results(
    producer: Producer,
    topics: KafkaSettings,
    alerts: Iterable[Output],
    scores: Iterable[Output],
    dead_letters: Iterable[DeadLetter],
) -> None:
    """Send each to its topic. Raises TickwatchError."""
    for topic, outputs in ((topics.alerts, alerts), (topics.scores, scores)):
        for out in outputs:
            producer.send(topic, out.value, out.key or None, headers=out.headers)
    for letter in dead_letters:
        _bury(producer, topics, letter)


def _bury(producer: Producer, topics: KafkaSettings, letter: DeadLetter) -> None:
    value = letter.value or b""
    headers = [
        ("reason", letter.reason.encode()),
        ("topic", topics.ticks.encode()),
        ("partition", str(letter.partition).encode()),
        ("offset", str(letter.offset).encode()),
    ]
    if letter.schema is not None and len(letter.schema) <= SCHEMA_BYTES:
        headers.append((SCHEMA_HEADER, letter.schema))
    if len(value) > LETTER_BYTES:
        headers.append(("cut-from-bytes", str(len(value)).encode()))
    producer.send(topics.dead_letters, value[:LETTER_BYTES], letter.key, headers=headers)
