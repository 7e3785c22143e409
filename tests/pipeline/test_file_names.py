"""Names of files and folders are bytes: what is no text is refused where it would be a class, and read where it is a file."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from edgeloop_agent.sources.files import folder
from edgeloop_contract.errors import DataError
from edgeloop_pipeline.data.datasets.scanning import scan
from edgeloop_pipeline.recipe.project import MAX_FILES_NAMED, Project


def series(folder: Path, name: bytes, count: int = 1) -> list[Path]:
    inside = Path(os.fsdecode(os.fsencode(folder) + b"/" + name))
    inside.mkdir(parents=True)
    paths = [inside / os.fsdecode(b"\xff%d.npy" % i) for i in range(count)]
    for i, path in enumerate(paths):
        np.save(path, np.full((3, 1), i))
    return paths


@pytest.mark.parametrize(("name", "said"), [(b"\xffa", r"\\xffa"), (b"a\nb", r"a\\nb"), (b"\x1b[31mred", r"\\x1b\[31mred")])
def test_a_class_folder_whose_name_is_no_text_is_refused_by_name(tmp_path: Path, name: bytes, said: str) -> None:
    series(tmp_path, b"plain")
    series(tmp_path, name)
    with pytest.raises(DataError, match=f"not plain UTF-8 text: .*{said}; rename"):
        scan(tmp_path)


def digests(paths: list[Path]) -> dict[str, str]:
    held: Any = SimpleNamespace(data=SimpleNamespace(files=lambda: paths), _original=[], step_files={})
    own: Any = Project._own_digests
    return cast("dict[str, str]", own.func(held))


@pytest.mark.parametrize("count", [1, MAX_FILES_NAMED])
def test_a_file_whose_name_is_no_text_has_a_key(tmp_path: Path, count: int) -> None:
    paths = [*series(tmp_path, b"a", count), *series(tmp_path, b"\xc3\xa9", count)]
    assert len(scan(tmp_path).files) == 2 * count
    before = digests(paths)
    assert "\\xff" in next(iter(before)) or count > 1
    np.save(paths[0], np.full((3, 1), 9))
    assert digests(paths) != before


def test_files_of_one_name_in_folders_of_one_name_have_keys_of_their_own(tmp_path: Path) -> None:
    paths = [*series(tmp_path / "train", b"a"), *series(tmp_path / "test", b"a")]
    before = digests(paths)
    np.save(paths[0], np.full((3, 1), 9))
    assert len(before) == 2 and digests(paths) != before


def test_a_folder_of_recordings_may_hold_json_lines_beside_other_files(tmp_path: Path) -> None:
    np.save(tmp_path / "b.npy", np.ones((3, 1)))
    (tmp_path / "a.jsonl").write_text('{"values": [[1], [2]]}\n[]\n{"name": "x", "values": [[1]]}\n')
    (tmp_path / "c.txt").write_text("nothing that is read")
    found = list(folder(tmp_path))
    assert [r.name for r in found] == ["a.jsonl line 1", "a.jsonl line 2", "x", "b.npy"]
    assert [r.values is None for r in found] == [False, True, False, False]
