"""Compiled kernels never outlive the code that they were compiled from."""

from __future__ import annotations

import os
from pathlib import Path

from service.kernels import forget_old


def test_kernels_that_are_older_than_any_module_are_removed(tmp_path: Path) -> None:
    kept = tmp_path / "__pycache__"
    kept.mkdir()
    names = ["features.py", "breaks.py", "__pycache__/features._kernel-1.nbi", "__pycache__/judge._kernel-1.nbc"]
    for age, name in zip((40, 20, 30, 10), names, strict=True):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (1_000_000 - age, 1_000_000 - age))
    forget_old(tmp_path)
    assert [file.name for file in kept.iterdir()] == ["judge._kernel-1.nbc"]
