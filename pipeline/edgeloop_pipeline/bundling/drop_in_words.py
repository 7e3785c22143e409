"""Programs that call a drop-in file by the bare runtime, in Python and C++."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

__all__ = ["literal", "programs"]

Given = Sequence[tuple[str, str, Sequence[int]]]  # name, numpy's type and shape of each input
CPP_TYPES = {
    "float32": "float", "float64": "double", "int64": "int64_t", "int32": "int32_t", "int16": "int16_t", "int8": "int8_t",
    "uint8": "uint8_t", "bool": "bool",
}  # fmt: skip
PYTHON = '''"""{title}. pip install onnxruntime numpy"""

import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("drop-in.onnx", providers=["CPUExecutionProvider"])
given = {{  # as the original takes them{how}
{given}
}}
answers = session.run([{outputs}], given)
print(*(answer.shape for answer in answers))
'''
CPP = """// {title}. Build: c++ -std=c++17 drop-in.cpp -lonnxruntime
#include <onnxruntime_cxx_api.h>

#include <cstdint>
#include <iostream>
#include <memory>
#include <vector>

int main() {{
  Ort::Env env(ORT_LOGGING_LEVEL_WARNING, "drop-in");
  Ort::SessionOptions options;
  options.SetIntraOpNumThreads(1);
  Ort::Session session(env, ORT_TSTR("drop-in.onnx"), options);
  auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  std::vector<Ort::Value> given;  // as the original takes them{how}
{given}
  const char* inputs[] = {{{inputs}}};
  const char* outputs[] = {{{outputs}}};
  auto answers = session.Run(Ort::RunOptions{{nullptr}}, inputs, given.data(), given.size(), outputs, {number});
  for (auto& answer : answers) std::cout << answer.GetTensorTypeAndShapeInfo().GetElementCount() << " values\\n";
}}
"""
VALUE = """  std::vector<int64_t> shape{i}{{{sizes}}};
  std::unique_ptr<{kind}[]> x{i}(new {kind}[{count}]());
  given.push_back(Ort::Value::CreateTensor<{kind}>(memory, x{i}.get(), {count}, shape{i}.data(), shape{i}.size()));"""


def literal(name: str) -> str:
    """The name as a text of Python and of C++: it comes from somebody's file, and must not end the text."""
    return json.dumps(name, ensure_ascii=False)


def programs(title: str, given: Given, outputs: Sequence[str], how: str = "") -> dict[str, str]:
    """Their texts by file name. `how`: what more there is to say of the samples."""
    named = {"title": title, "how": f": {how}" if how else "", "outputs": ", ".join(map(literal, outputs))}
    rows = [f"    {literal(name)}: np.zeros({tuple(shape)!r}, np.{_numpy(kind)})," for name, kind, shape in given]
    made = {"drop-in.py": PYTHON.format(**named, given="\n".join(rows))}
    odd = next(((name, kind) for name, kind, _ in given if kind not in CPP_TYPES), None)
    if odd is not None:
        return made | {"drop-in.cpp": f"// {title}: its input {literal(odd[0])} is of {odd[1]}, which C++ has no type for.\n"}
    values = [
        VALUE.format(i=i, sizes=", ".join(map(str, shape)), kind=CPP_TYPES[kind], count=math.prod(shape))
        for i, (_, kind, shape) in enumerate(given)
    ]
    inputs = ", ".join(literal(name) for name, _, _ in given)
    return made | {"drop-in.cpp": CPP.format(**named, given="\n".join(values), inputs=inputs, number=len(outputs))}


def _numpy(kind: str) -> str:
    return "bool_" if kind == "bool" else kind
