"""What a search found: the best settings, what mattered, and how every trial did."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna
from matplotlib.ticker import MaxNLocator
from optuna.trial import FrozenTrial, TrialState

from training.report import COLOURS, Cell, Picture, Report, Table, legend, picture
from training.search import CELLS, flags, suggest

SHOWN = 15  # trials of the table
NAMES = {
    "cell": "cell",
    "hidden": "hidden size",
    "bottleneck": "bottleneck",
    "learning_rate": "learning rate",
    "dropout": "dropout",
    "noise": "noise",
    "sequence_length": "sequence length",
}
HOW = """Every trial trains one autoencoder on the first part of each stream and is judged by the loss with which it
rebuilds the last part, which it never trained on: the mean Huber error in standard deviations, each stream counting the
same. Losses of different cells, sizes and sequence lengths can be compared, because all of them rebuild the same clean
features of the same ticks, in chunks of the same length; noise and dropout spoil only what a trial trains on."""
CAVEAT = """What this loss does not say is which detector finds more. A wider bottleneck and a larger network rebuild
everything better, anomalies too, so compare trials of one bottleneck, and compare the models that you would use with
tickwatch evaluate. The best of many trials also looks better than it is: its loss was chosen for being low on just
these ticks. Each trial is one seed."""


def report(study: optuna.Study, data: str) -> Report:
    """The report of a study with at least one complete trial; `data` is what to train on again."""
    complete = sorted(_of(study, TrialState.COMPLETE), key=_loss)
    pruned = _of(study, TrialState.PRUNED)
    best = complete[0]
    usual = [t for t in complete if t.user_attrs.get("default") and t.params["cell"] == "gru"]
    compared = f" The settings that tickwatch train has by itself reached {_loss(usual[0]):.4f}." if usual else ""
    result = (
        f"{len(complete)} trials were trained to their end and {len(pruned)} were ended early. The best, trial {best.number},"
        f" reached a validation loss of {_loss(best):.4f}.{compared} The same ticks on the same kind of CPU give it again with"
    )
    paragraphs = [result, command(study, data), HOW, CAVEAT]
    parts: list[Table | Picture] = [
        _best_of("Best of each cell", "cell", CELLS, complete, pruned),
        _best_of("Best of each bottleneck", "bottleneck", range(2, 9), complete, pruned),
    ]
    if len(complete) > 1:
        parts += [_importances(study), *(_slice(name, complete, pruned) for name in NAMES), _parallel(complete)]
    parts += [_history(study), _curves(complete, pruned), _trials(complete)]
    return Report(f"Search {study.study_name}: which settings rebuild ticks best", paragraphs, parts)


def command(study: optuna.Study, data: str) -> str:
    """The command line that trains with the best trial's settings."""
    fixed = optuna.trial.FixedTrial(study.best_params)
    settings = suggest(fixed, study.user_attrs["epochs"], study.user_attrs["seed"])
    return f"tickwatch train --data {data} {flags(settings)} --output best.onnx"


def _of(study: optuna.Study, state: TrialState) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=[state])


def _loss(trial: FrozenTrial) -> float:
    """The loss of a complete trial, or the last one of a trial that was ended early; NaN where it was not a number."""
    return math.nan if trial.value is None else trial.value


def _best_of(
    title: str, name: str, choices: Sequence[Any], complete: list[FrozenTrial], pruned: list[FrozenTrial]
) -> Table:
    rows = []
    for choice in choices:
        own = [t for t in complete if t.params[name] == choice]
        early = sum(t.params[name] == choice for t in pruned)
        loss = Cell(f"{_loss(own[0]):.4f}", "best" if own[0] is complete[0] else "") if own else Cell("-")
        which = str(own[0].number) if own else "-"
        rows.append([Cell(str(choice)), loss, *map(Cell, (which, str(len(own)), str(early)))])
    return Table(title, (NAMES[name], "lowest loss", "in trial", "complete", "ended early"), rows)


def _trials(complete: list[FrozenTrial]) -> Table:
    rows = []
    for trial in complete[:SHOWN]:
        shown = [trial.params[name] for name in NAMES]
        seconds = "-" if trial.duration is None else f"{trial.duration.total_seconds():.0f}"
        texts = [f"{value:.3g}" if isinstance(value, float) else str(value) for value in shown]
        rows.append([Cell(str(trial.number)), Cell(f"{_loss(trial):.4f}"), *map(Cell, texts), Cell(seconds)])
    notes = f"The {SHOWN} best of {len(complete)}." if len(complete) > SHOWN else ""
    return Table("Complete trials", ("trial", "loss", *NAMES.values(), "seconds"), rows, notes)


