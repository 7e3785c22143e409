"""Networks with several named outputs: inside, their scores are one array; in files, each output has its own name and scale."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from edgeloop_contract.errors import ModelError
from edgeloop_exporters.named_outputs import Output

__all__ = ["JOINED", "Joining", "answers_here", "join", "last_nodes", "outputs_of", "separated"]


# One operator, so that a traced graph keeps the outputs as they are before it.
@torch.library.custom_op("edgeloop::joined", mutates_args=(), schema="(Tensor[] values, str[] names) -> Tensor")
def _joined(values: Sequence[Tensor], names: Sequence[str]) -> Tensor:
    """(N, …) of each output as one (N, total): one behind the other."""
    return torch.cat([value.reshape(value.shape[0], -1).float() for value in values], 1)


@_joined.register_fake
def _(values: Sequence[Tensor], names: Sequence[str]) -> Tensor:
    return torch.cat([value.reshape(value.shape[0], -1).float() for value in values], 1)


def _remember(ctx: Any, inputs: tuple[Sequence[Tensor], Sequence[str]], output: Tensor) -> None:
    ctx.shapes, ctx.dtypes = [value.shape for value in inputs[0]], [value.dtype for value in inputs[0]]


def _backward(ctx: Any, gradient: Tensor) -> tuple[list[Tensor], None]:
    parts = gradient.split([math.prod(shape[1:]) for shape in ctx.shapes], 1)
    return [p.reshape(s).to(d) for p, s, d in zip(parts, ctx.shapes, ctx.dtypes, strict=True)], None


_joined.register_autograd(_backward, setup_context=_remember)
JOINED = torch.ops.edgeloop.joined.default


class Joining(nn.Module):
    """A network whose several outputs, a dict or a sequence of (N, …), come joined: (N, total) float32.

    `names`: of the outputs, in order; of a dict, those that are wanted.
    """

    def __init__(self, network: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.network, self.names = network, tuple(names)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.parts(x)
        return join(list(parts.values()), list(parts))

    def parts(self, x: Tensor) -> dict[str, Tensor]:
        """By output, in order. Raises ModelError where one is missing."""
        answer: Mapping[str, Tensor] | Sequence[Tensor] = self.network(x)
        if isinstance(answer, Mapping):
            if missing := [name for name in self.names if name not in answer]:
                raise ModelError(
                    f"{type(self.network).__name__}: returns {', '.join(answer) or 'nothing'}, without {', '.join(missing)}"
                )
            return {name: answer[name] for name in self.names}
        if not isinstance(answer, Sequence) or len(answer) != len(self.names):
            raise ModelError(f"{type(self.network).__name__}: return a dict with {', '.join(self.names)}, each (N, ...)")
        return dict(zip(self.names, answer, strict=True))


def join(values: Sequence[Tensor], names: Sequence[str]) -> Tensor:
    """(N, …) of each named output as one (N, total) float32, of which a traced graph still knows the parts."""
    return JOINED(list(values), list(names))  # type: ignore[no-any-return]


def answers_here(node: fx.Node) -> bool:
    """Whether this node takes a graph's answers: its output, or what joins them."""
    return node.op == "output" or node.target is JOINED


def last_nodes(module: fx.GraphModule) -> list[fx.Node]:
    """The nodes that make the outputs, in order."""
    (last,) = module.graph.output_node().all_input_nodes
    return list(last.args[0]) if last.target is JOINED else [last]  # type: ignore[arg-type]


def outputs_of(module: fx.GraphModule) -> list[Output]:
    """A traced graph's outputs, in order."""
    (last,) = module.graph.output_node().all_input_nodes
    names: Any = last.args[1] if last.target is JOINED else [""]
    return [
        Output(name, tuple(int(n) for n in node.meta["val"].shape[1:]))
        for name, node in zip(names, last_nodes(module), strict=True)
    ]


def separated(module: fx.GraphModule) -> fx.GraphModule:
    """A graph that answers its outputs one by one, as its file does. Changes `module`, and returns it."""
    (last,) = module.graph.output_node().all_input_nodes
    if last.target is JOINED:
        module.graph.output_node().args = (tuple(last_nodes(module)),)
        module.graph.set_codegen(fx.graph.CodeGen())  # torch.export's packs one output
        module.graph.eliminate_dead_code()
        module.recompile()
    return module
