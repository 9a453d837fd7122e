"""Spans of checkpoints: bounded links, errors where work was void, and an end that waits for nobody."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from service.errors import TickwatchError
from service.logs import Records
from service.tracing import FLUSH_S, LINKS, Tracing
from tests.otlp import Collector, collector, said


@pytest.fixture
def otlp() -> Iterator[Collector]:
    with collector() as found:
        yield found


def batch(first: int, n: int) -> Records:
    """Records from as many senders."""
    trace: list[bytes | None] = [f"00-{1:032x}-{first + i + 1:016x}-01".encode() for i in range(n)]
    return Records(np.zeros(n, np.int32), np.arange(first, first + n), [None] * n, [b"{}"] * n, trace=trace)


def test_a_checkpoint_links_to_a_sample_of_many_senders(otlp: Collector) -> None:
    tracing = Tracing(otlp.url)
    checkpoints = tracing.checkpoints("ticks", "tickwatch")
    for first in range(0, 50_000, 500):
        checkpoints.scored(batch(first, 500), [], 0.001)
    checkpoints.committed(0.01)
    tracing.close()
    (span,) = otlp.named("process ticks")
    assert len(span.links) == LINKS
    assert said(span.attributes)["messaging.batch.message_count"] == 50_000


def test_work_that_was_void_is_an_error_and_the_next_checkpoint_another_span(otlp: Collector) -> None:
    tracing = Tracing(otlp.url)
    checkpoints = tracing.checkpoints("ticks", "tickwatch")
    assert checkpoints.headers() == []
    checkpoints.scored(batch(0, 3), [], 0.001)
    checkpoints.void()
    checkpoints.scored(batch(0, 2), [], 0.001)
    ((name, value),) = checkpoints.headers()
    checkpoints.committed(0.01)
    checkpoints.committed(0.01)
    tracing.close()
    void, kept = otlp.named("process ticks")
    assert [void.status.code, kept.status.code] == [Status.STATUS_CODE_ERROR, Status.STATUS_CODE_UNSET]
    assert name == "traceparent"
    assert value.decode().startswith(f"00-{kept.trace_id.hex()}-{kept.span_id.hex()}-")
    assert len(kept.links) == 2


def test_the_end_waits_a_little_for_a_collector_that_does_not_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        tracing = Tracing(f"http://127.0.0.1:{deaf.getsockname()[1]}")
        tracing.tracer.start_span("lost").end()
        began = time.monotonic()
        tracing.close()
        assert time.monotonic() - began < FLUSH_S + 10
    for thread in threading.enumerate():  # what it still has to say belongs to this test
        if thread.name.startswith("OtelBatch"):
            thread.join(timeout=10)
            assert not thread.is_alive()


def test_an_endpoint_that_is_no_url_is_refused() -> None:
    with pytest.raises(TickwatchError, match="--otlp-endpoint localhost:4318"):
        Tracing("localhost:4318")
