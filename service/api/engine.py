"""Scores the ticks of many requests in one call and makes what must last durable in one transaction."""

from __future__ import annotations

import asyncio
import hashlib
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec
import numpy as np

from service.alerts import Reason, alerts, cloud_event, reasons
from service.api.problems import Problem
from service.api.store import Answered, Changes, LastTick, Store
from service.api.token import Seal
from service.api.wire import ScoreAnswer, Tick, TicksAnswer, TickScore
from service.features import FEATURES
from service.judge import PHASES
from service.logs import Checkpoint, PartitionState
from service.scorer import Scored, Scorer
from service.ticks import NUMBERS, Ticks

SOURCE = "http"  # stands where alerts of a worker name its topic
AHEAD_SECONDS = 86_400  # a time that lies further ahead would make all later ticks of its stream late ones

to_json = msgspec.json.Encoder().encode


@dataclass(eq=False)
class Job:
    """A request that waits to be scored, and then its outcome: the answer's bytes or a problem.

    Without `stream` the state came with the request, as `held`. `claim` belongs to whoever takes it first: the scoring thread,
    or the request's own coroutine when it gives up.
    """

    ticks: list[Tick]
    prefix: str  # of the caller's streams
    deadline: float  # by the event loop's clock
    future: asyncio.Future[bytes | Problem]
    stream: str | None = None
    held: PartitionState | None = None
    key: str = ""
    remove: bool = False
    claim: threading.Lock = field(default_factory=threading.Lock)
    outcome: bytes | Problem | None = None

    def digest(self) -> bytes:
        """Tells requests with the same idempotency key apart."""
        return hashlib.sha256(msgspec.msgpack.encode(self.ticks)).digest()


@dataclass
class _Entry:
    """A job in a batch: for each of its ticks the place among the fresh ones, or what was answered for it before."""

    job: Job
    partition: int
    places: list[int | msgspec.Raw]


@dataclass
class _Plan:
    """The ticks that a batch has to score, and whose they are."""

    entries: list[_Entry] = field(default_factory=list)
    ticks: list[Tick] = field(default_factory=list)
    partitions: list[int] = field(default_factory=list)
    identities: dict[tuple[str, bytes], int] = field(default_factory=dict)
    keys: dict[tuple[str, str], Job] = field(default_factory=dict)
    repeats: list[tuple[Job, Job]] = field(default_factory=list)  # (a retry, the job in the same batch that it repeats)
    new: dict[str, None] = field(default_factory=dict)

    def add(self, tick: Tick, partition: int) -> int:
        self.ticks.append(tick)
        self.partitions.append(partition)
        return len(self.ticks) - 1


