"""A light encoder and decoder for masks, in three widths.

Convolutions of 3×3 with BatchNorm and ReLU, nearest upsampling and additions: every runtime has integer kernels for them.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

WIDTHS = {"small": 8, "medium": 12, "large": 16}  # channels at the picture's own size
LEVELS = 4  # each has half the side of the one before


def _layer(inputs: int, outputs: int, size: int = 3, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


class Segmenter(nn.Module):
    """(N, channels, H, W) → logits (N, labels, H, W). H and W are multiples of 2 to the power of `levels` − 1.

    Each level of the decoder is what comes from below, made twice as large, plus what the encoder saw at that size.
    """

    def __init__(self, channels: int, labels: int, width: int, levels: int = LEVELS) -> None:
        super().__init__()
        wide = [width * min(2**level, 6) for level in range(levels)]
        self.down = nn.ModuleList(
            nn.Sequential(_layer(before, now, stride=2 if level else 1), _layer(now, now))
            for level, (before, now) in enumerate(zip([channels, *wide], wide, strict=False))
        )
        self.narrow = nn.ModuleList(_layer(below, now, 1) for now, below in pairwise(wide))
        self.twice = nn.Upsample(scale_factor=2, mode="nearest")
        self.mixed = nn.ModuleList(_layer(now, now) for now in wide[:-1])
        self.head = nn.Conv2d(width, labels, 1)

    def forward(self, x: Tensor) -> Tensor:
        seen = []
        for layer in self.down:
            x = layer(x)
            seen.append(x)
        for level in reversed(range(len(self.mixed))):
            x = self.mixed[level](self.twice(self.narrow[level](x)) + seen[level])
        logits: Tensor = self.head(x)
        return logits


def segmenter(sample_shape: tuple[int, ...], outputs: int, width: str = "medium", levels: int = LEVELS) -> nn.Module:
    """`sample_shape`: (channels, H, W); `outputs`: number of labels; `width`: small, medium or large."""
    if width not in WIDTHS:
        raise ValueError(f"width {width!r}; there is {', '.join(WIDTHS)}")
    factor = 2 ** (levels - 1)
    if any(side % factor for side in sample_shape[1:]):
        raise ValueError(f"pictures of {sample_shape[1]} × {sample_shape[2]} pixels; both must be multiples of {factor}")
    return Segmenter(sample_shape[0], outputs, WIDTHS[width], levels)
