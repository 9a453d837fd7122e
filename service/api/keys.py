"""Who may do what: API keys, kept as hashes in a file of JSON lines, and read again when the file changes."""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import secrets
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Literal, get_args

import msgspec

from service.api.problems import Problem
from service.errors import TickwatchError
from service.journal import event

LOG = logging.getLogger("tickwatch")
Scope = Literal["score", "read", "admin"]
LOOK_AGAIN_SECONDS = 1.0
_REMEDY = "Send 'Authorization: Bearer <key>' with a key made by `tickwatch keys create`."


class Key(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One line of the file. `sha256` is that of the whole key, whose 256 random bits make a slow hash needless.

    `prefix` is what the names of all streams that the key may touch begin with; `not_after` is ISO 8601 with a zone.
    """

    id: Annotated[str, msgspec.Meta(pattern="^[a-z0-9]{12}$")]
    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    scopes: list[Scope]
    prefix: str = ""
    not_after: Annotated[datetime, msgspec.Meta(tz=True)] | None = None

    def owns(self, stream: str) -> bool:
        """Whether the key may touch a stream."""
        return stream.startswith(self.prefix)

    def require(self, stream: str, field: str) -> None:
        """Raises Problem when the key may not touch the stream."""
        if not self.owns(stream):
            detail = f"{field}: this key's streams begin with {self.prefix!r}."
            raise Problem("forbidden", detail, "Name the stream so, or use another key.", field)


ANYONE = Key("loopback0000", "0" * 64, ["score", "read", "admin"])  # where no keys are configured


def parse_scopes(text: str) -> list[Scope]:
    """The scopes in a list with commas. Raises TickwatchError."""
    try:
        return msgspec.convert([part.strip() for part in text.split(",")], list[Scope])
    except msgspec.ValidationError as error:
        raise TickwatchError(f"--scopes {text}: give some of {', '.join(get_args(Scope))}, with commas") from error


def create(path: Path, scopes: list[Scope], prefix: str, days: int, now: datetime) -> tuple[Key, str]:
    """Add a new key to the file; returns its line and the key itself, which is kept nowhere. Raises TickwatchError."""
    name = secrets.token_hex(6)
    text = f"tw_{name}_{secrets.token_urlsafe(32)}"
    not_after = now.replace(microsecond=0) + timedelta(days=days) if days else None
    key = Key(name, hashlib.sha256(text.encode()).hexdigest(), scopes, prefix, not_after)
    try:
        if path.exists():
            parse(path)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "ab") as file:
            file.write(msgspec.json.encode(key) + b"\n")
    except OSError as error:
        raise TickwatchError(f"--keys-file {path}: cannot be written ({error.strerror})") from error
    return key, text


def parse(path: Path) -> dict[str, Key]:
    """The keys in a file by their id. Raises TickwatchError, naming the line that is wrong."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise TickwatchError(f"--keys-file {path}: cannot be read ({error.strerror})") from error
    found: dict[str, Key] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            key = msgspec.json.decode(line, type=Key)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise TickwatchError(f"--keys-file {path}, line {number}: {error}; mend or remove the line") from error
        if key.id in found:
            raise TickwatchError(f"--keys-file {path}, line {number}: id {key.id} is there twice; remove one")
        found[key.id] = key
    return found


class Keys:
    """The keys in force. Without a file everyone on this machine may do everything."""

    def __init__(self, path: Path | None, clock: Callable[[], float] = time.time) -> None:
        self.secured = path is not None
        self._path = path
        self._clock = clock
        self._keys = {} if path is None else parse(path)
        self._seen = self._mark()
        self._looked = clock()

    def check(self, authorization: str | None, scope: Scope) -> Key:
        """The key in an Authorization header, if it is in force and has the scope. Raises Problem."""
        if self._path is None:
            return ANYONE
        self.refresh()
        scheme, _, text = (authorization or "").partition(" ")
        text = text.strip()
        if scheme.lower() != "bearer" or not text:
            raise self._unauthorized("There is no API key in the Authorization header.")
        key = self._keys.get(text[3:15])
        found = hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
        if key is None or not hmac.compare_digest(found, key.sha256):
            raise self._unauthorized("The API key is not known.")
        if key.not_after is not None and self._clock() >= key.not_after.timestamp():
            raise self._unauthorized("The API key has expired.")
        if scope not in key.scopes:
            detail = f"The API key has the scopes {', '.join(key.scopes)}; this needs {scope}."
            raise Problem("forbidden", detail, "Use another key.", "Authorization")
        return key

    def refresh(self) -> None:
        """Read the file again if it changed, at most once a second; one that can't be read leaves the keys as they are."""
        now = self._clock()
        if self._path is None or 0 <= now - self._looked < LOOK_AGAIN_SECONDS:
            return
        self._looked = now
        seen = self._mark()
        if seen == self._seen:
            return
        self._seen = seen
        try:
            self._keys = parse(self._path)
            LOG.info("%d API keys are in force", len(self._keys), extra=event("keys_read", keys=len(self._keys)))
        except TickwatchError as error:
            words = "%s; the keys read before stay in force"
            LOG.error(words, error, extra=event("keys_unreadable"))  # noqa: TRY400  (a sentence needs no traceback)

    def _mark(self) -> tuple[int, int, int] | None:
        try:
            stat = None if self._path is None else self._path.stat()
        except OSError:
            return None
        return None if stat is None else (stat.st_mtime_ns, stat.st_size, stat.st_ino)

    def _unauthorized(self, detail: str) -> Problem:
        return Problem("unauthorized", detail, _REMEDY, "Authorization", {"WWW-Authenticate": "Bearer"})
