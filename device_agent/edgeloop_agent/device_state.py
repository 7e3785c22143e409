"""What this device measured about itself, kept between starts: the fastest variant per (bundle, runtimes, hardware)."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from edgeloop_agent.caches import GraphCache
from edgeloop_agent.hardware import machine
from edgeloop_agent.runtimes import RUNTIMES, RuntimeOptions, version_of
from edgeloop_agent.runtimes.providers import FP16
from edgeloop_agent.state_folder import check_rights, default_folder
from edgeloop_contract.archive import Bundle, VerifiedFile
from edgeloop_contract.bench_report import MeasuredVariant, VariantChoice
from edgeloop_contract.errors import DeviceError, StorageError
from edgeloop_contract.files import publish
from edgeloop_contract.manifest import Precision, Variant

__all__ = [
    "VerifiedBundles", "available", "check_rights", "default_folder", "engines_are_kept", "engines_file", "fastest",
    "first_available", "forget_choice", "forget_engines", "in_order", "keep_engines", "options_for", "remember_choice",
    "remembered_choice",
]  # fmt: skip

MAX_VERIFIED = 32


class VerifiedBundles:
    """Bundle files that this device verified whole: kept between starts, the newest MAX_VERIFIED of them."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "verified.json"
        try:
            self._known = msgspec.json.decode(self._path.read_bytes(), type=list[VerifiedFile])
        except (OSError, msgspec.MsgspecError):  # none yet, or as an earlier release kept them
            self._known = []

    def __iter__(self) -> Iterator[VerifiedFile]:
        return iter(self._known)

    def add(self, verified: VerifiedFile) -> None:
        """Remember a file. If the folder cannot be written, the next start only takes longer."""
        self._known = [*(each for each in self._known if each.place[:2] != verified.place[:2]), verified][-MAX_VERIFIED:]
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            publish(self._path, msgspec.json.encode(self._known))


def _file(folder: Path, bundle: Bundle, providers: Iterable[str]) -> Path:
    parts = [bundle.sha256, machine(), *available(_runtimes(bundle.manifest.variants)).values(), *sorted(providers)]
    return folder / f"fastest-{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()}.json"


def _runtimes(variants: Iterable[Variant]) -> list[str]:
    """Those that a bundle can use, in the table's order: another one is not even loaded."""
    used = {v.runtime for v in variants}
    return [name for name in RUNTIMES if name in used]


def options_for(state: Path, providers: Iterable[str] = (), way: str = "") -> RuntimeOptions:
    """How a model is opened without a config: with a cache of engines where a provider builds some."""
    graphs = GraphCache(state / "graphs", 0) if providers or way else None
    return RuntimeOptions(providers=tuple(providers), graphs=graphs, way=way)


def available(runtimes: Iterable[str] = tuple(RUNTIMES)) -> dict[str, str]:
    """Runtimes that import on this device, with their versions."""
    versions = {}
    for name in runtimes:
        try:
            versions[name] = version_of(name)
        except DeviceError:
            continue
    return versions


def remembered_choice(folder: Path, bundle: Bundle, providers: Iterable[str] = ()) -> VariantChoice | None:
    """The remembered choice for this bundle, runtimes, hardware and providers; None without one, or where it is damaged."""
    try:
        return msgspec.json.decode(_file(folder, bundle, providers).read_bytes(), type=VariantChoice)
    except (OSError, msgspec.MsgspecError):
        return None


def remember_choice(folder: Path, bundle: Bundle, choice: VariantChoice, providers: Iterable[str] = ()) -> Path:
    """Keep `choice`, by rename. Raises StorageError when the folder cannot be written."""
    path = _file(folder, bundle, providers)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        publish(path, msgspec.json.encode(choice))
    except OSError as error:
        raise StorageError(f"{folder}: cannot be written ({error.strerror}); pass --state a folder that can") from error
    return path


def forget_choice(folder: Path, bundle: Bundle, providers: Iterable[str] = ()) -> None:
    with contextlib.suppress(OSError):
        _file(folder, bundle, providers).unlink(missing_ok=True)


def engines_file(folder: Path, bundle: Bundle, providers: Iterable[str], variant: str) -> Path:
    """Where it is kept which engines a bundle has. `variant`: that was asked for."""
    found = _file(folder, bundle, providers)
    return found.with_name(f"{found.stem.replace('fastest', 'engines')}{f'-{variant}' if variant else ''}.json")


def keep_engines(folder: Path, bundle: Bundle, providers: Iterable[str], variant: str, engines: Path) -> None:
    """Remember that the engines of this bundle are built and checked. `variant`: that was asked for. Raises StorageError."""
    try:
        sizes = {path.name: path.stat().st_size for path in engines.iterdir()} if engines.is_dir() else {}
        publish(engines_file(folder, bundle, providers, variant), msgspec.json.encode(sizes))
    except OSError as error:
        raise StorageError(f"{folder}: cannot be written ({error.strerror}); make room") from error


def forget_engines(folder: Path, bundle: Bundle, providers: Iterable[str], variant: str) -> None:
    with contextlib.suppress(OSError):
        engines_file(folder, bundle, providers, variant).unlink(missing_ok=True)


def engines_are_kept(folder: Path, bundle: Bundle, providers: Iterable[str], variant: str, engines: Path) -> bool:
    """Whether all engines are there that were when this bundle's were built: then it loads without building any."""
    try:
        sizes = msgspec.json.decode(engines_file(folder, bundle, providers, variant).read_bytes(), type=dict[str, int])
        return all((engines / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, msgspec.MsgspecError):
        return False


def fastest(variants: list[Variant], measured: list[MeasuredVariant]) -> VariantChoice | None:
    """The least p50 among the variants that ran; every variant in a bundle has met the accuracy floor already.

    A variant that was made for a provider is chosen on that provider alone, unless nothing else runs.
    """
    made_for = {variant.name: variant.provider for variant in variants}
    ran = [(row, row.cost) for row in measured if row.cost is not None and row.variant in made_for]
    at_home = [(row, cost) for row, cost in ran if made_for[row.variant] in ("", row.provider.removesuffix(FP16))]
    if not ran:
        return None
    best, cost = min(at_home or ran, key=lambda each: each[1].latency_us_p50)
    return VariantChoice(best.variant, cost.threads, f"fastest of {len(ran)} measured on this device", best.provider)


def in_order(variants: list[Variant], choice: VariantChoice) -> list[VariantChoice]:
    """The chosen variant, and then the others whose runtime is installed: one of them may run where the first does not."""
    here = available(_runtimes(variants))
    others = [v.name for v in sorted(variants, key=lambda v: bool(v.provider)) if v.runtime in here and v.name != choice.variant]
    return [choice, *(VariantChoice(name, choice.threads, f"{choice.variant} does not run here") for name in others)]


def first_available(variants: list[Variant]) -> VariantChoice:
    """Before any measurement: the first int8 variant, else the first, whose runtime is installed."""
    here = available(_runtimes(variants))
    usable = sorted((v for v in variants if v.runtime in here), key=lambda v: bool(v.provider))
    if not usable:
        wanted = " or ".join(f"pip install '{RUNTIMES[v][1]}'" for v in sorted({v.runtime for v in variants}))
        raise DeviceError(f"none of the bundle's runtimes is installed here; {wanted}")
    best = next((v for v in usable if v.precision == Precision.INT8), usable[0])
    return VariantChoice(best.name, 1, "not measured on this device yet: run edgeloop-agent bench")
