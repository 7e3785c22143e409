"""How activation ranges follow the data in training: settings (no torch here, recipes read them)."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

__all__ = ["Following"]

Policy = Literal["moving", "max", "most_recent"]


class Following(msgspec.Struct, frozen=True, kw_only=True):
    """How ranges follow the data in quantization-aware training.

    moving: by the share `rate` a step. max, most_recent: from a window of past steps' extremes, as FP8's delayed scaling
    does it: a step rounds by what earlier steps saw, and leaves its own extremes for later ones.
    """

    policy: Policy = "moving"
    rate: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.01
    history: Annotated[int, msgspec.Meta(ge=1)] = 16  # steps
