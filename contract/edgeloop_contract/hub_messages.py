"""What the workstation sends to the hub, and what the hub answers: one definition for both sides.

The hub refuses unknown fields of a request. The workstation ignores unknown fields of an answer, so that it understands a newer
hub. Times are seconds since 1970. Where a field's JSON name differs from the attribute, `name=` says the JSON name.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from edgeloop_contract.gate_messages import GateStatus
from edgeloop_contract.messages import Device, Heartbeat, Short, Target
from edgeloop_contract.needs import AgentNeeds
from edgeloop_contract.rollout import RolloutPlan, RolloutState

__all__ = [
    "BundleSummary", "DeviceStatus", "EventRecord", "GroupVariance", "Health", "HealthWarning", "JobCreated",
    "JobOutcome", "JobRequest", "JobState", "JobStatus", "MetadataUpload", "OtherBundle", "PublicKey", "PublishedBundle",
    "ReceivedBytes", "RevokedTokens", "RolloutCreated", "RolloutRequest", "RolloutStatus", "RolloutSummary", "SignedMetadata",
    "TargetsVersion", "TickReport", "TokenSummary", "VariantSummary",
]  # fmt: skip

JobState = Literal["waiting", "refused", "done"]


class _Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class _Answer(msgspec.Struct, frozen=True):
    pass


# Signed metadata and bundles


class PublicKey(_Answer, frozen=True):
    """The public key with which the hub signs snapshot and timestamp, as TUF metadata write it."""

    keyid: str
    keytype: str
    scheme: str
    keyval: dict[str, str]


class SignedMetadata(_Answer, frozen=True):
    """The newest root metadata (at most one) and targets metadata, as JSON text. Empty: there are none yet."""

    roots: list[str] = []
    targets: str = ""


class MetadataUpload(_Request, frozen=True):
    """Metadata that the workstation signed: new roots, oldest first, and new targets. Empty: none."""

    roots: list[str] = []
    targets: str = ""


class TargetsVersion(_Answer, frozen=True):
    """The version of the newest targets metadata; 0: there are none."""

    targets_version: int


class ReceivedBytes(_Answer, frozen=True):
    """How many bytes of a bundle the hub has, from its beginning and without a gap."""

    bytes: int


class VariantSummary(_Answer, frozen=True):
    """One file of a bundle. `accuracy`: value, and the bounds of its 95 % interval."""

    name: str
    bytes: int
    accuracy: list[float] | None = None
    latency_us: float | None = None
    machine: str | None = None


class GroupVariance(_Answer, frozen=True, omit_defaults=True):
    """How far features' means vary where nothing is wrong; standard deviations by feature.

    `between`: from group to group (a place, a person). `within`: from recording to recording of one group. `places`, `samples`,
    `recordings`: how many of each they were measured on; 0 places: every sample counts by itself.
    """

    between: dict[str, float] = {}
    within: dict[str, float] = {}
    places: int = 0
    samples: int = 0
    recordings: int = 0


class BundleSummary(_Answer, frozen=True):
    """What the registry knows of a bundle. `reliability`: (bins, 2) share of right answers, and samples, by confidence.

    `schema`: the lowest reader that runs it, for what it `requires`. `unknown`: what nobody knows of it. `task`: its kind; "": an
    earlier hub did not keep it. `quantities` and their standard deviations `spread`: of regression. `background`: of segmentation.
    `points`: the names of a box's points, of keypoints.
    `agent`: what a wheelhouse is, and what a device needs for it.
    """

    model: str = ""
    version: int = 0
    parent: str | None = None
    recipe: str = ""
    data: str = ""
    labels: list[str] = []
    reliability: list[list[float]] = []
    group_variance: GroupVariance = msgspec.field(name="straying", default_factory=GroupVariance)
    variants: list[VariantSummary] = []
    schema: int = 1
    requires: list[str] = []
    unknown: list[str] = []
    task: str = ""
    quantities: list[str] = []
    spread: list[float] = []
    background: str = ""
    points: list[str] = []
    agent: AgentNeeds | None = None


class PublishedBundle(BundleSummary, frozen=True, kw_only=True):
    """A bundle as it was published."""

    target: str
    sha256: str
    bytes: int
    channel: str
    published: float
    withdrawn: float | None = None


# The hub itself, its tokens, its devices


class TickReport(_Answer, frozen=True):
    """The last tick: when it began, how many seconds it took, what it could not do, and how long it held other writers at most."""

    at: float
    seconds: float
    fine: bool
    problems: list[str] = []
    longest_write_seconds: float = 0.0


class HealthWarning(_Answer, frozen=True):
    """Something that somebody should do."""

    level: Literal["soon", "urgent", "over"]
    text: str


class Health(_Answer, frozen=True):
    """`expires`: when the newest metadata expire, by role."""

    tick: TickReport | None = None
    expires: dict[str, float] = {}
    warnings: list[HealthWarning] = []


class TokenSummary(_Answer, frozen=True):
    """A token without its secret. `id`: the beginning of its digest; `scopes`: what it may do, empty: everything."""

    id: str
    kind: str
    name: str
    created: float
    expires: float | None = None
    used: float | None = None
    scopes: list[str] = []


class RevokedTokens(_Answer, frozen=True):
    """How many tokens were revoked."""

    revoked: int


class OtherBundle(_Answer, frozen=True):
    """What a device runs beside its first bundle."""

    model: str
    version: int
    sha256: str


class DeviceStatus(_Answer, frozen=True):
    """A device with its last heartbeat."""

    name: str
    channel: str
    enrolled: float
    revoked: float | None
    machine: str
    last_seen: float | None
    model: str
    version: int
    sha256: str
    labels: list[str]
    heartbeat: Heartbeat
    others: list[OtherBundle] = []


class EventRecord(_Answer, frozen=True):
    """An event of a device (`source`: its name) or of the hub."""

    source: str
    at: float
    kind: str
    target: str
    rollout: int | None
    text: str


class JobRequest(_Request, frozen=True):
    """Have a device measure a published bundle when it is idle."""

    device: Device
    target: Target


class JobCreated(_Answer, frozen=True):
    id: str


class JobOutcome(_Answer, frozen=True, omit_defaults=True):
    """Empty while the job waits. `measured`: as `edgeloop-agent bench --json` prints it, free of form for the hub."""

    id: str = ""
    refused: str = ""
    measured: dict[str, Any] = {}
    lines: list[str] = []


class JobStatus(_Answer, frozen=True):
    id: str
    device: str
    target: str
    state: JobState
    result: JobOutcome


# Rollouts


class RolloutRequest(_Request, frozen=True, omit_defaults=True):
    """`fallback`: targets metadata without the new bundle, signed in advance; needed where the plan says `return`.

    `channel`: whose devices get it; empty: of the channel that it was published for.
    """

    target: Target
    plan: RolloutPlan
    fallback: str = ""
    channel: Short = ""


class RolloutCreated(_Answer, frozen=True):
    id: int


class RolloutSummary(_Answer, frozen=True):
    """`step`: the one that runs, from 1. `steps`: how many there are; 0 where the plan cannot be read."""

    id: int
    target: str
    state: RolloutState
    step: int
    steps: int
    reason: str
    began: float


class RolloutStatus(_Answer, frozen=True):
    """A rollout with its gates as they stand. `cohort`, `reported`, `failed`: devices; `need_upgrade`: whose agent
    cannot read the bundle; `pinned`: to another bundle. The last two are offered nothing, and are not in the cohort."""

    id: int
    target: str
    model: str
    channel: str
    state: RolloutState
    step: int
    reason: str
    began: float
    step_began: float
    steps: list[str] = []
    soak_seconds: float = 0.0
    on_breach: str = "halt"
    cohort: int = 0
    reported: int = 0
    failed: int = 0
    need_upgrade: int = 0
    pinned: int = 0
    gates: list[GateStatus] = []
