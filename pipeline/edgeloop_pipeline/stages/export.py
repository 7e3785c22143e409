"""Write the ONNX and TFLite files: int8 with one set of scales, and float."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec

from edgeloop_contract.errors import UsageError
from edgeloop_contract.manifest import Precision, Quantization, TensorSpec, Variant
from edgeloop_pipeline.recipe.stage_table import Base, Inputs, Metrics

if TYPE_CHECKING:
    from edgeloop_pipeline.data.types import PreparedSplits

VARIANTS = "variants.json"
Runtime = Literal["onnx", "tflite"]
INT8_ONLY: tuple[Precision, ...] = (Precision.INT8,)
CHECKED_SAMPLES = 16  # of training, as each file is written; verify then takes the whole test set
BOTH: tuple[Precision, ...] = (Precision.INT8, Precision.FLOAT32)


@dataclass(frozen=True)
class Export(Base):
    """One file per runtime and precision. The model takes raw counts: normalisation is inside."""

    runtimes: Annotated[list[Runtime], msgspec.Meta(min_length=1)] = field(default_factory=lambda: ["onnx", "tflite"])
    float32: bool = True
    float16: bool = False  # for GPUs: half the bytes; CPUs compute in float32 all the same
    int8_weights: bool = False  # a quarter of the bytes, float arithmetic: no calibration, and no speed from integers

    needs = ("network", "quantized")
    gives = ("exported",)
    libraries = ("torch", "onnx", "onnxscript", "litert-torch")

    def __call__(self, inputs: Inputs, out: Path) -> Metrics:
        from edgeloop_exporters.convert import takes_counts, to_onnx, to_tflite
        from edgeloop_exporters.file_check import check_file
        from edgeloop_exporters.quantization import output_qparams
        from edgeloop_pipeline.networks import saved_network
        from edgeloop_pipeline.quantization import quantized_graph
        from edgeloop_pipeline.training.scoring import seed_everything

        project = inputs.project
        seed_everything(project.recipe.head.seed)
        splits = project.splits
        saved = saved_network.load(project, inputs.artefacts["network"])
        graph = quantized_graph.load(saved, splits, inputs.artefacts["quantized"])
        float_graph, _ = quantized_graph.folded(saved, splits)
        answer = answer_shape(float_graph)
        counts = saved.front.input_qparams if takes_counts(graph.module, saved.front) else None
        few = splits.train.values[:CHECKED_SAMPLES]
        variants = []
        for runtime in self.runtimes:
            write = to_onnx if runtime == "onnx" else to_tflite
            for precision in BOTH if self.float32 else INT8_ONLY:
                file = f"{runtime}-{precision}.{runtime}"
                inputs.log(f"writing {file}")
                integer = precision == Precision.INT8
                source = graph.module if integer else float_graph
                write(source, saved.front, splits.shape, out / file, quantized=integer)
                check_file((out / file).read_bytes(), runtime, source, saved.front, few, quantized=integer)
                variants.append(variant_of(runtime, precision, file, splits, counts, answer, output_qparams(graph.module)))
            for precision, make in self._lighter(runtime):
                file = f"{runtime}-{precision.value.replace('-', '')}.{runtime}"
                inputs.log(f"writing {file}")
                make(out / f"{runtime}-float32.{runtime}", out / file)
                variants.append(variant_of(runtime, precision, file, splits, counts, answer, output_qparams(graph.module)))
        (out / VARIANTS).write_bytes(msgspec.json.encode(variants, order="sorted"))
        return {"bytes": {v.name: (out / v.file).stat().st_size for v in variants}}

    def _lighter(self, runtime: Runtime) -> list[tuple[Precision, Callable[[Path, Path], None]]]:
        """What is made from the float file."""
        from edgeloop_exporters import light_float

        if (self.float16 or self.int8_weights) and not self.float32:
            raise UsageError("stages.export: float16 and int8_weights are made from the float32 file; set float32: true")
        half, weights = light_float.half_tflite, light_float.int8_weights_tflite
        if runtime == "onnx":
            half, weights = light_float.half_onnx, light_float.int8_weights_onnx
        made: list[tuple[Precision, Callable[[Path, Path], None]]] = []
        if self.float16:
            made.append((Precision.FLOAT16, half))
        if self.int8_weights:
            made.append((Precision.INT8_WEIGHTS, weights))
        return made


def answer_shape(module: Any) -> list[int]:
    """Of one sample's scores."""
    return list(module.graph.output_node().all_input_nodes[0].meta["val"].shape[1:])


def variant_of(
    runtime: Runtime, precision: Precision, file: str, splits: PreparedSplits, counts: tuple[float, int] | None, answer: list[int],
    output: tuple[float, int] | None,
) -> Variant:  # fmt: skip
    """How a device feeds and reads the file. `counts`: the input's scale and zero point where raw counts go in as they are;
    `answer`: the scores' shape; `output`: their scale and uint8 zero point, if they are integers."""
    raw = TensorSpec(dtype=splits.dtype, shape=list(splits.shape))
    scores = TensorSpec(dtype="float32", shape=answer)
    if precision == Precision.INT8 and runtime == "tflite" and output:
        scale, zero_point = output
        scores = TensorSpec(dtype="int8", shape=scores.shape, quantization=Quantization(scale=scale, zero_point=zero_point - 128))
    if precision == Precision.INT8 and counts:
        scale, zero_point = counts
        offset = 128 if runtime == "tflite" else 0
        raw = TensorSpec(
            dtype="int8" if offset else "uint8",
            shape=raw.shape,
            quantization=Quantization(scale=scale, zero_point=zero_point - offset),
        )
    name = f"{runtime}-{precision.value.replace('-', '')}"
    return Variant(name=name, runtime=runtime, precision=precision, file=file, input=raw, output=scores)


def read_variants(folder: Path) -> list[Variant]:
    return msgspec.json.decode((folder / VARIANTS).read_bytes(), type=list[Variant])
