"""Small random networks by a seed: layers, activations, norms, pools, moves, reductions and arithmetic in any order."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Form = Callable[[random.Random, Tensor], nn.Module]
SHAPES = ((12, 12, 3), (13, 9, 4), (12, 10, 1), (7, 1, 3), (1, 1, 8), (16, 8), (11, 4), (20,))
MAX_VALUES, MAX_VALUE, LEAST_SPREAD = 20_000, 60.0, 1e-3  # of one sample between two operations


class Do(nn.Module):
    """`function` of what comes, with the modules that it calls."""

    def __init__(self, name: str, function: Callable[[Tensor], Tensor], *inside: nn.Module) -> None:
        super().__init__()
        self.name, self.function, self.inside = name, function, nn.ModuleList(inside)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)

    def extra_repr(self) -> str:
        return self.name


def network(seed: int) -> tuple[nn.Sequential, tuple[int, ...]]:
    """Three to six operations behind a layer, and the raw shape (channels last) of one sample.

    What does not fit, mixes samples, grows or says always the same is drawn again.
    """
    draw = random.Random(seed)
    torch.manual_seed(seed)
    shape = draw.choice(SHAPES)
    x = torch.randn(8, shape[-1], *shape[:-1])
    steps: list[nn.Module] = []
    for number in range(draw.randrange(4, 8)):
        step, x = _next(draw, x, [layer] if number == 0 else FORMS)
        steps.append(step)
    if x[0].numel() < 3000:
        steps += [nn.Flatten(), nn.Linear(x[0].numel(), 5)]
    return nn.Sequential(*steps).eval(), shape


def _next(draw: random.Random, x: Tensor, forms: Sequence[Form]) -> tuple[nn.Module, Tensor]:
    while True:
        try:
            step = draw.choice(forms)(draw, x).eval()
            step = _joined(draw, step) if draw.random() < 0.25 else step
            with torch.no_grad():
                y, alone = step(x), step(x[:1])
        except (RuntimeError, ValueError, IndexError, TypeError, ZeroDivisionError):  # it does not fit
            continue
        whole = 2 <= y.dim() <= 5 and len(y) == len(x) and 0 < y[0].numel() < MAX_VALUES and y.dtype == torch.float32
        if whole and torch.allclose(y[:1], alone, atol=1e-3) and y.std() > LEAST_SPREAD and y.abs().max() < MAX_VALUE:
            return step, y


def _joined(draw: random.Random, step: nn.Module) -> nn.Module:
    ways: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "add": torch.add, "sub": torch.sub, "mul": torch.mul, "gate": lambda x, y: x * torch.sigmoid(y), "max": torch.maximum,
        "min": torch.minimum, "cat": lambda x, y: torch.cat([x, y], 1), "stack": lambda x, y: torch.stack([x, y], 1).flatten(1, 2),
        "where": lambda x, y: torch.where(y > 0, x, y), "div": lambda x, y: x / (y.abs() + 1),
    }  # fmt: skip
    name, way = draw.choice(list(ways.items()))
    return Do(f"{name}({step!r})", lambda x: way(x, step(x)), step)


def _of_rank(x: Tensor, *kinds: Any) -> Any:
    return kinds[x.dim() - 3]  # for series, and for pictures


def layer(draw: random.Random, x: Tensor) -> nn.Module:
    channels, outputs = x.shape[1], draw.choice([1, 3, 4, 8, 12])
    if x.dim() == 2:
        return nn.Linear(channels, outputs)
    groups = channels if draw.random() < 0.2 else 1
    outputs, kernel = outputs * groups if groups > 1 else outputs, draw.choice([1, 2, 3, 3, 5])
    if draw.random() < 0.2:
        kind, stride = _of_rank(x, nn.ConvTranspose1d, nn.ConvTranspose2d), draw.choice([1, 2, 3])
        spread: nn.Module = kind(channels, outputs, kernel, stride, draw.choice([0, 1]), 0, groups, dilation=draw.choice([1, 1, 2]))
        return spread
    padding, mode = draw.choice([0, 1, 2, "valid"]), draw.choice(["zeros", "zeros", "zeros", "reflect", "replicate", "circular"])
    stride, kind, gaps = draw.choice([1, 1, 2, 3]), _of_rank(x, nn.Conv1d, nn.Conv2d), draw.choice([1, 1, 2])
    if kernel % 2 and draw.random() < 0.3:
        padding, stride = "same", 1
    made: nn.Module = kind(channels, outputs, kernel, stride, padding, gaps, groups, draw.random() < 0.8, mode)
    return made


ACTIVATIONS: list[Callable[[], nn.Module]] = [
    nn.ReLU, nn.ReLU6, nn.Hardswish, nn.SiLU, nn.GELU, nn.Sigmoid, nn.Tanh, nn.ELU, nn.SELU, nn.Mish, nn.Softplus, nn.Softsign,
    nn.Hardsigmoid, nn.Hardtanh, nn.LeakyReLU, nn.LogSigmoid, nn.Tanhshrink, nn.Softshrink,
]  # fmt: skip


def activation(draw: random.Random, x: Tensor) -> nn.Module:
    return draw.choice(ACTIVATIONS)() if draw.random() < 0.9 else nn.PReLU(x.shape[1])


def norm(draw: random.Random, x: Tensor) -> nn.Module:
    channels = x.shape[1]
    batch = nn.BatchNorm1d(channels) if x.dim() < 4 else nn.BatchNorm2d(channels)
    batch.running_mean, batch.running_var = torch.randn(channels) * 0.3, torch.rand(channels) + 0.5
    others = [nn.GroupNorm(1, channels), nn.LayerNorm(x.shape[-1]), nn.RMSNorm(x.shape[-1]), nn.LocalResponseNorm(3)]
    return draw.choice([batch, *others])


def pool(draw: random.Random, x: Tensor) -> nn.Module:
    size, stride, larger = draw.choice([1, 2, 3]), draw.choice([1, 2, 3]), draw.choice([1.5, 2, 3])
    windows = [_of_rank(x, nn.MaxPool1d, nn.MaxPool2d), _of_rank(x, nn.AvgPool1d, nn.AvgPool2d)]
    parts = [_of_rank(x, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d), _of_rank(x, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d)]
    resized = nn.Upsample(scale_factor=larger, mode=draw.choice(["nearest", _of_rank(x, "linear", "bilinear")]))
    made: nn.Module = draw.choice(windows)(size, stride, size // 2, ceil_mode=draw.random() < 0.3)
    part: nn.Module = draw.choice(parts)(size)
    return draw.choice([made, made, resized, part])


def move(draw: random.Random, x: Tensor) -> nn.Module:
    a, b = draw.randrange(1, x.dim()), draw.randrange(1, x.dim())
    size, order = x.shape[a], [0, *draw.sample(range(1, x.dim()), x.dim() - 1)]
    cut, places = draw.randrange(size), torch.tensor([draw.randrange(size) for _ in range(size)])
    pads = [draw.choice([0, 1, 2]) for _ in range(2 * (x.dim() - 2))]
    mode, line = draw.choice(["constant", "reflect", "replicate", "circular"]), [-1 if i == a else 1 for i in range(x.dim())]
    ways: dict[str, Callable[[Tensor], Tensor]] = {
        f"permute {order}": lambda x: x.permute(order), f"chunk {a}": lambda x: torch.cat(x.chunk(2, a)[::-1], a),
        f"flip {a} {b}": lambda x: x.flip(sorted({a, b})), f"roll {a}": lambda x: x.roll(2, a), f"pad {pads} {mode}": lambda x: F.pad(x, pads, mode),
        f"narrow {a} {cut}": lambda x: x.narrow(a, cut, size - cut), f"select {a} {cut}": lambda x: x.select(a, cut),
        f"split {a} {cut}": lambda x: torch.cat(torch.split(x, [cut, size - cut], a)[::-1], a), f"step {a}": lambda x: x.movedim(a, 1)[:, ::2].movedim(1, a),
        f"index {a} {places.tolist()}": lambda x: x.index_select(a, places), f"repeat {a}": lambda x: x.repeat_interleave(2, a),
        f"gather {a}": lambda x: x.gather(a, places.reshape(line).expand(x.shape)), "flatten": lambda x: x.flatten(1, 2), f"unsqueeze {a}": lambda x: x.unsqueeze(a),
        "shuffle": lambda x: F.channel_shuffle(x, 4), "turn": lambda x: torch.rot90(x, 1, (2, 3)), "unshuffle": lambda x: F.pixel_unshuffle(x, 2),
    }  # fmt: skip
    return Do(*draw.choice(list(ways.items())))


def arithmetic(draw: random.Random, x: Tensor) -> nn.Module:
    a, keeps, number = draw.randrange(1, x.dim()), draw.random() < 0.6 or x.dim() == 2, draw.choice([0.5, -0.5, 2.0])
    some = torch.linspace(-0.7, 1.5, x.shape[a]).reshape([-1 if i == a else 1 for i in range(x.dim())])
    ways: dict[str, Callable[[Tensor], Tensor]] = {
        f"mean {a} {keeps}": lambda x: x.mean(a, keeps), f"amax {a} {keeps}": lambda x: x.amax(a, keeps), f"min {a} {keeps}": lambda x: x.min(a, keeps).values,
        f"std {a}": lambda x: x.std(a, keepdim=True, correction=0), f"norm {a}": lambda x: F.normalize(x, dim=a), f"softmax {a}": lambda x: x.softmax(a),
        f"logsumexp {a}": lambda x: x.logsumexp(a, True), f"topk {a}": lambda x: x.topk(2, a).values, f"sort {a}": lambda x: x.sort(a).values,
        f"median {a}": lambda x: x.median(a, keeps).values, f"cummax {a}": lambda x: x.cummax(a).values, f"cumsum {a}": lambda x: x.cumsum(a) * 0.3,
        f"add {a}": lambda x: x + some, f"times {a}": lambda x: x * some, f"from {a}": lambda x: some - x, f"{number} times": lambda x: x * number,
        f"minus {number}": lambda x: x - number, "clamp": lambda x: x.clamp(-0.4, 0.7), "abs": torch.abs, "square": lambda x: x * x, "exp": lambda x: (x * 0.3).exp(),
        "root": lambda x: (x.abs() + 0.5).sqrt(), "inverse": lambda x: 1 / (x.abs() + 1), "masked": lambda x: x.masked_fill(x < 0, 0.25), "sine": torch.sin,
        "product": lambda x: (x @ x.transpose(-1, -2) * 0.2).softmax(-1) @ x, "attention": lambda x: F.scaled_dot_product_attention(x, x * 0.5, x),
    }  # fmt: skip
    return Do(*draw.choice(list(ways.items())))


FORMS: Sequence[Form] = (layer, layer, layer, activation, activation, norm, pool, move, move, arithmetic, arithmetic)
