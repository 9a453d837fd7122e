"""A real worker, the Prometheus that scrapes it with the project's rules, and the Alertmanager behind that; loopback only."""

from __future__ import annotations

import json
import queue
import shutil
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from service.drift import ENOUGH, EVERY
from service.ticks import encode
from tests.kafka.broker import free_ports
from tests.samples import random_ticks

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "prometheus" / "rules.yml"
TOOLS = ("prometheus", "promtool", "prometheus-alertmanager")
PAST = EVERY * ENOUGH * 5 // 4
Found = TypeVar("Found")


def missing() -> str | None:
    """Why no Prometheus can be started here, None if one can."""
    absent = [tool for tool in TOOLS if shutil.which(tool) is None]
    return (
        f"not installed: {', '.join(absent)} (Debian packages prometheus, prometheus-alertmanager)" if absent else None
    )


def promtool(*arguments: str | Path, text: str = "") -> subprocess.CompletedProcess[str]:
    """Run promtool over `text` and return what it said."""
    return subprocess.run(["promtool", *arguments], input=text, capture_output=True, text=True, check=False)


def within(seconds: float, attempt: Callable[[], Found | None]) -> Found:
    """The first result of `attempt`, which may raise OSError, that is something."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            found = attempt()
        except OSError:
            found = None
        if found:
            return found
        time.sleep(0.2)
    raise TimeoutError("it never came about")


class Monitoring:
    """All of it, from construction until `close`; the worker reads ticks of which one in twenty is junk.

    PAST of them come at once, by which it knows how far its features have drifted, and the others as time goes by.
    """

    def __init__(self, folder: Path) -> None:
        self._stack = ExitStack()
        self._folder = folder
        self._worker_port, self._prometheus_port, self._alertmanager_port = free_ports(3)
        self._notified: queue.Queue[dict[str, Any]] = queue.Queue()
        try:
            self._receiver = self._webhook()
            self._alertmanager()
            self._prometheus()
            self._worker()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End every process."""
        self._stack.close()

    def metrics(self) -> str:
        """What the worker answers at /metrics."""
        return _get(f"http://127.0.0.1:{self._worker_port}/metrics")

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The present result of a PromQL expression; AssertionError if Prometheus refuses it."""
        url = f"http://127.0.0.1:{self._prometheus_port}/api/v1/query?" + urllib.parse.urlencode({"query": expression})
        answer = json.loads(_get(url))
        assert answer["status"] == "success", answer
        result: list[dict[str, Any]] = answer["data"]["result"]
        return result

    def notification(self, alert: str, seconds: float = 40) -> dict[str, Any]:
        """What Alertmanager tells about an alert, waiting for it."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            told = self._notified.get(timeout=left)
            if told["labels"]["alertname"] == alert:
                return told
        raise TimeoutError(alert)

    def _webhook(self) -> int:
        notified = self._notified

        class Receiver(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                for alert in body["alerts"]:
                    notified.put(alert)
                self.send_response(200)
                self.end_headers()

            def log_message(self, *arguments: object) -> None:
                pass

        server = HTTPServer(("127.0.0.1", 0), Receiver)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        self._stack.callback(server.server_close)
        self._stack.callback(thread.join)
        self._stack.callback(server.shutdown)
        return server.server_port

    def _alertmanager(self) -> None:
        config = {
            "route": {"receiver": "test", "group_wait": "0s", "group_by": ["alertname"]},
            "receivers": [{"name": "test", "webhook_configs": [{"url": f"http://127.0.0.1:{self._receiver}/"}]}],
        }
        where = f"127.0.0.1:{self._alertmanager_port}"
        self._start(
            "prometheus-alertmanager",
            f"--config.file={self._write('alertmanager.yml', config)}",
            f"--storage.path={self._folder / 'alertmanager'}",
            f"--web.listen-address={where}",
            "--cluster.listen-address=",
        )
        within(30, lambda: _get(f"http://{where}/-/ready"))

    def _prometheus(self) -> None:
        config = {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(RULES)],
            "alerting": {
                "alertmanagers": [{"static_configs": [{"targets": [f"127.0.0.1:{self._alertmanager_port}"]}]}]
            },
            "scrape_configs": [
                {
                    "job_name": "tickwatch-worker",
                    "static_configs": [{"targets": [f"127.0.0.1:{self._worker_port}"]}],
                }
            ],
        }
        where = f"127.0.0.1:{self._prometheus_port}"
        self._start(
            "prometheus",
            f"--config.file={self._write('prometheus.yml', config)}",
            f"--storage.tsdb.path={self._folder / 'prometheus'}",
            f"--web.listen-address={where}",
        )
        within(30, lambda: _get(f"http://{where}/-/ready"))

    def _worker(self) -> None:
        market = random_ticks(PAST + 60_000)
        ts = market.ts - market.ts[PAST]
        lines = encode(replace(market, ts=market.ts[0] + np.where(ts < 0, ts // 1_000, ts)))
        lines[::20] = [b"{}"] * len(lines[::20])
        (self._folder / "ticks.jsonl").write_bytes(b"\n".join(lines))
        tickwatch = Path(sys.executable).with_name("tickwatch")
        self._start(
            *(str(tickwatch), "run", "--ticks", str(self._folder / "ticks.jsonl"), "--speed", "1", "--port"),
            *(str(self._worker_port), "--data-dir", str(self._folder / "data")),
        )
        within(60, lambda: self.query("rate(tickwatch_ticks_total[10s]) > 0"))

    def _write(self, name: str, config: dict[str, Any]) -> Path:
        path = self._folder / name
        path.write_text(json.dumps(config))  # which is YAML too
        return path

    def _start(self, *command: str) -> None:
        out = self._stack.enter_context((self._folder / f"{Path(command[0]).name}.log").open("wb"))
        process = subprocess.Popen(command, stdout=out, stderr=out, stdin=subprocess.DEVNULL)
        self._stack.callback(process.wait)
        self._stack.callback(process.terminate)


def _get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=30) as answer:
        body: bytes = answer.read()
        return body.decode()
