"""`tickwatch serve` as others use it: a process that is asked over sockets, hurt, killed and started again."""

from __future__ import annotations

import json
import re
import signal
import socket
import ssl
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow.parquet as pq
import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.api import guard
from service.api.serve import Options, serve
from service.autoencoder import load
from service.errors import TickwatchError
from service.scorer import Scorer
from service.ticks import encode
from tests.samples import random_ticks, shipped, with_numbers
from tests.serving import TICKWATCH, Server, as_json, new_key, served, server

CALM = random_ticks(2000, streams=1)
TICKS = with_numbers(CALM, 1500, price=CALM.price[1500] * 1.5)
SSE = {"Accept": "text/event-stream"}
BODY = as_json(TICKS, named=False)
WHOLE = Scorer(load(shipped("gru")), 20, 0.0).score(TICKS).verdicts.score.tolist()


def refused(options: Options) -> str:
    """Why a server does not start."""
    with pytest.raises(TickwatchError) as error:
        serve(options)
    return str(error.value)


def test_it_answers_with_the_bits_of_tickwatch_replay(tmp_path: Path) -> None:
    many = random_ticks(3000, streams=6)
    file, output = tmp_path / "ticks.jsonl", tmp_path / "scores.parquet"
    file.write_bytes(b"\n".join(encode(many)))
    subprocess.run([str(TICKWATCH), "replay", str(file), "--output", str(output)], check=True, capture_output=True)
    expected = pq.read_table(output)["score"].to_pylist()
    with server(tmp_path / "data") as running, running.client() as client:
        found: list[float] = []
        state: dict[str, str] = {}
        for first in range(0, 3000, 500):
            ticks = as_json(many.take(np.arange(first, first + 500)))
            answer = client.post("/v1/score", json={"ticks": ticks} | state).json()
            found += [tick["score"] for tick in answer["ticks"]]
            state = {"state": answer["state"]}
    assert found == expected


def test_kill_minus_nine_in_full_flight_loses_no_acknowledged_tick_and_moves_none_twice(tmp_path: Path) -> None:
    """Four clients send four streams tick by tick, each request with a key; whatever was not answered is sent again."""
    streams = [random_ticks(400, streams=1, seed=seed) for seed in range(4)]
    alone = [Scorer(load(shipped("gru")), 20, 0.0).score(ticks).verdicts.score.tolist() for ticks in streams]
    found: list[list[float]] = [[] for _ in streams]
    kills = 0
    while any(len(scores) < 400 for scores in found):
        with server(tmp_path) as running:
            for scores, name in zip(found, "abcd", strict=True):
                with running.client() as client:
                    kept = client.get(f"/v1/streams/{name}")
                    ticks = kept.json()["ticks"] if kept.status_code == 200 else 0
                    assert len(scores) <= ticks <= len(scores) + 1
            with ThreadPoolExecutor(4) as pool:
                work = [
                    pool.submit(_send_on, running, name, as_json(ticks, named=False), scores)
                    for name, ticks, scores in zip("abcd", streams, found, strict=True)
                ]
                if kills < 3:
                    goal = sum(map(len, found)) + 200
                    while sum(map(len, found)) < goal:
                        time.sleep(0.005)
                    running.kill()
                    kills += 1
                for one in work:
                    one.result()
    assert kills == 3
    assert found == alone


def _send_on(running: Server, name: str, ticks: list[dict[str, Any]], scores: list[float]) -> None:
    with running.client() as client:
        while len(scores) < len(ticks):
            headers = {"Idempotency-Key": str(len(scores))}
            body = {"ticks": [ticks[len(scores)]]}
            try:
                answer = client.post(f"/v1/streams/{name}/ticks", json=body, headers=headers)
            except httpx.TransportError:
                return
            scores.append(answer.json()["ticks"][0]["score"])


def test_what_was_called_too_late_has_changed_nothing_and_what_was_answered_counts(tmp_path: Path) -> None:
    """Many large requests at once, most with deadlines that pass before, while or after they are scored."""

    def ask(number: int) -> tuple[str, int]:
        name, deadline = f"S{number}", (1, 5, 20, 100, 5000)[number % 5]
        with running.client() as client:
            headers = {"Deadline-Ms": str(deadline)}
            return name, client.post(f"/v1/streams/{name}/ticks", json={"ticks": BODY}, headers=headers).status_code

    with server(tmp_path) as running, ThreadPoolExecutor(10) as pool:
        told = dict(pool.map(ask, range(30)))
        with running.client() as client:
            kept = {s["stream"]: s["ticks"] for s in client.get("/v1/streams").json()["streams"]}
        assert set(told.values()) == {200, 429}
        assert kept == {name: len(BODY) for name, status in told.items() if status == 200}


