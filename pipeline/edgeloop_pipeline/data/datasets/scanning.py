"""Finds which files of a folder are recordings of which class, and which are left out and why."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from edgeloop_agent.sources.readers import READERS, SOUND
from edgeloop_contract.errors import DataError

SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
SERIES = (".csv", ".tsv", ".npy")
MAX_WRAPPERS = 4


def kind_of(path: Path) -> str:
    """ "pictures", "sound" or "series"; '' for other files."""
    ending = path.suffix.lower()
    if ending not in READERS:
        return ""
    return "sound" if ending in SOUND else "series" if ending in SERIES else "pictures"


@dataclass(frozen=True)
class File:
    """A recording's file. `split`: '' without split folders."""

    label: str
    split: str
    path: Path


@dataclass(frozen=True)
class Scan:
    """The result of a scan. `root`: the folder with the class or split folders. `left_out`: reason → number of files."""

    root: Path
    kind: str
    files: tuple[File, ...]
    left_out: dict[str, int]
    empty: tuple[str, ...] = ()  # classes without a readable file

    @property
    def split_names(self) -> set[str]:
        return {file.split for file in self.files} - {""}


def scan(root: Path, kind: str = "") -> Scan:
    """Scan a folder of class folders. `kind`: the kind of files to use; '' is the most common. Raises DataError."""
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; correct the path in data.py")
    left: Counter[str] = Counter()
    root = _unwrapped(root)
    trees = {folder: _files(folder, left) for folder in _folders(root, left)}
    sides = _split_folders(trees)
    found: list[File] = []
    labels: set[str] = set()
    for folder, paths in trees.items():
        if sides and folder not in sides:
            left[f"in {folder.name}/, beside the split folders"] += len(paths)
            continue
        for path in paths:
            parts = path.relative_to(folder).parts
            if sides and len(parts) == 1:
                left[f"in {folder.name}/, in no class folder"] += 1
                continue
            label = parts[0] if sides else folder.name
            inner = "" if sides or len(parts) == 1 else SPLITS.get(parts[0].lower(), "")
            found.append(File(label, sides.get(folder, inner), path))
        labels |= {p.name for p in _folders(folder, Counter())} if sides else {folder.name}
    if any(not file.split for file in found):  # a folder train/ in only some classes is no split
        found = [File(f.label, f.split if sides else "", f.path) for f in found]
    kept, kind = _of_one_kind(found, kind, left)
    _check_names({file.label for file in kept})
    return Scan(root, kind, kept, dict(left), tuple(sorted(labels - {file.label for file in kept})))


def _check_names(labels: set[str]) -> None:
    """Check that the classes' names are valid text, for recipe and bundle. Raises DataError."""
    wrong = sorted(label for label in labels if any(unicodedata.category(c) in ("Cc", "Cs") for c in label))
    if wrong:
        names = ", ".join(os.fsencode(label).decode("utf-8", "backslashreplace") for label in wrong)
        names = "".join(repr(c)[1:-1] if unicodedata.category(c) == "Cc" else c for c in names)
        raise DataError(f"names of class folders are not plain UTF-8 text: {names}; rename them")


def is_hidden(name: str) -> bool:
    return name.startswith((".", "__MACOSX")) or name == "__pycache__"


def _unwrapped(root: Path) -> Path:
    """The root below folders with nothing but one folder, as unpacked archives often have them."""
    for _ in range(MAX_WRAPPERS):
        inside = [p for p in root.iterdir() if not is_hidden(p.name)]
        folders = [p for p in inside if p.is_dir()]
        if len(folders) != 1 or any(kind_of(p) for p in inside) or folders[0].name.lower() in SPLITS:
            return root
        below = [p for p in folders[0].iterdir() if p.is_dir() and not is_hidden(p.name)]
        if len(below) < 2 and not (below and below[0].is_dir() and any(p.is_dir() for p in below[0].iterdir())):
            return root
        root = folders[0]
    return root


def _folders(root: Path, left: Counter[str]) -> list[Path]:
    """The visible folders; files beside them, and hidden folders, are counted in `left`."""
    found = []
    for path in sorted(root.iterdir()):
        if path.is_dir() and not is_hidden(path.name):
            found.append(path)
        elif path.is_dir():
            left[f"in {path.name}/"] += sum(len(names) for _, _, names in os.walk(path))
        else:
            left[_why(path.name) or "in no class folder"] += 1
    return found


def _files(folder: Path, left: Counter[str]) -> list[Path]:
    """Every readable file below the folder; the others are counted by their reason in `left`."""
    found = []
    for where, folders, names in os.walk(folder):
        for name in [name for name in folders if is_hidden(name)]:
            folders.remove(name)
            left[f"in {name}/"] += sum(len(inside) for _, _, inside in os.walk(Path(where, name)))
        for name in names:
            why = _why(name)
            if why:
                left[why] += 1
            elif Path(where, name).is_file():
                found.append(Path(where, name))
    return sorted(found)


def _why(name: str) -> str:
    if name.startswith("._"):
        return "._ files of macOS"
    if name.startswith("."):
        return "hidden files"
    ending = Path(name).suffix.lower()
    return "" if ending in READERS else f"{ending} files, which are not read" if ending else "files without an ending"


def _split_folders(trees: dict[Path, list[Path]]) -> dict[Path, str]:
    """Folder → split, if the folders look like splits: train/ and perhaps others, with class folders in them and no files."""
    named = {p: SPLITS[p.name.lower()] for p in trees if p.name.lower() in SPLITS}
    if "train" not in named.values() and len(named) < len(trees):
        return {}
    others = [p for p, paths in trees.items() if p not in named and any(len(path.relative_to(p).parts) == 1 for path in paths)]
    if others and len(named) == 1:
        return {}
    for folder in named:
        deep = sum(len(path.relative_to(folder).parts) > 1 for path in trees[folder])
        if trees[folder] and deep < len(trees[folder]) / 2:
            return {}
    if named and "train" not in named.values():
        raise DataError(f"{next(iter(named)).parent}: there is {', '.join(p.name for p in named)}/ but no train/; add it")
    return named


def _of_one_kind(found: list[File], kind: str, left: Counter[str]) -> tuple[tuple[File, ...], str]:
    kinds = Counter(kind_of(file.path) for file in found)
    kind = kind or (kinds.most_common(1)[0][0] if kinds else "")
    for other, count in kinds.items():
        if other != kind:
            left[f"{other}, beside {kind}"] += count
    return tuple(file for file in found if kind_of(file.path) == kind), kind
