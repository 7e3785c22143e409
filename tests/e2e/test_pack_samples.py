"""Sample files of `edgeloop pack`: many of them, and what their values are."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import helper
from test_pack import packed

from bundles import F, onnx_file
from edgeloop_pipeline.packing.samples import sample_files


def test_very_many_large_samples_are_read_one_at_a_time(tmp_path: Path) -> None:
    """2 GB of pictures in a process that may not grow by 1 GB; and that not all files are used is said."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    np.save(folder / "0.npy", np.zeros((600, 900, 3), np.float32))
    for i in range(1, 320):
        os.link(folder / "0.npy", folder / f"{i}.npy")
    program = (
        "import resource; from pathlib import Path; from edgeloop_pipeline.packing.samples import sample_files\n"
        f"before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\nfiles = sample_files(Path({str(folder)!r}), [], dict(input=False))\n"
        "print(sum(f.read().nbytes for f in files), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    read, grown_kib = map(int, done.stdout.split())
    assert read == 320 * 600 * 900 * 3 * 4 and grown_kib < 200_000
    facts: list[str] = []
    for i in range(320, 4100):
        os.link(folder / "0.npy", folder / f"{i}.npy")
    assert len(sample_files(folder, facts, {"input": False})) == 4096 and "4096 of 4100 samples are used" in facts[0]


@pytest.mark.parametrize("floats", [False, True])
def test_features_of_counts_are_noted(floats: bool, tmp_path: Path) -> None:
    """Conventions differ in what they take; a model that was trained on −1 to 1 hears nothing in counts."""
    nodes = [helper.make_node("Relu", ["x"], ["y"])]
    (tmp_path / "kws.onnx").write_bytes(onnx_file(nodes, [("x", F, [1, 49, 10])], [("y", F, [1, 49, 10])]))
    steps = ["{step: pad, length: 16000}", *(["{step: to_float}"] if floats else []), "{convention: mlperf_tiny_keyword}"]
    said = packed(tmp_path / "kws.onnx", "--out", tmp_path / "kws.edgeloop", "--preprocess", f"[{', '.join(steps)}]")
    assert any("16-bit counts" in fact for fact in said["facts"]) != floats
