"""What requests and answers look like, and how a body becomes ticks: JSON, NDJSON or Arrow IPC."""

from __future__ import annotations

import math
import re
from operator import attrgetter
from typing import Annotated, Literal, TypeVar

import msgspec
import numpy as np
from msgspec import Meta

from service.alerts import Alert, Reason
from service.api.arrow import BROKEN, read_arrow
from service.api.problems import Problem
from service.columns import to_ticks
from service.errors import TickwatchError
from service.ticks import MAX_MAGNITUDE, MAX_SEQ, MAX_STREAM_LENGTH, MAX_TS, NO_SEQ, NUMBERS, parse_ts

JSON, NDJSON, ARROW = "application/json", "application/x-ndjson", "application/vnd.apache.arrow.stream"

_LEAP = (
    r"(?:19(?:7[26]|8[048]|9[26])|20(?:[02468][048]|[13579][26])"
    r"|21(?:0[48]|[2468][048]|[13579][26])|22(?:0[48]|1[26]|2[048]))"
)
_YEAR = r"(?:19(?:7[1-9]|[89][0-9])|2[01][0-9]{2}|22[0-2][0-9])"
_DAY = r"(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-8]))"
_TIME = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:[.][0-9]{1,9})?(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])?"
ISO_8601 = f"^(?:{_YEAR}-{_DAY}|{_LEAP}-02-29)T{_TIME}$"

Stream = Annotated[str, Meta(min_length=1, max_length=MAX_STREAM_LENGTH, description="name of the stream")]
Nanoseconds = Annotated[int, Meta(ge=0, le=MAX_TS, description="nanoseconds since 1970")]
Whole = Annotated[float, Meta(ge=0, le=2**63)]  # to JSON 1.0 is an integer; see _complete
IsoTime = Annotated[str, Meta(pattern=ISO_8601, description="ISO 8601; without a zone it is UTC")]
Number = Annotated[float, Meta(ge=-MAX_MAGNITUDE, le=MAX_MAGNITUDE)]
Size = Annotated[float, Meta(ge=0, le=MAX_MAGNITUDE)]
Sequence = Annotated[int, Meta(ge=0, le=MAX_SEQ, description="the feed's own number of the tick in its stream")]


class Tick(msgspec.Struct, gc=False, omit_defaults=True):
    """One tick. Fields it does not know are ignored, so that a feed may say more than is read."""

    ts: Nanoseconds | Whole | IsoTime
    price: Number
    stream: Stream | None = None
    size: Size | None = None
    bid: Number | None = None
    ask: Number | None = None
    bid_size: Size | None = None
    ask_size: Size | None = None
    seq: Sequence | Whole | None = None


