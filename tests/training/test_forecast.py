"""The airline passengers experiment is the published one, sees no test month, and says honestly who wins."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from service.card import CellKind
from training.forecast import TRAINED, Forecasts, Months, by_lag, by_line, by_network, passengers, windows
from training.forecastreport import report

SERIES = passengers()


def test_the_series_is_the_one_that_box_and_jenkins_published() -> None:
    years = SERIES.reshape(12, 12)
    assert years[0].tolist() == [112, 118, 132, 129, 121, 135, 148, 148, 136, 119, 104, 118]
    assert years[-1].tolist() == [417, 391, 419, 461, 472, 535, 622, 606, 508, 461, 390, 432]
    assert SERIES.sum() == 40_363


def test_a_window_holds_the_months_before_the_one_to_forecast() -> None:
    np.testing.assert_array_equal(windows(np.arange(6.0), 3), [[0, 1, 2], [1, 2, 3], [2, 3, 4]])
    np.testing.assert_array_equal(by_lag(np.arange(4.0), 1), [np.nan, 0, 1, 2])


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_no_forecast_knows_the_month_it_is_for_or_any_after_it(cell: CellKind) -> None:
    def known(series: Months) -> list[Months]:
        return [by_network(series, cell, 3, seed=1, steps=5)[:121], by_line(series, 3)[:121], by_lag(series, 12)[:121]]

    other = SERIES.copy()
    other[120:] = 1_000.0
    np.testing.assert_array_equal(known(SERIES), known(other))


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_a_network_that_sees_a_year_fits_the_months_it_is_trained_on_better_than_any_naive_forecast(
    cell: CellKind,
) -> None:
    learned = Forecasts(cell, 12, by_network(SERIES, cell, 12, seed=1)[None])
    naive = Forecasts("naive", 1, by_lag(SERIES, 1)[None])
    fitted = slice(12, TRAINED)
    assert learned.rmse(SERIES, fitted)[0] < 0.8 * naive.rmse(SERIES, fitted)[0]
    again = by_network(SERIES, cell, 12, seed=1)
    np.testing.assert_array_equal(learned.months[0], again)


def made(network_error: float) -> list[Forecasts]:
    """Forecasts that miss by so much, beside the true baselines."""
    networks = [
        Forecasts(cell, window, np.stack([SERIES + network_error, SERIES - network_error]))
        for cell in ("RNN", "LSTM", "GRU")
        for window in (1, 12)
    ]
    seasonal = Forecasts("seasonal-naive: the same month a year before", 12, by_lag(SERIES, 12)[None])
    return [seasonal, Forecasts("line, least squares", 12, by_line(SERIES, 12)[None]), *networks]


def test_the_report_says_so_where_a_simple_forecast_wins(tmp_path: Path) -> None:
    lost, won = report(SERIES, made(60.0)).markdown(), report(SERIES, made(5.0)).markdown()
    assert "Seasonal-naive wins against 6 of 6 networks: RNN with 1, RNN with 12" in lost
    assert "'line, least squares' with 12 months wins against all networks: 21.0" in lost
    assert "| line, least squares | 12 | 11.1 | **21.0** |" in lost
    assert "Seasonal-naive wins" not in won
    assert "'line, least squares' with 12 months is the best of the simple ones: 21.0" in won
    assert "| RNN | 1 | 5.0 ± 0.0 | **5.0 ± 0.0** |" in won
    report(SERIES, made(5.0)).write(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"report.html", "report.md", "window-1.svg", "window-12.svg"}
