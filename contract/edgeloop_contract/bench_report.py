"""What `edgeloop-agent bench --json` prints: the agent writes it, the hub shows it, the pipeline plans with it."""

from __future__ import annotations

import msgspec

from edgeloop_contract.manifest import Cost

__all__ = ["BenchReport", "Kernel", "KernelTimes", "MeasuredVariant", "SustainedRun", "VariantChoice"]


class MeasuredVariant(msgspec.Struct, frozen=True):
    """One variant on one device: its cost at the best thread count, or why it does not run there. `provider`: ONNX Runtime's, and
    how, where the device has several: "CPU", "CUDA", "TensorRT", "TensorRT fp16".
    """

    variant: str
    runtime: str = ""
    cost: Cost | None = None
    refused: str = ""
    provider: str = ""

    @property
    def title(self) -> str:
        return f"{self.variant} by {self.provider}" if self.provider else self.variant


class VariantChoice(msgspec.Struct, frozen=True):
    """The variant and thread count that a measurement chose, and why. `provider`: as of `MeasuredVariant`; "": as configured."""

    variant: str
    threads: int
    why: str
    provider: str = ""

    @property
    def title(self) -> str:
        return f"{self.variant} by {self.provider}" if self.provider else self.variant


class SustainedRun(msgspec.Struct, frozen=True):
    """The fastest variant run without a pause.

    `per_second_first`: rate in the first quarter of the time; above the rate at the end where heat slows the device down.
    `memory_bytes`: growth of the process with this model: runtime, weights and working memory. `microjoules`: of one inference;
    None without a meter, and `energy` says why. `celsius`: the highest temperature seen.
    """

    variant: str
    seconds: float
    per_second: float
    per_second_first: float
    memory_bytes: int
    microjoules: float | None
    energy: str
    celsius: float | None
    throttled: list[str]


class Kernel(msgspec.Struct, frozen=True):
    """One kernel of the graph as the runtime optimised it: mean microseconds, batch 1."""

    name: str
    operation: str
    microseconds: float


class KernelTimes(msgspec.Struct, frozen=True):
    """Kernels of the fastest ONNX variant, or why there are none."""

    variant: str
    kernels: list[Kernel]
    why: str = ""


class BenchReport(msgspec.Struct, frozen=True, omit_defaults=True):
    """A bundle on one device. `remembered`: the file on the device that keeps `fastest`."""

    variants: list[MeasuredVariant]
    fastest: VariantChoice | None = None
    remembered: str = ""
    sustained: SustainedRun | None = None
    kernels: KernelTimes | None = None
