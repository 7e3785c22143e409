"""What flows through an import: each value is known at two batch sizes, so that what depends on the batch is seen."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

__all__ = ["BATCHES", "Builder", "Items", "Unsupported", "Value", "alike"]

BATCHES = (2, 3)
MAX_BETWEEN = 16
MAX_CONSTANT = 1 << 28  # values of a computed constant


class Unsupported(Exception):
    """An operator that cannot become layers. The text says why; the caller adds the operator and its node."""


@dataclass(frozen=True)
class Value:
    """A tensor (or a size) at both batches. `node`: what makes it from the network's input; None: no input decides it."""

    a: Any
    b: Any
    node: fx.Node | None = None

    @property
    def is_static(self) -> bool:
        return self.node is None

    @property
    def is_constant(self) -> bool:
        """Static, and the same at both batches."""
        return self.is_static and self.a.shape == self.b.shape and bool(torch.equal(self.a, self.b))

    @property
    def shape(self) -> tuple[int, ...]:
        """At the first batch."""
        return tuple(self.a.shape)

    @property
    def rank(self) -> int:
        return int(self.a.dim())

    @property
    def dtype(self) -> torch.dtype:
        return self.a.dtype  # type: ignore[no-any-return]

    def batched(self, axis: int = 0) -> bool:
        """Whether this axis has the batch's length at both batches."""
        return self.rank > axis and (self.a.shape[axis], self.b.shape[axis]) == BATCHES


@dataclass(frozen=True)
class Items(Value):
    """A sequence of tensors, whose length is known; it never becomes a node itself."""

    items: tuple[Value, ...] = ()

    @classmethod
    def of(cls, items: Sequence[Value]) -> Items:
        nothing = torch.empty(0)
        return cls(nothing, nothing, None, tuple(items))


