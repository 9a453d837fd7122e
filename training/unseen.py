"""Every stream judged by what was learned from the others alone: how well does a detector do on streams it has never seen?

Leave-one-out cross-validation: Stone (1974), "Cross-validatory choice and assessment of statistical predictions", Journal
of the Royal Statistical Society B 36(2).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

from rich.console import Console

from service.autoencoder import Model, load
from service.errors import TickwatchError
from service.ticks import Ticks
from training.benchmark import Run, benchmark, learned
from training.evaluate import Candidate
from training.fit import Settings
from training.history import History, fingerprint
from training.linear import served
from training.market import Kind
from training.trainings import trained


def unseen(
    models: Sequence[tuple[Candidate, Model]],
    baselines: bool,
    history: History,
    streams: Sequence[Ticks],
    injections: Sequence[int],
    budgets: Sequence[float],
    folder: Path,
    console: Console,
    clean: int,
    kinds: Mapping[str, Kind],
) -> list[Run]:
    """The runs of `benchmark` on `streams`, each by models trained on all other streams of the history, under `folder`.

    A model is trained anew with the cell, sizes and seed of its card and otherwise as `tickwatch train` does by default; its
    candidate lends name and group. Baselines learn from the other streams too. Raises TickwatchError where there is no other
    stream, and Interrupted on Ctrl-C; what was trained by then is kept.
    """
    runs = []
    for ticks in streams:
        others = _without(history, ticks.stream[0])
        candidates = [_anew(candidate, model, others, folder, ticks.stream[0], console) for candidate, model in models]
        if baselines:
            candidates += learned(list(others.streams.values()), console)
        runs += benchmark(candidates, [ticks], injections, budgets, console, clean, kinds)
    return runs


def _without(history: History, stream: str) -> History:
    streams = {name: ticks for name, ticks in history.streams.items() if name != stream}
    if not streams:
        raise TickwatchError(f"--leave-one-out: {stream!r} is the only stream; give at least two")
    origin = f"{history.origin} without {stream}"
    return replace(history, streams=streams, fingerprint=fingerprint(streams), origin=origin)


def _anew(
    candidate: Candidate, model: Model, others: History, folder: Path, left_out: str, console: Console
) -> Candidate:
    card = model.card
    settings = Settings(card.cell, hidden=card.hidden, bottleneck=card.bottleneck, seed=card.seed)
    path = folder / f"{card.cell}-{card.hidden}-{card.bottleneck}-{card.seed}-without-{quote(left_out, safe='')}"
    return replace(served(candidate.group, load(trained(settings, path, others, console))), name=candidate.name)
