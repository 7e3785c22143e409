"""TensorRT and CUDA as ways to run a variant: rules as tables, and a stand-in for a build of onnxruntime that has them. No GPU."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from commands import command
from edgeloop_agent import device_state
from edgeloop_agent.bench import measure
from edgeloop_agent.caches import GraphCache
from edgeloop_agent.runtimes import RuntimeOptions, onnx, providers
from edgeloop_contract.archive import Bundle
from edgeloop_contract.bench_report import MeasuredVariant
from edgeloop_contract.manifest import Cost, Variant
from edgeloop_contract.tensors import Precision, TensorSpec
from serving import GOLDEN, RECORDING

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
GPU_BUILD = [TENSORRT, CUDA, CPU]

WAYS: dict[str, tuple[list[str], list[str], list[str]]] = {
    "a build for CPUs": ([CPU], ["TensorRT", "CUDA"], [""]),
    "nothing asked for": (GPU_BUILD, [], [""]),
    "both": (GPU_BUILD, ["TensorRT", "CUDA"], ["CPU", "TensorRT", "TensorRT fp16", "CUDA"]),
    "CUDA alone": ([CUDA, CPU], ["TensorRT", "CUDA"], ["CPU", "CUDA"]),
    "twice, and the CPU": (GPU_BUILD, ["CUDA", "CUDA", "CPU"], ["CPU", "CUDA"]),
    "another case": (GPU_BUILD, ["tensorrt"], ["CPU", "tensorrt", "tensorrt fp16"]),
    "XNNPACK": (["XnnpackExecutionProvider", CPU], ["XNNPACK"], ["CPU", "XNNPACK"]),
}


@pytest.mark.parametrize("name", WAYS)
def test_ways_that_are_worth_measuring(name: str) -> None:
    available, wanted, expected = WAYS[name]
    assert providers.ways(available, wanted) == expected


def test_a_ways_providers_and_what_they_are_told() -> None:
    assert providers.chain_of("TensorRT fp16", GPU_BUILD) == ["TensorRT", "CUDA"]
    assert providers.chain_of("TensorRT", [TENSORRT, CPU]) == ["TensorRT"]
    assert (providers.chain_of("CUDA", GPU_BUILD), providers.chain_of("CPU", GPU_BUILD)) == (["CUDA"], [])
    assert providers.options_of(CUDA, "TensorRT fp16", True, 0, "/engines") == {}
    plain = providers.options_of(TENSORRT, "TensorRT", False, -1, "")
    assert (plain["trt_fp16_enable"], plain["trt_int8_enable"]) == ("0", "0")
    assert not plain.keys() & {"trt_dla_enable", "trt_engine_cache_enable"}
    full = providers.options_of(TENSORRT, "TensorRT fp16", True, 1, "/engines")
    assert (full["trt_fp16_enable"], full["trt_int8_enable"], full["trt_dla_core"]) == ("1", "1", "1")
    assert full["trt_engine_cache_path"] == "/engines"


def variant(name: str, provider: str = "") -> Variant:
    spec = TensorSpec(dtype="float32", shape=[4])
    return Variant(name=name, runtime="onnx", precision=Precision.INT8, file=name, inputs=[spec], outputs=[spec], provider=provider)


def row(name: str, took: float | None, provider: str = "") -> MeasuredVariant:
    cost = None if took is None else Cost(latency_us_p50=took, latency_us_p95=took, threads=1, machine="m")
    return MeasuredVariant(name, "onnx", cost, provider=provider)


VARIANTS = [variant("for-tensorrt", "TensorRT"), variant("plain")]
CHOICES: dict[str, tuple[list[MeasuredVariant], tuple[str, str] | None]] = {
    "made for TensorRT, faster on the CPU": ([row("for-tensorrt", 1), row("plain", 2)], ("plain", "")),
    "so with CUDA": ([row("for-tensorrt", 1, "CUDA"), row("plain", 2, "CPU")], ("plain", "CPU")),
    "by TensorRT": ([row("for-tensorrt", 1, "TensorRT"), row("plain", 2, "CPU")], ("for-tensorrt", "TensorRT")),
    "with 16 bits": ([row("for-tensorrt", 1, "TensorRT fp16"), row("plain", 2, "CPU")], ("for-tensorrt", "TensorRT fp16")),
    "by TensorRT, but slower": ([row("for-tensorrt", 3, "TensorRT"), row("plain", 2, "CPU")], ("plain", "CPU")),
    "nothing else runs": ([row("for-tensorrt", 3), row("plain", None)], ("for-tensorrt", "")),
    "nothing runs": ([row("for-tensorrt", None), row("plain", None)], None),
}


@pytest.mark.parametrize("name", CHOICES)
def test_a_variant_for_a_provider_is_chosen_there_alone(name: str) -> None:
    rows, expected = CHOICES[name]
    choice = device_state.fastest(VARIANTS, rows)
    assert (choice and (choice.variant, choice.provider)) == expected


def test_it_is_the_last_one_where_nothing_was_measured() -> None:
    assert device_state.first_available(VARIANTS).variant == "plain"
    chosen = device_state.first_available(VARIANTS)
    assert [c.variant for c in device_state.in_order([*VARIANTS, variant("third")], chosen)] == ["plain", "third", "for-tensorrt"]


class GpuBuild:
    """Stands in for a build with NVIDIA's providers: every session runs on the CPU. `off`: what CUDA adds to answers."""

    def __init__(self, off: float = 0.0, starts: bool = True) -> None:
        self.off, self.starts, self.told = off, starts, list[Any]()
        self.__version__, self.SessionOptions = onnxruntime.__version__, onnxruntime.SessionOptions
        self.GraphOptimizationLevel = onnxruntime.GraphOptimizationLevel

    def get_available_providers(self) -> list[str]:
        return GPU_BUILD

    def InferenceSession(self, model: bytes, options: Any, providers: Any, **more: Any) -> Any:
        self.told.append(providers)
        names = [each if isinstance(each, str) else each[0] for each in providers]
        session = onnxruntime.InferenceSession(model, options, providers=[CPU])
        return Session(session, names if self.starts else [CPU], self.off if names[0] == CUDA else 0.0)


