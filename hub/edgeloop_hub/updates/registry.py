"""The registry of bundles. Their bytes arrive in parts, which may be sent again; a bundle counts once signed targets name it."""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import Connection, delete, insert, select, update
from tuf.api.metadata import TargetFile, Targets

from edgeloop_contract.archive import Bundle, BundleLimits
from edgeloop_contract.drift import Drift
from edgeloop_contract.errors import DataError
from edgeloop_contract.hub_messages import BundleSummary, GroupVariance, PublishedBundle, VariantSummary
from edgeloop_contract.publications import (
    AGENT,
    BUNDLE,
    CONFIG,
    DELTA,
    MAX_CONFIG_BYTES,
    SHIPPED,
    config_problem,
    kind_of_model,
    name_problem,
    shipped_problem,
)
from edgeloop_contract.tasks import Regression
from edgeloop_contract.wheelhouse import opened
from edgeloop_hub.storage.blobs import Blobs
from edgeloop_hub.storage.database import Database
from edgeloop_hub.storage.schema import bundles, parts, released
from edgeloop_hub.updates import deltas, uploads

MAX_VARIANCES = 200  # of bundles, that a process remembers
_VARIANCES: dict[str, GroupVariance] = {}


def assemble(database: Database, blobs: Blobs, targets: Targets) -> dict[str, BundleSummary]:
    """Put together and verify each bundle that new targets name and the registry does not know; returns its summary, by target.

    It takes long for large bundles, so it runs before the transaction of `complete`. Raises DataError.
    """
    with database.reading() as connection:
        known = set(connection.execute(select(bundles.c.target)).scalars()) | deltas.known(connection)
    summaries = {}
    for name in targets.targets:
        if name not in known:
            summaries[name] = _assembled(database, blobs, name, targets.targets)
    return summaries


def complete(connection: Connection, blobs: Blobs, targets: Targets, assembled: dict[str, BundleSummary] | None = None) -> None:
    """Register every target of newly signed metadata, and mark as withdrawn what they no longer name.

    `assembled`: what `assemble` returned for them. Raises DataError naming the one that is not there.
    """
    known = {row.target: row for row in connection.execute(select(bundles))}
    deltas.complete(connection, targets.targets)
    for name, target in targets.targets.items():
        if deltas.is_delta(target):
            continue
        sha256 = target.hashes.get("sha256", "")
        if name in known:
            if known[name].sha256 != sha256:
                raise DataError(f"{name} was published with other bytes; a version is never changed, make a new one")
            if known[name].withdrawn is not None:
                connection.execute(update(bundles).where(bundles.c.target == name).values(withdrawn=None))
            continue
        summary = (assembled or {}).get(name)
        if summary is None:
            raise DataError(f"{name}: is not here; send it before the metadata")
        custom = target.custom or {}
        connection.execute(
            insert(bundles).values(
                target=name,
                sha256=sha256,
                bytes=target.length,
                model=summary.model,
                version=summary.version,
                channel=str(custom.get("channel", "stable"))[:63],
                about=msgspec.json.encode(summary).decode(),
                published=time.time(),
            )
        )
    for name, row in known.items():
        if name not in targets.targets and row.withdrawn is None:
            connection.execute(update(bundles).where(bundles.c.target == name).values(withdrawn=time.time()))


def _assembled(database: Database, blobs: Blobs, name: str, listed: Mapping[str, TargetFile]) -> BundleSummary:
    """Parts become one blob, after the whole was verified as what it is. The parts stay until the registry knows it."""
    target = listed[name]
    sha256, length = target.hashes.get("sha256", ""), target.length
    with database.reading() as connection:
        rows = connection.execute(select(parts.c.begins, parts.c.bytes).where(parts.c.sha256 == sha256).order_by(parts.c.begins))
        pieces = [(f"parts/{sha256}/{row.begins}", row.bytes) for row in rows]
        here = uploads.received(connection, sha256)
    if here != length and blobs.has(f"bundles/{sha256}"):  # published before, under another name: it was not sent again
        pieces, here = [(f"bundles/{sha256}", length)], length
    if here != length:
        raise DataError(f"{name}: {here} of {length} bytes are here; send them before the metadata")
    with tempfile.NamedTemporaryFile(suffix=".edgeloop") as whole:
        digest = hashlib.sha256()
        for piece, size in pieces:
            for chunk in blobs.read(piece, 0, size):
                digest.update(chunk)
                whole.write(chunk)
        whole.flush()
        if digest.hexdigest() != sha256:
            with database.writing() as connection:
                connection.execute(delete(parts).where(parts.c.sha256 == sha256))
            raise DataError(f"{name}: the bytes here are not those that were signed; send them again")
        if deltas.is_delta(target):
            deltas.verify(name, Path(whole.name), target, listed)
            summary = BundleSummary(task=DELTA)
        else:
            summary = _verified(name, Path(whole.name), target)
        blobs.put_file(f"bundles/{sha256}", Path(whole.name))
    return summary


