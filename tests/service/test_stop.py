"""Signals become a flag, and none of them spoils how a process ends."""

from __future__ import annotations

import subprocess
import sys

ENDING = """
import os, signal, sys
from service.stop import Stop
with Stop() as stop:
    os.kill(os.getpid(), signal.{asked})
    assert stop.asked
os.kill(os.getpid(), signal.{late})
sys.exit(3)
"""


def ended(asked: str, late: str) -> int:
    """The exit code of a process that was asked to end, and gets another signal when it is nearly gone."""
    return subprocess.run([sys.executable, "-c", ENDING.format(asked=asked, late=late)], check=False).returncode


def test_a_process_that_is_ending_does_not_die_of_sigterm() -> None:
    assert ended("SIGTERM", "SIGTERM") == 3
    assert ended("SIGINT", "SIGTERM") == 3
