"""Requests to the local API whose JSON has another type than it must: the sentence says what was sent and what to send."""

from __future__ import annotations

import json
from typing import Any

import pytest

from edgeloop_contract.errors import DataError
from edgeloop_contract.inference import decode_request, flag


def request(datatype: str, shape: list[int], data: object, **parameters: object) -> bytes:
    tensor = {"name": "x", "shape": shape, "datatype": datatype, "data": data}
    return json.dumps({"inputs": [tensor], "parameters": parameters}).encode()


@pytest.mark.parametrize(
    ("datatype", "shape", "data", "why"),
    [
        ("INT32", [1], 1.5, "'x': data is 1.5; send a list of numbers"),
        ("FP32", [1, 1], None, "'x': data is null; send a list of numbers"),
        ("INT16", [1], {"a": 1}, "send a list of numbers"),
        ("INT16", [2, 1], [[1], 2.5], r"neither a flat list nor nested lists of shape \[2, 1\]"),
        ("INT16", [1], ["a"], "data are not numbers of INT16"),
        ("BYTES", [1], 1.5, "data are not a list of texts"),
        ("BYTES", [1], None, "data are not a list of texts"),
    ],
)
def test_data_of_another_type_is_said(datatype: str, shape: list[int], data: Any, why: str) -> None:
    with pytest.raises(DataError, match=why) as refused:
        decode_request(request(datatype, shape, data), None, texts=True)
    assert "iterable" not in str(refused.value)


def test_nested_and_flat_lists_are_read() -> None:
    for data in ([[1, 2], [3, 4]], [1, 2, 3, 4]):
        assert decode_request(request("INT16", [2, 2], data), None).inputs["x"].tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize("value", ["yes", "false", 1, 0, [True]])
def test_a_flag_is_true_or_false_alone(value: object) -> None:
    with pytest.raises(DataError, match=r"the parameter boxes is .*; send true or false"):
        flag({"boxes": value}, "boxes")
    with pytest.raises(DataError, match="the parameter binary_data_output is"):
        decode_request(request("INT16", [1], [1], binary_data_output=value), None)


def test_a_flag_that_is_absent_is_the_default() -> None:
    assert flag({"boxes": True}, "boxes") and not flag({"boxes": False}, "boxes", True)
    assert not flag(None, "boxes") and flag({"boxes": None}, "boxes", True)
