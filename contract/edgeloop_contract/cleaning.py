"""Cleaning of raw recordings before they become samples: a declarative list in the manifest, its only implementation here.

A step repairs what can be repaired, and refuses what cannot, each under a name that is counted: the device reports both.
Recordings are one array: (T, C) for a series or sound, (H, W) or (H, W, C) for an image.
"""

from collections.abc import Sequence
from typing import Annotated

import msgspec
import numpy as np

from edgeloop_contract.arrays import Array
from edgeloop_contract.settings import Fraction01, PositiveFloat, PositiveInt

__all__ = [
    "Blurred", "Clamp", "Clipped", "Exposure", "FillMissing", "Flat", "Hampel", "NearDuplicate", "Resample", "Silent", "Step",
    "Stuck", "clean", "thumbnail",
]  # fmt: skip

NORMAL = 1.4826  # standard deviation of a normal distribution, in median absolute deviations
FULL_SCALE = 32767.0
IMAGE = (2, 3)  # dimensions of one
LUMA = np.array([0.299, 0.587, 0.114])


class Cleaned(msgspec.Struct):
    """The result for a recording: cleaned `values`, the number of `repaired` values by step, or why it is `refused`.

    `reason`: the refusing step's name, for counting; `refused`: the same in words. `times`: (T,) seconds.
    """

    values: Array
    repaired: dict[str, int] = msgspec.field(default_factory=dict)
    reason: str = ""
    refused: str = ""
    times: Array | None = None

    def refuse(self, reason: str, text: str) -> None:
        self.reason, self.refused = reason, text


class _Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, tag_field="step"):
    """One call changes a `Cleaned` in place. Steps after a refusal are not run."""

    @property
    def name(self) -> str:
        return str(self.__struct_config__.tag)

    def __call__(self, x: Cleaned) -> None:
        raise NotImplementedError


class FillMissing(_Step, frozen=True, tag="fill_missing"):
    """Fill NaN and infinite values of a series by linear interpolation; a longer gap is refused."""

    max_gap: PositiveInt  # points in a row

    def __call__(self, x: Cleaned) -> None:
        if x.values.dtype.kind != "f":
            return
        good = np.isfinite(x.values)
        if good.all():
            return
        series = x.values.reshape(len(x.values), -1).copy()
        for channel, fine in enumerate(good.reshape(series.shape).T):
            gap = _longest_run(~fine)
            if gap > self.max_gap or not fine.any():
                x.refuse(self.name, f"channel {channel} misses {gap} points in a row; at most {self.max_gap} are filled")
                return
            known = np.flatnonzero(fine)
            series[:, channel] = np.interp(np.arange(len(series)), known, series[known, channel])
        x.repaired[self.name] = int((~good).sum())
        x.values = series.reshape(x.values.shape)


class Clamp(_Step, frozen=True, tag="clamp"):
    """Values outside the sensor's range become its nearest end; with too many of them the recording is refused."""

    low: float
    high: float
    max_share: Fraction01 = 0.2

    def __call__(self, x: Cleaned) -> None:
        outside = (x.values < self.low) | (x.values > self.high)
        count = int(outside.sum())
        if not count:
            return
        if count > self.max_share * outside.size:
            x.refuse(self.name, f"{count} of {outside.size} values lie outside {self.low:g} to {self.high:g}")
            return
        x.values = np.clip(x.values, self.low, self.high).astype(x.values.dtype)
        x.repaired[self.name] = count


