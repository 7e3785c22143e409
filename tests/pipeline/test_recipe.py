"""Recipes: every problem at once, in one message, with a remedy."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from commands import TINY, command, sentence
from edgeloop_contract.errors import UsageError
from edgeloop_pipeline.recipe import recipe


def test_all_problems_at_once(tiny: Path) -> None:
    (tiny / "recipe.yaml").write_text(
        """
name: tiny
netwrok: network.py:tiny
data: data.py:tones
preprocessing: [{step: window, length: 0, hop: 1}, {step: magick}]
target: {min_accuracy: 1.5, max_dorp: 0.1, max_int8_bytes: -3}
stages:
  train: {epochs: many, learning_rat: 0.1, optimizer: adam}
  pruen: {}
  quantize: {qat: sometimes}
  verify: {}
"""
    )
    done = command("edgeloop", "run", tiny)
    said = sentence(done, 2)
    for expected in (
        "netwrok: unknown setting; did you mean network?",
        "network: missing",
        "preprocessing[0]",
        "preprocessing[1]",
        "target.min_accuracy",
        "max_dorp: unknown setting; did you mean max_drop?",
        "target.max_int8_bytes",
        "stages.train.epochs",
        "learning_rat: unknown setting; did you mean learning_rate?",
        "stages.train.optimizer",
        "stages.pruen: unknown stage; did you mean prune?",
        "stages.quantize.qat",
        "stages.verify: needs a exported; add export before it",
    ):
        assert expected in said, f"{expected!r} not in:\n{said}"


BAD_FILES = {
    "not YAML": ("name: [", "not YAML"),
    "not a mapping": ("- a\n- b\n", "not a recipe"),
    "empty": ("", "not a recipe"),
    "bad reference": ("name: x\nnetwork: network\ndata: data.py:tones\nstages: {}\n", "network"),
    "stages are a list": ("name: x\nnetwork: network.py:tiny\ndata: data.py:tones\nstages: [train]\n", "stages"),
    "a stage is a number": ("name: x\nnetwork: network.py:tiny\ndata: data.py:tones\nstages: {train: 3}\n", "stages.train"),
    "own stage without a file": (
        "name: x\nnetwork: network.py:tiny\ndata: data.py:tones\nstages: {mine: {stage: none.py:Mine}}\n",
        "no file",
    ),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files(name: str, tmp_path: Path) -> None:
    text, message = BAD_FILES[name]
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(UsageError, match=message):
        recipe.load(tmp_path / "recipe.yaml")


def test_overrides_are_values_and_no_text() -> None:
    """What a program sets is never read as YAML: not a digest that looks like a number, nor a path with an apostrophe."""
    digest, path = "1" * 63 + "2", "/home/o'neil's: {data}, #1.npz"
    changes = (recipe.Override("parent", digest), recipe.Override("field", {"file": path}), recipe.Override("train.start", path))
    loaded = recipe.load(TINY / "recipe.yaml", (*changes, "seed=3"))
    assert loaded.head.parent == digest and loaded.head.field is not None and loaded.head.field.file == path
    assert loaded.stages["train"]["start"] == path and loaded.head.seed == 3


def test_set_changes_and_leaves_out() -> None:
    loaded = recipe.load(TINY / "recipe.yaml", ("distill.epochs=7", "prune=off", "target.max_drop=0.5", "seed=3"))
    assert loaded.stages["distill"]["epochs"] == 7
    assert "prune" not in loaded.stages
    assert (loaded.head.target.max_drop, loaded.head.seed) == (0.5, 3)


@pytest.mark.parametrize("change", ["distill.epochs", "=3", "distill.epoch=3", "distill.epochs=0", "nothing=1"])
def test_bad_changes(change: str) -> None:
    with pytest.raises(UsageError):
        recipe.load(TINY / "recipe.yaml", (change,))


def test_unknown_recipe_names_the_projects() -> None:
    said = sentence(command("edgeloop", "run", "exercise_wach"), 2)
    assert "exercise_watch" in said
    assert "fashion" in said


def test_reference_projects_are_valid() -> None:
    projects = recipe.reference_projects()
    assert set(projects) >= {"exercise_watch", "fashion"}
    for folder in projects.values():
        recipe.load(folder / recipe.FILE)


def test_numbers_as_people_write_them(tiny: Path) -> None:
    loaded = recipe.load(tiny / "recipe.yaml", ("train.learning_rate=1e-3", "train.weight_decay=2E-4", "version=3"))
    assert loaded.stages["train"]["learning_rate"] == 0.001 and loaded.stages["train"]["weight_decay"] == 0.0002
    assert loaded.head.version == 3 and loaded.head.network == "network.py:tiny"


def test_a_stage_that_is_added_stands_where_it_usually_does() -> None:
    from edgeloop_pipeline.recipe import recipe

    loaded = recipe.load(recipe.find("fashion"), ("prune.keep=0.5", "budget=off"))
    assert list(loaded.stages)[:4] == ["train", "prune", "distill", "quantize"]


def test_the_small_detector_is_the_large_ones_recipe_with_a_smaller_network() -> None:
    folder = recipe.reference_projects()["blood_cells"]
    small, large = (recipe.load(folder / name) for name in ("small.yaml", "recipe.yaml"))
    alike = {"name": "blood_cells", "network_args": large.head.network_args, "target": large.head.target}
    assert replace(small.head, **alike) == large.head and small.stages == large.stages
    assert small.head.network_args == {"width": "small", "depths": [1, 2]} and small.head.target.max_int8_bytes == 300_000
