"""What a person can look at later is what was scored: around an alert, and the last ticks of a stream."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from service.autoencoder import load
from service.features import Features
from service.history import AROUND, CHUNK, CUTS, TICKS, VIEW, History
from service.judge import Verdicts
from service.scorer import Scored, Scorer
from tests.samples import every, random_ticks, shipped, with_numbers

STREAMS = 20
JUMP = 12_000
CALM = random_ticks(30_000, streams=STREAMS)
MARKET = with_numbers(CALM, JUMP, price=CALM.price[JUMP] * 1.5)


@pytest.fixture(scope="module")
def scored() -> Scored:
    return Scorer(load(shipped("gru")), 20).score(MARKET)


def part(scored: Scored, places: slice) -> Scored:
    """Some of the ticks, as if they had been a batch."""
    at = np.arange(len(scored.ticks))[places]
    features = Features(**{name: values[at] for name, values in vars(scored.features).items()})
    verdicts = Verdicts(**{name: values[at] for name, values in vars(scored.verdicts).items()})
    return Scored(scored.ticks.take(at), scored.rows[at], features, scored.expected[at], verdicts, scored.refused)


def told(scored: Scored, step: int) -> History:
    history = History()
    for start in range(0, len(scored.ticks), step):
        history.add(part(scored, slice(start, start + step)))
    return history


def test_around_an_alert_is_its_stream_before_and_after_with_the_scores_it_got(scored: Scored) -> None:
    assert scored.verdicts.alert[JUMP]
    mine = np.flatnonzero(np.array(MARKET.stream) == MARKET.stream[JUMP])
    i = int(np.flatnonzero(mine == JUMP)[0])
    expected = mine[max(0, i - AROUND) : i + AROUND + 1]
    for step in (17, 30_000):
        cut = told(scored, step).around(0, JUMP)
        assert cut is not None
        trace = cut.trace(["return"])
        assert trace.offset == expected.tolist()
        assert trace.score == scored.verdicts.score[expected].tolist()
        assert trace.price == MARKET.price[expected].tolist()
        found = trace.courses[0].observed[trace.offset.index(JUMP)]
        assert found == pytest.approx(np.sinh(scored.features.observed[JUMP, 0]))


def test_what_was_around_an_alert_outlasts_the_ring_and_the_ring_stays_as_large_as_it_is(scored: Scored) -> None:
    history = told(scored, 5_000)
    first = history.around(0, JUMP)
    for start in range(30_000, 30_000 + 2 * TICKS, 30_000):
        later = replace(MARKET, offset=MARKET.offset + start)
        history.add(replace(scored, ticks=later))
    kept = history.around(0, JUMP)
    assert first is not None
    assert kept is not None
    assert kept.trace() == first.trace()
    assert history.around(0, 5) is None
    assert not scored.verdicts.alert[5]
    latest = history.last("S0")
    assert latest is not None
    assert latest.offset[-1] == later.offset[np.flatnonzero(np.array(later.stream) == "S0")[-1]]


def test_a_time_finds_the_same_ticks_as_an_offset_for_as_long_as_they_are_kept(scored: Scored) -> None:
    history = told(scored, 5_000)
    first, ms = history.around(0, JUMP), MARKET.ts / 1e6
    assert first is not None
    for passed in (0, 1, 2):
        found = history.near(MARKET.stream[JUMP], ms[JUMP])
        assert found is not None
        assert found.trace() == first.trace()
        assert (history.near(MARKET.stream[0], ms[0]) is None) == (passed == 2)
        n = passed + 1
        history.add(
            replace(scored, ticks=replace(MARKET, offset=MARKET.offset + 90_000 * n, ts=MARKET.ts + 10**15 * n))
        )
    for stream, when in (("nobody", ms[JUMP]), (MARKET.stream[JUMP], ms[JUMP] - 1e6), (MARKET.stream[JUMP], np.nan)):
        assert history.near(stream, when) is None


def test_a_flood_of_alerts_keeps_a_bounded_number_of_surroundings(scored: Scored) -> None:
    history = History()
    flood = replace(scored, verdicts=replace(scored.verdicts, alert=np.ones(len(scored.ticks), np.bool_)))
    for start in range(0, 30_000 * 8, 30_000):
        history.add(replace(flood, ticks=replace(MARKET, offset=MARKET.offset + start)))
    kept = [history.around(0, offset) is not None for offset in range(170_000) if offset % 30_000 % CHUNK >= CHUNK - 40]
    assert 0 < sum(kept) <= CUTS


def test_the_last_ticks_of_a_stream_are_the_newest_and_those_of_an_unknown_one_are_none(scored: Scored) -> None:
    history = told(scored, 999)
    cut = history.last("S1")
    assert cut is not None
    assert cut.offset.tolist() == np.flatnonzero(np.array(MARKET.stream) == "S1")[-VIEW:].tolist()
    assert history.last("nobody") is None
    assert history.around(1, JUMP) is None
    assert len(cut.trace().courses) == 3


def test_ticks_scored_again_after_a_reset_count_once(scored: Scored) -> None:
    history = History()
    history.add(part(scored, slice(0, 500)))
    history.add(part(scored, slice(300, 700)))
    cut = history.last("S0")
    assert cut is not None
    assert cut.offset.tolist() == np.flatnonzero(np.array(MARKET.stream[:700]) == "S0")[-VIEW:].tolist()


def test_a_row_that_passed_to_another_stream_brings_none_of_its_old_ticks(scored: Scored) -> None:
    history = History()
    before = part(scored, slice(0, JUMP - 1000))
    renamed = [f"other-{name}" for name in before.ticks.stream]
    history.add(replace(before, ticks=replace(before.ticks, stream=renamed)))
    history.add(part(scored, slice(JUMP - 1000, JUMP + 1000)))
    cut = history.around(0, JUMP)
    assert cut is not None
    assert cut.offset[0] >= JUMP - 1000


def test_heat_is_each_streams_highest_score_of_the_last_minute(scored: Scored) -> None:
    now = 100.0
    history = History(clock=lambda: now)
    history.add(part(scored, slice(0, 20_000)))
    heat = history.heat(3)
    names = np.array(MARKET.stream[:20_000])
    best = {name: scored.verdicts.score[:20_000][names == name].max() for name in set(names.tolist())}
    assert heat.active == len(best)
    assert set(heat.stream) == set(sorted(best, key=lambda name: -best[name])[:3])
    assert heat.score == [round(best[name], 2) for name in heat.stream]
    assert heat.ticks == 20_000
    assert heat.over == (scored.verdicts.score[:20_000] > 2).mean()
    now += 70.0
    history.add(part(scored, slice(20_000, 20_001)))
    assert history.heat(3).stream == [MARKET.stream[20_000]]


def test_a_feed_without_quotes_and_sizes_has_courses_of_what_it_has() -> None:
    nothing = np.full(len(MARKET), np.nan)
    bare = replace(MARKET, size=nothing, bid=nothing, ask=nothing, bid_size=nothing, ask_size=nothing)
    history = History()
    for batch in every(bare.take(np.arange(2000)), 100):
        history.add(Scorer(load(shipped("gru")), 20).score(batch))
    cut = history.last("S0")
    assert cut is not None
    trace = cut.trace(["spread"])
    assert set(trace.bid) == {None}
    assert set(trace.courses[0].observed) == {None}
