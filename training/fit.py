"""Truncated backpropagation through time with carried state, over many lanes of many streams at once.

Williams & Peng (1990), An efficient gradient-based algorithm for on-line training of recurrent network trajectories.
Neural Computation 2(4). Denoising: Vincent et al. (2008), Extracting and composing robust features with denoising
autoencoders. ICML.

Shapes: T steps of a chunk, B lanes, F features. A run leaves everything in its folder, and all randomness of an epoch
follows from the seed and the epoch's number, so that a resumed run ends with the very weights of one never stopped.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from torch import Tensor
from torch.nn.functional import huber_loss

from service.card import CellKind
from service.errors import TickwatchError
from training.autoencoder import Autoencoder
from training.cells import Cell
from training.tape import Tape, tape

CHECKPOINT = "checkpoint.pt"
MEASURED = 64  # ticks of a chunk in validation, whatever it is in training: so losses of all settings compare
COLD_WEIGHT = 0.1  # of a chunk that begins with a zero state: its errors are the state's fault, not the ticks'
CLIP_NORM = 1.0
LARGEST_GAIN = 2.0  # of a gate's R; without a limit rounding grew until torch and onnxruntime were 1.5e-4 apart
WARM_UP = 0.01  # share of the run over which the learning rate rises
FINAL_RATE = 0.02  # of the learning rate, where its cosine ends


@dataclass(frozen=True)
class Settings:
    """How to fit: the network's sizes, the optimiser's steps, and how input is spoiled before it must be rebuilt."""

    cell: CellKind
    hidden: int = 32
    bottleneck: int = 4
    epochs: int = 20
    patience: int = 4  # epochs without a better validation loss before it stops
    learning_rate: float = 1.5e-2
    weight_decay: float = 1e-4
    dropout: float = 0.1
    noise: float = 0.1  # standard deviations added to every input
    mask: float = 0.1  # share of inputs set to 0, as if missing
    huber: float = 1.0  # standard deviations beyond which an error counts linearly
    lanes: int = 128
    chunk: int = 64  # ticks through which a gradient flows
    validation: float = 0.15  # share of each stream, its last, that is never trained on
    seed: int = 1

    def trained(self, ticks: int) -> int:
        """How many of a stream's ticks, its first, are trained on; the rest validate."""
        return ticks - round(ticks * self.validation)

    def enough(self, ticks: int) -> bool:
        """Whether a stream of so many ticks fills a chunk of both parts; one that does not teaches nothing."""
        trained = self.trained(ticks)
        return trained >= self.chunk and ticks - trained >= MEASURED


@dataclass(frozen=True)
class Epoch:
    """Losses of one pass over the history."""

    train: float
    validation: float


@dataclass(frozen=True)
class Fit:
    """The network of the epoch with the lowest validation loss, and the curves of all epochs."""

    model: Autoencoder
    epochs: list[Epoch]

    @property
    def best(self) -> int:
        """Index of the epoch that the network is from."""
        return _best(self.epochs)


class Interrupted(TickwatchError):
    """Ctrl-C during a fit; all finished epochs are kept."""

    exit_code = 130


def spoil(x: Tensor, noise: float, mask: float) -> Tensor:
    """The input (T, B, F) with Gaussian noise on every feature, and some features missing."""
    kept = (torch.rand_like(x) >= mask).float()
    return (x + noise * torch.randn_like(x)) * kept


def reconstruction_error(x: Tensor, reconstruction: Tensor, huber: float) -> Tensor:
    """Mean Huber loss (B,) of each lane over the features that are there; a missing one is exactly 0 in x (T, B, F)."""
    there = (x != 0.0).float()
    error = huber_loss(reconstruction, x, reduction="none", delta=huber) * there
    return error.sum(dim=(0, 2)) / there.sum(dim=(0, 2)).clamp(min=1.0)


def learning_rate(settings: Settings, progress: float) -> float:
    """A short linear rise, then a cosine down; `progress` goes from 0 to 1 over all epochs."""
    cosine = FINAL_RATE + (1.0 - FINAL_RATE) * 0.5 * (1.0 + math.cos(math.pi * progress))
    return settings.learning_rate * cosine * min(1.0, progress / WARM_UP)


