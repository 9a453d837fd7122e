"""The overlays as Kustomize renders them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

KUBERNETES = Path(__file__).parents[2] / "deploy" / "kubernetes"
OVERLAYS = ("dev", "production", "retraining")
OURS = ("tickwatch", "tickwatch-training")


@cache
def rendered(folder: str) -> list[dict[str, Any]]:
    """Every object of a folder below deploy/kubernetes."""
    return render(KUBERNETES / folder)


def render(folder: Path) -> list[dict[str, Any]]:
    """Every object of a folder with a kustomization."""
    kubectl = Path(sys.executable).with_name("kubectl")
    ended = subprocess.run([kubectl, "kustomize", folder], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return list(yaml.safe_load_all(ended.stdout))


@dataclass(frozen=True)
class Workload:
    """A pod template: in which overlay, of which object, and its content."""

    overlay: str
    kind: str
    name: str
    labels: dict[str, str]
    pod: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.overlay}-{self.name}"

    @property
    def container(self) -> dict[str, Any]:
        """The one container."""
        (only,) = self.pod["containers"]
        found: dict[str, Any] = only
        return found

    @property
    def image(self) -> str:
        """Image without its tag."""
        return str(self.container["image"].partition(":")[0])


def workloads() -> Iterator[Workload]:
    """Every pod template of every overlay."""
    for overlay in OVERLAYS:
        for found in rendered(f"overlays/{overlay}"):
            spec = found.get("spec", {})
            template = spec.get("jobTemplate", {}).get("spec", spec).get("template")
            if template:
                name, labels = found["metadata"]["name"], template["metadata"]["labels"]
                yield Workload(overlay, found["kind"], name, labels, template["spec"])


def of_kind(overlay: str, kind: str) -> list[dict[str, Any]]:
    """The objects of one kind of an overlay."""
    return [found for found in rendered(f"overlays/{overlay}") if found["kind"] == kind]


def environment(workload: Workload) -> dict[str, str | None]:
    """The variables of its container; None where a value comes from elsewhere than a ConfigMap of ours."""
    maps = {c["metadata"]["name"]: c["data"] for c in of_kind(workload.overlay, "ConfigMap")}
    given: dict[str, str | None] = {}
    for source in workload.container.get("envFrom", []):
        given |= maps[source["configMapRef"]["name"]]
    for variable in workload.container.get("env", []):
        given[variable["name"]] = variable.get("value")
    return given
