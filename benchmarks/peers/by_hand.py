"""The peer that is a loop written by hand: kafka-python and onnxruntime, one tick a call, state in a dictionary.

It commits offsets after what it has written is acknowledged, so ticks come at least once; state is gone when it ends.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
from kafka import KafkaConsumer, KafkaProducer

from benchmarks.peers.plain import MEMORY, THRESHOLD, Model, Numbers, features


def main() -> None:
    """Score until it is killed."""
    options = argparse.ArgumentParser()
    for name in ("bootstrap", "group", "ticks", "scores"):
        options.add_argument(f"--{name}", required=True)
    options.add_argument("--model", type=Path, required=True)
    options.add_argument("--every", action="store_true")
    given = options.parse_args()
    consumer = KafkaConsumer(
        given.ticks,
        bootstrap_servers=given.bootstrap,
        group_id=given.group,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
    )
    producer = KafkaProducer(bootstrap_servers=given.bootstrap, linger_ms=5)
    model = Model(given.model)
    memories: dict[str, list[float]] = {}
    states: dict[str, Numbers] = {}
    nothing = np.zeros((1, model.recurrent), np.float32)
    committed = time.monotonic()
    while True:
        # a shorter poll may lose the outcome of a join, and join anew for ever
        for records in consumer.poll(1000, 500).values():
            for record in records:
                tick = json.loads(record.value)
                stream = tick["stream"]
                x = features(tick, memories.setdefault(stream, [0.0] * MEMORY), model.inputs)
                score, states[stream] = model.step(x, states.get(stream, nothing))
                if given.every or score > THRESHOLD:
                    told = {"stream": stream, "ts": tick["ts"], "score": score}
                    producer.send(given.scores, json.dumps(told).encode(), record.key)
        if time.monotonic() - committed >= 0.1:
            producer.flush()
            consumer.commit()
            committed = time.monotonic()


if __name__ == "__main__":
    main()
