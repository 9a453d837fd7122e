"""What scoring costs over HTTP: requests per second and latency against a FastAPI route that decodes and echoes.

python benchmarks/serve.py [--seconds S] [--rounds R] [--requests N]

Both servers are uvicorn with one process and the same settings; wrk asks one after the other, several rounds, and the medians are
compared. `--requests` also sends so many requests to the scoring server and prints its memory as it goes.
"""

from __future__ import annotations

import argparse
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
    """A kind of traffic: its name, path, body, connections, whether each request goes to another stream, and the floors."""

    name: str
    path: str
    body: bytes
    connections: int
    spread: bool
    least: float


class Measured(NamedTuple):
    """Requests per second, and the median latency in milliseconds."""

    rate: float
    p50: float


def echo(port: int) -> None:
    """Decode a request as the scoring route does, and send its ticks back."""
    app = FastAPI(openapi_url=None)
    decode = msgspec.json.Decoder(ScoreRequest).decode
    encode_json = msgspec.json.Encoder().encode

    @app.post("/{path:path}")
    async def route(request: Request) -> Response:
        return Response(encode_json(decode(await request.body())), media_type="application/json")

    uvicorn.run(app, port=port, log_level="critical", access_log=False, loop="uvloop", http="httptools")


def start(kind: str, folder: Path) -> tuple[subprocess.Popen[bytes], str]:
    """A server of its own process, and its address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, __file__, "--serve", kind, "--port", str(port), "--folder", str(folder)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)  # noqa: S603  (this very file)
    url = f"http://127.0.0.1:{port}"
    for _ in range(300):
        try:
            urllib.request.urlopen(f"{url}/healthz", timeout=1).close()  # noqa: S310
        except urllib.error.HTTPError:
            return process, url
        except OSError:
            time.sleep(0.1)
        else:
            return process, url
    raise SystemExit(f"the {kind} server did not start")


def load(url: str, traffic: Load, seconds: int, folder: Path) -> Measured:
    """Ask with wrk for some seconds."""
    (folder / "body").write_bytes(traffic.body)
    (folder / "load.lua").write_text(SCRIPT.format(body=folder / "body", request=OWN_STREAM if traffic.spread else ""))
    command = ["wrk", "-t1", f"-c{traffic.connections}", f"-d{seconds}s", "--latency", "-s", str(folder / "load.lua")]
    asked = subprocess.run([*command, url + traffic.path], check=True, capture_output=True, text=True)  # noqa: S603
    text = asked.stdout
    if "Non-2xx" in text:
        raise SystemExit(f"{traffic.name}: some requests failed\n{text}")
    rate = re.search(r"Requests/sec: +([\d.]+)", text)
    p50 = re.search(r"50% +([\d.]+)(us|ms|s)", text)
    if not rate or not p50:
        raise SystemExit(f"{traffic.name}: wrk said\n{text}")
    return Measured(float(rate[1]), float(p50[1]) * {"us": 1e-3, "ms": 1.0, "s": 1e3}[p50[2]])


def body(n: int, streams: int, *, named: bool = True) -> bytes:
    """A request with n ticks."""
    lines = encode(random_ticks(n, streams=streams))
    if not named:
        lines = [line.replace(b'"stream":"S0",', b"") for line in lines]
    return b'{"ticks":[' + b",".join(lines) + b"]}"


def resident(pid: int) -> float:
    """MiB of memory that a process holds."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 / MIB


LOADS = [
    Load("100 ticks of 10 streams, stateless, 8 connections", "/v1/score", body(100, 10), 8, spread=False, least=0.6),
    Load("100 ticks of one stream, stateful, 8 connections", "", body(100, 1, named=False), 8, spread=True, least=0.6),
    Load("one tick, stateless, 200 connections", "/v1/score", body(1, 1), 200, spread=False, least=0.5),
    Load("one tick, stateful, 200 connections", "", body(1, 1, named=False), 200, spread=True, least=0.5),
]


def compare(rounds: int, seconds: int, requests: int) -> None:
    """Both servers under each load in turn, then memory."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        servers = {kind: start(kind, folder) for kind in ("echo", "score")}
        try:
            print("| load | echo, requests/s | scoring | ratio | echo p50, ms | scoring | ratio |")
            print("|---|---:|---:|---:|---:|---:|---:|")
            for traffic in LOADS:
                found: dict[str, list[Measured]] = {kind: [] for kind in servers}
                for _ in range(rounds):
                    for kind, (_, url) in servers.items():
                        found[kind].append(load(url, traffic, seconds, folder))
                rate = {kind: statistics.median(m.rate for m in found[kind]) for kind in servers}
                p50 = {kind: statistics.median(m.p50 for m in found[kind]) for kind in servers}
                print(
                    f"| {traffic.name} | {rate['echo']:,.0f} | {rate['score']:,.0f} | {rate['score'] / rate['echo']:.2f}"
                    f" | {p50['echo']:.2f} | {p50['score']:.2f} | {p50['score'] / p50['echo']:.2f} |",
                    flush=True,
                )
            if requests:
                memory(servers["score"], requests, folder)
        finally:
            for process, _ in servers.values():
                process.terminate()
                process.wait()


def memory(server: tuple[subprocess.Popen[bytes], str], requests: int, folder: Path) -> None:
    """Resident memory of the scoring server while it answers."""
    process, url = server
    print("\n| requests | resident, MiB |\n|---:|---:|")
    sent = 0.0
    traffic = LOADS[2]
    while sent < requests:
        sent += load(url, traffic, 5, folder).rate * 5
        print(f"| {sent:,.0f} | {resident(process.pid):.1f} |", flush=True)


def main() -> None:
    """Compare, or be one of the servers."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seconds", type=int, default=5)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--requests", type=int, default=0)
    options.add_argument("--serve", choices=["echo", "score"], help=argparse.SUPPRESS)
    options.add_argument("--port", type=int, help=argparse.SUPPRESS)
    options.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.serve == "echo":
        echo(given.port)
    elif given.serve == "score":
        serve(Options(data_dir=given.folder, port=given.port))
    elif shutil.which("wrk") is None:
        raise SystemExit("wrk is not installed (Debian, Ubuntu: apt-get install wrk)")
    else:
        compare(given.rounds, given.seconds, given.requests)


if __name__ == "__main__":
    main()
