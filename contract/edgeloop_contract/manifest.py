"""The bundle's manifest: every field that workstation, hub and device must agree on (docs/bundle-format.md)."""

from __future__ import annotations

from enum import Enum
from typing import Literal

import msgspec

from edgeloop_contract import cleaning
from edgeloop_contract.arrays import DtypeName
from edgeloop_contract.drift import Drift
from edgeloop_contract.errors import BundleError, BundleTooNew
from edgeloop_contract.preprocessing import Step
from edgeloop_contract.settings import nearest

__all__ = [
    "SCHEMA", "Anomaly", "Canary", "Cascade", "ChannelStatistics", "Classification", "Coding", "Cost", "Cut", "Estimate", "Exit",
    "File", "Golden", "Manifest", "Packed", "Precision", "Provenance", "Quantization", "Regression", "Split", "Task", "TensorSpec",
    "Variant", "decode", "encode",
]  # fmt: skip

SCHEMA = 1
Runtime = Literal["onnx", "tflite"]
Coding = Literal["raw", "deflate", "4bit", "jpeg", "webp", "flac"]  # of what crosses from a device to a server (splitting.py)


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """Base of every manifest structure: immutable, strict, and encoded without its defaults."""


class Quantization(Part, frozen=True):
    """real = scale × (integer − zero_point)."""

    scale: float
    zero_point: int


class TensorSpec(Part, frozen=True):
    """One sample of a tensor, without the batch dimension; channels last."""

    dtype: DtypeName
    shape: list[int]
    quantization: Quantization | None = None


class Estimate(Part, frozen=True):
    """A share measured on `samples` test samples, with its 95 % interval."""

    value: float
    low: float
    high: float
    samples: int


class Cost(Part, frozen=True):
    """What one inference of one sample took where it was measured."""

    latency_us_p50: float
    latency_us_p95: float
    threads: int
    machine: str


class Precision(str, Enum):
    """The arithmetic of a model file, as the manifest writes it."""

    INT8 = "int8"
    FLOAT32 = "float32"
    FLOAT16 = "float16"
    INT8_WEIGHTS = "int8-weights"  # stored in 8 bits, computed in float

    def __str__(self) -> str:
        return self.value


class Variant(Part, frozen=True):
    """One shipped model file. Its input is the sample's raw counts; an int8 input is the uint8 count minus 128."""

    name: str
    runtime: Runtime
    precision: Precision
    file: str
    input: TensorSpec
    output: TensorSpec
    accuracy: Estimate | None = None
    cost: Cost | None = None


class File(Part, frozen=True):
    bytes: int
    sha256: str


class Classification(Part, frozen=True, tag="classification", tag_field="kind"):
    """Scores are logits, one per label; probabilities are their softmax."""

    labels: list[str]


class Regression(Part, frozen=True, tag="regression", tag_field="kind"):
    """Scores are standardised: value = score × std + mean, one per quantity, in its unit."""

    quantities: list[str]
    mean: list[float]
    std: list[float]

    def __post_init__(self) -> None:
        if not len(self.quantities) == len(self.mean) == len(self.std):
            raise ValueError("each quantity needs one mean and one std")


class Anomaly(Part, frozen=True, tag="anomaly", tag_field="kind"):
    """The model reconstructs its normalized input, channels first; a mean squared error above `threshold` is `labels[1]`.

    `mean`, `std`: the normalization, per channel or one for all.
    """

    labels: list[str]
    threshold: float
    mean: list[float]
    std: list[float]

    def __post_init__(self) -> None:
        if len(self.labels) != 2 or len(self.mean) != len(self.std) or 0 in self.std:
            raise ValueError("an anomaly task has two labels, and a std above 0 for each mean")


Task = Classification | Regression | Anomaly


class Golden(Part, frozen=True):
    """Scores of one variant on the canary's inputs where it was verified; `scores`: an .npy file (N, outputs) float32."""

    scores: str
    score_step: float
    max_steps: int


class Canary(Golden, frozen=True):
    """Validation samples with what the quantized reference answered: checked on a device before it switches over.

    `inputs` and `labels` are .npy files in the bundle as `scores` is: (N, *sample), and (N,) int64 classes or (N, quantities)
    float32. `variants`: golden scores of each variant's own, by its name; a variant that is not in it is held against `scores`.
    """

    inputs: str
    labels: str
    variants: dict[str, Golden] = {}


class ChannelStatistics(Part, frozen=True):
    """Statistics per channel of the training input, and of the answers on validation data."""

    mean: list[float]
    std: list[float]
    low: list[float]
    high: list[float]
    mean_confidence: float | None = None  # classification
    label_share: list[float] = []
    answer_mean: list[float] = []  # regression: of each quantity; anomaly: of the error
    answer_std: list[float] = []


