"""A recipe with `quantize.symmetric`: one more file, judged like the others, in a bundle that devices without TensorRT serve as before."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from commands import ONNX, TINY, command, edgeloop_here, sentence
from edgeloop_contract.archive import Bundle
from edgeloop_exporters.tensorrt_rules import violations

NAME = "onnx-int8-symmetric"
SYMMETRIC = "--set=quantize.symmetric=true"


@pytest.mark.long
def test_the_file_is_judged_and_bundled_and_devices_without_tensorrt_prefer_others(runs: Path, tmp_path: Path) -> None:
    done = edgeloop_here("run", TINY, "--runs", runs, "--json", ONNX, SYMMETRIC)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    (pair,) = [p for p in answer["parity"]["pairs"] if p["b"] == NAME]
    assert pair["a"] == "torch, symmetric" and pair["max_lsb"] <= 2
    quantize, verify = (next(s["metrics"] for s in answer["stages"] if s["name"] == name) for name in ("quantize", "verify"))
    lost = verify["variants"][NAME]["lost"]
    usual, own = (verify["variants"][name]["accuracy"]["value"] for name in ("onnx-int8", NAME))
    assert abs(lost["value"] - (usual - own)) < 1e-9 and lost["low"] <= lost["value"] <= lost["high"]
    assert f"{NAME}: loses {100 * lost['value']:.2f} points against the usual int8 file, 95 % interval" in done.stderr
    assert ("points against the usual int8 file" in Path(answer["report"]).read_text()) == (lost["value"] > 0)
    assert {step["name"] for step in quantize["symmetric"]["repair_steps"]} >= {"calibration by percentile", "calibration by mse"}
    assert quantize["symmetric"]["points"] < quantize["points"]
    assert NAME in Path(answer["report"]).read_text()
    with Bundle.open(Path(answer["bundle"])) as bundle:
        variant = bundle.manifest.variant(NAME)
        assert (variant.provider, variant.runtime, variant.precision.value) == ("TensorRT", "onnx", "int8")
        assert [v.name for v in bundle.manifest.variants][-1] == NAME
        assert [str(found) for found in violations(bundle.read(variant.file))] == []
        assert bundle.manifest.canary and bundle.manifest.schema == 1  # as without it: older agents take the bundle
        own, others = bundle.manifest.canary.of(NAME), bundle.manifest.canary.golden
        assert {g.file for g in own.values()}.isdisjoint(g.file for g in others.values())
        assert variant.accuracy and variant.accuracy.value >= 0.7
    shown = command("edgeloop-agent", "bench", answer["bundle"], "--seconds", "0.05", "--state", tmp_path)
    assert shown.returncode == 0 and NAME in shown.stdout
    assert NAME not in shown.stdout.partition("fastest: ")[2]
    inputs = tmp_path / "recordings"
    assert edgeloop_here("samples", TINY, inputs).returncode == 0
    for chosen in (("--variant", NAME), ()):
        told = command("edgeloop-agent", "run", answer["bundle"], "--source", inputs, "--state", tmp_path, *chosen)
        assert told.returncode == 0 and told.stdout.count('"label"') and (NAME in told.stderr) == bool(chosen), told.stderr
    floors = edgeloop_here("run", TINY, "--runs", runs, ONNX, SYMMETRIC, "--set=target.max_int8_bytes=100", "--set=package=off")
    assert f"{NAME}: " in sentence(floors, 1)


@pytest.mark.long
def test_without_an_onnx_file_it_is_refused_in_a_sentence(runs: Path) -> None:
    done = edgeloop_here("run", TINY, "--runs", runs, SYMMETRIC, "--set=export.runtimes=[tflite]")
    assert "symmetric makes an ONNX file; add onnx to export.runtimes" in sentence(done, 2)


@pytest.mark.parametrize("value", ["maybe", "3"])
def test_what_is_no_answer_is_refused(value: str, runs: Path) -> None:
    assert "symmetric" in sentence(edgeloop_here("run", TINY, "--runs", runs, f"--set=quantize.symmetric={value}"), 2)
