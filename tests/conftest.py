"""A small project run once for the whole session, through the command line."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from commands import TINY, command

# Workers share the cores: threads that wait for each other by spinning make trainings beside each other several times slower.
if count := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // int(count))))

pytest_plugins = ["programs"]


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """The tiny project's finished run: the object that `edgeloop run --json` printed, and its `runs` folder."""
    shared = tmp_path_factory.getbasetemp()
    if os.environ.get("PYTEST_XDIST_WORKER"):
        shared = shared.parent  # one run serves every worker
    runs, answer = shared / "tiny-runs", shared / "tiny-run.json"
    with (shared / "tiny.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not answer.exists():
            done = command("edgeloop", "run", TINY, "--runs", runs, "--json")
            assert done.returncode == 0, done.stderr
            answer.write_text(done.stdout)
    yield {**json.loads(answer.read_text()), "runs": runs}


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A copy of the tiny project to spoil."""
    return Path(shutil.copytree(TINY, tmp_path / "tiny"))


@pytest.fixture
def runs(tiny_run: dict[str, Any], tmp_path: Path) -> Path:
    """A copy of the finished run's folder, to run in."""
    return Path(shutil.copytree(tiny_run["runs"], tmp_path / "runs", symlinks=True))
