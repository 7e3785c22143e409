"""What a reader of the newest schema knows: a step, a task or a field of theirs more makes a later schema."""

from __future__ import annotations

import json
import typing

import numpy as np
import pytest

from commands import HERE
from edgeloop_contract.arrays import DtypeName
from edgeloop_contract.cleaning import Step as CleaningStep
from edgeloop_contract.manifest import SCHEMA
from edgeloop_contract.preprocessing import (
    Colour,
    Counts,
    Grayscale,
    Letterbox,
    LogMel,
    Normalize,
    Resize,
    ResizeShorter,
    SoundFeatures,
    Step,
    ToFloat,
    Tokenize,
    dtype_after,
    prepare,
)
from edgeloop_contract.tasks import Task

KEPT = HERE / "goldens" / f"schema-{SCHEMA}.json"
# Kinds that a reader must know by name, and fields that it refuses where it does not know them.
KINDS = {"steps": Step, "tasks": Task, "cleaning": CleaningStep}


def words() -> dict[str, object]:
    known: dict[str, object] = {
        name: {str(kind.__struct_config__.tag): sorted(kind.__struct_fields__) for kind in typing.get_args(kinds)}
        for name, kinds in KINDS.items()
    }
    return {**known, "dtypes": sorted(typing.get_args(DtypeName))}


def test_a_new_word_raises_the_schema() -> None:
    """Else the hub would offer a bundle to agents of this schema that cannot read it."""
    remedy = f"raise SCHEMA, tell features.py of it, and write tests/goldens/schema-{SCHEMA + 1}.json"
    assert json.loads(KEPT.read_text()) == words(), remedy


PICTURE, SOUND = np.full((20, 30, 3), 7, np.uint8), np.arange(-800, 800, dtype=np.int16)[:, None]
MADE = [
    (Grayscale(), PICTURE), (Colour(), PICTURE), (Letterbox(height=8, width=8), PICTURE), (Normalize(mean=[1], std=[2]), PICTURE),
    (Resize(height=8, width=8), PICTURE), (Resize(height=8, width=8, dtype="float32"), PICTURE),
    (ResizeShorter(size=8), PICTURE), (Counts(lsb=[0.1]), SOUND.astype(np.float64)), (ToFloat(), SOUND),
    (LogMel(rate_hz=8000, window=256, hop=128, bands=8), SOUND), (SoundFeatures(rate_hz=8000, window=256, hop=128), SOUND / 800),
]  # fmt: skip


@pytest.mark.parametrize(
    ("step", "recording"), MADE, ids=lambda value: getattr(getattr(value, "__struct_config__", None), "tag", "")
)
def test_a_step_says_the_type_that_it_makes(step: Step, recording: np.ndarray) -> None:
    assert str(prepare([step], recording).values.dtype) == dtype_after([step])


def test_every_step_with_a_type_of_its_own_is_tried() -> None:
    own = {kind for kind in typing.get_args(Step) if kind.makes or "dtype" in kind.__struct_fields__}
    assert own == {type(step) for step, _ in MADE} | {Tokenize}  # which needs a file: test_tokenize.py
