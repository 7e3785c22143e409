"""Imports every operator test that the onnx package ships, and compares each with its own expected answers.

Run by itself, it prints what happened to each: exact, refused (in a sentence), wrong, or an error that is none of ours.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from edgeloop_contract.errors import EdgeloopError
from edgeloop_exporters.onnx_import.reader import converted

# Not of inference on tensors of numbers: texts, sequences, training, images in files, and quantized files, which are packed.
OTHERS = (
    "adagrad", "adam", "momentum", "nesterov", "sequence", "string", "regex", "label_encoder", "tfidf", "optional", "image_decoder", "training",
    "dequantize", "quantize", "qlinear", "convinteger", "matmulinteger", "bernoulli", "float8", "fp8", "uint4", "int4", "e4m3", "e5m2", "bfloat16",
    "ai_onnx_ml", "tree_ensemble", "array_feature", "binarizer", "random", "gradient", "float4", "e8m0", "int2", "float6", "blackmanwindow", "melweight",
)  # fmt: skip

CONSTANT = {"If": 1, "Loop": 2, "ConstantOfShape": 1, "Range": 3}  # so many first inputs decide shapes or ways


@dataclass(frozen=True)
class Outcome:
    name: str
    operator: str
    result: str  # exact, refused, wrong or error
    why: str = ""


def cases() -> Iterator[Any]:
    from onnx.backend.test.loader import load_model_tests

    for case in load_model_tests(kind="node"):
        if not case.name.endswith("_expanded") and not any(word in case.name for word in OTHERS):
            yield case


def outcome(case: Any, folder: Path) -> Outcome:
    """Weights, shapes and axes of a test are made constants, as in files; what remains is the data."""
    model = case.model or onnx.load(Path(case.model_dir) / "model.onnx")
    operator = model.graph.node[0].op_type
    if case.data_sets:
        inputs, wanted = case.data_sets[0]
    else:
        sets = Path(case.model_dir) / "test_data_set_0"
        inputs, wanted = (_arrays(sets, kind) for kind in ("input", "output"))
    values = dict(zip((i.name for i in model.graph.input), inputs, strict=False))
    if not all(isinstance(v, np.ndarray) and v.dtype.kind in "fiub" for v in (*values.values(), *wanted)):
        return Outcome(case.name, operator, "other")
    data = _data_inputs(model, values)
    for name, array in values.items():
        if name not in data:
            model.graph.initializer.append(numpy_helper.from_array(array, name))
    kept = [i for i in model.graph.input if i.name in data]
    if not kept:  # constants alone: something beside them that runs
        kept = [helper.make_tensor_value_info("beside", TensorProto.FLOAT, [1])]
        model.graph.node.append(helper.make_node("Identity", ["beside"], ["beside_too"]))
        model.graph.output.append(helper.make_tensor_value_info("beside_too", TensorProto.FLOAT, [1]))
        values["beside"] = np.zeros(1, np.float32)
    del model.graph.input[:]
    model.graph.input.extend(kept)
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    try:
        found = converted(path, {}, batch=False)
        with torch.no_grad():
            made = found.network(*(torch.from_numpy(_as(values[p.name], p.dtype)) for p in found.inputs))
    except EdgeloopError as error:
        return Outcome(case.name, operator, "refused", str(error).replace(str(path), "the file").removeprefix("the file: ")[:150])
    except Exception as error:
        return Outcome(case.name, operator, "error", repr(error)[:150])
    answers = made if isinstance(made, tuple) else (made,)
    for answer, expected in zip(answers, wanted, strict=False):
        got = answer.numpy()
        if got.shape != expected.shape or not np.allclose(
            got.astype(np.float64), expected.astype(np.float64), 1e-3, 1e-4, equal_nan=True
        ):
            return Outcome(case.name, operator, "wrong", f"{got.shape} {expected.shape}")
    return Outcome(case.name, operator, "exact")


def _data_inputs(model: onnx.ModelProto, values: dict[str, Any]) -> set[str]:
    """The first input; the others too, where the operator is one of several equal operands."""
    names = [i.name for i in model.graph.input if i.name in values]
    equal = {"Add", "Sub", "Mul", "Div", "Max", "Min", "Sum", "Mean", "Pow", "Concat", "MatMul", "Einsum", "And", "Or", "Xor", "Where", "Equal",
             "Greater", "Less", "GreaterOrEqual", "LessOrEqual", "Mod"}  # fmt: skip
    operator = model.graph.node[0].op_type
    if operator in CONSTANT:
        return set(names[CONSTANT[operator] :])
    return set(names if operator in equal else names[:1])


def _as(array: Any, dtype: str) -> Any:
    return np.array(array, dtype, order="C")  # ascontiguousarray would give a number an axis


def _arrays(folder: Path, kind: str) -> list[Any]:
    found = []
    for path in sorted(folder.glob(f"{kind}_*.pb"), key=lambda p: int(p.stem.split("_")[1])):
        tensor = onnx.TensorProto()
        tensor.ParseFromString(path.read_bytes())
        found.append(numpy_helper.to_array(tensor))
    return found


def sweep() -> list[Outcome]:
    found = []
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for case in cases():
            found.append(outcome(case, Path(folder)))
    return [one for one in found if one.result != "other"]


if __name__ == "__main__":
    results = sweep()
    for one in results:
        if one.result in (sys.argv[1:] or ("wrong", "error")):
            sys.stdout.write(f"{one.result} {one.name} {one.why}\n")
    sys.stdout.write(f"{Counter(one.result for one in results)}\n")
