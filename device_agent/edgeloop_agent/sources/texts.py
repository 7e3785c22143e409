"""Texts: from .txt files, lines, and JSON objects {"text": …}."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import IO

from edgeloop_agent.sources import Recording
from edgeloop_agent.sources.json_records import json_record
from edgeloop_contract.errors import DataError
from edgeloop_contract.preprocessing.tokens import MAX_TEXT_BYTES, NULS

__all__ = ["TEXT_ENDINGS", "decoded", "is_text_file", "lines_of_file", "text_lines", "text_of_file", "text_of_line"]

TEXT_ENDINGS = frozenset((".txt",))
LINE_END = b"\n"


def is_text_file(path: Path) -> bool:
    return path.suffix.lower() in TEXT_ENDINGS


def decoded(content: bytes) -> str:
    """UTF-8, with or without a mark at its beginning. Raises DataError naming the line with other bytes, or with zero bytes."""
    if (zero := content.find(b"\0")) >= 0:
        raise DataError(f"line {content.count(LINE_END, 0, zero) + 1} {NULS}")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(f"line {line} is not UTF-8 (byte 0x{content[error.start]:02x}); save the file as UTF-8") from error


def text_of_file(path: Path) -> Recording:
    """A file as one text; `refused` says what is wrong with it."""
    try:
        if path.stat().st_size > MAX_TEXT_BYTES:
            return Recording(path.name, None, f"a text of more than {MAX_TEXT_BYTES} bytes; divide it")
        text = decoded(path.read_bytes())
    except DataError as error:
        return Recording(path.name, None, str(error))
    except OSError as error:
        return Recording(path.name, None, error.strerror or str(error))
    return Recording(path.name, None, text=text) if text.strip() else Recording(path.name, None, "the text is empty")


def lines_of_file(path: Path) -> Iterator[Recording]:
    """Each line of a .txt file that is not empty as a text. Raises DataError for a file that cannot be read."""
    try:
        with path.open("rb") as stream:
            yield from text_lines(stream)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error


def text_lines(stream: IO[bytes]) -> Iterator[Recording]:
    """Each line that is not empty as a text (`text_of_line`); longer ones than a text may be are refused."""
    number = 0
    while line := stream.readline(MAX_TEXT_BYTES + 1):
        number += 1
        name = f"line {number}"
        if len(line) > MAX_TEXT_BYTES and not line.endswith(b"\n"):
            while line and not line.endswith(b"\n"):
                line = stream.readline(MAX_TEXT_BYTES)
            yield Recording(name, None, f"longer than {MAX_TEXT_BYTES} bytes; divide it")
        elif line.strip():
            yield text_of_line(line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line, name)


def text_of_line(line: bytes, name: str) -> Recording:
    """The line itself, or the "text" of a JSON object; a line that begins with { and is no such object is refused."""
    if b"\0" in line:
        return Recording(name, None, NULS)
    try:
        text = line.decode().strip()
    except UnicodeDecodeError as error:
        return Recording(name, None, f"not UTF-8 (byte 0x{line[error.start]:02x}); send UTF-8")
    if not text.startswith("{"):
        return Recording(name, None, text=text)
    return json_record(text, name)
