"""What scoring costs over HTTP: requests per second, latency and CPU against FastAPI routes that decode and echo.

python benchmarks/serve.py [--seconds S] [--rounds R] [--requests N]

There are two such routes: `msgspec` decodes with the schema of the scoring route and encodes what it got, `pydantic` is FastAPI
as its tutorial has it, the same fields declared as a model. All servers are uvicorn with one process and the same settings;
wrk asks one after the other, several rounds, and the medians are compared. `--requests` also sends so many requests to the
scoring server and prints its memory as it goes.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import NamedTuple

import msgspec
import uvicorn
from fastapi import FastAPI, Request, Response
from pydantic import BaseModel

from service.api.serve import Options, serve
from service.api.wire import ScoreRequest
from service.ticks import encode
from tests.samples import random_ticks

MIB = 2**20
SCRIPT = """
local file = io.open("{body}", "rb")
wrk.method, wrk.body = "POST", file:read("*a")
wrk.headers["Content-Type"] = "application/json"
{request}
"""
OWN_STREAM = """
local threads = 0
function setup(thread) thread:set("id", threads); threads = threads + 1 end
local n = 0
function request() n = (n + 1) % 500; return wrk.format(nil, "/v1/streams/S" .. id .. "-" .. n .. "/ticks") end
"""


class Load(NamedTuple):
    """A kind of traffic: its name, path, body, connections, and whether each request goes to another stream."""

    name: str
    path: str
    body: bytes
    connections: int
    spread: bool


class Measured(NamedTuple):
    """Requests per second, the median latency in milliseconds, and the server's CPU in microseconds per request."""

    rate: float
    p50: float
    cpu: float


class Tick(BaseModel):
    """A tick as a FastAPI route declares it."""

    ts: int
    price: float
    stream: str | None = None
    size: float | None = None
    bid: float | None = None
    ask: float | None = None
    bid_size: float | None = None
    ask_size: float | None = None
    seq: int | None = None


class Ticks(BaseModel):
    """A request of such ticks."""

    ticks: list[Tick]
    state: str | None = None


def echo(kind: str, port: int) -> None:
    """Decode a request and send its ticks back."""
    app = FastAPI(openapi_url=None)
    decode = msgspec.json.Decoder(ScoreRequest).decode
    encode_json = msgspec.json.Encoder().encode
    if kind == "msgspec":

        @app.post("/{path:path}")
        async def route(request: Request) -> Response:
            return Response(encode_json(decode(await request.body())), media_type="application/json")

    else:

        @app.post("/{path:path}")
        async def declared(ticks: Ticks) -> Ticks:
            return ticks

    uvicorn.run(app, port=port, log_level="critical", access_log=False, loop="uvloop", http="httptools")


class Running(NamedTuple):
    """A server in a process of its own."""

    process: subprocess.Popen[bytes]
    url: str

    def cpu(self) -> float:
        """Seconds of CPU so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def resident(self) -> float:
        """MiB of memory."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * 4096 / MIB


