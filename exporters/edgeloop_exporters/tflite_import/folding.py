"""Tensors of a TFLite file that no input decides: shapes, and what is computed of them. The file's own runtime computes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgeloop_contract.arrays import Array

__all__ = ["folded"]

UNFIT = ("RANDOM", "VAR", "CALL", "WHILE", "IF", "READ", "ASSIGN", "HASHTABLE", "CUSTOM", "BUCKETIZE")
MAX_VALUES = 1 << 24


def folded(
    operators: Sequence[Any],
    kinds: Sequence[str],
    shapes: Mapping[int, tuple[int, ...]],
    constants: Mapping[int, Array],
    content: bytes,
) -> tuple[dict[int, Array], dict[int, tuple[int, ...]]]:  # fmt: skip
    """By number of a tensor, its values; and the shapes that all tensors really have, where the file leaves some to the runtime.

    `kinds`: of `operators`. Nothing where no shape is computed, or where the runtime does not run the file.
    """
    fixed: set[int] = set()
    for operator, kind in zip(operators, kinds, strict=True):
        read = [int(i) for i in operator.inputs if i >= 0]
        known = bool(read) and all(i in constants or i in fixed for i in read)
        if kind == "SHAPE" or (known and not kind.startswith(UNFIT)):
            fixed |= {int(i) for i in operator.outputs if np.prod(shapes[int(i)], dtype=np.int64) <= MAX_VALUES}
    return _run(content, sorted(fixed)) if fixed else ({}, {})


def _run(content: bytes, wanted: Sequence[int]) -> tuple[dict[int, Array], dict[int, tuple[int, ...]]]:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    from edgeloop_exporters.quiet import quiet

    try:
        with quiet():
            interpreter = Interpreter(
                model_content=content, experimental_preserve_all_tensors=True,
                experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
            )  # fmt: skip
            interpreter.allocate_tensors()
            interpreter.invoke()
            shapes = {int(t["index"]): tuple(int(n) for n in t["shape"]) for t in interpreter.get_tensor_details()}
            return {i: np.array(interpreter.get_tensor(i)) for i in wanted}, shapes
    except (RuntimeError, ValueError):  # an operator that it does not know: the rules name it
        return {}, {}
