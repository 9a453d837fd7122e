"""Scores tick files offline with the very code that serves: one output row per input row, in input order."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from service.alerts import CONTRIBUTIONS, contributions
from service.errors import TickwatchError
from service.files import read_ticks, whole
from service.logs import DeadLetter
from service.scorer import Scored, Scorer

SCHEMA = pa.schema(
    [
        ("stream", pa.string()),
        ("ts", pa.int64()),
        ("score", pa.float64()),
        ("threshold", pa.float64()),
        ("alert", pa.bool_()),
    ]
)
ORIGIN = b"tickwatch.replay"


class Origin(msgspec.Struct, frozen=True):
    """What a file of scores was made of and how; kept in its metadata, so that a report can make it again.

    `model` is the model's id and `file` where it lies.
    """

    model: str
    file: str
    alert_budget: float
    stream_idle_hours: float
    files: list[str]


def origin(scores: Path) -> Origin | None:
    """What `replay` says of a file that it wrote; None of any other file."""
    try:
        told = (pq.read_schema(scores).metadata or {}).get(ORIGIN)
    except (OSError, pa.ArrowInvalid):
        return None
    try:
        return None if told is None else msgspec.json.decode(told, type=Origin)
    except msgspec.DecodeError as error:
        raise TickwatchError(f"{scores}: its metadata {ORIGIN.decode()} is damaged ({error})") from error


EXPLAINED = pa.schema([*SCHEMA, *((f"explain_{name}", pa.float32()) for name in CONTRIBUTIONS)])


def replay(
    files: list[Path],
    scorer: Scorer,
    output: Path,
    *,
    explain: bool,
    progress: Callable[[int], None],
    rejected: Callable[[Path, DeadLetter], None],
    made: Origin | None = None,
) -> tuple[int, int]:
    """Score the files one after another into the Parquet file `output`; returns (rows, alerts).

    A row that can't be read has no score and is told to `rejected`. With `explain` there is a column per feature: how
    improbable that feature alone is, -log10 of a tail probability. `made` is kept beside the scores. Raises TickwatchError
    when `output` can't be written.
    """
    schema = EXPLAINED if explain else SCHEMA
    if made is not None:
        schema = schema.with_metadata({ORIGIN: msgspec.json.encode(made)})
    rows = alerts = 0
    with whole(output) as partial, pq.ParquetWriter(partial, schema, compression="zstd") as writer:
        for path in files:
            for chunk in read_ticks(path):
                scored = scorer.score(chunk.ticks)
                table = _table(scored, scorer.threshold, chunk.rejects, schema)
                writer.write_table(table)
                rows += len(table)
                alerts += int(scored.verdicts.alert.sum())
                for letter in chunk.rejects:
                    rejected(path, letter)
                progress(len(table))
    return rows, alerts


def _table(scored: Scored, threshold: float, rejects: list[DeadLetter], schema: pa.Schema) -> pa.Table:
    """The rows of one chunk in input order: scored ones and, with nulls, rejected ones."""
    ticks, verdicts = scored.ticks, scored.verdicts
    columns = {
        "stream": pa.array(ticks.stream, pa.string()),
        "ts": pa.array(ticks.ts),
        "score": pa.array(verdicts.score),
        "threshold": pa.array(np.full(len(ticks), threshold)),
        "alert": pa.array(verdicts.alert),
    }
    if len(schema) > len(columns):
        shares = contributions(verdicts.tails)
        columns |= {f"explain_{name}": pa.array(shares[:, c]) for c, name in enumerate(CONTRIBUTIONS)}
    table = pa.table(columns, schema=schema)
    if not rejects:
        return table
    offsets = np.concatenate([ticks.offset, [letter.offset for letter in rejects]])
    blank_columns = {name: pa.nulls(len(rejects), schema.field(name).type) for name in schema.names}
    blank_columns["threshold"] = pa.repeat(threshold, len(rejects))
    blank_columns["alert"] = pa.repeat(pa.scalar(value=False), len(rejects))
    blank = pa.table(blank_columns, schema=schema)
    return pa.concat_tables([table, blank]).take(np.argsort(offsets, kind="stable"))
