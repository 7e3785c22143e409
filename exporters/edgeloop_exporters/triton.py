"""A Triton model repository of a bundle's tails: the same protocol, names and tensors as the hub's own tail server."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from edgeloop_contract.archive import Bundle
from edgeloop_contract.arrays import DTYPES
from edgeloop_contract.errors import BundleError, StorageError
from edgeloop_contract.inference import DATATYPE_NAMES
from edgeloop_contract.manifest import Cut, TensorSpec
from edgeloop_contract.splitting import INPUT, served_name
from edgeloop_exporters import cutting

BATCH, DELAY_MICROSECONDS, MAX_QUEUE = 16, 2000, 256


def write(bundle: Bundle, folder: Path, gpu: bool = False) -> list[str]:
    """One model a cut, the whole one (cut \"input\") among them: `folder`/NAME/config.pbtxt and /VERSION/model.onnx.

    `gpu`: an instance on each GPU instead of the CPU. Returns the models' names. Raises BundleError where there is no ONNX model,
    StorageError where the folder cannot be written.
    """
    manifest = bundle.manifest
    if manifest.split is not None:
        variant, cuts = manifest.variant(manifest.split.variant), manifest.split.cuts
    else:
        onnx = next((v for v in manifest.variants if v.runtime == "onnx"), None)
        if onnx is None:
            raise BundleError(f"{bundle.path}: holds no ONNX file, and tails are ONNX files; export one (stages.export.runtimes)")
        variant, cuts = onnx, [Cut(name=INPUT, tensor="", boundary=manifest.sample, packed=[], head_us=0.0, tail_us=0.0)]
    if variant.states:
        raise BundleError(f"{bundle.path}: {variant.name} has state, which no server keeps; serve it on devices")
    whole, names = bundle.read(variant.file), []
    for cut in cuts:
        name = served_name(manifest.name, bundle.sha256, cut.name)
        decoder = bundle.read(cut.decoder) if cut.decoder else b""
        model = whole if cut.name == INPUT else cutting.tail(whole, cut.tensor, decoder)
        whole_model = cut.name == INPUT
        inputs = [(s.tensor or "input", s) for s in variant.inputs] if whole_model else [(cut.tensor, cut.boundary)]
        outputs = [(s.tensor or "scores", s) for s in variant.outputs]
        _model(folder / name, manifest.version, model, _config(name, inputs, outputs, gpu))
        names.append(name)
    return names


def _model(folder: Path, version: int, model: bytes, config: str) -> None:
    """All of it, or nothing: Triton may be watching."""
    partial = folder.with_name(f".{folder.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        (partial / str(version)).mkdir(parents=True)
        (partial / str(version) / "model.onnx").write_bytes(model)
        (partial / "config.pbtxt").write_text(config, encoding="utf-8")
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(partial, folder)
    except OSError as error:
        raise StorageError(f"{folder}: cannot be written ({error.strerror}); make room or choose another folder") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


NamedSpecs = Sequence[tuple[str, TensorSpec]]


def _config(name: str, inputs: NamedSpecs, outputs: NamedSpecs, gpu: bool) -> str:
    fixed = any(spec.batch != "any" for _, spec in (*inputs, *outputs))  # then Triton gets every size, and makes no batches

    def side(word: str, tensors: NamedSpecs) -> str:
        return "".join(f"{word} [ {{ {described(called, spec)} }} ]\n" for called, spec in tensors)

    def described(called: str, spec: TensorSpec) -> str:
        sizes = [1, *spec.shape] if fixed and spec.batch != "none" else spec.shape
        return f'name: "{called}" data_type: TYPE_{DATATYPE_NAMES[DTYPES[spec.dtype]]} dims: [ {", ".join(map(str, sizes))} ]'

    batching = (
        f"dynamic_batching {{ max_queue_delay_microseconds: {DELAY_MICROSECONDS}"
        f" default_queue_policy {{ max_queue_size: {MAX_QUEUE} }} }}\n"
    )
    return (
        f'name: "{name}"\nplatform: "onnxruntime_onnx"\nmax_batch_size: {0 if fixed else BATCH}\n'
        + side("input", inputs)
        + side("output", outputs)
        + f"instance_group [ {{ kind: {'KIND_GPU' if gpu else 'KIND_CPU'} }} ]\n"
        + ("" if fixed else batching)
    )
