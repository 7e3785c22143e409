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
from edgeloop_pipeline.recipe.settings import RecipeHead

SAMPLES = 64
MEASURE_SECONDS = 0.2  # per file, if there is a ceiling
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


def over_a_ceiling(saved: Saved, graph: Graph, splits: PreparedSplits, head: RecipeHead, symmetric: bool) -> str:
    """The target's ceiling that the files of this graph exceed, in words; '' for none. `symmetric`: a graph for TensorRT."""
    # What a file for TensorRT takes on the CPU says nothing of it.
    here = head.target.max_latency_us if head.target.device is None and not symmetric else None
    most = head.target.max_int8_bytes
    if most is None and here is None:
        return ""
    found = shipped(saved, graph, splits, head.preprocessing, MEASURE_SECONDS, with_energy=False)
    if most is not None and found.bytes > most:
        return f"max_int8_bytes with {found.bytes:,}"
    return f"max_latency_us with {found.latency_us:.0f}" if here is not None and found.latency_us > here else ""
