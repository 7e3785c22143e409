"""The stage `verify`: tests the shipped files in the shipped runtimes on the full test set."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from edgeloop_contract.manifest import Precision
from edgeloop_pipeline.bundling.file_names import CANARY, DRIFT, GOLDEN, OWN_STEPS
from edgeloop_pipeline.bundling.variants import answers_of, named_outputs, read_variants
from edgeloop_pipeline.recipe.inputs import Inputs
from edgeloop_pipeline.recipe.stage import RUNTIMES, Base
from edgeloop_pipeline.results.files import Parity, VerifiedFile, VerifyResult
from edgeloop_pipeline.training.settings import PositiveInt

if TYPE_CHECKING:
    from edgeloop_contract.arrays import Array
    from edgeloop_pipeline.data.types import Samples
    from edgeloop_pipeline.recipe.settings import Target
    from edgeloop_pipeline.stages.floors import FloatNetwork
    from edgeloop_pipeline.tasks.registry import Task


@dataclass(frozen=True)
class Verify(Base):
    """Measures accuracy with intervals, parity in LSB, and integer kernels; a missed floor fails the run."""

    layer_samples: PositiveInt = 32  # for the comparison layer by layer
    canary_samples: PositiveInt = 32  # validation samples that go into the bundle

    needs = ("network", "quantized", "exported")
    gives = ("verified",)
    code = RUNTIMES
    libraries = ("torch", "onnxruntime", "ai-edge-litert")
    uses_target = True
    uses_history = True

    def __call__(self, inputs: Inputs, out: Path) -> VerifyResult:
        from edgeloop_exporters import parity
        from edgeloop_pipeline.networks import saved_network
        from edgeloop_pipeline.quantization import quantized_graph
        from edgeloop_pipeline.stages import floors
        from edgeloop_pipeline.tasks.registry import metric_name, task_for
        from edgeloop_pipeline.training.scoring import moved_scores, scores_of, seed_everything

        project, splits = inputs.project, inputs.project.splits
        seed_everything(project.recipe.head.seed)
        saved = saved_network.load(project, inputs.artefacts["network"])
        graph = quantized_graph.load(saved, splits, inputs.artefacts["quantized"])
        task = task_for(splits)
        reference = scores_of(graph.module, saved.normalization, splits.test).numpy()
        on_validation = scores_of(graph.module, saved.normalization, splits.validation).numpy()
        stages, measured = _float_networks(inputs, task)
        float_accuracy = stages[list(stages)[-1]]
        stages["quantize"] = task.estimate(reference, splits.test)
        scores, files = _files(inputs, task, quantized_graph.left_in_float(graph), quantized_graph.float_anyway(graph))
        of_tensorrt = sorted(v.name for v in read_variants(inputs.artefacts["exported"]) if v.provider)
        integer = {n: scores[n] for n, file in files.items() if file.precision == Precision.INT8 and n not in of_tensorrt}
        classes = splits.task == "classification"
        agreements = parity.agreement({"torch": reference, **integer}, parity_steps(graph), classes)
        symmetric = quantized_graph.load_symmetric(saved, splits, inputs.artefacts["quantized"])
        if symmetric is not None:
            own = scores_of(symmetric.module, saved.normalization, splits.test).numpy()
            around_zero = {"torch, symmetric": own} | {name: scores[name] for name in of_tensorrt}
            agreements += parity.agreement(around_zero, parity_steps(symmetric), classes)
            if classes:
                files |= {name: _against(files, scores, name, splits.test) for name in of_tensorrt}
                for name in of_tensorrt:
                    inputs.log(f"{name}: {files[name].lost_in_words}")
        moved = None
        if not splits.is_labelled and splits.dtype == "uint8":  # a picture that a camera codes again changes by more
            moved = task.estimate(moved_scores(saved.network, saved.normalization, splits.test).numpy(), splits.test)
        figures = task.details(next(iter(integer.values())), splits.test, on_validation)
        result = VerifyResult(
            **msgspec.structs.asdict(figures),
            float_accuracy=float_accuracy,
            best_float=stages[floors.best(measured).stage],
            chance=task.chance(splits.test),
            allowed_lsb=floors.allowed_lsb(project.recipe.head.target, len(graph.plan.points)),
            stages=stages,
            variants=files,
            parity=Parity(
                max_lsb=max(a.max_lsb for a in agreements),
                top1_share=min((a.top1_share for a in agreements if a.top1_share is not None), default=None),
                pairs=agreements,
                layers=self._layers(inputs, graph, symmetric),
                layers_note="TFLite's layers are compared with its own kernels (XNNPACK hides its inner tensors)",
            ),
            metric=metric_name(splits.task, splits.measure),
            failures=[],
            moved=moved,
        )
        failures = _failures(project.recipe.head.target, result, measured, len(graph.plan.points))
        result = msgspec.structs.replace(result, failures=failures)
        self._canary(inputs, graph, symmetric, on_validation, out)
        if splits.dtype == "int32":
            inputs.log("drift: is not watched, because token ids have no distance from each other")
        else:
            self._drift(inputs, task.described(figures), on_validation, graph, saved.normalization, out)
        (out / "verify.json").write_bytes(msgspec.json.encode(result))
        return result

    def _layers(self, inputs: Inputs, graph: Any, symmetric: Any) -> list[Any]:
        """Compares every int8 file with torch, layer by layer."""
        from edgeloop_exporters import parity

        exported, rows = inputs.artefacts["exported"], []
        samples = inputs.project.splits.test.values[: self.layer_samples]
        for variant in read_variants(exported):
            if variant.precision == Precision.INT8:
                model, own = (exported / variant.file).read_bytes(), symmetric if variant.provider else graph
                layer_of = {p.name: p.layer for p in own.plan.points}
                rows += parity.layers(own.module, layer_of, graph.normalization, samples, variant.runtime, model)
        return rows

    def _drift(self, inputs: Inputs, task: Any, on_validation: Any, graph: Any, normalization: Any, out: Path) -> None:
        """Calibrates the drift monitor on the quantized network's scores for validation samples."""
        from edgeloop_pipeline.drift import calibration
        from edgeloop_pipeline.training.scoring import scores_of

        splits = inputs.project.splits
        if inputs.project.texts:
            names = ", ".join(sorted(inputs.project.texts))
            inputs.log(f"drift: texts ({names}) are not watched, because token ids have no distance from each other; the rest is")
        pools = {"validation": (splits.validation, on_validation)}
        if calibration.too_few(splits.validation.groups, splits.validation.recording):
            inputs.log("drift: validation has too few groups or recordings, so training samples are used too")
            pools["train"] = (splits.train, scores_of(graph.module, normalization, splits.train).numpy())
        pools = {name: (samples, answers_of(scores, splits)) for name, (samples, scores) in pools.items()}
        outputs = named_outputs(read_variants(inputs.artefacts["exported"])[0])
        reference = calibration.of_bundle(
            task, pools, labelled=not splits.measure, outputs=outputs, inputs=splits.inputs, texts=inputs.project.texts
        )
        told = calibration.rarest_told(reference.samples, reference.recordings)
        rarer = f"; rates below {told:.0f} false alarms in 10,000 samples are extrapolated from these" if told else ""
        inputs.log(f"drift: the reference is {reference.samples} samples in {reference.recordings} recordings{rarer}")
        (out / DRIFT).write_bytes(msgspec.json.encode(reference))

    def _canary(self, inputs: Inputs, graph: Any, symmetric: Any, on_validation: Any, out: Path) -> None:
        """The canary: a few evenly spread validation samples, with the scores of the quantized reference, and of each file that has
        other numbers: float files, and the one for TensorRT.
        """
        import numpy as np

        from edgeloop_agent.runtimes import open_runtime
        from edgeloop_exporters.file_tensors import file_scores
        from edgeloop_exporters.quantization import output_steps
        from edgeloop_pipeline.bundling.canary import canary_rows

        splits, exported = inputs.project.splits, inputs.artefacts["exported"]
        validation, rows = splits.validation, canary_rows(splits, self.canary_samples)
        golden: dict[str, Any] = {
            GOLDEN + v.name: answers_of(
                file_scores(open_runtime(v, (exported / v.file).read_bytes()), v, validation.values[rows], splits.inputs), splits
            )
            for v in read_variants(exported) if v.precision != Precision.INT8 or v.provider
        }  # fmt: skip
        if symmetric is not None:
            golden |= {OWN_STEPS + v.name: output_steps(symmetric.module) for v in read_variants(exported) if v.provider}
        if not inputs.project.splits.measure:  # else nobody labelled them
            golden["labels"] = validation.labels[rows]
        np.savez(
            out / CANARY, inputs=validation.values[rows], scores=answers_of(on_validation[rows], splits),
            validation_scores=answers_of(on_validation, splits), steps=output_steps(graph.module), **golden,
        )  # fmt: skip


