"""Traces by OpenTelemetry, where --otlp-endpoint asks for them: spans of a worker's checkpoints, and the way out for all.

Scoring never waits for a collector: spans gather in a queue of 2,048 and leave from a thread of their own as OTLP over HTTP;
what does not fit is dropped. Names and attributes are those of https://opentelemetry.io/docs/specs/semconv/messaging/kafka/.
"""

from __future__ import annotations

import time
from threading import Thread

import numpy as np
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanContext, SpanKind, Status, StatusCode, get_current_span, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from service import __version__
from service.alerts import Alert
from service.errors import TickwatchError
from service.logs import TRACE_HEADER, Records

FLUSH_S = 3.0  # of the last spans, when the process ends
LINKS = 32  # of a checkpoint to producers of its ticks, and as many again to those of its alerts
LINKS_OF_BATCH = 8
W3C = TraceContextTextMapPropagator()


class Tracing:
    """Takes spans to the collector at `endpoint`, the URL that `/v1/traces` is added to, until `close`.

    The standard variables of OpenTelemetry say the rest: OTEL_EXPORTER_OTLP_HEADERS, OTEL_EXPORTER_OTLP_CERTIFICATE,
    OTEL_TRACES_SAMPLER, OTEL_RESOURCE_ATTRIBUTES. Raises TickwatchError when the endpoint is no URL.
    """

    def __init__(self, endpoint: str) -> None:
        if not endpoint.startswith(("http://", "https://")):
            raise TickwatchError(f"--otlp-endpoint {endpoint}: give the collector's URL, such as http://localhost:4318")
        own = Resource.create({"service.name": "tickwatch", "service.version": __version__})
        self._provider = TracerProvider(resource=own.merge(OTELResourceDetector().detect()), shutdown_on_exit=False)
        exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces")
        self._provider.add_span_processor(BatchSpanProcessor(exporter, max_queue_size=2048))
        self.tracer = self._provider.get_tracer("tickwatch", __version__)

    def close(self) -> None:
        """Send what is left, for at most FLUSH_S: the provider itself would wait ten times as long for a dead collector."""
        last = Thread(target=self._provider.shutdown, name="last-spans", daemon=True)
        last.start()
        last.join(FLUSH_S)

    def checkpoints(self, topic: str, group: str) -> Checkpoints:
        """The spans of a worker that reads `topic` as one of `group`."""
        return Checkpoints(self, topic, group)


class Checkpoints:
    """One span from a checkpoint's first tick to its commit, linked to those who produced its ticks.

    A checkpoint mixes the ticks of many producers, so their spans are linked to and none is the parent. All alerts' ticks
    come first, the others are a sample; a span that its producer does not record is left out.
    """

    def __init__(self, tracing: Tracing, topic: str, group: str) -> None:
        self._tracer = tracing.tracer
        self._topic = topic
        self._attributes = {
            "messaging.system": "kafka",
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
            "messaging.destination.name": topic,
            "messaging.consumer.group.name": group,
        }
        self._span: Span | None = None
        self._messages = self._alerts = 0
        self._linked: set[bytes] = set()

    def scored(self, records: Records, alerts: list[Alert], seconds: float) -> None:
        """Add a batch whose scoring took so long and ended now."""
        if self._span is None:
            began = time.time_ns() - round(seconds * 1e9)
            self._span = self._tracer.start_span(
                f"process {self._topic}", kind=SpanKind.CONSUMER, attributes=self._attributes, start_time=began
            )
        self._messages += len(records)
        self._alerts += len(alerts)
        self._link(records, alerts, self._span)

    def _link(self, records: Records, alerts: list[Alert], span: Span) -> None:
        if not records.trace:
            return
        sample = np.linspace(0, len(records) - 1, LINKS_OF_BATCH).astype(int).tolist()
        for most, places in ((2 * LINKS, _places(records, alerts[:LINKS])), (LINKS, sample)):
            for i in places:
                carried = records.trace[i]
                if carried is None or carried in self._linked or len(self._linked) >= most:
                    continue
                producer = _context(carried)
                if producer.is_valid and producer.trace_flags.sampled:
                    self._linked.add(carried)
                    where: dict[str, str | int] = {
                        "messaging.destination.partition.id": str(records.partition[i]),
                        "messaging.kafka.offset": int(records.offset[i]),
                    }
                    span.add_link(producer, where)

    def headers(self) -> list[tuple[str, bytes]]:
        """By which whoever reads a record of this checkpoint finds its span."""
        if self._span is None:
            return []
        carrier: dict[str, str] = {}
        W3C.inject(carrier, set_span_in_context(self._span))
        return [(name, value.encode()) for name, value in carrier.items()]

    def committed(self, seconds: float) -> None:
        """The checkpoint is durable; to make it so took so long."""
        if self._span is None:
            return
        began = time.time_ns() - round(seconds * 1e9)
        inside = set_span_in_context(self._span)
        told = self._attributes | {"messaging.operation.name": "commit", "messaging.operation.type": "settle"}
        self._tracer.start_span(f"commit {self._topic}", inside, SpanKind.CLIENT, told, start_time=began).end()
        self._end(self._span)

    def void(self) -> None:
        """The checkpoint did not happen; its ticks will be scored again."""
        if self._span is not None:
            self._span.set_status(Status(StatusCode.ERROR, "void: state is restored and the ticks are scored again"))
            self._end(self._span)

    def _end(self, span: Span) -> None:
        span.set_attributes({"messaging.batch.message_count": self._messages, "tickwatch.alerts": self._alerts})
        span.end()
        self._span = None
        self._messages = self._alerts = 0
        self._linked = set()


def _places(records: Records, alerts: list[Alert]) -> list[int]:
    """Where the ticks of alerts are among the records."""
    found = (np.flatnonzero((records.offset == a.offset) & (records.partition == a.partition)) for a in alerts)
    return [int(at[0]) for at in found]


def _context(carried: bytes) -> SpanContext:
    """What a header `traceparent` says; an invalid one if it says nothing."""
    parent = W3C.extract({TRACE_HEADER: carried.decode("latin-1")})
    return get_current_span(parent).get_span_context()
