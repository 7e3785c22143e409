"""The agent's own updates on a device: which one runs, and how a wheelhouse is installed beside it and tried."""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import msgspec

from edgeloop_agent.config import Config
from edgeloop_agent.launcher import ABOUT, AGENT, environment_of, is_newer, packaged, packaged_environment
from edgeloop_agent.updates import changed_wheels
from edgeloop_agent.updates.environments import About, House, install, misfit, placed, remove
from edgeloop_agent.updates.journal import OTHERS, Journal, Running, Slot, UpdateFolder, update_folder
from edgeloop_agent.updates.offers import Offer
from edgeloop_agent.updates.rebuilding import digest_of
from edgeloop_agent.updates.room import check_room, room_of_whole
from edgeloop_agent.updates.self_check import SelfCheck
from edgeloop_contract.errors import BundleError, BundleTooNew
from edgeloop_contract.publications import AGENT_MODEL
from edgeloop_contract.wheelhouse import opened


def folder_of_agent(config: Config) -> UpdateFolder:
    """Where the agent that this device follows is kept."""
    return UpdateFolder(update_folder(config)).of_agent(config.updates.agent)


def running_agent(config: Config) -> tuple[Running, str]:
    """The agent that runs, as the hub knows it, and its target's name. The packaged one has version 0, and a digest of its name."""
    journal, model = folder_of_agent(config).load(), AGENT_MODEL + config.updates.agent
    sha256 = os.environ.get(AGENT)
    if sha256 is None and journal.running is not None:  # a command beside the service
        sha256 = journal.running.sha256
    slot = next((s for s in (journal.a, journal.b) if s is not None and s.sha256 == sha256), None)
    if slot is None:
        return Running(model, 0, sha256 or hashlib.sha256(f"packaged {packaged()['version']}".encode()).hexdigest()), ""
    return Running(model, slot.version, slot.sha256), slot.target


def described(folder: UpdateFolder) -> str:
    """Which agent the launcher would start, in words."""
    here, slot, name = packaged()["version"], folder.load().running, folder.load().active
    if slot is not None and slot.shipped:
        return f"the packaged agent {here} serves, as {slot.target} says"
    try:
        trial = folder.load().trial
        about = msgspec.json.decode((placed(folder.path, str(trial.slot if trial else name)) / ABOUT).read_bytes(), type=About)
    except (OSError, msgspec.MsgspecError):
        return f"the packaged agent {here} serves"
    if slot is None or not is_newer(about.version, here):
        return f"the packaged agent {here} serves, as {about.version} is not later"
    return f"{about.version} ({slot.target}) serves in place of the packaged {here}"


def take(folder: UpdateFolder, slot: str, offer: Offer, config: Config, config_path: Path) -> str:
    """Install the downloaded wheelhouse of a slot, and try it; why it cannot be used here, or "".

    The download goes in any case; what was installed stays where the answer is "". Raises StorageError, BundleTooNew.
    """
    path, file = placed(folder.path, slot), folder.slot(slot)
    trial_seconds, old = config.updates.health_seconds + config.limits.start_seconds, str(folder.load().active)
    try:
        if os.pathsep in str(path):
            return f"{folder.path}: Python finds no module in a folder with {os.pathsep} in its name; set state in the config"
        with _house(folder, file, offer) as house:
            if house.manifest.needs != offer.needs:
                return "it is not what its signature says"
            install(house, path, offer.sha256, trial_seconds, placed(folder.path, old))
    except BundleTooNew:
        raise
    except BundleError as error:
        return str(error).replace(str(file), offer.target)
    finally:
        file.unlink(missing_ok=True)
        changed_wheels.forget(folder)
    problem = check(environment_of(path), config, config_path, house.manifest.version)
    if problem:
        remove(path)
    return problem


@contextlib.contextmanager
def _house(folder: UpdateFolder, file: Path, offer: Offer) -> Iterator[House]:
    """The whole, or the wheels that this device does not have. Raises BundleError."""
    changed = None if file.exists() else changed_wheels.came(folder, offer)
    if changed is not None:
        yield changed
        return
    with opened(file, offer.bytes) as house:
        yield house