class Packed(Part, frozen=True):
    """One coding of a boundary. `bytes`: mean of real samples; `agreement`: share of them with the whole model's answer (label)."""

    coding: Coding
    bytes: float
    agreement: float = 1.0


class Exit(Part, frozen=True):
    """An early answer from a boundary: the head's second output, float32 scores called `exit`.

    `threshold`: confidence from which it is used; chosen on validation data, where `share` of the samples went on, and
    `accuracy` came out (`whole`: of the whole network).
    """

    threshold: float
    share: float
    accuracy: float
    whole: float


class Cut(Part, frozen=True):
    """A tensor that every path from input to output goes through.

    `file`: the head, from the sample to this tensor ("" for the input itself). `head_us`, `tail_us`: batch 1, one thread,
    on `Split.machine`. `decoder`: of a learned bottleneck, whose output is the model's own tensor and whose input crosses.
    """

    name: str
    tensor: str
    boundary: TensorSpec
    packed: list[Packed]
    head_us: float
    tail_us: float
    file: str = ""
    decoder: str = ""
    exit: Exit | None = None


class Split(Part, frozen=True):
    """Cuts of one ONNX variant, from the input on."""

    variant: str
    machine: str
    whole_us: float
    cuts: list[Cut]

    def cut(self, name: str) -> Cut | None:
        return next((cut for cut in self.cuts if cut.name == name), None)


class Cascade(Part, frozen=True):
    """A larger model that answers where this one is not confident.

    `model`, `sha256`: of the larger one's bundle. `threshold`: confidence from which the small model's answer is used; chosen
    on validation data, where `share` of the samples were sent, and `accuracy` came out (`small`, `large`: of each alone).
    """

    model: str
    sha256: str
    threshold: float
    share: float
    accuracy: float
    small: float
    large: float


class Provenance(Part, frozen=True):
    """What the bundle was built from: digests, seed and versions."""

    recipe_sha256: str
    code_sha256: str
    data_sha256: str
    seed: int
    versions: dict[str, str]
    parent: str | None = None


class Manifest(Part, frozen=True):
    schema: int
    name: str
    version: int
    task: Task
    sample: TensorSpec
    preprocessing: list[Step]
    variants: list[Variant]
    files: dict[str, File]
    canary: Canary
    drift_reference: ChannelStatistics
    provenance: Provenance
    model_card: str
    thresholds: dict[str, float] = {}
    split: Split | None = None  # where the model can be cut between device and server
    cascade: Cascade | None = None
    drift: Drift | None = None  # reference of the drift monitor
    cleaning: list[cleaning.Step] = []  # of raw recordings on the device, before preprocessing
    probe: bool = False  # only latencies are to be measured: its variants have shapes of their own and no training
    channels: list[str] = []  # of a raw recording, in order: a table with a header line is read by them

    def variant(self, name: str) -> Variant:
        """The variant called `name`. Raises BundleError naming the nearest one."""
        if found := next((variant for variant in self.variants if variant.name == name), None):
            return found
        raise BundleError(f"bundle {self.name}: no variant {name!r}{nearest(name, (v.name for v in self.variants))}")


def encode(manifest: Manifest) -> bytes:
    """Canonical JSON: sorted keys, no white space, defaults left out. Equal manifests give equal bytes."""
    return msgspec.json.encode(manifest, order="sorted")


def decode(data: bytes, where: str) -> Manifest:
    """Read a manifest. Raises BundleTooNew if a later edgeloop wrote it, BundleError if it is malformed."""
    try:
        raw = msgspec.json.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(f"{where}: the manifest is not JSON ({error}); download the bundle again") from error
    schema = raw.get("schema") if isinstance(raw, dict) else None
    if not isinstance(schema, int) or isinstance(schema, bool) or schema < 1:
        raise BundleError(f"{where}: the manifest has no schema number; this is not a bundle")
    if schema > SCHEMA:
        raise BundleTooNew(f"{where}: manifest schema {schema}; this edgeloop reads {SCHEMA}: update edgeloop here")
    try:
        manifest = msgspec.json.decode(data, type=Manifest)
    except msgspec.MsgspecError as error:
        from edgeloop_contract.unknown_names import unknown_names  # a device seldom needs it, and feels each import at its start

        if later := unknown_names(raw, Manifest):
            names = ", ".join(later[:5])
            raise BundleTooNew(
                f"{where}: the manifest has {names}, which this edgeloop does not know: update edgeloop here"
            ) from error
        raise BundleError(f"{where}: the manifest is wrong: {error}; rebuild the bundle") from error
    if encode(manifest) != data:
        raise BundleError(f"{where}: the manifest is not in canonical form; rebuild the bundle")
    return manifest
