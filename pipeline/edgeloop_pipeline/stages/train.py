"""Train the network that everything after starts from: the teacher."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from edgeloop_pipeline.stages import Base, Inputs, Metrics
from edgeloop_pipeline.stages.fitting import FitSettings


@dataclass(frozen=True)
class Train(FitSettings, Base):
    """Supervised training from scratch."""

    gives = ("network", "teacher")
    libraries = ("torch", "numpy")

    def __call__(self, inputs: Inputs, out: Path) -> Metrics:
        from edgeloop_pipeline import networks
        from edgeloop_pipeline.training.loop import cross_entropy, fit
        from edgeloop_pipeline.training.scoring import seed_everything

        project = inputs.project
        head = project.recipe.head
        seed_everything(head.seed)
        network = networks.build(project, head.network, head.network_args, project.splits)
        front = networks.front_of(project.splits)
        sample = networks.dry_run(network, front, project.splits)
        fitted = fit(
            network, front, project.splits, self, cross_entropy(self.label_smoothing), seed=head.seed,
            scratch=inputs.scratch, augment=project.augment, log=inputs.log,
        )  # fmt: skip
        networks.save(out, network, networks.Structure(head.network, head.network_args, {}, front))
        return {
            "validation_accuracy": fitted.best.validation_accuracy,
            "best_epoch": fitted.best.epoch,
            "parameters": networks.parameters(network),
            "multiply_adds": networks.multiply_adds(network, sample),
            "precision": fitted.precision,
            "curve": [asdict(e) for e in fitted.curve],
            "training": fitted.facts,
        }
