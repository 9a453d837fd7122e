"""The manifests on a real control plane: admitted, placed, kept, upgraded and rolled back. Only containers are pretended.

TICKWATCH_TEST_CLUSTER names a folder with the programs of `tests.deploy.cluster.TOOLS`, kwok's `stage-fast.yaml`, and in
`crds/` the definitions of KEDA and the Prometheus operator, all as their releases hold them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.cluster import NODES, Cluster, cluster, tools
from tests.deploy.manifests import KUBERNETES, OVERLAYS
from tests.deploy.monitoring import within

pytestmark = pytest.mark.skipif(tools() is None, reason="TICKWATCH_TEST_CLUSTER names no folder of Kubernetes binaries")

NO_METRICS = {"FailedGetResourceMetric", "FailedComputeMetricsReplicas"}  # nobody measures pods that are pretended
NAMESPACE = ("-n", "tickwatch")
VOLUME = {
    "apiVersion": "v1",
    "kind": "PersistentVolume",
    "metadata": {"name": "models"},
    "spec": {
        "capacity": {"storage": "1Gi"},
        "accessModes": ["ReadWriteMany"],
        "nfs": {"server": "storage.example", "path": "/models"},
    },
}
QUOTA = {
    "apiVersion": "v1",
    "kind": "ResourceQuota",
    "metadata": {"name": "all", "namespace": "tickwatch"},
    "spec": {
        "hard": {
            f"{kind}.{of}": "100" + unit
            for kind in ("requests", "limits")
            for of, unit in (("cpu", ""), ("memory", "Gi"))
        }
    },
}


@pytest.fixture(scope="module")
def kubernetes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One cluster for all; each test brings its overlay, and takes it away."""
    binaries = tools()
    assert binaries is not None
    with cluster(binaries, tmp_path_factory.mktemp("cluster")) as found:
        yield found


