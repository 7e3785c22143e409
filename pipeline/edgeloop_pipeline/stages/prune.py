"""The stage `prune`: removes whole channels, which every runtime profits from, or sets weights to zero."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from edgeloop_pipeline.recipe.inputs import Inputs
from edgeloop_pipeline.recipe.stage import Base
from edgeloop_pipeline.results.compression import PruneResult
from edgeloop_pipeline.results.training import Epoch
from edgeloop_pipeline.training.settings import FitSettings, PositiveInt

Kept = Annotated[float, msgspec.Meta(gt=0, le=1)]
TAYLOR_SAMPLES, GRADIENT_BATCH = 512, 128
BUYS = {
    "channels": "smaller and faster in every runtime",
    "unstructured": "a smaller download after compression; no CPU kernel skips zeros, so latency and memory stay the same",
    "2:4": "up to twice the throughput of matrix products on NVIDIA GPUs from Ampere on, built by TensorRT; on others only a"
    " smaller download",
}


@dataclass(frozen=True)
class Prune(Base):
    """Removes the least important channels or weights in several iterations, with recovery training between them."""

    keep: Kept = 0.5  # share of each group's channels, or of the weights
    pattern: Literal["channels", "unstructured", "2:4"] = "channels"
    importance: Literal["magnitude", "taylor", "batchnorm"] = "magnitude"  # of channels
    across_layers: bool = False  # rank channels over all layers: some layers then lose more than others
    layers: dict[str, Kept] = field(default_factory=dict)  # layer → share kept there, if it differs from `keep`
    iterations: PositiveInt = 1  # prune in so many parts, each followed by `epochs`
    round_to: PositiveInt = 8  # multiples of it suit integer kernels: odd counts can be slower than the unpruned network
    epochs: Annotated[int, msgspec.Meta(ge=0)] = 0  # of recovery training; a distill stage after this one recovers more
    learning_rate: Annotated[float, msgspec.Meta(gt=0)] = 0.05
    batch: PositiveInt = 128

    needs = ("network",)
    gives = ("network",)
    libraries = ("torch", "torch-pruning", "numpy")
    collective = True

    def __call__(self, inputs: Inputs, out: Path) -> PruneResult:
        from edgeloop_pipeline.compression import pruning
        from edgeloop_pipeline.networks import saved_network
        from edgeloop_pipeline.tasks.registry import task_for
        from edgeloop_pipeline.training.scoring import scores_of, seed_everything

        project, seed = inputs.project, inputs.project.recipe.head.seed
        seed_everything(seed)
        task = task_for(project.splits)
        saved = saved_network.load(project, inputs.artefacts["network"])
        network, before = saved.network, saved_network.sizes(saved.network)
        sample = saved_network.dry_run(network, saved.normalization, project.splits)
        parameters, multiply_adds = saved_network.parameters(network), saved_network.multiply_adds(network, sample)
        compressed = pruning.compressed_bytes(network)
        curve: list[Epoch] = []
        for i in range(1, self.iterations + 1):
            if self.pattern == "channels":
                self._remove_channels(inputs, saved, sample, i)
                curve += self._recovered(inputs, saved, i)
            else:
                with pruning.sparse(network, self.pattern, self._share(self.keep, i)):
                    curve += self._recovered(inputs, saved, i)
        after = saved_network.sizes(network)
        changes = {name: sizes for name, sizes in after.items() if sizes != before[name]}
        # The structure must also contain the changes of an earlier prune stage, relative to the builder's network.
        changes = {**saved.structure.changes, **changes}
        saved_network.save(out, network, msgspec.structs.replace(saved.structure, changes=changes))
        scores = scores_of(network, saved.normalization, project.splits.validation)
        left = saved_network.parameters(network)
        zeros = sum(int((p == 0).sum()) for p in network.parameters() if p.dim() > 1)
        inputs.log(f"{parameters} → {left} parameters ({left / parameters:.0%}), {zeros} of them zero")
        return PruneResult(
            validation_accuracy=task.judge(scores, project.splits.validation)[0],
            pattern=self.pattern,
            buys=BUYS[self.pattern],
            parameters=left,
            parameters_share=left / parameters,
            zeros=zeros,
            compressed_share=pruning.compressed_bytes(network) / compressed,
            multiply_adds=saved_network.multiply_adds(network, sample),
            multiply_adds_before=multiply_adds,
            channels={name: sizes.get("out_channels", sizes.get("out_features")) for name, sizes in changes.items()},
            curve=curve,
        )

    def _share(self, keep: float, iteration: int) -> float:
        """The share that is left after this iteration: each iteration removes the same share."""
        return float(keep ** (iteration / self.iterations))

    def _remove_channels(self, inputs: Inputs, saved: Any, sample: Any, iteration: int) -> None:
        from edgeloop_pipeline.compression import pruning

        if self.importance == "taylor":
            self._gradients(inputs, saved)
        # Each iteration prunes the network that the one before left.
        keep = self._share(self.keep, 1)
        layers = {name: self._share(share, 1) for name, share in self.layers.items()}
        pruning.remove_channels(
            saved.network, sample, pruning.Channels(keep, self.round_to, self.importance, self.across_layers, layers)
        )
        saved.network.zero_grad(set_to_none=True)

    def _gradients(self, inputs: Inputs, saved: Any) -> None:
        """Computes gradients of the loss on some training samples, which Taylor importance multiplies by the weights."""
        import torch

        from edgeloop_pipeline.tasks.registry import task_for
        from edgeloop_pipeline.training.scoring import evaluation_batch

        splits = inputs.project.splits
        rows = torch.randperm(len(splits.train), generator=torch.Generator().manual_seed(0))[:TAYLOR_SAMPLES].numpy()
        loss = task_for(splits).loss()
        saved.network.eval()
        size = min(GRADIENT_BATCH, evaluation_batch(splits.train.values))  # pictures in detail would take gigabytes
        for part in (rows[i : i + size] for i in range(0, len(rows), size)):
            x = saved.normalization.normalize(torch.from_numpy(splits.train.values[part]))
            labels = torch.from_numpy(splits.train.labels[part])
            loss(saved.network(x).float(), labels, x, torch.enable_grad).backward()

    def _recovered(self, inputs: Inputs, saved: Any, iteration: int) -> list[Epoch]:
        from edgeloop_pipeline.tasks.registry import task_for
        from edgeloop_pipeline.training.fit import fit

        if not self.epochs:
            return []
        project = inputs.project
        settings = FitSettings(epochs=self.epochs, learning_rate=self.learning_rate, batch=self.batch)
        scratch = inputs.scratch / str(iteration)
        scratch.mkdir(parents=True, exist_ok=True)
        fitted = fit(
            saved.network, saved.normalization, project.splits, settings, task_for(project.splits).loss(),
            seed=project.recipe.head.seed, scratch=scratch, augment=project.augment, log=inputs.log, watch=inputs.watch,
        )  # fmt: skip
        return fitted.curve
