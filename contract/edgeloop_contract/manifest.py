"""The bundle's manifest: every field that workstation, hub and device must agree on (docs/bundle-format.md)."""

from edgeloop_contract.cleaning import Step as CleaningStep
from edgeloop_contract.cuts import Cascade, Coding, Cut, Exit, Packed, Split
from edgeloop_contract.drift import Drift
from edgeloop_contract.errors import BundleError
from edgeloop_contract.preprocessing import Step
from edgeloop_contract.settings import nearest
from edgeloop_contract.tasks import (
    Anomaly,
    Classification,
    Detection,
    Instances,
    Keypoints,
    Multilabel,
    Regression,
    Segmentation,
    Task,
    Tensors,
)
from edgeloop_contract.tensors import Part, Precision, Quantization, Reset, Runtime, State, TensorSpec

__all__ = [
    "SCHEMA", "Anomaly", "Canary", "Cascade", "ChannelStatistics", "Classification", "Coding", "Cost", "Cut", "Detection",
    "Estimate", "Exit", "File", "GoldenTensor", "Input", "Instances", "Keypoints", "Manifest", "Multilabel", "Packed",
    "Precision", "Provenance", "Quantization", "Regression", "Runtime", "Segmentation", "Split", "State", "Task", "TensorSpec",
    "Tensors", "Variant",
]  # fmt: skip

SCHEMA = 3  # the newest that this release reads. A release that adds a step, a task or a field that readers need raises it.
INPUT, SCORES = "input", "scores"  # names of a model's only input and output


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


class Variant(Part, frozen=True):
    """One shipped model file, with the tensors that it takes and gives.

    A prepared sample becomes an input by its types: equal types pass as they are; uint8 counts become int8 as count − 128; floats
    become integers by the input's quantization; counts become floats and wider whole numbers by value. `states`: tensors that the
    file feeds back.
    `kept_inside`: the runtime itself keeps state from call to call, and this is when it begins anew. `provider`: ONNX Runtime's
    provider that the file is made for, such as TensorRT: other ones run it too, where other variants are the better choice.
    """

    name: str
    runtime: Runtime
    precision: Precision
    file: str
    inputs: list[TensorSpec]
    outputs: list[TensorSpec]
    states: list[State] = []
    kept_inside: Reset | None = None
    accuracy: Estimate | None = None
    cost: Cost | None = None
    provider: str = ""

    @property
    def input(self) -> TensorSpec:
        """The first input."""
        return self.inputs[0]

    @property
    def output(self) -> TensorSpec:
        """The first output."""
        return self.outputs[0]

    def output_of(self, task: Task) -> TensorSpec:
        """The output that holds the task's scores."""
        return next((spec for spec in self.outputs if spec.name == task.output), self.outputs[0])


class File(Part, frozen=True):
    bytes: int
    sha256: str


class GoldenTensor(Part, frozen=True):
    """One output on the canary's inputs, where it was verified: an .npy file (N, ...) float32.

    `step`: one unit of comparison; `max_steps`: how far a device may be off.
    """

    file: str
    step: float
    max_steps: int


class Canary(Part, frozen=True):
    """Samples with verified answers: checked on a device before it switches over.

    `inputs`: .npy file (N, *sample) by input. `golden`: by output, of the quantized reference, or of the file itself where there is
    no reference. `variants`: of each variant's own, by its name; a variant that is not in it is compared with `golden`. `labels`:
    an .npy file of (N,) int64 classes, (N, quantities) float32, (N, labels) uint8 (0, 1, or 255: not known), (N, height, width)
    uint8 masks, or (N, boxes, 5) float32 boxes as label, x1, y1, x2, y2 in pixels of the sample, where a label of −1 is none, with
    three more values for each point of a box (x, y, and above 0 where it is known); "": nobody knows them.
    """

    inputs: dict[str, str]
    golden: dict[str, GoldenTensor]
    labels: str = ""
    variants: dict[str, dict[str, GoldenTensor]] = {}

    @property
    def input(self) -> str:
        """The file of the first input."""
        return next(iter(self.inputs.values()))

    @property
    def scores(self) -> GoldenTensor:
        """The first output's."""
        return next(iter(self.golden.values()))

    def of(self, variant: str) -> dict[str, GoldenTensor]:
        """By output, what this variant is compared with."""
        return self.variants.get(variant, self.golden)


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


class Provenance(Part, frozen=True):
    """What the bundle was built from: digests, seed and versions."""

    recipe_sha256: str
    code_sha256: str
    data_sha256: str
    seed: int
    versions: dict[str, str]
    parent: str | None = None


class Input(Part, frozen=True):
    """One input of the model: its prepared sample, and the steps that make it of a recording."""

    name: str
    sample: TensorSpec
    preprocessing: list[Step] = []


class Manifest(Part, frozen=True, kw_only=True):
    """`schema`: the lowest reader that runs the bundle. `requires`: what it uses that a lower one does not know, in words.

    What nobody knows is absent: `canary`, `drift_reference`, `provenance`, `model_card`.
    """

    schema: int
    requires: list[str] = []
    name: str
    version: int
    task: Task
    inputs: list[Input]
    variants: list[Variant]
    files: dict[str, File]
    canary: Canary | None = None
    drift_reference: ChannelStatistics | None = None
    provenance: Provenance | None = None
    model_card: str = ""
    thresholds: dict[str, float] = {}
    split: Split | None = None  # where the model can be cut between device and server
    cascade: Cascade | None = None
    drift: Drift | None = None  # reference of the drift monitor
    cleaning: list[CleaningStep] = []  # of raw recordings on the device, before preprocessing
    probe: bool = False  # only latencies are to be measured: its variants have shapes of their own and no training
    channels: list[str] = []  # of a raw recording, in order: a table with a header line is read by them

    @property
    def sample(self) -> TensorSpec:
        """The first input's prepared sample."""
        return self.inputs[0].sample

    @property
    def preprocessing(self) -> list[Step]:
        """The first input's steps."""
        return self.inputs[0].preprocessing

    def variant(self, name: str) -> Variant:
        """The variant called `name`. Raises BundleError naming the nearest one."""
        if found := next((variant for variant in self.variants if variant.name == name), None):
            return found
        raise BundleError(f"bundle {self.name}: no variant {name!r}{nearest(name, (v.name for v in self.variants))}")