@pytest.fixture
def installed(kubernetes: Cluster, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """The overlay that the test names, rolled out in a namespace where whatever has no limits would be refused."""
    overlay = KUBERNETES / "overlays" / request.param
    kubernetes.apply("-f", "-", text=json.dumps(VOLUME))
    kubernetes.apply("-f", KUBERNETES / "base" / "namespace.yaml")
    kubernetes.apply("-f", "-", text=json.dumps(QUOTA))
    try:
        kubernetes.apply("-k", overlay)
        for workload in ("statefulset/tickwatch-worker", "deployment/tickwatch-server"):
            kubernetes.rolled_out(workload)
        yield kubernetes
    finally:
        kubernetes.kubectl("delete", "-k", overlay, "--ignore-not-found")
        kubernetes.kubectl("delete", "persistentvolume", "models")


def on(overlay: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("installed", [overlay], indirect=True)


def evict(there: Cluster, pod: str) -> str:
    """Ask for an eviction; empty if it is granted, else why not."""
    wanted = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": "tickwatch"}}
    url = f"/api/v1/namespaces/tickwatch/pods/{pod}/eviction"
    return there.kubectl("create", "--raw", url, "-f", "-", text=json.dumps(wanted)).stderr


def patch(there: Cluster, workload: str, container: dict[str, Any]) -> None:
    name = workload.rpartition("-")[2]
    change = {"spec": {"template": {"spec": {"containers": [{"name": name, **container}]}}}}
    ended = there.kubectl("patch", workload, *NAMESPACE, "-p", json.dumps(change))
    assert ended.returncode == 0, ended.stderr


def images(there: Cluster, component: str) -> dict[str, str]:
    return {name: pod["spec"]["containers"][0]["image"] for name, pod in there.pods(component).items()}


@pytest.mark.parametrize("installed", OVERLAYS, indirect=True)
def test_every_overlay_is_admitted_without_a_warning_placed_and_given_no_token(installed: Cluster) -> None:
    events = installed.get("events", *NAMESPACE, "--field-selector", "type=Warning")["items"]
    assert [event["message"] for event in events if event["reason"] not in NO_METRICS] == []
    pods = installed.get("pods", *NAMESPACE)["items"]
    assert pods
    for pod in pods:
        assert pod["spec"]["nodeName"]
        assert all("projected" not in volume for volume in pod["spec"]["volumes"]), "no token of a service account"
    serving = [*installed.pods("worker").values(), *installed.pods("server").values()]
    assert {pod["spec"]["priority"] for pod in serving} == {100_000}


@on("dev")
def test_a_pod_that_is_not_restricted_is_refused(installed: Cluster) -> None:
    ended = installed.kubectl("run", "loose", *NAMESPACE, "--image=tickwatch:0.1.0")
    assert 'violates PodSecurity "restricted' in ended.stderr


@on("dev")
def test_dev_can_be_applied_again_with_other_settings(installed: Cluster, tmp_path: Path) -> None:
    within(120, lambda: not installed.get("jobs", *NAMESPACE)["items"])
    overlay = tmp_path / "kustomization.yaml"
    base = Path("../" * len(tmp_path.parts[1:])) / (KUBERNETES / "overlays" / "dev").relative_to("/")
    overlay.write_text(
        f"resources: [{base}]\nconfigMapGenerator:\n"
        "  - {name: tickwatch, namespace: tickwatch, behavior: merge, literals: [TICKWATCH_ALERT_BUDGET=5]}\n"
    )
    installed.apply("-k", tmp_path)
    installed.rolled_out("statefulset/tickwatch-worker")
    (worker,) = installed.pods("worker").values()
    (settings,) = [each["configMapRef"]["name"] for each in worker["spec"]["containers"][0]["envFrom"]]
    assert installed.get("configmap", settings, *NAMESPACE)["data"]["TICKWATCH_ALERT_BUDGET"] == "5"


@on("dev")
@pytest.mark.parametrize("component", ["model-volume", "model-image"])
def test_models_from_a_volume_or_an_image_are_admitted(installed: Cluster, component: str, tmp_path: Path) -> None:
    shutil.copytree(KUBERNETES, tmp_path / "kubernetes")
    overlay = tmp_path / "kubernetes" / "overlays" / "dev" / "kustomization.yaml"
    overlay.write_text(f"{overlay.read_text()}components: [../../components/{component}]\n")
    within(120, lambda: not installed.get("jobs", *NAMESPACE)["items"])
    installed.apply("-k", overlay.parent)
    for workload in ("statefulset/tickwatch-worker", "deployment/tickwatch-server"):
        installed.rolled_out(workload)
    for pod in (*installed.pods("worker").values(), *installed.pods("server").values()):
        assert "models" in [volume["name"] for volume in pod["spec"]["volumes"]]


@on("production")
def test_workers_come_and_go_one_at_a_time_and_spread_over_the_zones(installed: Cluster) -> None:
    installed.kubectl("scale", "statefulset/tickwatch-worker", *NAMESPACE, "--replicas=3")
    installed.rolled_out("statefulset/tickwatch-worker")
    pods = [installed.pods("worker")[f"tickwatch-worker-{i}"] for i in range(3)]
    since = [next(c for c in pod["status"]["conditions"] if c["type"] == "Ready")["lastTransitionTime"] for pod in pods]
    made = [pod["metadata"]["creationTimestamp"] for pod in pods]
    assert all(ready <= later for ready, later in zip(since, made[1:], strict=False))
    assert len({pod["spec"]["nodeName"].removeprefix("node-")[0] for pod in pods}) == 3
    installed.kubectl("scale", "statefulset/tickwatch-worker", *NAMESPACE, "--replicas=2")
    within(60, lambda: installed.ready("worker") == {"tickwatch-worker-0", "tickwatch-worker-1"})


@on("production")
@pytest.mark.parametrize("component", ["worker", "server"])
def test_the_budget_grants_one_eviction_at_a_time(installed: Cluster, component: str) -> None:
    installed.kubectl("scale", "statefulset/tickwatch-worker", *NAMESPACE, "--replicas=2")
    within(60, lambda: len(installed.ready(component)) == 2)
    budget = f"poddisruptionbudget/tickwatch-{component}"
    within(60, lambda: installed.get(budget, *NAMESPACE)["status"]["disruptionsAllowed"] == 1)
    first, second = sorted(installed.pods(component))
    installed.kubectl("cordon", *NODES)  # so that no other pod takes the place of the first one
    try:
        assert evict(installed, first) == ""
        assert "violate the pod's disruption budget" in evict(installed, second)
    finally:
        installed.kubectl("uncordon", *NODES)
    within(60, lambda: len(installed.ready(component)) == 2)
    within(60, lambda: evict(installed, second) == "")


@on("production")
def test_an_upgrade_begins_with_the_last_worker_and_a_rollback_ends_one_that_is_stuck(installed: Cluster) -> None:
    installed.kubectl("scale", "statefulset/tickwatch-worker", *NAMESPACE, "--replicas=2")
    installed.rolled_out("statefulset/tickwatch-worker")
    old, new = "tickwatch:0.1.0", "tickwatch:0.2.0"
    patch(installed, "statefulset/tickwatch-worker", {"image": new})
    within(60, lambda: list(images(installed, "worker").values()) == [old, new])
    installed.rolled_out("statefulset/tickwatch-worker")
    assert set(images(installed, "worker").values()) == {new}

    too_large = {"image": "tickwatch:0.3.0", "resources": {"requests": {"cpu": "64"}, "limits": {"cpu": "64"}}}
    patch(installed, "statefulset/tickwatch-worker", too_large)
    stuck = {"tickwatch-worker-0": new, "tickwatch-worker-1": "tickwatch:0.3.0"}
    within(60, lambda: images(installed, "worker") == stuck)
    assert installed.ready("worker") == {"tickwatch-worker-0"}
    installed.kubectl("rollout", "undo", "statefulset/tickwatch-worker", *NAMESPACE)
    installed.kubectl("delete", "pod", "tickwatch-worker-1", *NAMESPACE)
    installed.rolled_out("statefulset/tickwatch-worker")
    assert set(images(installed, "worker").values()) == {new}


@on("retraining")
def test_the_weekly_training_makes_a_job_that_is_admitted_and_runs(installed: Cluster) -> None:
    installed.kubectl("create", "job", "now", *NAMESPACE, "--from=cronjob/tickwatch-training")
    done = installed.kubectl("wait", "job/now", *NAMESPACE, "--for=condition=Complete", "--timeout=60s")
    assert done.returncode == 0, done.stderr
