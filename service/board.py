"""What a worker writes and what the live page reads, across threads."""

from __future__ import annotations

import math
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from service import __version__
from service.alerts import Alert
from service.autoencoder import Model
from service.history import Cut, Heat, History

ALERTS = 200  # that the page shows
PULSES = 300  # seconds of throughput and lag that it shows


class Status(msgspec.Struct, frozen=True):
    """What the live page shows beside the alerts."""

    model: str
    threshold: float
    ticks: int = 0
    streams: int = 0
    alerts: int = 0
    rejected: int | None = 0
    lag: int = 0
    seconds: float = 0.0
    version: str = __version__


class Told(NamedTuple):
    """How many alerts a page was told of: those that are durable, and those of ticks whose state came with them."""

    kept: int = 0
    passing: int = 0


class Pulse(msgspec.Struct, frozen=True):
    """The counts at one moment, in seconds since the start."""

    seconds: float
    ticks: int
    alerts: int
    lag: int


class Report(msgspec.Struct, frozen=True):
    """How things stand: `age` is the seconds since the worker last moved, `drift` the index of each feature, null if unknown."""

    status: Status
    ready: bool
    age: float
    heat: Heat
    drift: dict[str, float | None]


def card_json(model: Model, alert_budget: float) -> bytes:
    """What the page tells of a model, as JSON: its card without the long tables, and the alert budget in use."""
    c = model.card
    told = {
        "model": model.id, "alert_budget": alert_budget, "cell": c.cell, "hidden": c.hidden, "bottleneck": c.bottleneck,
        "feature_set": c.feature_set, "features": c.features, "thresholds": c.thresholds, "seed": c.seed,
        "data_fingerprint": c.data_fingerprint, "code_revision": c.code_revision,
    }  # fmt: skip
    return msgspec.json.encode(told)


def known(index: dict[str, float]) -> dict[str, float | None]:
    """The drift of each feature, None in the place of NaN."""
    return {name: None if math.isnan(value) else value for name, value in index.items()}


class Board:
    """Status, alerts and history of one worker. `card` is its model as JSON, `names` tells the streams that it holds."""

    def __init__(
        self,
        status: Status,
        card: bytes = b"{}",
        names: Callable[[], list[str]] = list,
        drift: Callable[[], dict[str, float]] = dict,
    ) -> None:
        self.started = uuid.uuid4().hex  # so that a page notices when it talks to another process
        self.status = status
        self.card = card
        self.names = names
        self._drift = drift
        self.ready = False
        self.history = History()
        self.shown_at = time.monotonic()
        self._alerts: deque[Alert] = deque(maxlen=ALERTS)
        self._told = 0
        self._pulses: deque[Pulse] = deque(maxlen=PULSES)
        self._lock = threading.Lock()

    def tell(self, alerts: list[Alert]) -> None:
        """Add alerts that are durable now."""
        with self._lock:
            self._alerts.extend(alerts)
            self._told += len(alerts)

    def show(self, status: Status, *, ready: bool) -> None:
        """Say how things stand."""
        self.status, self.ready, self.shown_at = status, ready, time.monotonic()
        last = self._pulses[-1].seconds if self._pulses else -math.inf
        if status.seconds - last >= 1.0:
            with self._lock:
                self._pulses.append(Pulse(status.seconds, status.ticks, status.alerts, status.lag))

    @property
    def prefix(self) -> str:
        """Of the streams that are shown: all."""
        return ""

    def alerts(self, after: Told, most: int) -> tuple[Told, list[Alert]]:
        """How many alerts there were so far, and of those beyond `after` the newest ones, newest first."""
        with self._lock:
            new = min(self._told - after.kept, most, len(self._alerts))
            return Told(self._told), [self._alerts[-1 - i] for i in range(new)]

    def report(self, hottest: int) -> Report:
        """How things stand now, with so many of the hottest streams."""
        age = time.monotonic() - self.shown_at
        return Report(self.status, self.ready, age, self.history.heat(hottest), known(self._drift()))

    def last(self, stream: str) -> Cut | None:
        """The stream's last ticks; None if none is kept."""
        return self.history.last(stream)

    def near(self, stream: str, ms: float) -> Cut | None:
        """The stream's tick at a time with those before and after; None if it is no longer kept."""
        return self.history.near(stream, ms)

    def around(self, partition: int, offset: int) -> Cut | None:
        """The tick at an offset with those before and after; None if it is no longer kept."""
        return self.history.around(partition, offset)

    def pulses(self) -> list[Pulse]:
        """One pulse a second, oldest first."""
        with self._lock:
            return list(self._pulses)
