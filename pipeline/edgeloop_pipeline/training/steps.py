"""Computes the gradients of one batch from its parts, for training, search and profiling."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from torch import Tensor, nn
from torch.profiler import record_function

from edgeloop_pipeline.tasks.losses import Loss
from edgeloop_pipeline.training.precision import Precision
from edgeloop_pipeline.training.scoring import device


def gradients(
    network: nn.Module, parts: list[tuple[Tensor, Tensor]], count: int, loss: Loss, precision: Precision, world: int = 1,
    unsynchronised: Callable[[nn.Module], Any] | None = None,
) -> float:  # fmt: skip
    """Compute the gradients of one batch of `count` samples from its parts. Returns the parts' summed loss.

    Each part counts by its share of the samples, and gradients are averaged over `world` processes: the sum is the
    gradient of the whole batch's mean loss. Only batch normalization depends on the parts: it uses their statistics.
    """
    network.zero_grad(set_to_none=True)
    where = device()
    total = 0.0
    for i, (x, labels) in enumerate(parts):
        x, labels = x.to(where, non_blocking=True), labels.to(where, non_blocking=True)
        last = i == len(parts) - 1
        with ExitStack() as stack:
            if not last and unsynchronised is not None:
                stack.enter_context(unsynchronised(network))
            with record_function("forward"):
                with precision.autocast():
                    scores = network(x)
                part_loss = loss(scores.float(), labels, x, precision.autocast)
            with record_function("backward"):
                precision.backward(part_loss * (len(x) * world / count))
        total += float(part_loss.detach()) * len(x)
    return total
