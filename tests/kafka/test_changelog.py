"""The layout of the changelog: whatever compaction removes, no row is lost and none comes back."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from service.logs.changelog import HEAD, Changelog, ForeignLayout

ROW_BYTES = 4

Records = list[tuple[bytes, bytes | None]]
# of each commit: the streams that change, and which of the others are removed
some = st.lists(st.integers(0, 40), max_size=12, unique=True)
commits = st.lists(st.tuples(some, some), min_size=1, max_size=60)


def rows_of(model: dict[str, int]) -> Callable[[list[str]], NDArray[np.uint8]]:
    return lambda names: np.array([model[n] for n in names], np.uint32).view(np.uint8).reshape(len(names), ROW_BYTES)


def new(layout: str = "layout", *, light: int = 0, fresh: bool = False) -> Changelog:
    return Changelog(layout, ROW_BYTES, block=4, ring=3, light=light, fresh=fresh)


def restore(log: Records, layout: str = "layout", *, fresh: bool = False) -> tuple[Changelog, dict[str, int]]:
    changelog = new(layout, fresh=fresh)
    rows = np.zeros((64, ROW_BYTES), np.uint8)
    for key, value in log:
        numbers, found = changelog.read(key, value)
        rows[numbers] = found
    changelog.finish()
    values = rows.view(np.uint32)[: len(changelog.names), 0].tolist()
    return changelog, {name: value for name, value in zip(changelog.names, values, strict=True) if name}


def compact(log: Records, data: st.DataObject) -> Records:
    """Any subset of the records that a later record of the same key supersedes goes."""
    last = {key: i for i, (key, _) in enumerate(log)}
    keep = data.draw(st.lists(st.booleans(), min_size=len(log), max_size=len(log)))
    return [record for i, record in enumerate(log) if keep[i] or last[record[0]] == i]


@settings(max_examples=300, deadline=None)
@given(commits, st.data())
def test_compaction_at_any_point_loses_no_row_and_brings_no_removed_one_back(
    batches: list[tuple[list[int], list[int]]], data: st.DataObject
) -> None:
    model: dict[str, int] = {}
    log: Records = []
    layout = "layout"
    changelog = new(light=data.draw(st.sampled_from([0, 8, 200])))
    for offset, (batch, gone) in enumerate(batches, start=1):
        model |= {f"stream {i}": offset * 1000 + i for i in batch}
        names = [f"stream {i}" for i in batch]
        removed = [f"stream {i}" for i in gone if i not in batch]
        for name in removed:
            model.pop(name, None)
        log += changelog.write(offset, names, rows_of(model)(names), removed, rows_of(model))
        what = data.draw(st.sampled_from(["go on", "go on", "compact", "restart", "give up"]))
        if what == "go on":
            continue
        log = compact(log, data)
        restored, found = restore(log, layout)
        assert found == model
        assert restored.next_offset == offset
        if what == "restart":
            changelog = restored
        elif what == "give up":
            other = {"layout": "another", "another": "layout"}[layout]
            with pytest.raises(ForeignLayout, match=layout):
                restore(log, other)
            changelog, found = restore(log, other, fresh=True)
            assert found == {}
            assert changelog.next_offset == offset
            model, layout = {}, other


def test_a_new_epoch_leaves_nothing_of_the_old_one_to_a_broker_that_compacts() -> None:
    model = {f"stream {i}": i for i in range(40)}
    log: Records = new().write(1, list(model), rows_of(model)(list(model)), [], rows_of(model))
    log += restore(log)[0].write(2, list(model), rows_of(model)(list(model)), [], rows_of(model))
    changelog, _ = restore(log, "another", fresh=True)
    log += changelog.write(3, ["x"], rows_of({"x": 7})(["x"]), [], rows_of({"x": 7}))
    kept = {key: value for key, value in dict(log).items() if value is not None}
    assert restore(list(kept.items()), "another")[1] == {"x": 7}
    assert len(kept) <= 2


def test_a_record_of_an_unknown_format_is_never_read() -> None:
    with pytest.raises(ForeignLayout, match="unknown format"):
        restore([(b"D0", b"TWC2" + bytes(60))], fresh=True)


def test_the_topic_stays_near_twice_the_state() -> None:
    model: dict[str, int] = {f"stream {i}": 0 for i in range(1000)}
    changelog = Changelog("layout", ROW_BYTES, block=16, ring=4096, light=0)
    topic: dict[bytes, int] = {}
    written = changed = 0
    rng = np.random.default_rng(1)
    for offset in range(2000):
        names = [f"stream {i}" for i in rng.choice(1000, 10, replace=False)] if offset else list(model)
        for key, value in changelog.write(offset, names, rows_of(model)(names), [], rows_of(model)):
            topic[key] = len(value or b"")
            written += len(value or b"")
        changed += len(names)
    first = new().write(0, list(model), rows_of(model)(list(model)), [], rows_of(model))
    row = sum(len(value or b"") for _, value in first) / 2000
    assert sum(topic.values()) < 4 * 1000 * row
    assert written < 4 * changed * row


def test_streams_that_are_all_busy_are_written_once() -> None:
    model = {f"stream {i}": 0 for i in range(1000)}
    changelog = Changelog("layout", ROW_BYTES, block=16, light=0)
    rows = 0
    for offset in range(200):
        names = [f"stream {(20 * offset + i) % 1000}" for i in range(20)]
        rows += rows_in(changelog.write(offset, names, rows_of(model)(names), [], rows_of(model)))
    assert rows == 200 * 20


def test_the_state_of_a_few_busy_streams_is_hardly_written_twice() -> None:
    model = {f"stream {i}": 0 for i in range(100)}
    changelog = Changelog("layout", ROW_BYTES, block=128, light=1000)
    busy, rows, topic = list(model)[:50], 0, set()
    for offset in range(200):
        names = busy if offset else list(model)
        records = changelog.write(offset, names, rows_of(model)(names), [], rows_of(model))
        rows += rows_in(records)
        topic |= {key for key, _ in records}
    written = 100 + 199 * 50
    assert written < rows < 1.15 * written
    assert len(topic) * 50 < 1.2 * 1000


def rows_in(records: Records) -> int:
    return sum(HEAD.unpack_from(value)[3] for _, value in records if value is not None)
