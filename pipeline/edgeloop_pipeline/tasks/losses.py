"""The type of losses, and a wrapper for networks with probabilities."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch.nn.functional as F
from torch import Tensor

# Scores, labels (or shares of labels), normalized input, the run's autocast (for a teacher) → scalar.
Loss = Callable[[Tensor, Tensor, Tensor, Callable[[], AbstractContextManager[Any]]], Tensor]


MIN_PROBABILITY = 1e-9


def cross_entropy(smoothing: float) -> Loss:
    return lambda scores, labels, *_: F.cross_entropy(scores, labels, label_smoothing=smoothing)


def of_probabilities(loss: Loss) -> Loss:
    """The loss for a network whose outputs are probabilities: it gets their logarithms."""
    return lambda scores, *others: loss(scores.clamp_min(MIN_PROBABILITY).log(), *others)