@torch.no_grad()
def steady(cell: Cell) -> None:
    """Scale each gate's R down to a spectral norm of LARGEST_GAIN, so that a small difference in h can't grow for long.

    Miller & Hardt (2019), Stable recurrent models. ICLR; with a looser bound, which costs little of the fit.
    """
    gates = cell.R.view(-1, cell.R.shape[1], cell.R.shape[1])  # (G, H, H)
    gates *= (LARGEST_GAIN / torch.linalg.matrix_norm(gates, ord=2)).clamp(max=1.0)[:, None, None]


def columns(ticks: Tensor, cut: Tape, chunk: int) -> Iterator[tuple[Tensor, Tensor, NDArray[np.int64]]]:
    """Each column of the tape: its ticks (T, B, F), which lanes start cold (B,), and their streams [B]."""
    steps = torch.arange(chunk)[:, None]  # (T, 1)
    for start, cold, stream in zip(cut.start, cut.cold, cut.stream, strict=True):
        yield ticks[torch.from_numpy(start) + steps], torch.from_numpy(cold), stream


def train_epoch(
    model: Autoencoder, optimiser: torch.optim.AdamW, ticks: Tensor, cut: Tape, settings: Settings, epoch: int
) -> Iterator[float]:
    """One pass over the tape; yields the loss of every step of the optimiser."""
    torch.manual_seed(settings.seed * 100_000 + 1 + epoch)  # so an epoch is the same after a resume
    model.train()
    state = torch.zeros(cut.start.shape[1], model.state_size)  # (B, S)
    for step, (x, cold, _) in enumerate(columns(ticks, cut, settings.chunk), start=1):
        optimiser.param_groups[0]["lr"] = learning_rate(settings, (epoch + step / len(cut.start)) / settings.epochs)
        state = state.detach().masked_fill(cold[:, None], 0.0)
        reconstruction, state = model(spoil(x, settings.noise, settings.mask), state)
        weight = 1.0 - (1.0 - COLD_WEIGHT) * cold.float()  # (B,)
        loss = (weight * reconstruction_error(x, reconstruction, settings.huber)).sum() / weight.sum()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
        optimiser.step()
        steady(model.encoder)
        steady(model.decoder)
        yield loss.item()


@torch.no_grad()
def validate(model: Autoencoder, ticks: Tensor, cut: Tape, settings: Settings) -> float:
    """Loss over a tape of chunks of MEASURED ticks, every stream counting the same whatever its length."""
    model.eval()
    state = torch.zeros(cut.start.shape[1], model.state_size)
    losses, weights = np.zeros(cut.stream.max() + 1), np.zeros(cut.stream.max() + 1)
    for x, cold, stream in columns(ticks, cut, MEASURED):
        reconstruction, state = model(x, state.masked_fill(cold[:, None], 0.0))
        weight = np.where(cold, COLD_WEIGHT, 1.0)
        np.add.at(losses, stream, weight * reconstruction_error(x, reconstruction, settings.huber).numpy())
        np.add.at(weights, stream, weight)
    return float(np.mean(losses[weights > 0] / weights[weights > 0]))


