"""The commands that training adds to `tickwatch`; torch and matplotlib are imported only when one of them runs."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import Progress

if TYPE_CHECKING:
    from optuna import Study

from service.errors import TickwatchError
from service.settings import CONNECTION, AlertBudget, Kafka, Model, Seed, spread
from service.ticks import parse_ts

MISSING = "this command needs {}: pip install 'tickwatch[training]'"


@partial(spread, only=CONNECTION)
def train(
    kafka: Kafka,
    output: Annotated[Path, typer.Option("--output", "-o", help="The .onnx file to write, its model card beside it.")],
    data: Annotated[Path | None, typer.Option("--data", help="Tick file, or folder of them, to learn from.")] = None,
    from_kafka: Annotated[
        str | None, typer.Option("--from-kafka", help="Kafka topic to learn from instead; it is read without a group.")
    ] = None,
    hours: Annotated[
        float, typer.Option("--hours", help="With --from-kafka: how far back, by the time of the records.", min=0.01)
    ] = 24.0,
    held_out: Annotated[
        float,
        typer.Option(
            "--hold-out",
            help="Share of the history, its end, that is not learned from but left in held-out.parquet of the run's folder,"
            " to evaluate on.",
            min=0.0,
            max=0.9,
        ),
    ] = 0.0,
    cell: Annotated[str, typer.Option("--cell", help="Recurrent cell: lstm, gru or rnn.")] = "gru",
    hidden: Annotated[int, typer.Option("--hidden", help="Hidden size of encoder and decoder.", min=1, max=512)] = 32,
    bottleneck: Annotated[
        int, typer.Option("--bottleneck", help="Numbers that a tick is squeezed into.", min=1, max=64)
    ] = 4,
    learning_rate: Annotated[
        float, typer.Option("--learning-rate", help="Highest step of the optimiser.", min=1e-6, max=1.0)
    ] = 0.015,
    dropout: Annotated[
        float, typer.Option("--dropout", help="Share of the encoder's output that is hidden.", min=0.0, max=0.9)
    ] = 0.1,
    noise: Annotated[
        float, typer.Option("--noise", help="Standard deviations of noise that input is spoiled with.", min=0.0)
    ] = 0.1,
    sequence_length: Annotated[
        int, typer.Option("--sequence-length", help="Ticks through which a gradient flows.", min=2, max=4096)
    ] = 64,
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
        from service.cli import reach  # noqa: PLC0415
        from training.fit import Settings  # noqa: PLC0415
        from training.history import History, read_history  # noqa: PLC0415
        from training.holdout import hold_out  # noqa: PLC0415
        from training.topic import keep, read_topic  # noqa: PLC0415
        from training.train import train as learn  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise TickwatchError(MISSING.format(error.name)) from error
    if cell not in ("rnn", "lstm", "gru"):
        raise TickwatchError(f"--cell {cell}: give lstm, gru or rnn")
    if (data is None) == (from_kafka is None):
        raise TickwatchError("give either --data or --from-kafka to learn from")
    console = Console(stderr=True)
    results = folder or Path("runs") / output.stem
    wanted = Settings(
        cell=cell,  # type: ignore[arg-type]
        hidden=hidden,
        bottleneck=bottleneck,
        epochs=epochs,
        learning_rate=learning_rate,
        dropout=dropout,
        noise=noise,
        chunk=sequence_length,
        seed=seed,
    )

    def learned_from(found: History) -> History:
        if not held_out:
            return found
        before, after = hold_out(found, held_out)
        keep(after, results / "held-out.parquet")
        return before

    def read() -> History:
        if from_kafka is None:
            return learned_from(read_history(data or Path()))
        kept = results / "history.parquet"  # the topic moves on, and --resume needs the same ticks
        if resume and kept.exists():
            return replace(read_history(kept), origin=f"Kafka topic {from_kafka}, as read by an earlier run")
        found = learned_from(read_topic(reach(kafka), from_kafka, hours, time.time_ns() // 1_000_000, console))
        keep(found, kept)
        return found

    done = learn(read, output, wanted, results, resume, console)
    typer.echo(
        f"wrote {output}: ticks={done.ticks} epochs={done.epochs} validation={done.validation:.4f} seconds={done.seconds:.0f}"
    )


def plot(
    stream: Annotated[str, typer.Argument(help="Stream to show.")],
    data: Annotated[
        Path, typer.Option("--data", "-d", help="Tick file, or folder of them, or the scores that a replay wrote.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Picture to write: .html, which can be zoomed, .png, .svg or .pdf.")
    ],
    since: Annotated[str | None, typer.Option("--from", help="ISO 8601 time of the first tick to show.")] = None,
    until: Annotated[str | None, typer.Option("--to", help="ISO 8601 time of the last tick to show.")] = None,
    at: Annotated[
        str | None,
        typer.Option(
            "--at", help="Without --from and --to: show the alert nearest to this time, not the most improbable."
        ),
    ] = None,
    around: Annotated[int, typer.Option("--around", help="Ticks before and after that alert.", min=10)] = 1500,
    model: Model = "gru",
    alert_budget: AlertBudget = 20.0,
) -> None:
    """Draw a stream at a time or around an alert, and say why it alerted; all but .html needs the extra `training`.

    Of a replay's scores the model and the budget of the replay count, and its ticks are scored again: with the same bits.
    """
    from service.autoencoder import find  # noqa: PLC0415
    from service.plot import Span, pick, write_html  # noqa: PLC0415
    from service.replay import Origin  # noqa: PLC0415
    from service.scorer import IDLE_HOURS  # noqa: PLC0415

    span = Span(_moment("--from", since), _moment("--to", until), _moment("--at", at), around)
    write = write_html
    if output.suffix != ".html":
        try:
            from training.plot import draw as write  # noqa: PLC0415
        except ModuleNotFoundError as error:
            raise TickwatchError(MISSING.format(error.name)) from error
    piece = pick(data, stream, Origin("", str(find(model)), alert_budget, IDLE_HOURS, []), span)
    write(piece, output)
    typer.echo(piece.words())


def _moment(flag: str, text: str | None) -> int | None:
    """Nanoseconds since 1970."""
    try:
        return None if text is None else parse_ts(text)
    except ValueError as error:
        raise TickwatchError(f"{flag} {text}: {error}") from error


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
    clean: Annotated[
        int, typer.Option("--clean", help="Ticks at the head of each stream that hold no anomaly.", min=1000)
    ] = 30_000,
    kinds: Annotated[
        str,
        typer.Option(
            "--kinds",
            help="Kinds of anomaly: standard, the 19 that the judge was chosen by, or other, 28 that it was not made for.",
        ),
    ] = "standard",
    leave_one_out: Annotated[
        bool,
        typer.Option(
            "--leave-one-out",
            help="Judge each stream by models like those given, trained anew on the other streams: how well is a stream"
            " watched that no training has seen? One training for each model and stream, kept in OUTPUT/runs; given again, it"
            " goes on.",
        ),
    ] = False,
) -> None:
    """Measure how well detectors find anomalies injected into real ticks (needs the extra `training`)."""
    try:
        from training.assess import assess  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise TickwatchError(MISSING.format(error.name)) from error
    if not model and not baselines:
        raise TickwatchError("there is nothing to evaluate; give --model, --baselines, or both")
    console = Console(stderr=True)
    done = assess(
        *(data, model or [], baselines, injections, budget, output, console, clean, leave_one_out), kinds=kinds
    )
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


def search(
    data: Annotated[Path, typer.Option("--data", help="Tick file, or folder of them, to learn from.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for the study, checkpoints of its trials, and the report.")
    ],
    study: Annotated[str, typer.Option("--study", help="Name of the study in its database.")] = "tickwatch",
    storage: Annotated[
        str | None,
        typer.Option(
            "--storage",
            help="Database URL, as SQLAlchemy takes it; machines that name the same one share the study."
            " [default: study.db in the output folder]",
        ),
    ] = None,
    trials: Annotated[
        int, typer.Option("--trials", help="Finished trials in all, those of earlier runs too.", min=1)
    ] = 40,
    timeout: Annotated[
        float | None, typer.Option("--timeout", help="Seconds after which no further epoch begins.", min=1)
    ] = None,
    jobs: Annotated[int, typer.Option("--jobs", help="Processes on this machine, one core each.", min=1, max=256)] = 1,
    epochs: Annotated[int, typer.Option("--epochs", help="Passes over the history of each trial at most.", min=3)] = 10,
    seed: Seed = 1,
) -> None:
    """Search for the settings with which `train` learns best; the same command goes on after a stop (extra `training`)."""
    try:
        from training.history import read_history  # noqa: PLC0415
        from training.search import Search  # noqa: PLC0415
        from training.search import search as look  # noqa: PLC0415
        from training.searchreport import command, report  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise TickwatchError(MISSING.format(error.name)) from error
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TickwatchError(f"--output {output}: {error.strerror}; give a folder that can be written") from error
    wanted = Search(storage or f"sqlite:///{output / 'study.db'}", study, trials, timeout, jobs, epochs, seed)

    def tell(found: Study) -> None:
        report(found, str(data)).write(output)
        typer.echo(f"wrote {output / 'report.html'}; the best trial, {found.best_trial.number}, again:")
        typer.echo(command(found, str(data)))

    look(read_history(data), wanted, output, tell, Console(stderr=True))


def forecast(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for report.html, report.md and its pictures.")
    ] = Path("runs/forecast"),
    seed: Seed = 1,
) -> None:
    """Run the classic airline passengers experiment with each cell against simple forecasts (extra `training`)."""
    try:
        from training.forecast import FITS, forecasts, passengers  # noqa: PLC0415
        from training.forecastreport import report  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise TickwatchError(MISSING.format(error.name)) from error
    series = passengers()
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal, transient=True) as progress:
        bar = progress.add_task("training", total=FITS)
        found = forecasts(series, seed, lambda: progress.advance(bar))
    told = report(series, found)
    told.write(output)
    typer.echo(f"{told.paragraphs[1]}\nwrote {output / 'report.html'}")
