"""Manifests with another input."""

from __future__ import annotations

from typing import Any

import msgspec

from edgeloop_contract.manifest import Manifest


def with_input(manifest: Manifest, **changes: Any) -> Manifest:
    """The manifest with changes of its only input: `sample`, `preprocessing`."""
    return msgspec.structs.replace(manifest, inputs=[msgspec.structs.replace(manifest.inputs[0], **changes)])
