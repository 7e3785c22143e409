"""Finds pictures by the names that annotations have, and splits by the names of files and folders."""

from __future__ import annotations

import os
import re
import unicodedata
from pathlib import Path

from edgeloop_agent.sources.tables import BOMS, as_text
from edgeloop_contract.errors import DataError
from edgeloop_pipeline.data.datasets.scanning import SPLITS, is_hidden, kind_of

__all__ = ["Pictures", "beginning_of", "split_of", "text_of", "visible"]

MAX_FILES = 1_000_000


def visible(root: Path) -> list[Path]:
    """Every file below the folder that is not hidden, sorted."""
    found: list[Path] = []
    for where, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        found += [Path(where, name) for name in sorted(names) if not is_hidden(name)]
        if len(found) > MAX_FILES:
            break
    return found


def split_of(path: Path) -> str:
    """The split that a file's name says (instances_val2017.json), else its nearest folder's name; "" for none."""
    for text in (path.stem, *reversed(path.parts[:-1])):
        words = [word for word in re.split(r"[^a-z]+", text.lower()) if word]
        known = [SPLITS[word] for word in words if word in SPLITS]
        if known:
            return known[-1]
    return ""


class Pictures:
    """The pictures below a folder (or recordings of these `kinds`), by their names, which seldom are paths of this machine."""

    def __init__(self, root: Path, kinds: tuple[str, ...] = ("pictures",)) -> None:
        self.root = root
        self.all = [path for path in visible(root) if kind_of(path) in kinds]
        self._by_name: dict[str, list[Path]] = {}
        self._by_stem: dict[str, list[Path]] = {}
        for path in self.all:
            self._by_name.setdefault(_composed(path.name), []).append(path)
            self._by_stem.setdefault(_composed(path.stem), []).append(path)

    def has(self, name: str) -> bool:
        """Whether there is one of this name, with or without its ending."""
        plain = Path(_composed(name.replace("\\", "/")))
        return bool(self._by_name.get(plain.name) or self._by_stem.get(plain.stem if kind_of(plain) else plain.name))

    def named(self, name: str, near: Path, prefer: str = "") -> Path:
        """The picture of this name or path: beside the annotation, below the root, or the one of that name in the split `prefer`.

        Where there is none, the path where it should be.
        """
        plain = Path(name.replace("\\", "/"))
        for place in (near / plain, self.root / plain):
            if not plain.is_absolute() and place.is_file():
                return place
        own = Path(_composed(plain.as_posix()))
        there = self._by_name.get(own.name) or self._by_stem.get(own.stem if own.suffix else own.name) or []
        ending = [path for path in there if _composed(path.as_posix()).endswith(f"/{own.as_posix()}")]
        of_split = [path for path in ending or there if prefer and split_of(path) == prefer]
        chosen = of_split or ending or there
        return chosen[0] if chosen else near / plain.name


def _composed(name: str) -> str:
    """One form of a name: macOS writes an ü as two characters, lists as one."""
    return unicodedata.normalize("NFC", name)


def beginning_of(head: bytes) -> str:
    """The first bytes of a file as text, for a look at it: UTF-16 by its mark, as `text_of` reads it."""
    coding = next((coding for mark, coding in BOMS if head.startswith(mark)), "utf-8")
    return head.decode(coding, "replace")


def text_of(path: Path) -> str:
    """A whole file: UTF-8, UTF-16 by its mark, or Latin-1, as tables are read. Raises DataError for what is no text."""
    try:
        return as_text(path.read_bytes())
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); restore it") from error
