"""Constants that keep a logarithm or a division from zero, in a form that ONNX's exporter leaves alone."""

from __future__ import annotations

from torch import fx

from edgeloop_exporters.graph import aten, tensor_of

__all__ = ["as_vectors"]

TINY = 1e-7  # onnxscript takes a single number below 1e-8 for zero, and removes the sum


def as_vectors(module: fx.GraphModule) -> None:
    """Tiny numbers that are added as vectors of the last axis: the same values, which its rules for single numbers do not see."""
    for node in list(module.graph.nodes):
        if node.target not in (aten.add.Tensor, aten.sub.Tensor):
            continue
        for place, other in ((0, 1), (1, 0)):
            constant = tensor_of(module, node.args[place]) if isinstance(node.args[place], fx.Node) else None
            read = node.args[other].meta.get("val") if isinstance(node.args[other], fx.Node) else None
            if constant is None or constant.numel() != 1 or read is None or not read.dim() or not 0 < abs(constant.item()) < TINY:
                continue
            size = read.shape[-1]
            if isinstance(size, int) and size > 1:
                name = f"tiny_{node.name}"
                module.register_buffer(name, constant.detach().reshape(1).expand(size).clone())
                with module.graph.inserting_before(node):
                    node.update_arg(place, module.graph.get_attr(name))
    module.recompile()
