"""Steps for time series and for arrays of any kind: windows, padding, counts, stacked frames, other shapes."""

import math
from typing import Annotated, ClassVar, Literal

import msgspec
import numpy as np

from edgeloop_contract.arrays import Array
from edgeloop_contract.errors import DataError
from edgeloop_contract.preprocessing.base import Sizes, StepBase
from edgeloop_contract.settings import NonNegativeInt, PositiveInt

__all__ = ["Clip", "Counts", "FrameStack", "Normalize", "Pad", "Reshape", "Transpose", "Window"]

INT16 = np.iinfo(np.int16)


class Window(StepBase, frozen=True, tag="window"):
    """Cut a series into windows of `length` points, `hop` points apart; a remainder at the end is left out.

    A `short` recording is refused, or padded: its first and last point are repeated on both sides.
    """

    length: PositiveInt
    hop: PositiveInt
    short: Literal["refuse", "pad"] = "refuse"

    def __call__(self, x: Array) -> Array:
        if len(x) > 1:
            raise DataError(f"{len(x)} windows already; a window step cuts a whole recording: keep one window step in the list")
        series = x[0]
        spare = self.length - len(series)
        if spare > 0 and self.short == "pad" and len(series):
            return np.pad(x, [(0, 0), (spare // 2, spare - spare // 2), *[(0, 0)] * (x.ndim - 2)], mode="edge")
        if spare > 0:
            raise DataError(f"{len(series)} points; a window needs {self.length}: send a longer recording")
        if len(series) < self.length + self.hop:
            return x[:, : self.length]
        starts = range(0, len(series) - self.length + 1, self.hop)
        return np.stack([series[s : s + self.length] for s in starts])

    def sizes(self, before: Sizes) -> Sizes:
        return before | {0: self.length}


class Pad(StepBase, frozen=True, tag="pad"):
    """Exactly `length` points. At `place` centre: zeros on both sides of a shorter recording, the middle of a longer one.

    At `place` start: zeros behind a shorter recording, the first points of a longer one, as TensorFlow's decode_wav does it.
    """

    length: PositiveInt
    place: Literal["centre", "start"] = "centre"

    def __call__(self, x: Array) -> Array:
        spare = self.length - x.shape[1]
        before = spare // 2 if self.place == "centre" else 0
        if spare <= 0:
            first = -spare // 2 if self.place == "centre" else 0
            return x[:, first : first + self.length]
        sides = [(0, 0)] * x.ndim
        sides[1] = (before, spare - before)
        return np.pad(x, sides)

    def sizes(self, before: Sizes) -> Sizes:
        return before | {0: self.length}


class Counts(StepBase, frozen=True, tag="counts"):
    """Physical values to int16 counts: round((value - zero) / lsb) per channel, saturating; int16 values are counts already.

    `zero`: per channel, 0 where it is left out; a sensor with a large offset (air pressure) keeps its resolution by it.
    """

    makes: ClassVar[str] = "int16"

    lsb: list[float]
    zero: list[float] = []

    def __post_init__(self) -> None:
        if not all(np.isfinite([*self.lsb, *self.zero])) or 0 in self.lsb:
            raise ValueError("lsb and zero must be finite numbers, and no lsb 0")
        if self.zero and len(self.zero) != len(self.lsb):
            raise ValueError(f"zero has {len(self.zero)} channels, lsb {len(self.lsb)}; give each one of both")

    def __call__(self, x: Array) -> Array:
        if x.shape[-1] != len(self.lsb):
            raise DataError(f"{x.shape[-1]} channels; counts need {len(self.lsb)}: send every channel, in order")
        if x.dtype == np.int16:
            return x
        above = x - np.asarray(self.zero) if self.zero else x
        return np.asarray(np.clip(np.rint(above / np.asarray(self.lsb)), INT16.min, INT16.max).astype(np.int16))

    def sizes(self, before: Sizes) -> Sizes:
        return before | {1: len(self.lsb)}


class Normalize(StepBase, frozen=True, tag="normalize"):
    """(x × scale − mean) / std per channel, the last axis, as float32: torchvision's ToTensor and Normalize with scale 1/255.

    `mean` and `std`: one value for all channels, or one for each.
    """

    makes: ClassVar[str] = "float32"

    mean: list[float]
    std: list[float]
    scale: float = 1.0

    def __post_init__(self) -> None:
        if not self.mean or not self.std or not np.isfinite([*self.mean, *self.std, self.scale]).all() or 0 in self.std:
            raise ValueError("mean and std must each have a value, all finite, and no std 0")
        if len({len(self.mean), len(self.std)} - {1}) > 1:
            raise ValueError(f"mean has {len(self.mean)} channels, std {len(self.std)}; give one value, or one for each channel")

    def __call__(self, x: Array) -> Array:
        wanted = max(len(self.mean), len(self.std))
        if wanted > 1 and x.shape[-1] != wanted:
            raise DataError(f"{x.shape[-1]} channels; normalize has {wanted} means or deviations: send every channel, in order")
        made = x.astype(np.float32)
        made *= np.float32(self.scale)
        made -= np.asarray(self.mean, np.float32)
        made /= np.asarray(self.std, np.float32)
        return made


class Clip(StepBase, frozen=True, tag="clip"):
    """Values below `low` become `low`, above `high` become `high`; float32."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not -math.inf < self.low < self.high < math.inf:
            raise ValueError(f"low {self.low:g} must be less than high {self.high:g}, and both finite")

    def __call__(self, x: Array) -> Array:
        return np.clip(x, self.low, self.high).astype(np.float32)


class FrameStack(StepBase, frozen=True, tag="frame_stack"):
    """Join `frames` consecutive frames to one, in their order, every `hop` frames: (T, *frame) → (T', frames × values)."""

    frames: PositiveInt
    hop: PositiveInt = 1

    def __call__(self, x: Array) -> Array:
        if x.ndim < 3:
            raise DataError(f"an array of shape {x.shape[1:]}; frame_stack takes frames of values, (frames, values)")
        if x.shape[1] < self.frames:
            raise DataError(f"{x.shape[1]} frames; frame_stack joins {self.frames}: send a longer recording, or pad")
        flat = x.reshape(*x.shape[:2], math.prod(x.shape[2:]))
        views = np.lib.stride_tricks.sliding_window_view(flat, self.frames, axis=1)[:, :: self.hop]
        return np.ascontiguousarray(views.swapaxes(2, 3)).reshape(*views.shape[:2], -1)

    def sizes(self, before: Sizes) -> Sizes:
        return {0: (before[0] - self.frames) // self.hop + 1} if 0 in before else {}


class Reshape(StepBase, frozen=True, tag="reshape"):
    """The same values in the same order, in another shape, the batch left out."""

    shape: Annotated[list[PositiveInt], msgspec.Meta(min_length=1, max_length=8)]

    def __call__(self, x: Array) -> Array:
        if math.prod(x.shape[1:]) != math.prod(self.shape):
            raise DataError(f"an array of shape {x.shape[1:]}; reshape to {tuple(self.shape)} needs {math.prod(self.shape)} values")
        return x.reshape(len(x), *self.shape)

    def sizes(self, before: Sizes) -> Sizes:
        return dict(enumerate(self.shape))


class Transpose(StepBase, frozen=True, tag="transpose"):
    """Axes of a sample in another order: [2, 0, 1] puts the channels first, [1, 0] makes (bands, frames) of (frames, bands)."""

    axes: list[NonNegativeInt]

    def __post_init__(self) -> None:
        if sorted(self.axes) != list(range(len(self.axes))):
            raise ValueError(f"axes {self.axes} must be the numbers from 0 to {len(self.axes) - 1}, each once")

    def __call__(self, x: Array) -> Array:
        if x.ndim - 1 != len(self.axes):
            raise DataError(f"an array of shape {x.shape[1:]}; transpose {self.axes} takes {len(self.axes)} axes")
        return np.ascontiguousarray(x.transpose(0, *(axis + 1 for axis in self.axes)))

    def sizes(self, before: Sizes) -> Sizes:
        return {new: before[old] for new, old in enumerate(self.axes) if old in before}
