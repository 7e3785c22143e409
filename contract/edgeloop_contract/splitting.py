"""Names of a model's parts on device and server, and codings of the boundary that crosses between them."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import io
import zlib
from typing import Any

import numpy as np

from edgeloop_contract.arrays import Array
from edgeloop_contract.errors import DataError, DeviceError
from edgeloop_contract.manifest import Coding

__all__ = [
    "DIGEST_LETTERS", "EXIT", "EXTENSION", "FILES", "INPUT", "from_file", "from_nibbles", "nibbles", "pack", "served_name",
    "server_codings",
]  # fmt: skip

PICTURES: tuple[Coding, ...] = ("jpeg", "webp")
FILES: tuple[Coding, ...] = (*PICTURES, "flac")  # each sample as a file of that kind
EXTENSION = "edgeloop_"  # of the protocol: a server lists the codings that it decodes with this prefix
INPUT = "input"  # the cut before the first layer: the server computes everything
EXIT = "exit"  # a head's output of early scores
JPEG_QUALITY = 90
WEBP: dict[str, Any] = {"lossless": True, "quality": 0, "method": 0}  # the fastest: a device packs it
FLAC_HZ, FLAC_MAGIC = 16_000, b"fLaC"  # the rate stands in the file's header only
DIGEST_LETTERS = 16
MAX_PIXELS = 64_000_000


def served_name(model: str, sha256: str, cut: str) -> str:
    """The name of a tail on a server. It contains the bundle's digest, so that a head never meets another version's tail."""
    return f"{model}.{sha256[:DIGEST_LETTERS]}.{cut}"


def pack(boundary: Array, coding: Coding) -> bytes:
    """One sample's tensor as it crosses. Raises DeviceError where a coding's library is missing."""
    if coding in PICTURES:
        return _picture(boundary, coding)
    if coding == "flac":
        return _sound(boundary)
    data = nibbles(boundary) if coding == "4bit" else boundary
    raw = np.ascontiguousarray(data).tobytes()
    return raw if coding == "raw" else zlib.compress(raw, 1)


def nibbles(boundary: Array) -> Array:
    """uint8 values (1, ...) rounded to 16 steps, two in a byte: (1, bytes)."""
    flat = (np.minimum(boundary.reshape(-1).astype(np.uint16) + 8, 255) >> 4).astype(np.uint8)
    if len(flat) % 2:
        flat = np.append(flat, np.uint8(0))
    return ((flat[0::2] << 4) | flat[1::2])[None]


def from_nibbles(packed: Array, shape: tuple[int, ...]) -> Array:
    """What `nibbles` packed, as uint8 of (N, *shape), each step at its middle. Raises DataError."""
    count = int(np.prod(shape))
    if packed.ndim != 2 or packed.shape[1] != (count + 1) // 2:
        raise DataError(f"a boundary in 4 bits of shape {packed.shape}; {(count + 1) // 2} bytes a sample are wanted")
    flat = np.stack([packed >> 4, packed & 15], axis=-1).reshape(len(packed), -1)[:, :count]
    return (flat << 4).reshape(len(packed), *shape)


def _picture(boundary: Array, coding: Coding) -> bytes:
    try:
        from PIL import Image
    except ImportError as error:
        raise DeviceError(f"{coding}: Pillow is not installed here; pip install 'edgeloop[images]'") from error
    out = io.BytesIO()
    options = WEBP if coding == "webp" else {"quality": JPEG_QUALITY}
    try:
        Image.fromarray(boundary[0].squeeze()).save(out, coding, **options)
    except (KeyError, OSError) as error:  # a Pillow that was built without the format
        raise DeviceError(f"{coding}: this Pillow cannot write it ({error}); install Pillow's own wheel") from error
    return out.getvalue()


def _sound(boundary: Array) -> bytes:
    out = io.BytesIO()
    _soundfile().write(out, boundary[0], FLAC_HZ, format="FLAC", subtype="PCM_16")
    return out.getvalue()


def _soundfile() -> Any:
    try:
        import soundfile
    except (ImportError, OSError) as error:  # OSError: libsndfile is not to be found
        raise DeviceError("flac: soundfile is not installed here; pip install 'edgeloop[sound]'") from error
    return soundfile


@functools.cache
def server_codings() -> tuple[Coding, ...]:
    """Codings beside raw and deflated tensors that can be decoded here. The first call imports their libraries."""
    known: list[Coding] = ["4bit"]
    if importlib.util.find_spec("PIL"):
        known += PICTURES
    with contextlib.suppress(DeviceError):
        _soundfile()
        known.append("flac")
    return tuple(known)


def from_file(data: bytes, coding: Coding, shape: tuple[int, ...]) -> Array:
    """What `pack` made of one sample, as (1, *shape). Raises DataError."""
    return _from_sound(data, shape) if coding == "flac" else _from_picture(data, coding, shape)


def _from_sound(data: bytes, shape: tuple[int, ...]) -> Array:
    soundfile = _soundfile()
    if not data.startswith(FLAC_MAGIC):  # the library reads many other formats, which no client may send
        raise DataError("not a FLAC file")
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            if file.frames != shape[0] or file.channels != int(np.prod(shape[1:])):
                raise DataError(f"{file.frames} values of sound in {file.channels} channels; the model takes {shape}")
            values = np.asarray(file.read(shape[0], dtype="int16"))
    except soundfile.LibsndfileError as error:
        raise DataError(f"not a sound: {error}") from error
    if values.size != int(np.prod(shape)):  # fewer than its header promises
        raise DataError("the sound ends too early")
    return values.reshape(1, *shape)


def _from_picture(data: bytes, coding: Coding, shape: tuple[int, ...]) -> Array:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=[coding.upper()]) as image:
            if image.width * image.height > MAX_PIXELS or (image.height, image.width) != shape[:2]:
                raise DataError(f"a picture of {image.width} × {image.height}; the model takes {shape[1]} × {shape[0]}")
            values = np.asarray(image.convert("L" if shape[-1] == 1 else "RGB"))
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"not a picture: {error}") from error
    return values.reshape(1, *shape)
