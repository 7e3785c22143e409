"""Runs some training steps under the profiler, for `edgeloop profile`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgeloop_contract.errors import UsageError
from edgeloop_pipeline.recipe.recipe import Recipe
from edgeloop_pipeline.recipe.stage_table import build
from edgeloop_pipeline.stages.train import Train


def profile_training(recipe: Recipe, folder: Path, steps: int, log: Callable[[str], None]) -> Any:
    """Run some steps of the recipe's `train` stage under the profiler; the trace goes into `folder`. Keeps no weights."""
    if "train" not in recipe.stages:
        raise UsageError(f"{recipe.path}: has no train stage, whose steps profile measures; add one")
    settings = build("train", recipe.stages["train"], recipe.folder)
    if not isinstance(settings, Train):
        raise UsageError(f"{recipe.path}: its train stage is your own; profile works only with the built-in one")
    import tempfile
    from contextlib import ExitStack

    from edgeloop_pipeline.data.normalization import input_normalization
    from edgeloop_pipeline.networks import saved_network
    from edgeloop_pipeline.recipe.project import Project
    from edgeloop_pipeline.tasks.registry import task_for
    from edgeloop_pipeline.training.loop import Run
    from edgeloop_pipeline.training.profiling import diagnose
    from edgeloop_pipeline.training.scoring import seed_everything

    folder.mkdir(parents=True, exist_ok=True)
    project, head = Project(recipe), recipe.head
    seed_everything(head.seed)
    network = saved_network.build(project, head.network, head.network_args, project.splits)
    normalization = input_normalization(project.splits)
    saved_network.dry_run(network, normalization, project.splits)
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        loss = task_for(project.splits).loss(settings.label_smoothing)
        run = Run(
            network, normalization, project.splits, settings, loss, head.seed, Path(scratch), project.augment, "profile", (), log,
            lambda _: None, stack,
        )  # fmt: skip
        return diagnose(run, steps, folder / "trace.json")
