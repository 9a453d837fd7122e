"""Another worker with another model on the same ticks: what it says of them, and how far the two agree."""

from __future__ import annotations

import urllib.parse
import urllib.request
from collections import defaultdict
from collections.abc import Sequence
from http.client import HTTPException
from typing import TypeVar

import msgspec

from service.alerts import Alert
from service.board import Status
from service.errors import TickwatchError
from service.history import Trace

SECONDS = 2.0  # that an answer may take
MOST_BYTES = 4 * 2**20
APART_NS = 1_000_000_000  # of event time: incidents of one stream that lie this close are the same
MOST_INCIDENTS = 40


class Incident(msgspec.Struct, frozen=True):
    """One incident as either model sees it: its highest score in each, null in the one that saw nothing."""

    stream: str
    ts: int
    partition: int
    offset: int
    ours: float | None
    theirs: float | None


class Comparison(msgspec.Struct, frozen=True):
    """The other worker, and the incidents of the time that both remember: how many each saw, and the last of them."""

    status: Status
    both: int
    ours: int
    theirs: int
    incidents: list[Incident]


class _Told(msgspec.Struct):
    status: Status
    alerts: list[Alert]


_told = msgspec.json.Decoder(_Told)
_trace: msgspec.json.Decoder[Trace | None] = msgspec.json.Decoder(Trace | None)
T = TypeVar("T")


class _Span(msgspec.Struct):
    """An incident of one model: when it lasted, and its strongest alert."""

    first: int
    last: int
    peak: Alert


class Peer:
    """The live page of another worker at `url`. Every question raises TickwatchError where it does not answer as one."""

    def __init__(self, url: str) -> None:
        if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
            raise TickwatchError(
                f"--compare {url}: give the address of another worker's page, as http://127.0.0.1:9465"
            )
        self._url = url.rstrip("/")

    def compare(self, ours: Sequence[Alert]) -> Comparison:
        """Hold its alerts against ours."""
        told = self._ask("status.json", {}, _told)
        return compared(told.status, ours, told.alerts)

    def trace(self, path: str, parameters: dict[str, str]) -> Trace | None:
        """The ticks that its `stream.json` or `alert.json` gives; None where it keeps none."""
        return self._ask(path, parameters, _trace)

    def _ask(self, path: str, parameters: dict[str, str], decoder: msgspec.json.Decoder[T]) -> T:
        address = f"{self._url}/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(address, timeout=SECONDS) as answer:  # noqa: S310  (http alone, as checked above)
                return decoder.decode(answer.read(MOST_BYTES))
        except (OSError, HTTPException, msgspec.MsgspecError) as error:
            raise TickwatchError(f"the worker to compare with does not answer ({error})") from error


def compared(status: Status, ours: Sequence[Alert], theirs: Sequence[Alert]) -> Comparison:
    """What each model found since the moment from which both have their alerts; `status` is of the other one."""
    since = max(min((a.ts for a in them), default=0) for them in (ours, theirs))
    left = _spans(ours, since)
    right = _spans(theirs, since)
    found: list[Incident] = []
    for stream in left.keys() | right.keys():
        rest = right.get(stream, [])
        for mine in left.get(stream, []):
            same = [its for its in rest if its.first <= mine.last + APART_NS and mine.first <= its.last + APART_NS]
            rest = [its for its in rest if its not in same]
            found.append(_incident(mine.peak, mine.peak.score, max((its.peak.score for its in same), default=None)))
        found += [_incident(its.peak, None, its.peak.score) for its in rest]
    found.sort(key=lambda it: (-it.ts, it.stream))
    both = sum(it.ours is not None and it.theirs is not None for it in found)
    only = sum(it.theirs is None for it in found)
    return Comparison(status, both, only, len(found) - both - only, found[:MOST_INCIDENTS])


def _spans(alerts: Sequence[Alert], since: int) -> dict[str, list[_Span]]:
    """The incidents by stream that lasted until `since` at least."""
    spans: dict[str, _Span] = {}
    for alert in sorted(alerts, key=lambda a: a.ts):
        span = spans.setdefault(alert.incident, _Span(alert.ts, alert.ts, alert))
        span.last = alert.ts
        if alert.score > span.peak.score:
            span.peak = alert
    found: dict[str, list[_Span]] = defaultdict(list)
    for span in spans.values():
        if span.last >= since - APART_NS:
            found[span.peak.stream].append(span)
    return found


def _incident(peak: Alert, ours: float | None, theirs: float | None) -> Incident:
    return Incident(peak.stream, peak.ts, peak.partition, peak.offset, ours, theirs)
