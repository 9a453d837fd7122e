"""The way of a batch: ticks -> features -> autoencoder -> judge. The worker, the replay and every other door use this."""

from __future__ import annotations

import gc
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service import autoencoder
from service.autoencoder import Model
from service.features import Features, Prior, features
from service.judge import Judge, Verdicts
from service.logs import Records
from service.logs.spans import PARTS, scan
from service.streams import Streams, layout
from service.ticks import Ticks, decode

IDLE_HOURS = 168.0  # a week, so that no weekend makes a stream begin anew


NO_TICKS, _ = decode(Records(np.zeros(0, np.int32), np.zeros(0, np.int64), [], []))


@dataclass(frozen=True)
class Scored:
    """Everything known about a batch after scoring: N ticks, their features, the expectation float32 [N, F], the verdicts.

    `rows` int64 [N] tells the streams apart: ticks of one batch have the same row if they are of one stream. `refused` are
    ticks of new streams that the limit keeps out, which are not among the N.
    """

    ticks: Ticks
    rows: NDArray[np.int64]
    features: Features
    expected: NDArray[np.float32]
    verdicts: Verdicts
    refused: Ticks

    def take(self, index: NDArray[np.intp]) -> Scored:
        """The ticks at `index` and all that is known about them."""
        found = Features(**{name: values[index] for name, values in vars(self.features).items()})
        verdicts = Verdicts(**{name: values[index] for name, values in vars(self.verdicts).items()})
        return Scored(self.ticks.take(index), self.rows[index], found, self.expected[index], verdicts, self.refused)


def warm_up(model: Model) -> None:
    """Compile the kernels, which takes seconds on the first use on a machine, and run the model once.

    From then on the garbage collector looks seldom: it went through all that was ever imported and took a fifth of a worker's
    time. A batch makes thousands of short-lived tuples, none of them in a cycle.
    """
    tick = b'{"stream":"warm-up","ts":1,"price":1}'
    two, _ = decode(Records(np.zeros(2, np.int32), np.arange(2), [None, None], [tick, tick.replace(b"1,", b"2,")]))
    Scorer(model, 20.0).score(two)
    scan(np.zeros(1, np.uint8), 1, np.empty((0, PARTS), np.int64))
    gc.set_threshold(50_000, 20, 50)


class Scorer:
    """A model and an alert budget (false alarms accepted per 100,000 ticks), with the state of all streams.

    For `idle_hours` and `max_streams` see Streams.
    """

    def __init__(
        self, model: Model, alert_budget: float, idle_hours: float = IDLE_HOURS, max_streams: int | None = None
    ) -> None:
        self.model = model
        self.alert_budget = alert_budget
        self.streams = Streams(model.recurrent, idle_hours, max_streams)
        self.layout = layout(model.recurrent, model.id)
        self.threshold = autoencoder.threshold(model.card, alert_budget)
        self._judge = Judge(model.card.calibration, self.threshold)
        scale = model.card.standardisation
        self._prior = Prior(np.array(scale.mean, np.float32), np.array(scale.std, np.float32))

    def score(self, ticks: Ticks) -> Scored:
        """Score the ticks in order and move their streams' state on. Any split into batches gives the same bits."""
        streams = self.streams
        rows = streams.rows(ticks)
        refused = NO_TICKS
        if streams.most is not None and rows.min(initial=0) < 0:
            known = np.flatnonzero(rows >= 0)
            refused = ticks.take(np.flatnonzero(rows < 0))
            ticks, rows = ticks.take(known), rows[known]
        found = features(ticks, rows, streams.features, self._prior)
        x, folded = found.x, found.folded
        if folded.all():
            expected = self.model.reconstruct(x, rows, streams.recurrent)
        else:
            expected = np.zeros_like(x)
            expected[folded] = self.model.reconstruct(x[folded], rows[folded], streams.recurrent)
        verdicts = self._judge.judge(ticks.offset, ticks.ts, rows, found, expected, streams.judge)
        return Scored(ticks, rows, found, expected, verdicts, refused)
