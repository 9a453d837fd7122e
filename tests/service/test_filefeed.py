"""A feed of tick files: every file in its own order, files merged by time, cut and resumed anywhere alike."""

from __future__ import annotations

import os
import random
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import TickwatchError
from service.feed import Feed
from service.filefeed import FileFeed
from service.logs import Records
from service.ticks import decode

FILES = st.lists(st.lists(st.integers(1, 12), min_size=1, max_size=12), min_size=1, max_size=4)


def write(folder: Path, files: list[list[int]]) -> list[Path]:
    """One file a list of times; the price tells the row."""
    paths = [folder / f"{name}.csv" for name in "abcd"[: len(files)]]
    for path, times in zip(paths, files, strict=True):
        path.write_text("ts,price\n" + "".join(f"{ts},{row}\n" for row, ts in enumerate(times)))
    return paths


def drain(feed: Feed, limit: int = 1000) -> list[bytes]:
    values: list[bytes] = []
    while (chunk := feed.read(None, limit)) is not None:
        values += chunk.values
    return values


def decoded(values: list[bytes]) -> tuple[list[tuple[str, int, float]], dict[int, str]]:
    """Stream, time and price of the good records, and the reasons of the others by index."""
    n = len(values)
    ticks, rejects = decode(Records(np.zeros(n, np.int32), np.arange(n), [None] * n, [*values]))
    rows = list(zip(ticks.stream, ticks.ts.tolist(), ticks.price.tolist(), strict=True))
    return rows, {reject.offset: reject.reason for reject in rejects}


@given(files=FILES)
def test_files_are_merged_by_time_and_each_keeps_its_own_order(
    tmp_path_factory: pytest.TempPathFactory, files: list[list[int]]
) -> None:
    feed = FileFeed(write(tmp_path_factory.mktemp("merge"), files))
    expected = []
    for file, times in enumerate(files):
        latest = np.maximum.accumulate(times).tolist()
        expected += [(latest[row], file, row, ("abcd"[file], ts, float(row))) for row, ts in enumerate(times)]
    rows, rejects = decoded(drain(feed))
    assert rows == [row for *_, row in sorted(expected)]
    assert not rejects
    assert feed.total == len(expected)
    assert feed.start_ts == min(times[0] for times in files)


@given(files=FILES, seed=st.integers(0, 2**32))
def test_any_cut_gives_the_same_records_and_any_position_goes_on_right_there(
    tmp_path_factory: pytest.TempPathFactory, files: list[list[int]], seed: int
) -> None:
    paths = write(tmp_path_factory.mktemp("cut"), files)
    whole = drain(FileFeed(paths))
    cuts = random.Random(seed)
    feed, values = FileFeed(paths), []
    while (chunk := feed.read(cuts.choice([None, cuts.randint(0, 13)]), cuts.randint(1, 5))) is not None:
        values += chunk.values
        resumed = FileFeed(paths, chunk.position)
        assert drain(resumed) == whole[len(values) :]
        assert resumed.total == len(whole)
        if cuts.random() < 0.3:
            feed = FileFeed(paths, chunk.position)
    assert values == whole


@given(files=FILES, until=st.integers(0, 13))
def test_nothing_comes_before_its_time(
    tmp_path_factory: pytest.TempPathFactory, files: list[list[int]], until: int
) -> None:
    feed = FileFeed(write(tmp_path_factory.mktemp("until"), files))
    values: list[bytes] = []
    while (chunk := feed.read(until, 3)) is not None and chunk.values:
        values += chunk.values
    rows, _ = decoded(values)
    assert all(ts <= until for _, ts, _ in rows)
    assert len(rows) == sum(int(np.sum(np.maximum.accumulate(times) <= until)) for times in files)
    assert (chunk is None) == (len(rows) == feed.total)


