"""The worker: poll, decode, score, collect, commit."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from service.alerts import Alert, alerts, cloud_event
from service.journal import event
from service.logs import TRACE_HEADER, Checkpoint, DeadLetter, Log, LogReset, Output, Poll
from service.metrics import Metrics, exemplar
from service.scorer import Scored, Scorer
from service.ticks import OURS, Decode, Ticks, decode, wrong_unit

if TYPE_CHECKING:
    from service.tracing import Checkpoints

LOG = logging.getLogger("tickwatch")
NEVER_MS = 3_600_000
Send = Callable[[list[Output], list[Output], list[DeadLetter]], None]  # alerts, frames of scores, dead letters


@dataclass
class Pending:
    """What was scored since the last commit."""

    offsets: dict[int, int] = field(default_factory=dict)
    alerts: list[Alert] = field(default_factory=list)
    events: list[Output] = field(default_factory=list)
    scores: list[Output] = field(default_factory=list)
    dead_letters: list[DeadLetter] = field(default_factory=list)
    scored: int = 0
    late: int = 0
    repeated: int = 0
    buried: int = 0
    refused: int = 0


class Worker:
    """Moves ticks from a log through the scorer and back into the log as alerts, state and offsets.

    A checkpoint is committed every `commit_interval_ms`, or earlier after `commit_ticks`. `on_commit` hears of alerts once they
    are durable, `on_scored` of every batch before that. `decode` reads the log's wire format. `publish_scores` also writes
    every tick's score, in frames. `checkpoints` makes spans of them, if asked for. `send` takes the results of each batch at
    once, and the checkpoint then has only state and offsets; what it counts may be void and counted again.
    """

    def __init__(
        self,
        log: Log,
        scorer: Scorer,
        metrics: Metrics,
        *,
        decode: Decode = decode,
        commit_interval_ms: int = 100,
        commit_ticks: int = 50_000,
        publish_scores: bool = False,
        on_commit: Callable[[list[Alert]], None] = lambda committed: None,
        on_scored: Callable[[Scored], None] = lambda scored: None,
        checkpoints: Checkpoints | None = None,
        send: Send | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.ticks = 0
        self.alerts = 0
        self.rejected = 0
        self._log = log
        self._scorer = scorer
        self._metrics = metrics
        self._decode = decode
        self._interval = commit_interval_ms / 1000
        self._commit_ticks = commit_ticks
        self._publish_scores = publish_scores
        self._on_commit = on_commit
        self._on_scored = on_scored
        self._checkpoints = checkpoints
        self._send = send
        self._clock = clock
        self._pending = Pending()
        self._last_commit = clock()
        self._active: set[int] = set()
        self._warned = False
        metrics.describe(scorer.model, scorer.alert_budget)

    def step(self, timeout_ms: int) -> int:
        """One turn of the loop; returns how many records it moved."""
        try:
            began = self._clock()
            poll = self._log.poll(min(timeout_ms, self._until_due_ms()), self.commit)
            self._take_over(poll, began)
            if len(poll.records):
                self._score(poll)
            if self._until_due_ms() == 0:
                self.commit()
            return len(poll.records)
        except LogReset:
            self._void()
            self._metrics.lag.clear()
            self._active.clear()
            self._scorer.streams.clear()
            self._pending = Pending()
            return 0

    def _until_due_ms(self) -> int:
        """Milliseconds until there must be a commit: a poll that waits for longer would hold up what is scored."""
        waiting = self._pending.scored + self._pending.buried
        if waiting >= self._commit_ticks:
            return 0
        left = self._interval - (self._clock() - self._last_commit)
        return max(0, math.ceil(left * 1000)) if waiting else NEVER_MS

    def _take_over(self, poll: Poll, began: float) -> None:
        streams = self._scorer.streams
        for partition in poll.lost:
            streams.drop(partition)
            self._pending.offsets.pop(partition, None)
            self._metrics.lag.remove(partition)
        for state in poll.restored:
            streams.load(state)
        self._active = self._active.difference(poll.lost).union(s.partition for s in poll.restored)
        self._metrics.partitions.labels("active").set(len(self._active))
        self._metrics.partitions.labels("restoring").set(self._log.restoring)
        self._metrics.restored.inc(len(poll.restored))
        if poll.restored:
            self._metrics.restore_seconds.set(self._clock() - began)
        self._metrics.connected.set(self._log.connected)
        self._metrics.connect_attempts.set(self._log.connect_attempts)
        for partition, lag in self._log.lag().items():
            self._metrics.lag.labels(partition).set(lag)
        self._metrics.streams.set(len(streams))
        self._metrics.state_bytes.set(streams.nbytes)

    def _score(self, poll: Poll) -> None:
        began = self._clock()
        records, pending, scorer = poll.records, self._pending, self._scorer
        read, rejects = self._decode(records)
        if not self._warned:
            self._warn_of_unit(read)
        scored = scorer.score(read)
        found = alerts(scored, self._log.name, scorer.model.id, scorer.threshold)
        frames = score_frames(scored, self._log.name, scorer.model.id) if self._publish_scores else []
        letters = rejects + self._refused(poll, scored.refused)
        pending.alerts += found
        pending.buried += len(letters)
        pending.refused += len(scored.refused)
        for partition in np.unique(records.partition).tolist():
            pending.offsets[partition] = int(records.offset[records.partition == partition][-1]) + 1
        pending.scored += len(scored.ticks)
        pending.late += int((scored.features.lateness > 0).sum())
        pending.repeated += int((scored.features.repeats > 0).sum())
        self._on_scored(scored)
        self._metrics.scores.observe(scored.verdicts.score)
        self._metrics.drift.observe(scored)
        self._metrics.batch_ticks.observe(len(records))
        seconds = self._clock() - began
        self._metrics.batch_seconds.observe(seconds)
        if self._checkpoints is not None:
            self._checkpoints.scored(records, found, seconds)
        headers = self._headers()
        events = [cloud_event(alert, headers) for alert in found]
        if self._send is not None:
            self._send(events, frames, letters)
            return
        pending.events += events
        pending.scores += frames
        pending.dead_letters += letters

    def _warn_of_unit(self, read: Ticks) -> None:
        old = np.flatnonzero(read.ts < OURS[0])[:1]
        if unit := wrong_unit(read.ts[old]):
            self._warned = True
            stream, topic = read.stream[old[0]], self._log.name
            LOG.warning("%s of %s: %s", stream, topic, unit, extra=event("wrong_unit", topic=topic, stream=stream))

    def _headers(self) -> list[tuple[str, bytes]]:
        return [] if self._checkpoints is None else self._checkpoints.headers()

    def _refused(self, poll: Poll, refused: Ticks) -> list[DeadLetter]:
        if not len(refused):
            return []
        at = zip(poll.records.partition.tolist(), poll.records.offset.tolist(), strict=True)
        place = {where: i for i, where in enumerate(at)}
        reason = f"stream is new and its partition holds {self._scorer.streams.most} already, the limit (--max-streams)"
        where = zip(refused.partition.tolist(), refused.offset.tolist(), strict=True)
        return [poll.records.dead_letter(place[w], reason) for w in where]

    def finish(self) -> None:
        """Commit what is left; if that fails it is void, and whoever goes on scores it again."""
        try:
            self.commit()
        except LogReset:
            self._void()

    def _void(self) -> None:
        self._metrics.resets.inc()
        if self._checkpoints is not None:
            self._checkpoints.void()

    def commit(self) -> None:
        """Make everything scored so far durable in one transaction."""
        pending, self._pending = self._pending, Pending()
        began = self._clock()
        due = self._last_commit + self._interval
        self._last_commit = due if due < began < due + self._interval else began  # a late one delays no other
        if not pending.offsets:
            return
        states = self._scorer.streams.changed(late=True)
        headers = self._headers()
        self._log.commit(Checkpoint(pending.offsets, states, pending.events, pending.scores, pending.dead_letters))
        seconds = self._clock() - began
        self._metrics.commit_seconds.observe(seconds, exemplar(dict(headers).get(TRACE_HEADER, b"").decode()))
        if self._checkpoints is not None:
            self._checkpoints.committed(seconds)
        self._metrics.ticks.labels("scored").inc(pending.scored - pending.late - pending.repeated)
        self._metrics.ticks.labels("late").inc(pending.late)
        self._metrics.ticks.labels("repeated").inc(pending.repeated)
        self._metrics.ticks.labels("over_limit").inc(pending.refused)
        self._metrics.ticks.labels("rejected").inc(pending.buried - pending.refused)
        self._metrics.expired.inc(sum(len(state.removed) for state in states))
        for alert in pending.alerts:
            self._metrics.alerts.labels(alert.phase).inc()
        self.ticks += pending.scored
        self.rejected += pending.buried
        self.alerts += len(pending.alerts)
        self._on_commit(pending.alerts)


def score_frames(scored: Scored, topic: str, model_id: str) -> list[Output]:
    """Scores as one columnar JSON record per partition: about 0.2 us a tick, against 22 for a record each."""
    frames = []
    ticks, verdicts = scored.ticks, scored.verdicts
    for partition in np.unique(ticks.partition).tolist():
        at = np.flatnonzero(ticks.partition == partition)
        frame = {
            "topic": topic,
            "partition": partition,
            "model": model_id,
            "offset": ticks.offset[at].tolist(),
            "stream": [ticks.stream[i] for i in at.tolist()],
            "ts": ticks.ts[at].tolist(),
            "score": verdicts.score[at].tolist(),
            "alert": verdicts.alert[at].tolist(),
        }
        frames.append(Output(partition, b"%d" % partition, msgspec.json.encode(frame)))
    return frames
