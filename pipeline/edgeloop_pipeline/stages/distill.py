"""Knowledge distillation: the student learns the teacher's scores beside the labels."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import msgspec

from edgeloop_pipeline.recipe import Reference
from edgeloop_pipeline.stages import Base, Inputs, Metrics
from edgeloop_pipeline.stages.fitting import FitSettings, Share


@dataclass(frozen=True)
class Distill(FitSettings, Base):
    """Hinton et al. 2015. The student is the network so far (pruned, say), or a fresh one from `student`."""

    temperature: Annotated[float, msgspec.Meta(gt=0)] = 4.0
    teacher_share: Share = 0.9  # weight of the teacher's scores against the labels
    student: Reference | None = None
    student_args: dict[str, Any] = field(default_factory=dict)

    needs = ("network", "teacher")
    gives = ("network",)
    libraries = ("torch", "numpy")
    collective = True

    def __call__(self, inputs: Inputs, out: Path) -> Metrics:
        import torch

        from edgeloop_pipeline import networks, tasks
        from edgeloop_pipeline.training.loop import fit
        from edgeloop_pipeline.training.scoring import channels_last, device, seed_everything

        project, seed = inputs.project, inputs.project.recipe.head.seed
        seed_everything(seed + 1)
        if self.student:
            student = networks.build(project, self.student, self.student_args, project.splits)
            structure = networks.Structure(self.student, self.student_args, {}, networks.front_of(project.splits))
        else:
            saved = networks.load(project, inputs.artefacts["network"])
            student, structure = saved.network, saved.structure
        teacher = channels_last(networks.load(project, inputs.artefacts["teacher"]).network.eval().to(device()))

        task = tasks.of(project.splits)
        hard = task.loss(self.label_smoothing)

        def loss(scores: torch.Tensor, labels: torch.Tensor, x: torch.Tensor, autocast: Any) -> torch.Tensor:
            with torch.no_grad(), autocast():
                wanted = teacher(x)
            soft = task.imitation(scores, wanted.float(), self.temperature)
            return (1 - self.teacher_share) * hard(scores, labels, x, autocast) + self.teacher_share * soft

        fitted = fit(
            student, structure.front, project.splits, self, loss, seed=seed + 1, scratch=inputs.scratch,
            augment=project.augment, name=f"{project.recipe.head.name}/distill", log=inputs.log,
        )  # fmt: skip
        networks.save(out, student, structure)
        sample = networks.dry_run(student, structure.front, project.splits)
        return {
            "validation_accuracy": fitted.best.validation_accuracy,
            "best_epoch": fitted.best.epoch,
            "parameters": networks.parameters(student),
            "multiply_adds": networks.multiply_adds(student, sample),
            "precision": fitted.precision,
            "curve": [asdict(e) for e in fitted.curve],
            "training": fitted.facts,
        }
