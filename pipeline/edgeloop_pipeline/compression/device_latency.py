"""Latencies of a device for budgets: writes a bundle of single layers (a probe), and reads the device's measurements.

edgeloop probe RECIPE --out probe.edgeloop                          on the workstation
edgeloop-agent bench probe.edgeloop --seconds 0.1 --json > pi.json  on the device
target: {device: pi.json, max_latency_us: 900}                      in the recipe
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import msgspec
import numpy as np
from torch import Tensor, nn

from edgeloop_contract import archive
from edgeloop_contract.bench_report import BenchReport
from edgeloop_contract.errors import DeviceError, UsageError
from edgeloop_contract.manifest import SCHEMA, Manifest, Precision, TensorSpec, Variant
from edgeloop_exporters.latency_table import LatencyTable, Layer, layers_of, model_of
from edgeloop_pipeline.bundling.canary import canary_set
from edgeloop_pipeline.bundling.contents import inputs_of, provenance_of, reference_of
from edgeloop_pipeline.compression.budget_search import straight_line
from edgeloop_pipeline.compression.width_scaling import STEPS, narrowed, roots
from edgeloop_pipeline.data.normalization import input_normalization
from edgeloop_pipeline.networks import saved_network
from edgeloop_pipeline.networks.saved_network import Saved
from edgeloop_pipeline.quantization import quantized_graph, shipped_cost
from edgeloop_pipeline.recipe.project import Project
from edgeloop_pipeline.results.task_figures import Detection, TaskFigures
from edgeloop_pipeline.tasks.registry import task_for

# A probe detects no anomalies: its threshold is never used.
UNMEASURED = TaskFigures(detection=Detection(0.0, 0.0, 0, 0, 0.0, 0.0))
MAX_LAYERS = 200  # a device opens bundles of at most 256 files
CALIBRATION, CANARY = 64, 16
WHOLE, HALF, LAYER = "whole", "half", "layer "


@dataclass(frozen=True)
class DeviceProfile:
    """A device's measurements of a probe. `whole_us`, `half_us`: the faster runtime's latency, for full and half width."""

    machine: str
    table: LatencyTable
    whole_us: float
    half_us: float

    @classmethod
    def read(cls, path: Path) -> DeviceProfile:
        """Read the file. Raises UsageError if it is not a device's output for a probe."""
        remedy = (
            "make it on the device: edgeloop-agent bench probe.edgeloop --json > profile.json (the probe: edgeloop probe RECIPE)"
        )
        try:
            rows = msgspec.json.decode(path.read_bytes(), type=BenchReport).variants
        except OSError as error:
            raise UsageError(f"target.device: {path} cannot be read ({error.strerror}); {remedy}") from error
        except msgspec.MsgspecError as error:
            raise UsageError(f"target.device: {path} is not a device's measurements ({error}); {remedy}") from error
        costs = {row.variant: row.cost for row in rows if row.cost is not None}
        fastest = [
            min((c.latency_us_p50 for n, c in costs.items() if n.startswith(size + " ")), default=None) for size in (WHOLE, HALF)
        ]
        layers = {n.removeprefix(LAYER): c.latency_us_p50 for n, c in costs.items() if n.startswith(LAYER)}
        if None in fastest or not layers:
            raise UsageError(f"target.device: {path} measured no probe; {remedy}")
        machine = next(iter(costs.values())).machine
        try:
            measured = {Layer.parse(name): took for name, took in layers.items()}
        except (ValueError, KeyError) as error:
            raise UsageError(f"target.device: {path} has a layer name that cannot be read ({error}); {remedy}") from error
        return cls(machine, LatencyTable(measured, machine), *fastest)  # type: ignore[arg-type]


@dataclass(frozen=True)
class DeviceLatency:
    """Estimates latencies on `target.device`, from the layers and the two whole networks that the device measured."""

    profile: DeviceProfile
    sample: Tensor
    line: Callable[[float], float]

    @classmethod
    def of_target(cls, project: Project) -> DeviceLatency | None:
        """The target device's latencies; None without a device. Raises UsageError or DeviceError if its measurements do not fit."""
        where = project.recipe.head.target.device
        if where is None:
            return None
        profile = DeviceProfile.read(project.recipe.folder / where)
        whole, half, sample = _whole_and_half(project)
        sums = [profile.table.microseconds(layers_of(s.network, sample)) for s in (whole, half)]
        return cls(profile, sample, straight_line((sums[0], profile.whole_us), (sums[1], profile.half_us)))

    def microseconds(self, network: nn.Module) -> float:
        return self.line(self.profile.table.microseconds(layers_of(network, self.sample)))


