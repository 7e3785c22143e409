"""The offline keys of The Update Framework and what they sign: root with a threshold, and targets."""

from __future__ import annotations

import hashlib
import os
import re
from datetime import datetime, timedelta, timezone
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from securesystemslib.signer import CryptoSigner, SSlibKey
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root, TargetFile, Targets

from edgeloop_contract.archive import Bundle
from edgeloop_contract.errors import DataError, StorageError, UsageError
from edgeloop_contract.files import publish
from edgeloop_contract.hub_messages import PublicKey
from edgeloop_contract.publications import (
    AGENT,
    AGENT_MODEL,
    CONFIG,
    CONFIG_MODEL,
    MANIFEST,
    SHIPPED,
    config_problem,
    name_problem,
    shipped_file,
    shipped_problem,
)
from edgeloop_contract.wheelhouse import opened

ROOT_DAYS, TARGETS_DAYS = 3 * 365, 365
BEFORE = "root-before.json"
ONLINE = ("snapshot", "timestamp")
ROLES = ("root", "targets", *ONLINE)
BACKUP = """\
These files decide what your devices run. Now:
  1. Copy root-*.pem to different places that are not this machine (two USB sticks, a safe), and delete them here.
     {threshold} of the {count} are needed to change keys; lose more than {spare} and no device can ever be given new ones.
  2. Keep targets.pem on this workstation alone, and a copy with the root keys: it signs what is published.
  3. root.json and trusted.json are public; keep them beside targets.pem."""


class Keys:
    """A folder of keys. `passphrase` encrypts and opens them; None: they are stored plainly, readable by you alone."""

    def __init__(self, folder: Path, passphrase: bytes | None = None) -> None:
        self.folder, self._passphrase = folder, passphrase

    @classmethod
    def unattended(cls, folder: Path) -> Keys:
        """With the passphrase, if any, in the file that $EDGELOOP_PASSPHRASE_FILE names: cron cannot be asked for it."""
        named = os.environ.get("EDGELOOP_PASSPHRASE_FILE", "")
        try:
            return cls(folder, Path(named).read_bytes().strip() or None if named else None)
        except OSError as error:
            raise UsageError(f"{named}: cannot be read ({error.strerror}); check EDGELOOP_PASSPHRASE_FILE") from error

    def make(self, name: str) -> CryptoSigner:
        """Make a key and write it as NAME.pem. Raises UsageError where that file exists."""
        path = self.folder / f"{name}.pem"
        if path.exists():
            raise UsageError(f"{path}: there is a key already; choose another folder")
        signer = CryptoSigner.generate_ed25519()
        how = BestAvailableEncryption(self._passphrase) if self._passphrase else NoEncryption()
        private = load_pem_private_key(signer.private_bytes, None)
        self._write(path, private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, how), 0o600)
        return signer

    def load(self, name: str) -> CryptoSigner:
        path = self.folder / f"{name}.pem"
        try:
            return CryptoSigner(load_pem_private_key(path.read_bytes(), self._passphrase))
        except OSError as error:
            raise UsageError(f"{path}: cannot be read ({error.strerror}); bring the key back for this") from error
        except (TypeError, ValueError) as error:
            raise UsageError(f"{path}: cannot be opened; is the passphrase right? ({error})") from error

    def root_signers(self) -> list[CryptoSigner]:
        """All root keys that are here."""
        return [self.load(p.stem) for p in sorted(self.folder.glob("root-*.pem"))]

    @property
    def root(self) -> Metadata[Root]:
        try:
            return Metadata.from_bytes((self.folder / "root.json").read_bytes())
        except (OSError, RepositoryError, ValueError) as error:
            raise UsageError(f"{self.folder / 'root.json'}: {error}; run edgeloop keys init") from error

    def keep(self, name: str, content: bytes) -> None:
        self._write(self.folder / name, content, 0o644)

    def _write(self, path: Path, content: bytes, mode: int) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            publish(path, content, mode)
        except OSError as error:
            raise StorageError(f"{path}: cannot be written ({error.strerror})") from error


def expiry(days: float) -> datetime:
    return datetime.now(timezone.utc).replace(microsecond=0) + timedelta(days=days)


