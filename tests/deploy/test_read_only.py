"""tickwatch starts as in a hardened container: nothing can be written to but a tmpfs, no capabilities, no home."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TICKWATCH = Path(sys.executable).with_name("tickwatch")
NAMESPACES = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"])]
READ_ONLY = (
    "mount --make-rprivate / && awk '{print $2}' /proc/self/mounts | grep -vE '^/(proc|sys|dev)(/|$)'"
    ' | while read -r at; do mount -o remount,bind,ro "$at" || exit 1; done'
)
DROP = "setpriv --no-new-privs --inh-caps=-all --bounding-set=-all"


def hardened(command: str, shm: str = "rw", **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a shell command without capabilities where at most /dev/shm can be written to."""
    script = f'{READ_ONLY} && mount -t tmpfs -o {shm} tmpfs /dev/shm && exec {DROP} sh -c "$COMMAND"'
    inherited = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    return subprocess.run(
        [*NAMESPACES, "sh", "-c", script],
        cwd="/",
        env=inherited | {"HOME": "/nonexistent", "COMMAND": command} | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )


@pytest.fixture(autouse=True)
def namespaces() -> None:
    """Skips where mount namespaces are not allowed, as inside most containers."""
    tried = hardened("touch /tmp/x /var/tmp/x && echo written")
    if "Read-only file system" not in tried.stderr:
        pytest.skip(f"cannot make a read-only mount namespace here: {tried.stderr.strip()[-200:]}")


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Kernels compiled for any CPU of this architecture, as the Dockerfile does it."""
    folder = tmp_path_factory.mktemp("kernels")
    environment = os.environ | {"NUMBA_CACHE_DIR": str(folder), "NUMBA_CPU_NAME": "generic"}
    command: list[Path | str] = [TICKWATCH, "run", "--duration", "1", "--port", "0", "--data-dir", str(folder / "data")]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    shutil.rmtree(folder / "data")
    return folder


RUN = f"{TICKWATCH} run --duration 1 --port 0 --data-dir /dev/shm/data; ls /dev/shm"


def test_a_read_only_start_uses_the_kernels_that_came_with_it(compiled: Path) -> None:
    ended = hardened(RUN, NUMBA_CACHE_DIR=str(compiled), NUMBA_CPU_NAME="generic", NUMBA_DEBUG_CACHE="1")
    assert re.search(r"^summary: ticks=[1-9]", ended.stdout, re.MULTILINE), ended.stderr
    assert "data loaded from '/dev/shm/" in ended.stdout
    assert "data saved" not in ended.stdout
    assert ended.stdout.splitlines()[-1] == "data", "the temporary kernels are gone"


def test_a_read_only_start_without_kernels_compiles_them(compiled: Path) -> None:
    ended = hardened(RUN, NUMBA_DEBUG_CACHE="1")
    assert re.search(r"^summary: ticks=[1-9]", ended.stdout, re.MULTILINE), ended.stderr
    assert "data saved to '/dev/shm/" in ended.stdout


def test_where_nothing_can_be_written_to_it_says_what_to_do() -> None:
    ended = hardened(f"{TICKWATCH} worker", shm="ro")
    assert ended.returncode == 1
    assert "mount a tmpfs at /tmp" in ended.stderr
