"""What ships: the wheel on its own, the two commands of the Makefile, the image, and the rules of the repository."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from collections.abc import Iterator, Sequence
from email.parser import Parser
from itertools import takewhile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TRAINING_ONLY = {"training", "torch", "scipy", "matplotlib", "jinja2", "river", "scikit-learn", "sklearn"}
SITTING = 400  # lines of a file that can be read in one


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (built,) = folder.glob("tickwatch-*.whl")
    return built


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tickwatch` of a fresh environment that holds the wheel and sees this one's dependencies, but not the source."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder)
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install", "--quiet"]
    subprocess.run([*pip, "--no-deps", "--no-index", str(wheel)], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return folder / "bin" / "tickwatch"


def test_the_wheel_alone_in_an_empty_folder_watches_a_simulated_market(installed: Path, tmp_path: Path) -> None:
    where = _run([installed.with_name("python"), "-c", "import service; print(service.__file__)"], tmp_path).stdout
    assert Path(where.strip()).is_relative_to(installed.parents[1])
    ended = _run([installed, "run", "--duration", "5"], tmp_path)
    assert ended.returncode == 0, ended.stderr
    summary = re.fullmatch(r"summary: ticks=(\d+) streams=\d+ alerts=\d+ seconds=[\d.]+", ended.stdout.splitlines()[-1])
    assert summary, ended.stdout
    assert int(summary[1]) > 0


def test_the_wheel_brings_the_models_and_pages_and_nothing_foreign(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"service", "training", "tickwatch"}
    models = {f"service/models/{path.name}" for path in ROOT.glob("models/*.onnx")}
    pages = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("service/live/**/*") if path.is_file()}
    assert models
    assert pages
    assert models | pages | {"training/report.html", "training/report.md"} <= set(names)


def test_the_wheel_asks_for_training_packages_only_where_training_is_asked_for(wheel: Path) -> None:
    (name,) = (n for n in zipfile.ZipFile(wheel).namelist() if n.endswith("/METADATA"))
    asked = Parser().parsestr(zipfile.ZipFile(wheel).read(name).decode()).get_all("Requires-Dist", [])
    always = {re.split(r"[^\w-]", line)[0] for line in asked if "extra ==" not in line}
    assert "onnxruntime" in always
    assert not always & TRAINING_ONLY


def test_the_service_imports_nothing_of_training() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {name}"
        for path in sorted(ROOT.glob("service/**/*.py"))
        for node, name in _imports(ast.parse(path.read_text()), is_cli=path.name == "cli.py")
        if name.partition(".")[0] in TRAINING_ONLY
    ]
    assert wrong == []


def test_a_process_with_all_of_the_service_has_not_loaded_torch() -> None:
    load = (
        "import importlib, pkgutil, service, sys\n"
        "for module in pkgutil.walk_packages(service.__path__, 'service.'): importlib.import_module(module.name)\n"
        "print(*sorted(m for m in sys.modules if '.' not in m))"
    )
    loaded = _run([sys.executable, "-c", load], ROOT)
    assert loaded.returncode == 0, loaded.stderr
    assert "onnxruntime" in loaded.stdout.split()
    assert not set(loaded.stdout.split()) & {"torch", "training"}  # Numba loads scipy where it finds one


def test_the_repository_names_no_machine_and_no_package_registry() -> None:
    machine = re.compile(rf"(?<![\w./-])/(?:home|root|Users|work)/\w|{re.escape(str(ROOT))}\b")
    registry = re.compile(r"(?:pypi|pythonhosted|crates|npmjs|golang|maven|debian)\.(?:org|io|com)|repo\.maven")
    wrong = [
        f"{path}:{number}: {line.strip()[:80]}"
        for path, text in _texts()
        for number, line in enumerate(text.splitlines(), 1)
        if machine.search(line) or registry.search(line)
    ]
    assert wrong == []


def test_every_source_file_can_be_read_in_one_sitting() -> None:
    kinds = {".py", ".js", ".css", ".html", ".toml", ""}
    lengths = {str(path): text.count("\n") for path, text in _texts() if path.suffix in kinds}
    assert "service/ticks.py" in lengths
    assert {path: n for path, n in lengths.items() if n > SITTING} == {}


@pytest.mark.parametrize("name", ["", "-build", "-training", "-dev"])
def test_requirements_are_pinned_by_hash_and_name_no_address(name: str) -> None:
    text = (ROOT / f"requirements{name}.txt").read_text()
    assert "://" not in text
    assert "--index" not in text
    entries = re.split(r"\n(?=\w)", text.strip())
    assert all(re.match(r"[\w.-]+==\S+ ", entry) and "--hash=sha256:" in entry for entry in entries)


def test_requirements_hold_what_the_project_asks_for_in_one_version_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    asked = {
        "": project["dependencies"],
        "-extras": project["dependencies"] + extras["fast"] + extras["signing"] + extras["traces"],
        "-training": project["dependencies"] + extras["training"],
        "-dev": project["dependencies"] + extras["training"] + extras["dev"],
    }
    everything = _pins("-dev")
    for name, lines in asked.items():
        pins = _pins(name)
        assert {re.split(r"[^\w-]", line)[0].lower() for line in lines} <= pins.keys()
        assert pins.items() <= everything.items()
    assert _pins("-build").items() <= everything.items()
    assert not _pins("").keys() & TRAINING_ONLY


def test_the_dockerfile_is_clean() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    found = _run([hadolint, ROOT / "Dockerfile"], ROOT)
    assert (found.returncode, found.stdout) == (0, "")


def test_the_build_context_holds_every_file_that_the_dockerfile_names() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", dockerfile, re.MULTILINE)
    named = {each for line in copied for each in line.split() if "$" not in each}
    named |= set(re.findall(r"requirements[\w-]*\.txt", dockerfile))
    allowed = re.findall(r"^!(.+?)/?$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    assert named == set(allowed)
    assert all((ROOT / each).exists() for each in named)


@pytest.fixture
def make(tmp_path: Path) -> list[str]:
    """`make run` in an environment that counts as installed and whose tickwatch prints what it is given."""
    folder = tmp_path / "venv"
    (folder / "bin").mkdir(parents=True)
    for name in ("bin/python", "run.stamp"):
        (folder / name).touch()
    tickwatch = folder / "bin" / "tickwatch"
    tickwatch.write_text('#!/bin/sh\nprintf "<%s>" "$@"\n')
    tickwatch.chmod(0o755)
    return [_which("make"), "--no-print-directory", "run", f"VENV={folder}"]


def test_make_run_passes_its_variables_on_as_flags(make: list[str]) -> None:
    assert _run(make, ROOT).stdout == "<run>"
    given = ["TICKS=a b's.csv", "DURATION=30", "SPEED=2.5", "MODEL=lstm", "RESUME=1"]
    flags = "<run><--ticks><a b's.csv><--duration><30><--speed><2.5><--model><lstm><--resume>"
    assert _run([*make, *given], ROOT).stdout == flags
    assert _run(make, ROOT, dict(pair.split("=") for pair in given)).stdout == flags
    assert _run([*make, "RESUME=0"], ROOT).stdout == "<run>"


def test_make_run_says_what_is_missing_where_there_is_no_python(tmp_path: Path) -> None:
    command = [_which("make"), "run", f"VENV={tmp_path / 'venv'}"]
    ended = _run(command, ROOT, {"PATH": str(tmp_path)})
    assert ended.returncode != 0
    assert "No Python of at least 3.11 found: install one" in ended.stderr


def _which(program: str) -> str:
    found = shutil.which(program)
    assert found, f"{program} is not installed"
    return found


def _run(
    command: Sequence[Path | str], folder: Path, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("MAKE", "PYTHON", "TICKWATCH_")) and name not in ("TICKS", "DURATION", "SPEED", "MODEL")
    }
    return subprocess.run(
        command,
        cwd=folder,
        env=inherited | (environment or {}),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def _imports(node: ast.AST, *, is_cli: bool) -> Iterator[tuple[ast.stmt, str]]:
    """All imports below a node; those of the command `train` are its very purpose, and made when it is called."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from ((child, alias.name) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            yield child, child.module or ""
        elif not (is_cli and isinstance(child, ast.FunctionDef) and child.name == "train"):
            yield from _imports(child, is_cli=is_cli)


def _texts() -> Iterator[tuple[Path, str]]:
    """Every text file that is, or is about to be, part of the repository."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    for name in sorted(set(filter(None, names))):
        content = (ROOT / name).read_bytes() if (ROOT / name).exists() else b"\0"
        if b"\0" not in content:
            yield Path(name), content.decode()


def _pins(name: str) -> dict[str, str]:
    lines = (ROOT / f"requirements{name}.txt").read_text().splitlines()
    pinned = (line.split("==") for line in lines if "==" in line and line[0] not in " #")
    return {package: "".join(takewhile(lambda c: c not in " ;\\", version)) for package, version, *_ in pinned}


def test_the_documents_name_only_tests_that_exist() -> None:
    tests = "".join(path.name + path.read_text() for path in (ROOT / "tests").rglob("*.py"))
    for document in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]:
        named = set(re.findall(r"test_\w+(?=`|\.py)", document.read_text()))
        assert not {name for name in named if name not in tests}, document.name
