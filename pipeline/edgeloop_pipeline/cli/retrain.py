"""`edgeloop retrain`, for cron and for systemd's timers."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgeloop_contract.errors import UsageError
from edgeloop_pipeline.cli.hub_options import ca_option, hub_option, keys_option
from edgeloop_pipeline.cli.run_options import FiniteRange

if TYPE_CHECKING:  # loaded when the command runs
    from edgeloop_pipeline.retraining.state import Outcome

EXIT_CODES = """\b
Exit codes: 0 a better model was published (with --dry-run: it would retrain) · 10 nothing to do · 11 another retraining is at work
· 1 the challenger was refused · 2 wrong usage · 3 data · 7 disk · 8 the hub is away or refuses. Each cycle adds a line to
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
    "--max-test-drop", type=float, default=0.005, show_default=True, help="What may be lost of the metric on the recipe's test set."
)
@click.option(
    "--pseudo-labels",
    type=FiniteRange(0, 1),
    default=0.0,
    metavar="CONFIDENCE",
    help="Train on unlabelled samples too, with a classifier's own label where it is so confident. They never judge. 0: off.",
)
@click.option("--channel", default="stable", show_default=True)
@click.option("--steps", default="25%, 100%", show_default=True, help="The rollout's steps; the first is the pilot.")
@click.option("--soak-minutes", type=float, default=60.0, show_default=True)
@click.option("--gate", "gates", multiple=True, metavar="NAME=VALUE", help="Change a gate of the rollout, as in rollout start.")
@click.option("--no-publish", is_flag=True, help="Stop after the gate.")
@click.option("--force", is_flag=True, help="Whatever the policy says; the gate still decides.")
@click.option("--dry-run", is_flag=True, help="Only decide.")
@click.option("--json", "as_json", is_flag=True, help="Print the decision as one JSON object.")
def retrain(
    recipe: str, hub: str, ca_file: str, folder: Path, runs: Path, changes: tuple[str, ...], min_labels: int,
    min_labels_with_drift: int, max_age_days: float, wait_hours: float, alpha: float, max_test_drop: float,
    pseudo_labels: float, channel: str, steps: str, soak_minutes: float, gates: tuple[str, ...], no_publish: bool,
    force: bool, dry_run: bool,
    as_json: bool,
) -> None:  # fmt: skip
    """Retrain RECIPE on labelled field samples, prove the new model better, and start its rollout. Safe to run twice."""
    import msgspec

    from edgeloop_pipeline.cli.console import Console
    from edgeloop_pipeline.cli.rollout import gate_limits
    from edgeloop_pipeline.fleet.hub_client import HubClient
    from edgeloop_pipeline.fleet.tuf_keys import Keys
    from edgeloop_pipeline.recipe import recipe as recipes
    from edgeloop_pipeline.retraining.cycle import Release, RetrainingCycle, run_cycle
    from edgeloop_pipeline.retraining.gate import ChallengerLimits
    from edgeloop_pipeline.retraining.policy import Policy
    from edgeloop_pipeline.retraining.state import EXIT_LOCKED

    if not no_publish and not dry_run and not folder.is_dir():
        raise UsageError(f"{folder}: no keys there; name their folder with --keys, or stop after the gate with --no-publish")
    keys = None if no_publish else Keys.unattended(folder)
    if keys is not None and not dry_run:
        keys.load("targets")  # a key that cannot be opened fails here, before hours of training
    cycle = RetrainingCycle(
        recipe, changes, runs.resolve(), HubClient.from_environment(hub, ca_file),
        Policy(min_labels, min_labels_with_drift, max_age_days, wait_hours),
        ChallengerLimits(alpha=alpha, max_test_drop=max_test_drop),
        pseudo_labels, Release(keys, channel, steps, soak_minutes, gate_limits(gates)), Console(),
        lambda text: click.echo(text, err=True),
    )  # fmt: skip
    outcome = run_cycle(cycle, recipes.load(recipes.find(recipe), changes).head.name, force, dry_run)
    if outcome is None:
        click.echo("another retraining is at work", err=True)
        sys.exit(EXIT_LOCKED)
    click.echo(msgspec.json.encode(outcome).decode() if as_json else in_words(outcome))
    sys.exit(outcome.exit_code)


def in_words(outcome: Outcome) -> str:
    """The decision with its figures."""
    lines = [f"{outcome.action}: {outcome.reason}"]
    if (verdict := outcome.verdict) is not None:
        rows = [verdict.test, verdict.field, *verdict.slices]
        width = max(len(verdict.metric), *(len(row.name) for row in rows))
        lines.append(f"  {verdict.metric:{width}}  champion  challenger  difference (95 %)          samples  recordings")
        lines += [
            f"  {r.name:{width}}  {r.champion:8.1%}  {r.challenger:10.1%}  {r.difference:+7.1%} ({r.low:+.1%} to"
            f" {r.high:+.1%})  {r.samples:7}  {r.recordings:10}"
            for r in rows
        ]
        lines += [f"  caution: {text}" for text in verdict.cautions]
        lines.append(
            f"  field labels: {outcome.labels}, of them {outcome.random_labels} of samples drawn at random and"
            f" {outcome.context_labels} of context samples of labelled recordings; the others were chosen because the champion was"
            " uncertain, which favours the challenger in the field's row"
        )
    if outcome.pseudo_labels:
        accuracy = outcome.pseudo_accuracy
        right = "" if accuracy is None else f"; on held-out labels it is right in {accuracy:.1%} at that confidence"
        lines.append(f"  {outcome.pseudo_labels} unlabelled samples trained with the teacher's label{right}")
    if outcome.target:
        lines.append(f"  {outcome.target} is published, rollout {outcome.rollout} has begun")
    return "\n".join(lines)
