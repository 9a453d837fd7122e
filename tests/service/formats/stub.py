"""A schema registry as far as its readers see it: HTTP, the documented paths and answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

from service.formats import avro, protobuf
from tests.service.formats.wires import GUID, ID

UNKNOWN = 404, json.dumps({"error_code": 40403, "message": "Schema not found"}).encode()


@dataclass
class Stub:
    """Answers by path, with status and body; `asked` are the requests so far, with their Authorization."""

    url: str = ""
    answers: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    otherwise: tuple[int, bytes] = UNKNOWN
    asked: list[tuple[str, str | None]] = field(default_factory=list)

    def hold(self, name: str, query: str = "", **answer: object) -> None:
        """Know a schema under `ids/N` or `guids/G`."""
        self.answers[f"/schemas/{name}{query}"] = 200, json.dumps(answer).encode()


@contextmanager
def registry() -> Iterator[Stub]:
    """A registry that knows no schema."""
    found = Stub()

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found.asked.append((self.path, self.headers["Authorization"]))
            status, body = found.answers.get(self.path, found.otherwise)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *said: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    thread = Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    found.url = f"http://127.0.0.1:{server.server_port}"
    yield found
    server.shutdown()
    thread.join()
    server.server_close()


def knows_ticks(stub: Stub, kind: str) -> Stub:
    """The stub with the schema of a tick under both of its names."""
    for name in (f"ids/{ID}", f"guids/{GUID}"):
        if kind == "avro":
            stub.hold(name, schema=json.dumps(avro.TICK))
        else:
            stub.hold(name, "?format=serialized", schema=protobuf.tick_file(), schemaType="PROTOBUF")
    return stub
