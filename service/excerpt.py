"""Files of ticks scored again, which gives the same bits, to see what scores alone don't tell: prices, reasons, expectations."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.alerts import Alert, alerts
from service.features import FEATURES
from service.files import read_ticks
from service.history import Cut
from service.scorer import Scored, Scorer


class Found(NamedTuple):
    """An alert, and the number of its tick within its stream."""

    alert: Alert
    place: int

    def features(self) -> list[str]:
        """Those of its reasons that can be drawn."""
        return [reason.feature for reason in self.alert.reasons if reason.feature in FEATURES]


@dataclass(frozen=True)
class Window:
    """The ticks of a stream from number `first` to before `last`; they gather in `parts`."""

    stream: str
    first: int = 0
    last: int = sys.maxsize
    parts: list[Cut] = field(default_factory=list)

    def cut(self) -> Cut:
        """What was found of it, in order; `offset` numbers the ticks within the stream."""
        numbers = {name: np.concatenate([part.numbers[name] for part in self.parts]) for name in self.parts[0].numbers}
        offset, observed, expected = (
            np.concatenate([getattr(part, name) for part in self.parts]) for name in ("offset", "observed", "expected")
        )
        return Cut(self.stream, numbers, offset, observed, expected)


def excerpt(
    files: Sequence[Path], scorer: Scorer, windows: Sequence[Window], heard: Callable[[Scored], None]
) -> list[Found]:
    """Score the files one after another, fill the windows, and return all alerts; `heard` is given every batch."""
    found: list[Found] = []
    counts: dict[str, int] = {}
    for path in files:
        for chunk in read_ticks(path):
            scored = scorer.score(chunk.ticks)
            heard(scored)
            places = _places(scored.ticks.stream, counts)
            told = alerts(scored, str(path), scorer.model.id, scorer.threshold)
            at = np.flatnonzero(scored.verdicts.alert)
            found += map(Found, told, places[at].tolist())
            for window in windows:
                _fill(window, scored, places)
    return found


def _places(streams: list[str], counts: dict[str, int]) -> NDArray[np.int64]:
    """The number of each tick within its stream; `counts` go on."""
    places = np.empty(len(streams), np.int64)
    for i, name in enumerate(streams):
        place = places[i] = counts.get(name, 0)
        counts[name] = place + 1
    return places


def _fill(window: Window, scored: Scored, places: NDArray[np.int64]) -> None:
    ticks, found = scored.ticks, scored.features
    near = np.flatnonzero((places >= window.first) & (places < window.last))
    at = np.array([i for i in near.tolist() if ticks.stream[i] == window.stream], np.intp)
    if not len(at):
        return
    numbers = {name: getattr(ticks, name)[at] for name in ("price", "bid", "ask", "size")}
    numbers |= {"score": scored.verdicts.score[at], "ts": ticks.ts[at] / 1e6}
    expected = found.mean[at] + found.std[at] * scored.expected[at]
    window.parts.append(Cut(window.stream, numbers, places[at], found.observed[at], expected))
