"""The stage `budget`: narrows the network layer by layer until the target's ceilings hold, and no further."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from edgeloop_contract.errors import UsageError
from edgeloop_pipeline.compression.budget_search import (
    best_of,
    excess,
    flat,
    narrow,
    next_aim,
    straight_line,
    used,
    verdict,
)
from edgeloop_pipeline.recipe.inputs import Inputs
from edgeloop_pipeline.recipe.stage import RUNTIMES, Base
from edgeloop_pipeline.results.compression import Attempt, BudgetLimits, BudgetResult
from edgeloop_pipeline.training.settings import FitSettings, PositiveFloat, PositiveInt

if TYPE_CHECKING:
    from torch import Tensor

    from edgeloop_pipeline.networks.saved_network import Saved

HARM_SAMPLES = 512
TEACHER_SHARE, TEMPERATURE = 0.7, 4.0


@dataclass(frozen=True)
class Budget(Base):
    """Finds each layer's width for the target's ceilings of latency, file, memory and energy; keeps the best attempt."""

    attempts: PositiveInt = 6
    epochs: Annotated[int, msgspec.Meta(ge=0)] = 3  # of distillation after each attempt; a later distill stage trains further
    learning_rate: PositiveFloat = 0.05
    batch: PositiveInt = 128
    round_to: PositiveInt = 8
    seconds: Annotated[float, msgspec.Meta(gt=0)] = 0.5  # to measure each file

    needs = ("network", "teacher")
    gives = ("network",)
    code = RUNTIMES
    libraries = ("torch", "torch-pruning", "numpy", "onnxruntime", "ai-edge-litert")
    uses_target = True
    uses_machine = True

    def __call__(self, inputs: Inputs, out: Path) -> BudgetResult:
        from edgeloop_pipeline.networks import saved_network
        from edgeloop_pipeline.training.scoring import seed_everything

        project = inputs.project
        target = project.recipe.head.target
        limits = BudgetLimits(
            latency_us=target.max_latency_us, bytes=target.max_int8_bytes, ram_bytes=target.max_ram_bytes,
            energy_uj=target.max_energy_uj, accuracy=target.min_accuracy or 0.0,
        )  # fmt: skip
        if limits == BudgetLimits(accuracy=limits.accuracy):
            raise UsageError(
                "stages.budget: the target has no ceiling; give max_latency_us, max_int8_bytes, max_ram_bytes or max_energy_uj"
            )
        seed_everything(project.recipe.head.seed)
        saved = saved_network.load(project, inputs.artefacts["network"])
        search = _Search(self, inputs, saved)
        made: list[tuple[Attempt, Saved]] = []
        fits = used(search.whole, limits) <= 1
        if fits:
            inputs.log("the unchanged network holds its budgets")
        while not fits and len(made) < self.attempts and (aim := next_aim([a for a, _ in made], limits)) is not None:
            made.append(search.attempt(aim, limits, len(made)))
            shares = ", ".join(f"{name} {share:.0%} of its budget" for name, share in excess(made[-1][0], limits).items())
            inputs.log(f"attempt {len(made)}: {made[-1][0].accuracy:.2%}, {shares}")
        no_cheaper = flat([a for a, _ in made], limits)
        made.append((search.whole, saved))  # the best so far, if nothing narrower is cheaper
        attempts = [a for a, _ in made]
        best = best_of(attempts, limits)
        narrowed = made[attempts.index(best)][1]
        saved_network.save(out, narrowed.network, narrowed.structure)
        missed = verdict(best, limits, no_cheaper)
        for line in missed:
            inputs.log(f"missed: {line}")
        sample = saved_network.dry_run(narrowed.network, saved.normalization, project.splits)
        return BudgetResult(
            validation_accuracy=best.accuracy,
            parameters=best.parameters,
            multiply_adds=saved_network.multiply_adds(narrowed.network, sample),
            limits=limits,
            whole=search.whole,
            attempts=attempts,
            kept=attempts.index(best),
            used=excess(best, limits),
            missed=missed,
            layers_measured=len((search.device_latency.profile.table if search.device_latency else search.table).measured),
            latency_of=search.device_latency.profile.machine if search.device_latency else "this machine",
        )


class _Search:
    """The state that attempts share: the latency table, each layer's harm, and the table's error for whole networks."""

    def __init__(self, settings: Budget, inputs: Inputs, saved: Saved) -> None:
        from edgeloop_exporters.latency_table import LatencyTable, layers_of
        from edgeloop_pipeline.compression.device_latency import DeviceLatency
        from edgeloop_pipeline.compression.width_scaling import roots
        from edgeloop_pipeline.networks import saved_network
        from edgeloop_pipeline.tasks.registry import task_for

        self.settings, self.inputs, self.saved = settings, inputs, saved
        head, self.splits = inputs.project.recipe.head, inputs.project.splits
        self.task = task_for(self.splits)
        self.sample: Tensor = saved_network.dry_run(saved.network, saved.normalization, self.splits)
        self.layers = roots(saved.network, self.sample)
        self.harm = self._harms()
        self.with_energy = head.target.max_energy_uj is not None
        self.device_latency, self.table = DeviceLatency.of_target(inputs.project), LatencyTable()
        # Two whole, untrained networks show how far the table and the count of weights are from the shipped files.
        half = self._narrowed(dict.fromkeys(self.layers, 0.5))
        self.whole, at_half = self._measured(saved), self._measured(half)
        alone = [self.table.microseconds(layers_of(s.network, self.sample)) for s in (saved, half) if not self.device_latency]
        if alone:
            self.latency = straight_line((alone[0], self.whole.latency_us), (alone[1], at_half.latency_us))
        weights = [(float(found.parameters), float(found.bytes)) for found in (self.whole, at_half)]
        self.bytes = straight_line(*weights)
        inputs.log(f"{len(self.layers)} groups of layers; whole: {self.whole.latency_us:.0f} µs, {self.whole.bytes:,} B")

    def _narrowed(self, widths: dict[str, float]) -> Saved:
        from edgeloop_pipeline.compression.width_scaling import narrowed

        return narrowed(self.saved, self.sample, widths, self.settings.round_to)

    def _from_table(self, saved: Saved) -> float:
        """The latency of the whole network as the sum of its layers, in µs."""
        from edgeloop_exporters.latency_table import layers_of

        if self.device_latency:
            return self.device_latency.microseconds(saved.network)
        return self.latency(self.table.microseconds(layers_of(saved.network, self.sample)))

    def _harms(self) -> dict[tuple[str, float], float]:
        """The loss that narrowing each layer alone adds, on some validation samples, without training."""
        from edgeloop_pipeline.compression.width_scaling import STEPS
        from edgeloop_pipeline.quantization.diagnosis import some_of
        from edgeloop_pipeline.training.scoring import scores_of

        some = some_of(self.splits.validation, HARM_SAMPLES)

        def loss(saved: Saved) -> float:
            return self.task.judge(scores_of(saved.network, saved.normalization, some), some)[1]

        plain = loss(self.saved)
        return {(layer, share): loss(self._narrowed({layer: share})) - plain for layer in self.layers for share in STEPS[1:]}

    def _estimate(self, saved: Saved, limits: BudgetLimits) -> float:
        """The largest share of a budget that this network would use, estimated by the table."""
        from edgeloop_exporters.arena import peak_bytes
        from edgeloop_pipeline.networks import saved_network
        from edgeloop_pipeline.quantization import quantized_graph

        shares = []
        if limits.latency_us is not None:
            shares.append(self._from_table(saved) / limits.latency_us)
        if limits.energy_uj is not None and self.whole.energy_uj:
            shares.append(self._from_table(saved) / self.whole.latency_us * self.whole.energy_uj / limits.energy_uj)
        if limits.bytes is not None:
            shares.append(self.bytes(saved_network.parameters(saved.network)) / limits.bytes)
        if limits.ram_bytes is not None:
            shares.append(peak_bytes(quantized_graph.folded(saved, self.splits)[0]) / limits.ram_bytes)
        return max(shares)

    def attempt(self, aim: float, limits: BudgetLimits, number: int) -> tuple[Attempt, Saved]:
        """Narrow to the budgets times `aim`, train, quantize, and measure the files."""
        from edgeloop_pipeline.compression.width_scaling import STEPS

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

        from edgeloop_pipeline.networks import saved_network
        from edgeloop_pipeline.training.fit import fit
        from edgeloop_pipeline.training.teacher_cache import ready

        if not self.settings.epochs:
            return
        project = self.inputs.project
        teacher, hard = ready(saved_network.load(project, self.inputs.artefacts["teacher"]).network), self.task.loss()

        def loss(scores: Tensor, labels: Tensor, x: Tensor, autocast: Any) -> Tensor:
            with torch.no_grad(), autocast():
                wanted = teacher(x)
            soft = self.task.imitation(scores, wanted.float(), TEMPERATURE)
            return (1 - TEACHER_SHARE) * hard(scores, labels, x, autocast) + TEACHER_SHARE * soft

        settings = FitSettings(epochs=self.settings.epochs, learning_rate=self.settings.learning_rate, batch=self.settings.batch)
        scratch = self.inputs.scratch / str(number)
        scratch.mkdir(parents=True, exist_ok=True)
        fit(
            saved.network, saved.normalization, self.splits, settings, loss, seed=project.recipe.head.seed, scratch=scratch,
            augment=project.augment, name="budget", log=self.inputs.log, watch=self.inputs.watch,
        )  # fmt: skip

    def _measured(self, saved: Saved) -> Attempt:
        """The cost as int8 files in both runtimes: calibrated, not trained. The latency on a device comes from its table."""
        import torch

        from edgeloop_exporters.arena import peak_bytes
        from edgeloop_pipeline.networks import saved_network
        from edgeloop_pipeline.quantization import quantized_graph, shipped_cost
        from edgeloop_pipeline.training.scoring import scores_of

        splits = self.splits
        graph = quantized_graph.prepare(saved, splits)
        rows = torch.randperm(len(splits.train), generator=torch.Generator().manual_seed(0))[:256].numpy()
        quantized_graph.calibrate(graph, splits.train.values[rows])
        accuracy = self.task.judge(scores_of(graph.module, saved.normalization, splits.validation), splits.validation)[0]
        steps = self.inputs.project.recipe.head.preprocessing
        found = shipped_cost.shipped(saved, graph, splits, steps, self.settings.seconds, self.with_energy)
        return Attempt(
            widths={}, accuracy=accuracy, latency_us=self._from_table(saved) if self.device_latency else found.latency_us,
            bytes=found.bytes, energy_uj=found.energy_uj, ram_bytes=peak_bytes(quantized_graph.folded(saved, splits)[0]),
            parameters=saved_network.parameters(saved.network),
        )  # fmt: skip
