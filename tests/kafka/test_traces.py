"""Traces through Kafka: from an alert to the span that scored it, and on to whoever sent the tick, by a real collector."""

from __future__ import annotations

import json
import re
import signal
import socket
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from kafka import KafkaProducer
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from prometheus_client.openmetrics import parser

from service.connection import KafkaSettings
from service.tracing import LINKS
from tests.kafka.broker import produce, read_all
from tests.kafka.test_worker import TICKS, Start, expected, keyed, scored, scores_by_stream, start, wait_for
from tests.otlp import Collector, collector, identity, said

__all__ = ["start"]
SENDER = "0af7651916cd43dd8448eb211c80319c"


@pytest.fixture
def otlp() -> Iterator[Collector]:
    with collector() as found:
        yield found


def sender(i: int, flags: str = "01") -> str:
    """The span that sent tick `i`."""
    return f"00-{SENDER}-{i + 1:016x}-{flags}"


def sent_with_traces(settings: KafkaSettings) -> None:
    """All ticks, each from a span of its own; every other span is one that its producer does not record."""
    with closing(KafkaProducer(bootstrap_servers=settings.bootstrap_servers, linger_ms=5)) as producer:
        for i, (key, value) in enumerate(keyed(TICKS)):
            carried = sender(i, "01" if i % 2 == 0 or i in {9000, 11_000} else "00")
            producer.send(settings.ticks, value, key, headers=[("traceparent", carried.encode())])
        producer.send(settings.ticks, b"junk", b"S0", headers=[("traceparent", b"\xff not one"), ("x", b"y")])


def test_an_alert_leads_to_the_span_that_scored_it_and_on_to_the_span_that_sent_its_tick(
    settings: KafkaSettings, start: Start, otlp: Collector, tmp_path: Path
) -> None:
    sent_with_traces(settings)
    worker = start(settings, "--scores", "--otlp-endpoint", otlp.url)
    wait_for(lambda: scored(settings) == len(TICKS))
    slow = exemplars((tmp_path / "worker.err").read_text())
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(timeout=60) == 0
    scores, alerts = expected("gru")
    assert scores_by_stream(settings) == scores  # not a bit differs
    published = read_all(settings.bootstrap_servers, settings.alerts)
    events = [json.loads(record.value or b"") for record in published]
    assert {(e["data"]["stream"], e["data"]["ts"], e["data"]["score"]) for e in events} == alerts
    assert all("traceparent" not in event for event in events)  # a replay gives the same event
    checkpoints = {identity(span): span for span in otlp.named(f"process {settings.ticks}")}
    assert sum(said(s.attributes)["messaging.batch.message_count"] for s in checkpoints.values()) == len(TICKS) + 1
    sent_as = {(TICKS.stream[i], int(TICKS.ts[i])): sender(i) for i in range(len(TICKS))}
    followed = 0
    for record, event in zip(published, events, strict=True):
        span = checkpoints[record.headers["traceparent"].decode()[3:-3]]
        links = {identity(link): said(link.attributes) for link in span.links}
        assert len(links) <= 2 * LINKS
        tick = sent_as[event["data"]["stream"], event["data"]["ts"]][3:-3]
        if tick in links:
            where = {"messaging.destination.partition.id": str(event["data"]["partition"])}
            assert links[tick] == where | {"messaging.kafka.offset": event["data"]["offset"]}
            followed += 1
    assert followed >= 2
    assert slow
    assert slow <= {span.trace_id.hex() for span in otlp.named(f"commit {settings.ticks}")}
    recorded = {sender(i)[3:-3] for i in range(len(TICKS)) if i % 2 == 0 or i in {9000, 11_000}}
    assert {identity(link) for span in checkpoints.values() for link in span.links} <= recorded
    _holds_the_conventions(otlp, next(iter(checkpoints.values())), settings)


def exemplars(said: str) -> set[str]:
    """The traces that the times of commits lead to, as a Prometheus that asks for OpenMetrics reads them."""
    url = re.search(r"pages at (http://\S+)/", said)
    assert url
    asked = urllib.request.Request(url[1] + "/metrics", headers={"Accept": "application/openmetrics-text"})
    with urllib.request.urlopen(asked, timeout=5) as answer:
        families = list(parser.text_string_to_metric_families(answer.read().decode()))  # type: ignore[no-untyped-call]
    found = [(family.name, it.exemplar) for family in families for it in family.samples if it.exemplar]
    assert {name for name, _ in found} == {"tickwatch_commit_seconds"}
    return {exemplar.labels["trace_id"] for _, exemplar in found}


def _holds_the_conventions(otlp: Collector, span: Span, settings: KafkaSettings) -> None:
    assert span.kind == Span.SPAN_KIND_CONSUMER
    assert span.parent_span_id == b""
    assert span.status.code == Status.STATUS_CODE_UNSET
    assert said(span.attributes).items() >= {
        ("messaging.system", "kafka"),
        ("messaging.operation.type", "process"),
        ("messaging.destination.name", settings.ticks),
        ("messaging.consumer.group.name", settings.group),
    }
    commit = next(s for s in otlp.named(f"commit {settings.ticks}") if s.parent_span_id == span.span_id)
    assert span.start_time_unix_nano < commit.start_time_unix_nano < commit.end_time_unix_nano
    assert otlp.resources[0]["service.name"] == "tickwatch"


def test_a_collector_that_takes_connections_and_never_answers_hurts_nothing(
    settings: KafkaSettings, start: Start
) -> None:
    produce(settings.bootstrap_servers, settings.ticks, keyed(TICKS)[:2000])
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        worker = start(settings, "--scores", "--commit-interval-ms", "5", "--otlp-endpoint", url)
        wait_for(lambda: scored(settings) == 2000)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(timeout=60) == 0
