"""Ends the process when something hangs that has no timeout of its own."""

from __future__ import annotations

import logging
import os
import threading
from types import TracebackType

from service.journal import event

LOG = logging.getLogger("tickwatch")
HUNG = 70  # exit code; EX_SOFTWARE of sysexits.h


def _end_process(what: str) -> None:
    """Say it and leave without cleaning up: what hangs would hang the cleaning up too."""
    LOG.critical("%s; the process ends with code %d and the log restores the state", what, HUNG, extra=event("hung"))
    os._exit(HUNG)


class Watchdog:
    """A context that must be left within `limit_s` seconds of running time.

    It counts its own seconds, so a process that was stopped and goes on is not taken for one that hangs.
    """

    def __init__(self, what: str, limit_s: int) -> None:
        self._what = what
        self._limit_s = limit_s
        self._seconds = 0
        self._inside = False
        self._closed = threading.Event()
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def _watch(self) -> None:
        while not self._closed.wait(1):
            self._seconds += 1
            if self._inside and self._seconds > self._limit_s:
                _end_process(f"{self._what} hung for {self._limit_s} seconds")

    def __enter__(self) -> None:
        self._seconds = 0
        self._inside = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._inside = False

    def close(self) -> None:
        """Stop watching."""
        self._closed.set()
