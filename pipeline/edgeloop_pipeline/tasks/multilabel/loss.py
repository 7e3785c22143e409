"""The loss of several labels a sample: binary cross entropy, in which a rare label counts as much as a common one."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from edgeloop_contract.arrays import Array
from edgeloop_contract.tasks import NOT_KNOWN

__all__ = ["label_loss", "weights_of"]

MAX_WEIGHT = 20.0  # of a label: one that a thousandth of the samples has would drown the others in its noise


def weights_of(shares: Array) -> Tensor:
    """The weight of each label (labels,), by the share of training samples that have it.

    A label's entropy is divided by that of the best answer which ignores the sample: 1 is chance for each of them, and scores stay
    probabilities, which a larger weight of positive samples alone would change.
    """
    share = torch.from_numpy(shares).float().clamp(1e-6, 1 - 1e-6)
    entropy = -(share * share.log() + (1 - share) * (1 - share).log())
    return (1 / entropy).clamp_max(MAX_WEIGHT)


def label_loss(scores: Tensor, labels: Tensor, weights: Tensor, smoothing: float = 0.0) -> Tensor:
    """Mean over samples and labels of logits (N, labels) against 1, 0, and 255 for what is not known, which does not count."""
    truth = labels.reshape(scores.shape)
    known = truth != NOT_KNOWN
    wanted = torch.where(known, truth.float(), torch.zeros_like(scores)) * (1 - smoothing) + smoothing / 2
    each = F.binary_cross_entropy_with_logits(scores, wanted, reduction="none") * weights.to(scores.device)
    return (each * known).sum() / known.sum().clamp_min(1)
