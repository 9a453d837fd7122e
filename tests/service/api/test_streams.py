"""A stream whose state is kept: in order, moved once by a retry, and there after a restart."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.api.app import Limits
from service.api.serve import Options
from service.autoencoder import load
from service.features import FEATURES
from service.scorer import Scorer
from service.ticks import Ticks
from tests.samples import random_ticks, shipped, with_numbers
from tests.serving import NOW, Local, as_json, served

CALM = random_ticks(600, streams=1)
TICKS = with_numbers(CALM, 500, price=CALM.price[500] * 1.5)
VERDICTS = Scorer(load(shipped("gru")), 20, 0.0).score(TICKS).verdicts
WHOLE = VERDICTS.score.tolist()


def part(first: int, last: int) -> list[dict[str, Any]]:
    return as_json(TICKS.take(np.arange(first, last)), named=False)


def numbered(first: int, last: int) -> list[dict[str, Any]]:
    return [tick | {"seq": i} for i, tick in enumerate(part(first, last), first)]


def send(client: Local, ticks: list[dict[str, Any]], key: str | None = None, stream: str = "S") -> list[float]:
    headers = {"Idempotency-Key": key} if key else {}
    found = client.post(f"/v1/streams/{stream}/ticks", json={"ticks": ticks}, headers=headers)
    assert found.status_code == 200, found.text
    return [tick["score"] for tick in found.json()["ticks"]]


def test_ticks_in_any_cut_have_the_bits_of_replay_also_across_restarts(tmp_path: Path) -> None:
    found: list[float] = []
    for first, last in ((0, 1), (1, 250), (250, 600)):
        with served(tmp_path) as client:
            middle = (first + last) // 2
            if middle > first:
                found += send(client, part(first, middle))
            found += send(client, part(middle, last))
    assert found == WHOLE


def test_alerts_are_kept_with_the_ids_of_their_ticks(tmp_path: Path) -> None:
    with served(tmp_path) as client:
        send(client, part(0, 600))
        events = client.get("/v1/alerts").json()["alerts"]
    offsets = np.flatnonzero(VERDICTS.alert).tolist()
    assert 500 in offsets
    assert [event["data"]["offset"] for event in events] == offsets
    assert len({event["id"] for event in events}) == len(events)
    assert events[0]["subject"] == "S"


Step = tuple[int, bool]


@settings(deadline=None, max_examples=25)
@given(
    steps=st.lists(st.tuples(st.integers(1, 40), st.integers(0, 3)), min_size=1, max_size=8),
    restarts=st.sets(st.integers(0, 7)),
    sequence=st.booleans(),
)
def test_retries_give_the_same_answer_and_move_the_state_once(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, int]], restarts: set[int], sequence: bool
) -> None:
    """Each step sends some ticks, and again as often as it says; some come after a restart."""
    folder = tmp_path_factory.mktemp("retries")
    at = 0
    again: list[tuple[list[dict[str, Any]], str | None, list[float]]] = []
    for i, (n, retries) in enumerate(steps):
        with served(folder) as client:
            ticks = numbered(at, at + n) if sequence else part(at, at + n)
            key = None if sequence else f"request-{i}"
            for _ in range(1 + retries):
                assert send(client, ticks, key) == WHOLE[at : at + n]
            again.append((ticks, key, WHOLE[at : at + n]))
            if i in restarts:
                for earlier in again:
                    assert send(client, *earlier[:2]) == earlier[2]
            at += n
            assert client.get("/v1/streams/S").json()["ticks"] == at


def test_ticks_with_numbers_may_be_cut_anew_in_a_retry(tmp_path: Path) -> None:
    with served(tmp_path) as client:
        assert send(client, numbered(0, 100)) == WHOLE[:100]
        assert send(client, numbered(50, 150)) == WHOLE[50:150]
        assert send(client, [*numbered(149, 151), *numbered(150, 160)]) == [*WHOLE[149:151], *WHOLE[150:160]]


def test_a_number_that_comes_again_with_another_tick_is_another_tick(tmp_path: Path) -> None:
    with served(tmp_path) as client:
        send(client, numbered(0, 10))
        again = [tick | {"price": 1.0} for tick in numbered(9, 10)]
        send(client, again)
        assert client.get("/v1/streams/S").json()["ticks"] == 11


def test_an_idempotency_key_does_not_cover_other_ticks(tmp_path: Path) -> None:
    with served(tmp_path) as client:
        send(client, part(0, 2), "k")
        send(client, part(0, 2), "k", stream="T")
        other = client.post("/v1/streams/S/ticks", json={"ticks": part(2, 3)}, headers={"Idempotency-Key": "k"})
        assert other.status_code == 409
        assert other.json()["type"] == "/docs#key-reused"
        assert send(client, part(2, 4), "l") == WHOLE[2:4]


def test_a_hundred_clients_at_once_keep_the_order_of_each_stream(tmp_path: Path) -> None:
    """Each client sends its own stream's ticks one after the other, and each request twice at the same time."""
    streams = [random_ticks(30, streams=1, seed=seed) for seed in range(100)]
    alone = [Scorer(load(shipped("gru")), 20, 0.0).score(ticks).verdicts.score.tolist() for ticks in streams]

    async def one(client: httpx.AsyncClient, number: int, ticks: Ticks) -> list[float]:
        found: list[float] = []
        for i in range(0, 30, 10):
            body = {"ticks": as_json(ticks.take(np.arange(i, i + 10)), named=False)}
            twice = [
                client.post(f"/v1/streams/S{number}/ticks", json=body, headers={"Idempotency-Key": str(i)})
                for _ in range(2)
            ]
            first, second = await asyncio.gather(*twice)
            assert first.json() == second.json()
            found += [tick["score"] for tick in first.json()["ticks"]]
        return found

    async def everyone(client: httpx.AsyncClient) -> list[list[float]]:
        return await asyncio.gather(*(one(client, i, ticks) for i, ticks in enumerate(streams)))

    with served(tmp_path) as client:
        assert client.together(everyone) == alone
        page = client.get("/v1/streams?limit=60").json()
        rest = client.get("/v1/streams", params={"limit": 60, "after": page["after"]}).json()
    assert [s["ticks"] for s in page["streams"] + rest["streams"]] == [30] * 100
    assert rest["after"] is None


