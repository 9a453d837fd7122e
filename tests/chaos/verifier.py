"""Compares what a reader of the topics sees with one undisturbed run of the scorer, bit for bit.

It shares no code with the worker but the scorer itself: ticks are decoded, frames unpacked and state rows read here.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.autoencoder import Model
from service.consume import AT_LEAST_ONCE, EXACTLY_ONCE
from service.scorer import Scorer
from service.ticks import Ticks
from tests.chaos.rows import Partition
from tests.kafka.broker import Seen

PHASES = {1: "opened", 2: "updated"}
NUMBERS = ("price", "size", "bid", "ask", "bid_size", "ask_size")
CHUNK = 50_000
Alert = tuple[int, str, int, float, str, str]  # offset, stream, ts, score, type, incident


@dataclass(frozen=True)
class Evidence:
    """All records that a read_committed reader finds in each topic, and the group's committed offsets by partition."""

    topic: str
    ticks: list[Seen]
    scores: list[Seen]
    alerts: list[Seen]
    letters: list[Seen]
    changelog: list[Seen]
    committed: dict[int, int]


@dataclass
class Published:
    """The output of one input partition, in the order of the topics it stands in."""

    offsets: list[int]
    streams: list[str]
    ts: list[int]
    scores: list[float]
    flags: list[bool]
    letters: list[int]
    alerts: dict[str, list[Alert]]


def verify(evidence: Evidence, model: Model, budget: float, guarantee: str = EXACTLY_ONCE) -> list[str]:
    """Everything that contradicts the guarantee, in sentences; nothing if there is nothing."""
    scorer = Scorer(model, budget)
    ticks: dict[int, list[Seen]] = defaultdict(list)
    for record in evidence.ticks:
        ticks[record.partition].append(record)
    published = _published(evidence)
    wrong = [f"partition {p} has output but no ticks" for p in sorted(published.keys() - ticks.keys())]
    for p, records in sorted(ticks.items()):
        found = published[p]
        if guarantee == AT_LEAST_ONCE:
            wrong += [f"partition {p}: {problem}" for problem in _drop_repetitions(found)]
        good = [(record.offset, tick) for record in records if (tick := _tick(record)) is not None]
        junk = sorted({record.offset for record in records} - {offset for offset, _ in good})
        if sorted(found.letters) != junk:  # keyed like their ticks, so they spread over the partitions of their topic
            wrong.append(f"partition {p}: {_difference('dead letters', sorted(found.letters), junk)}")
        wrong += [f"partition {p}: {problem}" for problem in _output(evidence.topic, p, good, found, scorer)]
        end = records[-1].offset + 1
        if evidence.committed.get(p) != end:
            wrong.append(f"partition {p}: the group committed offset {evidence.committed.get(p)} of {end}")
        streams = {tick["stream"] for _, tick in good}
        wrong += [f"partition {p}: {problem}" for problem in _state(evidence.changelog, p, end, streams, scorer)]
    return wrong


def _published(evidence: Evidence) -> dict[int, Published]:
    published: dict[int, Published] = defaultdict(lambda: Published([], [], [], [], [], [], defaultdict(list)))
    for record in evidence.scores:
        frame = json.loads(record.value or b"")
        into = published[frame["partition"]]
        into.offsets += frame["offset"]
        into.streams += frame["stream"]
        into.ts += frame["ts"]
        into.scores += frame["score"]
        into.flags += frame["alert"]
    for record in evidence.letters:
        published[int(record.headers["partition"])].letters.append(int(record.headers["offset"]))
    for record in evidence.alerts:
        event = json.loads(record.value or b"")
        data = event["data"]
        alert = data["offset"], data["stream"], data["ts"], data["score"], event["type"], data["incident"]
        if event["id"] != f"{evidence.topic}/{data['partition']}/{data['offset']}/{data['model']}":
            raise ValueError(f"alert {event['id']} is not of its tick: {data}")
        published[data["partition"]].alerts[data["stream"]].append(alert)
    return published


def _drop_repetitions(found: Published) -> Iterator[str]:
    """Leave what came first; problems where it came again with other bits."""
    columns: tuple[list[Any], ...] = found.offsets, found.streams, found.ts, found.scores, found.flags
    once: dict[int, tuple[Any, ...]] = {}
    for outcome in zip(*columns, strict=True):
        if once.setdefault(outcome[0], outcome) != outcome:
            yield f"offset {outcome[0]} came as {once[outcome[0]]} and again as {outcome}"
    for i, column in enumerate(columns):
        column[:] = [outcome[i] for outcome in once.values()]
    found.letters[:] = sorted(set(found.letters))
    for stream, alerts in found.alerts.items():
        found.alerts[stream] = list(dict.fromkeys(alerts))  # one that differs stays and is noticed


