"""The stage `export`: writes the ONNX and TFLite files, int8 with one set of scales, and float."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec

from edgeloop_contract.arrays import Array
from edgeloop_contract.errors import ModelError, UsageError
from edgeloop_contract.manifest import Precision, Runtime, Variant
from edgeloop_pipeline.bundling.variants import TENSORRT, VARIANTS, variant_of
from edgeloop_pipeline.recipe.inputs import Inputs
from edgeloop_pipeline.recipe.stage import RUNTIMES, Base
from edgeloop_pipeline.results.files import ExportResult

if TYPE_CHECKING:
    from edgeloop_pipeline.data.types import PreparedSplits
    from edgeloop_pipeline.quantization.quantized_graph import Graph

INT8_ONLY: tuple[Precision, ...] = (Precision.INT8,)
CHECKED_SAMPLES = 16  # training samples that check each file at once; verify then uses the whole test set
BOTH: tuple[Precision, ...] = (Precision.INT8, Precision.FLOAT32)


@dataclass(frozen=True)
class Export(Base):
    """Writes one file per runtime and precision. The models take raw counts: input normalization is inside.

    Each file says what it means: task, labels, preprocessing, name and version (docs/model-files.md).
    """

    runtimes: Annotated[list[Runtime], msgspec.Meta(min_length=1)] = field(default_factory=lambda: ["onnx", "tflite"])
    float32: bool = True
    float16: bool = False  # for GPUs: half the bytes; CPUs still compute in float32
    int8_weights: bool = False  # a quarter of the bytes, float arithmetic: no calibration, but not faster
    drop_in: bool = False  # of an imported model: also an ONNX file with the original's input and output

    needs = ("network", "quantized")
    gives = ("exported",)
    code = RUNTIMES
    libraries = ("torch", "onnx", "onnxscript", "litert-torch")

    def __call__(self, inputs: Inputs, out: Path) -> ExportResult:
        from edgeloop_exporters.convert import takes_counts, to_onnx, to_tflite
        from edgeloop_exporters.file_check import check_file
        from edgeloop_exporters.file_tensors import output_specs
        from edgeloop_pipeline.bundling.file_metadata import metadata_of, stamped
        from edgeloop_pipeline.networks import saved_network
        from edgeloop_pipeline.quantization import quantized_graph
        from edgeloop_pipeline.training.scoring import seed_everything

        project = inputs.project
        seed_everything(project.recipe.head.seed)
        splits = project.splits
        saved = saved_network.load(project, inputs.artefacts["network"])
        graph = quantized_graph.load(saved, splits, inputs.artefacts["quantized"])
        float_graph, _ = quantized_graph.folded(saved, splits)
        counts = saved.normalization.input_qparams if takes_counts(graph.module, saved.normalization) else None
        few = splits.train.values[:CHECKED_SAMPLES]
        variants = []
        for runtime in self.runtimes:
            write = to_onnx if runtime == "onnx" else to_tflite
            for precision in BOTH if self.float32 else INT8_ONLY:
                file = f"{runtime}-{precision}.{runtime}"
                inputs.log(f"writing {file}")
                integer = precision == Precision.INT8
                source = graph.module if integer else float_graph
                write(source, saved.normalization, splits.shape, out / file, quantized=integer)
                check_file((out / file).read_bytes(), runtime, source, saved.normalization, few, quantized=integer)
                variants.append(variant_of(runtime, precision, file, splits, counts, output_specs(source, runtime, integer)))
            for precision, make in self._lighter(runtime):
                file = f"{runtime}-{precision.value.replace('-', '')}.{runtime}"
                inputs.log(f"writing {file}")
                make(out / f"{runtime}-float32.{runtime}", out / file)
                variants.append(variant_of(runtime, precision, file, splits, counts, output_specs(float_graph, runtime, False)))
        if (symmetric := quantized_graph.load_symmetric(saved, splits, inputs.artefacts["quantized"])) is not None:
            variants.append(self._symmetric(symmetric, splits, few, out, inputs.log))
        head = project.recipe.head
        if self.drop_in:
            inputs.log(self._drop_in(inputs, out, few))
        metadata = metadata_of(splits, head.preprocessing, head.name, head.version)
        for variant in variants:  # at last: the lighter files are made from the plain one
            path, quantized = out / variant.file, variant.precision == Precision.INT8 and not variant.provider
            path.write_bytes(stamped(path.read_bytes(), variant.runtime, metadata, splits.shape, counts if quantized else None))
        (out / VARIANTS).write_bytes(msgspec.json.encode(variants, order="sorted"))
        return ExportResult({v.name: (out / v.file).stat().st_size for v in variants}, {v.name: v.precision for v in variants})

    def _symmetric(self, graph: Graph, splits: PreparedSplits, samples: Array, out: Path, log: Callable[[str], None]) -> Variant:
        """Writes the file for TensorRT. Raises ModelError where TensorRT's parser would refuse it."""
        from edgeloop_exporters.convert import to_onnx
        from edgeloop_exporters.file_check import check_file
        from edgeloop_exporters.file_tensors import output_specs
        from edgeloop_exporters.tensorrt_rules import violations

        if "onnx" not in self.runtimes:
            raise UsageError("stages.quantize: symmetric makes an ONNX file; add onnx to export.runtimes, or leave it out")
        outputs = output_specs(graph.module, "onnx", True)
        variant = variant_of("onnx", Precision.INT8, "onnx-int8-symmetric.onnx", splits, None, outputs, TENSORRT)
        log(f"writing {variant.file}")
        path = out / variant.file
        to_onnx(graph.module, graph.normalization, splits.shape, path, quantized=True)
        content = path.read_bytes()
        check_file(content, "onnx", graph.module, graph.normalization, samples, quantized=True)
        for found in (broken := violations(content)):
            log(f"TensorRT: {found}")
        if refused := [found for found in broken if found.rule.kind == "refused"]:
            raise ModelError(f"{variant.file}: TensorRT would refuse it: {refused[0]}; leave quantize.symmetric out")
        return variant

    def _drop_in(self, inputs: Inputs, out: Path, samples: Array) -> str:
        from edgeloop_pipeline.bundling.drop_in import drop_in

        recipe = inputs.project.recipe
        head = recipe.head
        if head.imported is None or head.normalize is None or "onnx" not in self.runtimes:
            raise UsageError("stages.export: drop_in is for `imported` models, with onnx among the runtimes; leave it out")
        small = (out / f"onnx-{Precision.INT8}.onnx").read_bytes()
        return drop_in(out, small, head.imported, head.normalize, samples, recipe.path.parent, head.name, head.version)

    def _lighter(self, runtime: Runtime) -> list[tuple[Precision, Callable[[Path, Path], None]]]:
        """The variants that are made from the float file."""
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
