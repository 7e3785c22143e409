"""Deltas of bundles against the whole: bytes, and CPU seconds to make and to take one.

The bundles hold one ONNX file of int8 weights, 1.1 million of them, drawn as a trained network's are spread (each layer by its own
deviation, a scale a channel), and not trained: only how many integers change matters here. Requantized: noise of a share of its
layer's deviation is added to each weight, and all is quantized anew. The peer of the CPU seconds is what the whole costs: a file
that is read, hashed and written.
"""

from __future__ import annotations

import hashlib
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np

from edgeloop_agent.updates.offers import Delta, Offer
from edgeloop_agent.updates.rebuilding import rebuild
from edgeloop_contract import archive
from edgeloop_contract.archive import Bundle
from edgeloop_pipeline.fleet import deltas
from harness import Row, at_most, main
from serving import GOLDEN

SHAPES = [(64, 3, 3, 3), *[(128, 64, 3, 3)] * 2, *[(256, 128, 3, 3)] * 3, (10, 256)]
TARGET = 0.1  # of the whole's bytes
Weights = list[np.ndarray]


def drawn(seed: int) -> Weights:
    rng = np.random.default_rng(seed)
    return [rng.normal(0, (2 / np.prod(shape[1:])) ** 0.5, shape) for shape in SHAPES]


def integers(layer: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int8 weights, and the scales of their channels."""
    scales = np.abs(layer).reshape(len(layer), -1).max(1) / 127
    return np.round(layer / scales.reshape(-1, *[1] * (layer.ndim - 1))).astype(np.int8), scales.astype(np.float32)


def changed(some: Weights, others: Weights) -> float:
    """The share of integers that differ."""
    pairs = [(integers(a)[0], integers(b)[0]) for a, b in zip(some, others, strict=True)]
    return sum(int((a != b).sum()) for a, b in pairs) / sum(a.size for a, _ in pairs)


def quantized(weights: Weights) -> bytes:
    """An ONNX file with the int8 weights and the scales of their channels."""
    import onnx
    from onnx import numpy_helper

    tensors = []
    for number, layer in enumerate(weights):
        tensors += [numpy_helper.from_array(a, f"{what}{number}") for what, a in zip("ws", integers(layer), strict=True)]
    graph = onnx.helper.make_graph([], "net", [], [], tensors)
    return bytes(onnx.helper.make_model(graph).SerializeToString())


def bundle(path: Path, version: int, content: bytes) -> Path:
    """The golden bundle with this content in the place of its int8 file; nothing runs it here."""
    with Bundle.open(GOLDEN) as golden:
        files = {name: golden.read(name) for name in golden.manifest.files}
        file = next(v.file for v in golden.manifest.variants if v.file.endswith(".onnx") and "int8" in v.name)
        files[file] = content
        manifest = msgspec.structs.replace(golden.manifest, version=version, files=archive.describe(files))
    archive.write(path, manifest, files)
    return path


def cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def measure(quick: bool) -> Iterator[Row]:
    base, other = drawn(1), drawn(2)
    rng = np.random.default_rng(3)
    last = [*base[:-1], other[-1]]
    cases = {"last layer": last}
    for noise in (0.001, 0.003, 0.01):
        tuned = [layer + rng.normal(0, noise * layer.std(), layer.shape) for layer in base]
        cases[f"requantized, {changed(base, tuned):.1%} of the integers differ"] = tuned
    cases["another network"] = other
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        old = bundle(folder / "old.edgeloop", 1, quantized(base))
        for number, (what, weights) in enumerate(cases.items()):
            new = bundle(folder / f"{number}.edgeloop", 2, quantized(weights))
            yield from compared(what, old, new)


def compared(what: str, old: Path, new: Path) -> Iterator[Row]:
    whole = new.read_bytes()
    start = cpu()
    delta = deltas.make(old, new)
    made = cpu() - start
    if delta is None:
        yield Row(f"{what}: no delta is made, and the whole is taken", len(whole), "bytes")
        return
    share = len(delta) / len(whole)
    text = f"{what}: the delta's share of {len(whole):,} bytes"
    yield at_most(text, round(share, 4), "", TARGET)
    yield Row(f"{what}: to make it", made, "CPU s")
    file, partial = new.with_suffix(".delta"), new.with_suffix(".partial")
    file.write_bytes(delta)
    digest = [hashlib.sha256(content).hexdigest() for content in (old.read_bytes(), whole)]
    start = cpu()
    rebuild(old, file, Delta("", len(delta), "", digest[0], "t"), Offer("t", len(whole), digest[1], "", 2), partial)
    taken = cpu() - start
    assert partial.read_bytes() == whole
    start, began = cpu(), time.perf_counter()
    partial.write_bytes(new.read_bytes())
    hashlib.sha256(partial.read_bytes()).hexdigest()
    yield Row(f"{what}: to take it", taken, "CPU s", max(cpu() - start, time.perf_counter() - began))


if __name__ == "__main__":
    main(measure)
