"""Requests to the local API whose JSON has another type than it must: the sentence says what was sent and what to send."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from edgeloop_contract import inference
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


@pytest.mark.parametrize("part", [1, 7, 16, 1 << 18])
@pytest.mark.parametrize(("datatype", "data"), [
    ("FP32", [0.1, -2e-7, 3, 1e38, -0.0] * 9), ("INT8", [-128, 127, 0] * 11), ("BOOL", [True, False, True] * 7), ("UINT64", [2**64 - 1, 0]),
])  # fmt: skip
def test_a_flat_list_is_the_same_in_parts_of_any_size(
    part: int, datatype: str, data: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inference, "PART", part)
    for spaces in (None, 1):
        text = json.dumps({"inputs": [{"name": "x", "shape": [len(data)], "datatype": datatype, "data": data}]}, indent=spaces)
        found = decode_request(text.encode(), None).inputs["x"]
        assert found.dtype == inference.DATATYPES[datatype] and np.array_equal(found, np.array(data, found.dtype))


def test_large_nested_lists_are_refused_before_they_take_many_times_their_text() -> None:
    data = "[" + ",".join(["[0,0]"] * (inference.MAX_NESTED // 6 + 1)) + "]"
    shape = [inference.MAX_NESTED // 6 + 1, 2]
    body = json.dumps({"inputs": [{"name": "x", "shape": shape, "datatype": "INT8", "data": []}]}).replace("[]", data).encode()
    with pytest.raises(DataError, match="send the numbers flat, or in binary"):
        decode_request(body, None)
