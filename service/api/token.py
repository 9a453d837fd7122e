"""The opaque state that a stateless client carries: rows of its streams, sealed so that nobody else can make one."""

from __future__ import annotations

import binascii
import hmac
import secrets
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from service.api.problems import Problem
from service.errors import TickwatchError

VERSION = b"tws2"
LEAST_SECRET = 32  # bytes
_START = "Send the streams' ticks without state; they begin anew."


class _Content(msgspec.Struct, array_like=True):
    layout: str
    streams: list[str]
    rows: bytes


@dataclass(frozen=True)
class Seal:
    """Makes and opens states of one layout with a secret; HMAC-SHA256 covers every byte (RFC 2104)."""

    secret: bytes
    layout: str
    row_bytes: int

    def close(self, streams: list[str], rows: NDArray[np.uint8]) -> str:
        """The state of n streams with their rows uint8 [n, row_bytes], as text for a client to keep."""
        content = msgspec.msgpack.encode(_Content(self.layout, streams, rows.tobytes()))
        return binascii.b2a_base64(VERSION + self._mark(content) + content, newline=False).decode()

    def open(self, state: str) -> tuple[list[str], NDArray[np.uint8]]:
        """The streams and rows in a state. Raises Problem when it is not ours, or another model's."""
        try:
            sealed = binascii.a2b_base64(state.encode("ascii"), strict_mode=True)
        except (ValueError, binascii.Error) as error:
            raise self._forged() from error
        mark, content = sealed[4:36], sealed[36:]
        if sealed[:4] != VERSION or not hmac.compare_digest(mark, self._mark(content)):
            raise self._forged()
        found = msgspec.msgpack.decode(content, type=_Content)
        if found.layout != self.layout:
            raise Problem(
                "state-outdated", f"state: it was made by {found.layout}, in use is {self.layout}.", _START, "state"
            )
        return found.streams, np.frombuffer(found.rows, np.uint8).reshape(len(found.streams), self.row_bytes)

    def _mark(self, content: bytes) -> bytes:
        return hmac.digest(self.secret, VERSION + content, "sha256")

    def _forged(self) -> Problem:
        remedy = f"Send the state of an answer unchanged. {_START}"
        return Problem("state-forged", "state: it was changed, cut, or sealed with another secret.", remedy, "state")


def read_secret(path: Path | None) -> bytes:
    """The secret in a file, or without one a random secret. Raises TickwatchError."""
    if path is None:
        return secrets.token_bytes(LEAST_SECRET)
    try:
        found = path.read_bytes().strip()
    except OSError as error:
        raise TickwatchError(f"--state-key-file {path}: cannot be read ({error.strerror})") from error
    if len(found) < LEAST_SECRET:
        raise TickwatchError(
            f"--state-key-file {path}: holds {len(found)} bytes, at least {LEAST_SECRET} are needed;"
            " make one with `openssl rand -hex 32`"
        )
    return found
