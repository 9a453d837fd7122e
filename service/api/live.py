"""What the live page shows of the streams that the service keeps: to each key those that are its own."""

from __future__ import annotations

import math
import time
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import numpy as np

from service.alerts import Alert
from service.api.store import Store
from service.board import Pulse, Report, Status, card_json, known
from service.history import Cut, History
from service.scorer import Scored, Scorer


class _Event(msgspec.Struct):
    data: Alert


REPORT_SECONDS = 0.9  # pages ask once a second
_event = msgspec.json.Decoder(_Event)


class Live:
    """The last ticks of all kept streams. `waiting` tells how many ticks of a prefix are not scored yet."""

    def __init__(
        self,
        store: Store,
        scorer: Scorer,
        drift: Callable[[], dict[str, float]],
        waiting: Callable[[str], int],
        healthy: Callable[[], bool],
    ) -> None:
        self.started = uuid.uuid4().hex
        self.card = card_json(scorer.model, scorer.alert_budget)
        self.store = store
        self.history = History()
        self.status = Status(scorer.model.id, scorer.threshold, rejected=None)
        self.drift = drift
        self.waiting = waiting
        self.healthy = healthy
        self.began = time.monotonic()
        self.before = dict(store.ticks)  # so that ticks and alerts count from the same moment
        self.alerts: Counter[str] = Counter()  # by stream
        self._reports: dict[str, tuple[float, Report]] = {}  # by prefix, with when it was made

    def keep(self, scored: Scored, alerts: list[Alert]) -> None:
        """Show a batch that is durable now; ticks whose state came with them are their sender's business."""
        kept = scored.ticks.partition == 0
        self.history.add(scored if kept.all() else scored.take(np.flatnonzero(kept)))
        self.alerts.update(alert.stream for alert in alerts)

    def of(self, prefix: str) -> Tenant:
        """What is shown to a key."""
        return Tenant(self, prefix)

    def report(self, prefix: str, hottest: int) -> Report:
        """How things stand with the streams of a prefix, made anew once a second however many pages are open."""
        now = time.monotonic()
        made, report = self._reports.get(prefix, (-math.inf, None))
        if report is None or now - made >= REPORT_SECONDS:
            report = self._report(prefix, hottest, now - self.began)
            self._reports[prefix] = now, report
        return report

    def _report(self, prefix: str, hottest: int, seconds: float) -> Report:
        held = {name: n for name, n in list(self.store.ticks.items()) if name.startswith(prefix)}
        status = msgspec.structs.replace(
            self.status,
            ticks=sum(max(0, n - self.before.get(name, 0)) for name, n in held.items()),
            streams=len(held),
            alerts=sum(n for name, n in list(self.alerts.items()) if name.startswith(prefix)),
            lag=self.waiting(prefix),
            seconds=seconds,
        )
        drift = {} if prefix else known(self.drift())  # it is made of all streams
        return Report(status, self.healthy(), 0.0, self.history.heat(hottest, prefix), drift)


@dataclass(frozen=True)
class Tenant:
    """The streams whose names begin with a prefix."""

    live: Live
    prefix: str

    @property
    def started(self) -> str:
        """Tells this process from another one."""
        return self.live.started

    @property
    def card(self) -> bytes:
        """The model as JSON."""
        return self.live.card

    def report(self, hottest: int) -> Report:
        """How things stand, counted since the process began; drift is for whoever may see all streams."""
        return self.live.report(self.prefix, hottest)

    def pulses(self) -> list[Pulse]:
        """None is kept: a page draws those of its own time."""
        return []

    def alerts(self, after: int, most: int) -> tuple[int, list[Alert]]:
        """The number of the newest alert, and those behind `after`, the newest first."""
        newest = self.live.store.newest_alert
        if newest == after:
            return newest, []
        return newest, [_event.decode(value).data for value in self.live.store.newest(self.prefix, after, newest, most)]

    def names(self) -> list[str]:
        """The streams that are kept."""
        return [name for name in list(self.live.store.ticks) if name.startswith(self.prefix)]

    def last(self, stream: str) -> Cut | None:
        """The stream's last ticks; None if none is in memory."""
        return self.live.history.last(stream) if stream.startswith(self.prefix) else None

    def around(self, partition: int, offset: int) -> Cut | None:
        """The tick at an offset with those before and after; None if it is no longer in memory."""
        cut = self.live.history.around(partition, offset)
        return cut if cut is not None and cut.stream.startswith(self.prefix) else None
