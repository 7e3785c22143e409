"""Einsum: as a product of matrices where it is one, which quantizer and pruning know; else as torch's own."""

from __future__ import annotations

import torch

from edgeloop_exporters.onnx_import.table import HANDLERS, Node, handles
from edgeloop_exporters.onnx_import.values import Builder, Value


@handles("Einsum")
def _einsum(node: Node) -> Value:
    equation = str(node.get("equation")).replace(" ", "")
    made = _product(node, equation) if len(node.inputs) == 2 else None
    return node.build.call(torch.einsum, equation, *node.inputs) if made is None else made


def _product(node: Node, equation: str) -> Value | None:
    """None where it is no single product: repeated or open letters, sums over one operand, several axes to be joined."""
    given, _, wanted = equation.partition("->")
    first, _, second = given.partition(",")
    if not wanted or "." in equation or any(len(set(letters)) < len(letters) for letters in (first, second, wanted)):
        return None
    shared = [c for c in first if c in second and c in wanted]
    summed = [c for c in first if c in second and c not in wanted]
    left, right = [c for c in first if c not in second], [c for c in second if c not in first]
    # Axes before a matrix are free only where the other side has none of them.
    if len(summed) != 1 or len(right) != 1 or not set(left + right) <= set(wanted) or (shared and len(left) != 1) or not left:
        return None
    a = _ordered(node.build, node[0], first, [*shared, *left, *summed])
    b = _ordered(node.build, node[1], second, [*shared, *summed, *right])
    made = HANDLERS["MatMul"](Node(node.build, "MatMul", node.name, [a, b], {}, node.version, [True]))
    assert isinstance(made, Value)
    return _ordered(node.build, made, "".join([*shared, *left, *right]), list(wanted))


def _ordered(build: Builder, x: Value, letters: str, wanted: list[str]) -> Value:
    order = [letters.index(c) for c in wanted]
    return x if order == list(range(x.rank)) else build.call(torch.permute, x, order)
