"""Every candidate over every stream with injected anomalies: the runs behind a table, with a bar that tells how far it is."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from service.errors import TickwatchError
from service.ticks import Ticks
from training.anomalies import KINDS
from training.baselines import BASELINES
from training.evaluate import Candidate, Result, evaluate
from training.fit import Interrupted
from training.inject import CLEAN_ROWS, Injected, inject
from training.market import Kind

PROMISES: Final = (5.0, 10.0, 20.0, 50.0, 100.0, 200.0)  # alert budgets at which a promise is held against what came
TRAINING_SHARE: Final = 0.85  # of each stream, its first ticks: what `tickwatch train` learns from by default


@dataclass(frozen=True)
class Run:
    """One candidate on one stream with one injection; `cpu_us` is the CPU time of its scores, microseconds per tick."""

    candidate: str
    group: str
    is_baseline: bool
    injection: int
    cpu_us: float
    result: Result


def learned(streams: Sequence[Ticks], console: Console) -> list[Candidate]:
    """The baselines, those that learn from history fitted to the training part of the streams. Raises Interrupted."""
    history = [ticks.take(np.arange(round(len(ticks) * TRAINING_SHARE))) for ticks in streams]
    candidates = []
    with progress(console) as bar:
        task = bar.add_task("", total=len(BASELINES))
        try:
            for name, learn in BASELINES.items():
                bar.update(task, description=f"learning: {name}")
                candidates.append(learn(history))
                bar.advance(task)
        except KeyboardInterrupt:
            raise Interrupted("stopped while the baselines were learning; nothing was written") from None
    return candidates


def benchmark(
    candidates: Sequence[Candidate],
    streams: Sequence[Ticks],
    injections: Sequence[int],
    budgets: Sequence[float],
    console: Console,
    clean: int = CLEAN_ROWS,
    kinds: Mapping[str, Kind] = KINDS,
) -> list[Run]:
    """All runs: by stream, then by injection seed, then in the order of the candidates; `budgets` are those promised.

    Raises Interrupted on Ctrl-C, and TickwatchError for a stream into which nothing can be injected.
    """
    runs: list[Run] = []
    total = len(candidates) * len(injections) * sum(map(len, streams))
    with progress(console) as bar:
        task = bar.add_task("", total=total)
        try:
            for ticks in streams:
                for seed in injections:
                    injected = inject(ticks, seed, clean, kinds)
                    where = f"{ticks.stream[0]}, injection {seed} of {max(injections)}"
                    for candidate in candidates:
                        bar.update(task, description=f"{where}: {candidate.name}")
                        runs.append(_run(candidate, injected, seed, budgets))
                        bar.advance(task, len(ticks))
                    bar.console.print(f"{where}: {len(injected.events)} anomalies", markup=False, highlight=False)
        except KeyboardInterrupt:
            done, all_runs = len(runs), len(candidates) * len(injections) * len(streams)
            raise Interrupted(f"stopped after {done} of {all_runs} runs; nothing was written") from None
    return runs


def _run(candidate: Candidate, injected: Injected, seed: int, budgets: Sequence[float]) -> Run:
    detector = candidate.prepare(injected.ticks.take(np.arange(injected.clean)))
    began = time.process_time()
    score = detector(injected.ticks)
    cpu_us = 1e6 * (time.process_time() - began) / len(injected.ticks)
    promised = {} if candidate.threshold is None else {budget: candidate.threshold(budget) for budget in budgets}
    result = evaluate(lambda _: score, injected, promised)
    return Run(candidate.name, candidate.group, candidate.is_baseline, seed, cpu_us, result)


def usable(
    streams: dict[str, Ticks], injections: Sequence[int], clean: int = CLEAN_ROWS, kinds: Mapping[str, Kind] = KINDS
) -> tuple[list[Ticks], list[str]]:
    """The streams into which every injection puts an anomaly, and a sentence for each of the others.

    Raises TickwatchError where none is left.
    """
    kept, why_not = [], []
    for ticks in streams.values():
        try:
            if all(inject(ticks, seed, clean, kinds).events for seed in injections):
                kept.append(ticks)
            else:
                why_not.append(f"stream {ticks.stream[0]!r} is too short to hold an anomaly")
        except TickwatchError as error:
            why_not.append(str(error))
    if not kept:
        raise TickwatchError("no stream can be evaluated: " + "; ".join(why_not[:3]))
    return kept, why_not


def progress(console: Console) -> Progress:
    """A bar with what it is doing, how long that took, and how long the rest may take."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )
