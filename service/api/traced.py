"""A span for every request: https://opentelemetry.io/docs/specs/semconv/http/http-spans/#http-server."""

from __future__ import annotations

import asyncio

from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.tracing import W3C, Tracing

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"})
CONTEXT = (b"traceparent", b"tracestate")
UNTOLD = frozenset({"/healthz", "/readyz", "/metrics"})  # asked for by machines, all the time


class Traced:
    """Wraps an application that leaves its route in the scope. A request's own `traceparent` is the parent of its span.

    Of headers and bodies nothing is told. The last spans are sent when the application's lifespan ends: right after that
    uvicorn dies of the signal that ended it.
    """

    def __init__(self, app: ASGIApp, tracing: Tracing) -> None:
        self._app = app
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http" or scope["path"] in UNTOLD:
            await self._app(scope, receive, self._last(send))
            return
        span = self._start(scope)

        async def heard(message: Message) -> None:
            if message["type"] == "http.response.start":
                span.set_attribute("http.response.status_code", message["status"])
                if message["status"] >= 500:
                    _fail(span, str(message["status"]))
            await send(message)

        try:
            await self._app(scope, receive, heard)
        except Exception as error:
            _fail(span, type(error).__qualname__)
            raise
        finally:
            route = getattr(scope.get("route"), "path", None)
            if route is not None:
                span.set_attribute("http.route", route)
                span.update_name(f"{_method(scope)} {route}")
            span.end()

    def _last(self, send: Send) -> Send:
        async def heard(message: Message) -> None:
            if message["type"].startswith("lifespan.shutdown."):
                await asyncio.to_thread(self._tracing.close)
            await send(message)

        return heard

    def _start(self, scope: Scope) -> Span:
        carried = {name.decode(): value.decode("latin-1") for name, value in scope["headers"] if name in CONTEXT}
        method = _method(scope)
        attributes = {
            "http.request.method": method,
            "url.scheme": scope["scheme"],
            "url.path": scope["path"],
            "network.protocol.version": scope["http_version"],
        }
        if scope["query_string"]:
            attributes["url.query"] = scope["query_string"].decode("latin-1")
        for side in ("server", "client"):
            if scope.get(side):
                attributes[f"{side}.address"] = scope[side][0]
        name = "HTTP" if method == "_OTHER" else method
        return self._tracing.tracer.start_span(name, W3C.extract(carried), SpanKind.SERVER, attributes)


def _method(scope: Scope) -> str:
    return scope["method"] if scope["method"] in METHODS else "_OTHER"


def _fail(span: Span, error: str) -> None:
    span.set_attribute("error.type", error)
    span.set_status(Status(StatusCode.ERROR))
