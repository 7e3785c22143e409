"""The settings of a recipe besides its stages: target, normalization, sweep, field data, prices."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from edgeloop_contract import cleaning
from edgeloop_contract.boxes import Layout, has_points
from edgeloop_contract.preprocessing import Step
from edgeloop_contract.tasks import Detection, Instances, Keypoints, Segmentation
from edgeloop_exporters.model_files.pixel_maps import Grid, segmentation
from edgeloop_exporters.named_inputs import NamedInput
from edgeloop_pipeline.data.sequence_labels import SequenceLabels

NonNegativeFloat = Annotated[float, msgspec.Meta(ge=0)]
PositiveFloat = Annotated[float, msgspec.Meta(gt=0)]
Fraction01 = Annotated[float, msgspec.Meta(ge=0, le=1)]
Measure = Literal["agreement", "cosine", "mask_iou", "r2", "signal", "boxes", "accuracy"]
TaskName = Literal["classification", "regression", "anomaly", "tensors", "detection", "keypoints", "segmentation", "multilabel"]
Objective = Literal["accuracy", "latency", "bytes"]
Reference = Annotated[str, msgspec.Meta(pattern=r"^[^:]+\.py:[A-Za-z_]\w*(?!\n)$")]
Name = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*(?!\n)$", max_length=64)]


class Prices(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A recipe's `roi` table: the assumed prices, in `currency`."""

    currency: str = "EUR"
    devices: PositiveFloat = 20.0
    pilot_devices: PositiveFloat = 2.0
    inferences_per_day: PositiveFloat = 86_400.0  # of one device
    device_cost: NonNegativeFloat = 80.0  # above the cost of what is installed anyway
    device_years: PositiveFloat = 5.0
    device_watts: PositiveFloat = 4.0  # while it infers, if energy is not measured
    upkeep_per_device_month: NonNegativeFloat = 1.0  # visits, replacements
    electricity_per_kwh: NonNegativeFloat = 0.30
    project_cost: NonNegativeFloat = 5_000.0  # to build, label and roll out
    project_cost_per_month: NonNegativeFloat = 100.0  # labels, retraining, the hub
    cloud_per_hour: NonNegativeFloat = 0.10  # for a machine like the one that measured
    cloud_utilisation: Fraction01 = 0.3  # of the paid hours
    traffic_per_gb: NonNegativeFloat = 0.50  # from the device to the cloud
    split_share: Fraction01 = 0.15  # of inputs that a cascade sends


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """The floors and ceilings that the result must hold. `verify` judges on the full test set; earlier stages use validation data.

    Accuracy is the task's metric: the share of right answers, R² (regression), or ROC AUC (anomaly).
    """

    min_accuracy: Fraction01 | None = None
    max_drop: Fraction01 | None = None  # of each int8 and float file against the best float network of the run, pruned or not
    max_int8_drop: Fraction01 | None = None  # of each int8 file against its own float network
    max_int8_bytes: Annotated[int, msgspec.Meta(gt=0)] | None = None
    max_latency_us: Annotated[float, msgspec.Meta(gt=0)] | None = None  # of the fastest int8 file, batch 1
    device: str | None = (
        None  # a file of a device's measurements beside the recipe (edgeloop probe); default: latencies of this machine
    )
    max_energy_uj: Annotated[float, msgspec.Meta(gt=0)] | None = None  # of one inference; this machine needs a meter
    max_ram_bytes: Annotated[int, msgspec.Meta(gt=0)] | None = None  # of the integer activations that are alive at one time
    max_lsb: Annotated[int, msgspec.Meta(ge=0)] | None = (
        None  # between a file's scores and torch's; default by depth: 3, more for deep networks
    )
    min_agreement: Fraction01 = 0.98


class Normalize(msgspec.Struct, frozen=True, kw_only=True):
    """The input normalization (x − mean) / std; one number for all channels or one each. Give those of a pretrained network.

    Both are in raw counts: for pictures 0 to 255, although a checkpoint's card may use 0 to 1.
    """

    mean: Annotated[list[float], msgspec.Meta(min_length=1)]
    std: Annotated[list[Annotated[float, msgspec.Meta(gt=0)]], msgspec.Meta(min_length=1)]


