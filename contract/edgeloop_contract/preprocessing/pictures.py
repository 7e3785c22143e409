"""Steps for pictures: (height, width, channels), 8 bits unless a step says otherwise."""

from typing import Annotated, ClassVar

import msgspec
import numpy as np

from edgeloop_contract.arrays import Array
from edgeloop_contract.errors import DataError
from edgeloop_contract.preprocessing.base import Sizes, StepBase, picture
from edgeloop_contract.preprocessing.resizing import BLOCK_VALUES, Method, OutputDtype, resized
from edgeloop_contract.settings import PositiveInt

__all__ = [
    "Bgr", "CenterCrop", "Colour", "Grayscale", "Letterbox", "LetterboxGeometry", "Resize", "ResizeShorter", "letterbox_geometry",
]  # fmt: skip
MAX_SIDE = 1 << 16  # of a picture that resize_shorter makes


class Grayscale(StepBase, frozen=True, tag="grayscale"):
    """Colour to one channel with the luma weights of ITU-R BT.601, in integers; one-channel images pass."""

    makes: ClassVar[str] = "uint8"

    def __call__(self, x: Array) -> Array:
        if x.ndim == 3:
            return x[..., None]
        if x.shape[-1] == 1:
            return x
        if x.shape[-1] not in (3, 4):
            raise DataError(f"{x.shape[-1]} channels; grayscale takes 1, 3 (RGB) or 4 (RGBA)")
        made = np.empty((*x.shape[:-1], 1), np.uint8)
        block = max(1, BLOCK_VALUES // max(1, x[:, :1].size))
        for start in range(0, x.shape[1], block):
            part = x[:, start : start + block].astype(np.uint32)
            luma = part[..., 0] * 299 + part[..., 1] * 587 + part[..., 2] * 114
            made[:, start : start + block, ..., 0] = (luma + 500) // 1000
        return made

    def sizes(self, before: Sizes) -> Sizes:
        return before | {2: 1}


class Colour(StepBase, frozen=True, tag="colour"):
    """Three channels: a grey picture three times over, of one with transparency the colours; colour pictures pass."""

    makes: ClassVar[str] = "uint8"

    def __call__(self, x: Array) -> Array:
        image = x[..., None] if x.ndim == 3 else x
        if image.ndim != 4 or image.shape[-1] not in (1, 3, 4):
            raise DataError(f"an array of shape {x.shape[1:]}; colour takes pictures of 1, 3 (RGB) or 4 (RGBA) channels")
        return np.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else image[..., :3]

    def sizes(self, before: Sizes) -> Sizes:
        return before | {2: 3}


class Bgr(StepBase, frozen=True, tag="bgr"):
    """Red, green, blue to blue, green, red: for models that were trained on pictures as OpenCV reads them."""

    def __call__(self, x: Array) -> Array:
        if x.ndim != 4 or x.shape[-1] != 3:
            raise DataError(f"an array of shape {x.shape[1:]}; bgr takes pictures of 3 channels: put colour before it")
        return np.ascontiguousarray(x[..., ::-1])

    def sizes(self, before: Sizes) -> Sizes:
        return before | {2: 3}


class Resize(StepBase, frozen=True, tag="resize"):
    """Resize to height × width, the aspect not kept; half-pixel centres.

    Without `antialias`: bilinear as OpenCV, torch and tf.image.resize, bicubic as OpenCV and torch (a = −0.75). With it: as
    Pillow, and torchvision on Pillow's pictures (bicubic a = −0.5). nearest is Pillow's, with and without it.
    `dtype`: of the result; float32 is not rounded, as tf.image.resize gives it.
    """

    height: PositiveInt
    width: PositiveInt
    method: Method = "bilinear"
    antialias: bool = False
    dtype: OutputDtype = "uint8"

    def __call__(self, x: Array) -> Array:
        return resized(picture(x, "resize"), self.height, self.width, self.method, self.antialias, self.dtype)

    def sizes(self, before: Sizes) -> Sizes:
        return before | {0: self.height, 1: self.width}


class ResizeShorter(StepBase, frozen=True, tag="resize_shorter"):
    """Resize the shorter side to `size`, the aspect kept: the longer side is size × longer / shorter, cut off.

    That is torchvision's Resize(size) of a Pillow picture, which antialiases. Other fields as in `Resize`.
    """

    size: PositiveInt
    method: Method = "bilinear"
    antialias: bool = True
    dtype: OutputDtype = "uint8"

    def __call__(self, x: Array) -> Array:
        height, width = picture(x, "resize_shorter").shape[1:3]
        tall, wide = self.made(height, width)
        return resized(x, tall, wide, self.method, self.antialias, self.dtype)

    def made(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of what it makes of a picture of `height` × `width` pixels. Raises DataError where that is too long."""
        longer = self.size * max(height, width) // min(height, width)
        if longer > MAX_SIDE:
            raise DataError(
                f"a picture of {height} × {width} would become {longer} pixels long; at most {MAX_SIDE} are made: crop it"
            )
        return (longer, self.size) if height > width else (self.size, longer)

    def sizes(self, before: Sizes) -> Sizes:
        return {axis: size for axis, size in before.items() if axis > 1}


class CenterCrop(StepBase, frozen=True, tag="center_crop"):
    """The middle of a picture, as torchvision's CenterCrop: a smaller picture gets a border of zeros."""

    height: PositiveInt
    width: PositiveInt

    def __call__(self, x: Array) -> Array:
        tall, wide = picture(x, "center_crop").shape[1:3]
        spare = [(0, 0), _border(self.height - tall), _border(self.width - wide), (0, 0)]
        x = np.pad(x, spare) if any(map(any, spare)) else x
        top, left = (round((have - want) / 2) for have, want in zip(x.shape[1:3], (self.height, self.width), strict=True))
        return np.ascontiguousarray(x[:, top : top + self.height, left : left + self.width])

    def sizes(self, before: Sizes) -> Sizes:
        return before | {0: self.height, 1: self.width}


def _border(lacking: int) -> tuple[int, int]:
    return (lacking // 2, lacking - lacking // 2) if lacking > 0 else (0, 0)


class Letterbox(StepBase, frozen=True, tag="letterbox"):
    """Scale a picture to fit height × width with its aspect kept, put it in the middle and fill the border, as YOLO exporters do.

    `fill`: the border's count in every channel. `method` and `antialias` as in `Resize`. Boxes are mapped back by
    `letterbox_geometry`.
    """

    makes: ClassVar[str] = "uint8"

    height: PositiveInt
    width: PositiveInt
    fill: Annotated[int, msgspec.Meta(ge=0, le=255)] = 114
    method: Method = "bilinear"
    antialias: bool = False

    def __call__(self, x: Array) -> Array:
        place = letterbox_geometry(picture(x, "letterbox").shape[1], x.shape[2], self)
        scaled = resized(x, place.height, place.width, self.method, self.antialias, "uint8")
        made = np.full((len(x), self.height, self.width, x.shape[3]), self.fill, np.uint8)
        made[:, place.top : place.top + place.height, place.left : place.left + place.width] = scaled
        return made

    def sizes(self, before: Sizes) -> Sizes:
        return before | {0: self.height, 1: self.width}


class LetterboxGeometry(msgspec.Struct, frozen=True):
    """Where a picture lies in its letterbox, in pixels: a box's x in the picture is (x − left) / scale, its y (y − top) / scale."""

    scale: float
    top: int
    left: int
    height: int
    width: int


def letterbox_geometry(height: int, width: int, step: Letterbox) -> LetterboxGeometry:
    """Where `step` puts a picture of `height` × `width` pixels."""
    if height < 1 or width < 1:
        raise DataError(f"a picture of {height} × {width} pixels; letterbox takes one pixel or more")
    scale = min(step.height / height, step.width / width)
    tall, wide = max(1, round(height * scale)), max(1, round(width * scale))
    top, left = (round((want - have) / 2 - 0.1) for want, have in ((step.height, tall), (step.width, wide)))
    return LetterboxGeometry(scale, top, left, tall, wide)
