"""From the graph with quantizers to the two files that ship, with the same scales in both."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, fx, nn

from edgeloop_contract.errors import DeviceError, EdgeloopError, ModelError
from edgeloop_contract.manifest import INPUT, SCORES
from edgeloop_exporters import channels_last, onnx_passes, tflite_passes
from edgeloop_exporters.faulty_layer import faulty_layer
from edgeloop_exporters.graph import MAX_BATCH, aten
from edgeloop_exporters.inputs import DTYPES, inputs_of, with_own_inputs
from edgeloop_exporters.integer_graph import in_integers
from edgeloop_exporters.named_inputs import NamedInput
from edgeloop_exporters.normalization import InputNormalization, channels_first
from edgeloop_exporters.outputs import outputs_of, separated
from edgeloop_exporters.quantizers import is_symmetric
from edgeloop_exporters.quiet import quiet
from edgeloop_exporters.tiny_constants import as_vectors
from edgeloop_exporters.top_places import with_top_places

__all__ = ["InputNormalization", "takes_counts", "to_onnx", "to_tflite", "written"]

OPSET, OPSET_OF_GELU = 18, 20  # in a lower one GELU is five operations, which onnxruntime does not put together between integers
RAW = {"uint8": torch.uint8, "int16": torch.int16, "int32": torch.int32, "float32": torch.float32}


# What stands between the raw input and the network: the affine normalization; for quantized uint8 counts their scale;
# or nothing, because TFLite's converter wants a float there, whose rounding tflite_passes then takes off the file.
Entry = Literal["normalize", "dequantize", "nothing"]


class _Shipped(nn.Module):
    """Raw channels-last counts in, scores out: a tuple where there are several outputs."""

    def __init__(
        self, body: nn.Module, normalization: InputNormalization, entry: Entry, moved_first: bool = False, cast_first: bool = False
    ) -> None:
        """`moved_first`: counts become channels first before they are normalized; ONNX Runtime is slow along an axis of three.
        `cast_first`: they are floats before that; TensorRT moves no uint8.
        """
        super().__init__()
        self.cast_first = cast_first
        self.body, self.entry, self.qparams, self.moved_first = body, entry, normalization.input_qparams, moved_first
        self.mean: Tensor
        self.factor: Tensor
        self.register_buffer("mean", torch.tensor(normalization.mean))
        self.register_buffer("factor", 1.0 / torch.tensor(normalization.std))

    def forward(self, x: Tensor) -> Tensor:
        if not x.is_floating_point() and x.dtype == torch.int32:  # token ids
            return self.body(x)  # type: ignore[no-any-return]
        if self.entry == "dequantize":
            assert self.qparams is not None
            dequantize = torch.ops.quantized_decomposed.dequantize_per_tensor.default
            x = dequantize(x, *self.qparams, 0, 255, torch.uint8)
        elif self.entry == "normalize" and self.moved_first:
            x = channels_first(x.to(torch.float32) if self.cast_first else x)
            along = (-1, *[1] * (x.dim() - 2))
            x = (x.to(torch.float32) - self.mean.reshape(along)) * self.factor.reshape(along)
            return self.body(x)  # type: ignore[no-any-return]
        elif self.entry == "normalize":
            x = (x.to(torch.float32) - self.mean) * self.factor
        return self.body(channels_first(x))  # type: ignore[no-any-return]


def takes_counts(module: fx.GraphModule, normalization: InputNormalization) -> bool:
    """Whether the raw uint8 counts are the quantized input. They are not where a layer that stays in float reads them."""
    if normalization.input_qparams is None or is_symmetric(module):
        return False
    entry = next(n for n in module.graph.nodes if n.op == "placeholder")
    return bool(entry.users) and all(u.op == "call_module" for u in entry.users)


def copied(module: fx.GraphModule) -> fx.GraphModule:
    with quiet():
        return copy.deepcopy(module)


def _register_operations() -> None:
    import torch.ao.quantization.fx._decomposed  # noqa: F401  (registers the quantized_decomposed operations)


def to_onnx(
    module: fx.GraphModule, normalization: InputNormalization, shape: tuple[int, ...], path: Path, *, quantized: bool
) -> None:
    """Write one ONNX file with its weights inside and a free batch. `shape`: one raw sample, channels last.

    Raises ModelError naming the layer that cannot be exported.
    """
    path.write_bytes(written("onnx", module, normalization, shape, quantized))


def to_tflite(
    module: fx.GraphModule, normalization: InputNormalization, shape: tuple[int, ...], path: Path, *, quantized: bool
) -> None:
    """Write a TFLite file for batch 1; quantized, its scores are int8, and uint8 counts go in as int8 (minus 128).

    `shape`: one raw sample, channels last. Raises ModelError naming the layer that cannot be exported.
    """
    path.write_bytes(written("tflite", module, normalization, shape, quantized))


def written(
    runtime: Literal["onnx", "tflite"],
    module: fx.GraphModule,
    normalization: InputNormalization,
    shape: tuple[int, ...],
    quantized: bool,
) -> bytes:
    """The file's content. Raises ModelError naming the layer that cannot be exported."""
    write, form = (_onnx, "ONNX") if runtime == "onnx" else (_tflite, "TFLite")

    def works(beginning: fx.GraphModule) -> bool:
        try:
            write(beginning, normalization, shape, quantized)
        except Exception:  # whatever it is, the whole raised it too
            return False
        return True

    try:
        return write(module, normalization, shape, quantized)
    except EdgeloopError:
        raise
    except Exception as error:  # the exporters wrap causes in private types, and raise whatever their passes run into
        where = faulty_layer(module, works)
        remedy = f"replace that operation, or leave {form} out (export.runtimes)"
        raise ModelError(f"export to {form} failed{' at ' + where if where else ''}: {_cause(error)}; {remedy}") from error


