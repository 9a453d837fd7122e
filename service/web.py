"""The pages of a running worker: a live page, its data as JSON, /metrics for Prometheus, and health for an orchestrator."""

from __future__ import annotations

import socket
import threading
from collections import deque
from pathlib import Path

import msgspec
import uvicorn
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from service import __version__
from service.alerts import Alert
from service.errors import TickwatchError

DEFAULT_PORT = 9464  # the port registered for OpenTelemetry's Prometheus exporter
PAGE = Path(__file__).parent / "live" / "index.html"
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; style-src 'unsafe-inline'; script-src 'unsafe-inline'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


class Status(msgspec.Struct, frozen=True):
    """What the live page shows beside the alerts."""

    model: str
    threshold: float
    ticks: int = 0
    streams: int = 0
    alerts: int = 0
    rejected: int = 0
    lag: int = 0
    seconds: float = 0.0
    version: str = __version__


class Board:
    """What the worker's thread writes and the web server's thread reads; every write replaces a whole object."""

    def __init__(self, status: Status) -> None:
        self.status = status
        self.alerts: deque[Alert] = deque(maxlen=200)
        self.ready = False


class Pages:
    """A web server in a thread of its own, from construction until `close`.

    `port` None takes 9464, or any free one if that is in use; `url` tells. Raises TickwatchError when the port can't be had.
    """

    def __init__(self, board: Board, registry: CollectorRegistry, host: str, port: int | None) -> None:
        self._socket = _listen(host, port)
        bound = self._socket.getsockname()[1]
        self.url = f"http://{'127.0.0.1' if host in ('0.0.0.0', '::') else host}:{bound}"  # noqa: S104
        config = uvicorn.Config(_app(board, registry), log_level="critical", lifespan="off", access_log=False)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), name="pages", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop serving."""
        self._server.should_exit = True
        self._thread.join(timeout=5)
        self._socket.close()


def _listen(host: str, port: int | None) -> socket.socket:
    wanted = DEFAULT_PORT if port is None else port
    try:
        return socket.create_server((host, wanted))
    except OSError as error:
        if port is None:
            return socket.create_server((host, 0))
        raise TickwatchError(
            f"--port {port}: cannot listen on {host}:{port} ({error.strerror}); give another port"
        ) from error


def _app(board: Board, registry: CollectorRegistry) -> Starlette:
    async def page(request: Request) -> Response:
        return FileResponse(PAGE, headers=HEADERS)

    async def status(request: Request) -> Response:
        body = {"status": board.status, "alerts": list(board.alerts)[::-1][:50]}
        return Response(msgspec.json.encode(body), media_type="application/json", headers=HEADERS)

    async def metrics(request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), media_type=content_type, headers=HEADERS)

    async def alive(request: Request) -> Response:
        return JSONResponse({"status": "alive"}, headers=HEADERS)

    async def ready(request: Request) -> Response:
        word, code = ("ready", 200) if board.ready else ("restoring", 503)
        return JSONResponse({"status": word}, status_code=code, headers=HEADERS)

    return Starlette(
        routes=[
            Route("/", page),
            Route("/status.json", status),
            Route("/healthz", alive),
            Route("/readyz", ready),
            Route("/metrics", metrics),
        ]
    )
