"""`tickwatch serve` for tests: as a process of its own, or as an application in this one."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeVar

import httpx
from starlette.types import ASGIApp

from service.api.keys import Keys, Scope, create
from service.api.serve import FILE, Options, application
from service.api.store import Store
from service.autoencoder import load
from service.scorer import Scorer
from service.ticks import Ticks, encode
from tests.samples import shipped

T = TypeVar("T")
TICKWATCH = Path(sys.executable).parent / "tickwatch"
NOW = 1_800_000_000.0  # later than the ticks of tests.samples
SECRET = b"s" * 32


@dataclass
class Local:
    """An application in this process, asked through ASGI, one request at a time unless `together`."""

    app: ASGIApp
    store: Store
    _runner: asyncio.Runner

    def together(self, ask: Callable[[httpx.AsyncClient], Awaitable[T]]) -> T:
        """What `ask` returns, who has a client."""

        async def asked() -> T:
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                return await ask(client)

        return self._runner.run(asked())

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        return self.together(lambda client: client.request(method, path, **options))

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.request("GET", path, **options)

    def post(self, path: str, **options: Any) -> httpx.Response:
        return self.request("POST", path, **options)

    def end(self) -> None:
        """Begin and end the application's lifespan: what it does at its end is all that counts here."""
        messages = iter(["lifespan.startup", "lifespan.shutdown"])

        async def receive() -> dict[str, str]:
            return {"type": next(messages)}

        async def send(message: MutableMapping[str, Any]) -> None:
            assert message["type"].endswith(".complete"), message

        async def ended() -> None:
            await self.app({"type": "lifespan", "state": {}}, receive, send)

        self._runner.run(ended())


@contextmanager
def served(
    folder: Path, options: Options | None = None, clock: Callable[[], float] = lambda: NOW, secret: bytes = SECRET
) -> Iterator[Local]:
    """An application in this process, on the store in a folder."""
    options = options or Options()
    scorer = Scorer(load(shipped(options.model)), options.alert_budget, idle_hours=0.0)
    store = Store(folder / FILE, scorer.layout)
    try:
        app = application(options, scorer, store, Keys(options.keys_file, clock), secret, lambda: False, clock)
        with asyncio.Runner() as runner:
            local = Local(app, store, runner)
            yield local
            local.end()
    finally:
        store.close()


@dataclass
class Server:
    """A running process and the address that it printed."""

    process: subprocess.Popen[str]
    url: str

    def client(self, key: str | None = None) -> httpx.Client:
        """A client, with an API key if given."""
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return httpx.Client(base_url=self.url, headers=headers, timeout=30, verify=False)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@contextmanager
def server(folder: Path, *options: str) -> Iterator[Server]:
    """`tickwatch serve` on a free port, its data in a folder; ended with SIGTERM if it still runs."""
    command = [str(TICKWATCH), "serve", "--port", "0", "--data-dir", str(folder), *options]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TICKWATCH_")}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stderr is not None
    try:
        lines = []
        for line in process.stderr:
            lines.append(line)
            found = re.search(r"scores at (\S+)/docs", line)
            if found:
                break
        else:
            raise AssertionError(f"tickwatch serve ended: {''.join(lines)}")
        yield Server(process, found[1])
    finally:
        process.terminate()
        process.communicate(timeout=30)


def new_key(path: Path, *scopes: Scope, prefix: str = "", days: int = 0) -> str:
    """An API key that is now in the file."""
    return create(path, list(scopes or ("score", "read")), prefix, days, datetime.fromtimestamp(NOW, timezone.utc))[1]


def as_json(ticks: Ticks, *, named: bool = True) -> list[dict[str, Any]]:
    """The ticks as a request holds them; without their stream where the path names it."""
    found = [json.loads(line) for line in encode(ticks)]
    return found if named else [{k: v for k, v in tick.items() if k != "stream"} for tick in found]
