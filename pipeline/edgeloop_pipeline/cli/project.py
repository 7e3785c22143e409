"""The commands `edgeloop doctor`, `new` and `samples`: examine this machine, start a project, write recordings to try it."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import click

from edgeloop_contract.errors import UsageError

TASKS = ["classification", "regression", "anomaly", "detection", "keypoints", "segmentation", "multilabel"]


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout, and nothing else there.")
def doctor(as_json: bool) -> None:
    """Show this machine's hardware, which precisions and layouts are fast on it, and which kind of machine suits a job."""
    import msgspec

    from edgeloop_pipeline.cli.console import doctor_text
    from edgeloop_pipeline.cli.doctor import examine

    found = examine(lambda text: click.echo(text, err=True))
    click.echo(msgspec.json.encode(found).decode() if as_json else doctor_text(found))


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--like", "project", help="The reference project to copy.")
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Your data: class folders, a table, pictures with boxes, points or masks, files with a list of labels.",
)
@click.option("--task", type=click.Choice(TASKS), help="With --data; default: from the data.")
def new(folder: Path, project: str | None, data: Path | None, task: str | None) -> None:
    """Start a project in FOLDER: for your DATA, which the command examines, or as a copy of a reference project."""
    from edgeloop_contract.settings import nearest
    from edgeloop_pipeline.recipe.recipe import reference_projects

    if (project is None) == (data is None):
        raise UsageError("new: give --data YOUR_DATA, or --like PROJECT")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder}: is not empty; choose another folder")
    if data is not None:
        from edgeloop_pipeline.recipe.wizard.look import look
        from edgeloop_pipeline.recipe.wizard.write import write

        plan = look(data, task or "")
        click.echo(f"{data}: {plan.seen}")
        for topic, text in plan.says:
            click.echo(f"  {topic:<12} {text}")
        write(folder, plan)
        if plan.task in ("detection", "keypoints"):
            from edgeloop_pipeline.data.datasets import PictureBoxes, PicturePoints
            from edgeloop_pipeline.recipe.wizard.sheet import draw_sheet

            data_set = PicturePoints if plan.task == "keypoints" else PictureBoxes
            click.echo(f"  {'look at':<12} {draw_sheet(data_set(plan.path).annotations, folder)}")
    else:
        projects = reference_projects()
        if project not in projects:
            raise UsageError(f"--like {project}: no such project{nearest(str(project), projects)}")
        shutil.copytree(projects[project], folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__", "__init__.py"))
    click.echo(f"{folder}: edit recipe.yaml, network.py and data.py, then: edgeloop run {shlex.quote(str(folder))}")


@click.command()
@click.argument("recipe")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--split", type=click.Choice(["train", "validation", "test"]), default="test", show_default=True)
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="At most this many recordings.")
def samples(recipe: str, folder: Path, split: str, limit: int) -> None:
    """Write raw recordings of RECIPE's data into FOLDER, like those that a device reads."""
    from edgeloop_contract.resampling import model_rate_hz
    from edgeloop_pipeline.data.prepare import checked
    from edgeloop_pipeline.data.recordings import write_samples
    from edgeloop_pipeline.recipe import recipe as recipes
    from edgeloop_pipeline.recipe.project import Project

    project = Project(recipes.load(recipes.find(recipe)))
    splits = checked(project.data.load(), project.recipe.head.task)
    count = write_samples(splits, split, folder, limit, splits.rate_hz or model_rate_hz(project.recipe.head.preprocessing) or 0)
    click.echo(f"{folder}: {count} {split} recordings")
