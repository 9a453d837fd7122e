"""The last ticks of all streams as they were scored, so that a person can look at a stream, or at what was around an alert.

One ring of columns for all streams: writing it costs a few copies a batch, and a stream is found in it by one comparison.
What is around an alert is cut out of it when as many ticks have come after the alert as are kept of those before.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from service.alerts import natural
from service.features import FEATURES, F
from service.scorer import Scored

TICKS = 65_536  # in the ring: 14 MB, and 13 seconds at 5,000 ticks a second
CHUNK = 8_192  # written at a time
AROUND = 200  # ticks on either side of an alert
VIEW = 400  # last ticks of a stream
CUTS = 200  # alerts whose surroundings outlast the ring: 15 MB
CUTS_OF_CHUNK = 20  # the rest of a flood of alerts is told, but can't be looked at for long
NEAR_MS = 1_000.0  # of event time: a tick that lies further away is another one
HEAT_SECONDS = 60.0
MOST_COURSES = 3
LEAST_USUAL = 0.1  # deviation of a feature: one that hardly moves is not missed by much

TITLES = {
    "return": "price move of one tick, in usual moves",
    "mid_return": "quote move of one tick, in usual moves",
    "spike": "price move taken back, in usual moves",
    "momentum": "price from its recent mean, in usual moves",
    "volatility": "volatility, times its usual level",
    "gap": "time since the last tick",
    "rate": "tick rate, times its usual level",
    "size": "size of the trade",
    "size_run": "trades of equal size in a row before this one",
    "spread": "spread, times its usual width",
    "crossed": "bid above ask, in usual spreads",
    "deviation": "trade from the mid, in usual spreads",
    "drift": "recent trades from the mid, in usual spreads",
    "price_run": "ticks since the price changed",
    "quote_run": "ticks since the quote changed",
    "alternation": "share of price moves that reverse the one before",
    "depth": "sizes quoted at the best bid and ask",
    "book_run": "ticks since the quote or its sizes changed",
    "time_run": "ticks so far with this time",
    "mid_moves": "quote moves since the price last moved",
    "off_quote": "share of trades at neither bid nor ask",
}
Numbers = list[float | None]


class Course(msgspec.Struct, frozen=True):
    """A feature over the ticks of a trace, as it was and as the autoencoder reconstructs it; null where it has no value."""

    feature: str
    title: str
    observed: Numbers
    expected: Numbers


class Trace(msgspec.Struct, frozen=True):
    """N ticks of one stream as columns; `time_ms` is event time since 1970, null stands where the feed has no such number."""

    stream: str
    offset: list[int]
    time_ms: list[float]
    price: list[float]
    bid: Numbers
    ask: Numbers
    size: Numbers
    score: list[float]
    courses: list[Course]


class Heat(msgspec.Struct, frozen=True):
    """The last minute, or what the ring holds of it: the hottest streams by name, and the highest score of each.

    `active` is how many streams had a tick, `over` the share of all `ticks` with a score above 2: about one in a
    hundred where the model fits the market.
    """

    stream: list[str]
    score: list[float]
    active: int
    ticks: int
    over: float


@dataclass(frozen=True)
class Cut:
    """N ticks of one stream in order, features as they were and as the autoencoder reconstructs them, float32 [N, F]."""

    stream: str
    numbers: dict[str, NDArray[np.float64]]
    offset: NDArray[np.int64]
    observed: NDArray[np.float32]
    expected: NDArray[np.float32]

    def trace(self, features: Sequence[str] = ()) -> Trace:
        """The columns, with the courses of some features; without any, of those that the reconstruction misses most."""
        usual = np.nan_to_num(self.observed).std(axis=0) + LEAST_USUAL
        worst = np.nan_to_num(np.abs(self.observed - self.expected) / usual).max(axis=0, initial=0.0)
        chosen = [FEATURES.index(f) for f in features] or np.argsort(-worst, kind="stable")[:MOST_COURSES].tolist()
        n = self.numbers
        return Trace(
            self.stream, self.offset.tolist(), n["ts"].tolist(), n["price"].tolist(), _numbers(n["bid"]),
            _numbers(n["ask"]), _numbers(n["size"]), n["score"].tolist(), [self._course(j) for j in chosen],
        )  # fmt: skip

    def _course(self, j: int) -> Course:
        name = FEATURES[j]
        observed, expected = (
            _numbers(np.array([natural(name, v) for v in column[:, j].tolist()]))
            for column in (self.observed, self.expected)
        )
        return Course(name, TITLES[name], observed, expected)


class _Warmth(NamedTuple):
    """A stream in the last minute: its highest score, its ticks, and how many of them score above 2."""

    best: float
    ticks: int
    over: int


def _numbers(values: NDArray[np.float64]) -> Numbers:
    return [v if math.isfinite(v) else None for v in values.tolist()]


class History:
    """A ring of scored ticks; any thread adds and asks."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._columns: dict[str, NDArray[Any]] = {
            **{name: np.zeros(TICKS, np.int32) for name in ("partition", "row")},
            **{name: np.zeros(TICKS, np.int64) for name in ("offset", "ts")},
            **{name: np.zeros(TICKS) for name in ("price", "bid", "ask", "size", "score", "at")},
            **{name: np.zeros((TICKS, F), np.float32) for name in ("observed", "expected")},
        }
        self._names = [""] * TICKS
        self._end = 0  # ticks that were ever added
        self._uncut: deque[int] = deque()  # alerts, each as the number of its tick
        self._cuts: dict[tuple[int, int], Cut] = {}
        self._lock = threading.Lock()
        self._warm: dict[str, _Warmth] = {}
        self._warm_at = -math.inf

    def add(self, scored: Scored) -> None:
        """Keep a batch."""
        ticks, found, verdicts = scored.ticks, scored.features, scored.verdicts
        n = len(ticks)
        columns: dict[str, NDArray[Any]] = {
            "partition": ticks.partition, "row": scored.rows, "offset": ticks.offset, "ts": ticks.ts, "price": ticks.price,
            "bid": ticks.bid, "ask": ticks.ask, "size": ticks.size, "score": verdicts.score, "at": np.full(n, self._clock()),
            "observed": found.observed, "expected": found.mean + found.std * scored.expected,
        }  # fmt: skip
        for start in range(0, n, CHUNK):
            chunk = slice(start, min(start + CHUNK, n))
            alerts = np.flatnonzero(verdicts.alert[chunk])[-CUTS_OF_CHUNK:]
            with self._lock:
                self._uncut.extend((self._end + alerts).tolist())
                self._write(chunk, columns, ticks.stream)
                while self._uncut and self._uncut[0] < self._end - TICKS // 2:
                    self._keep(self._uncut.popleft() % TICKS)

    def _write(self, chunk: slice, columns: dict[str, NDArray[Any]], names: list[str]) -> None:
        at = self._end % TICKS
        middle = min(chunk.stop, chunk.start + TICKS - at)  # where the ring begins again
        spans = [(slice(at, at + middle - chunk.start), slice(chunk.start, middle))]
        if middle < chunk.stop:
            spans.append((slice(0, chunk.stop - middle), slice(middle, chunk.stop)))
        for there, here in spans:
            for name, values in columns.items():
                self._columns[name][there] = values[here]
            self._names[there] = names[here]
        self._end += chunk.stop - chunk.start

    def _keep(self, place: int) -> None:
        key = int(self._columns["partition"][place]), int(self._columns["offset"][place])
        self._cuts[key] = self._around(place)
        if len(self._cuts) > CUTS:
            del self._cuts[next(iter(self._cuts))]

    def around(self, partition: int, offset: int) -> Cut | None:
        """The tick at an offset with up to 200 of its stream before and after; None if it is no longer kept."""
        with self._lock:
            kept = self._cuts.get((partition, offset))
            if kept is not None:
                return kept
            offsets, partitions = (self._columns[name][: self._end] for name in ("offset", "partition"))
            found = np.flatnonzero((offsets == offset) & (partitions == partition))
            return self._around(int(found[0])) if len(found) else None

    def _around(self, place: int) -> Cut:
        stream, row = self._names[place], self._columns["row"][place]
        places = self._in_order(np.flatnonzero(self._columns["row"][: self._end] == row))
        i = int(np.flatnonzero(places == place)[0])
        return self._cut(stream, places[max(0, i - AROUND) : i + AROUND + 1])

    def last(self, stream: str) -> Cut | None:
        """The stream's last ticks, at most 400, of those that the newest one continues; None if none is kept."""
        with self._lock:
            places = self._named(stream)
            if not len(places):
                return None
            rows = self._columns["row"][places]
            return self._cut(stream, places[rows == rows[-1]][-VIEW:])

    def near(self, stream: str, ms: float) -> Cut | None:
        """The stream's tick at a time in milliseconds since 1970, with those around it; None if none is kept within a second."""
        with self._lock:
            places = self._named(stream)
            apart = np.abs(self._columns["ts"][places] / 1e6 - ms)
            if apart.min(initial=np.inf) <= NEAR_MS:
                return self._around(int(places[apart.argmin()]))
            cuts = [cut for cut in self._cuts.values() if cut.stream == stream]
            return next((cut for cut in cuts if np.abs(cut.numbers["ts"] - ms).min() <= NEAR_MS), None)

    def _named(self, stream: str) -> NDArray[np.intp]:
        found = [i for i, name in enumerate(self._names[: self._end]) if name == stream]
        return self._in_order(np.array(found, np.intp))

    def _in_order(self, places: NDArray[np.intp]) -> NDArray[np.intp]:
        """Rising places of the ring, the oldest first."""
        oldest = np.searchsorted(places, self._end % TICKS)
        return np.concatenate([places[oldest:], places[:oldest]])

    def _cut(self, stream: str, places: NDArray[np.intp]) -> Cut:
        places = places[[self._names[i] == stream for i in places.tolist()]]  # a row may have had another stream
        _, once = np.unique(self._columns["offset"][places], return_index=True)  # scored again after a reset
        c = {name: column[places[once]] for name, column in self._columns.items()}
        numbers = {name: c[name] for name in ("price", "bid", "ask", "size", "score")} | {"ts": c["ts"] / 1e6}
        return Cut(stream, numbers, c["offset"], c["observed"], c["expected"])

    def heat(self, most: int, prefix: str = "") -> Heat:
        """The hottest of the streams whose names begin with `prefix`, at most once a second anew."""
        warm = {name: it for name, it in self._recent().items() if name.startswith(prefix)}
        hottest = sorted(sorted(warm, key=lambda name: -warm[name].best)[:most])
        ticks, over = sum(it.ticks for it in warm.values()), sum(it.over for it in warm.values())
        best = [round(warm[name].best, 2) for name in hottest]
        return Heat(hottest, best, len(warm), ticks, over / ticks if ticks else 0.0)

    def active(self, prefix: str) -> set[str]:
        """The streams whose names begin with `prefix` that had a tick in the last minute, as far as the ring goes."""
        return {name for name in self._recent() if name.startswith(prefix)}

    def _recent(self) -> dict[str, _Warmth]:
        now = self._clock()
        if now - self._warm_at >= 1.0:
            self._warm_at, self._warm = now, self._warmth(now - HEAT_SECONDS)
        return self._warm

    def _warmth(self, since: float) -> dict[str, _Warmth]:
        with self._lock:
            recent = np.flatnonzero(self._columns["at"][: self._end] >= since)
            names, scores = [self._names[i] for i in recent.tolist()], self._columns["score"][recent].tolist()
        found: dict[str, list[float]] = {}
        for name, score in zip(names, scores, strict=True):
            found.setdefault(name, []).append(score)
        return {name: _Warmth(max(them), len(them), sum(s > 2.0 for s in them)) for name, them in found.items()}
