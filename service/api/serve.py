"""`tickwatch serve`: the scoring endpoint, until SIGTERM."""

from __future__ import annotations

import ipaddress
import logging
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn
from starlette.types import ASGIApp

from service.alerts import Alert
from service.api.app import Limits, Parts, build
from service.api.desk import Desk
from service.api.direct import Direct
from service.api.engine import Engine
from service.api.feed import Feed
from service.api.guard import KEEP_ALIVE_SECONDS, Guard
from service.api.keys import Keys
from service.api.live import Live
from service.api.shell import Shell
from service.api.store import Store
from service.api.token import Seal, read_secret
from service.api.wire import ModelInfo, ModelsAnswer
from service.autoencoder import find, load
from service.errors import TickwatchError
from service.journal import event
from service.logs.sqlite import locked
from service.metrics import Metrics
from service.peer import Peer
from service.scorer import Scored, Scorer, warm_up

if TYPE_CHECKING:
    from service.tracing import Tracing

LOG = logging.getLogger("tickwatch")
FILE = "serve.sqlite"
GRACE_SECONDS = 10


@dataclass(frozen=True)
class Options:
    """What `tickwatch serve` was asked for."""

    model: str = "gru"
    alert_budget: float = 20.0
    data_dir: Path = Path("tickwatch-data")
    fresh: bool = False
    host: str = "127.0.0.1"
    port: int = 8000
    keys_file: Path | None = None
    state_key_file: Path | None = None
    tls_cert_file: Path | None = None
    tls_key_file: Path | None = None
    linger_ms: float = 0.0
    queue_ticks: int = 50_000
    limits: Limits = field(default_factory=Limits)
    compare: Peer | None = None


def serve(options: Options, tracing: Tracing | None = None, asked: Callable[[], bool] = lambda: False) -> None:
    """Answer requests until SIGINT, SIGTERM or `asked` to end, then finish those that have begun."""
    _check(options)
    keys = Keys(options.keys_file)
    secret = read_secret(options.state_key_file)
    with _listen(options.host, options.port) as listening:
        _serve(options, keys, secret, listening, tracing, asked)


def _serve(
    options: Options,
    keys: Keys,
    secret: bytes,
    listening: socket.socket,
    tracing: Tracing | None,
    asked: Callable[[], bool],
) -> None:
    scorer = Scorer(load(find(options.model)), options.alert_budget, idle_hours=0.0)
    warm_up(scorer.model)
    path = options.data_dir / FILE
    if options.fresh:
        set_aside(path)
    store = Store(path, scorer.layout)
    server: _Server | None = None
    try:

        def leaving() -> bool:
            return server is not None and server.should_exit

        app = application(options, scorer, store, keys, secret, leaving, tracing=tracing)
        server = _Server(_config(options, app), asked)
        scheme = "https" if options.tls_cert_file else "http"
        host = f"[{options.host}]" if ":" in options.host else options.host
        url = f"{scheme}://{host}:{listening.getsockname()[1]}"
        started = event("started", model=scorer.model.id)
        LOG.info("model %s scores at %s/docs, and / shows it live", scorer.model.id, url, extra=started)
        if options.keys_file is None:
            LOG.warning(
                "no API keys: only this machine can connect, and everyone on it may do everything (--keys-file)",
                extra=event("no_api_keys"),
            )
        if options.state_key_file is None:
            LOG.warning(
                "states of POST /v1/score are good for this process only (--state-key-file makes them last)",
                extra=event("state_key_random"),
            )
        server.run(sockets=[listening])
    finally:
        store.close()


class _Server(uvicorn.Server):
    """One that also ends if it was asked to before it had its own handlers of signals."""

    def __init__(self, config: uvicorn.Config, asked: Callable[[], bool]) -> None:
        super().__init__(config)
        self._asked = asked

    async def on_tick(self, counter: int) -> bool:
        self.should_exit = self.should_exit or self._asked()
        return await super().on_tick(counter)


def application(
    options: Options,
    scorer: Scorer,
    store: Store,
    keys: Keys,
    secret: bytes,
    leaving: Callable[[], bool],
    clock: Callable[[], float] = time.time,
    tracing: Tracing | None = None,
) -> ASGIApp:
    """The whole ASGI application on a store."""
    metrics = Metrics()
    metrics.describe(scorer.model, scorer.alert_budget)
    seal = Seal(secret, scorer.layout, scorer.streams.row_bytes)
    engine = Engine(scorer, store, seal, options.limits.streams_per_key, clock)
    desk = Desk(engine, metrics, options.linger_ms, options.queue_ticks)
    models = ModelsAnswer([_describe(scorer, options.alert_budget)])
    live = Live(store, scorer, metrics.drift.psi, desk.waiting, lambda: desk.healthy)

    def kept(scored: Scored, alerts: list[Alert]) -> None:
        live.keep(scored, alerts)
        for alert in alerts:
            metrics.alerts.labels(alert.phase).inc()

    engine.on_kept = kept
    engine.on_passed = live.pass_on
    parts = Parts(
        *(desk, store, seal, keys, Feed(store), live, metrics, models, options.limits, clock, leaving, options.compare)
    )
    app: ASGIApp = Direct(build(parts), frozenset({"score", "send_ticks"}))
    if tracing is not None:
        from service.api.traced import Traced  # noqa: PLC0415  (an extra)

        app = Traced(app, tracing)
    return Shell(app, metrics, only_local=options.keys_file is None, secure=options.tls_cert_file is not None)


def _describe(scorer: Scorer, alert_budget: float) -> ModelInfo:
    card = scorer.model.card
    return ModelInfo(
        *(scorer.model.id, card.cell, card.hidden, card.bottleneck, card.feature_set, list(card.features)),
        *(card.data_fingerprint, card.code_revision, card.seed, alert_budget, scorer.threshold),
    )


def _check(options: Options) -> None:
    if options.keys_file is None and not _is_loopback(options.host):
        raise TickwatchError(
            f"--host {options.host}: without API keys only this machine may connect;"
            " make a key with `tickwatch keys create` and give its --keys-file, or take --host 127.0.0.1"
        )
    if (options.tls_cert_file is None) != (options.tls_key_file is None):
        raise TickwatchError("--tls-cert-file and --tls-key-file go together: give both, or none")
    for flag, path in (("--tls-cert-file", options.tls_cert_file), ("--tls-key-file", options.tls_key_file)):
        if path is not None and not path.is_file():
            raise TickwatchError(f"{flag} {path}: there is no such file")


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise TickwatchError(
            f"--port {port}: cannot listen on {host}:{port} ({error.strerror}); give another port"
        ) from error


def _config(options: Options, app: ASGIApp) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=Guard,
        ws="none",
        loop="uvloop",
        lifespan="on",
        log_config=None,
        log_level="critical",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=GRACE_SECONDS,
        ssl_certfile=options.tls_cert_file,
        ssl_keyfile=options.tls_key_file,
    )


def set_aside(path: Path) -> None:
    """Keep the file under another name: starting afresh must not cost anyone their alerts."""
    if not path.exists():
        return
    with locked(path):
        for suffix in ("", "-wal", "-shm"):
            last = path.with_name(path.name + suffix)
            if last.exists():
                last.replace(path.with_name("previous-" + path.name + suffix))