def _onnx(module: fx.GraphModule, normalization: InputNormalization, shape: tuple[int, ...], quantized: bool) -> bytes:
    import onnx

    _register_operations()
    raw_is_quantized, symmetric = quantized and takes_counts(module, normalization), is_symmetric(module)
    body = separated(in_integers(module, 128 if symmetric else 0, True, raw_is_quantized) if quantized else copied(module))
    as_vectors(with_top_places(body))
    entry: Entry = "dequantize" if raw_is_quantized else "normalize"
    moved_first = len(normalization.mean) > 1 and len(shape) > 1 and normalization.dtype != "int32"
    inputs = inputs_of(module)
    shipped = with_own_inputs(body) if inputs else _Shipped(body, normalization, entry, moved_first, symmetric).eval()
    samples = _samples(2, inputs, shape, RAW[normalization.dtype])
    batch = torch.export.Dim("batch", min=1, max=MAX_BATCH)
    opset = OPSET_OF_GELU if any(node.target is aten.gelu.default for node in body.graph.nodes) else OPSET
    names = [output.name or SCORES for output in outputs_of(module)]
    places = [f"edgeloop_output_{number}" for number in range(len(names))]
    doors = [f"edgeloop_input_{number}" for number in range(len(samples))]
    with quiet(), torch.no_grad():
        program = torch.onnx.export(
            shipped, samples, dynamo=True, opset_version=opset, dynamic_shapes=tuple({0: batch} for _ in samples),
            input_names=doors, output_names=places, external_data=False, verbose=False, optimize=True,
        )  # fmt: skip
        assert program is not None
        model = program.model_proto
    onnx_passes.tidy(model)
    onnx_passes.name_ports(model, [entry.name for entry in inputs] or [INPUT], names)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString(deterministic=True))


def _tflite(module: fx.GraphModule, normalization: InputNormalization, shape: tuple[int, ...], quantized: bool) -> bytes:
    _register_operations()
    try:
        with quiet():
            import litert_torch
            from litert_torch.quantize.pt2e_quantizer import PT2EQuantizer, get_symmetric_quantization_config
            from litert_torch.quantize.quant_config import QuantConfig

            channels_last.register()
    except ImportError as error:
        raise DeviceError(f"TFLite export needs litert-torch: pip install 'edgeloop[workstation]' ({error})") from error
    raw_is_quantized = quantized and takes_counts(module, normalization)
    config = None
    if quantized:
        # This only tells the converter to make integer kernels of the quantize/dequantize pairs; the scales are ours.
        config = QuantConfig(PT2EQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True)))
        body = in_integers(module, 128, False, raw_is_quantized)
    else:
        body = copied(module)
    body = with_top_places(body)
    tflite_passes.constants_first(separated(body))
    tflite_passes.constants_of_four_axes(body)
    tflite_passes.whole_volumes(body)
    # Where nothing stands before the first rounding, the converter makes the input int8; the samples are floats. The next number
    # after 1 keeps one operation there, and moves a value by less than a ten-millionth.
    inputs = inputs_of(module)
    if inputs:
        states = {entry.output for entry in inputs}
        shipped: nn.Module = with_own_inputs(body, [output.name in states for output in outputs_of(module)] if quantized else None)
    else:
        shipped = single = _Shipped(body, normalization, "nothing" if raw_is_quantized else "normalize").eval()
        if quantized and not single.mean.any() and bool((single.factor == 1).all()):
            single.factor = torch.nextafter(single.factor, torch.tensor(2.0))
    samples = _samples(1, inputs, shape, torch.float32 if raw_is_quantized else RAW[normalization.dtype])
    with quiet(), torch.no_grad():
        # As bytes: writing a file itself, the converter ends the process when the disk is full.
        content: bytes = litert_torch.convert(shipped, samples, quant_config=config).model_content()
    names, doors = [output.name for output in outputs_of(module)], [entry.name for entry in inputs]
    content = tflite_passes.tidy(content, raw_is_quantized) if quantized else content
    return tflite_passes.named(content, doors, names if len(names) > 1 else []) if doors or len(names) > 1 else content


def _samples(count: int, inputs: Sequence[NamedInput], shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, ...]:
    """What the graph is exported with. `shape`, `dtype`: of the only input."""
    if not inputs:
        return (torch.zeros((count, *shape), dtype=dtype),)
    return tuple(torch.zeros((count, *entry.shape), dtype=DTYPES[entry.door]) for entry in inputs)


def _cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300]
