"""Alerts as pages, and as Server-Sent Events (https://html.spec.whatwg.org/multipage/server-sent-events.html)."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import NamedTuple

import msgspec
from starlette.concurrency import run_in_threadpool

from service.api.keys import Key
from service.api.problems import Problem
from service.api.store import Store
from service.api.wire import AlertsAnswer

FOLLOWERS = 200
SHARE = 2  # those of one tenant are at most this part of them: 1 / SHARE
LOOK_SECONDS = 1.0  # until a follower sees that its key was withdrawn or the service is ending
HEARTBEAT_SECONDS = 15.0  # keeps proxies from closing a quiet connection
PAGE = 500


class Wanted(NamedTuple):
    """Which alerts a caller asks for."""

    caller: Key
    stream: str | None
    phase: str | None
    min_score: float


class _Data(msgspec.Struct):
    score: float
    phase: str


class _Event(msgspec.Struct):
    data: _Data


_event = msgspec.json.Decoder(_Event)


class Feed:
    """Reads alerts for everyone; `wake` tells followers that there are new ones."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._news = asyncio.Event()
        self._followers: Counter[str] = Counter()  # by the prefix of their keys

    def wake(self) -> None:
        """New alerts are durable."""
        news, self._news = self._news, asyncio.Event()
        news.set()

    def page(self, wanted: Wanted, after: int, limit: int) -> AlertsAnswer:
        """At most `limit` alerts behind the id `after`."""
        found, until, more = self._read(wanted, after, limit)
        return AlertsAnswer([msgspec.Raw(value) for _, value in found], until, more)  # type: ignore[misc]

    def _read(self, wanted: Wanted, after: int, limit: int) -> tuple[list[tuple[int, bytes]], int, bool]:
        if wanted.stream is not None:
            wanted.caller.require(wanted.stream, "stream")
        rows, until, more = self._store.alerts(wanted.caller.prefix, after, wanted.stream)
        chosen: list[tuple[int, bytes]] = []
        for number, value in rows:
            data = _event.decode(value).data
            if data.score >= wanted.min_score and wanted.phase in (None, data.phase):
                if len(chosen) == limit:
                    return chosen, chosen[-1][0], True
                chosen.append((number, value))
        return chosen, until, more

    def follow(self, wanted: Wanted, after: int, allowed: Callable[[], bool], *, forever: bool) -> AsyncIterator[bytes]:
        """Events behind the id `after`, for as long as `allowed` says so, or those there are. Raises Problem if many follow."""
        if wanted.stream is not None:
            wanted.caller.require(wanted.stream, "stream")
        prefix = wanted.caller.prefix
        share = FOLLOWERS if not prefix else FOLLOWERS // SHARE
        if self._followers.total() >= FOLLOWERS or self._followers[prefix] >= share:
            detail = f"{self._followers[prefix]} clients with such a key follow the alerts already."
            raise Problem("busy", detail, "Try again later, or ask GET /v1/alerts.", headers={"Retry-After": "5"})
        return self._events(wanted, after, allowed, forever=forever)

    async def _events(
        self, wanted: Wanted, after: int, allowed: Callable[[], bool], *, forever: bool
    ) -> AsyncIterator[bytes]:
        self._followers[wanted.caller.prefix] += 1
        try:
            yield b"retry: 1000\n\n"
            said = time.monotonic()
            while allowed():
                news = self._news
                found, after, more = await run_in_threadpool(self._read, wanted, after, PAGE)
                if found:
                    yield b"".join(b"id: %d\nevent: alert\ndata: %b\n\n" % event for event in found)
                    said = time.monotonic()
                if more:
                    continue
                if not forever:
                    return
                try:
                    await asyncio.wait_for(news.wait(), LOOK_SECONDS)
                except TimeoutError:
                    if time.monotonic() - said >= HEARTBEAT_SECONDS:
                        yield b": nothing new\n\n"
                        said = time.monotonic()
        except Problem:
            return  # the key was withdrawn
        finally:
            self._followers[wanted.caller.prefix] -= 1
