"""What is left of an ONNX graph after an edit, and serves nothing."""

from __future__ import annotations

from typing import Any

__all__ = ["remove_unread"]


def remove_unread(graph: Any) -> None:
    """Nodes whose outputs nobody reads any more, and constants."""
    while True:
        read = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
        unread = [node for node in graph.node if not any(name in read for name in node.output)]
        if not unread:
            for constant in [c for c in graph.initializer if c.name not in read]:
                graph.initializer.remove(constant)
            return
        for node in unread:
            graph.node.remove(node)
