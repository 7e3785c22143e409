"""The results about shipped files: accuracy, parity, kernels, costs, cuts, bundles."""

from __future__ import annotations

import msgspec

from edgeloop_contract.manifest import Cost, Cut, Estimate, Precision, Runtime
from edgeloop_exporters.figures import Agreement, KernelCounts, LayerCost, LayerDifference
from edgeloop_pipeline.results.task_figures import TaskFigures


class ExportResult(msgspec.Struct, frozen=True):
    """The result of `export`, by variant: the file's bytes and its precision."""

    bytes: dict[str, int]
    precisions: dict[str, Precision]


class VerifiedFile(msgspec.Struct, frozen=True, kw_only=True):
    """One shipped file in its runtime on the full test set. `runtime`: the runtime with its version.

    `lost`: of a file for a provider, the share that the usual int8 file of its runtime has right more, with the interval of this
    difference (the same recordings are drawn for both); None where there is no such file, or where a metric is no share.
    """

    runtime: str
    format: Runtime
    precision: Precision
    accuracy: Estimate
    bytes: int
    kernels: KernelCounts
    slow_because: list[str]
    lost: Estimate | None = None

    @property
    def lost_in_words(self) -> str:
        """ "" where it is not known."""
        if self.lost is None:
            return ""
        low, value, high = (100 * share for share in (self.lost.low, self.lost.value, self.lost.high))
        chance = ": these test recordings do not tell it from 0" if low <= 0 <= high else ""
        return f"loses {value:.2f} points against the usual int8 file, 95 % interval {low:.2f} to {high:.2f}{chance}"


class Parity(msgspec.Struct, frozen=True, kw_only=True):
    """The differences between torch and the int8 files. `top1_share` None: the task has no classes."""

    max_lsb: int
    top1_share: float | None
    pairs: list[Agreement]
    layers: list[LayerDifference]
    layers_note: str


class VerifyResult(TaskFigures, frozen=True, kw_only=True, omit_defaults=True):
    """The result of `verify` on the test set. `stages`: each float network; `variants`: each file. `failures`: missed floors.

    `moved`: what a float network keeps of the original's answers where each value of a picture moves by one at most; None where
    people labelled the data, or where they are no pictures.
    """

    float_accuracy: Estimate
    best_float: Estimate
    chance: float
    allowed_lsb: int
    stages: dict[str, Estimate]
    variants: dict[str, VerifiedFile]
    parity: Parity
    metric: str  # the name of the task's metric
    failures: list[str]
    moved: Estimate | None = None


class FloatCost(msgspec.Struct, frozen=True):
    """The cost of a float network as a plain ONNX file."""

    bytes: int
    cost: Cost


class OnDevice(msgspec.Struct, frozen=True):
    """The latency on the target's device, estimated by its layers."""

    machine: str
    latency_us: float


class ProfileResult(msgspec.Struct, frozen=True, kw_only=True):
    """The result of `profile` on this machine. `layers`: by ONNX file. `on_device`: the target's. `energy_uj`: per inference."""

    machine: str
    variants: dict[str, Cost]
    fastest_int8: str
    on_device: OnDevice | None
    energy_uj: float | None
    layers: dict[str, list[LayerCost]]
    stages: dict[str, FloatCost]
    failures: list[str]


class EarlyExitTest(msgspec.Struct, frozen=True):
    """An early exit on the test set: the share that goes on, the accuracy with the exit, and that of the whole network."""

    share: float
    accuracy: float
    whole: float


class BottleneckTrial(msgspec.Struct, frozen=True):
    """A bottleneck codec: `channels` of `of` cross the cut, in `bytes`; `agreement` with the whole network's answers."""

    channels: int
    of: int
    bytes: float
    agreement: float


class SplitResult(msgspec.Struct, frozen=True, kw_only=True):
    """The result of `split`. Times in µs, one thread, this machine. `left_out`: cut → reason. `early`, `narrowed`: by cut."""

    variant: str = ""
    machine: str = ""
    whole_us: float = 0.0
    cuts: list[Cut]
    left_out: dict[str, str]
    early: dict[str, EarlyExitTest] = {}
    narrowed: dict[str, BottleneckTrial] = {}
    head_bytes: int = 0


class CascadePoint(msgspec.Struct, frozen=True):
    """The chosen threshold on validation data: the share sent to the large network, and the accuracy."""

    share: float
    accuracy: float


class CascadeTest(msgspec.Struct, frozen=True):
    """The chosen threshold on the test set, with the accuracy of each network alone."""

    share: float
    accuracy: float
    small: float
    large: float


class CascadeResult(msgspec.Struct, frozen=True, kw_only=True):
    """The result of `cascade`. `trade_off`: (share sent, accuracy) on validation data."""

    bundle: str
    sha256: str
    bytes: int
    threshold: float
    validation: CascadePoint
    test: CascadeTest
    trade_off: list[tuple[float, float]]


class PackageResult(msgspec.Struct, frozen=True):
    """The result of `package`: the bundle's file name, digest, bytes, and number of files inside."""

    bundle: str
    sha256: str
    bytes: int
    files: int


class ReportResult(msgspec.Struct, frozen=True):
    """The result of `report`: the page's file name."""

    report: str
