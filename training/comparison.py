"""What `tickwatch compare` found, as a report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from service.card import CellKind
from service.streams import Streams
from training.assess import method
from training.compare import BLOCKS, Compared, Plan, Trial
from training.memory import LONGEST
from training.report import COLOURS, INK, Cell, Picture, Report, Table, legend, line_style, picture, with_interval
from training.scoreboard import (
    COLUMNS,
    Row,
    budget_table,
    heat_map,
    interval,
    kind_table,
    main_table,
    precision_recall,
    promises,
    rows,
    stream_table,
)

PROMISED: Final = 20.0
FAR: Final = (1, 2, 5, 10, 20, 50, 100, 200)  # steps back at which memory and gradients are tabulated


def report(found: Compared, plan: Plan) -> Report:
    """Detection, cost, memory and gradients of every cell."""
    table = rows(found.runs)
    by_cell = {cell: [t for t in found.trials if t.model.card.cell == cell] for cell in plan.cells}
    return Report(
        f"{', '.join(cell.upper() for cell in plan.cells)} side by side",
        [
            (
                f"Every cell learned from the same {sum(map(len, found.history.streams.values())):,} ticks of"
                f" {len(found.history.streams)} streams (data {found.history.fingerprint[:8]}) with {plan.seeds} seeds, hidden"
                f" size {plan.settings.hidden}, bottleneck {plan.settings.bottleneck} and at most {plan.settings.epochs} epochs,"
                f" and was then evaluated on these streams with anomalies drawn anew {plan.injections} times."
            ),
            *method(),
            _apart(table) if plan.seeds > 1 else "One seed each: what differs may be chance.",
        ],
        [
            main_table(table),
            _costs(by_cell),
            _curves(by_cell),
            _memory_table(by_cell, plan),
            _memory(by_cell),
            _gradients(by_cell),
            budget_table(table, PROMISED),
            promises(table),
            precision_recall(table),
            heat_map(table, "recall@100"),
            kind_table(table, "recall@20"),
            stream_table(table, "vus_pr"),
            stream_table(table, "recall@20"),
        ],
    )


def _apart(table: Sequence[Row]) -> str:
    """Which cells differ by more than chance may do, in words."""
    found = []
    for name in ("vus_pr", "ap", "recall@20", "recall@100"):
        measured = [(row.group, *row.metric(name)) for row in table]
        found += [
            f"{COLUMNS[name][0]} of {better} is above that of {worse}"
            for better, high, up in measured
            for worse, low, down in measured
            if high - up > low + down
        ]
    if not found:
        return "In VUS-PR, AP and recall the intervals of all cells overlap: these seeds show no difference."
    return f"Where intervals don't overlap: {'; '.join(found)}. Everywhere else in VUS-PR, AP and recall they do."


ByCell = dict[CellKind, list[Trial]]


def _costs(by_cell: ByCell) -> Table:
    columns: dict[str, tuple[Callable[[Trial], float], int]] = {
        "validation loss": (lambda t: t.validation, 4),
        "parameters": (lambda t: t.parameters, 0),
        "recurrent state, bytes": (lambda t: 4 * t.model.recurrent, 0),
        "whole row of a stream, bytes": (lambda t: Streams(t.model.recurrent).row_bytes, 0),
        "epochs": (lambda t: len(t.epochs), 1),
        "training, CPU s": (lambda t: t.kept.cpu_seconds, 0),
    }
    for i, (steps, streams) in enumerate(BLOCKS):
        columns[f"µs/tick, T={steps} B={streams}"] = (lambda t, i=i: t.call_us[i], 2)  # type: ignore[misc]
    cells = []
    for cell, trials in by_cell.items():
        line = [Cell(cell.upper())]
        for value, digits in columns.values():
            values = [value(trial) for trial in trials]
            mean, half = interval(values)
            line.append(Cell(with_interval(mean, half if len(set(values)) > 1 else np.nan, digits)))
        cells.append(line)
    notes = (
        "Validation loss is the mean Huber loss of the reconstruction of ticks that were not trained on, in squared standard"
        " deviations. The last columns are onnxruntime alone, one thread, T steps of B streams in one call."
    )
    return Table("Reconstruction and cost", ["cell", *columns], cells, notes)


def _curves(by_cell: ByCell) -> Picture:
    figure, axes = picture()
    for i, (cell, trials) in enumerate(by_cell.items()):
        for k, trial in enumerate(trials):
            losses = [epoch.validation for epoch in trial.epochs]
            label = cell.upper() if k == 0 else None
            axes.plot(range(1, len(losses) + 1), losses, label=label, linewidth=1.0, **line_style(i))
    axes.set(xlabel="epoch", ylabel="validation loss", yscale="log")
    legend(axes)
    return Picture("losses", "Validation loss, a line for each seed", figure)


def _memory_table(by_cell: ByCell, plan: Plan) -> Table:
    cells = []
    for cell, trials in by_cell.items():
        recalled = _recalled(trials)
        line = [with_interval(*interval(recalled[:, k - 1].tolist()), 2) for k in FAR]
        cells.append([Cell(cell.upper()), *map(Cell, line)])
    notes = (
        f"A marked bit, then up to {LONGEST} bits that don't matter, and at every step the marked one is asked for. Share of"
        f" right answers after {plan.memory_steps} steps of the optimiser; 0.5 is chance."
    )
    return Table("Memory: a bit recalled after k steps", ["cell", *(f"k={k}" for k in FAR)], cells, notes)


def _recalled(trials: Sequence[Trial]) -> NDArray[np.float64]:
    """Share of right answers [seeds, LONGEST]."""
    return np.array([trial.kept.recalled for trial in trials], np.float64)


def _memory(by_cell: ByCell) -> Picture:
    figure, axes = picture()
    for i, (cell, trials) in enumerate(by_cell.items()):
        recalled = _recalled(trials)
        steps = np.arange(1, LONGEST + 1)
        axes.plot(steps, recalled.mean(axis=0), label=cell.upper(), **line_style(i))
        axes.fill_between(steps, recalled.min(axis=0), recalled.max(axis=0), color=COLOURS[i], alpha=0.15)
    axes.axhline(0.5, color=INK, linewidth=0.8, linestyle=":")
    axes.set(xlabel="steps since the bit (k)", ylabel="share recalled", xscale="log", ylim=(0.4, 1.02))
    legend(axes)
    words = "Lines are means over seeds, bands reach from the worst to the best; the dotted line is chance."
    return Picture("memory", "How far back a cell remembers", figure, words)


def _gradients(by_cell: ByCell) -> Picture:
    figure, axes = picture()
    words = []
    for i, (cell, trials) in enumerate(by_cell.items()):
        logs = np.log10(np.maximum([trial.reach for trial in trials], 1e-30))
        mean = 10 ** logs.mean(axis=0)
        axes.plot(mean, label=cell.upper(), **line_style(i))
        axes.fill_between(
            np.arange(len(mean)), 10 ** logs.min(axis=0), 10 ** logs.max(axis=0), color=COLOURS[i], alpha=0.15
        )
        far = ", ".join(f"{mean[k]:.0e} at {k}" for k in FAR if k < len(mean))
        words.append(f"{cell.upper()}: {far} ticks back.")
    axes.set(xlabel="ticks back (k)", ylabel="|dL/ds(t-k)| / |dL/ds(t)|", yscale="log")
    legend(axes)
    said = (
        "Norm of the gradient of a held-out tick's loss by the state k ticks before, over that by the last state, in the"
        " trained autoencoders: median over stretches of every stream, mean over seeds (on a log scale), band from the lowest"
        " to the highest seed. "
    )
    return Picture("gradients", "Do gradients vanish?", figure, said + " ".join(words))
