"""A test that needs a Debian package says so when it skips, and CI fails where it could have installed that package."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from commands import HERE

SUITE = """
import os, programs
os.geteuid = lambda: 0  # CI installs as root alone
programs.PROGRAMS.update(absent=("a-program-that-is-nowhere",), other=("another-one",))

@programs.needs("absent", "strace", "other")
def test_of_a_program():
    raise AssertionError("it ran")

def test_of_nothing():
    pass
"""


@pytest.mark.parametrize(
    "ci, known, code, workers",
    [("", "absent other", 0, "0"), ("1", "absent", 1, "0"), ("1", "absent", 1, "2"), ("1", "", 0, "0")],
    ids=["a developer's machine", "CI could install one", "CI with workers could install one", "CI could install neither"],
)
def test_a_skip_for_want_of_a_package(ci: str, known: str, code: int, workers: str, tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(SUITE)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    apt, strace = tmp_path / "bin" / "apt-get", tmp_path / "bin" / "strace"
    apt.parent.mkdir()
    apt.write_text(f'#!/bin/sh\nfor word in {known} none; do [ "$4" = "$word" ] && exit 0; done; exit 100\n')
    strace.write_text("")
    for path in (apt, strace):
        path.chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    environment |= {
        "CI": ci,
        "PATH": f"{apt.parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(HERE / "support"),
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    }
    words = [sys.executable, "-m", "pytest", "-p", "xdist", "-p", "programs", "-n", workers, "test_it.py"]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    assert "1 passed, 1 skipped" in done.stdout
    assert "test_of_a_program: Debian packages are missing: apt-get install absent other" in done.stdout
    assert ("CI could have installed absent\n" in done.stdout) == bool(code)
