"""`tickwatch evaluate`: from a folder of ticks to a report with every detector, and clean ends where it can't."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from rich.console import Console

from service.autoencoder import find, load
from service.errors import TickwatchError
from service.ticks import Ticks
from tests.samples import random_ticks, shipped
from training.assess import assess, contestants
from training.baselines import BASELINES
from training.benchmark import benchmark, learned, usable
from training.evaluate import Candidate, Detector
from training.fit import Interrupted

CLEAN = 2_000
QUIET = Console(quiet=True)


@pytest.fixture
def data(tmp_path: Path, random_ticks: Callable[[int, int], pa.Table]) -> Path:
    (tmp_path / "ticks").mkdir()
    pq.write_table(random_ticks(1, 30_000), tmp_path / "ticks" / "LONG.parquet")
    pq.write_table(random_ticks(2, 1_000), tmp_path / "ticks" / "SHORT.parquet")
    return tmp_path / "ticks"


def test_the_report_holds_every_model_and_baseline_and_the_results_every_run(data: Path, tmp_path: Path) -> None:
    done = assess(data, ["gru", str(shipped("lstm"))], True, 1, 30.0, tmp_path / "out", QUIET, CLEAN)
    names = ["GRU 32/4", "LSTM 32/4", *BASELINES]
    assert done.runs == len(names)
    markdown = (tmp_path / "out" / "report.md").read_text()
    html = (tmp_path / "out" / "report.html").read_text()
    for name in names:
        assert f"\n| {name} | " in markdown
        assert f"<td>{name}</td>" in html
    assert "Realised alert budget, 30 promised" in markdown
    assert f"after a clean head of {CLEAN:,} count" in markdown
    record = json.loads((tmp_path / "out" / "results.json").read_bytes())
    assert [run["group"] for run in record["runs"]] == names
    assert set(record["runs"][0]["result"]["realised"]) >= {"20.0", "30.0", "200.0"}
    assert {path.suffix for path in (tmp_path / "out").iterdir()} == {".html", ".md", ".svg", ".json"}


def test_a_stream_that_is_too_short_is_left_out_with_its_reason() -> None:
    streams = {"A": random_ticks(10_000, streams=1), "B": random_ticks(500, streams=1)}
    kept, why_not = usable(streams, [1, 2], CLEAN)
    assert [len(ticks) for ticks in kept] == [10_000]
    assert len(why_not) == 1
    assert "has 500 ticks" in why_not[0]
    with pytest.raises(TickwatchError, match=r"no stream can be evaluated: .* has 500 ticks"):
        usable({"B": streams["B"]}, [1], CLEAN)


def test_models_of_one_cell_that_differ_by_their_seed_are_one_group() -> None:
    gru, lstm = load(find("gru")), load(find("lstm"))
    second = replace(gru, id="gru-second")
    assert [c.group for c in contestants([gru, second, lstm])] == ["GRU 32/4, 2 seeds"] * 2 + ["LSTM 32/4"]
    with pytest.raises(TickwatchError, match="the same model is given twice"):
        contestants([gru, gru])


@pytest.mark.usefixtures("_ctrl_c_counts")
def test_ctrl_c_ends_an_evaluation_with_a_sentence() -> None:
    def prepare(_head: Ticks) -> Detector:
        def score(_ticks: Ticks) -> NDArray[np.float64]:
            signal.raise_signal(signal.SIGINT)
            raise AssertionError("not reached")

        return score

    with pytest.raises(Interrupted, match="stopped after 0 of 2 runs; nothing was written") as stopped:
        benchmark([Candidate("x", "x", True, prepare)], [random_ticks(30_000, streams=1)], [1, 2], [], QUIET, CLEAN)
    assert stopped.value.exit_code == 130


@pytest.mark.usefixtures("_ctrl_c_counts")
def test_ctrl_c_while_baselines_learn_ends_with_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_history: list[Ticks]) -> Candidate:
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("not reached")

    monkeypatch.setitem(BASELINES, "EWMA z-score", interrupted)
    with pytest.raises(Interrupted, match="while the baselines were learning"):
        learned([random_ticks(3_000, streams=1)], QUIET)


def test_other_kinds_are_told_apart_from_the_standard_ones(data: Path, tmp_path: Path) -> None:
    assess(data, ["gru"], False, 1, 20.0, tmp_path / "out", QUIET, CLEAN, kinds="other")
    report = (tmp_path / "out" / "report.md").read_text()
    assert "anomalies of up to 28 kinds" in report
    assert "time_ahead" in report
    assert "wild_print" not in report
    with pytest.raises(TickwatchError, match=r"--kinds others: .*choose from standard, other"):
        assess(data, ["gru"], False, 1, 20.0, tmp_path / "out", QUIET, CLEAN, kinds="others")


def test_an_output_that_cannot_be_made_is_found_out_first(data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TickwatchError, match=r"--output .* can't be made .*; give another folder"):
        assess(data, ["gru"], False, 1, 20.0, tmp_path / "file", QUIET, CLEAN)
