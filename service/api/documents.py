"""What the interfaces promise, from the code's own schemas: OpenAPI 3.1 for HTTP, AsyncAPI 3.0 for the topics, and a page."""

from __future__ import annotations

import sys
import time
from html import escape
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import msgspec
from fastapi.openapi.utils import get_openapi

from service import __version__
from service.api import wire
from service.api.problems import KINDS, MEDIA_TYPE, ProblemDetails
from service.ticks import MAX_STREAM_LENGTH

if TYPE_CHECKING:
    from fastapi import FastAPI

    from service.api.app import Limits

REFERENCES = "#/components/schemas/{name}"
TICK = {"ts": 1_700_000_000_000_000_000, "price": 189.98, "size": 100.0, "bid": 189.97, "ask": 189.99}
EXAMPLES = {"Tick": {"examples": [{"payload": {"stream": "AAPL"} | TICK}]}}
ANSWERS = {
    "score": wire.ScoreAnswer,
    "send_ticks": wire.TicksAnswer,
    "list_streams": wire.StreamsAnswer,
    "get_stream": wire.StreamDetail,
    "list_alerts": wire.AlertsAnswer,
    "list_models": wire.ModelsAnswer,
    "alive": wire.Health,
    "ready": wire.Health,
}
OTHER_ANSWERS = {
    "follow_alerts": "text/event-stream",
    "metrics": "text/plain",
    "openapi": wire.JSON,
    "docs": "text/html",
}
_BODY = (400, 408, 413, 415, 422, 429, 431, 503, 504)
_PROTECTED = (401, 403, 421)
PROBLEMS = {
    "score": (*_BODY, *_PROTECTED, 409),
    "send_ticks": (*_BODY, *_PROTECTED, 409),
    "delete_stream": (*_PROTECTED, 404, 422, 429, 503, 504),
    "list_streams": (*_PROTECTED, 422),
    "get_stream": (*_PROTECTED, 404, 422),
    "list_alerts": (*_PROTECTED, 422),
    "follow_alerts": (*_PROTECTED, 422, 429),
    "list_models": _PROTECTED,
    "metrics": _PROTECTED,
    "ready": (421, 503),
    "alive": (421,),
    "openapi": (421,),
    "docs": (421,),
}
_DEADLINE = {
    "name": "Deadline-Ms",
    "in": "header",
    "description": "milliseconds after which the ticks need not be scored any more",
    "schema": {"type": "string", "pattern": "^[1-9][0-9]{0,4}$"},
}
_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "a text of your choice, new for each request; repeated with the same ticks it gives the same answer",
    "schema": {"type": "string", "pattern": "^[!-~]{1,255}$"},
}
_LAST_EVENT = {
    "name": "Last-Event-ID",
    "in": "header",
    "description": "id of the last event that came, to go on behind it",
    "schema": {"type": "string", "pattern": "^[0-9]{1,18}$"},
}
HEADERS = {
    "score": [_DEADLINE],
    "send_ticks": [_DEADLINE, _KEY],
    "delete_stream": [_DEADLINE],
    "follow_alerts": [_LAST_EVENT],
}


def schemas(reference: str = REFERENCES) -> dict[str, Any]:
    """JSON Schema 2020-12 of everything that travels, by name."""
    types = [wire.ScoreRequest, wire.TicksRequest, wire.AlertEvent, ProblemDetails, *ANSWERS.values()]
    _, found = msgspec.json.schema_components(types, ref_template=reference)
    kept = found["Tick"]
    for name in ("ts", "seq"):
        kept["properties"][name]["anyOf"] = [c for c in kept["properties"][name]["anyOf"] if c.get("type") != "number"]
    found["StreamTick"] = kept | {
        "title": "StreamTick",
        "properties": {name: what for name, what in kept["properties"].items() if name != "stream"},
    }
    properties = kept["properties"] | {"stream": _without_null(kept["properties"]["stream"])}
    found["Tick"] = kept | {"properties": properties, "required": ["stream", *kept["required"]]}
    found["TicksRequest"]["properties"]["ticks"]["items"] = {"$ref": reference.format(name="StreamTick")}
    found["TicksAnswer"]["properties"]["ticks"]["items"] = {"$ref": reference.format(name="TickScore")}
    return found


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    (only,) = (choice for choice in schema["anyOf"] if choice != {"type": "null"})
    return dict(only)


def openapi(app: FastAPI, limits: Limits, *, secured: bool) -> dict[str, Any]:
    """The OpenAPI document of the application's routes; `secured` where keys are needed."""
    document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    document["openapi"] = "3.1.0"
    document["servers"] = [{"url": "/"}]
    document["components"] = {
        "schemas": schemas(),
        "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "description": "an API key"}},
    }
    for name in ("ScoreRequest", "TicksRequest"):
        document["components"]["schemas"][name]["properties"]["ticks"]["maxItems"] = limits.request_ticks
    for path, operations in document["paths"].items():
        for operation in operations.values():
            _complete(operation, path, secured=secured)
    _link(document["paths"])
    return document


def _complete(operation: dict[str, Any], path: str, *, secured: bool) -> None:
    name = operation["operationId"]
    operation["responses"] = {str(status): _problem(status) for status in sorted(PROBLEMS[name])}
    if name in ANSWERS:
        operation["responses"]["200"] = _success({wire.JSON: _reference(ANSWERS[name].__name__)})
    elif name in OTHER_ANSWERS:
        operation["responses"]["200"] = _success({OTHER_ANSWERS[name]: {}})
    else:
        operation["responses"]["204"] = {"description": "done"}
    if secured and 401 in PROBLEMS[name]:
        operation["security"] = [{"key": []}]
    operation["parameters"] = operation.get("parameters", []) + HEADERS.get(name, [])
    if "{stream}" in path:
        (stream,) = (p for p in operation["parameters"] if p["name"] == "stream")
        stream["schema"] = {"type": "string", "minLength": 1, "maxLength": MAX_STREAM_LENGTH}
    if name == "score":
        operation["requestBody"] = _body("ScoreRequest", "Tick", {"ticks": [{"stream": "AAPL"} | TICK]})
    elif name == "send_ticks":
        operation["requestBody"] = _body("TicksRequest", "StreamTick", {"ticks": [TICK]})


