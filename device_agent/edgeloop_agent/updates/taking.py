"""Takes what the signed metadata allow: each bundle by its model's name is decided, downloaded, tested and staged by itself."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from msgspec.structs import replace

from edgeloop_agent.config import Config
from edgeloop_agent.updates import agent_slots
from edgeloop_agent.updates.environments import below_floor
from edgeloop_agent.updates.journal import Journal, Running, Slot, SlotName, UpdateFolder
from edgeloop_agent.updates.offers import Delta, Offer, SignedTargets
from edgeloop_agent.updates.origins import Origin
from edgeloop_agent.updates.policy import Install, Stay, decide
from edgeloop_contract.errors import BundleError, BundleTooNew, NetworkError, StorageError
from edgeloop_contract.messages import Event
from edgeloop_contract.publications import AGENT, AGENT_MODEL, CONFIG, CONFIG_MODEL, SHIPPED

STRUCTURE_ONLY = "structure only: the bundle has no samples to check its answers with"


def software() -> str:
    """Versions of the agent and its runtimes: with other versions, a bundle that failed here may pass."""
    versions = []
    for name in ("edgeloop", "onnxruntime", "ai-edge-litert", "tflite-runtime"):
        with contextlib.suppress(PackageNotFoundError):
            versions.append(f"{name} {version(name)}")
    return ", ".join(versions)


@dataclass
class Taking:
    """`running`: the first bundle; `others`: those beside it, and the config.

    `canary`: a bundle's path → why it fails, or None; `check_config`: the same of a config's path.
    """

    config: Config
    folder: UpdateFolder
    running: Running
    others: Sequence[Running]
    canary: Callable[[Path], str | None]
    check_config: Callable[[Path], str | None]
    now: Callable[[], float]
    config_path: Path = Path()
    lower_priority: Callable[[], object] = lambda: None
    until: float = 0.0  # when the maintenance window closes, after which nothing is put on trial; 0: there is none

    def __call__(self, origin: Origin, targets: Sequence[str] | None) -> tuple[str, bool]:
        """What happened, and whether nothing is left to do for these targets, the first bundle's first. None: the newest of each.

        What goes wrong with one bundle keeps no other from its update. Raises NetworkError, StorageError.
        """
        agent_slots.tidy(self.config)
        signed = self._refreshed(origin, targets)
        results: list[str] = []
        settled = True
        failure: NetworkError | StorageError | None = None
        for running, target in self._wanted(signed, targets):
            # One bundle on trial at a time: where the worker dies, there is one suspect.
            if any(folder.load().trial for folder in self.folder.all()):
                return "; ".join([*results, "a bundle is on trial"]), False
            try:
                result, done = self._follow(running, target, signed, origin)
            except (NetworkError, StorageError) as error:
                failure = failure or error
                continue
            results.append(result if running is self.running else f"{running.model}: {result}")
            settled = settled and done
        if failure is not None:
            raise failure
        return "; ".join(results), settled

    def _refreshed(self, origin: Origin, targets: Sequence[str] | None) -> SignedTargets:
        from edgeloop_agent.updates.trust import TrustError, forget_old, refresh

        try:
            signed = refresh(self.folder, self.folder.load(), origin, self.now())
        except TrustError as error:
            self._note(self.folder, "untrusted", targets[0] if targets else "", str(error))
            raise
        now = self.now()
        self.folder.change(lambda j: replace(j, generation=signed.generation, clock_floor=max(j.clock_floor, now), refreshed=now))
        forget_old(self.folder, signed.generation)
        return signed

    def _wanted(self, signed: SignedTargets, targets: Sequence[str] | None) -> list[tuple[Running, str]]:
        """What runs here, each with the target that it should be. What is for none of them goes to the first, which refuses it."""
        if targets is None:
            return [(running, self._newest(signed, running)) for running in (self.running, *self.others)]
        wanted = [(self.running, targets[0])]
        for target in targets[1:]:
            offer = signed.offers.get(target)
            wanted.append((next((r for r in self.others if offer is not None and r.model == offer.model), self.running), target))
        return wanted

    def _newest(self, signed: SignedTargets, running: Running) -> str:
        journal = self._folder_of(running).load()
        mine = [o for o in signed.offers.values() if o.model == running.model and not journal.rejected(o.sha256, software())]
        return max(mine, key=lambda o: o.version).target if mine else ""

    def _folder_of(self, running: Running) -> UpdateFolder:
        if running is self.running:
            return self.folder
        if running.model.startswith(CONFIG_MODEL):
            return self.folder.of_config(running.model.removeprefix(CONFIG_MODEL))
        if running.model.startswith(AGENT_MODEL):
            return self.folder.of_agent(running.model.removeprefix(AGENT_MODEL))
        return self.folder.of_model(running.model)

    def _follow(self, running: Running, target: str, signed: SignedTargets, origin: Origin) -> tuple[str, bool]:
        folder = self._folder_of(running)
        journal = folder.load()
        step = decide(target, signed, running, journal, self.config.updates.max_bundle_bytes, software())
        if isinstance(step, Stay):
            if step.refused:
                self._note(folder, "refused", target, step.why)
            return step.why, True
        if step.offer.kind == AGENT and (why := agent_slots.misfit_of(step.offer)):
            self._reject(folder, step.offer, why, "failed")
            return f"{target} is not taken: {why}", True
        if step.offer.needs is not None and (why := below_floor(step.offer.needs)):
            self._note(folder, "refused", target, why)
            return f"{target} is not taken: {why}", True
        if step.offer.kind == SHIPPED:
            return self._go_back(step.offer, folder, journal.free)
        return self._install(step, origin, folder, journal, signed.deltas.get((target, running.sha256)))

    def _go_back(self, offer: Offer, folder: UpdateFolder, name: SlotName) -> tuple[str, bool]:
        """Try what this device was shipped with: the packaged agent, or its own config. Nothing is downloaded for it."""
        if self.until and self.now() >= self.until:
            return f"{offer.target} waits for the next maintenance window", False
        folder.change(lambda j: j.without(name))
        is_agent = offer.model.startswith(AGENT_MODEL)
        if is_agent:
            wrong = agent_slots.check_packaged(folder, name, self.config, self.config_path)
        else:
            folder.slot(name).unlink(missing_ok=True)
            wrong = self.check_config(self.config_path) or ""
        if wrong:
            self._reject(folder, offer, wrong, "failed")
            return f"{offer.target} did not pass: {wrong}", True
        slot = Slot(offer.target, offer.model, offer.version, offer.sha256, 0, shipped=True)
        seconds = self.config.updates.health_seconds + self.config.limits.start_seconds if is_agent else 0.0
        note = "nothing was downloaded for it"
        folder.change(lambda j: j.staged(slot, self.now(), seconds).noted(self._event("installed", offer.target, note)))
        return f"{offer.target} is staged", True

    def _install(
        self, step: Install, origin: Origin, folder: UpdateFolder, journal: Journal, delta: Delta | None
    ) -> tuple[str, bool]:
        offer, name = step.offer, journal.free
        path = folder.slot(name)
        came = ""
        is_agent = offer.kind == AGENT
        held = step.slot is not None
        if is_agent:
            held = step.slot == name and agent_slots.is_installed(folder, name, offer.sha256)
        if not held:
            # The slot is emptied in the journal before its file changes: what the journal names is always whole.
            folder.change(lambda j: j.without(name))
            came = self._fetch(offer, origin, folder, path, delta)
        if self.until and self.now() >= self.until:
            if step.slot is None:
                _keep_download(folder, offer, path)
            return f"{offer.target} waits for the next maintenance window", False
        try:
            wrong, note = self._take_agent(offer, folder, name, held) if is_agent else self._verify(offer, path)
            note = "; ".join(filter(None, (note, came)))
        except BundleTooNew as error:
            why = f"it needs a later edgeloop: update the agent on this device, then it is tried again ({error})"
            self._reject(folder, offer, why, "refused")
            return f"{offer.target} is not taken: {why}", True
        if wrong:  # as far as this agent and its runtimes can tell
            self._reject(folder, offer, wrong, "failed")
            return f"{offer.target} did not pass: {wrong}", True
        slot = Slot(offer.target, offer.model, offer.version, offer.sha256, offer.bytes)
        folder.change(lambda j: j.staged(slot, self.now()).noted(self._event("installed", offer.target, note)))
        return f"{offer.target} is staged{note and ', ' + note}", True

    def _fetch(self, offer: Offer, origin: Origin, folder: UpdateFolder, path: Path, delta: Delta | None) -> str:
        """The signed bytes at `path`; returns how they came, where that was by a delta or another way than it should have been."""
        from edgeloop_agent.updates.fetching import fetched, fetched_wheels

        try:
            if offer.kind == AGENT:
                if agent_slots.has_download(folder, path, offer):
                    return ""
                came, said = fetched_wheels(self.config, folder, offer, origin)
                return said if came else "; ".join(filter(None, (said, fetched(self.config, folder, offer, origin, path, None))))
            return fetched(self.config, folder, offer, origin, path, delta)
        except StorageError as error:
            self._note(folder, "no-room", offer.target, str(error))
            raise

    def _take_agent(self, offer: Offer, folder: UpdateFolder, name: SlotName, held: bool) -> tuple[str, str]:
        """Install a downloaded agent and have it check itself. Answers as `_verify`. Raises BundleTooNew, StorageError."""
        if held:
            return agent_slots.check_again(folder, name, offer, self.config, self.config_path), ""
        self.lower_priority()
        try:
            return agent_slots.take(folder, name, offer, self.config, self.config_path), ""
        except StorageError as error:
            self._note(folder, "no-room", offer.target, str(error))
            raise

    def _verify(self, offer: Offer, path: Path) -> tuple[str, str]:
        """Why the bundle or config fails here, or ""; and what is to be said of it. Raises BundleTooNew."""
        if offer.kind == CONFIG:
            return self.check_config(path) or "", ""
        from edgeloop_contract.archive import Bundle

        try:
            with Bundle.open(path) as bundle:
                opened = Running(bundle.manifest.name, bundle.manifest.version, bundle.sha256)
                note = "" if bundle.manifest.canary else STRUCTURE_ONLY
        except BundleTooNew:
            raise
        except BundleError as error:
            return str(error), ""
        if opened != Running(offer.model, offer.version, offer.sha256):
            return "it is not what its signature says", ""
        return self.canary(path) or "", note

    def _reject(self, folder: UpdateFolder, offer: Offer, why: str, kind: str) -> None:
        event = self._event(kind, offer.target, why)
        folder.change(lambda j: j.with_rejected(offer.sha256, why[:500], software()).noted(event))

    def _event(self, kind: str, target: str, text: str) -> Event:
        return Event(key=secrets.token_hex(16), kind=kind, at=self.now(), target=target, text=text[:2000])

    def _note(self, folder: UpdateFolder, kind: str, target: str, text: str) -> None:
        """Record an event, unless it repeats the last one."""
        with contextlib.suppress(StorageError):
            folder.change(lambda j: j if _is_repeated(j, kind, text) else j.noted(self._event(kind, target, text)))


def _keep_download(folder: UpdateFolder, offer: Offer, path: Path) -> None:
    """Bytes that are whole and not used yet wait as those of a download do: they are not fetched again."""
    from edgeloop_agent.updates.download import partial_of
    from edgeloop_contract.files import take_place

    if not path.exists():  # wheels, which wait where they are
        return
    try:
        take_place(path, partial_of(folder, offer))
    except OSError as error:
        raise StorageError(f"{path}: cannot be kept ({error.strerror}); make room") from error


def _is_repeated(journal: Journal, kind: str, text: str) -> bool:
    return any(e.kind == kind and e.text == text[:2000] for e in journal.events[-1:])
