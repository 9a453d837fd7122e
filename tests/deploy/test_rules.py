"""Alert rules: valid, tested one by one, explained one by one, and delivered by a real Prometheus and Alertmanager."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from service.metrics import Metrics
from tests.deploy.monitoring import Monitoring, promtool

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "prometheus" / "rules.yml"


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def test_promtool_accepts_the_rules_and_their_tests(prometheus_tools: None) -> None:
    for verb, file in (("check", RULES), ("test", RULES.with_name("rules_test.yml"))):
        ended = promtool(verb, "rules", file)
        assert ended.returncode == 0, ended.stdout + ended.stderr


def test_every_alert_is_seen_firing_in_the_tests() -> None:
    tests = RULES.with_name("rules_test.yml").read_text()
    expected = set(re.findall(r'\{alertname="(\w+)"\}', tests)) | set(re.findall(r"alertname: (\w+)", tests))
    assert expected == {rule["alert"] for rule in rules()}


def test_every_alert_has_a_section_in_the_runbook_and_every_section_an_alert() -> None:
    sections = re.findall(r"^## (\w+)$", (ROOT / "docs" / "runbook.md").read_text(), re.MULTILINE)
    assert sections == [rule["alert"] for rule in rules()]
    assert [f"docs/runbook.md#{name.lower()}" for name in sections] == [
        rule["annotations"]["runbook"] for rule in rules()
    ]


def test_rules_name_only_metrics_that_exist() -> None:
    known = {sample for family in Metrics().registry.collect() for sample in names(family.name, family.type)}
    named = {word for rule in rules() for word in re.findall(r"\btickwatch_\w+", rule["expr"])}
    assert named
    assert named <= known


def names(family: str, kind: str) -> set[str]:
    """Series that a family of this kind has."""
    suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_count", "_sum"]}.get(kind, [""])
    return {family + suffix for suffix in suffixes}


def test_unreadable_ticks_make_a_real_alertmanager_notify(monitoring: Monitoring) -> None:
    notified = monitoring.notification("TickwatchDeadLetters")
    assert notified["status"] == "firing"
    assert notified["labels"]["outcome"] == "rejected"
    assert notified["annotations"]["runbook"] == "docs/runbook.md#tickwatchdeadletters"
    assert re.match(r"\d+(\.\d+)?% of all records go to the dead letters", notified["annotations"]["summary"])


def test_the_metrics_of_a_running_worker_are_clean(monitoring: Monitoring) -> None:
    ended = promtool("check", "metrics", text=monitoring.metrics())
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
