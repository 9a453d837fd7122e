"""The page of another model on the same ticks: what it says of them, and how far the two agree.

The address is the one that `--compare` names, and the key that goes there is that of `--compare-key-file`: neither comes from a
request, and no key of a request is handed on. What is asked for is narrowed to what the one who asks may see.
"""

from __future__ import annotations

import threading
import urllib.error
import urllib.parse
import urllib.request
from collections import defaultdict
from collections.abc import Sequence
from http.client import HTTPException
from typing import Any, TypeVar

import msgspec

from service.alerts import Alert
from service.board import Status
from service.errors import TickwatchError
from service.history import Trace

SECONDS = 2.0  # that an answer may take
MOST_BYTES = 4 * 2**20
AT_ONCE = 4  # questions: a peer that does not answer must not take all threads of the pages
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
    prefix: str


_told = msgspec.json.Decoder(_Told)
_trace: msgspec.json.Decoder[Trace | None] = msgspec.json.Decoder(Trace | None)
T = TypeVar("T")


class _Span(msgspec.Struct):
    """An incident of one model: when it lasted, and its strongest alert."""

    first: int
    last: int
    peak: Alert


class _Stay(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: it would take the key along to wherever it leads."""

    def redirect_request(self, *_: Any) -> None:
        return None


class Peer:
    """The live page at `url`, asked with an API key if it wants one.

    Every question raises TickwatchError where it does not answer as one, or where too many wait for an answer.
    """

    def __init__(self, url: str, key: str = "") -> None:
        if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
            raise TickwatchError(f"--compare {url}: give the address of another page, as http://127.0.0.1:9465")
        if not all("!" <= c <= "~" for c in key):
            raise TickwatchError("--compare-key-file: it must hold one API key and nothing else")
        self._url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._opener = urllib.request.build_opener(_Stay)
        self._turns = threading.BoundedSemaphore(AT_ONCE)

    def compare(self, ours: Sequence[Alert], prefix: str) -> Comparison:
        """Hold its alerts on streams with a prefix against ours."""
        told = self._ask("status.json", {"prefix": prefix}, _told)
        if not told.prefix.startswith(prefix):
            raise TickwatchError("the page to compare with shows all streams or none: it knows no keys with a prefix")
        return compared(told.status, ours, [alert for alert in told.alerts if alert.stream.startswith(prefix)])

    def last(self, stream: str) -> Trace | None:
        """The stream's last ticks; None where it keeps none."""
        return self._ask("stream.json", {"name": stream}, _trace)

    def near(self, stream: str, ms: float) -> Trace | None:
        """The stream's ticks around a time in milliseconds since 1970, by which both know a tick; None where it keeps none."""
        return self._ask("stream.json", {"name": stream, "at": repr(ms)}, _trace)

    def _ask(self, path: str, parameters: dict[str, str], decoder: msgspec.json.Decoder[T]) -> T:
        address = f"{self._url}/{path}?{urllib.parse.urlencode(parameters)}"
        request = urllib.request.Request(address, headers=self._headers)  # noqa: S310  (http alone, as checked above)
        if not self._turns.acquire(blocking=False):
            raise TickwatchError("too many wait for the page to compare with")
        try:
            with self._opener.open(request, timeout=SECONDS) as answer:
                return decoder.decode(answer.read(MOST_BYTES))
        except urllib.error.HTTPError as error:
            with error:
                raise TickwatchError(f"the page to compare with refuses ({error.code} {error.reason})") from error
        except (OSError, HTTPException, msgspec.MsgspecError) as error:
            raise TickwatchError(f"the page to compare with does not answer ({error})") from error
        finally:
            self._turns.release()


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
