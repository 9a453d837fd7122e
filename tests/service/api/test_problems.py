"""Whatever is wrong with a request is told as problem details, with its field and what to do."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pytest

from service.api.app import Limits
from service.api.engine import Engine
from service.api.problems import KINDS, MEDIA_TYPE
from service.api.serve import Options
from service.api.wire import ARROW, JSON, NDJSON
from service.errors import TickwatchError
from tests.serving import Local, served

TICK = {"stream": "A", "ts": 1_700_000_000_000_000_000, "price": 1.0}
SMALL = Options(limits=Limits(body_bytes=20_000, request_ticks=20))
JSON_TYPE = {"content-type": JSON}
EMPTY_GZIP = gzip.compress(b"{}", mtime=0)  # names of tests must not depend on the time


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Local]:
    with served(tmp_path_factory.mktemp("small"), SMALL) as client:
        yield client


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Local]:
    with served(tmp_path_factory.mktemp("usual")) as usual:
        yield usual


def problem(found: httpx.Response, status: int, field: str | None = None) -> dict[str, Any]:
    assert found.status_code == status, found.text
    assert found.headers["content-type"] == MEDIA_TYPE
    assert found.headers["x-content-type-options"] == "nosniff"
    told: dict[str, Any] = found.json()
    assert told["status"] == status
    assert told["type"].removeprefix("/docs#") in KINDS
    assert told["detail"]
    assert len(told["detail"]) < 400
    assert told["remedy"]
    assert field is None or told.get("field", "") == field, told
    assert "Traceback" not in found.text
    return told


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"{", "body"),
        (b"\xff\xfe", "body"),
        (b"[]", "body"),
        (b"{}", "ticks"),
        (b'{"ticks":[]}', "ticks"),
        (b'{"ticks":[{"price":1}]}', "ticks[0].ts"),
        (b'{"ticks":[{"stream":"A","ts":1,"price":"1"}]}', "ticks[0].price"),
        (b'{"ticks":[{"stream":"A","ts":1,"price":1},{"stream":"A","ts":1,"price":1e16}]}', "ticks[1].price"),
        (b'{"ticks":[{"stream":"A","ts":1,"price":1e999}]}', "ticks[0].price"),
        (b'{"ticks":[{"stream":"A","ts":1,"price":NaN}]}', "body"),
        (b'{"ticks":[{"stream":"A","ts":-1,"price":1}]}', "ticks[0].ts"),
        (b'{"ticks":[{"stream":"A","ts":1.5,"price":1}]}', "ticks[0].ts"),
        (b'{"ticks":[{"stream":"A","ts":"yesterday","price":1}]}', "ticks[0].ts"),
        (b'{"ticks":[{"stream":"A","ts":1,"price":1,"size":-1}]}', "ticks[0].size"),
        (b'{"ticks":[{"stream":"","ts":1,"price":1}]}', "ticks[0].stream"),
        (b'{"ticks":[{"stream":"\\ud800","ts":1,"price":1}]}', "body"),
        (b'{"ticks":[{"ts":1,"price":1}]}', "ticks[0].stream"),
        (b'{"ticks":[{"stream":"A","ts":1,"price":1}],"stat":""}', "stat"),
        (b'{"ticks":[{"stream":"A","ts":1,"price":1}],"state":7}', "state"),
        (b'{"ticks":' + b"[" * 9000, "ticks[0]"),
        (b'{"x":' + b'{"a":' * 3000, "x"),
        (b'{"' + b"x" * 10_000 + b'":1}', "body"),
    ],
)
def test_a_body_that_says_something_else_is_told_where(small: Local, body: bytes, field: str) -> None:
    problem(small.post("/v1/score", content=body, headers=JSON_TYPE), 422, field)


@pytest.mark.parametrize(
    ("lines", "field"),
    [
        (b'{"stream":"A","ts":1,"price":1}\n{"stream":"A","ts":1}', "ticks[1].price"),
        (b"\n\n", "body"),
        (b'{"state":"x"}\n', "body"),
        (b'{"stream":"A","ts":1,"price":1} {"stream":"A","ts":1,"price":1}', "ticks[0]"),
    ],
)
def test_a_line_that_is_no_tick_is_told_by_its_number(small: Local, lines: bytes, field: str) -> None:
    problem(small.post("/v1/score", content=lines, headers={"content-type": NDJSON}), 422, field)


def arrow(table: pa.Table, compression: str | None = None) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
        writer.write(table)
    return sink.getvalue()


CLAIMS_MUCH = arrow(pa.table({"ts": pa.nulls(1_000_003), "price": pa.nulls(1_000_003)})).replace(
    (1_000_003).to_bytes(8, "little"), (2**40).to_bytes(8, "little")
)
GOOD: dict[str, list[Any]] = {"stream": ["A"], "ts": [1], "price": [1.0]}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"junk", "Arrow"),
        (arrow(pa.table(GOOD))[:-40], "Arrow"),
        (arrow(pa.table(GOOD), "zstd"), "compressed"),
        (arrow(pa.table(GOOD | {"stream": pa.array(["A"]).dictionary_encode()})), "flat columns"),
        (arrow(pa.table(GOOD | {"x": [[1]]})), "flat columns"),
        (arrow(pa.table({"ts": [1], "stream": ["A"]})), "no column 'price'"),
        (arrow(pa.table(GOOD | {"price": ["1"]})), "column 'price'"),
        (
            arrow(pa.table({n: v * 2**20 for n, v in {"ts": [1], "price": [1]}.items()} | {"z": pa.nulls(2**20)}))[
                :900
            ],
            "",
        ),
        (CLAIMS_MUCH, "column 'ts'"),
        (arrow(pa.table(GOOD | {"price": [float("nan")]})), "ticks[0]"),
        (arrow(pa.table(GOOD | {"stream": pa.array([b"\xff"]).view(pa.string())})), "Arrow"),
        (arrow(pa.table(GOOD).slice(0, 0)), "no tick"),
    ],
)
def test_arrow_that_is_broken_or_hostile_is_refused(small: Local, body: bytes, words: str) -> None:
    told = problem(small.post("/v1/score", content=body, headers={"content-type": ARROW}), 422)
    assert words in told["detail"]


def test_arrow_with_flipped_bytes_ends_in_an_answer(tmp_path: Path) -> None:
    body = bytearray(arrow(pa.table({name: value * 5 for name, value in GOOD.items()})))
    with served(tmp_path, SMALL) as client:
        for i in range(0, len(body), 3):
            for value in (0, 0x7F, 0xFF):
                hurt = body.copy()
                hurt[i] = value
                found = client.post("/v1/score", content=bytes(hurt), headers={"content-type": ARROW})
                assert found.status_code in {200, 422}, (i, value, found.text)


def test_too_much_is_refused_before_it_is_read(tmp_path: Path) -> None:
    bomb = gzip.compress(b" " * 50_000_000)
    assert len(bomb) < 100_000
    with served(tmp_path, Options(limits=Limits(body_bytes=100_000))) as client:
        problem(client.post("/v1/score", content=b" " * 100_001, headers=JSON_TYPE), 413)
        problem(client.post("/v1/score", content=bomb, headers=JSON_TYPE | {"content-encoding": "gzip"}), 413)


def test_too_many_ticks_are_refused(tmp_path: Path) -> None:
    with served(tmp_path, Options(limits=Limits(request_ticks=20))) as client:
        lines = b"\n".join([json.dumps(TICK).encode()] * 21)
        problem(client.post("/v1/score", json={"ticks": [TICK] * 21}), 422, "ticks")
        problem(client.post("/v1/score", content=lines, headers={"content-type": NDJSON}), 422, "ticks")


@pytest.mark.parametrize("body", [b"junk", EMPTY_GZIP[:-3], EMPTY_GZIP * 2])
def test_what_is_not_one_gzip_member_is_told(client: Local, body: bytes) -> None:
    headers = JSON_TYPE | {"content-encoding": "gzip"}
    problem(client.post("/v1/score", content=body, headers=headers), 422, "Content-Encoding")


@pytest.mark.parametrize(
    ("headers", "field"),
    [
        ({}, "Content-Type"),
        ({"content-type": "text/plain"}, "Content-Type"),
        ({"content-type": "application/x-www-form-urlencoded"}, "Content-Type"),
        (JSON_TYPE | {"content-encoding": "br"}, "Content-Encoding"),
    ],
)
def test_a_type_that_is_not_understood_is_named(client: Local, headers: dict[str, str], field: str) -> None:
    problem(client.post("/v1/score", content=b"{}", headers=headers), 415, field)


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "100000", "99999999999999999999", "soon"])
def test_a_deadline_must_be_a_number_of_milliseconds(client: Local, text: str) -> None:
    problem(client.post("/v1/score", json={"ticks": [TICK]}, headers={"Deadline-Ms": text}), 422, "Deadline-Ms")


def test_paths_methods_and_parameters_that_do_not_exist_are_told(client: Local) -> None:
    problem(client.get("/v2/score"), 404)
    problem(client.get("/v1/streams/nobody"), 404, "stream")
    assert problem(client.get("/v1/score"), 405)["remedy"] == "Use POST."
    assert client.request("PATCH", "/v1/streams/A").headers["allow"] == "DELETE, GET"
    problem(client.get("/v1/alerts?limit=many"), 422, "limit")
    problem(client.get("/v1/alerts?phase=over"), 422, "phase")
    problem(client.get("/v1/streams/" + "x" * 257), 422, "stream")
    problem(client.get("/v1/streams/%FF"), 422, "stream")
    problem(client.post("/v1/streams/A/ticks", json={"ticks": [TICK | {"stream": "B"}]}), 422, "ticks[0].stream")
    problem(client.get("/v1/alerts/stream", headers={"Last-Event-ID": "x"}), 422, "Last-Event-ID")
    for key in ("", "x" * 256, "with space"):
        headers = {"Idempotency-Key": key}
        problem(client.post("/v1/streams/A/ticks", json={"ticks": [TICK]}, headers=headers), 422, "Idempotency-Key")


def test_a_host_that_only_a_browser_was_told_is_refused(client: Local) -> None:
    for host in ("evil.example", "evil.example:80", "localhost.evil.example", ""):
        problem(client.get("/v1/streams", headers={"host": host}), 421, "Host")
    for host in ("localhost", "127.0.0.1:8000", "[::1]:8000", "LOCALHOST:1"):
        assert client.get("/v1/streams", headers={"host": host}).status_code == 200


def test_a_full_queue_says_when_to_come_back_and_recovers(tmp_path: Path) -> None:
    async def burst(client: httpx.AsyncClient) -> list[httpx.Response]:
        return await asyncio.gather(*(client.post("/v1/score", json={"ticks": [TICK] * 10}) for _ in range(20)))

    with served(tmp_path, Options(queue_ticks=100, linger_ms=50)) as client:
        found = client.together(burst)
        busy = [answer for answer in found if answer.status_code == 429]
        assert len(busy) == 10
        problem(busy[0], 429)
        assert busy[0].headers["retry-after"] == "1"
        assert client.post("/v1/score", json={"ticks": [TICK] * 100}).status_code == 200


def test_a_request_whose_deadline_passes_in_the_queue_is_dropped(tmp_path: Path) -> None:
    with served(tmp_path, Options(linger_ms=100)) as client:
        late = client.post("/v1/streams/A/ticks", json={"ticks": [TICK]}, headers={"Deadline-Ms": "20"})
        assert "changed nothing" in problem(late, 429)["detail"]
        assert client.get("/v1/streams").json()["streams"] == []


def test_a_store_that_fails_changes_nothing_and_is_used_again_when_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise TickwatchError("log /secret/path: database or disk is full")

    with served(tmp_path) as client:
        body = {"ticks": [TICK]}
        first = client.post("/v1/streams/A/ticks", json=body).json()
        with monkeypatch.context() as patch:
            patch.setattr(client.store, "commit", full)
            told = problem(client.post("/v1/streams/A/ticks", json=body), 503)
            assert "secret" not in json.dumps(told)
        assert client.get("/v1/streams/A").json()["ticks"] == 1
        second = client.post("/v1/streams/A/ticks", json=body)
        assert second.status_code == 200
        assert second.json() != first


def test_one_request_that_fails_takes_no_other_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Engine._columns

    def cursed(engine: Engine, plan: Any) -> Any:
        if any(tick.stream == "cursed" for tick in plan.ticks):
            raise ZeroDivisionError("secret")
        return whole(engine, plan)

    monkeypatch.setattr(Engine, "_columns", cursed)
    names = ["A", "B", "cursed", "C"]

    async def burst(client: httpx.AsyncClient) -> list[httpx.Response]:
        kept = [client.post(f"/v1/streams/{n}/ticks", json={"ticks": [TICK | {"stream": n}]}) for n in names]
        passing = [client.post("/v1/score", json={"ticks": [TICK | {"stream": n}]}) for n in names]
        return await asyncio.gather(*kept, *passing)

    with served(tmp_path) as client:
        found = client.together(burst)
        assert [answer.status_code for answer in found] == [200, 200, 500, 200] * 2
        assert "secret" not in problem(found[2], 500)["detail"]
        assert [s["stream"] for s in client.get("/v1/streams").json()["streams"]] == ["A", "B", "C"]
        assert client.get("/v1/streams/A").json()["ticks"] == 1


def test_an_error_that_nobody_foresaw_is_told_without_its_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("secret")

    with served(tmp_path) as client:
        monkeypatch.setattr(client.store, "summaries", broken)
        assert "secret" not in json.dumps(problem(client.get("/v1/streams"), 500))
