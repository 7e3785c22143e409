"""The stage `distill`: the student learns from the teacher's scores, from the labels, and on request from features."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec

from edgeloop_contract.errors import ModelError, UsageError
from edgeloop_pipeline.recipe.inputs import Inputs
from edgeloop_pipeline.recipe.settings import Reference
from edgeloop_pipeline.recipe.stage import Base
from edgeloop_pipeline.results.training import NetworkResult
from edgeloop_pipeline.training.settings import FitSettings, Fraction01

if TYPE_CHECKING:
    from torch import Tensor, nn

PositiveFloat = Annotated[float, msgspec.Meta(gt=0)]


@dataclass(frozen=True)
class Distill(FitSettings, Base):
    """Knowledge distillation (Hinton et al. 2015). The student is the network so far, such as a pruned one, or a new `student`."""

    temperature: PositiveFloat = 4.0
    teacher_share: Fraction01 = 0.9  # weight of the teacher's scores against the labels
    # decoupled (Zhao et al. 2022): the teacher's scores of the wrong classes count separately, for any confidence.
    method: Literal["logits", "decoupled"] = "logits"
    target_weight: Annotated[float, msgspec.Meta(ge=0)] = 1.0  # decoupled: weight of the right class against all others
    others_weight: Annotated[float, msgspec.Meta(ge=0)] = 8.0  # decoupled: weight of the other classes among themselves
    hints: dict[str, str] = field(default_factory=dict)  # student's layer → teacher's layer whose attention it imitates
    hint_weight: PositiveFloat = 100.0
    # Networks (file.py:callable() → Module) or ONNX files, which get the normalized batch; several are averaged. []: train's.
    teachers: list[str] = field(default_factory=list)
    cache_teacher: bool = False  # keep the teacher's scores on disk: useful if several students learn from one teacher
    student: Reference | None = None
    student_args: dict[str, Any] = field(default_factory=dict)

    needs = ("network", "teacher")
    gives = ("network",)
    libraries = ("torch", "numpy")
    collective = True

    def __call__(self, inputs: Inputs, out: Path) -> NetworkResult:
        from edgeloop_pipeline.data.normalization import input_normalization
        from edgeloop_pipeline.networks import saved_network
        from edgeloop_pipeline.tasks.registry import task_for
        from edgeloop_pipeline.training.fit import fit
        from edgeloop_pipeline.training.scoring import seed_everything
        from edgeloop_pipeline.training.teacher_cache import ensemble

        project, seed = inputs.project, inputs.project.recipe.head.seed
        seed_everything(seed + 1)
        if self.student:
            student = saved_network.build(project, self.student, self.student_args, project.splits)
            structure = saved_network.Structure(self.student, self.student_args, {}, input_normalization(project.splits))
        else:
            saved = saved_network.load(project, inputs.artefacts["network"])
            student, structure = saved.network, saved.structure
        teachers = self._teachers(inputs)
        teacher = ensemble(teachers)
        teacher_scores = self._kept(inputs, structure.normalization, teacher) if self.cache_teacher else None
        loss = _Loss(
            self, task_for(project.splits), None if teacher_scores is not None else teacher, self._watched(student, teachers[0])
        )
        fitted = fit(
            student, structure.normalization, project.splits, self, loss, seed=seed + 1, scratch=inputs.scratch,
            teacher_scores=teacher_scores, augment=project.augment,
            name=f"{project.recipe.head.name}/distill", log=inputs.log, watch=inputs.watch,
        )  # fmt: skip
        loss.close()
        saved_network.save(out, student, structure)
        sample = saved_network.dry_run(student, structure.normalization, project.splits)
        return NetworkResult(
            validation_accuracy=fitted.best.validation_accuracy, best_epoch=fitted.best.epoch,
            parameters=saved_network.parameters(student), multiply_adds=saved_network.multiply_adds(student, sample),
            precision=fitted.precision, curve=fitted.curve, training=fitted.facts,
        )  # fmt: skip

    def _teachers(self, inputs: Inputs) -> list[Any]:
        from torch import nn

        from edgeloop_pipeline.networks import saved_network
        from edgeloop_pipeline.recipe.user_code import load_object
        from edgeloop_pipeline.training.teacher_cache import onnx_teacher, ready

        folder = inputs.project.recipe.folder
        found: list[Any] = []
        for name in self.teachers:
            if name.endswith(".onnx"):
                path = folder / name
                if not path.is_file():
                    raise UsageError(f"stages.distill.teachers: no file {path}; the path is relative to the recipe")
                found.append(onnx_teacher(path))
                continue
            network = load_object(folder, name)()
            if not isinstance(network, nn.Module):
                raise ModelError(f"stages.distill.teachers: {name} returned {type(network).__name__}; return a torch.nn.Module")
            found.append(ready(network))
        return found or [ready(saved_network.load(inputs.project, inputs.artefacts["teacher"]).network)]

    def _kept(self, inputs: Inputs, normalization: Any, teacher: Callable[[Tensor], Tensor]) -> Any:
        """The cached teacher scores; None if they cannot be kept, and the log says why."""
        from edgeloop_pipeline.cache.digests import digest
        from edgeloop_pipeline.tasks.registry import task_for
        from edgeloop_pipeline.training import teacher_cache
        from edgeloop_pipeline.training.batches import Batches
        from edgeloop_pipeline.training.parallel import processes
        from edgeloop_pipeline.training.precision import precision

        project, head = inputs.project, inputs.project.recipe.head
        outputs, samples = task_for(project.splits).outputs, len(project.splits.train)
        size = teacher_cache.size_bytes(self.epochs, samples, outputs)
        why = ""
        if self.hints:
            why = "hints need the teacher's features"
        elif self.batch == "auto" or processes().part.world > 1:
            why = "the recipe must set the batch, and only one process may train"
        elif size > head.cache_bytes:
            why = f"they are {size / 1e6:,.0f} MB, more than cache_bytes"
        if why or not isinstance(self.batch, int):
            inputs.log(f"the teacher's scores are not kept: {why}")
            return None
        source = next(e for e in reversed(inputs.entries) if e.stage == "train" or "teacher" in e.stage)
        made = [source.digest, self.teachers, project.data_digests, project.code_digests, head.seed, self.batch, self.mixup]
        batches = Batches(
            project.splits.train,
            normalization,
            self.batch,
            1,
            head.seed + 1,
            project.augment,
            self.mixup,
            len(project.splits.labels),
        )
        return teacher_cache.scores(digest(made), teacher, batches, self.epochs, outputs, precision("auto"), inputs.log)

    def _watched(self, student: nn.Module, teacher: Any) -> list[tuple[nn.Module, nn.Module]]:
        from torch import nn

        from edgeloop_contract.settings import nearest

        pairs = []
        for ours, theirs in self.hints.items():
            if not isinstance(teacher, nn.Module):
                raise UsageError("stages.distill.hints: an ONNX teacher shows no features; use logits, or a network")
            for name, network in ((ours, student), (theirs, teacher)):
                known = dict(network.named_modules())
                if name not in known:
                    raise UsageError(f"stages.distill.hints: {name!r} is no layer{nearest(name, [n for n in known if n])}")
            pairs.append((dict(student.named_modules())[ours], dict(teacher.named_modules())[theirs]))
        return pairs


class _Loss:
    """The distillation loss. Without a teacher, its cached scores follow the labels (see Batches)."""

    def __init__(
        self, settings: Distill, task: Any, teacher: Callable[[Tensor], Tensor] | None, watched: list[tuple[nn.Module, nn.Module]]
    ) -> None:
        self.settings, self.task, self.teacher = settings, task, teacher
        self.hard = task.loss(settings.label_smoothing)
        self.features: dict[tuple[int, str], Tensor] = {}
        self.pairs = range(len(watched))
        self.hooks = [
            module.register_forward_hook(partial(self._see, (i, side)))
            for i, pair in enumerate(watched)
            for side, module in zip(("ours", "theirs"), pair, strict=True)
        ]
        if settings.method == "decoupled" and task.splits.task != "classification":
            raise ModelError("stages.distill.method: decoupled is for classes; use logits")

    def __deepcopy__(self, memo: object) -> _Loss:
        return self  # trials run on copies of the network, whose hooks report here too

    def _see(self, key: tuple[int, str], module: object, given: object, output: Tensor) -> None:
        self.features[key] = output

    def close(self) -> None:
        for hook in self.hooks:
            hook.remove()

    def __call__(self, scores: Tensor, labels: Tensor, x: Tensor, autocast: Any) -> Tensor:
        import torch

        if self.teacher is None:
            columns = labels.shape[1] - scores.flatten(1).shape[1]
            wanted = labels[:, columns:].reshape(scores.shape)
            labels = labels[:, 0].long() if columns == 1 and self.task.splits.task != "regression" else labels[:, :columns]
        else:
            with torch.no_grad(), autocast():
                wanted = self.teacher(x).float()
        share = self.settings.teacher_share
        imitation = (
            decoupled(scores, wanted, labels, self.settings)
            if self.settings.method == "decoupled"
            else self.task.imitation(scores, wanted, self.settings.temperature)
        )
        total = (1 - share) * self.hard(scores, labels, x, autocast) + share * imitation
        for i in self.pairs:
            distance = attention_distance(self.features[i, "ours"], self.features[i, "theirs"])
            total = total + self.settings.hint_weight * distance
        return total  # type: ignore[no-any-return]


def decoupled(scores: Tensor, wanted: Tensor, labels: Tensor, settings: Distill) -> Tensor:
    """The loss of decoupled knowledge distillation (Zhao et al. 2022). `labels`: classes, or shares (the largest counts)."""
    import torch
    import torch.nn.functional as F

    t = settings.temperature
    right = F.one_hot(labels if labels.dim() == 1 else labels.argmax(1), scores.shape[1]).bool()

    def two(values: Tensor) -> Tensor:  # log probability of the right class, and of all others together
        logs = F.log_softmax(values / t, 1)
        return torch.stack([logs[right], logs.masked_fill(right, -torch.inf).logsumexp(1)], 1)

    def others(values: Tensor) -> Tensor:
        return F.log_softmax((values / t)[~right].reshape(len(values), -1), 1)

    target = F.kl_div(two(scores), two(wanted), log_target=True, reduction="batchmean")
    rest = F.kl_div(others(scores), others(wanted), log_target=True, reduction="batchmean")
    return t**2 * (settings.target_weight * target + settings.others_weight * rest)


def attention_distance(ours: Tensor, theirs: Tensor) -> Tensor:
    """The loss of attention transfer (Zagoruyko & Komodakis 2017): compares where features are strong, for any channel counts."""
    import torch.nn.functional as F

    a, b = (f.float().pow(2).mean(1, keepdim=True) for f in (ours, theirs.detach()))
    if a.shape != b.shape:
        pool: Any = {3: F.adaptive_avg_pool1d, 4: F.adaptive_avg_pool2d}[a.dim()]
        places = tuple(min(m, n) for m, n in zip(a.shape[2:], b.shape[2:], strict=True))
        a, b = pool(a, places), pool(b, places)
    return (F.normalize(a.flatten(1), dim=1) - F.normalize(b.flatten(1), dim=1)).pow(2).mean()
