"""One form of listed recordings, whatever format the list has, and the checks that all formats share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from edgeloop_contract.errors import DataError
from edgeloop_pipeline.data.datasets.annotations.pictures import Findings
from edgeloop_pipeline.data.datasets.own_split import FEWEST
from edgeloop_pipeline.data.datasets.scanning import kind_of

__all__ = ["LabelList", "Listed", "checked_list"]

MOSTLY = 0.5
MAX_NAMED = 5


@dataclass(frozen=True)
class Listed:
    """A recording's file with its labels. `unknown`: labels of which nobody knows whether it has them. `split`: "" for none."""

    path: Path
    has: frozenset[str]
    unknown: frozenset[str] = frozenset()
    split: str = ""


@dataclass(frozen=True)
class LabelList:
    """All recordings of a data set. `kind`: pictures, sound or series. `labels`: in the order of the data, or sorted.

    `how`: where the labels come from, in words. `files`: the list's own files. `zero_one`: a column for each label.
    """

    root: Path
    how: str
    files: tuple[Path, ...]
    kind: str
    labels: tuple[str, ...]
    rows: tuple[Listed, ...]
    findings: Findings = field(default_factory=Findings)
    zero_one: bool = False

    @property
    def splits(self) -> set[str]:
        return {row.split for row in self.rows} - {""}

    @property
    def single(self) -> bool:
        """Whether each recording has exactly one label, which a classification says better."""
        return all(len(row.has) == 1 for row in self.rows)


def checked_list(
    root: Path, how: str, files: Iterable[Path], names: Iterable[str], rows: Iterable[Listed], findings: Findings, kind: str = ""
) -> LabelList:
    """Join the rows of each file, and count what is left out. `names`: of labels, in order. Raises DataError.

    `kind`: of files; "": the most common one.
    """
    joined: dict[Path, Listed] = {}
    total = lost = 0
    for row in rows:
        total += 1
        if not row.path.is_file():
            lost += 1
            findings.add("recordings that are listed and not there", row.path.name)
            continue
        before = joined.get(row.path)
        if before is not None:
            if before.split != row.split:
                where = " and ".join(split or "no split" for split in (before.split, row.split))
                raise DataError(f"{row.path}: is in {where}; leave it in one, or the test would show what was learnt by heart")
            row = Listed(row.path, before.has | row.has, (before.unknown | row.unknown) - before.has - row.has, row.split)
        joined[row.path] = row
    if lost and lost >= MOSTLY * total:
        raise DataError(
            f"{root}: {lost} of {total} listed recordings are not there: {findings.lines()[0]}; correct the list's names"
        )
    kinds = Counter(kind_of(path) for path in joined)
    kind = kind or kinds.most_common(1)[0][0] if kinds else kind
    kept = [row for row in joined.values() if kind_of(row.path) == kind]
    if len(kept) < len(joined):
        other = next(path for path in joined if kind_of(path) != kind)
        findings.add(f"recordings beside {kind}, left out", other.name, len(joined) - len(kept))
    labels = _labels(root, names, kept, findings)
    none = [row for row in kept if not row.has & set(labels)]
    if none:
        findings.add("recordings without a label, kept as they are", none[0].path.name, len(none))
    known = frozenset(labels)
    rows_ = tuple(Listed(row.path, row.has & known, row.unknown & known, row.split) for row in kept)
    return LabelList(root, how, tuple(files), kind, labels, rows_, findings)


def _labels(root: Path, names: Iterable[str], rows: list[Listed], findings: Findings) -> tuple[str, ...]:
    """The labels that enough recordings have; the others are counted. Raises DataError where none is left."""
    counts = Counter(label for row in rows for label in row.has)
    for name in counts:
        if not name.strip() or len(name.splitlines()) > 1:
            raise DataError(f"{root}: the label {name!r} is {'empty' if not name.strip() else 'more than one line'}; rename it")
    every = list(dict.fromkeys(names))
    kept = tuple(name for name in every if counts[name] >= FEWEST)
    few = sorted((name for name in every if counts[name] < FEWEST), key=lambda name: (-counts[name], name))
    if not kept:
        shown = ", ".join(f"{name}: {counts[name]}" for name in few[:MAX_NAMED])
        raise DataError(f"{root}: no label has {FEWEST} recordings ({shown or 'there is none'}); label more of them")
    if few:
        shown = ", ".join(f"{name}: {counts[name]}" for name in few[:MAX_NAMED]) + (" …" if len(few) > MAX_NAMED else "")
        findings.notes.append(f"{len(few)} labels with fewer than {FEWEST} recordings, left out: {shown}")
    return kept
