"""The LSTM autoencoder of the textbooks, with its window: what carried state, scale-free features and tails are held against.

Malhotra et al. (2016), "LSTM-based encoder-decoder for multi-sensor anomaly detection", arXiv:1607.00148: an encoder reads
a window, its last hidden vector is repeated for a decoder that rebuilds the window, and the mean squared error is the
score, here of the window that ends with the tick.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from service.ticks import Ticks
from training.evaluate import Candidate, Detector
from training.inject import CLEAN_ROWS

WINDOW: Final = 30
HIDDEN: Final = 32
BATCH: Final = 256
MOST_STEPS: Final = 5_000  # of the optimiser
PASSES: Final = 3  # over a history too short for so many steps
CLIP: Final = 10.0  # standard deviations, so that one wild print in history doesn't spend all gradients

Columns = Callable[[Ticks], NDArray[np.float64]]  # what the network is shown of ticks, [N, C]


class WindowedLSTM(nn.Module):
    """Windows (B, WINDOW, C) -> their reconstruction (B, WINDOW, C)."""

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.encoder = nn.LSTM(columns, HIDDEN, batch_first=True)
        self.decoder = nn.LSTM(HIDDEN, HIDDEN, batch_first=True)
        self.output = nn.Linear(HIDDEN, columns)

    def forward(self, windows: Tensor) -> Tensor:
        _, (hidden, _) = self.encoder(windows)  # (1, B, H)
        repeated = hidden[0][:, None].expand(-1, windows.shape[1], -1)  # (B, WINDOW, H)
        rebuilt: Tensor = self.output(self.decoder(repeated)[0])
        return rebuilt


def on_price(history: list[Ticks]) -> Candidate:
    """Shown the price as it is, in the units of the clean head."""
    return _candidate("window LSTM, raw price", lambda ticks: ticks.price[:, None], history)


def on_changes(history: list[Ticks]) -> Candidate:
    """Shown return, inter-arrival, size and spread."""
    return _candidate("window LSTM, changes", _changes, history)


def _changes(ticks: Ticks) -> NDArray[np.float64]:
    log_price = np.log(ticks.price)
    gaps = np.diff(ticks.ts, prepend=ticks.ts[0]) / 1e3
    return np.column_stack(
        [
            np.diff(log_price, prepend=log_price[0]),
            np.sign(gaps) * np.log1p(np.abs(gaps)),  # a late tick has a gap below zero
            np.log1p(np.nan_to_num(ticks.size)),
            np.nan_to_num(ticks.ask - ticks.bid),
        ]
    )


def _candidate(name: str, columns: Columns, history: list[Ticks]) -> Candidate:
    shown = [_scaled(columns, ticks.take(np.arange(min(CLEAN_ROWS, len(ticks)))))(ticks) for ticks in history]
    network = _fit(shown)

    def prepare(head: Ticks) -> Detector:
        scale = _scaled(columns, head)
        return lambda ticks: _errors(network, scale(ticks))

    return Candidate(name, name, True, prepare)


def _scaled(columns: Columns, head: Ticks) -> Callable[[Ticks], NDArray[np.float32]]:
    """The columns in standard deviations of a stream's clean head, float32 [N, C]."""
    known = columns(head)
    mean, std = known.mean(axis=0), known.std(axis=0)
    std[std < 1e-12] = 1.0
    return lambda ticks: np.clip((columns(ticks) - mean) / std, -CLIP, CLIP).astype(np.float32)


def _windows(shown: NDArray[np.float32]) -> Tensor:
    """A view (N, WINDOW, C) of the window that ends with each tick; the first tick stands for those before it."""
    padded = np.concatenate([np.repeat(shown[:1], WINDOW - 1, axis=0), shown])
    return torch.from_numpy(padded).unfold(0, WINDOW, 1).transpose(1, 2)


def _fit(streams: list[NDArray[np.float32]]) -> WindowedLSTM:
    """A network fitted to windows drawn from all streams, each stream as often as any other."""
    torch.set_num_threads(1)  # steps this small run slower on two
    torch.manual_seed(0)
    generator = np.random.default_rng(0)
    windows = [_windows(shown) for shown in streams]
    network = WindowedLSTM(streams[0].shape[1])
    optimiser = torch.optim.Adam(network.parameters(), lr=2e-3)
    for step in range(min(MOST_STEPS, PASSES * sum(map(len, streams)) // BATCH)):
        stream = windows[step % len(windows)]
        batch = stream[torch.from_numpy(generator.integers(len(stream), size=BATCH))]
        loss = nn.functional.mse_loss(network(batch), batch)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
    return network.eval()


@torch.no_grad()
def _errors(network: WindowedLSTM, shown: NDArray[np.float32]) -> NDArray[np.float64]:
    """Mean squared error float64 [N] of the window that ends with each tick."""
    parts = [((network(part) - part) ** 2).mean(dim=(1, 2)) for part in torch.split(_windows(shown), 4096)]
    return np.asarray(torch.cat(parts).double().numpy())
