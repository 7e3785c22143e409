"""Decoded samples are kept once, within their ceiling, and never stale."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeloop_contract.errors import DataError
from edgeloop_pipeline.data import sample_cache
from edgeloop_pipeline.data.spill_array import SpillArray
from edgeloop_pipeline.data.types import Statistics
from edgeloop_pipeline.recipe import recipe
from edgeloop_pipeline.recipe.project import Project


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGELOOP_DATA", str(tmp_path / "cache"))
    monkeypatch.setattr(sample_cache, "WORTH_SECONDS", 0.0)
    return tmp_path / "cache" / "prepared"


@pytest.fixture
def project(tiny: Path) -> Path:
    (tiny / "raw.txt").write_text("1")
    text = (
        (tiny / "data.py")
        .read_text()
        .replace("return []", "from pathlib import Path\n        return [Path(__file__).parent / 'raw.txt']")
    )
    (tiny / "data.py").write_text(text)
    return tiny


def load(project: Path, *changes: str) -> Project:
    return Project(recipe.load(project / "recipe.yaml", changes))


def test_a_second_project_maps_what_the_first_made(project: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load(project).splits
    assert len(list(cache.iterdir())) == 1
    monkeypatch.setattr(Project, "_prepare", lambda _: pytest.fail("made again"))
    again = load(project).splits
    assert isinstance(again.train.values, np.memmap)
    for name in ("train", "validation", "test"):
        for part in ("values", "labels", "recording", "groups"):
            assert np.array_equal(getattr(getattr(first, name), part), getattr(getattr(again, name), part))


@pytest.mark.parametrize("change", ["data", "code", "preprocessing"])
def test_what_changed_is_made_again(project: Path, cache: Path, change: str) -> None:
    load(project).splits  # noqa: B018
    if change == "data":
        (project / "raw.txt").write_text("2")
    if change == "code":
        (project / "data.py").write_text((project / "data.py").read_text() + "MADE_ANEW = True\n")
    words = ["preprocessing=[{step: window, length: 16, hop: 16}]"] if change == "preprocessing" else []
    load(project, *words).splits  # noqa: B018
    assert len(list(cache.iterdir())) == 2


def test_the_ceiling_holds(project: Path, cache: Path) -> None:
    size = sum(f.stat().st_size for f in (load(project).splits and next(cache.iterdir())).iterdir())
    (project / "raw.txt").write_text("2")
    load(project, f"cache_bytes={int(1.5 * size)}").splits  # noqa: B018
    assert len(list(cache.iterdir())) == 1  # the older one made room
    (project / "raw.txt").write_text("3")
    load(project, "cache_bytes=100").splits  # noqa: B018
    assert len(list(cache.iterdir())) == 1  # too large to be kept


def test_damaged_samples_are_made_again(project: Path, cache: Path) -> None:
    wanted = load(project).splits
    (next(cache.iterdir()) / "train-values.npy").write_bytes(b"x")
    assert np.array_equal(load(project).splits.train.values, wanted.train.values)


def test_more_than_memory_holds_goes_through_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    chunks = [rng.integers(0, 255, (n, 4, 4, 1)).astype(np.uint8) for n in (3, 1, 7, 5)]
    stack = SpillArray(max_in_memory_bytes=100)
    for chunk in chunks:
        stack.append(chunk)
    with pytest.raises(DataError, match="after samples of uint8"):
        stack.append(np.zeros((1, 5, 4, 1), np.uint8))
    found = stack.all()
    assert isinstance(found, np.memmap) and np.array_equal(found, np.concatenate(chunks))


def test_statistics_come_in_pieces() -> None:
    values = np.random.default_rng(0).normal(1e3, 5, (999, 7, 3)).astype(np.float32)
    flat = values.reshape(-1, 3).astype(np.float64)
    found = Statistics.of(values, rows=50)
    assert np.allclose(found.mean, flat.mean(0), rtol=1e-12) and np.allclose(found.std, flat.std(0), rtol=1e-9)
    assert np.array_equal(found.low, flat.min(0)) and np.array_equal(found.high, flat.max(0))
