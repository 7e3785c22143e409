"""What int8 keeps of answers that are classes at each place, whichever axis the classes stand on."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgeloop_pipeline.data.types import PreparedSplits, Samples
from edgeloop_pipeline.tasks.tensors import EACH, Tensors


def letters(wrong: int) -> tuple[np.ndarray, np.ndarray]:
    """Two samples of ten places with seven classes as probabilities; `wrong` places of the first one have another class."""
    rng = np.random.default_rng(0)
    wanted = rng.dirichlet(np.full(7, 0.3), (2, 10))
    found = wanted.copy()
    for place in range(wrong):
        found[0, place] = np.roll(wanted[0, place], 1)
    return found, wanted


@pytest.mark.parametrize("wrong", [0, 3])
@pytest.mark.parametrize("last", [True, False])
def test_places_with_the_same_class(wrong: int, last: bool) -> None:
    found, wanted = letters(wrong)
    if not last:
        found, wanted = found.transpose(0, 2, 1), wanted.transpose(0, 2, 1)
    assert EACH["agreement"](found, wanted) == pytest.approx([1 - wrong / 10, 1.0])


def test_logits_have_their_classes_first() -> None:
    rng = np.random.default_rng(1)
    wanted = rng.normal(size=(2, 4, 6, 5))
    found = wanted.copy()
    found[1, :, 0] = -found[1, :, 0]
    kept = EACH["agreement"](found, wanted)
    assert kept[0] == 1.0 and kept[1] == pytest.approx(5 / 6, abs=0.17)


def test_numbers_around_a_large_one_are_judged_by_what_varies() -> None:
    """Scores from 2.9 to 3.1 that all become 3: nearly all of the signal is there, and nothing of what they say."""
    rng = np.random.default_rng(2)
    wanted = rng.uniform(2.9, 3.1, (40, 3)).astype(np.float32)
    samples = Samples(np.zeros((40, 1, 1), np.float32), wanted, np.arange(40), np.array([]))

    def kept(measure: str, found: np.ndarray) -> float:
        splits = PreparedSplits((), samples, samples, samples, task="tensors", measure=measure)
        return Tensors(splits).judge(torch.from_numpy(found), samples)[0]

    constant = np.full_like(wanted, wanted.mean())
    assert kept("signal", constant) > 0.99 and kept("r2", constant) < 0.01
    assert kept("r2", wanted) == 1.0 and 0.9 < kept("r2", wanted + rng.normal(0, 0.01, wanted.shape).astype(np.float32)) < 0.99
