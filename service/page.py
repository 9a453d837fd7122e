"""The live page: its files, the data it asks for, and the events that it is sent. Nothing here changes anything."""

from __future__ import annotations

import asyncio
import mimetypes
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Protocol

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from service.alerts import Alert
from service.board import ALERTS, Pulse, Report, Told
from service.errors import TickwatchError
from service.features import FEATURES
from service.history import Cut, Trace
from service.peer import Comparison, Peer

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


class View(Protocol):
    """What the one who asks may see."""

    @property
    def started(self) -> str: ...
    @property
    def card(self) -> bytes: ...
    @property
    def prefix(self) -> str: ...
    def report(self, hottest: int) -> Report: ...
    def pulses(self) -> list[Pulse]: ...
    def alerts(self, after: Told, most: int) -> tuple[Told, list[Alert]]: ...
    def names(self) -> list[str]: ...
    def last(self, stream: str) -> Cut | None: ...
    def near(self, stream: str, ms: float) -> Cut | None: ...
    def around(self, partition: int, offset: int) -> Cut | None: ...


class Page:
    """The page at `/` and all it asks for, relative to it, as `routes`.

    `view` gives what a request may see, or raises what is answered instead; where it is `secured` the page asks for an API
    key. `leaving` ends the streams of events. `peer` is the page of another model on the same ticks.
    """

    def __init__(
        self,
        view: Callable[[Request], View],
        leaving: Callable[[], bool],
        *,
        secured: bool = False,
        peer: Peer | None = None,
    ) -> None:
        self._view = view
        self._leaving = leaving
        self._peer = peer
        self._open = 0
        paths = [path for folder in (LIVE, LIVE / "vendor") for path in folder.iterdir() if path.is_file()]
        self._files = {path.name: path.read_bytes() for path in paths}
        if secured:
            self._files["index.html"] = self._files["index.html"].replace(b"<html", b"<html data-secured", 1)
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
        if peer is not None:
            self.routes += [
                Route("/peer.json", self._compare),
                Route("/peer/stream.json", self._peer_stream),
                Route("/peer/alert.json", self._peer_alert),
            ]

    async def _file(self, request: Request) -> Response:
        name = request.path_params.get("name", "index.html")
        if name not in self._files:
            return _problem(404, "there is no such file")
        kind = mimetypes.guess_type(name)[0] or "text/plain"
        return Response(self._files[name], media_type=kind, headers=HEADERS)

    def _status(self, request: Request) -> Response:
        view = self._view(request)
        alerts = view.alerts(Told(), ALERTS)[1]
        return _json({"status": view.report(MOST_HOT).status, "alerts": alerts, "prefix": view.prefix})

    def _model(self, request: Request) -> Response:
        return _json(msgspec.Raw(self._view(request).card))

    def _search(self, request: Request) -> Response:
        text = request.query_params.get("q", "").casefold()
        found = [name for name in self._view(request).names() if text in name.casefold()]
        found.sort(key=lambda name: (not name.casefold().startswith(text), name))
        return _json(found[:MOST_FOUND])

    def _stream(self, request: Request) -> Response:
        view = self._view(request)
        name, ms = _named(request)
        return _trace(request, view.last(name) if ms is None else view.near(name, ms))

    def _alert(self, request: Request) -> Response:
        view = self._view(request)
        place = _place(request)
        if place is None:
            return _problem(422, "give the alert's partition and offset as whole numbers")
        return _trace(request, view.around(*place))

    def _compare(self, request: Request) -> Response:
        view = self._view(request)
        return self._asked(lambda peer: peer.compare(view.alerts(Told(), ALERTS)[1], view.prefix))

    def _peer_stream(self, request: Request) -> Response:
        view = self._view(request)
        name, ms = _named(request)
        if not name.startswith(view.prefix):
            return _json(None)
        return self._asked(lambda peer: peer.last(name) if ms is None else peer.near(name, ms))

    def _peer_alert(self, request: Request) -> Response:
        """The other's ticks around an alert of ours, which only its stream and time tell both."""
        place = _place(request)
        cut = None if place is None else self._view(request).around(*place)
        if place is None or cut is None:
            return _json(None)
        ms = float(cut.numbers["ts"][cut.offset == place[1]][0])
        return self._asked(lambda peer: peer.near(cut.stream, ms))

    def _asked(self, question: Callable[[Peer], Comparison | Trace | None]) -> Response:
        try:
            return _json(question(self._peer) if self._peer else None)
        except TickwatchError as error:
            return _problem(502, str(error))

    async def _events(self, request: Request) -> Response:
        view = self._view(request)
        if self._open >= MOST_PAGES:
            return _problem(503, f"{MOST_PAGES} pages are open already")
        events = self._counted(request, view)
        return StreamingResponse(events, media_type="text/event-stream", headers=HEADERS | UNBUFFERED)

    async def _counted(self, request: Request, view: View) -> AsyncIterator[bytes]:
        self._open += 1
        try:
            hello = {"started": view.started, "pulses": view.pulses(), "peer": self._peer is not None}
            yield _event("hello", hello)
            told, look = Told(), 0
            while not self._leaving() and self._may(request, view):
                told, alerts = await run_in_threadpool(view.alerts, told, MOST_ALERTS)
                if alerts or look == 0:
                    yield _event("alerts", alerts)
                if look % STATUS_LOOKS == 0:
                    yield _event("status", await run_in_threadpool(view.report, MOST_HOT))
                look += 1
                await asyncio.sleep(ALERT_SECONDS)
        finally:
            self._open -= 1

    def _may(self, request: Request, view: View) -> bool:
        try:
            return self._view(request) == view
        except Exception:  # noqa: BLE001  (whatever it raises, the key was withdrawn; the next request is told why)
            return False


def _event(name: str, data: object) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (name.encode(), msgspec.json.encode(data))


def _json(data: object) -> Response:
    return Response(msgspec.json.encode(data), media_type="application/json", headers=HEADERS)


def _problem(code: int, detail: str) -> Response:
    return JSONResponse({"detail": detail}, code, HEADERS)


def _named(request: Request) -> tuple[str, float | None]:
    """The stream that is asked for, and the time if one is, in milliseconds since 1970."""
    try:
        ms = float(request.query_params["at"])
    except (KeyError, ValueError):
        ms = None
    return request.query_params.get("name", ""), ms


def _place(request: Request) -> tuple[int, int] | None:
    """Partition and offset, if they are given."""
    try:
        return int(request.query_params["partition"]), int(request.query_params["offset"])
    except (KeyError, ValueError):
        return None


def _trace(request: Request, cut: Cut | None) -> Response:
    """The cut as JSON, null for None: that nothing is kept is no error of whoever asks."""
    asked = [f for f in request.query_params.get("features", "").split(",") if f in FEATURES]
    return _json(cut and cut.trace(asked))
