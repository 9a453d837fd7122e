"""The HTTP interface: which paths there are, who may use them, and what each does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Literal
from urllib.parse import unquote_to_bytes

import msgspec
from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from prometheus_client.exposition import choose_encoder
from starlette.exceptions import HTTPException
from starlette.responses import StreamingResponse

from service import __version__
from service.api import documents
from service.api.body import read_body
from service.api.desk import Desk
from service.api.engine import Job, unknown
from service.api.feed import Feed, Wanted
from service.api.keys import Key, Keys, Scope
from service.api.live import Live
from service.api.problems import Problem, respond, routing_problem, validation_problem
from service.api.store import Store
from service.api.token import Seal
from service.api.wire import (
    JSON,
    Health,
    ModelsAnswer,
    ScoreRequest,
    StreamDetail,
    StreamsAnswer,
    StreamSummary,
    invalid,
    read,
    stream_of,
)
from service.logs import PartitionState
from service.metrics import Metrics
from service.page import Page
from service.peer import Peer
from service.ticks import MAX_STREAM_LENGTH

MAX_DEADLINE_MS = 99_999
MAX_STATE_STREAMS = 2000  # of one request without kept state, whose rows must travel with every answer
MAX_KEY_LENGTH = 255

Limit = Annotated[int, Query(ge=1, le=1000, description="most entries of the page")]
AlertsAfter = Annotated[int, Query(ge=0, le=2**62, description="`after` of the page before")]
StreamFilter = Annotated[str | None, Query(max_length=MAX_STREAM_LENGTH, description="only this stream")]
Phase = Annotated[Literal["opened", "updated"] | None, Query(description="only alerts of this phase")]
MinScore = Annotated[float, Query(ge=0, le=100, description="only alerts with at least this score")]


@dataclass(frozen=True)
class Limits:
    """Of one request, and what each key may keep."""

    body_bytes: int = 8 * 2**20
    request_ticks: int = 10_000
    deadline_ms: int = 10_000
    streams_per_key: int = 100_000


@dataclass(frozen=True)
class Parts:
    """What the routes use. `leaving` tells that the server is about to end; `clock` gives seconds since 1970."""

    desk: Desk
    store: Store
    seal: Seal
    keys: Keys
    feed: Feed
    live: Live
    metrics: Metrics
    models: ModelsAnswer
    limits: Limits
    clock: Callable[[], float]
    leaving: Callable[[], bool]
    peer: Peer | None = None

    def caller(self, request: Request, scope: Scope) -> Key:
        """Whose key the request has. Raises Problem when that does not do."""
        return self.keys.check(request.headers.get("authorization"), scope)


def answer(body: object) -> Response:
    """A struct, or JSON that is ready, as a response."""
    return Response(body if isinstance(body, bytes) else msgspec.json.encode(body), media_type=JSON)


def build(parts: Parts) -> FastAPI:
    """The application; at the end of its lifespan the last commit is done."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await parts.desk.close()

    app = FastAPI(
        title="tickwatch",
        version=__version__,
        description="Says of ticks how improbable each is in its stream, and why.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
        default_response_class=Response,
    )
    app.add_exception_handler(Problem, lambda request, error: respond(error))
    app.add_exception_handler(HTTPException, routing_problem)
    app.add_exception_handler(RequestValidationError, lambda request, error: validation_problem(error))
    app.add_exception_handler(Exception, lambda request, error: respond(error))
    parts.desk.on_alerts = parts.feed.wake
    _scoring(app, parts)
    _streams(app, parts)
    _alerts(app, parts)
    _service(app, parts)
    page = Page(
        lambda request: parts.live.of(_narrowed(parts.caller(request, "read"), request.query_params.get("prefix", ""))),
        parts.leaving,
        secured=parts.keys.secured,
        peer=parts.peer,
    )
    app.router.routes.extend(page.routes)
    return app


def _narrowed(caller: Key, prefix: str) -> str:
    """What the caller's streams that begin with `prefix` begin with: so a page to compare with asks for those of one key."""
    if caller.prefix.startswith(prefix):
        return caller.prefix
    caller.require(prefix, "prefix")
    return prefix


