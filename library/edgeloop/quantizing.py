"""A torch network to int8 files of both runtimes, from Python."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from edgeloop_agent.bench.measure import measure_bundle
from edgeloop_agent.engine import Engine
from edgeloop_contract.archive import Bundle
from edgeloop_contract.arrays import Array
from edgeloop_contract.bench_report import VariantChoice
from edgeloop_contract.errors import DataError, ModelError, UsageError
from edgeloop_contract.tensors import Runtime
from edgeloop_exporters.convert import written
from edgeloop_exporters.normalization import InputNormalization
from edgeloop_pipeline.data.types import PreparedSplits, Samples
from edgeloop_pipeline.networks.saved_network import Saved, Structure
from edgeloop_pipeline.quantization import quantized_graph

__all__ = ["QuantizeReport", "Quantized", "quantize"]

RUNTIMES: tuple[Runtime, ...] = ("onnx", "tflite")
METHODS = ("minmax", "percentile", "mse", "entropy")
MIN_SAMPLES = 8
MEASURE_SECONDS = 0.1

Source = Any  # samples: an array, a tensor, or an iterable of batches


@dataclass(frozen=True)
class QuantizeReport:
    """The int8 network beside the float one, on the calibration samples that were held out.

    `agreement`: share of samples with the same largest output; None where there is one output. `sqnr_db`: signal to quantization
    noise of the outputs. `bytes`, `latency_us`: of each int8 file, batch 1 on this machine. `float_layers`: left in float.
    """

    method: str
    samples: int
    agreement: float | None
    sqnr_db: float
    bytes: dict[str, int]
    latency_us: dict[str, float]
    float_layers: int

    def __str__(self) -> str:
        same = "" if self.agreement is None else f"{self.agreement:.1%} of {self.samples} samples have the same answer, "
        files = ", ".join(f"{name} {size:,} B {self.latency_us[name]:.0f} µs" for name, size in self.bytes.items())
        return f"int8 by {self.method}: {same}{self.sqnr_db:.1f} dB; {files}"


class Quantized:
    """A network in int8, as a file for each runtime. The files take float32 samples, channels last: (N, H, W, C), (N, T, C)."""

    report: QuantizeReport

    def __init__(self, files: dict[Runtime, bytes]) -> None:
        self._files = files

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the ONNX or the TFLite file, by the path's ending. Raises UsageError for another one."""
        target = Path(path)
        runtime = target.suffix.removeprefix(".")
        if runtime not in self._files:
            raise UsageError(f"{target}: ends in neither .onnx nor .tflite")
        from edgeloop_contract.files import publish

        publish(target, self._files[runtime])
        return target

    def _measured(self, samples: Array, answer: tuple[int, ...]) -> dict[str, float]:
        """Latency of each file in µs. Raises ModelError where one does not answer in the network's form."""
        scratch = Path(tempfile.mkdtemp())
        try:
            with Bundle.open(self.pack(scratch / "small.edgeloop", task="tensors")) as bundle:
                costs = {}
                for row, variant in zip(measure_bundle(bundle, MEASURE_SECONDS), bundle.manifest.variants, strict=True):
                    engine = Engine(bundle, VariantChoice(variant.name, 1, ""))
                    (found,) = engine.outputs({"input": samples[:1]}, {}).values()
                    if row.cost is None or found.shape[1:] != answer or not np.isfinite(found).all():
                        raise ModelError(
                            f"the {variant.runtime} file answers with shape {found.shape[1:]}, the network with {answer}"
                        )
                    costs[str(variant.runtime)] = row.cost.latency_us_p50
                return costs
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def pack(self, path: str | os.PathLike[str], **given: Any) -> Path:
        """Write a bundle of both files. `given`: fields of `edgeloop pack`, such as name, version, labels, scores.

        Raises UsageError as that command does.
        """
        from edgeloop_pipeline.packing.pack import pack
        from edgeloop_pipeline.packing.request import PackRequest

        target, scratch = Path(path), Path(tempfile.mkdtemp())
        try:
            models = [scratch / f"model.{runtime}" for runtime in self._files]
            for model, content in zip(models, self._files.values(), strict=True):
                model.write_bytes(content)
            fields = {"name": target.stem.lower(), **given}
            if fields.get("labels") and "scores" not in fields:
                fields["scores"] = "logits"
            return pack(PackRequest(models=models, out=target, **fields)).path
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def quantize(network: nn.Module, calibration: Source, *, runtimes: tuple[Runtime, ...] = RUNTIMES) -> Quantized:
    """Quantize a trained torch network to int8, after training; the range method with the least noise is chosen.

    `calibration`: float32 samples as the network takes them, (N, C, ...) or (N, F): an array, a tensor, or batches; 100 to 1,000 of
    them are good. Half of them are held out to choose the method and for the report. The network is not changed. Raises DataError
    for samples that do not fit, ModelError naming the layer that cannot be traced or exported.
    """
    values = _samples(calibration)
    network = network.eval()
    with torch.no_grad():
        try:
            network(torch.from_numpy(values[:1]))
        except Exception as error:  # the user's code can raise anything
            raise DataError(f"the network does not take a sample of shape {values.shape[1:]}: {error}") from error
    last = np.ascontiguousarray(np.moveaxis(values, 1, -1)) if values.ndim > 2 else values
    saved = Saved(network, Structure("", {}, {}, InputNormalization("float32", (0.0,), (1.0,))))
    fitted, held = last[::2], last[1::2]
    splits = _splits(fitted)
    graph = quantized_graph.prepare(saved, splits)
    plain, _ = quantized_graph.folded(saved, splits)
    wanted = _outputs(plain, saved.normalization, held)
    quantized_graph.observe(graph, fitted)
    noises = {}
    for method in METHODS:
        quantized_graph.choose(graph, fitted, method)  # type: ignore[arg-type]
        noises[method] = _noise(_outputs(graph.module, saved.normalization, held), wanted)
    best = min(noises, key=lambda method: noises[method])
    quantized_graph.choose(graph, fitted, best)  # type: ignore[arg-type]
    quantized_graph.forget(graph)
    found = _outputs(graph.module, saved.normalization, held)
    files = {runtime: written(runtime, graph.module, saved.normalization, splits.shape, True) for runtime in runtimes}
    small = Quantized(files)
    costs = small._measured(held, wanted.shape[1:])
    several = wanted.reshape(len(wanted), -1).shape[1] > 1
    same = found.reshape(len(found), -1).argmax(1) == wanted.reshape(len(wanted), -1).argmax(1)
    agreement = float(same.mean()) if several else None
    power = float((wanted.astype(np.float64) ** 2).mean())
    small.report = QuantizeReport(
        best, len(held), agreement, round(10 * float(np.log10(max(power, 1e-30) / max(noises[best], 1e-30))), 2),
        {str(r): len(content) for r, content in files.items()}, costs, quantized_graph.left_in_float(graph),
    )  # fmt: skip
    return small


