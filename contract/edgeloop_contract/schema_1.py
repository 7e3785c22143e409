"""Manifests of schema 1: one input, one output of scores. Every agent reads them, so they are still written where they suffice."""

import msgspec

from edgeloop_contract.cleaning import Step as CleaningStep
from edgeloop_contract.cuts import Cascade, Split
from edgeloop_contract.drift import Drift
from edgeloop_contract.manifest import (
    INPUT,
    SCORES,
    Canary,
    ChannelStatistics,
    Cost,
    Estimate,
    File,
    GoldenTensor,
    Input,
    Manifest,
    Provenance,
    Variant,
)  # fmt: skip
from edgeloop_contract.preprocessing import Step
from edgeloop_contract.tasks import Task
from edgeloop_contract.tensors import Part, Precision, Runtime, TensorSpec

__all__ = ["Manifest1", "of", "read"]


class Variant1(Part, frozen=True, kw_only=True):
    name: str
    runtime: Runtime
    precision: Precision
    file: str
    input: TensorSpec
    output: TensorSpec
    accuracy: Estimate | None = None
    cost: Cost | None = None
    provider: str = ""


class Golden1(Part, frozen=True, kw_only=True):
    scores: str
    score_step: float
    max_steps: int


class Canary1(Golden1, frozen=True, kw_only=True):
    inputs: str
    labels: str
    variants: dict[str, Golden1] = {}


class Manifest1(Part, frozen=True, kw_only=True):
    """As `manifest.Manifest`, with one input and one output, and nothing absent."""

    schema: int
    name: str
    version: int
    task: Task
    sample: TensorSpec
    preprocessing: list[Step]
    variants: list[Variant1]
    files: dict[str, File]
    canary: Canary1
    drift_reference: ChannelStatistics
    provenance: Provenance
    model_card: str
    thresholds: dict[str, float] = {}
    split: Split | None = None
    cascade: Cascade | None = None
    drift: Drift | None = None
    cleaning: list[CleaningStep] = []
    probe: bool = False
    channels: list[str] = []


SAME = (
    "name", "version", "task", "files", "drift_reference", "provenance", "model_card", "thresholds", "split", "cascade", "drift",
    "cleaning", "probe", "channels",
)  # fmt: skip


def read(data: bytes) -> Manifest:
    """A manifest of schema 1. Raises msgspec.MsgspecError."""
    old = msgspec.json.decode(data, type=Manifest1)
    canary = Canary(
        inputs={INPUT: old.canary.inputs}, golden=_golden(old.canary), labels=old.canary.labels,
        variants={name: _golden(golden) for name, golden in old.canary.variants.items()},
    )  # fmt: skip
    variants = [
        Variant(
            name=v.name, runtime=v.runtime, precision=v.precision, file=v.file, inputs=[v.input], outputs=[v.output],
            accuracy=v.accuracy, cost=v.cost, provider=v.provider,
        )
        for v in old.variants
    ]  # fmt: skip
    return Manifest(
        schema=1, inputs=[Input(name=INPUT, sample=old.sample, preprocessing=old.preprocessing)], variants=variants, canary=canary,
        **{name: getattr(old, name) for name in SAME},
    )  # fmt: skip


def _golden(golden: Golden1) -> dict[str, GoldenTensor]:
    return {SCORES: GoldenTensor(file=golden.scores, step=golden.score_step, max_steps=golden.max_steps)}


def of(manifest: Manifest) -> Manifest1:
    """The same manifest as schema 1, for one that uses nothing newer (`features.used`)."""
    canary = manifest.canary
    assert canary is not None
    variants = [
        Variant1(
            name=v.name, runtime=v.runtime, precision=v.precision, file=v.file, input=v.input, output=v.output,
            accuracy=v.accuracy, cost=v.cost, provider=v.provider,
        )
        for v in manifest.variants
    ]  # fmt: skip
    own = {
        name: Golden1(scores=golden[SCORES].file, score_step=golden[SCORES].step, max_steps=golden[SCORES].max_steps)
        for name, golden in canary.variants.items()
    }
    scores = canary.golden[SCORES]
    return Manifest1(
        schema=1, sample=manifest.sample, preprocessing=manifest.preprocessing, variants=variants,
        canary=Canary1(
            scores=scores.file, score_step=scores.step, max_steps=scores.max_steps, inputs=canary.input, labels=canary.labels,
            variants=own,
        ),
        **{name: getattr(manifest, name) for name in SAME},
    )  # fmt: skip
