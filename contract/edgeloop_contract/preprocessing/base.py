"""What every preprocessing step is: a frozen struct, told apart by its `step`, that is called with a batch of arrays."""

from typing import ClassVar

import msgspec

from edgeloop_contract.arrays import Array
from edgeloop_contract.errors import DataError

__all__ = ["Sizes", "StepBase", "picture"]

Sizes = dict[int, int]  # axis of a sample → its size, for the axes that the steps so far decide


class StepBase(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, tag_field="step"):
    """One step. Batch first: (N, *sample) → (N, *sample). Raises DataError for what it cannot take.

    `makes`: the type of its result; "" where the type of what comes in stays.
    """

    makes: ClassVar[str] = ""

    def __call__(self, x: Array) -> Array:
        raise NotImplementedError

    def sizes(self, before: Sizes) -> Sizes:
        """The sizes that are decided after this step, from those before it."""
        return before


def picture(x: Array, step: str) -> Array:
    """`x` where it is a batch of pictures (N, height, width, channels). Raises DataError where it is none."""
    if x.ndim != 4:
        raise DataError(f"an array of shape {x.shape[1:]}; {step} takes images of shape (height, width, channels)")
    if 0 in x.shape:
        raise DataError(f"an empty picture, of shape {x.shape[1:]}; {step} takes one pixel or more")
    return x
