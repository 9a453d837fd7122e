"""Sockets of kafka-python take what has arrived at once, and are closed when they can't connect."""

from __future__ import annotations

import errno
import gc
import socket
import warnings

import pytest
from kafka import KafkaConsumer
from kafka.net import KafkaNetSocket
from kafka.net.transport import KafkaTCPTransport

from service.connection import KafkaSettings, Unreachable, connect
from service.sockets import DIRECT, Direct

SENT = 64 * 1024


def test_much_is_taken_at_once() -> None:
    """As kafka-python makes the socket, and asks it for 4 KiB."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = KafkaNetSocket(f"{DIRECT}://").socket(socket.AF_INET, socket.SOCK_STREAM)
        ours.connect(server.getsockname())
        theirs, _ = server.accept()
        with ours, theirs:
            theirs.sendall(bytes(SENT))
            ours.recv_into(bytearray(SENT), SENT, socket.MSG_WAITALL | socket.MSG_PEEK)  # it is all there
            assert len(ours.recv(4096)) == SENT


def test_a_broker_that_is_away_leaves_no_open_socket_behind() -> None:
    gc.collect()
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    with warnings.catch_warnings(record=True) as left:
        warnings.simplefilter("always", ResourceWarning)
        with pytest.raises(Unreachable):
            connect(KafkaSettings(bootstrap_servers=address), KafkaConsumer)
        gc.collect()
    assert left == []


class Ended:
    """The loop of a client that has ended: nothing is done any more."""

    def call_soon(self, task: object) -> None:
        """Never."""


def test_a_connection_that_has_something_to_send_when_its_client_ends_leaves_no_open_socket_behind() -> None:
    gc.collect()
    with warnings.catch_warnings(record=True) as left, socket.create_server(("127.0.0.1", 0)) as server:
        warnings.simplefilter("always", ResourceWarning)
        ours = KafkaNetSocket(f"{DIRECT}://").socket(socket.AF_INET, socket.SOCK_STREAM)
        ours.connect(server.getsockname())
        transport = KafkaTCPTransport(Ended(), ours)
        transport.write(b"a heartbeat")
        transport.close()
        assert ours.fileno() >= 0
        del transport, ours
        gc.collect()
    assert left == []


class Endless:
    """Waits for a connection as long as it may."""

    async def wait_write(self, _sock: socket.socket, timeout_at: float | None) -> None:
        assert timeout_at is None
        await self

    def __await__(self):  # type: ignore[no-untyped-def]
        yield


def test_a_client_that_is_closed_while_it_connects_leaves_no_open_socket_behind() -> None:
    direct = Direct(f"{DIRECT}://")
    direct.connect_ex = lambda _sock, _address: errno.EINPROGRESS
    sock = direct.socket(socket.AF_INET)
    connecting = direct.sock_connect(Endless(), sock, ("127.0.0.1", 9092))
    connecting.send(None)
    assert sock.fileno() >= 0
    connecting.close()
    assert sock.fileno() == -1
