"""Imports every operator test that the onnx package ships, and compares each with its own expected answers.

Run by itself, it prints what happened to each: exact, refused (in a sentence), wrong, or an error that is none of ours.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from edgeloop_contract.errors import EdgeloopError
from edgeloop_exporters.onnx_import.old_sets import in_newer_set
from edgeloop_exporters.onnx_import.reader import converted

# Not of inference on tensors of numbers: texts, sequences, training, images in files, and quantized files, which are packed.
OTHERS = (
    "adagrad", "adam", "momentum", "nesterov", "sequence", "string", "regex", "label_encoder", "tfidf", "optional", "image_decoder", "training",
    "dequantize", "quantize", "qlinear", "convinteger", "matmulinteger", "bernoulli", "float8", "fp8", "uint4", "int4", "e4m3", "e5m2",
    "ai_onnx_ml", "tree_ensemble", "array_feature", "binarizer", "random", "gradient", "float4", "e8m0", "int2", "float6",
)  # fmt: skip

CONSTANT = {
    "If": 1,
    "Loop": 2,
    "ConstantOfShape": 1,
    "Range": 3,
    "MelWeightMatrix": 5,
    "BlackmanWindow": 1,
    "HannWindow": 1,
    "HammingWindow": 1,
}  # so many first inputs decide shapes or ways


@dataclass(frozen=True)
class Case:
    """`model_inputs`: every input is data; else a test of one operator, whose further inputs become constants."""

    name: str
    model: onnx.ModelProto
    inputs: list[Any]
    wanted: list[Any]
    model_inputs: bool = False


@dataclass(frozen=True)
class Outcome:
    name: str
    operator: str
    result: str  # exact, refused, wrong or error
    why: str = ""


def operator_cases() -> Iterator[Case]:
    from onnx.backend.test.loader import load_model_tests

    for case in load_model_tests(kind="node"):
        if case.name.endswith("_expanded") or _is_other(case.name):
            continue
        if case.data_sets:
            inputs, wanted = case.data_sets[0]
            yield Case(case.name, case.model, list(inputs), list(wanted))
        else:
            yield from folder_cases(Path(case.model_dir), False)


def model_cases() -> Iterator[Case]:
    """The tests of whole models that the package brings with their files: simple, from PyTorch, and well-known networks."""
    data = Path(onnx.__file__).parent / "backend" / "test" / "data"
    for kind in ("simple", "pytorch-operator", "pytorch-converted"):
        for folder in sorted((data / kind).iterdir()):
            yield from folder_cases(folder, True)
    for path in sorted((data / "light").glob("*.onnx")):
        model = onnx.load(path)
        constants = {tensor.name for tensor in model.graph.initializer}
        shapes = [[d.dim_value or 1 for d in i.type.tensor_type.shape.dim] for i in model.graph.input if i.name not in constants]
        inputs = [(np.arange(np.prod(shape)).reshape(shape) / np.prod(shape)).astype(np.float32) for shape in shapes]
        yield Case(path.stem, model, inputs, [_array(path.with_name(f"{path.stem}_output_0.pb"))], True)


def folder_cases(folder: Path, model_inputs: bool) -> Iterator[Case]:
    """The test in a folder with `model.onnx`, if its tensors are of numbers."""
    sets = folder / "test_data_set_0"
    if _is_other(folder.name) or not (folder / "model.onnx").exists():
        return
    try:
        inputs, wanted = (_arrays(sets, kind) for kind in ("input", "output"))
    except Exception:  # a sequence or an optional value is no tensor: its bytes are something else
        return
    yield Case(folder.name, onnx.load(folder / "model.onnx"), inputs, wanted, model_inputs)


def _is_other(name: str) -> bool:
    return any(word in name for word in OTHERS)


def outcome(case: Case, folder: Path) -> Outcome:
    """Weights, shapes and axes of an operator's test are made constants, as in files; what remains is the data."""
    model, operator = case.model, case.model.graph.node[0].op_type
    constants = {tensor.name for tensor in model.graph.initializer}
    _with_bfloat16(case)
    values = dict(zip((i.name for i in model.graph.input if i.name not in constants), case.inputs, strict=False))
    if not all(isinstance(v, np.ndarray) and v.dtype.kind in "fiub" for v in (*values.values(), *case.wanted)):
        return Outcome(case.name, operator, "other")
    if any(v.dtype == np.float64 and np.isfinite(v).any() and np.abs(v[np.isfinite(v)]).max() > 1e38 for v in values.values()):
        return Outcome(case.name, operator, "other")  # memory that nobody set when the test was made: no float32 holds it
    data = set(values) if case.model_inputs else _data_inputs(model, values, case.name)
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
        found = converted(in_newer_set(path, folder / "newer.onnx"), {}, batch=False)
        with torch.no_grad():
            made = found.network(*(torch.from_numpy(_as(values[p.name], p.dtype)) for p in found.inputs))
    except EdgeloopError as error:
        return Outcome(case.name, operator, "refused", str(error).replace(str(path), "the file").removeprefix("the file: ")[:150])
    except Exception as error:
        return Outcome(case.name, operator, "error", repr(error)[:150])
    answers = made if isinstance(made, tuple) else (made,)
    for answer, expected, tensor in zip(answers, case.wanted, model.graph.output, strict=False):
        got = answer.numpy()
        rough = tensor.type.tensor_type.elem_type == TensorProto.BFLOAT16  # it keeps 8 bits of a number, at every step
        close, least = (2**-7, 2**-7 * float(np.abs(expected[np.isfinite(expected)]).max(initial=0))) if rough else (1e-3, 1e-4)
        if got.shape != expected.shape or not np.allclose(
            got.astype(np.float64), expected.astype(np.float64), close, least, equal_nan=True
        ):
            return Outcome(case.name, operator, "wrong", f"{got.shape} {expected.shape}")
    return Outcome(case.name, operator, "exact")