def test_a_request_whose_client_leaves_while_it_waits_is_dropped(tmp_path: Path) -> None:
    with server(tmp_path, "--linger-ms", "1000") as running, running.client() as client:
        with pytest.raises(httpx.ReadTimeout):
            client.post("/v1/streams/LEFT/ticks", json={"ticks": BODY[:5]}, timeout=0.1)
        assert client.post("/v1/streams/STAYED/ticks", json={"ticks": BODY[:5]}).status_code == 200
        assert [stream["stream"] for stream in client.get("/v1/streams").json()["streams"]] == ["STAYED"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_after_what_has_begun(tmp_path: Path, number: signal.Signals) -> None:
    with server(tmp_path, "--linger-ms", "1000") as running, running.client() as client:
        answers: list[httpx.Response] = []
        asking = threading.Thread(
            target=lambda: answers.append(client.post("/v1/streams/S/ticks", json={"ticks": BODY[:5]}))
        )
        with (
            running.client() as other,
            running.client() as watching,
            other.stream("GET", "/v1/alerts/stream", headers=SSE) as events,
        ):
            assert events.status_code == 200
            asking.start()
            while asking.is_alive() and "tickwatch_http_waiting_ticks 5.0" not in watching.get("/metrics").text:
                pass
            running.process.send_signal(number)
            asking.join()
            assert answers[0].status_code == 200
            assert running.process.wait(timeout=60) in {0, -number, 128 + number}


def raw(running: Server, *parts: bytes, pause: float = 0.0, wait: float = 20.0) -> bytes:
    """What comes back until the server closes the connection, or nothing comes for `wait` seconds."""
    host, _, port = running.url.removeprefix("http://").partition(":")
    answer = b""
    with socket.create_connection((host, int(port))) as connection:
        connection.settimeout(wait)
        try:
            for part in parts:
                connection.sendall(part)
                time.sleep(pause)
            while received := connection.recv(65536):
                answer += received
        except (TimeoutError, ConnectionError):
            pass
    return answer


HEAD = b"POST /v1/score HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


def test_clients_that_dawdle_or_send_too_much_are_shown_out_while_others_are_served(tmp_path: Path) -> None:
    with server(tmp_path) as running, ThreadPoolExecutor(8) as pool, running.client() as client:
        slow_headers = [pool.submit(raw, running, *[b"GET /healthz HTTP/1.1\r\n", *[b"X: y\r\n"] * 8], pause=1.0)]
        slow_headers.append(pool.submit(raw, running, b""))
        again = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
        slow_headers.append(pool.submit(raw, running, again, b"GET /healthz HTTP/1.1\r\n", pause=0.1))
        goodbye = again.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
        idle = pool.submit(raw, running, again, goodbye, pause=6.0)
        slow_body = pool.submit(raw, running, HEAD + b"Content-Length: 100\r\n\r\n", b" ", b" ", pause=1.0, wait=40)
        many_headers = pool.submit(raw, running, b"GET / HTTP/1.1\r\n", *[b"X: " + b"y" * 9000 + b"\r\n"] * 20)
        large = pool.submit(raw, running, HEAD + b"Content-Length: 99999999\r\n\r\n" + b" " * 100_000)
        chunks = [b"%x\r\n" % 2**20 + b" " * 2**20 + b"\r\n"] * 9
        endless = pool.submit(raw, running, HEAD + b"Transfer-Encoding: chunked\r\n\r\n", *chunks)
        while not slow_headers[0].done():
            asked = time.monotonic()
            assert client.post("/v1/streams/S/ticks", json={"ticks": BODY[:1]}).status_code == 200
            assert time.monotonic() - asked < guard.HEADER_SECONDS
            time.sleep(0.5)
        assert b" 408 " in slow_headers[0].result()
        assert b" 408 " in slow_headers[1].result()
        assert b"alive" in slow_headers[2].result()
        assert idle.result().count(b"alive") == 2
        assert b" 408 " in slow_body.result()
        assert b" 431 " in many_headers.result()
        assert b" 413 " in large.result()
        assert b" 413 " in endless.result()
        for answer in (slow_body, large, endless):
            assert b"connection: close" in answer.result().lower()


@pytest.mark.parametrize(
    "request_",
    [
        b"hello\r\n\r\n",
        b"GET /healthz HTTP/9.9\r\n\r\n",
        HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n",
        HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET /%zz\x00 HTTP/1.1\r\n\r\n",
    ],
)
def test_what_is_not_http_ends_with_problem_details(tmp_path_factory: pytest.TempPathFactory, request_: bytes) -> None:
    with server(tmp_path_factory.mktemp("raw")) as running:
        answer = raw(running, request_, wait=3)
        assert b" 400 " in answer
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["type"] == "/docs#bad-request"


def test_an_offer_to_speak_another_protocol_is_ignored(tmp_path: Path) -> None:
    """As Java's HTTP client and `curl --http2` make one with their first request."""
    body = json.dumps({"ticks": BODY[:1]}).encode()
    head = b"POST /v1/streams/S/ticks HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n"
    length = b"Content-Length: %d\r\n" % len(body)
    last = b"GET /v1/streams/S HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    with server(tmp_path) as running:
        for parts in (
            [head + offer + length + b"\r\n" + body + last],
            [head + offer + length, b"\r\n", body[:20], body[20:], last],
            [last.replace(b"close", b"Upgrade").replace(b"\r\n\r\n", b"\r\nUpgrade: websocket\r\n\r\n"), last],
        ):
            assert raw(running, *parts, pause=0.05).count(b"HTTP/1.1 200 ") == 2


def test_alerts_are_followed_live_and_resumed_behind_the_last_one(tmp_path: Path) -> None:
    offsets = np.flatnonzero(Scorer(load(shipped("gru")), 20, 0.0).score(TICKS).verdicts.alert).tolist()
    with server(tmp_path) as running, running.client() as client, running.client() as other:
        with client.stream("GET", "/v1/alerts/stream", headers=SSE) as following:
            lines = following.iter_lines()
            assert next(lines) == "retry: 1000"
            for first in range(0, 2000, 500):
                other.post("/v1/streams/S/ticks", json={"ticks": BODY[first : first + 500]})
            seen = _events(lines, len(offsets))
        assert [data["data"]["offset"] for _, data in seen] == offsets
        with client.stream("GET", "/v1/alerts/stream", headers=SSE | {"Last-Event-ID": seen[0][0]}) as following:
            assert _events(following.iter_lines(), len(offsets) - 1) == seen[1:]
        page = other.get("/v1/alerts", params={"after": seen[0][0], "stream": "S", "limit": 1000}).json()
        assert page["alerts"] == [data for _, data in seen[1:]]
        assert other.get("/v1/alerts?min_score=100").json()["alerts"] == []
        opened = other.get("/v1/alerts?phase=opened&limit=1").json()["alerts"]
        assert [alert["data"]["phase"] for alert in opened] == ["opened"]


def _events(lines: object, n: int) -> list[tuple[str, dict[str, Any]]]:
    found: list[tuple[str, dict[str, Any]]] = []
    number = ""
    for line in lines:  # type: ignore[attr-defined]
        if line.startswith("id: "):
            number = line[4:]
        if line.startswith("data: "):
            found.append((number, json.loads(line[6:])))
        if len(found) == n:
            break
    return found


def test_a_follower_whose_key_is_withdrawn_hears_no_more(tmp_path: Path) -> None:
    keys = tmp_path / "keys.jsonl"
    key = new_key(keys, "read")
    with server(tmp_path, "--keys-file", str(keys)) as running, running.client(key) as client:
        with client.stream("GET", "/v1/alerts/stream", headers=SSE) as following:
            keys.write_text("")
            assert list(following.iter_lines()) == ["retry: 1000", ""]
        assert client.get("/v1/alerts").status_code == 401


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
    subprocess.run([*command, "-keyout", str(key), "-out", str(cert)], check=True, capture_output=True)
    return cert, key


def test_it_speaks_tls_with_the_given_files_to_any_address_with_keys(
    tmp_path: Path, certificate: tuple[Path, Path]
) -> None:
    keys = tmp_path / "keys.jsonl"
    key = new_key(keys)
    tls = ["--tls-cert-file", str(certificate[0]), "--tls-key-file", str(certificate[1])]
    with server(tmp_path, "--host", "0.0.0.0", "--keys-file", str(keys), *tls) as running:
        assert running.url.startswith("https://")
        trust = ssl.create_default_context(cafile=str(certificate[0]))
        trust.check_hostname = False
        url = running.url.replace("0.0.0.0", "127.0.0.1")
        with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, verify=trust) as client:
            found = client.get("/v1/streams")
            assert found.status_code == 200
            assert "max-age" in found.headers["strict-transport-security"]


