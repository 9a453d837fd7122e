"""The last part of a history, kept from training: what a new model and the present one can be compared on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from service.errors import TickwatchError
from training.history import History, fingerprint


def hold_out(history: History, share: float) -> tuple[History, History]:
    """What came before, and what from the moment on that leaves at most `share` (0 to 1) of all ticks after it.

    The moment is the same for all streams: had only rows been counted, a quiet stream's past would be held out beside a
    busy one's, whose model has then seen that day. Raises TickwatchError where nothing is left on one side.
    """
    ts = np.concatenate([ticks.ts for ticks in history.streams.values()])
    at = int(len(ts) * (1 - share))
    moment = np.partition(ts, at)[at]
    told = f"{history.origin}, without the last {share:.0%}", f"{history.origin}, the last {share:.0%}"
    before, after = _part(history, lambda ts: ts < moment, told[0]), _part(history, lambda ts: ts >= moment, told[1])
    if not (before.streams and after.streams):
        raise TickwatchError(f"the history is too short to hold out {share:.0%} of its {len(ts)} ticks; give more")
    return before, after


def _part(history: History, wanted: Callable[[NDArray[np.int64]], NDArray[np.bool_]], origin: str) -> History:
    rows = {name: np.flatnonzero(wanted(ticks.ts)) for name, ticks in history.streams.items()}
    streams = {name: history.streams[name].take(found) for name, found in rows.items() if len(found)}
    return replace(history, streams=streams, fingerprint=fingerprint(streams), origin=origin)
