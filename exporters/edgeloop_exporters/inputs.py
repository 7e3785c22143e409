"""Networks with several named inputs: inside, a sample is one array; in files, each input has its own name, type and scale."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from edgeloop_exporters.named_inputs import NamedInput

__all__ = ["DTYPES", "PART", "inputs_of", "is_entry", "part", "with_own_inputs"]

DTYPES = {
    "float32": torch.float32, "int64": torch.int64, "int32": torch.int32, "int16": torch.int16, "int8": torch.int8,
    "uint8": torch.uint8, "bool": torch.bool,
}  # fmt: skip
NEARLY_ONE = torch.nextafter(torch.tensor(1.0), torch.tensor(2.0)).item()


# One operator, so that a traced graph knows where each input begins, and rounds none by the scale of another.
@torch.library.custom_op(
    "edgeloop::part", mutates_args=(), schema="(Tensor sample, int start, int[] shape, str name, str dtype, str output) -> Tensor"
)
def _part(sample: Tensor, start: int, shape: Sequence[int], name: str, dtype: str, output: str) -> Tensor:
    """The values of one input (N, *shape) in a sample (N, …) that has all of them, from `start` on."""
    rows = sample.reshape(sample.shape[0], -1)[:, start : start + math.prod(shape)]
    return rows.reshape(sample.shape[0], *shape).to(DTYPES[dtype], copy=True)


@_part.register_fake
def _(sample: Tensor, start: int, shape: Sequence[int], name: str, dtype: str, output: str) -> Tensor:
    return sample.new_empty((sample.shape[0], *shape), dtype=DTYPES[dtype])


def _remember(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.whole, ctx.start, ctx.size = inputs[0].shape, inputs[1], math.prod(inputs[2])


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    rows = torch.zeros(ctx.whole[0], math.prod(ctx.whole[1:]), dtype=gradient.dtype)
    rows[:, ctx.start : ctx.start + ctx.size] = gradient.reshape(len(rows), -1)
    return rows.reshape(ctx.whole), None, None, None, None, None


_part.register_autograd(_backward, setup_context=_remember)
PART = torch.ops.edgeloop.part.default


def part(sample: Tensor, start: int, entry: NamedInput) -> Tensor:
    """One input (N, *shape) of a sample that has all of them."""
    return PART(sample, start, list(entry.shape), entry.name, entry.dtype, entry.output)  # type: ignore[no-any-return]


def is_entry(node: fx.Node) -> bool:
    """Whether samples enter here: at the graph's input, or at one of several."""
    return node.target is PART or (node.op == "placeholder" and not any(user.target is PART for user in node.users))


def inputs_of(module: fx.GraphModule) -> list[NamedInput]:
    """A traced graph's inputs in order, where there are several; else none."""
    args: list[Any] = [node.args for node in _parts(module)]
    return [NamedInput(name, tuple(shape), dtype, output) for _, _, shape, name, dtype, output in args]


def with_own_inputs(module: fx.GraphModule, held: Sequence[bool] | None = None) -> fx.GraphModule:
    """A graph that takes its inputs one by one, as its file does. Changes `module`, and returns it.

    `held`: by output, whether it comes back as an input. Such outputs and every float input are multiplied by the next number after
    1, so that TFLite's converter makes none of them int8.
    """
    graph = module.graph
    (whole,) = (node for node in graph.nodes if node.op == "placeholder")
    for number, node in enumerate(_parts(module)):
        with graph.inserting_before(whole):
            entry = graph.placeholder(f"edgeloop_input_{number}")
        value = node.meta["val"]
        wide = value.dtype == torch.int64
        entry.meta = {"val": value.to(torch.int32) if wide else value}
        with graph.inserting_before(node):
            given = graph.call_function(torch.ops.aten._to_copy.default, (entry,), {"dtype": torch.int64}) if wide else entry
            node.replace_all_uses_with(_times_one(graph, entry) if value.is_floating_point() and held is not None else given)
        graph.erase_node(node)
    graph.erase_node(whole)
    last = graph.output_node()
    ends: Any = last.args[0]
    with graph.inserting_before(last):
        last.args = (tuple(_times_one(graph, end) if held and held[i] else end for i, end in enumerate(ends)),)
    graph.set_codegen(fx.graph.CodeGen())  # torch.export's packs one input
    graph.eliminate_dead_code()
    module.recompile()
    return module


def _parts(module: fx.GraphModule) -> list[fx.Node]:
    return sorted((node for node in module.graph.nodes if node.target is PART), key=lambda node: node.args[1])


def _times_one(graph: fx.Graph, node: fx.Node) -> fx.Node:
    return graph.call_function(torch.ops.aten.mul.Tensor, (node, NEARLY_ONE))