def test_a_signal_before_the_server_listens_to_any_is_not_lost(tmp_path: Path) -> None:
    asked = chain([False], repeat(True))
    serve(Options(port=0, data_dir=tmp_path), asked=lambda: next(asked))


def test_without_keys_it_stays_on_this_machine_and_says_so(tmp_path: Path) -> None:
    for host in ("0.0.0.0", "::", "192.0.2.1", "example.com"):
        assert "without API keys only this machine may connect" in refused(Options(host=host, data_dir=tmp_path))
    with server(tmp_path) as running:
        assert running.process.stderr is not None
        assert "no API keys: only this machine can connect" in running.process.stderr.readline()


def test_mistakes_are_told_with_the_flag_to_mend(tmp_path: Path) -> None:
    short, none = tmp_path / "short", tmp_path / "none"
    short.write_text("x" * 31)
    usual = Options(data_dir=tmp_path, port=0)
    assert "--keys-file" in refused(replace(usual, keys_file=none))
    assert "at least 32" in refused(replace(usual, state_key_file=short))
    assert "go together" in refused(replace(usual, tls_cert_file=short))
    assert "no such file" in refused(replace(usual, tls_cert_file=short, tls_key_file=none))
    with server(tmp_path) as running:
        port = int(running.url.rpartition(":")[2])
        assert f"--port {port}" in refused(replace(usual, port=port))
        assert "another tickwatch is using it" in refused(usual)
        assert "another tickwatch is using it" in refused(replace(usual, fresh=True))
        with running.client() as client:
            assert client.post("/v1/streams/S/ticks", json={"ticks": BODY[:3]}).status_code == 200
    said = refused(replace(usual, model="lstm"))
    assert "gru-" in said
    assert "--fresh" in said


