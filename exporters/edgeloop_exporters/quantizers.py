"""Fake quantization: modules that round in training and calibration exactly as the integer runtimes will on the device."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

LEVELS = 255
WEIGHT_MAX = 127
Mode = Literal["off", "observe", "quantize"]


class ActivationQuantizer(nn.Module):
    """Per-tensor affine uint8 quantizer of one activation; several points may share one instance.

    `observe` records the range and passes the tensor on; `quantize` rounds with a straight-through gradient
    (Jacob et al. 2018) and, while `moving` is above 0, lets the range follow the data by that share per step.
    """

    def __init__(self, fixed: tuple[float, int] | None = None, percentile: float = 100.0) -> None:
        super().__init__()
        self.mode: Mode = "off"
        self.fixed = fixed
        self.percentile = percentile
        self.moving = 0.0
        self.observed = 0
        self.low: Tensor
        self.high: Tensor
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))

    def qparams(self) -> tuple[Tensor, Tensor]:
        """Scale (float32 scalar) and zero point (int32 scalar, 0..255); zero is always exactly representable."""
        if self.fixed:
            return torch.tensor(self.fixed[0]), torch.tensor(self.fixed[1], dtype=torch.int32)
        low, high = self.low.clamp(max=0.0), self.high.clamp(min=0.0)
        scale = ((high - low) / LEVELS).clamp(min=1e-8)
        return scale, (-low / scale).round().clamp(0, LEVELS).to(torch.int32)

    @torch.no_grad()
    def _range(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.percentile >= 100.0:
            return x.min(), x.max()
        flat = x.flatten().float()
        flat = flat[:: max(1, flat.numel() // 1_000_000)]  # torch.quantile takes at most 16M values
        tail = (100.0 - self.percentile) / 100.0
        low, high = torch.quantile(flat, torch.tensor([tail, 1.0 - tail]))
        return low, high

    def forward(self, x: Tensor) -> Tensor:
        if self.mode == "off":
            return x
        if self.mode == "observe":
            low, high = self._range(x.detach())
            if self.percentile >= 100.0 or self.observed == 0:
                first = self.observed == 0
                self.low.copy_(low if first else torch.minimum(self.low, low))
                self.high.copy_(high if first else torch.maximum(self.high, high))
            else:
                self.low.lerp_(low, 1.0 / (self.observed + 1))
                self.high.lerp_(high, 1.0 / (self.observed + 1))
            self.observed += 1
            return x
        if self.moving and self.training and not self.fixed:
            low, high = self._range(x.detach())
            self.low.lerp_(low, self.moving)
            self.high.lerp_(high, self.moving)
        scale, zero_point = self.qparams()
        return torch.fake_quantize_per_tensor_affine(x.float(), scale, zero_point, 0, LEVELS)


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
