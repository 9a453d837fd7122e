"""Reads a request's body within its limits of size, as sent and as unpacked, and of time."""

from __future__ import annotations

import asyncio
import zlib

from starlette.types import Receive

from service.api.problems import Problem

SECONDS = 20.0  # for a whole body to arrive
_CLOSE = {"Connection": "close"}  # what still comes of the body must not be waited for


async def read_body(receive: Receive, headers: dict[str, str], most: int, seconds: float = SECONDS) -> bytes:
    """The unpacked body. Raises Problem when it is larger than `most` bytes, too slow, or packed in an unknown way."""
    encoding = headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", "gzip"):
        detail = f"Content-Encoding {encoding[:100]!r} is not understood."
        raise Problem("media-type", detail, "Send the body plain or as gzip.", "Content-Encoding", _CLOSE)
    length = headers.get("content-length", "")
    if length.isdecimal() and int(length) > most:
        raise _too_large(most)
    try:
        async with asyncio.timeout(seconds):
            body = await _gather(receive, most)
    except TimeoutError as error:
        detail = f"The body did not arrive within {seconds:g} s."
        raise Problem("timeout", detail, "Send it faster, or in smaller requests.", headers=_CLOSE) from error
    return body if encoding == "identity" else _unzip(body, most)


async def _gather(receive: Receive, most: int) -> bytes:
    parts: list[bytes] = []
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Problem("timeout", "The client went away.", "Stay connected.", headers=_CLOSE)
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > most:
            raise _too_large(most)
        more = message.get("more_body", False)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _unzip(body: bytes, most: int) -> bytes:
    unpacker = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    try:
        found = unpacker.decompress(body, most + 1)
    except zlib.error as error:
        raise _not_gzip(str(error)) from error
    if len(found) > most:
        raise _too_large(most)
    if not unpacker.eof or unpacker.unused_data:
        raise _not_gzip("it is cut short, or more follows its end")
    return found


def _not_gzip(why: str) -> Problem:
    return Problem("invalid", f"The body is not gzip: {why}.", "Send one whole gzip member.", "Content-Encoding")


def _too_large(most: int) -> Problem:
    detail = f"The body is larger than {most} bytes, as sent or as unpacked."
    return Problem("too-large", detail, "Send fewer ticks at a time.", "body", _CLOSE)
