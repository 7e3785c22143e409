"""Fake quantization: modules that round in training and calibration exactly as the integer runtimes will on the device."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from edgeloop_exporters.range_observers import Following
from edgeloop_exporters.ranges import LEVELS, Method, clipped, spread

__all__ = ["SEEN_A_BATCH", "WEIGHT_MAX", "ActivationQuantizer", "Mode", "Rescaled", "WeightQuantizer", "is_symmetric"]

WEIGHT_MAX = 127
MIDDLE = 128  # zero of int8, in uint8 form
Mode = Literal["off", "observe", "quantize"]
SEEN_A_BATCH = 16_384  # values of each batch that calibration keeps a sample of


class ActivationQuantizer(nn.Module):
    """Per-tensor affine uint8 quantizer of one activation; several points may share one instance.

    `observe` keeps a sample of what passes; `settle` then chooses the range; `quantize` rounds with a straight-through
    gradient (Jacob et al. 2018) and, while `following` is set, lets the range follow the data. One that is not `rounding`
    knows its range and hands on what it is given: scores that stay in float. `least`: values below are not told apart. `most`:
    the range goes up to here at least, and is that of all values, whatever the method.
    `greatest`: values above are not told apart. `symmetric`: the zero point is 128, which
    is 0 as int8, and the range reaches as far down as up.
    """

    def __init__(
        self, fixed: tuple[float, int] | None = None, rounding: bool = True, least: float = -math.inf, most: float | None = None,
        symmetric: bool = False, greatest: float = math.inf,
    ) -> None:  # fmt: skip
        super().__init__()
        self.greatest, self.kept_a_batch = greatest, SEEN_A_BATCH
        self.mode: Mode = "off"
        self.symmetric = symmetric
        self.fixed, self.rounding, self.least, self.most = fixed, rounding, least, most
        self.following: Following | None = None
        self.seen: list[Tensor] = []
        self.extremes: list[tuple[float, float]] = []  # of each calibration sample
        self.chosen: dict[tuple[Method, float], tuple[float, float]] = {}  # ranges of what was seen so far
        self.low: Tensor
        self.high: Tensor
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))

    def qparams(self) -> tuple[Tensor, Tensor]:
        """Scale (float32 scalar) and zero point (int32 scalar, 0..255); zero is always exactly representable."""
        if self.fixed:
            return torch.tensor(self.fixed[0]), torch.tensor(self.fixed[1], dtype=torch.int32)
        low, high = self.low.clamp(max=0.0), self.high.clamp(min=0.0)
        if self.symmetric:
            scale = (torch.maximum(-low, high) / WEIGHT_MAX).clamp(min=1e-8)
            return scale, torch.full((), MIDDLE, dtype=torch.int32)
        scale = ((high - low) / LEVELS).clamp(min=1e-8)
        return scale, (-low / scale).round().clamp(0, LEVELS).to(torch.int32)

    def follow(self, following: Following | None) -> None:
        """Let the range follow the data from now on, or (None) stand still. A window is a buffer: checkpoints hold it."""
        self.following = following
        if following is None or following.policy == "moving" or self.fixed:
            self._buffers.pop("history", None)
        elif "history" not in self._buffers:
            self.register_buffer("history", torch.stack([self.low, self.high]).repeat(following.history, 1))

    def settle(self, method: Method, percentile: float) -> None:
        """Choose the range from what was observed."""
        if self.seen and not self.fixed:
            method = method if self.most is None else "minmax"
            if (method, percentile) not in self.chosen:  # repairs choose the same range again and again
                self.chosen[method, percentile] = clipped(torch.cat(self.seen), method, percentile, self.symmetric)
            low, high = self.chosen[method, percentile]
            if method == "minmax":  # of every value, not of the sample
                low, high = min(a for a, _ in self.extremes), max(b for _, b in self.extremes)
            self.low.fill_(low)
            self.high.fill_(high if self.most is None else max(high, self.most))

    def forget(self) -> None:
        self.seen, self.extremes, self.chosen = [], [], {}

    @torch.no_grad()
    def _observe(self, x: Tensor) -> None:
        x = x.detach().float()
        if x.dim() == 4 and not x.is_contiguous():
            x = x.permute(0, 2, 3, 1)  # as it lies in memory: a copy in another order takes longer than the layer itself
        rows = x.flatten(1) if x.dim() > 1 else x.reshape(1, -1)
        lows, highs = rows.aminmax(dim=1)
        some = spread(rows.flatten(), self.kept_a_batch).clone()
        if math.isfinite(self.least) or math.isfinite(self.greatest):
            lows, highs, some = (values.clamp(self.least, self.greatest) for values in (lows, highs, some))
        self.extremes += list(zip(lows.tolist(), highs.tolist(), strict=True))
        self.chosen.clear()
        self.seen.append(some)

    @torch.no_grad()
    def _follow(self, x: Tensor, following: Following) -> None:
        low, high = (value.clamp(self.least, self.greatest) for value in x.detach().aminmax())
        if following.policy == "moving":
            self.low.lerp_(low, following.rate)
            self.high.lerp_(high, following.rate)
            return
        history = self.history
        assert isinstance(history, Tensor)
        newest = following.policy == "most_recent"
        self.low.copy_(history[0, 0] if newest else history[:, 0].amin())
        self.high.copy_(history[0, 1] if newest else history[:, 1].amax())
        history.copy_(history.roll(1, dims=0))
        history[0, 0], history[0, 1] = low, high

    def forward(self, x: Tensor) -> Tensor:
        if self.mode == "off":
            return x
        if self.mode == "observe":
            if not self.fixed:
                self._observe(x)
            return x
        if self.following and self.training and not self.fixed:
            self._follow(x, self.following)
        if not self.rounding:
            return x
        scale, zero_point = self.qparams()
        if torch.is_grad_enabled():
            return torch.fake_quantize_per_tensor_affine(x.float(), scale, zero_point, 0, LEVELS)
        # The same values to the bit; torch's operation also keeps a mask for gradients, and takes two to three times as long.
        return (x.float() * (1 / scale)).round_().add_(zero_point).clamp_(0, LEVELS).sub_(zero_point).mul_(scale)


def is_symmetric(module: nn.Module) -> bool:
    """Whether a graph's activations are int8 around zero, as TensorRT takes them."""
    return any(isinstance(child, ActivationQuantizer) and child.symmetric for child in module.modules())


