"""Prometheus and Alertmanager for the tests that need them; these skip, and say so, where they are not installed."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.deploy.monitoring import Monitoring, missing


@pytest.fixture(scope="session")
def prometheus_tools() -> None:
    """Skips, or fails in CI, where Prometheus is not installed."""
    reason = missing()
    if reason is not None and os.environ.get("CI") == "true":
        pytest.fail(reason)
    if reason is not None:
        pytest.skip(reason)


@pytest.fixture(scope="session")
def monitoring(prometheus_tools: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Monitoring]:
    """A worker that is scraped, with rules that are evaluated and alerts that are sent."""
    running = Monitoring(tmp_path_factory.mktemp("monitoring"))
    yield running
    running.close()