class Hampel(_Step, frozen=True, tag="hampel"):
    """Spikes of a series: a point further from its neighbourhood's median than `sigmas` robust deviations becomes the median.

    Davies & Gather 1993. `window`: points on each side; `floor`: deviations below it count as this large.
    """

    window: PositiveInt = 3
    sigmas: PositiveFloat = 4.0
    floor: PositiveFloat = 1e-6

    def __call__(self, x: Cleaned) -> None:
        width = 2 * self.window + 1
        if len(x.values) < width:
            return
        series = x.values.reshape(len(x.values), -1)
        padded = np.pad(series, ((self.window, self.window), (0, 0)), mode="edge")
        around = np.lib.stride_tricks.sliding_window_view(padded, width, axis=0)
        median = np.median(around, axis=-1)
        spread = NORMAL * np.median(np.abs(around - median[..., None]), axis=-1)
        spikes = np.abs(series - median) > self.sigmas * np.maximum(spread, self.floor)
        if spikes.any():
            kept = np.where(spikes, median, series)
            kept = np.rint(kept) if x.values.dtype.kind in "iu" else kept
            x.values = kept.astype(x.values.dtype).reshape(x.values.shape)
            x.repaired[self.name] = int(spikes.sum())


class Stuck(_Step, frozen=True, tag="stuck"):
    """A sensor that repeats one value: refused when a channel does not change for so many points in a row."""

    max_points: PositiveInt

    def __call__(self, x: Cleaned) -> None:
        series = x.values.reshape(len(x.values), -1)
        for channel, same in enumerate((series[1:] == series[:-1]).T):
            run = _longest_run(same) + 1
            if run > self.max_points:
                x.refuse(self.name, f"channel {channel} repeats one value for {run} points; the sensor may be stuck")
                return


class Flat(_Step, frozen=True, tag="flat"):
    """A signal that is only noise: refused when every channel's standard deviation is below `min_std`."""

    min_std: PositiveFloat

    def __call__(self, x: Cleaned) -> None:
        loudest = float(x.values.reshape(len(x.values), -1).std(axis=0, dtype=np.float64).max())
        if loudest < self.min_std:
            x.refuse(self.name, f"no channel moves: the largest deviation is {loudest:.3g}, below {self.min_std:g}")


class Resample(_Step, frozen=True, tag="resample"):
    """Points at uneven times, linearly interpolated onto an even grid. Needs the recording's times, in seconds.

    Without times the points count as even already. Times that run backwards are sorted first.
    """

    rate_hz: PositiveFloat
    max_gap_seconds: PositiveFloat

    def __call__(self, x: Cleaned) -> None:
        if x.times is None:
            return
        order = np.argsort(x.times, kind="stable")
        times, values = x.times[order], x.values[order]
        times, first = np.unique(times, return_index=True)
        values = values[first]
        gap = float(np.diff(times).max(initial=0.0))
        if gap > self.max_gap_seconds:
            x.refuse(self.name, f"{gap:.3g} s without a point; at most {self.max_gap_seconds:g} s are bridged")
            return
        count = int(np.floor((times[-1] - times[0]) * self.rate_hz + 1e-9)) + 1
        grid = times[0] + np.arange(count) / self.rate_hz
        series = values.reshape(len(values), -1)
        even = np.stack([np.interp(grid, times, channel) for channel in series.T], axis=1)
        moved = len(x.times) != count or bool(np.abs(times - grid).max() > 0.01 / self.rate_hz)
        x.repaired |= {self.name: count} if moved else {}
        even = np.rint(even) if values.dtype.kind in "iu" else even
        x.values, x.times = even.astype(values.dtype).reshape(count, *values.shape[1:]), grid


class Clipped(_Step, frozen=True, tag="clipped"):
    """Sound driven past full scale: refused when more than `max_share` of the points sit at either end of 16 bits."""

    max_share: Fraction01 = 0.01

    def __call__(self, x: Cleaned) -> None:
        share = float((np.abs(x.values.astype(np.float64)) >= FULL_SCALE).mean())
        if share > self.max_share:
            x.refuse(self.name, f"{share:.1%} of the sound is clipped; turn the microphone down")


class Silent(_Step, frozen=True, tag="silent"):
    """Sound below `min_dbfs` (RMS against full scale, 16 bits): refused."""

    min_dbfs: Annotated[float, msgspec.Meta(lt=0)] = -60.0

    def __call__(self, x: Cleaned) -> None:
        rms = float(np.sqrt((x.values.astype(np.float64) ** 2).mean()))
        level = 20 * np.log10(max(rms, 1e-3) / FULL_SCALE)
        if level < self.min_dbfs:
            x.refuse(self.name, f"{level:.0f} dBFS, below {self.min_dbfs:g}: silence")


