"""The graph with quantizers as operations on integers that both exporters know."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import fx

from edgeloop_exporters import tflite_passes
from edgeloop_exporters.graph import aten
from edgeloop_exporters.quantizers import ActivationQuantizer, Rescaled, WeightQuantizer
from edgeloop_exporters.quiet import quiet
from edgeloop_exporters.rewrites import padding_value, pads_with_lowest
from edgeloop_exporters.token_rewrites import tables_in_int8


def in_integers(module: fx.GraphModule, offset: int, weights_as_integers: bool, raw_is_quantized: bool) -> fx.GraphModule:
    """A copy whose quantizers are `quantized_decomposed` operations; `offset` 0 makes uint8 activations, 128 int8.

    `weights_as_integers`: as ONNX files have them; TFLite's converter rounds them itself.
    """
    ops, for_tflite = torch.ops.quantized_decomposed, not weights_as_integers
    with quiet():
        module = copy.deepcopy(module)
    graph = module.graph
    low, high, dtype = (0, 255, torch.uint8) if offset == 0 else (-128, 127, torch.int8)
    _pad_in_grid(module)
    tables_in_int8(module)
    for node in [n for n in graph.nodes if n.op == "call_module"]:
        quantizer = module.get_submodule(str(node.target))
        (source,) = node.args
        if isinstance(quantizer, ActivationQuantizer):
            free = isinstance(quantizer, Rescaled) and not for_tflite  # ONNX: `onnx_passes` makes another scale of it
            if (source.op == "placeholder" and raw_is_quantized and not for_tflite) or not quantizer.rounding or free:
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
    if for_tflite:
        tflite_passes.mark_floats(module)
    graph.eliminate_dead_code()
    module.delete_all_unused_submodules()
    module.recompile()
    return module


def _pad_in_grid(module: fx.GraphModule) -> None:
    """A padding's value as a number of its input's grid: TFLite's converter lets one that rounds below the lowest wrap around.

    Padding below everything is the lowest number, and quantized at once: then it stays in integers.
    """
    graph = module.graph
    for node in [n for n in graph.nodes if padding_value(n)]:
        source = node.args[0]
        quantizer = module.get_submodule(str(source.target)) if source.op == "call_module" else None
        if not isinstance(quantizer, ActivationQuantizer) or not quantizer.rounding:
            continue
        scale, zero_point = (q.item() for q in quantizer.qparams())
        value = padding_value(node)
        assert value is not None
        least = pads_with_lowest(node)
        integer = 0 if least else min(max(round(value / scale) + zero_point, 0), 255)
        node.target, node.kwargs = aten.constant_pad_nd.default, {}
        node.args = (source, node.args[1], (integer - zero_point) * scale)
        if least:
            with graph.inserting_after(node):
                again = graph.call_module(str(source.target), (node,))
            again.meta = dict(node.meta)
            node.replace_all_uses_with(again, delete_user_cb=lambda user, again=again: user is not again)


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
