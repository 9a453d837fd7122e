"""The dashboard shows what is there: every query of it returns data of a real worker."""

from __future__ import annotations

import json
import math
import re

import pytest

from deploy.dashboard import dashboard, queries
from deploy.generate import FILES
from tests.deploy.monitoring import Monitoring, within


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_generated_files_are_as_generated(path: object) -> None:
    (found,) = [(file.read_text(), content()) for file, content in FILES.items() if file == path]
    assert found[0] == found[1], "run `make deploy`"


def test_every_query_returns_data_of_a_running_worker(monitoring: Monitoring) -> None:
    for query in queries():
        expression = query.replace("$instance", ".*").replace("$__rate_interval", "10s")
        assert "$" not in expression
        within(20, lambda expression=expression: numbers(monitoring, expression))  # type: ignore[misc]


def numbers(monitoring: Monitoring, expression: str) -> list[float]:
    """What it returns, if that is numbers and nothing else."""
    values = [float(series["value"][1]) for series in monitoring.query(expression)]
    return values if all(map(math.isfinite, values)) else []


def test_panels_have_titles_units_and_a_source_of_their_own_choice() -> None:
    panels = [p for p in json.loads(dashboard())["panels"] if p["type"] != "row"]
    assert len(panels) > 10
    assert len({p["title"] for p in panels}) == len(panels)
    for panel in panels:
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["datasource"]["uid"] == "${source}"
        assert panel["targets"]
    shown = set(re.findall(r"tickwatch_\w+", " ".join(queries())))
    assert {"tickwatch_ticks_total", "tickwatch_lag_ticks", "tickwatch_partitions"} <= shown
