"""The way to the routes that score: FastAPI's own costs several times what scoring a tick does."""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from service.api.problems import Problem, respond


class Direct:
    """An application whose routes `names` are called at once, with the request and what the path says.

    They stay FastAPI's: it knows their paths and methods, describes them, and answers for other methods. Their endpoints
    may have no parameters beside those of the path.
    """

    def __init__(self, app: FastAPI, names: frozenset[str]) -> None:
        self._app = app
        self._routes = [route for route in app.routes if isinstance(route, APIRoute) and route.operation_id in names]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "http":
            for route in self._routes:
                found = route.path_regex.match(scope["path"])
                if found and scope["method"] in (route.methods or ()):
                    scope["route"] = route
                    try:
                        response = await route.endpoint(Request(scope, receive), **found.groupdict())
                    except Problem as problem:
                        response = respond(problem)
                    await response(scope, receive, send)
                    return
        await self._app(scope, receive, send)
