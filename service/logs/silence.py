"""Notices partitions that bring nothing although there is something to read.

kafka-python 3.0.12 asks a broker again only when its last fetch has had an outcome (consumer/fetcher.py,
`_nodes_with_pending_fetch_requests`) and learns of new leaders in one loop that must not end (cluster.py, `_refresh_loop`).
When either fails, partitions are silent for good, without an error and with heartbeats in good order. It was seen, rarely,
when one of several brokers died.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from service.connection import KafkaSettings, Unreachable, connect

Positions = dict[int, int]  # by partition


class Silence:
    """Compares, every `patience_s` seconds, where a consumer stands with where its partitions end.

    `ends` asks for those ends over connections of its own. Silent is a partition that did not move between two looks although
    its end lay further on at the first. One that only waits for its turn moves sooner, unless a hundred others are far behind.
    """

    def __init__(self, patience_s: float, ends: Callable[[Iterable[int]], Positions]) -> None:
        self._patience_s = patience_s
        self._ends = ends
        self._look_at = 0.0
        self._stood: Positions = {}
        self._ended: Positions = {}

    def look(self, stands: Callable[[], Positions], now: float) -> list[int]:
        """The silent partitions, if it is time to look at `now` seconds; `stands` gives the next offset to read of all."""
        if now < self._look_at:
            return []
        self._look_at = now + self._patience_s
        stood, self._stood = self._stood, stands()
        still = [p for p, at in self._stood.items() if stood.get(p) == at]
        silent = [p for p in still if self._ended.get(p, 0) > self._stood[p]]
        self._ended = self._ends(still) if still else {}
        return silent

    def forget(self) -> None:
        """Begin anew: partitions that wait for their state stand still for a good reason."""
        self._stood, self._ended = {}, {}


def ends(settings: KafkaSettings, partitions: Iterable[int]) -> Positions:
    """Where partitions of ticks end for a read_committed reader; nothing while nobody can tell."""
    try:
        consumer = connect(settings, KafkaConsumer, isolation_level="read_committed", metrics_enabled=False)
        try:
            found = consumer.end_offsets([TopicPartition(settings.ticks, p) for p in partitions], timeout_ms=2000)
        finally:
            consumer.close(autocommit=False)
    except (Unreachable, KafkaError):
        return {}
    return {tp.partition: end for tp, end in found.items()}
