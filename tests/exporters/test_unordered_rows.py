"""End-to-end detectors sort their rows: an import whose equal scores come in another order is the same model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from bundles import onnx_file
from edgeloop_contract.errors import ModelError
from edgeloop_exporters.onnx_import import comparing
from edgeloop_exporters.onnx_import.reader import converted
from edgeloop_exporters.onnx_import.unordered import difference_of_rows

ROWS = 50


def sorting(path: Path, choose: bool) -> Path:
    """The best rows of a linear layer's."""
    rng = np.random.default_rng(0)
    nodes = [helper.make_node("Gemm", ["x", "w"], ["y"]), helper.make_node("Reshape", ["y", "shape"], ["rows"])]
    if choose:
        nodes += [
            helper.make_node("ReduceMax", ["rows"], ["best"], axes=[2], keepdims=0),
            helper.make_node("TopK", ["best", "k"], ["values", "places"]),
            helper.make_node("Unsqueeze", ["places", "two"], ["p"]), helper.make_node("Expand", ["p", "wide"], ["index"]),
            helper.make_node("GatherElements", ["rows", "index"], ["out"], axis=1),
        ]  # fmt: skip
    else:
        nodes[-1] = helper.make_node("Reshape", ["y", "shape"], ["out"])
    content = onnx_file(
        nodes, [("x", TensorProto.FLOAT, [1, 4])], [("out", TensorProto.FLOAT, [1, ROWS, 6])],
        w=rng.normal(size=(4, ROWS * 6)).astype(np.float32), shape=np.array([1, ROWS, 6]), k=np.array([ROWS]),
        wide=np.array([1, ROWS, 6]), two=np.array([2]),
    )  # fmt: skip
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("choose", [True, False])
def test_another_order_is_the_same_where_the_file_sorts(choose: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = sorting(tmp_path / "a.onnx", choose)
    found = converted(path, {})
    original = comparing._original

    def turned(*given: object) -> list[np.ndarray]:
        answers = original(*given)  # type: ignore[arg-type]
        return [answers[0][:, ::-1], *answers[1:]]

    comparing.check(found, path, 1e-3)
    monkeypatch.setattr(comparing, "_original", turned)
    if choose:
        comparing.check(found, path, 1e-3)
    else:
        with pytest.raises(ModelError, match="answers differently"):
            comparing.check(found, path, 1e-3)


def test_rows_that_are_others_differ() -> None:
    rows = np.random.default_rng(0).normal(size=(2, ROWS, 6))
    assert difference_of_rows(rows[:, ::-1], rows) == 0
    other = rows.copy()
    other[:, :1] += 5  # one of fifty: the last that is chosen
    assert difference_of_rows(other, rows) == 0
    other[:, :5] += 5
    assert (difference_of_rows(other, rows) or 0) > 1
    assert difference_of_rows(rows[0], rows[0]) is None
