"""An alert says in words what is wrong, and is the same event on every replay."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import datetime

import numpy as np
import pytest

from service.alerts import (
    CONTRIBUTIONS,
    MOST_REASONS,
    Alert,
    alerts,
    cloud_event,
    contributions,
    duration,
    iso_time,
    reasons,
)
from service.autoencoder import load
from service.features import F
from service.judge import FEATURE_OF, LATE, C
from service.scorer import Scorer
from service.ticks import NO_SEQ, Ticks
from tests.samples import random_ticks, shipped, with_numbers

MODEL = load(shipped("gru"))
CALM = random_ticks(4000, streams=1)
AT = 3900


def alert_for(ticks: Ticks) -> Alert:
    """The alert of tick AT, where the fault is."""
    scorer = Scorer(MODEL, 20)
    found = [a for a in alerts(scorer.score(ticks), "ticks", MODEL.id, scorer.threshold) if a.offset == AT]
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize(
    ("fault", "feature", "words"),
    [
        ({"price": CALM.price[AT] * 1.2, "size": 100.0}, "return", "price up"),
        ({"price": CALM.price[AT] * -1.0, "size": 100.0}, "return", "price down"),
        ({"bid": CALM.price[AT] + 1, "ask": CALM.price[AT] - 1}, "crossed", "quote crossed by"),
        ({"bid": CALM.price[AT] - 1, "ask": CALM.price[AT] + 1}, "spread", "its usual width"),
        ({"size": 1e9}, "size", "size 1,000,000,000, expected about"),
    ],
)
def test_an_alert_names_the_feature_that_caused_it_with_observed_and_expected(
    fault: dict[str, float], feature: str, words: str
) -> None:
    alert = alert_for(with_numbers(CALM, AT, **fault))
    reason = next(r for r in alert.reasons if r.feature == feature)
    assert words in reason.text
    assert abs(reason.observed) > abs(reason.expected)
    assert 1 <= len(alert.reasons) <= MOST_REASONS
    assert alert.score >= alert.threshold


def test_the_mildest_score_that_reaches_a_threshold_has_a_reason_too() -> None:
    scorer = Scorer(MODEL, 5000)
    scored = scorer.score(CALM)
    high = np.flatnonzero(scored.verdicts.score >= scorer.threshold)
    assert min(reasons(scored, i)[0].score for i in high.tolist()) < 2.0


def test_a_gap_and_a_late_tick_are_told_as_time() -> None:
    gap = CALM.ts.copy()
    gap[AT:] += 3_600_000_000_000
    late = CALM.ts.copy()
    late[AT] -= 5_000_000_000
    for ts, words in ((gap, "h since the last tick"), (late, "older than a tick already seen")):
        assert any(words in r.text for r in alert_for(replace(CALM, ts=ts)).reasons)


def test_a_tick_that_comes_again_and_again_is_told_as_such() -> None:
    calm = random_ticks(20_000, streams=1)
    at = len(calm) - 100
    stuck = replace(calm.take(np.r_[:at, np.full(100, at)]), offset=calm.offset)
    scorer = Scorer(MODEL, 20)
    found = alerts(scorer.score(stuck), "ticks", MODEL.id, scorer.threshold)
    first = next(a for a in found if a.offset > at)
    assert first.offset < at + 20
    assert [r.feature for r in first.reasons] == ["repeats"]
    assert "came before" in first.reasons[0].text


def test_a_replayed_block_is_told_as_such() -> None:
    block = np.r_[:AT, AT - 200 : AT - 100, AT : len(CALM) - 100]
    replayed = replace(CALM.take(block), offset=CALM.offset, ts=CALM.ts)
    scored = Scorer(MODEL, 20).score(replayed)
    told = [r.text for i in range(AT, AT + 100) for r in reasons(scored, i) if r.feature == "replay"]
    assert told
    assert all("came before, in the same order" in text for text in told)


def test_a_locked_quote_is_told_as_such() -> None:
    scored = Scorer(MODEL, 20).score(replace(CALM, bid=np.where(np.arange(len(CALM)) < AT, CALM.bid, CALM.ask)))
    assert "bid equals ask" in [r.text for r in reasons(scored, AT)]


def test_a_book_that_stays_thin_is_told_with_what_is_usual() -> None:
    thin = np.where(ROWS < AT - 60, 900.0 + ROWS % 200, 10.0)
    scored = Scorer(MODEL, 20).score(replace(CALM, bid_size=thin, ask_size=thin))
    told = next(r for r in reasons(scored, AT) if r.feature == "depth")
    assert told.text.startswith("lately ")
    assert re.search(r"quoted at the best bid and ask, expected about [1-9],\d\d0$", told.text)
    assert told.observed < 150


def test_a_price_off_the_grid_is_told_with_the_decimals_that_are_usual() -> None:
    cents = replace(CALM, price=np.round(CALM.price, 2))
    price = cents.price[AT] + 0.00123
    scored = Scorer(MODEL, 20).score(with_numbers(cents, AT, price=price))
    told = next(r for r in reasons(scored, AT) if r.feature == "off_grid")
    assert told.text == f"price {price:.15g} has more decimals than the 2 that are usual"
    assert (told.observed, told.expected) == (price, cents.price[AT])


ROWS = np.arange(len(CALM))
STILL = np.where(ROWS < AT - 200, 100.0 + ROWS % 7, 100.0)


@pytest.mark.parametrize(
    ("ticks", "feature", "words"),
    [
        (
            replace(CALM, bid_size=np.where(ROWS < AT, STILL, 1e6), ask_size=STILL),
            "depth",
            "quoted at the best bid and ask",
        ),
        (
            replace(CALM, bid=CALM.bid[0] + (STILL - 100) / 100, ask=CALM.ask[0], bid_size=STILL, ask_size=STILL),
            "book_run",
            "quote and its sizes unchanged for",
        ),
        (
            replace(CALM, ts=np.where(ROWS < AT - 100, CALM.ts, CALM.ts[AT - 100])),
            "time_run",
            "ticks with the same time",
        ),
        (
            replace(CALM, price=np.where(ROWS < AT - 100, CALM.price, CALM.price[AT - 100])),
            "mid_moves",
            "times, the price not at all",
        ),
        (
            replace(CALM, price=np.where(ROWS < AT - 30, CALM.bid, CALM.bid - 1e-9), size=np.full(len(CALM), 100.0)),
            "off_quote",
            "of the trades are at neither bid nor ask",
        ),
    ],
)
def test_a_book_a_clock_or_a_price_that_stands_still_sizes_quoted_and_trades_off_the_quotes_are_told_as_such(
    ticks: Ticks, feature: str, words: str
) -> None:
    quoted = replace(ticks, ask=np.broadcast_to(ticks.ask, len(ticks)).copy())
    told = next(r for r in reasons(Scorer(MODEL, 20).score(quoted), AT) if r.feature == feature)
    assert words in told.text
    assert told.observed > 10 * told.expected


GONE = np.where(np.arange(len(CALM)) < AT, 1.0, np.nan)


@pytest.mark.parametrize(
    ("ticks", "words"),
    [
        (replace(CALM, bid=CALM.bid * GONE, ask=CALM.ask * GONE), "have a value for bid, expected about 100%"),
        (replace(CALM, ask=CALM.ask * GONE), "have a value for ask, expected about 100%"),
        (replace(CALM, size=100 * GONE), "are trades, expected about 100%"),
        (replace(CALM, size=100 * GONE), "have a value for size, expected about 100%"),
    ],
)
def test_trades_or_a_field_that_stay_away_are_told_as_such(ticks: Ticks, words: str) -> None:
    scorer = Scorer(MODEL, 20)
    found = alerts(scorer.score(ticks), "ticks", MODEL.id, scorer.threshold)
    assert AT <= found[0].offset < AT + 16
    assert any(words in r.text for a in found for r in a.reasons)


def test_what_lasts_is_told_with_what_was_expected() -> None:
    wide = CALM.ask.copy()
    wide[AT - 30 :] += 0.2
    scorer = Scorer(MODEL, 20)
    found = alerts(scorer.score(replace(CALM, ask=wide)), "ticks", MODEL.id, scorer.threshold)
    assert any("lately spread" in r.text for a in found for r in a.reasons)


def test_an_alert_carries_the_tick_with_its_sequence_number() -> None:
    numbered = replace(with_numbers(CALM, AT, price=CALM.price[AT] * 1.2), seq=np.arange(len(CALM)))
    assert alert_for(numbered).tick["seq"] == AT
    assert "seq" not in alert_for(replace(numbered, seq=np.full(len(CALM), NO_SEQ))).tick


def test_an_alert_is_a_cloud_event_with_a_deterministic_id() -> None:
    ticks = with_numbers(CALM, AT, price=CALM.price[AT] * 1.2, size=100.0)
    first, second = cloud_event(alert_for(ticks)), cloud_event(alert_for(ticks))
    assert first == second
    event = json.loads(first.value)
    assert event["specversion"] == "1.0"
    assert event["id"] == f"ticks/0/{AT}/{MODEL.id}"
    assert event["type"] == "tickwatch.alert.opened"
    assert event["subject"] == first.key.decode() == "S0"
    assert event["data"]["incident"] == event["id"]
    assert event["data"]["tick"]["price"] == ticks.price[AT]
    assert datetime.fromisoformat(event["time"]).timestamp() == pytest.approx(ticks.ts[AT] / 1e9, abs=1e-6)


def test_an_alert_on_a_tick_without_quote_is_valid_json() -> None:
    price, none = CALM.price.copy(), np.full(len(CALM), np.nan)
    price[AT] *= 2
    ticks = replace(CALM, price=price, size=none, bid=none, ask=none, bid_size=none, ask_size=none)
    assert json.loads(cloud_event(alert_for(ticks)).value)["data"]["tick"] == {"price": price[AT]}


def test_contributions_are_one_number_per_feature() -> None:
    tails = np.random.default_rng(0).random((10, C)).astype(np.float32)
    found = contributions(tails)
    assert found.shape == (10, len(CONTRIBUTIONS))
    assert np.array_equal(found[:, F:], tails[:, LATE:])
    for feature in range(F):
        assert np.array_equal(found[:, feature], tails[:, :LATE][:, feature == FEATURE_OF].max(axis=1))


@pytest.mark.parametrize(
    ("microseconds", "text"),
    [(350, "350 us"), (1200, "1.2 ms"), (2.5e6, "2.5 s"), (9e7, "1.5 min"), (6.12e10, "17.0 h")],
)
def test_durations_are_told_in_the_unit_people_use(microseconds: float, text: str) -> None:
    assert duration(microseconds) == text


def test_times_keep_their_nanoseconds() -> None:
    assert iso_time(1_700_000_000_000_000_001) == "2023-11-14T22:13:20.000000001Z"
