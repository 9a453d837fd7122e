"""The runs of a benchmark as tables and pictures, rows of one cell's training seeds put together with their interval."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from training.benchmark import Run
from training.evaluate import RECALLS, Result, by_kind, overall
from training.report import INK, Cell, Mark, Picture, Table, legend, line_style, number, picture, with_interval

CONFIDENCE: Final = 0.95
KEPT: Final = (0.6, 1.2)  # realised over promised false alarms within which a promise counts as kept

# Of the main table: column, digits, and whether more is better.
COLUMNS: Final = {
    "vus_pr": ("VUS-PR", 3, True),
    "vus_roc": ("VUS-ROC", 3, True),
    "ap": ("AP", 3, True),
    "recall@20": ("recall@20", 3, True),
    "recall@100": ("recall@100", 3, True),
    "delay_p50@20": ("delay p50", 1, False),
    "delay_p90@20": ("delay p90", 1, False),
    "cpu_us": ("CPU µs/tick", 1, False),
}


@dataclass(frozen=True)
class Row:
    """All runs of one group: `replicates` are its training seeds or, where there is only one, its injections."""

    group: str
    is_baseline: bool
    replicates: list[list[Run]]

    @property
    def runs(self) -> list[Run]:
        return [run for replicate in self.replicates for run in replicate]

    def measured(self, value: Callable[[list[Run]], float]) -> tuple[float, float]:
        """Mean over the replicates and half the width of its 95 % t-interval, NaN where there is one replicate."""
        return interval([value(replicate) for replicate in self.replicates])

    def metric(self, name: str) -> tuple[float, float]:
        """The same of one of COLUMNS."""
        return self.measured(_metric(name))


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half the width of its t-interval; NaN values are left out, and a single value has no interval."""
    known = np.array(values)[~np.isnan(values)]
    if len(known) < 2:
        return (float(known[0]) if len(known) else np.nan), np.nan
    half = student.ppf((1 + CONFIDENCE) / 2, len(known) - 1) * known.std(ddof=1) / np.sqrt(len(known))
    return float(known.mean()), float(half)


def rows(runs: Sequence[Run]) -> list[Row]:
    """One row per group, in the order in which they ran."""
    found = []
    for group in dict.fromkeys(run.group for run in runs):
        own = [run for run in runs if run.group == group]
        seeds = {run.candidate for run in own}
        keys = [run.candidate if len(seeds) > 1 else run.injection for run in own]
        replicates = [[r for r, k in zip(own, keys, strict=True) if k == key] for key in dict.fromkeys(keys)]
        found.append(Row(group, own[0].is_baseline, replicates))
    return found


def _results(runs: Sequence[Run]) -> list[Result]:
    return [run.result for run in runs]


def _metric(name: str) -> Callable[[list[Run]], float]:
    if name == "cpu_us":
        return lambda runs: float(np.mean([run.cpu_us for run in runs]))
    return lambda runs: overall(_results(runs))[name]


def main_table(table: Sequence[Row]) -> Table:
    """The metrics of every row; the best of each column is marked, and told apart where it is a baseline."""
    measured = {name: [row.metric(name) for row in table] for name in COLUMNS}
    marks = {name: _marks(table, [m for m, _ in measured[name]], COLUMNS[name][2]) for name in COLUMNS}
    cells = [
        [
            Cell(row.group),
            *(Cell(with_interval(*measured[name][i], COLUMNS[name][1]), marks[name][i]) for name in COLUMNS),
        ]
        for i, row in enumerate(table)
    ]
    lost = [title for name, (title, _, _) in COLUMNS.items() if "beaten" in marks[name]]
    verdict = f"A baseline is best in {', '.join(lost)} (▲). " if lost else "No baseline is best in any column. "
    rivals = any(row.is_baseline for row in table)
    notes = (
        verdict if rivals else ""
    ) + "Delays are those of caught events at 20 false alarms per 100,000 ticks, in ticks."
    return Table("Detectors", ["detector", *(title for title, _, _ in COLUMNS.values())], cells, notes)


def _marks(table: Sequence[Row], values: Sequence[float], more: bool) -> list[Mark]:
    """Which are best; none where all are. A baseline that shares the first place with a model has not beaten it."""
    known = [v for v in values if v == v]  # noqa: PLR0124  (NaN is not itself)
    top = (max if more else min)(known, default=None)
    best = [value == top for value in values]
    mark: Mark = "best" if any(b and not row.is_baseline for b, row in zip(best, table, strict=True)) else "beaten"
    return [mark if b and not all(best) else "" for b in best]


def budget_table(table: Sequence[Row], budget: float) -> Table:
    """False alarms that came for those that were promised, stream by stream."""
    streams = _streams(table)
    cells = []
    for row in _promising(table):
        means = [row.measured(_realised(budget, name))[0] for name in streams]
        line = [Cell(number(m, 1), "" if KEPT[0] <= m / budget <= KEPT[1] else "off") for m in means]
        cells.append([Cell(row.group), *line])
    notes = (
        f"False alarms per 100,000 normal ticks at the threshold that promises {budget:g}; ✗ where that is not within"
        f" {KEPT[0]:.0%} and {KEPT[1]:.0%} of the promise. Detectors without a threshold of their own are left out."
    )
    return Table(f"Realised alert budget, {budget:g} promised", ["detector", *streams], cells, notes)


def _promising(table: Sequence[Row]) -> list[Row]:
    return [row for row in table if row.runs[0].result.realised]


