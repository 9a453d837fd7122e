"""Every setting once: its flag, the environment variable of the same name, its type, unit and help."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer


def _option(flag: str, text: str, **bounds: float) -> Any:
    name = "TICKWATCH_" + flag.strip("-").replace("-", "_").upper()
    return typer.Option(flag, envvar=name, show_envvar=False, help=text, min=bounds.get("min"), max=bounds.get("max"))


Model = Annotated[
    str, _option("--model", "Model to score with: lstm or gru, which ship, or an .onnx file made by `tickwatch train`.")
]
ModelKey = Annotated[
    Path | None,
    _option(
        "--model-key", "PEM file of the public key that every model must be signed for, in NAME.onnx.sig beside it."
    ),
]
AlertBudget = Annotated[
    float, _option("--alert-budget", "False alarms accepted per 100,000 ticks, 0.1 to 10000; fewer is less sensitive.")
]
CommitIntervalMs = Annotated[
    int,
    _option("--commit-interval-ms", "Milliseconds between commits of alerts, state and offsets.", min=1, max=60_000),
]
LingerMs = Annotated[
    int | None,
    _option(
        "--linger-ms",
        "Milliseconds that a few ticks wait at the broker for more, which are then scored together; 0 is never. Without it 10"
        " with kafka-python, 5 with confluent-kafka or at least once.",
        min=0,
        max=1000,
    ),
]
Client = Annotated[
    str,
    _option("--client", "Kafka client: kafka-python, or confluent-kafka (extra `fast`), which costs less CPU a tick."),
]
ProcessingGuarantee = Annotated[
    str,
    _option(
        "--processing-guarantee",
        "exactly-once, or at-least-once: alerts, scores and dead letters are sent as soon as they are made, and may be repeated"
        " after a crash; state is exact with both.",
    ),
]
Scores = Annotated[bool, _option("--scores", "Also publish the score of every tick, in columnar frames.")]
StreamIdleHours = Annotated[
    float,
    _option(
        "--stream-idle-hours",
        "Hours of event time without a tick after which a stream's state is removed; 0 is never.",
        min=0,
        max=87_600,
    ),
]
MaxStreams = Annotated[
    int,
    _option(
        "--max-streams",
        "Streams per partition whose state is kept; ticks of further ones go to the dead letters.",
        min=1,
    ),
]
Format = Annotated[str, _option("--format", "How ticks are written: json, avro, protobuf or binary.")]
Schema = Annotated[
    Path | None, _option("--schema", "Avro schema file of ticks that are written without naming a schema.")
]
SchemaRegistry = Annotated[
    str | None, _option("--schema-registry", "URL of the registry whose schemas avro or protobuf ticks name.")
]
SchemaRegistryLoginFile = Annotated[
    Path | None, _option("--schema-registry-login-file", "File that holds user:password for the schema registry.")
]
OtlpEndpoint = Annotated[
    str | None,
    _option(
        "--otlp-endpoint",
        "URL of an OpenTelemetry collector that takes OTLP over HTTP, such as http://localhost:4318; traces go there.",
    ),
]
LogFormat = Annotated[
    str, _option("--log-format", "How events are logged on stderr, one a line: human, or json for a log collector.")
]
Fresh = Annotated[
    bool,
    _option("--fresh", "Give up state that another model or layout has written, instead of refusing to start."),
]
Host = Annotated[str, _option("--host", "Address that the pages and /metrics listen on.")]
Compare = Annotated[
    str | None,
    _option("--compare", "Address of the page of another model on the same ticks, to show beside this one."),
]
CompareKeyFile = Annotated[
    Path | None,
    _option("--compare-key-file", "File with an API key of scope read for the page that --compare names."),
]
Port = Annotated[
    int | None,
    _option(
        "--port", "Port of the pages and /metrics. [default: 9464, or a free one if it is taken]", min=0, max=65535
    ),
]
DataDir = Annotated[Path, _option("--data-dir", "Folder of the embedded log.")]
Ticks = Annotated[
    Path | None,
    _option("--ticks", "Parquet, CSV or JSON-lines file, or a folder of them; without it a simulated market."),
]
DurationSeconds = Annotated[float | None, _option("--duration", "Stop after so many seconds.", min=0)]
Speed = Annotated[
    float | None,
    _option("--speed", "Multiple of real time; 0 is as fast as possible. [default: 0 for files, 1 simulated]", min=0),
]
Resume = Annotated[
    bool, _option("--resume", "Go on where the last run stopped, with its state, instead of starting afresh.")
]
Seed = Annotated[int, _option("--seed", "Seed of every random choice.")]

ServePort = Annotated[int, _option("--port", "Port to listen on; 0 takes a free one.", min=0, max=65535)]
KeysFile = Annotated[
    Path | None,
    _option(
        "--keys-file", "File of API keys, made by `tickwatch keys create`; without it only this machine may connect."
    ),
]
StateKeyFile = Annotated[
    Path | None,
    _option(
        "--state-key-file",
        "File with a secret of 32 bytes or more that seals states; the same for all replicas. [default: random]",
    ),
]
TlsCertFile = Annotated[Path | None, _option("--tls-cert-file", "PEM file of the server's certificate chain.")]
TlsKeyFile = Annotated[Path | None, _option("--tls-key-file", "PEM file of the server's key.")]
GatherMs = Annotated[
    float,
    _option("--linger-ms", "Milliseconds that a request waits for others to be scored with it.", min=0, max=1000),
]
QueueTicks = Annotated[
    int, _option("--queue-ticks", "Ticks that may wait; when there are more, requests are told to come back.", min=1)
]
DeadlineMs = Annotated[
    int,
    _option("--deadline-ms", "Milliseconds after which a request without Deadline-Ms is given up.", min=1, max=99_999),
]
MaxBodyBytes = Annotated[int, _option("--max-body-bytes", "Bytes of a request's body, as sent and as unpacked.", min=1)]
MaxRequestTicks = Annotated[int, _option("--max-request-ticks", "Ticks of one request.", min=1)]
StreamsPerKey = Annotated[int, _option("--streams-per-key", "Streams that are kept for one key's prefix.", min=1)]
Url = Annotated[str, _option("--url", "Address of a running `tickwatch serve`.")]
NewKeysFile = Annotated[Path, _option("--keys-file", "File to add the key to, made if absent.")]
Scopes = Annotated[str, _option("--scopes", "What the key may do: score, read, admin, with commas.")]
Prefix = Annotated[str, _option("--prefix", "What the names of all streams that the key may touch begin with.")]
Days = Annotated[int, _option("--days", "Days that the key is good for; 0 is for ever.", min=0, max=36_500)]

Partitions = Annotated[int, _option("--partitions", "Partitions of new topics; more allow more workers.", min=1)]
Replication = Annotated[int, _option("--replication", "Replicas of new topics.", min=1, max=9)]


@dataclass(frozen=True)
class Kafka:
    """How to reach Kafka and who we are there, as options of every command that takes one of these."""

    bootstrap_servers: Annotated[str, _option("--bootstrap-servers", "Brokers to begin with, host:port,host:port.")] = (
        "localhost:9092"
    )
    group: Annotated[str, _option("--group", "Consumer group; also the prefix of the transactional id.")] = "tickwatch"
    instance: Annotated[
        str | None, _option("--instance", "This worker's lasting name in its group. [default: the host or pod name]")
    ] = None
    ticks_topic: Annotated[str, _option("--ticks-topic", "Topic of ticks to read.")] = "ticks"
    alerts_topic: Annotated[str, _option("--alerts-topic", "Topic of alerts to write.")] = "alerts"
    scores_topic: Annotated[str, _option("--scores-topic", "Topic of score frames, written with --scores.")] = "scores"
    dead_letters_topic: Annotated[str, _option("--dead-letters-topic", "Topic of records that could not be read.")] = (
        "dead-letters"
    )
    changelog_topic: Annotated[str, _option("--changelog-topic", "Compacted topic that holds the streams' state.")] = (
        "tickwatch-changelog"
    )
    security_protocol: Annotated[str, _option("--security-protocol", "PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL.")] = (
        "PLAINTEXT"
    )
    ca_file: Annotated[
        Path | None, _option("--ca-file", "PEM file of the authorities to trust, else the system's.")
    ] = None
    cert_file: Annotated[Path | None, _option("--cert-file", "PEM file of this client's certificate.")] = None
    key_file: Annotated[Path | None, _option("--key-file", "PEM file of this client's key.")] = None
    sasl_mechanism: Annotated[str, _option("--sasl-mechanism", "SCRAM-SHA-512, SCRAM-SHA-256 or PLAIN.")] = (
        "SCRAM-SHA-512"
    )
    username: Annotated[
        str, _option("--username", "SASL user; the password comes from --password-file or TICKWATCH_PASSWORD.")
    ] = ""
    password_file: Annotated[Path | None, _option("--password-file", "File that holds the SASL password.")] = None


# The fields of Kafka that a command needs which only reads.
CONNECTION = (
    *("bootstrap_servers", "security_protocol", "ca_file", "cert_file", "key_file"),
    *("sasl_mechanism", "username", "password_file"),
)


def spread(command: Callable[..., None], only: tuple[str, ...] = ()) -> Callable[..., None]:
    """The command with each field of its parameter `kafka: Kafka`, or `only` some, as an option of its own."""
    own = list(inspect.signature(command, eval_str=True).parameters.values())
    hints = get_type_hints(Kafka, include_extras=True)
    options = [
        inspect.Parameter(f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default, annotation=hints[f.name])
        for f in fields(Kafka)
        if not only or f.name in only
    ]
    place = [p.name for p in own].index("kafka")
    rest = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own if p.name != "kafka"]

    @wraps(command)
    def flat(**given: Any) -> None:
        command(kafka=Kafka(**{o.name: given.pop(o.name) for o in options}), **given)

    parameters = [*rest[:place], *options, *rest[place:]]
    flat.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # what typer reads
    flat.__annotations__ = {p.name: p.annotation for p in parameters}
    return flat
