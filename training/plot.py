"""A picture of one stream of a tick file around an incident: prices and quotes, alerts with their reasons, scores."""

from __future__ import annotations

from pathlib import Path

import matplotlib.dates as mdates
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from service.alerts import Alert, alerts
from service.autoencoder import find, load
from service.errors import TickwatchError
from service.files import read_ticks
from service.scorer import Scored, Scorer

MOST_WORDS = 4  # alerts that are told in words


def plot(file: Path, stream: str | None, model: str, alert_budget: float, around: int, output: Path) -> str:
    """Score the whole file, draw `around` ticks before and after the most improbable alert, and return its reasons.

    Raises TickwatchError when the stream is not in the file or the picture cannot be written.
    """
    scorer = Scorer(load(find(model)), alert_budget)
    chunks = [scorer.score(chunk.ticks) for chunk in read_ticks(file)]
    names = {name for scored in chunks for name in scored.ticks.stream}
    chosen = stream if stream is not None else min(names)
    if chosen not in names:
        raise TickwatchError(f"--stream {chosen}: not in {file}, which holds {', '.join(sorted(names)[:5])}")
    found = [a for s in chunks for a in alerts(s, file.name, scorer.model.id, scorer.threshold) if a.stream == chosen]
    lines = _columns(chunks, chosen)
    middle = max(found, key=lambda a: a.score).ts if found else int(lines["ts"][-1])
    center = int(np.searchsorted(lines["ts"], middle))
    view = slice(max(0, center - around), center + around)
    figure = _draw({k: v[view] for k, v in lines.items()}, found, scorer, f"{chosen} in {file.name}")
    try:
        figure.savefig(output, dpi=110)
    except (OSError, ValueError) as error:
        raise TickwatchError(f"--output {output}: {error}") from error
    shown = [a for a in found if lines["ts"][view][0] <= a.ts <= lines["ts"][view][-1]]
    return "\n".join(f"{a.score:.1f} {a.phase}: {'; '.join(r.text for r in a.reasons)}" for a in shown)


def _columns(chunks: list[Scored], stream: str) -> dict[str, NDArray[np.float64]]:
    """Columns of one stream over all chunks."""
    at = [np.array([i for i, name in enumerate(s.ticks.stream) if name == stream], np.intp) for s in chunks]
    pairs = list(zip(chunks, at, strict=True))
    columns = {n: np.concatenate([getattr(s.ticks, n)[i] for s, i in pairs]) for n in ("ts", "price", "bid", "ask")}
    columns["score"] = np.concatenate([s.verdicts.score[i] for s, i in pairs])
    return columns


def _draw(lines: dict[str, NDArray[np.float64]], found: list[Alert], scorer: Scorer, title: str) -> Figure:
    figure = Figure(figsize=(11, 6), layout="constrained")
    prices, scores = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    time = lines["ts"].astype("datetime64[ns]")
    prices.fill_between(time, lines["bid"], lines["ask"], color="tab:blue", alpha=0.2, step="post", label="bid to ask")
    prices.plot(time, lines["price"], color="black", linewidth=0.7, drawstyle="steps-post", label="price")
    shown = [a for a in found if lines["ts"][0] <= a.ts <= lines["ts"][-1]]
    moments = np.array([a.ts for a in shown], "datetime64[ns]")
    prices.plot(moments, [a.tick["price"] for a in shown], "o", color="tab:red", markersize=5, label="alert")
    prices.set(title=f"{title}, model {scorer.model.id}", ylabel="price")
    prices.legend(loc="upper left")
    scores.plot(time, lines["score"], color="tab:purple", linewidth=0.7)
    scores.axhline(scorer.threshold, color="tab:red", linewidth=0.8, linestyle="--")
    scores.set(ylabel="score (-log10 p)", ylim=(0, None))
    locator = mdates.AutoDateLocator()  # type: ignore[no-untyped-call]
    scores.xaxis.set_major_formatter(mdates.ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
    _explain(scores, sorted(shown, key=lambda a: -a.score)[:MOST_WORDS])
    return figure


def _explain(axes: Axes, strongest: list[Alert]) -> None:
    """Number the strongest alerts and tell their first reason below the scores."""
    ordered = sorted(strongest, key=lambda a: a.ts)
    for number, alert in enumerate(ordered, 1):
        axes.annotate(
            str(number), (np.datetime64(alert.ts, "ns"), alert.score), xytext=(3, -2), textcoords="offset points"
        )
    words = [f"{number}  {'; '.join(r.text for r in alert.reasons[:2])}" for number, alert in enumerate(ordered, 1)]
    axes.set_xlabel("\n".join(words), loc="left", fontsize=9)
