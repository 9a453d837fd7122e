"""`tickwatch evaluate --leave-one-out`: no stream is judged by what has learned from it, and nothing is trained twice."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from service.autoencoder import find, load
from service.errors import TickwatchError
from training.anomalies import KINDS
from training.assess import assess
from training.baselines import BASELINES
from training.benchmark import TRAINING_SHARE, benchmark
from training.history import fingerprint, read_history
from training.linear import no_network
from training.unseen import unseen

CLEAN = 2_000
QUIET = Console(quiet=True)


@pytest.fixture
def data(tmp_path: Path, random_ticks: Callable[[int, int], pa.Table]) -> Path:
    folder = tmp_path / "ticks"
    folder.mkdir()
    for seed, name in enumerate(("A", "B:1", "C"), start=1):
        pq.write_table(random_ticks(seed, 8_000), folder / f"{name}.parquet")
    return folder


def test_each_stream_is_judged_by_models_trained_on_the_others(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assess(data, ["gru"], False, 1, 20.0, out, QUIET, CLEAN, leave_one_out=True)
    history = read_history(data)
    trained = {path.parent.name: load(path) for path in (out / "runs").glob("*/model.onnx")}
    assert {name.rpartition("-")[2] for name in trained} == {"A", "B%3A1", "C"}
    for name, model in trained.items():
        left_out = name.rpartition("-")[2].replace("%3A", ":")
        others = {stream: ticks for stream, ticks in history.streams.items() if stream != left_out}
        assert model.card.data_fingerprint == fingerprint(others)
        assert (model.card.cell, model.card.seed) == ("gru", load(find("gru")).card.seed)
    record = json.loads((out / "results.json").read_bytes())
    assert [run["result"]["stream"] for run in record["runs"]] == ["A", "B:1", "C"]
    assert {run["group"] for run in record["runs"]} == {"GRU 32/4"}
    markdown = (out / "report.md").read_text()
    assert "No detector has seen the stream that it is judged on" in markdown
    assert "learned from these very streams" not in markdown

    written = {path: path.stat().st_mtime_ns for path in (out / "runs").glob("*/model.onnx")}
    assess(data, ["gru"], False, 1, 20.0, out, QUIET, CLEAN, leave_one_out=True)
    assert {path: path.stat().st_mtime_ns for path in written} == written
    again = json.loads((out / "results.json").read_bytes())
    assert [run["result"] for run in again["runs"]] == [run["result"] for run in record["runs"]]


def test_baselines_learn_from_the_other_streams_too(data: Path, tmp_path: Path) -> None:
    (data / "C.parquet").unlink()
    history = read_history(data)
    streams = list(history.streams.values())
    runs = unseen([], True, history, streams, [1], [100.0], tmp_path, QUIET, CLEAN, KINDS)
    assert [run.candidate for run in runs] == [*BASELINES, *BASELINES]
    for ticks, other in (streams, streams[::-1]):
        train = other.take(np.arange(round(len(other) * TRAINING_SHARE)))
        (expected,) = benchmark([no_network([train])], [ticks], [1], [100.0], QUIET, CLEAN)
        (found,) = (r for r in runs if (r.candidate, r.result.stream) == ("no network", ticks.stream[0]))
        assert found.result == expected.result


def test_a_single_stream_can_not_be_left_out(data: Path, tmp_path: Path) -> None:
    with pytest.raises(TickwatchError, match=r"--leave-one-out: 'A' is the only stream; give at least two"):
        assess(data / "A.parquet", ["gru"], False, 1, 20.0, tmp_path / "out", QUIET, CLEAN, leave_one_out=True)
