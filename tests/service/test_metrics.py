"""Every metric is documented, counts what it says, and makes no series of its own for a stream."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, Metric, generate_latest
from prometheus_client.openmetrics import parser

from service.autoencoder import load
from service.logs.sqlite import SqliteLog
from service.metrics import SCORE_BUCKETS, Metrics, ScoreHistogram
from service.scorer import Scorer
from service.ticks import encode
from service.worker import Worker
from tests.samples import random_ticks, shipped
from tests.serving import served

DOCUMENT = Path(__file__).parents[2] / "docs" / "metrics.md"


def worked(folder: Path, streams: int) -> Metrics:
    """The metrics of a worker that has scored a tick of each of so many streams."""
    scorer, metrics = Scorer(load(shipped("gru")), 20), Metrics()
    log = SqliteLog(folder / f"{streams}.sqlite", scorer.layout, max_records=50_000)
    log.append(encode(replace(random_ticks(streams), stream=[f"S{n}" for n in range(streams)])), b"")
    worker = Worker(log, scorer, metrics)
    while worker.step(0):
        pass
    worker.finish()
    log.close()
    return metrics


def test_the_document_lists_every_metric_and_no_other(tmp_path: Path) -> None:
    of_worker = rows(worked(tmp_path, streams=2).registry.collect())
    with served(tmp_path) as server:
        server.get("/healthz")
        text = server.get("/metrics", headers={"Accept": "application/openmetrics-text"}).text
    named = [row.split("`")[1] for row in of_worker]
    of_server = [row for row in rows(parsed(text)) if row.split("`")[1] not in named]
    assert [line for line in DOCUMENT.read_text().splitlines() if line.startswith("| `")] == of_worker + of_server


def parsed(text: str) -> list[Metric]:
    return list(parser.text_string_to_metric_families(text))  # type: ignore[no-untyped-call]


def rows(families: Iterable[Metric]) -> list[str]:
    """The families as the document lists them."""
    found = []
    for family in families:
        name = family.name + ("_total" if family.type == "counter" else "")
        labels = dict.fromkeys(f"`{label}`" for sample in family.samples for label in sample.labels if label != "le")
        found.append(f"| `{name}` | {family.type} | {', '.join(labels)} | {family.documentation} |")
    return found


def test_a_slow_request_leads_to_its_trace_and_one_that_is_not_recorded_to_none(tmp_path: Path) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    hostile = ["", "00-" + "0" * 32 + "-00f067aa0ba902b7-01", f"00-{trace}-00f067aa0ba902b7-00", 'x"} 1']
    with served(tmp_path) as server:

        def traces() -> list[str]:
            text = server.get("/metrics", headers={"Accept": "application/openmetrics-text"}).text
            found = [s.exemplar for f in parsed(text) for s in f.samples if s.exemplar]
            return [it.labels["trace_id"] for it in found]

        for header in hostile:
            server.get("/healthz", headers={"traceparent": header})
        assert traces() == []
        server.get("/healthz", headers={"traceparent": f"00-{trace}-00f067aa0ba902b7-01"})
        assert traces() == [trace]


def test_a_hundred_thousand_streams_make_as_many_series_as_one(tmp_path: Path) -> None:
    one, many = worked(tmp_path, 1), worked(tmp_path, 100_000)
    assert many.registry.get_sample_value("tickwatch_streams") == 100_000
    assert len(generate_latest(many.registry).splitlines()) == len(generate_latest(one.registry).splitlines())


@given(st.lists(st.lists(st.floats(0, 15) | st.sampled_from(SCORE_BUCKETS), max_size=20), max_size=5))
def test_whole_batches_are_counted_like_single_observations(batches: list[list[float]]) -> None:
    registry, reference = CollectorRegistry(), CollectorRegistry()
    ours = ScoreHistogram()
    registry.register(ours)
    theirs = Histogram("tickwatch_score", "reference", buckets=SCORE_BUCKETS, registry=reference)
    for batch in batches:
        ours.observe(np.array(batch))
        for score in batch:
            theirs.observe(score)
    for edge in [*map(str, SCORE_BUCKETS), "+Inf"]:
        labels = {"le": edge}
        assert registry.get_sample_value("tickwatch_score_bucket", labels) == reference.get_sample_value(
            "tickwatch_score_bucket", labels
        )
    count = reference.get_sample_value("tickwatch_score_count")
    assert registry.get_sample_value("tickwatch_score_count") == count
    assert np.isclose(
        registry.get_sample_value("tickwatch_score_sum") or 0, reference.get_sample_value("tickwatch_score_sum") or 0
    )
