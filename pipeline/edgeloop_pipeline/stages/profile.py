"""Profile: what each file, and each float network on the way to it, costs on this machine."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec

from edgeloop_pipeline.stages import Base, Inputs, Metrics
from edgeloop_pipeline.stages.export import read_variants


@dataclass(frozen=True)
class Profile(Base):
    """Batch-1 latency at the best thread count, and the time and bytes of every layer."""

    seconds: Annotated[float, msgspec.Meta(gt=0, le=60)] = 0.5  # per variant and thread count

    needs = ("exported",)
    gives = ("profiled",)
    libraries = ("onnxruntime", "ai-edge-litert")
    uses_target = True
    uses_machine = True
    uses_history = True

    def __call__(self, inputs: Inputs, out: Path) -> Metrics:
        from edgeloop_agent.hardware import machine
        from edgeloop_agent.measure import best_threads
        from edgeloop_exporters import layer_costs

        samples = inputs.project.splits.test.values[:64]
        exported = inputs.artefacts["exported"]
        costs, layers = {}, {}
        for variant in read_variants(exported):
            model = (exported / variant.file).read_bytes()
            costs[variant.name] = best_threads(variant, model, samples, self.seconds)
            inputs.log(f"{variant.name}: p50 {costs[variant.name].latency_us_p50:.0f} µs")
            if variant.runtime == "onnx":
                layers[variant.name] = layer_costs.measure(variant, model, samples)
        limit = inputs.project.recipe.head.target.max_latency_us
        integer = {n: c.latency_us_p50 for n, c in costs.items() if n.endswith("int8")}
        best = min(integer, key=lambda n: integer[n])
        failures = []
        if limit is not None and integer[best] > limit:
            failures.append(f"{best}: {integer[best]:.0f} µs on this machine, more than max_latency_us {limit:g}")
        result = {
            "machine": machine(),
            "variants": costs,
            "fastest_int8": best,
            "layers": layers,
            "stages": self._stages(inputs, samples),
            "failures": failures,
        }
        plain: Metrics = msgspec.to_builtins(result)
        (out / "profile.json").write_bytes(msgspec.json.encode(plain))
        return plain

    def _stages(self, inputs: Inputs, samples: Any) -> dict[str, Any]:
        """Every float network of this run as a plain ONNX file: what would ship without the stages after it."""
        from edgeloop_agent.measure import best_threads
        from edgeloop_contract.manifest import TensorSpec, Variant
        from edgeloop_exporters.convert import to_onnx
        from edgeloop_pipeline import networks, quantized

        project, rows = inputs.project, {}
        for name, folder in inputs.holding(networks.WEIGHTS):
            saved = networks.load(project, folder)
            graph, _ = quantized.folded(saved, project.splits)
            with tempfile.TemporaryDirectory() as scratch:
                path = Path(scratch) / f"{name}.onnx"
                to_onnx(graph, saved.front, project.splits.shape, path, quantized=False)
                spec = TensorSpec(dtype="float32", shape=[])
                variant = Variant(name=name, runtime="onnx", precision="float32", file=path.name, input=spec, output=spec)
                model = path.read_bytes()
                rows[name] = {"bytes": len(model), "cost": best_threads(variant, model, samples, self.seconds)}
        return rows
