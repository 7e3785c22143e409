"""Preprocessing that cannot be in the graph: a declarative list, with one implementation for training and device.

A recording is one array: (T, C) for a time series, (H, W, C) or (H, W) for an image, (T,) bytes for a text. The steps make
samples of it.
"""

from edgeloop_contract.preprocessing.log_mel import LogMel
from edgeloop_contract.preprocessing.pictures import (
    Bgr,
    CenterCrop,
    Colour,
    Grayscale,
    Letterbox,
    LetterboxGeometry,
    Resize,
    ResizeShorter,
    letterbox_geometry,
)
from edgeloop_contract.preprocessing.preparing import Prepared, dtype_after, prepare, sizes_after
from edgeloop_contract.preprocessing.series import Clip, Counts, FrameStack, Normalize, Pad, Reshape, Transpose, Window
from edgeloop_contract.preprocessing.sound import Resample, SoundFeatures, ToFloat
from edgeloop_contract.preprocessing.tokens import (
    TextOrArray,
    Tokenize,
    as_bytes,
    as_recording,
    takes_texts,
    text_or_array,
    with_files,
)

__all__ = [
    "Bgr", "CenterCrop", "Clip", "Colour", "Counts", "FrameStack", "Grayscale", "Letterbox", "LetterboxGeometry", "LogMel",
    "Normalize", "Pad", "Prepared", "Resample", "Reshape", "Resize", "ResizeShorter", "SoundFeatures", "Step", "TextOrArray",
    "ToFloat", "Tokenize", "Transpose", "Window", "as_bytes", "as_recording", "dtype_after", "letterbox_geometry", "prepare",
    "sizes_after", "takes_texts", "text_or_array", "with_files",
]  # fmt: skip

Step = (
    Window | Pad | Counts | LogMel | Grayscale | Colour | Resize | ResizeShorter | Letterbox | CenterCrop | Bgr | Normalize | Clip
    | ToFloat | Resample | SoundFeatures | FrameStack | Transpose | Reshape | Tokenize
)  # fmt: skip
