"""Which file runs for each bundle of the config: at a start, and after a journal has changed."""

from __future__ import annotations

import secrets
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from edgeloop_agent.config import Config
from edgeloop_agent.updates.journal import BOOTS_IN_TRIAL, OTHERS, Journal, Running, SlotName, UpdateFolder, update_folder
from edgeloop_contract.errors import BundleError, BundleTooNew, StorageError
from edgeloop_contract.messages import Event

if TYPE_CHECKING:
    from edgeloop_agent.logs import Log

MAX_MANIFEST_BYTES = 4 << 20


def event(kind: str, target: str, text: str) -> Event:
    return Event(key=secrets.token_hex(16), kind=kind, at=time.time(), target=target, text=text[:2000])


class _Named(msgspec.Struct):
    name: str = ""


def _name_in(path: Path) -> str:
    """The model's name in a bundle of any format; "" where it cannot be read. The bundle itself is verified elsewhere."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open("manifest.json") as file:
            return msgspec.json.decode(file.read(MAX_MANIFEST_BYTES), type=_Named).name
    except (OSError, ValueError, KeyError, NotImplementedError, RuntimeError, zipfile.BadZipFile, msgspec.MsgspecError):
        return ""


def with_slots(config: Config, log: Log) -> Config:
    """The config with each bundle replaced by its newest intact slot; a bundle without one runs as the config names it."""
    folder = UpdateFolder(update_folder(config))
    bundles = [_slot_of(folder, _name_in(Path(config.bundles[0])), log) or config.bundles[0]]
    followed = (folder.path / OTHERS).is_dir()
    for path in config.bundles[1:]:
        name = _name_in(Path(path)) if followed else ""
        bundles.append((_slot_of(folder.of_model(name), name, log) if name else "") or path)
    return replace(config, bundles=bundles)


def files_now(config: Config) -> list[Path]:
    """The file that the service runs, or would run, for each bundle of the config. Counts no start."""
    folder, found = UpdateFolder(update_folder(config)), []
    for place, path in enumerate(map(Path, config.bundles)):
        name = _name_in(path)
        each = folder.of_model(name) if place else folder
        journal = each.load()
        slot = journal.running
        staged = journal.trial.slot if journal.trial is not None else journal.active
        found.append(each.slot(str(staged)) if slot is not None and name in ("", slot.name) else path)
    return found


def running_now(config: Config) -> list[Running]:
    """What the service runs, or would run, for each bundle of the config. Raises BundleError where the first cannot be read."""
    from edgeloop_contract.archive import Bundle

    folder, found = UpdateFolder(update_folder(config)), list[Running]()
    for place, path in enumerate(map(Path, config.bundles)):
        name = _name_in(path)
        slot = (folder.of_model(name) if place else folder).load().running
        if slot is not None and name in ("", slot.name):
            found.append(Running(slot.name, slot.version, slot.sha256))
            continue
        try:
            with Bundle.open(path) as bundle:
                found.append(Running(bundle.manifest.name, bundle.manifest.version, bundle.sha256))
        except BundleError:  # the agent refuses such a one by name, and serves the others
            if not place:
                raise
    return found


def _slot_of(folder: UpdateFolder, model: str, log: Log) -> str:
    """The path of the newest intact slot, of `model` where that is known; "" where there is none."""
    for name in candidates(folder, log):
        path = folder.slot(name)
        slot = folder.load().slot(name)
        if slot is not None and model and slot.name != model:
            continue  # the config names another model now
        try:
            if slot is not None and _is_whole(path, slot.sha256):
                return str(path)
        except BundleTooNew as error:  # the agent was downgraded: the bundle itself is fine
            log("error", "slot needs a later edgeloop: update the agent", slot=name, why=error)
            continue
        if slot is not None:
            damaged(folder, name, log)
    return ""


def damaged(folder: UpdateFolder, name: SlotName, log: Log) -> None:
    """Forget a slot whose file is not what the journal says."""
    slot = folder.load().slot(name)
    log("error", "slot damaged", slot=name, target=slot.target if slot else "")
    try_change(log, folder, lambda j: j.without(name).noted(event("damaged", "", f"slot {name}")))


def candidates(folder: UpdateFolder, log: Log) -> list[SlotName]:
    """Slots in the order in which to try them. Counts a start of the bundle on trial, before it is loaded."""
    journal = folder.load()
    if (trial := journal.trial) is not None:
        slot = journal.slot(trial.slot)
        if trial.boots >= BOOTS_IN_TRIAL:
            why = f"started {trial.boots} times without passing its trial"
            log("error", "update rolled back", target=slot.target if slot else "", why=why)
            given = try_change(log, folder, lambda j: rolled_back(j, why))
            journal = given or replace(journal, trial=None)
        else:
            journal = try_change(log, folder, lambda j: j.booted() if j.trial else j) or replace(journal, trial=None)
    order = [journal.trial.slot if journal.trial else None, journal.active, journal.free if journal.active else None]
    slots = {name: journal.slot(name) for name in order if name is not None}
    return [name for name, slot in slots.items() if slot is not None and not journal.rejected(slot.sha256)]


def rolled_back(journal: Journal, why: str) -> Journal:
    if journal.trial is None:
        return journal
    slot = journal.slot(journal.trial.slot)
    return journal.rolled_back(why).noted(event("rolled-back", slot.target if slot else "", why))


def _is_whole(path: Path, sha256: str) -> bool:
    """Raises BundleTooNew."""
    from edgeloop_contract.archive import Bundle

    try:
        with Bundle.open(path) as bundle:
            return bundle.sha256 == sha256
    except BundleTooNew:
        raise
    except BundleError:
        return False


def try_change(log: Log, folder: UpdateFolder, rule: Callable[[Journal], Journal]) -> Journal | None:
    try:
        return folder.change(rule)
    except StorageError as error:
        log("error", "journal", why=error)
        return None


def committed(journal: Journal) -> Journal:
    if journal.trial is None:
        return journal
    slot = journal.slot(journal.trial.slot)
    return journal.committed().noted(event("committed", slot.target if slot else "", ""))
