"""From a folder of ticks and some model files to a report on how well they detect. Behind `tickwatch evaluate`."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
from rich.console import Console

from service.autoencoder import Model, find, load
from service.errors import TickwatchError
from service.scorer import warm_up
from service.ticks import Ticks
from training.alarms import COOL_DOWN
from training.anomalies import KINDS
from training.benchmark import PROMISES, Run, benchmark, learned, usable
from training.evaluate import TOLERANCE, Candidate
from training.history import History, read_history
from training.inject import CLEAN_ROWS
from training.linear import served
from training.otherkinds import OTHER_KINDS
from training.report import Report
from training.scoreboard import (
    CONFIDENCE,
    budget_table,
    heat_map,
    kind_table,
    main_table,
    precision_recall,
    promises,
    rows,
    stream_table,
)
from training.unseen import unseen

KINDS_OF: Final = {"standard": KINDS, "other": OTHER_KINDS}


@dataclass(frozen=True)
class Assessed:
    """A finished evaluation: how many runs it took, and the time."""

    runs: int
    seconds: float


def assess(
    data: Path,
    models: Sequence[str],
    baselines: bool,
    injections: int,
    budget: float,
    output: Path,
    console: Console,
    clean: int = CLEAN_ROWS,
    leave_one_out: bool = False,
    kinds: str = "standard",
) -> Assessed:
    """Evaluate models on the tick file or folder `data` with injected anomalies; `output` gets the report and results.json.

    Injection seeds are 1 to `injections`; `budget` is the promised one that is tabulated; the first `clean` ticks of each
    stream hold no anomaly, the others those of the set `kinds`, "standard" or "other". With `leave_one_out` each stream is
    judged by what was learned from the others. Raises TickwatchError, and Interrupted on Ctrl-C.
    """
    began = time.monotonic()
    _prepare(output)
    if kinds not in KINDS_OF:
        raise TickwatchError(f"--kinds {kinds}: there are none of that name; choose from {', '.join(KINDS_OF)}")
    chosen = KINDS_OF[kinds]
    opened = [load(find(name)) for name in models]
    candidates = contestants(opened)
    seeds = range(1, injections + 1)
    history = read_history(data)
    streams, why_not = usable(history.streams, seeds, clean, chosen)
    for reason in why_not:
        console.print(f"left out: {reason}", markup=False, highlight=False)
    if opened:
        warm_up(opened[0])
    budgets = sorted({*PROMISES, budget})
    if leave_one_out:
        by_id = {model.id: model for model in opened}
        models_of = [(candidate, by_id[candidate.name]) for candidate in candidates]
        runs = unseen(models_of, baselines, history, streams, seeds, budgets, output / "runs", console, clean, chosen)
    else:
        if baselines:
            candidates += learned(streams, console)
        runs = benchmark(candidates, streams, seeds, budgets, console, clean, chosen)
    words = _words(opened, history, streams, runs, injections, leave_one_out, len(chosen), clean)
    written(runs, words, budget).write(output)
    save(runs, history, output)
    return Assessed(len(runs), time.monotonic() - began)


def contestants(models: Sequence[Model]) -> list[Candidate]:
    """Models as candidates; those that differ by their seed alone are one group. Raises TickwatchError for one given twice."""
    groups = defaultdict(list)
    for model in models:
        card = model.card
        groups[card.cell, card.hidden, card.bottleneck, card.data_fingerprint, card.code_revision].append(model)
    names = [f"{cell.upper()} {hidden}/{bottleneck}" for cell, hidden, bottleneck, *_ in groups]
    found = []
    for name, group in zip(names, groups.values(), strict=True):
        ids = [model.id for model in group]
        if len(set(ids)) < len(ids):
            raise TickwatchError(f"--model {group[0].path}: the same model is given twice; give each once")
        seeds = f", {len(group)} seeds" if len(group) > 1 else ""
        which = f" {ids[0]}" if names.count(name) > 1 else ""
        found += [served(f"{name}{which}{seeds}", model) for model in group]
    return found


def written(runs: Sequence[Run], words: Sequence[str], budget: float) -> Report:
    """The report on some runs."""
    table = rows(runs)
    return Report(
        "How well the detectors detect",
        words,
        [
            main_table(table),
            budget_table(table, budget),
            promises(table),
            precision_recall(table),
            heat_map(table, "recall@100"),
            *(kind_table(table, name) for name in ("recall@20", "recall@100", "ap")),
            *(stream_table(table, name) for name in ("vus_pr", "ap", "recall@20", "recall@100")),
        ],
    )


def _words(
    models: Sequence[Model],
    history: History,
    streams: Sequence[Ticks],
    runs: Sequence[Run],
    injections: int,
    leave_one_out: bool,
    kinds: int,
    clean: int,
) -> list[str]:
    of_one = [run for run in runs if run.candidate == runs[0].candidate]
    events = sum(len(run.result.events) for run in of_one)
    words = [
        (
            f"{sum(map(len, streams)):,} ticks of {len(streams)} streams (data {history.fingerprint[:8]}), with"
            f" {events:,} anomalies of up to {kinds} kinds, drawn anew {injections} times. Detectors see one stream at a"
            f" time, each tick once and in order. Only ticks after a clean head of {clean:,} count."
        ),
        *method(),
    ]
    if leave_one_out:
        words.append(
            "No detector has seen the stream that it is judged on: models were trained anew for each, with the cell, sizes and"
            " seed of those given, on all other streams, and baselines that learn from history learned from those."
        )
        return words
    for model in models:
        same = model.card.data_fingerprint == history.fingerprint
        learned_from = (
            "learned from these very streams, without the anomalies" if same else "has learned from other ticks"
        )
        words.append(f"{model.id} (seed {model.card.seed}) {learned_from}.")
    return words


def method() -> list[str]:
    """What the numbers of every such report mean."""
    return [
        (
            f"VUS is the volume under the surface of Paparrizos et al. (2022); AP is average precision over ticks; recall@20 is"
            " the share of events caught at the threshold that makes 20 false alarms per 100,000 normal ticks on that stream,"
            f" recall@100 likewise. An event is caught from its start to {TOLERANCE} ticks after its end. Alarms later than"
            f" that are false, and one counts for {COOL_DOWN} ticks, so a sustained one counts again and again. VUS, AP and"
            " recall are means over streams."
        ),
        (
            f"± is half the {CONFIDENCE:.0%} t-interval over training seeds or, where a detector has only one, over injection"
            " seeds; of one seed there is none. Baselines are fitted on the clean head or on the training part of the history."
        ),
    ]


def save(runs: Sequence[Run], history: History, output: Path) -> None:
    """Write results.json: every run with all that was measured; delays are in the order of the events."""
    record = {"data_fingerprint": history.fingerprint, "runs": runs}
    (output / "results.json").write_bytes(msgspec.json.encode(record))


def _prepare(output: Path) -> None:
    """Find out now, not after minutes of scoring, that a report has nowhere to go."""
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TickwatchError(f"--output {output} can't be made ({error.strerror}); give another folder") from error
