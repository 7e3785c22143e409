"""Pictures in files as 8-bit counts: bit depth, palette, transparency, inks and orientation are converted."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from edgeloop_contract.arrays import Array
from edgeloop_contract.errors import DataError, DeviceError

MAX_PIXELS = 50_000_000  # Pillow, and the array made of it, take ten bytes for each
MANY_PAGES = ("TIFF", "WEBP", "PNG", "GIF")  # a JPEG's second picture is a preview
SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")
WHITE_IS_ZERO, PHOTOMETRIC, ORIENTATION = 0, 262, 274  # tags of TIFF and EXIF
GREY, COLOUR = ("1", "L", "LA", "La"), ("P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr")
REMEDY = "save it as grey or RGB, with 8 or 16 bits a channel"


def read_image(path: Path | BinaryIO) -> Array:
    """(H, W) of a grey picture, (H, W, 3) of a coloured one; uint8.

    16 bits are scaled to 8, palettes are looked up, what is transparent shows white, CMYK becomes RGB, and a picture is turned as
    its EXIF data say. Raises DataError for other kinds (floats, 32-bit integers, several pages).
    """
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise DeviceError("reading images needs Pillow: pip install 'edgeloop[images]'") from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about sizes and damaged EXIF data: what matters is refused below
        try:
            with Image.open(path) as image:
                _check(image)
                image.load()  # the orientation may be stored behind the pixels
                turned = image.getexif().get(ORIENTATION, 1) != 1
                return _pixels(ImageOps.exif_transpose(image) if turned else image, image)
        except Image.DecompressionBombError as error:
            raise DataError(f"more than {MAX_PIXELS:,} pixels; make it smaller") from error
        except Image.UnidentifiedImageError as error:
            raise DataError("no picture in a format that Pillow knows") from error


def _check(image: Any) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise DataError(f"{width}×{height} pixels; at most {MAX_PIXELS:,} are read: make it smaller")
    pages = getattr(image, "n_frames", 1)
    if pages > 1 and image.format in MANY_PAGES:
        raise DataError(f"{pages} pictures in one file; give each a file of its own")


def _pixels(image: Any, opened: Any) -> Array:
    """`opened`: the image before orientation, with the file's format and tags."""
    mode = image.mode
    if mode in SIXTEEN_BITS or (mode == "I" and opened.format in ("PNG", "PPM")):  # Pillow has 16-bit grey there
        upper = (np.asarray(image) >> 8).astype(np.uint8)
        tags = getattr(opened, "tag_v2", {})
        return np.asarray(255 - upper if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO else upper)
    if mode not in (*GREY, *COLOUR):
        named = {"F": "floats", "I": "32-bit integers"}.get(mode)
        why = f"a picture of {named}: nothing says which value is white" if named else f"a picture of the kind {mode!r}"
        raise DataError(f"{why}; {REMEDY}")
    if "A" in mode or "a" in mode or "transparency" in image.info:
        return _on_white(image, mode in GREY)
    wanted = "L" if mode in GREY else "RGB"
    return np.asarray(image if mode == wanted else image.convert(wanted))


def _on_white(image: Any, grey: bool) -> Array:
    from PIL import Image

    full = image.convert("RGBA")
    paper = Image.new("RGBA", full.size, "white")
    return np.asarray(Image.alpha_composite(paper, full).convert("L" if grey else "RGB"))
