"""The pages of a running worker: the live page, /metrics for Prometheus, and health for an orchestrator."""

from __future__ import annotations

import socket
import threading

import uvicorn
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from service.board import Board
from service.errors import TickwatchError
from service.page import HEADERS, Page
from service.peer import Peer

DEFAULT_PORT = 9464  # the port registered for OpenTelemetry's Prometheus exporter


class Pages:
    """A web server in a thread of its own, from construction until `close`.

    `port` None takes 9464, or any free one if that is in use; `url` tells. `peer` is the page of another model.
    Raises TickwatchError when the port can't be had.
    """

    def __init__(
        self, board: Board, registry: CollectorRegistry, host: str, port: int | None, peer: Peer | None = None
    ) -> None:
        self._socket = _listen(host, port)
        bound = self._socket.getsockname()[1]
        self.url = f"http://{'127.0.0.1' if host in ('0.0.0.0', '::') else host}:{bound}"  # noqa: S104
        self._leaving = False
        page = Page(lambda request: board, lambda: self._leaving, peer=peer)
        app = _app(board, registry, page)
        self._server = uvicorn.Server(
            uvicorn.Config(app, log_config=None, log_level="critical", lifespan="off", access_log=False)
        )
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), name="pages", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop serving."""
        self._leaving = self._server.should_exit = True
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


def _app(board: Board, registry: CollectorRegistry, page: Page) -> Starlette:
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
            *page.routes,
            Route("/healthz", alive),
            Route("/readyz", ready),
            Route("/metrics", metrics),
        ]
    )