def test_requests_of_one_stream_are_scored_in_the_order_in_which_they_came(tmp_path: Path) -> None:
    async def burst(client: httpx.AsyncClient) -> list[float]:
        sent = [client.post("/v1/streams/S/ticks", json={"ticks": part(i, i + 1)}) for i in range(200)]
        return [found.json()["ticks"][0]["score"] for found in await asyncio.gather(*sent)]

    with served(tmp_path) as client:
        assert client.together(burst) == WHOLE[:200]


def test_a_stream_shows_its_last_tick_and_age(tmp_path: Path) -> None:
    now = NOW
    with served(tmp_path, clock=lambda: now) as client:
        send(client, part(0, 300), stream="a%2Fb%20%C3%A9")
        now += 7.0
        found = client.get("/v1/streams/a%2Fb%20%C3%A9").json()
    assert (found["stream"], found["ticks"], found["age_seconds"]) == ("a/b é", 300, 7.0)
    assert found["tick"]["price"] == TICKS.price[299]
    assert found["score"] == WHOLE[299]
    assert list(found["features"]) == list(FEATURES)


def test_a_deleted_stream_begins_anew_and_its_alerts_stay(tmp_path: Path) -> None:
    with served(tmp_path) as client:
        send(client, part(0, 600), "k")
        assert client.request("DELETE", "/v1/streams/S").status_code == 204
        assert client.request("DELETE", "/v1/streams/S").status_code == 404
        assert client.get("/v1/streams/S").status_code == 404
        assert client.get("/v1/alerts").json()["alerts"]
        assert send(client, part(0, 100), "k") == WHOLE[:100]
    with served(tmp_path) as client:
        assert send(client, part(100, 200)) == WHOLE[100:200]


def test_removals_and_ticks_that_come_together_happen_in_order(tmp_path: Path) -> None:
    async def burst(client: httpx.AsyncClient) -> list[int]:
        found = await asyncio.gather(
            client.post("/v1/streams/S/ticks", json={"ticks": part(0, 5)}),
            client.delete("/v1/streams/S"),
            client.post("/v1/streams/S/ticks", json={"ticks": part(0, 3)}),
            client.delete("/v1/streams/T"),
        )
        return [answer.status_code for answer in found]

    with served(tmp_path) as client:
        assert client.together(burst) == [200, 204, 200, 404]
        assert client.get("/v1/streams/S").json()["ticks"] == 3
        assert send(client, part(3, 50)) == WHOLE[3:50]


def test_a_stream_does_not_depend_on_the_clock_of_another_one(tmp_path: Path) -> None:
    """A tenant whose ticks jump by years makes nobody else's stream begin anew."""
    jumps = [{"ts": int(year * 3.2e16), "price": 1.0} for year in range(1, 50)]
    with served(tmp_path) as client:
        found = send(client, part(0, 300))
        send(client, jumps, stream="wild")
        found += send(client, part(300, 600))
    assert found == WHOLE


def test_a_tick_from_the_future_is_refused_before_it_makes_all_others_late(tmp_path: Path) -> None:
    with served(tmp_path) as client:
        send(client, part(0, 10))
        ahead = client.post("/v1/streams/S/ticks", json={"ticks": [{"ts": int((NOW + 90_000) * 1e9), "price": 1.0}]})
        assert (ahead.status_code, ahead.json()["field"]) == (409, "ticks[0].ts")
        assert send(client, part(10, 20)) == WHOLE[10:20]


def test_a_key_keeps_as_many_streams_as_it_may(tmp_path: Path) -> None:
    with served(tmp_path, Options(limits=Limits(streams_per_key=2))) as client:
        send(client, part(0, 1), stream="A")
        send(client, part(0, 1), stream="B")
        refused = client.post("/v1/streams/C/ticks", json={"ticks": part(0, 1)})
        assert (refused.status_code, refused.json()["type"]) == (403, "/docs#too-many-streams")
        send(client, part(1, 2), stream="A")
        client.request("DELETE", "/v1/streams/A")
        send(client, part(0, 1), stream="C")