class Builder:
    """Makes an fx graph, and runs each operation at both batches while it does."""

    def __init__(self, fixed_batch: int | None) -> None:
        self.graph = fx.Graph()
        self.root = nn.Module()
        self.fixed_batch = fixed_batch  # of the file: its constants may contain it
        self.inputs: list[Value] = []
        self._names: set[str] = set()
        self._buffers: dict[int, tuple[Value, fx.Node]] = {}
        self._learned: dict[int, Value] = {}
        self._batch: Value | None = None
        self.where = ""  # the output that is being made: for modules' names and for finding what differs

    def placeholder(self, name: str, a: Tensor, b: Tensor) -> Value:
        self.inputs.append(Value(a, b, self.graph.placeholder(self.unique(name))))
        return self.inputs[-1]

    def unique(self, name: str) -> str:
        cleaned = "".join(c if c.isascii() and (c.isalnum() or c == "_") else "_" for c in name).strip("_") or "layer"
        cleaned = cleaned if cleaned[0].isalpha() else f"n{cleaned}"
        found, number = cleaned, 1
        while found in self._names or hasattr(self.root, found):
            number += 1
            found = f"{cleaned}_{number}"
        self._names.add(found)
        return found

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Value:
        """The function's result, with Values among the arguments. Computed now where no input decides it."""
        (a, b), given = self._at_both(function, args, kwargs), _values((args, kwargs))
        if all(value.is_static for value in given):
            return Value(a, b)
        node_args, node_kwargs = _mapped((args, kwargs), self._as_node)
        node = self.graph.call_function(function, node_args, node_kwargs)
        node.meta["onnx"] = self.where
        return Value(a, b, node)

    def layer(self, name: str, module: nn.Module, *args: Value) -> Value:
        """The answer of a layer with weights, which becomes a submodule."""
        module = module.eval()
        a, b = self._at_both(module, args, {})
        if all(value.is_static for value in args):
            return Value(a, b)
        own = self.unique(name)
        self.root.add_module(own, module)
        node = self.graph.call_module(own, tuple(self._as_node(value) for value in args))
        node.meta["onnx"] = self.where
        return Value(a, b, node)

    def along_channels(self, value: Value, beside: Value) -> None:
        """Make a constant with one value a channel, behind a layer, a parameter: such scales train, and pruning shortens them."""
        if not value.is_constant or beside.node is None or not value.dtype.is_floating_point or value.rank > beside.rank:
            return
        sizes = [1] * (beside.rank - value.rank) + list(value.shape)
        axes = [axis for axis, size in enumerate(sizes) if size > 1]
        allowed = (1, 2) if beside.rank == 3 else (1,)  # behind a convolution, or a dense layer
        if len(axes) == 1 and axes[0] in allowed and sizes[axes[0]] == beside.shape[axes[0]] and _behind_layer(beside.node):
            self._learned[id(value.a)] = value

    def tensor(self, value: Tensor) -> Value:
        return Value(value, value)

    def size(self, a: int, b: int) -> Any:
        """A size: an integer where the batch does not decide it, else a Value of a linear expression of the batch."""
        if a == b:
            return int(a)
        factor = (b - a) // (BATCHES[1] - BATCHES[0])
        rest = a - factor * BATCHES[0]
        value = self.batch
        if factor != 1:
            value = self.call(operator.mul, value, factor)
        return self.call(operator.add, value, rest) if rest else value

    @property
    def batch(self) -> Value:
        if self._batch is None:
            first = self.inputs[0]
            self._batch = self.call(torch.ops.aten.sym_size.int, first, 0)
        return self._batch

    def sizes(self, value: Value) -> list[Any]:
        """The elements of a static vector as sizes."""
        if not value.is_static:
            raise Unsupported("a size that the data decide; export the model with fixed sizes")
        if value.a.numel() != value.b.numel():
            raise Unsupported("a shape whose length the batch decides")
        return [self.size(int(x), int(y)) for x, y in zip(value.a.reshape(-1).tolist(), value.b.reshape(-1).tolist(), strict=True)]

    def ints(self, value: Value) -> list[int]:
        """The elements of a constant vector."""
        if not value.is_constant:
            raise Unsupported("an argument that the data or the batch decide; export the model with fixed sizes")
        return [int(x) for x in value.a.reshape(-1).tolist()]

    def number(self, value: Value) -> float:
        if not value.is_constant or value.a.numel() != 1:
            raise Unsupported("an argument that is no constant number")
        return float(value.a.reshape(-1)[0])

    def operand(self, value: Value, beside: Value) -> Any:
        """An operand of an elementwise operation: one number becomes a Python number, where types and shape stay the same."""
        if not value.is_constant or beside.is_static or value.a.numel() != 1 or value.rank > beside.rank:
            return value
        if value.dtype != beside.dtype:
            return value
        item = value.a.reshape(-1)[0].item()
        return item if item == item and abs(item) != float("inf") else value

    def _at_both(self, function: Callable[..., Any], args: Any, kwargs: Any) -> tuple[Any, Any]:
        found = []
        with torch.no_grad():
            for pick in (lambda v: v.a, lambda v: v.b):
                some_args, some_kwargs = _mapped((args, kwargs), pick)
                try:
                    found.append(function(*some_args, **some_kwargs))
                except (RuntimeError, TypeError, ValueError, IndexError, NotImplementedError) as error:
                    raise Unsupported(f"its operands do not fit ({' '.join(str(error).split())[:200]})") from error
        result = found[0]
        if isinstance(result, Tensor) and result.numel() > MAX_CONSTANT:
            raise Unsupported(f"a tensor of {result.numel():,} values")
        return found[0], found[1]

    def _as_node(self, value: Value) -> Any:
        if isinstance(value, Items):
            raise Unsupported("of a sequence")
        if value.node is not None:
            return value.node
        if not isinstance(value.a, Tensor):
            return value.a
        if not value.is_constant:
            return self._for_each_sample(value)
        kept = self._buffers.get(id(value.a))
        if kept is not None:
            return kept[1]
        name = self.unique(f"constant_{len(self._buffers)}")
        kept_values = value.a.detach().clone().contiguous()
        if id(value.a) in self._learned:
            self.root.register_parameter(name, nn.Parameter(kept_values))
        else:
            self.root.register_buffer(name, kept_values)
        node = self.graph.get_attr(name)
        self._buffers[id(value.a)] = (value, node)
        return node

    def _for_each_sample(self, value: Value) -> fx.Node:
        """A constant that is the same for each sample: one row of it, expanded along the batch."""
        row: Any = value.a[:1] if value.rank else None
        same = row is not None and value.a.shape[1:] == value.b.shape[1:]
        if not same or not bool((value.a == row).all()) or not bool((value.b == row).all()):
            raise Unsupported("a constant whose values or shape the batch decides")
        first = self.size(len(value.a), len(value.b))
        sizes = [self._as_node(first) if isinstance(first, Value) else first, *row.shape[1:]]
        node = self.graph.call_function(Tensor.expand, (self._as_node(self.tensor(row.clone())), sizes))
        node.meta["onnx"] = self.where
        return node

    def finished(self, outputs: Sequence[Value]) -> fx.GraphModule:
        nodes = tuple(self._as_node(value) for value in outputs)
        self.graph.output(nodes if len(nodes) > 1 else nodes[0])
        _constants_first(self.graph)
        module = fx.GraphModule(self.root, self.graph)
        module.graph.eliminate_dead_code()
        module.delete_all_unused_submodules()
        module.recompile()
        return module


def _behind_layer(node: fx.Node) -> bool:
    """Whether a layer with weights stands before it, with nothing between them but a few operations."""
    for _ in range(MAX_BETWEEN):
        if node.op == "call_module":
            return True
        before = [arg for arg in node.args if isinstance(arg, fx.Node) and arg.op != "get_attr"]
        if node.op != "call_function" or not before:
            return False
        node = before[0]
    return False


def _constants_first(graph: fx.Graph) -> None:
    """Each constant is read before its first use, wherever it was made."""
    first = next((node for node in graph.nodes if node.op != "placeholder"), None)
    for node in list(graph.nodes):
        if node.op == "get_attr" and first is not None and node is not first:
            first.prepend(node)


def _values(given: Any) -> list[Value]:
    found: list[Value] = []
    _mapped(given, found.append)
    return found


def _mapped(given: Any, change: Callable[[Value], Any]) -> Any:
    if isinstance(given, Items):
        raise Unsupported("of a sequence")
    if isinstance(given, Value):
        return change(given)
    if isinstance(given, (list, tuple)):
        return type(given)(_mapped(item, change) for item in given)
    if isinstance(given, dict):
        return {key: _mapped(item, change) for key, item in given.items()}
    return given


def alike(value: Value) -> Tensor | None:
    """What is the same for each sample of the batch, along the first axis: without it. None where samples differ."""
    if not value.rank or (len(value.a), len(value.b)) != BATCHES or value.a.shape[1:] != value.b.shape[1:]:
        return None
    first: Tensor = value.a[0]
    return first if bool((value.a == first).all()) and bool((value.b == first).all()) else None
