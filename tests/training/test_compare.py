"""`tickwatch compare`: every cell and seed in one report, and nothing trained twice."""

from __future__ import annotations

import io
import json
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from service.errors import TickwatchError
from training.compare import Plan, compare
from training.comparison import report
from training.fit import Interrupted, Settings

SMALL = Settings("rnn", hidden=4, bottleneck=2, epochs=2, lanes=8, chunk=32)
PLAN = Plan(("rnn", "lstm", "gru"), 2, SMALL, injections=1, memory_steps=1, clean=2_000)
QUIET = Console(quiet=True)


@pytest.fixture
def data(tmp_path: Path, random_ticks: Callable[[int, int], pa.Table]) -> Path:
    (tmp_path / "ticks").mkdir()
    pq.write_table(random_ticks(1, 20_000), tmp_path / "ticks" / "A.parquet")
    return tmp_path / "ticks"


def test_every_cell_is_measured_and_a_second_call_trains_nothing(data: Path, tmp_path: Path) -> None:
    found = compare(data, PLAN, tmp_path / "out", QUIET)
    report(found, PLAN).write(tmp_path / "out")
    written = {p: p.stat().st_mtime_ns for p in (tmp_path / "out" / "runs").glob("*/model.onnx")}
    assert {p.parent.name for p in written} == {f"{cell}-{seed}" for cell in PLAN.cells for seed in (1, 2)}
    markdown = (tmp_path / "out" / "report.md").read_text()
    for cell in ("RNN", "LSTM", "GRU"):
        assert f"\n| {cell} 4/2, 2 seeds | " in markdown
        assert markdown.count(f"\n| {cell} | ") == 2  # what it costs, what it remembers
    for name in ("losses", "memory", "gradients", "promises", "precision-recall", "recall-by-kind"):
        assert (tmp_path / "out" / f"{name}.svg").exists()
    assert len(json.loads((tmp_path / "out" / "results.json").read_bytes())["runs"]) == 6

    sizes = {t.model.card.cell: (t.parameters, t.model.recurrent) for t in found.trials}
    assert sizes["rnn"][0] < sizes["gru"][0] < sizes["lstm"][0]
    assert [sizes[cell][1] for cell in PLAN.cells] == [8, 16, 8]
    assert all(t.kept.cpu_seconds > 0 and min(t.call_us) > 0 and t.reach[0] == 1.0 for t in found.trials)

    again = compare(data, PLAN, tmp_path / "out", QUIET)
    assert {p: p.stat().st_mtime_ns for p in written} == written
    assert [run.result for run in again.runs] == [run.result for run in found.runs]


class CtrlC(io.StringIO):
    """A terminal at which someone presses Ctrl-C when the first epoch is reported."""

    def write(self, text: str) -> int:
        if "epoch 1:" in text:
            signal.raise_signal(signal.SIGINT)
        return super().write(text)


@pytest.mark.usefixtures("_ctrl_c_counts")
def test_an_interrupted_comparison_goes_on_where_it_stopped(data: Path, tmp_path: Path) -> None:
    plan = replace(PLAN, cells=("gru",), seeds=1)
    with pytest.raises(Interrupted, match="stopped while gru-1 was learning; the same command goes on"):
        compare(data, plan, tmp_path / "out", Console(file=CtrlC()))
    before = json.loads((tmp_path / "out" / "runs" / "gru-1" / "kept.json").read_bytes())
    assert not before["finished"]
    log = io.StringIO()
    found = compare(data, plan, tmp_path / "out", Console(file=log))
    assert "epoch 1:" not in log.getvalue()
    assert "epoch 2:" in log.getvalue()
    assert found.trials[0].kept.cpu_seconds > before["cpu_seconds"]


def test_a_folder_with_other_settings_or_data_is_refused(
    data: Path, tmp_path: Path, random_ticks: Callable[[int, int], pa.Table]
) -> None:
    plan = replace(PLAN, cells=("rnn",), seeds=1)
    compare(data, plan, tmp_path / "out", QUIET)
    with pytest.raises(TickwatchError, match=r"rnn-1 holds a training with other settings; remove it"):
        compare(data, replace(plan, settings=replace(SMALL, hidden=5)), tmp_path / "out", QUIET)
    pq.write_table(random_ticks(5, 20_000), data / "A.parquet")
    with pytest.raises(TickwatchError, match=r"rnn-1 holds a training with other data; remove it"):
        compare(data, plan, tmp_path / "out", QUIET)
