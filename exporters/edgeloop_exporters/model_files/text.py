"""Texts from strangers' files: bounded, and without control characters."""

from __future__ import annotations

import ast
import json
import re
from typing import Any

__all__ = ["MAX_LABELS", "MAX_TEXT", "clean", "label_lines", "labels_in", "parsed"]

MAX_TEXT = 2000  # characters of a description, licence …
MAX_LABEL = 200
MAX_LABELS = 100_000
MAX_PARSED = 4 << 20  # characters of JSON, or of a Python literal
NUMBERED = re.compile(r"(\d+)[ \t,:;]+(.*\S)")


def clean(text: str, most: int = MAX_TEXT) -> str:
    """At most `most` characters: white space as one space each, nothing that does not print (controls, directions, surrogates)."""
    words = " ".join(text[: 4 * most].split())
    return "".join(c for c in words if c.isprintable())[:most].strip()


def label_lines(text: str, plain: bool = False) -> tuple[str, ...]:
    """A label file: one label a line, or `number label` where the numbers count from 0, or the JSON that `labels_in` knows.

    `plain`: one label a line and nothing else, as edgeloop writes it: "0 fingers" is a label too.
    """
    start = text.lstrip("\ufeff \t\r\n")
    if not plain and start.startswith(("[", "{")) and parsed(start) is not None:
        return labels_in(start)
    lines = [line.strip() for line in text.removeprefix("\ufeff").splitlines()[:MAX_LABELS]]
    while lines and not lines[-1]:
        lines.pop()
    numbered = [NUMBERED.fullmatch(line) for line in lines]
    if not plain and all(match and int(match[1][:9]) == i for i, match in enumerate(numbered)):
        return tuple(clean(match[2], MAX_LABEL) for match in numbered if match)
    return tuple(clean(line, MAX_LABEL) for line in lines)


def labels_in(value: Any) -> tuple[str, ...]:
    """Labels in a list, in {number: label} or {label: number}, or in the JSON or Python text of one; () if it is none of them."""
    value = parsed(value) if isinstance(value, str) else value
    if isinstance(value, dict):
        value = _by_number(value)
    if not isinstance(value, (list, tuple)) or not 0 < len(value) <= MAX_LABELS:
        return ()
    plain = all(isinstance(v, (str, int, float)) for v in value)
    return tuple(clean(str(v), MAX_LABEL) for v in value) if plain else ()


def _by_number(table: dict[Any, Any]) -> list[Any]:
    try:
        if all(isinstance(v, int) for v in table.values()) and not all(str(k).isdigit() for k in table):
            table = {v: k for k, v in table.items()}
        pairs = sorted((int(k), v) for k, v in table.items())
    except (ValueError, TypeError):
        return []
    return [v for _, v in pairs] if [k for k, _ in pairs] == list(range(len(pairs))) else []


def parsed(text: str) -> Any:
    """The value of a JSON text or a Python literal (numbers, texts, lists, dictionaries; nothing is run); None if it is neither."""
    if len(text) > MAX_PARSED:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return None
