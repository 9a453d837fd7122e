"""The layout of the changelog: whatever compaction removes, no row is lost."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from service.logs.changelog import Changelog

ROW_BYTES = 4

commits = st.lists(st.lists(st.integers(0, 40), max_size=12, unique=True), min_size=1, max_size=60)


def rows_of(model: dict[str, int]) -> Callable[[list[str]], NDArray[np.uint8]]:
    return lambda names: np.array([model[n] for n in names], np.uint32).view(np.uint8).reshape(len(names), ROW_BYTES)


def new() -> Changelog:
    return Changelog("layout", ROW_BYTES, block=4, ring=3)


def restore(log: list[tuple[bytes, bytes]]) -> tuple[Changelog, dict[str, int]]:
    changelog = new()
    rows = np.zeros((64, ROW_BYTES), np.uint8)
    for key, value in log:
        numbers, found = changelog.read(key, value)
        rows[numbers] = found
    changelog.finish()
    return changelog, dict(zip(changelog.names, rows.view(np.uint32)[: len(changelog.names), 0].tolist(), strict=True))


def compact(log: list[tuple[bytes, bytes]], data: st.DataObject) -> list[tuple[bytes, bytes]]:
    """Any subset of the records that a later record of the same key supersedes goes."""
    last = {key: i for i, (key, _) in enumerate(log)}
    keep = data.draw(st.lists(st.booleans(), min_size=len(log), max_size=len(log)))
    return [record for i, record in enumerate(log) if keep[i] or last[record[0]] == i]


@settings(max_examples=300, deadline=None)
@given(commits, st.data())
def test_compaction_at_any_point_loses_no_row(batches: list[list[int]], data: st.DataObject) -> None:
    model: dict[str, int] = {}
    log: list[tuple[bytes, bytes]] = []
    changelog = new()
    for offset, batch in enumerate(batches, start=1):
        model |= {f"stream {i}": offset * 1000 + i for i in batch}
        names = [f"stream {i}" for i in batch]
        log += changelog.write(offset, names, rows_of(model)(names), rows_of(model))
        what = data.draw(st.sampled_from(["go on", "go on", "compact", "restart"]))
        if what != "go on":
            log = compact(log, data)
            restored, found = restore(log)
            assert found == model
            assert restored.next_offset == offset
            if what == "restart":
                changelog = restored


def test_the_topic_stays_near_twice_the_state() -> None:
    model: dict[str, int] = {f"stream {i}": 0 for i in range(1000)}
    changelog = Changelog("layout", ROW_BYTES, block=16, ring=4096)
    topic: dict[bytes, int] = {}
    written = changed = 0
    rng = np.random.default_rng(1)
    for offset in range(2000):
        names = [f"stream {i}" for i in rng.choice(1000, 10, replace=False)] if offset else list(model)
        for key, value in changelog.write(offset, names, rows_of(model)(names), rows_of(model)):
            topic[key] = len(value)
            written += len(value)
        changed += len(names)
    row = sum(len(v) for _, v in new().write(0, list(model), rows_of(model)(list(model)), rows_of(model))) / 2000
    assert sum(topic.values()) < 4 * 1000 * row
    assert written < 4 * changed * row
