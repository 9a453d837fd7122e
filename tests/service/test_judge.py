"""Scores are tail probabilities of the stream at hand; faults become incidents, and splits change no bit."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from numpy.typing import NDArray
from scipy.signal import lfilter

from service.features import (
    BOOK_RUN,
    CLIP,
    DEPTH,
    DEVIATION,
    GAP,
    MID_MOVES,
    MOMENTUM,
    OFF_QUOTE,
    PRICE_RUN,
    RETURN,
    SIZE,
    SIZE_RUN,
    SPREAD,
    STATED,
    TIME_RUN,
    F,
    Features,
)
from service.judge import (
    CAUTION_STEP,
    CHANNELS,
    FEATURE_OF,
    GRAVE,
    LASTING,
    LATE,
    LOCKED,
    MAX_SCORE,
    MEMORY,
    MISFIT_OF,
    MOST_CAUTION,
    NONE,
    OFF_GRID,
    OPENED,
    QUIET,
    STIR,
    TREND_OF,
    UNQUOTED,
    UNSIZED,
    UNTRADED,
    UPDATED,
    WARM_UP,
    C,
    Calibration,
    Judge,
    Verdicts,
)

THRESHOLD = 3.7
CALIBRATION = Calibration(
    list(CHANNELS),
    # 98 % quantiles of |N(0, 1)| and of its EW means; 99 % quantile of the evidence that such noise gives
    level=[2.3] * F + [0.42] * (LATE - F) + [2.3] * (LOCKED - LATE) + [0.16, 0.16, 3.9],
    excess=[0.4] * F + [0.07] * (LATE - F) + [0.4] * (LOCKED - LATE) + [0.16, 0.16, 0.29],
    shape=[0.05] * (C + 1),
    stirs=0.00047,
)


def noise(n: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((n, F)).astype(np.float32)


def judged(
    z: NDArray[np.float32],
    memory: NDArray[np.void] | None = None,
    lateness: NDArray[np.float32] | None = None,
    first_offset: int = 0,
    expected: float = 0.0,
    has: NDArray[np.bool_] | None = None,
    usual: float = 1.0,
    locked: NDArray[np.bool_] | None = None,
    finer: NDArray[np.bool_] | None = None,
    same_time: NDArray[np.float32] | None = None,
    off_quote: NDArray[np.float32] | None = None,
    ts: NDArray[np.int64] | None = None,
    opening: NDArray[np.intp] | None = None,
    calibration: Calibration = CALIBRATION,
    threshold: float = THRESHOLD,
) -> Verdicts:
    """Verdicts on features `z` of one stream; the autoencoder expects the same of each at every tick.

    `has` tells which ticks are trades and, in further rows, which have each field; all if None; `usual` is the share that usually
    does. `locked` tells which quotes have no spread, and `finer` which prices have more decimals than usual; none if None.
    `same_time` is how many ticks so far have the time of each, of which 1 is usual; `off_quote` the share of the last trades off
    the quotes, of which `usual` is. Ticks are a second apart unless `ts` says otherwise; `opening` are the first of a session.
    """
    n = len(z)
    share = np.full((n, 1 + len(STATED)), usual, np.float32)
    usual_share = share.copy()
    for j, there in enumerate([] if has is None else has):
        share[:, j] = np.where(there, np.nan, lfilter([1 / 16], [1, -15 / 16], there, zi=[15 / 16 * usual])[0])
    blank, observed, mean = np.zeros((n, F), np.float32), np.ones((n, F), np.float32), np.zeros((n, F), np.float32)
    observed[[] if locked is None else locked, SPREAD] = 0.0
    observed[:, TIME_RUN] = 0.0 if same_time is None else np.log(same_time)
    observed[:, OFF_QUOTE] = usual if off_quote is None else off_quote
    mean[:, OFF_QUOTE] = usual
    off_grid = np.full((n, 2), -1, np.int8)
    off_grid[[] if finer is None else finer] = 0, 2
    late = np.zeros(n, np.float32) if lateness is None else lateness
    x = np.clip(np.nan_to_num(z), -CLIP, CLIP).astype(np.float32)
    none = np.zeros(n, np.float32)
    pause = none.copy()
    pause[[] if opening is None else opening] = np.nan
    found = Features(z, x, observed, mean, blank, late == 0.0, late, none, pause, none, share, usual_share, off_grid)
    table = np.zeros(1, MEMORY) if memory is None else memory
    offset = np.arange(first_offset, first_offset + n)
    ts = offset * 10**9 if ts is None else ts
    return Judge(calibration, threshold).judge(
        offset, ts, np.zeros(n, np.int64), found, blank + np.float32(expected), table
    )


def test_without_caution_the_score_is_about_minus_log10_of_the_share_of_ticks_that_exceed_it() -> None:
    score = judged(noise(60_000), calibration=replace(CALIBRATION, stirs=0.0)).score[10_000:]
    for expected in (2.0, 2.5, 3.0):
        share = float((score >= expected).mean())
        assert -math.log10(share) == pytest.approx(expected, abs=0.35)


def test_a_stream_ten_times_as_wild_ends_with_about_the_same_share_of_alerts() -> None:
    calm, wild = judged(noise(60_000)).score[30_000:], judged(noise(60_000) * 10).score[30_000:]
    assert abs(math.log10((wild >= 2.5).mean() / (calm >= 2.5).mean())) < 0.7


def test_a_new_stream_that_is_wilder_than_others_makes_no_alerts() -> None:
    assert not judged(noise(6000) * 10).alert.any()


def test_a_new_stream_with_longer_tails_than_others_is_learned_within_thousands_of_ticks() -> None:
    heavy = np.random.default_rng(1).standard_t(3, (6000, F)).astype(np.float32)
    assert (judged(heavy).score[1000:] >= THRESHOLD).mean() < 0.015


def test_a_new_stream_does_not_alert_before_it_is_warm() -> None:
    z = noise(WARM_UP)
    z[:32] *= 5.0  # the first ticks of a stream have no good reference
    assert not judged(z).alert[: WARM_UP // 4].any()


def test_a_fault_of_thousands_of_ticks_is_one_incident_with_a_handful_of_alerts() -> None:
    z = noise(9000)
    z[5000:8000, 3] += 30.0
    verdicts = judged(z)
    assert verdicts.phase[5000] == OPENED
    assert (verdicts.phase[5000:8000] == OPENED).sum() == 1
    assert 1 < verdicts.alert[5000:8000].sum() < 20
    assert set(verdicts.incident[5000:5200].tolist()) == {5000}


def test_an_incident_closes_after_quiet_ticks_and_the_next_fault_opens_another() -> None:
    z = noise(9000) * 0.5
    z[5000, 3] = z[5000 + QUIET + 2, 3] = 40.0
    verdicts = judged(z)
    assert verdicts.phase[[5000, 5000 + QUIET + 2]].tolist() == [OPENED, OPENED]
    assert verdicts.incident[5000 + QUIET - 1] == 5000
    assert verdicts.incident[5000 + QUIET + 1] == -1


def test_an_alert_is_a_crossing_that_opens_or_worsens_an_incident() -> None:
    z = noise(20_000)
    z[10_000:10_300, 1] += np.linspace(5, 60, 300, dtype=np.float32)
    verdicts = judged(z)
    assert (verdicts.alert == (verdicts.phase != NONE)).all()
    assert (verdicts.score[verdicts.alert] >= THRESHOLD).all()
    assert (verdicts.phase == UPDATED).any()
    crossed_alone = (verdicts.score >= THRESHOLD) & (verdicts.incident == np.arange(len(z)))
    assert (verdicts.phase[crossed_alone] == OPENED).all()


def test_lateness_alone_makes_a_tick_improbable_and_leaves_the_other_channels_alone() -> None:
    z = noise(6000)
    late = np.zeros(len(z), np.float32)
    late[5000] = math.log1p(1e6)  # one second
    z[5000] = np.nan
    verdicts = judged(z, lateness=late)
    assert verdicts.alert[5000]
    assert verdicts.tails[5000].argmax() == LATE
    assert verdicts.tails[5000, :LATE].max() == 0.0


def test_missing_features_have_nothing_to_say() -> None:
    z = noise(3000)
    z[:, [SIZE, SIZE_RUN]] = np.nan
    tails = judged(z, expected=4.0).tails[:, :LATE]
    assert tails[:, np.isin(FEATURE_OF, [SIZE, SIZE_RUN])].max() == 0.0
    assert tails[100, MISFIT_OF[RETURN]] > 1.0


def test_a_tick_that_lacks_a_feature_says_nothing_new_of_it() -> None:
    """Quotes between the trades of a fault: what trades have shown lately stands, and fades over thousands of ticks."""
    z = noise(12_000)
    z[:, DEVIATION] = np.where(np.arange(len(z)) % 5 == 0, z[:, DEVIATION], np.nan)
    z[8000:8200:5, DEVIATION] = 6.0
    verdicts = judged(z)
    trend = verdicts.trend[:, LASTING.index(DEVIATION)]
    during = verdicts.tails[8100:8200, TREND_OF[DEVIATION]]
    assert during.min() > 5.0
    assert trend[8196:8200] == pytest.approx(trend[8195], rel=0.01)
    z[8200:, DEVIATION] = np.nan
    left = judged(z).trend[:, LASTING.index(DEVIATION)]
    assert left[-1] == pytest.approx(left[8199] * math.exp((8199 - len(z) + 1) / 4096), rel=0.01)


@pytest.mark.parametrize("column", range(1 + len(STATED)))
def test_trades_or_a_field_that_stay_away_are_a_fault_within_ticks_and_a_single_one_is_none(column: int) -> None:
    z, has = noise(9000), np.ones((1 + len(STATED), 9000), np.bool_)
    has[column, 8500] = False
    assert not judged(z, has=has).alert[8500:8600].any()
    has[column, 8500:8540] = False
    found = judged(z, has=has)
    assert found.alert[8500:8508].any()
    if column < 2:  # a tick without a size is no trade either, and that is one fault
        has[:2] = has[column]
        assert np.array_equal(judged(z, has=has).score, found.score)


@pytest.mark.parametrize("usual", [0.0, 0.1, 0.5, 0.9, 0.99])
def test_a_feed_that_has_a_field_on_some_ticks_does_not_lack_it(usual: float) -> None:
    has = np.random.default_rng(1).random((1 + len(STATED), 20_000)) < usual
    tails = judged(noise(20_000), has=has, usual=usual).tails[:, [UNTRADED, UNSIZED, UNQUOTED]]
    assert (tails >= 3).mean(axis=0).max() < 0.003


def test_a_bid_that_equals_the_ask_is_strange_only_where_it_seldom_does() -> None:
    locked = np.isin(np.arange(9000), np.arange(8500, 8520))
    often = locked | (np.random.default_rng(1).random(9000) < 0.1)
    seldom, usual = (judged(noise(9000), locked=which).tails[8500:8520, LOCKED] for which in (locked, often))
    assert seldom.min() > 5.0
    assert usual.max() < 2.0


def test_a_price_with_more_decimals_is_strange_only_where_prices_seldom_have_them() -> None:
    finer = np.arange(9000) == 8500
    often = finer | (np.random.default_rng(1).random(9000) < 0.1)
    seldom, usual = (judged(noise(9000), finer=which).tails[8500, OFF_GRID] for which in (finer, often))
    assert seldom > 5.0
    assert usual < 2.0


def test_many_ticks_of_one_time_are_strange_and_a_few_are_not() -> None:
    same_time = np.ones(9000, np.float32)
    same_time[8500:8530] = np.arange(1, 31)
    tails = judged(noise(9000), same_time=same_time).tails[8500:8530, TIME_RUN]
    assert tails[2] < 2.0
    assert tails[29] > 4.0


@pytest.mark.parametrize("usual", [0.0, 0.5])
def test_a_burst_of_trades_off_the_quotes_is_strange_and_one_at_the_quotes_is_not(usual: float) -> None:
    share = np.full(9000, usual, np.float32)
    share[8500:8530], share[8600:8630] = 1.0, 0.0
    tails = judged(noise(9000), off_quote=share, usual=usual).tails[:, OFF_QUOTE]
    assert tails[8500] > 4.0
    assert tails[8600:8630].max() == 0.0


def test_a_large_size_at_the_best_quotes_is_strange_and_a_small_one_is_not() -> None:
    z = noise(9000)
    z[8500, DEPTH], z[8600, DEPTH] = 8.0, -8.0
    tails = judged(z).tails[:, DEPTH]
    assert tails[8500] > 5.0
    assert tails[8600] == 0.0


@pytest.mark.parametrize(
    ("feature", "harmless"), [(SPREAD, -1.0), (GAP, 1.0), (DEPTH, 1.0), (PRICE_RUN, -1.0), (MID_MOVES, -1.0)]
)
def test_narrow_spreads_slow_ticks_large_sizes_and_short_runs_that_last_are_no_trend_and_their_contraries_are(
    feature: int, harmless: float
) -> None:
    bad, good = noise(9000), noise(9000)
    bad[8000:8100, feature] = -harmless * 3.0
    good[8000:8100, feature] = harmless * 3.0
    channel = TREND_OF[feature]
    assert judged(bad).tails[8050, channel] > 5.0
    assert judged(good).tails[8050:8100, channel].max() == 0.0


@pytest.mark.parametrize("feature", [SIZE_RUN, BOOK_RUN, MID_MOVES])
def test_a_run_of_three_is_no_fault_where_hardly_any_has_two_and_a_long_one_is(feature: int) -> None:
    z = noise(9000)
    z[:, feature] = -0.1
    z[50::100, feature] = 2.0
    z[8550, feature] = 3.0
    z[8700:8730, feature] = np.linspace(2.0, 8.0, 30)
    verdicts = judged(z)
    assert verdicts.tails[8550, [feature, TREND_OF[feature]]].max() < 3.0
    assert verdicts.tails[8729, TREND_OF[feature]] > 4.0


def test_averages_have_no_averages_of_their_own() -> None:
    assert not {"momentum_trend", "volatility_misfit", "rate_trend", "drift_misfit", "crossed_trend"} & set(CHANNELS)
    z = noise(9000)
    z[8000:8100, MOMENTUM] = 8.0
    assert judged(z).evidence[8101] < judged(z).evidence[8099] / 2


def test_what_shows_in_several_features_is_stranger_than_the_same_in_one() -> None:
    z = noise(10_000)
    alone, together = z.copy(), z.copy()
    alone[8000, 3] = 4.5
    together[8000, 3:6] = 4.5
    assert judged(together).score[8000] > judged(alone).score[8000] + 0.5
    assert judged(together).tails[8000].max() == pytest.approx(judged(alone).tails[8000].max())


def test_channels_of_one_feature_do_not_support_each_other() -> None:
    z = np.zeros((6000, F), np.float32)
    z[5000:5100, SPREAD] = 8.0  # a trend, and a misfit, as well as sudden
    verdicts = judged(z)
    channels = verdicts.tails[5090, :LATE][SPREAD == FEATURE_OF]
    assert len(channels) == 3
    assert (channels > 2.0).all()
    assert verdicts.evidence[5090] == pytest.approx(channels.max(), abs=1e-6)


@pytest.mark.parametrize(("size", "teaches"), [(4.8, True), (40.0, False)])
def test_a_stream_that_stirs_mildly_more_often_than_others_is_judged_with_caution(size: float, teaches: bool) -> None:
    z, memory = noise(120_000), np.zeros(1, MEMORY)
    at = np.arange(30_000, len(z), 700)
    z[at, 3] = size
    bold, cautious = judged(z, calibration=replace(CALIBRATION, stirs=0.0)).score, judged(z, memory).score
    assert (memory["caution"][0] > MOST_CAUTION / 3) == teaches
    assert np.median(cautious[at]) == pytest.approx(np.median(bold[at]), rel=MOST_CAUTION + 0.01)
    if teaches:
        later = slice(len(z) // 2, None)
        assert (cautious[later] >= STIR).sum() < 0.75 * (bold[later] >= STIR).sum()


@pytest.mark.parametrize(("apart", "stirs"), [(20, 1), (QUIET + 10, 3)])
def test_what_comes_and_goes_within_quiet_ticks_is_one_stir(apart: int, stirs: int) -> None:
    z, memory = np.zeros((9000, F), np.float32), np.zeros(1, MEMORY)
    at = 6000 + apart * np.arange(3)
    z[at, 3] = 2.8
    score = judged(z, memory, calibration=replace(CALIBRATION, stirs=1e-9)).score
    assert STIR < score[at].min() < score[at].max() < GRAVE
    assert memory["caution"][0] == pytest.approx(stirs * CAUTION_STEP, rel=0.01)


def test_a_stream_that_hardly_ever_stirs_is_judged_with_less_caution_within_bounds() -> None:
    memory = np.zeros(1, MEMORY)
    calm = judged(np.zeros((120_000, F), np.float32), memory)
    assert memory["caution"][0] == pytest.approx(-MOST_CAUTION)
    assert not calm.alert.any()


def test_a_fault_scores_less_where_the_stream_is_new_and_its_tails_are_still_those_of_others() -> None:
    z = noise(20_000)
    z[[1000, 15_000], 3] = 12.0
    new, old = judged(z).score[[1000, 15_000]]
    assert 0.7 * old < new < 0.9 * old


def test_one_absurd_value_does_not_blind_the_judge() -> None:
    z = noise(20_000)
    z[8000] = 1e30
    verdicts = judged(z)
    assert verdicts.score[8000] == pytest.approx(MAX_SCORE, abs=9)
    assert np.isfinite(verdicts.score).all()
    z[9000, 2] = 40.0
    assert judged(z).score[9000] > THRESHOLD


@given(st.lists(st.integers(1, 400), min_size=1, max_size=6))
def test_any_split_into_batches_gives_the_same_bits(cuts: list[int]) -> None:
    z = noise(2400)
    z[1000:1100] *= 20
    whole = judged(z)
    memory = np.zeros(1, MEMORY)
    at, scores, phases = 0, [], []
    for cut in [*cuts, len(z)]:
        part = z[at : at + cut]
        found = judged(part, memory, first_offset=at)
        scores.append(found.score)
        phases.append(found.phase)
        at += len(part)
    assert np.array_equal(np.concatenate(scores), whole.score)
    assert np.array_equal(np.concatenate(phases), whole.phase)


def test_a_higher_threshold_never_raises_the_number_of_incidents_by_more_than_adaptation_does() -> None:
    z = noise(30_000)
    opened = [int((judged(z, threshold=threshold).phase == OPENED).sum()) for threshold in (2.5, 3.0, 4.0)]
    assert opened == sorted(opened, reverse=True)
    assert opened[0] > 0