def start(kind: str, folder: Path) -> Running:
    """Start a server and wait until it answers."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, __file__, "--serve", kind, "--port", str(port), "--folder", str(folder)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)  # noqa: S603  (this very file)
    url = f"http://127.0.0.1:{port}"
    for _ in range(300):
        try:
            urllib.request.urlopen(f"{url}/healthz", timeout=1).close()  # noqa: S310
        except urllib.error.HTTPError:
            return Running(process, url)
        except OSError:
            time.sleep(0.1)
        else:
            return Running(process, url)
    raise SystemExit(f"the {kind} server did not start")


def load(server: Running, traffic: Load, seconds: int, folder: Path) -> Measured:
    """Ask with wrk for some seconds."""
    (folder / "body").write_bytes(traffic.body)
    (folder / "load.lua").write_text(SCRIPT.format(body=folder / "body", request=OWN_STREAM if traffic.spread else ""))
    command = ["wrk", "-t1", f"-c{traffic.connections}", f"-d{seconds}s", "--latency", "-s", str(folder / "load.lua")]
    before = server.cpu()
    asked = subprocess.run([*command, server.url + traffic.path], check=True, capture_output=True, text=True)  # noqa: S603
    cpu = server.cpu() - before
    text = asked.stdout
    if "Non-2xx" in text:
        raise SystemExit(f"{traffic.name}: some requests failed\n{text}")
    rate = re.search(r"Requests/sec: +([\d.]+)", text)
    requests = re.search(r"(\d+) requests in", text)
    p50 = re.search(r"50% +([\d.]+)(us|ms|s)", text)
    if not rate or not p50 or not requests:
        raise SystemExit(f"{traffic.name}: wrk said\n{text}")
    milliseconds = float(p50[1]) * {"us": 1e-3, "ms": 1.0, "s": 1e3}[p50[2]]
    return Measured(float(rate[1]), milliseconds, cpu / int(requests[1]) * 1e6)


def body(n: int, streams: int, *, named: bool = True) -> bytes:
    """A request with n ticks."""
    lines = encode(random_ticks(n, streams=streams))
    if not named:
        lines = [line.replace(b'"stream":"S0",', b"") for line in lines]
    return b'{"ticks":[' + b",".join(lines) + b"]}"


ECHOES = ("msgspec", "pydantic")
LOADS = [
    Load("100 ticks of 10 streams, stateless, 8 connections", "/v1/score", body(100, 10), 8, spread=False),
    Load("100 ticks of one stream, stateful, 8 connections", "", body(100, 1, named=False), 8, spread=True),
    Load("one tick, stateless, 200 connections", "/v1/score", body(1, 1), 200, spread=False),
    Load("one tick, stateful, 200 connections", "", body(1, 1, named=False), 200, spread=True),
]


def compare(rounds: int, seconds: int, requests: int) -> None:
    """All servers under each load in turn, then memory."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        servers = {kind: start(kind, folder) for kind in (*ECHOES, "score")}
        try:
            print("| load | server | requests/s | scoring's ratio | p50, ms | scoring's ratio | CPU, us per request |")
            print("|---|---|---:|---:|---:|---:|---:|")
            for traffic in LOADS:
                found: dict[str, list[Measured]] = {kind: [] for kind in servers}
                for _ in range(rounds):
                    for kind, server in servers.items():
                        found[kind].append(load(server, traffic, seconds, folder))
                middle = {kind: Measured(*map(statistics.median, zip(*found[kind], strict=True))) for kind in servers}
                score = middle["score"]
                for kind, one in middle.items():
                    print(
                        f"| {traffic.name} | {kind} | {one.rate:,.0f} | {score.rate / one.rate:.2f}"
                        f" | {one.p50:.2f} | {score.p50 / one.p50:.2f} | {one.cpu:.0f} |",
                        flush=True,
                    )
            if requests:
                memory(servers["score"], requests, folder)
        finally:
            for server in servers.values():
                server.process.terminate()
                server.process.wait()


def memory(server: Running, requests: int, folder: Path) -> None:
    """Resident memory of the scoring server while it answers."""
    print("\n| requests | resident, MiB |\n|---:|---:|")
    sent = 0.0
    traffic = LOADS[2]
    while sent < requests:
        sent += load(server, traffic, 5, folder).rate * 5
        print(f"| {sent:,.0f} | {server.resident():.1f} |", flush=True)


def main() -> None:
    """Compare, or be one of the servers."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seconds", type=int, default=5)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--requests", type=int, default=0)
    options.add_argument("--serve", choices=[*ECHOES, "score"], help=argparse.SUPPRESS)
    options.add_argument("--port", type=int, help=argparse.SUPPRESS)
    options.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.serve in ECHOES:
        echo(given.serve, given.port)
    elif given.serve == "score":
        serve(Options(data_dir=given.folder, port=given.port))
    elif shutil.which("wrk") is None:
        raise SystemExit("wrk is not installed (Debian, Ubuntu: apt-get install wrk)")
    else:
        compare(given.rounds, given.seconds, given.requests)


if __name__ == "__main__":
    main()