class Session:
    def __init__(self, session: Any, names: list[str], off: float) -> None:
        self.session, self.names, self.off = session, names, off

    def __getattr__(self, name: str) -> Any:
        return getattr(self.session, name)

    def get_providers(self) -> list[str]:
        return self.names

    def run(self, *given: Any) -> list[Any]:
        return [values + np.float32(self.off) for values in self.session.run(*given)]


def measured(build: GpuBuild, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, MeasuredVariant]:
    monkeypatch.setattr(onnx, "_library", lambda: build)
    options = RuntimeOptions(providers=("TensorRT", "CUDA"), graphs=GraphCache(folder / "graphs", 0), dla_core=1)
    with Bundle.open(GOLDEN) as bundle:
        return {found.title: found for found in measure.measure_bundle(bundle, 0.01, options)}


def test_every_way_is_measured_and_tensorrt_gets_its_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build = GpuBuild()
    rows = measured(build, tmp_path, monkeypatch)
    named = [name for name in rows if name.startswith("onnx-int8")]
    assert named == [f"onnx-int8 by {way}" for way in ("CPU", "TensorRT", "TensorRT fp16", "CUDA")]
    assert "tflite-int8" in rows and all(found.cost for name, found in rows.items() if name.startswith("onnx"))
    options = [dict(told)[TENSORRT] for told in build.told if told[0][0] == TENSORRT]
    assert {o["trt_fp16_enable"] for o in options} == {o["trt_int8_enable"] for o in options} == {"0", "1"}
    assert {(o["trt_dla_core"], o["trt_engine_cache_path"]) for o in options} == {("1", str(tmp_path / "graphs" / "tensorrt"))}


def test_a_provider_with_other_answers_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = measured(GpuBuild(off=1e3), tmp_path, monkeypatch)
    assert "CUDA answers otherwise than the CPU: 1e+03 off" in rows["onnx-int8 by CUDA"].refused
    assert rows["onnx-int8 by TensorRT"].cost
    with Bundle.open(GOLDEN) as bundle:
        choice = device_state.fastest(bundle.manifest.variants, list(rows.values()))
    assert choice and choice.provider != "CUDA"


def test_a_provider_that_does_not_start_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = measured(GpuBuild(starts=False), tmp_path, monkeypatch)
    assert "TensorRT fp16 does not start here" in rows["onnx-int8 by TensorRT fp16"].refused
    assert rows["onnx-int8 by CPU"].cost


def test_choices_of_other_providers_are_not_mixed_up(tmp_path: Path) -> None:
    with Bundle.open(GOLDEN) as bundle:
        choice = device_state.fastest(bundle.manifest.variants, [row("onnx-int8", 1, "CUDA")])
        assert choice
        device_state.remember_choice(tmp_path, bundle, choice, ["TensorRT", "CUDA"])
        assert device_state.remembered_choice(tmp_path, bundle) is None
        assert device_state.remembered_choice(tmp_path, bundle, ["CUDA", "TensorRT"]) == choice


def test_engines_have_a_bound_and_the_longest_unused_goes_first(tmp_path: Path) -> None:
    cache = GraphCache(tmp_path, 0, 250)
    cache.trim_engines()  # no folder yet
    cache.engines.mkdir()
    for age, name in enumerate(("new", "older", "oldest")):
        (cache.engines / name).write_bytes(bytes(100))
        os.utime(cache.engines / name, (1e9 - age, 1e9 - age))
    cache.trim_engines()
    assert sorted(path.name for path in cache.engines.iterdir()) == ["new", "older"]


def test_a_damaged_graph_on_a_read_only_card_counts_as_a_miss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = GraphCache(tmp_path, 1000)
    cache.put(b"graph", "a")
    (kept,) = tmp_path.iterdir()
    kept.write_bytes(bytes(40))

    def refuse(path: Path, missing_ok: bool = False) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "unlink", refuse)
    assert cache.get("a") is None and cache.counts.misses == 1
    cache.drop("a")
    assert kept.exists()


def test_engines_are_kept_nowhere_without_a_place(tmp_path: Path) -> None:
    (tmp_path / "graphs").write_text("a file")
    assert GraphCache(tmp_path / "graphs", 0).engine_folder() == ""
    assert GraphCache(tmp_path / "off", 0, 0).engine_folder() == "" and not (tmp_path / "off").exists()
    assert Path(GraphCache(tmp_path / "on", 0).engine_folder()).is_dir()


def test_what_was_remembered_of_a_provider_that_is_gone_does_not_stop_the_agent(tmp_path: Path) -> None:
    with Bundle.open(GOLDEN) as bundle:
        choice = device_state.fastest(bundle.manifest.variants, [row("onnx-int8", 1, "CUDA")])
        assert choice
        device_state.remember_choice(tmp_path, bundle, choice, onnx.installed_accelerators())
    done = command("edgeloop-agent", "run", GOLDEN, "--source", RECORDING, "--state", tmp_path)
    assert done.returncode == 0 and "samples answered" in done.stderr
    assert "asked for and not in this build: CUDA" in done.stderr
