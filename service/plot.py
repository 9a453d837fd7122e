"""`tickwatch plot`: a piece of one stream, of a time or around an alert, cut out of a tick file or of what was replayed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

from service.errors import TickwatchError
from service.excerpt import Found, Window, excerpt
from service.files import tick_files, whole
from service.history import Cut
from service.replay import Origin, origin
from service.report import excerpt_sheet, html, scorer_of
from service.scorer import Scorer

MOST_LIVE = 20_000  # ticks that a browser draws at ease


@dataclass(frozen=True)
class Span:
    """What to show, in nanoseconds since 1970: the ticks from `since` to `until`; where neither is given, `around` ticks on
    either side of the alert nearest to `at`, or of the most improbable one.
    """

    since: int | None = None
    until: int | None = None
    at: int | None = None
    around: int = 1500


@dataclass(frozen=True)
class Piece:
    """Ticks of one stream, numbered within it by `cut.offset`, and the alerts among them in order."""

    title: str
    scorer: Scorer
    cut: Cut
    found: list[Found]

    @property
    def peak(self) -> Found | None:
        """The most improbable alert."""
        return max(self.found, key=lambda one: one.alert.score, default=None)

    def words(self) -> str:
        """What its alerts say."""
        return "\n".join(f"{a.score:.1f} {a.phase}: {'; '.join(r.text for r in a.reasons)}" for a, _ in self.found)


def pick(data: Path, stream: str, made: Origin, span: Span) -> Piece:
    """Score the ticks of `data`, or those that it is a replay of, and cut the span out of the stream.

    `made` says how to score ticks that are no replay's. Raises TickwatchError when the stream or the span is not there.
    """
    how = origin(data)
    files = tick_files(data) if how is None else [Path(file) for file in how.files]
    scorer = scorer_of(how or made)
    window = Window(stream)
    names: set[str] = set()
    found = excerpt(files, scorer, [window], lambda scored: names.update(scored.ticks.stream))
    if not window.parts:
        raise TickwatchError(f"stream {stream}: not in {data}, which holds {', '.join(sorted(names)[:5])}")
    cut = window.cut()
    found = [one for one in found if one.alert.stream == stream]
    first, last = _limits(cut, found, span)
    if first >= last:
        begin, end = (_moment(float(cut.numbers["ts"][i])) for i in (0, -1))
        raise TickwatchError(f"stream {stream}: has no tick from --from to --to; it goes from {begin} to {end}")
    piece = _between(cut, first, last)
    return Piece(f"{stream} in {data.name}", scorer, piece, [one for one in found if first <= one.place < last])


def _limits(cut: Cut, found: list[Found], span: Span) -> tuple[int, int]:
    ts = cut.numbers["ts"]
    if span.since is not None or span.until is not None:
        inside = np.ones(len(ts), bool)
        if span.since is not None:
            inside &= ts >= span.since / 1e6
        if span.until is not None:
            inside &= ts <= span.until / 1e6
        at = np.flatnonzero(inside)
        return (int(at[0]), int(at[-1]) + 1) if len(at) else (0, 0)
    center = len(ts) - 1
    if found:
        center = min(found, key=lambda it: -it.alert.score if span.at is None else abs(it.alert.ts - span.at)).place
    return max(0, center - span.around), min(len(ts), center + span.around)


def _moment(ms: float) -> str:
    return f"{datetime.fromtimestamp(ms / 1e3, timezone.utc):%Y-%m-%dT%H:%M:%S}"


def _between(cut: Cut, first: int, last: int) -> Cut:
    numbers = {name: values[first:last] for name, values in cut.numbers.items()}
    rest = {name: getattr(cut, name)[first:last] for name in ("offset", "observed", "expected")}
    return replace(cut, numbers=numbers, **rest)


def write_html(piece: Piece, output: Path) -> None:
    """The piece as a page that can be zoomed. Raises TickwatchError when it is too long, or can't be written."""
    n = len(piece.cut.offset)
    if n > MOST_LIVE:
        raise TickwatchError(f"{n} ticks are too many for a page; give --from and --to closer to each other, or a .png")
    sheet = excerpt_sheet(piece.title, piece.scorer, piece.cut, piece.found, piece.peak)
    with whole(output) as partial:
        partial.write_text(html(sheet), encoding="utf-8")
