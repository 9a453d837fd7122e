"""Everything that can be wrong with a request, as problem details (RFC 9457)."""

from __future__ import annotations

from typing import NamedTuple

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match

MEDIA_TYPE = "application/problem+json"


class Kind(NamedTuple):
    """A problem's status, and a title that is the same whenever it occurs."""

    status: int
    title: str


KINDS = {
    "bad-request": Kind(400, "The request is not HTTP that can be served"),
    "unauthorized": Kind(401, "A valid API key is needed"),
    "forbidden": Kind(403, "The API key does not allow this"),
    "state-forged": Kind(403, "The state was not made by this service"),
    "too-many-streams": Kind(403, "The API key holds as many streams as it may"),
    "not-found": Kind(404, "There is no such thing"),
    "method": Kind(405, "The resource does not know this method"),
    "timeout": Kind(408, "The request came too slowly"),
    "ahead": Kind(409, "The tick lies in the future"),
    "state-outdated": Kind(409, "The state was made by another model"),
    "too-large": Kind(413, "The request is too large"),
    "media-type": Kind(415, "The body has a type that is not understood"),
    "misdirected": Kind(421, "The request was meant for another host"),
    "invalid": Kind(422, "The request does not say what it must"),
    "key-reused": Kind(409, "The idempotency key belongs to another request"),
    "busy": Kind(429, "Too much is waiting already"),
    "deadline": Kind(429, "Too much was waiting to score the ticks before their deadline"),
    "headers-too-large": Kind(431, "The headers are too large"),
    "internal": Kind(500, "The service failed"),
    "unavailable": Kind(503, "The service cannot do this now"),
    "stalled": Kind(504, "The result could not be made durable in time"),
}


class ProblemDetails(msgspec.Struct, frozen=True, omit_defaults=True):
    """The body of every answer that is no success. `field` names what is at fault, `remedy` says what to do."""

    type: str
    title: str
    status: int
    detail: str
    remedy: str
    field: str = ""


class Problem(Exception):
    """Ends a request with problem details. `kind` is one of KINDS; `detail` says what is wrong here, `remedy` what to do."""

    def __init__(
        self, kind: str, detail: str, remedy: str, field: str = "", headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        status, title = KINDS[kind]
        self.details = ProblemDetails(f"/docs#{kind}", title, status, detail, remedy, field)
        self.headers = headers or {}

    @property
    def body(self) -> bytes:
        """The JSON to send."""
        return msgspec.json.encode(self.details)


def internal() -> Problem:
    """A failure of ours; what it was stands in the service's own log and nowhere else."""
    return Problem("internal", "An error that nobody foresaw ended this request.", "Try again later; retries are safe.")


def respond(error: Exception) -> Response:
    """Problem details as a response; of an error that is no Problem nothing is told."""
    problem = error if isinstance(error, Problem) else internal()
    return Response(problem.body, problem.details.status, problem.headers, MEDIA_TYPE)


def routing_problem(request: Request, error: Exception) -> Response:
    """No such path, or none with this method."""
    allow = sorted(
        {
            method
            for route in request.app.routes
            if route.matches(request.scope)[0] is not Match.NONE
            for method in getattr(route, "methods", None) or ()
        }
    )
    if allow:
        methods = ", ".join(allow)
        headers = {"Allow": methods}
        return respond(Problem("method", f"{request.method} is not known here.", f"Use {methods}.", headers=headers))
    return respond(Problem("not-found", "There is nothing under this path.", "See /docs for the paths there are."))


def validation_problem(error: Exception) -> Response:
    """A parameter that does not do; the first of them."""
    first = error.errors()[0]  # type: ignore[attr-defined]
    name = str(first["loc"][-1])
    return respond(Problem("invalid", f"{name}: {first['msg']}", "Correct it; see /docs.", name))
