"""History is the ticks of every file of a folder, stream by stream, with one fingerprint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from service.errors import TickwatchError
from service.ticks import encode
from training.history import read_history

RandomTicks = Callable[[int, int], pa.Table]


def test_the_same_ticks_have_one_fingerprint_in_any_format_and_any_cut(
    tmp_path: Path, random_ticks: RandomTicks
) -> None:
    table = random_ticks(1, 500)
    for folder in ("parquet", "csv", "jsonl", "cut", "other"):
        (tmp_path / folder).mkdir()
    pq.write_table(table, tmp_path / "parquet" / "A.parquet")
    pyarrow.csv.write_csv(table, tmp_path / "csv" / "A.csv")
    whole = read_history(tmp_path / "parquet")
    (tmp_path / "jsonl" / "A.jsonl").write_bytes(b"\n".join(encode(whole.streams["A"])))
    named = table.append_column("stream", pa.array(["A"] * 500))
    for first in (0, 100, 350):
        part = named.slice(first, {0: 100, 100: 250, 350: 150}[first])
        pq.write_table(part, tmp_path / "cut" / f"from-{first:03}.parquet")
    for folder in ("csv", "jsonl", "cut"):
        assert read_history(tmp_path / folder).fingerprint == whole.fingerprint

    column = table.column("bid").to_pylist()
    column[250] += 1e-9
    pq.write_table(table.set_column(3, "bid", pa.array(column)), tmp_path / "other" / "A.parquet")
    assert read_history(tmp_path / "other").fingerprint != whole.fingerprint


def test_streams_that_share_a_file_are_told_apart_in_order(tmp_path: Path, random_ticks: RandomTicks) -> None:
    names = np.random.default_rng(2).choice(["B", "A", "C"], 400)
    pq.write_table(random_ticks(1, 400).append_column("stream", pa.array(names)), tmp_path / "all.parquet")
    history = read_history(tmp_path)
    assert list(history.streams) == ["A", "B", "C"]
    for name, ticks in history.streams.items():
        np.testing.assert_array_equal(ticks.offset, np.flatnonzero(names == name))
        assert set(ticks.stream) == {name}


def test_rows_that_cannot_be_read_are_counted_and_left_out(tmp_path: Path) -> None:
    (tmp_path / "A.csv").write_text("ts,price\n1,100\n2,oops\n3,101\n")
    history = read_history(tmp_path)
    assert history.rejected == 1
    assert history.streams["A"].price.tolist() == [100.0, 101.0]


def test_a_history_of_which_nothing_can_be_read_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "A.csv").write_text("ts,price\n1,oops\n")
    with pytest.raises(TickwatchError, match="holds 1 rows, none of them a tick"):
        read_history(tmp_path)


def test_a_folder_without_history_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(TickwatchError, match="holds no tick file"):
        read_history(tmp_path)
