"""Calibration makes thresholds keep their promise on the ticks it saw, and copes with short or poor streams."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import msgspec
import numpy as np
import pytest
import torch
from scipy.stats import gmean

from service import autoencoder
from service.autoencoder import Model
from service.card import CellKind
from service.drift import EVERY, NAMES, Drift
from service.features import GAP, OFF_QUOTE, TIME_RUN
from service.judge import CHANNELS, GRAVE, LATE, LOCKED, OFF_GRID, QUIET, REPEATS, REPLAY, STIR
from service.scorer import Scorer
from service.ticks import Ticks
from tests.samples import every, random_ticks
from training.alarms import false_alarms
from training.autoencoder import Autoencoder
from training.calibrate import BUDGETS, CLEAN, STIRRED, calibrate, prior
from training.export import export

NIGHT = 60_000_000_000_000  # nanoseconds
RandomModel = Callable[[CellKind], tuple[Autoencoder, bytes]]


def calibrated(random_model: RandomModel, streams: list[Ticks]) -> Model:
    network, random = random_model("gru")
    torch.nn.init.zeros_(network.output.weight)  # so that errors are the ticks', not those of random weights
    torch.nn.init.zeros_(network.output.bias)
    card = autoencoder.parse(random, autoencoder.find("random")).card
    finished = msgspec.structs.replace(card, **calibrate(export(network, card), streams)._asdict())
    return autoencoder.parse(export(network, finished), autoencoder.find("random"))


def test_thresholds_allow_clean_history_a_little_more_than_the_promised_budget_on_average_and_fall_with_it(
    random_model: RandomModel,
) -> None:
    streams = [random_ticks(40_000, streams=1, seed=s) for s in range(3)]
    model = calibrated(random_model, streams)
    ordered = [model.card.thresholds[f"{b:g}"] for b in BUDGETS]
    assert ordered == sorted(set(ordered), reverse=True)
    for budget in (100.0, 500.0, 1000.0):
        rates = []
        for ticks in streams:
            scorer = Scorer(model, budget)
            crossed = scorer.score(ticks).verdicts.score[2000:] >= scorer.threshold
            rates.append(false_alarms(crossed, np.ones(len(crossed), np.bool_)))
        assert np.mean(rates) == pytest.approx(CLEAN * budget, rel=0.1)


def test_calibration_notes_how_often_its_streams_stir_mildly(random_model: RandomModel) -> None:
    streams = [random_ticks(40_000, streams=1, seed=s) for s in range(3)]
    model = calibrated(random_model, streams)
    without = msgspec.structs.replace(model.card.calibration, stirs=0.0)
    bold = replace(model, card=msgspec.structs.replace(model.card, calibration=without))
    shares = []
    for ticks in streams:
        score, peak, calm, mild = Scorer(bold, 20).score(ticks).verdicts.score[10_000:], 0.0, 0, 0
        for s in score.tolist():
            calm = 0 if s >= STIR else calm + 1
            peak = max(peak, s) if s >= STIR else peak
            if calm == QUIET and peak > 0.0:
                mild += peak < GRAVE
                peak = 0.0
        shares.append(mild / len(score))
    assert model.card.calibration.stirs == pytest.approx(STIRRED * gmean(shares), rel=0.05)


def test_what_history_does_not_have_is_found_although_its_nights_are_long(random_model: RandomModel) -> None:
    def with_nights(ticks: Ticks) -> Ticks:
        return replace(ticks, ts=ticks.ts + NIGHT * (np.arange(len(ticks)) // 16_000))

    model = calibrated(random_model, [with_nights(random_ticks(40_000, streams=1, seed=s)) for s in range(2)])
    ticks = with_nights(random_ticks(40_000, streams=1, seed=5))
    usual = (ticks.ts[1000] - ticks.ts[0]) // 1000
    rows, silence = np.arange(len(ticks)), np.where(np.arange(len(ticks)) >= 30_000, 500 * usual, 0)
    again = np.sort(np.r_[rows, np.repeat(rows[30_000:30_015], 2)])
    late = np.r_[rows[:30_000], rows[30_005:30_010], rows[30_000:30_005]]
    replayed = np.r_[rows[:30_000], rows[28_000:28_080], rows[30_000:]]
    faults = {
        GAP: replace(ticks, ts=ticks.ts + silence),
        REPEATS: ticks.take(again),
        LATE: ticks.take(late),
        LOCKED: replace(ticks, bid=np.where(rows < 30_000, ticks.bid, ticks.ask)),
        TIME_RUN: replace(ticks, ts=ticks.ts - np.clip(ticks.ts - ticks.ts[30_000], 0, 60 * usual)),
        OFF_QUOTE: replace(ticks, price=np.where(rows < 30_000, ticks.price, ticks.bid - 0.01)),
        OFF_GRID: replace(ticks, price=ticks.price + np.where((rows >= 30_000) & (rows < 30_003), 0.00123, 0)),
        REPLAY: replace(ticks.take(replayed), ts=with_nights(random_ticks(len(replayed), streams=1, seed=5)).ts),
    }
    for channel, faulty in faults.items():
        scorer = Scorer(model, 20)
        verdicts = scorer.score(faulty).verdicts
        assert verdicts.score[30_000:30_100].max() >= scorer.threshold, CHANNELS[channel]
        assert verdicts.tails[30_000:30_100, channel].max() >= scorer.threshold, CHANNELS[channel]


def test_streams_that_are_short_or_lack_quotes_and_sizes_can_be_learned_from(
    random_model: RandomModel,
) -> None:
    whole = random_ticks(3000, streams=1)
    blank = np.full(1200, np.nan)
    short = whole.take(np.arange(1200))
    bare = replace(short, size=blank, bid=blank, ask=blank, bid_size=blank, ask_size=blank)
    for streams in ([bare], [bare, whole], [whole.take(np.arange(300))]):
        found = prior(streams)
        assert np.isfinite(found.mean).all()
        assert (found.std > 0).all()
        calibrated(random_model, streams)


def test_the_ticks_that_calibrated_show_no_drift_and_those_of_another_market_do(random_model: RandomModel) -> None:
    streams = [random_ticks(12_000, streams=1, seed=s) for s in range(3)]
    model = calibrated(random_model, streams)
    assert [len(p.shares) - len(p.edges) for p in model.card.populations] == [1] * len(NAMES)
    calm = streams[0]
    wild = replace(calm, ask=calm.ask + np.where(np.arange(12_000) % 4, 0.0, 0.5))
    indices = []
    for market in (calm, wild):
        drift, scorer = Drift(lambda: 0.0), Scorer(model, 20.0)
        drift.expect(model.card.populations)
        scorer.score(market)  # a stream's own habits are not yet formed in its first ticks
        later = replace(market, ts=market.ts + int(np.ptp(market.ts)) + 1)
        batches = [scorer.score(part) for part in every(later, 100)]
        for _ in range(EVERY):
            for batch in batches:
                drift.observe(batch)
        indices.append(drift.psi())
    assert indices[0].pop("score") < 0.25
    assert max(indices[0].values()) < 0.1
    assert indices[1]["spread"] > 0.25
