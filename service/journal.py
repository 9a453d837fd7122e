"""The log of what happens: one event a line on stderr, for people or as JSON, whoever in the process says it."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

import msgspec

from service.errors import TickwatchError

LOG = logging.getLogger("tickwatch")
FORMATS = ("human", "json")
QUIET_SECONDS = 60.0  # for which a library's message is not repeated
SECRET_LENGTH = 4  # a shorter one would hide half of all words
MASK = "***"
# a login within a URL, what follows `Bearer`, and API keys as service/api/keys.py makes them
SHAPES = re.compile(r"(?<=://)[^/@\s]+(?=@)|(?<=Bearer )\S+|(?<=Basic )\S+|\btw_[0-9a-f]{12}_[\w-]{43}")
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def event(name: str, **context: object) -> dict[str, object]:
    """The `extra` of a log call: what happened in one word, and where: topic, partition, offset, request and the like."""
    return {"event": name, "context": context}


def begin(form: str) -> Masked:
    """Log events from now on, `form` human or json; what is returned is to be told of secrets. Raises TickwatchError.

    From tickwatch itself come all events; from libraries warnings, and the same one at most once a minute.
    """
    if form not in FORMATS:
        raise TickwatchError(f"--log-format {form}: give {' or '.join(FORMATS)}")
    handler = logging.StreamHandler()
    masked = Masked()
    handler.setFormatter(Json(masked) if form == "json" else Human(masked))
    handler.addFilter(Calm(time.monotonic))
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    LOG.setLevel(logging.INFO)
    logging.captureWarnings(capture=True)
    return masked


def end(words: str, exit_code: int) -> bool:
    """Log the error that ends the process, where events are JSON; whether they are."""
    speaks = any(isinstance(handler.formatter, Json) for handler in logging.getLogger().handlers)
    if speaks:
        LOG.critical("%s", words, extra=event("failed", exit_code=exit_code))
    return speaks


class Masked:
    """Hides secrets: those that it knows, and what looks like one."""

    def __init__(self) -> None:
        self._secrets: list[str] = []

    def hide(self, *secrets: str) -> None:
        """Know these, too; shorter ones than SECRET_LENGTH are left out."""
        self._secrets += [secret for secret in secrets if len(secret) >= SECRET_LENGTH]

    def __call__(self, text: str) -> str:
        """The text without them."""
        for secret in self._secrets:
            text = text.replace(secret, MASK)
        return SHAPES.sub(MASK, text)


class Human(logging.Formatter):
    """Time, level, words. A name that holds a line's end makes no second line; tracebacks have theirs."""

    def __init__(self, masked: Masked) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")
        self._masked = masked

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  (of logging.Formatter)
        """The line itself."""
        if record.name != LOG.name:
            record.message = f"{record.name}: {record.message}"
        request = getattr(record, "context", {}).get("request")
        if request is not None:
            record.message += f" (request {request})"
        record.message = CONTROL.sub(lambda found: repr(found[0])[1:-1], record.message)
        return super().formatMessage(record)

    def format(self, record: logging.LogRecord) -> str:
        """The line, and the traceback of an error below it."""
        return self._masked(super().format(record))


class Json(logging.Formatter):
    """One object a line: time, level, event, logger, message, then the context, and the traceback of an error."""

    def __init__(self, masked: Masked) -> None:
        super().__init__()
        self._masked = masked

    def format(self, record: logging.LogRecord) -> str:
        """The object."""
        told: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": getattr(record, "event", "library"),
            "logger": record.name,
            "message": record.getMessage(),
        }
        told = told | getattr(record, "context", {}) | told  # in this order, and nothing of it replaced
        if record.exc_info:
            told["traceback"] = self.formatException(record.exc_info)
        return msgspec.json.encode(self._hide(told), enc_hook=str).decode()

    def _hide(self, value: Any) -> Any:
        """Before it is encoded: afterwards a secret may be spelt another way."""
        if isinstance(value, str):
            return self._masked(value.encode(errors="replace").decode())  # a lone surrogate is no JSON
        if isinstance(value, dict):
            return {key: self._hide(inner) for key, inner in value.items()}
        return [self._hide(inner) for inner in value] if isinstance(value, list) else value


class Calm(logging.Filter):
    """Lets a library say the same at most once in QUIET_SECONDS: clients of a broker that is away say it without end."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__()
        self._clock = clock
        self._said: dict[tuple[str, int], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to log it."""
        if record.name == LOG.name:
            return True
        now, place = self._clock(), (record.pathname, record.lineno)
        if now - self._said.get(place, -QUIET_SECONDS) < QUIET_SECONDS:
            return False
        self._said[place] = now
        return True
