"""Scores the ticks of many requests in one call and makes what must last durable in one transaction."""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate, repeat
from typing import NamedTuple

import msgspec
import numpy as np
from msgspec.structs import astuple, replace

from service.alerts import Alert, Reason, alerts, cloud_event, reasons
from service.api.passing import Sent
from service.api.problems import Problem, internal
from service.api.store import Answered, Changes, LastTick, Store
from service.api.token import Seal
from service.api.wire import ScoreAnswer, Tick, TicksAnswer, TickScore
from service.features import FEATURES
from service.judge import PHASES
from service.logs import Checkpoint, PartitionState
from service.scorer import Scored, Scorer
from service.ticks import NO_SEQ, NUMBERS, Ticks

SOURCE = "http"  # stands where alerts of a worker name its topic
AHEAD_SECONDS = 86_400  # a time that lies further ahead would make all later ticks of its stream late ones

to_json = msgspec.json.Encoder().encode


@dataclass(eq=False, slots=True)
class Job:
    """A request that waits to be scored, and then its outcome: the answer's bytes or a problem.

    Without `stream` the state came with the request, as `held`; `names` are then the streams whose state is answered.
    """

    ticks: list[Tick]
    prefix: str  # of the caller's streams
    deadline: float  # by the event loop's clock
    future: asyncio.Future[bytes | Problem]
    stream: str | None = None
    names: list[str] = field(default_factory=list)
    held: PartitionState | None = None
    key: str = ""
    remove: bool = False
    taken: bool = False  # it has been scored, if not yet answered
    outcome: bytes | Problem | None = None

    def settle(self, outcome: bytes | Problem | None) -> None:
        """Let the waiting coroutine go on, unless it was settled before."""
        if not self.future.done():
            self.future.set_result(internal() if outcome is None else outcome)

    def digest(self) -> bytes:
        """Tells requests with the same idempotency key apart."""
        return hashlib.sha256(msgspec.msgpack.encode(self.ticks)).digest()


class _Entry(NamedTuple):
    """A job in a batch: for each of its ticks the place among the fresh ones, or what was answered for it before."""

    job: Job
    partition: int
    places: range | list[int | msgspec.Raw]


@dataclass
class _Plan:
    """The ticks that a batch has to score, and whose they are."""

    entries: list[_Entry] = field(default_factory=list)
    ticks: list[Tick] = field(default_factory=list)
    parts: list[tuple[int, int]] = field(default_factory=list)  # (partition, ticks), in order
    identities: dict[tuple[str, bytes], int] = field(default_factory=dict)
    keys: dict[tuple[str, str], Job] = field(default_factory=dict)
    repeats: list[tuple[Job, Job]] = field(default_factory=list)  # (a retry, the job in the same batch that it repeats)
    new: dict[str, None] = field(default_factory=dict)

    def add(self, ticks: list[Tick], partition: int) -> range:
        """The places of further ticks."""
        first = len(self.ticks)
        self.ticks += ticks
        self.parts.append((partition, len(ticks)))
        return range(first, len(self.ticks))


