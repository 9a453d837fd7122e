"""`make deploy`: writes the files that are made from others. A test holds them to what this writes."""

from __future__ import annotations

from pathlib import Path

import yaml

from deploy import settings
from deploy.dashboard import dashboard

HERE = Path(__file__).parent


def prometheus_rule() -> str:
    """The alert rules as an object of the Prometheus operator."""
    rules = yaml.safe_load((HERE / "prometheus" / "rules.yml").read_text())
    rule = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "tickwatch"},
        "spec": rules,
    }
    return "# Written by `make deploy` from deploy/prometheus/rules.yml.\n" + yaml.safe_dump(
        rule, sort_keys=False, width=120
    )


FILES = {
    HERE / "grafana" / "dashboard.json": dashboard,
    HERE / "kubernetes" / "components" / "prometheus-operator" / "prometheusrule.yaml": prometheus_rule,
    HERE.parent / "docs" / "settings.md": settings.document,
}

if __name__ == "__main__":
    for path, content in FILES.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(content())
