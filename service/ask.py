"""`tickwatch score`: a file of ticks, scored by a service instead of here."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from service.alerts import in_words
from service.api.wire import Tick
from service.client import Client
from service.files import read_ticks, whole
from service.logs import DeadLetter
from service.replay import SCORES
from service.ticks import NO_SEQ, NUMBERS, Ticks

AT_A_TIME = 2000


def ask(
    files: list[Path],
    client: Client,
    output: Path,
    *,
    progress: Callable[[int], None],
    rejected: Callable[[Path, DeadLetter], None],
) -> tuple[int, int]:
    """Write what the service says of the files' ticks, one after another, to a Parquet file as replay does; (rows, alerts).

    Rows that can't be read are told to `rejected` and left out. Raises TickwatchError.
    """
    rows = alerts = 0
    state = None
    with whole(output) as partial, pq.ParquetWriter(partial, SCORES, compression="zstd") as writer:
        for path in files:
            for chunk in read_ticks(path):
                for letter in chunk.rejects:
                    rejected(path, letter)
                for first in range(0, len(chunk.ticks), AT_A_TIME):
                    part = np.arange(first, min(first + AT_A_TIME, len(chunk.ticks)))
                    answer = client.score(as_wire(chunk.ticks.take(part)), state)
                    state = answer.state
                    columns = {name: [getattr(t, name) for t in answer.ticks] for name in SCORES.names}
                    columns["reasons"] = [in_words(why) for why in columns["reasons"]]
                    writer.write_table(pa.table(columns, schema=SCORES))
                    rows += len(part)
                    alerts += sum(columns["alert"])
                    progress(len(part))
    return rows, alerts


def as_wire(ticks: Ticks) -> list[Tick]:
    """The ticks as a request holds them."""
    columns = {name: getattr(ticks, name).tolist() for name in NUMBERS}
    rows = zip(ticks.ts.tolist(), ticks.stream, ticks.seq.tolist(), zip(*columns.values(), strict=True), strict=True)
    return [
        Tick(
            ts,
            stream=stream,
            seq=None if seq == NO_SEQ else seq,
            **{name: v for name, v in zip(NUMBERS, row, strict=True) if not math.isnan(v)},
        )
        for ts, stream, seq, row in rows
    ]
