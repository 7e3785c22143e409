"""Named outputs of a network whose scores are one array: each output flattened, one behind the other. Needs numpy alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeloop_contract.arrays import Array
from edgeloop_contract.errors import ModelError

__all__ = ["Output", "joined", "separate", "steps_along"]


@dataclass(frozen=True)
class Output:
    """One output of a network. `name`: "" for the only one; `shape`: of one sample's answer."""

    name: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return math.prod(self.shape)


def separate(values: Any, outputs: Sequence[Output]) -> dict[str, Any]:
    """Joined (N, total) values, an array or a tensor, by output: each (N, *shape). Raises ModelError for another total."""
    total = sum(output.size for output in outputs)
    if math.prod(values.shape[1:]) != total:
        raise ModelError(f"an answer has {math.prod(values.shape[1:])} values; its outputs have {total}")
    rows, found, start = values.reshape(len(values), -1), {}, 0
    for output in outputs:
        found[output.name] = rows[:, start : start + output.size].reshape(len(values), *output.shape)
        start += output.size
    return found


def joined(values: Sequence[Array]) -> Array:
    """(N, …) of each output as (N, total) float32. A single output keeps its shape."""
    if len(values) == 1:
        return np.asarray(values[0], np.float32)
    return np.concatenate([np.asarray(value, np.float32).reshape(len(value), -1) for value in values], 1)


def steps_along(steps: Sequence[float], outputs: Sequence[Output]) -> Array:
    """One step for each joined value: (total,) float64. `steps`: by output."""
    return np.repeat(np.asarray(steps, np.float64), [output.size for output in outputs])
