"""From the graph with quantizers to the two files that ship, with the same scales in both."""

from __future__ import annotations

import copy
import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn

from edgeloop_contract.errors import DeviceError, ModelError
from edgeloop_exporters import onnx_passes, tflite_passes
from edgeloop_exporters.graph import MAX_BATCH
from edgeloop_exporters.layout import teach
from edgeloop_exporters.quantizers import ActivationQuantizer, WeightQuantizer

OPSET = 18
RAW = {"uint8": torch.uint8, "int16": torch.int16, "float32": torch.float32}


@dataclass(frozen=True)
class Front:
    """How a raw sample becomes the network's input: (x − mean) / std per channel, then channels first.

    `dtype`: "uint8" (with one mean, an integer, and one std the raw count is the quantized value), "int16" or "float32".
    """

    dtype: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def input_qparams(self) -> tuple[float, int] | None:
        """Scale and zero point of raw counts that are the quantized input; None where normalisation has to be computed."""
        if self.dtype != "uint8" or len(self.mean) > 1 or len(self.std) > 1 or self.mean[0] != round(self.mean[0]):
            return None
        return (1.0 / self.std[0], int(self.mean[0])) if 0 <= self.mean[0] <= 255 else None

    def normalise(self, x: Tensor) -> Tensor:
        """Raw (N, ..., C) to normalised float32 (N, C, ...)."""
        mean, factor = torch.tensor(self.mean), 1.0 / torch.tensor(self.std)
        return channels_first((x.to(torch.float32) - mean) * factor)


def channels_first(x: Tensor) -> Tensor:
    return x.permute(0, x.dim() - 1, *range(1, x.dim() - 1))


# What stands between the raw input and the network: the affine normalisation; for quantized uint8 counts their scale;
# or nothing, because TFLite's converter wants a float there, whose rounding tflite_passes then takes off the file.
Entry = Literal["normalise", "dequantize", "nothing"]


class _Shipped(nn.Module):
    """Raw channels-last counts in, scores out."""

    def __init__(self, body: nn.Module, front: Front, entry: Entry) -> None:
        super().__init__()
        self.body, self.entry, self.qparams = body, entry, front.input_qparams
        self.mean: Tensor
        self.factor: Tensor
        self.register_buffer("mean", torch.tensor(front.mean))
        self.register_buffer("factor", 1.0 / torch.tensor(front.std))

    def forward(self, x: Tensor) -> Tensor:
        if self.entry == "dequantize":
            assert self.qparams is not None
            dequantize = torch.ops.quantized_decomposed.dequantize_per_tensor.default
            x = dequantize(x, *self.qparams, 0, 255, torch.uint8)
        elif self.entry == "normalise":
            x = (x.to(torch.float32) - self.mean) * self.factor
        return self.body(channels_first(x))  # type: ignore[no-any-return]


def takes_counts(module: fx.GraphModule, front: Front) -> bool:
    """Are the raw uint8 counts the quantized input? Not where a layer that stays in float reads it."""
    if front.input_qparams is None:
        return False
    entry = next(n for n in module.graph.nodes if n.op == "placeholder")
    return bool(entry.users) and all(u.op == "call_module" for u in entry.users)


def _rewritten(module: fx.GraphModule, offset: int, weights_as_integers: bool, raw_is_quantized: bool) -> fx.GraphModule:
    """A copy whose quantizers are `quantized_decomposed` operations; `offset` 0 makes uint8 activations, 128 int8."""
    ops = torch.ops.quantized_decomposed
    with quiet():
        module = copy.deepcopy(module)
    graph = module.graph
    low, high, dtype = (0, 255, torch.uint8) if offset == 0 else (-128, 127, torch.int8)
    for node in [n for n in graph.nodes if n.op == "call_module"]:
        quantizer = module.get_submodule(str(node.target))
        (source,) = node.args
        if isinstance(quantizer, ActivationQuantizer):
            if (source.op == "placeholder" and raw_is_quantized and not offset) or not quantizer.rounding:
                node.replace_all_uses_with(source)
                graph.erase_node(node)
                continue
            scale, zero_point = quantizer.qparams()
            args = (scale.item(), zero_point.item() - offset, low, high, dtype)
            with graph.inserting_before(node):
                new = graph.call_function(ops.quantize_per_tensor.default, (source, *args))
                new = graph.call_function(ops.dequantize_per_tensor.default, (new, *args))
        elif isinstance(quantizer, WeightQuantizer):
            new = _weight(module, node, quantizer, weights_as_integers)
        else:
            continue
        new.meta = dict(node.meta)
        node.replace_all_uses_with(new)
        graph.erase_node(node)
    if offset:
        tflite_passes.mark_floats(module)
    graph.eliminate_dead_code()
    module.delete_all_unused_submodules()
    module.recompile()
    return module


