"""Token ids as runtimes take them, and tables of rows in 8 bits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from edgeloop_exporters.graph import aten, tensor_of
from edgeloop_exporters.quantizers import WeightQuantizer
from edgeloop_exporters.rewrites import call

__all__ = ["narrow_tokens", "rows_of_constants", "tables_in_int8", "tables_of_one_hots"]

CASTS = {aten.to.dtype, aten._to_copy.default}
MAX_ROWS = 1 << 22  # values of the rows that are looked up at once


def narrow_tokens(module: fx.GraphModule) -> None:
    """Whole numbers of 64 bits as those of 32: token ids and masks fit, and TFLite looks rows up by these alone.

    A mask "not (id = pad)" is "id ≠ pad", which both runtimes have.
    """
    graph = module.graph
    if not any(n.op == "placeholder" and n.meta["val"].dtype == torch.int32 for n in graph.nodes):
        return
    for node in list(graph.nodes):
        if node.target is aten._assert_tensor_metadata.default:
            graph.erase_node(node)
    for node in list(graph.nodes):
        value = node.meta.get("val")
        if node.op == "get_attr" and isinstance(value, Tensor) and value.dtype == torch.int64:
            whole = tensor_of(module, node)
            assert whole is not None
            if whole.numel() and whole.abs().max() < 2**31:
                module.register_buffer(f"narrow_{node.name}", whole.to(torch.int32))
                node.target, node.meta["val"] = f"narrow_{node.name}", whole.to(torch.int32)
        if node.target in CASTS and isinstance(value, Tensor) and value.dtype == torch.int64:
            source: Any = node.args[0]
            if source.meta["val"].dtype == torch.int32:
                node.replace_all_uses_with(source)
                graph.erase_node(node)
            elif source.meta["val"].dtype in (torch.bool, torch.int8, torch.uint8, torch.int16):
                node.target, node.args, node.kwargs = aten.to.dtype, (source, torch.int32), {}
        elif node.target is aten.logical_not.default and node.args[0].target is aten.eq.Scalar:
            node.target, node.args = aten.ne.Scalar, node.args[0].args
        if node.op == "call_function" and isinstance(value, Tensor) and value.dtype == torch.int64 and not _reads_int64(node):
            node.meta["val"] = value.to(torch.int32)
    graph.eliminate_dead_code()


def _reads_int64(node: fx.Node) -> bool:
    values = [source.meta.get("val") for source in node.all_input_nodes]
    return any(isinstance(value, Tensor) and value.dtype == torch.int64 for value in values)


def tables_of_one_hots(module: fx.GraphModule) -> None:
    """A linear layer of `id == 0, 1, 2, …`, as JAX writes the lookup of a row, as that lookup; other ids give the bias alone."""
    graph = module.graph
    for node in list(graph.nodes):
        ids = _ids_of_one_hot(module, node) if node.target is aten.linear.default else None
        weight = tensor_of(module, node.args[1]) if ids is not None else None
        if ids is None or weight is None:
            continue
        bias = tensor_of(module, node.args[2]) if len(node.args) > 2 and node.args[2] is not None else None
        nothing = torch.zeros(1, len(weight))
        table = torch.cat([nothing, weight.detach().T, nothing]) + (0 if bias is None else bias.detach())
        name, count, value = f"table_{node.name}", weight.shape[1], ids.meta["val"]
        module.register_parameter(name, torch.nn.Parameter(table, requires_grad=weight.requires_grad))
        with graph.inserting_before(node):
            rows = graph.get_attr(name)
            rows.meta = {**node.meta, "val": table}
            known = call(graph, node, aten.clamp.default, (ids, -1, count), value)
            row = call(graph, node, aten.add.Tensor, (known, 1), value)
            read = call(graph, node, aten.embedding.default, (rows, row), node.meta["val"])
        node.replace_all_uses_with(read)
        graph.erase_node(node)
    graph.eliminate_dead_code()


def _ids_of_one_hot(module: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """The whole numbers whose one-hot rows this linear layer takes; None for other layers."""
    source: Any = node.args[0]
    while source.target in CASTS:
        source = source.args[0]
    if source.target is not aten.eq.Tensor:
        return None
    spread, numbers = source.args[0], tensor_of(module, source.args[1])
    if numbers is None or not torch.equal(numbers.flatten().long(), torch.arange(numbers.numel())):
        return None
    if spread.target not in (aten.reshape.default, aten.view.default, aten.unsqueeze.default):
        return None
    ids: Any = spread.args[0]
    there, shape = ids.meta["val"], spread.meta["val"].shape
    whole = not there.dtype.is_floating_point and numbers.shape[-1:] == (numbers.numel(),)
    return ids if whole and len(shape) == there.dim() + 1 and shape[-1] == 1 else None


def rows_of_constants(module: fx.GraphModule) -> None:
    """Rows that every sample looks up alike, such as those of token types, are a constant."""
    graph = module.graph
    for node in list(graph.nodes):
        if node.target is not aten.embedding.default:
            continue
        table, index = tensor_of(module, node.args[0]), _same_for_all(module, node.args[1])
        if table is None or index is None or index.numel() * table.shape[1] > MAX_ROWS:
            continue
        rows = table.detach()[index.long()].clone()
        name = f"rows_{node.name}"
        module.register_buffer(name, rows)
        with graph.inserting_before(node):
            read = graph.get_attr(name)
            read.meta = {**node.meta, "val": rows}
            if any(user.target is not aten.add.Tensor for user in node.users):
                read = call(graph, node, aten.expand.default, (read, _sizes(node)), node.meta["val"])
        node.replace_all_uses_with(read)
        graph.erase_node(node)
    graph.eliminate_dead_code()


def _same_for_all(module: fx.GraphModule, node: Any) -> Tensor | None:
    """(1, length) of an index that is expanded along the batch; None for others."""
    if not isinstance(node, fx.Node) or node.target is not aten.expand.default:
        return None
    source = tensor_of(module, node.args[0])
    shape = node.meta["val"].shape
    if source is None or source.dim() != len(shape) or source.shape[0] != 1:
        return None
    return source.expand(1, *(int(size) for size in shape[1:])) if all(isinstance(s, int) for s in shape[1:]) else None


def _sizes(node: fx.Node) -> list[Any]:
    expanded: Any = node.args[1]
    return [expanded.args[1][0], *(int(size) for size in node.meta["val"].shape[1:])]


def tables_in_int8(module: fx.GraphModule) -> None:
    """Lookups in a rounded table as lookups in its integers, times the row's scale: both runtimes do this in their plain kernels.

    Of a dequantized table they would make the whole table float at each call.
    """
    graph = module.graph
    for node in [n for n in graph.nodes if n.target is aten.embedding.default]:
        reader = node.args[0]
        quantizer = module.get_submodule(str(reader.target)) if reader.op == "call_module" else None
        if not isinstance(quantizer, WeightQuantizer):
            continue
        table = tensor_of(module, reader.args[0])
        assert table is not None
        scales = quantizer.scales(table)
        integers = (table.detach() / scales[:, None]).round().clamp(-127, 127).to(torch.int8)
        value = node.meta["val"]
        for name, tensor in ((f"{node.name}_int8", integers), (f"{node.name}_scale", scales[:, None].clone())):
            module.register_buffer(name, tensor)
        with graph.inserting_before(node):
            index = node.args[1]
            whole = call(graph, node, aten.embedding.default, (graph.get_attr(f"{node.name}_int8"), index), value.to(torch.int8))
            scale = call(graph, node, aten.embedding.default, (graph.get_attr(f"{node.name}_scale"), index), value[..., :1])
            real = call(graph, node, aten.to.dtype, (whole, torch.float32), value)
            rows = call(graph, node, aten.mul.Tensor, (real, scale), value)
        node.replace_all_uses_with(rows)
        graph.erase_node(node)


def attention_of_four_axes(module: fx.GraphModule) -> None:
    """Attention over (N, places, width) as of one head: torch's ONNX exporter knows it with heads alone."""
    graph = module.graph
    for node in [n for n in graph.nodes if n.target is aten.scaled_dot_product_attention.default]:
        if node.args[0].meta["val"].dim() != 3:
            continue
        with graph.inserting_before(node):
            for place, part in enumerate(node.args[:4]):
                if isinstance(part, fx.Node) and part.meta["val"].dim() == 3:
                    node.update_arg(place, call(graph, node, aten.unsqueeze.default, (part, 1), part.meta["val"].unsqueeze(1)))
        value = node.meta["val"]
        node.meta["val"] = value.unsqueeze(1)
        with graph.inserting_after(node):
            single = call(graph, node, aten.squeeze.dims, (node, [1]), value)
        node.replace_all_uses_with(single, delete_user_cb=lambda user, single=single: user is not single)