def _failures(target: Target, result: VerifyResult, measured: list[FloatNetwork], points: int) -> list[str]:
    """A sentence for every missed floor."""
    from edgeloop_exporters.parity import first_difference
    from edgeloop_pipeline.stages import floors

    rows = result.parity.layers
    first = first_difference(rows, result.allowed_lsb) or first_difference(rows, 0)
    where = f"; the first layer to differ is {first.layer or first.point} on {first.runtime}" if first else ""
    files = [
        floors.File(name, file.precision == Precision.INT8, file.accuracy.value, file.bytes)
        for name, file in result.variants.items()
    ]
    pairs = [floors.Pair(p.a, p.b, p.max_lsb, 1.0 if p.top1_share is None else p.top1_share, where) for p in result.parity.pairs]
    return floors.failures(target, result.metric, measured, files, pairs, result.chance, points)


def _float_networks(inputs: Inputs, task: Task) -> tuple[dict[str, Any], list[FloatNetwork]]:
    """Every stage that made a float network: its estimate on test samples, and its measure on validation samples."""
    from edgeloop_pipeline.networks import saved_network
    from edgeloop_pipeline.stages import floors
    from edgeloop_pipeline.training.scoring import scores_of

    splits = inputs.project.splits
    stages, measured = {}, []
    for name, folder in inputs.holding(saved_network.WEIGHTS):
        made = saved_network.load(inputs.project, folder)
        stages[name] = task.estimate(scores_of(made.network, made.normalization, splits.test).numpy(), splits.test)
        validation = task.judge(scores_of(made.network, made.normalization, splits.validation), splits.validation)[0]
        measured.append(floors.FloatNetwork(name, validation, stages[name].value))
    return stages, measured


