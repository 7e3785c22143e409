"""The command `edgeloop`: runs a recipe, shows what is cached and why, starts your own project."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from edgeloop_contract.errors import EdgeloopError, StorageError, UsageError
from edgeloop_pipeline.cli.compress import compress
from edgeloop_pipeline.cli.fleet import COMMANDS as PUBLISHING
from edgeloop_pipeline.cli.labels import labels
from edgeloop_pipeline.cli.pack import pack
from edgeloop_pipeline.cli.project import doctor, new, samples
from edgeloop_pipeline.cli.results import check_out, clean, compare, copy_bundle, open_results, report
from edgeloop_pipeline.cli.retrain import retrain
from edgeloop_pipeline.cli.run_options import runs_option, set_option
from edgeloop_pipeline.cli.sbom import sbom
from edgeloop_pipeline.cli.tensorrt import check_tensorrt
from edgeloop_pipeline.run.last_run import planned_of, remember
from edgeloop_pipeline.system import interrupt, omp_wait

EXIT_CODES = """\b
Exit codes: 0 done · 1 a floor or parity was missed · 2 wrong usage or recipe · 3 data · 4 the network ·
5 a bundle · 6 this machine · 7 disk or folder · 130 interrupted (the next run resumes)"""


def run_command() -> int:
    """Run the command line and return its exit code. Every expected failure is one sentence on stderr."""
    interrupt.listen()
    omp_wait.soon_sleep()
    try:
        commands(standalone_mode=False)
    except EdgeloopError as error:
        click.echo(f"edgeloop: {error}", err=True)
        return error.exit_code
    except click.exceptions.Exit as error:
        return int(error.exit_code)
    except click.UsageError as error:
        error.show()
        return 2
    except (KeyboardInterrupt, click.Abort):
        click.echo("edgeloop: interrupted; run again to resume", err=True)
        return 130
    except OSError as error:
        click.echo(f"edgeloop: {error.filename or 'output'}: {error.strerror}; make room or check the path", err=True)
        return StorageError.exit_code
    return 0


@click.group(epilog=EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="edgeloop")
def commands() -> None:
    """Make good models on limited hardware, and keep them good in the field."""


REST = (compress, labels, retrain, doctor, new, pack, samples, report, open_results, compare, clean, sbom, check_tensorrt)
for one in (*PUBLISHING, *REST):
    one.epilog = one.epilog or EXIT_CODES
    commands.add_command(one)


@commands.command(epilog=EXIT_CODES)
@click.argument("recipe")
@runs_option
@set_option
@click.option(
    "--processes",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Number of training processes here, such as one per GPU.",
)
@click.option(
    "--out", type=click.Path(path_type=Path, readable=False), metavar="FILE", help="Copy the bundle to FILE (NAME.edgeloop)."
)
@click.option("--from-sweep", type=int, metavar="TRIAL", help="Build this trial of the recipe's sweep.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout, and nothing else there.")
def run(
    recipe: str, runs: Path, changes: tuple[str, ...], processes: int, out: Path | None, from_sweep: int | None, as_json: bool
) -> None:  # fmt: skip
    """Run RECIPE: a file, a project folder, or a reference project's name."""
    from edgeloop_agent.hardware import cores
    from edgeloop_pipeline.cache.store import Store
    from edgeloop_pipeline.cli.console import Console, summary_json, summary_table
    from edgeloop_pipeline.recipe import recipe as recipes
    from edgeloop_pipeline.run.runner import RunResult, follow
    from edgeloop_pipeline.run.runner import run as run_recipe

    loaded = recipes.load(recipes.find(recipe), changes)
    if from_sweep is not None:
        from edgeloop_pipeline.sweep.study import chosen

        changes = (*changes, *chosen(loaded, runs, from_sweep))
        loaded = recipes.load(recipes.find(recipe), changes)
    if out is not None:
        check_out(out, loaded)
    if processes > 1 and "RANK" not in os.environ:
        # Without this, the launcher sets it to 1 and prints a warning; training sets its own threads.
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores() // processes)))
        launched = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        os.execv(sys.executable, [*launched, "-m", "edgeloop_pipeline", *sys.argv[1:]])
    store = Store(runs)
    if int(os.environ.get("RANK", "0")):
        follow(loaded, store)
        return
    remember(store, recipes.find(recipe), changes)
    result = RunResult(loaded, store)
    try:
        run_recipe(loaded, store, Console(), result)
    except EdgeloopError as error:
        if as_json:
            click.echo(summary_json(result, str(error)))
        raise
    if out is not None:
        copy_bundle(result, out)
    if as_json:
        click.echo(summary_json(result))
    else:
        summary_table(result)


