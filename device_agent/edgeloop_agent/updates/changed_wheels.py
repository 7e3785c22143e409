"""Of a wheelhouse, only the wheels that this device has not installed yet: by its signed list, each by its digest.

They wait in a folder beside the environments, so that an update that is cut off goes on where it was.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from edgeloop_agent.updates.environments import placed, whole_wheels
from edgeloop_agent.updates.journal import UpdateFolder
from edgeloop_agent.updates.offers import Offer
from edgeloop_agent.updates.rebuilding import digest_of, size_of
from edgeloop_contract.errors import BundleError, BundleTooNew
from edgeloop_contract.wheelhouse import Wheel, WheelhouseManifest, manifest_from

FOLDER = "wheels.partial"


@dataclass(frozen=True)
class ChangedWheels:
    """The wheels that came, and the list of all. Their bytes are checked when they are opened."""

    path: Path
    manifest: WheelhouseManifest

    def bytes_of(self, wheel: Wheel) -> IO[bytes]:
        """Raises BundleError."""
        file = self.path / wheel.sha256
        if digest_of(file) != wheel.sha256:
            raise BundleError(f"{self.path}: {wheel.file} is not what the manifest says")
        return file.open("rb")


def forget(folder: UpdateFolder) -> None:
    shutil.rmtree(folder.path / FOLDER, ignore_errors=True)


def came(folder: UpdateFolder, offer: Offer) -> ChangedWheels | None:
    """What was fetched of this offer, where all of it is there that the device does not have. Raises BundleTooNew."""
    path = folder.path / FOLDER
    if offer.manifest is None or digest_of(path / offer.manifest.sha256) != offer.manifest.sha256:
        return None
    try:
        manifest = manifest_from(path, (path / offer.manifest.sha256).read_bytes())
    except BundleTooNew:
        raise
    except (OSError, BundleError):
        return None
    came_whole = all(size_of(path / wheel.sha256) == wheel.bytes for wheel in missing(folder, manifest))
    return ChangedWheels(path, manifest) if came_whole else None


def missing(folder: UpdateFolder, manifest: WheelhouseManifest) -> list[Wheel]:
    """The wheels that the agent that is trusted here does not have, whole and as this manifest wants them."""
    have = whole_wheels(placed(folder.path, str(folder.load().active)), manifest)
    return [wheel for wheel in manifest.wheels if wheel.sha256 not in have]