def _output(
    topic: str, p: int, good: list[tuple[int, dict[str, Any]]], found: Published, scorer: Scorer
) -> Iterator[str]:
    """Problems with the output of one partition, whose ticks are scored here in their order."""
    offsets = [offset for offset, _ in good]
    if found.offsets != offsets:
        yield _difference("scored ticks", found.offsets, offsets)
    scores: list[NDArray[np.float64]] = []
    flags: list[bool] = []
    alerts: dict[str, list[Alert]] = defaultdict(list)
    for start in range(0, len(good), CHUNK):
        ticks = _columns(p, good[start : start + CHUNK])
        verdicts = scorer.score(ticks).verdicts
        scores.append(verdicts.score)
        flags += verdicts.alert.tolist()
        for i in np.flatnonzero(verdicts.alert).tolist():
            kind = f"tickwatch.alert.{PHASES[int(verdicts.phase[i])]}"
            incident = f"{topic}/{p}/{int(verdicts.incident[i])}/{scorer.model.id}"
            alerts[ticks.stream[i]].append(
                (int(ticks.offset[i]), ticks.stream[i], int(ticks.ts[i]), float(verdicts.score[i]), kind, incident)
            )
    for stream in sorted(alerts.keys() | found.alerts.keys()):
        if found.alerts.get(stream, []) != alerts.get(stream, []):
            yield _difference(f"alerts of {stream}", found.alerts.get(stream, []), alerts.get(stream, []))
    if found.offsets != offsets:
        return
    if found.streams != [t["stream"] for _, t in good] or found.ts != [t["ts"] for _, t in good]:
        yield "frames name other streams or times than their ticks"
    expected = np.concatenate(scores) if scores else np.zeros(0)
    unequal = np.flatnonzero(np.array(found.scores).view(np.int64) != expected.view(np.int64))
    if len(unequal):
        at = int(unequal[0])
        yield (
            f"{len(unequal)} scores differ, first at offset {offsets[at]}: {found.scores[at]!r}, not"
            f" {float(expected[at])!r}"
        )
    if found.flags != flags:
        yield "frames flag other ticks than the scorer"


def _state(changelog: list[Seen], p: int, end: int, streams: set[str], scorer: Scorer) -> Iterator[str]:
    """Problems with the state rows that the changelog holds of one partition."""
    restored = Partition()
    for record in changelog:
        if record.partition == p:
            restored.take(record.value)
    if restored.layout != scorer.layout:
        yield f"its state has the layout {restored.layout}, not {scorer.layout}"
    if restored.next_offset != end:
        yield f"its state is as of offset {restored.next_offset}, not {end}"
    rows = restored.rows()
    if rows.keys() != streams:
        yield f"its state holds {len(rows)} streams, not {len(streams)}"
    names = sorted(rows.keys() & streams)
    table = scorer.streams.packed(p, names)
    unequal = [name for i, name in enumerate(names) if rows[name] != table[i].tobytes()]
    if unequal:
        yield f"the state of {len(unequal)} of {len(names)} streams differs, among them {unequal[0]}"


def _difference(what: str, found: list[Any], expected: list[Any]) -> str:
    lost, extra = set(expected) - set(found), set(found) - set(expected)
    repeated = len(found) - len(set(found))
    first = next(
        (i for i, (f, e) in enumerate(zip(found, expected, strict=False)) if f != e), min(len(found), len(expected))
    )
    return (
        f"{what}: {len(found)} for {len(expected)}; {len(lost)} lost, {repeated} repeated, {len(extra)} out of nowhere;"
        f" they part at number {first}: {found[first : first + 3]} for {expected[first : first + 3]}"
    )


def _tick(record: Seen) -> dict[str, Any] | None:
    """The tick in a record, None where the feed sent junk."""
    try:
        tick: dict[str, Any] = json.loads(record.value or b"")
    except ValueError:
        return None
    return tick


def _columns(p: int, chunk: list[tuple[int, dict[str, Any]]]) -> Ticks:
    numbers = {name: np.array([t.get(name, np.nan) for _, t in chunk], np.float64) for name in NUMBERS}
    return Ticks(
        partition=np.full(len(chunk), p, np.int32),
        offset=np.array([offset for offset, _ in chunk], np.int64),
        stream=[t["stream"] for _, t in chunk],
        ts=np.array([t["ts"] for _, t in chunk], np.int64),
        seq=np.array([t.get("seq", -1) for _, t in chunk], np.int64),
        **numbers,
    )
