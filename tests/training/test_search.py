"""A search finds settings that train again to the very loss it claims, and no stop of any kind costs a finished epoch."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import optuna
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from optuna.trial import TrialState
from rich.console import Console

from service.errors import TickwatchError
from training.fit import CHECKPOINT
from training.history import read_history
from training.search import FIRST_EPOCHS, FIRST_TRIALS, Search, attempt, finished, open_study, search

RandomTicks = Callable[[int, int], pa.Table]
# Ctrl-C must count also where the shell that runs the tests has it ignored.
MAIN = (
    "import signal, sys; signal.signal(2, signal.default_int_handler); from service.cli import main; sys.exit(main())"
)
QUIET = Console(quiet=True)


@pytest.fixture
def data(tmp_path: Path, random_ticks: RandomTicks) -> Path:
    (tmp_path / "ticks").mkdir()
    pq.write_table(random_ticks(1, 5_000), tmp_path / "ticks" / "A.parquet")
    return tmp_path / "ticks"


@pytest.fixture
def tickwatch(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts commands, each in a process group of its own, of which nothing is left after the test."""
    started: list[subprocess.Popen[str]] = []

    def run(*arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", MAIN, *arguments]
        environment = os.environ | {"COLUMNS": "300", "TERM": "dumb"}
        started.append(
            subprocess.Popen(
                command, cwd=tmp_path, env=environment, text=True, start_new_session=True,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )
        )  # fmt: skip
        return started[-1]

    yield run
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def wanted(folder: Path, trials: int, epochs: int = 3) -> Search:
    return Search(f"sqlite:///{folder / 'study.db'}", "tickwatch", trials, None, 1, epochs, seed=1, heartbeat_s=1)


def running(folder: Path, epochs: int) -> optuna.trial.FrozenTrial:
    """The trial that runs, once it has finished so many epochs."""
    for _ in range(1_000):
        if (folder / "trials").exists():  # made when the first one begins
            trials = open_study(wanted(folder, 9)).get_trials(deepcopy=False, states=[TrialState.RUNNING])
            if trials and len(trials[0].intermediate_values) >= epochs:
                return trials[0]
        time.sleep(0.1)
    raise TimeoutError("no trial runs")


@pytest.mark.timeout(300)
def test_two_processes_search_together_and_the_best_settings_train_again_to_the_same_loss(
    data: Path, tmp_path: Path, tickwatch: Callable[..., subprocess.Popen[str]]
) -> None:
    folder = tmp_path / "found"
    process = tickwatch("search", "--data", "ticks", "-o", "found", "--trials", "4", "--jobs", "2", "--epochs", "3")
    said, errors = process.communicate(timeout=140)
    assert process.returncode == 0, errors
    study = open_study(wanted(folder, 4))
    assert finished(study) in (4, 5)  # both may begin a last one
    assert {t.params["cell"] for t in study.trials[:3]} == {"rnn", "lstm", "gru"}  # each as `train` does by itself
    assert len(errors.splitlines()) == finished(study)

    command = said.splitlines()[-1]
    for form in ("report.html", "report.md"):
        text = (folder / form).read_text()
        assert command in text.replace("&#34;", '"')
        for part in ("Best of each cell", "What mattered", "Loss by learning rate", "All settings together"):
            assert part in text
    assert re.search(rf"\*\*{study.best_value:.4f}\*\*", (folder / "report.md").read_text())
    again = tickwatch(*command.split()[1:])
    said, errors = again.communicate(timeout=140)
    assert f"validation={study.best_value:.4f} " in said, errors


def test_ctrl_c_queues_the_trial_again_and_the_same_command_goes_on(
    data: Path, tmp_path: Path, tickwatch: Callable[..., subprocess.Popen[str]]
) -> None:
    process = tickwatch("search", "--data", "ticks", "-o", "found", "--trials", "1", "--epochs", "200")
    number = running(tmp_path / "found", epochs=2).number
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=140)
    assert process.returncode == 130, errors
    assert "stopped with 0 of 1 trials finished; the same command goes on with them" in errors.splitlines()[-1]
    states = [trial.state for trial in open_study(wanted(tmp_path / "found", 1)).trials]
    assert states[number] == TrialState.FAIL
    assert states[-1] == TrialState.WAITING
    assert TrialState.RUNNING not in states


