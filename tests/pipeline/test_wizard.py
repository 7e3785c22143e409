"""`edgeloop new --data`: from a folder of one's own to a bundle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from commands import command, sentence
from edgeloop_contract.errors import DataError
from edgeloop_pipeline.data import augmentations
from edgeloop_pipeline.data.datasets import ClassFolders, NormalFolders, Table


def pictures(root: Path) -> None:
    from PIL import Image

    rng = np.random.default_rng(0)
    for label, low in (("dark", 0), ("light", 140)):
        (root / label).mkdir(parents=True)
        for i in range(40):
            size = (20 + i % 3, 24, 3)
            Image.fromarray(rng.integers(low, low + 110, size).astype(np.uint8)).save(root / label / f"{i}.png")


def table(root: Path, suffix: str) -> None:
    rng = np.random.default_rng(0)
    rows = []
    for subject in range(12):
        for label, hz in (("slow", 0.02), ("fast", 0.1)):
            t = np.arange(400)
            wave_ = np.sin(2 * np.pi * hz * t + subject)
            rows += [
                (f"s{subject}", label, i, a, b) for i, a, b in zip(t, wave_, 0.5 * wave_ + rng.normal(0, 0.1, 400), strict=True)
            ]
    root.mkdir()
    names = ["subject", "activity", "time", "ax", "ay"]
    if suffix == ".csv":
        lines = [",".join(names), *(",".join(map(str, row)) for row in rows)]
        (root / "all.csv").write_text("\n".join(lines))
        return
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(
        pyarrow.table(dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))), root / "all.parquet"
    )


def test_parquet_is_read_like_csv(tmp_path: Path) -> None:
    table(tmp_path / "a", ".csv")
    table(tmp_path / "b", ".parquet")
    a, b = (Table(tmp_path / name, "activity", ("ax", "ay"), "subject").load() for name in "ab")
    assert a.labels == b.labels == ("fast", "slow")
    assert len(a.train.labels) == len(b.train.labels) and np.allclose(a.train.recordings[0], b.train.recordings[0])


def test_groups_are_never_divided(tmp_path: Path) -> None:
    table(tmp_path / "a", ".csv")
    splits = Table(tmp_path / "a", "activity", ("ax", "ay"), "subject").load()
    groups = [set(s.groups) for s in (splits.train, splits.validation, splits.test)]
    assert not groups[0] & groups[1] and not groups[0] & groups[2] and not groups[1] & groups[2]
    assert [len(found) for found in groups] == [8, 2, 2]


def test_given_split_folders_are_kept(tmp_path: Path) -> None:
    for name in ("train", "val", "test"):
        pictures(tmp_path / "data" / name)
    splits = ClassFolders(tmp_path / "data").load()
    assert [len(s.labels) for s in (splits.train, splits.validation, splits.test)] == [80, 80, 80]


BAD = {
    "nothing": (lambda root: root.mkdir(), "no class folders with files"),
    "one class": (lambda root: (root / "a").mkdir(parents=True) or (root / "a" / "x.csv").write_text("1,2\n"), "1 classes"),
    "no label": (lambda root: root.mkdir() or (root / "t.csv").write_text("time,ax\n0,1\n"), "no column is called label"),
    "unreadable": (lambda root: (root / "a").mkdir(parents=True) or (root / "a" / "x.txt").write_text("?"), "no readable file"),
    "ragged": (lambda root: root.mkdir() or (root / "t.csv").write_text("label,ax\na,1\nb\n"), "row 3 has 1 columns"),
}


@pytest.mark.parametrize("name", BAD)
def test_data_that_cannot_be_understood(tmp_path: Path, name: str) -> None:
    make, said = BAD[name]
    make(tmp_path / "data")
    assert said in sentence(command("edgeloop", "new", tmp_path / "mine", "--data", tmp_path / "data"), 3)
    assert not (tmp_path / "mine").exists()


def test_a_damaged_image_is_named(tmp_path: Path) -> None:
    pictures(tmp_path / "data")
    (tmp_path / "data" / "dark" / "3.png").write_bytes(b"\x89PNG no")
    with pytest.raises(DataError, match=r"dark/3\.png"):
        splits = ClassFolders(tmp_path / "data").load()
        for split in (splits.train, splits.validation, splits.test):
            for i in range(len(split.labels)):
                split.recordings[i]


@pytest.mark.parametrize(
    ("name", "batch"),
    [
        ("rand_augment", torch.randint(0, 255, (4, 16, 16, 1), dtype=torch.uint8)),
        ("rand_augment", torch.randint(0, 255, (4, 16, 16, 3), dtype=torch.uint8)),
        ("spec_augment", torch.randint(1, 255, (4, 30, 20, 1), dtype=torch.uint8)),
        ("jitter", torch.randint(-99, 99, (4, 50, 3), dtype=torch.int16)),
    ],
)
def test_augmentations_change_samples_and_repeat(name: str, batch: torch.Tensor) -> None:
    augment = getattr(augmentations, name)
    state = torch.get_rng_state()
    first, again, other = (augment(batch, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert first.shape == batch.shape and torch.equal(first, again) and not torch.equal(first, other)
    assert not torch.equal(first, batch) and (batch.dtype != torch.uint8 or first.dtype == torch.uint8)
    assert torch.equal(torch.get_rng_state(), state)


def test_folders_with_a_normal_one_become_an_autoencoder(tmp_path: Path) -> None:
    pictures(tmp_path / "data")
    (tmp_path / "data" / "dark").rename(tmp_path / "data" / "good")
    made = command("edgeloop", "new", tmp_path / "mine", "--data", tmp_path / "data", "--task", "anomaly")
    assert made.returncode == 0, made.stderr
    splits = NormalFolders(tmp_path / "data", normal="good").load()
    assert not splits.train.labels.any() and set(splits.test.labels) == set(splits.validation.labels) == {0, 1}
    (tmp_path / "data" / "good").rename(tmp_path / "data" / "dark")
    said = sentence(command("edgeloop", "new", tmp_path / "other", "--data", tmp_path / "data", "--task", "anomaly"), 3)
    assert "no folder is called normal, good" in said