def check(python: dict[str, str], config: Config, config_path: Path, version: str) -> str:
    """Why another agent cannot serve here, in its own sentence; "" where it can. It looks in a process of its own.

    `python`: the variables with which Python finds it.
    """
    words = [packaged()["python"], "-m", "edgeloop_agent.updates.self_check", str(config_path)]
    environment = {**python, "STATE_DIRECTORY": str(update_folder(config).parent)}  # a command's is the service's
    timeout_seconds = config.limits.start_seconds
    try:
        done = subprocess.run(
            words, capture_output=True, timeout=timeout_seconds, check=False, stdin=subprocess.DEVNULL,
            env=environment, cwd="/",
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"its check of itself did not end within {timeout_seconds:g} s"
    except OSError as error:
        return f"its check of itself cannot be started: {error}"
    try:
        found = msgspec.json.decode(done.stdout, type=SelfCheck)
    except msgspec.MsgspecError:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or [""]
        return f"it does not start ({done.returncode}): {last[0][:300]}"
    if not found.problem and found.version != version:
        return f"agent {found.version} started in the place of {version}"
    return found.problem


def check_again(folder: UpdateFolder, slot: str, offer: Offer, config: Config, config_path: Path) -> str:
    """As `take`, of an agent that is installed already: the fleet goes back to it."""
    assert offer.needs is not None
    return check(environment_of(placed(folder.path, slot)), config, config_path, offer.needs.version)


def check_packaged(folder: UpdateFolder, slot: str, config: Config, config_path: Path) -> str:
    """As `take`, of the packaged agent, which takes the place of what is in the slot."""
    remove(placed(folder.path, slot))
    changed_wheels.forget(folder)
    known = packaged()
    if not known.get("returns"):
        return f"the packaged agent {known['version']} cannot be tried: take updates.agent out of the device's own config instead"
    return check(packaged_environment(), config, config_path, known["version"])


def misfit_of(offer: Offer) -> str:
    """Why this device cannot run an offered agent; "" where it can, as far as the signed metadata say."""
    return "the signed metadata do not say what it needs" if offer.needs is None else misfit(offer.needs)


def has_download(folder: UpdateFolder, path: Path, offer: Offer) -> bool:
    """Whether the download is whole already, as after a power cut. Raises StorageError where it cannot be unpacked."""
    assert offer.needs is not None
    remove(placed(folder.path, path.stem.removeprefix("slot-")))
    whole = digest_of(path) == offer.sha256
    if whole:
        check_room(folder.path, room_of_whole(offer.needs.unpacked_bytes, 0), "the new agent")
    else:
        path.unlink(missing_ok=True)
    return whole


def is_installed(folder: UpdateFolder, slot: str, sha256: str) -> bool:
    """Whether a slot's environment is there, of this wheelhouse. The launcher looks at its files."""
    try:
        return msgspec.json.decode((placed(folder.path, slot) / ABOUT).read_bytes(), type=About).sha256 == sha256
    except (OSError, msgspec.MsgspecError):
        return False


def tidy(config: Config) -> None:
    """Remove environments and downloads that no journal names: of a cut update, of agents that failed or are followed no more."""
    folder = UpdateFolder(update_folder(config))
    for each in folder.path.glob(f"{OTHERS}/{quote(AGENT_MODEL, safe='')}*"):
        followed = config.updates.agent and each == folder_of_agent(config).path
        journal = UpdateFolder(each).load()
        kept = {f"env-{name}" for name in ("a", "b") if followed and _is_of_use(journal, journal.slot(name))}
        for left in _left(each, kept):
            remove(left)
        if not followed:
            changed_wheels.forget(UpdateFolder(each))
            for file in (*each.glob("download-*.partial"), *each.glob("slot-*")):
                file.unlink(missing_ok=True)


def _is_of_use(journal: Journal, slot: Slot | None) -> bool:
    """Whether a slot's agent runs, or may be started again: not one that failed in use."""
    return slot is not None and (slot.sha256 == os.environ.get(AGENT) or journal.rejected(slot.sha256) is None)


def _left(folder: Path, kept: set[str]) -> Iterator[Path]:
    names = {path.name.removesuffix(".partial") for path in folder.glob("env-*")}
    yield from (folder / name for name in sorted(names) if name not in kept)
