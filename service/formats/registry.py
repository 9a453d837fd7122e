"""Schemas from a schema registry that speaks Confluent's HTTP interface."""

from __future__ import annotations

import base64
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Generic, TypeVar
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import msgspec

from service.errors import TickwatchError
from service.formats.framing import Unreadable

ANSWER_S = 3.0
PAUSES_S = (0.5, 1.5)  # between attempts; after that the worker ends, and its supervisor starts it again
ASK_AGAIN_S = 30.0  # for a schema that was unknown: it may be registered by then
MOST_BYTES = 2**20
MOST_REFUSED = 1000

Reader = TypeVar("Reader")


class Answer(msgspec.Struct):
    """What a registry says of a schema."""

    schema: str
    kind: str = msgspec.field(name="schemaType", default="AVRO")
    references: list[msgspec.Raw] = msgspec.field(default_factory=list)


class Problem(msgspec.Struct):
    """What a registry says instead."""

    error_code: int


@dataclass(frozen=True)
class Registry:
    """A schema registry at a URL; `login` is `user:password`, or empty; `ca_file` PEM of the authorities to trust."""

    url: str
    login: str = field(default="", repr=False)
    ca_file: Path | None = None
    sleep: Callable[[float], None] = time.sleep

    def __post_init__(self) -> None:
        if urlsplit(self.url).scheme not in ("http", "https"):
            raise TickwatchError(f"--schema-registry {self.url!r} must begin with http:// or https://")

    def ask(self, path: str) -> bytes | None:
        """The answer to GET `path`; None if it knows no such thing. Raises TickwatchError when a person has to act."""
        request = Request(f"{self.url.rstrip('/')}/{path}")  # noqa: S310  (its scheme was checked)
        if self.login:
            request.add_header("Authorization", f"Basic {base64.b64encode(self.login.encode()).decode()}")
        for pause in (*PAUSES_S, None):
            try:
                return self._get(request)
            except (OSError, HTTPException) as error:
                if pause is None:
                    raise TickwatchError(
                        f"schema registry at {request.full_url}: no answer in {len(PAUSES_S) + 1} attempts ({error});"
                        " is it running, is --schema-registry right?"
                    ) from error
                self.sleep(pause)
        return None

    def _get(self, request: Request) -> bytes | None:
        tls = ssl.create_default_context(cafile=self.ca_file) if request.type == "https" else None
        try:
            with urlopen(request, timeout=ANSWER_S, context=tls) as answer:  # noqa: S310
                found: bytes = answer.read(MOST_BYTES)
                return found
        except HTTPError as error:
            with error:
                if error.code in (401, 403):
                    raise TickwatchError(
                        f"schema registry at {request.full_url}: refuses us ({error.code}); check the login in"
                        " --schema-registry-login-file"
                    ) from error
                if error.code != 404:
                    raise
                try:
                    msgspec.json.decode(error.read(MOST_BYTES), type=Problem)
                except msgspec.DecodeError:
                    raise TickwatchError(
                        f"{request.full_url} is not found, and what answers is no schema registry: check --schema-registry"
                    ) from error
                return None


class Schemas(Generic[Reader]):
    """What reads the records of each schema of one kind, AVRO or PROTOBUF, made once by `parse` from the registry's text."""

    def __init__(
        self,
        registry: Registry,
        kind: str,
        parse: Callable[[str], Reader],
        query: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._registry = registry
        self._kind = kind
        self._parse = parse
        self._query = query
        self._clock = clock
        self._readers: dict[str, Reader] = {}
        self._refused: dict[str, tuple[float, str]] = {}

    def get(self, name: str) -> Reader:
        """The reader of the schema with this name. Raises Unreadable, and TickwatchError if the registry does not answer."""
        found = self._readers.get(name)
        if found is not None:
            return found
        until, why = self._refused.get(name, (0.0, ""))
        if self._clock() < until:
            raise Unreadable(why)
        try:
            found = self._readers[name] = self._make(name)
        except Unreadable as unreadable:
            # names come from records: whoever writes them must not fill our memory
            if len(self._refused) >= MOST_REFUSED:
                self._refused.clear()
            self._refused[name] = self._clock() + ASK_AGAIN_S, str(unreadable)
            raise
        return found

    def _make(self, name: str) -> Reader:
        body = self._registry.ask(f"schemas/{name}{self._query}")
        if body is None:
            raise Unreadable(f"schema {name} is unknown to the schema registry")
        try:
            answer = msgspec.json.decode(body, type=Answer)
        except msgspec.DecodeError as error:
            raise TickwatchError(
                f"schema registry at {self._registry.url}: not an answer to {name}: {error}"
            ) from error
        if answer.kind != self._kind:
            raise Unreadable(f"schema {name} is {answer.kind}, --format reads {self._kind}")
        if answer.references:
            raise Unreadable(f"schema {name} refers to other schemas; a tick must stand in one")
        try:
            return self._parse(answer.schema)
        except Unreadable as error:
            raise Unreadable(f"schema {name}: {error}") from error
