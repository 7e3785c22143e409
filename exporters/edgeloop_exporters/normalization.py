"""Input normalization: from raw channels-last counts to what a network takes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class InputNormalization:
    """How a raw sample becomes the network's input: (x − mean) / std per channel, then channels first.

    `dtype`: "int32" (token ids, which stay as they are), "uint8" (with one mean, an integer, and one std the
    raw count is the quantized value), "int16" or "float32".
    """

    dtype: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def input_qparams(self) -> tuple[float, int] | None:
        """Scale and zero point of raw counts that are the quantized input; None where normalization has to be computed."""
        if self.dtype != "uint8" or len(self.mean) > 1 or len(self.std) > 1 or self.mean[0] != round(self.mean[0]):
            return None
        return (1.0 / self.std[0], int(self.mean[0])) if 0 <= self.mean[0] <= 255 else None

    def normalize(self, x: Tensor) -> Tensor:
        """Raw (N, ..., C) to normalized float32 (N, C, ...); token ids (N, length) as they are."""
        if self.dtype == "int32":
            return x
        mean, factor = torch.tensor(self.mean), 1.0 / torch.tensor(self.std)
        return channels_first((x.to(torch.float32) - mean) * factor)


def channels_first(x: Tensor) -> Tensor:
    return x.permute(0, x.dim() - 1, *range(1, x.dim() - 1))
