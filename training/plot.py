"""A picture of one stream of a tick file around an incident: prices and quotes, alerts with their reasons, scores."""

from __future__ import annotations

from pathlib import Path

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


def plot(
    file: Path, stream: str | None, model: str, alert_budget: float, at: int | None, around: int, output: Path
) -> str:
    """Score the whole file, draw `around` ticks before and after an alert, and return what the alerts shown say.

    The alert is the one nearest to `at` (nanoseconds since 1970), or the most improbable. Raises TickwatchError when the
    stream is not in the file or the picture cannot be written.
    """
    scorer = Scorer(load(find(model)), alert_budget)
    chunks = [scorer.score(chunk.ticks) for chunk in read_ticks(file)]
    names = {name for scored in chunks for name in scored.ticks.stream}
    chosen = stream if stream is not None else min(names)
    if chosen not in names:
        raise TickwatchError(f"--stream {chosen}: not in {file}, which holds {', '.join(sorted(names)[:5])}")
    lines = _columns(chunks, chosen)
    # offsets count the rows of the file; `place` counts those of the stream
    place = {int(offset): i for i, offset in enumerate(lines["offset"])}
    found = [a for s in chunks for a in alerts(s, file.name, scorer.model.id, scorer.threshold) if a.stream == chosen]
    center = len(lines["ts"]) - 1
    if found:
        best = max(found, key=lambda a: a.score) if at is None else min(found, key=lambda a: abs(a.ts - at))
        center = place[best.offset]
    first, last = max(0, center - around), center + around
    shown = {place[a.offset]: a for a in found if first <= place[a.offset] < last}
    figure = _draw({k: v[:last] for k, v in lines.items()}, first, shown, scorer, f"{chosen} in {file.name}")
    try:
        figure.savefig(output, dpi=110)
    except (OSError, ValueError) as error:
        raise TickwatchError(f"--output {output}: {error}") from error
    return "\n".join(f"{a.score:.1f} {a.phase}: {'; '.join(r.text for r in a.reasons)}" for a in shown.values())


def _columns(chunks: list[Scored], stream: str) -> dict[str, NDArray[np.float64]]:
    """Columns of one stream over all chunks."""
    at = [np.array([i for i, name in enumerate(s.ticks.stream) if name == stream], np.intp) for s in chunks]
    pairs = list(zip(chunks, at, strict=True))
    columns = {
        n: np.concatenate([getattr(s.ticks, n)[i] for s, i in pairs]) for n in ("ts", "offset", "price", "bid", "ask")
    }
    columns["score"] = np.concatenate([s.verdicts.score[i] for s, i in pairs])
    return columns


def _draw(
    lines: dict[str, NDArray[np.float64]], first: int, shown: dict[int, Alert], scorer: Scorer, title: str
) -> Figure:
    """Ticks side by side, however long the pauses between them: the axis counts ticks and tells their time."""
    figure = Figure(figsize=(11, 6), layout="constrained")
    prices, scores = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    x = np.arange(first, len(lines["ts"]))
    view = {name: values[first:] for name, values in lines.items()}
    prices.fill_between(x, view["bid"], view["ask"], color="tab:blue", alpha=0.2, step="post", label="bid to ask")
    prices.plot(x, view["price"], color="black", linewidth=0.7, drawstyle="steps-post", label="price")
    marks = [a.tick["price"] for a in shown.values()]
    prices.plot(list(shown), marks, "o", color="tab:red", markersize=5, label="alert")
    prices.set(title=f"{title}, model {scorer.model.id}", ylabel="price")
    prices.legend(loc="best")
    scores.plot(x, view["score"], color="tab:purple", linewidth=0.7)
    scores.axhline(scorer.threshold, color="tab:red", linewidth=0.8, linestyle="--")
    scores.set(ylabel="score (-log10 p)", ylim=(0, None))
    at = np.linspace(first, len(lines["ts"]) - 1, 7).astype(int)
    moments = lines["ts"][at].astype("datetime64[ns]").astype("datetime64[s]").tolist()
    scores.set_xticks(at, [f"{m:%H:%M:%S}\n{m:%d %b %Y}" for m in moments])
    _explain(scores, shown)
    return figure


def _explain(axes: Axes, shown: dict[int, Alert]) -> None:
    """Number the strongest alerts and tell their first reasons below the scores."""
    strongest = sorted(sorted(shown, key=lambda i: -shown[i].score)[:MOST_WORDS])
    for number, i in enumerate(strongest, 1):
        axes.annotate(str(number), (i, shown[i].score), xytext=(3, -2), textcoords="offset points")
    words = [f"{n}  {'; '.join(r.text for r in shown[i].reasons[:2])}" for n, i in enumerate(strongest, 1)]
    axes.set_xlabel("\n".join(words), loc="left", fontsize=9)
