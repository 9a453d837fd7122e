"""What a tick costs to decode in each wire format: records in memory to columns, CPU microseconds.

python benchmarks/formats.py
"""

from __future__ import annotations

import time

from service.formats import decoder
from tests.samples import random_ticks
from tests.service.formats.test_conformance import as_fields
from tests.service.formats.wires import WIRES

BATCH = 5000
ROUNDS = 30


def main() -> None:
    """Measure each format that stands alone, and print the table."""
    ticks = as_fields(random_ticks(BATCH, streams=200))
    print("| `--format` | bytes a record | us per tick |\n|---|---:|---:|")
    for wire in WIRES:
        if wire.framed:
            continue
        records, decode = wire.records(*ticks), decoder(wire.format)
        best = float("inf")
        for _ in range(ROUNDS):
            began = time.process_time()
            decode(records)
            best = min(best, time.process_time() - began)
        size = sum(len(value or b"") for value in records.value) / BATCH
        print(f"| `{wire.format}` | {size:.0f} | {best / BATCH * 1e6:.2f} |")


if __name__ == "__main__":
    main()