class Knob(msgspec.Struct, frozen=True, kw_only=True):
    """One setting that a sweep varies: `choices`, or a range from `low` to `high` (whole numbers stay whole)."""

    choices: list[Any] | None = None
    low: int | float | None = None
    high: int | float | None = None
    step: int | float | None = None
    log: bool = False

    def __post_init__(self) -> None:
        if (self.choices is None) == (self.low is None or self.high is None):
            raise ValueError("give choices, or low and high")
        if self.choices is None and self.low >= self.high:  # type: ignore[operator]
            raise ValueError("low must be below high")


class Sweep(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of `edgeloop sweep`. `vary`: stage.key (as in --set) → knob."""

    vary: Annotated[dict[str, Knob], msgspec.Meta(min_length=1)]
    objectives: Annotated[tuple[Objective, ...], msgspec.Meta(min_length=1)] = ("accuracy", "latency", "bytes")
    trials: Annotated[int, msgspec.Meta(ge=1)] = 20
    min_accuracy: Fraction01 = 0.0  # trials below it are not useful
    prune_margin: Fraction01 = 0.05  # a trial ends if it is this far behind a smaller network's curve


class FieldData(msgspec.Struct, frozen=True, kw_only=True):
    """Labelled samples from devices, beside the project's own data. `edgeloop retrain` sets this; recipes seldom do."""

    file: str
    share: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.25  # of the training samples; field samples are repeated to reach it …
    max_repeats: Annotated[int, msgspec.Meta(ge=1)] = 10  # … at most this many times


MASK_FIELDS = ("prototypes", "prototype_channels", "mask_threshold")  # of boxes with masks


class ImportedBoxes(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a detector's outputs say boxes, and which boxes are answered, as in the manifest's task. `points`: names of theirs.

    `prototypes`: the output that masks of things are made of.
    """

    decode: Layout
    score_threshold: Fraction01 = 0.25
    iou_threshold: Fraction01 = 0.5
    max_boxes: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 100
    points: list[Annotated[str, msgspec.Meta(min_length=1)]] = []
    prototypes: str = ""
    prototype_channels: Literal["first", "last"] = "first"
    mask_threshold: float = 0.0

    def __post_init__(self) -> None:
        if self.points and (not has_points(self.decode, len(self.points)) or len({*self.points}) < len(self.points)):
            raise ValueError("`points` are different names, as many as the layout says")
        if self.prototypes:
            self.task(["thing"])

    def task(self, labels: list[str]) -> Detection:
        """What the bundle answers."""
        fields = msgspec.structs.asdict(self)
        points, masks = fields.pop("points"), {name: fields.pop(name) for name in MASK_FIELDS}
        if self.prototypes:
            return Instances(labels=labels, **fields, **masks)
        return Keypoints(labels=labels, points=points, **fields) if points else Detection(labels=labels, **fields)


class ImportedMasks(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How an output says a label for each pixel, as in the manifest's task; its labels are those of the data."""

    height: Annotated[int, msgspec.Meta(ge=1)]
    width: Annotated[int, msgspec.Meta(ge=1)]
    channels: Literal["first", "last"] = "first"
    scores: Literal["logits", "probabilities"] = "logits"

    def task(self, labels: list[str]) -> Segmentation:
        """What the bundle answers. Raises ValueError where it cannot have these labels."""
        grid = Grid(self.height, self.width, self.channels, len(labels) == 1)
        return segmentation(labels, grid, self.scores)


class ImportedInput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One of several inputs of an imported model: its name, type, and one sample's shape in the file, and what makes it.

    `layout`: "channels_first" where a prepared sample's last axis comes first in the file. `output`: of a state, the output that it
    is at the next call; nothing is prepared for it.
    """

    name: Annotated[str, msgspec.Meta(min_length=1)]
    shape: list[Annotated[int, msgspec.Meta(ge=1)]]
    dtype: Literal["float32", "int64", "int32", "int16", "int8", "uint8", "bool"] = "float32"
    layout: Literal["channels_first", "as_it_is"] = "as_it_is"
    preprocessing: list[Step] = []
    output: str = ""

    @property
    def named(self) -> NamedInput:
        return NamedInput(self.name, tuple(self.shape), self.dtype, self.output, self.layout == "channels_first")


class OriginalPort(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An input or output as the model's file had it before it was imported. `shape`: with the batch, 0 where it is open.

    `turned`: a state whose batch is its second axis there.
    """

    name: Annotated[str, msgspec.Meta(min_length=1)]
    dtype: Literal["float32", "float16", "float64", "int64", "int32", "int16", "int8", "uint8", "bool"] = "float32"
    shape: list[Annotated[int, msgspec.Meta(ge=0)]] = []
    turned: bool = False


class Imported(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A trained model in a file, in place of a network from code (`edgeloop compress`). docs/compress.md has an example.

    `layout`: of the file's input beside our samples, whose channels are last; "as_it_is": the same values in the file's own shape.
    """

    model: Annotated[str, msgspec.Meta(min_length=1)]  # an ONNX file beside the recipe
    measure: Measure | None = None  # what int8 keeps of this model's own answers; default: the labels of the data
    output: str = ""  # of several, the one that counts
    outputs: list[str] = []  # or these, of several, in this order; their scores are joined
    boxes: ImportedBoxes | None = None  # a detector's
    sequence: SequenceLabels | None = None  # of a model that keeps state, where recordings have labels: the measure is accuracy
    masks: ImportedMasks | None = None  # of a model that says a label for each pixel, by its only output that counts
    layout: Literal["channels_first", "channels_last", "as_it_is"] = "channels_first"
    shape: list[Annotated[int, msgspec.Meta(ge=1)]] = []  # of one sample at its input, if the file leaves sizes open
    inputs: list[ImportedInput] = []  # of a file with several, in its order; its states are among them
    original_inputs: list[OriginalPort] = []  # of such a file, as it was: for an int8 file in its place (export: {drop_in: true})
    original_outputs: list[OriginalPort] = []

    def __post_init__(self) -> None:
        if self.inputs and all(entry.output for entry in self.inputs):
            raise ValueError("`inputs` has states alone; one input must take samples")
        if self.output and self.outputs:
            raise ValueError("`output` names one, `outputs` several: give one of the two")
        if (self.measure == "accuracy") is (self.sequence is None):
            raise ValueError("`measure: accuracy` and `sequence` belong together: labels of recordings of a model that keeps state")

    @property
    def chosen(self) -> tuple[str, ...]:
        """The outputs that count; (): the first one."""
        return tuple(self.outputs) or ((self.output,) if self.output else ())


class RecipeHead(msgspec.Struct, frozen=True, kw_only=True):
    """A recipe's fields. `stages` maps stage names to their settings; each stage checks its own."""

    name: Name
    data: Reference
    network: Reference = ""  # file.py:callable; empty where `imported` gives the network
    imported: Imported | None = None
    version: Annotated[int, msgspec.Meta(ge=1)] = 1
    task: TaskName = "classification"
    network_args: dict[str, Any] = {}
    augment: Reference | None = None
    preprocessing: list[Step] = []
    cleaning: list[cleaning.Step] = []  # of raw recordings before preprocessing, on the device and in training
    normalize: Normalize | None = None  # default: from the training data
    seed: Annotated[int, msgspec.Meta(ge=0, lt=2**32)] = 0
    target: Target = Target()
    model_card: str = ""  # what the model is for; the bundle's card begins with it
    license: Annotated[str, msgspec.Meta(max_length=100)] = ""  # of the model: an SPDX name; "": the card does not state one
    datasets: list[str] = []  # names of public data sets, as a model hub knows them
    sweep: Sweep | None = None
    field: FieldData | None = None
    roi: Prices = Prices()  # the assumptions of edgeloop roi
    parent: str | None = None  # sha256 of the bundle that this one follows
    cache_bytes: Annotated[int, msgspec.Meta(ge=0)] = 2 << 30  # of decoded samples on disk, over all projects
    stages: dict[str, Any]