def _realised(budget: float, stream: str) -> Callable[[list[Run]], float]:
    return lambda runs: float(np.mean([r.realised[budget] for r in _results(runs) if r.stream == stream]))


def _streams(table: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(run.result.stream for run in table[0].runs))


def stream_table(table: Sequence[Row], name: str) -> Table:
    """One metric, stream by stream."""
    title, digits, more = COLUMNS[name]
    streams = _streams(table)

    def value(stream: str) -> Callable[[list[Run]], float]:
        return lambda runs: _metric(name)([run for run in runs if run.result.stream == stream])

    means = np.array([[row.measured(value(stream))[0] for stream in streams] for row in table])
    return Table(f"{title} by stream", ["detector", *streams], _marked(table, means, digits, more))


def kind_table(table: Sequence[Row], name: str) -> Table:
    """One metric of by_kind, a line for each kind of anomaly."""
    kinds, means = recall_by_kind(table, name)
    first = [run for run in table[0].runs if run.candidate == table[0].runs[0].candidate]
    events = {kind: row["events"] for kind, row in by_kind(_results(first)).items()}
    columns = _marked(table, means, 2, more=True)
    cells = [
        [Cell(f"{kind} ({events[kind]:.0f})"), *(column[1 + k] for column in columns)] for k, kind in enumerate(kinds)
    ]
    notes = "In brackets the events over all streams and injections."
    return Table(f"{name} by kind of anomaly", ["kind", *(row.group for row in table)], cells, notes)


def _marked(table: Sequence[Row], means: NDArray[np.float64], digits: int, more: bool) -> list[list[Cell]]:
    """A line of cells for each row; `means` float64 [rows, columns]."""
    marks = [_marks(table, column.tolist(), more) for column in means.T]
    return [
        [Cell(row.group), *(Cell(number(v, digits), column[i]) for v, column in zip(means[i], marks, strict=True))]
        for i, row in enumerate(table)
    ]


def recall_by_kind(table: Sequence[Row], name: str) -> tuple[list[str], NDArray[np.float64]]:
    """The kinds of anomaly by name, and one metric of by_kind for each row and kind, float64 [rows, kinds]."""
    found = [by_kind(_results(row.runs)) for row in table]
    kinds = sorted(found[0])
    return kinds, np.array([[kinds_of[kind][name] for kind in kinds] for kinds_of in found])


def heat_map(table: Sequence[Row], name: str) -> Picture:
    """One metric of by_kind in colours, numbers inside."""
    kinds, means = recall_by_kind(table, name)
    figure, axes = picture(2 + 0.55 * len(kinds), 1.6 + 0.34 * len(table))
    axes.grid(visible=False)
    axes.pcolormesh(means, cmap="cividis", vmin=0.0, vmax=1.0)
    axes.invert_yaxis()
    for (i, k), value in np.ndenumerate(means):
        axes.text(
            k + 0.5,
            i + 0.5,
            f"{value:.2f}",
            ha="center",
            va="center",
            size=8,
            color="white" if value < 0.6 else "black",
        )
    axes.set_xticks(np.arange(len(kinds)) + 0.5, kinds, rotation=40, ha="right")
    axes.set_yticks(np.arange(len(table)) + 0.5, [row.group for row in table])
    return Picture("recall-by-kind", f"{name} by kind of anomaly", figure)


def precision_recall(table: Sequence[Row]) -> Picture:
    """Precision against recall, ticks counted, as the mean over streams, injections and training seeds."""
    figure, axes = picture(9.0, 4.5)
    for i, row in enumerate(table):
        precision = np.mean([result.precision for result in _results(row.runs)], axis=0)
        axes.plot(RECALLS, precision, label=row.group, linewidth=1.2 if row.is_baseline else 2.2, **line_style(i))
    axes.set(xlabel="recall (ticks)", ylabel="precision", xlim=(0, 1), ylim=(0, 1))
    legend(axes, beside=True)
    words = (
        "Every tick of an anomaly counts, also those that look like any other, so no detector reaches the far right."
    )
    return Picture("precision-recall", "Precision and recall", figure, words)


def promises(table: Sequence[Row]) -> Picture:
    """Realised against promised false alarms, a point for each stream and budget."""
    figure, axes = picture(8.0, 4.5)
    streams = _streams(table)
    for row in _promising(table):
        budgets = sorted(row.runs[0].result.realised)
        means = np.array([[row.measured(_realised(b, name))[0] for name in streams] for b in budgets])
        style = line_style(table.index(row))  # as in the other pictures
        axes.plot(budgets, means.mean(axis=1), label=row.group, **style)
        axes.scatter(np.repeat(budgets, len(streams)), means.ravel(), s=9, color=style["color"], alpha=0.6)
    ends = np.array(sorted({b for row in _promising(table) for b in row.runs[0].result.realised}))
    axes.plot(ends, ends, color=INK, linewidth=0.8)
    axes.fill_between(ends, KEPT[0] * ends, KEPT[1] * ends, color=INK, alpha=0.15)
    axes.set_xscale("log")
    axes.set_yscale("symlog", linthresh=2.0)
    axes.set(xlabel="promised false alarms per 100,000 ticks", ylabel="realised", ylim=(0, None))
    legend(axes)
    words = f"Lines are means over streams, points are streams; grey is {KEPT[0]:.0%} to {KEPT[1]:.0%} of the promise."
    return Picture("promises", "Realised against promised alert budget", figure, words)
