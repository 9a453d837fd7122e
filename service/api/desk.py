"""The queue before the scoring thread: bounded, gathers what comes together, and drops what nobody waits for any more."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from queue import Empty, SimpleQueue

from prometheus_client import Gauge

from service.api.engine import Engine, Job, unavailable
from service.api.problems import Problem, internal
from service.errors import TickwatchError
from service.metrics import Metrics

LOG = logging.getLogger("tickwatch")
BATCH_TICKS = 10_000
ATTEND_SECONDS = 0.25  # between two looks whether the client is still there
SHARE = 2  # one key's requests fill at most this part of the queue: 1 / SHARE


class Desk:
    """Jobs of the event loop's coroutines, scored by a thread of its own from `start` until `close`.

    `linger_ms` is how long the first job waits for company; `most` is how many ticks may wait or be in work.
    """

    def __init__(self, engine: Engine, metrics: Metrics, linger_ms: float, most: int) -> None:
        self.waiting = 0  # ticks; changed by the event loop only
        self.healthy = True
        self.on_alerts: Callable[[], None] = lambda: None  # called in the event loop when alerts have become durable
        self._engine = engine
        self._metrics = metrics
        self._gauge = Gauge(
            "tickwatch_http_waiting_ticks", "Ticks that wait or are being scored", registry=metrics.registry
        )
        self._linger = linger_ms / 1000
        self._most = most
        self._waiting_of: Counter[str] = Counter()
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="scoring", daemon=True)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to score; outcomes go to `loop`."""
        self._loop = loop
        self._thread.start()

    def close(self) -> None:
        """Score what waits, then end."""
        self._jobs.put(None)
        self._thread.join()

    def measure(self) -> None:
        """Bring the gauges up to date."""
        self._gauge.set(self.waiting)
        self._metrics.streams.set(len(self._engine.store.ticks))

    async def settle(self, job: Job, gone: Callable[[], asyncio.Future[bool]]) -> bytes:
        """The answer to a job. Raises Problem: when there is no room, it failed, its deadline passed, or its client is gone."""
        n = max(1, len(job.ticks))
        share = self._most if not job.prefix else self._most // SHARE
        if self.waiting + n > self._most or self._waiting_of[job.prefix] + n > share:
            raise busy(self.waiting)
        self.waiting += n
        self._waiting_of[job.prefix] += n
        self._jobs.put(job)
        attend = self._loop.call_later(
            min(ATTEND_SECONDS, job.deadline - self._loop.time()),
            lambda: self._loop.create_task(self._attend(job, gone)),
        )
        outcome = await job.future
        attend.cancel()
        if isinstance(outcome, Problem):
            raise outcome
        return outcome

    async def _attend(self, job: Job, gone: Callable[[], asyncio.Future[bool]]) -> None:
        """Give the job up when nobody waits for it any more."""
        while not job.future.done():
            late = self._loop.time() >= job.deadline
            if late or await gone():
                taken = not job.claim.acquire(blocking=False)
                if late and not job.future.done():
                    job.future.set_result(_late(taken=taken))
                if late or not taken:
                    return
            await asyncio.sleep(min(ATTEND_SECONDS, max(0.001, job.deadline - self._loop.time())))

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            if self._linger:
                time.sleep(self._linger)
            jobs, n = [job], len(job.ticks)
            ended = False
            while n < BATCH_TICKS:
                try:
                    job = self._jobs.get_nowait()
                except Empty:
                    break
                if job is None:
                    ended = True
                    break
                jobs.append(job)
                n += len(job.ticks)
            self._turn(jobs)
            if ended:
                return

    def _turn(self, jobs: list[Job]) -> None:
        mine = [job for job in jobs if job.claim.acquire(blocking=False)]
        newest = self._engine.store.newest_alert
        began = time.monotonic()
        part: list[Job] = []
        for job in mine:  # a removal stands between what came before and after it
            if job.remove:
                self._score(part)
                part = []
                self._remove(job)
            else:
                part.append(job)
        self._score(part)
        self._metrics.batch_seconds.observe(time.monotonic() - began)
        self._metrics.batch_ticks.observe(sum(len(job.ticks) for job in mine))
        arose = self._engine.store.newest_alert > newest
        self._loop.call_soon_threadsafe(self._deliver, jobs, arose)

    def _score(self, jobs: list[Job]) -> None:
        if not jobs:
            return
        try:
            if not self.healthy:
                self._engine.restore()
                self.healthy = True
            self._engine.score(jobs)
            self._count(jobs)
        except Exception as error:  # noqa: BLE001  (no request may end the thread, nor take others with it)
            self._recover()
            if len(jobs) > 1 and not isinstance(error, TickwatchError):
                for job in jobs:
                    self._score([job])
                return
            self._fail(jobs, error)

    def _count(self, jobs: list[Job]) -> None:
        scored, metrics = self._engine.scored, self._metrics
        late = int((scored.features.lateness > 0).sum())
        metrics.ticks.labels("late").inc(late)
        metrics.ticks.labels("scored").inc(len(scored.ticks) - late)
        metrics.scores.observe(scored.verdicts.score)

    def _remove(self, job: Job) -> None:
        try:
            self._engine.remove(job)
        except Exception as error:  # noqa: BLE001
            self._recover()
            self._fail([job], error)

    def _recover(self) -> None:
        try:
            self._engine.restore()
        except TickwatchError as error:
            self.healthy = False
            LOG.error("%s", error)

    def _fail(self, jobs: list[Job], error: Exception) -> None:
        if isinstance(error, TickwatchError):
            LOG.error("%s", error)
            problem = unavailable()
        else:
            LOG.error("a request could not be scored", exc_info=error)
            problem = internal()
        for job in jobs:
            job.outcome = problem

    def _deliver(self, jobs: list[Job], arose: bool) -> None:
        for job in jobs:
            n = max(1, len(job.ticks))
            self.waiting -= n
            self._waiting_of[job.prefix] -= n
            if not self._waiting_of[job.prefix]:
                del self._waiting_of[job.prefix]
            if not job.future.done():
                job.future.set_result(job.outcome if job.outcome is not None else _late(taken=False))
        if arose:
            self.on_alerts()


def busy(waiting: int) -> Problem:
    """There is no room in the queue."""
    detail = f"{waiting} ticks wait to be scored."
    return Problem(
        "busy", detail, "Wait as long as Retry-After says, then send it again.", headers={"Retry-After": "1"}
    )


def _late(*, taken: bool) -> Problem:
    if taken:
        detail, remedy = "They may still be.", "Repeat it with the same Idempotency-Key to learn the outcome."
    else:
        detail, remedy = "They were dropped and changed nothing.", "Send it again, or give it a later deadline."
    return Problem("deadline", f"The ticks were not scored in time. {detail}", remedy, "Deadline-Ms")
