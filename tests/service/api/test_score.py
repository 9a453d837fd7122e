"""Scores over HTTP have the bits of `tickwatch replay`, however the ticks are cut, mixed, sent and carried on."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.api.desk import ATTEND_SECONDS
from service.api.serve import Options
from service.api.wire import ARROW, NDJSON
from service.autoencoder import load
from service.scorer import Scorer
from service.ticks import Ticks, encode
from tests.samples import CELLS, random_ticks, shipped, with_numbers
from tests.serving import Local, as_json, served

CALM = random_ticks(1200, streams=5)
TICKS = with_numbers(CALM, 900, price=CALM.price[900] * 1.5)


def replayed(ticks: Ticks, cell: str = "gru") -> list[float]:
    """Scores of one process that sees all ticks at once, as `tickwatch replay` does."""
    found: list[float] = Scorer(load(shipped(cell)), 20, idle_hours=0.0).score(ticks).verdicts.score.tolist()
    return found


WHOLE = replayed(TICKS)


def score(client: Local, ticks: list[dict[str, Any]], state: str | None = None) -> dict[str, Any]:
    found = client.post("/v1/score", json={"ticks": ticks} | ({"state": state} if state else {}))
    assert found.status_code == 200, found.text
    answer: dict[str, Any] = found.json()
    return answer


def scores(answer: dict[str, Any]) -> list[float]:
    return [tick["score"] for tick in answer["ticks"]]


@pytest.mark.parametrize("cell", CELLS)
def test_a_request_without_state_has_the_bits_of_replay(tmp_path: Path, cell: str) -> None:
    with served(tmp_path, Options(model=cell)) as client:
        answer = score(client, as_json(TICKS))
    assert scores(answer) == replayed(TICKS, cell)
    verdicts = Scorer(load(shipped(cell)), 20, 0.0).score(TICKS).verdicts
    assert [tick["alert"] for tick in answer["ticks"]] == verdicts.alert.tolist()
    assert answer["ticks"][900]["phase"] == "opened"
    assert answer["ticks"][900]["reasons"][0]["text"]


@settings(deadline=None, max_examples=20)
@given(cuts=st.lists(st.integers(1, 1199), max_size=5), cell=st.just("gru"))
def test_the_state_carries_on_however_the_ticks_are_cut(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int], cell: str
) -> None:
    edges = sorted({0, len(TICKS), *cuts})
    found: list[float] = []
    state = None
    with served(tmp_path_factory.mktemp("cut"), Options(model=cell)) as client:
        for first, last in pairwise(edges):
            answer = score(client, as_json(TICKS.take(np.arange(first, last))), state)
            found += scores(answer)
            state = answer["state"]
    assert found == WHOLE


def test_an_application_that_has_ended_looks_after_no_client_any_more(tmp_path: Path) -> None:
    async def begun(_: httpx.AsyncClient) -> list[str]:
        """What begins within the time to the next look."""
        found: list[str] = []

        def task(loop: asyncio.AbstractEventLoop, coro: Any, **more: Any) -> asyncio.Task[Any]:
            found.append(repr(coro))
            return asyncio.Task(coro, loop=loop, **more)

        loop = asyncio.get_running_loop()
        loop.set_task_factory(task)
        await asyncio.sleep(2 * ATTEND_SECONDS)
        loop.set_task_factory(None)
        return found

    with served(tmp_path) as client:
        score(client, as_json(TICKS))
        client.end()
        assert client.together(begun) == []


def test_streams_that_get_no_tick_stay_in_the_state(tmp_path: Path) -> None:
    names = sorted(set(TICKS.stream))
    at = {name: np.flatnonzero(np.array(TICKS.stream) == name) for name in names}
    with served(tmp_path) as client:
        state = None
        for name in [*names, *names]:
            part, at[name] = at[name][: len(at[name]) // 2 + 1], at[name][len(at[name]) // 2 + 1 :]
            if len(part):
                answer = score(client, as_json(TICKS.take(part)), state)
                state = answer["state"]
                assert scores(answer) == [WHOLE[i] for i in part]


def body_of(ticks: Ticks, media_type: str, state: str | None) -> bytes:
    if media_type == NDJSON:
        lines = encode(ticks)
        return b"\n".join([json.dumps({"state": state}).encode(), *lines] if state else lines)
    columns = {name: getattr(ticks, name) for name in ("ts", "price", "size", "bid", "ask", "bid_size", "ask_size")}
    table = pa.table({"stream": ticks.stream, **columns})
    if state:
        table = table.replace_schema_metadata({"state": state})
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=100)
    return sink.getvalue()


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("media_type", [NDJSON, ARROW])
def test_lines_and_columns_say_the_same_as_json(tmp_path: Path, media_type: str, packed: bool) -> None:
    headers = {"content-type": media_type} | ({"content-encoding": "gzip"} if packed else {})
    found: list[float] = []
    state = None
    with served(tmp_path) as client:
        for part in (np.arange(500), np.arange(500, 1200)):
            body = body_of(TICKS.take(part), media_type, state)
            answer = client.post("/v1/score", content=gzip.compress(body) if packed else body, headers=headers).json()
            found += scores(answer)
            state = answer["state"]
    assert found == WHOLE


def test_times_may_be_text(tmp_path: Path) -> None:
    ticks = [{"stream": "A", "ts": "2023-11-14T22:13:20.000000001Z", "price": 1.0}]
    with served(tmp_path) as client:
        assert score(client, ticks)["ticks"][0]["ts"] == 1_700_000_000_000_000_001


def test_requests_that_are_scored_together_do_not_see_each_other(tmp_path: Path) -> None:
    """A hundred clients at once, each with its own past, and streams of the same names."""
    parts = [random_ticks(40, streams=3, seed=seed) for seed in range(100)]
    alone = [replayed(part) for part in parts]

    async def one(client: httpx.AsyncClient, part: Ticks) -> list[float]:
        found: list[float] = []
        state = None
        for i in range(0, 40, 10):
            body = {"ticks": as_json(part.take(np.arange(i, i + 10)))} | ({"state": state} if state else {})
            answer = (await client.post("/v1/score", json=body)).json()
            found += scores(answer)
            state = answer["state"]
        return found

    async def everyone(client: httpx.AsyncClient) -> list[list[float]]:
        return await asyncio.gather(*(one(client, part) for part in parts))

    with served(tmp_path) as client:
        assert client.together(everyone) == alone
        assert client.get("/v1/streams").json()["streams"] == []
        batches = client.get("/metrics").text
    assert float(batches.split("tickwatch_batch_ticks_count ")[1].split()[0]) < 200  # of 400 requests


def test_requests_that_come_turn_by_turn_of_the_event_loop_share_a_batch(tmp_path: Path) -> None:
    tick = as_json(random_ticks(1))

    async def one(client: httpx.AsyncClient, turns: int) -> int:
        for _ in range(turns):
            await asyncio.sleep(0)
        return (await client.post("/v1/score", json={"ticks": tick})).status_code

    async def everyone(client: httpx.AsyncClient) -> list[int]:
        return await asyncio.gather(*(one(client, turns) for turns in range(24)))

    with served(tmp_path) as client:
        assert client.together(everyone) == [200] * 24
        batches = client.get("/metrics").text
    assert float(batches.split("tickwatch_batch_ticks_count ")[1].split()[0]) <= 6
