"""What the live page is told by the server: to each key its own streams, and only what is durable."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.api.serve import Options
from tests.samples import random_ticks, with_numbers
from tests.serving import Local, as_json, new_key, served

JUMP = 390
TICKS = as_json(with_numbers(random_ticks(400, streams=1), JUMP, price=200.0), named=False)
DATA = (
    "/status.json",
    "/model.json",
    "/streams.json",
    "/stream.json?name=a",
    "/alert.json?partition=0&offset=0",
    "/events",
)


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def send(client: Local, stream: str, **options: Any) -> httpx.Response:
    return client.post(f"/v1/streams/{stream}/ticks", json={"ticks": TICKS}, **options)


@pytest.mark.parametrize("path", DATA)
def test_without_a_key_that_may_read_only_the_empty_page_can_be_had(tmp_path: Path, path: str) -> None:
    keys = tmp_path / "keys.jsonl"
    writer = bearer(new_key(keys, "score"))
    with served(tmp_path, Options(keys_file=keys)) as client:
        assert client.get(path).status_code == 401
        assert client.get(path, headers=writer).status_code == 403
        page = client.get("/")
        assert page.status_code == 200
        assert "data-secured" in page.text
        assert client.get("/live/page.js").status_code == 200
        assert "script-src 'self'" in page.headers["content-security-policy"]
        assert len(page.headers.get_list("content-security-policy")) == 1


def test_a_tenant_sees_nothing_of_another_one(tmp_path: Path) -> None:
    keys = tmp_path / "keys.jsonl"
    ours, theirs, all_of_it = (bearer(new_key(keys, prefix=prefix)) for prefix in ("ours:", "theirs:", ""))
    with served(tmp_path, Options(keys_file=keys)) as client:
        send(client, "ours:A", headers=ours)
        for stream in ("theirs:A", "theirs:B"):
            send(client, stream, headers=theirs)

        def told(path: str, key: dict[str, str]) -> Any:
            return client.get(path, headers=key).json()

        for key, prefix, streams in ((ours, "ours:", 1), (theirs, "theirs:", 2), (all_of_it, "", 3)):
            found = told("/status.json", key)
            status, alerts = found["status"], found["alerts"]
            assert (status["streams"], status["ticks"]) == (streams, 400 * streams)
            assert status["alerts"] == len(alerts) > 0
            assert all(alert["stream"].startswith(prefix) for alert in alerts)
            assert len(told("/streams.json?q=A", key)) == (2 if not prefix else 1)
        jump = next(a for a in told("/status.json", theirs)["alerts"] if a["reasons"])
        path = f"/alert.json?partition=0&offset={jump['offset']}"
        assert told(path, theirs)["stream"] == told(path, all_of_it)["stream"] == jump["stream"]
        assert told(path, ours) is None
        assert told("/stream.json?name=theirs:A", ours) is None
        assert told("/stream.json?name=theirs:A", theirs)["score"]
        seen = [events(client, key, 3) for key in (ours, all_of_it)]
        assert [name for name, _ in seen[0]] == ["hello", "alerts", "status"]
        assert "theirs" not in json.dumps(seen[0])
        assert "theirs" in json.dumps(seen[1])
        assert seen[0][2][1]["drift"] == {}


def events(client: Local, key: dict[str, str], most: int) -> list[tuple[str, Any]]:
    """The first events that a page gets: asked of the application itself, for a test client waits for the end."""
    body = bytearray()
    gone = asyncio.Event()

    async def receive() -> dict[str, Any]:
        await gone.wait()
        return {"type": "http.disconnect"}

    async def heard(message: Any) -> None:
        body.extend(message.get("body", b""))
        if body.count(b"\n\n") >= most:
            gone.set()

    async def ask(_: httpx.AsyncClient) -> None:
        headers = [(b"host", b"localhost"), (b"authorization", key["Authorization"].encode())]
        scope = {
            "type": "http",
            "method": "GET",
            "path": "/events",
            "raw_path": b"/events",
            "query_string": b"",
            "headers": headers,
        }
        await asyncio.wait_for(client.app(scope, receive, heard), 20)

    client.together(ask)
    found = [event.split("\n") for event in body.decode().split("\n\n")[:most]]
    return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in found]


def test_a_page_whose_key_is_withdrawn_is_sent_no_more(tmp_path: Path) -> None:
    keys = tmp_path / "keys.jsonl"
    now = [1_800_000_000.0]
    key = bearer(new_key(keys))
    with served(tmp_path, Options(keys_file=keys), clock=lambda: now[0]) as client:
        assert len(events(client, key, 1)) == 1

        async def withdrawn(asked: httpx.AsyncClient) -> httpx.Response:
            waiting = asyncio.create_task(asked.get("/events", headers=key))
            await asyncio.sleep(0.5)
            keys.write_text("")
            now[0] += 2
            return await asyncio.wait_for(waiting, 10)

        assert client.together(withdrawn).text.count("event: hello") == 1
        assert client.get("/events", headers=key).status_code == 401


def test_ticks_whose_state_came_with_them_are_shown_to_nobody(tmp_path: Path) -> None:
    with served(tmp_path) as client:
        body = {"ticks": [tick | {"stream": "A"} for tick in TICKS]}
        assert client.post("/v1/score", json=body).status_code == 200
        send(client, "B")
        assert client.get("/stream.json?name=A").json() is None
        assert client.get("/streams.json").json() == ["B"]
        found = client.get("/stream.json?name=B").json()
        assert len(found["score"]) == 400


def test_after_a_restart_the_last_alerts_are_there_again(tmp_path: Path) -> None:
    def alerts(client: Local) -> list[Any]:
        found: list[Any] = client.get("/status.json").json()["alerts"]
        return found

    with served(tmp_path) as client:
        send(client, "A")
        before = alerts(client)
    assert before[0]["offset"] >= JUMP
    with served(tmp_path) as client:
        assert alerts(client) == before
        assert client.get(f"/alert.json?partition=0&offset={before[0]['offset']}").json() is None
        assert client.get("/status.json").json()["status"]["ticks"] == 0


def test_a_batch_that_did_not_become_durable_is_not_shown(tmp_path: Path) -> None:
    with served(tmp_path) as client:
        send(client, "A")
        client.store._log._db.execute("PRAGMA query_only = 1")  # the disk takes nothing more
        assert send(client, "B").status_code == 503
        assert client.get("/streams.json").json() == ["A"]
        assert client.get("/stream.json?name=B").json() is None
        assert {a["stream"] for a in client.get("/status.json").json()["alerts"]} == {"A"}
