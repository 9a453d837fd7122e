"""A random market to inject into, and each event of a kind as it is and as it was."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np

from service.ticks import Ticks
from tests.samples import random_ticks
from training.anomalies import KINDS
from training.inject import Event, inject
from training.otherkinds import OTHER_KINDS

ROWS = 60_000
CLEAN = 5_000
ALL_KINDS = KINDS | OTHER_KINDS


@cache
def market(feed: str = "trades and quotes") -> Ticks:
    """A random market as such a feed shows it; `partition` is the number of the row, which no injection changes."""
    ticks = random_ticks(ROWS, streams=1)
    ticks = replace(ticks, partition=np.arange(ROWS, dtype=np.int32))
    nothing = np.full(ROWS, np.nan)
    if "quotes" not in feed:
        ticks = replace(ticks, bid=nothing, ask=nothing, bid_size=nothing, ask_size=nothing)
    if feed == "trades":
        ticks = replace(ticks, size=np.maximum(ticks.size, 1.0))
    if feed == "prices":
        ticks = replace(ticks, size=nothing)
    if feed == "quotes":
        ticks = replace(ticks, price=(ticks.bid + ticks.ask) / 2, size=np.zeros(ROWS))
    return ticks


def only(kind: str, feed: str = "trades and quotes") -> list[tuple[Event, Ticks, Ticks]]:
    """Each event of one kind, with its rows as they are and as they were."""
    ticks = market(feed)
    injected = [inject(ticks, seed, CLEAN, {kind: ALL_KINDS[kind]}) for seed in range(6)]
    found = [(e, i.ticks.take(np.arange(e.start, e.stop))) for i in injected for e in i.events]
    assert len(found) >= 3
    assert {event.kind for event, _ in found} == {kind}
    return [(event, now, ticks.take(now.partition.astype(np.intp))) for event, now in found]
