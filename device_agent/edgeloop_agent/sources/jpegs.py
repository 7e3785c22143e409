"""JPEG pictures one after the other in a stream of bytes, and their decoding, both with bounds. Needs Pillow (`images`)."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator

from edgeloop_agent.sources.pictures import read_image
from edgeloop_contract.arrays import Array
from edgeloop_contract.errors import DataError, DeviceError

__all__ = ["JpegSplitter", "TooLarge", "decoded", "needs_pillow"]

START, SCAN, END = b"\xff\xd8", 0xDA, 0xD9
ALONE = (0x01, *range(0xD0, 0xD8))  # markers without a length: TEM, and the restarts inside a scan
IN_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.S)  # of compressed values: a mark that is neither a value nor a restart
LENGTH_BYTES = 4  # of a marker and its length


def needs_pillow() -> None:
    """Raises DeviceError where Pillow is missing."""
    try:
        import PIL  # noqa: F401
    except ImportError as error:
        raise DeviceError("pictures of such a camera need Pillow: pip install 'edgeloop[images]'") from error


def decoded(data: bytes, max_pixels: int) -> Array:
    """(H, W, 3) or (H, W) uint8. Raises DataError for what is damaged, cut short, no JPEG, or larger than `max_pixels`."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its size: it is looked at here
            with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:  # reads the head alone
                width, height = image.size
        if width * height > max_pixels:
            raise DataError(f"a picture of {width}×{height} pixels; source.camera.max_pixels is {max_pixels}")
        return read_image(io.BytesIO(data))
    except Image.DecompressionBombError as error:
        raise DataError(f"a picture of far more pixels than source.camera.max_pixels, {max_pixels}") from error
    except (OSError, SyntaxError, ValueError) as error:  # Pillow's words for damage
        raise DataError(f"a damaged JPEG ({str(error)[:100]})") from error


class TooLarge(Exception):
    """A picture, or what lies between two, is larger than the bound."""


class JpegSplitter:
    """Cuts a stream into JPEGs by their markers: a preview inside of one does not end it. At most `max_bytes` are kept."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._data = bytearray()
        self._at = 0  # where the next marker is looked for; 0: no picture has begun
        self._in_scan = False

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Every picture that is whole now. Raises TooLarge."""
        self._data += chunk
        while self._begin() and (end := self._end()):
            picture = bytes(self._data[:end])
            del self._data[:end]
            self._at, self._in_scan = 0, False
            yield picture
        if len(self._data) > self._max_bytes:
            raise TooLarge(f"a JPEG of more than {self._max_bytes} bytes; raise source.camera.max_bytes, or lower its size")

    @property
    def has_begun(self) -> bool:
        """Whether a part of the next picture is there."""
        return self._at > 0

    def _begin(self) -> bool:
        """Whether the data begin with a picture; what lies before one is left out."""
        if self._at:
            return True
        start = self._data.find(START)
        if start < 0:
            del self._data[: max(0, len(self._data) - 1)]  # the last byte may be the first of a mark
            return False
        del self._data[:start]
        self._at = len(START)
        return True

    def _end(self) -> int:
        """Where the picture ends; 0 while its end is not there."""
        data = self._data
        while self._at < len(data):
            if not self._in_scan and data[self._at] != 0xFF:  # damaged: what follows up to the next picture is its own
                return max(0, data.find(START, len(START)))
            if self._in_scan:
                found = IN_SCAN.search(data, self._at)
                if found is None:
                    self._at = max(self._at, len(data) - 1)  # the last byte may be the first of a mark
                    return 0
                self._at = found.start()
            if self._at + 1 >= len(data):
                return 0
            marker = data[self._at + 1]
            if marker == END:
                return self._at + 2
            if marker == 0xFF:  # filling
                self._at += 1
            elif marker in ALONE:
                self._at += 2
            elif self._at + LENGTH_BYTES > len(data):
                return 0
            else:
                self._in_scan = marker == SCAN
                self._at += 2 + max(2, int.from_bytes(data[self._at + 2 : self._at + LENGTH_BYTES], "big"))
        return 0
