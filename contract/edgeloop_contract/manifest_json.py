"""A manifest as the bundle holds it: canonical JSON, of the lowest schema that says all of it."""

from __future__ import annotations

import msgspec

from edgeloop_contract import schema_1
from edgeloop_contract.errors import BundleError, BundleTooNew
from edgeloop_contract.manifest import SCHEMA, Manifest

__all__ = ["decode", "encode"]


def encode(manifest: Manifest) -> bytes:
    """Canonical JSON: sorted keys, no white space, defaults left out. Equal manifests give equal bytes.

    The lowest schema that says all of it is chosen, so that the oldest devices that can run the bundle take it.
    """
    from edgeloop_contract import features  # devices read manifests, and do not write them

    requires = features.used(manifest)
    if not requires:
        return msgspec.json.encode(schema_1.of(manifest), order="sorted")
    return msgspec.json.encode(
        msgspec.structs.replace(manifest, schema=features.lowest(requires), requires=requires), order="sorted"
    )


def decode(data: bytes, where: str) -> Manifest:
    """Read a manifest. Raises BundleTooNew if it needs a later edgeloop, BundleError if it is malformed."""
    try:
        raw = msgspec.json.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(f"{where}: the manifest is not JSON ({error}); download the bundle again") from error
    schema = raw.get("schema") if isinstance(raw, dict) else None
    if not isinstance(schema, int) or isinstance(schema, bool) or schema < 1:
        raise BundleError(f"{where}: the manifest has no schema number; this is not a bundle")
    requires = raw.get("requires", [])
    named = ", ".join(str(name)[:60] for name in requires[:5]) if isinstance(requires, list) else ""
    if schema > SCHEMA:
        needs = f" (it needs: {named})" if named else ""
        raise BundleTooNew(f"{where}: manifest schema {schema}; this edgeloop reads {SCHEMA}: update edgeloop here{needs}")
    if msgspec.json.encode(raw, order="sorted") != data:  # a key that is there twice, or white space
        raise BundleError(f"{where}: the manifest is not in canonical form; rebuild the bundle")
    try:
        return _read(data, schema)
    except msgspec.MsgspecError as error:
        from edgeloop_contract.unknown_names import unknown_names  # a device seldom needs it, and feels each import at its start

        if later := unknown_names(raw, Manifest if schema > 1 else schema_1.Manifest1):
            names = ", ".join(later[:5])
            raise BundleTooNew(
                f"{where}: the manifest has {names}, which this edgeloop does not know: update edgeloop here"
            ) from error
        raise BundleError(f"{where}: the manifest is wrong: {error}; rebuild the bundle") from error


def _read(data: bytes, schema: int) -> Manifest:
    return msgspec.json.decode(data, type=Manifest) if schema > 1 else schema_1.read(data)
