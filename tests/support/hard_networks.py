"""Networks with one hard thing each: (N, 3, 32, 32) or (N, 3, 32) to five scores."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def closed(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5))


def conv(inputs: int, outputs: int, **options: int | bool) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, **options)  # type: ignore[arg-type]


class SqueezeExcite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv(3, 16, stride=2, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.squeeze, self.excite, self.scores = nn.Conv2d(16, 8, 1), nn.Conv2d(8, 16, 1), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        gate = torch.sigmoid(self.excite(torch.relu(self.squeeze(x.mean((2, 3), keepdim=True)))))
        return self.scores((x * gate).mean((2, 3)))


class Inception(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.three, self.dense, self.scores = nn.Conv2d(3, 8, 1), conv(3, 8), conv(16, 8), nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        both = torch.cat([torch.relu(self.one(x)), torch.relu(self.three(x))], 1)
        every = torch.cat([both, torch.relu(self.dense(both))], 1)
        return self.scores(F.adaptive_avg_pool2d(every, 1).flatten(1))


class Transposed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(conv(3, 16, stride=2), nn.BatchNorm2d(16), nn.ReLU())
        self.up = nn.Sequential(nn.ConvTranspose2d(16, 16, 2, 2), nn.BatchNorm2d(16), nn.ReLU())
        self.end, self.scores = conv(19, 16, stride=2), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.scores(torch.relu(self.end(torch.cat([self.up(self.down(x)), x], 1))).mean((2, 3)))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches, self.norm, self.qkv, self.out = nn.Conv2d(3, 16, 8, 8), nn.LayerNorm(16), nn.Linear(16, 48), nn.Linear(16, 16)
        self.norm2 = nn.LayerNorm(16)
        self.mlp = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))
        self.scores = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        x = x + self.out(torch.softmax(q @ k.transpose(1, 2) / 4, -1) @ v)
        return self.scores((x + self.mlp(self.norm2(x))).mean(1))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru, self.scores = nn.GRU(3, 16, batch_first=True), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.scores(self.gru(x.transpose(1, 2))[0][:, -1])


class OneDimensional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv1d(3, 16, 5, 2, 2), nn.BatchNorm1d(16), nn.ReLU())
        self.depthwise, self.pointwise, self.scores = nn.Conv1d(16, 16, 5, 2, 2, groups=16), nn.Conv1d(16, 16, 1), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.pointwise(torch.relu(self.depthwise(self.first(x)))))
        return self.scores(F.adaptive_avg_pool1d(x, 1).flatten(1))


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 5), nn.Linear(3, 5)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.a(x.mean((2, 3))) + self.b(y.mean((2, 3)))


class Shared(nn.Module):
    """One convolution and one BatchNorm, used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.again, self.norm, self.scores = conv(3, 16, stride=2), conv(16, 16), nn.BatchNorm2d(16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        for _ in range(2):
            x = torch.relu(self.norm(self.again(x)))
        return self.scores(x.mean((2, 3)))


class NormFirst(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.before, self.first, self.norm = nn.BatchNorm2d(3), conv(3, 16, stride=2), nn.BatchNorm2d(16)
        self.second, self.scores = conv(16, 16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(self.before(x))
        return self.scores((x + self.second(torch.relu(self.norm(x)))).mean((2, 3)))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(conv(3, 16, stride=2, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.second = nn.Sequential(conv(16, 16, bias=False), nn.BatchNorm2d(16))
        self.scores = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.scores(F.adaptive_avg_pool2d(torch.relu(self.second(x) + x), 1).flatten(1))


class Bottleneck(nn.Module):
    """Adds little to what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            conv(16, 32, bias=False), nn.BatchNorm2d(32), nn.ReLU6(), conv(32, 16, bias=False), nn.BatchNorm2d(16)
        )
        nn.init.constant_(self.layers[-1].weight, 0.1)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.layers(x)
        return made + x


class Stream(nn.Module):
    """Four residual blocks whose sums no activation follows."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv(3, 16, stride=2, bias=False), nn.BatchNorm2d(16), nn.ReLU6())
        self.blocks = nn.Sequential(*(Bottleneck() for _ in range(4)))
        self.scores = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.scores(F.adaptive_avg_pool2d(self.blocks(self.stem(x)), 1).flatten(1))
        return made


def without_bias() -> nn.Module:
    net = closed(conv(3, 16, stride=2, bias=False), nn.ReLU(), conv(16, 16, stride=2, bias=False), nn.ReLU())
    net[-1] = nn.Linear(16, 5, bias=False)  # type: ignore[operator]
    return net


def zero_channel() -> nn.Module:
    net = closed(conv(3, 16, stride=2), nn.ReLU(), conv(16, 16, stride=2), nn.ReLU())
    with torch.no_grad():
        for layer, channel in ((net[0], 3), (net[2], 5)):  # type: ignore[index]
            layer.weight[channel] = 0
            layer.bias[channel] = 0
    return net


NETWORKS = {
    "squeeze-excite": SqueezeExcite,
    "hard-swish": lambda: closed(conv(3, 16, stride=2), nn.BatchNorm2d(16), nn.Hardswish(), conv(16, 16), nn.Hardswish()),
    "SiLU": lambda: closed(conv(3, 16, stride=2), nn.BatchNorm2d(16), nn.SiLU(), conv(16, 16), nn.SiLU()),
    "grouped and depthwise": lambda: closed(
        conv(3, 16, stride=2), nn.ReLU(), conv(16, 16, groups=4), nn.ReLU6(), conv(16, 16, groups=16), nn.ReLU6()
    ),
    "inception": Inception,
    "transposed": Transposed,
    "attention": Attention,
    "GRU": Recurrent,
    "1-D": OneDimensional,
    "shared weights": Shared,
    "BatchNorm first": NormFirst,
    "residual": Residual,
    "padded at the end": lambda: closed(
        nn.ZeroPad2d((0, 1, 0, 1)),
        nn.Conv2d(3, 16, 3, 2),
        nn.BatchNorm2d(16),
        nn.ReLU6(),
        nn.ZeroPad2d((0, 1, 0, 1)),
        nn.Conv2d(16, 16, 3, 2, groups=16),
        nn.BatchNorm2d(16),
        nn.ReLU6(),
    ),
    "no bias": without_bias,
    "all-zero channel": zero_channel,
}
SERIES = {"GRU", "1-D"}
