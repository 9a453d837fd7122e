"""`make chaos`: faults of every kind at random while ticks flow, then the verdict of an independent reader."""

from __future__ import annotations

import argparse
import logging
import shutil
import sys
import tempfile
from pathlib import Path

from service.consume import GUARANTEES
from service.logs.client import CLIENTS
from tests.chaos.run import WEIGHTS, Plan, chaos
from tests.kafka.broker import fetch_jars, missing


def main() -> int:
    """Run it as the arguments say; 0 if the guarantee held."""
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--duration", type=float, default=120, help="seconds of faults")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--brokers", type=int, choices=(1, 3), default=1)
    parser.add_argument("--cell", choices=("gru", "lstm"), default="gru")
    parser.add_argument("--client", choices=CLIENTS, default=CLIENTS[0])
    parser.add_argument("--guarantee", choices=GUARANTEES, default=GUARANTEES[0])
    parser.add_argument("--rate", type=float, default=3000, help="ticks per second")
    parser.add_argument("--only", choices=list(WEIGHTS), help="faults of one kind, one at a time, for their gaps")
    given = parser.parse_args()
    reason = missing()
    if reason is not None:
        print(f"no Kafka: {reason}", file=sys.stderr)
        return 2
    fetch_jars()
    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    folder = Path(tempfile.mkdtemp(prefix="tickwatch-chaos-"))
    alone = 1.0 if given.only else Plan.alone_share
    plan = Plan(
        given.duration,
        given.seed,
        given.brokers,
        given.cell,
        given.rate,
        alone,
        given.only,
        given.client,
        given.guarantee,
    )
    outcome = chaos(plan, folder, lambda line: print(line, flush=True))
    if outcome.wrong:
        print(f"what the workers and brokers said is in {folder}")
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
