"""RNN, LSTM and GRU side by side: same data, same budget, several seeds, one report. Behind `tickwatch compare`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from service.autoencoder import Model, load
from service.card import CellKind
from service.features import F, Prior, offline
from service.scorer import warm_up
from training.assess import contestants, save
from training.autoencoder import Autoencoder
from training.benchmark import PROMISES, Run, benchmark, progress, usable
from training.fit import CHECKPOINT, Epoch, Interrupted, Settings
from training.history import History, read_history
from training.inject import CLEAN_ROWS
from training.memory import reach, recall
from training.trainings import Kept, keep, kept, trained

REACH: Final = 200  # ticks over which gradients are followed
BLOCKS: Final = ((1, 1), (1, 256), (256, 1))  # steps and streams of one call, as the service makes them


@dataclass(frozen=True)
class Plan:
    """What is compared: each cell with each seed, all else as in `settings`.

    `memory_steps` are the optimiser's in the memory task; the first `clean` ticks of each stream hold no anomaly.
    """

    cells: Sequence[CellKind]
    seeds: int
    settings: Settings
    injections: int = 3
    memory_steps: int = 300
    clean: int = CLEAN_ROWS


@dataclass(frozen=True)
class Trial:
    """One cell with one seed: the model, its curves, and what it costs.

    `call_us` are the CPU microseconds per tick of each of BLOCKS; `reach` float64 [REACH + 1] is the gradient that gets to
    the state k ticks ago, over that to the last.
    """

    model: Model
    epochs: list[Epoch]
    parameters: int
    kept: Kept
    call_us: list[float]
    reach: NDArray[np.float64]

    @property
    def validation(self) -> float:
        """Loss of the reconstruction on held-out ticks, of the epoch that was kept."""
        return min(epoch.validation for epoch in self.epochs)


@dataclass(frozen=True)
class Compared:
    """All trials, and the runs of the benchmark over their models."""

    history: History
    trials: list[Trial]
    runs: list[Run]


def compare(data: Path, plan: Plan, output: Path, console: Console) -> Compared:
    """Train what is not yet trained under `output`/runs, then measure. Raises TickwatchError, and Interrupted on Ctrl-C."""
    history = read_history(data)
    injections = range(1, plan.injections + 1)
    streams, why_not = usable(history.streams, injections, plan.clean)
    for reason in why_not:
        console.print(f"left out of the evaluation: {reason}", markup=False, highlight=False)
    folders = [
        (replace(plan.settings, cell=cell, seed=seed), output / "runs" / f"{cell}-{seed}")
        for cell in plan.cells
        for seed in range(1, plan.seeds + 1)
    ]
    for settings, folder in folders:
        trained(settings, folder, history, console)
    _recall(folders, plan, console)
    try:
        with console.status("timing the cells"):
            trials = [_trial(settings, folder, history) for settings, folder in folders]
    except KeyboardInterrupt:
        raise Interrupted(f"stopped; {output} keeps the trained models: the same command goes on") from None
    models = [trial.model for trial in trials]
    warm_up(models[0])
    runs = benchmark(contestants(models), streams, injections, PROMISES, console, plan.clean)
    save(runs, history, output)
    return Compared(history, trials, runs)


def _recall(folders: Sequence[tuple[Settings, Path]], plan: Plan, console: Console) -> None:
    """The memory task of every cell and seed for which it is not done."""
    left = [(settings, folder) for settings, folder in folders if kept(folder).recalled is None]
    with progress(console) as bar:
        task = bar.add_task("", total=len(left) * plan.memory_steps)
        try:
            for settings, folder in left:
                bar.update(task, description=f"memory of {folder.name}")
                recalled = recall(
                    settings.cell, settings.hidden, settings.seed, plan.memory_steps, progress=lambda: bar.advance(task)
                )
                keep(folder, msgspec.structs.replace(kept(folder), recalled=recalled))
                bar.console.print(f"memory of {folder.name} is measured", markup=False, highlight=False)
        except KeyboardInterrupt:
            raise Interrupted("stopped in the memory task; the same command goes on after what is finished") from None


def _trial(settings: Settings, folder: Path, history: History) -> Trial:
    model = load(folder / "model.onnx")
    checkpoint = torch.load(folder / CHECKPOINT, weights_only=True)
    network = Autoencoder(F, settings.cell, settings.hidden, settings.bottleneck)
    network.load_state_dict(checkpoint["best"])
    return Trial(
        model=model,
        epochs=[Epoch(**epoch) for epoch in checkpoint["epochs"]],
        parameters=sum(weight.numel() for weight in network.parameters()),
        kept=kept(folder),
        call_us=[call_us(model, steps, streams) for steps, streams in BLOCKS],
        reach=reach(network.eval(), _held_out(model, settings, history))[: REACH + 1],
    )


def _held_out(model: Model, settings: Settings, history: History, places: int = 8) -> NDArray[np.float32]:
    """Stretches of ticks that no network was trained on, float32 [2 REACH + 1, B, F], spread over every stream."""
    scale = model.card.standardisation
    given = Prior(np.array(scale.mean, np.float32), np.array(scale.std, np.float32))
    length = 2 * REACH + 1
    cut = []
    for ticks in history.streams.values():
        x = offline(ticks, given)
        x = x[min(settings.trained(len(x)), max(0, len(x) - length)) :]
        if len(x) >= length:
            cut += [x[at : at + length] for at in np.linspace(0, len(x) - length, places).astype(int)]
    return np.stack(cut, axis=1)


def call_us(model: Model, steps: int, streams: int, rounds: int = 15) -> float:
    """CPU microseconds per tick of calls of `steps` ticks of `streams` streams: the median of some rounds of calls."""
    generator = np.random.default_rng(0)
    feed = {
        "features": generator.normal(size=(steps, streams, F)).astype(np.float32),
        "state": np.zeros((streams, model.recurrent), np.float32),
    }
    calls = max(5, 20_000 // (steps * streams + 100))
    taken = []
    for _ in range(rounds):
        began = time.process_time()
        for _ in range(calls):
            model.session.run(None, feed)
        taken.append(1e6 * (time.process_time() - began) / (calls * steps * streams))
    return float(np.median(taken))
