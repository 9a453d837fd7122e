"""Alerts in words, as CloudEvents 1.0 (https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from service.features import FEATURES, SPREAD, STATED, F
from service.grid import GRID
from service.judge import CHANNELS, FEATURE_OF, LASTING, LATE, MISFIT_OF, PHASES, TREND_OF
from service.logs import Output
from service.scorer import Scored
from service.ticks import NO_SEQ, NUMBERS

CONTRIBUTIONS = (*FEATURES, *CHANNELS[LATE:])
LACKS = {"untraded": slice(0, 1), "unsized": slice(1, 2), "unquoted": slice(2, None)}  # columns of the shares
MOST_REASONS = 3


class Reason(msgspec.Struct, frozen=True):
    """Why a tick stands out: the feature, its own -log10 tail probability, observed and expected value, and words."""

    feature: str
    score: float
    observed: float
    expected: float
    text: str


class Alert(msgspec.Struct, frozen=True):
    """The `data` of an alert event. `ts` is in nanoseconds since 1970; `incident` is the id of the event that opened it."""

    stream: str
    ts: int
    score: float
    threshold: float
    phase: str
    incident: str
    model: str
    topic: str
    partition: int
    offset: int
    tick: dict[str, float | int]
    reasons: list[Reason]


def contributions(tails: NDArray[np.float32]) -> NDArray[np.float32]:
    """How improbable each feature alone is, -log10 tail probability float32 [N, len(CONTRIBUTIONS)], from `tails` [N, C]."""
    of_features = tails[:, :F].T.copy()
    for c in range(F, LATE):
        of_features[FEATURE_OF[c]] = np.maximum(of_features[FEATURE_OF[c]], tails[:, c])
    return np.concatenate([of_features.T, tails[:, LATE:]], axis=1)


def duration(microseconds: float) -> str:
    """A time span in the largest unit that keeps the number at 1 or more: '350 us', '1.2 s', '17.0 h'."""
    for unit, size in (("h", 3.6e9), ("min", 6e7), ("s", 1e6), ("ms", 1e3)):
        if microseconds >= size:
            return f"{microseconds / size:.1f} {unit}"
    return f"{microseconds:.0f} us"


def _side(value: float, up: str, down: str) -> str:
    return up if value >= 0 else down


def _times(value: float) -> str:
    if abs(value) < 0.005:
        return "0x"
    return f"{value:.1f}x" if abs(value) >= 1 else f"{value:.2g}x"


def _signed(value: float, digits: int) -> str:
    rounded = round(value, digits)
    return f"{rounded:+.{digits}f}" if rounded else "0"


def _spread(observed: float) -> str:
    if observed < 0:
        return f"quote crossed by {-observed:.1f} usual spreads"
    return f"spread {_times(observed)} its usual width"


def _number(value: float, digits: int) -> str:
    """So many digits that count, in groups of three and without an exponent."""
    return f"{float(f'{value:.{digits}g}'):,.15g}"


class _Words(NamedTuple):
    """How to tell a feature: from its own scale to natural units, the observed value in words, the expected one in short."""

    natural: Callable[[float], float]
    observed: Callable[[float], str]
    expected: Callable[[float], str]


def _move(what: str) -> _Words:
    return _Words(
        math.sinh, lambda o: f"{what} {_side(o, 'up', 'down')} {_times(abs(o))} its usual move in one tick", _times
    )


def _ratio(what: str) -> _Words:
    return _Words(math.exp, lambda o: f"{what} {_times(o)} its usual level", _times)


def _run(what: str) -> _Words:
    return _Words(math.expm1, lambda o: f"{what} unchanged for {o:.0f} ticks", lambda e: f"{max(e, 0):.0f}")


_WORDS = {
    "return": _move("price"),
    "mid_return": _move("quote"),
    "spike": _Words(math.sinh, lambda o: f"price back by {_times(o)} its usual move after a spike", _times),
    "momentum": _Words(
        lambda f: 4 * math.sinh(f),
        lambda o: f"price {abs(o):.0f} usual moves {_side(o, 'above', 'below')} its recent mean",
        lambda e: _signed(e, 0),
    ),
    "volatility": _ratio("volatility"),
    "gap": _Words(math.expm1, lambda o: f"{duration(o)} since the last tick", duration),
    "rate": _ratio("tick rate"),
    "size": _Words(math.exp, lambda o: f"size {_number(o, 6)}", lambda e: _number(e, 3)),
    "size_run": _Words(math.expm1, lambda o: f"{o + 1:.0f} trades of equal size in a row", lambda e: f"{e + 1:.0f}"),
    "spread": _Words(math.sinh, _spread, _times),
    "crossed": _Words(math.sinh, lambda o: f"quote crossed by {_times(o)} its usual spread", _times),
    "deviation": _Words(
        math.sinh,
        lambda o: f"traded {abs(o):.1f} usual spreads {_side(o, 'above', 'below')} the mid",
        lambda e: _signed(e, 1),
    ),
    "drift": _Words(
        math.sinh,
        lambda o: f"trades stay {abs(o):.1f} usual spreads {_side(o, 'above', 'below')} the mid",
        lambda e: _signed(e, 1),
    ),
    "price_run": _run("price"),
    "quote_run": _run("quote"),
    "alternation": _Words(
        lambda f: f, lambda o: f"{o:.0%} of the price moves reverse the move before", lambda e: f"{e:.0%}"
    ),
    "depth": _Words(math.exp, lambda o: f"{_number(o, 6)} quoted at the best bid and ask", lambda e: _number(e, 3)),
    "book_run": _run("quote and its sizes"),
    "time_run": _Words(math.exp, lambda o: f"{o:.0f} ticks with the same time", lambda e: f"{e:.0f}"),
    "mid_moves": _Words(
        math.expm1, lambda o: f"quote moved {o:.0f} times, the price not at all", lambda e: f"{max(e, 0):.0f}"
    ),
    "off_quote": _Words(
        lambda f: f, lambda o: f"{o:.0%} of the trades are at neither bid nor ask", lambda e: f"{e:.0%}"
    ),
}


def natural(feature: str, value: float) -> float:
    """A feature's value in the units that its words have: `gap` in microseconds, `spread` in usual spreads, `size` as traded."""
    return _WORDS[feature].natural(min(value, 40.0))


