"""The queue before the engine: bounded, gathers what comes together, and drops what nobody waits for any more.

A batch is scored when a turn of the event loop has brought no further job: what it costs beside its ticks is shared by all who
sent at the same time. That happens in the loop's own thread, unless the batch is large: handing it to another costs more than
that, in waiting for the interpreter's lock. A commit, which waits for the disk, runs elsewhere; jobs that need one gather until
the commit before is done.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

from prometheus_client import Gauge

from service.api.engine import Engine, Job, unavailable
from service.api.problems import Problem, internal
from service.errors import TickwatchError
from service.journal import event
from service.metrics import Metrics

LOG = logging.getLogger("tickwatch")
BATCH_TICKS = 10_000
BESIDE_TICKS = 4096  # a batch of so many would keep the loop from everything else for too long
GATHER_TURNS = 8  # of the loop, at most, for which a batch waits while each brings more
ATTEND_SECONDS = 0.25  # between two looks whether the client is still there
STALLED_SECONDS = 30.0  # that a commit may take
SHARE = 2  # the requests of one tenant fill at most this part of the queue: 1 / SHARE


class Desk:
    """Takes jobs from the coroutines of one event loop and settles them.

    `linger_ms` is how long the first job waits for company before the turns that gather it; `most` is how many ticks may wait or
    be in work.
    """

    def __init__(self, engine: Engine, metrics: Metrics, linger_ms: float, most: int) -> None:
        self.healthy = True
        self.on_alerts: Callable[[], None] = lambda: None  # called when alerts have become durable
        self._engine = engine
        self._metrics = metrics
        self._linger = linger_ms / 1000
        self._most = most
        self._waiting = 0  # ticks
        self._waiting_of: Counter[str] = Counter()
        self._passing: deque[Job] = deque()  # their state came with them
        self._kept: deque[Job] = deque()  # their state is in the store
        self._alone: deque[Job] = deque()  # of a batch that failed
        self._attended: dict[
            Job, Callable[[], Awaitable[bool]]
        ] = {}  # whether the client is gone, of each unsettled job
        self._look: asyncio.Handle | None = None
        self._look_at = 0.0
        self._attending: set[asyncio.Task[None]] = set()
        self._due = False
        self._gathered = self._turns = 0  # jobs that waited at the last turn; turns since the last batch
        self._committing: asyncio.Task[None] | None = None
        self._disk = ThreadPoolExecutor(1, "commit")
        self._scoring: asyncio.Task[None] | None = None
        self._beside = ThreadPoolExecutor(1, "score")
        self._gauge = Gauge(
            "tickwatch_http_waiting_ticks", "Ticks that wait or are being scored", registry=metrics.registry
        )

    async def close(self) -> None:
        """Wait for the last commit, and for the last look after jobs."""
        while (work := self._scoring or self._committing) is not None:
            await work
        await asyncio.gather(*self._attending)
        if self._look is not None:
            self._look.cancel()
        self._beside.shutdown()
        self._disk.shutdown()

    def measure(self) -> None:
        """Bring the gauges up to date."""
        self._gauge.set(self._waiting)
        self._metrics.streams.set(len(self._engine.store.ticks))
        self._metrics.connected.set(self.healthy)

    def waiting(self, prefix: str) -> int:
        """Ticks that wait or are in work, for the tenant with this prefix; all of them without one."""
        return self._waiting_of[prefix] if prefix else self._waiting

    async def settle(self, job: Job, gone: Callable[[], Awaitable[bool]]) -> bytes:
        """The answer to a job. Raises Problem: when there is no room, it failed, its deadline passed, or its client is gone."""
        n = max(1, len(job.ticks))
        share = self._most if not job.prefix else self._most // SHARE
        if self._waiting + n > self._most or self._waiting_of[job.prefix] + n > share:
            raise _busy(self._waiting)
        self._waiting += n
        self._waiting_of[job.prefix] += n
        (self._passing if job.stream is None else self._kept).append(job)
        self._schedule(self._linger)
        self._attended[job] = gone
        self._look_by(job.deadline)
        try:
            outcome = await job.future
        finally:
            del self._attended[job]
            self._waiting -= n
            self._waiting_of[job.prefix] -= n
            if not self._waiting_of[job.prefix]:
                del self._waiting_of[job.prefix]
        if isinstance(outcome, Problem):
            raise outcome
        return outcome

    def _look_by(self, deadline: float) -> None:
        """Look after the jobs within ATTEND_SECONDS, or by the deadline of one."""
        loop = asyncio.get_running_loop()
        if self._look is None or deadline < self._look_at:
            if self._look is not None:
                self._look.cancel()
            self._look_at = min(loop.time() + ATTEND_SECONDS, deadline)
            self._look = loop.call_at(self._look_at, self._attend_now)

    def _attend_now(self) -> None:
        self._look = None
        task = asyncio.create_task(self._attend())
        self._attending.add(task)
        task.add_done_callback(self._attending.discard)

    async def _attend(self) -> None:
        """Give up jobs whose deadline passes or whose client leaves; one that is being committed is answered anyway."""
        loop = asyncio.get_running_loop()
        for job, gone in list(self._attended.items()):
            if job.taken:
                if loop.time() >= job.deadline + STALLED_SECONDS:
                    job.settle(_stalled())
            elif loop.time() >= job.deadline or await gone():
                job.settle(_late())
        waiting = [job for job in self._attended if not job.future.done()]
        if waiting:
            self._look_by(min((job.deadline for job in waiting if not job.taken), default=math.inf))

    def _schedule(self, seconds: float) -> None:
        if not self._due:
            self._due = True
            loop = asyncio.get_running_loop()
            if seconds:
                loop.call_later(seconds, self._turn)
            else:
                loop.call_soon(self._turn)

    def _turn(self) -> None:
        """Score what waits once nothing more arrives, a large batch in a thread beside the loop."""
        self._due = False
        if self._scoring is not None or (self._committing is not None and not self.healthy):
            return  # the end of either comes back here
        waiting = len(self._passing) + len(self._kept)
        if waiting > self._gathered and self._turns < GATHER_TURNS:
            self._gathered, self._turns = waiting, self._turns + 1
            self._schedule(0.0)
            return
        self._gathered = self._turns = 0
        jobs = self._next()
        for job in jobs:
            job.taken = True
        if sum(len(job.ticks) for job in jobs) >= BESIDE_TICKS:
            self._scoring = asyncio.create_task(self._score_beside(jobs))
        elif jobs:
            self._scored(*self._score(jobs))

    async def _score_beside(self, jobs: list[Job]) -> None:
        scored = await asyncio.get_running_loop().run_in_executor(self._beside, self._score, jobs)
        self._scoring = None
        self._scored(*scored)

    def _scored(self, jobs: list[Job], commit: Callable[[], None] | None) -> None:
        """Answer the jobs; what must last is answered when it does."""
        for job in jobs:
            if commit is None or job.stream is None:
                job.settle(job.outcome)
        if commit is not None:
            kept = [job for job in jobs if job.stream is not None]
            self._committing = asyncio.create_task(self._commit(commit, kept))
        self._go_on()

    def _go_on(self) -> None:
        """After a batch or a commit: restore if it failed, and score what came meanwhile."""
        idle = self._committing is None
        if idle and self._scoring is None and not self.healthy:
            self._recover()
        if self._passing or (self._alone and self._alone[0].stream is None) or (idle and (self._kept or self._alone)):
            self._schedule(0.0)

    def _next(self) -> list[Job]:
        idle = self._committing is None
        if self._alone:
            return _take(self._alone, 1) if idle or self._alone[0].stream is None else []
        kept = _take(self._kept, BATCH_TICKS) if idle else []
        return kept if kept and kept[0].remove else kept + _take(self._passing, BATCH_TICKS)

    def _score(self, jobs: list[Job]) -> tuple[list[Job], Callable[[], None] | None]:
        """(the jobs that have an outcome now, what to do on the disk before those of kept streams may have it)."""
        began = time.monotonic()
        try:
            if not self.healthy:
                self._engine.restore()
                self.healthy = True
            commit = self._engine.score(jobs)
        except Exception as error:  # noqa: BLE001  (no request may take others with it)
            self.healthy = False
            if len(jobs) > 1 and not isinstance(error, TickwatchError):
                failed = event("batch_failed", requests=len(jobs))
                LOG.warning("a batch of %d requests failed; they are scored one by one", len(jobs), extra=failed)
                for job in jobs:
                    job.taken = False
                self._alone.extend(jobs)
                return [], None
            _fail(jobs, error)
            return jobs, None
        self._count(jobs, time.monotonic() - began)
        return jobs, commit

    async def _commit(self, commit: Callable[[], None], jobs: list[Job]) -> None:
        began, newest = time.monotonic(), self._engine.store.newest_alert
        try:
            await asyncio.get_running_loop().run_in_executor(self._disk, commit)
        except Exception as error:  # noqa: BLE001
            self.healthy = False
            _fail(jobs, error)
        self._metrics.commit_seconds.observe(time.monotonic() - began)
        self._committing = None
        for job in jobs:
            job.settle(job.outcome)
        if self._engine.store.newest_alert > newest:
            self.on_alerts()
        self._go_on()

    def _recover(self) -> None:
        try:
            self._engine.restore()
            self.healthy = True
        except TickwatchError as error:
            LOG.error("%s", error, extra=event("unhealthy"))  # noqa: TRY400  (a sentence needs no traceback)

    def _count(self, jobs: list[Job], seconds: float) -> None:
        scored, metrics = self._engine.scored, self._metrics
        metrics.batch_seconds.observe(seconds)
        metrics.batch_ticks.observe(sum(len(job.ticks) for job in jobs))
        if scored is not None:
            late, repeated = (int((column > 0).sum()) for column in (scored.features.lateness, scored.features.repeats))
            metrics.ticks.labels("late").inc(late)
            metrics.ticks.labels("repeated").inc(repeated)
            metrics.ticks.labels("scored").inc(len(scored.ticks) - late - repeated)
            metrics.scores.observe(scored.verdicts.score)
            metrics.drift.observe(scored)


def _take(jobs: deque[Job], most: int) -> list[Job]:
    """The next jobs, of about `most` ticks, that somebody still waits for; a removal comes alone."""
    now = asyncio.get_running_loop().time()
    taken: list[Job] = []
    n = 0
    while jobs and n < most and not (taken and (jobs[0].remove or taken[-1].remove)):
        job = jobs.popleft()
        if job.deadline <= now:
            job.settle(_late())
        if not job.future.done():
            taken.append(job)
            n += max(1, len(job.ticks))
    return taken


def _fail(jobs: list[Job], error: Exception) -> None:
    failed = event("requests_failed", requests=len(jobs), streams=[job.stream for job in jobs[:10]])
    if isinstance(error, TickwatchError):
        LOG.error("%s", error, extra=failed)
        problem = unavailable()
    else:
        LOG.error("a request could not be scored", exc_info=error, extra=failed)
        problem = internal()
    for job in jobs:
        job.outcome = problem


def _busy(waiting: int) -> Problem:
    detail = f"{waiting} ticks wait to be scored."
    return Problem(
        "busy", detail, "Wait as long as Retry-After says, then send it again.", headers={"Retry-After": "1"}
    )


def _late() -> Problem:
    detail = "The deadline passed. The ticks were dropped and changed nothing."
    remedy = "Wait as long as Retry-After says, then send it again, or give it a later deadline."
    return Problem("deadline", detail, remedy, "Deadline-Ms", {"Retry-After": "1"})


def _stalled() -> Problem:
    detail = "The ticks were scored, but whether that became durable is not known yet."
    return Problem("stalled", detail, "Repeat the request with the same Idempotency-Key to learn it.")
