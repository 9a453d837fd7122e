"""Records in columns are those that kafka-python parses, whatever a fetch holds and however it is taken."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kafka import TopicPartition
from kafka.consumer.fetcher import Fetcher
from kafka.protocol.consumer import IsolationLevel
from kafka.record import MemoryRecords, MemoryRecordsBuilder

from service.autoencoder import load
from service.logs import runs
from service.logs.runs import Run, joined
from service.logs.spans import scan
from service.scorer import warm_up
from tests.samples import shipped

PLACE = TopicPartition("ticks", 0)
ATTRIBUTES = 21  # where they stand in a batch
CONTROL = 0x20
Record = tuple[bytes | None, bytes | None, list[tuple[str, bytes | None]]]

blobs = st.none() | st.binary(max_size=200)
headers = st.lists(st.tuples(st.text(max_size=5), st.none() | st.binary(max_size=5)), max_size=2)
records = st.tuples(blobs, blobs, st.just([]) | headers)
batches = st.lists(
    st.tuples(st.integers(0, 3), st.booleans(), st.integers(0, 1), st.lists(records, min_size=1, max_size=40)),
    max_size=5,
)


@pytest.fixture(autouse=True, scope="module")
def small_batches_too() -> Iterator[None]:
    """Hypothesis makes few others."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "SMALL", 0)
        yield


def batch(offset: int, held: list[Record], codec: int = 0, producer: int = -1, magic: int = 2) -> bytearray:
    builder = MemoryRecordsBuilder(
        magic, codec, 10**7, transactional=producer >= 0, producer_id=producer, producer_epoch=0, base_sequence=0
    )
    for key, value, of_record in held:
        builder.append(1_700_000_000_000, key, value, of_record)
    builder.close()
    made = bytearray(builder.buffer())
    struct.pack_into(">q", made, 0, offset)
    return made


def fetch(made: list[tuple[int, bool, int, list[Record]]]) -> bytes:
    """Batches after gaps, as compaction leaves them; some of a transaction that was aborted."""
    whole, offset = bytearray(), 0
    for gap, aborted, codec, held in made:
        offset += gap
        whole += batch(offset, held, codec, producer=7 if aborted else -1)
        offset += len(held)
    return bytes(whole)


def outcome(kind: Any, data: bytes, start: int, sizes: list[int], *, crcs: bool = True) -> list[Any]:
    """All that can be seen of a fetch that is taken in parts: records, places, errors."""
    aborted = [SimpleNamespace(producer_id=7, first_offset=0)]
    level = IsolationLevel.READ_COMMITTED
    part = kind(start, PLACE, MemoryRecords(data), check_crcs=crcs, isolation_level=level, aborted_transactions=aborted)
    seen: list[Any] = []
    for n in sizes * 200:
        if not part:
            break
        try:
            run = joined(part.take(n))
        except Exception as error:  # noqa: BLE001  (what decompresses raises kinds of its own)
            return [*seen, repr(error)]
        found = zip(run.offset.tolist(), run.key, run.value, run.headers or [[]] * len(run), strict=True)
        seen += [(offset, key and bytes(key), value and bytes(value), held) for offset, key, value, held in found]
    return [*seen, part.next_fetch_offset]


OURS = [partial(runs._PartitionRuns, hold=hold) for hold in (bytes, memoryview)]


@settings(deadline=None)  # the first compiles
@given(batches, st.integers(0, 30), st.lists(st.integers(1, 50), min_size=1, max_size=4))
def test_any_fetch_is_read_as_kafka_python_reads_it(
    made: list[tuple[int, bool, int, list[Record]]], start: int, sizes: list[int]
) -> None:
    data = fetch(made)
    plain = outcome(Fetcher.PartitionRecords, data, start, sizes)
    assert [outcome(ours, data, start, sizes) for ours in OURS] == [plain, plain]


@settings(deadline=None)  # the first compiles
@given(batches, st.data())
def test_a_damaged_fetch_is_read_as_kafka_python_reads_it(
    made: list[tuple[int, bool, int, list[Record]]], data: st.DataObject
) -> None:
    whole = bytearray(fetch(made))
    header = 61
    for _ in range(3 if len(whole) > header else 0):
        whole[data.draw(st.integers(header, len(whole) - 1))] = data.draw(st.integers(0, 255))
    crcs = data.draw(st.booleans())
    plain, ours = (outcome(kind, bytes(whole), 0, [10**6], crcs=crcs) for kind in (Fetcher.PartitionRecords, OURS[0]))
    assert ours == plain


def test_what_comes_after_an_abort_is_read() -> None:
    tick: Record = (b"key", b"value" * 300, [])
    marker = batch(2, [(struct.pack(">hh", 0, 0), b"", [])], producer=7)
    marker[ATTRIBUTES + 1] |= CONTROL
    data = bytes(batch(0, [tick, tick], producer=7) + marker + batch(3, [tick], producer=7))
    assert outcome(OURS[0], data, 0, [10], crcs=False) == [(3, *tick), 4]


def test_batches_of_the_oldest_format_are_read() -> None:
    ticks: list[Record] = [(b"key", b"%d" % i, []) for i in range(20)]
    found = outcome(OURS[0], bytes(batch(19, ticks, codec=1, magic=1)), 0, [10**6])
    assert [value for _, _, value, _ in found[:-1]] == [value for _, value, _ in ticks]


def test_records_come_in_columns() -> None:
    """Or all of the above would compare kafka-python with itself."""
    data = bytes(batch(0, [(b"key", b"value", [])] * 500))
    (run,) = OURS[0](0, PLACE, MemoryRecords(data)).take(500)
    assert isinstance(run, Run)
    assert len(run) == 500


def test_what_was_warmed_up_is_what_reads() -> None:
    """Or the first fetch would wait for the compiler."""
    warm_up(load(shipped("gru")))
    for ours in OURS:
        for codec in (0, 1):
            (run,) = ours(0, PLACE, MemoryRecords(bytes(batch(0, [(b"key", b"value", [])] * 500, codec)))).take(500)
            assert isinstance(run, Run)
    assert len(scan.signatures) == 1
