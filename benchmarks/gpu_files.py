"""What benchmarks/gpu.py measures: made-up pictures, a network's files, and one epoch of training."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

LABELS = "abcdefghijklmnop"
CALIBRATION = 64


def large_files(side: int, widths: tuple[int, ...]) -> tuple[Any, dict[str, tuple[Any, bytes]]]:
    """Data, and a residual network with random weights as the files that `export` writes: variant and content by name."""
    import torch

    from edgeloop_models.fashion.network import resnet
    from edgeloop_pipeline.data.normalization import input_normalization
    from edgeloop_pipeline.networks.saved_network import Saved, Structure
    from edgeloop_pipeline.quantization import quantized_graph
    from edgeloop_pipeline.quantization.quantized_graph import Options

    splits = made_up(CALIBRATION, side)
    torch.manual_seed(0)
    network = resnet((3, side, side), len(LABELS), widths, 2, 2).eval()
    saved = Saved(network, Structure("-", {}, {}, input_normalization(splits)))
    files: dict[str, tuple[Any, bytes]] = {}
    for name, symmetric in (("onnx-int8-symmetric", True), ("onnx-int8", False)):
        graph = quantized_graph.prepare(saved, splits, Options(symmetric=symmetric))
        quantized_graph.calibrate(graph, splits.train.values)
        files[name] = written(graph.module, saved.normalization, splits, name)
    plain, _ = quantized_graph.folded(saved, splits)
    return splits, files | {"onnx-float32": written(plain, saved.normalization, splits, "onnx-float32")}


def written(module: Any, normalization: Any, splits: Any, name: str) -> tuple[Any, bytes]:
    from edgeloop_contract.manifest import Precision
    from edgeloop_exporters.convert import takes_counts, to_onnx
    from edgeloop_exporters.file_tensors import output_specs
    from edgeloop_pipeline.bundling.variants import TENSORRT, variant_of

    integer = name != "onnx-float32"
    counts = normalization.input_qparams if integer and takes_counts(module, normalization) else None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}.onnx"
        to_onnx(module, normalization, splits.shape, path, quantized=integer)
        precision, provider = Precision.INT8 if integer else Precision.FLOAT32, TENSORRT if name.endswith("symmetric") else ""
        outputs = output_specs(module, "onnx", integer)
        return variant_of("onnx", precision, path.name, splits, counts, outputs, provider), path.read_bytes()


def made_up(count: int, side: int) -> Any:
    """Pictures of noise with a brightness by label: a machine without a network needs no download."""
    from edgeloop_pipeline.data.types import PreparedSplits, Samples

    rng = np.random.default_rng(0)

    def some(count: int) -> Samples:
        labels = rng.integers(0, len(LABELS), count)
        values = (rng.integers(0, 128, (count, side, side, 3)) + 8 * labels[:, None, None, None]).astype(np.uint8)
        return Samples(values, labels, np.arange(count), np.arange(count))

    return PreparedSplits(tuple(LABELS), some(count), some(64), some(64))


def trained(network: Any, splits: Any, precision: str) -> Any:
    """What `fit` says of one epoch."""
    from edgeloop_pipeline.data.normalization import input_normalization
    from edgeloop_pipeline.tasks.losses import cross_entropy
    from edgeloop_pipeline.training.fit import fit
    from edgeloop_pipeline.training.settings import FitSettings

    settings = FitSettings(epochs=1, batch=128, learning_rate=0.01, precision=precision, workers=0)  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory() as scratch:
        loss, normalization = cross_entropy(0.0), input_normalization(splits)
        made = fit(network, normalization, splits, settings, loss, seed=0, scratch=Path(scratch), log=lambda _: None)
    return made.facts
