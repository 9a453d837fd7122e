"""`tickwatch run` as a person uses it: a process that is fed, watched, interrupted, killed and resumed."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.autoencoder import load
from service.scorer import Scorer
from service.ticks import encode
from tests.samples import CELLS, random_ticks, shipped, with_numbers

TICKWATCH = Path(sys.executable).parent / "tickwatch"
SUMMARY = re.compile(r"^summary: ticks=(\d+) streams=(\d+) alerts=(\d+) seconds=[\d.]+$")
CALM = random_ticks(40_000, streams=6)
TICKS = with_numbers(CALM, 30_000, price=CALM.price[30_000] * 1.5)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "ticks.jsonl"
    path.write_bytes(b"\n".join(encode(TICKS)) + b"\n")
    return path


def start(folder: Path, *options: str) -> subprocess.Popen[str]:
    command = [str(TICKWATCH), "run", "--port", "0", "--data-dir", str(folder / "data"), *options]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(folder: Path, *options: str) -> tuple[int, int, int]:
    """(ticks, streams, alerts) of the summary line, which must be the last."""
    out, err = start(folder, *options).communicate(timeout=100)
    assert err == ""
    found = SUMMARY.match(out.splitlines()[-1])
    assert found, out
    ticks, streams, alerts = map(int, found.groups())
    return ticks, streams, alerts


def rows(folder: Path, query: str) -> list[tuple[Any, ...]]:
    db = sqlite3.connect(folder / "data" / "log.sqlite")
    found = db.execute(query).fetchall()
    db.close()
    return found


def scored(folder: Path) -> int:
    """The next offset to read, 0 before the first commit."""
    if not (folder / "data" / "log.sqlite").exists():
        return 0
    try:
        found = rows(folder, "SELECT next FROM offsets")
    except sqlite3.OperationalError:  # no table yet
        return 0
    return int(found[0][0]) if found else 0


def published(folder: Path) -> tuple[list[int], list[float]]:
    """(offsets, scores) of all score frames in order."""
    frames = [json.loads(value) for (value,) in rows(folder, "SELECT value FROM scores ORDER BY id")]
    return [o for f in frames for o in f["offset"]], [s for f in frames for s in f["score"]]


@pytest.mark.parametrize("cell", CELLS)
def test_a_file_at_full_speed_is_scored_whole_with_the_bits_of_replay(tmp_path: Path, file: Path, cell: str) -> None:
    ticks, streams, alerts = run(tmp_path, "--ticks", str(file), "--scores", "--model", cell)
    verdicts = Scorer(load(shipped(cell)), 20).score(TICKS).verdicts
    offsets, scores = published(tmp_path)
    assert (ticks, streams, alerts) == (len(TICKS), 6, int(verdicts.alert.sum()))
    assert offsets == list(range(len(TICKS)))
    assert scores == verdicts.score.tolist()
    found = [json.loads(v)["data"]["offset"] for (v,) in rows(tmp_path, "SELECT value FROM alerts ORDER BY id")]
    assert found == np.flatnonzero(verdicts.alert).tolist()
    assert 30_000 in found


def test_a_killed_run_resumes_where_it_stopped_and_scores_no_tick_twice(tmp_path: Path, file: Path) -> None:
    options = ["--ticks", str(file), "--scores"]
    pace = ["--speed", str((TICKS.ts[-1] - TICKS.ts[0]) / 1e9 / 10)]  # all of them take ten seconds
    for attempt in range(3):
        resume = ["--resume"] if attempt else []
        process = start(tmp_path, *options, *pace, *resume)
        before = scored(tmp_path) if attempt else 0
        while scored(tmp_path) <= before:
            assert process.poll() is None
            time.sleep(0.1)
        time.sleep(0.3 * attempt)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert 0 < scored(tmp_path) < len(TICKS)
    run(tmp_path, *options, "--resume")
    offsets, scores = published(tmp_path)
    assert offsets == list(range(len(TICKS)))
    assert scores == Scorer(load(shipped("gru")), 20).score(TICKS).verdicts.score.tolist()


def test_starting_without_resume_starts_afresh_and_keeps_the_last_log(tmp_path: Path, file: Path) -> None:
    first = run(tmp_path, "--ticks", str(file))
    second = run(tmp_path, "--ticks", str(file))
    assert first == second
    assert (tmp_path / "data" / "previous.sqlite").exists()
    assert run(tmp_path, "--ticks", str(file), "--resume")[0] == 0


def test_bad_rows_are_dead_letters_and_the_rest_is_scored(tmp_path: Path) -> None:
    lines = encode(TICKS)[:2000]
    lines[100], lines[200] = b"junk", lines[200].replace(b'"price":', b'"price":-1e99,"x":')
    (tmp_path / "mixed.jsonl").write_bytes(b"\n".join(lines))
    assert run(tmp_path, "--ticks", "mixed.jsonl")[0] == 1998
    letters = rows(tmp_path, "SELECT offset, reason FROM dead_letters ORDER BY offset")
    assert [offset for offset, _ in letters] == [100, 200]
    assert "price" in letters[1][1]


def test_the_simulated_market_runs_for_its_duration_and_a_resumed_one_goes_on(tmp_path: Path) -> None:
    ticks, streams, _ = run(tmp_path, "--duration", "4")
    assert ticks > 500
    assert streams > 5
    more, _, _ = run(tmp_path, "--duration", "3", "--resume")
    assert rows(tmp_path, "SELECT next FROM offsets") == [(ticks + more,)]


def test_speed_paces_ticks_by_their_own_clock(tmp_path: Path, file: Path) -> None:
    span_s = (TICKS.ts[-1] - TICKS.ts[0]) / 1e9
    ticks, _, _ = run(tmp_path, "--ticks", str(file), "--speed", str(span_s / 20), "--duration", "4")
    assert 0 < ticks < 0.3 * len(TICKS)  # a busy machine may read later, never sooner


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_cleanly_with_its_summary(tmp_path: Path, number: signal.Signals) -> None:
    process = start(tmp_path)
    assert process.stdout is not None
    for line in process.stdout:
        if "ticks/s" in line:
            break
    time.sleep(1)
    process.send_signal(number)
    out, err = process.communicate(timeout=140)
    assert SUMMARY.match(out.splitlines()[-1])
    assert (process.returncode, err) == (0, "")
    assert rows(tmp_path, "SELECT next FROM offsets")[0][0] > 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--ticks", "nowhere.parquet"], "nowhere.parquet does not exist"),
        (["--model", "nowhere.onnx"], "nowhere.onnx: cannot be read"),
        (["--alert-budget", "0"], "alert_budget 0"),
        (["--resume", "--ticks", "other.jsonl"], "did not read tick files"),
    ],
)
def test_a_mistake_is_told_in_one_line_with_a_nonzero_exit(tmp_path: Path, options: list[str], words: str) -> None:
    (tmp_path / "other.jsonl").write_bytes(encode(TICKS)[0])
    if "--resume" in options:
        run(tmp_path, "--duration", "1")
    process = start(tmp_path, *options)
    _, err = process.communicate(timeout=140)
    assert process.returncode != 0
    assert words in err
    assert len(err.splitlines()) == 1
    assert err.startswith("tickwatch: ")


def test_a_traceback_appears_only_with_debug(tmp_path: Path) -> None:
    command = [str(TICKWATCH), "--debug", "run", "--ticks", "nowhere"]
    found = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, check=False, env=os.environ | {"COLUMNS": "200"}
    )
    assert "Traceback" in found.stderr
