"""Commands for updates on a device: enrol at a hub, trust a root, update now."""

from __future__ import annotations

import re
import socket
import tempfile
from functools import partial
from importlib.metadata import version
from pathlib import Path

import msgspec

from edgeloop_agent.config import Config
from edgeloop_agent.credential import Credential
from edgeloop_agent.hardware import machine
from edgeloop_agent.hub_client import HubClient
from edgeloop_agent.updates.agent_slots import running_agent
from edgeloop_agent.updates.canary import canary_failure
from edgeloop_agent.updates.config_slots import check as check_config
from edgeloop_agent.updates.config_slots import folder_of, running_config
from edgeloop_agent.updates.cycle import UpdateCycle
from edgeloop_agent.updates.file_owner import StateOwner
from edgeloop_agent.updates.journal import UpdateFolder, update_folder
from edgeloop_agent.updates.slots import running_now
from edgeloop_contract.errors import NetworkError, StorageError, UsageError
from edgeloop_contract.files import publish, remedy_of
from edgeloop_contract.messages import Enrolment


def enrol(where: StateOwner, name: str | None, token: str) -> str:
    """Enrol at the config's hub. Raises UsageError, NetworkError, StorageError, and then nothing is stored."""
    config = where.config
    settings = config.updates
    if not settings.hub:
        raise UsageError("updates.hub: the config names no hub; write its address there first")
    device = name or re.sub(r"[^a-z0-9-]+", "-", socket.gethostname().lower()).strip("-")
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,62}", device):
        raise UsageError(f"--name {device!r}: use a-z, 0-9 and -, up to 63 of them")
    folder = UpdateFolder(where.folder)
    if not where.user:
        _writable(folder)  # before the token is spent
    hub = HubClient(settings.hub, "", settings.ca_file, settings.timeout_seconds, config.network.use_proxies)
    answer = hub.enrol(Enrolment(token=token, device=device, machine=machine()[:200], agent=version("edgeloop")))
    root = _checked(answer.root.encode(), settings.hub)
    where.become()
    _keep(folder, folder.root, root, 0o644)
    _keep(folder, folder.credential, msgspec.json.encode(Credential(settings.hub, answer.device, answer.credential)), 0o600)
    return f"enrolled as {answer.device} at {settings.hub}; {where.description()}"


def trust(where: StateOwner, path: Path) -> str:
    """Trust the keys that a root metadata file names, from now on."""
    try:
        root = _checked(path.read_bytes(), str(path))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from error
    where.become()
    folder = UpdateFolder(where.folder)
    _keep(folder, folder.root, root, 0o644)
    return f"{path}: trusted; {where.description()}"


def update_now(config: Config, config_path: Path) -> str:
    """Run one update cycle; a running service then switches by itself."""
    if not config.updates.hub and not config.updates.folder:
        raise UsageError("updates: the config names neither a hub nor a folder; give --folder, or write one there")
    first, *others = running_now(config)
    if config.updates.config:
        journal = folder_of(config).load()
        held = journal.slot(journal.active)
        file = config_path if held is None or held.shipped else folder_of(config).slot(str(journal.active))
        others.append(running_config(config, file)[0])
    if config.updates.agent:
        others.append(running_agent(config)[0])
    canary = partial(canary_failure, config_path, config.limits.start_seconds)
    check = partial(check_config, config_path, config, config.limits.start_seconds)
    cycle = UpdateCycle(config, UpdateFolder(update_folder(config)), first, canary, others=others, check_config=check)
    cycle.config_path = config_path.resolve()
    return cycle(None)


def _checked(root: bytes, where: str) -> bytes:
    """Raises NetworkError unless it is root metadata that its own keys signed."""
    from tuf.api.exceptions import RepositoryError
    from tuf.api.metadata import Metadata, Root

    try:
        metadata: Metadata[Root] = Metadata.from_bytes(root)
        metadata.signed.verify_delegate("root", metadata.signed_bytes, metadata.signatures)
    except (RepositoryError, ValueError, AttributeError) as error:
        raise NetworkError(f"{where}: not signed root metadata ({error})") from error
    return root


def _writable(folder: UpdateFolder) -> None:
    try:
        folder.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=folder.path):
            pass
    except OSError as error:
        raise StorageError(f"{folder.path}: cannot be written ({error.strerror}); {remedy_of(error)}") from error


def _keep(folder: UpdateFolder, path: Path, content: bytes, mode: int) -> None:
    try:
        folder.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        publish(path, content, mode)
    except OSError as error:
        raise StorageError(f"{path}: cannot be written ({error.strerror}); {remedy_of(error)}") from error
