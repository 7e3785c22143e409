"""The watches of `make loop` without their processes: what they choose, what the hub asks, and which samples have a label then."""

from __future__ import annotations

import sys
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import harness  # noqa: F401  (it puts the scripts on the path)

# isort: split
from closed_loop_devices import FALSE_ALARMS, RANDOM_SHARE, WEARERS, Recordings
from edgeloop_agent.drift.monitor import DriftFollower
from edgeloop_agent.engine import Engine
from edgeloop_agent.outbox.selection import PRIORITY, SampleChoice, SampleSelector
from edgeloop_contract.archive import Bundle
from edgeloop_contract.bench_report import VariantChoice as Variant
from edgeloop_contract.messages import Sample, Samples
from edgeloop_hub.auth.accounts import EnrolledDevice
from edgeloop_hub.samples import ingest, label_queue, labelling, sample_store
from edgeloop_hub.settings import Settings
from edgeloop_hub.storage.database import Database

MODEL = "exercise_watch"
DEVICES = {name: subject for name, subject in WEARERS.items() if name.startswith("worn")}


@dataclass(frozen=True)
class Stream:
    """(N, ...) windows that the champion answered, in the order in which they came."""

    devices: list[str]
    recordings: list[str]
    samples: Any
    scores: Any
    labels: Any  # numbers


def stream(bundle: Bundle, half: str) -> Stream:
    truth, engine = Recordings(), Engine(bundle, Variant("tflite-int8", 1, "benchmark"))
    devices, names, samples, scores, labels = [], [], [], [], []
    for device, subject in DEVICES.items():
        for number, one in enumerate(truth.of(subject, half)):
            for answer in engine.answers(truth.values(one)):
                devices.append(device)
                names.append(f"{half}-{number}-{one[0]}")
                samples.append(answer.sample)
                scores.append(answer.scores)
                labels.append(int(truth.labels[one[0]]))
    return Stream(devices, names, np.concatenate(samples), np.concatenate(scores), np.array(labels))


def asked(
    bundle: Bundle, came: Stream, questions: int, seed: int, folder: Path, whole: bool, random_share: float = RANDOM_SHARE
) -> tuple[dict[int, int], Database]:
    """The rows that have a label after so many questions, with it: chosen on the device, queued and grouped by the hub.

    `whole`: each answer is for the whole recording, and the devices send the rest of it. Rows are the numbers that keys begin with.
    """
    rng, manifest = np.random.default_rng(seed), bundle.manifest
    assert manifest.drift is not None
    database = Database(f"sqlite:///{Path(tempfile.mkdtemp(dir=folder)) / 'hub.sqlite'}")
    settings, rows, context_count = Settings(folder), {}, {device: list[Sample]() for device in DEVICES}
    for device in DEVICES:
        follower = DriftFollower(manifest, manifest.drift, FALSE_ALARMS)
        choose = SampleSelector(random_share, 0.3, 1e6, lambda: float(rng.random()), lambda: 0.0, allowance=1e9)
        choose.allowance = 1e9
        choose.start_from(manifest.drift.reliability)
        kept: list[Sample] = []
        for row in [i for i, name in enumerate(came.devices) if name == device]:
            look = follower.observe(came.samples[row][None], came.scores[row][None])
            choose.allowance = 1e9
            choice = choose(look.features, look.confidence, look.drifting, None) or SampleChoice("rest", PRIORITY["rest"], False)
            key = f"{row:06}-{device}-{seed}"
            rows[key] = row
            values = came.samples[row]
            (context_count[device] if choice.kind == "rest" else kept).append(
                Sample(
                    key=key, at=float(row + 1), kind=choice.kind, model=MODEL, sha256=bundle.sha256, recording=came.recordings[row],  # type: ignore[arg-type]
                    random=choice.random, guess=manifest.task.labels[look.label], confidence=look.confidence,  # type: ignore[union-attr]
                    features=[float(f) for f in np.clip(look.features[:100], -99, 99)], value=choice.value, dtype=str(values.dtype),  # type: ignore[arg-type]
                    shape=list(values.shape), data=zlib.compress(values.tobytes()),
                )
            )  # fmt: skip
        bring(database, device, bundle.sha256, kept, settings)
    with database.writing() as connection:
        for _ in range(questions):
            entry = next(iter(label_queue.waiting(connection, MODEL, "bench", 1)), None)
            if entry is None:
                break
            truth = str(came.labels[rows[entry.key]])
            labelling.label(connection, entry.device, entry.key, "bench", truth, settings, whole)
        wanted = {device: labelling.wanted_recordings(connection, device, settings) for device in DEVICES}
    for device, rest in context_count.items():
        bring(database, device, bundle.sha256, [s for s in rest if s.recording in wanted[device]], settings)
    with database.reading() as connection:
        found = sample_store.listed(connection, MODEL, "labelled")
        print(f"  {len(sample_store.listed(connection, MODEL, 'all'))} samples sent", file=sys.stderr)
    return {rows[entry.key]: int(entry.label) for entry in found}, database


def bring(database: Database, device: str, sha256: str, found: list[Sample], settings: Settings) -> None:
    """From the device to the hub."""
    with database.writing() as connection:
        for start in range(0, len(found), 500):
            who = EnrolledDevice(device, [], "stable", MODEL, sha256)
            assert ingest.store(connection, who, Samples(samples=found[start : start + 500]), settings)


def together(came: Stream, rows: list[int]) -> list[int]:
    """Those rows with all others of their recordings."""
    wanted = {(came.devices[row], came.recordings[row]) for row in rows}
    return [row for row, place in enumerate(zip(came.devices, came.recordings, strict=True)) if place in wanted]
