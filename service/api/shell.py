"""What surrounds every request: security headers, the host it was meant for, metrics, and an end for unforeseen errors."""

from __future__ import annotations

import logging
import re
import time
from functools import cache
from urllib.parse import quote
from uuid import uuid4

from prometheus_client import Counter, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.problems import Problem, respond
from service.journal import event
from service.metrics import SECONDS, Metrics, exemplar

LOG = logging.getLogger("tickwatch")
HEADERS = {
    b"x-content-type-options": b"nosniff",
    b"content-security-policy": b"default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    b"referrer-policy": b"no-referrer",
    b"cache-control": b"no-store",
}
HSTS = {b"strict-transport-security": b"max-age=31536000"}
REQUEST = re.compile(r"[\w.:-]{1,128}", re.ASCII)
LOCAL = frozenset({"localhost", "127.0.0.1", "[::1]"})


class Shell:
    """Wraps an application. With `only_local` a Host header must name this machine's loopback, so that no page of a browser
    can reach an open service by a name that was pointed at it (DNS rebinding).
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, *, only_local: bool, secure: bool) -> None:
        self._app = app
        self._only_local = only_local
        self._headers = [*HEADERS.items(), *(HSTS.items() if secure else ())]
        r = metrics.registry
        self._requests = Counter(
            "tickwatch_http_requests", "Requests by route and status", ["route", "status"], registry=r
        )
        self._seconds = Histogram("tickwatch_http_seconds", "Time to answer", ["route"], buckets=SECONDS, registry=r)
        self._requests_of = cache(self._requests.labels)  # few, and looked up with each request
        self._seconds_of = cache(self._seconds.labels)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        status = 0
        request = ""  # named only when something failed: by its sender, or here

        async def headed(message: Message) -> None:
            nonlocal request, status
            if message["type"] == "http.response.start":
                status = message["status"]
                own = {name for name, _ in message["headers"]}
                message["headers"] = [*message["headers"], *(h for h in self._headers if h[0] not in own)]
                if status >= 500:
                    request = request or _name(scope)
                    message["headers"].append((b"x-request-id", request.encode()))
            await send(message)

        # routes see the path undecoded: the name of a stream may hold a slash, %2F
        path = (scope.get("raw_path") or quote(scope["path"]).encode()).decode("ascii", "replace")
        inner: Scope = {**scope, "path": path}
        try:
            if self._only_local and not self._is_local(scope):
                await respond(_misdirected())(inner, receive, headed)
            else:
                await self._app(inner, receive, headed)
        except Exception as error:
            request = request or _name(scope)
            failed = event("request_failed", request=request, method=scope["method"], path=path)
            LOG.exception("a request failed", extra=failed)  # here, for its text must not leave the service
            if not status:
                await respond(error)(inner, receive, headed)
        finally:
            route = getattr(inner.get("route"), "path", "none")
            self._requests_of(route, status).inc()
            self._seconds_of(route).observe(time.perf_counter() - began, exemplar(_header(scope, b"traceparent")))

    def _is_local(self, scope: Scope) -> bool:
        host = _header(scope, b"host")
        name, colon, port = host.rpartition(":")
        return (name if colon and port.isdigit() else host).lower() in LOCAL


def _header(scope: Scope, wanted: bytes) -> str:
    """What a header says; nothing if it is not there, or more than once."""
    values = [value for name, value in scope["headers"] if name == wanted]
    return values[0].decode("latin-1") if len(values) == 1 else ""


def _name(scope: Scope) -> str:
    """By which whoever asks and the log mean the same request: X-Request-Id, if that can be read aloud."""
    given = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"x-request-id"), "")
    return given if REQUEST.fullmatch(given) else uuid4().hex


def _misdirected() -> Problem:
    detail = "Without API keys this service answers only to localhost and 127.0.0.1."
    return Problem("misdirected", detail, "Use such an address, or start it with --keys-file.", "Host")