class Exposure(_Step, frozen=True, tag="exposure"):
    """Images whose mean brightness (0 to 255) is out of range: too dark or over-exposed, refused."""

    darkest: Annotated[float, msgspec.Meta(ge=0, le=255)] = 10.0
    brightest: Annotated[float, msgspec.Meta(ge=0, le=255)] = 245.0

    def __call__(self, x: Cleaned) -> None:
        if x.values.ndim not in IMAGE:
            x.refuse(self.name, f"an array of shape {x.values.shape}; exposure is of images")
            return
        mean = float(_grey(x.values).mean())
        if mean < self.darkest:
            x.refuse("dark", f"mean brightness {mean:.0f} of 255: too dark")
        elif mean > self.brightest:
            x.refuse("over_exposed", f"mean brightness {mean:.0f} of 255: over-exposed")


class Blurred(_Step, frozen=True, tag="blurred"):
    """Images without fine detail: refused when the variance of the Laplacian is below `min_variance` (Pech-Pacheco 2000)."""

    min_variance: PositiveFloat

    def __call__(self, x: Cleaned) -> None:
        grey = _grey(x.values) if x.values.ndim in IMAGE else np.empty((0, 0))
        if min(grey.shape) < 3:
            x.refuse(self.name, f"an array of shape {x.values.shape}; sharpness is of images, 3×3 at least")
            return
        inner = grey[1:-1, 1:-1]
        laplacian = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * inner
        variance = float(laplacian.var())
        if variance < self.min_variance:
            x.refuse(self.name, f"blurred: variance of the Laplacian {variance:.3g}, below {self.min_variance:g}")


class NearDuplicate(_Step, frozen=True, tag="near_duplicate"):
    """A frame that hardly differs from the last answered one: its answer is repeated, without inference.

    `max_difference`: mean absolute difference of brightness (0 to 255), over 16×16 thumbnails. The device keeps the last one.
    """

    max_difference: PositiveFloat = 2.0

    def __call__(self, x: Cleaned) -> None:
        """Does nothing: the device compares thumbnails (`same_as`)."""

    def same_as(self, thumbnail: Array, last: Array | None) -> bool:
        return last is not None and bool(np.abs(thumbnail - last).mean() <= self.max_difference)


Step = (
    FillMissing | Clamp | Hampel | Stuck | Flat | Resample | Clipped | Silent | Exposure | Blurred | NearDuplicate
)  # fmt: skip


def clean(steps: Sequence[Step], recording: Array, times: Array | None = None) -> Cleaned:
    """Run the list over one recording, up to the first step that refuses it. `times`: (T,) seconds of each point."""
    x = Cleaned(recording, times=times)
    if recording.dtype.kind not in "fiu" or not recording.size:
        return x  # not numbers: preprocessing reports it
    for step in steps:
        step(x)
        if x.refused:
            break
    return x


def thumbnail(image: Array) -> Array:
    """Brightness of an image, (H, W) or (H, W, C), averaged into at most 16×16 fields."""
    grey = _grey(image)
    rows, columns = (np.linspace(0, size, min(16, size), endpoint=False).astype(int) for size in grey.shape)
    sums = np.add.reduceat(np.add.reduceat(grey, rows, axis=0), columns, axis=1)
    heights, widths = (np.diff([*starts, size]) for starts, size in zip((rows, columns), grey.shape, strict=True))
    return np.asarray(sums / np.outer(heights, widths))


def _grey(image: Array) -> Array:
    if image.ndim == 2:
        return image.astype(np.float64)
    return np.asarray(image[..., 0] if image.shape[-1] < 3 else image[..., :3] @ LUMA, dtype=np.float64)


def _longest_run(flags: Array) -> int:
    """Of true values in a row."""
    edges = np.diff(np.concatenate([[0], flags.astype(np.int8), [0]]))
    starts, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
    return int((ends - starts).max(initial=0))