@pytest.mark.timeout(300)
def test_a_killed_process_loses_no_finished_epoch(
    data: Path, tmp_path: Path, tickwatch: Callable[..., subprocess.Popen[str]]
) -> None:
    folder = tmp_path / "found"
    process = tickwatch("search", "--data", "ticks", "-o", "found", "--trials", "3", "--epochs", "6")
    killed = running(folder, epochs=2)
    os.killpg(process.pid, signal.SIGKILL)
    place = folder / "trials" / f"tickwatch-{killed.number}" / CHECKPOINT
    checkpoint = torch.load(place, weights_only=True)
    checkpoint["epochs"][0]["validation"] = 123.0  # so that it shows whether these epochs are taken over
    torch.save(checkpoint, place)

    reports: list[optuna.Study] = []
    search(read_history(data), wanted(folder, 3, epochs=6), folder, reports.append, QUIET)
    (study,) = reports
    (done,) = (t for t in study.get_trials(states=[TrialState.COMPLETE]) if t.params == killed.params)
    assert done.number != killed.number
    assert done.intermediate_values[0] == 123.0
    assert len(done.intermediate_values) == 6
    assert not any((folder / "trials").iterdir())


def test_a_process_that_dies_is_told_in_one_sentence(
    data: Path, tmp_path: Path, tickwatch: Callable[..., subprocess.Popen[str]]
) -> None:
    process = tickwatch("search", "--data", "ticks", "-o", "found", "--trials", "1", "--epochs", "200")
    running(tmp_path / "found", epochs=1)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    (worker,) = [pid for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(int(worker), signal.SIGKILL)
    _, errors = process.communicate(timeout=140)
    assert process.returncode == 1
    assert "all 1 processes ended with exit code -9; 0 of 1 trials are finished" in errors.splitlines()[-1]


def test_a_search_ends_when_its_time_is_up_and_keeps_what_runs(data: Path, tmp_path: Path) -> None:
    late = Search(f"sqlite:///{tmp_path / 'study.db'}", "tickwatch", 99, 0.01, 1, 3, seed=1)
    search(read_history(data), late, tmp_path, lambda _: pytest.fail("there is nothing to report"), QUIET)
    assert finished(open_study(late)) == 0


def test_a_trial_worse_than_half_of_the_others_ends_early(tmp_path: Path) -> None:
    aim = wanted(tmp_path, 9, epochs=6)
    study = open_study(aim)
    for _ in range(FIRST_TRIALS):
        study.add_trial(optuna.create_trial(value=1e-9, intermediate_values=dict.fromkeys(range(6), 1e-9)))
    study.enqueue_trial({"cell": "rnn", "hidden": 8, "bottleneck": 2})
    noise = np.random.default_rng(1).normal(size=(2_000, 6)).astype(np.float32)
    study.optimize(lambda trial: attempt(study, trial, aim, [noise], "noise", tmp_path, lambda: False), n_trials=1)
    tried = study.trials[-1]
    assert tried.state == TrialState.PRUNED
    assert len(tried.intermediate_values) == FIRST_EPOCHS + 1
    assert finished(study) == FIRST_TRIALS + 1
    assert not any((tmp_path / "trials").iterdir())


def test_trials_that_cannot_be_compared_are_refused(data: Path, tmp_path: Path) -> None:
    study = open_study(wanted(tmp_path, 1))
    study.set_user_attr("fingerprint", read_history(data).fingerprint)
    study.set_user_attr("epochs", 4)
    with pytest.raises(TickwatchError, match="study tickwatch was made with epochs 4; give the same, or another"):
        search(read_history(data), wanted(tmp_path, 1), tmp_path, lambda _: None, QUIET)
    study.set_user_attr("fingerprint", "other")
    with pytest.raises(TickwatchError, match="was made from other data"):
        search(read_history(data), wanted(tmp_path, 1), tmp_path, lambda _: None, QUIET)


@pytest.mark.parametrize("storage", ["nowhere", "sqlite:////nowhere/study.db", "oracle://me:hunter2@host/name"])
def test_a_database_that_cannot_be_used_is_one_sentence_without_its_password(data: Path, storage: str) -> None:
    with pytest.raises(TickwatchError, match="--storage: the database can't be used") as raised:
        open_study(Search(storage, "s", 1, None, 1, 3, seed=1))
    assert "hunter2" not in str(raised.value)
    assert "\n" not in str(raised.value)
