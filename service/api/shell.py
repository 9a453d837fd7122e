"""What surrounds every request: security headers, the host it was meant for, metrics, and an end for unforeseen errors."""

from __future__ import annotations

import logging
import time
from functools import cache
from urllib.parse import quote

from prometheus_client import Counter, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.problems import Problem, respond
from service.metrics import SECONDS, Metrics

LOG = logging.getLogger("tickwatch")
HEADERS = {
    b"x-content-type-options": b"nosniff",
    b"content-security-policy": b"default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    b"referrer-policy": b"no-referrer",
    b"cache-control": b"no-store",
}
HSTS = {b"strict-transport-security": b"max-age=31536000"}
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

        async def headed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *self._headers]
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
            LOG.exception("a request failed")  # here, for its text must not leave the service
            if not status:
                await respond(error)(inner, receive, headed)
        finally:
            route = getattr(inner.get("route"), "path", "none")
            self._requests_of(route, status).inc()
            self._seconds_of(route).observe(time.perf_counter() - began)

    def _is_local(self, scope: Scope) -> bool:
        hosts = [value for name, value in scope["headers"] if name == b"host"]
        host = hosts[0].decode("latin-1") if len(hosts) == 1 else ""
        name, colon, port = host.rpartition(":")
        return (name if colon and port.isdigit() else host).lower() in LOCAL


def _misdirected() -> Problem:
    detail = "Without API keys this service answers only to localhost and 127.0.0.1."
    return Problem("misdirected", detail, "Use such an address, or start it with --keys-file.", "Host")
