"""A client is found by its name, or it is said what to do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from service.errors import TickwatchError
from service.logs.client import find

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


def test_few_ticks_linger_for_longer_where_a_fetch_costs_more() -> None:
    assert find("kafka-python").linger_ms > find("confluent-kafka").linger_ms > 0


def test_a_client_that_is_not_installed_is_named_with_its_extra() -> None:
    root = Path(__file__).parents[3]
    ended = subprocess.run([sys.executable, "-c", WITHOUT], cwd=root, capture_output=True, text=True, check=False)
    assert "TickwatchError: client confluent-kafka is not installed: pip install 'tickwatch[fast]'" in ended.stderr
