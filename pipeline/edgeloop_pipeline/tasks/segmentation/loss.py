"""The loss of a segmentation: cross entropy of pixels, and what labels overlap too little."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from edgeloop_contract.masks import NOWHERE

__all__ = ["mask_loss"]

SMOOTH = 1.0  # pixels that are added to both sides of the dice, so that a label that is nowhere has one


def mask_loss(scores: Tensor, labels: Tensor, height: int, width: int, smoothing: float = 0.0) -> Tensor:
    """Cross entropy, plus 1 − dice of each label over the batch. Pixels of 255 do not count.

    `scores`: (N, labels, h, w) logits; `labels`: (N, height, width) numbers, or the same flattened. A cell answers for all of the
    pixels in it.
    """
    truth = labels.reshape(len(scores), height, width).long()
    if scores.shape[2:] != truth.shape[1:]:
        scores = F.interpolate(scores, size=(height, width), mode="nearest")
    known = truth != NOWHERE
    each = F.cross_entropy(scores, truth, ignore_index=NOWHERE, reduction="sum", label_smoothing=smoothing)
    entropy = each / known.sum().clamp_min(1)
    hot = F.one_hot(truth.clamp_max(scores.shape[1] - 1), scores.shape[1]).movedim(-1, 1) * known[:, None]
    shares = torch.softmax(scores, 1) * known[:, None]
    both, either = ((values).sum((0, 2, 3)) for values in (shares * hot, shares + hot))
    return entropy + 1 - ((2 * both + SMOOTH) / (either + SMOOTH)).mean()