def reasons(scored: Scored, i: int) -> list[Reason]:
    """The features that made tick `i` improbable, the strongest first, at most three."""
    found, tails = scored.features, scored.verdicts.tails[i]
    share = contributions(tails[None, :])[0]
    strongest = float(share.max())
    result: list[Reason] = []
    for c in np.argsort(-share, kind="stable")[:MOST_REASONS].tolist():
        score = float(share[c])
        if result and (score < 2.0 or score < 0.5 * strongest):  # one tick in a hundred adds nothing
            break
        name = CONTRIBUTIONS[c]
        if name == "lateness":
            behind = math.expm1(float(found.lateness[i]))
            result.append(Reason(name, score, behind, 0.0, f"{duration(behind)} older than a tick already seen"))
        elif name == "repeats":
            often = -math.expm1(-float(found.repeats[i]))
            text = f"came before with the same time, as {often:.0%} of the last ticks did"
            result.append(Reason(name, score, often, 0.0, text))
        elif name == "replay":
            again = float(found.replay[i])
            result.append(
                Reason(name, score, again, 0.0, "the last ticks came before, in the same order, at another time")
            )
        elif name == "locked":
            result.append(Reason(name, score, 0.0, math.sinh(float(found.mean[i, SPREAD])), "bid equals ask"))
        elif name == "off_grid":
            field, decimals = (int(n) for n in found.off_grid[i])
            stated = float(getattr(scored.ticks, GRID[field])[i])
            text = f"{GRID[field]} {stated:.15g} has more decimals than the {decimals} that are usual"
            result.append(Reason(name, score, stated, round(stated, decimals), text))
        elif name in LACKS:
            columns = LACKS[name]
            column = columns.start + int(np.nanargmax(found.usual_share[i, columns] - found.share[i, columns]))
            lately, usual = float(found.share[i, column]), float(found.usual_share[i, column])
            what = f"have a value for {STATED[column - 1]}" if column else "are trades"
            text = f"only {lately:.0%} of the last ticks {what}, expected about {usual:.0%}"
            result.append(Reason(name, score, lately, usual, text))
        else:
            result.append(_feature_reason(scored, i, c, score))
    return result


