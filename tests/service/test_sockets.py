"""Sockets of kafka-python take what has arrived at once."""

from __future__ import annotations

import socket

from kafka.net import KafkaNetSocket

from service.sockets import DIRECT

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
