"""Messages between agent, hub and workstation over HTTP: one definition for all sides.

Unknown fields are ignored, so that an older hub understands a newer agent; every other mistake is refused. Times are seconds since
1970 by the sender's clock. Uploads carry an idempotency key: the hub stores once and answers twice the same.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

import msgspec

from edgeloop_contract.annotations import Annotation
from edgeloop_contract.arrays import DtypeName
from edgeloop_contract.errors import DataError
from edgeloop_contract.field_types import (
    Amount,
    Celsius,
    Count,
    Device,
    Key,
    Microseconds,
    Number,
    Seconds,
    Sha256,
    Short,
    Target,
    Text,
    Time,
)

__all__ = [
    "MAX_LABELS", "MAX_LOG_LINE", "MAX_LOG_LINES", "MAX_OTHER_BUNDLES", "MAX_RECORDINGS", "READS_HEADER", "REDIRECTS_HEADER",
    "Assignment", "Device", "DriftReport", "Enrolled", "Enrolment", "Event", "Heartbeat", "Job", "JobResult", "Key", "Moments",
    "NamedArray", "Report", "Sample", "Samples", "Sha256", "Short", "Target", "decode", "encode", "too_deep",
]  # fmt: skip

READS_HEADER = "Edgeloop-Reads"  # of a poll: as `Heartbeat.reads`, so that an upgraded agent need not report first
REDIRECTS_HEADER = "Edgeloop-Redirects"  # of a request for a signed file: this agent follows a redirect to a signed address
MAX_LABELS = 1000
MAX_RECORDINGS = 100
MAX_LOG_LINES, MAX_LOG_LINE = 20, 300  # of one report
MAX_OTHERS = 15  # inputs of a sample beside the first
MAX_OTHER_BUNDLES = 31  # that one device follows, beside the first


class _Message(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    pass


class Enrolment(_Message, frozen=True):
    """A device's first message, with its one-time token."""

    token: Short
    device: Device
    machine: Short = ""
    agent: Short = ""


class Enrolled(_Message, frozen=True):
    """The hub's answer: the device's own credential, and the root that the device will trust."""

    device: str
    credential: str
    root: str  # TUF root metadata, JSON


class Assignment(_Message, frozen=True):
    """What the hub wants the device to run, if signed metadata allow it. Empty: no change.

    `others`: for its other bundles.
    `needs_upgrade`: a bundle that is meant for this device, and that only a later agent reads; it is offered once that asks.
    `recordings`: somebody said what they are; the samples of them that were not chosen are wanted too, where they are still there.
    `until`: when the maintenance window closes, after which no update begins its trial; 0: there is no window.
    `signed_job`: a SignedJob as JSON, which is for this device, and whose number is the lowest that it has not answered.
    """

    target: str = ""
    others: Annotated[list[Target], msgspec.Meta(max_length=MAX_OTHER_BUNDLES)] = []
    needs_upgrade: str = ""
    job: Job | None = None
    recordings: Annotated[list[Short], msgspec.Meta(max_length=MAX_RECORDINGS)] = []
    until: Time = 0.0
    signed_job: Annotated[str, msgspec.Meta(max_length=32_768)] = ""


class Job(_Message, frozen=True):
    """Measure a bundle on this device when it is idle."""

    id: Short
    target: Target
    max_seconds: Seconds = 120.0
    max_celsius: Celsius = 70.0


class Moments(_Message, frozen=True):
    """Count, mean and variance of observed confidences; they may exceed 1 by rounding."""

    count: Count = 0
    mean: Annotated[float, msgspec.Meta(ge=0, le=1.001)] = 0.0
    variance: Annotated[float, msgspec.Meta(ge=0, le=1.001)] = 0.0


class Heartbeat(_Message, frozen=True):
    """How the device did since its last heartbeat."""

    model: Short = ""
    version: Count = 0
    sha256: Short = ""
    target: Short = ""  # as the update named it; empty: the bundle of the config
    since: Time = 0.0  # when it began to run this bundle
    seconds: Seconds = 0.0  # that this report covers
    answered: Count = 0
    refused: Count = 0
    dropped: Count = 0
    crashes: Count = 0
    latency_us_p50: Microseconds | None = None
    latency_us_p95: Microseconds | None = None
    confidence: Moments = Moments()
    labels: Annotated[dict[Short, Count], msgspec.Meta(max_length=MAX_LABELS)] = {}
    right: Count = 0  # of `labelled` answers
    labelled: Count = 0
    drift: Amount | None = None
    celsius: Celsius | None = None
    memory_bytes: Count | None = None
    machine: Short = ""
    agent: Short = ""
    runtime: Short = ""
    reads: Count = 1  # the newest schema of bundles that this agent reads


