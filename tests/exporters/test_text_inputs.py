"""Which inputs of a file are of one text, and the file that takes a text's ids in their place."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from bundles import F, onnx_file
from edgeloop_exporters.model_files.description import Tensor
from edgeloop_exporters.token_inputs import TextInput, grouped, with_text_inputs

INT = TensorProto.INT64


def row(name: str, size: int | None = None, dtype: str = "int64") -> Tensor:
    return Tensor(name=name, dtype=dtype, shape=(None, size))


PRICE, PLACE = row("price", 1, "float32"), row("place_id", 1)
GROUPS: dict[str, tuple[list[Tensor], set[str], dict[str, set[str]]]] = {
    "usual names": ([row("input_ids"), row("attention_mask"), PRICE], set(), {"text": {"input_ids", "attention_mask"}}),
    "a prefix": (
        [row("title_ids"), row("title_mask", dtype="float32"), row("title_token_type_ids"), PRICE], set(),
        {"title": {"title_ids", "title_mask", "title_token_type_ids"}},
    ),
    "two prefixes": (
        [row("question_input_ids"), row("question_attention_mask"), row("passageIds"), row("passageMask")], set(),
        {"question": {"question_input_ids", "question_attention_mask"}, "passage": {"passageIds", "passageMask"}},
    ),
    "numbers": (
        [row("input_ids_1"), row("attention_mask_1"), row("input_ids_2"), row("attention_mask_2")], set(),
        {"text_1": {"input_ids_1", "attention_mask_1"}, "text_2": {"input_ids_2", "attention_mask_2"}},
    ),
    "a mask without a name": ([row("title_ids"), row("attention_mask"), PRICE], set(), {"title": {"title_ids", "attention_mask"}}),
    "one row of whole numbers": ([row("title"), PRICE], set(), {"title": {"title"}}),
    "a number of a place is no text": ([row("title_ids"), PLACE], set(), {"title": {"title_ids"}}),
    "two rows, nobody said which": ([row("title"), row("brand"), PRICE], set(), {}),
    "two rows, one was named": ([row("title"), row("brand"), PRICE], {"title"}, {"title": {"title"}}),
    "one of two texts was named": ([row("a_ids"), row("b_ids")], {"b"}, {"b": {"b_ids"}}),
    "floats are never named": ([row("price", 5, "float32"), row("title_ids")], {"price"}, {}),
    "the name is taken": ([row("title_ids"), row("title", 3, "float32")], set(), {"title_ids": {"title_ids"}}),
}  # fmt: skip


@pytest.mark.parametrize("name", GROUPS)
def test_inputs_of_one_text_are_found_by_their_names(name: str) -> None:
    inputs, said, wanted = GROUPS[name]
    assert {text: set(roles) for text, roles in grouped(inputs, said).items()} == wanted


def test_a_text_may_have_the_name_of_its_ids_and_the_others_stay_in_order() -> None:
    nodes = [
        helper.make_node("Gather", ["table", "title"], ["rows"]), helper.make_node("Cast", ["kept"], ["m"], to=F),
        helper.make_node("Unsqueeze", ["m", "last"], ["mask"]), helper.make_node("Mul", ["rows", "mask"], ["seen"]),
        helper.make_node("ReduceSum", ["seen", "one"], ["sum"], keepdims=0), helper.make_node("Add", ["sum", "price"], ["y"]),
    ]  # fmt: skip
    table = np.arange(20, dtype=np.float32).reshape(10, 2)
    content = onnx_file(
        nodes, [("price", F, ["n", 2]), ("kept", INT, ["n", 4]), ("title", INT, ["n", 4])], [("y", F, ["n", 2])], table=table,
        last=np.array([2], np.int64), one=np.array([1], np.int64),
    )  # fmt: skip
    inputs = (row("price", 2, "float32"), row("kept", 4), row("title", 4))
    made = with_text_inputs(content, inputs, [TextInput("title", {"title": "ids", "kept": "mask"}, 4, 9)], "net.onnx")
    before, after = onnxruntime.InferenceSession(content), onnxruntime.InferenceSession(made)
    assert [(port.name, port.type) for port in after.get_inputs()] == [("price", "tensor(float)"), ("title", "tensor(int32)")]
    ids, price = np.array([[1, 2, 9, 9], [3, 9, 9, 9]]), np.ones((2, 2), np.float32)
    (wanted,) = before.run(None, {"title": ids, "kept": (ids != 9).astype(np.int64), "price": price})
    assert np.array_equal(after.run(None, {"title": ids.astype(np.int32), "price": price})[0], wanted)
