"""A short seed of `make chaos`, and that its verifier is no pushover."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace

import pytest

from service.autoencoder import load
from service.consume import AT_LEAST_ONCE
from tests.chaos.run import BUDGET, Outcome, Plan, chaos
from tests.chaos.verifier import Evidence, verify
from tests.kafka.broker import Seen
from tests.samples import shipped

SHORT = Plan(duration_s=18, seed=5, brokers=1, cell="lstm", rate=1000, alone_share=0)


@pytest.fixture(scope="module")
def outcome(kafka_jars: None, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return chaos(SHORT, tmp_path_factory.mktemp("chaos"), print)


def test_exactly_once_holds_through_a_short_seed_of_chaos(outcome: Outcome) -> None:
    assert outcome.wrong == []
    assert outcome.faults.total() >= 5


def first_frame(evidence: Evidence, change: Callable[[dict[str, list[float]]], None]) -> list[Seen]:
    """The score frames with the first one changed."""
    first, *rest = evidence.scores
    frame = json.loads(first.value or b"")
    change(frame)
    return [replace(first, value=json.dumps(frame).encode()), *rest]


def nudge(frame: dict[str, list[float]]) -> None:
    frame["score"][0] += 1e-15


def swap(frame: dict[str, list[float]]) -> None:
    frame["offset"][:2] = frame["offset"][1::-1]


def flip(record: Seen) -> Seen:
    """The record with the last bit of its last row changed."""
    value = record.value or b""
    return replace(record, value=value[:-1] + bytes([value[-1] ^ 1]))


SPOILED: dict[str, tuple[Callable[[Evidence], Evidence], str]] = {
    "a lost frame": (lambda e: replace(e, scores=e.scores[1:]), "scored ticks: .* lost, 0 repeated"),
    "a repeated frame": (lambda e: replace(e, scores=[*e.scores, e.scores[-1]]), "scored ticks: .* 0 lost, [1-9]"),
    "two ticks swapped": (lambda e: replace(e, scores=first_frame(e, swap)), "scored ticks: .* 0 lost, 0 repeated"),
    "a score one bit off": (lambda e: replace(e, scores=first_frame(e, nudge)), "1 scores differ"),
    "a lost alert": (lambda e: replace(e, alerts=e.alerts[1:]), "alerts of .* 1 lost"),
    "a repeated alert": (lambda e: replace(e, alerts=[*e.alerts, e.alerts[0]]), "alerts of .* 1 repeated"),
    "a lost dead letter": (lambda e: replace(e, letters=e.letters[1:]), "dead letters: .* 1 lost"),
    "a repeated dead letter": (lambda e: replace(e, letters=[*e.letters, e.letters[0]]), "dead letters: .* 1 repeated"),
    "a bit of state": (lambda e: replace(e, changelog=[*e.changelog[:-1], flip(e.changelog[-1])]), "state of 1 of"),
    "an offset behind": (lambda e: replace(e, committed=e.committed | {0: 1}), "the group committed offset 1 of"),
}


def test_at_least_once_allows_what_comes_again_with_the_same_bits_and_nothing_else(outcome: Outcome) -> None:
    evidence, model = outcome.evidence, load(shipped(SHORT.cell))
    again = replace(
        evidence,
        scores=[*evidence.scores, *evidence.scores[:3]],
        alerts=[*evidence.alerts, evidence.alerts[0]],
        letters=[*evidence.letters, evidence.letters[0]],
    )
    assert verify(again, model, BUDGET, AT_LEAST_ONCE) == []
    other = first_frame(evidence, nudge)[0]
    (wrong,) = verify(replace(again, scores=[*evidence.scores, other]), model, BUDGET, AT_LEAST_ONCE)
    assert "and again as" in wrong
    (wrong,) = verify(replace(again, alerts=evidence.alerts[1:]), model, BUDGET, AT_LEAST_ONCE)
    assert "1 lost" in wrong


@pytest.mark.parametrize("what", SPOILED)
def test_the_verifier_notices(outcome: Outcome, what: str) -> None:
    spoil, complaint = SPOILED[what]
    wrong = verify(spoil(outcome.evidence), load(shipped(SHORT.cell)), BUDGET)
    assert len(wrong) == 1
    assert re.search(complaint, wrong[0])
