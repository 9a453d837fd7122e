"""The commands that training adds to `tickwatch`; torch and matplotlib are imported only when one of them runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from service.errors import TickwatchError
from service.settings import AlertBudget, Model, Seed
from service.ticks import parse_ts

MISSING = "this command needs {}: pip install 'tickwatch[training]'"


def train(
    data: Annotated[Path, typer.Option("--data", help="Tick file, or folder of them, to learn from.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The .onnx file to write.")],
    cell: Annotated[str, typer.Option("--cell", help="Recurrent cell: lstm, gru or rnn.")] = "gru",
    hidden: Annotated[int, typer.Option("--hidden", help="Hidden size of encoder and decoder.", min=1, max=512)] = 32,
    bottleneck: Annotated[
        int, typer.Option("--bottleneck", help="Numbers that a tick is squeezed into.", min=1, max=64)
    ] = 4,
    epochs: Annotated[int, typer.Option("--epochs", help="Passes over the history at most.", min=1)] = 20,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on after the last finished epoch of this run's folder.")
    ] = False,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--folder", help="Results of the run: settings, curves, checkpoint. [default: runs/OUTPUT's name]"
        ),
    ] = None,
    seed: Seed = 1,
) -> None:
    """Train an autoencoder on history and export it with its calibration (needs the extra `training`)."""
    try:
        from training.fit import Settings  # noqa: PLC0415
        from training.train import train as learn  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise TickwatchError(MISSING.format(error.name)) from error
    if cell not in ("rnn", "lstm", "gru"):
        raise TickwatchError(f"--cell {cell}: give lstm, gru or rnn")
    wanted = Settings(cell=cell, hidden=hidden, bottleneck=bottleneck, epochs=epochs, seed=seed)  # type: ignore[arg-type]
    done = learn(data, output, wanted, folder or Path("runs") / output.stem, resume, Console(stderr=True))
    typer.echo(
        f"wrote {output}: ticks={done.ticks} epochs={done.epochs} validation={done.validation:.4f} seconds={done.seconds:.0f}"
    )


def plot(
    file: Annotated[Path, typer.Argument(help="Parquet, CSV or JSON-lines file of ticks.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Picture to write: .png, .svg or .pdf.")],
    stream: Annotated[str | None, typer.Option("--stream", help="Stream to show. [default: the first by name]")] = None,
    at: Annotated[
        str | None, typer.Option("--at", help="ISO 8601 time: show the alert nearest to it, not the most improbable.")
    ] = None,
    around: Annotated[int, typer.Option("--around", help="Ticks before and after the strongest alert.", min=10)] = 1500,
    model: Model = "gru",
    alert_budget: AlertBudget = 20.0,
) -> None:
    """Draw a stream of a file around an alert, and say why it alerted (needs the extra `training`)."""
    try:
        from training.plot import plot as draw  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise TickwatchError(MISSING.format(error.name)) from error
    try:
        moment = None if at is None else parse_ts(at)
    except ValueError as error:
        raise TickwatchError(f"--at {at}: {error}") from error
    typer.echo(draw(file, stream, model, alert_budget, moment, around, output))


def evaluate(
    data: Annotated[Path, typer.Option("--data", help="Tick file, or folder of them, to inject anomalies into.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for report.html, report.md with its pictures, results.json.")
    ],
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            help="Model to evaluate: lstm, gru or an .onnx file. Give it again for more; models of one cell that differ by"
            " their training seed are averaged.",
        ),
    ] = None,
    baselines: Annotated[
        bool, typer.Option("--baselines", help="Also evaluate nine simpler detectors; takes several times as long.")
    ] = False,
    injections: Annotated[
        int, typer.Option("--injections", help="How many times anomalies are drawn anew, by seeds 1, 2, ...", min=1)
    ] = 3,
    budget: Annotated[
        float, typer.Option("--budget", help="Alert budget whose promise is tabulated.", min=0.1, max=10_000)
    ] = 20.0,
) -> None:
    """Measure how well detectors find anomalies injected into real ticks (needs the extra `training`)."""
    try:
        from training.assess import assess  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise TickwatchError(MISSING.format(error.name)) from error
    if not model and not baselines:
        raise TickwatchError("there is nothing to evaluate; give --model, --baselines, or both")
    done = assess(data, model or [], baselines, injections, budget, output, Console(stderr=True))
    typer.echo(f"wrote {output / 'report.html'}: runs={done.runs} seconds={done.seconds:.0f}")


def compare(
    data: Annotated[Path, typer.Option("--data", help="Tick file, or folder of them, to learn from and evaluate on.")],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="Folder for the report and the trained models; given again, it goes on."),
    ],
    cells: Annotated[str, typer.Option("--cells", help="Cells to compare, separated by commas.")] = "rnn,lstm,gru",
    seeds: Annotated[
        int, typer.Option("--seeds", help="How often each cell is trained, by seeds 1, 2, ...", min=1)
    ] = 3,
    epochs: Annotated[int, typer.Option("--epochs", help="Passes over the history at most.", min=1)] = 20,
    hidden: Annotated[int, typer.Option("--hidden", help="Hidden size of encoder and decoder.", min=1, max=512)] = 32,
    injections: Annotated[
        int, typer.Option("--injections", help="How many times anomalies are drawn anew, by seeds 1, 2, ...", min=1)
    ] = 3,
) -> None:
    """Train RNN, LSTM and GRU on the same ticks and measure what differs (needs the extra `training`)."""
    try:
        from training.compare import Plan  # noqa: PLC0415
        from training.compare import compare as measure  # noqa: PLC0415
        from training.comparison import report  # noqa: PLC0415
        from training.fit import Settings  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise TickwatchError(MISSING.format(error.name)) from error
    chosen = list(dict.fromkeys(cells.replace(" ", "").split(",")))
    for cell in chosen:
        if cell not in ("rnn", "lstm", "gru"):
            raise TickwatchError(f"--cells {cell}: give some of rnn, lstm and gru, separated by commas")
    plan = Plan(chosen, seeds, Settings(chosen[0], hidden=hidden, epochs=epochs), injections)  # type: ignore[arg-type]
    report(measure(data, plan, output, Console(stderr=True)), plan).write(output)
    typer.echo(f"wrote {output / 'report.html'}: models={len(chosen) * seeds}")
