"""Class folders: each file is a recording, and its folder is its class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np

from edgeloop_agent.sources.readers import SOUND, read
from edgeloop_contract.arrays import Array
from edgeloop_contract.errors import DataError
from edgeloop_contract.resampling import resample
from edgeloop_pipeline.data.datasets.scanning import File, Scan, scan
from edgeloop_pipeline.data.datasets.splitting import HELD, Wanted, check_given, divide, order
from edgeloop_pipeline.data.types import NAMES, Split, Splits


@dataclass(frozen=True)
class Files(Sequence[Array]):
    """A sequence of recordings that are read on access, one at a time.

    `channels`: columns of a table. `rate_hz`: of sound; other rates are resampled, or refused if `strict`.
    """

    paths: list[Path]
    channels: tuple[str, ...] = ()
    rate_hz: int = 0
    strict: bool = False

    def __len__(self) -> int:
        return len(self.paths)

    @overload
    def __getitem__(self, i: int) -> Array: ...
    @overload
    def __getitem__(self, i: slice) -> Sequence[Array]: ...
    def __getitem__(self, i: int | slice) -> Array | Sequence[Array]:
        if isinstance(i, slice):
            return Files(self.paths[i], self.channels, self.rate_hz, self.strict)
        found = read(self.paths[i])
        values = found.values
        try:
            if self.channels and found.by_name is not None:
                values = found.by_name(self.channels)
                if values is None:
                    raise DataError(f"no column is called {', '.join(self.channels)}")
            if values is None:
                raise DataError(f"{found.refused}; repair or remove it")
            if found.rate_hz and self.rate_hz and found.rate_hz != self.rate_hz:
                if self.strict:
                    raise DataError(
                        f"sound at {found.rate_hz} Hz, others are at {self.rate_hz} Hz; set rate_hz={self.rate_hz} in data.py:"
                        " then all are resampled to it"
                    )
                values = resample(values, found.rate_hz, self.rate_hz)
        except DataError as error:
            raise DataError(f"{self.paths[i]}: {error}") from error
        return values


@dataclass(frozen=True)
class ClassFolders:
    """`root/CLASS/…files`, or `root/{train,val,test}/CLASS/…files`; pictures, sound, or recordings in CSV or .npy.

    Without split folders, each class is divided by quotas, 70 % train, 15 % validate, 15 % test, the same on every machine;
    without val/, its files come from train/. `group`: the part of a file's name before the first such character names who or what
    was recorded; a group is never divided. `validation`, `test`: groups (or files, as CLASS/NAME) that belong there.
    `kind`: pictures, sound or series, if folders hold several; '' is the most common. `channels`: columns of tables with a header.
    `rate_hz`: of sound; other rates are resampled to it.
    """

    root: Path
    group: str = ""
    kind: str = ""
    channels: tuple[str, ...] = ()
    rate_hz: int = 0
    validation: tuple[str, ...] = ()
    test: tuple[str, ...] = ()

    def scan(self) -> Scan:
        return scan(self.root, self.kind)

    def files(self) -> Sequence[Path]:
        return [file.path for file in self.scan().files]

    def load(self) -> Splits:
        found = self.scan()
        labels = tuple(sorted({file.label for file in found.files}))
        if len(labels) < 2:
            only = f" ({labels[0]!r}, {len(found.files)} files)" if labels else ""
            raise DataError(
                f"{self.root}: {len(labels)} classes with files in it{only}; put each class's files in a folder of its name"
            )
        try:
            sides = self.sides(found)
        except DataError as error:
            raise DataError(f"{self.root}: {error}") from error
        truth = {label: i for i, label in enumerate(labels)}
        return self.made(found, sides, labels, [truth[file.label] for file in found.files])

    def sides(self, found: Scan) -> list[str]:
        """The split of each file. Raises DataError."""
        labels, units = [file.label for file in found.files], [self.unit(file, found) for file in found.files]
        what = "group" if self.group else "file"
        given = found.split_names
        if not given:
            return divide(labels, units, what, Wanted(HELD, self.validation, self.test))
        sides = [file.split for file in found.files]
        check_given(labels, sides)
        rows = [i for i, side in enumerate(sides) if side == "train"]
        held = tuple(name for name in HELD if name not in given)
        if any(getattr(self, name) and name not in held for name in HELD):
            raise DataError("data.py names validation or test, and there is a folder for it too; leave out one of the two")
        if held:
            named = Wanted(held, *(getattr(self, name) if name in held else () for name in HELD))
            drawn = divide([labels[i] for i in rows], [units[i] for i in rows], what, named)
            for i, side in zip(rows, drawn, strict=True):
                sides[i] = side
        return sides

    def made(self, found: Scan, sides: list[str], labels: tuple[str, ...], truth: list[int]) -> Splits:
        rate = self._rate(found)
        made = {}
        for name in NAMES:
            rows = [i for i, side in enumerate(sides) if side == name]
            if not rows:
                raise DataError(f"{self.root}: no files for {name}; add more, or folders train/, val/ and test/")
            files = [found.files[i] for i in rows]
            made[name] = Split(
                Files([f.path for f in files], self.channels, rate, strict=not self.rate_hz),
                np.array([truth[i] for i in rows]),
                np.array([self.unit(f, found) for f in files]),
                [str(f.path.relative_to(found.root)) for f in files],
            )
        return Splits(labels, *made.values(), channels=self.channels, rate_hz=rate)

    def _rate(self, found: Scan) -> int:
        if self.rate_hz or found.kind != "sound":
            return self.rate_hz
        first = next((file.path for file in found.files if file.path.suffix.lower() in SOUND), None)
        return (read(first).rate_hz or 0) if first is not None else 0

    def unit(self, file: File, found: Scan) -> str:
        """The name of who or what was recorded: the beginning of the file's name, or the file itself."""
        return file.path.stem.split(self.group)[0] if self.group else str(file.path.relative_to(found.root))


