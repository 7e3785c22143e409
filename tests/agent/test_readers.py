"""Files as the world writes them: pictures of every pixel format, tables of every spreadsheet; and what is none of these."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeloop_agent.sources.pictures import MAX_PIXELS
from edgeloop_agent.sources.readers import READERS, read

GREY = np.add.outer(np.arange(40) * 3, np.arange(30) * 4).astype(np.uint8)
COLOUR = np.stack([GREY, GREY[::-1], 255 - GREY], axis=-1)
WHITE_IS_ZERO = {262: 0}


def palette(grey: np.ndarray) -> Image.Image:
    image = Image.fromarray(255 - grey, "L").convert("P")
    image.putpalette([v for i in range(256) for v in (255 - i,) * 3])
    return image


def saved(tmp_path: Path, image: Image.Image, ending: str, **options: object) -> np.ndarray:
    path = tmp_path / f"a.{ending}"
    image.save(path, **options)
    found = read(path)
    assert found.values is not None, found.refused
    assert found.values.dtype == np.uint8
    return found.values


SIXTEEN = GREY.astype(np.uint16) * 257
OPAQUE = np.full_like(GREY, 255)
FORMATS: dict[str, tuple[Callable[[], Image.Image], str, np.ndarray, int]] = {
    "8 bits": (lambda: Image.fromarray(GREY), "png", GREY, 0),
    "16-bit PNG": (lambda: Image.fromarray(SIXTEEN), "png", GREY, 0),
    "16-bit PGM": (lambda: Image.fromarray(SIXTEEN.astype(np.int32)), "pgm", GREY, 0),
    "16-bit TIFF": (lambda: Image.fromarray(SIXTEEN), "tif", GREY, 0),
    "16 bits, shifted": (lambda: Image.fromarray(GREY.astype(np.uint16) << 8), "png", GREY, 0),
    "1 bit": (lambda: Image.fromarray(GREY > 100), "png", np.where(GREY > 100, 255, 0), 0),
    "1-bit TIFF": (lambda: Image.fromarray(GREY > 100), "tiff", np.where(GREY > 100, 255, 0), 0),
    "palette of greys": (lambda: palette(GREY), "png", GREY[..., None].repeat(3, 2), 0),
    "grey and alpha": (lambda: Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(OPAQUE)]), "png", GREY, 0),
    "colour": (lambda: Image.fromarray(COLOUR), "png", COLOUR, 0),
    "colour and alpha": (lambda: Image.fromarray(np.dstack([COLOUR, OPAQUE])), "png", COLOUR, 0),
    "CMYK JPEG": (lambda: Image.fromarray(COLOUR).convert("CMYK"), "jpg", COLOUR, 12),
    "CMYK TIFF": (lambda: Image.fromarray(COLOUR).convert("CMYK"), "tiff", COLOUR, 1),
    "webp": (lambda: Image.fromarray(COLOUR), "webp", COLOUR, 12),
    "PPM": (lambda: Image.fromarray(COLOUR), "ppm", COLOUR, 0),
}


@pytest.mark.parametrize("name", FORMATS)
def test_pictures_are_read_as_they_are_meant(name: str, tmp_path: Path) -> None:
    make, ending, expected, error = FORMATS[name]
    found = saved(tmp_path, make(), ending, **({"quality": 98} if ending in ("jpg", "webp") else {}))
    assert found.shape == expected.shape and np.abs(found.astype(int) - expected).mean() <= error


def test_white_may_be_zero(tmp_path: Path) -> None:
    values = (65535 - SIXTEEN).tobytes()
    tags = [(256, 4, 30), (257, 4, 40), (258, 3, 16), (259, 3, 1), (262, 3, 0), (273, 4, 8), (278, 4, 40), (279, 4, len(values))]
    head = struct.pack("<2sHI", b"II", 42, 8 + len(values))
    table = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", t, k, 1, v) for t, k, v in tags) + bytes(4)
    (tmp_path / "a.tif").write_bytes(head + values + table)
    found = read(tmp_path / "a.tif")
    assert found.values is not None and np.array_equal(found.values, GREY), found.refused


def test_what_is_transparent_shows_white_whatever_lies_under_it(tmp_path: Path) -> None:
    shape = (GREY > 100).astype(np.uint8) * 255
    black = np.dstack([np.zeros_like(COLOUR), shape])
    expected = (255 - shape)[..., None].repeat(3, 2)
    assert np.array_equal(saved(tmp_path, Image.fromarray(black), "png"), expected)
    both = Image.merge("LA", [Image.fromarray(np.zeros_like(GREY)), Image.fromarray(shape)])
    assert np.array_equal(saved(tmp_path, both, "png"), 255 - shape)
    assert np.array_equal(saved(tmp_path, Image.fromarray(np.zeros_like(GREY)), "png", transparency=0), np.full_like(GREY, 255))


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tif"])
def test_a_camera_held_on_its_side(ending: str, tmp_path: Path) -> None:
    turned = Image.fromarray(COLOUR).transpose(Image.Transpose.ROTATE_90)  # 6: to be turned by 90° clockwise
    exif = Image.Exif()
    exif[0x0112] = 6
    options = {"quality": 98} if ending in ("jpg", "webp") else {}
    found = saved(tmp_path, turned, ending, exif=exif, **options)
    assert found.shape == COLOUR.shape and np.abs(found.astype(int) - COLOUR).mean() < 12


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, data: bytes = b"") -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", data or zlib.compress(bytes(50))) + chunk(b"IEND", b"")


def tiff_of(image: Image.Image, *more: Image.Image) -> Callable[[Path], None]:
    return lambda path: image.save(path, format="TIFF", save_all=True, append_images=more)


BAD: dict[str, tuple[str, bytes | Callable[[Path], object], str]] = {
    "200 megapixels": ("png", png(20000, 10000), "pixels"),
    "between the two limits": ("png", png(7200, 7000), f"at most {MAX_PIXELS:,}"),
    "a broken chunk": ("png", png(40, 40)[:60] + b"\0\0" + png(40, 40)[61:], ""),
    "a cut picture": ("jpg", b"\xff\xd8\xff\xe0\0\x10JFIF", ""),
    "no picture": ("png", b"hello", "no picture in a format"),
    "floats": ("tif", tiff_of(Image.fromarray(GREY.astype(np.float32) / 255)), "a picture of floats"),
    "32-bit integers": ("tif", tiff_of(Image.fromarray(GREY.astype(np.int32) * 1000)), "32-bit integers"),
    "two pages": ("tif", tiff_of(Image.fromarray(GREY), Image.fromarray(GREY)), "2 pictures in one file"),
    "empty picture": ("webp", b"", "the file is empty"),
    "empty array": ("npy", b"", "the file is empty"),
    "an array's head alone": ("npy", b"\x93NUMPY\x01\x00v\x00{'descr': '<f8', 'fortran_order': False, 'shape': (", ""),
    "an array larger than memory": ("npy", b"\x93NUMPY\x01\x00v\x00" + b"{'descr': '<f8', 'fortran_order': False, 'shape': (9999999999999, 9), }".ljust(117) + b"\n", ""),
    "deep nesting": ("npy", b"\x93NUMPY\x01\x00\x90\x10" + b"(" * 0x1090, ""),
    "pickled": ("npy", lambda path: np.save(path, np.array([{}], dtype=object)), "pickle"),
    "several arrays": ("npy", lambda path: (np.savez(path.with_suffix(".npz"), a=GREY), path.with_suffix(".npz").rename(path)), "several arrays"),
    "bytes in a table": ("csv", b"\0\x01\x02" * 9, "zero bytes"),
    "half UTF-16": ("csv", b"\xff\xfe1\0,", "UTF-16"),
    "words in a table": ("csv", b"a,b\n1,2\n1,x\n", "row 2, column 2: 'x' is not a number"),
    "a lone header": ("csv", b"a,b\n", "no rows of numbers"),
    "grouped digits": ("csv", b"1,2\n1_000,2\n", "'1_000' is not a number"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_read_is_one_refusal(name: str, tmp_path: Path) -> None:
    ending, content, said = BAD[name]
    path = tmp_path / f"a.{ending}"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        content(path)
    found = read(path)
    assert found.values is None and found.refused and said in found.refused, found


def test_whatever_a_reader_raises_is_one_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Odd(Exception):
        pass

    (tmp_path / "a.csv").write_text("1,2\n")
    for error in (
        Odd("what"),
        struct.error("short"),
        MemoryError(),
        RecursionError(),
        KeyError("x"),
        OSError(5, "I/O error"),
        AssertionError(),
    ):

        def fails(path: Path, error: Exception = error) -> np.ndarray:
            raise error

        monkeypatch.setitem(READERS, ".csv", fails)
        assert read(tmp_path / "a.csv").values is None and read(tmp_path / "a.csv").refused


TABLE = [[1.5, -2.0, 30.0], [float("nan"), 0.25, 4e-3], [7.0, 8.0, 9.0]]
TABLES = {
    "commas": b"x,y,z\n1.5,-2,30\n,0.25,4e-3\n7,8,9\n",
    "no header": b"1.5,-2,30\n,0.25,4e-3\n7,8,9\n",
    "semicolons": b"x;y;z\n1.5;-2;30\n;0.25;4e-3\n7;8;9\n",
    "decimal commas": b"x;y;z\n1,5;-2;30,0\n;0,25;4e-3\n7;8;9\n",
    "tabs": b"x\ty\tz\n1,5\t-2\t30\nNA\t0,25\t4e-3\n7\t8\t9\n",
    "a byte order mark": b"\xef\xbb\xbfx,y,z\r\n1.5,-2,30\r\nNaN,0.25,4e-3\r\n7,8,9\r\n",
    "a mark and no header": b"\xef\xbb\xbf1.5,-2,30\n,0.25,4e-3\n7,8,9\n",
    "Latin-1": "Höhe,b,°C\n1.5,-2,30\n?,0.25,4e-3\n7,8,9\n".encode("latin-1"),
    "UTF-16": "x;y;z\n1,5;-2;30\nnull;0,25;4e-3\n7;8;9\n".encode("utf-16"),
    "carriage returns alone": b"x,y,z\r1.5,-2,30\r,0.25,4e-3\r7,8,9\r",
    "empty lines": b"\n\nx,y,z\n\n1.5,-2,30\n\n,0.25,4e-3\n7,8,9\n\n",
    "quotes": b'"x","y","z"\n"1.5","-2","30"\n"","0.25","4e-3"\n7,8,9\n',
}  # fmt: skip


@pytest.mark.parametrize("name", TABLES)
def test_tables_of_every_spreadsheet(name: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(TABLES[name])
    found = read(tmp_path / "a.csv")
    assert found.values is not None, found.refused
    assert np.array_equal(found.values, TABLE, equal_nan=True)