def _verified(name: str, path: Path, target: TargetFile) -> BundleSummary:
    """Raises DataError or BundleError unless the file is of the kind that was signed."""
    custom = target.custom or {}
    kind, model, version = str(custom.get("kind", BUNDLE)), str(custom.get("model", "")), custom.get("version")
    if kind == CONFIG:
        if target.length > MAX_CONFIG_BYTES or (problem := config_problem(path.read_bytes(), model, version)):
            raise DataError(f"{name}: {problem if target.length <= MAX_CONFIG_BYTES else f'more than {MAX_CONFIG_BYTES} bytes'}")
        return BundleSummary(model=model, version=int(version or 0), task=CONFIG)
    if kind == SHIPPED:
        if target.length > MAX_CONFIG_BYTES or (problem := shipped_problem(path.read_bytes(), model, version)):
            raise DataError(f"{name}: {problem if target.length <= MAX_CONFIG_BYTES else 'its file is not what it must be'}")
        return BundleSummary(model=model, version=int(str(version)), task=kind_of_model(model))
    if kind == AGENT:
        return _verified_agent(name, path, target, model, version)
    if kind != BUNDLE:
        raise DataError(f"{name}: is a {kind[:80]!r}, which this hub does not know; update the hub")
    with Bundle.open(path, BundleLimits(max_bundle_bytes=target.length)) as bundle:
        return summary_of(bundle)


def _verified_agent(name: str, path: Path, target: TargetFile, model: str, version: object) -> BundleSummary:
    """Its wheels are those of its manifest; the hub unpacks none of them."""
    if problem := name_problem(AGENT, model, version):
        raise DataError(f"{name}: {problem}")
    with opened(path, target.length) as house:
        for wheel in house.manifest.wheels:
            house.bytes_of(wheel)
        needs = house.manifest.needs
    if (target.custom or {}).get(AGENT) != msgspec.to_builtins(needs):
        raise DataError(f"{name}: what it needs is not what was signed; publish it again")
    return BundleSummary(model=model, version=int(str(version)), task=AGENT, agent=needs)


def summary_of(bundle: Bundle) -> BundleSummary:
    """What the registry keeps of a bundle, to show it and to compare devices with it."""
    manifest = bundle.manifest
    provenance = manifest.provenance
    return BundleSummary(
        model=manifest.name,
        version=manifest.version,
        parent=provenance.parent if provenance else None,
        recipe=provenance.recipe_sha256 if provenance else "",
        data=provenance.data_sha256 if provenance else "",
        schema=manifest.schema,
        requires=manifest.requires,
        unknown=[
            what
            for what, known in (("canary", manifest.canary), ("accuracy", any(v.accuracy for v in manifest.variants)))
            if not known
        ],
        labels=list(getattr(manifest.task, "labels", []))[:1000],
        task=str(manifest.task.__struct_config__.tag),
        quantities=list(getattr(manifest.task, "quantities", []))[:1000],
        spread=list(manifest.task.std)[:1000] if isinstance(manifest.task, Regression) else [],
        background=str(getattr(manifest.task, "background", "")),
        points=list(getattr(manifest.task, "points", [])),
        reliability=manifest.drift.reliability if manifest.drift else [],
        group_variance=group_variance(manifest.drift) if manifest.drift else GroupVariance(),
        variants=[
            VariantSummary(
                name=v.name,
                bytes=manifest.files[v.file].bytes,
                accuracy=[v.accuracy.value, v.accuracy.low, v.accuracy.high] if v.accuracy else None,
                latency_us=v.cost.latency_us_p50 if v.cost else None,
                machine=v.cost.machine if v.cost else None,
            )
            for v in manifest.variants
        ],
    )


