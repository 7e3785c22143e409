"""OpenVINO's own package as a way to run ONNX files: the same answers, measured beside onnxruntime, absent without the package."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import openvino_checks
from commands import command
from edgeloop_agent.runtimes import RuntimeOptions, onnx, open_runtime, openvino
from edgeloop_contract.archive import Bundle
from serving import GOLDEN

TWO_INPUTS = Path(__file__).parents[1] / "goldens" / "v0.4" / "two-inputs-1.edgeloop"


@pytest.fixture(autouse=True)
def _installed() -> None:
    if not openvino.is_installed():
        pytest.skip("the extra `openvino` is not installed")


@pytest.mark.parametrize("bundle", [GOLDEN, TWO_INPUTS], ids=["one input", "two inputs by name"])
def test_answers_are_onnxruntimes_of_one_sample_and_of_several(bundle: Path) -> None:
    in_a_process("answers_are_the_same", bundle)


def in_a_process(check: str, *words: object) -> None:
    """Of its own: in one with torch, OpenVINO has ended the tests by a segmentation fault."""
    program = f"import sys, openvino_checks; openvino_checks.{check}(*sys.argv[1:])"
    support = Path(openvino_checks.__file__).parent
    given = {**os.environ, "PYTHONPATH": str(support)}
    done = subprocess.run([sys.executable, "-c", program, *map(str, words)], env=given, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_bench_measures_it_beside_the_cpu_and_what_is_fastest_is_remembered(tmp_path: Path) -> None:
    done = command("edgeloop-agent", "bench", GOLDEN, "--state", tmp_path, "--seconds", "0.05", "--json")
    rows = {(row["variant"], row["provider"]): row for row in json.loads(done.stdout)["variants"]}
    row = rows["onnx-int8", "OpenVINO"]
    assert row["runtime"].startswith("OpenVINO 20") and row["cost"]["latency_us_p50"] > 0, row
    assert rows["onnx-int8", "CPU"]["runtime"].startswith("onnxruntime ")


def test_a_file_that_it_refuses_is_one_sentence_and_the_others_go_on() -> None:
    in_a_process("refuses_what_is_no_model", GOLDEN)


def test_without_the_package_it_is_said_to_be_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino, "is_installed", lambda: False)
    assert "OpenVINO" not in onnx.installed_accelerators()
    with Bundle.open(GOLDEN) as opened:
        variant = opened.manifest.variant("onnx-int8")
        runtime = open_runtime(variant, opened.read(variant.file), 1, RuntimeOptions(providers=("OpenVINO",)))
    assert "asked for and not in this build: OpenVINO" in runtime.description


NO_CALLS = """
import socket, sys
from pathlib import Path
asked = []
socket.getaddrinfo = lambda *where, **_: asked.append(where) or []
socket.socket.connect = lambda _, where: asked.append(where)
from edgeloop_agent.cli import main
main(["bench", sys.argv[1], "--state", sys.argv[2], "--seconds", "0.05"])
import time; time.sleep(0.5)
print("asked:", asked)
"""


def test_nobody_is_told(tmp_path: Path) -> None:
    """The package of its maker's telemetry would ask for a host, where a home folder is there and no CI is named."""
    given = {name: value for name, value in os.environ.items() if name not in ("CI", "TF_BUILD", "JENKINS_URL")} | {
        "HOME": str(tmp_path)
    }
    words = [sys.executable, "-c", NO_CALLS, str(GOLDEN), str(tmp_path / "state")]
    done = subprocess.run(words, env=given, capture_output=True, text=True, timeout=120, check=True)
    assert "by OpenVINO" in done.stdout and "asked: []" in done.stdout, done.stdout
    assert not (tmp_path / "intel").exists()