def online_key(key: PublicKey) -> SSlibKey:
    """The hub's public key, as TUF metadata hold it. Raises DataError."""
    try:
        return SSlibKey(key.keyid, key.keytype, key.scheme, key.keyval)
    except (KeyError, ValueError, TypeError) as error:
        raise DataError(f"the hub's key cannot be read ({error})") from error


def first_root(keys: Keys, hub_key: SSlibKey, count: int, threshold: int) -> tuple[bytes, bytes]:
    """Make all keys; returns root metadata version 1 and empty targets, signed. Raises UsageError for a wrong threshold."""
    if not 1 <= threshold <= count:
        raise UsageError(f"--threshold {threshold}: must be 1 to {count}, the number of root keys")
    signers, targets_signer = [keys.make(f"root-{i + 1}") for i in range(count)], keys.make("targets")
    root = Root(expires=expiry(ROOT_DAYS), consistent_snapshot=True)
    for signer in signers:
        root.add_key(signer.public_key, "root")
    root.roles["root"].threshold = threshold
    root.add_key(targets_signer.public_key, "targets")
    for role in ONLINE:
        root.add_key(hub_key, role)
    body = signed_root(keys, root, signers)
    return body, signed_targets(keys, Targets(expires=expiry(TARGETS_DAYS)))


def signed_root(keys: Keys, root: Root, signers: list[CryptoSigner], before: Root | None = None) -> bytes:
    """Sign root metadata with enough of the old keys and of the new ones. Raises UsageError when too few are here."""
    metadata = Metadata(root)
    for signer in signers:
        metadata.sign(signer, append=True)
    body = metadata.to_bytes()
    try:
        for trusted in (before, root):
            if trusted is not None:
                trusted.verify_delegate("root", metadata.signed_bytes, metadata.signatures)
    except RepositoryError as error:
        raise UsageError(f"{keys.folder}: too few root keys are here ({error}); bring them back for this") from error
    keys.keep("root.json", body)
    return body


def rotated(keys: Keys, role: str, hub_key: SSlibKey | None) -> bytes:
    """The next root version, in which `role`'s key is a new one. Root: root-1.pem is replaced by a key of the next number."""
    old = keys.root.signed
    root = Root.from_dict(old.to_dict())
    root.version, root.expires = old.version + 1, expiry(ROOT_DAYS)
    keys.keep(BEFORE, keys.root.to_bytes())
    signers = keys.root_signers()
    if role == "root":
        numbers = [int(p.stem.partition("-")[2]) for p in keys.folder.glob("root-*.pem")]
        new = keys.make(f"root-{max(numbers, default=0) + 1}")
        root.revoke_key(signers[0].public_key.keyid, "root")
        root.add_key(new.public_key, "root")
        signers.append(new)
    elif role == "targets":
        target = keys.folder / "targets.pem"
        os.replace(target, keys.folder / f"targets-until-root-{old.version}.pem")
        root.revoke_key(old.roles["targets"].keyids[0], "targets")
        root.add_key(keys.make("targets").public_key, "targets")
    elif hub_key is not None:
        for online in ONLINE:
            for keyid in list(root.roles[online].keyids):
                root.revoke_key(keyid, online)
            root.add_key(hub_key, online)
    return signed_root(keys, root, signers, old)


def current_targets(keys: Keys, metadata: str) -> Targets:
    """The hub's targets metadata, if our key signed them and they are not older than those we signed last. Raises DataError."""
    found, last = hub_targets(keys, metadata), last_targets(keys)
    if last is not None and found.version < last.version:
        raise DataError(
            f"the hub shows targets version {found.version}; {last.version} was published: it lost or hides something. "
            "If it was restored from a backup: edgeloop keys renew --after-restore"
        )
    return found


def last_targets(keys: Keys) -> Targets | None:
    """The targets that were signed last with this folder of keys; None where it does not know."""
    try:
        found: Metadata[Targets] = Metadata.from_bytes((keys.folder / "trusted.json").read_bytes())
    except (OSError, RepositoryError, ValueError):
        return None
    return found.signed


def hub_targets(keys: Keys, metadata: str) -> Targets:
    """The hub's targets, if our key signed them, however old they are: the hub may have been restored. Raises DataError."""
    try:
        found: Metadata[Targets] = Metadata.from_bytes(metadata.encode())
        keys.root.signed.verify_delegate("targets", found.signed_bytes, found.signatures)
    except (RepositoryError, ValueError) as error:
        raise DataError(
            f"the hub's targets metadata are not ours ({error}); is this the right hub, and the right key folder? "
            "If a new key did not arrive there: edgeloop keys renew sends it"
        ) from error
    return found.signed


