"""The documents promise what the code does: schemathesis looks for a request that shows otherwise."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

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

    A stream that its next tick began anew is not one that is there although it was removed; see `_began_anew`.
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
            looking.append(subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True))
        told = [one.communicate()[0] for one in looking]
    found = [t[-8000:] for one, t in zip(looking, told, strict=True) if one.returncode and not _began_anew(t)]
    assert not found, "\n".join(found)  # whole, for what a fuzzer found once it may not find again
    assert sum(int(n) for text in told for n in re.findall(r"(\d+) generated", text)) >= least


def _began_anew(told: str) -> bool:
    """Whether every failure is a stream that was removed, and got a tick before it was found again.

    schemathesis knows of no request that makes a resource but those to the resource's own path and shorter ones.
    """
    failures = re.split(r"^\d+\. Test Case ID", told, flags=re.MULTILINE)[1:]
    return bool(failures) and all(map(_one_began_anew, failures))


def _one_began_anew(failure: str) -> bool:
    requests = re.findall(r"^ *curl -X (\w+) .*?([^ ']+)'?$", failure, re.MULTILINE)
    removed = [i for i, (method, _) in enumerate(requests) if method == "DELETE"]
    return (
        re.findall(r"^- (.*)$", failure, re.MULTILINE) == ["ST301 Deleted resource still available"]
        and bool(removed)
        and ("POST", f"{requests[removed[-1]][1]}/ticks") in requests[removed[-1] :]
    )


REMOVED = """
1. Test Case ID: CRH4SB

- ST301 Deleted resource still available

Reproduce with:

    curl -X POST -H 'Content-Type: application/json' -d '{}' http://127.0.0.1:1/v1/streams/%C2%8D/ticks
    curl -X DELETE -H 'Deadline-Ms: 6' http://127.0.0.1:1/v1/streams/%C2%8D
    curl -X POST -H 'Content-Type: application/json' -d '{}' http://127.0.0.1:1/v1/streams/AGAIN/ticks
    curl -X GET http://127.0.0.1:1/v1/streams/%C2%8D
"""


def test_only_a_stream_that_got_a_tick_again_may_be_found_after_its_removal() -> None:
    again = REMOVED.replace("AGAIN", "%C2%8D")
    assert _began_anew(again)
    assert not _began_anew(REMOVED)
    assert not _began_anew(again + REMOVED)
    assert not _began_anew(again.replace("- ST301", "- Server error\n\n- ST301"))
    assert not _began_anew("it did not start")


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
