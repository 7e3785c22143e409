"""Steps for sound, (T, 1): floats, another rate, and spectra as TensorFlow, librosa, torchaudio and Kaldi compute them."""

from typing import Annotated, ClassVar, Literal

import msgspec
import numpy as np

from edgeloop_contract.arrays import Array
from edgeloop_contract.errors import DataError
from edgeloop_contract.preprocessing.base import Sizes, StepBase
from edgeloop_contract.preprocessing.polyphase import resample, resampled_length
from edgeloop_contract.preprocessing.spectra import cepstrum, levels, mel_bands, spectrum, window_values
from edgeloop_contract.settings import Fraction01, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

__all__ = ["Resample", "SoundFeatures", "ToFloat"]

BLOCK_VALUES = 1 << 21  # of frames in floats at a time
MAX_POINTS = 1 << 16  # of one frame: a larger one is a mistake
FramePoints = Annotated[int, msgspec.Meta(ge=1, le=MAX_POINTS)]


class ToFloat(StepBase, frozen=True, tag="to_float"):
    """16-bit sound to float32: x / `full_scale`; sound that is in floats already keeps its scale.

    `by` max: divided by the sample's largest value instead, as MLPerf Tiny's keyword data is; silence stays 0.
    """

    makes: ClassVar[str] = "float32"

    full_scale: PositiveFloat = 32768.0
    by: Literal["full_scale", "max"] = "full_scale"

    def __call__(self, x: Array) -> Array:
        if x.dtype.kind == "f":
            made = x.astype(np.float32)
        elif x.dtype.kind == "u" or (x.size and (x.min() < -32768 or x.max() > 32767)):
            wanted = "16-bit samples of sound, -32768 to 32767, or floats; a picture takes normalize"
            raise DataError(f"values of type {x.dtype}; to_float takes {wanted}")
        else:
            made = (x / (self.full_scale if self.by == "full_scale" else 1.0)).astype(np.float32)
        if self.by == "max" and made.size:
            most = made.max(axis=tuple(range(1, made.ndim)), keepdims=True)
            made /= np.where(most == 0, np.float32(1), most)
        return made


class Resample(StepBase, frozen=True, tag="resample"):
    """Sound or a series at another rate, of the same type: ceil(T × to / from) points, as scipy.signal.resample_poly.

    As the first step about sound it also says at which rate the list takes a recording.
    """

    from_hz: Annotated[int, msgspec.Meta(ge=100, le=768_000)]
    to_hz: Annotated[int, msgspec.Meta(ge=100, le=768_000)]

    def __call__(self, x: Array) -> Array:
        if x.ndim != 3:
            raise DataError(f"an array of shape {x.shape[1:]}; resample takes a series, (points, channels)")
        return x if self.from_hz == self.to_hz else np.stack([resample(row, self.from_hz, self.to_hz) for row in x])

    def sizes(self, before: Sizes) -> Sizes:
        return before | {0: resampled_length(before[0], self.from_hz, self.to_hz)} if 0 in before else before


