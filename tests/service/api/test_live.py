"""What the live page is told by the server: to each key its own streams; of kept ones only what is durable."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from service.api.live import REPORT_SECONDS
from service.api.passing import STREAMS, Passing, Sent
from service.api.serve import Options
from service.autoencoder import load
from service.board import ALERTS
from service.peer import Peer
from service.scorer import Scorer
from tests.samples import random_ticks, shipped, with_numbers
from tests.serving import NOW, Local, as_json, new_key, served, server

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


def score(client: Local, stream: str, ticks: list[dict[str, Any]], state: str | None = None, **options: Any) -> Any:
    """Score ticks whose state comes with them; the answer."""
    named = [tick | {"stream": stream} for tick in ticks]
    return client.post("/v1/score", json={"ticks": named, "state": state}, **options).json()


def test_ticks_whose_state_comes_with_them_are_shown_like_those_of_kept_streams(tmp_path: Path) -> None:
    with served(tmp_path, clock=lambda: NOW) as client:
        first = score(client, "A", TICKS[:200])
        said = first["ticks"] + score(client, "A", TICKS[200:], first["state"])["ticks"]
        send(client, "A")  # the same name, and another stream
        send(client, "B")
        status, alerts = (client.get("/status.json").json()[name] for name in ("status", "alerts"))
        assert (status["ticks"], status["streams"]) == (1200, 2)
        assert sorted(client.get("/streams.json").json()) == ["A", "B"]
        passing = next(alert for alert in alerts if alert["partition"] < 0)
        assert status["alerts"] == len(alerts)
        path = f"/alert.json?partition={passing['partition']}&offset={passing['offset']}"
        around = client.get(path).json()
        assert around["score"] == [tick["score"] for tick in said[-len(around["score"]) :]]
        assert around["score"][around["offset"].index(passing["offset"])] == passing["score"]
        moment = client.get(f"/stream.json?name=B&at={passing['ts'] / 1e6}").json()
        assert passing["score"] in moment["score"]
        assert len(client.get("/stream.json?name=A").json()["score"]) == 400  # not 800
        assert all(alert["data"]["partition"] == 0 for alert in client.get("/v1/alerts").json()["alerts"])


def test_a_stream_that_begins_anew_is_not_drawn_together_with_the_one_before(tmp_path: Path) -> None:
    with served(tmp_path) as client:
        state = score(client, "A", TICKS[:200])["state"]
        score(client, "A", TICKS[:50])
        assert len(client.get("/stream.json?name=A").json()["score"]) == 50
        score(client, "A", TICKS[200:300], state)
        assert len(client.get("/stream.json?name=A").json()["score"]) == 150


def test_an_open_incident_goes_on_from_request_to_request(tmp_path: Path) -> None:
    with served(tmp_path) as client:
        state, market = None, as_json(with_numbers(random_ticks(400, streams=1), 390, price=1e6), named=False)
        for first in range(0, 400, 5):
            state = score(client, "A", market[first : first + 5], state)["state"]
        alerts = client.get("/status.json").json()["alerts"]
        assert [alert["phase"] for alert in alerts][-1] == "opened"
        assert len(alerts) > 1
        assert len({alert["incident"] for alert in alerts}) == 1


def test_a_flood_of_passing_streams_takes_no_more_memory_and_no_alerts_of_others(tmp_path: Path) -> None:
    keys = tmp_path / "keys.jsonl"
    ours, theirs = (bearer(new_key(keys, prefix=prefix)) for prefix in ("ours:", "theirs:"))
    with served(tmp_path, Options(keys_file=keys)) as client:
        score(client, "ours:A", TICKS, headers=ours)
        held = client.get("/status.json", headers=ours).json()
        assert {alert["stream"] for alert in held["alerts"]} == {"ours:A"}
        for n in range(0, 12_000, 2_000):
            many = [TICKS[0] | {"stream": f"theirs:{n + i}"} for i in range(2_000)]
            assert client.post("/v1/score", json={"ticks": many}, headers=theirs).status_code == 200
        passing = client.get("/status.json", headers=theirs).json()["status"]
        assert (passing["ticks"], passing["alerts"]) == (12_000, 0)
        for n in range(3):
            state = score(client, f"theirs:{n}", TICKS[:389], headers=theirs)["state"]
            for _ in range(ALERTS // 2):  # each opens an incident
                score(client, f"theirs:{n}", TICKS[389:391], state, headers=theirs)
        time.sleep(REPORT_SECONDS)
        flooded = client.get("/status.json", headers=theirs).json()
        assert (flooded["status"]["alerts"], len(flooded["alerts"])) == (3 * ALERTS // 2, ALERTS)
        assert client.get("/status.json", headers=ours).json()["alerts"] == held["alerts"]


def test_of_very_many_passing_streams_the_first_are_forgotten() -> None:
    names = [f"S{n}" for n in range(STREAMS + 1)]
    market = replace(random_ticks(len(names)), stream=names, partition=np.ones(len(names), np.int32))
    scored = Scorer(load(shipped("gru")), 20).score(market)
    passing = Passing()
    first = passing.add(scored, [], [Sent(1, "", frozenset(), range(len(names)))]).rows
    assert len(set(first.tolist())) == len(names)
    again = passing.add(scored.take(np.array([STREAMS, 0])), [], [Sent(1, "", frozenset(names), range(2))]).rows
    assert again[0] == first[STREAMS]
    assert again[1] != first[0]


def test_another_model_is_compared_on_the_streams_of_the_key_that_asks_and_no_others(tmp_path: Path) -> None:
    keys = tmp_path / "keys.jsonl"
    ours, everything, writer = (new_key(keys, prefix="ours:"), new_key(keys), new_key(keys, "score"))
    options = ("--model", "lstm", "--keys-file", str(keys), "--alert-budget", "1000")
    with server(tmp_path / "lstm", *options) as other:
        peer = Peer(other.url, everything)
        with served(tmp_path, Options(keys_file=keys, compare=peer)) as client, other.client(everything) as elsewhere:
            for stream in ("theirs:A", "ours:A"):
                send(client, stream, headers=bearer(everything))
            for stream in ("ours:A", "theirs:A"):  # in another order: offsets differ
                assert elsewhere.post(f"/v1/streams/{stream}/ticks", json={"ticks": TICKS}).status_code == 200

            def told(path: str, key: str = ours) -> Any:
                return client.get(path, headers=bearer(key)).json()

            narrow, wide = told("/peer.json"), told("/peer.json", everything)
            assert (narrow["status"]["streams"], wide["status"]["streams"]) == (1, 2)
            assert (narrow["status"]["ticks"], wide["status"]["ticks"]) == (400, 800)
            assert narrow["status"]["model"].startswith("lstm")
            assert {it["stream"] for it in narrow["incidents"]} == {"ours:A"}
            assert narrow["both"] == 1
            alerts = told("/status.json", everything)["alerts"]
            mine, foreign = (
                {a["stream"]: f"alert.json?partition=0&offset={a['offset']}" for a in alerts}[name]
                for name in ("ours:A", "theirs:A")
            )
            own, also = told(f"/{mine}"), told(f"/peer/{mine}")
            assert own["offset"] != also["offset"]
            assert own["time_ms"] == also["time_ms"]
            assert own["score"] != also["score"]
            assert told(f"/peer/{foreign}") is None
            assert told("/peer/stream.json?name=theirs:A") is None
            assert told("/peer/stream.json?name=theirs:A", everything)["stream"] == "theirs:A"
            for path in ("/peer.json", "/peer/stream.json?name=ours:A", f"/peer/{mine}"):
                assert client.get(path).status_code == 401
                assert client.get(path, headers=bearer(writer)).status_code == 403
            assert client.get("/peer.json?prefix=theirs:", headers=bearer(ours)).status_code == 403


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
