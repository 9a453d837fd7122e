"""A real control plane on the loopback interface: etcd, API server, controllers, scheduler, and nodes that kwok pretends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.deploy.monitoring import within
from tests.kafka.broker import free_ports

TOOLS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kwok")
KUBECTL = Path(sys.executable).with_name("kubectl")
ZONES = ("a", "b", "c")
NODES = tuple(f"node-{zone}{i}" for i in range(2) for zone in ZONES)
TOKEN = "loopback-only"


def tools() -> Path | None:
    """The folder that holds TOOLS, and the custom resource definitions as YAML; None where nobody named one."""
    named = os.environ.get("TICKWATCH_TEST_CLUSTER")
    return Path(named) if named else None


@dataclass(frozen=True)
class Cluster:
    """What is needed to talk to it."""

    kubeconfig: Path

    def kubectl(self, *arguments: str | Path, text: str = "") -> subprocess.CompletedProcess[str]:
        """Run kubectl and return what it said."""
        command = [KUBECTL, "--kubeconfig", self.kubeconfig, *arguments]
        return subprocess.run(command, input=text, capture_output=True, text=True, check=False)

    def apply(self, *arguments: str | Path, text: str = "") -> str:
        """Apply manifests, with strict validation and a warning taken for an error; AssertionError with what was wrong."""
        strict = ("apply", "--server-side", "--validate=strict", "--warnings-as-errors")
        ended = self.kubectl(*strict, *arguments, text=text)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    def get(self, *arguments: str) -> dict[str, Any]:
        """One object, or a list of them."""
        ended = self.kubectl("get", *arguments, "-o", "json")
        assert ended.returncode == 0, ended.stderr
        found: dict[str, Any] = json.loads(ended.stdout)
        return found

    def pods(self, component: str) -> dict[str, dict[str, Any]]:
        """The pods of a component by name, as far as they are not going."""
        found = self.get("pods", "-n", "tickwatch", "-l", f"app.kubernetes.io/component={component}")["items"]
        return {pod["metadata"]["name"]: pod for pod in found if "deletionTimestamp" not in pod["metadata"]}

    def ready(self, component: str) -> set[str]:
        """Names of the pods that are ready."""
        return {name for name, pod in self.pods(component).items() if _is_ready(pod)}

    def rolled_out(self, workload: str, seconds: float = 120) -> None:
        """Wait until a StatefulSet or Deployment has all its pods, of its newest revision."""
        ended = self.kubectl("rollout", "status", workload, "-n", "tickwatch", f"--timeout={seconds:g}s")
        assert ended.returncode == 0, ended.stdout + ended.stderr


def _is_ready(pod: dict[str, Any]) -> bool:
    conditions = pod["status"].get("conditions", [])
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


@contextmanager
def cluster(binaries: Path, folder: Path) -> Iterator[Cluster]:
    """A cluster that lives for the block, its nodes in three zones, with the custom resources that `binaries` defines."""
    etcd, peer, api, scheduler, controllers = free_ports(5)
    kubeconfig = folder / "kubeconfig"
    kubeconfig.write_text(json.dumps(_kubeconfig(f"https://127.0.0.1:{api}")))  # which is YAML too
    (folder / "tokens.csv").write_text(f"{TOKEN},admin,admin,system:masters\n")
    key = folder / "service-accounts.key"
    subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True, capture_output=True)
    with ExitStack() as stack:

        def start(tool: str, *arguments: str) -> None:
            out = stack.enter_context((folder / f"{tool}.log").open("wb"))
            process = subprocess.Popen([binaries / tool, *arguments], cwd=folder, stdout=out, stderr=out)
            stack.callback(process.wait)
            stack.callback(process.kill)

        start(
            "etcd",
            f"--data-dir={folder / 'etcd'}",
            f"--listen-client-urls=http://127.0.0.1:{etcd}",
            f"--advertise-client-urls=http://127.0.0.1:{etcd}",
            f"--listen-peer-urls=http://127.0.0.1:{peer}",
            "--unsafe-no-fsync",
        )
        start(
            "kube-apiserver",
            f"--etcd-servers=http://127.0.0.1:{etcd}",
            "--bind-address=127.0.0.1",
            f"--secure-port={api}",
            f"--cert-dir={folder / 'certificates'}",
            f"--token-auth-file={folder / 'tokens.csv'}",
            "--authorization-mode=RBAC",
            "--endpoint-reconciler-type=none",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={key}",
            f"--service-account-signing-key-file={key}",
            "--service-cluster-ip-range=10.0.0.0/24",
        )
        found = Cluster(kubeconfig)
        within(120, lambda: found.kubectl("get", "--raw", "/readyz").returncode == 0)
        joined = (f"--kubeconfig={kubeconfig}", "--leader-elect=false", "--bind-address=127.0.0.1")
        start("kube-scheduler", *joined, f"--secure-port={scheduler}")
        start(
            "kube-controller-manager",
            *joined,
            f"--secure-port={controllers}",
            f"--service-account-private-key-file={key}",
            "--horizontal-pod-autoscaler-sync-period=3s",
        )
        start(
            "kwok",
            f"--kubeconfig={kubeconfig}",
            f"--config={binaries / 'stage-fast.yaml'}",
            "--manage-all-nodes=true",
            "--node-lease-duration-seconds=40",
        )
        for definitions in sorted((binaries / "crds").glob("*.yaml")):
            found.apply("-f", definitions)
        found.apply("-f", "-", text="\n---\n".join(json.dumps(_node(name)) for name in NODES))
        within(60, lambda: len([node for node in found.get("nodes")["items"] if _is_ready(node)]) == len(NODES))
        yield found


def _kubeconfig(server: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": {"server": server, "insecure-skip-tls-verify": True}}],
        "users": [{"name": "admin", "user": {"token": TOKEN}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "admin"}}],
        "current-context": "test",
    }


def _node(name: str) -> dict[str, Any]:
    there = {"cpu": "4", "memory": "8Gi", "pods": "50"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {"kubernetes.io/hostname": name, "topology.kubernetes.io/zone": name.removeprefix("node-")[0]},
        },
        "status": {"allocatable": there, "capacity": there},
    }