class ScoreRequest(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    """Ticks of one or many streams, each stream's in order; `state` is that of the last answer, none at first."""

    ticks: Annotated[list[Tick], Meta(min_length=1)]
    state: str | None = None


class TicksRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The next ticks of a stream, in order."""

    ticks: Annotated[list[Tick], Meta(min_length=1)]


class TickScore(msgspec.Struct, frozen=True, gc=False):
    """What is said of a tick: -log10 of its probability in this stream, whether it alerts, and why it stands out.

    `phase` is `opened` or `updated` for an alert, else `none`; `reasons` are given where the score reaches the threshold.
    """

    stream: str
    ts: int
    score: float
    threshold: float
    alert: bool = False
    phase: Literal["none", "opened", "updated"] = "none"
    reasons: tuple[Reason, ...] = ()


class ScoreAnswer(msgspec.Struct, frozen=True):
    """One score per tick, in order; `state` is to be sent with the streams' next ticks."""

    model: str
    ticks: list[TickScore]
    state: str


class TicksAnswer(msgspec.Struct, frozen=True):
    """One score per tick, in order."""

    model: str
    ticks: list[TickScore | msgspec.Raw]


class StreamSummary(msgspec.Struct, frozen=True):
    """A stream whose state is kept: ticks so far, time and score of the last one, seconds since it came."""

    stream: str
    ticks: int
    ts: int
    score: float
    alert: bool
    age_seconds: float


class StreamDetail(msgspec.Struct, frozen=True):
    """The same with the last tick itself and its features, in the features' own scale, null where the feed has none."""

    stream: str
    ticks: int
    ts: int
    score: float
    alert: bool
    age_seconds: float
    tick: dict[str, float]
    features: dict[str, float | None]


class StreamsAnswer(msgspec.Struct, frozen=True):
    """A page of streams by name; `after` is to be asked for next, null at the end."""

    streams: list[StreamSummary]
    after: str | None


class AlertEvent(msgspec.Struct, frozen=True):
    """An alert as a CloudEvent 1.0, the same over HTTP and in the topic of alerts."""

    specversion: Literal["1.0"]
    id: str
    source: Literal["tickwatch"]
    type: Literal["tickwatch.alert.opened", "tickwatch.alert.updated"]
    subject: str
    time: str
    datacontenttype: Literal["application/json"]
    data: Alert


class AlertsAnswer(msgspec.Struct, frozen=True):
    """A page of alerts in the order in which they arose, as CloudEvents; `after` is to be asked for next.

    A page may be short, even empty, and not be the last one: `more` tells.
    """

    alerts: list[AlertEvent]
    after: int
    more: bool


class ModelInfo(msgspec.Struct, frozen=True):
    """The model in use."""

    id: str
    cell: str
    hidden: int
    bottleneck: int
    feature_set: str
    features: list[str]
    data_fingerprint: str
    code_revision: str
    seed: int
    alert_budget: float
    threshold: float


class ModelsAnswer(msgspec.Struct, frozen=True):
    """All models that score here."""

    models: list[ModelInfo]


class Health(msgspec.Struct, frozen=True):
    """Whether the service lives, or can serve."""

    status: str


class _StateLine(msgspec.Struct, forbid_unknown_fields=True):
    state: str


T = TypeVar("T")
_score_request = msgspec.json.Decoder(ScoreRequest)
_ticks_request = msgspec.json.Decoder(TicksRequest)
_tick = msgspec.json.Decoder(Tick)
_NAMED = re.compile(
    r"(?:missing required|contains unknown) field `(.{1,64})`$"
)  # msgspec's path ends before that field
TOLD = 300  # characters of what was wrong; a name that a sender made up may be as long as a body
stream_of, _ts_of, _seq_of = attrgetter("stream"), attrgetter("ts"), attrgetter("seq")
_state_line = msgspec.json.Decoder(_StateLine)


def invalid(field: str, what: str) -> Problem:
    """A field that does not hold what it must; the body, if it is no field of its own."""
    field = field or "body"
    return Problem("invalid", f"{field}: {what[:TOLD]}", "Correct it; /docs shows what is expected.", field)


def _decoded(decoder: msgspec.json.Decoder[T], body: bytes, where: str = "") -> T:
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        what, _, path = str(error).partition(" - at `$")
        named = _NAMED.search(what)
        field = f"{where}{path.rstrip('`')}{f'.{named[1]}' if named else ''}".lstrip(".")
        raise invalid(field, what) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise invalid(where, f"not JSON: {error}") from error


def read(body: bytes, media_type: str, most: int, stream: str | None = None) -> ScoreRequest:
    """The request in a body, its ticks complete: integer `ts`, and `stream` that of the path if one is given.

    NDJSON holds a tick a line, before them optionally `{"state": ...}`; Arrow holds columns, the state in its schema's
    metadata. Raises Problem, also when there are more than `most` ticks.
    """
    if media_type == JSON:
        kept = stream is not None
        request = ScoreRequest(_decoded(_ticks_request, body).ticks) if kept else _decoded(_score_request, body)
    elif media_type == NDJSON:
        request = _read_lines(body, most)
    elif media_type == ARROW:
        request = _read_arrow(body, most, stream)
    else:
        remedy = f"Send {JSON}, {NDJSON} or {ARROW}."
        raise Problem("media-type", f"Content-Type {media_type[:100]!r} is not understood.", remedy, "Content-Type")
    if stream is not None and request.state is not None:
        raise invalid("state", "a stream whose state the service keeps takes none")
    _check_count(len(request.ticks), most)
    _complete(request.ticks, stream)
    return request


def _check_count(n: int, most: int) -> None:
    if n > most:
        raise Problem("invalid", f"ticks: there are {n}, the limit is {most}.", "Send fewer ticks at a time.", "ticks")


def _complete(ticks: list[Tick], stream: str | None) -> None:
    named = set(map(stream_of, ticks))
    if stream is None and None in named:
        i = next(i for i, tick in enumerate(ticks) if tick.stream is None)
        raise invalid(f"ticks[{i}].stream", "is missing")
    if stream is not None and named != {stream}:
        for i, tick in enumerate(ticks):
            if tick.stream not in (None, stream):
                raise invalid(f"ticks[{i}].stream", f"is not {stream!r}, the stream of the path")
            tick.stream = stream
    if set(map(type, map(_ts_of, ticks))) != {int}:
        for i, tick in enumerate(ticks):
            tick.ts = _instant(tick.ts, f"ticks[{i}].ts")
    if float in set(map(type, map(_seq_of, ticks))):
        for i, tick in enumerate(ticks):
            tick.seq = None if tick.seq is None else _whole(tick.seq, f"ticks[{i}].seq", MAX_SEQ)


def _instant(ts: float | str, field: str) -> int:
    if not isinstance(ts, str):
        return _whole(ts, field, MAX_TS)
    try:
        return parse_ts(ts)
    except ValueError as error:
        raise invalid(field, str(error)) from error


def _whole(number: float, field: str, most: int) -> int:
    if number != int(number) or number > most:
        raise invalid(field, f"{number!r} is no whole number up to {most}")
    return int(number)


def _read_lines(body: bytes, most: int) -> ScoreRequest:
    lines = [line for line in body.split(b"\n", most + 2) if line.strip()]
    state = None
    if lines and lines[0].lstrip().startswith(b'{"state"'):
        state = _decoded(_state_line, lines.pop(0), "line 1").state
    _check_count(len(lines), most)
    if not lines:
        raise invalid("", "the body holds no tick")
    return ScoreRequest([_decoded(_tick, line, f"ticks[{i}]") for i, line in enumerate(lines)], state)


def _read_arrow(body: bytes, most: int, stream: str | None) -> ScoreRequest:
    try:
        table, state = read_arrow(body, most)
        n = table.num_rows
        columns = {name: table.column(name).combine_chunks() for name in table.column_names}
        ticks, rejects = to_ticks(columns, np.arange(n), stream or "")
    except (TickwatchError, *BROKEN) as error:
        raise invalid("", f"Arrow: {error}") from error
    if rejects:
        raise invalid(f"ticks[{rejects[0].offset}]", rejects[0].reason)
    numbers = zip(*(getattr(ticks, name).tolist() for name in NUMBERS), strict=True)
    found = []
    for name, ts, seq, row in zip(ticks.stream, ticks.ts.tolist(), ticks.seq.tolist(), numbers, strict=True):
        size, bid, ask, bid_size, ask_size = (None if math.isnan(v) else v for v in row[1:])
        found.append(Tick(ts, row[0], name or None, size, bid, ask, bid_size, ask_size, None if seq == NO_SEQ else seq))
    if not found:
        raise invalid("", "the body holds no tick")
    return ScoreRequest(found, state)
