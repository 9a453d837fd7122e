"""The live page: its files, the data it asks for, and the events that it is sent. Nothing here changes anything."""

from __future__ import annotations

import asyncio
import mimetypes
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from service.board import Board
from service.features import FEATURES
from service.history import Cut

LIVE = Path(__file__).parent / "live"
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
UNBUFFERED = {"X-Accel-Buffering": "no"}  # asks a proxy such as nginx to hand events on at once
ALERT_SECONDS = 0.25  # between two looks for new alerts
STATUS_LOOKS = 4  # looks between two reports of how things stand
MOST_ALERTS = 50  # of one look
MOST_HOT = 300  # streams of the heat map
MOST_FOUND = 20  # streams of a search
MOST_PAGES = 64  # that are sent events at the same time


class Page:
    """The page at `/` and all it asks for, relative to it, as `routes`. `leaving` ends the streams of events."""

    def __init__(self, board: Board, leaving: Callable[[], bool]) -> None:
        self._board = board
        self._leaving = leaving
        self._open = 0
        paths = [path for folder in (LIVE, LIVE / "vendor") for path in folder.iterdir() if path.is_file()]
        self._files = {path.name: path.read_bytes() for path in paths}
        self.routes = [
            Route("/", self._file),
            Route("/live/{name}", self._file),
            Route("/live/vendor/{name}", self._file),
            Route("/status.json", self._status),
            Route("/model.json", self._model),
            Route("/streams.json", self._search),
            Route("/stream.json", self._stream),
            Route("/alert.json", self._alert),
            Route("/events", self._events),
        ]

    async def _file(self, request: Request) -> Response:
        name = request.path_params.get("name", "index.html")
        if name not in self._files:
            return _problem(404, "there is no such file")
        kind = mimetypes.guess_type(name)[0] or "text/plain"
        return Response(self._files[name], media_type=kind, headers=HEADERS)

    async def _status(self, request: Request) -> Response:
        return _json({"status": self._board.status, "alerts": self._board.alerts(0, MOST_ALERTS)[1]})

    async def _model(self, request: Request) -> Response:
        return _json(msgspec.Raw(self._board.card))

    def _search(self, request: Request) -> Response:
        text = request.query_params.get("q", "").casefold()
        found = [name for name in self._board.names() if text in name.casefold()]
        found.sort(key=lambda name: (not name.casefold().startswith(text), name))
        return _json(found[:MOST_FOUND])

    def _stream(self, request: Request) -> Response:
        return _trace(request, self._board.history.last(request.query_params.get("name", "")))

    def _alert(self, request: Request) -> Response:
        try:
            partition, offset = (int(request.query_params[name]) for name in ("partition", "offset"))
        except (KeyError, ValueError):
            return _problem(422, "give the alert's partition and offset as whole numbers")
        return _trace(request, self._board.history.around(partition, offset))

    async def _events(self, request: Request) -> Response:
        if self._open >= MOST_PAGES:
            return _problem(503, f"{MOST_PAGES} pages are open already")
        return StreamingResponse(self._counted(), media_type="text/event-stream", headers=HEADERS | UNBUFFERED)

    async def _counted(self) -> AsyncIterator[bytes]:
        self._open += 1
        try:
            async for event in _events(self._board, self._leaving):
                yield event
        finally:
            self._open -= 1


async def _events(board: Board, leaving: Callable[[], bool]) -> AsyncIterator[bytes]:
    """What happens, sampled: a flood of ticks or alerts makes no more events than a calm market."""
    yield b"retry: 1000\n\n" + _event("hello", {"started": board.started, "pulses": board.pulses()})
    told, look = 0, 0
    while not leaving():
        total, alerts = board.alerts(told, MOST_ALERTS)
        if total > told or look == 0:
            yield _event("alerts", {"alerts": alerts, "total": total})
        told = total
        if look % STATUS_LOOKS == 0:
            age = time.monotonic() - board.shown_at
            heat = board.history.heat(MOST_HOT)
            yield _event("status", {"status": board.status, "ready": board.ready, "age": age, "heat": heat})
        look += 1
        await asyncio.sleep(ALERT_SECONDS)


def _event(name: str, data: object) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (name.encode(), msgspec.json.encode(data))


def _json(data: object) -> Response:
    return Response(msgspec.json.encode(data), media_type="application/json", headers=HEADERS)


def _problem(code: int, detail: str) -> Response:
    return JSONResponse({"detail": detail}, code, HEADERS)


def _trace(request: Request, cut: Cut | None) -> Response:
    """The cut as JSON, null for None: that nothing is kept is no error of whoever asks."""
    asked = [f for f in request.query_params.get("features", "").split(",") if f in FEATURES]
    return _json(cut and cut.trace(asked))
