"""Compares an import with the file it came from, in ONNX Runtime, and finds the first operator that differs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import fx

from edgeloop_contract.arrays import Array
from edgeloop_contract.errors import ModelError
from edgeloop_exporters.last_bits import is_rounding, several_moved
from edgeloop_exporters.onnx_import.reader import Imported, converted
from edgeloop_exporters.onnx_import.unordered import chooses_rows, difference_of_rows
from edgeloop_exporters.quiet import quiet

__all__ = ["Comparison", "check", "compare", "read_onnx"]

SEED = 0
ROUNDED = 0.01  # of the largest value: what a file of 16-bit numbers loses by itself, over its layers
COUNTS = (1, 2, 5)
MANY = 256  # tokens that nearly every table has, and all bytes
LEAST = 1e-3  # answers that are all smaller, such as a mask of nothing, are compared with this


@dataclass(frozen=True)
class Comparison:
    """The largest difference of each output, relative to that output's largest value."""

    differences: dict[str, float]
    tells: bool = True  # whether the answers differ from each other at all

    @property
    def worst(self) -> float:
        return max(self.differences.values(), default=0.0)


def read_onnx(path: Path, *, sizes: Mapping[str, tuple[int, ...]] | None = None, tolerance: float = 1e-3) -> Imported:
    """Import a float ONNX file of operator set 7 or newer.

    `sizes`: one sample's shape by input, where the file leaves sizes open. The import is compared with ONNX Runtime on random
    samples; a larger difference than `tolerance`, relative to the largest answer, is refused (a hundredth for files that compute
    with 16 bits). Raises ModelError naming operator and
    node, UsageError for open sizes, DataError for a file that is not whole.
    """
    found = converted(path, sizes or {})
    check(found, path, tolerance)
    return found


def check(found: Imported, path: Path, tolerance: float) -> None:
    """Compare on random samples, at several batches where the file allows them. Raises ModelError naming the first operator."""
    generator, tolerance = np.random.default_rng(SEED), max(tolerance, ROUNDED if found.rounds else 0.0)
    if any(port.dtype in ("int32", "int64") for port in found.inputs) and _alike_on_many(found, path, tolerance):
        return
    for count in COUNTS if found.fixed_batch is None else (2,):
        samples = [_samples(generator, port.dtype, (count, *port.shape)) for port in found.inputs]
        compared = compare(found, path, samples)
        if not compared.worst <= tolerance and chooses_rows(path):
            compared = compare(found, path, samples, in_order=False)
        if not compared.worst <= tolerance:
            compared = _without_rounding(compared, found, path, samples, generator)
        if not compared.tells:  # untrained answers, all alike: what lies before them is compared
            compared = Comparison(
                {**compared.differences, "inner": 2 * tolerance * bool(_first_difference(found, path, samples, tolerance))}
            )
        if not compared.worst <= tolerance:
            where = _first_difference(found, path, samples, tolerance)
            raise ModelError(
                f"{path}: the import answers differently by {compared.worst:.2g} of the largest value{where}; pack the file as it"
                " is (edgeloop pack), and report this operator"
            )


def _without_rounding(
    compared: Comparison, found: Imported, path: Path, samples: list[Array], generator: np.random.Generator
) -> Comparison:
    """With 0 for the outputs that differ by no more than the file's own answers do where its inputs' last bits change."""
    plain, *again = (_original(found, path, some, []) for some in (samples, *several_moved(samples, generator)))
    left = {
        port.name: 0.0 if is_rounding(d, (_difference(one[i], plain[i]) for one in again)) else d
        for i, (port, d) in enumerate(zip(found.outputs, compared.differences.values(), strict=True))
    }
    return Comparison(left, compared.tells)


def _alike_on_many(found: Imported, path: Path, tolerance: float) -> bool:
    """Whether whole numbers up to MANY give the same, where the file takes them: of zeros and ones alone, a norm over alike tokens
    divides by next to nothing, and every rounding shows.
    """
    generator = np.random.default_rng(SEED)
    try:
        for count in COUNTS if found.fixed_batch is None else (2,):
            samples = [_samples(generator, port.dtype, (count, *port.shape), MANY) for port in found.inputs]
            with quiet():  # a table of fewer rows is told on stderr too
                compared = compare(found, path, samples)
            if not compared.tells or not compared.worst <= tolerance:
                return False
    except (ModelError, RuntimeError, IndexError):  # a table of fewer rows
        return False
    return True


