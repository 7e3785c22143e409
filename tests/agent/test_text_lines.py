"""Texts that the agent reads: what is no text costs its line alone."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from edgeloop_agent.sources.texts import text_lines, text_of_file
from edgeloop_contract.errors import DataError
from edgeloop_contract.preprocessing.tokens import _text_of, as_bytes


@pytest.mark.parametrize("coding", ["utf-16", "utf-16-le"])
def test_no_line_of_utf_16_is_answered(coding: str, tmp_path: Path) -> None:
    content = "good film\nbad film\nawful".encode(coding)
    found = list(text_lines(io.BytesIO(content)))
    assert len(found) == 3 and all("save it as UTF-8" in row.refused and row.text is None for row in found)
    (tmp_path / "a.txt").write_bytes(content)
    assert "line 1 has zero bytes, as UTF-16 has" in text_of_file(tmp_path / "a.txt").refused


def test_a_line_with_zero_bytes_costs_itself() -> None:
    lines = b'good\nb\0ad\n{"text": "a\\u0000"}\n{"text": 5}\n{"text": "fine"}\n'
    found = list(text_lines(io.BytesIO(lines)))
    assert [row.text for row in found] == ["good", None, None, None, "fine"]
    assert "zero bytes" in found[1].refused and "zero bytes" in found[2].refused
    assert found[3].refused == '"text" is 5, and no text; send it in quotation marks'


def test_the_step_itself_takes_no_zero_bytes() -> None:
    assert _text_of(as_bytes("good")) == "good"
    with pytest.raises(DataError, match="the text has zero bytes"):
        _text_of(as_bytes("go\0od"))
