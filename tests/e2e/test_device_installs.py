"""The wheel with one device extra alone, in a bare environment, answers the golden bundle's recordings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from commands import HERE

ROOT = HERE.parent
GOLDEN = HERE / "goldens" / "v0.1" / "exercise_watch-1.edgeloop"
NEVER_ON_A_DEVICE = {"torch", "onnx", "scipy", "pandas", "click", "rich", "pyyaml", "jinja2"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "build", "-q", "--wheel", "-o", folder, ROOT], check=True, capture_output=True)
    return next(folder.glob("*.whl"))


def bare(folder: Path, wheel: Path, extra: str) -> Path:
    """A fresh environment with the wheel and one extra; its bin folder."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    subprocess.run([folder / "bin" / "pip", "install", "-q", f"edgeloop{extra} @ file://{wheel}"], check=True, capture_output=True)
    return folder / "bin"


def test_wheel_ships_the_reference_projects(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as zipped:
        names = set(zipped.namelist())
    for project in ("exercise_watch", "fashion"):
        for file in ("recipe.yaml", "network.py", "data.py", "README.md"):
            assert f"edgeloop_models/{project}/{file}" in names
    assert "edgeloop_pipeline/report/report.html.j2" in names
    assert "edgeloop_hub/web/templates/base.html.j2" in names and "edgeloop_agent/py.typed" in names


@pytest.mark.long
@pytest.mark.parametrize(
    ("extra", "provider"),
    [("[onnx]", "onnxruntime"), ("[tflite]", "ai-edge-litert"), ("[tflite-runtime]", "tflite-runtime 2.14.0")],
)
def test_bare_install_runs(extra: str, provider: str, wheel: Path, tmp_path: Path) -> None:
    if extra == "[tflite-runtime]" and sys.version_info >= (3, 12):
        pytest.skip("tflite-runtime has no wheels for Python 3.12 and newer")
    binaries = bare(tmp_path / "venv", wheel, extra)
    listed = subprocess.run([binaries / "pip", "list", "--format=json"], capture_output=True, text=True, check=True)
    installed = {p["name"].lower() for p in json.loads(listed.stdout)}
    assert not installed & NEVER_ON_A_DEVICE
    expected = json.loads((GOLDEN.parent / "answers.json").read_text())
    environment = {**os.environ, "EDGELOOP_STATE": str(tmp_path / "state")}
    run = [binaries / "edgeloop-agent", "run", GOLDEN, "--source", GOLDEN.parent / "recording.csv"]
    done = subprocess.run(run, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert provider in done.stderr
    assert [json.loads(line)["label"] for line in done.stdout.splitlines()] == expected
    bench = subprocess.run(
        [binaries / "edgeloop-agent", "bench", GOLDEN, "--seconds", "0.05", "--json"],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert bench.returncode == 0, bench.stderr
    ran = {v["variant"].partition("-")[0] for v in json.loads(bench.stdout)["variants"] if v["cost"]}
    refused = [v["refused"] for v in json.loads(bench.stdout)["variants"] if not v["cost"]]
    assert ran == {"onnx" if extra == "[onnx]" else "tflite"}
    assert all("pip install 'edgeloop[" in reason for reason in refused)
    workstation = subprocess.run([binaries / "edgeloop", "--help"], capture_output=True, text=True, check=False)
    assert (workstation.returncode, "edgeloop[workstation]" in workstation.stderr) == (6, True)
    words = [binaries / "python", "-c", LIBRARY, GOLDEN, GOLDEN.parent / "recording.csv"]
    library = subprocess.run(words, capture_output=True, text=True, env=environment, check=False)
    assert library.returncode == 0, library.stderr
    assert json.loads(library.stdout) == [expected, "DeviceError: edgeloop[workstation]"]


LIBRARY = """
import json, sys
import edgeloop
labels = [answer.label for answer in edgeloop.open(sys.argv[1]).windows(sys.argv[2])]
try:
    edgeloop.run
except edgeloop.EdgeloopError as error:
    print(json.dumps([labels, f"{type(error).__name__}: {'edgeloop[workstation]' if 'edgeloop[workstation]' in str(error) else error}"]))
"""


@pytest.mark.long
def test_base_alone_says_what_is_missing(wheel: Path, tmp_path: Path) -> None:
    binaries = bare(tmp_path / "venv", wheel, "")
    done = subprocess.run(
        [binaries / "edgeloop-agent", "run", GOLDEN, "--source", "-"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 6
    assert "pip install 'edgeloop[onnx]' or pip install 'edgeloop[tflite]'" in done.stderr
    assert subprocess.run([binaries / "edgeloop-agent", "inspect", GOLDEN], capture_output=True, check=False).returncode == 0
