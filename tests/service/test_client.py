"""The client retries until the service answers, and a stream moves once."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from service.api.wire import Tick
from service.ask import as_wire
from service.autoencoder import load
from service.client import Client, Refused
from service.errors import TickwatchError
from service.scorer import Scorer
from service.ticks import encode
from tests.samples import random_ticks, shipped, with_numbers
from tests.serving import TICKWATCH, Server, new_key, server

CALM = random_ticks(1000, streams=1)
TICKS = with_numbers(CALM, 900, price=CALM.price[900] * 1.5)
WHOLE = Scorer(load(shipped("gru")), 20, 0.0).score(TICKS).verdicts.score.tolist()
KEPT = [Tick(t.ts, t.price, None, t.size, t.bid, t.ask, t.bid_size, t.ask_size) for t in as_wire(TICKS)]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with server(tmp_path_factory.mktemp("client")) as one:
        yield one


def test_everything_the_service_can_do_is_a_typed_call(running: Server) -> None:
    with Client(running.url) as client:
        first = client.score(as_wire(TICKS)[:500])
        second = client.score(as_wire(TICKS)[500:], first.state)
        assert [t.score for t in first.ticks + second.ticks] == WHOLE
        assert [t.score for t in client.send("a/b", KEPT).ticks] == WHOLE
        assert client.stream("a/b").ticks == 1000
        assert [s.stream for s in client.streams()] == ["a/b"]
        alerts = list(client.alerts(stream="a/b", min_score=4))
        assert 900 in [alert.data.offset for alert in alerts]
        client.delete("a/b")
        with pytest.raises(Refused) as refused:
            client.stream("a/b")
        assert refused.value.problem.status == 404


def test_a_request_whose_answer_is_lost_is_sent_again_and_moves_the_stream_once(tmp_path: Path) -> None:
    """The service is killed again and again while ticks are sent one by one; it comes back under the same address."""
    found: list[float] = []
    ready, done = threading.Event(), threading.Event()
    port = ""

    def keep_alive() -> None:
        nonlocal port
        for _ in range(3):
            with server(tmp_path, *(["--port", port] if port else [])) as one:
                port = one.url.rpartition(":")[2]
                ready.set()
                done.wait(1.0)
                one.kill()
        with server(tmp_path, "--port", port):
            done.wait(100)

    keeper = threading.Thread(target=keep_alive)
    keeper.start()
    ready.wait(60)
    with Client(f"http://127.0.0.1:{port}", retries=12) as client:
        for tick in KEPT[:400]:
            found += [t.score for t in client.send("S", [tick]).ticks]
        assert client.stream("S").ticks == 400
    done.set()
    keeper.join()
    assert found == WHOLE[:400]


def test_it_says_what_the_service_said_and_gives_up_in_the_end(running: Server) -> None:
    pauses: list[float] = []
    nobody = Client("http://127.0.0.1:9", retries=3, sleep=pauses.append)
    with nobody as client, pytest.raises(TickwatchError, match="does `tickwatch serve` run there"):
        client.score(KEPT[:1])
    assert len(pauses) == 3
    assert pauses[0] < pauses[2]
    with Client(running.url) as client, pytest.raises(Refused, match=r"ticks\[0\]\.stream"):
        client.score(KEPT[:1])
    with pytest.raises(TickwatchError, match="give an address"):
        Client("localhost:8000")


def test_a_file_is_scored_by_a_service_as_replay_scores_it(tmp_path: Path) -> None:
    many = random_ticks(5000, streams=4)
    (tmp_path / "ticks.jsonl").write_bytes(b"\n".join(encode(many)))
    keys = tmp_path / "keys.jsonl"
    key = new_key(keys, "score")
    with server(tmp_path, "--keys-file", str(keys)) as one:
        command = [str(TICKWATCH), "score", "ticks.jsonl", "--output", "a.parquet", "--url", one.url]
        refused = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert "API key" in refused.stderr
        assert len(refused.stderr.splitlines()) == 1
        subprocess.run(
            command, cwd=tmp_path, env=os.environ | {"TICKWATCH_API_KEY": key}, check=True, capture_output=True
        )
    replay = [str(TICKWATCH), "replay", "ticks.jsonl", "--output", "b.parquet"]
    subprocess.run(replay, cwd=tmp_path, check=True, capture_output=True)
    replayed = pq.read_table(tmp_path / "b.parquet").drop_columns(["rejected"])  # `score` leaves such rows out
    assert pq.read_table(tmp_path / "a.parquet").equals(replayed)
