"""The log: one event a line, JSON or for people, with its place and without secrets."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from service import journal
from service.api.shell import Shell
from service.errors import TickwatchError
from service.journal import Calm, event
from service.metrics import Metrics
from tests.kafka.broker import free_ports

TICKWATCH = Path(sys.executable).parent / "tickwatch"
LOG = logging.getLogger("tickwatch")
KEY = "tw_0123456789ab_" + "s3cret-_" * 5 + "xyz"
SECRET = 'hunter2 "quoted"'


@pytest.fixture(autouse=True)
def unchanged() -> Iterator[None]:
    """Logging is as it was after each test."""
    root = logging.getLogger()
    before, level, own = root.handlers[:], root.level, LOG.level
    yield
    logging.captureWarnings(capture=False)
    root.handlers[:] = before
    root.setLevel(level)
    LOG.setLevel(own)


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_an_event_is_one_json_object_with_its_place(capsys: pytest.CaptureFixture[str]) -> None:
    journal.begin("json")
    LOG.info("topic %s ends at %d", "a\nb", 7, extra=event("ended", topic="a\nb", partition=1, offset=7, level="mine"))
    LOG.error("it failed", exc_info=KeyError("inner\n" + "\ud800"))
    first, second = lines(capsys)
    assert first.pop("time").endswith("+00:00")
    assert first == {
        "level": "info",
        "event": "ended",
        "logger": "tickwatch",
        "message": "topic a\nb ends at 7",
        "topic": "a\nb",
        "partition": 1,
        "offset": 7,
    }
    assert second["traceback"].startswith("KeyError: 'inner")


def test_for_people_it_is_a_line_of_words_that_no_name_can_break(capsys: pytest.CaptureFixture[str]) -> None:
    journal.begin("human")
    LOG.warning("stream %s is odd", "a\n2026-01-01 ERROR forged\x1b[31m", extra=event("odd", request="r1"))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(r"WARNING stream a\n2026-01-01 ERROR forged\x1b[31m is odd (request r1)")


@pytest.mark.parametrize("form", journal.FORMATS)
def test_no_secret_is_logged_by_anybody(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    journal.begin(form).hide(SECRET, "")
    kafka = logging.getLogger("kafka.conn")
    kafka.error("login with %s failed", SECRET)
    kafka.warning("config %s", {"sasl_plain_password": SECRET})
    LOG.info("sent", extra=event("sent", header=f"Bearer {KEY}", registry="https://me:hush@host/x", keys=[KEY, SECRET]))
    LOG.error("no", exc_info=ValueError(f"{SECRET} at https://me:hush@host with {KEY} or Bearer abcdef"))
    told = capsys.readouterr().err
    assert len(told.splitlines()) >= 4
    assert "***" in told
    for secret in ("hunter2", KEY, "hush", "abcdef"):
        assert secret not in told


def test_a_library_says_the_same_once_a_minute_and_tickwatch_all_it_has_to_say() -> None:
    now = [0.0]
    calm = Calm(lambda: now[0])

    def passes(name: str, line: int) -> bool:
        return calm.filter(logging.LogRecord(name, logging.ERROR, "file.py", line, "x", (), None))

    assert [passes("kafka.conn", 1), passes("kafka.conn", 1), passes("kafka.conn", 2)] == [True, False, True]
    assert all(passes("tickwatch", 1) for _ in range(3))
    now[0] = 60.0
    assert passes("kafka.conn", 1)


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(TickwatchError, match="--log-format xml: give human or json"):
        journal.begin("xml")


def test_a_failed_request_has_one_name_for_its_sender_and_in_the_log(capsys: pytest.CaptureFixture[str]) -> None:
    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        raise KeyError("unforeseen")

    async def ask(**headers: str) -> httpx.Response:
        shell = Shell(broken, Metrics(), only_local=True, secure=False)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(shell), base_url="http://localhost") as client:
            return await client.get("/v1/streams/A%2FB", headers=headers | {"Authorization": f"Bearer {KEY}"})

    journal.begin("json")
    given = asyncio.run(ask(**{"X-Request-Id": "desk-7"}))
    made = asyncio.run(ask(**{"X-Request-Id": 'forged"\t'}))
    first, second = lines(capsys)
    assert (given.headers["x-request-id"], first["request"]) == ("desk-7", "desk-7")
    assert made.headers["x-request-id"] == second["request"] != 'forged"'
    assert (first["event"], first["method"], first["path"]) == ("request_failed", "GET", "/v1/streams/A%2FB")
    assert KEY not in json.dumps([first, second])


def test_a_worker_speaks_json_from_first_to_last_and_keeps_its_password(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    command = [
        str(TICKWATCH),
        "worker",
        "--port",
        "0",
        "--bootstrap-servers",
        f"127.0.0.1:{port}",
        "--log-format",
        "json",
    ]
    login = ["--security-protocol", "SASL_PLAINTEXT", "--username", "me"]
    environment = os.environ | {"TICKWATCH_PASSWORD": SECRET}
    with (tmp_path / "err").open("w") as err:
        worker = subprocess.Popen([*command, *login], cwd=tmp_path, stderr=err, env=environment)
    deadline = time.monotonic() + 60
    while "unreachable" not in (tmp_path / "err").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(timeout=60) == 0
    said = (tmp_path / "err").read_text()
    assert "hunter2" not in said
    events = [json.loads(line) for line in said.splitlines()]
    assert [events[0]["event"], events[1]["event"], events[-1]["event"]] == ["started", "unreachable", "stopped"]
    assert events[1]["attempt"] == 1


def test_the_error_that_ends_the_process_is_an_event_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert not journal.end("for people", 1)  # somebody else prints it
    journal.begin("json")
    assert journal.end("no topic", 3)
    (last,) = lines(capsys)
    assert (last["level"], last["event"], last["exit_code"], last["message"]) == ("critical", "failed", 3, "no topic")
