"""A client of `tickwatch serve`, with nothing but the standard library: typed answers, and retries that are safe.

>>> client = Client("http://127.0.0.1:8000")                                     # doctest: +SKIP
>>> client.score([Tick(ts=1_700_000_000_000_000_000, price=189.98, stream="AAPL")])  # doctest: +SKIP
"""

from __future__ import annotations

import http.client
import random
import ssl
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar
from urllib.parse import quote, urlencode, urlsplit

import msgspec

from service.api.problems import ProblemDetails
from service.api.wire import (
    JSON,
    AlertEvent,
    AlertsAnswer,
    ScoreAnswer,
    ScoreRequest,
    StreamDetail,
    StreamsAnswer,
    StreamSummary,
    Tick,
    TickScore,
    TicksRequest,
)
from service.errors import TickwatchError

AGAIN = frozenset({429, 502, 503, 504})
T = TypeVar("T")


class KeptAnswer(msgspec.Struct, frozen=True):
    """The answer for a stream whose state the service keeps."""

    model: str
    ticks: list[TickScore]


class Refused(TickwatchError):
    """The service said no; `problem` is what it said (RFC 9457)."""

    def __init__(self, problem: ProblemDetails) -> None:
        super().__init__(f"{problem.detail} {problem.remedy}")
        self.problem = problem


class Client:
    """One connection to a service, for one thread; usable as a context manager.

    `key` is an API key. A request that found no answer, or one to come back later, is sent again up to `retries` times, after
    growing pauses; those that move a stream carry an idempotency key, so that they move it once.
    """

    def __init__(
        self,
        url: str,
        key: str = "",
        *,
        timeout: float = 30.0,
        retries: int = 5,
        tls: ssl.SSLContext | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise TickwatchError(f"--url {url}: give an address such as http://127.0.0.1:8000")
        if parts.scheme == "https":
            self._connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                parts.hostname, parts.port, timeout=timeout, context=tls or ssl.create_default_context()
            )
        else:
            self._connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout)
        self._url = url
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._retries = retries
        self._sleep = sleep

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def score(self, ticks: Sequence[Tick], state: str | None = None) -> ScoreAnswer:
        """Scores of ticks of one or many streams; give the answer's state with their next ticks."""
        return self._ask("POST", "/v1/score", ScoreAnswer, ScoreRequest(list(ticks), state))

    def send(self, stream: str, ticks: Sequence[Tick], idempotency_key: str | None = None) -> KeptAnswer:
        """Scores of a stream's next ticks, whose state the service keeps. Give a key to repeat it after a restart of yours."""
        headers = {"Idempotency-Key": idempotency_key or uuid.uuid4().hex}
        return self._ask("POST", f"{_path(stream)}/ticks", KeptAnswer, TicksRequest(list(ticks)), headers)

    def stream(self, stream: str) -> StreamDetail:
        """A stream's last tick, score, age and features."""
        return self._ask("GET", _path(stream), StreamDetail)

    def streams(self) -> Iterator[StreamSummary]:
        """All streams whose state is kept."""
        after: str | None = ""
        while after is not None:
            page = self._ask("GET", f"/v1/streams?{urlencode({'after': after, 'limit': 1000})}", StreamsAnswer)
            yield from page.streams
            after = page.after

    def delete(self, stream: str) -> None:
        """Forget a stream. Raises Refused when there is none, also where an earlier try of this call removed it."""
        self._send("DELETE", _path(stream), None, {})

    def alerts(self, after: int = 0, **filters: str | float) -> Iterator[AlertEvent]:
        """Alerts so far, oldest first; filters are `stream`, `phase` and `min_score`."""
        more = True
        while more:
            page = self._ask("GET", f"/v1/alerts?{urlencode({'after': after, 'limit': 1000, **filters})}", AlertsAnswer)
            yield from page.alerts
            after, more = page.after, page.more

    def _ask(
        self, method: str, path: str, answer: type[T], body: object = None, headers: dict[str, str] | None = None
    ) -> T:
        return msgspec.json.decode(self._send(method, path, body, headers or {}), type=answer)

    def _send(self, method: str, path: str, body: object, headers: dict[str, str]) -> bytes:
        data = None if body is None else msgspec.json.encode(body)
        headers = self._headers | headers | ({"Content-Type": JSON} if data else {})
        for attempt in range(self._retries + 1):
            pause = random.uniform(0.5, 1.0) * 0.1 * 2**attempt  # apart, so that clients do not come back together
            try:
                self._connection.request(method, path, data, headers)
                response = self._connection.getresponse()
                found = response.read()
            except (OSError, http.client.HTTPException) as error:
                self._connection.close()
                if attempt == self._retries:
                    why = str(error) or type(error).__name__
                    raise TickwatchError(
                        f"{self._url}: no answer ({why}); does `tickwatch serve` run there?"
                    ) from error
            else:
                if response.status < 300:
                    return found
                if response.status not in AGAIN or attempt == self._retries:
                    raise Refused(_problem(response.status, found))
                pause = max(pause, min(float(response.headers.get("Retry-After") or 0), 30.0))
            self._sleep(pause)
        raise AssertionError("the last attempt returns or raises")


def _path(stream: str) -> str:
    return f"/v1/streams/{quote(stream, safe='')}"


def _problem(status: int, body: bytes) -> ProblemDetails:
    try:
        return msgspec.json.decode(body, type=ProblemDetails)
    except msgspec.DecodeError:
        return ProblemDetails("about:blank", "An answer of something between", status, f"HTTP status {status}.", "")
