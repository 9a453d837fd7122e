"""The score histogram counts what prometheus-client's own histogram would."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram

from service.metrics import SCORE_BUCKETS, ScoreHistogram


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
