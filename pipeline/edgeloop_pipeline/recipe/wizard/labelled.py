"""Examines recordings with several labels each, and plans a network that decides each label by itself."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

from edgeloop_contract.errors import DataError
from edgeloop_pipeline.data.datasets.labelled import LabelledFiles
from edgeloop_pipeline.data.types import NAMES
from edgeloop_pipeline.recipe.wizard import roles
from edgeloop_pipeline.recipe.wizard.facts import facts_of, header_of, shape_problems
from edgeloop_pipeline.recipe.wizard.folders import plan_of_kind
from edgeloop_pipeline.recipe.wizard.plan import MAX_SHOWN, ProjectPlan, adamw, refuse

__all__ = ["look_at_labels"]


def look_at_labels(data: Path, task: str = "") -> ProjectPlan:
    """Read the list and every file once, and return the plan. Raises DataError that lists every problem."""
    if task not in ("", "multilabel"):
        raise DataError(
            f"{data}: a list gives its files several labels, which are for --task multilabel; give class folders for {task}"
        )
    made = LabelledFiles(data)
    found = made.listed
    paths = [row.path for row in found.rows]
    header = header_of(paths) if found.kind == "series" else {}
    chosen = roles.of_columns(header) if header else roles.Roles()
    made = LabelledFiles(data, channels=chosen.channels)
    facts = facts_of(paths, found.kind, chosen.channels)
    problems = [*chosen.problems, *(f"{f.path.name}: {f.problem}; repair or remove it" for f in facts if f.problem)]
    good = [fact for fact in facts if not fact.problem]
    problems += shape_problems(good, found.root) if found.kind == "series" and good else []
    refuse(data, problems)
    sides = made.sides(found)
    count = sides.count("train")
    plan = plan_of_kind(found.kind, found.root, good, chosen.channels, len(found.labels), count)
    counts = Counter(label for row in found.rows for label in row.has)
    shown = ", ".join(f"{label}: {counts[label]}" for label in found.labels[:MAX_SHOWN])
    unknown = sum(len(row.unknown) for row in found.rows)
    mean = sum(counts.values()) / len(found.rows)
    says = [
        ("understood", f"{found.kind} with any number of labels each: {found.how}"),
        ("labels", f"{shown}{f', … ({len(found.labels)} in all)' if len(found.labels) > MAX_SHOWN else ''}"),
        ("recordings", f"{len(found.rows)} with {mean:.2f} labels on average"),
        *((name, f"{sides.count(name)} recordings") for name in NAMES),
        ("split by", made.split_by()),
        *plan.says,
    ]
    says += [("not known", f"{unknown} labels of recordings, which are neither learnt nor judged")] if unknown else []
    if found.single:
        says.append(("caution", "each recording has exactly one label: with class folders, a classification says it better"))
    says += [("left out" if "left out" in line else "caution", line) for line in found.findings.lines()]
    says += [(name, why) for name, why in chosen.left_out.items()]
    arguments = {"channels": chosen.channels, **plan.arguments}
    return replace(
        plan, seen=plan.seen.replace(" classes", " labels, any number each"), says=tuple(says), path=data, kind="LabelledFiles",
        arguments=arguments, distinct=found.labels, task="multilabel", train=adamw(count),
    )  # fmt: skip
