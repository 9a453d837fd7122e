"""Labelled anomalies in real ticks, drawn by a seed: what a detector is measured against.

The first rows stay clean, for detectors that must learn first. After them every kind of anomaly comes at its rate, each
event at a random print and apart from all others, in the units of the market around it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from service.errors import TickwatchError
from service.ticks import Ticks
from training.anomalies import KINDS
from training.market import GRID, Edit, Kind, Market, measure

CLEAN_ROWS: Final = 30_000
SPACING: Final = 400  # rows between two events, so that the alerts of one are not taken for the other's

_TAIL_ROWS: Final = 1_000  # at the end of a stream, where a long event might not fit
_TRIES: Final = 300  # places drawn for an event before it is left out


@dataclass(frozen=True)
class Event:
    """One anomaly: rows `start` to `stop` (exclusive) of the injected ticks."""

    kind: str
    start: int
    stop: int


@dataclass(frozen=True)
class Injected:
    """Ticks with anomalies in them, the events by their start, and how many rows at the head hold none."""

    ticks: Ticks
    events: list[Event]
    clean: int


def inject(ticks: Ticks, seed: int, clean: int = CLEAN_ROWS, kinds: Mapping[str, Kind] = KINDS) -> Injected:
    """The ticks of one stream with anomalies of the given kinds after the first `clean` rows.

    Kinds that the feed can't show are left out, as is an event for which many drawn places had no room or, like a stale
    quote in a market that stands still, no visible effect. Offsets are counted anew. Raises TickwatchError for ticks of
    several streams, too few of them, or prices that are not positive.
    """
    _check(ticks, clean)
    market = measure(ticks)
    rng = np.random.default_rng(seed)
    places = market.prints[(market.prints >= max(clean, 1)) & (market.prints < len(ticks) - _TAIL_ROWS)]
    rows = len(ticks) - clean
    taken: list[tuple[str, Edit]] = []
    for name, kind in kinds.items():
        if not kind.needs <= market.shows:
            continue
        for _ in range(int(kind.rate * rows / 100_000 + rng.random())):
            edit = _place(market, kind, places, taken, rng)
            if edit is not None:
                taken.append((name, edit))
    taken.sort(key=lambda pair: pair[1].start)
    return _apply(ticks, taken, clean)


def _check(ticks: Ticks, clean: int) -> None:
    streams = set(ticks.stream)
    if len(streams) != 1:
        raise TickwatchError(f"anomalies are injected into one stream at a time, these ticks are of {len(streams)}")
    at_least = clean + 2 * _TAIL_ROWS
    if len(ticks) < at_least:
        raise TickwatchError(
            f"stream {ticks.stream[0]!r} has {len(ticks)} ticks; anomalies after {clean} clean ones take {at_least}"
            " (`tickwatch evaluate --clean` takes fewer)"
        )
    if not (ticks.price > 0).all():
        raise TickwatchError(f"stream {ticks.stream[0]!r} has a price that is not positive, so it has no log returns")


def _place(
    market: Market, kind: Kind, places: NDArray[np.intp], taken: list[tuple[str, Edit]], rng: np.random.Generator
) -> Edit | None:
    for _ in range(_TRIES):
        edit = kind.make(market, int(rng.choice(places)), rng)
        if edit is None or not _is_visible(market, edit):
            continue
        if all(edit.stop + SPACING <= other.start or other.stop + SPACING <= edit.start for _, other in taken):
            return edit
    return None


def _is_visible(market: Market, edit: Edit) -> bool:
    """Whether rows were added, moved or re-timed, or at least half of the event's prints differ from what they were.

    Sizes quoted count only where nothing else was to change.
    """
    price = edit.changed.get("price", np.ones(1))
    if not (np.isfinite(price) & (price > 0)).all():
        return False
    if "ts" in edit.changed or not np.array_equal(edit.source, np.arange(edit.start, edit.stop)):
        return True
    differs = np.zeros(len(edit.source), np.bool_)
    for name in [name for name in edit.changed if name in GRID] or edit.changed:
        differs |= edit.changed[name] != getattr(market.ticks, name)[edit.source]
    return bool(differs[np.isin(edit.source, market.prints)].mean() >= 0.5)


def _apply(ticks: Ticks, taken: list[tuple[str, Edit]], clean: int) -> Injected:
    pieces: list[NDArray[np.intp]] = []
    starts: list[int] = []  # of each edit, in the new rows
    events: list[Event] = []
    at = length = 0
    for name, edit in taken:
        starts.append(length + edit.start - at)
        length = starts[-1] + len(edit.source)
        events.append(Event(name, starts[-1] + edit.before, length))
        pieces += [np.arange(at, edit.start), edit.source]
        at = edit.stop
    new = ticks.take(np.concatenate([*pieces, np.arange(at, len(ticks))]))
    for start, (_, edit) in zip(starts, taken, strict=True):
        for column, values in edit.changed.items():
            getattr(new, column)[start : start + len(values)] = values
    for start, (_, edit) in zip(starts, taken, strict=True):
        new.ts[start + len(edit.source) :] += edit.shift
    offset = ticks.offset[0] + np.arange(len(new), dtype=np.int64)
    return Injected(replace(new, offset=offset), events, clean)
