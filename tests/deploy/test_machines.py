"""Compose and systemd: valid, hardened, and in step with the settings and versions of the code."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.settings import commands
from service import __version__
from tests.deploy.monitoring import promtool

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "deploy" / "systemd" / "tickwatch-worker.service"
SETTINGS = {path: {option.envvar for option in options} for path, options in commands()}
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
OURS = {name: service for name, service in SERVICES.items() if service["image"].startswith("tickwatch")}
MOST_EXPOSED = 1.5  # of 10, as systemd-analyze counts; 2 is its bound for "OK"


def test_the_compose_file_follows_the_specification() -> None:
    check = Path(sys.executable).with_name("check-jsonschema")
    command: list[Path | str] = [check, "--builtin-schema", "vendor.compose-spec", "compose.yaml"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout


def test_every_service_is_pinned_limited_unprivileged_and_local() -> None:
    for name, service in SERVICES.items():
        assert re.search(r":v?\d+\.\d+\.\d+$", service["image"]), name
        assert service["cap_drop"] == ["ALL"], name
        assert "no-new-privileges:true" in service["security_opt"], name
        assert service["mem_limit"], name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
        assert all((ROOT / v.split(":")[0]).exists() for v in service.get("volumes", []) if v.startswith("."))


def test_our_services_are_read_only_and_run_this_version() -> None:
    assert set(OURS) == {"topics", "worker", "server"}
    for service in OURS.values():
        assert service["image"] == f"tickwatch:{__version__}"
        assert service["read_only"] is True
        assert any(mount.startswith("/tmp") for mount in service["tmpfs"])


@pytest.mark.parametrize("name", OURS)
def test_compose_sets_only_settings_of_the_command(name: str) -> None:
    assert OURS[name]["environment"].keys() <= SETTINGS[" ".join(OURS[name]["command"])]


def test_prometheus_of_compose_accepts_its_configuration(prometheus_tools: None) -> None:
    ended = promtool("check", "config", ROOT / "deploy" / "prometheus" / "prometheus.yml")
    assert ended.returncode == 0, ended.stdout + ended.stderr


needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


@needs_systemd
def test_the_unit_is_valid_and_hardly_exposed(tmp_path: Path) -> None:
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/tickwatch/bin/tickwatch", "/bin/true"))
    verified = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
    assert (verified.returncode, verified.stderr) == (0, "")
    command: list[Path | str] = [
        "systemd-analyze",
        "security",
        "--offline=true",
        f"--threshold={round(MOST_EXPOSED * 10)}",
        unit,
    ]
    measured = subprocess.run(command, capture_output=True, text=True, check=False)
    assert measured.returncode == 0, measured.stdout.splitlines()[-1]


def test_the_unit_sets_only_settings_of_the_worker() -> None:
    named = set(re.findall(r"TICKWATCH_[A-Z_]+(?==)", UNIT.read_text()))
    assert named == {"TICKWATCH_INSTANCE", "TICKWATCH_PASSWORD_FILE"}
    assert named <= SETTINGS["worker"]
