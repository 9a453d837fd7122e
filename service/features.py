"""Causal, scale-free features of a tick and its stream's past: one compiled recursion, O(1) per tick.

Prices enter only through differences over their own volatility, so zero and negative prices are ordinary, and a stream
in cents looks like a stream in thousands. Every average is exponentially weighted (EW) and every update is clipped, so
one wild print never becomes the reference against which the next ticks are measured (Huber 1964 in recursive form).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

from service.breaks import BREAKS, reopens
from service.grid import GRID, finer
from service.passages import PASSAGES, follow
from service.ticks import NUMBERS, Ticks

FEATURE_SET = "tick-21-m"  # changes whenever a feature or the memory below changes meaning
FEATURES = (
    "return",  # asinh of the price change over its EW volatility
    "mid_return",  # the same for the middle of the quote
    "spike",  # asinh of the part of the last price change that this one takes back, over the volatility
    "momentum",  # price against its EW mean of ~32 ticks, over the volatility of such a distance
    "volatility",  # log ratio of fast to slow EW volatility
    "gap",  # log microseconds since the stream's last tick
    "rate",  # log ratio of slow to fast EW inter-arrival: positive when ticks come faster than usual
    "size",  # log size of a trade
    "size_run",  # log run length of trades of equal size
    "spread",  # asinh of the spread over its EW mean
    "crossed",  # asinh of how far bid stands above ask, in usual spreads
    "deviation",  # asinh of a trade's distance from the mid, in usual spreads
    "drift",  # EW mean of that distance over ~16 trades
    "price_run",  # log run length of unchanged price
    "quote_run",  # log run length of unchanged bid and ask
    "alternation",  # EW share of price moves that reverse the move before
    "depth",  # log of what is quoted at the best bid and ask together
    "book_run",  # log run length of unchanged bid and ask and both their sizes
    "time_run",  # log count of ticks so far that share this tick's time
    "mid_moves",  # log count of moves of the middle since the price last moved
    "off_quote",  # EW share, over ~16 trades, of those at neither the bid nor the ask
)
F = len(FEATURES)
RETURN, MID_RETURN, SPIKE, MOMENTUM, VOLATILITY, GAP, RATE, SIZE = range(8)
SIZE_RUN, SPREAD, CROSSED, DEVIATION, DRIFT, PRICE_RUN, QUOTE_RUN, ALTERNATION = range(8, 16)
DEPTH, BOOK_RUN, TIME_RUN, MID_MOVES, OFF_QUOTE = range(16, F)

SET_BACK = 32  # late ticks in a row, in their own order, after which the feed's clock counts as set back
AHEAD = 1  # the same where only the newest tick is later than they are: it was ahead
STATED = NUMBERS[1:]  # fields that a tick may lack
SAME_TIME = 8  # ticks of one time that a repetition can be told from; where more share a time, sequence numbers tell
CLIP = 5.0  # standard deviations that the autoencoder may see
MEMORY = np.dtype(
    [
        ("seen", "i8"),  # ticks folded into this row
        ("ts", "i8"),
        ("seq", "i8"),  # of the last tick that was folded
        ("before", "i8"),  # the newest time but one
        ("late_ts", "i8"),  # of the last late tick
        ("late", "i8"),  # how many came in a row, in their own order, SET_BACK - AHEAD more if only the newest is later
        ("prints", "u8", (SAME_TIME,)),  # fingerprints of the last ticks that have the newest time
        ("same_time", "i8"),  # how many have it
        ("first_ts", "i8"),
        ("breaks", "i8", (BREAKS, 2)),  # when the longest pauses of the last days began and ended
        ("price", "f8"),
        ("mean_price", "f8"),
        ("change", "f8"),  # the last price change
        ("bid", "f8"),
        ("ask", "f8"),
        ("size", "f8"),
        ("bid_size", "f8"),
        ("ask_size", "f8"),
        ("move", "f4"),  # EW mean of the price changes that are not zero
        ("mid_move", "f4"),
        ("variance", "f4"),  # EW variance of price changes, slow
        ("fast_variance", "f4"),
        ("mid_variance", "f4"),
        ("spread", "f4"),  # EW mean of the absolute spread
        ("drift", "f4"),
        ("gap", "f4"),  # EW mean inter-arrival in microseconds, slow
        ("fast_gap", "f4"),
        ("usual_gap", "f4"),  # slower still and without those of 0, what a pause is measured by
        ("alternation", "f4"),
        ("sign", "f4"),  # of the last price move
        ("price_run", "f4"),
        ("quote_run", "f4"),
        ("book_run", "f4"),
        ("size_run", "f4"),
        ("mid_moves", "f4"),
        ("off_quote", "f4"),
        ("repeats", "f4"),  # EW share of ticks that repeat one of the same time
        ("replay", "f4"),  # more where a passage comes again, less and less after it
        ("share", "f4", (1 + len(STATED),)),  # of ticks that are trades, and of those that have each field: EW mean
        ("usual_share", "f4", (1 + len(STATED),)),  # the same, slow
        ("finer", "f4", (len(GRID),)),  # EW share of values with more decimals than their field has
        ("digits", "i1", (len(GRID),)),  # how many it has and 1 more, 0 before the first value
        ("marks", "u4", (2,)),  # fingerprints of the last two ticks that differ
        ("passage", "u8"),  # of the last eight that count
        ("since", "i8"),  # passages since one was recorded
        ("passages", "u2", PASSAGES),  # fingerprints of those on record, and their last eight bits
        ("passages_low", "u1", PASSAGES),
        ("mean", "f4", (F,)),  # EW mean and variance of each feature, for its standardisation
        ("var", "f4", (F,)),
    ],
    align=True,
)


@dataclass(frozen=True)
class Prior:
    """What a feature's mean and standard deviation are taken to be before a stream has shown its own; float32 [F]."""

    mean: NDArray[np.float32]
    std: NDArray[np.float32]


