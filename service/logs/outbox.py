"""What a worker sends: results, and a transaction for each checkpoint.

With `at_once`, for at-least-once, results go through a producer without transactions, so that readers see them before the
checkpoint that covers their ticks. The transaction has state and offsets as ever, and is not committed before the results have
arrived: after a crash the same ticks meet the same state, and their results come again with the same bits. It ends on a thread
of its own, so that the next ticks may be scored meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait

from service.connection import KafkaSettings
from service.logs import SCHEMA_HEADER, Checkpoint, DeadLetter, Output
from service.logs.client import Client, Producer
from service.logs.watchdog import Watchdog

FLUSH_S = 10  # as long as the broker keeps a transaction open
HANG_S = 30  # what has not ended by now never will
LETTER_BYTES = 512 * 1024  # a dead letter's value is cut here, or its topic might refuse it for ever
SCHEMA_BYTES = 64  # a longer one names no schema, and is left out for the same reason


class Outbox:
    """The producers of one worker. After a TickwatchError from any method only `discard` may follow."""

    def __init__(self, settings: KafkaSettings, client: Client, *, at_once: bool) -> None:
        self._topics = settings
        self._client = client
        self._at_once = at_once
        self._producer: Producer | None = None
        self._outlet: Producer | None = None
        self._watchdog = Watchdog(f"a transaction at {settings.bootstrap_servers}", HANG_S)
        self._thread = ThreadPoolExecutor(1, "commit")
        self._under_way: Future[None] | None = None

    @property
    def is_open(self) -> bool:
        """Whether it can send."""
        return self._producer is not None

    def open(self) -> None:
        """Make the producers. Raises TickwatchError, after which it may be tried again."""
        with self._watchdog:
            if self._at_once and self._outlet is None:
                self._outlet = self._client.outlet(self._topics)
            self._producer = self._client.producer(self._topics)

    def send(self, alerts: Iterable[Output], scores: Iterable[Output], dead_letters: Iterable[DeadLetter]) -> None:
        """Send results ahead of their checkpoint. Only with `at_once`."""
        if self._outlet is None:
            raise ValueError("it was not made to send at once, or is not open")
        _send(self._outlet, self._topics, alerts, scores, dead_letters)

    def commit(
        self, checkpoint: Checkpoint, changelog: Iterable[tuple[int, bytes, bytes | None]], identity: object
    ) -> None:
        """Send a checkpoint and its (partition, key, value) of the changelog, to be settled before the next one."""
        producer = self._producer
        if producer is None:
            raise ValueError("it is not open")
        with self._watchdog:
            producer.begin()
            _send(producer, self._topics, checkpoint.alerts, checkpoint.scores, checkpoint.dead_letters)
            for partition, key, value in changelog:
                producer.send(self._topics.changelog, value, key, partition)
            if self._outlet is not None:  # here and not on the thread: it would wait for whatever is sent meanwhile
                self._outlet.flush(FLUSH_S)
        self._under_way = self._thread.submit(self._finish, producer, checkpoint.offsets, identity)

    def _finish(self, producer: Producer, offsets: dict[int, int], identity: object) -> None:
        with self._watchdog:
            producer.add_offsets(offsets, identity)  # while the records are on their way
            producer.flush(FLUSH_S)
            producer.commit()

    def settle(self, *, patient: bool = True) -> bool:
        """Wait for the commit that is under way, or only look if not `patient`; whether one has come about."""
        under_way = self._under_way
        if under_way is None or not (patient or under_way.done()):
            return False
        self._under_way = None
        under_way.result()
        return True

    def discard(self) -> None:
        """Give up what is not committed; what is under way may still come about."""
        if self._under_way is not None:
            wait([self._under_way])
            self._under_way = None
        producers = self._producer, self._outlet
        self._producer = self._outlet = None
        for producer in producers:
            if producer is not None:
                producer.discard()

    def close(self) -> None:
        """Discard, and stop watching."""
        self.discard()
        self._thread.shutdown()
        self._watchdog.close()


def _send(
    producer: Producer,
    topics: KafkaSettings,
    alerts: Iterable[Output],
    scores: Iterable[Output],
    dead_letters: Iterable[DeadLetter],
) -> None:
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