def roots_to_send(keys: Keys, hub_roots: list[str], new: bytes) -> list[str]:
    """The new root, after the one before it where the hub does not have that: it was away when it was made, or restored since.

    Raises DataError.
    """
    there = int(Metadata[Root].from_bytes(hub_roots[0].encode()).signed.version) if hub_roots else 0
    version = int(Metadata[Root].from_bytes(new).signed.version)
    if version == there + 1:
        return [new.decode()]
    before = keys.folder / BEFORE
    if version == there + 2 and before.exists():
        return [before.read_text(encoding="utf-8"), new.decode()]
    raise DataError(
        f"the hub has root version {there}, this folder {version - 1}: bring {keys.folder} as it was when the hub was last told"
    )


def signed_targets(keys: Keys, targets: Targets, remember: bool = True) -> bytes:
    metadata = Metadata(targets)
    metadata.sign(keys.load("targets"))
    body = metadata.to_bytes()
    if remember:
        keys.keep("trusted.json", body)
    return body


def config_target(path: Path, name: str, version: int, channel: str) -> tuple[str, TargetFile]:
    """A config's name as a target, and what is signed of it. Raises DataError."""
    content = path.read_bytes()
    if problem := config_problem(content, CONFIG_MODEL + name, version):
        raise DataError(f"{path}: {problem}")
    digest = hashlib.sha256(content).hexdigest()
    target = f"config-{name}-{version}-{digest[:8]}.toml"
    custom = {"kind": CONFIG, "model": CONFIG_MODEL + name, "version": version, "channel": channel}
    return target, TargetFile(len(content), {"sha256": digest}, target, {"custom": custom})


def agent_target(path: Path, name: str, version: int, channel: str) -> tuple[str, TargetFile]:
    """A wheelhouse's name as a target, and what is signed of it, with what a device needs for it. Raises BundleError, DataError."""
    if problem := name_problem(AGENT, AGENT_MODEL + name, version):
        raise DataError(f"{path}: {problem}")
    with opened(path, path.stat().st_size) as house:
        needs, manifest = house.manifest.needs, house.manifest_bytes
        for wheel in house.manifest.wheels:
            house.bytes_of(wheel)
    target = TargetFile.from_file(f"agent-{name}-{version}.wheelhouse", str(path), ["sha256"])
    digest = target.hashes["sha256"]
    listed = f"agent-{name}-{version}-{digest[:8]}.wheelhouse"
    custom = {"kind": AGENT, "model": AGENT_MODEL + name, "version": version, "channel": channel, AGENT: msgspec.to_builtins(needs)}
    custom[MANIFEST] = {"bytes": len(manifest), "sha256": hashlib.sha256(manifest).hexdigest()}
    return listed, TargetFile(target.length, {"sha256": digest}, listed, {"custom": custom})


def shipped_target(model: str, version: int, channel: str) -> tuple[str, TargetFile, bytes]:
    """A return to what devices were shipped with as a target, what is signed of it, and its file. Raises UsageError."""
    content = shipped_file(model, version)
    if problem := shipped_problem(content, model, version):
        raise UsageError(problem)
    digest = hashlib.sha256(content).hexdigest()
    target = f"{model.replace(':', '-')}-{version}-{digest[:8]}.shipped"
    custom = {"kind": SHIPPED, "model": model, "version": version, "channel": channel}
    return target, TargetFile(len(content), {"sha256": digest}, target, {"custom": custom}), content


def target_of(path: Path, channel: str) -> tuple[str, TargetFile]:
    """A bundle's name as a target, and what is signed of it. Raises BundleError."""
    with Bundle.open(path) as bundle:
        manifest, digest = bundle.manifest, bundle.sha256
    name = f"{re.sub(r'[^A-Za-z0-9_-]', '_', manifest.name)}-{manifest.version}-{digest[:8]}.edgeloop"
    custom = {"model": manifest.name, "version": manifest.version, "channel": channel}
    target = TargetFile.from_data(name, path.read_bytes(), ["sha256"])
    if target.hashes["sha256"] != digest:
        raise DataError(f"{path}: changed while it was read")
    return name, TargetFile(target.length, {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()}, name, {"custom": custom})
