"""What the airline passengers experiment showed, told by its numbers: the baselines stand in the same table."""

from __future__ import annotations

import numpy as np

from training.forecast import HIDDEN, LEARNING_RATE, SEEDS, STEPS, TRAINED, YEAR, Forecasts, Months
from training.report import COLOURS, Cell, Picture, Report, Table, legend, picture

NETWORKS = ("RNN", "LSTM", "GRU")
TRAIN, TEST = slice(0, TRAINED), slice(TRAINED, None)


def report(series: Months, found: list[Forecasts]) -> Report:
    """Table and pictures of all forecasts of the series."""
    networks = [f for f in found if f.method in NETWORKS]
    parts: list[Table | Picture] = [_table(series, found)]
    parts += [_picture(series, found, window) for window in sorted({f.window for f in networks})]
    return Report("Airline passengers: RNN, LSTM and GRU forecast next month", _words(series, found), parts)


def _words(series: Months, found: list[Forecasts]) -> list[str]:
    """What was done and what came out."""
    networks = [f for f in found if f.method in NETWORKS]
    baselines = [f for f in found if f.method not in NETWORKS]
    error = {id(f): float(f.rmse(series, TEST).mean()) for f in found}
    best = min(networks, key=lambda f: error[id(f)])
    simple = min(baselines, key=lambda f: error[id(f)])
    seasonal = next(f for f in baselines if f.method.startswith("seasonal"))
    losing = [f for f in networks if error[id(f)] >= error[id(seasonal)]]
    ties = [f for f in networks if error[id(f)] < error[id(best)] + best.rmse(series, TEST).std(ddof=1)]
    method = (
        f"Series G of Box and Jenkins: {len(series)} monthly totals of airline passengers, 1949 to 1960, in thousands. The"
        f" first {TRAINED} months train and set the scale, the {len(series) - TRAINED} after them test; every forecast is of"
        f" one month ahead from the true months before it. Each network is one cell of {HIDDEN} hidden numbers and a linear"
        f" layer, {STEPS} steps of Adam at a rate of {LEARNING_RATE:g}, fixed before any test month was looked at."
        f" {SEEDS} seeds each."
    )
    outcome = (
        f"The best network by its own test error is the {best.method} with {best.window} months: {error[id(best)]:.1f}"
        f" against {error[id(seasonal)]:.1f} of seasonal-naive. "
    )
    if len(ties) > 1:
        others = ", ".join(f"{f.method} with {f.window}" for f in ties if f is not best)
        outcome += f"Within one standard deviation of its seeds lies also: {others}. "
    if losing:
        names = ", ".join(f"{f.method} with {f.window}" for f in losing)
        outcome += f"Seasonal-naive wins against {len(losing)} of {len(networks)} networks: {names}. "
    wins = "wins against all networks" if error[id(simple)] < error[id(best)] else "is the best of the simple ones"
    outcome += f"The method {simple.method!r} with {simple.window} months {wins}: {error[id(simple)]:.1f}."
    above = np.flatnonzero(series > series[TRAIN].max())
    short = {id(f): float(np.mean(series[above] - f.months[:, above])) for f in (best, simple)}
    limit = (
        f"{len(above)} of the {len(series) - TRAINED} test months lie above everything seen in training, where bounded gates"
        f" and states must extrapolate: there the best network falls short by {short[id(best)]:.1f} on average, and"
        f" {simple.method!r} with {simple.window} by {short[id(simple)]:.1f}. Only a window of {YEAR} months shows a"
        " network the same month of last year. So few months say nothing about which cell suits ticks; tickwatch compare"
        " does."
    )
    return [method, outcome, limit]


def _table(series: Months, found: list[Forecasts]) -> Table:
    errors = [(f, f.rmse(series, TRAIN), f.rmse(series, TEST)) for f in found]
    lowest = min(test.mean() for _, _, test in errors)
    rows = [
        [
            Cell(f.method),
            Cell(str(f.window)),
            Cell(_spread(train)),
            Cell(_spread(test), "best" if test.mean() == lowest else ""),
        ]
        for f, train, test in errors
    ]
    notes = (
        f"Root mean square error in thousands of passengers; for networks the mean and standard deviation of {SEEDS} seeds."
        " All are tested on the same months; the training error leaves out those before the first window."
    )
    return Table("Errors", ("method", "months", "training", "test"), rows, notes)


def _spread(errors: Months) -> str:
    return f"{errors.mean():.1f}" if len(errors) == 1 else f"{errors.mean():.1f} ± {errors.std(ddof=1):.1f}"


def _picture(series: Months, found: list[Forecasts], window: int) -> Picture:
    figure, axes = picture(9, 4)
    year = 1949 + np.arange(len(series)) / YEAR
    axes.plot(year, series, color="grey", linewidth=3, alpha=0.5, label="truth")
    for number, method in enumerate(NETWORKS):
        shown = next(f for f in found if f.method == method and f.window == window)
        axes.plot(
            year, shown.months.mean(axis=0), linewidth=1.2, label=f"{method}, mean of {SEEDS}", color=COLOURS[number]
        )
    seasonal = next(f for f in found if f.method.startswith("seasonal"))
    axes.plot(year, seasonal.months[0], linewidth=1, label="seasonal-naive", color=COLOURS[3])
    axes.axvline(year[TRAINED], color="grey", linestyle=":")
    axes.set_ylabel("passengers in thousands")
    legend(axes)
    title = f"Forecasts from {window} month{'s' * (window > 1)}"
    return Picture(f"window-{window}", title, figure, "Tested to the right of the dotted line.")