@dataclass(frozen=True)
class NormalFolders(ClassFolders):
    """The same folders for anomaly detection: `normal` holds normal samples, every other folder anomalous ones.

    Normal files are split as in ClassFolders, the others between validation and test; anomalous files in a train
    folder are left out. Without a validation folder, its files come from the test folder.
    """

    normal: str = "normal"

    def load(self) -> Splits:
        found = self.scan()
        odd = [int(file.label != self.normal) for file in found.files]
        if set(odd) != {0, 1}:
            raise DataError(f"{self.root}: needs a folder {self.normal!r} and at least one other, with files in both")
        sides = self.sides(found)
        for name in NAMES:
            here = {odd[i] for i, side in enumerate(sides) if side == name}
            if 0 not in here or (name != "train" and 1 not in here):
                kinds = f"{odd.count(0)} of {self.normal}, {odd.count(1)} others"
                raise DataError(f"{self.root}: too few files for {name} ({kinds}); it needs {self.normal} ones and others")
        return self.made(found, sides, (self.normal, "anomaly"), odd)

    def sides(self, found: Scan) -> list[str]:
        """The split of each file: by its folder; otherwise quotas for normal files, and halves (validation, test) for others."""
        given = found.split_names
        sides = [file.split for file in found.files]
        only = given & set(HELD)
        rows: dict[bool, list[int]] = {False: [], True: []}
        for i in sorted(range(len(sides)), key=lambda i: order(self.unit(found.files[i], found))):
            odd = found.files[i].label != self.normal
            drawn = not only and not (odd and sides[i] == "train")
            if odd and sides[i] == "train":
                sides[i] = ""  # left out: anomalous files must not train
            if drawn or (len(only) == 1 and sides[i] in only):
                rows[odd].append(i)
        if not only:
            units = [self.unit(found.files[i], found) for i in rows[False]]
            for i, side in zip(rows.pop(False), self._drawn(units), strict=True):
                sides[i] = side
        for some in rows.values():  # halves of the files that training does not use
            named = list(dict.fromkeys(self.unit(found.files[i], found) for i in some))
            first = set(named[: len(named) // 2])
            for i in some:
                sides[i] = "validation" if self.unit(found.files[i], found) in first else "test"
        return sides

    def _drawn(self, units: list[str]) -> list[str]:
        if not units:
            return []
        return divide(
            [self.normal] * len(units), units, "group" if self.group else "file", Wanted(HELD, self.validation, self.test)
        )