@commands.command(epilog=EXIT_CODES)
@click.argument("recipe")
@runs_option
@set_option
@click.option("--trials", type=click.IntRange(min=1), help="The number of all trials, instead of the recipe's number.")
@click.option("--on", "engine", type=click.Choice(["here", "ray"]), default="here", show_default=True, help="Where trials run.")
@click.option("--workers", type=click.IntRange(min=1), default=2, show_default=True, help="Trials at the same time, on Ray.")
@click.option("--address", help="The Ray cluster's address; default: this machine.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout, and nothing else there.")
def sweep(
    recipe: str,
    runs: Path,
    changes: tuple[str, ...],
    trials: int | None,
    engine: str,
    workers: int,
    address: str | None,
    as_json: bool,
) -> None:
    """Try the settings that RECIPE's sweep: table names, and show the best trade-offs. Continues a stopped sweep."""
    import msgspec

    from edgeloop_pipeline.recipe import recipe as recipes
    from edgeloop_pipeline.sweep.executors import Here, OnRay
    from edgeloop_pipeline.sweep.page import write
    from edgeloop_pipeline.sweep.study import Study

    if trials is not None:
        changes = (*changes, f"sweep.trials={trials}")
    study = Study.of(recipes.load(recipes.find(recipe), changes), runs)
    found = study.run(lambda text: click.echo(text, err=True), OnRay(study, workers, address) if engine == "ray" else Here(study))
    path = write(study, found)
    if as_json:
        click.echo(msgspec.json.encode({"sweep": str(path.resolve()), "trials": found}).decode())
        return
    for trial in found:
        if trial.best and (p := trial.point):
            costs = f"{p.accuracy:.2%}, {p.latency:.0f} µs, {p.bytes:,} B"
            click.echo(f"trial {trial.number}: {costs}  {' '.join(trial.changes)}")
    click.echo(f"all of them: {path}\nbuild one: edgeloop run {recipe} --from-sweep TRIAL")


@commands.command(epilog=EXIT_CODES)
@click.argument("recipe", required=False)
@runs_option
@set_option
def status(recipe: str | None, runs: Path, changes: tuple[str, ...]) -> None:
    """Show which stages are cached and which would run. Default RECIPE: the one that ran last."""
    from edgeloop_pipeline.cli.console import status_table

    status_table(*planned_of(recipe, runs, changes))


@commands.command(epilog=EXIT_CODES)
@click.argument("stage")
@click.argument("recipe", required=False)
@runs_option
@set_option
def why(stage: str, recipe: str | None, runs: Path, changes: tuple[str, ...]) -> None:
    """Say why STAGE would run again: what changed since its last run."""
    from edgeloop_contract.settings import nearest
    from edgeloop_pipeline.run.runner import why as reasons

    loaded, store, planned = planned_of(recipe, runs, changes)
    if stage not in loaded.stages:
        raise UsageError(f"{stage}: not a stage of {loaded.path}{nearest(stage, loaded.stages)}")
    found = next((p for p in planned if p.name == stage), None)
    if found is None:
        before = planned[-1].name
        click.echo(f"{stage} waits for {before}, which has to run first:")
        found = planned[-1]
    lines = reasons(store, loaded, found)
    click.echo("\n".join(f"  {line}" for line in lines) if lines else f"{stage} is cached; nothing changed")


