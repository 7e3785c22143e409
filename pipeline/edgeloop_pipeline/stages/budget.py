"""Budget: the network is narrowed, layer by layer, until the target's ceilings hold, and no further."""

from __future__ import annotations

import copy
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from edgeloop_contract.errors import ModelError, UsageError
from edgeloop_pipeline.budgeting import Attempt, Limits, best_of, excess, narrow, next_aim, straight_line, verdict
from edgeloop_pipeline.stages import Base, Inputs, Metrics
from edgeloop_pipeline.stages.fitting import Count, FitSettings, Rate

if TYPE_CHECKING:
    from torch import Tensor

    from edgeloop_pipeline.networks import Saved

STEPS = (1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125)
HARM_SAMPLES = 512
TEACHER_SHARE, TEMPERATURE = 0.7, 4.0


@dataclass(frozen=True)
class Budget(Base):
    """Finds each layer's width for the target's max_latency_us, max_int8_bytes and max_ram_bytes; the best so far is kept."""

    attempts: Count = 6
    epochs: Annotated[int, msgspec.Meta(ge=0)] = 3  # of distillation after each; a distill stage behind this one does the rest
    learning_rate: Rate = 0.05
    batch: Count = 128
    round_to: Count = 8
    seconds: Annotated[float, msgspec.Meta(gt=0)] = 0.5  # of measuring each file

    needs = ("network", "teacher")
    gives = ("network",)
    libraries = ("torch", "torch-pruning", "numpy", "onnxruntime", "ai-edge-litert")
    uses_target = True
    uses_machine = True

    def __call__(self, inputs: Inputs, out: Path) -> Metrics:
        from edgeloop_pipeline import networks
        from edgeloop_pipeline.training.scoring import seed_everything

        project = inputs.project
        target = project.recipe.head.target
        limits = Limits(
            latency_us=target.max_latency_us, bytes=target.max_int8_bytes, ram_bytes=target.max_ram_bytes,
            accuracy=target.min_accuracy or 0.0,
        )  # fmt: skip
        if limits == Limits(accuracy=limits.accuracy):
            raise UsageError("stages.budget: the target has no ceiling; give max_latency_us, max_int8_bytes or max_ram_bytes")
        seed_everything(project.recipe.head.seed)
        saved = networks.load(project, inputs.artefacts["network"])
        search = _Search(self, inputs, saved)
        made: list[tuple[Attempt, Saved]] = []
        while len(made) < self.attempts and (aim := next_aim([a for a, _ in made], limits)) is not None:
            made.append(search.attempt(aim, limits, len(made)))
            shares = ", ".join(f"{name} {share:.0%} of its budget" for name, share in excess(made[-1][0], limits).items())
            inputs.log(f"attempt {len(made)}: {made[-1][0].accuracy:.2%}, {shares}")
        attempts = [a for a, _ in made]
        best = best_of(attempts, limits)
        narrowed = made[attempts.index(best)][1]
        networks.save(out, narrowed.network, narrowed.structure)
        missed = verdict(best, limits)
        for line in missed:
            inputs.log(f"missed: {line}")
        sample = networks.dry_run(narrowed.network, saved.front, project.splits)
        return {
            "validation_accuracy": best.accuracy,
            "parameters": best.parameters,
            "multiply_adds": networks.multiply_adds(narrowed.network, sample),
            "limits": msgspec.to_builtins(limits),
            "whole": msgspec.to_builtins(search.whole),
            "attempts": msgspec.to_builtins(attempts),
            "kept": attempts.index(best),
            "used": excess(best, limits),
            "missed": missed,
            "layers_measured": len(search.table.measured),
        }


