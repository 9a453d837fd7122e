"""SIGINT and SIGTERM as a flag, so that a loop can end between two steps; a second SIGINT ends at once.

SIGTERM stays a flag for as long as the process lives: one that is about to end by itself must not die of it with another code.
Whoever starts a process may block SIGTERM meanwhile, as the image does: to the first process of a container a signal that came
before it was listened to is lost (signal(7), pid_namespaces(7)), and a blocked one waits.
"""

from __future__ import annotations

import signal
from types import FrameType, TracebackType


class Stop:
    """Context in which `asked` turns true at the first SIGINT or SIGTERM."""

    def __init__(self) -> None:
        self.asked = False
        self._before: object = None

    def __enter__(self) -> Stop:
        self._before = signal.signal(signal.SIGINT, self._ask)
        signal.signal(signal.SIGTERM, self._ask)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        return self

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.signal(signal.SIGINT, self._before)  # type: ignore[arg-type]
