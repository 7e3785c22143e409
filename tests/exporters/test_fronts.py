"""Which leading part of a network is a spectrum of its input, and which is learned."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from edgeloop_exporters.fronts import leading_part, spectrum
from edgeloop_exporters.graph import WEIGHTED, fold_batchnorm, trace
from edgeloop_exporters.simplification import simplify


class LogMel(nn.Module):
    """Two fixed kernels, their squares, bands, a logarithm, and a norm over the sample; then a learned layer."""

    def __init__(self, root: bool = False) -> None:
        super().__init__()
        self.real, self.imaginary = nn.Conv1d(1, 16, 32, 16, bias=False), nn.Conv1d(1, 16, 32, 16, bias=False)
        self.mel, self.learned, self.root = nn.Linear(16, 8, bias=False), nn.Conv1d(8, 4, 3), root

    def forward(self, x: Tensor) -> Tensor:
        power = (self.real(x) ** 2 + self.imaginary(x) ** 2).transpose(1, 2)
        level = self.mel(power.sqrt()) if self.root else torch.log(self.mel(power).clamp(min=1e-10))
        level = (level - level.mean((1, 2), keepdim=True)) / (level.std((1, 2), keepdim=True) + 1e-3)
        return torch.relu(self.learned(level.transpose(1, 2))).mean(2)


class Patches(nn.Module):
    """A learned layer, and a LayerNorm that is written out."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.head = nn.Conv1d(1, 8, 16, 16), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).transpose(1, 2)
        off = x - x.mean(2, keepdim=True)
        x = off / torch.sqrt((off**2).mean(2, keepdim=True) + 1e-5)
        return self.head(x).mean(1)


def activations(kind: str) -> nn.Module:
    act = {"relu": nn.ReLU(), "silu": nn.SiLU(), "hardswish": nn.Hardswish(), "mish": nn.Mish(), "gelu": nn.GELU()}[kind]
    return nn.Sequential(nn.Conv1d(1, 8, 16, 4), nn.BatchNorm1d(8), act, nn.Conv1d(8, 4, 3), nn.AdaptiveAvgPool1d(1), nn.Flatten())


class Normalized(nn.Module):
    """The loudness is taken out of the sound itself."""

    def __init__(self) -> None:
        super().__init__()
        self.rest = activations("relu")

    def forward(self, x: Tensor) -> Tensor:
        return self.rest(x / torch.sqrt((x * x).mean(2, keepdim=True) + 1e-9))


@pytest.mark.parametrize(
    ("network", "layers", "some"),
    [
        (LogMel(), 3, True), (LogMel(root=True), 2, True), (Patches(), 0, False), (Normalized(), 0, True),
        *((activations(kind), 0, False) for kind in ("relu", "silu", "hardswish", "mish", "gelu")),
    ],
)  # fmt: skip
def test_a_spectrum_ends_before_the_first_learned_layer(network: nn.Module, layers: int, some: bool) -> None:
    module = trace(network, torch.rand(2, 1, 512))
    simplify(module)
    fold_batchnorm(module)
    front = spectrum(module)
    assert bool(front) is some
    assert sum(node.target in WEIGHTED for node in front) == layers


def test_a_leading_part_has_so_many_layers_and_their_activations() -> None:
    module = trace(activations("relu"), torch.rand(2, 1, 512))
    simplify(module)
    fold_batchnorm(module)
    assert leading_part(module, 2) == set()  # the whole network
    for layers in (0, 1):
        part = leading_part(module, layers)
        assert sum(node.target in WEIGHTED for node in part) == layers
        assert any("relu" in str(node.target) for node in part) is (layers > 0)


class Heads(nn.Module):
    """Two layers in all: what answers is no beginning."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.boxes, self.scores = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        seen = self.stem(x).relu()
        return torch.cat([self.boxes(seen), self.scores(seen).sigmoid()], 1)


def test_an_answer_is_no_beginning() -> None:
    module = trace(Heads(), torch.rand(2, 1, 16, 16))
    assert sum(node.target in WEIGHTED for node in leading_part(module, 1)) == 1
    assert leading_part(module, 2) == set()
