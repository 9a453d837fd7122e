"""Scores tick files offline with the very code that serves: one output row per input row, in input order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import compress
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from service.alerts import CONTRIBUTIONS, contributions, in_words, reasons
from service.errors import TickwatchError
from service.files import read_ticks, whole
from service.judge import OPENED, PHASES
from service.logs import DeadLetter
from service.scorer import Scored, Scorer

SCORES = pa.schema(
    [
        ("stream", pa.string()),
        ("ts", pa.int64()),
        ("score", pa.float64()),
        ("threshold", pa.float64()),
        ("alert", pa.bool_()),
        ("phase", pa.string()),
        ("reasons", pa.string()),
    ]
)
SCHEMA = SCORES.append(pa.field("rejected", pa.string()))
MOST_LATE = 0.1  # of a stream's ticks: with more of them its file is hardly in the order of its feed
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


@dataclass
class Totals:
    """What a replay came to. `rows` are all rows, `ticks` and `late` those of each stream that have a score."""

    rows: int = 0
    alerts: int = 0
    incidents: int = 0
    repeated: int = 0
    ticks: Counter[str] = field(default_factory=Counter)
    late: Counter[str] = field(default_factory=Counter)


def replay(
    files: list[Path],
    scorer: Scorer,
    output: Path,
    *,
    explain: bool,
    progress: Callable[[int], None],
    rejected: Callable[[Path, DeadLetter], None],
    made: Origin | None = None,
) -> Totals:
    """Score the files one after another into the Parquet file `output`.

    `phase` is "opened" where an incident begins, "updated" where it has become worse, both of them alerts, else "none".
    `reasons` are given where the score reaches the threshold. A row that can't be read has no score, has the reason in the
    column `rejected`, and is told to `rejected`. With `explain` there is a column per feature: how improbable that feature
    alone is, -log10 of a tail probability. `made` is kept beside the scores. Raises TickwatchError when `output` can't be
    written.
    """
    schema = EXPLAINED if explain else SCHEMA
    if made is not None:
        schema = schema.with_metadata({ORIGIN: msgspec.json.encode(made)})
    totals = Totals()
    with whole(output) as partial, pq.ParquetWriter(partial, schema, compression="zstd") as writer:
        for path in files:
            for chunk in read_ticks(path):
                scored = scorer.score(chunk.ticks)
                table = _table(scored, scorer.threshold, chunk.rejects, schema)
                writer.write_table(table)
                totals.rows += len(table)
                totals.alerts += int(scored.verdicts.alert.sum())
                totals.incidents += int((scored.verdicts.phase == OPENED).sum())
                totals.repeated += int((scored.features.repeats > 0).sum())
                totals.ticks.update(scored.ticks.stream)
                totals.late.update(compress(scored.ticks.stream, scored.features.lateness > 0))
                for letter in chunk.rejects:
                    rejected(path, letter)
                progress(len(table))
    return totals


def out_of_order(totals: Totals) -> str:
    """A warning where the ticks of a replay can't have been in their feed's order, else nothing."""
    streams = [stream for stream, late in totals.late.items() if late > MOST_LATE * totals.ticks[stream]]
    if not streams:
        return ""
    worst = max(streams, key=lambda stream: totals.late[stream])
    return (
        f"{totals.late[worst]:,} of the {totals.ticks[worst]:,} ticks of {worst} are older than one before them, and teach"
        f" nothing of their stream: is the file sorted by ts? (streams with more than {MOST_LATE:.0%}: {len(streams)})"
    )


def _table(scored: Scored, threshold: float, rejects: list[DeadLetter], schema: pa.Schema) -> pa.Table:
    """The rows of one chunk in input order: scored ones and, with nulls, rejected ones."""
    ticks, verdicts = scored.ticks, scored.verdicts
    why: list[str | None] = [None] * len(ticks)
    for i in np.flatnonzero(verdicts.score >= threshold).tolist():
        why[i] = in_words(reasons(scored, i))
    columns = {
        "stream": pa.array(ticks.stream, pa.string()),
        "ts": pa.array(ticks.ts),
        "score": pa.array(verdicts.score),
        "threshold": pa.array(np.full(len(ticks), threshold)),
        "alert": pa.array(verdicts.alert),
        "phase": pa.array(np.array(PHASES)[verdicts.phase]),
        "reasons": pa.array(why, pa.string()),
        "rejected": pa.nulls(len(ticks), pa.string()),
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
    blank_columns["phase"] = pa.repeat("none", len(rejects))
    blank_columns["rejected"] = pa.array([letter.reason for letter in rejects])
    blank = pa.table(blank_columns, schema=schema)
    return pa.concat_tables([table, blank]).take(np.argsort(offsets, kind="stable"))