def fit(
    streams: list[NDArray[np.float32]],
    settings: Settings,
    fingerprint: str,
    folder: Path,
    resume: bool,
    console: Console,
    after_epoch: Callable[[Sequence[Epoch]], None] = lambda _: None,
) -> Fit:
    """Fit an autoencoder to the features float32 [N, F] of each stream; `folder` gets a checkpoint after every epoch.

    `resume` goes on from that checkpoint. `after_epoch` is given all epochs so far and may end the fit by an exception,
    which loses nothing either. Raises Interrupted on Ctrl-C, and TickwatchError where the checkpoint is
    missing or was made with other settings or from other data, whose SHA-256 is `fingerprint`.
    """
    torch.set_num_threads(1)  # steps this small run three times slower on two threads, and sums would change with them
    train, held_out = _split(streams, settings)
    held_out_tape = tape(held_out.lengths, MEASURED, settings.lanes)
    torch.manual_seed(settings.seed * 100_000)
    model = Autoencoder(streams[0].shape[1], settings.cell, settings.hidden, settings.bottleneck, settings.dropout)
    optimiser = torch.optim.AdamW(model.parameters(), weight_decay=settings.weight_decay)
    best = model.state_dict()
    epochs: list[Epoch] = []
    identity = {"settings": asdict(settings), "fingerprint": fingerprint}
    if resume:
        kept = _load(folder / CHECKPOINT, identity)
        model.load_state_dict(kept["model"])
        optimiser.load_state_dict(kept["optimiser"])
        best, epochs = kept["best"], [Epoch(**epoch) for epoch in kept["epochs"]]

    try:
        with _progress(console) as progress:
            bar = progress.add_task("", total=settings.epochs, completed=len(epochs))
            while len(epochs) < settings.epochs and len(epochs) - 1 - _best(epochs) < settings.patience:
                epoch = len(epochs)
                cut = tape(train.lengths, settings.chunk, settings.lanes, np.random.default_rng((settings.seed, epoch)))
                losses: list[float] = []
                for loss in train_epoch(model, optimiser, train.ticks, cut, settings, epoch):
                    losses.append(loss)
                    shown = f"epoch {epoch + 1}, loss {np.mean(losses[-50:]):.4f}"
                    progress.update(bar, completed=epoch + len(losses) / len(cut.start), description=shown)
                validation = validate(model, held_out.ticks, held_out_tape, settings)
                epochs.append(Epoch(float(np.mean(losses)), validation))
                mark = ""
                if _best(epochs) == epoch:
                    best, mark = copy.deepcopy(model.state_dict()), ", best so far"
                kept = {"model": model.state_dict(), "optimiser": optimiser.state_dict(), "best": best}
                _save(folder / CHECKPOINT, identity | kept | {"epochs": [asdict(e) for e in epochs]})
                progress.console.print(
                    f"epoch {epoch + 1}: loss {epochs[-1].train:.4f}, validation {validation:.4f}{mark}"
                )
                after_epoch(epochs)
    except KeyboardInterrupt:
        raise Interrupted(
            f"stopped in epoch {len(epochs) + 1} of {settings.epochs}; "
            + (f"{folder} keeps the finished ones: go on with --resume" if epochs else "none is finished: start again")
        ) from None
    model.load_state_dict(best)
    return Fit(model.eval(), epochs)


@dataclass(frozen=True)
class _Part:
    """Streams joined end to end, and the length of each."""

    ticks: Tensor  # (N, F)
    lengths: list[int]


def _split(streams: list[NDArray[np.float32]], settings: Settings) -> tuple[_Part, _Part]:
    """The part of the streams to train on, and the part to validate on."""
    cuts = [settings.trained(len(x)) for x in streams]
    first = [x[:cut] for x, cut in zip(streams, cuts, strict=True)]
    last = [x[cut:] for x, cut in zip(streams, cuts, strict=True)]
    train, held_out = (_Part(torch.from_numpy(np.concatenate(side)), [*map(len, side)]) for side in (first, last))
    return train, held_out


def _best(epochs: list[Epoch]) -> int:
    return int(np.argmin([epoch.validation for epoch in epochs])) if epochs else -1


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("left"),
        TimeRemainingColumn(elapsed_when_finished=True),
        console=console,
        disable=not console.is_terminal,  # a log file gets the line per epoch
        transient=True,
    )


def _save(path: Path, checkpoint: dict[str, Any]) -> None:
    part = path.with_suffix(".part")  # a crash while writing must not cost the last checkpoint
    torch.save(checkpoint, part)
    part.replace(path)


def _load(path: Path, identity: dict[str, Any]) -> dict[str, Any]:
    if not path.exists():
        raise TickwatchError(f"there is no checkpoint {path} to go on from; run without --resume")
    kept: dict[str, Any] = torch.load(path, weights_only=True)
    if kept["fingerprint"] != identity["fingerprint"]:
        raise TickwatchError(f"checkpoint {path} was made from other data; run without --resume, or give the same data")
    changed = [name for name, value in identity["settings"].items() if kept["settings"].get(name) != value]
    if changed:
        was = ", ".join(f"{name} {kept['settings'].get(name)}" for name in changed)
        raise TickwatchError(f"checkpoint {path} was made with {was}; give the same settings, or run without --resume")
    return kept
