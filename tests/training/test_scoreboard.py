"""Tables say who is best, also where that is a baseline, and which promises were broken."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.samples import random_ticks
from training.benchmark import Run
from training.evaluate import evaluate
from training.inject import Event, Injected
from training.report import Cell, Mark
from training.scoreboard import (
    budget_table,
    heat_map,
    interval,
    kind_table,
    main_table,
    precision_recall,
    promises,
    rows,
    stream_table,
)

EVENTS = [Event("flash_crash", 3_000, 3_100), Event("wild_print_5", 6_000, 6_001)]
STREAM = Injected(random_ticks(12_000, streams=1), EVENTS, 1_000)
GOOD, LATE, BLIND = 0, 90, 5_000  # ticks by which the first alert comes after the start of an event


def run(group: str, delay: int, name: str = "", injection: int = 1, false_alarms: int = 0) -> Run:
    score: NDArray[np.float64] = np.random.default_rng(0).random(len(STREAM.ticks))
    for event in EVENTS:
        score[event.start + delay : event.start + delay + 10] = 5.0
    score[8_000 : 8_000 + 100 * false_alarms : 100] = 9.0
    result = evaluate(lambda _: score, STREAM, {20.0: 7.0} if group.startswith("model") else {})
    return Run(name or group, group, not group.startswith("model"), injection, 1.0, result)


def marked(cells: Sequence[Sequence[Cell]], column: int) -> list[str]:
    return [row[column].mark for row in cells]


def test_an_interval_is_students() -> None:
    mean, half = interval([1.0, 2.0, 3.0])
    assert (mean, half) == pytest.approx((2.0, 4.302652729911275 / np.sqrt(3)))
    assert interval([1.0])[0] == 1.0
    assert np.isnan(interval([1.0])[1])
    assert np.isnan(interval([np.nan])[0])
    assert interval([np.nan, 4.0])[0] == 4.0


def test_the_winner_is_marked_and_a_winning_baseline_is_named() -> None:
    table = main_table(rows([run("model", BLIND), run("simple", GOOD)]))
    assert marked(table.rows, 1) == ["", "beaten"]
    assert table.notes.startswith("A baseline is best in VUS-PR,")
    table = main_table(rows([run("model", GOOD), run("simple", BLIND)]))
    assert marked(table.rows, 1) == ["best", ""]
    assert table.notes.startswith("No baseline is best")


def test_a_baseline_that_shares_the_first_place_has_not_won() -> None:
    table = main_table(rows([run("model", GOOD), run("simple", GOOD), run("blind", BLIND)]))
    assert marked(table.rows, 1) == ["best", "best", ""]
    assert "No baseline" in table.notes


def test_training_seeds_are_replicates_and_else_injections_are() -> None:
    seeds = [run("model", GOOD, "model-1"), run("model", LATE, "model-2")]
    (row,) = rows([*seeds, *(run("model", GOOD, name, 2) for name in ("model-1", "model-2"))])
    assert [{r.candidate for r in replicate} for replicate in row.replicates] == [{"model-1"}, {"model-2"}]
    (row,) = rows([run("model", GOOD), run("model", LATE, injection=2)])
    assert [{r.injection for r in replicate} for replicate in row.replicates] == [{1}, {2}]
    assert "±" in main_table([row]).rows[0][1].text
    assert "±" not in main_table(rows(seeds[:1])).rows[0][1].text


def test_a_broken_promise_is_marked_and_detectors_without_one_are_left_out() -> None:
    normal = 11_000 - 101 - 2 * 150
    marks: tuple[Mark, ...] = ("off", "off", "", "off")
    for count, mark in enumerate(marks):
        table = budget_table(rows([run("model", GOOD, false_alarms=count), run("simple", GOOD)]), 20.0)
        assert table.rows == [[Cell("model"), Cell(f"{count * 1e5 / normal:.1f}", mark)]]


def test_kinds_streams_and_pictures_hold_every_detector() -> None:
    table = rows([run("model", GOOD), run("simple", LATE)])
    kinds = kind_table(table, "recall@20")
    assert [row[0].text for row in kinds.rows] == ["flash_crash (1)", "wild_print_5 (1)"]
    assert kinds.columns == ["kind", "model", "simple"]
    assert [row[0].text for row in stream_table(table, "ap").rows] == ["model", "simple"]
    for drawn in (heat_map(table, "recall@100"), precision_recall(table)):
        assert "model" in drawn.svg
        assert "simple" in drawn.svg
    assert "model" in promises(table).svg
