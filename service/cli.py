"""The command line: `tickwatch run | worker | serve | replay | score | topics | keys`, and what `training` plugs in."""

from __future__ import annotations

import os
import sys
import time
from datetime import datetime, timezone
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from service import __version__, journal, kernels, settings, signature
from service.errors import TickwatchError
from service.stop import Stop

if TYPE_CHECKING:
    from service.connection import KafkaSettings
    from service.peer import Peer
    from service.tracing import Tracing

app = typer.Typer(
    name="tickwatch",
    help="Watches live financial ticks and says, within milliseconds, which of them are not normal, and why."
    " Every option can also be given as an environment variable: --alert-budget as TICKWATCH_ALERT_BUDGET.",
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)
console = Console(stderr=False)
errors = Console(stderr=True)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"tickwatch {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error.", envvar="TICKWATCH_DEBUG")
    ] = False,
    model_key: settings.ModelKey = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    if debug:
        os.environ["TICKWATCH_DEBUG"] = "1"
    if model_key is not None:
        os.environ[signature.VARIABLE] = str(model_key)


Files = Annotated[list[Path], typer.Argument(help="Parquet, CSV or JSON-lines files, or folders of them.")]
Output = Annotated[Path, typer.Option("--output", "-o", help="Parquet file to write.")]


@app.command()
def run(
    ticks: settings.Ticks = None,
    duration: settings.DurationSeconds = None,
    speed: settings.Speed = None,
    resume: settings.Resume = False,
    model: settings.Model = "gru",
    alert_budget: settings.AlertBudget = 20.0,
    data_dir: settings.DataDir = Path("tickwatch-data"),
    commit_interval_ms: settings.CommitIntervalMs = 100,
    scores: settings.Scores = False,
    stream_idle_hours: settings.StreamIdleHours = 168.0,
    max_streams: settings.MaxStreams = 1_000_000,
    host: settings.Host = "127.0.0.1",
    port: settings.Port = None,
    compare: settings.Compare = None,
    compare_key_file: settings.CompareKeyFile = None,
    seed: settings.Seed = 1,
) -> None:
    """Watch a simulated market, or real ticks from files, on the embedded log. Needs nothing else."""
    with Stop() as stop:  # before the imports: those of numba and onnxruntime take a second, in which a signal may come
        from service.run import Options, run  # noqa: PLC0415
        from service.station import Scoring  # noqa: PLC0415

        peer = _peer(compare, compare_key_file)
        shared = Scoring(
            model, alert_budget, commit_interval_ms, scores, stream_idle_hours, max_streams, host, port, peer
        )
        run(Options(shared, ticks, duration, speed, resume, data_dir, seed), console, stop)


@app.command()
def replay(
    files: Files,
    output: Output,
    model: settings.Model = "gru",
    alert_budget: settings.AlertBudget = 20.0,
    stream_idle_hours: settings.StreamIdleHours = 168.0,
    explain: Annotated[bool, typer.Option("--explain", help="Add each feature's contribution to the score.")] = False,
) -> None:
    """Score files of ticks offline, with the code that serves: one output row per input row, in input order."""
    from service.autoencoder import find, load  # noqa: PLC0415
    from service.files import Rejects, check_output, count_ticks, not_read, tick_files  # noqa: PLC0415
    from service.replay import Origin, out_of_order  # noqa: PLC0415
    from service.replay import replay as score_files  # noqa: PLC0415
    from service.scorer import Scorer  # noqa: PLC0415

    paths = [path for file in files for path in tick_files(file)]
    check_output(output, paths)
    for unknown in dict.fromkeys(", ".join(not_read(path)) for path in paths):
        if unknown:
            _tell(f"not used, since a tick has no such columns: {unknown}")
    scorer = Scorer(load(find(model)), alert_budget, stream_idle_hours)
    rejects = Rejects(_tell)
    names = [str(path.resolve()) for path in paths]
    made = Origin(scorer.model.id, str(scorer.model.path.resolve()), alert_budget, stream_idle_hours, names)
    began = time.monotonic()
    with _progress() as bar:
        task = bar.add_task("scoring", total=count_ticks(paths))
        totals = score_files(
            *(paths, scorer, output),
            explain=explain,
            progress=lambda n: bar.advance(task, n),
            rejected=rejects.tell,
            made=made,
        )
    seconds = time.monotonic() - began
    if words := out_of_order(totals):
        _tell(words)
    typer.echo(
        f"wrote {output}: rows={totals.rows} alerts={totals.alerts} incidents={totals.incidents}"
        f" late={totals.late.total()} repeated={totals.repeated} rejected={rejects.n}"
        f" model={scorer.model.id} seconds={seconds:.1f}"
    )
    rejects.check(totals.rows)


