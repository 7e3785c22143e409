"""benchmarks/gpu.py without a GPU: one sentence, and a dry run through every part."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"


def run(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, SCRIPT, *map(str, words)], capture_output=True, text=True, check=False, timeout=400)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_in_a_sentence() -> None:
    done = run()
    assert (done.returncode, done.stdout) == (6, "")
    assert done.stderr.startswith("this machine has no NVIDIA GPU") and "--dry-run" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.long
def test_a_dry_run_goes_through_every_part_and_claims_nothing_of_a_gpu(runs: Path) -> None:
    done = run("--dry-run", "--json", "--runs", runs)
    assert done.returncode == 0, done.stderr
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    assert not [row for row in rows.values() if row["target"].startswith("FAILED")]
    assert rows["onnx-int8-symmetric: violations of our rules"]["value"] == 0
    assert rows["onnx-int8: violations of our rules"]["value"] > 0
    timed = [name for name, row in rows.items() if name.endswith("by CPU: p50") and row["value"] > 0]
    assert len(timed) == 3
    judged = [row for name, row in rows.items() if name.startswith("accuracy of")]
    assert len(judged) == 4 and all(row["met"] for row in judged)
    assert any("the reference, which shows no speed" in name for name in rows) or torch.cuda.is_available()
    assert rows["training in bf16"]["value"] > 0
