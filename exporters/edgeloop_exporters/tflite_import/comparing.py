"""Compares a translated TFLite file with the file itself, in LiteRT, tensor by tensor."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgeloop_contract.arrays import Array
from edgeloop_contract.errors import DeviceError, ModelError
from edgeloop_exporters.last_bits import is_rounding, several_moved
from edgeloop_exporters.tflite_import.reading import PACK, Translated, translated
from edgeloop_exporters.tflite_import.writing import TO_LAST

__all__ = ["Difference", "compare", "to_onnx"]

SAMPLES, SEED = 3, 0
LARGE = 1e-3  # a difference that is looked into
LEAST = 1e-4  # values that are all smaller are compared with this


@dataclass(frozen=True)
class Difference:
    """The largest one that rounding does not explain, relative to its tensor's largest value.

    `first`: the first tensor that differs by more than a thousandth.
    """

    worst: float
    first: str = ""


def to_onnx(path: Path, *, tolerance: float = 1e-3) -> Any:
    """A float TFLite file as an onnx.ModelProto with the same names, shapes (channels last) and order of inputs and outputs.

    Every tensor is compared with LiteRT's on random samples; a larger difference than `tolerance`, relative to the tensor's largest
    value, is refused. Raises ModelError naming the operator that cannot be imported or that differs, DataError for a file that is
    not whole, DeviceError without LiteRT.
    """
    found = translated(path)
    difference = compare(found, path)
    if not difference.worst <= tolerance:
        where = f", first in tensor {difference.first!r}" if difference.first else ""
        raise ModelError(
            f"{path}: the import answers differently by {difference.worst:.2g} of the largest value{where}; {PACK}, and report this"
            " file"
        )
    return found.model


def compare(found: Translated, path: Path) -> Difference:
    """On random samples. Raises ModelError where one of the runtimes cannot run its file."""
    try:
        from ai_edge_litert.interpreter import Interpreter, OpResolverType
    except ImportError as error:
        raise DeviceError(f"{path}: a TFLite file is compared in LiteRT: pip install 'edgeloop[tflite]'") from error
    from edgeloop_agent.runtimes.onnx import session_of

    try:
        session = session_of(_with_outputs(found).SerializeToString())
        # Without a delegate and with all tensors kept: what stands between operators can be read.
        runtime = Interpreter(
            model_content=found.content, num_threads=1, experimental_preserve_all_tensors=True,
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        )  # fmt: skip
        runtime.allocate_tensors()
    except Exception as error:  # the runtimes' own types
        raise ModelError(f"{path}: a runtime cannot open it: {' '.join(str(error).split())[:300]}; {PACK}") from error
    names = {detail["index"]: detail["name"] for detail in runtime.get_tensor_details()}
    generator, worst, first = np.random.default_rng(SEED), 0.0, ""
    for _ in range(SAMPLES):
        given = [_sample(generator, entry["dtype"], tuple(entry["shape"])) for entry in runtime.get_input_details()]
        ours, theirs = _tensors(found, session, runtime, given, path)
        differences = {number: _difference(values, theirs[number]) for number, values in ours.items()}
        if not max(differences.values(), default=0.0) <= LARGE:
            again = [_ours(found, session, runtime, other) for other in several_moved(given, generator)]
            differences = {
                number: 0.0 if is_rounding(d, (_difference(one[number], ours[number]) for one in again)) else d
                for number, d in differences.items()
            }
        first = first or next((names.get(number, "") for number, d in differences.items() if not d <= LARGE), "")
        worst = max(worst, *differences.values())
    return Difference(worst, first)


def _tensors(
    found: Translated, session: Any, runtime: Any, given: list[Array], path: Path
) -> tuple[dict[int, Array], dict[int, Array]]:  # fmt: skip
    """Of one sample, by the tensor's number: our values, and LiteRT's. Raises ModelError where one of the two cannot run."""
    try:
        for entry, values in zip(runtime.get_input_details(), given, strict=True):
            runtime.set_tensor(entry["index"], values)
        runtime.invoke()
        ours = _ours(found, session, runtime, given)
        return ours, {number: runtime.get_tensor(number) for number in ours}
    except Exception as error:  # the runtimes' own types
        raise ModelError(f"{path}: a runtime cannot run it: {' '.join(str(error).split())[:300]}; {PACK}") from error


def _ours(found: Translated, session: Any, runtime: Any, given: list[Array]) -> dict[int, Array]:
    """Tensors between operators, then the outputs, each channels last as in the file."""
    inner, outputs = list(found.made.items()), [output.name for output in found.model.graph.output]
    inputs = dict(zip((i.name for i in found.model.graph.input), given, strict=True))
    made = session.run([*(name for _, (name, _) in inner), *outputs], inputs)
    rows = {
        number: values.transpose(TO_LAST) if first else values for (number, (_, first)), values in zip(inner, made, strict=False)
    }
    return rows | {int(a["index"]): values for a, values in zip(runtime.get_output_details(), made[len(inner) :], strict=True)}


def _with_outputs(found: Translated) -> Any:
    import onnx

    model = onnx.ModelProto()
    model.CopyFrom(found.model)
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name, _ in found.made.values())
    return model


def _sample(generator: np.random.Generator, dtype: Any, shape: tuple[int, ...]) -> Array:
    if np.issubdtype(dtype, np.floating):
        return generator.normal(size=shape).astype(dtype)
    return generator.integers(0, 2, shape).astype(dtype)


def _difference(found: Array, wanted: Array) -> float:
    a, b = found.astype(np.float64), wanted.astype(np.float64)
    if a.shape != b.shape or not (np.isfinite(a) == np.isfinite(b)).all():
        return float("inf")
    whole = np.isfinite(b)
    return float(np.abs(a - b)[whole].max(initial=0.0) / max(np.abs(b[whole]).max(initial=0.0), LEAST))