def _importances(study: optuna.Study) -> Picture:
    found = optuna.importance.get_param_importances(study)
    figure, axes = picture(8, 3)
    names = list(found)[::-1]
    axes.barh([NAMES[name] for name in names], [found[name] for name in names], color=COLOURS[0])
    axes.set_xlabel("share of what separates the best trials from the rest")
    words = (
        "PED-ANOVA, Watanabe et al. (2023), over the complete trials. With few trials this is a hint, not a finding."
    )
    return Picture("importances", "What mattered", figure, words)


def _slice(name: str, complete: list[FrozenTrial], pruned: list[FrozenTrial]) -> Picture:
    figure, axes = picture(6, 3)
    for number, (label, trials, marker) in enumerate((("complete", complete, "o"), ("ended early", pruned, "x"))):
        values = [CELLS.index(t.params[name]) if name == "cell" else t.params[name] for t in trials]
        axes.scatter(values, [*map(_loss, trials)], marker=marker, s=20, label=label, color=COLOURS[number])
    if name == "cell":
        axes.set_xticks(range(len(CELLS)), CELLS)
    if name == "learning_rate":
        axes.set_xscale("log")
    axes.set_xlabel(NAMES[name])
    axes.set_ylabel("validation loss")
    legend(axes)
    return Picture(f"by-{name.replace('_', '-')}", f"Loss by {NAMES[name]}", figure)


def _parallel(complete: list[FrozenTrial]) -> Picture:
    figure, axes = picture(10, 4.5)
    names = [*NAMES, "loss"]
    columns = np.array([[_number(t, name) for name in names] for t in complete])
    low, high = columns.min(axis=0), columns.max(axis=0)
    for row in (columns - low)[::-1] / np.where(high > low, high - low, 1.0):
        best = row[-1] == 0.0
        alpha = 1.0 if best else 0.15 + 0.5 * (1.0 - row[-1])
        axes.plot(row, alpha=alpha, linewidth=2 if best else 1, color=COLOURS[1 if best else 0])
    labels = [f"{NAMES.get(n, n)}\n{_shown(n, a)} to {_shown(n, b)}" for n, a, b in zip(names, low, high, strict=True)]
    axes.set_xticks(range(len(names)), labels, fontsize=8)
    axes.set_yticks([])
    words = "Each line is a complete trial, the stronger the lower its loss; the best is drawn in another colour."
    return Picture("parallel-coordinates", "All settings together", figure, words)


def _number(trial: FrozenTrial, name: str) -> float:
    if name == "loss":
        return _loss(trial)
    value = trial.params[name]
    if name == "cell":
        return float(CELLS.index(value))
    return float(np.log10(value)) if name == "learning_rate" else float(value)


def _shown(name: str, value: float) -> str:
    if name == "cell":
        return CELLS[round(value)]
    return f"{10.0**value if name == 'learning_rate' else value:.3g}"


def _history(study: optuna.Study) -> Picture:
    figure, axes = picture(8, 3.5)
    complete, pruned = _of(study, TrialState.COMPLETE), _of(study, TrialState.PRUNED)
    for number, (label, own) in enumerate((("complete", complete), ("ended early, last epoch", pruned))):
        axes.scatter([t.number for t in own], [*map(_loss, own)], s=20, label=label, color=COLOURS[number])
    lowest = np.minimum.accumulate([*map(_loss, complete)])
    axes.step([t.number for t in complete], lowest, where="post", label="lowest so far", color=COLOURS[2])
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("trial")
    axes.set_ylabel("validation loss")
    legend(axes)
    return Picture("history", "How the search went", figure)


def _curves(complete: list[FrozenTrial], pruned: list[FrozenTrial]) -> Picture:
    figure, axes = picture(8, 3.5)
    for trial in [*pruned, *complete[::-1]]:
        steps = sorted(trial.intermediate_values)
        number = 1 if trial is complete[0] else 0 if trial.state == TrialState.COMPLETE else 2
        losses = [trial.intermediate_values[step] for step in steps]
        alpha, width = (1.0, 2) if number == 1 else (0.4, 1)
        axes.plot([step + 1 for step in steps], losses, alpha=alpha, linewidth=width, color=COLOURS[number])
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("epoch")
    axes.set_ylabel("validation loss")
    words = "One line a trial: the best one, the other complete ones, and those that were ended early, each kind in a colour."
    return Picture("curves", "Losses epoch by epoch", figure, words)
