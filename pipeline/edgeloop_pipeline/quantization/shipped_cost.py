"""Measures a quantized graph as int8 files in the shipped runtimes: bytes, latency, energy."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from edgeloop_agent import energy
from edgeloop_agent.bench.measure import best_threads
from edgeloop_agent.runtimes import open_runtime
from edgeloop_contract.errors import DeviceError
from edgeloop_contract.manifest import Precision, Runtime, Variant
from edgeloop_contract.preprocessing import Step
from edgeloop_exporters.convert import takes_counts, to_onnx, to_tflite
from edgeloop_exporters.file_tensors import output_specs
from edgeloop_pipeline.bundling.file_metadata import growth
from edgeloop_pipeline.bundling.variants import samples_by_input, variant_of
from edgeloop_pipeline.data.types import PreparedSplits
from edgeloop_pipeline.networks.saved_network import Saved
from edgeloop_pipeline.quantization.quantized_graph import Graph

SAMPLES = 64
ENERGY_SECONDS = 1.0  # counters move in steps of about a millisecond


class Shipped(msgspec.Struct, frozen=True, kw_only=True):
    """The cost of the shipped files. `latency_us`: the faster file's, batch 1; `bytes`: the larger's; `energy_uj`: the faster's."""

    latency_us: float
    bytes: int
    energy_uj: float | None = None


def files(saved: Saved, graph: Graph, splits: PreparedSplits) -> list[tuple[Variant, bytes]]:
    """The int8 files of both runtimes, or the one for TensorRT, with their descriptions, and their bytes."""
    counts = saved.normalization.input_qparams if takes_counts(graph.module, saved.normalization) else None
    found = []
    with tempfile.TemporaryDirectory() as folder:
        runtimes: tuple[tuple[Runtime, Any], ...] = (("onnx", to_onnx), ("tflite", to_tflite))
        for runtime, write in runtimes[:1] if graph.options.symmetric else runtimes:
            path = Path(folder) / f"model.{runtime}"
            write(graph.module, saved.normalization, splits.shape, path, quantized=True)
            outputs = output_specs(graph.module, runtime, True)
            variant = variant_of(runtime, Precision.INT8, path.name, splits, counts, outputs)
            found.append((variant, path.read_bytes()))
    return found


def shipped(
    saved: Saved, graph: Graph, splits: PreparedSplits, preprocessing: Sequence[Step], seconds: float, with_energy: bool
) -> Shipped:
    """Measure the files on this machine, with the bytes of what `export` writes into them.

    Raises DeviceError if energy is needed and this machine has no meter.
    """
    samples = samples_by_input(splits.validation.values[:SAMPLES], splits)
    made = files(saved, graph, splits)
    size = max(len(model) + growth(model, variant.runtime, splits, preprocessing) for variant, model in made)
    costs = [best_threads(variant, model, samples, seconds) for variant, model in made]
    place = min(range(len(costs)), key=lambda i: costs[i].latency_us_p50)
    joules = None
    if with_energy:
        joules = energy.microjoules(open_runtime(*made[place], costs[place].threads), samples, ENERGY_SECONDS)
        if joules is None:
            raise DeviceError(
                f"max_energy_uj cannot be held here: {energy.NO_METER}; leave it out, or run on a machine with a meter"
            )
    return Shipped(latency_us=costs[place].latency_us_p50, bytes=size, energy_uj=joules)
