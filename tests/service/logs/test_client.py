"""A client is found by its name, or it is said what to do."""

from __future__ import annotations

import subprocess
import sys

import pytest

from service.errors import TickwatchError
from service.logs.client import CLIENTS, find
from service.logs.kafka import SOON_MS
from tests.samples import ROOT

WITHOUT = """
import sys
sys.modules["confluent_kafka"] = None
from service.logs.client import find
find("kafka-python")
find("confluent-kafka")
"""


def test_an_unknown_client_is_named_with_those_that_are_known() -> None:
    with pytest.raises(TickwatchError, match="'aiokafka' is unknown; known are kafka-python and confluent-kafka"):
        find("aiokafka")


def test_few_ticks_linger_for_as_long_as_the_help_says() -> None:
    told = [f"{find(client).linger_ms} with {client}" for client in CLIENTS]
    assert f"Without it {', '.join(told)} or at least once." in (ROOT / "docs" / "settings.md").read_text()
    assert find("confluent-kafka").linger_ms == SOON_MS


def test_a_client_that_is_not_installed_is_named_with_its_extra() -> None:
    ended = subprocess.run([sys.executable, "-c", WITHOUT], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "TickwatchError: client confluent-kafka is not installed: pip install 'tickwatch[fast]'" in ended.stderr