class _Search:
    """What attempts share: the latency table, each layer's harm, and how far the table is from whole networks."""

    def __init__(self, settings: Budget, inputs: Inputs, saved: Saved) -> None:
        from edgeloop_exporters.latency_table import Table, layers_of
        from edgeloop_pipeline import networks, tasks

        self.settings, self.inputs, self.saved = settings, inputs, saved
        self.splits = inputs.project.splits
        self.task = tasks.of(self.splits)
        self.sample: Tensor = networks.dry_run(saved.network, saved.front, self.splits)
        self.layers = _prunable(saved.network, self.sample)
        self.harm = self._harms()
        self.whole = self._measured(saved)
        inputs.log(f"{len(self.layers)} groups of layers; whole: {self.whole.latency_us:.0f} µs, {self.whole.bytes:,} B")
        self.table = Table()
        # Two whole networks, neither trained, say how far the table and the count of weights are from what ships.
        half = self._narrowed(dict.fromkeys(self.layers, 0.5))
        points = [(saved, self.whole), (half, self._measured(half))]
        alone = [(self.table.microseconds(layers_of(s.network, self.sample)), found.latency_us) for s, found in points]
        weights = [(float(found.parameters), float(found.bytes)) for _, found in points]
        self.latency, self.bytes = straight_line(*alone), straight_line(*weights)

    def _narrowed(self, widths: dict[str, float]) -> Saved:
        from edgeloop_pipeline import networks, pruning

        changed = {name: share for name, share in widths.items() if share < 1}
        network = copy.deepcopy(self.saved.network)
        before = networks.sizes(network)
        if changed:
            wanted = pruning.Channels(1.0, self.settings.round_to, layers=changed, may_do_nothing=True)
            pruning.remove_channels(network, self.sample, wanted)
        changes = {name: sizes for name, sizes in networks.sizes(network).items() if sizes != before[name]}
        structure = msgspec.structs.replace(self.saved.structure, changes={**self.saved.structure.changes, **changes})
        return networks.Saved(network, structure)

    def _harms(self) -> dict[tuple[str, float], float]:
        """Loss that each layer's narrowing adds by itself, on some validation samples, without any training."""
        from edgeloop_pipeline.explaining import some_of
        from edgeloop_pipeline.training.scoring import scores_of

        some = some_of(self.splits.validation, HARM_SAMPLES)

        def loss(saved: Saved) -> float:
            return self.task.judge(scores_of(saved.network, saved.front, some), some)[1]

        plain = loss(self.saved)
        return {(layer, share): loss(self._narrowed({layer: share})) - plain for layer in self.layers for share in STEPS[1:]}

    def _estimate(self, saved: Saved, limits: Limits) -> float:
        """The largest share of a budget that this network would use, by the table."""
        from edgeloop_exporters.arena import peak_bytes
        from edgeloop_exporters.latency_table import layers_of
        from edgeloop_pipeline import networks, quantized

        shares = []
        if limits.latency_us is not None:
            alone = self.table.microseconds(layers_of(saved.network, self.sample))
            shares.append(self.latency(alone) / limits.latency_us)
        if limits.bytes is not None:
            shares.append(self.bytes(networks.parameters(saved.network)) / limits.bytes)
        if limits.ram_bytes is not None:
            shares.append(peak_bytes(quantized.folded(saved, self.splits)[0]) / limits.ram_bytes)
        return max(shares)

    def attempt(self, aim: float, limits: Limits, number: int) -> tuple[Attempt, Saved]:
        """Narrow to the budgets times `aim`, train, quantize, and measure what ships."""
        known: dict[tuple[float, ...], float] = {}

        def cost(widths: dict[str, float]) -> float:
            key = tuple(widths.values())
            if key not in known:
                known[key] = self._estimate(self._narrowed(widths), limits)
            return known[key]

        widths = narrow(self.layers, STEPS, self.harm, cost, aim)
        narrowed = self._narrowed(widths)
        self._train(narrowed, number)
        return msgspec.structs.replace(self._measured(narrowed), widths=widths, aim=aim), narrowed

    def _train(self, saved: Saved, number: int) -> None:
        import torch

        from edgeloop_pipeline import networks
        from edgeloop_pipeline.training.loop import fit
        from edgeloop_pipeline.training.taught import ready

        if not self.settings.epochs:
            return
        project = self.inputs.project
        teacher, hard = ready(networks.load(project, self.inputs.artefacts["teacher"]).network), self.task.loss()

        def loss(scores: Tensor, labels: Tensor, x: Tensor, autocast: Any) -> Tensor:
            with torch.no_grad(), autocast():
                wanted = teacher(x)
            soft = self.task.imitation(scores, wanted.float(), TEMPERATURE)
            return (1 - TEACHER_SHARE) * hard(scores, labels, x, autocast) + TEACHER_SHARE * soft

        settings = FitSettings(epochs=self.settings.epochs, learning_rate=self.settings.learning_rate, batch=self.settings.batch)
        scratch = self.inputs.scratch / str(number)
        scratch.mkdir(parents=True, exist_ok=True)
        fit(
            saved.network, saved.front, self.splits, settings, loss, seed=project.recipe.head.seed, scratch=scratch,
            augment=project.augment, name="budget", log=self.inputs.log,
        )  # fmt: skip

    def _measured(self, saved: Saved) -> Attempt:
        """As int8 files in both runtimes: calibrated, not trained. Latency of the faster, bytes of the larger."""
        import torch

        from edgeloop_agent.measure import best_threads
        from edgeloop_exporters.arena import peak_bytes
        from edgeloop_exporters.convert import takes_counts, to_onnx, to_tflite
        from edgeloop_exporters.quantization import output_qparams
        from edgeloop_pipeline import networks, quantized
        from edgeloop_pipeline.stages.export import Runtime, answer_shape, variant_of
        from edgeloop_pipeline.training.scoring import scores_of

        splits = self.splits
        graph = quantized.prepare(saved, splits)
        rows = torch.randperm(len(splits.train), generator=torch.Generator().manual_seed(0))[:256].numpy()
        quantized.calibrate(graph, splits.train.values[rows])
        accuracy = self.task.judge(scores_of(graph.module, saved.front, splits.validation), splits.validation)[0]
        plain, _ = quantized.folded(saved, splits)
        counts = saved.front.input_qparams if takes_counts(graph.module, saved.front) else None
        latencies, sizes = [], []
        with tempfile.TemporaryDirectory() as folder:
            runtimes: tuple[tuple[Runtime, Any], ...] = (("onnx", to_onnx), ("tflite", to_tflite))
            for runtime, write in runtimes:
                path = Path(folder) / f"model.{runtime}"
                write(graph.module, saved.front, splits.shape, path, quantized=True)
                model, scores = path.read_bytes(), output_qparams(graph.module)
                variant = variant_of(runtime, "int8", path.name, splits, counts, answer_shape(plain), scores)
                latencies.append(best_threads(variant, model, splits.validation.values[:64], self.settings.seconds).latency_us_p50)
                sizes.append(len(model))
        return Attempt(
            widths={}, accuracy=accuracy, latency_us=min(latencies), bytes=max(sizes), ram_bytes=peak_bytes(plain),
            parameters=networks.parameters(saved.network),
        )  # fmt: skip


def _prunable(network: Any, sample: Any) -> list[str]:
    """The first layer of every group of layers whose channels go together, but the answer's."""
    import torch_pruning

    from edgeloop_pipeline.pruning import last_layer

    try:
        pruner = torch_pruning.pruner.BasePruner(
            network, sample, importance=torch_pruning.importance.GroupMagnitudeImportance(), pruning_ratio=0.5,
            ignored_layers=[last_layer(network, sample)],
        )  # fmt: skip
        groups = pruner.DG.get_all_groups(ignored_layers=pruner.ignored_layers, root_module_types=pruner.root_module_types)
        roots = {id(group[0].dep.target.module) for group in groups}
    except Exception as error:  # torch-pruning fails with whatever its graph walk runs into
        why = f"{type(error).__name__}: {error}"
        raise ModelError(f"{type(network).__name__}: cannot be pruned ({why}); leave budget out") from error
    return [name for name, module in network.named_modules() if id(module) in roots]
