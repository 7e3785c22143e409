"""A bundle in words, for `edgeloop-agent inspect`: what it knows, and what nobody knows of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from edgeloop_contract.archive import Bundle
from edgeloop_contract.manifest import Manifest, Variant
from edgeloop_contract.tasks import names_of
from edgeloop_contract.tensors import TensorSpec


def described(bundle: Bundle) -> Iterator[str]:
    """Line by line."""
    manifest = bundle.manifest
    yield f"{manifest.name} version {manifest.version}, sha256 {bundle.sha256}"
    needs = f", for {', '.join(manifest.requires)}" if manifest.requires else ""
    yield f"needs a reader of schema {manifest.schema}{needs}"
    yield f"{manifest.task.__struct_config__.tag}: {', '.join(names_of(manifest.task)) or 'the answer is the named outputs'}"
    for entry in manifest.inputs:
        name = "" if len(manifest.inputs) == 1 else f" of {entry.name}"
        yield f"sample{name}: {entry.sample.dtype} {entry.sample.shape}"
        for step in entry.preprocessing:
            yield f"preprocessing{name}: {msgspec.json.encode(step).decode()}"
    for variant in manifest.variants:
        accuracy = variant.accuracy
        share = f"{accuracy.value:.1%} [{accuracy.low:.1%}, {accuracy.high:.1%}]" if accuracy else "-"
        cost = f"{variant.cost.latency_us_p50:.0f} µs" if variant.cost else "-"
        yield f"{variant.name:16}{manifest.files[variant.file].bytes:>9} bytes  accuracy {share}  p50 {cost}"
        yield from _tensors(variant)
    if unknown := list(_unknown(manifest)):
        yield f"not known: {'; '.join(unknown)}"
    for name, file in sorted(manifest.files.items()):
        yield f"  {file.sha256[:16]}…  {file.bytes:>9}  {name}"


def _tensors(variant: Variant) -> Iterator[str]:
    """Of a file whose tensors have names."""
    for side, specs in (("takes", variant.inputs), ("gives", variant.outputs)):
        if len(specs) > 1 or specs[0].name or variant.states:
            yield f"  {side} {_listed(specs)}"
    for state in variant.states:
        reset = "at each recording" if state.reset == "recording" else "never"
        yield f"  remembers {state.output} as {state.input}, {state.dtype} {state.shape}; begins anew {reset}"
    if variant.kept_inside:
        yield f"  its runtime keeps state; it begins anew {'at each recording' if variant.kept_inside == 'recording' else 'never'}"


def _listed(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(
        f"{spec.name or spec.tensor} {spec.dtype} {spec.shape}{'' if spec.constant is None else ' (constant)'}" for spec in specs
    )


def _unknown(manifest: Manifest) -> Iterator[str]:
    if manifest.canary is None:
        yield "right answers of any sample (a device checks the structure only)"
    elif not manifest.canary.labels:
        yield "labels of the canary's samples"
    if not any(variant.accuracy for variant in manifest.variants):
        yield "accuracy"
    if manifest.drift is None:
        yield "how ordinary samples look (no drift monitor)"
    if manifest.provenance is None:
        yield "recipe, code and data that the model comes from"
