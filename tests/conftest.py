"""The Kafka broker that tests share: the one that TICKWATCH_TEST_KAFKA names, else one started here."""

from __future__ import annotations

import gc
import os
import warnings
from collections.abc import Iterator

import pytest
from hypothesis import settings

from service.kernels import settle

with warnings.catch_warnings():  # kafka-python 3.0.12 reads its schemas in a way that Python 3.11 and 3.12 deprecate
    warnings.simplefilter("ignore", DeprecationWarning)
    from tests.kafka.broker import Broker, fetch_jars, missing

settings.register_profile("any-machine", deadline=None)  # a busy one takes seconds for what a quiet one does at once
settings.load_profile("any-machine")


def pytest_configure(config: pytest.Config) -> None:
    """Changed kernels are compiled anew. Kafka-python leaves sockets of refused connections to the garbage collector."""
    settle()
    left = r"unclosed <(ssl\.SSLSocket|(socket\.s|service\.sockets\.S)ocket .*laddr=\('0\.0\.0\.0', \d+\)>)"
    config.addinivalue_line("filterwarnings", f"ignore:{left}:ResourceWarning")


def pytest_sessionfinish() -> None:
    """Collect these sockets while that filter holds."""
    gc.collect()


@pytest.fixture(scope="session")
def kafka_jars() -> None:
    """Everything that starting a broker needs; skips, or fails in CI, where it cannot be had."""
    reason = missing()
    if reason is None:
        fetch_jars()
    elif os.environ.get("CI") == "true":
        pytest.fail(f"no Kafka: {reason}")
    else:
        pytest.skip(f"no Kafka: {reason}")


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[str]:
    """Bootstrap address of a broker without security."""
    address = os.environ.get("TICKWATCH_TEST_KAFKA")
    if address:
        yield address
        return
    request.getfixturevalue("kafka_jars")
    broker = Broker(tmp_path_factory.mktemp("broker"))
    try:
        broker.format()
        broker.start()
        yield broker.bootstrap
    finally:
        broker.kill()


@pytest.fixture
def own_broker(kafka_jars: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A broker that the test formats, starts, and may kill, by itself."""
    broker = Broker(tmp_path_factory.mktemp("broker"))
    try:
        yield broker
    finally:
        broker.kill()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say loudly, once, what was not tested."""
    for report in terminalreporter.getreports("skipped"):
        _, found, reason = str(report.longrepr).partition("Skipped: no Kafka: ")
        if found:
            terminalreporter.write_line(
                f"KAFKA TESTS SKIPPED: {reason[:-2]}", red=True, bold=True
            )  # without tuple's end
            return
