"""Samples at a hub's database, without a device."""

from __future__ import annotations

import zlib
from pathlib import Path

from edgeloop_contract.messages import Sample, Samples
from edgeloop_hub.auth.accounts import EnrolledDevice
from edgeloop_hub.samples import ingest
from edgeloop_hub.settings import Settings
from edgeloop_hub.storage.database import Database


def made(key: str, recording: str, feature: float, guess: str = "ROW", random: bool = False) -> Sample:
    return Sample(
        key=f"key-{key}-0000", at=1.0, kind="uncertain", model="m", sha256="0" * 64, recording=recording, guess=guess, random=random,
        features=[feature] * 4, dtype="uint8", shape=[4], data=zlib.compress(bytes(4)),
    )  # fmt: skip


def stored(tmp_path: Path, sent: list[Sample]) -> tuple[Database, Settings]:
    database, settings = Database(f"sqlite:///{tmp_path / 'hub.sqlite'}"), Settings(tmp_path)
    with database.writing() as connection:
        ingest.store(connection, EnrolledDevice("pi-1", [], "stable", "m", "0" * 64), Samples(samples=sent), settings)
    return database, settings
