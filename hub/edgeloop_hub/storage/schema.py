"""The hub's tables. Their history is in migrations/; a test holds the two equal."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Float, Index, Integer, LargeBinary, String, Table, Text

from edgeloop_hub.storage.alert_tables import ALERT_TABLES
from edgeloop_hub.storage.fleet_tables import FLEET_TABLES, NAME, SHA, TARGET
from edgeloop_hub.storage.fleet_tables import deltas as deltas
from edgeloop_hub.storage.fleet_tables import device_bundles as device_bundles
from edgeloop_hub.storage.fleet_tables import metadata as metadata
from edgeloop_hub.storage.history_tables import HISTORY_TABLES
from edgeloop_hub.storage.job_tables import JOB_TABLES
from edgeloop_hub.storage.people_tables import PEOPLE_TABLES

users = Table(
    "users",
    metadata,
    Column("name", NAME, primary_key=True),
    Column("password", Text, nullable=False),
    Column("created", Float, nullable=False),
)
sessions = Table(
    "sessions",
    metadata,
    Column("hash", SHA, primary_key=True),
    Column("user", NAME, nullable=False),
    Column("csrf", SHA, nullable=False),
    Column("expires", Float, nullable=False),
)
tokens = Table(
    "tokens",
    metadata,
    Column("hash", SHA, primary_key=True),
    Column("kind", String(10), nullable=False),
    Column("name", NAME, nullable=False),
    Column("labels", Text, nullable=False),
    Column("created", Float, nullable=False),
    Column("expires", Float),
    Column("used", Float),
)
devices = Table(
    "devices",
    metadata,
    Column("name", NAME, primary_key=True),
    Column("credential", SHA, nullable=False, unique=True),
    Column("labels", Text, nullable=False),
    Column("channel", NAME, nullable=False),
    Column("enrolled", Float, nullable=False),
    Column("revoked", Float),
    Column("machine", TARGET, nullable=False),
    Column("last_seen", Float),
    Column("model", TARGET, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("sha256", SHA, nullable=False),
    Column("heartbeat", Text, nullable=False),
    Column("quota_from", Float, nullable=False),
    Column("quota_used", Integer, nullable=False),
    Column("quota_rows", BigInteger, nullable=False, server_default="0"),
    Column("quota_bytes", BigInteger, nullable=False, server_default="0"),
)
heartbeats = Table(
    "heartbeats",
    metadata,
    Column("device", NAME, primary_key=True),
    Column("key", SHA, primary_key=True),
    Column("at", Float, nullable=False),
    Column("sha256", SHA, nullable=False),
    Column("body", Text, nullable=False),
    Index(None, "device", "at"),
    Index(None, "at"),
)
events = Table(
    "events",
    metadata,
    Column("source", NAME, primary_key=True),
    Column("key", SHA, primary_key=True),
    Column("at", Float, nullable=False),
    Column("kind", TARGET, nullable=False),
    Column("target", TARGET, nullable=False),
    Column("rollout", Integer),
    Column("text", Text, nullable=False),
    Index(None, "at"),
    Index(None, "target", "kind"),
    Index(None, "rollout"),
    Index("ix_events_kind_at", "kind", "at"),
)
bundles = Table(
    "bundles",
    metadata,
    Column("target", TARGET, primary_key=True),
    Column("sha256", SHA, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("model", TARGET, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("channel", NAME, nullable=False),
    Column("about", Text, nullable=False),
    Column("published", Float, nullable=False),
    Column("withdrawn", Float),
    Index(None, "sha256"),
)
parts = Table(
    "parts",
    metadata,
    Column("sha256", SHA, primary_key=True),
    Column("begins", BigInteger, primary_key=True, autoincrement=False),
    Column("bytes", BigInteger, nullable=False),
    Column("at", Float, nullable=False),
)
signed = Table(
    "signed",
    metadata,
    Column("role", String(10), primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("body", LargeBinary, nullable=False),
    Column("expires", Float, nullable=False),
)
released = Table(
    "released",
    metadata,
    Column("channel", NAME, primary_key=True),
    Column("model", TARGET, primary_key=True),
    Column("target", TARGET, nullable=False),
)
rollouts = Table(
    "rollouts",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("channel", NAME, nullable=False),
    Column("model", TARGET, nullable=False),
    Column("target", TARGET, nullable=False),
    Column("plan", Text, nullable=False),
    Column("state", String(10), nullable=False),
    Column("step", Integer, nullable=False),
    Column("step_began", Float, nullable=False),
    Column("began", Float, nullable=False),
    Column("reason", Text, nullable=False),
    Column("fallback", LargeBinary),
    Index(None, "state"),
)
jobs = Table(
    "jobs",
    metadata,
    Column("id", SHA, primary_key=True),
    Column("device", NAME, nullable=False),
    Column("target", TARGET, nullable=False),
    Column("state", String(10), nullable=False),
    Column("at", Float, nullable=False),
    Column("result", Text, nullable=False),
    Index(None, "device", "state"),
)
tries = Table(
    "tries",
    metadata,
    Column("who", TARGET, primary_key=True),
    Column("count", Integer, nullable=False),
    Column("since", Float, nullable=False),
)
facts = Table(  # what the hub knows of itself, such as its last tick
    "facts",
    metadata,
    Column("name", NAME, primary_key=True),
    Column("at", Float, nullable=False),
    Column("body", Text, nullable=False),
)
samples = Table(
    "samples",
    metadata,
    Column("device", NAME, primary_key=True),
    Column("key", SHA, primary_key=True),
    Column("at", Float, nullable=False),
    Column("taken", Float, nullable=False),
    Column("kind", String(10), nullable=False),
    Column("random", Integer, nullable=False),
    Column("model", TARGET, nullable=False),
    Column("sha256", SHA, nullable=False),
    Column("recording", TARGET, nullable=False),
    Column("window", BigInteger, nullable=False),
    Column("guess", TARGET, nullable=False),
    Column("confidence", Float, nullable=False),
    Column("value", Float, nullable=False),
    Column("features", Text, nullable=False),
    Column("alike", String(130), nullable=False),  # device/key of the first of its group: near-duplicates
    Column("dtype", String(10), nullable=False),
    Column("shape", String(60), nullable=False),
    Column("data", LargeBinary, nullable=False),
    Column("label", TARGET),
    Column("labelled", Float),
    Column("skipped", Integer, nullable=False),
    Column("truth", TARGET, nullable=False, server_default=""),  # the label by the device's own word: a source of its own
    Column("unpacked", BigInteger, nullable=False, server_default="0"),  # bytes
    Column("lot", Float, nullable=False),  # place in the order in which random samples are asked about
    Index(None, "random", "lot"),
    Index(None, "at"),
    Index(None, "model", "labelled"),
    Index(None, "alike"),
)
# Of samples of a model with several inputs: the first one's name, and the others as MessagePack.
sample_inputs = Table(
    "sample_inputs",
    metadata,
    Column("device", NAME, primary_key=True),
    Column("key", SHA, primary_key=True),
    Column("at", Float, nullable=False),
    Column("input", TARGET, nullable=False),
    Column("others", LargeBinary, nullable=False),
)
# Of samples whose model answers more than one label, as MessagePack of `Annotation`: its answer, and what people agreed on.
annotated_samples = Table(
    "annotated_samples",
    metadata,
    Column("device", NAME, primary_key=True),
    Column("key", SHA, primary_key=True),
    Column("at", Float, nullable=False),
    Column("answer", LargeBinary),
    Column("settled", LargeBinary),
)
personal_annotations = Table(  # what each person said
    "personal_annotations",
    metadata,
    Column("device", NAME, primary_key=True),
    Column("key", SHA, primary_key=True),
    Column("person", NAME, primary_key=True),
    Column("at", Float, nullable=False),
    Column("body", LargeBinary, nullable=False),
)
# A device's reports since a rollout began, added up: what its gates judge by. A row without a device says that all were.
rollout_evidence = Table(
    "rollout_evidence",
    metadata,
    Column("rollout", Integer, primary_key=True, autoincrement=False),
    Column("device", NAME, primary_key=True),
    Column("sha256", SHA, primary_key=True),
    Column("crashes", BigInteger, nullable=False),  # that the last report counted
    Column("body", Text, nullable=False),
)
# What a rollout's gates saw, look by look. Number 0: what was said of a gate before the rollout began.
rollout_looks = Table(
    "rollout_looks",
    metadata,
    Column("rollout", Integer, primary_key=True, autoincrement=False),
    Column("gate", NAME, primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("at", Float, nullable=False),
    Column("body", Text, nullable=False),
)
ADDED_INDEXES = tuple(index for index in events.indexes if index.name == "ix_events_kind_at")
# Tables that were added without a new revision, so that an earlier release opens the database too; it does not see them.
ADDED = (
    rollout_evidence,
    rollout_looks,
    sample_inputs,
    annotated_samples,
    personal_annotations,
    *FLEET_TABLES,
    *ALERT_TABLES,
    *PEOPLE_TABLES,
    *JOB_TABLES,
    *HISTORY_TABLES,
)
labels = Table(
    "labels",
    metadata,
    Column("device", NAME, primary_key=True),
    Column("key", SHA, primary_key=True),
    Column("person", NAME, primary_key=True),
    Column("label", TARGET, nullable=False),
    Column("at", Float, nullable=False),
)
recordings = Table(  # what a person said of a whole recording
    "recordings",
    metadata,
    Column("device", NAME, primary_key=True),
    Column("recording", TARGET, primary_key=True),
    Column("model", TARGET, primary_key=True),
    Column("person", NAME, primary_key=True),
    Column("label", TARGET, nullable=False),
    Column("at", Float, nullable=False),
    Column("released", Float),  # when the device said that it holds nothing of it back
    Index(None, "at"),
)
drifts = Table(
    "drifts",
    metadata,
    Column("device", NAME, primary_key=True),
    Column("key", SHA, primary_key=True),
    Column("at", Float, nullable=False),
    Column("model", TARGET, nullable=False),
    Column("sha256", SHA, nullable=False),
    Column("samples", BigInteger, nullable=False),
    Column("score", Float, nullable=False),
    Column("body", Text, nullable=False),
    Index(None, "at"),
    Index(None, "model", "at"),
    Index(None, "device", "at"),
)
