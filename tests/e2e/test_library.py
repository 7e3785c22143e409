"""`import edgeloop`: the same answers as the agent's, a recipe's run and a quantized network, by public names alone."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import edgeloop
from bundles import accumulator, two_inputs
from commands import HERE, TINY, command
from edgeloop_contract.archive import Bundle
from serving import GOLDEN, RECORDING


def opened(tmp_path: Path, **given: Any) -> edgeloop.Model:
    return edgeloop.open(GOLDEN, state=tmp_path / "state", **given)


def test_answers_are_the_agents(tmp_path: Path) -> None:
    model = opened(tmp_path, variant="tflite-int8")
    words = ("--source", RECORDING, "--variant", "tflite-int8", "--state", tmp_path / "s")
    rows = [json.loads(line) for line in command("edgeloop-agent", "run", GOLDEN, *words).stdout.splitlines()]
    answers = model.windows(RECORDING)
    assert [a.probabilities for a in answers] == [row["probabilities"] for row in rows] and len(answers) > 1
    assert answers[0].confidence == max(rows[0]["probabilities"].values()) and answers[0].label in model.labels
    with pytest.raises(edgeloop.DataError, match=r"windows; model\.windows"):
        model(RECORDING)


def test_one_a_list_and_a_generator(tmp_path: Path) -> None:
    model = opened(tmp_path, variant="onnx-int8")
    (length, channels) = model.inputs["input"][1]
    series = [np.random.default_rng(i).normal(size=(length, channels)) for i in range(3)]
    labels = [model(each).label for each in series]
    assert [a.label for a in model(series)] == labels

    def frames() -> Iterator[np.ndarray]:
        yield from series

    several = model(frames())
    assert next(several).label == labels[0] and [a.label for a in several] == labels[1:]
    assert model(torch.from_numpy(series[0])).label == labels[0]  # type: ignore[call-overload]
    for wrong in ("nowhere.csv", np.zeros((3, channels)), np.full((length, channels), np.nan), 7):
        with pytest.raises(edgeloop.DataError):
            model(wrong)  # type: ignore[call-overload]


def test_the_fastest_variant_is_measured_once_and_remembered(tmp_path: Path) -> None:
    first = opened(tmp_path)
    assert "measured on this device" in first.why and list((tmp_path / "state").glob("fastest-*.json"))
    assert opened(tmp_path).variant == first.variant and first.variant in repr(first)


def test_named_tensors_and_state(tmp_path: Path) -> None:
    two = edgeloop.open(two_inputs(tmp_path / "a.edgeloop"), state=tmp_path / "s")
    assert two({"motion": [1.0, 0.0], "sound": [0.0, 1.0]}).label == "no" and two.labels == ["no", "yes"]  # type: ignore[dict-item]
    sums = edgeloop.open(accumulator(tmp_path / "b.edgeloop"), state=tmp_path / "s").windows(np.array([[1, 2], [3, 4]], np.float32))
    assert [a.tensors["sum"].tolist() for a in sums] == [[1, 2], [4, 6]] and sums[0].label is None
    assert sums[0].tensors["sum"].dtype == np.float32, "tensors are the runtime's own, not read from text"


HEAVY = """
import sys
import edgeloop
model = edgeloop.open(sys.argv[1], variant="tflite-int8", state=sys.argv[2])
print(model.windows(sys.argv[3])[0].label)
print([name for name in ("torch", "onnx", "yaml", "click", "scipy", "edgeloop_pipeline") if name in sys.modules])
"""


def test_a_runtime_that_the_bundle_cannot_use_is_not_loaded(tmp_path: Path) -> None:
    bundle = accumulator(tmp_path / "a.edgeloop")
    code = "import sys, edgeloop; edgeloop.open(sys.argv[1], state=sys.argv[2]); print('ai_edge_litert' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, bundle, tmp_path / "s"], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_on_a_device_nothing_heavy_is_imported(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", HEAVY, GOLDEN, tmp_path / "s", RECORDING], capture_output=True, text=True, check=True
    )
    label, heavy = done.stdout.splitlines()
    assert heavy == "[]" and label, done.stdout  # benchmarks/library.py has the time


@pytest.mark.long
def test_a_recipe_runs_with_settings_and_events(tmp_path: Path, tiny: Path) -> None:
    events: list[edgeloop.Event] = []
    off: dict[str, Any] = dict.fromkeys(("distill", "quantize", "export", "verify", "profile", "package", "report"), False)
    run = edgeloop.run(tiny, settings={"train.epochs": 1, **off}, runs=tmp_path / "runs", on_event=events.append)
    assert list(run.stages) == ["train", "prune"] and run.metrics["train"]["validation_accuracy"] >= 0
    assert run.bundle is None and run.report is None and not run.failures and run.stages["train"].folder.is_dir()
    assert {e.kind for e in events} >= {"starts", "done", "epoch"} and str(events[0]).startswith("train: starts")
    again = edgeloop.run(tiny, settings={"train.epochs": 1, **off}, runs=tmp_path / "runs")
    assert again.stages["prune"].cached
    network = (tiny / "network.py").read_text()
    (tiny / "network.py").write_text(network + "\nWIDTH = 3\n")  # as in a notebook: the file is edited, and the cell run again
    changed = edgeloop.run(tiny, settings={"train.epochs": 1, **off}, runs=tmp_path / "runs")
    assert not changed.stages["train"].cached
    (tiny / "parts").mkdir()
    (tiny / "parts" / "sizes.py").write_text("EPOCHS = 1\n")
    (tiny / "network.py").write_text(network + "\nfrom parts.sizes import EPOCHS\nassert EPOCHS == 1\n")
    edgeloop.run(tiny, settings={"train.epochs": 1, **off}, runs=tmp_path / "runs")
    (tiny / "parts" / "sizes.py").write_text("EPOCHS = 2\n")  # a file below, which network.py imports
    with pytest.raises(edgeloop.UsageError, match="AssertionError"):
        edgeloop.run(tiny, settings={"train.epochs": 1, **off}, runs=tmp_path / "runs")
    (tiny / "network.py").write_text(network)
    with pytest.raises(edgeloop.UsageError, match=r"train\.epoch"):
        edgeloop.run(tiny, settings={"train.epoch": 1}, runs=tmp_path / "runs")

    def stop(event: edgeloop.Event) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        edgeloop.run(TINY, settings={"train.epochs": 1, **off}, runs=tmp_path / "other", on_event=stop)


def test_a_torch_network_is_quantized_saved_and_packed(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    ).eval()
    samples = torch.rand(64, 3, 12, 12)
    small = edgeloop.quantize(network, calibration=samples)
    report = small.report
    assert report.samples == 32 and report.agreement is not None and report.agreement > 0.8 and report.sqnr_db > 20
    assert set(report.bytes) == {"onnx", "tflite"} and report.float_layers == 0 and "dB" in str(report)
    assert small.save(tmp_path / "x.onnx").stat().st_size == report.bytes["onnx"]
    assert small.save(tmp_path / "x.tflite").stat().st_size == report.bytes["tflite"]
    with pytest.raises(edgeloop.UsageError, match="neither"):
        small.save(tmp_path / "x.pt")
    bundle = small.pack(tmp_path / "x.edgeloop", labels=["a", "b", "c", "d"])
    with Bundle.open(bundle) as written:
        assert [v.name for v in written.manifest.variants] == ["onnx-int8", "tflite-int8"]
    with torch.no_grad():
        wanted = network(samples[:8]).argmax(1).tolist()
    for variant in ("onnx-int8", "tflite-int8"):
        model = edgeloop.open(bundle, variant=variant, state=tmp_path / "s")
        labels = [model(each.permute(1, 2, 0).numpy()).label for each in samples[:8]]
        assert sum(label == "abcd"[want] for label, want in zip(labels, wanted, strict=True)) >= 7
    for wrong in (samples[:2], torch.full((16, 3, 12, 12), float("nan")), torch.rand(16, 5)):
        with pytest.raises(edgeloop.DataError):
            edgeloop.quantize(network, calibration=wrong)


def test_names_that_are_not_there() -> None:
    with pytest.raises(AttributeError, match=r"edgeloop has no 'opne'; it has Answer"):
        edgeloop.opne  # type: ignore[attr-defined] # noqa: B018
    assert set(edgeloop.__all__) <= set(dir(edgeloop)) and edgeloop.Stage.__name__ == "Base"
    assert edgeloop.Splits.__name__ == "Splits" and edgeloop.Inputs.__name__ == "Inputs"
    assert issubclass(edgeloop.DataError, edgeloop.EdgeloopError)


@pytest.mark.long
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDGELOOP_STATE", str(tmp_path / "state"))
    cells = json.loads((HERE.parent / "docs" / "notebook.ipynb").read_text())["cells"]
    names: dict[str, Any] = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), cell["id"], "exec"), names)
    assert names["right"] > 0.9 and (tmp_path / "halves.edgeloop").is_file()
    assert "int8 by" in capsys.readouterr().out


def test_the_api_page_is_that_of_the_code() -> None:
    done = subprocess.run(
        [sys.executable, HERE.parent / "scripts" / "api_page.py", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
