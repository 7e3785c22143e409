"""The stage `cascade`: a second bundle with a larger network for the server, and the confidence below which devices ask it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec

from edgeloop_contract.arrays import evenly_spaced_rows
from edgeloop_contract.errors import UsageError
from edgeloop_pipeline.bundling.file_names import CASCADE
from edgeloop_pipeline.recipe.inputs import Inputs
from edgeloop_pipeline.recipe.stage import RUNTIMES, Base
from edgeloop_pipeline.results.files import CascadePoint, CascadeResult, CascadeTest, VerifyResult

if TYPE_CHECKING:
    from edgeloop_contract.arrays import Array
    from edgeloop_pipeline.networks.saved_network import Saved

CANARY_SAMPLES = 8
Fraction01 = Annotated[float, msgspec.Meta(ge=0, le=1)]


@dataclass(frozen=True)
class Cascade(Base):
    """Chooses the confidence threshold on validation data alone, and reports its effect on the test set.

    `large`: the stage that made the large network, such as the teacher's. `max_loss`: accuracy that may be lost against it, at 95 %
    confidence; if validation data cannot show this, `max_share` is used up. `max_share`: the share of samples that may be
    sent, also at 95 % confidence.
    """

    large: str = "train"
    max_loss: Fraction01 = 0.002
    max_share: Fraction01 = 0.15

    needs = ("network", "quantized", "verified")
    gives = ("cascade",)
    code = RUNTIMES
    libraries = ("torch", "onnx", "onnxscript")
    uses_history = True

    def __call__(self, inputs: Inputs, out: Path) -> CascadeResult:

        from edgeloop_contract import manifest
        from edgeloop_pipeline.networks import saved_network
        from edgeloop_pipeline.offload import cascade_threshold
        from edgeloop_pipeline.quantization import quantized_graph
        from edgeloop_pipeline.training.scoring import scores_of

        project, splits = inputs.project, inputs.project.splits
        if splits.task != "classification":
            raise UsageError("stages.cascade: only a classification has a confidence; leave this stage out")
        folder = next((f for name, f in inputs.holding(saved_network.WEIGHTS) if name == self.large), None)
        if folder is None:
            raise UsageError(f"stages.cascade.large: no stage {self.large!r} makes a network before this one")
        saved = saved_network.load(project, folder)
        graph = quantized_graph.load(
            saved_network.load(project, inputs.artefacts["network"]), splits, inputs.artefacts["quantized"]
        )
        small = [scores_of(graph.module, graph.normalization, s).numpy() for s in (splits.validation, splits.test)]
        large = [scores_of(saved.network, saved.normalization, s).numpy() for s in (splits.validation, splits.test)]
        alone = [float((s.argmax(axis=1) == splits.validation.labels).mean()) for s in (small[0], large[0])]
        points = cascade_threshold.curve(small[0], large[0], splits.validation.labels)
        point = cascade_threshold.chosen(points, self.max_loss, self.max_share)
        tested = cascade_threshold.at(point.threshold, small[1], large[1], splits.test.labels)
        path = self._bundle(inputs, saved, large[0], out)
        described = manifest.Cascade(
            model=path[0], sha256=path[1], threshold=point.threshold, share=point.share, accuracy=point.accuracy, small=alone[0],
            large=alone[1],
        )  # fmt: skip
        (out / CASCADE).write_bytes(msgspec.json.encode(described))
        few = [points[i] for i in evenly_spaced_rows(len(points), 50)]
        test_alone = [float((s.argmax(axis=1) == splits.test.labels).mean()) for s in (small[1], large[1])]
        inputs.log(
            f"test: {test_alone[0]:.2%} alone, {tested.accuracy:.2%} with {tested.share:.1%} sent, {test_alone[1]:.2%} with all"
            f" of them; threshold {point.threshold:.3f}"
        )
        file = f"{path[0]}-{project.recipe.head.version}.edgeloop"
        return CascadeResult(
            bundle=file, sha256=path[1], bytes=(out / file).stat().st_size, threshold=point.threshold,
            validation=CascadePoint(point.share, point.accuracy),
            test=CascadeTest(tested.share, tested.accuracy, test_alone[0], test_alone[1]),
            trade_off=[(p.share, p.accuracy) for p in few],
        )  # fmt: skip

    def _bundle(self, inputs: Inputs, saved: Saved, on_validation: Array, out: Path) -> tuple[str, str]:
        """Write the large network as a second bundle. Returns its name and digest."""

        from edgeloop_agent.bench.measure import best_threads
        from edgeloop_contract import archive, manifest
        from edgeloop_exporters.convert import to_onnx
        from edgeloop_pipeline.bundling.canary import GOLDEN_STEPS, canary_set, golden_step
        from edgeloop_pipeline.bundling.contents import inputs_of, provenance_of, reference_of
        from edgeloop_pipeline.quantization import quantized_graph
        from edgeloop_pipeline.tasks.registry import task_for
        from edgeloop_pipeline.training.scoring import scores_of

        project, head, splits = inputs.project, inputs.project.recipe.head, inputs.project.splits
        task = task_for(splits)
        name, file = f"{head.name}-large", "models/onnx-float32.onnx"
        graph, _ = quantized_graph.folded(saved, splits)
        to_onnx(graph, saved.normalization, splits.shape, out / "large.onnx", quantized=False)
        files = {file: (out / "large.onnx").read_bytes()}
        (out / "large.onnx").unlink()
        validation = splits.validation
        rows = evenly_spaced_rows(len(validation), CANARY_SAMPLES)
        golden_inputs, scores = validation.values[rows], on_validation[rows]
        step = golden_step(scores)
        variant = manifest.Variant(
            name="onnx-float32", runtime="onnx", precision=manifest.Precision.FLOAT32, file=file,
            inputs=[inputs_of(project)[0].sample],
            outputs=[manifest.TensorSpec(dtype="float32", shape=list(on_validation.shape[1:]))],
        )  # fmt: skip
        cost = best_threads(variant, files[file], golden_inputs, 0.3)
        accuracy = task.estimate(scores_of(saved.network, saved.normalization, splits.test).numpy(), splits.test)
        verified = inputs.required("verify", VerifyResult)
        canary = canary_set(
            golden_inputs, scores, validation.labels[rows], steps=[step], max_steps=GOLDEN_STEPS, golden={variant.name: None}
        )
        files |= canary.files
        made = manifest.Manifest(
            schema=manifest.SCHEMA, name=name, version=head.version, task=task.described(verified), inputs=inputs_of(project),
            variants=[msgspec.structs.replace(variant, cost=cost, accuracy=accuracy)],
            files=archive.describe(files), provenance=provenance_of(project), drift_reference=reference_of(splits, {}),
            canary=canary.description,
            model_card=f"The larger network behind {head.name}: what its devices ask when their confidence is low.",
        )  # fmt: skip
        path = out / f"{name}-{head.version}.edgeloop"
        archive.write(path, made, files)
        with archive.Bundle.open(path) as bundle:
            return name, bundle.sha256
