"""Samples to try a bundle with: the canary's, or zeros where the bundle has none."""

from __future__ import annotations

import numpy as np

from edgeloop_contract.archive import Bundle
from edgeloop_contract.arrays import DTYPES, Array
from edgeloop_contract.manifest import Manifest

__all__ = ["canary_inputs", "trial_samples", "zeros"]


def canary_inputs(bundle: Bundle) -> dict[str, Array]:
    """By input, (N, *sample); empty where the bundle has no canary, or one without samples."""
    canary = bundle.manifest.canary
    arrays = {} if canary is None else {entry.name: bundle.array(canary.inputs[entry.name]) for entry in bundle.manifest.inputs}
    return arrays if all(len(values) for values in arrays.values()) else {}


def zeros(manifest: Manifest) -> dict[str, Array]:
    """By input, one sample (1, *sample) of zeros."""
    return {e.name: np.zeros((1, *e.sample.shape), DTYPES[e.sample.dtype]) for e in manifest.inputs}


def trial_samples(bundle: Bundle) -> dict[str, Array]:
    """By input, (N, *sample) with N at least 1."""
    return canary_inputs(bundle) or zeros(bundle.manifest)
