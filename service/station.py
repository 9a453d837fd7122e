"""A worker and the pages that show it: what `tickwatch run` and `tickwatch worker` have in common."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from service.alerts import Alert
from service.autoencoder import find, load
from service.board import Board, Status, card_json
from service.logs import Log
from service.metrics import Metrics
from service.peer import Peer
from service.scorer import Scorer
from service.ticks import Decode, decode
from service.web import Pages
from service.worker import Send, Worker

if TYPE_CHECKING:
    from service.tracing import Checkpoints


@dataclass(frozen=True)
class Scoring:
    """How to score and where to show it, whatever the log is."""

    model: str
    alert_budget: float
    commit_interval_ms: int
    scores: bool
    stream_idle_hours: float
    max_streams: int
    host: str
    port: int | None
    peer: Peer | None = None

    def scorer(self) -> Scorer:
        """The model with no streams yet. Raises ModelRefused."""
        return Scorer(load(find(self.model)), self.alert_budget, self.stream_idle_hours, self.max_streams)


class Station:
    """A worker on `log`, with its pages until `close`. `committed` hears of alerts once they are durable; `send` as in Worker."""

    def __init__(
        self,
        scoring: Scoring,
        scorer: Scorer,
        log: Log,
        decode: Decode = decode,
        committed: Callable[[list[Alert]], None] = lambda alerts: None,
        checkpoints: Checkpoints | None = None,
        send: Send | None = None,
    ) -> None:
        def show(alerts: list[Alert]) -> None:
            self.board.tell(alerts)
            committed(alerts)

        metrics = Metrics()
        self._log = log
        self._scorer = scorer
        self._began = time.monotonic()
        status = Status(scorer.model.id, scorer.threshold)
        card = card_json(scorer.model, scorer.alert_budget)
        self.board = Board(status, card, scorer.streams.names, metrics.drift.psi)
        self.pages = Pages(self.board, metrics.registry, scoring.host, scoring.port, scoring.peer)
        self.worker = Worker(
            log,
            scorer,
            metrics,
            decode=decode,
            commit_interval_ms=scoring.commit_interval_ms,
            publish_scores=scoring.scores,
            on_commit=show,
            on_scored=self.board.history.add,
            checkpoints=checkpoints,
            send=send,
        )

    def step(self, timeout_ms: int) -> int:
        """One turn of the worker; returns how many records it moved."""
        moved = self.worker.step(timeout_ms)
        self.board.show(self.status(), ready=self._log.connected and not self._log.restoring)
        return moved

    def status(self) -> Status:
        """What the worker has done so far."""
        worker, scorer = self.worker, self._scorer
        return Status(
            scorer.model.id, scorer.threshold, worker.ticks, len(scorer.streams), worker.alerts, worker.rejected,
            sum(self._log.lag().values()), time.monotonic() - self._began,
        )  # fmt: skip

    def close(self) -> None:
        """Stop showing it."""
        self.pages.close()
