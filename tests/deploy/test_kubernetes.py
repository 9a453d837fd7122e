"""The manifests: valid to the letter, hardened, and in step with the code that they run."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
from cloudcoil.models.keda.v1alpha1 import ScaledObject, TriggerAuthentication
from cloudcoil.models.prometheus_operator.v1 import PodMonitor, PrometheusRule

from deploy.settings import commands
from service import __version__
from tests.deploy.manifests import (
    KUBERNETES,
    OURS,
    OVERLAYS,
    Workload,
    environment,
    of_kind,
    render,
    rendered,
    workloads,
)

CUSTOM = {kind.__name__: kind for kind in (ScaledObject, TriggerAuthentication, PodMonitor, PrometheusRule)}
VERSIONS = ("1.33", "1.37")
FOLDERS = ["base", *(f"overlays/{overlay}" for overlay in OVERLAYS)]
SETTINGS = {path: {option.envvar for option in options} for path, options in commands()}
NOT_SETTINGS = {"TMPDIR", "MPLCONFIGDIR"}
WORKLOADS = list(workloads())
MINE = [w for w in WORKLOADS if w.image in OURS]
SERVING = [w for w in MINE if w.kind in ("StatefulSet", "Deployment")]


def commands_of(workload: Workload) -> list[str]:
    """The tickwatch commands that a container runs, as `deploy.settings` names them."""
    arguments = workload.container["args"]
    if "command" in workload.container:
        lines = [line.removeprefix("tickwatch ") for line in arguments[0].splitlines()]
    else:
        lines = [" ".join(arguments)]
    return [next(c for c in SETTINGS if c and line.startswith(c)) for line in lines]


@pytest.mark.parametrize("folder", FOLDERS)
@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_is_strictly_valid(folder: str, version: str) -> None:
    for found in rendered(folder):
        if found["kind"] in CUSTOM:
            model: Any = CUSTOM[found["kind"]]
            kept = model.model_validate(found).model_dump(mode="json", by_alias=True, exclude_unset=True)
            assert kept == found, "a field that the custom resource does not have is dropped by its model"
        else:
            kubernetes_validate.validate(found, version, strict=True)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_reference_to_another_object_resolves(overlay: str) -> None:
    there = {(found["kind"], found["metadata"]["name"]) for found in rendered(f"overlays/{overlay}")}
    labels = [w.labels for w in WORKLOADS if w.overlay == overlay]
    for found in rendered(f"overlays/{overlay}"):
        spec = found.get("spec", {})
        if found["kind"] in ("ScaledObject", "HorizontalPodAutoscaler"):
            target = spec["scaleTargetRef"]
            assert (target["kind"], target["name"]) in there
        if found["kind"] in ("Service", "PodDisruptionBudget", "PodMonitor"):
            selector = spec["selector"]
            assert any(selects(selector, each) for each in labels), found["metadata"]["name"]
    for workload in WORKLOADS:
        if workload.overlay == overlay:
            assert ("ServiceAccount", workload.pod["serviceAccountName"]) in there
            claims = [
                v["persistentVolumeClaim"]["claimName"] for v in workload.pod["volumes"] if "persistentVolumeClaim" in v
            ]
            assert all(("PersistentVolumeClaim", claim) in there for claim in claims)


def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    """Whether a selector, of a Service or with matchLabels and matchExpressions, matches."""
    exact = selector.get("matchLabels", {} if "matchExpressions" in selector else selector)
    among = selector.get("matchExpressions", [])
    return exact.items() <= labels.items() and all(labels.get(e["key"]) in e["values"] for e in among)


@pytest.mark.parametrize("workload", WORKLOADS, ids=str)
def test_pods_meet_the_restricted_standard_and_have_limits(workload: Workload) -> None:
    pod, container = workload.pod, workload.container
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
    assert all(volume.keys() & {"emptyDir", "secret", "persistentVolumeClaim"} for volume in pod["volumes"])
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    resources = container["resources"]
    assert resources["requests"].keys() == resources["limits"].keys() == {"cpu", "memory"}
    assert resources["requests"]["memory"] == resources["limits"]["memory"]
    assert re.search(r":\d+\.\d+\.\d+$", container["image"]), "an exact version"


@pytest.mark.parametrize("workload", MINE, ids=str)
def test_our_containers_write_to_volumes_only_and_run_this_version(workload: Workload) -> None:
    assert workload.container["securityContext"]["readOnlyRootFilesystem"] is True
    assert workload.container["image"].endswith(f":{__version__}")
    writable = {v["name"] for v in workload.pod["volumes"] if "emptyDir" in v}
    places = {m["mountPath"] for m in workload.container["volumeMounts"] if m["name"] in writable}
    assert (environment(workload).get("TMPDIR") or "/tmp") in places
    assert all("sizeLimit" in v["emptyDir"] for v in workload.pod["volumes"] if "emptyDir" in v)


@pytest.mark.parametrize("workload", SERVING, ids=str)
def test_probes_tell_restoring_from_dead(workload: Workload) -> None:
    probe = {name: workload.container[f"{name}Probe"] for name in ("startup", "liveness", "readiness")}
    paths = {name: content["httpGet"]["path"] for name, content in probe.items()}
    assert paths == {"startup": "/healthz", "liveness": "/healthz", "readiness": "/readyz"}
    assert probe["startup"]["periodSeconds"] * probe["startup"]["failureThreshold"] >= 60
    (port,) = workload.container["ports"]
    assert environment(workload)["TICKWATCH_PORT"] == str(port["containerPort"])
    assert environment(workload)["TICKWATCH_HOST"] == "0.0.0.0"


@pytest.mark.parametrize("workload", SERVING, ids=str)
def test_what_serves_is_spread_protected_and_goes_before_batch_work(workload: Workload) -> None:
    spread = workload.pod["topologySpreadConstraints"]
    assert {s["topologyKey"] for s in spread} == {"kubernetes.io/hostname", "topology.kubernetes.io/zone"}
    assert all(selects(s["labelSelector"], workload.labels) for s in spread)
    assert workload.pod["priorityClassName"] in {
        p["metadata"]["name"] for p in of_kind(workload.overlay, "PriorityClass")
    }
    budgets = [b["spec"] for b in of_kind(workload.overlay, "PodDisruptionBudget")]
    assert [b["maxUnavailable"] for b in budgets if selects(b["selector"], workload.labels)] == [1]


@pytest.mark.parametrize("workload", MINE, ids=str)
def test_every_variable_is_a_setting_of_the_command(workload: Workload) -> None:
    known = set().union(*(SETTINGS[c] for c in commands_of(workload)), SETTINGS["worker"], SETTINGS[""], NOT_SETTINGS)
    assert environment(workload).keys() <= known


def test_the_worker_can_be_given_every_setting() -> None:
    (worker,) = [w for w in MINE if w.overlay == "production" and w.labels["app.kubernetes.io/component"] == "worker"]
    reachable = environment(worker).keys()
    optional = {"TICKWATCH_CERT_FILE", "TICKWATCH_KEY_FILE", "TICKWATCH_FRESH", "TICKWATCH_SCHEMA"}
    optional |= {"TICKWATCH_SCHEMA_REGISTRY", "TICKWATCH_SCHEMA_REGISTRY_LOGIN_FILE", "TICKWATCH_OTLP_ENDPOINT"}
    optional |= {"TICKWATCH_CLIENT", "TICKWATCH_PROCESSING_GUARANTEE"}
    optional |= {"TICKWATCH_COMPARE", "TICKWATCH_COMPARE_KEY_FILE"}
    assert SETTINGS["worker"] - reachable == optional
    assert worker.container["envFrom"], "these go into settings.env when they are needed"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_worker_keeps_its_name_and_goes_one_at_a_time(overlay: str) -> None:
    (worker,) = [s for s in of_kind(overlay, "StatefulSet") if s["metadata"]["name"] == "tickwatch-worker"]
    assert worker["spec"]["podManagementPolicy"] == "OrderedReady"
    (instance,) = [
        v for v in worker["spec"]["template"]["spec"]["containers"][0]["env"] if v["name"] == "TICKWATCH_INSTANCE"
    ]
    assert instance["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.name"
    assert worker["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] > 10


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_server_that_goes_still_answers_while_requests_are_sent_to_it(overlay: str) -> None:
    (server,) = [w for w in MINE if (w.overlay, w.name) == (overlay, "tickwatch-server")]
    waits = server.container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert 5 <= waits < server.pod["terminationGracePeriodSeconds"] - 10


@pytest.mark.parametrize("overlay", ["production", "retraining"])
def test_workers_scale_on_lag_of_their_own_group_never_beyond_the_partitions_and_shrink_slowly(overlay: str) -> None:
    (scaled,) = of_kind(overlay, "ScaledObject")
    (worker,) = [w for w in MINE if w.overlay == overlay and w.name == scaled["spec"]["scaleTargetRef"]["name"]]
    assert (
        "replicas"
        not in next(s for s in of_kind(overlay, "StatefulSet") if s["metadata"]["name"] == worker.name)["spec"]
    )
    lag = scaled["spec"]["triggers"][0]["metadata"]
    assert {value for key, value in lag.items() if key.endswith("FromEnv")} <= environment(worker).keys()
    assert lag["allowIdleConsumers"] == "false"
    partitions = next(o.default for path, options in commands() for o in options if o.envvar == "TICKWATCH_PARTITIONS")
    assert scaled["spec"]["maxReplicaCount"] == partitions
    down = scaled["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]["scaleDown"]
    assert down["stabilizationWindowSeconds"] >= 600
    assert down["policies"] == [{"type": "Pods", "value": 1, "periodSeconds": 300}]


@pytest.mark.parametrize("overlay", ["production", "retraining"])
def test_prometheus_is_given_the_key_without_which_a_server_shows_no_metrics(overlay: str) -> None:
    monitors = {monitor["metadata"]["name"]: monitor["spec"] for monitor in of_kind(overlay, "PodMonitor")}
    assert monitors.keys() == {workload.name for workload in SERVING}
    for name, monitor in monitors.items():
        (endpoint,) = monitor["podMetricsEndpoints"]
        (serving,) = [w for w in SERVING if (w.overlay, w.name) == (overlay, name)]
        assert selects(monitor["selector"], serving.labels)
        assert ("authorization" in endpoint) == ("TICKWATCH_KEYS_FILE" in environment(serving))
        for source in endpoint.get("authorization", {}).values():
            assert source["name"] in {v["secret"]["secretName"] for v in serving.pod["volumes"] if "secret" in v}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_networks_are_closed_but_for_what_is_named(overlay: str) -> None:
    policies = {p["metadata"]["name"]: p["spec"] for p in of_kind(overlay, "NetworkPolicy")}
    assert policies["default-deny"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for name, policy in policies.items():
        rules = policy.get("ingress", []) + policy.get("egress", [])
        assert all(rule.get("from") or rule.get("to") for rule in rules), name
        assert all(rule["ports"] for rule in rules), name
    for workload in (w for w in MINE if w.overlay == overlay and "TICKWATCH_BOOTSTRAP_SERVERS" in environment(w)):
        assert selects(policies["kafka"]["podSelector"], workload.labels)
        port = int((environment(workload)["TICKWATCH_BOOTSTRAP_SERVERS"] or "").rpartition(":")[2])
        assert port in {p["port"] for p in policies["kafka"]["egress"][0]["ports"]}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_namespace_enforces_the_restricted_standard_and_holds_no_secret(overlay: str) -> None:
    (namespace,) = of_kind(overlay, "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert of_kind(overlay, "Secret") == []


@pytest.mark.parametrize("component", ["model-volume", "model-image"])
def test_models_can_come_from_a_volume_or_an_image(component: str, tmp_path: Path) -> None:
    shutil.copytree(KUBERNETES, tmp_path / "kubernetes")
    overlay = tmp_path / "kubernetes" / "overlays" / "dev" / "kustomization.yaml"
    overlay.write_text(f"{overlay.read_text()}components: [../../components/{component}]\n")
    found = {f"{o['kind']} {o['metadata']['name']}": o for o in render(overlay.parent)}
    for name in ("StatefulSet tickwatch-worker", "Deployment tickwatch-server"):
        kubernetes_validate.validate(found[name], VERSIONS[-1], strict=True)
        pod = found[name]["spec"]["template"]["spec"]
        (mount,) = [m for m in pod["containers"][0]["volumeMounts"] if m["name"] == "models"]
        assert (mount["mountPath"], mount["readOnly"]) == ("/models", True)
        assert "models" in [volume["name"] for volume in pod["volumes"]]