class Rescaled(ActivationQuantizer):
    """The quantizer of `base` times a positive number: what `base` rounds is rounded here already, so nothing is done."""

    def __init__(self, base: ActivationQuantizer, factor: float) -> None:
        super().__init__()
        self._buffers.clear()
        self.base, self.factor = (base,), factor  # in a tuple: the base has its place in the module already
        self.rounding, self.symmetric = base.rounding, base.symmetric

    def qparams(self) -> tuple[Tensor, Tensor]:
        scale, zero_point = self.base[0].qparams()
        return scale * self.factor, zero_point

    def follow(self, following: Following | None) -> None:
        """As `base`."""

    def settle(self, method: Method, percentile: float) -> None:
        """As `base`."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if self.mode == "quantize" and self.base[0].mode != "quantize" else x


class WeightQuantizer(nn.Module):
    """Symmetric int8 quantizer of one weight, per output channel along `axis`, or per tensor when `axis` is None."""

    def __init__(self, axis: int | None) -> None:
        super().__init__()
        self.axis = axis
        self.mode: Mode = "off"
        self.floor: Tensor  # least scale a channel may have, so that its int32 bias cannot overflow
        self.register_buffer("floor", torch.full((), 1e-9))

    def scales(self, weight: Tensor) -> Tensor:
        """Scale per channel, shape (channels,), or (1,) per tensor."""
        flat = weight.detach().abs()
        peak = flat.amax() if self.axis is None else flat.movedim(self.axis, 0).flatten(1).amax(1)
        return torch.maximum(peak.reshape(-1) / WEIGHT_MAX, self.floor)

    def forward(self, weight: Tensor) -> Tensor:
        if self.mode != "quantize":
            return weight
        scales = self.scales(weight)
        if self.axis is None:
            zero = torch.zeros((), dtype=torch.int32)
            return torch.fake_quantize_per_tensor_affine(weight, scales[0], zero, -WEIGHT_MAX, WEIGHT_MAX)
        zeros = torch.zeros_like(scales, dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(weight, scales, zeros, self.axis, -WEIGHT_MAX, WEIGHT_MAX)