def _samples(given: Source) -> Array:
    """(N, ...) float32. Raises DataError."""
    if isinstance(given, torch.Tensor):
        values = given.detach().cpu().numpy()
    elif isinstance(given, np.ndarray):
        values = given
    else:
        batches = [batch[0] if isinstance(batch, (tuple, list)) else batch for batch in given]
        values = np.concatenate([np.asarray(batch) for batch in batches]) if batches else np.zeros((0, 1))
    if values.dtype.kind not in "fiu" or values.ndim < 2 or len(values) < MIN_SAMPLES:
        shown = f"calibration of shape {values.shape} and type {values.dtype}"
        raise DataError(f"{shown}; give at least {MIN_SAMPLES} samples (N, …) of numbers")
    if not np.isfinite(values).all():
        raise DataError("calibration has NaN or infinite values")
    return np.ascontiguousarray(values.astype(np.float32))


def _splits(values: Array) -> PreparedSplits:
    rows = np.arange(len(values))
    samples = Samples(values, np.zeros(len(values), np.int64), rows, rows)
    return PreparedSplits(labels=("",), train=samples, validation=samples, test=samples, task="tensors")


def _outputs(module: Any, normalization: InputNormalization, values: Array) -> Array:
    with torch.no_grad():
        rows = [module(quantized_graph.samples_of(normalization, values[i : i + 64])).numpy() for i in range(0, len(values), 64)]
    return np.concatenate(rows)


def _noise(found: Array, wanted: Array) -> float:
    return float(((found.astype(np.float64) - wanted) ** 2).mean())
