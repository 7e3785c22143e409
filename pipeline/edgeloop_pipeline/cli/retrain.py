"""`edgeloop retrain`, for cron and for systemd's timers."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from edgeloop_contract.errors import UsageError
from edgeloop_pipeline.cli.fleet import ca_option, hub_option, keys_option

EXIT_CODES = """\b
Exit codes: 0 a better model was published (with --dry-run: it would retrain) · 10 nothing to do · 11 another retraining is at work
· 1 the challenger was refused · 2 wrong usage · 3 data · 7 disk · 8 the hub is away or refuses. Each turn adds a line to
RUNS/retrain/NAME/decisions.jsonl."""


@click.command(epilog=EXIT_CODES)
@click.argument("recipe")
@hub_option
@ca_option
@keys_option
@click.option("--runs", type=click.Path(path_type=Path), default=Path("runs"), show_default=True, help="Where runs are kept.")
@click.option("--set", "changes", multiple=True, metavar="STAGE.KEY=VALUE", help="As for edgeloop run.")
@click.option("--min-labels", type=click.IntRange(min=1), default=50, show_default=True, help="New labels that are reason enough.")
@click.option("--min-labels-with-drift", type=click.IntRange(min=1), default=20, show_default=True, help="… while a device drifts.")
@click.option("--max-age-days", type=float, default=0.0, help="Retrain a champion older than this, if there is any new label.")
@click.option("--wait-hours", type=float, default=0.0, help="After a refused challenger.")
@click.option("--alpha", type=float, default=0.05, show_default=True, help="How often a challenger that is no better may pass.")
@click.option(
    "--max-home-drop", type=float, default=0.005, show_default=True, help="Accuracy that may be lost on the old test set."
)
@click.option(
    "--pseudo-labels",
    type=click.FloatRange(0, 1),
    default=0.0,
    metavar="SURE",
    help="Train on unlabelled samples too, with the teacher's label where it is at least so sure. They never judge. 0: off.",
)
@click.option("--channel", default="stable", show_default=True)
@click.option("--steps", default="25%, 100%", show_default=True, help="The rollout's steps; the first is the pilot.")
@click.option("--soak-minutes", type=float, default=60.0, show_default=True)
@click.option("--no-publish", is_flag=True, help="Stop after the gate.")
@click.option("--force", is_flag=True, help="Whatever the policy says; the gate still decides.")
@click.option("--dry-run", is_flag=True, help="Only decide.")
@click.option("--json", "as_json", is_flag=True, help="Print the decision as one JSON object.")
def retrain(
    recipe: str, hub: str, ca_file: str, folder: Path, runs: Path, changes: tuple[str, ...], min_labels: int,
    min_labels_with_drift: int, max_age_days: float, wait_hours: float, alpha: float, max_home_drop: float,
    pseudo_labels: float, channel: str, steps: str, soak_minutes: float, no_publish: bool, force: bool, dry_run: bool,
    as_json: bool,
) -> None:  # fmt: skip
    """Retrain RECIPE on what the field says, prove the new model better, and start its rollout. Safe to run twice."""
    import msgspec

    from edgeloop_pipeline.cli.console import Console
    from edgeloop_pipeline.fleet.hub_client import Hub
    from edgeloop_pipeline.fleet.tuf_keys import Keys
    from edgeloop_pipeline.recipe import recipe as recipes
    from edgeloop_pipeline.retraining.cycle import Release, Turn, turn
    from edgeloop_pipeline.retraining.gate import Limits
    from edgeloop_pipeline.retraining.policy import Policy
    from edgeloop_pipeline.retraining.state import EXIT_LOCKED

    if not no_publish and not dry_run and not folder.is_dir():
        raise UsageError(f"{folder}: no keys there; name their folder with --keys, or stop after the gate with --no-publish")
    held = None if no_publish else Keys.unattended(folder)
    if held is not None and not dry_run:
        held.load("targets")  # that it cannot be opened is to be known before hours of training
    made = Turn(
        recipe, changes, runs.resolve(), Hub.of(hub, ca_file), Policy(min_labels, min_labels_with_drift, max_age_days, wait_hours),
        Limits(alpha=alpha, max_home_drop=max_home_drop), pseudo_labels,
        Release(held, channel, steps, soak_minutes), Console(),
        lambda text: click.echo(text, err=True),
    )  # fmt: skip
    found = turn(made, recipes.load(recipes.find(recipe), changes).head.name, force, dry_run)
    if found is None:
        click.echo("another retraining is at work", err=True)
        sys.exit(EXIT_LOCKED)
    click.echo(msgspec.json.encode(found).decode() if as_json else said(found))
    sys.exit(found.exit_code)


def said(found: Any) -> str:
    """The decision with its figures."""
    lines = [f"{found.what}: {found.why}"]
    if found.verdict:
        v = found.verdict
        rows = [v["home"], v["field"], *v["slices"]]
        width = max(len(r["name"]) for r in rows)
        lines.append(f"  {'':{width}}  champion  challenger  difference (95 %)          samples  recordings")
        lines += [
            f"  {r['name']:{width}}  {r['champion']:8.1%}  {r['challenger']:10.1%}  {r['difference']:+7.1%} ({r['low']:+.1%} to"
            f" {r['high']:+.1%})  {r['samples']:7}  {r['recordings']:10}"
            for r in rows
        ]
        lines += [f"  caution: {text}" for text in v["cautions"]]
        lines.append(
            f"  field labels: {found.labels}, of them {found.random_labels} of samples drawn at random and {found.rest_labels} the"
            " rest of labelled recordings; the others were chosen because the champion was unsure, which favours the challenger"
            " in the field's row"
        )  # fmt: skip
    if found.pseudo_labels:
        right = "" if found.pseudo_right is None else f"; on held-out labels it is right in {found.pseudo_right:.1%} where so sure"
        lines.append(f"  {found.pseudo_labels} unlabelled samples trained with the teacher's label{right}")
    if found.target:
        lines.append(f"  {found.target} is published, rollout {found.rollout} has begun")
    return "\n".join(lines)
