"""Structured channel pruning: whole channels go, so that the network is smaller and faster on any runtime."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec

from edgeloop_contract.errors import ModelError
from edgeloop_pipeline.stages import Base, Inputs, Metrics
from edgeloop_pipeline.stages.fitting import Count, FitSettings


@dataclass(frozen=True)
class Prune(Base):
    """Remove the channels of least weight norm, in the groups that must go together (DepGraph, Fang et al. 2023)."""

    keep: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.5  # share of each group's channels
    round_to: Count = 8  # channel counts that integer kernels like: odd ones can be slower than not pruning
    epochs: Annotated[int, msgspec.Meta(ge=0)] = 0  # recovery training; distill does better when it follows
    learning_rate: Annotated[float, msgspec.Meta(gt=0)] = 0.05
    batch: Count = 128

    needs = ("network",)
    gives = ("network",)
    libraries = ("torch", "torch-pruning", "numpy")
    collective = True

    def __call__(self, inputs: Inputs, out: Path) -> Metrics:
        from edgeloop_pipeline import networks, tasks
        from edgeloop_pipeline.training.loop import fit
        from edgeloop_pipeline.training.scoring import scores_of, seed_everything

        project, seed = inputs.project, inputs.project.recipe.head.seed
        seed_everything(seed)
        task = tasks.of(project.splits)
        saved = networks.load(project, inputs.artefacts["network"])
        network, before = saved.network, networks.sizes(saved.network)
        sample = networks.dry_run(network, saved.front, project.splits)
        parameters, multiply_adds = networks.parameters(network), networks.multiply_adds(network, sample)
        self._remove_channels(network, sample)
        after = networks.sizes(network)
        changes = {name: sizes for name, sizes in after.items() if sizes != before[name]}
        # What an earlier prune changed still has to be said, relative to what the builder makes.
        changes = {**saved.structure.changes, **changes}
        curve: list[dict[str, Any]] = []
        if self.epochs:
            settings = FitSettings(epochs=self.epochs, learning_rate=self.learning_rate, batch=self.batch)
            fitted = fit(
                network, saved.front, project.splits, settings, task.loss(), seed=seed,
                scratch=inputs.scratch, augment=project.augment, log=inputs.log,
            )  # fmt: skip
            curve = [asdict(e) for e in fitted.curve]
        structure = msgspec.structs.replace(saved.structure, changes=changes)
        networks.save(out, network, structure)
        scores = scores_of(network, saved.front, project.splits.validation)
        left = networks.parameters(network)
        inputs.log(f"{parameters} → {left} parameters ({left / parameters:.0%})")
        return {
            "validation_accuracy": task.judge(scores, project.splits.validation)[0],
            "parameters": left,
            "parameters_share": left / parameters,
            "multiply_adds": networks.multiply_adds(network, sample),
            "multiply_adds_before": multiply_adds,
            "channels": {name: sizes.get("out_channels", sizes.get("out_features")) for name, sizes in changes.items()},
            "curve": curve,
        }

    def _remove_channels(self, network: Any, sample: Any) -> None:
        import torch_pruning

        last = _last_layer(network, sample)
        try:
            pruner = torch_pruning.pruner.MagnitudePruner(
                network, sample, importance=torch_pruning.importance.MagnitudeImportance(p=2),
                pruning_ratio=1.0 - self.keep, ignored_layers=[last], round_to=self.round_to,
            )  # fmt: skip
            before = sum(p.numel() for p in network.parameters())
            pruner.step()
            network(sample)
        except Exception as error:  # torch-pruning fails with whatever its graph walk or the network runs into
            layer = _unprunable(network, sample)
            raise ModelError(
                f"{type(network).__name__} cannot be pruned at layer {layer}: {type(error).__name__}: {error};"
                " write sizes in forward() relative to the tensor's own (x.shape), or set prune: off"
            ) from error
        if self.keep < 1 and sum(p.numel() for p in network.parameters()) == before:
            layer = min(((m.out_channels // m.groups, n) for n, m in network.named_modules() if hasattr(m, "groups")), default=(0, ""))
            raise ModelError(
                f"{type(network).__name__}: keep {self.keep} with round_to {self.round_to} removes nothing: layer {layer[1]}, say, has"
                f" {layer[0]} channels a group; lower round_to, or set prune: off"
            )


def _last_layer(network: Any, sample: Any) -> Any:
    """The layer with weights that runs last: its channels are the answer's."""
    from torch import nn

    ran: list[nn.Module] = []
    layers = [m for m in network.modules() if isinstance(m, nn.Linear | nn.modules.conv._ConvNd)]
    hooks = [layer.register_forward_hook(lambda module, *_: ran.append(module)) for layer in layers]
    try:
        network(sample)
    finally:
        for hook in hooks:
            hook.remove()
    return ran[-1] if ran else None


def _unprunable(network: Any, sample: Any) -> str:
    """The first layer in whose place a run of the network fails now."""
    entered: list[str] = []
    hooks = [m.register_forward_pre_hook(lambda *_, n=n: entered.append(n)) for n, m in network.named_modules() if n]
    try:
        network(sample)
    except Exception:  # the failure itself has been reported already; only its place is wanted
        pass
    finally:
        for hook in hooks:
            hook.remove()
    return entered[-1] if entered else "(network)"