def _scoring(app: FastAPI, parts: Parts) -> None:
    limits = parts.limits

    async def received(request: Request, headers: dict[str, str], stream: str | None = None) -> ScoreRequest:
        body = await read_body(request.receive, headers, limits.body_bytes)
        media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
        return read(body, media_type, limits.request_ticks, stream)

    async def settled(request: Request, job: Job) -> Response:
        return answer(await parts.desk.settle(job, request.is_disconnected))

    @app.post("/v1/score", operation_id="score", tags=["stateless"])
    async def score(request: Request) -> Response:
        """Score ticks with the state that comes with them."""
        headers = _headers(request)
        caller = parts.keys.check(headers.get("authorization"), "score")
        wanted = await received(request, headers)
        held = None
        names = dict.fromkeys(map(stream_of, wanted.ticks))
        if wanted.state is not None:
            held = PartitionState(0, *parts.seal.open(wanted.state))
            names |= dict.fromkeys(held.streams)
        for name in names:
            caller.require(name, "stream")
        if len(names) > MAX_STATE_STREAMS:
            detail = f"stream: ticks and state name {len(names)} streams, the limit is {MAX_STATE_STREAMS}."
            raise Problem("too-large", detail, "Send groups of streams, each with a state of its own.", "stream")
        job = Job(wanted.ticks, caller.prefix, _deadline(headers, limits), _future(), names=list(names), held=held)
        return await settled(request, job)

    @app.post("/v1/streams/{stream}/ticks", operation_id="send_ticks", tags=["stateful"])
    async def send_ticks(request: Request, stream: str) -> Response:
        """Score a stream's next ticks; the service keeps its state."""
        headers = _headers(request)
        caller = parts.keys.check(headers.get("authorization"), "score")
        name = _name(caller, stream)
        key = headers.get("idempotency-key")
        if key is not None and not _is_key(key):
            raise invalid("Idempotency-Key", f"must have 1 to {MAX_KEY_LENGTH} visible ASCII characters")
        wanted = await received(request, headers, name)
        job = Job(wanted.ticks, caller.prefix, _deadline(headers, limits), _future(), stream=name, key=key or "")
        return await settled(request, job)

    @app.delete("/v1/streams/{stream}", operation_id="delete_stream", tags=["stateful"], status_code=204)
    async def delete_stream(request: Request, stream: str) -> Response:
        """Forget a stream; its next tick begins it anew. Its alerts stay."""
        caller = parts.caller(request, "score")
        name = _name(caller, stream)
        job = Job([], caller.prefix, _deadline(_headers(request), limits), _future(), stream=name, remove=True)
        await parts.desk.settle(job, request.is_disconnected)
        return Response(status_code=204)


def _future() -> asyncio.Future[bytes | Problem]:
    return asyncio.get_running_loop().create_future()


def _headers(request: Request) -> dict[str, str]:
    """Of a name that comes twice the first, as starlette has it, but looked up many times faster."""
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in reversed(request.scope["headers"])}


def _deadline(headers: dict[str, str], limits: Limits) -> float:
    """By the event loop's clock."""
    text = headers.get("deadline-ms")
    if text is None:
        ms = limits.deadline_ms
    elif text.isascii() and text.isdigit() and len(text) <= 5 and not text.startswith("0"):
        ms = int(text)
    else:
        raise invalid("Deadline-Ms", f"must be a whole number of milliseconds from 1 to {MAX_DEADLINE_MS}")
    return asyncio.get_running_loop().time() + ms / 1000


def _is_key(text: str) -> bool:
    return 0 < len(text) <= MAX_KEY_LENGTH and all("!" <= c <= "~" for c in text)


def _name(caller: Key, segment: str) -> str:
    """The stream that a path names, which the caller may touch; the path comes undecoded, so that it may hold a slash."""
    try:
        name = unquote_to_bytes(segment).decode()
    except UnicodeDecodeError as error:
        raise invalid("stream", "the path is not UTF-8") from error
    if len(name) > MAX_STREAM_LENGTH:
        raise invalid("stream", f"has {len(name)} characters, allowed are 1 to {MAX_STREAM_LENGTH}")
    caller.require(name, "stream")
    return name


