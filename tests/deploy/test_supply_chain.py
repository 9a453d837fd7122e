"""What the image holds is listed: a bill of materials that validates, and a licence for every package."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

from service import __version__

ROOT = Path(__file__).parents[2]


def pinned() -> set[str]:
    """Packages that the image installs on Linux, in the spelling of the requirement files."""
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    return {
        line.partition("==")[0] for line in lines if re.match(r"[a-z]", line) and "sys_platform == 'win32'" not in line
    }


def test_the_bill_of_materials_validates_and_names_every_package(tmp_path: Path) -> None:
    make = shutil.which("make")
    assert make
    told = subprocess.run(
        [make, "--dry-run", "sbom", "VENV=.absent"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    (command,) = [line for line in told.stdout.splitlines() if "cyclonedx-py" in line]
    words = command.replace(".absent/bin", str(Path(sys.executable).parent)).split()
    words[-1] = str(tmp_path / "sbom.cdx.json")
    ended = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    bill = json.loads(Path(words[-1]).read_text())
    assert bill["metadata"]["component"]["name"] == "tickwatch"
    assert pinned() <= {component["name"] for component in bill["components"]}
    assert all(component["purl"] for component in bill["components"])


def test_every_package_of_the_image_has_a_licence_that_allows_it() -> None:
    rows = re.findall(r"^\| (\S+) +\| (.+?) +\|$", (ROOT / "docs" / "licences.md").read_text(), re.MULTILINE)
    listed = {re.sub(r"[_.]+", "-", name.lower()): licence for name, licence in rows if name != "Name"}
    assert listed.keys() == pinned(), "run `make licences`"
    for name, licence in listed.items():
        assert re.search(r"MIT|BSD|Apache|ISC|PSF|Zlib|LGPL", licence), f"{name}: {licence}"
        assert not re.search(r"\bA?GPL|UNKNOWN", licence), f"{name}: {licence}"


def test_versions_agree_everywhere() -> None:
    texts = [
        "Dockerfile",
        "compose.yaml",
        *(str(p) for p in (ROOT / "deploy" / "kubernetes").rglob("kustomization.yaml")),
    ]
    for name in texts:
        text = (ROOT / name).read_text()
        for found in re.findall(
            r"(?:image\.version=\"|tickwatch(?:-training|-models)?:|newTag: )(\d+\.\d+\.\d+)", text
        ):
            assert found == __version__, name
