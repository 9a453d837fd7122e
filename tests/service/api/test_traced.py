"""`tickwatch serve` with --otlp-endpoint: a span for every request, as the conventions have it, at a real collector."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from starlette.types import Receive, Scope, Send

from service.api.traced import Traced
from service.tracing import Tracing
from tests.otlp import collector, said
from tests.samples import random_ticks
from tests.serving import as_json, new_key, server

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def test_a_request_is_a_span_of_the_trace_that_it_names(tmp_path: Path) -> None:
    ticks = as_json(random_ticks(20, streams=1), named=False)
    key = new_key(tmp_path / "keys.jsonl", "score")
    with collector() as otlp:
        options = ["--otlp-endpoint", otlp.url, "--keys-file", str(tmp_path / "keys.jsonl")]
        with server(tmp_path / "data", *options) as running, running.client(key) as client:
            headers = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
            sent = client.post("/v1/streams/A%2FB/ticks", json={"ticks": ticks}, headers=headers)
            assert sent.status_code == 200
            assert client.get("/v1/alerts?min_score=4").status_code == 403
            assert client.get("/healthz").status_code == 200
            assert client.get("/nowhere", headers={"traceparent": "junk"}).status_code == 404
        spans = {span.name: span for span in otlp.spans}  # sent before the process ended
    assert set(spans) == {"POST /v1/streams/{stream}/ticks", "GET /v1/alerts", "GET"}
    span = spans["POST /v1/streams/{stream}/ticks"]
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
    assert span.kind == Span.SPAN_KIND_SERVER
    assert said(span.attributes) == {
        "http.request.method": "POST",
        "http.route": "/v1/streams/{stream}/ticks",
        "http.response.status_code": 200,
        "url.scheme": "http",
        "url.path": "/v1/streams/A%2FB/ticks",
        "network.protocol.version": "1.1",
        "server.address": "127.0.0.1",
        "client.address": "127.0.0.1",
    }
    refused = spans["GET /v1/alerts"]
    assert said(refused.attributes).items() >= {("http.response.status_code", 403), ("url.query", "min_score=4")}
    assert refused.status.code == Status.STATUS_CODE_UNSET  # the mistake was the client's
    assert spans["GET"].parent_span_id == b""
    assert key not in str(otlp.spans)


def test_a_failure_of_ours_is_an_error_and_passes_on() -> None:
    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        raise KeyError("secret")

    async def nothing(*_: object) -> None:
        pass

    scope: dict[str, Any] = dict.fromkeys(("method", "path", "scheme", "http_version"), "BREW")
    scope |= {"type": "http", "headers": [], "query_string": b""}
    with collector() as otlp:
        tracing = Tracing(otlp.url)
        with pytest.raises(KeyError):
            asyncio.run(Traced(broken, tracing)(scope, nothing, nothing))  # type: ignore[arg-type]
        tracing.close()
        (span,) = otlp.spans
    assert (span.name, span.status.code) == ("HTTP", Status.STATUS_CODE_ERROR)
    assert said(span.attributes)["error.type"] == "KeyError"
    assert "secret" not in str(span)
