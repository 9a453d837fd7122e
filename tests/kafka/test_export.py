"""What stood in the topic stands in the file: every tick, in the order of its stream, and nothing else."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from service.export import export
from service.ticks import NUMBERS, encode
from service.topics import create_topics
from tests.kafka.broker import produce
from tests.kafka.toy import names
from tests.samples import random_ticks
from training.history import read_history


def test_the_last_hours_of_a_topic_become_a_history(kafka: str, tmp_path: Path) -> None:
    settings = names(kafka, f"export{time.time_ns()}", "one")
    create_topics(settings, partitions=2, replication=1)
    ticks = random_ticks(5000, streams=4)
    records = list(zip((name.encode() for name in ticks.stream), encode(ticks), strict=True))
    produce(kafka, settings.ticks, [(b"S0", b"junk"), *records])
    done = export(settings, 0, tmp_path / "new" / "ticks.parquet")
    assert (done.ticks, done.rejected) == (5000, 1)
    history = read_history(tmp_path / "new")
    for name, found in history.streams.items():
        sent = ticks.take(np.flatnonzero(np.array(ticks.stream) == name))
        for column in ("ts", *NUMBERS):
            np.testing.assert_array_equal(getattr(found, column), getattr(sent, column))
    assert export(settings, round(time.time() * 1000) + 3_600_000, tmp_path / "later.parquet").ticks == 0
