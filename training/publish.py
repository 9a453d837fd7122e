"""`tickwatch publish`: puts a new model beside the old ones if an evaluation of both says that it finds more."""

from __future__ import annotations

import shutil
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
import typer

from service.errors import TickwatchError
from service.settings import Model


class Measured(msgspec.Struct):
    """Of one run in results.json: how well it ranks, and at each budget the delay of every event, None where it was missed."""

    vus_pr: float
    delays: dict[str, list[int | None]]


class Run(msgspec.Struct):
    """One model, by its id, on one stream with one injection."""

    candidate: str
    result: Measured


class Results(msgspec.Struct):
    """What `tickwatch evaluate` leaves in results.json, as far as it matters here."""

    data_fingerprint: str
    runs: list[Run]


def publish(
    candidate: Annotated[Path, typer.Argument(help="The .onnx file of the new model.")],
    results: Annotated[
        Path, typer.Option("--results", help="results.json of `tickwatch evaluate` with the new and the present model.")
    ],
    folder: Annotated[Path, typer.Option("--folder", help="Folder of models to put it into, named after its id.")],
    model: Model = "gru",
) -> None:
    """Publish a model only if it ranks better than the present one and catches no fewer events; it is not put to use yet."""
    from service.autoencoder import find, load  # noqa: PLC0415  (every command imports this module, few need a model)

    fresh = load(candidate)
    new, old = fresh.id, load(find(model)).id
    found = _read(results)
    if found.data_fingerprint == fresh.card.data_fingerprint:
        raise TickwatchError(
            f"--results {results}: {new} was evaluated on the ticks that it learned from, which favours it; give `tickwatch"
            " train` a --hold-out, and `evaluate` the held-out.parquet that it leaves"
        )
    (ranks, catches), (ranked, caught) = (_measured(found.runs, name, results) for name in (new, old))
    said = f"VUS-PR {ranks:.3f} against {ranked:.3f}, events caught {catches:.1%} against {caught:.1%}"
    if not (ranks > ranked and catches >= caught):
        typer.echo(f"{new} is not published: it is no better than {old} ({said})")
        return
    published = folder / f"{new}.onnx"
    _copy(candidate, published)
    typer.echo(f"published {published}, better than {old} ({said}); use it with TICKWATCH_MODEL={published}")


def _read(results: Path) -> Results:
    try:
        return msgspec.json.decode(results.read_bytes(), type=Results)
    except (OSError, msgspec.DecodeError) as error:
        raise TickwatchError(f"--results {results}: {error}; write it with `tickwatch evaluate`") from error


def _measured(runs: list[Run], name: str, results: Path) -> tuple[float, float]:
    """(mean VUS-PR, mean share of events caught) of a model at the smallest budget that was evaluated."""
    mine = [run.result for run in runs if run.candidate == name]
    if not mine:
        raise TickwatchError(f"--results {results} says nothing about {name}; evaluate both models together")
    delays = defaultdict(list)
    for result in mine:
        for budget, each in result.delays.items():
            delays[float(budget)].append(np.mean([delay is not None for delay in each]))
    return float(np.mean([result.vus_pr for result in mine])), float(np.mean(delays[min(delays)]))


def _copy(source: Path, target: Path) -> None:
    """So that nobody ever sees half of it."""
    with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as file:
        shutil.copyfile(source, file.name)
    whole = Path(file.name)
    whole.chmod(0o644)
    whole.replace(target)
