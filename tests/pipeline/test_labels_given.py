"""Labels of a command or a file: an empty one between others would move those behind it to other classes."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeloop_contract.errors import UsageError
from edgeloop_pipeline.cli.pack import labels_given


def test_an_empty_label_is_refused_and_empty_ends_are_not(tmp_path: Path) -> None:
    file = tmp_path / "labels.txt"
    file.write_text("cat\n\ndog\n")
    for text in (str(file), "cat,,dog"):
        with pytest.raises(UsageError, match="label 2 is empty; write it, or remove it"):
            labels_given(text)
    file.write_text("cat\r\ndog\r\n\r\n")
    assert labels_given(str(file)) == labels_given("cat, dog,") == ["cat", "dog"] and labels_given("") == []
