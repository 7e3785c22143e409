"""Chooses the device, seeds the generators, and computes a network's scores."""

from __future__ import annotations

import copy
import os
import random
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from edgeloop_agent.hardware import cores
from edgeloop_exporters.normalization import InputNormalization
from edgeloop_pipeline.data.types import Samples

Network = TypeVar("Network", bound=nn.Module)
EVALUATION_BATCH = 512
TOKEN_VALUES = 512  # of an inner layer, for one token id
SOUND_VALUES, LONG_SOUND = 8, 8192  # of an inner layer, for one point of a sound this long: a spectrum with many channels
EVALUATION_VALUES = 2_000_000  # the most values in a batch: large images get smaller batches, whose layers fit into caches


def seed_everything(seed: int) -> None:
    """Seed every generator, and set the number of threads, so that a resumed stage computes the same."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    # A launcher, or Ray for a trial's share of a machine, sets the number of threads: more would disturb the other processes.
    share = cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    given = os.environ.get("OMP_NUM_THREADS", "")
    torch.set_num_threads(max(1, min(share, int(given)) if given.isdecimal() else share))
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Filling every new tensor with NaN finds bugs in kernels, and costs a tenth of a small network's step.
    setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)  # noqa: B010 (untyped)


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def channels_last(x: Any) -> Any:
    """The tensor or network in the channels-last layout, which is fastest for convolutions; only 4-D tensors change."""
    if isinstance(x, Tensor) and x.dim() != 4:
        return x
    return x.to(memory_format=torch.channels_last)


def copy_of(network: Network) -> Network:
    """A deep copy of the network, without the warnings of torch about copies of traced networks."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return copy.deepcopy(network)


def evaluation_batch(values: Any) -> int:
    """The number of these samples (N, *sample) that go through a network at a time without gradients."""
    sound = values.dtype == np.int16 and values[0].ndim == 2 and len(values[0]) == values[0].size >= LONG_SOUND
    each = int(values[0].size) * (TOKEN_VALUES if values.dtype == np.int32 else SOUND_VALUES if sound else 1)
    return max(1, min(EVALUATION_BATCH, EVALUATION_VALUES // max(1, each)))


def in_batches(run: Callable[[Any], Any], values: Any) -> Any:
    """The outputs (N, ...) of `run` for raw samples (N, *sample), computed in batches of bounded size."""
    size = evaluation_batch(values)
    return np.concatenate([run(values[start : start + size]) for start in range(0, len(values), size)])


def scores_of(
    network: nn.Module, normalization: InputNormalization, samples: Samples, autocast: AbstractContextManager[Any] | None = None
) -> Tensor:
    """The float scores (N, outputs) of a network in evaluation mode."""
    network.eval()
    where = next((p.device for p in network.parameters()), device())
    rows = []
    with torch.no_grad(), autocast or nullcontext():
        size = evaluation_batch(samples.values)
        for start in range(0, len(samples), size):
            batch = torch.from_numpy(np.asarray(samples.values[start : start + size]))
            rows.append(network(channels_last(normalization.normalize(batch).to(where))).float().cpu())
    return torch.cat(rows)


def moved_scores(network: nn.Module, normalization: InputNormalization, samples: Samples) -> Tensor:
    """The float scores (N, outputs) for uint8 samples of which each value is moved by −1, 0 or 1, by lot: always the same lot."""
    rng, rows, size = np.random.default_rng(0), [], evaluation_batch(samples.values)
    for start in range(0, len(samples), size):
        some = samples.of(np.arange(start, min(len(samples), start + size)))
        moved = np.asarray(some.values, np.int16) + rng.integers(-1, 2, some.values.shape, np.int16)
        rows.append(scores_of(network, normalization, replace(some, values=moved.clip(0, 255).astype(np.uint8))))
    return torch.cat(rows)