def group_variance(drift: Drift) -> GroupVariance:
    """Of a bundle's reference, by the features' names."""
    between, within = (dict(zip(drift.features, values, strict=False)) for values in (drift.between, drift.within))
    return GroupVariance(between=between, within=within, places=drift.places, samples=drift.samples, recordings=drift.recordings)


class _StoredSummary(BundleSummary, frozen=True, kw_only=True):
    """`between`: where an earlier release wrote it; it did not say of how many places."""

    between: dict[str, float] = {}


def _summary(about: str) -> _StoredSummary:
    stored = msgspec.json.decode(about, type=_StoredSummary)
    if stored.between and not stored.group_variance.between:
        return msgspec.structs.replace(stored, group_variance=GroupVariance(between=stored.between))
    return stored


class _Needs(msgspec.Struct, frozen=True):
    schema: int = 1


def needed_schema(about: str) -> int:
    """The lowest reader that runs a bundle. `about`: as the registry keeps it; what an earlier hub stored is of schema 1."""
    return msgspec.json.decode(about, type=_Needs).schema


def schema_of(connection: Connection, target: str) -> int:
    """The lowest reader that runs a published bundle."""
    about = connection.execute(select(bundles.c.about).where(bundles.c.target == target)).scalar()
    return needed_schema(about) if about else 1


def summaries(connection: Connection, model: str) -> dict[str, BundleSummary]:
    """Of each of the model's bundles, by digest."""
    rows = connection.execute(select(bundles.c.sha256, bundles.c.about).where(bundles.c.model == model))
    return {sha256: _summary(about) for sha256, about in rows}


def group_variance_of(connection: Connection, sha256: str) -> GroupVariance:
    """Of a published bundle; an empty one where there is none. A bundle never changes: it is read once."""
    if sha256 not in _VARIANCES:
        about = connection.execute(select(bundles.c.about).where(bundles.c.sha256 == sha256).limit(1)).scalar()
        if not about:
            return GroupVariance()
        if len(_VARIANCES) >= MAX_VARIANCES:
            _VARIANCES.clear()
        _VARIANCES[sha256] = _summary(about).group_variance
    return _VARIANCES[sha256]


def newest(connection: Connection, model: str) -> BundleSummary:
    """The summary of the model's newest bundle; an empty one where there is none."""
    rows = select(bundles.c.about).where(bundles.c.model == model).order_by(bundles.c.version.desc()).limit(1)
    about = connection.execute(rows).scalar()
    return _summary(about) if about else BundleSummary()


def labels_of(connection: Connection, model: str) -> list[str]:
    """The labels that the model's newest bundle knows."""
    return newest(connection, model).labels


def published(connection: Connection) -> list[PublishedBundle]:
    """Every version, newest first, with its lineage, accuracy and cost."""
    rows = connection.execute(select(bundles).order_by(bundles.c.published.desc(), bundles.c.version.desc()).limit(500))
    return [_published(row) for row in rows]


def _published(row: Any) -> PublishedBundle:
    stored = _summary(row.about)
    return PublishedBundle(
        target=row.target, sha256=row.sha256, bytes=row.bytes, channel=row.channel, published=row.published,
        withdrawn=row.withdrawn, **{name: getattr(stored, name) for name in BundleSummary.__struct_fields__},
    )  # fmt: skip


def targets_of(connection: Connection, model: str, limit: int) -> list[str]:
    """The model's bundles that were not withdrawn, newest first."""
    rows = select(bundles.c.target).where(bundles.c.model == model, bundles.c.withdrawn.is_(None))
    return list(connection.execute(rows.order_by(bundles.c.version.desc()).limit(limit)).scalars())


def newest_targets(connection: Connection, limit: int) -> list[str]:
    """Bundles, configs and agents of any model that were not withdrawn, the newest first."""
    rows = select(bundles.c.target).where(bundles.c.withdrawn.is_(None)).order_by(bundles.c.published.desc(), bundles.c.target)
    return list(connection.execute(rows.limit(limit)).scalars())


def released_targets(connection: Connection) -> set[str]:
    """What the channels' devices run where no rollout is open."""
    return set(connection.execute(select(released.c.target)).scalars())
