"""With a key configured, no model is loaded but one that is signed for it, whatever command loads it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from service.autoencoder import ModelRefused, load
from service.errors import TickwatchError
from tests.samples import shipped

SIGN = Path(sys.executable).with_name("model_signing")
TICKWATCH = Path(sys.executable).with_name("tickwatch")


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two private keys and their public ones, as openssl makes them."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("mine", "other"):
        private, public = folder / f"{name}.key", folder / f"{name}.pub"
        subprocess.run(["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", private], check=True)
        command: list[Path | str] = ["openssl", "ec", "-in", private, "-pubout", "-out", public]
        subprocess.run(command, check=True, capture_output=True)
    return {path.name: path for path in folder.iterdir()}


@pytest.fixture(scope="module")
def signed(keys: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shipped model with its signature beside it."""
    model = tmp_path_factory.mktemp("models") / "gru.onnx"
    shutil.copy(shipped("gru"), model)
    command: list[Path | str] = [
        SIGN,
        "sign",
        "key",
        "--private_key",
        keys["mine.key"],
        "--signature",
        f"{model}.sig",
        model,
    ]
    subprocess.run(command, check=True, capture_output=True)
    return model


def test_a_signed_model_is_loaded(signed: Path, keys: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TICKWATCH_MODEL_KEY", str(keys["mine.pub"]))
    assert load(signed).id == load(signed).id


def test_an_unsigned_model_is_refused(keys: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TICKWATCH_MODEL_KEY", str(keys["mine.pub"]))
    with pytest.raises(ModelRefused, match=r"gru.onnx: is not signed: gru.onnx.sig is missing"):
        load(shipped("gru"))


def test_a_model_that_another_key_signed_is_refused(
    signed: Path, keys: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TICKWATCH_MODEL_KEY", str(keys["other.pub"]))
    with pytest.raises(ModelRefused, match=r"its signature gru\.onnx\.sig does not hold"):
        load(signed)


def test_another_model_under_the_name_of_a_signed_one_is_refused(
    signed: Path, keys: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TICKWATCH_MODEL_KEY", str(keys["mine.pub"]))
    shutil.copy(f"{signed}.sig", tmp_path / "gru.onnx.sig")
    shutil.copy(shipped("lstm"), tmp_path / "gru.onnx")
    with pytest.raises(ModelRefused, match=r"its signature gru\.onnx\.sig does not hold"):
        load(tmp_path / "gru.onnx")


def test_a_key_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TICKWATCH_MODEL_KEY", "/nowhere/key.pub")
    with pytest.raises(TickwatchError, match="there is no such file"):
        load(shipped("gru"))


def test_the_command_line_takes_the_key_for_every_command(keys: dict[str, Path], tmp_path: Path) -> None:
    command: list[Path | str] = [
        TICKWATCH,
        "--model-key",
        keys["mine.pub"],
        "run",
        "--duration",
        "1",
        "--data-dir",
        tmp_path,
    ]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 3
    assert "is not signed" in ended.stderr