NO_PRIOR = Prior(np.zeros(F, np.float32), np.ones(F, np.float32))


@dataclass(frozen=True)
class Features:
    """Features of N ticks.

    `z` float32 [N, F] in standard deviations of the stream so far, NaN where the feed has no such thing; `x` float32 [N, F] is
    what the autoencoder sees of it: clipped, and 0 where a feature is missing. `observed`, `mean` and `std` float32 [N, F] are
    the feature itself and what it was standardised by. `folded` bool [N] are the ticks that move their stream's state, neither
    late nor repeated. `lateness` float32 [N] is log microseconds behind the stream's newest tick, 0 for a tick in order.
    `repeats` float32 [N] is, for a tick that came before with the same time, -log of the EW share (over ~16 ticks) of those that
    did not, else 0: it grows by as much with each one in a row. `pause` float32 [N] is the time since the last tick in the
    stream's usual gaps, of which none is 0. `replay` float32 [N] grows by 1 where the last eight ticks came before, and fades
    over ~16; one like the last or the one before that does not count. `share` float32 [N, 6] is, where a tick is no trade, the
    share of trades among the last ~16, and where it lacks a field of STATED that of ticks that have it, else NaN; `usual_share`
    is of the last ~5,000, whatever the tick has. `off_grid` int8 [N, 2] is the first field (its place in GRID) whose value has
    more decimals than it has in this stream, and how many these are; -1 where there is none. Late and repeated ticks have none
    of these but lateness and repeats, and are not folded into the stream's state. SET_BACK late ones in a row, in their own
    order, are taken for a clock that was set back, and AHEAD that are late by the newest tick alone for one that was ahead:
    those after them are in order again. The last of them must be later than the one before it, or they could be copies of one
    tick.
    The first tick of a stream, and of a session after one of its breaks, has no `pause` and nothing that compares it with the
    tick before, neither gap nor returns; runs begin with it.
    """

    z: NDArray[np.float32]
    x: NDArray[np.float32]
    observed: NDArray[np.float32]
    mean: NDArray[np.float32]
    std: NDArray[np.float32]
    folded: NDArray[np.bool_]
    lateness: NDArray[np.float32]
    repeats: NDArray[np.float32]
    pause: NDArray[np.float32]
    replay: NDArray[np.float32]
    share: NDArray[np.float32]
    usual_share: NDArray[np.float32]
    off_grid: NDArray[np.int8]


@numba.njit(cache=True, inline="always")
def _change(new: float, old: float) -> float:
    """The difference, 0 where it is only the rounding of decimal fractions."""
    change = new - old
    return 0.0 if abs(change) <= 1e-12 * (abs(new) + abs(old)) else change