def _reference(name: str) -> dict[str, Any]:
    return {"schema": {"$ref": REFERENCES.format(name=name)}}


def _success(content: dict[str, Any]) -> dict[str, Any]:
    return {"description": "done", "content": content}


def _problem(status: int) -> dict[str, Any]:
    titles = [kind.title for kind in KINDS.values() if kind.status == status]
    return {"description": "; ".join(titles), "content": {MEDIA_TYPE: _reference("ProblemDetails")}}


def _body(name: str, tick: str, example: dict[str, Any]) -> dict[str, Any]:
    lines = f"a tick a line, each a {tick}; before them may stand a line with the state"
    columns = (
        "an Arrow IPC stream with columns named as the fields of a tick; metadata of the schema may hold the state"
    )
    return {
        "required": True,
        "content": {
            wire.JSON: _reference(name) | {"example": example},
            wire.NDJSON: {"schema": {"type": "string", "description": lines}},
            wire.ARROW: {"schema": {"type": "string", "format": "binary", "description": columns}},
        },
    }


def _link(paths: dict[str, Any]) -> None:
    """Where an answer leads to."""
    sent = paths["/v1/streams/{stream}/ticks"]["post"]["responses"]["200"]
    parameters = {"stream": "$request.path.stream"}
    sent["links"] = {
        "look": {"operationId": "get_stream", "parameters": parameters},
        "send": {"operationId": "send_ticks", "parameters": parameters},
        "delete": {"operationId": "delete_stream", "parameters": parameters},
    }
    alerts = paths["/v1/alerts"]["get"]["responses"]["200"]
    alerts["links"] = {"next": {"operationId": "list_alerts", "parameters": {"after": "$response.body#/after"}}}


def asyncapi() -> dict[str, Any]:
    """The AsyncAPI document of the topics that a worker reads and writes."""
    found = schemas()
    topics = {
        "ticks": ("receive", "Tick", "A tick as JSON; the key of the record may stand for `stream`."),
        "alerts": ("send", "AlertEvent", "An alert, keyed by its stream."),
    }
    wanted = ("Tick", "AlertEvent", "Alert", "Reason")
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "tickwatch",
            "version": __version__,
            "description": "What `tickwatch worker` reads and writes. Names are those of the defaults.",
        },
        "defaultContentType": wire.JSON,
        "channels": {
            topic: {"address": topic, "messages": {name: {"$ref": f"#/components/messages/{name}"}}}
            for topic, (_, name, _) in topics.items()
        },
        "operations": {
            topic: {"action": action, "channel": {"$ref": f"#/channels/{topic}"}}
            for topic, (action, _, _) in topics.items()
        },
        "components": {
            "messages": {
                name: {"summary": text, "payload": {"$ref": REFERENCES.format(name=name)}, **EXAMPLES.get(name, {})}
                for _, name, text in topics.values()
            },
            "schemas": {name: found[name] for name in wanted},
        },
    }


def page(document: dict[str, Any]) -> bytes:
    """The OpenAPI document for reading, without foreign code: paths, parameters, and the kinds of problems."""
    parts = [f"<!doctype html><meta charset=utf-8><title>tickwatch</title><style>{_STYLE}</style><h1>tickwatch</h1>"]
    parts.append(
        f"<p>{escape(document['info']['description'])} The schemas: <a href=/openapi.json>openapi.json</a></p>"
    )
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            parts.append(
                f"<h2><code>{method.upper()} {escape(path)}</code></h2><p>{escape(operation['description'])}</p>"
            )
            rows = "".join(
                f"<tr><td><code>{escape(p['name'])}</code><td>{p['in']}<td>{escape(p.get('description', ''))}"
                for p in operation["parameters"]
            )
            parts.append(f"<table>{rows}</table><p>Answers: {', '.join(sorted(operation['responses']))}</p>")
            example = operation.get("requestBody", {}).get("content", {}).get(wire.JSON, {}).get("example")
            if example:
                parts.append(f"<pre>{escape(msgspec.json.encode(example).decode())}</pre>")
    parts.append("<h2>Problems</h2><table>")
    parts += [f"<tr id={name}><td>{kind.status}<td>{name}<td>{escape(kind.title)}" for name, kind in KINDS.items()]
    return "".join([*parts, "</table>"]).encode()


_STYLE = "body{font:1rem/1.5 sans-serif;max-width:50rem;margin:2rem auto}td{padding:0 1rem 0 0}pre{overflow:auto}"


def openapi_of_defaults() -> dict[str, Any]:
    """The OpenAPI document of a service with keys and the limits that are usual."""
    from service.api.app import Limits, Parts, build  # noqa: PLC0415  (app imports this file)

    nobody: Any = SimpleNamespace(secured=True, on_alerts=None, wake=None)
    parts = Parts(nobody, nobody, nobody, nobody, nobody, nobody, nobody, nobody, Limits(), time.time, lambda: False)
    return openapi(build(parts), Limits(), secured=True)


if __name__ == "__main__":  # python -m service.api.documents openapi > docs/openapi.json
    found = {"openapi": openapi_of_defaults, "asyncapi": asyncapi}[sys.argv[1]]()
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(found), indent=1).decode() + "\n")