def _weight(module: fx.GraphModule, node: fx.Node, quantizer: WeightQuantizer, as_integers: bool) -> fx.Node:
    ops = torch.ops.quantized_decomposed
    (source,) = node.args
    assert isinstance(source, fx.Node)
    name = str(source.target)
    weight = module.get_parameter(name).detach()
    scales = quantizer.scales(weight)
    key = str(node.target).replace(".", "_")
    module.register_buffer(f"{key}_scale", scales)
    module.register_buffer(f"{key}_zero", torch.zeros(len(scales), dtype=torch.int64))
    graph = module.graph
    limits = (-127, 127, torch.int8)
    if as_integers:
        shape = [1] * weight.dim()
        shape[quantizer.axis or 0] = -1
        integers = (weight / scales.reshape(shape)).round().clamp(-127, 127).to(torch.int8)
        module.register_buffer(f"{key}_int8", integers)
    with graph.inserting_before(node):
        values = graph.get_attr(f"{key}_int8") if as_integers else source
        if quantizer.axis is None:
            args: tuple[Any, ...] = (scales.item(), 0, *limits)
            to_int, to_float = ops.quantize_per_tensor.default, ops.dequantize_per_tensor.default
        else:
            args = (graph.get_attr(f"{key}_scale"), graph.get_attr(f"{key}_zero"), quantizer.axis, *limits)
            to_int, to_float = ops.quantize_per_channel.default, ops.dequantize_per_channel.default
        if not as_integers:
            values = graph.call_function(to_int, (values, *args))
        return graph.call_function(to_float, (values, *args))


@contextmanager
def quiet() -> Iterator[None]:
    """The exporters talk on both streams, from C++ too, and warn about their own future; errors still come as exceptions."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    sys.stderr.flush()
    kept = os.dup(2)
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()), Path(os.devnull).open("w") as nowhere:
        warnings.simplefilter("ignore")
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            logging.disable(previous)


def _register_operations() -> None:
    import torch.ao.quantization.fx._decomposed  # noqa: F401  (registers the quantized_decomposed operations)


def to_onnx(module: fx.GraphModule, front: Front, shape: tuple[int, ...], path: Path, *, quantized: bool) -> None:
    """Write one ONNX file with its weights inside and a free batch. `shape`: one raw sample, channels last.

    Raises ModelError naming what cannot be exported.
    """
    import onnx

    _register_operations()
    raw_is_quantized = quantized and takes_counts(module, front)
    body = _rewritten(module, 0, True, raw_is_quantized) if quantized else module
    shipped = _Shipped(body, front, "dequantize" if raw_is_quantized else "normalise").eval()
    batch = torch.export.Dim("batch", min=1, max=MAX_BATCH)
    sample = torch.zeros((2, *shape), dtype=RAW[front.dtype])
    try:
        with quiet(), torch.no_grad():
            program = torch.onnx.export(
                shipped, (sample,), dynamo=True, opset_version=OPSET, dynamic_shapes=({0: batch},),
                input_names=["input"], output_names=["scores"], external_data=False, verbose=False, optimize=True,
            )  # fmt: skip
            assert program is not None
            model = program.model_proto
    except Exception as error:  # the exporter wraps the user's causes in several private types
        raise ModelError(f"export to ONNX failed: {_cause(error)}; replace that operation in the network") from error
    onnx_passes.tidy(model)
    path.write_bytes(model.SerializeToString(deterministic=True))
    onnx.checker.check_model(str(path))


def to_tflite(module: fx.GraphModule, front: Front, shape: tuple[int, ...], path: Path, *, quantized: bool) -> None:
    """Write a TFLite file for batch 1; quantized, its scores are int8, and uint8 counts go in as int8 (minus 128).

    `shape`: one raw sample, channels last. Raises ModelError naming what cannot be exported.
    """
    _register_operations()
    try:
        with quiet():
            import litert_torch
            from litert_torch.quantize.pt2e_quantizer import PT2EQuantizer, get_symmetric_quantization_config
            from litert_torch.quantize.quant_config import QuantConfig

            teach()
    except ImportError as error:
        raise DeviceError(f"TFLite export needs litert-torch: pip install 'edgeloop[workstation]' ({error})") from error
    raw_is_quantized = quantized and takes_counts(module, front)
    config = None
    if quantized:
        # This only tells the converter to make integer kernels of the quantize/dequantize pairs; the scales are ours.
        config = QuantConfig(PT2EQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True)))
    body = _rewritten(module, 128, False, raw_is_quantized) if quantized else module
    shipped = _Shipped(body, front, "nothing" if raw_is_quantized else "normalise").eval()
    sample = torch.zeros((1, *shape), dtype=torch.float32 if raw_is_quantized else RAW[front.dtype])
    try:
        with quiet(), torch.no_grad():
            # As bytes: writing a file itself, the converter ends the process when the disk is full.
            content: bytes = litert_torch.convert(shipped, (sample,), quant_config=config).model_content()
    except Exception as error:  # the converter raises whatever its passes run into
        raise ModelError(f"export to TFLite failed: {_cause(error)}; replace that operation in the network") from error
    path.write_bytes(tflite_passes.tidy(content) if quantized else content)


def _cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300]
