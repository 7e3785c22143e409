"""The table of operators: ONNX name → what makes torch operations of a node."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from edgeloop_exporters.onnx_import.values import Builder, Unsupported, Value

__all__ = ["HANDLERS", "Node", "handles"]


@dataclass(frozen=True)
class Node:
    """One ONNX node. `inputs`: None where one is left out; `version`: of the operator set."""

    build: Builder
    op: str
    name: str
    inputs: Sequence[Value | None]
    attributes: dict[str, Any]
    version: int
    outputs: int

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


Handler = Callable[[Node], "Value | Sequence[Value]"]
HANDLERS: dict[str, Handler] = {}


def handles(*names: str) -> Callable[[Handler], Handler]:
    def keep(handler: Handler) -> Handler:
        HANDLERS.update(dict.fromkeys(names, handler))
        return handler

    return keep
