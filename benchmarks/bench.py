"""Everything that docs/performance.md says of speed, measured in one run and written into it: `make bench`.

python -m benchmarks.bench [--parts throughput,latency,...] [--ticks N] [--output FILE]

A part that is measured replaces its table in the file, between `<!-- part -->` and `<!-- end -->`; the others stay. Ctrl-C ends
it at any time: what was complete by then is in the file.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from benchmarks import contestants
from benchmarks.arithmetic import arithmetic
from benchmarks.breakdown import breakdown
from benchmarks.latency import latency
from benchmarks.picture import draw
from benchmarks.recovery import recovery
from benchmarks.scaling import streams, workers
from benchmarks.tables import Row, Size, Told, markdown
from benchmarks.throughput import throughput
from tests.kafka.broker import own_broker

PARTS: dict[str, Callable[[str, Size, Told], list[Row]]] = {
    "throughput": throughput,
    "latency": latency,
    "recovery": recovery,
    "breakdown": breakdown,
    "arithmetic": arithmetic,
    "streams": streams,
    "workers": workers,
}
END = "<!-- end -->"


def conditions(size: Size, part: str) -> str:
    """How a table came about, in general terms."""
    busy = max(os.getloadavg())
    return (
        f"*`make bench PARTS={part}`: {os.cpu_count()} {platform.machine()} cores, load average up to {busy:.0f}, Python"
        f" {platform.python_version()}, {size.ticks:,} ticks a run.*"
    )


def put(file: Path, part: str, text: str) -> None:
    """Replace what stands in the file between the marks of a part. Raises ValueError if it has no such place."""
    before, mark, rest = file.read_text().partition(f"<!-- {part} -->\n")
    _, end, after = rest.partition(END)
    if not end:
        raise ValueError(f"{file} has no place for {part}: put <!-- {part} --> and {END} on lines of their own")
    file.write_text(f"{before}{mark}{text}\n{end}{after}")


def measure(chosen: list[str], size: Size, output: Path, results: Path) -> None:
    """Measure the parts, print each table and write it into `output`, its numbers into `results`, and draw the picture."""
    console = Console(stderr=True)
    results.mkdir(parents=True, exist_ok=True)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True) as progress, own_broker() as bootstrap:
        contestants.build(progress.console.print)
        for part in chosen:
            line = progress.add_task(part, total=None)

            def told(what: str, done: int, of: int, part: str = part, line: TaskID = line) -> None:
                progress.update(line, description=f"{part}: {what}", completed=done, total=of)

            rows = PARTS[part](bootstrap, size, told)
            progress.remove_task(line)
            table = f"{conditions(size, part)}\n\n{markdown(rows)}"
            print(f"{table}\n", flush=True)
            put(output, part, table)
            (results / f"{part}.json").write_text(json.dumps(rows))
    draw(results, output.with_suffix(".png"))


def main() -> int:
    """Measure what the arguments say."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--parts", default=",".join(PARTS), help=", ".join(PARTS))
    options.add_argument("--ticks", type=int, default=200_000)
    options.add_argument("--streams", type=int, default=2000, help="streams of the loads")
    options.add_argument("--seconds", type=float, default=10, help="length of a run at a fixed rate")
    options.add_argument("--rates", default="5000,20000", help="ticks/s of the part `latency`")
    options.add_argument("--many", type=int, default=1_000_000, help="most streams of the part `streams`")
    options.add_argument("--cells", default="gru,lstm")
    options.add_argument("--output", type=Path, default=Path("docs/performance.md"))
    options.add_argument(
        "--results", type=Path, default=contestants.BUILT / "results", help="folder of what the picture shows"
    )
    given = options.parse_args()
    chosen = given.parts.replace(",", " ").split()
    if unknown := sorted(set(chosen) - set(PARTS)):
        options.error(f"no such part: {', '.join(unknown)}; there are {', '.join(PARTS)}")
    rates = [int(rate) for rate in given.rates.split(",")]
    size = Size(given.ticks, given.streams, given.seconds, given.many, given.cells.split(","), rates)
    signal.signal(
        signal.SIGTERM, signal.default_int_handler
    )  # contestants are sessions of their own, and must not outlive this
    try:
        measure(chosen, size, given.output, given.results)
    except KeyboardInterrupt:
        print("stopped; the tables that were complete are written", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
