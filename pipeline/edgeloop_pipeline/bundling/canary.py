"""The canary of a bundle: golden samples with the scores that a device must reproduce. One builder for every bundle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from edgeloop_contract.arrays import Array
from edgeloop_contract.manifest import INPUT, SCORES, Canary, GoldenTensor
from edgeloop_pipeline.bundling.contents import npy_of
from edgeloop_pipeline.bundling.file_names import GOLDEN

GOLDEN_STEPS = 10  # of a float file on another device: its kernels sum in another order, and a GPU's keep 11 bits
REFERENCE = "scores"


@dataclass(frozen=True)
class CanarySet:
    """The canary's description for the manifest, and its files: path in the bundle → content."""

    description: Canary
    files: dict[str, bytes]


def canary_set(
    inputs: Array,
    scores: Array,
    labels: Array | None,
    *,
    step: float,
    max_steps: int,
    golden: Mapping[str, Array | None] | None = None,
) -> CanarySet:
    """Build a canary of N samples. `scores`: (N, ...) of the reference, held in units of `step`; `labels`: None: unknown.

    `golden`: variant → scores of its own, for float files; None: the reference's scores are the variant's own.
    """
    own = {f"{GOLDEN}{name}": values for name, values in (golden or {}).items() if values is not None}
    arrays = {"inputs": inputs, REFERENCE: scores, **({} if labels is None else {"labels": labels}), **own}
    variants = {}
    for name, values in (golden or {}).items():
        file = f"{GOLDEN}{name}" if f"{GOLDEN}{name}" in own else REFERENCE
        held = golden_step(scores if values is None else values)
        variants[name] = {SCORES: GoldenTensor(file=_path(file), step=held, max_steps=GOLDEN_STEPS)}
    description = Canary(
        inputs={INPUT: _path("inputs")}, labels="" if labels is None else _path("labels"), variants=variants,
        golden={SCORES: GoldenTensor(file=_path(REFERENCE), step=step, max_steps=max_steps)},
    )  # fmt: skip
    return CanarySet(description, {_path(name): npy_of(values) for name, values in arrays.items()})


def golden_step(scores: Array) -> float:
    """One step of float scores: a thousandth of the largest."""
    return max(float(np.abs(scores).max()), 1e-6) / 1000


def _path(name: str) -> str:
    return f"canary/{name}.npy"
