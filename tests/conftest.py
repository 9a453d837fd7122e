"""The Kafka broker that tests share: the one that TICKWATCH_TEST_KAFKA names, else one started here."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator

import pytest

with warnings.catch_warnings():  # kafka-python 3.0.12 reads its schemas in a way that Python 3.11 and 3.12 deprecate
    warnings.simplefilter("ignore", DeprecationWarning)
    from tests.kafka.broker import Broker, fetch_jars, missing

SKIPPED = pytest.StashKey[str]()


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[str]:
    """Bootstrap address of a broker without security."""
    address = os.environ.get("TICKWATCH_TEST_KAFKA")
    if address:
        yield address
        return
    _need_jars(pytestconfig)
    broker = Broker(tmp_path_factory.mktemp("broker"))
    broker.format()
    try:
        broker.start()
        yield broker.bootstrap
    finally:
        broker.kill()


@pytest.fixture
def own_broker(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[Broker]:
    """A formatted broker that the test starts, and may kill, by itself."""
    _need_jars(pytestconfig)
    broker = Broker(tmp_path_factory.mktemp("broker"))
    try:
        yield broker
    finally:
        broker.kill()


def _need_jars(config: pytest.Config) -> None:
    reason = missing()
    if reason is None:
        fetch_jars()
    elif os.environ.get("CI") == "true":
        pytest.fail(f"no Kafka: {reason}")
    else:
        config.stash[SKIPPED] = reason
        pytest.skip(f"no Kafka: {reason}")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say loudly, once, what was not tested."""
    reason = config.stash.get(SKIPPED, None)
    if reason is not None:
        terminalreporter.write_line(f"KAFKA TESTS SKIPPED: {reason}", red=True, bold=True)
