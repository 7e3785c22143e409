"""Padding in channels-last layout, which litert-torch's layout pass does not know."""

from __future__ import annotations

import torch
from torch import Tensor, fx


def pads_channels_last(x: Tensor, pads: list[int], value: float | None = None) -> Tensor:
    """`constant_pad_nd` of (N, H, W, C). `pads`: as for (N, C, H, W), two numbers a dimension from the last one on."""
    width, height, channels, batch = (pads[i : i + 2] or [0, 0] for i in (0, 2, 4, 6))
    return torch.nn.functional.pad(x, [*channels, *width, *height, *batch], value=value)


def register_padding() -> None:
    """Register it with the converter.

    Without it a padded tensor is transposed twice and the padding does not merge into its convolution: TensorFlow's uneven padding
    then costs a quarter of EfficientNet-Lite0's time.
    """
    from litert_torch._convert.fx_passes.optimize_layout_transposes_pass import layout_rewrite

    def rewrite(node: fx.Node) -> None:
        node.target = pads_channels_last

    layout_rewrite.rewriters.register(torch.ops.aten.constant_pad_nd.default)(rewrite)