class Engine:
    """The scorer with the state of all streams. Partition 0 is what the store keeps; each other request is one of its own.

    No stream depends on the ticks of another one: the scorer must have been made without idle hours, which let the clocks
    of streams meet. Used by one thread.
    """

    def __init__(
        self, scorer: Scorer, store: Store, seal: Seal, streams_per_key: int, clock: Callable[[], float]
    ) -> None:
        self.store = store
        self._scorer = scorer
        self._seal = seal
        self._streams_per_key = streams_per_key
        self._clock = clock
        self.scored: Scored | None = None  # of the last batch
        self.restore()

    def restore(self) -> None:
        """Forget what was not committed. Raises TickwatchError when the store can't be read."""
        self._scorer.streams.clear()
        self._scorer.streams.load(self.store.restore())

    def remove(self, job: Job) -> None:
        """Forget a stream. Raises TickwatchError when that can't be made durable."""
        stream = job.stream or ""
        if stream not in self.store.ticks:
            job.outcome = unknown(stream)
            return
        self.store.remove(stream)
        self._scorer.streams.remove(0, [stream])
        job.outcome = b""

    def score(self, jobs: list[Job]) -> None:
        """Give every job its outcome. After an exception the caller restores: nothing was kept of the batch."""
        plan = _Plan()
        held = []
        for number, job in enumerate(jobs, 1):
            try:
                if job.stream is not None:
                    self._plan_kept(plan, job, job.stream)
                else:
                    held.append(number)
                    if job.held is not None:
                        self._scorer.streams.load(PartitionState(number, job.held.streams, job.held.rows))
                    plan.entries.append(_Entry(job, number, [plan.add(tick, number) for tick in job.ticks]))
            except Problem as problem:
                job.outcome = problem
        self._answer(plan)
        for retry, first in plan.repeats:
            same = isinstance(first.outcome, Problem) or first.digest() == retry.digest()
            retry.outcome = first.outcome if same else _reused(retry.key)

    def _plan_kept(self, plan: _Plan, job: Job, stream: str) -> None:
        if job.key:
            first = plan.keys.setdefault((stream, job.key), job)
            if first is not job:
                plan.repeats.append((job, first))
                return
            before = self.store.answer(stream, job.key)
            if before is not None:
                digest, answer = before
                job.outcome = answer if digest == job.digest() else _reused(job.key)
                return
        self._check(plan, job, stream)
        numbered = all(tick.seq is not None for tick in job.ticks)
        places = [self._place(plan, tick, stream) if numbered else plan.add(tick, 0) for tick in job.ticks]
        plan.entries.append(_Entry(job, 0, places))

    def _check(self, plan: _Plan, job: Job, stream: str) -> None:
        latest = (self._clock() + AHEAD_SECONDS) * 1e9
        for i, tick in enumerate(job.ticks):
            if tick.ts > latest:  # type: ignore[operator]  # an integer since it was read
                detail = f"ticks[{i}].ts: {tick.ts} lies more than a day ahead of the service's clock."
                raise Problem("ahead", detail, "Correct the time; it is in nanoseconds since 1970.", f"ticks[{i}].ts")
        if stream not in self.store.ticks and stream not in plan.new:
            coming = sum(name.startswith(job.prefix) for name in plan.new)
            if self.store.count(job.prefix) + coming >= self._streams_per_key:
                detail = f"The service keeps {self._streams_per_key} streams for a key."
                raise Problem("too-many-streams", detail, "Delete streams that ended, or use POST /v1/score.", "stream")
            plan.new[stream] = None

    def _place(self, plan: _Plan, tick: Tick, stream: str) -> int | msgspec.Raw:
        identity = hashlib.sha256(msgspec.msgpack.encode(tick)).digest()[:16]
        place = plan.identities.get((stream, identity))
        if place is None:
            before = self.store.verdict(stream, identity)
            if before is not None:
                return msgspec.Raw(before)
            place = plan.identities[stream, identity] = plan.add(tick, 0)
        return place

    def _answer(self, plan: _Plan) -> None:
        scored = self._scorer.score(self._columns(plan))
        self.scored = scored
        found = alerts(scored, SOURCE, self._scorer.model.id, self._scorer.threshold)
        scores = self._scores(scored, [alert.reasons for alert in found])
        model = self._scorer.model.id
        streams = self._scorer.streams
        changes = Changes()
        for entry in plan.entries:
            job = entry.job
            if job.stream is None:
                names = list(
                    dict.fromkeys([*(job.held.streams if job.held else []), *(t.stream or "" for t in job.ticks)])
                )
                state = self._seal.close(names, streams.packed(entry.partition, names))
                job.outcome = to_json(ScoreAnswer(model, [scores[p] for p in entry.places], state))  # type: ignore[index]
                streams.drop(entry.partition)
            else:
                said = [scores[p] if isinstance(p, int) else p for p in entry.places]
                job.outcome = to_json(TicksAnswer(model, said))
                if job.key:
                    changes.answers.append(Answered(job.stream, job.key, job.digest(), job.outcome))
        kept = [i for i, partition in enumerate(plan.partitions) if partition == 0]
        if kept or changes.answers:
            changes.verdicts += [
                (name, identity, to_json(scores[i])) for (name, identity), i in plan.identities.items()
            ]
            changes.streams += self._last(scored, kept)
            events = [cloud_event(alert) for alert in found if alert.partition == 0]
            checkpoint = Checkpoint({0: self.store.next + len(kept)}, streams.changed(), events)
            self.store.commit(checkpoint, changes)

    def _columns(self, plan: _Plan) -> Ticks:
        ticks = plan.ticks
        partition = np.array(plan.partitions, np.int32)
        offset = np.arange(len(ticks))
        kept = partition == 0
        offset[kept] = self.store.next + np.arange(int(kept.sum()))
        numbers = {name: np.array([getattr(t, name) for t in ticks], np.float64) for name in NUMBERS}
        return Ticks(
            partition=partition,
            offset=offset,
            stream=[t.stream for t in ticks],  # type: ignore[misc]  # filled in when it was read
            ts=np.array([t.ts for t in ticks], np.int64),
            **numbers,
        )

    def _scores(self, scored: Scored, why: list[list[Reason]]) -> list[TickScore]:
        verdicts, threshold = scored.verdicts, self._scorer.threshold
        said: dict[int, list[Reason]] = dict(zip(np.flatnonzero(verdicts.alert).tolist(), why, strict=True))
        for i in np.flatnonzero(verdicts.score >= threshold).tolist():
            if i not in said:
                said[i] = reasons(scored, i)
        nothing: list[Reason] = []
        rows = zip(
            scored.ticks.stream, scored.ticks.ts.tolist(), verdicts.score.tolist(), verdicts.alert.tolist(),
            verdicts.phase.tolist(), strict=True,
        )  # fmt: skip
        return [
            TickScore(stream, ts, score, threshold, alert, PHASES[phase], said.get(i, nothing))
            for i, (stream, ts, score, alert, phase) in enumerate(rows)
        ]

    def _last(self, scored: Scored, kept: list[int]) -> list[LastTick]:
        names = scored.ticks.stream
        newest = {names[i]: i for i in kept}
        count = dict.fromkeys(newest, 0)
        for i in kept:
            count[names[i]] += 1
        at, found = self._clock(), []
        for name, i in newest.items():
            numbers = {field: float(getattr(scored.ticks, field)[i]) for field in NUMBERS}
            last = {
                "tick": {field: value for field, value in numbers.items() if not math.isnan(value)},
                "features": dict(zip(FEATURES, scored.features.observed[i].tolist(), strict=True)),  # NaN becomes null
            }
            total = self.store.ticks.get(name, 0) + count[name]
            ts, score = int(scored.ticks.ts[i]), float(scored.verdicts.score[i])
            found.append(LastTick(name, total, ts, score, bool(scored.verdicts.alert[i]), at, to_json(last)))
        return found


def unknown(stream: str) -> Problem:
    """There is no such stream."""
    remedy = "GET /v1/streams lists those there are; a stream begins with its first ticks."
    return Problem("not-found", f"stream: {stream!r} is not kept here.", remedy, "stream")


def unavailable() -> Problem:
    """The store failed; what it says is for its owner's eyes."""
    detail = "The service could not make the result durable; nothing was changed."
    return Problem("unavailable", detail, "Try again later.", headers={"Retry-After": "1"})


def _reused(key: str) -> Problem:
    detail = f"Idempotency-Key: {key!r} came before with other ticks."
    return Problem("key-reused", detail, "Use a new key for each new request.", "Idempotency-Key")