def in_words(why: Sequence[Reason]) -> str | None:
    """The texts of some reasons in one line; None where there are none."""
    return "; ".join(reason.text for reason in why) or None


def _feature_reason(scored: Scored, i: int, c: int, score: float) -> Reason:
    """Feature `c` of tick `i` in words: the tick itself, or what it did lately, against its mean or what the network expects."""
    found, verdicts = scored.features, scored.verdicts
    words = _WORDS[FEATURES[c]]
    mean, std = float(found.mean[i, c]), float(found.std[i, c])
    tails, sudden = verdicts.tails[i], float(verdicts.tails[i, c])
    slow = float(tails[TREND_OF[c]]) if TREND_OF[c] >= 0 else 0.0
    missed = float(tails[MISFIT_OF[c]]) if MISFIT_OF[c] >= 0 else 0.0
    if sudden >= max(slow, missed):
        observed, expected, form = float(found.observed[i, c]), mean, "{}, expected about {}"
    else:
        k = LASTING.index(c)
        trend = float(verdicts.trend[i, k])
        observed, expected, form = mean + std * trend, mean, "lately {}, expected about {}"
        if slow < missed:
            expected += std * (trend - float(verdicts.misfit[i, k]))
            form = "lately {}, where the pattern of all features suggests {}"
    observed, expected = natural(FEATURES[c], observed), natural(FEATURES[c], expected)
    return Reason(
        FEATURES[c], score, observed, expected, form.format(words.observed(observed), words.expected(expected))
    )


def iso_time(ts: int) -> str:
    """RFC 3339 time with nanoseconds of `ts` nanoseconds since 1970."""
    seconds, nanoseconds = divmod(ts, 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, timezone.utc):%Y-%m-%dT%H:%M:%S}.{nanoseconds:09d}Z"


def alerts(scored: Scored, topic: str, model_id: str, threshold: float) -> list[Alert]:
    """The alerts among the scored ticks, in order."""
    ticks, verdicts = scored.ticks, scored.verdicts
    result = []
    for i in np.flatnonzero(verdicts.alert).tolist():
        partition, offset = int(ticks.partition[i]), int(ticks.offset[i])
        numbers: dict[str, float | int] = {name: float(getattr(ticks, name)[i]) for name in NUMBERS}
        if ticks.seq[i] != NO_SEQ:
            numbers["seq"] = int(ticks.seq[i])
        result.append(
            Alert(
                stream=ticks.stream[i],
                ts=int(ticks.ts[i]),
                score=float(verdicts.score[i]),
                threshold=threshold,
                phase=PHASES[verdicts.phase[i]],
                incident=f"{topic}/{partition}/{int(verdicts.incident[i])}/{model_id}",
                model=model_id,
                topic=topic,
                partition=partition,
                offset=offset,
                tick={k: v for k, v in numbers.items() if not math.isnan(v)},
                reasons=reasons(scored, i),
            )
        )
    return result


def cloud_event(alert: Alert, headers: list[tuple[str, bytes]] | None = None) -> Output:
    """The alert as a CloudEvents 1.0 JSON record. Its id, key and value are the same on every replay; `headers` may differ."""
    event: dict[str, Any] = {
        "specversion": "1.0",
        "id": f"{alert.topic}/{alert.partition}/{alert.offset}/{alert.model}",
        "source": "tickwatch",
        "type": f"tickwatch.alert.{alert.phase}",
        "subject": alert.stream,
        "time": iso_time(alert.ts),
        "datacontenttype": "application/json",
        "data": alert,
    }
    return Output(alert.partition, alert.stream.encode(), msgspec.json.encode(event), headers or [])
