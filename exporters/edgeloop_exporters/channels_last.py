"""What litert-torch's change to channels-last layout does not know, or gets wrong."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx


def pads_channels_last(x: Tensor, pads: list[int], value: float | None = None) -> Tensor:
    """`constant_pad_nd` of (N, H, W, C). `pads`: as for (N, C, H, W), two numbers a dimension from the last one on."""
    width, height, channels, batch = (pads[i : i + 2] or [0, 0] for i in (0, 2, 4, 6))
    return torch.nn.functional.pad(x, [*channels, *width, *height, *batch], value=value)


def one_reader_each(graph: fx.Graph) -> None:
    """A dequantize of its own for every reader, as in PT2E's graphs."""
    rounded = torch.ops.quantized_decomposed.dequantize_per_tensor.default
    for node in [n for n in graph.nodes if n.target is rounded]:
        for user in list(node.users)[1:]:
            with graph.inserting_before(node):
                own = graph.call_function(rounded, node.args, node.kwargs)
            own.meta = dict(node.meta)
            user.replace_input_with(node, own)


def largest_first(x: Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> tuple[Tensor, Tensor]:
    values, places = torch.ops.tfl.topk_v2((x if largest else -x).transpose(dim, -1), k)
    values = values.transpose(dim, -1)
    return values if largest else -values, places.transpose(dim, -1).to(torch.int64)


def in_order(x: Tensor, dim: int = -1, descending: bool = False) -> tuple[Tensor, Tensor]:
    return largest_first(x, x.shape[dim], dim, descending)


def register() -> None:
    """Mend the converter's pass, for this process.

    Padding: without it a padded tensor is transposed twice and the padding does not merge into its convolution: TensorFlow's uneven
    padding then costs a quarter of EfficientNet-Lite0's time.

    Readers: the pass writes over the layout that it noted at a dequantize which another reader still needs. Then it fails, as after
    the sum of two ConvNeXt blocks, or the file is wrong, as of a bicubic resizing or a cosine, which are many operations by then.
    """
    from litert_torch import fx_infra
    from litert_torch._convert import fx_passes
    from litert_torch._convert.fx_passes.optimize_layout_transposes_pass import layout_rewrite

    def rewrite(node: fx.Node) -> None:
        node.target = pads_channels_last

    layout_rewrite.rewriters.register(torch.ops.aten.constant_pad_nd.default)(rewrite)
    from litert_torch.backend.experimental import torch_tfl  # noqa: F401  (registers the tfl operations)

    fx_infra.decomp.add_pre_convert_decomp(torch.ops.aten.topk.default, largest_first)
    fx_infra.decomp.add_pre_convert_decomp(torch.ops.aten.sort.default, in_order)
    whole = fx_passes.OptimizeLayoutTransposesPass

    class OneReaderEach(whole):  # type: ignore[misc, valid-type]
        def call(self, program: torch.export.ExportedProgram) -> Any:
            one_reader_each(program.graph_module.graph)
            return super().call(program)

    if whole.__name__ != OneReaderEach.__name__:
        fx_passes.OptimizeLayoutTransposesPass = OneReaderEach