@app.command()
def report(
    scores: Annotated[Path, typer.Argument(help="Parquet file that `tickwatch replay` wrote.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="HTML file to write.")] = Path("report.html"),
    ticks: Annotated[
        list[Path] | None,
        typer.Option("--ticks", help="File of the replayed ticks, where it is now; again for more, in the same order."),
    ] = None,
) -> None:
    """Show a replay as one HTML file that needs nothing else: scores over time, incidents with reasons, streams by alerts."""
    from service.report import report as write_report  # noqa: PLC0415

    with _progress() as bar:
        task = bar.add_task("looking closer", total=None)
        rows, drawn = write_report(scores, ticks or [], output, lambda n: bar.advance(task, n))
    typer.echo(f"wrote {output}: rows={rows} drawn={drawn}")


@app.command()
@settings.spread
def worker(
    kafka: settings.Kafka,
    model: settings.Model = "gru",
    alert_budget: settings.AlertBudget = 20.0,
    commit_interval_ms: settings.CommitIntervalMs = 100,
    scores: settings.Scores = False,
    stream_idle_hours: settings.StreamIdleHours = 168.0,
    max_streams: settings.MaxStreams = 1_000_000,
    linger_ms: settings.LingerMs = None,
    client: settings.Client = "kafka-python",
    processing_guarantee: settings.ProcessingGuarantee = "exactly-once",
    format: settings.Format = "json",  # noqa: A002  (the name of the flag)
    schema: settings.Schema = None,
    schema_registry: settings.SchemaRegistry = None,
    schema_registry_login_file: settings.SchemaRegistryLoginFile = None,
    fresh: settings.Fresh = False,
    otlp_endpoint: settings.OtlpEndpoint = None,
    log_format: settings.LogFormat = "human",
    host: settings.Host = "127.0.0.1",
    port: settings.Port = None,
    compare: settings.Compare = None,
    compare_key_file: settings.CompareKeyFile = None,
) -> None:
    """Score ticks from a Kafka topic: alerts, state and offsets in one transaction, or alerts ahead of it."""
    with Stop() as stop:
        from service.consume import consume  # noqa: PLC0415
        from service.formats import decoder  # noqa: PLC0415
        from service.formats.registry import Registry  # noqa: PLC0415
        from service.station import Scoring  # noqa: PLC0415

        masked = journal.begin(log_format)
        connection = reach(kafka)
        login = _secret("--schema-registry-login-file", schema_registry_login_file)
        masked.hide(connection.password, login, login.partition(":")[2])
        peer = _peer(compare, compare_key_file)
        shared = Scoring(
            model, alert_budget, commit_interval_ms, scores, stream_idle_hours, max_streams, host, port, peer
        )
        registry = None
        if schema_registry is not None:
            registry = Registry(schema_registry, login, kafka.ca_file)
        read = decoder(format, registry, schema)
        tracing = _tracing(otlp_endpoint)
        consume(
            shared, connection, read, stop, tracing,
            client=client, guarantee=processing_guarantee, linger_ms=linger_ms, fresh=fresh,
        )  # fmt: skip


@app.command()
def serve(
    model: settings.Model = "gru",
    alert_budget: settings.AlertBudget = 20.0,
    data_dir: settings.DataDir = Path("tickwatch-data"),
    fresh: settings.Fresh = False,
    host: settings.Host = "127.0.0.1",
    port: settings.ServePort = 8000,
    keys_file: settings.KeysFile = None,
    state_key_file: settings.StateKeyFile = None,
    tls_cert_file: settings.TlsCertFile = None,
    tls_key_file: settings.TlsKeyFile = None,
    linger_ms: settings.GatherMs = 0.0,
    queue_ticks: settings.QueueTicks = 50_000,
    deadline_ms: settings.DeadlineMs = 10_000,
    max_body_bytes: settings.MaxBodyBytes = 8 * 2**20,
    max_request_ticks: settings.MaxRequestTicks = 10_000,
    streams_per_key: settings.StreamsPerKey = 100_000,
    compare: settings.Compare = None,
    compare_key_file: settings.CompareKeyFile = None,
    otlp_endpoint: settings.OtlpEndpoint = None,
    log_format: settings.LogFormat = "human",
) -> None:
    """Score ticks over HTTP, with state that the client carries or that is kept here."""
    with Stop() as stop:
        from service.api.app import Limits  # noqa: PLC0415
        from service.api.serve import Options  # noqa: PLC0415
        from service.api.serve import serve as serve_http  # noqa: PLC0415

        journal.begin(log_format)
        limits = Limits(max_body_bytes, max_request_ticks, deadline_ms, streams_per_key)
        options = Options(
            *(model, alert_budget, data_dir, fresh, host, port, keys_file, state_key_file, tls_cert_file, tls_key_file),
            *(linger_ms, queue_ticks, limits, _peer(compare, compare_key_file)),
        )
        serve_http(options, _tracing(otlp_endpoint), lambda: stop.asked)


@app.command()
def score(
    files: Files,
    output: Output,
    url: settings.Url = "http://127.0.0.1:8000",
) -> None:
    """Let a running `tickwatch serve` score files of ticks; the API key, if it needs one, comes from TICKWATCH_API_KEY."""
    from service.ask import ask  # noqa: PLC0415
    from service.client import Client  # noqa: PLC0415
    from service.files import Rejects, check_output, count_ticks, tick_files  # noqa: PLC0415

    paths = [path for file in files for path in tick_files(file)]
    check_output(output, paths)
    rejects = Rejects(_tell)
    with _progress() as bar, Client(url, os.environ.get("TICKWATCH_API_KEY", "")) as client:
        task = bar.add_task("scoring", total=count_ticks(paths))
        rows, alerts = ask(paths, client, output, progress=lambda n: bar.advance(task, n), rejected=rejects.tell)
    typer.echo(f"wrote {output}: rows={rows} alerts={alerts} rejected={rejects.n}")
    rejects.check(rows + rejects.n)


keys = typer.Typer(help="The API keys of `tickwatch serve`.", no_args_is_help=True)
app.add_typer(keys, name="keys")


@keys.callback()
def _keys() -> None:
    pass  # keeps `create` a command of its own


@keys.command("create")
def create_key(
    keys_file: settings.NewKeysFile,
    scopes: settings.Scopes = "score,read",
    prefix: settings.Prefix = "",
    days: settings.Days = 365,
) -> None:
    """Add a key to the file and print it, this once. Remove its line to withdraw it; a server sees both within a second."""
    from service.api.keys import create, parse_scopes  # noqa: PLC0415

    key, text = create(keys_file, parse_scopes(scopes), prefix, days, datetime.now(timezone.utc))
    until = f", until {key.not_after:%Y-%m-%d}" if key.not_after else ""
    errors.print(f"key {key.id} may {', '.join(key.scopes)} streams {key.prefix + '*'!r}{until}", highlight=False)
    typer.echo(text)


topics = typer.Typer(help="The Kafka topics that a worker needs.", no_args_is_help=True)
app.add_typer(topics, name="topics")


@topics.callback()
def _topics() -> None:
    pass  # keeps `create` a command of its own


@topics.command()
@settings.spread
def create(kafka: settings.Kafka, partitions: settings.Partitions = 8, replication: settings.Replication = 3) -> None:
    """Create the topics that are missing, with the right settings, and check all of them."""
    from service.topics import create_topics  # noqa: PLC0415

    made = create_topics(reach(kafka), partitions, replication)
    typer.echo(f"created: {', '.join(made) or 'nothing, all topics are there'}")


def reach(kafka: settings.Kafka) -> KafkaSettings:
    """What the options say about Kafka, and the password, which is no option."""
    from service.connection import KafkaSettings, host_name  # noqa: PLC0415

    password = _secret("--password-file", kafka.password_file) or os.environ.get("TICKWATCH_PASSWORD", "")
    return KafkaSettings(
        bootstrap_servers=kafka.bootstrap_servers,
        group=kafka.group,
        ticks=kafka.ticks_topic,
        alerts=kafka.alerts_topic,
        scores=kafka.scores_topic,
        dead_letters=kafka.dead_letters_topic,
        changelog=kafka.changelog_topic,
        instance=kafka.instance or host_name(),
        security_protocol=kafka.security_protocol,
        ca_file=kafka.ca_file,
        cert_file=kafka.cert_file,
        key_file=kafka.key_file,
        sasl_mechanism=kafka.sasl_mechanism,
        username=kafka.username,
        password=password,
    )


def _peer(url: str | None, key_file: Path | None) -> Peer | None:
    """The page to compare with, if one is named."""
    from service.peer import Peer  # noqa: PLC0415

    return None if url is None else Peer(url, _secret("--compare-key-file", key_file))


def _tracing(endpoint: str | None) -> Tracing | None:
    """Where traces go, if anywhere; nothing of OpenTelemetry is loaded unless they do."""
    if endpoint is None:
        return None
    try:
        from service.tracing import Tracing  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise TickwatchError(
            f"--otlp-endpoint needs {error.name}, which is not installed: pip install 'tickwatch[traces]'"
        ) from error
    return Tracing(endpoint)


def _tell(words: str) -> None:
    """A line to whoever looks on."""
    errors.print(words, markup=False, highlight=False, soft_wrap=True)


def _secret(flag: str, file: Path | None) -> str:
    """What the file given with a flag holds, empty if none is given."""
    try:
        return "" if file is None else file.read_text().strip()
    except OSError as error:
        raise TickwatchError(f"{flag} {file}: cannot be read ({error.strerror})") from error


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=errors, disable=not errors.is_terminal)


def main() -> None:
    """The console script: errors are one line and an exit code, tracebacks only with --debug."""
    for command in entry_points(group="tickwatch.commands"):  # training plugs in here: service knows nothing of it
        app.command(command.name)(command.load())
    try:
        kernels.settle()
        app()
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if os.environ.get("TICKWATCH_DEBUG"):
            raise
        if isinstance(error, TickwatchError):
            words, code = str(error), error.exit_code
        else:
            words, code = f"unexpected {type(error).__name__}: {error} (--debug shows where)", 1
        if not journal.end(words, code):
            errors.print(f"tickwatch: {words}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(code)
