"""Ticks whose state came with them, as the page shows them, in bounded memory however many streams they name.

The last alerts are held for each tenant apart, so that nobody's flood takes away those of others.
"""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict, deque
from dataclasses import replace
from typing import NamedTuple

import msgspec
import numpy as np

from service.alerts import Alert
from service.board import ALERTS
from service.scorer import Scored

PARTITION = -1  # of all of them, on the page: no partition of a log
SENDERS = 64  # tenants whose last alerts are held
STREAMS = 10_000  # of which it is known where they go on


class Sent(NamedTuple):
    """A request of a batch: its partition there, its sender's prefix, the streams that its state holds, its ticks' places."""

    partition: int
    prefix: str
    known: frozenset[str]
    places: range


class Passing:
    """Counts ticks and alerts by sender, and gives them lasting numbers; one thread adds, any thread asks."""

    def __init__(self) -> None:
        self.ticks: Counter[str] = Counter()  # by the prefix of the sender's key
        self.alerts: Counter[str] = Counter()
        self.told = 0  # alerts so far
        self._next = 0  # number of the next tick
        self._next_row = -1  # below 0, where no kept stream is
        self._rows: OrderedDict[str, int] = OrderedDict()
        self._last: OrderedDict[str, deque[tuple[int, Alert]]] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, scored: Scored, alerts: list[Alert], sent: list[Sent]) -> Scored:
        """Count what was sent; returns it with numbers and rows that tell its ticks and streams apart for good."""
        names, rows = scored.ticks.stream, scored.rows.copy()
        first, self._next = self._next, self._next + len(names)
        for request in sent:
            at = slice(request.places.start, request.places.stop)
            self.ticks[request.prefix] += len(request.places)
            mine = {name: self._row(name, request) for name in dict.fromkeys(names[at])}
            rows[at] = [mine[name] for name in names[at]]
        self._tell([alert for alert in alerts if alert.partition], first, {r.partition: r.prefix for r in sent})
        partition, offset = np.full(len(names), PARTITION, np.int32), np.arange(first, self._next)
        numbered = replace(scored, ticks=replace(scored.ticks, partition=partition, offset=offset), rows=rows)
        return numbered if scored.ticks.partition.all() else numbered.take(np.flatnonzero(scored.ticks.partition))

    def _row(self, name: str, request: Sent) -> int:
        """The same as before where the stream's state came along; otherwise it begins anew, and with it a row."""
        row = self._rows.pop(name, None)
        if row is None or name not in request.known:
            row, self._next_row = self._next_row, self._next_row - 1
        self._rows[name] = row
        if len(self._rows) > STREAMS:
            self._rows.popitem(last=False)
        return row

    def _tell(self, alerts: list[Alert], first: int, sender: dict[int, str]) -> None:
        with self._lock:
            for alert in alerts:
                prefix = sender[alert.partition]
                self.alerts[prefix] += 1
                self.told += 1
                before = self._last.pop(prefix, None) or deque(maxlen=ALERTS)
                self._last[prefix] = before
                if len(self._last) > SENDERS:
                    self._last.popitem(last=False)
                own = f"{alert.topic}/{PARTITION}/{first + alert.offset}/{alert.model}"
                opened = own if alert.phase == "opened" else _incident(before, alert.stream, own)
                told = msgspec.structs.replace(alert, partition=PARTITION, offset=first + alert.offset, incident=opened)
                before.append((self.told, told))

    def newest(self, prefix: str, after: int, most: int) -> list[Alert]:
        """The newest alerts beyond the first `after` on streams with a prefix, the newest first."""
        found: list[tuple[int, Alert]] = []
        with self._lock:
            for held in self._last.values():
                for number, alert in reversed(held):
                    if number <= after:
                        break
                    if alert.stream.startswith(prefix):
                        found.append((number, alert))
        return [alert for _, alert in sorted(found, key=lambda it: -it[0])[:most]]


def _incident(before: deque[tuple[int, Alert]], stream: str, own: str) -> str:
    """Of the stream's last alert: the state that came along knows that an incident is open, and not its lasting number."""
    return next((alert.incident for _, alert in reversed(before) if alert.stream == stream), own)
