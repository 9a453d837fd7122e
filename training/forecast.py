"""The airline passengers experiment: an RNN, an LSTM and a GRU predict next month from the months before it.

Box & Jenkins (1976), Time series analysis: forecasting and control, series G: 144 monthly totals, 1949 to 1960, in
thousands. The cells are those of the detector, so this is the smallest place to see them learn. The last third of the
months is for testing: every forecast there is of one month ahead from the true months before it, by weights and a scale
that have seen the first two thirds only. Behind `tickwatch forecast`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from river.datasets import AirlinePassengers
from torch import Tensor, nn

from service.card import CellKind
from training.cells import CELLS

WINDOWS = (1, 3, 6, 12)  # months that a forecast is made from
SEEDS = 5
TRAINED = 96  # months, 1949 to 1956; the 48 after them test
YEAR = 12
HIDDEN = 16
STEPS = (
    400  # of the optimiser, each over all months at once; fixed beforehand, because nothing may be chosen by the test
)
LEARNING_RATE = 1e-2
FITS = len(CELLS) * len(WINDOWS) * SEEDS

Months = NDArray[np.float64]


@dataclass(frozen=True)
class Forecasts:
    """What one method forecasts from a window: thousands of passengers [seeds, months], NaN before the first window."""

    method: str
    window: int
    months: Months

    def rmse(self, truth: Months, part: slice) -> Months:
        """Root mean square error [seeds] over a part of the months."""
        errors: Months = np.sqrt(np.nanmean((self.months[:, part] - truth[part]) ** 2, axis=1))
        return errors


class Forecaster(nn.Module):
    """Windows (T, B, 1) -> the month after each (B,): one cell from a zero state, and a linear layer on its last output."""

    def __init__(self, cell: CellKind) -> None:
        super().__init__()
        self.cell = CELLS[cell](1, HIDDEN)
        self.output = nn.Linear(HIDDEN, 1)

    def forward(self, windows: Tensor) -> Tensor:
        outputs, _ = self.cell(windows, windows.new_zeros(windows.shape[1], self.cell.state_size))  # (T, B, H)
        forecast: Tensor = self.output(outputs[-1])[:, 0]
        return forecast


def passengers() -> Months:
    """The 144 monthly totals in thousands, as the package `river` ships them."""
    return np.array([total for _, total in AirlinePassengers()], np.float64)  # type: ignore[no-untyped-call]


def windows(series: Months, window: int) -> Months:
    """The `window` months before each month that has so many, [months - window, window]."""
    return np.lib.stride_tricks.sliding_window_view(series, window)[:-1]


def by_network(series: Months, cell: CellKind, window: int, seed: int, steps: int = STEPS) -> Months:
    """Forecasts [months] of a network trained on the first TRAINED months, scaled to 0..1 by their extremes."""
    low, high = series[:TRAINED].min(), series[:TRAINED].max()
    scaled = (series - low) / (high - low)
    x = torch.from_numpy(windows(scaled, window).astype(np.float32)).T[:, :, None]  # (T, B, 1)
    y = torch.from_numpy(scaled[window:].astype(np.float32))  # (B,)
    fitted = TRAINED - window
    torch.set_num_threads(1)  # matrices this small lose time on more
    torch.manual_seed(seed)
    model = Forecaster(cell)
    optimiser = torch.optim.Adam(model.parameters(), LEARNING_RATE)
    for _ in range(steps):
        optimiser.zero_grad()
        loss = nn.functional.mse_loss(model(x[:, :fitted]), y[:fitted])
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
    with torch.no_grad():
        forecast = model(x).double().numpy() * (high - low) + low
    return np.concatenate([np.full(window, np.nan), forecast])


def by_lag(series: Months, lag: int) -> Months:
    """The month `lag` before, unchanged: naive for 1, seasonal-naive for YEAR."""
    return np.concatenate([np.full(lag, np.nan), series[:-lag]])


def by_line(series: Months, window: int) -> Months:
    """A straight line in the window's months, fitted by least squares to the first TRAINED months."""
    x = np.column_stack([windows(series, window), np.ones(len(series) - window)])
    fitted = TRAINED - window
    weights = np.linalg.lstsq(x[:fitted], series[window:TRAINED], rcond=None)[0]
    return np.concatenate([np.full(window, np.nan), x @ weights])


def forecasts(series: Months, seed: int, progress: Callable[[], None] = lambda: None) -> list[Forecasts]:
    """Every method: SEEDS networks of each cell and window, seeded from `seed` on, and what they must beat.

    `progress` is called after each of the FITS.
    """
    found = [
        Forecasts("naive: the month before", 1, by_lag(series, 1)[None]),
        Forecasts("seasonal-naive: the same month a year before", YEAR, by_lag(series, YEAR)[None]),
    ]
    found += [Forecasts("line, least squares", window, by_line(series, window)[None]) for window in WINDOWS]
    for cell in CELLS:
        for window in WINDOWS:
            tries = []
            for number in range(SEEDS):
                tries.append(by_network(series, cell, window, seed + number))
                progress()
            found.append(Forecasts(cell.upper(), window, np.stack(tries)))
    return found
