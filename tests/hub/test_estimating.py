"""Accuracy in the field, told from samples that were drawn at random: chosen ones have their labels first, and must not count more."""

from __future__ import annotations

import zlib
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from sqlalchemy import create_engine, select, text

from edgeloop_contract.messages import Sample, Samples
from edgeloop_hub.auth.accounts import EnrolledDevice
from edgeloop_hub.samples import accuracy, ingest, label_queue, labelling, sample_store
from edgeloop_hub.settings import Settings
from edgeloop_hub.storage.database import Database
from edgeloop_hub.storage.schema import labels, samples

PI = EnrolledDevice("pi-1", [], "stable", "m", "0" * 64)


def sent(rng: np.random.Generator, count: int) -> tuple[list[Sample], dict[str, str]]:
    """Of each sure and unsure kind a half; all random, the unsure ones chosen as well. And the truth."""
    found, truth = [], {}
    for i in range(count):
        confidence = float(rng.choice([0.95, 0.4]))
        key = f"{int(rng.integers(2**60)):032}"
        truth[key] = "ROW" if rng.random() < confidence else "PEN"
        found.append(
            Sample(
                key=key, at=1.0, kind="uncertain" if confidence < 0.5 else "random", model="m", sha256="0" * 64, recording=f"r{i // 4}",
                guess="ROW", confidence=confidence, random=True, value=3 - confidence, features=list(rng.normal(0, 9, 4)), dtype="uint8",
                shape=[4], data=zlib.compress(bytes(4)),
            )
        )  # fmt: skip
    return found, truth


@pytest.mark.long
def test_what_was_chosen_to_be_labelled_does_not_bend_the_estimate(tmp_path: Path) -> None:
    """Twenty fleets of 120 samples, 60 questions each, every third for a whole recording."""
    naive, fair, counts = [], [], []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        database, settings = Database(f"sqlite:///{tmp_path / f'{seed}.sqlite'}"), Settings(tmp_path)
        found, truth = sent(rng, 120)
        all_right = float(np.mean([truth[s.key] == "ROW" for s in found]))
        with database.writing() as connection:
            ingest.store(connection, PI, Samples(samples=found), settings)
            for number in range(60):
                entry = label_queue.waiting(connection, "m", "anna", 1)[0]
                whole = number % 3 == 0 and len({truth[s.key] for s in found if s.recording == entry.recording}) == 1
                labelling.label(connection, "pi-1", entry.key, "anna", truth[entry.key], settings, whole)
            told = accuracy.drawn(connection, {"0" * 64}, 0.0)
            labelled = [row.label == row.prediction for row in sample_store.listed(connection, "m", "labelled")]
        naive.append(np.mean(labelled) - all_right)
        fair.append(np.mean([row.label == row.prediction for row in told]) - all_right if told else np.nan)
        counts.append(len(told))
    assert np.mean(naive) < -0.08 and np.nanmean(np.array(counts)) >= 12
    assert abs(np.nanmean(fair)) < 0.05 and np.isnan(fair).sum() <= 6


def test_until_the_first_without_a_label_or_all(tmp_path: Path) -> None:
    database, settings = Database(f"sqlite:///{tmp_path / 'hub.sqlite'}"), Settings(tmp_path)
    found, truth = sent(np.random.default_rng(0), 30)
    order = sorted(found, key=lambda s: accuracy.lot("pi-1", s.key))
    with database.writing() as connection:
        ingest.store(connection, PI, Samples(samples=found), settings)
        assert accuracy.drawn(connection, None, 0.0) == []
        for sample in [*order[:9], *order[10:]]:
            labelling.label(connection, "pi-1", sample.key, "anna", truth[sample.key], settings)
        assert accuracy.drawn(connection, None, 0.0) == [], "nine are too few"
        assert label_queue.waiting(connection, "m", "anna", 1)[0].key == order[9].key
        labelling.skip(connection, "pi-1", order[9].key)
        assert [r.label for r in accuracy.drawn(connection, None, 0.0)] == [truth[s.key] for s in [*order[:9], *order[10:]]]
        assert accuracy.drawn(connection, None, 0.0, ["pi-1"]) == [] == accuracy.drawn(connection, {"1" * 64}, 0.0)
        late = replace(PI, name="pi-2")
        ingest.store(connection, late, Samples(samples=found), settings)
        assert len(accuracy.drawn(connection, None, 0.0)) == 29, "what came after the last label is not looked at"


def test_a_random_sample_is_asked_about_by_its_groups_head(tmp_path: Path) -> None:
    """Near-duplicates share a label; who cannot tell the one cannot tell the others."""
    database, settings = Database(f"sqlite:///{tmp_path / 'hub.sqlite'}"), Settings(tmp_path)
    found, _ = sent(np.random.default_rng(1), 6)
    found = [replace_features(s, [float(i // 3)] * 4, random=i % 3 == 2) for i, s in enumerate(found)]
    with database.writing() as connection:
        ingest.store(connection, PI, Samples(samples=found), settings)
        asked = [row.key for row in label_queue.waiting(connection, "m", "anna", 10)]
        assert sorted(asked) == sorted([found[0].key, found[3].key])
        labelling.skip(connection, "pi-1", found[0].key)
        labelling.label(connection, "pi-1", found[3].key, "anna", "ROW", settings)
        assert label_queue.waiting(connection, "m", "anna", 10) == []
        assert [row.label for row in accuracy.drawn(connection, None, 0.0)] == ["ROW"]
        later = msgspec.structs.replace(found[2], key="one-that-came-later")
        ingest.store(connection, PI, Samples(samples=[later]), settings)
        assert [row.key for row in label_queue.waiting(connection, "m", "anna", 10)] == [later.key], "by itself: it may be told"


def replace_features(sample: Sample, features: list[float], random: bool) -> Sample:
    return msgspec.structs.replace(sample, features=features, random=random, kind="random" if random else "uncertain")


def test_samples_of_an_older_hub_take_their_place(tmp_path: Path) -> None:
    path = tmp_path / "hub.sqlite"
    database, settings = Database(f"sqlite:///{path}"), Settings(tmp_path)
    found, _ = sent(np.random.default_rng(2), 5)
    with database.writing() as connection:
        ingest.store(connection, PI, Samples(samples=found), settings)
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:  # as the version before left it
        for statement in (
            "DROP INDEX ix_samples_random_lot", "DROP INDEX ix_drifts_device_at", "DROP TABLE recordings", "DROP TABLE facts",
        ):  # fmt: skip
            connection.execute(text(statement))
        for table, column in (
            ("samples", "lot"),
            ("samples", "truth"),
            ("samples", "unpacked"),
            ("devices", "quota_rows"),
            ("devices", "quota_bytes"),
        ):
            connection.execute(text(f"ALTER TABLE {table} DROP COLUMN {column}"))
        for person in ("device", "ada"):
            row = {"key": found[0].key, "person": person}
            connection.execute(text("INSERT INTO labels VALUES ('pi-1', :key, :person, 'walk', 1.0)"), row)
        connection.execute(text("UPDATE alembic_version SET version_num = '0002'"))
    engine.dispose()
    with Database(f"sqlite:///{path}").reading() as connection:
        lots = {row.key: row.lot for row in connection.execute(select(samples.c.key, samples.c.lot))}
        truths = {row.key: row.truth for row in connection.execute(select(samples.c.key, samples.c.truth)) if row.truth}
        assert list(connection.execute(select(labels.c.person)).scalars()) == ["ada"]
    assert truths == {found[0].key: "walk"}  # what the device said of itself is no person's word any more
    assert lots == {s.key: accuracy.lot("pi-1", s.key) for s in found}
