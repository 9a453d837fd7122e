"""Connections that dawdle: uvicorn waits for headers, and for a client to read its answer, as long as it takes."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.api.problems import MEDIA_TYPE, Problem

HEADER_SECONDS = 10.0
WRITE_SECONDS = 30.0
KEEP_ALIVE_SECONDS = 75  # longer than clients and proxies keep one: who sends while it is closed has lost a request
LINGER_SECONDS = 1.0  # a socket that is closed while more comes in takes its last answer back
HEADER_BYTES = 64 * 1024
CONNECTIONS = 2000


class Gathering:
    """A transport that sends what is written in one turn of the loop in one system call; uvicorn writes head and body apart."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._written: list[bytes] = []
        self.is_closing = transport.is_closing

    def write(self, data: bytes) -> None:
        if not self._written:
            self._loop.call_soon(self._flush)
        self._written.append(data)

    def _flush(self) -> None:
        if self._written and not self.is_closing():
            self._transport.write(b"".join(self._written))
        self._written.clear()

    def write_eof(self) -> None:
        self._flush()
        if self._transport.can_write_eof():
            self._transport.write_eof()

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def abort(self) -> None:
        self._transport.abort()


class Guard(HttpToolsProtocol):
    """uvicorn's protocol with limits: seconds and bytes of a request's headers, seconds of a blocked answer, connections."""

    header_seconds = HEADER_SECONDS
    write_seconds = WRITE_SECONDS
    connections_allowed = CONNECTIONS

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._patience: asyncio.TimerHandle | None = None  # with headers that are not complete
        self._unread: asyncio.TimerHandle | None = None
        self._in_headers = self._refused = False
        self._header_bytes = 0
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        self.transport = Gathering(self.transport, self.loop)  # type: ignore[assignment]
        if len(self.connections) > self.connections_allowed:
            self._refuse(Problem("unavailable", "Too many connections are open.", "Try again later."))
            return
        self._await_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._headers_came()
        self.resume_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused or self.transport.is_closing():
            return
        self._received = data
        super().data_received(data)
        if self._in_headers:
            self._await_headers()  # only now, for most requests come whole
            self._header_bytes += len(data)
            if self._header_bytes > HEADER_BYTES:
                detail = f"The headers are larger than {HEADER_BYTES} bytes."
                self._refuse(Problem("headers-too-large", detail, "Send fewer or shorter headers."))

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_headers = True

    def on_headers_complete(self) -> None:
        self._headers_came()
        super().on_headers_complete()

    def _await_headers(self) -> None:
        if self._patience is None:
            self._header_bytes = 0
            self._patience = self.loop.call_later(self.header_seconds, self._too_slow)

    def _headers_came(self) -> None:
        self._in_headers = False
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _too_slow(self) -> None:
        detail = f"The headers did not arrive within {self.header_seconds:g} s."
        self._refuse(Problem("timeout", detail, "Send the whole request at once."))

    def _should_upgrade(self) -> bool:
        return self.parser.get_method() != b"CONNECT"

    def handle_websocket_upgrade(self) -> None:
        """Ignore an offer to upgrade (RFC 9110, 7.8), as Java and curl make one to HTTP/2: read the request without it.

        httptools takes the body for the other protocol's, and says in its exception where that begins.
        """
        (begin,) = sys.exception().args  # type: ignore[union-attr]
        lines = [b"%b: %b" % header for header in self.headers if header[0] != b"upgrade"]
        start = b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
        self.parser = httptools.HttpRequestParser(self)
        self.data_received(b"\r\n".join([start, *lines, b"", self._received[begin:]]))

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread = self._unread or self.loop.call_later(self.write_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def send_400_response(self, msg: str) -> None:
        self._refuse(Problem("bad-request", msg, "Send HTTP/1.1."))

    def _refuse(self, problem: Problem) -> None:
        """Answer before there is a request, and close."""
        self._headers_came()
        if self._refused or self.transport.is_closing():
            return
        self._refused = True
        body = problem.body
        head = (
            f"HTTP/1.1 {problem.details.status} \r\ncontent-type: {MEDIA_TYPE}\r\ncontent-length: {len(body)}\r\n"
            "x-content-type-options: nosniff\r\ncache-control: no-store\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.write_eof()
        self.loop.call_later(LINGER_SECONDS, self.transport.close)
