"""Mixed precision: chooses the wanted precision, or the nearest one that this hardware has."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

Name = Literal["float32", "bf16", "fp16", "fp8"]
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Hardware:
    """The hardware facts that decide the precision. `bf16_fast`, `fp16_fast`: has such instructions."""

    kind: str
    bf16_fast: bool
    fp16_fast: bool


def this_hardware() -> Hardware:
    if torch.cuda.is_available():
        return Hardware("GPU", torch.cuda.is_bf16_supported(including_emulation=False), True)
    fast = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return Hardware("CPU", bool(fast), torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_fp16_supported())


def choose(wanted: str, hardware: Hardware) -> tuple[Name, str]:
    """The precision for the training, and the reason."""
    kind = hardware.kind
    if wanted == "auto":
        if hardware.bf16_fast:
            return "bf16", f"{kind} with bf16 instructions"
        if kind == "GPU" and hardware.fp16_fast:
            return "fp16", "GPU without bf16, with fp16"
        return "float32", f"{kind} without bf16 instructions"
    if wanted == "fp16" and not hardware.fp16_fast:
        nearest: Name = "bf16" if hardware.bf16_fast else "float32"
        return nearest, f"fp16 was asked for, but this {kind} has no fp16 instructions: the nearest"
    if wanted == "fp8":
        return (
            "fp8",
            "asked for; without Transformer Engine the reference runs: it shows the accuracy, not the speed of FP8",
        )
    if wanted == "bf16" and not hardware.bf16_fast:
        return "bf16", f"asked for; this {kind} has no bf16 instructions, so it costs time"
    return wanted, "asked for"  # type: ignore[return-value]


@dataclass
class Precision:
    """One run's precision: a context for the forward pass, and the optimizer step, with loss scaling if needed."""

    name: Name
    why: str
    device: str
    scaler: torch.amp.GradScaler = field(init=False)
    skipped: int = 0

    def __post_init__(self) -> None:
        self.scaler = torch.amp.GradScaler(self.device, enabled=self.name == "fp16")

    def __str__(self) -> str:
        return f"{self.name} ({self.why})"

    def autocast(self) -> AbstractContextManager[Any]:
        """The context for the forward pass. FP8 layers have their own casts; the other layers then stay in float32."""
        if self.name in DTYPES:
            return torch.autocast(self.device, DTYPES[self.name])
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        self.scaler.scale(loss).backward()

    def step(self, optimizer: torch.optim.Optimizer, network: nn.Module, clip_norm: float) -> bool:
        """Do one optimizer step. Returns False if it was skipped because the gradients overflowed fp16."""
        if clip_norm:
            self.scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(network.parameters(), clip_norm)
        before = self.scaler.get_scale()
        self.scaler.step(optimizer)
        self.scaler.update()
        done = self.scaler.get_scale() >= before
        self.skipped += not done
        return done


def precision(wanted: str, why: str = "") -> Precision:
    """The precision object. `why`: the reason, from an earlier decision."""
    name, reason = choose(wanted, this_hardware())
    return Precision(name, why or reason, "cuda" if torch.cuda.is_available() else "cpu")