class DriftReport(_Message, frozen=True):
    """How samples differ from the bundle's reference. Statistics only: no sample can be reconstructed from them.

    `score`: the highest since the last report, 1 an alarm. `shifts`: of each feature's mean, in a sample's standard deviations.
    """

    model: Short = ""
    sha256: Short = ""
    samples: Count = 0
    score: Amount = 0.0
    alarms: Count = 0
    drifting: bool = False
    since: Time | None = None
    cause: Short = ""
    text: Text = ""
    shifts: Annotated[dict[Short, Number], msgspec.Meta(max_length=100)] = {}
    confidence: Annotated[list[Count], msgspec.Meta(max_length=10)] = []  # answers by confidence, in bins of equal width
    faults: Annotated[dict[Short, Count], msgspec.Meta(max_length=50)] = {}  # what cleaning refused or repaired, by reason


Shape = Annotated[list[Annotated[int, msgspec.Meta(ge=1, le=1 << 16)]], msgspec.Meta(max_length=4)]
Packed = Annotated[bytes, msgspec.Meta(max_length=4 << 20)]


class NamedArray(_Message, frozen=True):
    """One input of a sample: `data` as in `Sample`."""

    name: Short
    dtype: DtypeName = "uint8"
    shape: Shape = []
    data: Packed = b""


class Sample(_Message, frozen=True):
    """One kept sample, as the model saw it: `data` is a zlib stream of the array's bytes, little-endian, in C order.

    Of a model with several inputs it is the first one, called `input`, and `others` are the others.
    `random`: drawn without regard to what is in it, so that shares estimated from such samples are honest. `recording`: samples of
    one recording belong together. `kind` rest: not chosen, but of a recording that the hub asked for. `truth`: the label, where the
    device knows it. `answer`: the model's, where it is more than a label: a person begins with it.
    """

    key: Key
    at: Time
    kind: Literal["labelled", "uncertain", "drifted", "random", "rest"]
    model: Short
    sha256: Sha256
    recording: Short
    window: Count = 0
    random: bool = False
    guess: Short = ""
    confidence: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
    features: Annotated[list[Number], msgspec.Meta(max_length=100)] = []  # standardised: like samples are near each other
    value: Amount = 0.0  # priority for labelling: the highest first
    truth: Short = ""
    dtype: DtypeName = "uint8"
    shape: Shape = []
    data: Packed = b""
    input: Short = ""
    others: Annotated[list[NamedArray], msgspec.Meta(max_length=MAX_OTHERS)] = []
    answer: Annotation | None = None

    @property
    def inputs(self) -> list[NamedArray]:
        """Every input, the first one first."""
        return [NamedArray(name=self.input, dtype=self.dtype, shape=self.shape, data=self.data), *self.others]


class Samples(_Message, frozen=True):
    """An upload, as MessagePack: samples, and events that wait with them. Each is stored once, by its key.

    `released`: of recordings that the hub asked for nothing is held back any more; what there was is sent, or waits its turn.
    """

    samples: Annotated[list[Sample], msgspec.Meta(max_length=1000)] = []
    events: Annotated[list[Event], msgspec.Meta(max_length=1000)] = []
    released: Annotated[list[Short], msgspec.Meta(max_length=MAX_RECORDINGS)] = []


class Event(_Message, frozen=True):
    """An event on the device. `kind`: installed, committed, refused, rolled-back, stale, and so on."""

    key: Key
    kind: Short
    at: Time
    target: Short = ""
    text: Text = ""


class Report(_Message, frozen=True):
    """What a device sends: stored once, however often it arrives.

    `others`: how its other bundles did; `log`: warnings and errors of its log since the last report.
    """

    key: Key
    at: Time
    heartbeat: Heartbeat | None = None
    others: Annotated[list[Heartbeat], msgspec.Meta(max_length=MAX_OTHER_BUNDLES)] = []
    events: Annotated[list[Event], msgspec.Meta(max_length=100)] = []
    job: JobResult | None = None
    drift: DriftReport | None = None
    log: Annotated[list[Annotated[str, msgspec.Meta(max_length=MAX_LOG_LINE)]], msgspec.Meta(max_length=MAX_LOG_LINES)] = []


class JobResult(_Message, frozen=True):
    """A job's answer: `measured` as `edgeloop-agent bench --json` prints it, or why there is none. `lines`: of the device's log."""

    id: Short
    refused: Text = ""
    measured: Annotated[dict[Short, Any], msgspec.Meta(max_length=200)] = {}
    lines: Annotated[list[Annotated[str, msgspec.Meta(max_length=300)]], msgspec.Meta(max_length=60)] = []


MAX_NESTING = 20  # levels of lists and objects, in free-form values


def too_deep(value: object, max_depth: int = MAX_NESTING) -> bool:
    """Whether lists and objects are nested deeper than `max_depth`; needs no recursion."""
    waiting = [(value, 0)]
    while waiting:
        each_value, depth = waiting.pop()
        if depth > max_depth:
            return True
        inner = each_value.values() if isinstance(each_value, dict) else each_value if isinstance(each_value, list) else ()
        waiting.extend((each, depth + 1) for each in inner)
    return False


M = TypeVar("M")


def decode(data: bytes, kind: type[M], where: str) -> M:
    """Raises DataError with what does not fit."""
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"{where}: not a {kind.__name__.lower()} ({error})") from error


def encode(message: msgspec.Struct) -> bytes:
    return msgspec.json.encode(message)