def _with_bfloat16(case: Case) -> None:
    """Values of this type as float32, also where a file keeps their bits in another type."""
    for values, tensors in ((case.inputs, case.model.graph.input), (case.wanted, case.model.graph.output)):
        for i, (value, tensor) in enumerate(zip(values, tensors, strict=False)):
            if tensor.type.tensor_type.elem_type == TensorProto.BFLOAT16 and isinstance(value, np.ndarray):
                bits = value.view(np.uint16).astype(np.uint32) << 16
                values[i] = bits.view(np.float32).reshape(value.shape)


def _data_inputs(model: onnx.ModelProto, values: dict[str, Any], name: str) -> set[str]:
    """The first input; the others too, where the operator is one of several equal operands."""
    names = [i.name for i in model.graph.input if i.name in values]
    equal = {"Add", "Sub", "Mul", "Div", "Max", "Min", "Sum", "Mean", "Pow", "Concat", "MatMul", "Einsum", "And", "Or", "Xor", "Where", "Equal",
             "Greater", "Less", "GreaterOrEqual", "LessOrEqual", "Mod"}  # fmt: skip
    operator = model.graph.node[0].op_type
    told = next((count for kind, count in CONSTANT.items() if operator == kind or f"_{kind.lower()}_" in f"{name}_"), None)
    if told is not None:
        return set(names[told:])
    return set(names if operator in equal else names[:1])


def _as(array: Any, dtype: str) -> Any:
    return np.array(array, dtype, order="C")  # ascontiguousarray would give a number an axis


def _arrays(folder: Path, kind: str) -> list[Any]:
    return [_array(path) for path in sorted(folder.glob(f"{kind}_*.pb"), key=lambda p: int(p.stem.split("_")[1]))]


def _array(path: Path) -> Any:
    tensor = onnx.TensorProto()
    tensor.ParseFromString(path.read_bytes())
    return numpy_helper.to_array(tensor)


def sweep(cases: Iterable[Case]) -> list[Outcome]:
    found = []
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for case in cases:
            found.append(outcome(case, Path(folder)))
    return [one for one in found if one.result != "other"]


if __name__ == "__main__":
    chosen = sys.argv[1:] or ["operators"]
    for choice in chosen:
        if choice in ("operators", "models"):
            results = sweep(operator_cases() if choice == "operators" else model_cases())
        else:  # a folder of folders with tests, such as Debian's libonnx-testdata
            inner = sorted(path.parent for path in Path(choice).rglob("model.onnx"))
            results = sweep(case for path in inner for case in folder_cases(path, path.parent.name != "node"))
        for one in results:
            if one.result != "exact":
                sys.stdout.write(f"{one.result} {one.name} {one.why}\n")
        sys.stdout.write(f"{choice}: {Counter(one.result for one in results)}\n")