@numba.njit(cache=True, inline="always")
def _in_volatilities(change: float, variance: float, move: float, rate: float) -> tuple[float, float, float, float]:
    """(asinh(change / volatility), volatility, new variance, new mean non-zero move), all updates clipped."""
    scale = max(math.sqrt(variance), move)  # where most changes are 0, one ordinary move is not an event
    size = abs(change)
    if scale == 0.0:
        scored = 0.0 if size == 0.0 else math.copysign(1.0, change)
        return scored, size, rate * size * size, size
    capped = min(size, 3.0 * scale)
    if size > 0.0:
        move += max(rate, 0.01) * (min(size, 6.0 * scale) - move)
    return math.asinh(change / scale), scale, variance + rate * (capped * capped - variance), move


@numba.njit(cache=True, inline="always")
def _repeated(m, seq, mark):  # type: ignore[no-untyped-def]
    """Whether a tick of the newest time came before: by its number where the feed gives one, else by all its fields."""
    if seq >= 0 and m.seq >= 0:
        return seq <= m.seq
    return (m.prints[: min(m.same_time, SAME_TIME)] == mark).any()


@numba.njit(cache=True, nogil=True)
def _kernel(  # type: ignore[no-untyped-def]  # noqa: C901, PLR0915  (one recursion, read top to bottom)
    rows, ts, seq, price, size, bid, ask, bid_size, ask_size, prints, memory, prior_mean, prior_std,
    z, x, observed, mean, std, folded, lateness, repeats, pause, replay, share, usual_share, off_grid,
):  # fmt: skip
    f = np.empty(F)
    for i in range(rows.shape[0]):
        m = memory[rows[i]]
        first = m.seen == 0
        elapsed = 0.0 if first else (ts[i] - m.ts) / 1e3  # microseconds
        if elapsed < 0.0:
            if m.late == 0 or ts[i] < m.late_ts:
                m.late = SET_BACK - AHEAD if ts[i] >= m.before else 0
            if m.late < SET_BACK or ts[i] > m.late_ts:  # copies of one tick set no clock back
                m.late += 1
            if m.late > SET_BACK:  # the feed's clock was: what it says now is in order again
                m.ts = m.late_ts
                elapsed = (ts[i] - m.ts) / 1e3
                m.same_time = 0
                m.seq = -1
            m.late_ts = ts[i]
        if elapsed >= 0.0:
            m.late = 0
        lateness[i] = math.log1p(-elapsed) if elapsed < 0.0 else 0.0
        repeats[i] = 0.0
        pause[i] = np.nan
        replay[i] = np.nan
        share[i] = np.nan
        usual_share[i] = np.nan
        off_grid[i] = -1
        mark = np.uint64(14695981039346656037)  # FNV-1a
        for j in range(prints.shape[0]):
            mark = (mark ^ prints[j, i]) * np.uint64(1099511628211)
            mark ^= mark >> np.uint64(29)
        repeated = not first and elapsed == 0.0 and _repeated(m, seq[i], mark)
        if elapsed >= 0.0:
            m.repeats += ((1.0 if repeated else 0.0) - m.repeats) / 16.0
        if repeated:
            repeats[i] = -math.log(max(1.0 - m.repeats, 1e-3))
        folded[i] = elapsed >= 0.0 and not repeated
        if not folded[i]:
            z[i] = np.nan
            x[i] = 0.0
            observed[i] = np.nan
            mean[i] = np.nan
            std[i] = np.nan
            continue
        reopened = not first and reopens(m, ts[i])
        if first or reopened:  # what was before it says nothing of it
            m.mean_price = price[i]
            m.change = m.sign = m.size = 0.0
            m.bid = m.ask = np.nan
            m.price_run = m.quote_run = m.book_run = m.size_run = m.mid_moves = 0.0
            m.drift = math.sinh(m.mean[DRIFT])
            m.alternation = m.mean[ALTERNATION]
            m.off_quote = m.mean[OFF_QUOTE]
            m.share[:] = m.usual_share
        if elapsed > 0.0:
            m.same_time = 0
            m.before = m.ts
        m.prints[m.same_time % SAME_TIME] = mark
        m.same_time += 1
        m.seq = seq[i]
        follow(m, mark)
        replay[i] = m.replay
        quoted = not (math.isnan(bid[i]) or math.isnan(ask[i]))
        sized = not (math.isnan(bid_size[i]) or math.isnan(ask_size[i]))
        traded = size[i] > 0.0
        young = 1.0 / (m.seen + 1.0)  # averages start as plain means
        for j, value in enumerate((size[i] if traded else math.nan, size[i], bid[i], ask[i], bid_size[i], ask_size[i])):
            has = not math.isnan(value)
            m.share[j] += max(young, 1 / 16) * (has - m.share[j])
            m.usual_share[j] += max(young, 1 / 5000) * (has - m.usual_share[j])
            share[i, j] = math.nan if has else m.share[j]
        usual_share[i] = m.usual_share
        for j, stated in enumerate((price[i], size[i], bid[i], ask[i])):
            decimals = m.digits[j] - 1
            if finer(m, j, stated, young) and off_grid[i, 0] < 0:
                off_grid[i, 0] = j
                off_grid[i, 1] = decimals
        f[:] = np.nan

        if first:
            m.first_ts = ts[i]
            for j in range(F):
                m.mean[j] = prior_mean[j]
                m.var[j] = prior_std[j] * prior_std[j]
        elif not reopened:
            change = _change(price[i], m.price)
            f[RETURN], scale, m.variance, m.move = _in_volatilities(change, m.variance, m.move, max(young, 1 / 500))
            back = min(abs(change), abs(m.change)) if change * m.change < 0.0 else 0.0
            f[SPIKE] = math.asinh(back / scale) if scale > 0.0 else 0.0
            m.change = change
            capped = min(abs(change), 6.0 * scale)
            m.fast_variance += max(young, 1 / 32) * (capped * capped - m.fast_variance)
            floor = 0.05 * m.move * m.move + 1e-30
            f[VOLATILITY] = 0.5 * math.log((m.fast_variance + floor) / (m.variance + floor))
            # an EW mean with rate a of a random walk lags by about sqrt(1 / 2a) steps
            f[MOMENTUM] = math.asinh((price[i] - m.mean_price) / (4.0 * scale)) if scale > 0.0 else 0.0
            away = price[i] - m.mean_price
            m.mean_price += math.copysign(min(abs(away), 24.0 * scale), away) / 32.0
            m.price_run = m.price_run + 1.0 if change == 0.0 else 0.0
            f[PRICE_RUN] = math.log1p(m.price_run)
            if change != 0.0:
                m.mid_moves = 0.0
                sign = math.copysign(1.0, change)
                if m.sign != 0.0:
                    m.alternation += ((1.0 if sign != m.sign else 0.0) - m.alternation) / 16.0
                m.sign = sign
            f[ALTERNATION] = m.alternation

            f[GAP] = math.log1p(elapsed)
            f[TIME_RUN] = math.log(m.same_time)
            if elapsed > 0.0 and m.usual_gap == 0.0:
                m.usual_gap = elapsed
            pause[i] = elapsed / (m.usual_gap + 1.0)
            if elapsed > 0.0:
                capped = min(elapsed, 20.0 * m.usual_gap) if m.seen > 8 else elapsed
                m.usual_gap += max(young, 1 / 5000) * (capped - m.usual_gap)
            # a clock that many ticks share moves by many gaps at once
            most = max(20.0 * m.gap, 4.0 * m.usual_gap) + 1.0
            m.gap += max(young, 1 / 500) * (min(elapsed, most if m.seen > 8 else elapsed) - m.gap)
            m.fast_gap += max(young, 1 / 20) * (min(elapsed, most) - m.fast_gap)
            f[RATE] = math.log((m.gap + 1.0) / (m.fast_gap + 1.0))

        if traded:
            f[SIZE] = math.log(size[i])
            m.size_run = m.size_run + 1.0 if size[i] == m.size else 0.0
            f[SIZE_RUN] = math.log1p(m.size_run)
            m.size = size[i]

        if quoted:
            middle = 0.5 * (bid[i] + ask[i])
            width = ask[i] - bid[i]
            if m.spread == 0.0:
                m.spread = abs(width)
            usual = max(m.spread, 0.2 * m.mid_move)  # a feed may quote no spread at all for hours
            if usual > 0.0:
                f[SPREAD] = math.asinh(width / usual)
                f[CROSSED] = math.asinh(max(-width, 0.0) / usual)
                if traded:
                    away = (price[i] - middle) / usual
                    f[DEVIATION] = math.asinh(away)
                    m.drift += (max(-8.0, min(8.0, away)) - m.drift) / 16.0
                    f[DRIFT] = math.asinh(m.drift)
                    m.off_quote += ((price[i] != bid[i] and price[i] != ask[i]) - m.off_quote) / 16.0
                    f[OFF_QUOTE] = m.off_quote
            m.spread += max(young, 1 / 500) * (min(abs(width), 4.0 * usual) - m.spread)
            if not math.isnan(m.bid):
                change = _change(middle, 0.5 * (m.bid + m.ask))
                f[MID_RETURN], _, m.mid_variance, m.mid_move = _in_volatilities(
                    change, m.mid_variance, m.mid_move, max(young, 1 / 500)
                )
                if change != 0.0 and m.price_run > 0.0:
                    m.mid_moves += 1.0
                f[MID_MOVES] = math.log1p(m.mid_moves)
                same = bid[i] == m.bid and ask[i] == m.ask
                m.quote_run = m.quote_run + 1.0 if same else 0.0
                f[QUOTE_RUN] = math.log1p(m.quote_run)
                if sized:
                    same = same and bid_size[i] == m.bid_size and ask_size[i] == m.ask_size
                    m.book_run = m.book_run + 1.0 if same else 0.0
                    f[BOOK_RUN] = math.log1p(m.book_run)
            m.bid = bid[i]
            m.ask = ask[i]
        if sized:
            if bid_size[i] + ask_size[i] > 0.0:
                f[DEPTH] = math.log(bid_size[i] + ask_size[i])
            m.bid_size = bid_size[i]
            m.ask_size = ask_size[i]

        rate = max(1.0 / (m.seen + 64.0), 1 / 2000)
        for j in range(F):
            observed[i, j] = f[j]
            mean[i, j] = m.mean[j]
            deviation = max(math.sqrt(m.var[j]), 0.3 * prior_std[j])
            std[i, j] = deviation
            score = (f[j] - m.mean[j]) / deviation
            z[i, j] = score
            x[i, j] = 0.0 if math.isnan(score) else max(-CLIP, min(CLIP, score))
            if not math.isnan(score):
                step = max(-6.0, min(6.0, score)) * deviation
                m.mean[j] += rate * step
                m.var[j] += rate * (step * step - m.var[j])
        m.price = price[i]
        m.ts = ts[i]
        m.seen += 1