@commands.command(epilog=EXIT_CODES)
@click.argument("recipe")
@runs_option
@set_option
@click.option("--steps", type=click.IntRange(min=2), default=12, show_default=True, help="Training steps to measure.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout, and nothing else there.")
def profile(recipe: str, runs: Path, changes: tuple[str, ...], steps: int, as_json: bool) -> None:
    """Train RECIPE for some steps, then say where their time goes and what to try next."""
    import msgspec

    from edgeloop_pipeline.cache.store import write
    from edgeloop_pipeline.cli.console import diagnosis_text
    from edgeloop_pipeline.recipe import recipe as recipes
    from edgeloop_pipeline.run.training_profile import profile_training

    loaded = recipes.load(recipes.find(recipe), changes)
    folder = runs / "profiles" / loaded.head.name
    diagnosis = profile_training(loaded, folder, steps, lambda text: click.echo(text, err=True))
    found = {**diagnosis.plain(), "trace": str((folder / "trace.json").resolve())}
    write(folder / "profile.json", msgspec.json.encode(found))
    click.echo(msgspec.json.encode(found).decode() if as_json else diagnosis_text(found))


@commands.command(epilog=EXIT_CODES)
@click.argument("recipe")
@runs_option
@set_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout, and nothing else there.")
def roi(recipe: str, runs: Path, changes: tuple[str, ...], as_json: bool) -> None:
    """Compute what RECIPE's inference costs on devices and in the cloud, and when devices pay. Its roi: table has the prices."""
    import msgspec

    from edgeloop_pipeline.cli.console import roi_text
    from edgeloop_pipeline.report.roi import answer
    from edgeloop_pipeline.report.roi_inputs import one_inference
    from edgeloop_pipeline.report.roi_page import write
    from edgeloop_pipeline.results.files import PackageResult, ProfileResult
    from edgeloop_pipeline.results.read import required

    loaded, store, planned = planned_of(recipe, runs, changes)
    finished = [p.entry for p in planned if p.entry is not None]
    entries = {entry.stage: entry for entry in finished}
    if "profile" not in entries or "package" not in entries:
        raise UsageError(f"{loaded.path}: has no finished run with profile and package; run it first: edgeloop run {loaded.path}")
    packaged, prices = entries["package"], loaded.head.roi
    profiled, bundle = required(finished, "profile", ProfileResult), required(finished, "package", PackageResult)
    figures = one_inference(profiled, store.folder("package", packaged.key) / bundle.bundle)
    found = answer(figures, prices)
    path = store.root / "roi" / f"{loaded.head.name}.html"
    write(path, loaded.head.name, found, figures, prices)
    if as_json:
        click.echo(
            msgspec.json.encode({"page": str(path.resolve()), "measured": figures, "assumed": prices, "answer": found}).decode()
        )
    else:
        click.echo(roi_text(found, figures, prices) + f"\n{path}")


@commands.command(epilog=EXIT_CODES)
@click.argument("recipe")
@set_option
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("probe.edgeloop"), show_default=True, help="The bundle to write."
)
@click.option(
    "--round-to", type=click.IntRange(min=1), default=8, show_default=True, help="The same as in the recipe's budget stage."
)
def probe(recipe: str, changes: tuple[str, ...], out: Path, round_to: int) -> None:
    """Write a bundle of RECIPE's layers in all their sizes. A device measures it; budgets here then use its latencies."""
    from edgeloop_pipeline.compression.device_latency import write
    from edgeloop_pipeline.recipe import recipe as recipes
    from edgeloop_pipeline.recipe.project import Project

    project = Project(recipes.load(recipes.find(recipe), changes))
    count = write(project, out, round_to, lambda text: click.echo(text, err=True))
    click.echo(f"{out}: {count} layers, {out.stat().st_size:,} bytes; on the device:")
    click.echo(f"  edgeloop-agent bench {out.name} --seconds 0.1 --json > device.json")
    click.echo("then put this file beside the recipe, with target: {device: device.json, max_latency_us: …} in it")