class SoundFeatures(StepBase, frozen=True, tag="sound_features"):
    """Float sound (T, 1) to a spectrum, mel bands or cepstral coefficients: (frames, values) float32.

    In order: pre-emphasis of the sound, `centre`, frames, mean removed, pre-emphasis of each frame, window, FFT, |X|^`power`,
    mel bands, logarithm, range, cosine transform, lifter. `CONVENTIONS` has the parameters that equal known libraries.
    """

    makes: ClassVar[str] = "float32"

    rate_hz: PositiveInt
    window: FramePoints  # points under the window function
    hop: PositiveInt  # points from one frame to the next
    fft: Annotated[int, msgspec.Meta(ge=0, le=MAX_POINTS)] = 0  # points of the transform; 0: as many as `window`
    function: Literal["hann", "hamming", "povey", "rectangular"] = "hann"
    periodic: bool = True  # false: symmetric
    frames_of: Literal["window", "fft"] = "window"  # a frame's length; in one of `fft` points the window stands in the middle
    centre: Literal["no", "zeros", "reflect"] = "no"  # fft // 2 points are added on both sides
    remove_mean: bool = False  # of each frame
    preemphasis: Fraction01 = 0.0  # x[t] − preemphasis × x[t − 1]
    preemphasis_of: Literal["frame", "sound"] = "frame"  # frame: the first point is its own predecessor; sound: 0 is
    power: PositiveFloat = 2.0
    bands: Annotated[int, msgspec.Meta(ge=0, le=4096)] = 0  # 0: no mel bands, the spectrum's fft // 2 + 1 bins
    low_hz: NonNegativeFloat = 0.0
    high_hz: NonNegativeFloat = 0.0  # 0: half of the rate
    mel: Literal["htk", "slaney"] = "htk"
    triangles: Literal["hz", "mel"] = "hz"  # the axis on which a band's sides are straight
    first_bin: NonNegativeInt = 0  # bins of the spectrum below it go into no band
    norm: Literal["none", "slaney"] = "none"  # slaney: each band's area is 1
    log: Literal["none", "natural", "log10", "decibel"] = "none"  # decibel: (20 / power) × log10
    offset: NonNegativeFloat = 0.0  # added before the logarithm
    floor: NonNegativeFloat = 0.0  # the least value that the logarithm takes
    reference: Literal["one", "loudest"] = "one"  # what 0 decibel is; loudest: of the sample
    range_db: NonNegativeFloat = 0.0  # levels further below the loudest are raised to there; 0: no limit
    coefficients: NonNegativeInt = 0  # 0: no cosine transform
    dct: Literal["ortho", "htk", "plain"] = "ortho"
    lifter: NonNegativeFloat = 0.0  # librosa's

    def __post_init__(self) -> None:
        top, bins = self.high_hz or self.rate_hz / 2, self.fft_points // 2 + 1
        wrong = {
            f"fft {self.fft} is less than window {self.window}": self.fft_points < self.window,
            f"bands from {self.low_hz:g} to {top:g} Hz do not lie within 0 to half of {self.rate_hz} Hz": not (
                self.low_hz < top <= self.rate_hz / 2
            ),
            "the logarithm of silence is infinite: give a floor or an offset": self.log != "none" and not self.offset + self.floor,
            "reference and range_db need log: decibel": self.log != "decibel" and (self.range_db or self.reference != "one"),
            f"{self.coefficients} coefficients need as many bands, and a log": self.coefficients
            and (self.coefficients > self.bands or self.log == "none"),
            f"first_bin {self.first_bin} of {bins} bins leaves none": self.first_bin >= bins,
            "lifter is of coefficients, and there are none": self.lifter and not self.coefficients,
        }
        if problems := [text for text, is_so in wrong.items() if is_so]:
            raise ValueError("; ".join(problems))

    @property
    def fft_points(self) -> int:
        return self.fft or self.window

    @property
    def frame_points(self) -> int:
        return self.window if self.frames_of == "window" else self.fft_points

    def __call__(self, x: Array) -> Array:
        if x.ndim != 3 or x.shape[-1] != 1 or x.dtype.kind != "f":
            raise DataError(
                f"sound of shape {x.shape[1:]} and type {x.dtype}; "
                "sound_features takes one channel of floats: put to_float before it"
            )
        if not x.shape[1]:
            raise DataError("0 points; sound_features needs a sound: send a longer recording, or pad")
        return np.stack([self._features(row) for row in x[..., 0]])

    def _features(self, sound: Array) -> Array:
        """(T,) → (frames, values)."""
        sound = self._padded(sound.astype(np.float64))
        if len(sound) < self.frame_points:
            raise DataError(f"{len(sound)} points; sound_features needs {self.frame_points}: send a longer recording, or pad")
        frames = np.lib.stride_tricks.sliding_window_view(sound, self.frame_points)[:: self.hop]
        shape = window_values(self.function, self.periodic, self.window)
        spare = self.frame_points - self.window
        shape = np.pad(shape, (spare // 2, spare - spare // 2))
        bands = self._mel_bands() if self.bands else None
        frame_emphasis = self.preemphasis if self.preemphasis_of == "frame" else 0.0
        block = max(1, BLOCK_VALUES // self.fft_points)
        made = []
        for start in range(0, len(frames), block):
            some = spectrum(frames[start : start + block], shape, self.fft_points, self.power, self.remove_mean, frame_emphasis)
            some = some if bands is None else some @ bands
            made.append(levels(some, self.log, self.power, self.offset, self.floor))
        values = self._ranged(np.concatenate(made))
        if self.coefficients:
            values = cepstrum(values, self.coefficients, self.dct, self.lifter)
        return values.astype(np.float32)

    def _mel_bands(self) -> Array:
        top = self.high_hz or self.rate_hz / 2
        return mel_bands(
            self.rate_hz, self.fft_points, self.bands, self.low_hz, top, self.mel, self.triangles, self.norm, self.first_bin
        )

    def _padded(self, sound: Array) -> Array:
        if self.preemphasis and self.preemphasis_of == "sound":
            sound = sound - self.preemphasis * np.concatenate([[0.0], sound[:-1]])
        side = self.fft_points // 2
        if self.centre == "no":
            return sound
        if self.centre == "reflect" and len(sound) <= side:
            raise DataError(f"{len(sound)} points; sound_features reflects {side}: send a longer recording, or pad")
        return np.pad(sound, side, mode="reflect" if self.centre == "reflect" else "constant")

    def _ranged(self, values: Array) -> Array:
        if self.reference == "loudest":
            values = values - values.max()
        return np.maximum(values, values.max() - self.range_db) if self.range_db else values

    def sizes(self, before: Sizes) -> Sizes:
        values = self.coefficients or self.bands or self.fft_points // 2 + 1
        if 0 not in before:
            return {1: values}
        points = before[0] + (0 if self.centre == "no" else 2 * (self.fft_points // 2))
        return {0: max(0, points - self.frame_points) // self.hop + 1, 1: values}