class Engine:
    """The scorer with the state of all streams. Partition 0 is what the store keeps; each other request is one of its own.

    No stream depends on the ticks of another one: the scorer must have been made without idle hours, which let the clocks
    of streams meet. Used by one thread, and not by the one that runs a commit meanwhile.
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
        self.on_kept: Callable[[Scored, list[Alert]], None] = lambda scored, alerts: None  # told of what is durable now
        self.on_passed: Callable[[Scored, list[Alert], list[Sent]], None] = lambda scored, alerts, sent: None
        self.restore()

    def restore(self) -> None:
        """Forget what was not committed. Raises TickwatchError when the store can't be read."""
        self._scorer.streams.clear()
        self._scorer.streams.load(self.store.restore())

    def score(self, jobs: list[Job]) -> Callable[[], None] | None:
        """Give every job its outcome; returns the commit, which must succeed before those with a stream are answered.

        A removal comes alone. After an exception, here or in the commit, the caller restores.
        """
        self.scored = None
        if jobs[0].remove:
            return self._remove(jobs[0])
        plan = _Plan()
        for number, job in enumerate(jobs, 1):
            try:
                if job.stream is not None:
                    self._plan_kept(plan, job, job.stream)
                else:
                    if job.held is not None:
                        self._scorer.streams.load(PartitionState(number, job.held.streams, job.held.rows))
                    plan.entries.append(_Entry(job, number, plan.add(job.ticks, number)))
            except Problem as problem:
                job.outcome = problem
        commit = self._answer(plan)
        for retry, first in plan.repeats:
            same = isinstance(first.outcome, Problem) or first.digest() == retry.digest()
            retry.outcome = first.outcome if same else _reused(retry.key)
        return commit

    def _remove(self, job: Job) -> Callable[[], None] | None:
        stream = job.stream or ""
        if stream not in self.store.ticks:
            job.outcome = unknown(stream)
            return None
        self._scorer.streams.remove(0, [stream])
        job.outcome = b""
        return partial(self.store.remove, stream)

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
        if numbered:
            places: range | list[int | msgspec.Raw] = [self._place(plan, tick, stream) for tick in job.ticks]
        else:
            places = plan.add(job.ticks, 0)
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
            place = plan.identities[stream, identity] = plan.add([tick], 0).start
        return place

    def _answer(self, plan: _Plan) -> Callable[[], None] | None:
        model, threshold = self._scorer.model.id, self._scorer.threshold
        scored = self.scored = self._scorer.score(self._columns(plan))
        found = alerts(scored, SOURCE, model, threshold)
        scores = self._scores(scored, [alert.reasons for alert in found])
        sealed = self._sealed(plan)
        changes = Changes()
        for job, _, places in plan.entries:
            if isinstance(places, range):
                said: list[TickScore | msgspec.Raw] = [*scores[places.start : places.stop]]
            else:
                said = [scores[p] if isinstance(p, int) else p for p in places]
            if job.stream is None:
                job.outcome = to_json(ScoreAnswer(model, said, next(sealed)))  # type: ignore[arg-type]
                continue
            job.outcome = to_json(TicksAnswer(model, said))
            if job.key:
                changes.answers.append(Answered(job.stream, job.key, job.digest(), job.outcome))
        sent = [
            Sent(partition, job.prefix, frozenset(job.held.streams if job.held else ()), places)
            for job, partition, places in plan.entries
            if job.stream is None and isinstance(places, range)
        ]
        if sent:
            self.on_passed(scored, found, sent)
        kept = np.flatnonzero(scored.ticks.partition == 0).tolist()
        if not kept and not changes.answers:
            return None
        changes.verdicts += [(name, identity, to_json(scores[i])) for (name, identity), i in plan.identities.items()]
        changes.streams += self._last(scored, kept)
        found = [alert for alert in found if alert.partition == 0]
        states, events = self._scorer.streams.changed(), [cloud_event(alert) for alert in found]
        checkpoint = Checkpoint({0: self.store.next + len(kept)}, states, events)

        def commit() -> None:
            self.store.commit(checkpoint, changes)
            self.on_kept(scored, found)

        return commit

    def _sealed(self, plan: _Plan) -> Iterator[str]:
        """The states to answer, in order; their rows are forgotten here."""
        streams = self._scorer.streams
        wanted = [(entry.partition, entry.job.names) for entry in plan.entries if entry.job.stream is None]
        if not wanted:
            return iter(())
        rows = streams.packed_all(wanted)
        streams.drop(*(partition for partition, _ in wanted))
        ends = accumulate(len(names) for _, names in wanted)
        return iter(
            [
                self._seal.close(names, rows[end - len(names) : end])
                for end, (_, names) in zip(ends, wanted, strict=True)
            ]
        )

    def _columns(self, plan: _Plan) -> Ticks:
        partition = np.repeat(*np.array(plan.parts or [(0, 0)]).T).astype(np.int32)
        kept = partition == 0
        offset = np.where(kept, self.store.next + np.cumsum(kept) - 1, np.arange(len(kept)))
        rows = list(map(astuple, plan.ticks))
        columns = dict(zip(Tick.__struct_fields__, zip(*rows, strict=True) if rows else repeat(()), strict=False))
        return Ticks(
            partition=partition,
            offset=offset,
            stream=list(columns["stream"]),
            ts=np.array(columns["ts"], np.int64),
            seq=np.array([NO_SEQ if seq is None else seq for seq in columns["seq"]], np.int64),
            **{name: np.array(columns[name], np.float64) for name in NUMBERS},
        )

    def _scores(self, scored: Scored, why: list[list[Reason]]) -> list[TickScore]:
        verdicts, threshold = scored.verdicts, self._scorer.threshold
        columns = (scored.ticks.stream, scored.ticks.ts.tolist(), verdicts.score.tolist())
        scores = list(map(TickScore, *columns, repeat(threshold)))
        said = dict(zip(np.flatnonzero(verdicts.alert).tolist(), why, strict=True))
        for i in np.flatnonzero(verdicts.score >= threshold).tolist():
            because = said[i] if i in said else reasons(scored, i)
            phase = PHASES[verdicts.phase[i]]
            scores[i] = replace(scores[i], alert=i in said, phase=phase, reasons=tuple(because))
        return scores

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
