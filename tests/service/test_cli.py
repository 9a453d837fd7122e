"""The command line helps on every level, takes each option from the environment too, and tells mistakes in one line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
from typer.main import get_command

from service.cli import app
from service.ticks import encode
from tests.samples import random_ticks, shipped

TICKWATCH = Path(sys.executable).parent / "tickwatch"
LEVELS: tuple[list[str], ...] = (
    [],
    ["run"],
    ["worker"],
    ["replay"],
    ["report"],
    ["topics"],
    ["topics", "create"],
    ["train"],
    ["plot"],
    ["evaluate"],
    ["compare"],
    ["search"],
    ["forecast"],
)


def tickwatch(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"COLUMNS": "250", "NO_COLOR": "1", "TERM": "dumb"} | environment
    command = [str(TICKWATCH), *arguments]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=100)


@pytest.mark.parametrize("level", LEVELS, ids=" ".join)
def test_help_on_every_level_tells_what_it_is_for_and_every_option(tmp_path: Path, level: list[str]) -> None:
    found = tickwatch(tmp_path, *level, "--help")
    assert found.returncode == 0
    assert f"Usage: {' '.join(['tickwatch', *level])}" in found.stdout
    assert found.stderr == ""


def options() -> list[typer.core.TyperOption]:
    root = get_command(app)
    commands = [root.commands[name] for name in ("run", "worker", "replay")]  # type: ignore[attr-defined]
    commands.append(root.commands["topics"].commands["create"])  # type: ignore[attr-defined]
    return [p for c in commands for p in c.params if isinstance(p, typer.core.TyperOption)]


def test_every_option_has_help_and_its_environment_variable_is_named_after_it() -> None:
    local = {"--output", "--explain", "--help"}  # of one call, not of an installation
    for option in options():
        flag = option.opts[0]
        assert option.help, flag
        if flag not in local:
            assert option.envvar == "TICKWATCH_" + flag.strip("-").replace("-", "_").upper()


def test_no_option_takes_a_secret_and_none_is_shown(tmp_path: Path) -> None:
    assert not any("password" in o.opts[0] and "file" not in o.opts[0] for o in options())
    assert "hunter2" not in tickwatch(tmp_path, "worker", "--help", TICKWATCH_PASSWORD="hunter2").stdout


def test_an_option_can_be_given_by_environment(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_bytes(b"\n".join(encode(random_ticks(300))))
    found = tickwatch(
        tmp_path, "replay", "t.jsonl", "-o", "out.parquet", TICKWATCH_MODEL="lstm", TICKWATCH_ALERT_BUDGET="5"
    )
    assert found.returncode == 0
    assert "rows=300" in found.stdout
    assert "model=lstm-" in found.stdout
    assert pq.read_table(tmp_path / "out.parquet").num_rows == 300


def test_rejected_rows_are_told_with_file_row_and_reason(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_bytes(b"\n".join([*encode(random_ticks(20)), b"junk"]))
    found = tickwatch(tmp_path, "replay", "t.jsonl", "-o", "out.parquet")
    assert "t.jsonl, row 20: not JSON" in found.stderr
    assert "rejected=1" in found.stdout
    assert found.returncode == 0


def test_a_replay_that_scores_nothing_fails(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("ts,price\n" + "1,x\n" * 9)
    found = tickwatch(tmp_path, "replay", "t.csv", "-o", "out.parquet")
    assert found.returncode == 1
    assert "none of the 9 rows could be read" in found.stderr
    assert pq.read_table(tmp_path / "out.parquet")["rejected"].null_count == 0


def test_a_file_in_the_wrong_order_and_columns_that_are_not_used_are_told(tmp_path: Path) -> None:
    ticks = random_ticks(300, streams=2)
    columns = {"ts": ticks.ts[::-1], "price": ticks.price, "symbol": ticks.stream}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    found = tickwatch(tmp_path, "replay", "t.parquet", "-o", "out.parquet")
    assert found.returncode == 0
    assert "late=299 " in found.stdout
    assert "a tick has no such columns: symbol" in found.stderr
    assert "299 of the 300 ticks of t are older than one before them" in found.stderr
    assert "sorted by ts?" in found.stderr
    pq.write_table(pa.table({"ts": ticks.ts, "price": ticks.price, "stream": ticks.stream}), tmp_path / "t.parquet")
    assert tickwatch(tmp_path, "replay", "t.parquet", "-o", "out.parquet").stderr == ""


@pytest.mark.parametrize(
    ("arguments", "words", "code"),
    [
        (["replay", "nowhere.csv", "-o", "o.parquet"], "nowhere.csv does not exist", 1),
        (["replay", "model", "-o", "o.parquet", "--model", "t.jsonl"], "model t.jsonl: not an ONNX file", 3),
        (["replay", "model", "-o", "nowhere/o.parquet"], "--output nowhere/o.parquet", 1),
        (["replay", "model", "-o", "./t.jsonl"], "--output t.jsonl: holds ticks", 1),
        (["replay", "model", "-o", "o.csv"], "--output o.csv: scores are written as Parquet", 1),
        (["score", "model", "-o", "o.csv"], "--output o.csv: scores are written as Parquet", 1),
        (["train", "--data", ".", "-o", "m.onnx", "--cell", "cnn"], "--cell cnn", 1),
        (["train", "-o", "m.onnx"], "give either --data or --from-kafka", 1),
        (["train", "-o", "m.onnx", "--data", ".", "--from-kafka", "ticks"], "give either --data or --from-kafka", 1),
        (["search", "--data", "nowhere", "-o", "found"], "nowhere does not exist", 1),
        (["search", "--data", "nowhere", "-o", "t.jsonl"], "--output t.jsonl: File exists", 1),
        (["plot", "S0", "-d", "t.jsonl", "-o", "p.png", "--at", "noon"], "--at noon", 1),
        (["evaluate", "--data", ".", "-o", "out"], "give --model, --baselines, or both", 1),
        (["evaluate", "--data", "t.jsonl", "-o", "out", "--model", "gru"], "no stream can be evaluated", 1),
        (["evaluate", "--data", "t.jsonl", "-o", "out", "--model", "t.jsonl"], "model t.jsonl: not an ONNX file", 3),
        (["compare", "--data", "t.jsonl", "-o", "out", "--cells", "gru,cnn"], "--cells cnn", 1),
        (["compare", "--data", "t.jsonl", "-o", "out"], "no stream can be evaluated", 1),
        (["worker", "--password-file", "nowhere"], "--password-file nowhere", 1),
        (["worker", "--format", "xml"], "json, avro, protobuf or binary", 1),
        (["worker", "--processing-guarantee", "none"], "known are exactly-once and at-least-once", 1),
        (["worker", "--format", "avro", "--schema", "nowhere"], "--schema nowhere", 1),
        (
            ["worker", "--schema-registry", "http://x", "--schema-registry-login-file", "nowhere"],
            "--schema-registry-login-file nowhere",
            1,
        ),
    ],
)
def test_a_mistake_is_one_line_on_stderr_and_an_exit_code(
    tmp_path: Path, arguments: list[str], words: str, code: int
) -> None:
    (tmp_path / "t.jsonl").write_bytes(b"\n".join(encode(random_ticks(20))))
    arguments = ["t.jsonl" if a == "model" else a for a in arguments]
    found = tickwatch(tmp_path, *arguments)
    assert (found.returncode, len(found.stderr.splitlines())) == (code, 1)
    assert found.stderr.startswith("tickwatch: ")
    assert words in found.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("command", ["worker", "run", "serve"])
def test_a_signal_while_the_model_still_loads_ends_well(tmp_path: Path, command: str, number: signal.Signals) -> None:
    process = subprocess.Popen(
        [TICKWATCH, command, "--port", "0"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    listens = 0
    while not listens >> signal.SIGTERM - 1 & 1:
        status = Path(f"/proc/{process.pid}/status").read_text()
        listens = int(status.split("SigCgt:")[1].split()[0], 16)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "Traceback" not in err
    said = {"run": "ticks=0", "worker": "stopped after 0 ticks", "serve": ""}
    assert said[command] in out + err


def test_a_signal_from_before_python_runs_waits_if_it_is_blocked(tmp_path: Path) -> None:
    blocked: list[str | Path] = ["env", "--block-signal=TERM", TICKWATCH, "worker", "--port", "0"]
    process = subprocess.Popen(blocked, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    while TICKWATCH.name not in Path(f"/proc/{process.pid}/comm").read_text():
        pass
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "stopped after 0 ticks" in err


def test_the_models_that_ship_are_found_by_name(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_bytes(b"\n".join(encode(random_ticks(20))))
    by_name = tickwatch(tmp_path, "replay", "t.jsonl", "-o", "a.parquet", "--model", "gru")
    by_path = tickwatch(tmp_path, "replay", "t.jsonl", "-o", "b.parquet", "--model", str(shipped("gru")))
    assert by_name.returncode == by_path.returncode == 0
    assert pq.read_table(tmp_path / "a.parquet").equals(pq.read_table(tmp_path / "b.parquet"))
