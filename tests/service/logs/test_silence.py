"""What counts as silence: an end that lies further on and a place that does not change, twice in a row."""

from __future__ import annotations

from service.logs.silence import Silence

A, B = 0, 1


def silent_after(*looks: tuple[dict[int, int], dict[int, int]]) -> list[int]:
    """What the last of several looks found; each is (where the consumer stands, where the partitions end)."""
    found: list[int] = []
    turn = 0
    silence = Silence(10.0, lambda partitions: {p: looks[turn][1][p] for p in partitions if p in looks[turn][1]})
    for turn in range(len(looks)):
        found = silence.look(lambda: looks[turn][0], turn * 10.0)  # noqa: B023
    return found


def test_a_partition_that_stands_still_before_its_end_is_silent() -> None:
    assert silent_after(({A: 5}, {}), ({A: 5}, {A: 9}), ({A: 5}, {A: 9})) == [A]


def test_one_that_is_at_its_end_or_moves_or_was_just_asked_for_is_not() -> None:
    assert silent_after(({A: 5}, {}), ({A: 5}, {A: 5}), ({A: 5}, {A: 9})) == []
    assert silent_after(({A: 5}, {}), ({A: 5}, {A: 9}), ({A: 6}, {A: 9})) == []
    assert silent_after(({A: 5}, {}), ({A: 5}, {A: 9})) == []


def test_nobody_is_judged_while_nobody_can_tell_where_partitions_end() -> None:
    assert silent_after(({A: 5}, {}), ({A: 5}, {}), ({A: 5}, {})) == []


def test_a_busy_partition_does_not_hide_a_silent_one() -> None:
    assert silent_after(({A: 1, B: 5}, {}), ({A: 2, B: 5}, {B: 9}), ({A: 3, B: 5}, {B: 9})) == [B]


def test_between_two_looks_nobody_is_asked() -> None:
    silence = Silence(10.0, lambda partitions: dict.fromkeys(partitions, 9))
    for now in (0.0, 10.0):
        silence.look(lambda: {A: 5}, now)
    assert silence.look(lambda: {A: 5}, 19.9) == []
    assert silence.look(lambda: {A: 5}, 20.0) == [A]


def test_a_restore_between_two_looks_is_no_silence() -> None:
    silence = Silence(10.0, lambda partitions: dict.fromkeys(partitions, 9))
    for now in (0.0, 10.0):
        silence.look(lambda: {A: 5}, now)
    silence.forget()
    assert [silence.look(lambda: {A: 5}, now) for now in (20.0, 30.0, 40.0)] == [[], [], [A]]