def compare(found: Imported, path: Path, samples: Sequence[Array], *, in_order: bool = True) -> Comparison:
    """`samples`: (N, *shape) of each input. `in_order`: else rows (N, rows, values) may come in any order.

    Raises ModelError where ONNX Runtime cannot run the file.
    """
    wanted = _original(found, path, samples, [])
    with torch.no_grad():
        made = found.network(*(torch.from_numpy(x) for x in samples))
    answers = made if isinstance(made, tuple) else (made,)
    tells = any(np.ptp(w[np.isfinite(w)].astype(np.float64)) > 0 for w in wanted if w.size and np.isfinite(w).any())
    pairs = [(p.name, a.numpy(), w) for p, a, w in zip(found.outputs, answers, wanted, strict=True)]
    return Comparison({name: _difference(a, w, in_order) for name, a, w in pairs}, tells)


def _difference(found: Array, wanted: Array, in_order: bool = True) -> float:
    a, b = found.astype(np.float64), wanted.astype(np.float64)
    if a.shape != b.shape:
        return float("inf")
    same = (a == b) | (np.isnan(a) & np.isnan(b))  # infinities are equal to themselves
    with np.errstate(invalid="ignore"):
        error = np.where(same, 0.0, np.abs(a - b))
    if not np.isfinite(error).all():
        return float("inf")
    scale = np.abs(b[np.isfinite(b)]).max(initial=0.0)
    rows = None if in_order else difference_of_rows(a, b)
    if rows is not None:
        return rows / max(float(scale), LEAST)
    return float(error.max(initial=0.0) / max(scale, LEAST))


def _samples(generator: np.random.Generator, dtype: str, shape: tuple[int, ...], most: int = 2) -> Array:
    if dtype.startswith("float"):
        return generator.normal(size=shape).astype(np.float32)
    return generator.integers(0, most if dtype.startswith("int") else 2, shape).astype(dtype)


def _original(found: Imported, path: Path, samples: Sequence[Array], more: list[str]) -> list[Array]:
    """The file's answers in ONNX Runtime, of its outputs and of the tensors `more`."""
    import onnx

    from edgeloop_agent.runtimes.onnx import session_of
    from edgeloop_exporters.model_files.reading import content_of

    content = content_of(path)
    if more:
        model = onnx.load_from_string(content)
        known = {output.name for output in model.graph.output}
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in more if name not in known)
        content = model.SerializeToString()
    try:
        session = session_of(content)
    except Exception as error:  # onnxruntime's own types
        raise ModelError(f"{path}: ONNX Runtime cannot open it: {' '.join(str(error).split())[:300]}") from error
    types = {
        i.name: np.float16 if i.type == "tensor(float16)" else np.float64 if i.type == "tensor(double)" else None
        for i in session.get_inputs()
    }
    step = found.fixed_batch or len(samples[0])
    rows: list[list[Any]] = []
    names = [*(port.name for port in found.outputs), *more]
    for start in range(0, len(samples[0]), step):
        fed = {p.name: _padded(x[start : start + step], step) for p, x in zip(found.inputs, samples, strict=True)}
        fed = {name: x.astype(types[name]) if types.get(name) else x for name, x in fed.items()}
        try:
            rows.append(session.run(names, fed))
        except Exception as error:  # onnxruntime's own types
            raise ModelError(f"{path}: ONNX Runtime cannot run it: {' '.join(str(error).split())[:300]}") from error
    count, padded = len(samples[0]), len(rows) * step
    whole = [np.concatenate(parts) if np.ndim(parts[0]) else parts[0] for parts in zip(*rows, strict=True)]
    # Inside, a first axis may be the batch times a length: of such a one nothing is cut.
    return [values[:count] if np.ndim(values) and len(values) == padded else values for values in whole]


def _padded(x: Array, count: int) -> Array:
    return x if len(x) == count else np.concatenate([x, np.repeat(x[-1:], count - len(x), 0)])


class _Recorded(fx.Interpreter):
    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.found: dict[str, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n.meta.get("onnx") and isinstance(result, torch.Tensor):
            self.found[n.meta["onnx"]] = result.numpy()
        return result


def _first_difference(found: Imported, path: Path, samples: Sequence[Array], tolerance: float) -> str:
    """In words; "" where it is not found."""
    recorder = _Recorded(found.network)
    with torch.no_grad():
        recorder.run(*(torch.from_numpy(x) for x in samples))
    names = list(recorder.found)
    try:
        wanted = _original(found, path, samples, names)[len(found.outputs) :]
    except (ModelError, ValueError):
        return ""
    for name, value in zip(names, wanted, strict=True):
        if not _difference(recorder.found[name], value) <= tolerance:
            return f", first at the operator that makes {name!r}"
    return ""