def test_files_longer_than_what_is_read_ahead_are_merged_alike(tmp_path: Path) -> None:
    draw = np.random.default_rng(5)
    files = [
        (np.arange(rows) * step + draw.integers(1, 100, rows)).tolist() for rows, step in ((30_000, 2), (50_000, 1))
    ]
    rows, _ = decoded(drain(FileFeed(write(tmp_path, files)), limit=4999))
    latest = np.concatenate([np.maximum.accumulate(times) for times in files])
    given_rows = [("ab"[file], ts, float(row)) for file, times in enumerate(files) for row, ts in enumerate(times)]
    assert rows == [given_rows[i] for i in np.argsort(latest, kind="stable").tolist()]


def test_rows_that_cant_be_read_keep_their_place_and_their_reason(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("ts,price,size\nnoon,1,\n5,x,\n5,1,-2\n6,1,2\n")
    lines = ['{"ts":5,"price":[1]}', '{"ts":"noon","price":1}', "", "}", '{"ts":7,"price":1}', '{"stream":3,"ts":7}']
    (tmp_path / "b.jsonl").write_text("\n".join(lines))
    feed = FileFeed([tmp_path / "a.csv", tmp_path / "b.jsonl"])
    values = drain(feed)
    rows, reasons = decoded(values)
    assert rows == [("a", 6, 1.0), ("b", 7, 1.0)]
    assert list(reasons.values()) == [
        "ts: Invalid isoformat string: 'noon'",
        "price: Expected `float`, got `str`",
        "size -2.0 is negative",
        "price: Expected `float`, got `array`",
        "ts: Invalid isoformat string: 'noon'",
        "not JSON: JSON is malformed: invalid character (byte 0)",
        "stream: Expected `str | null`, got `int`",
    ]
    assert values[5] == b"}"
    assert (len(values), feed.total, feed.start_ts) == (9, 9, 6)


def test_a_line_nested_without_end_is_one_bad_record(tmp_path: Path) -> None:
    deep = '{"ts":1,"price":' + "[" * 30_000
    (tmp_path / "a.jsonl").write_text('{"ts":1,"price":1}\n' + deep + "\n")
    rows, reasons = decoded(drain(FileFeed([tmp_path / "a.jsonl"])))
    assert rows == [("a", 1, 1.0)]
    assert list(reasons) == [1]


def test_a_feed_resumed_at_its_end_has_ended(tmp_path: Path) -> None:
    paths = write(tmp_path, [[3, 9, 4]])
    last = FileFeed(paths).read(None, 3)
    assert last is not None
    resumed = FileFeed(paths, last.position)
    assert resumed.start_ts == 9
    assert resumed.read(None, 1) is None


@pytest.mark.parametrize("change", ["size", "time", "name", "number"])
def test_resuming_with_other_files_is_refused(tmp_path: Path, change: str) -> None:
    paths = write(tmp_path, [[1, 2], [3]])
    chunk = FileFeed(paths).read(None, 1)
    assert chunk is not None
    if change == "size":
        paths[0].write_text(paths[0].read_text() + "4,2\n")
    elif change == "time":
        os.utime(paths[1], ns=(0, 0))
    elif change == "name":
        paths[1] = paths[1].rename(tmp_path / "z.csv")
    else:
        paths.pop()
    with pytest.raises(TickwatchError, match="not those of the run to be resumed"):
        FileFeed(paths, chunk.position)


@pytest.mark.parametrize("position", [b'{"seed":1}', b"\xff\x00", b""])
def test_resuming_another_feed_with_files_is_refused(tmp_path: Path, position: bytes) -> None:
    with pytest.raises(TickwatchError, match="did not read tick files"):
        FileFeed(write(tmp_path, [[1]]), position)


def test_a_position_is_json_and_names_the_rows_done(tmp_path: Path) -> None:
    chunk = FileFeed(write(tmp_path, [[1, 2, 9], [3]])).read(None, 3)
    assert chunk is not None
    position = msgspec.json.decode(chunk.position)
    assert (position["rows"], position["times"]) == ([2, 1], [2, 3])
