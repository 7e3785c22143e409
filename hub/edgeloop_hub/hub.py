"""The hub's parts that every request and every command uses."""

from __future__ import annotations

from dataclasses import dataclass

from securesystemslib.signer import CryptoSigner

from edgeloop_hub.settings import Settings
from edgeloop_hub.storage import data_folder
from edgeloop_hub.storage.blobs import Blobs
from edgeloop_hub.storage.database import Database
from edgeloop_hub.updates.signing import online_signer


@dataclass(frozen=True)
class Hub:
    """Settings, database, storage and the hub's own key."""

    settings: Settings
    database: Database
    blobs: Blobs
    signer: CryptoSigner

    @classmethod
    def open(cls, settings: Settings) -> Hub:
        """Raises StorageError."""
        data_folder.prepare(settings)
        signer = online_signer(settings)
        return cls(settings, Database(settings.database_url), Blobs(settings.blobs, settings.data / data_folder.BLOBS), signer)
