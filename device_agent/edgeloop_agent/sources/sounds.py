"""Sound in files: WAV of every plain kind, FLAC where soundfile is installed; always (T, channels) of 16 bits, with its rate."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from edgeloop_contract.arrays import Array
from edgeloop_contract.errors import DataError, DeviceError

PCM, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE
NAMES = {2: "ADPCM", 6: "A-law", 7: "µ-law", 0x11: "IMA ADPCM", 0x55: "MP3", 0x31: "GSM"}
SUBFORMAT = bytes.fromhex("00001000800000aa00389b71")  # the rest of WAVE_FORMAT_EXTENSIBLE's code, after the format's number
UNKNOWN_BYTES = (0, 0xFFFFFFFF)  # written by programs that did not finish the header
REMEDY = "save it as 16-bit PCM"
MAX_CHANNELS = 64
MAX_SOUND_BYTES = 256 << 20


def read_sound(path: Path) -> tuple[Array, int]:
    """(T, channels) int16 and the rate in Hz. Raises DataError, and DeviceError where a library is missing."""
    return read_flac(path) if path.suffix.lower() == ".flac" else read_riff(path.read_bytes())


def read_wav(path: Path) -> Array:
    """(T, channels) int16 of a WAV file, without its rate."""
    return read_sound(path)[0]


def read_flac(path: Path) -> tuple[Array, int]:
    try:
        import soundfile
    except (ImportError, OSError) as error:  # OSError: the wheel is there, libsndfile is not
        raise DeviceError("reading FLAC needs soundfile: pip install 'edgeloop[sound]'") from error
    try:
        with soundfile.SoundFile(path) as file:
            rate = file.samplerate
            if file.frames * file.channels * 2 > MAX_SOUND_BYTES:  # silence may be packed a thousandfold
                raise DataError(
                    f"{file.frames} points of {file.channels} channels; at most {MAX_SOUND_BYTES} bytes are unpacked: cut it"
                )
            values = file.read(dtype="int16", always_2d=True)
    except soundfile.SoundFileError as error:
        raise DataError(f"no FLAC that can be read ({error})") from error
    return _not_empty(values), int(rate)


def read_riff(data: bytes) -> tuple[Array, int]:
    """The bytes of a WAV file."""
    if data[:4] in (b"RIFX", b"RF64", b"BW64"):
        raise DataError(f"{data[:4].decode()}, a large or big-endian kind of WAV; {REMEDY}")
    if data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        raise DataError("no WAV: it does not begin with RIFF and WAVE" if data else "the file is empty")
    header = sound = None
    for name, start, size in _chunks(data):
        if name == b"fmt " and header is None:
            header = data[start : start + size]
        elif name == b"data" and sound is None:
            sound = start, size
            if header is not None:
                break
    if header is None or sound is None or len(header) < 16:
        raise DataError("a WAV without its format or without sound; record it again")
    return _values(data, header, *sound)


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Name, beginning and length of each part. One of unknown length goes to the end."""
    at = 12
    while at + 8 <= len(data):
        name, size = struct.unpack_from("<4sI", data, at)
        at += 8
        if name == b"data" and size in UNKNOWN_BYTES:
            size = len(data) - at
        yield name, at, size
        at += size + size % 2


def _values(data: bytes, header: bytes, start: int, size: int) -> tuple[Array, int]:
    kind, channels, rate, _, frame, bits = struct.unpack_from("<HHIIHH", header)
    if kind == EXTENSIBLE and len(header) >= 40 and header[28:40] == SUBFORMAT:
        (kind,) = struct.unpack_from("<H", header, 24)
    width = frame // channels if channels else 0
    if not 1 <= channels <= MAX_CHANNELS or frame != width * channels:
        raise DataError(f"a WAV of {channels} channels in {frame} bytes: its head is damaged")
    if start + size > len(data):
        raise DataError(f"cut short: {len(data) - start} of {size} bytes of sound; copy or record it again")
    flat = _decoded(data[start : start + size // frame * frame], kind, width, bits)
    return _not_empty(flat.reshape(-1, channels)), rate


def _decoded(sound: bytes, kind: int, width: int, bits: int) -> Array:
    """Samples of `width` bytes as 16 bits: the upper ones of wider samples, all of narrower ones; floats are ±1."""
    if kind == FLOAT and width in (4, 8):
        floats = np.nan_to_num(np.frombuffer(sound, f"<f{width}"), nan=np.nan, posinf=1.0, neginf=-1.0)
        if np.isnan(floats).any():
            raise DataError("float sound with values that are no numbers; record it again")
        return np.asarray(np.clip(np.rint(floats * 32768.0), -32768, 32767).astype(np.int16))
    if kind != PCM or width not in (1, 2, 3, 4):
        named = NAMES.get(kind, f"format {kind}") if kind not in (PCM, FLOAT) else f"{bits}-bit samples"
        raise DataError(f"{named} in a WAV; {REMEDY}")
    raw = np.frombuffer(sound, np.uint8)
    if width == 1:  # the only unsigned one
        return np.asarray((raw.astype(np.int16) - 128) << 8)
    return raw.reshape(-1, width)[:, -2:].copy().view("<i2").ravel().astype(np.int16, copy=False)


def _not_empty(values: Array) -> Array:
    if not len(values):
        raise DataError("no sound in it: 0 points; record it again")
    return values
