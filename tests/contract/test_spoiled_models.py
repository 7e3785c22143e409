"""Bundles of named tensors, spoiled: opened, loaded and asked once, only the project's own errors come out."""

from __future__ import annotations

import collections
import random
from pathlib import Path

import pytest

from spoiled_models import originals, outcome, spoil


@pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=pytest.mark.long)])
def test_spoiled_bundles_of_named_tensors_are_refused_or_answer(count: int, tmp_path: Path) -> None:
    """The same contents, or a sentence; a bundle that is another one, and whole, answers as that."""
    rng, whole = random.Random(27), originals(tmp_path)
    seen = collections.Counter(outcome(spoil(rng, original, tmp_path), original) for original in rng.choices(whole, k=count))
    assert seen["refused"] > 0.5 * count and seen["same"] and seen["answered"], seen
