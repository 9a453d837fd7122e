"""The documents promise what the code does: schemathesis looks for a request that shows otherwise."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import numpy as np
import pytest

from service.alerts import alerts, cloud_event
from service.api import documents, wire
from service.autoencoder import load
from service.logs import Records
from service.scorer import Scorer
from service.ticks import decode, encode
from tests.samples import ROOT, random_ticks, shipped, with_numbers
from tests.serving import new_key, served, server

SCHEMATHESIS = Path(sys.executable).with_name("schemathesis")


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("secured", "seeds", "examples", "least"), [(False, (7, 8, 9), 65, 2000), (True, (7,), 8, 300)]
)
def test_no_request_shows_the_service_to_differ_from_its_document(
    tmp_path: Path, secured: bool, seeds: tuple[int, ...], examples: int, least: int
) -> None:
    """All checks in all phases, links included; fewer cases with keys, for then only the authorisation differs.

    A stream that its next tick began anew is not one that is there although it was removed. schemathesis can't tell them
    apart (it knows of no request that makes a resource but those to the resource's own path and shorter ones): the
    recording of all requests does.
    """
    keys = tmp_path / "keys.jsonl"
    key = new_key(keys, "score", "read", "admin")
    given = ["--keys-file", str(keys)] if secured else []
    options = ["--checks", "all", "-n", str(examples), "--suppress-health-check", "all", "--request-timeout", "30"]
    options += ["-H", f"Authorization: Bearer {key}"] if secured else []
    with ExitStack() as servers:
        looking = []
        for seed in seeds:  # each in a process, for its threads break Python 3.11's parser
            # and on a server of its own: a stream that one deletes another would make again
            running = servers.enter_context(server(tmp_path / str(seed), *given))
            command = [str(SCHEMATHESIS), "run", f"{running.url}/openapi.json", "--seed", str(seed), *options]
            command += ["--report", "har", "--report-har-path", str(tmp_path / f"{seed}.har")]
            looking.append(subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True))
        told = [one.communicate()[0] for one in looking]
    recorded = [json.loads((tmp_path / f"{seed}.har").read_text())["log"]["entries"] for seed in seeds]
    assert [_kept_although_removed(_exchanges(entries)) for entries in recorded] == [[]] * len(seeds)
    found = [t[-8000:] for one, t in zip(looking, told, strict=True) if one.returncode and not _only_removed_streams(t)]
    assert not found, "\n".join(found)  # whole, for what a fuzzer found once it may not find again
    assert sum(int(n) for text in told for n in re.findall(r"(\d+) generated", text)) >= least


Exchange = tuple[str, str, int]  # method, path and status


def _exchanges(entries: list[dict[str, Any]]) -> list[Exchange]:
    """The requests of a recording (HAR 1.2), which are in the order in which they were sent, one after the other."""
    return [(e["request"]["method"], urlsplit(e["request"]["url"]).path, e["response"]["status"]) for e in entries]


def _kept_although_removed(exchanges: list[Exchange]) -> list[str]:
    """Paths of streams that were found after their removal though no tick had begun them anew."""
    removed: set[str] = set()
    kept = []
    for method, path, status in exchanges:
        if (method, status) == ("DELETE", 204):
            removed.add(path)
        elif (method, status) == ("POST", 200):
            removed.discard(path.removesuffix("/ticks"))
        elif (method, status) == ("GET", 200) and path in removed:
            kept.append(path)
    return kept


def _only_removed_streams(told: str) -> bool:
    """Whether every failure is a stream that was found after its removal, which the recording judges."""
    titles = re.findall(r"^- (.*)$", told, re.MULTILINE)
    return bool(titles) and set(titles) == {"ST301 Deleted resource still available"}


def test_only_a_stream_that_got_a_tick_again_may_be_found_after_its_removal() -> None:
    made, removed = ("POST", "/v1/streams/a/ticks", 200), ("DELETE", "/v1/streams/a", 204)
    refused, other = ("POST", "/v1/streams/a/ticks", 409), ("POST", "/v1/streams/b/ticks", 200)
    found = ("GET", "/v1/streams/a", 200)
    assert _kept_although_removed([made, removed, made, found]) == []
    for between in ([], [refused], [other]):
        assert _kept_although_removed([made, removed, *between, found]) == ["/v1/streams/a"]
    assert _only_removed_streams("- ST301 Deleted resource still available\n")
    assert not _only_removed_streams("- ST301 Deleted resource still available\n\n- Server error\n")
    assert not _only_removed_streams("it did not start")


@pytest.mark.parametrize("name", ["openapi", "asyncapi"])
def test_the_documents_in_the_repository_are_those_of_the_code(tmp_path: Path, name: str) -> None:
    kept = json.loads((ROOT / "docs" / f"{name}.json").read_text())
    made = subprocess.run([sys.executable, "-m", "service.api.documents", name], capture_output=True, check=True)
    assert json.loads(made.stdout) == kept
    with served(tmp_path) as client:
        assert name == "asyncapi" or _without_security(kept) == client.get("/openapi.json").json()


def _without_security(document: dict[str, dict[str, dict[str, dict[str, object]]]]) -> object:
    for operations in document["paths"].values():
        for operation in operations.values():
            operation.pop("security", None)
    return document


def test_the_examples_of_the_document_are_answered(tmp_path: Path) -> None:
    document = documents.openapi_of_defaults()
    asked = 0
    with served(tmp_path) as client:
        for path, operations in document["paths"].items():
            for method, operation in operations.items():
                content = operation.get("requestBody", {}).get("content", {})
                for media_type, what in content.items():
                    if "example" in what:
                        example = what["example"]
                        body = example if isinstance(example, str) else json.dumps(example)
                        url = path.replace("{stream}", "AAPL")
                        found = client.request(method, url, content=body, headers={"content-type": media_type})
                        assert found.status_code == 200, found.text
                        asked += 1
    assert asked == 2


def test_the_topics_hold_what_the_asyncapi_document_says() -> None:
    document = documents.asyncapi()
    (example,) = document["components"]["messages"]["Tick"]["examples"]
    value = msgspec.json.encode(example["payload"])
    ticks, letters = decode(Records(np.zeros(1, np.int32), np.zeros(1, np.int64), [None], [value]))
    assert (len(ticks), letters) == (1, [])
    calm = random_ticks(1000, streams=1)
    hurt = with_numbers(calm, 900, price=calm.price[900] * 2)
    for line in encode(hurt)[:50]:
        msgspec.json.decode(line, type=wire.Tick)
    scorer = Scorer(load(shipped("gru")), 20)
    found = alerts(scorer.score(hurt), "ticks", scorer.model.id, scorer.threshold)
    assert found
    for alert in found:
        event = cloud_event(alert).value
        assert msgspec.json.encode(msgspec.json.decode(event, type=wire.AlertEvent)) == event
    assert document["channels"]["ticks"]["address"] == "ticks"
