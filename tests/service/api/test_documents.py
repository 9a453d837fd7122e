"""What the README and the documents say of the service is so."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

from tests.samples import ROOT
from tests.serving import TICKWATCH, server

README = (ROOT / "README.md").read_text()
SECTION = README.split("## Scoring over HTTP")[1].split("\n## ")[0]
ADDRESS = "http://127.0.0.1:8000"


def test_the_examples_of_the_readme_work(tmp_path: Path) -> None:
    blocks: list[str] = re.findall(r"```\n(.*?)```", SECTION, re.DOTALL)
    commands = re.split(r"\n+(?=curl)", blocks[0].strip())
    assert len(commands) == 5
    with server(tmp_path) as running:
        for command in commands:
            asked = subprocess.run(
                ["bash", "-c", command.replace("curl", "curl -sf").replace(ADDRESS, running.url)],
                capture_output=True,
                text=True,
                timeout=30,
                check=True,
            )
            assert asked.stdout.startswith("retry:") or json.loads(asked.stdout)
        found: dict[str, Any] = {}
        exec(blocks[1].replace(ADDRESS, running.url), found)
        assert found["answer"].ticks[0].score >= 0


def test_the_readme_names_every_option_of_serve() -> None:
    told = subprocess.run([str(TICKWATCH), "serve", "--help"], capture_output=True, text=True, check=True).stdout
    options = {flag for flag in re.findall(r"--[a-z-]+", told) if flag != "--help"}
    assert len(options) > 10
    assert {flag for flag in options if f"`{flag}`" not in SECTION} <= {"--no-fresh"}


def test_every_risk_of_owasp_is_answered_with_a_test() -> None:
    rows = re.findall(r"^\| API(\d+) .*\| (.*?) \|$", (ROOT / "docs" / "security.md").read_text(), re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(1, 11))
    assert all("`test_" in shown or shown == "nothing to test" for _, shown in rows)