def _whole_and_half(project: Project) -> tuple[Saved, Saved, Tensor]:
    """The recipe's network with fresh weights (weights do not change latency), the same at half width, and a sample."""
    head, splits = project.recipe.head, project.splits
    normalization = input_normalization(splits)
    network = saved_network.build(project, head.network, head.network_args, splits)
    saved = Saved(network, saved_network.Structure(head.network, head.network_args, {}, normalization))
    sample = saved_network.dry_run(network, normalization, splits)
    return saved, narrowed(saved, sample, dict.fromkeys(roots(network, sample), 0.5), 1), sample


def layers_to_measure(saved: Saved, sample: Tensor, round_to: int) -> list[Layer]:
    """Every size that each layer can have when its groups are narrowed; in coarser steps if these are too many."""
    for stride in (1, 2, 4, 8):
        found = _sizes(saved, sample, STEPS[::stride], round_to)
        if len(found) <= MAX_LAYERS:
            return found
    raise DeviceError(
        f"{type(saved.network).__name__}: has {len(found)} different layers at its full width, but a probe holds {MAX_LAYERS};"
        " use a network with fewer different layers"
    )


def _sizes(saved: Saved, sample: Tensor, steps: tuple[float, ...], round_to: int) -> list[Layer]:
    whole = layers_of(saved.network, sample)
    seen: list[set[Layer]] = [{layer} for layer in whole]
    for root in roots(saved.network, sample):
        for share in steps[1:]:
            layers = layers_of(narrowed(saved, sample, {root: share}, round_to).network, sample)
            for place, layer in enumerate(layers):
                seen[place].add(layer)
    found: dict[Layer, None] = {}
    for layer, sizes in zip(whole, seen, strict=True):
        if layer.groups > 1:  # inputs and outputs change together
            found.update(dict.fromkeys(sorted(sizes, key=str)))
            continue
        inputs, outputs = sorted({s.input[0] for s in sizes}), sorted({s.outputs for s in sizes})
        found.update((replace(layer, input=(i, *layer.input[1:]), outputs=o), None) for i, o in product(inputs, outputs))
    return list(found)


def write(project: Project, path: Path, round_to: int, log: Callable[[str], None]) -> int:
    """Write the probe of a recipe's network. Returns its number of layers."""
    splits = project.splits
    whole, half, sample = _whole_and_half(project)
    layers = dict.fromkeys(layers_to_measure(whole, sample, round_to))
    layers.update(dict.fromkeys(layers_of(half.network, sample)))
    files: dict[str, bytes] = {}
    variants: list[Variant] = []
    for size, model in ((WHOLE, whole), (HALF, half)):
        log(f"{size}: both runtimes' int8 files")
        graph = quantized_graph.prepare(model, splits)
        quantized_graph.calibrate(graph, splits.train.values[:CALIBRATION])
        for variant, content in shipped_cost.files(model, graph, splits):
            name = f"models/{size}.{variant.runtime}"
            files[name] = content
            variants.append(msgspec.structs.replace(variant, name=f"{size} {variant.runtime}", file=name))
    for i, layer in enumerate(layers):
        name = f"layers/{i:04}.onnx"
        files[name] = model_of(layer)
        given, made = (TensorSpec(dtype="uint8", shape=shape) for shape in (list(layer.input), [layer.outputs]))
        variants.append(
            Variant(name=f"{LAYER}{layer}", runtime="onnx", precision=Precision.INT8, file=name, inputs=[given], outputs=[made])
        )
    _write_bundle(project, path, files, variants)
    return len(layers)


def _write_bundle(project: Project, path: Path, files: dict[str, bytes], variants: list[Variant]) -> None:
    head, splits = project.recipe.head, project.splits
    task, some = task_for(splits), splits.validation.values[:CANARY]
    scores = np.zeros((len(some), task.outputs), np.float32)
    canary = canary_set(some, scores, splits.validation.labels[:CANARY], steps=[1.0], max_steps=0)
    files |= canary.files
    made = Manifest(
        schema=SCHEMA, name=f"{head.name}-probe"[:64], version=head.version, task=task.described(UNMEASURED),
        inputs=inputs_of(project), variants=variants,
        files=archive.describe(files), canary=canary.description,
        drift_reference=reference_of(splits, {}), provenance=provenance_of(project),
        probe=True, model_card="A probe for latencies, with untrained weights: for edgeloop-agent bench only.",
    )  # fmt: skip
    archive.write(path, made, files)
