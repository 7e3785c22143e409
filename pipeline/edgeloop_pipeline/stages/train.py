"""The stage `train`: trains the network that all later stages start from, the teacher."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgeloop_contract.errors import EdgeloopError, ModelError, UsageError
from edgeloop_pipeline.recipe.inputs import Inputs
from edgeloop_pipeline.recipe.settings import Reference
from edgeloop_pipeline.recipe.stage import Base
from edgeloop_pipeline.results.training import NetworkResult
from edgeloop_pipeline.training.settings import FitSettings, NonNegativeInt


@dataclass(frozen=True)
class Train(FitSettings, Base):
    """Supervised training, from scratch or from given weights."""

    epochs: NonNegativeInt = 20  # 0: the given weights stay unchanged
    weights: Reference | None = None  # file.py:callable(network) that loads pretrained weights into it

    start: str = ""  # a network.safetensors of the same network, from which training continues; retraining gives the champion's

    # Modules that begin the second pipeline stage, the third, …: one process per stage, for a network too large for one device.
    split_at: list[str] = field(default_factory=list)

    gives = ("network", "teacher")
    libraries = ("torch", "numpy")
    collective = True

    def __call__(self, inputs: Inputs, out: Path) -> NetworkResult:
        from edgeloop_pipeline.data.normalization import input_normalization
        from edgeloop_pipeline.networks import saved_network
        from edgeloop_pipeline.tasks.losses import of_probabilities
        from edgeloop_pipeline.tasks.registry import task_for
        from edgeloop_pipeline.training.fit import fit
        from edgeloop_pipeline.training.scoring import scores_of, seed_everything

        project = inputs.project
        head = project.recipe.head
        seed_everything(head.seed)
        for note in project.splits.notes:
            inputs.log(note)
        network = saved_network.build(project, head.network, head.network_args, project.splits)
        normalization = input_normalization(project.splits)
        sample = saved_network.dry_run(network, normalization, project.splits)
        if self.weights:
            _give_weights(project, self.weights, network)
        elif self.start:
            saved_network.load_weights(network, project.recipe.folder / self.start)
        elif not self.epochs and (head.network or head.imported is None):
            raise UsageError("stages.train: epochs 0 leaves the network untrained; set epochs, or weights")
        structure = saved_network.Structure(head.network, head.network_args, {}, normalization)
        parameters, multiply_adds = saved_network.parameters(network), saved_network.multiply_adds(network, sample)
        if not self.epochs:
            saved_network.save(out, network, structure)
            scores = scores_of(network, normalization, project.splits.validation)
            accuracy, _ = task_for(project.splits).judge(scores, project.splits.validation)
            return NetworkResult(validation_accuracy=accuracy, parameters=parameters, multiply_adds=multiply_adds)
        loss = task_for(project.splits).loss(self.label_smoothing)
        if project.splits.task == "classification" and _answers_probabilities(network, sample):
            inputs.log("the network ends in a softmax: training uses its logarithm, and shipped files leave the softmax out")
            loss = of_probabilities(loss)
        fitted = fit(
            network, normalization, project.splits, self, loss, seed=head.seed,
            scratch=inputs.scratch, augment=project.augment, name=f"{head.name}/train", split_at=self.split_at,
            log=inputs.log, watch=inputs.watch,
        )  # fmt: skip
        saved_network.save(out, network, structure)
        return NetworkResult(
            validation_accuracy=fitted.best.validation_accuracy, best_epoch=fitted.best.epoch,
            parameters=parameters, multiply_adds=multiply_adds,
            precision=fitted.precision, curve=fitted.curve, training=fitted.facts,
        )  # fmt: skip


def _answers_probabilities(network: Any, sample: Any) -> bool:
    """Whether the outputs for several samples are between 0 and 1 and add up to 1, as logits never do by chance."""
    import torch

    with torch.no_grad():
        scores = network.eval()(torch.cat([sample, -sample, 0.5 * sample])).float()
    return bool((scores >= 0).all() and (scores.sum(1) - 1).abs().max() < 1e-3)


def _give_weights(project: Any, reference: str, network: Any) -> None:
    from edgeloop_pipeline.recipe.user_code import load_object

    give = load_object(project.recipe.folder, reference)
    try:
        give(network)
    except EdgeloopError:
        raise
    except Exception as error:  # the user's code can raise anything
        raise ModelError(f"stages.train.weights: {reference} failed: {type(error).__name__}: {error}") from error