def features(ticks: Ticks, rows: NDArray[np.int64], memory: NDArray[np.void], prior: Prior) -> Features:
    """Features of `ticks`, whose streams' memory stands at `rows` int64 [N] of `memory` (MEMORY [R], changed in place)."""
    shape = (len(ticks), F)
    z, x, observed, mean, std = (np.empty(shape, np.float32) for _ in range(5))
    folded = np.empty(len(ticks), np.bool_)
    lateness, repeats, pause, replay = (np.empty(len(ticks), np.float32) for _ in range(4))
    share, usual_share = np.empty((2, len(ticks), 1 + len(STATED)), np.float32)
    off_grid = np.empty((len(ticks), 2), np.int8)
    prints = np.array([np.ascontiguousarray(getattr(ticks, name)).view(np.uint64) for name in NUMBERS])
    _kernel(
        rows, ticks.ts, ticks.seq, ticks.price, ticks.size, ticks.bid, ticks.ask, ticks.bid_size, ticks.ask_size, prints,
        memory, prior.mean, prior.std,
        z, x, observed, mean, std, folded, lateness, repeats, pause, replay, share, usual_share, off_grid,
    )  # fmt: skip
    return Features(z, x, observed, mean, std, folded, lateness, repeats, pause, replay, share, usual_share, off_grid)


def offline(ticks: Ticks, prior: Prior = NO_PRIOR) -> NDArray[np.float32]:
    """The autoencoder's input float32 [N', F] for all ticks of one stream from its first on, late and repeated ones left out."""
    found = features(ticks, np.zeros(len(ticks), np.int64), np.zeros(1, MEMORY), prior)
    x: NDArray[np.float32] = found.x[found.folded]
    return x
