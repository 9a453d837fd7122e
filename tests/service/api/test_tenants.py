"""A key reaches the streams of its prefix and nothing else, for as long as it is in force."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from service.api.feed import FOLLOWERS, Feed, Wanted
from service.api.keys import Key, Keys, create, parse
from service.api.problems import Problem
from service.api.serve import Options
from service.api.token import Seal
from service.errors import TickwatchError
from tests.samples import random_ticks, with_numbers
from tests.serving import NOW, Local, as_json, new_key, served

CALM = random_ticks(400, streams=1)
TICKS = as_json(with_numbers(CALM, 390, price=CALM.price[390] * 2), named=False)
DATE = datetime.fromtimestamp(NOW, timezone.utc)


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def named(stream: str, n: int = 1) -> dict[str, Any]:
    return {"ticks": [tick | {"stream": stream} for tick in TICKS[:n]]}


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    return tmp_path / "keys.jsonl"


def test_two_tenants_see_and_move_only_their_own_streams(tmp_path: Path, keys: Path) -> None:
    ours, theirs = bearer(new_key(keys, prefix="ours:")), bearer(new_key(keys, prefix="theirs:"))
    with served(tmp_path, Options(keys_file=keys)) as client:
        for stream, key in (("ours:A", ours), ("theirs:A", theirs)):
            body = {"ticks": TICKS}
            assert client.post(f"/v1/streams/{stream}/ticks", json=body, headers=key).status_code == 200
        state = client.post("/v1/score", json=named("theirs:A", 400), headers=theirs).json()["state"]
        for found in (
            client.post("/v1/streams/theirs:A/ticks", json={"ticks": TICKS[:1]}, headers=ours),
            client.get("/v1/streams/theirs:A", headers=ours),
            client.get("/v1/streams/theirs%3AA", headers=ours),
            client.request("DELETE", "/v1/streams/theirs:A", headers=ours),
            client.get("/v1/alerts?stream=theirs:A", headers=ours),
            client.get("/v1/alerts/stream?stream=theirs:A", headers=ours),
            client.post("/v1/score", json=named("theirs:A"), headers=ours),
            client.post("/v1/score", json=named("ours:A") | {"state": state}, headers=ours),
            client.post("/v1/streams/ours/ticks", json={"ticks": TICKS[:1]}, headers=ours),
        ):
            assert found.status_code == 403, found.text
        assert [s["stream"] for s in client.get("/v1/streams", headers=ours).json()["streams"]] == ["ours:A"]
        assert client.get("/v1/streams?after=sheep", headers=ours).json()["streams"] == []
        alerts = client.get("/v1/alerts", headers=ours).json()["alerts"]
        assert {alert["subject"] for alert in alerts} == {"ours:A"}
        assert client.get("/v1/streams/theirs:A", headers=theirs).json()["ticks"] == 400


def test_the_followers_of_one_tenant_shut_no_other_one_out(tmp_path: Path) -> None:
    def follow(prefix: str) -> AsyncIterator[bytes]:
        caller = Key("0" * 12, "0" * 64, ["read"], prefix)
        return feed.follow(Wanted(caller, None, None, 0.0), 0, lambda: True, forever=True)

    async def crowd() -> None:
        followers = [follow("ours:") for _ in range(FOLLOWERS // 2)]
        for one in followers:
            assert await anext(one) == b"retry: 1000\n\n"
        with pytest.raises(Problem, match="follow the alerts already"):
            follow("ours:")
        assert await anext(follow("theirs:")) == b"retry: 1000\n\n"
        await followers[0].aclose()  # type: ignore[attr-defined]
        assert await anext(follow("ours:")) == b"retry: 1000\n\n"

    with served(tmp_path) as client:
        feed = Feed(client.store)
        asyncio.run(crowd())


def test_a_scope_is_needed_for_each_thing(tmp_path: Path, keys: Path) -> None:
    score, read, admin = (bearer(new_key(keys, scope)) for scope in ("score", "read", "admin"))
    with served(tmp_path, Options(keys_file=keys)) as client:
        body = {"ticks": TICKS[:1]}
        asked: list[tuple[dict[str, str], Callable[[dict[str, str]], httpx.Response]]] = [
            (score, lambda h: client.post("/v1/streams/A/ticks", json=body, headers=h)),
            (score, lambda h: client.post("/v1/score", json=named("A"), headers=h)),
            (read, lambda h: client.get("/v1/streams", headers=h)),
            (read, lambda h: client.get("/v1/streams/A", headers=h)),
            (read, lambda h: client.get("/v1/alerts", headers=h)),
            (read, lambda h: client.get("/v1/models", headers=h)),
            (admin, lambda h: client.get("/metrics", headers=h)),
            (score, lambda h: client.request("DELETE", "/v1/streams/A", headers=h)),
        ]
        for right, ask in asked:
            for key in (score, read, admin):
                assert (ask(key).status_code < 300) == (key is right)
            assert ask({}).status_code == 401
            assert ask({}).headers["www-authenticate"] == "Bearer"
        for path in ("/healthz", "/readyz", "/openapi.json", "/docs"):
            assert client.get(path).status_code == 200


@pytest.mark.parametrize("text", ["", "Bearer", "Bearer x", "Basic x", "Bearer tw_", "Bearer \xff", "Bearer tw_{id}_x"])
def test_what_is_no_key_opens_nothing(keys: Path, text: str) -> None:
    line = create(keys, ["read"], "", 0, DATE)[0]
    with pytest.raises(Problem) as refused:
        Keys(keys).check(text.replace("{id}", line.id), "read")
    assert refused.value.details.status == 401


def test_keys_come_go_and_expire_without_a_restart(keys: Path) -> None:
    now = NOW
    first = f"Bearer {new_key(keys, 'read', days=1)}"
    known = Keys(keys, lambda: now)
    known.check(first, "read")
    second = f"Bearer {new_key(keys, 'read')}"
    now += 2
    known.check(second, "read")
    now += 86_400
    with pytest.raises(Problem, match="expired"):
        known.check(first, "read")
    keys.write_text("")
    now += 2
    with pytest.raises(Problem, match="not known"):
        known.check(second, "read")


def test_a_file_that_breaks_leaves_the_keys_as_they_were(keys: Path, caplog: pytest.LogCaptureFixture) -> None:
    now = NOW
    key = f"Bearer {new_key(keys, 'read')}"
    known = Keys(keys, lambda: now)
    keys.write_text("{")
    now += 2
    known.check(key, "read")
    assert "line 1" in caplog.text
    with pytest.raises(TickwatchError, match="line 1"):
        Keys(keys)


def test_the_file_holds_no_key_and_is_its_owners(keys: Path) -> None:
    text = new_key(keys)
    assert text.split("_")[2] not in keys.read_text()
    assert keys.stat().st_mode & 0o077 == 0
    assert len(parse(keys)) == 1


def test_a_state_that_was_changed_anywhere_is_refused(tmp_path: Path) -> None:
    with served(tmp_path) as client:
        state = client.post("/v1/score", json=named("A")).json()["state"]
        for i in range(0, len(state), 7):
            changed = state[:i] + ("A" if state[i] != "A" else "B") + state[i + 1 :]
            _refused(client, changed, 403)
        for forged in ("", "x", "é", state[:-4], state[4:], state + "AAAA", state.swapcase(), "dHdzMQ=="):
            _refused(client, forged, 403)


def _refused(client: Local, state: str, status: int) -> None:
    found = client.post("/v1/score", json=named("A") | {"state": state})
    assert (found.status_code, found.json()["field"]) == (status, "state"), state


def test_a_state_is_good_for_all_replicas_with_the_secret_and_no_others(tmp_path: Path) -> None:
    with (
        served(tmp_path / "a") as one,
        served(tmp_path / "b") as two,
        served(tmp_path / "c", secret=b"x" * 32) as other,
    ):
        state = one.post("/v1/score", json=named("A")).json()["state"]
        assert two.post("/v1/score", json=named("A") | {"state": state}).status_code == 200
        _refused(other, state, 403)


def test_a_state_is_refused_after_a_change_of_model(tmp_path: Path) -> None:
    with served(tmp_path / "gru") as gru, served(tmp_path / "lstm", Options(model="lstm")) as lstm:
        state = gru.post("/v1/score", json=named("A")).json()["state"]
        _refused(lstm, state, 409)


def test_a_state_holds_no_past_of_other_requests(tmp_path: Path) -> None:
    """The same request has the same state on a service that is new and on one whose rows were used by others."""
    with served(tmp_path / "new") as new, served(tmp_path / "used") as used:
        for name in ("X", "Y"):
            used.post("/v1/score", json=named(name, 300))
            used.post(f"/v1/streams/{name}/ticks", json={"ticks": TICKS[:300]})
        used.request("DELETE", "/v1/streams/X")
        answers = [client.post("/v1/score", json=named("A", 5)).json() for client in (new, used)]
    assert answers[0] == answers[1]


def test_a_state_needs_the_secret_not_only_the_layout() -> None:
    with pytest.raises(Problem):
        Seal(b"b" * 32, "m/1", 0).open(Seal(b"a" * 32, "m/1", 0).close([], np.empty((0, 0), np.uint8)))


def test_json_lines_of_the_file_are_what_the_readme_says(keys: Path) -> None:
    new_key(keys, prefix="acme:", days=30)
    assert set(json.loads(keys.read_text())) == {"id", "sha256", "scopes", "prefix", "not_after"}
