"""Sockets of kafka-python that take what has arrived in large pieces, and are closed whenever it forgets them.

kafka-python 3.0.12 asks for 4 KiB at a time (net/transport.py, `_sock_recv`), which is a system call, and a turn of the
interpreter given away, for each of them. A socket that is refused, or whose client is closed while it connects, it leaves to
the garbage collector (net/inet.py, `sock_connect`), so a broker that is away costs a descriptor an attempt. What opens a
connection is looked up by the scheme of a proxy's address (net/inet.py, `KafkaNetSocket`); here is one more, without a proxy.
"""

from __future__ import annotations

import socket
from typing import Any

from kafka.net import KafkaNetSocket

PIECE = 256 * 1024  # bytes
DIRECT = "tickwatch-direct"


class Socket(socket.socket):
    """One that takes more than it is asked to."""

    def recv(self, size: int, flags: int = 0) -> bytes:
        """At most PIECE bytes of what is there."""
        return super().recv(max(size, PIECE), flags)

    def __del__(self) -> None:
        """Close it: one that has something to send when its client ends is never closed (net/transport.py, `close`)."""
        self.close()


class Direct(KafkaNetSocket):  # type: ignore[misc]
    """Connects to brokers directly."""

    SCHEMES = (DIRECT,)

    def socket(self, family: int = socket.AF_UNSPEC, sock_type: int = socket.SOCK_STREAM, proto: int = 0) -> Socket:
        """A socket that is not connected yet."""
        return Socket(family, sock_type, proto)

    async def sock_connect(self, net: Any, sock: Socket, sockaddr: Any, timeout_at: float | None = None) -> Socket:
        """The socket, connected. Raises what kafka-python does, with the socket closed."""
        try:
            await super().sock_connect(net, sock, sockaddr, timeout_at)
        except BaseException:  # a coroutine that is closed ends by GeneratorExit
            sock.close()
            raise
        return sock
