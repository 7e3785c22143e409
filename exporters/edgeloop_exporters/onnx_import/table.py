"""The table of operators: ONNX name → what makes torch operations of a node."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from edgeloop_exporters.onnx_import.values import Builder, Unsupported, Value

__all__ = ["DTYPES", "HANDLERS", "Node", "handles"]

# ONNX's numbers of types; half and double become float: the graph is quantized from float anyway.
DTYPES = {
    1: torch.float32, 2: torch.uint8, 3: torch.int8, 4: torch.uint16, 5: torch.int16, 6: torch.int32, 7: torch.int64, 9: torch.bool,
    10: torch.float32, 11: torch.float32, 12: torch.uint32, 13: torch.uint64, 16: torch.float32,
}  # fmt: skip


@dataclass(frozen=True)
class Node:
    """One ONNX node. `inputs`: None where one is left out; `version`: of the operator set."""

    build: Builder
    op: str
    name: str
    inputs: Sequence[Value | None]
    attributes: dict[str, Any]
    version: int
    wanted: Sequence[bool]  # which outputs have a name

    @property
    def outputs(self) -> int:
        return sum(self.wanted)

    def get(self, name: str, default: Any = None) -> Any:
        value = self.attributes.get(name, default)
        return value.decode() if isinstance(value, bytes) else value

    def maybe(self, i: int) -> Value | None:
        return self.inputs[i] if i < len(self.inputs) else None

    def __getitem__(self, i: int) -> Value:
        value = self.maybe(i)
        if value is None:
            raise Unsupported(f"without its input {i + 1}")
        return value

    def ints(self, i: int, attribute: str) -> list[int] | None:
        """Integers that newer operator sets take as an input, older ones as an attribute; None where neither is given."""
        value = self.maybe(i)
        if value is not None:
            return self.build.ints(value)
        found = self.get(attribute)
        return None if found is None else [int(v) for v in (found if isinstance(found, (list, tuple)) else [found])]


Handler = Callable[[Node], "Value | Sequence[Value | None]"]
HANDLERS: dict[str, Handler] = {}


def handles(*names: str) -> Callable[[Handler], Handler]:
    def keep(handler: Handler) -> Handler:
        HANDLERS.update(dict.fromkeys(names, handler))
        return handler

    return keep