def _files(inputs: Inputs, task: Task, float_layers: int, decoding: int) -> tuple[dict[str, Array], dict[str, VerifiedFile]]:
    """Runs every shipped file in its runtime on the full test set: its scores and its figures."""
    from edgeloop_agent.runtimes import open_runtime, version_of
    from edgeloop_exporters import kernels
    from edgeloop_exporters.file_tensors import file_scores
    from edgeloop_pipeline.training.scoring import in_batches

    test, exported = inputs.project.splits.test, inputs.artefacts["exported"]
    scores, files = {}, {}
    for variant in read_variants(exported):
        model = (exported / variant.file).read_bytes()
        inputs.log(f"{variant.name}: {len(test)} test samples on {version_of(variant.runtime)}")
        runtime = open_runtime(variant, model)
        run = partial(file_scores, runtime, variant, inputs=inputs.project.splits.inputs)
        scores[variant.name] = in_batches(run, test.values)
        own = scores[variant.name]
        if variant.states:  # on a device it works with states of its own: their errors add up over a recording
            own = file_scores(runtime, variant, test.values, inputs.project.splits.inputs, test.recording)
        counted = kernels.count(variant, model)
        files[variant.name] = VerifiedFile(
            runtime=runtime.description,
            format=variant.runtime,
            precision=variant.precision,
            accuracy=task.estimate(own, test),
            bytes=len(model),
            kernels=counted,
            slow_because=[f"it is made for {variant.provider}; the CPU computes it in floats"]
            if variant.provider
            else kernels.reasons(counted, variant.precision == Precision.INT8, float_layers, decoding),
        )
    return scores, files


def _against(files: dict[str, VerifiedFile], scores: dict[str, Array], name: str, test: Samples) -> VerifiedFile:
    """The file, with what it lost against the usual int8 file of its runtime, where there is one."""
    from edgeloop_pipeline.tasks.confidence_intervals import bootstrap, share

    mine = files[name]
    usual = next((n for n, f in files.items() if n != name and (f.format, f.precision) == (mine.format, Precision.INT8)), None)
    if usual is None:
        return mine
    right = [(scores[each].argmax(1) == test.labels).astype(float) for each in (usual, name)]
    return msgspec.structs.replace(mine, lost=bootstrap(share(right[0] - right[1]), test.recording))


def parity_steps(graph: Any) -> Any:
    """One LSB of each quantized score: (total,), in the order of the outputs."""
    from edgeloop_exporters.named_outputs import steps_along
    from edgeloop_exporters.outputs import outputs_of
    from edgeloop_exporters.quantization import output_steps

    return steps_along(output_steps(graph.module), outputs_of(graph.module))