def _streams(app: FastAPI, parts: Parts) -> None:
    def summary(row: Any) -> StreamSummary:
        name, ticks, ts, score, alert, at = row[:6]
        return StreamSummary(name, ticks, ts, score, bool(alert), max(0.0, parts.clock() - at))

    @app.get("/v1/streams", operation_id="list_streams", tags=["stateful"])
    def list_streams(
        request: Request,
        after: Annotated[str, Query(max_length=MAX_STREAM_LENGTH, description="`after` of the page before")] = "",
        limit: Limit = 100,
    ) -> Response:
        """The streams whose state is kept, by name."""
        caller = parts.caller(request, "read")
        found = parts.store.summaries(caller.prefix, after, limit + 1)
        more = len(found) > limit
        return answer(StreamsAnswer([summary(row) for row in found[:limit]], found[limit - 1][0] if more else None))

    @app.get("/v1/streams/{stream}", operation_id="get_stream", tags=["stateful"])
    def get_stream(request: Request, stream: str) -> Response:
        """A stream's last tick, score, age and features."""
        caller = parts.caller(request, "read")
        name = _name(caller, stream)
        row = parts.store.detail(name)
        if row is None:
            raise unknown(name)
        found = summary(row)
        last = msgspec.json.decode(row[6])
        return answer(StreamDetail(**msgspec.structs.asdict(found), **last))


def _alerts(app: FastAPI, parts: Parts) -> None:
    @app.get("/v1/alerts", operation_id="list_alerts", tags=["alerts"])
    def list_alerts(
        request: Request,
        after: AlertsAfter = 0,
        limit: Limit = 100,
        stream: StreamFilter = None,
        phase: Phase = None,
        min_score: MinScore = 0.0,
    ) -> Response:
        """Alerts of the streams whose state is kept, oldest first."""
        caller = parts.caller(request, "read")
        return answer(parts.feed.page(Wanted(caller, stream, phase, min_score), after, limit))

    @app.get("/v1/alerts/stream", operation_id="follow_alerts", tags=["alerts"])
    async def follow_alerts(
        request: Request, stream: StreamFilter = None, phase: Phase = None, min_score: MinScore = 0.0
    ) -> Response:
        """New alerts as they arise, as Server-Sent Events; `Last-Event-ID` resumes behind that one.

        Without `Accept: text/event-stream` it ends with those that are there.
        """
        caller = parts.caller(request, "read")
        last = request.headers.get("last-event-id")
        if last is not None and not (last.isascii() and last.isdigit() and len(last) < 19):
            raise invalid("Last-Event-ID", "must be the id of an event that came before")
        after = parts.store.newest_alert if last is None else int(last)

        def allowed() -> bool:
            return not parts.leaving() and parts.caller(request, "read") == caller

        forever = "text/event-stream" in request.headers.get("accept", "")
        events = parts.feed.follow(Wanted(caller, stream, phase, min_score), after, allowed, forever=forever)
        return StreamingResponse(events, media_type="text/event-stream")


def _service(app: FastAPI, parts: Parts) -> None:
    @app.get("/v1/models", operation_id="list_models", tags=["service"])
    async def list_models(request: Request) -> Response:
        """The model in use."""
        parts.caller(request, "read")
        return answer(parts.models)

    @app.get("/healthz", operation_id="alive", tags=["service"])
    async def alive() -> Response:
        """Whether the process lives."""
        return answer(Health("alive"))

    @app.get("/readyz", operation_id="ready", tags=["service"])
    def ready() -> Response:
        """Whether it can serve: the model is loaded, the log can be read, all streams are restored."""
        if parts.leaving() or not parts.desk.healthy or not parts.store.reachable():
            detail = "The service is ending, or its log can't be reached."
            raise Problem("unavailable", detail, "Ask another replica, or later.", headers={"Retry-After": "1"})
        return answer(Health("ready"))

    @app.get("/metrics", operation_id="metrics", tags=["service"])
    async def metrics(request: Request) -> Response:
        """What Prometheus reads."""
        parts.caller(request, "admin")
        parts.desk.measure()
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(parts.metrics.registry), media_type=content_type)

    @app.get("/openapi.json", operation_id="openapi", tags=["service"])
    async def openapi() -> Response:
        """Describes all of this."""
        return answer(document)

    @app.get("/docs", operation_id="docs", tags=["service"])
    async def docs() -> Response:
        """The same as a page."""
        return Response(page, media_type="text/html")

    described = documents.openapi(app, parts.limits, secured=parts.keys.secured)
    document, page = msgspec.json.encode(described), documents.page(described)
