"""What workstation and hub say to each other about samples, labels and drift: one definition for both sides.

As in `hub_messages`, the hub refuses unknown fields of a request, and the workstation ignores unknown fields of an answer.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from edgeloop_contract.annotations import Annotation
from edgeloop_contract.messages import Device, Key, NamedArray, Short

__all__ = [
    "DeviceDrift", "DriftSummary", "ExpectedAccuracy", "FeatureShift", "LabelAssignment", "LabelUpload", "ListedSample",
    "QueuedSample", "RecordingLabel", "SampleAnnotations", "SampleSummary", "SettledSamples", "StoredSample",
]  # fmt: skip


class LabelAssignment(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The label of one sample. `label` empty: nobody can tell. `whole`: it holds for every sample of that recording.

    `annotation`: what is said where the model's task has no single label; `label` is empty then.
    """

    device: Device
    key: Key
    label: Short = ""
    whole: bool = False
    annotation: Annotation | None = None


class LabelUpload(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Labels of one person, or of one program. `who`: a-z, 0-9 and -."""

    labels: Annotated[list[LabelAssignment], msgspec.Meta(max_length=1000)]
    who: Short = "import"


class SettledSamples(msgspec.Struct, frozen=True):
    """How many samples have their label now because of an upload."""

    settled: int


class SampleSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A sample without its values. `random`: 1 where the device drew it without a look at it. `truth`: the device's own label."""

    device: str
    key: str
    taken: float
    kind: str
    random: int
    model: str
    sha256: str
    recording: str
    window: int
    prediction: str = msgspec.field(name="guess")
    confidence: float
    value: float
    label: str | None
    truth: str


class ListedSample(SampleSummary, frozen=True, kw_only=True):
    """`people`: who labelled it."""

    people: list[str] = []


class QueuedSample(SampleSummary, frozen=True, kw_only=True):
    """A sample to label. `alike`: samples that one label serves. `together`: unlabelled samples of its recording."""

    alike: int = 1
    together: int = 1


class StoredSample(SampleSummary, frozen=True, kw_only=True):
    """A sample with its values: `data`, `input` and `others` as in `messages.Sample`.

    `at`: when the hub stored it. `labelled`: when it got its label. `labelled_itself`: somebody labelled this very sample, and not
    one like it. `annotation`: the settled one, where the model's task has no single label.
    """

    at: float
    labelled: float | None
    dtype: str
    shape: list[int]
    data: bytes
    input: str = ""
    others: list[NamedArray] = []
    labelled_itself: bool = msgspec.field(name="said")
    annotation: Annotation | None = None


class SampleAnnotations(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one sample beyond a single label.

    `part`: what its model answers: boxes, masks, values, labels; "": one label. `names`: its labels, or its quantities; of masks
    without the `background`. `points`: the names of a box's points, if it has some. `masks_of_boxes`: whether boxes have masks.
    `shape`: of the first input. `answer`: the model's. `settled`: what people agreed on. `people`: what each of them said.
    """

    device: str
    key: str
    model: str
    part: str
    names: list[str]
    shape: list[int]
    background: str = ""
    points: list[str] = []
    masks_of_boxes: bool = False
    answer: Annotation | None = None
    settled: Annotation | None = None
    people: dict[str, Annotation] = {}


class RecordingLabel(msgspec.Struct, frozen=True):
    """What a person said of a whole recording. `released`: when the device had nothing of it left to send."""

    device: str
    recording: str
    model: str
    person: str
    label: str
    at: float
    released: float | None


class DeviceDrift(msgspec.Struct, frozen=True):
    """What one device reported of drift over a time. `score`: the highest; 1 is an alarm. `faults`: what cleaning found."""

    device: str
    samples: int
    alarms: int
    score: float
    drifting: bool
    since: float | None
    cause: str
    text: str
    faults: dict[str, int]
    sha256: str


class FeatureShift(msgspec.Struct, frozen=True):
    """A feature on one device that is off by more than chance and the usual differences between devices explain.

    `shift`: of the feature's mean, in a sample's standard deviations. `p`: of such a shift by chance.
    """

    device: str
    feature: str
    shift: float
    samples: int
    p: float


class ExpectedAccuracy(msgspec.Struct, frozen=True):
    """The accuracy that the devices' confidence promises; and what labelled samples drawn at random say, where there are any.

    `error`: expected less measured, over the labelled ones.
    """

    expected: float = msgspec.field(name="promised")
    answers: int
    measured: float | None
    labelled: int
    error: float | None


class DriftSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A model's drift over the fleet. `cut`: there are more reports than were read; `oldest`: the time of the oldest read."""

    model: str
    reports: int
    oldest: float | None
    cut: bool
    devices: list[DeviceDrift]
    shifts: list[FeatureShift]
    expected_accuracy: ExpectedAccuracy | None = msgspec.field(name="promise")
