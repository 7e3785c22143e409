"""Columns of a table by their names, on the device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from edgeloop_agent.answering import Answering, AnswerLine
from edgeloop_agent.engine import Answer
from edgeloop_agent.metrics import Counts
from edgeloop_agent.sources.columns import names_of, read_columns
from edgeloop_agent.sources.readers import read
from edgeloop_contract.archive import Bundle
from edgeloop_contract.errors import DataError


def test_columns_of_one_name_are_told_apart() -> None:
    assert names_of(["acc", " acc", "acc.2", "acc", ""]) == ["acc", "acc.3", "acc.2", "acc.4", "column 5"]


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_a_table_with_texts_gives_the_columns_that_are_wanted(tmp_path: Path, separator: str) -> None:
    point = "." if separator in ",|" else ","
    rows = [["who", "ay", "ax", "label"], ["p0", "0.5", "1.5", "walk"], ["p0", "NA", "2.5", "run"]]
    text = "\n".join(separator.join(cell.replace(".", point) for cell in row) for row in rows)
    (tmp_path / "t.csv").write_bytes(text.encode("utf-8-sig"))
    found = read_columns(tmp_path / "t.csv", ("ax", "ay"))
    np.testing.assert_array_equal(found, [[1.5, 0.5], [2.5, np.nan]])
    assert read_columns(tmp_path / "t.csv", ("gx",)) is None
    with pytest.raises(DataError, match="no column 'az'; it has who, ay, ax, label"):
        read_columns(tmp_path / "t.csv", ("ax", "az"))
    with pytest.raises(DataError, match="row 2, column 'who': 'p0' is not a number"):
        read_columns(tmp_path / "t.csv", ("ax", "who"))


class Echo:
    def answers(self, values: Any) -> Any:
        yield Answer(0, label=str(values.tolist()))


def test_the_agent_takes_the_channels_of_the_manifest(tmp_path: Path) -> None:
    with Bundle.open(next((Path(__file__).parents[1] / "goldens").rglob("*.edgeloop"))) as bundle:
        plain = bundle.manifest
    named = msgspec.structs.replace(plain, channels=["ax", "ay"])
    (tmp_path / "t.csv").write_text("label,ay,ax\nwalk,1,2\nrun,3,4\n")
    (tmp_path / "bare.csv").write_text("1,2\n3,4\n")

    def said(manifest: Any, name: str) -> AnswerLine:
        return next(iter(Answering(manifest, lambda: Echo(), Counts()).lines(read(tmp_path / name))))

    assert said(named, "t.csv").label == "[[2.0, 1.0], [4.0, 3.0]]"
    assert said(named, "bare.csv").label == "[[1.0, 2.0], [3.0, 4.0]]"
    assert "is not a number" in (said(plain, "t.csv").refused or "")
    (tmp_path / "part.csv").write_text("label,ax\nwalk,1\n")
    assert "no column 'ay'" in (said(named, "part.csv").refused or "")
