"""The peer that is written with Quix Streams: state in RocksDB with a changelog, one tick a call of the model.

It runs in an environment of its own, which benchmarks/contestants.py makes.
"""

from __future__ import annotations

import argparse
import struct
from pathlib import Path
from typing import Any

import numpy as np
from quixstreams import Application, State

from benchmarks.peers.plain import MEMORY, THRESHOLD, Model, features

PACKED = struct.Struct(f"<{MEMORY}d")


def main() -> None:
    """Score until it is told to end."""
    options = argparse.ArgumentParser()
    for name in ("bootstrap", "group", "ticks", "scores", "guarantee"):
        options.add_argument(f"--{name}", required=True)
    options.add_argument("--model", type=Path, required=True)
    options.add_argument("--folder", type=Path, required=True)
    options.add_argument("--every", action="store_true")
    given = options.parse_args()
    app = Application(
        broker_address=given.bootstrap,
        consumer_group=given.group,
        auto_offset_reset="earliest",
        commit_interval=0.1,
        processing_guarantee=given.guarantee,
        state_dir=given.folder,
        auto_create_topics=True,
        loglevel="WARNING",
    )
    model = Model(given.model)
    fresh = bytes(PACKED.size + 4 * model.recurrent)

    def score(tick: dict[str, Any], state: State) -> dict[str, Any]:
        row = state.get_bytes("state", fresh)
        memory = list(PACKED.unpack_from(row))
        before = np.frombuffer(row, np.float32, model.recurrent, PACKED.size).reshape(1, -1)
        found, after = model.step(features(tick, memory, model.inputs), before)
        state.set_bytes("state", PACKED.pack(*memory) + after.tobytes())
        return {"stream": tick["stream"], "ts": tick["ts"], "score": found}

    scored = app.dataframe(app.topic(given.ticks, value_deserializer="json")).apply(score, stateful=True)
    if not given.every:
        scored = scored.filter(lambda told: told["score"] > THRESHOLD)
    scored.to_topic(app.topic(given.scores, value_serializer="json"))
    app.run()


if __name__ == "__main__":
    main()