def test_streams_of_another_model_are_set_aside_when_asked(tmp_path: Path) -> None:
    with served(tmp_path) as client:
        client.post("/v1/streams/S/ticks", json={"ticks": BODY[:3]})
    with server(tmp_path, "--model", "lstm", "--fresh") as running, running.client() as other:
        assert other.get("/v1/streams").json()["streams"] == []
        assert other.get("/v1/models").json()["models"][0]["cell"] == "lstm"
    assert (tmp_path / "previous-serve.sqlite").exists()


def test_metrics_are_what_prometheus_reads_and_do_not_grow_with_the_streams(tmp_path: Path) -> None:
    with server(tmp_path) as running, running.client() as client:
        for i in range(50):
            client.post(f"/v1/streams/S{i}/ticks", json={"ticks": BODY[:2]})
            client.get(f"/nowhere/{i}")
        families = {f.name: f for f in text_string_to_metric_families(client.get("/metrics").text)}
    routes = {s.labels["route"] for s in families["tickwatch_http_requests"].samples}
    assert routes == {"/v1/streams/{stream}/ticks", "none"}
    assert families["tickwatch_streams"].samples[0].value == 50
    scored = [s.value for s in families["tickwatch_ticks"].samples if s.labels.get("outcome") == "scored"]
    assert scored[0] == 100


def test_a_hundred_connections_at_once_are_answered(tmp_path: Path) -> None:
    def ask(number: int) -> list[float]:
        found = []
        with running.client() as client:
            for i in range(10):
                body = {"ticks": BODY[i : i + 1]}
                answer = client.post(f"/v1/streams/{number}/ticks", json=body)
                found.append(answer.json()["ticks"][0]["score"])
        return found

    with server(tmp_path) as running, ThreadPoolExecutor(100) as pool:
        assert list(pool.map(ask, range(100))) == [WHOLE[:10]] * 100


def test_a_key_is_printed_once_and_works(tmp_path: Path) -> None:
    keys = tmp_path / "keys.jsonl"
    command = [str(TICKWATCH), "keys", "create", "--keys-file", str(keys), "--prefix", "acme:", "--scopes", "read"]
    made = subprocess.run(command, capture_output=True, text=True, check=True)
    key = made.stdout.strip()
    assert re.fullmatch(r"tw_[0-9a-f]{12}_[\w-]{43}", key)
    assert "acme:" in made.stderr
    with server(tmp_path, "--keys-file", str(keys)) as running, running.client(key) as client:
        assert client.get("/v1/streams").status_code == 200
        assert client.post("/v1/score", json={"ticks": BODY[:1]}).status_code == 403
    wrong = subprocess.run([*command, "--scopes", "write"], capture_output=True, text=True, check=False)
    assert "--scopes write" in wrong.stderr
