"""The stage `profile`: measures the cost of each file and of each stage's float network on this machine."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec

from edgeloop_contract.arrays import Array
from edgeloop_contract.manifest import Precision
from edgeloop_pipeline.bundling.variants import read_variants, samples_by_input, variant_of
from edgeloop_pipeline.recipe.inputs import Inputs
from edgeloop_pipeline.recipe.stage import RUNTIMES, Base
from edgeloop_pipeline.results.files import FloatCost, OnDevice, ProfileResult


@dataclass(frozen=True)
class Profile(Base):
    """Measures batch-1 latency at the best thread count, and the time and bytes of every layer."""

    seconds: Annotated[float, msgspec.Meta(gt=0, le=60)] = 0.5  # per variant and thread count

    needs = ("exported",)
    gives = ("profiled",)
    code = RUNTIMES
    libraries = ("onnxruntime", "ai-edge-litert")
    uses_target = True
    uses_machine = True
    uses_history = True

    def __call__(self, inputs: Inputs, out: Path) -> ProfileResult:
        from edgeloop_agent.bench.measure import best_threads
        from edgeloop_agent.energy import NO_METER
        from edgeloop_agent.hardware import machine
        from edgeloop_exporters import layer_costs

        splits = inputs.project.splits
        samples = samples_by_input(splits.test.values[:64], splits)
        exported = inputs.artefacts["exported"]
        costs, layers, integer = {}, {}, {}
        for variant in read_variants(exported):
            model = (exported / variant.file).read_bytes()
            costs[variant.name] = best_threads(variant, model, samples, self.seconds)
            inputs.log(f"{variant.name}: p50 {costs[variant.name].latency_us_p50:.0f} µs")
            if variant.precision == Precision.INT8 and not variant.provider:
                integer[variant.name] = costs[variant.name].latency_us_p50
            if variant.runtime == "onnx":
                layers[variant.name] = layer_costs.measure(variant, model, samples)
        best = min(integer, key=lambda n: integer[n])
        took, where = integer[best], "on this machine"
        on_device = self._on_device(inputs)
        if on_device is not None:
            took, where = on_device.latency_us, f"by its layers as measured on {on_device.machine}"
        target, failures = inputs.project.recipe.head.target, []
        if target.max_latency_us is not None and took > target.max_latency_us:
            failures.append(f"{best}: {took:.0f} µs {where}, more than max_latency_us {target.max_latency_us:g}")
        microjoules = self._energy(inputs, best, costs[best].threads) if target.max_energy_uj is not None else None
        if target.max_energy_uj is not None and (microjoules is None or microjoules > target.max_energy_uj):
            said = f"{microjoules:.0f} µJ per inference" if microjoules is not None else NO_METER
            failures.append(f"{best}: {said}; max_energy_uj is {target.max_energy_uj:g}")
        result = ProfileResult(
            machine=machine(),
            variants=costs,
            fastest_int8=best,
            on_device=on_device,
            energy_uj=microjoules,
            layers=layers,
            stages=self._stages(inputs, samples),
            failures=failures,
        )
        (out / "profile.json").write_bytes(msgspec.json.encode(result))
        return result

    def _on_device(self, inputs: Inputs) -> OnDevice | None:
        """The latency of the shipped network on the device that the target names."""
        from edgeloop_pipeline.compression.device_latency import DeviceLatency
        from edgeloop_pipeline.networks import saved_network

        device = DeviceLatency.of_target(inputs.project)
        if device is None:
            return None
        _, folder = inputs.holding(saved_network.WEIGHTS)[-1]
        took = device.microseconds(saved_network.load(inputs.project, folder).network)
        inputs.log(f"on {device.profile.machine}: about {took:.0f} µs, by its layers")
        return OnDevice(device.profile.machine, took)

    def _energy(self, inputs: Inputs, name: str, threads: int) -> float | None:
        from edgeloop_agent import energy
        from edgeloop_agent.runtimes import open_runtime
        from edgeloop_pipeline.quantization import shipped_cost

        exported = inputs.artefacts["exported"]
        variant = next(v for v in read_variants(exported) if v.name == name)
        runtime = open_runtime(variant, (exported / variant.file).read_bytes(), threads)
        splits = inputs.project.splits
        samples = samples_by_input(splits.test.values[: shipped_cost.SAMPLES], splits)
        return energy.microjoules(runtime, samples, shipped_cost.ENERGY_SECONDS)

    def _stages(self, inputs: Inputs, samples: Array | dict[str, Array]) -> dict[str, FloatCost]:
        """The cost of every stage's float network: as a plain ONNX file, or as the file that it came in."""
        from edgeloop_agent.bench.measure import best_threads
        from edgeloop_contract.manifest import Precision
        from edgeloop_exporters.convert import to_onnx
        from edgeloop_exporters.file_tensors import output_specs
        from edgeloop_pipeline.networks import saved_network
        from edgeloop_pipeline.quantization import quantized_graph

        project, rows = inputs.project, {}
        original = self._original(inputs)
        for name, folder in inputs.holding(saved_network.WEIGHTS):
            if name == "train" and original is not None:
                rows[name] = original
                continue
            saved = saved_network.load(project, folder)
            graph, _ = quantized_graph.folded(saved, project.splits)
            with tempfile.TemporaryDirectory() as scratch:
                path = Path(scratch) / f"{name}.onnx"
                to_onnx(graph, saved.normalization, project.splits.shape, path, quantized=False)
                outputs = output_specs(graph, "onnx", False)
                variant = variant_of("onnx", Precision.FLOAT32, path.name, project.splits, None, outputs)
                model = path.read_bytes()
                rows[name] = FloatCost(len(model), best_threads(variant, model, samples, self.seconds))
        return rows

    def _original(self, inputs: Inputs) -> FloatCost | None:
        """The cost of the imported file as it came, where `train` left it so; None else, and where it takes no single sample."""
        from edgeloop_agent.bench.measure import best_of
        from edgeloop_pipeline.data.original_answers import Original, files_beside

        head, splits = inputs.project.recipe.head, inputs.project.splits
        trained = inputs.project.recipe.stages.get("train", {})
        if head.imported is None or head.imported.inputs or head.normalize is None or trained.get("epochs") != 0:
            return None
        if trained.get("weights") or trained.get("start"):
            return None
        path = inputs.project.recipe.folder / head.imported.model
        original = Original(path, head.imported.chosen, head.imported.layout, tuple(head.imported.shape))
        if not original.one_by_one:
            return None
        fed = original.fed(splits.test.values[:64], tuple(head.normalize.mean), tuple(head.normalize.std))
        size = sum(file.stat().st_size for file in (path, *files_beside(path)))
        return FloatCost(size, best_of(original.calls, fed, self.seconds))
