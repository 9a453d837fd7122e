"""The Grafana dashboard, as code: what an operator looks at first on top, causes further down."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from grafana_foundation_sdk.builders.dashboard import Dashboard, DatasourceVariable, QueryVariable, Row
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.builders.stat import Panel as Stat
from grafana_foundation_sdk.builders.timeseries import Panel as TimeSeries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import DataSourceRef, VariableRefresh

SOURCE = DataSourceRef(type_val="prometheus", uid="${source}")
OPENED = ', phase="opened"'
Panel = TypeVar("Panel", Stat, TimeSeries)
MINE = 'job=~"tickwatch-worker", instance=~"$instance"'


@dataclass(frozen=True)
class Graph:
    """One panel: its title, unit in Grafana's names, and its queries by legend."""

    title: str
    unit: str
    queries: dict[str, str]


def _rate(metric: str, labels: str = "") -> str:
    return f"rate({metric}{{{MINE}{labels}}}[$__rate_interval])"


def _quantile(q: float, metric: str) -> str:
    return f"histogram_quantile({q}, sum by (le) ({_rate(metric + '_bucket')}))"


NOW = [
    Graph("Workers up", "short", {"": 'sum(up{job="tickwatch-worker"})'}),
    Graph("Ticks per second", "short", {"": f"sum({_rate('tickwatch_ticks_total')})"}),
    Graph("Lag, ticks", "short", {"": f"sum(tickwatch_lag_ticks{{{MINE}}})"}),
    Graph("Streams", "short", {"": f"sum(tickwatch_streams{{{MINE}}})"}),
    Graph(
        "Incidents in the last hour",
        "short",
        {"": f'sum(increase(tickwatch_alerts_total{{{MINE}, phase="opened"}}[1h]))'},
    ),
    Graph("Model", "short", {"{{model}}": f"count by (model) (tickwatch_model_info{{{MINE}}})"}),
]
ROWS = {
    "Ticks and lag": [
        Graph("Ticks by outcome", "ops", {"{{outcome}}": f"sum by (outcome) ({_rate('tickwatch_ticks_total')})"}),
        Graph("Ticks by worker", "ops", {"{{instance}}": f"sum by (instance) ({_rate('tickwatch_ticks_total')})"}),
        Graph("Lag by partition", "short", {"{{partition}}": f"max by (partition) (tickwatch_lag_ticks{{{MINE}}})"}),
    ],
    "Detection": [
        Graph(
            "Incidents per 100,000 ticks against the budget",
            "short",
            {
                "opened": f"1e5 * sum({_rate('tickwatch_alerts_total', OPENED)})"
                f" / sum({_rate('tickwatch_ticks_total')})",
                "budget": f"1e5 * max(tickwatch_alert_budget_ratio{{{MINE}}})",
            },
        ),
        Graph(
            "Share of ticks that score above",
            "percentunit",
            {
                edge: f"1 - sum({_rate('tickwatch_score_bucket', label)}) / sum({_rate('tickwatch_score_count')})"
                for edge, label in ((str(n), f', le="{n}.0"') for n in (1, 2, 3, 4))
            },
        ),
        Graph(
            "Drift from training: population stability index",
            "short",
            {"{{feature}}": f"avg by (feature) (tickwatch_drift_psi{{{MINE}}} >= 0)"},
        ),
        Graph("Alerts by phase", "ops", {"{{phase}}": f"sum by (phase) ({_rate('tickwatch_alerts_total')})"}),
    ],
    "Checkpoints and state": [
        Graph(
            "Time to commit a checkpoint",
            "s",
            {"p50": _quantile(0.5, "tickwatch_commit_seconds"), "p99": _quantile(0.99, "tickwatch_commit_seconds")},
        ),
        Graph(
            "Partitions by condition",
            "short",
            {"{{condition}}": f"sum by (condition) (tickwatch_partitions{{{MINE}}})"},
        ),
        Graph(
            "Resets and restored partitions in 5 minutes",
            "short",
            {
                "resets": f"sum(increase(tickwatch_log_resets_total{{{MINE}}}[5m]))",
                "restored": f"sum(increase(tickwatch_partitions_restored_total{{{MINE}}}[5m]))",
            },
        ),
        Graph(
            "Time of the last restore",
            "s",
            {"{{instance}}": f"max by (instance) (tickwatch_restore_seconds{{{MINE}}})"},
        ),
        Graph("Streams by worker", "short", {"{{instance}}": f"sum by (instance) (tickwatch_streams{{{MINE}}})"}),
        Graph(
            "Idle streams removed",
            "ops",
            {"{{instance}}": f"sum by (instance) ({_rate('tickwatch_streams_expired_total')})"},
        ),
    ],
    "Work": [
        Graph(
            "Time to decode and score a batch",
            "s",
            {"p50": _quantile(0.5, "tickwatch_batch_seconds"), "p99": _quantile(0.99, "tickwatch_batch_seconds")},
        ),
        Graph(
            "Ticks in a batch",
            "short",
            {"p50": _quantile(0.5, "tickwatch_batch_ticks"), "p99": _quantile(0.99, "tickwatch_batch_ticks")},
        ),
        Graph("CPU, cores", "short", {"{{instance}}": f"sum by (instance) ({_rate('process_cpu_seconds_total')})"}),
        Graph(
            "Memory",
            "bytes",
            {
                "{{instance}} process": f"sum by (instance) (process_resident_memory_bytes{{{MINE}}})",
                "{{instance}} state": f"sum by (instance) (tickwatch_state_bytes{{{MINE}}})",
            },
        ),
        Graph(
            "Connection to the log",
            "short",
            {
                "{{instance}} connected": f"min by (instance) (tickwatch_log_connected{{{MINE}}})",
                "{{instance}} attempts": f"max by (instance) (tickwatch_log_connect_attempts{{{MINE}}})",
            },
        ),
    ],
}


def queries() -> list[str]:
    """Every PromQL expression of the dashboard."""
    graphs = [*NOW, *(graph for row in ROWS.values() for graph in row)]
    return [expression for graph in graphs for expression in graph.queries.values()]


def dashboard() -> str:
    """The dashboard as the JSON that Grafana imports."""
    board = (
        Dashboard("tickwatch")
        .uid("tickwatch")
        .tags(["tickwatch"])
        .refresh("10s")
        .time("now-1h", "now")
        .timezone("browser")
        .readonly()
        .with_variable(DatasourceVariable("source").label("Prometheus").type("prometheus"))
        .with_variable(
            QueryVariable("instance")
            .label("Worker")
            .datasource(SOURCE)
            .query('label_values(tickwatch_log_connected{job="tickwatch-worker"}, instance)')
            .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
            .multi(True)
            .include_all(True)
            .all_value(".*")
        )
    )
    for graph in NOW:
        board = board.with_panel(_filled(Stat(), graph).height(4).span(4))
    for title, graphs in ROWS.items():
        board = board.with_row(Row(title))
        for graph in graphs:
            panel = _filled(TimeSeries(), graph).height(8).span(8)
            board = board.with_panel(panel)
    return JSONEncoder(sort_keys=True, indent=2).encode(board.build()) + "\n"


def _filled(panel: Panel, graph: Graph) -> Panel:
    panel = panel.title(graph.title).unit(graph.unit).datasource(SOURCE)
    for legend, expression in graph.queries.items():
        panel = panel.with_target(Dataquery().expr(expression).legend_format(legend).datasource(SOURCE))
    return panel
