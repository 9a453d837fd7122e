"""A piece of a stream as a picture: price and quotes, alerts with their reasons, scores, and the features that caused them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from service.errors import TickwatchError
from service.history import Course, Trace
from service.plot import Piece

MOST_WORDS = 4  # alerts that are told in words


def draw(piece: Piece, output: Path) -> None:
    """Draw into a file: .png, .svg or .pdf. Raises TickwatchError when it cannot be written."""
    figure = _figure(piece)
    try:
        figure.savefig(output, dpi=110)
    except (OSError, ValueError) as error:
        raise TickwatchError(f"--output {output}: {error}") from error


def _figure(piece: Piece) -> Figure:
    """Ticks side by side, however long the pauses between them: the axis counts ticks and tells their time."""
    peak = piece.peak
    trace = piece.cut.trace(peak.features() if peak else ())
    x = piece.cut.offset
    heights = (2.0, 1.0, *(0.7 for _ in trace.courses))
    figure = Figure(figsize=(11, 2.0 * sum(heights)), layout="constrained")
    prices, scores, *others = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights)
    _prices(prices, piece, trace)
    prices.set_title(f"{piece.title}, model {piece.scorer.model.id}")
    scores.plot(x, trace.score, color="tab:purple", linewidth=0.7)
    scores.axhline(piece.scorer.threshold, color="tab:red", linewidth=0.8, linestyle="--")
    scores.set(ylabel="score (-log10 p)", ylim=(0, None))
    for axes, course in zip(others, trace.courses, strict=True):
        _course(axes, piece, course)
    last = (others or [scores])[-1]
    at = np.linspace(0, len(x) - 1, 7).astype(int)
    moments = (piece.cut.numbers["ts"][at] * 1e3).astype("datetime64[us]").astype("datetime64[s]").tolist()
    last.set_xticks(x[at], [f"{m:%H:%M:%S}\n{m:%d %b %Y}" for m in moments])
    _explain(scores, last, piece)
    return figure


def _prices(axes: Axes, piece: Piece, trace: Trace) -> None:
    x, n = piece.cut.offset, piece.cut.numbers
    axes.fill_between(x, n["bid"], n["ask"], color="tab:blue", alpha=0.2, step="post", label="bid to ask")
    axes.plot(x, trace.price, color="black", linewidth=0.7, drawstyle="steps-post", label="price")
    marks = [one.alert.tick["price"] for one in piece.found]
    axes.plot([one.place for one in piece.found], marks, "o", color="tab:red", markersize=5, label="alert")
    axes.set_ylabel("price")
    axes.legend(loc="best")


def _course(axes: Axes, piece: Piece, course: Course) -> None:
    """A feature as it was, and as the network expected it."""
    for values, name, style in ((course.observed, "observed", "-"), (course.expected, "expected", "--")):
        known = np.array([np.nan if v is None else v for v in values])
        axes.plot(
            piece.cut.offset, known, style, color="black" if style == "-" else "tab:orange", linewidth=0.7, label=name
        )
    axes.set_title(course.title, loc="left", fontsize=9)
    axes.set_ylabel("us" if course.feature == "gap" else "")
    axes.legend(loc="best", fontsize=8)


def _explain(scores: Axes, last: Axes, piece: Piece) -> None:
    """Number the strongest alerts and tell their first reasons below."""
    strongest = sorted(sorted(piece.found, key=lambda it: -it.alert.score)[:MOST_WORDS], key=lambda it: it.place)
    for number, (alert, place) in enumerate(strongest, 1):
        scores.annotate(str(number), (place, alert.score), xytext=(3, -2), textcoords="offset points")
    words = [f"{n}  {'; '.join(r.text for r in one.alert.reasons[:2])}" for n, one in enumerate(strongest, 1)]
    last.set_xlabel("\n".join(words), loc="left", fontsize=9)
