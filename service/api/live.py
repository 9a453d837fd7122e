"""What the live page shows of the streams that are scored: to each key those that are its own.

Those whose state the service keeps are shown when they are durable, the others, whose state comes with the request, when they
are scored: these are held in bounded memory and are gone after a restart.
"""

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
from service.api.passing import Passing, Sent
from service.api.store import Store
from service.board import Pulse, Report, Status, Told, card_json, known
from service.history import Cut, History
from service.scorer import Scored, Scorer


class _Event(msgspec.Struct):
    data: Alert


REPORT_SECONDS = 0.9  # pages ask once a second
REPORTS = 1_000  # prefixes whose report is held; a page to compare with may ask for any
_event = msgspec.json.Decoder(_Event)


class Live:
    """The last ticks of all streams. `waiting` tells how many ticks of a prefix are not scored yet."""

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
        self.alerts: Counter[str] = Counter()  # of kept streams
        self.passing = Passing()
        self._reports: dict[str, tuple[float, Report]] = {}  # by prefix, with when it was made

    def keep(self, scored: Scored, alerts: list[Alert]) -> None:
        """Show the ticks of kept streams in a batch that is durable now."""
        kept = scored.ticks.partition == 0
        self.history.add(scored if kept.all() else scored.take(np.flatnonzero(kept)))
        self.alerts.update(alert.stream for alert in alerts)

    def pass_on(self, scored: Scored, alerts: list[Alert], sent: list[Sent]) -> None:
        """Show the ticks in a batch whose state came with them."""
        self.history.add(self.passing.add(scored, alerts, sent))

    def of(self, prefix: str) -> Tenant:
        """What is shown to a key."""
        return Tenant(self, prefix)

    def report(self, prefix: str, hottest: int) -> Report:
        """How things stand with the streams of a prefix, made anew once a second however many pages are open."""
        now = time.monotonic()
        made, report = self._reports.get(prefix, (-math.inf, None))
        if report is None or now - made >= REPORT_SECONDS:
            report = self._report(prefix, hottest, now - self.began)
            if len(self._reports) >= REPORTS:
                self._reports.clear()
            self._reports[prefix] = now, report
        return report

    def _report(self, prefix: str, hottest: int, seconds: float) -> Report:
        held = {name: n for name, n in list(self.store.ticks.items()) if name.startswith(prefix)}
        passing = self.passing
        status = msgspec.structs.replace(
            self.status,
            ticks=sum(max(0, n - self.before.get(name, 0)) for name, n in held.items()) + _of(passing.ticks, prefix),
            streams=len(held.keys() | self.history.active(prefix)),
            alerts=_of(self.alerts, prefix) + _of(passing.alerts, prefix),
            lag=self.waiting(prefix),
            seconds=seconds,
        )
        drift = {} if prefix else known(self.drift())  # it is made of all streams
        return Report(status, self.healthy(), 0.0, self.history.heat(hottest, prefix), drift)


def _of(counts: Counter[str], prefix: str) -> int:
    return sum(n for name, n in list(counts.items()) if name.startswith(prefix))


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

    def alerts(self, after: Told, most: int) -> tuple[Told, list[Alert]]:
        """How many alerts there were, and those behind `after`, the newest first; by their time where both kinds are new."""
        store, passing = self.live.store, self.live.passing
        now = Told(store.newest_alert, passing.told)
        kept, others = [], []
        if now.kept != after.kept:
            values = store.newest(self.prefix, after.kept, now.kept, most)
            kept = [_event.decode(value).data for value in values]
        if now.passing != after.passing:
            others = passing.newest(self.prefix, after.passing, most)
        return now, sorted(kept + others, key=lambda alert: -alert.ts)[:most] if kept and others else kept + others

    def names(self) -> list[str]:
        """The streams that are kept, and the others of the last minute."""
        kept = {name for name in list(self.live.store.ticks) if name.startswith(self.prefix)}
        return [*kept | self.live.history.active(self.prefix)]

    def last(self, stream: str) -> Cut | None:
        """The stream's last ticks; None if none is in memory."""
        return self.live.history.last(stream) if stream.startswith(self.prefix) else None

    def near(self, stream: str, ms: float) -> Cut | None:
        """The stream's tick at a time with those before and after; None if it is no longer in memory."""
        return self.live.history.near(stream, ms) if stream.startswith(self.prefix) else None

    def around(self, partition: int, offset: int) -> Cut | None:
        """The tick at an offset with those before and after; None if it is no longer in memory."""
        cut = self.live.history.around(partition, offset)
        return cut if cut is not None and cut.stream.startswith(self.prefix) else None
