"""One cycle of retraining: look, decide, train the challenger, judge it, publish it. Each decision is kept with its figures.

It may be killed anywhere and run again: stages are cached, the version of an unfinished attempt is remembered, and the hub takes a
bundle once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from edgeloop_contract.archive import Bundle
from edgeloop_contract.drift import FAULTS
from edgeloop_contract.errors import GateError, UsageError
from edgeloop_contract.rollout import GateLimits
from edgeloop_contract.tasks import names_of
from edgeloop_pipeline.cache.store import Store, write
from edgeloop_pipeline.data import field_data
from edgeloop_pipeline.fleet.hub_client import HubClient
from edgeloop_pipeline.fleet.release import publish, start
from edgeloop_pipeline.fleet.tuf_keys import Keys
from edgeloop_pipeline.recipe import recipe as recipes
from edgeloop_pipeline.recipe.project import Project
from edgeloop_pipeline.retraining import fetch_samples, gate, pseudo_labelling
from edgeloop_pipeline.retraining import state as states
from edgeloop_pipeline.retraining.judging import on_field, on_test
from edgeloop_pipeline.retraining.policy import Decision, Policy, Signals, decide
from edgeloop_pipeline.retraining.sample_labels import TASKS
from edgeloop_pipeline.retraining.shipped_answers import task_of
from edgeloop_pipeline.retraining.state import Attempt, Champion, Outcome, State
from edgeloop_pipeline.run.runner import Listener, RunResult
from edgeloop_pipeline.run.runner import run as run_recipe

WARM_START_RATE = 0.25  # of the recipe's learning rate, for training that goes on from the champion's network
DRIFT_DAYS = 7.0
DAY, HOUR = 86400.0, 3600.0


@dataclass(frozen=True)
class Release:
    """How a challenger that passed reaches the fleet. `keys` None: it is not published."""

    keys: Keys | None
    channel: str = "stable"
    steps: str = "25%, 100%"
    soak_minutes: float = 60.0
    gates: GateLimits = field(default_factory=GateLimits)


@dataclass(frozen=True)
class _FieldSamples:
    """`labelled` samples with their keys, and samples that nobody labelled, where they are wanted."""

    labelled: field_data.Field
    unlabelled: field_data.Field | None
    keys: list[str]


@dataclass(frozen=True)
class _Training:
    """What the challenger is made from. `data`: the file of field data; `sides`: of all groups of samples."""

    judged_by: field_data.Field
    data: Path
    sides: dict[str, str]
    pseudo_labels: pseudo_labelling.PseudoLabels | None


@dataclass(frozen=True)
class RetrainingCycle:
    """Everything a cycle works with."""

    recipe: str
    changes: tuple[str, ...]
    runs: Path
    hub: HubClient
    policy: Policy
    limits: gate.ChallengerLimits
    pseudo_label_confidence: float  # of the teacher on an unlabelled sample, for it to train; 0: none does
    release: Release
    listener: Listener
    log: Callable[[str], None]

    def __call__(self, force: bool = False, dry_run: bool = False) -> Outcome:
        """`force`: retrain whatever the policy says. What the recipe's floors refuse is an outcome, and no GateError.

        Raises UsageError for a recipe that cannot be retrained, NetworkError where the hub is away.
        """
        base = recipes.load(recipes.find(self.recipe), self.changes)
        _check(base, self.pseudo_label_confidence)
        folder, name = self.runs / "retrain" / base.head.name, base.head.name
        state = states.load(folder)
        champion = state.champion or self._first_champion(base, folder)
        state = msgspec.structs.replace(state, champion=champion)
        drifting, faulty = self._drifting(name)
        labelled = fetch_samples.labelled(self.hub, name, faulty, task_of(Path(champion.bundle)), self.log)
        keys = sorted(set(labelled.keys.tolist())) if labelled is not None else []
        signals = _signals(state, champion, keys, drifting)
        decision = Decision(True, "asked for") if force and keys else decide(self.policy, signals)
        self.log(f"{name}: {decision.reason}")
        outcome = Outcome(
            at=time.time(), action="nothing", reason=decision.reason, labels=len(keys), new_labels=signals.new_labels,
            drifting=list(signals.drifting), champion=champion.sha256,
        )  # fmt: skip
        if not decision.retrain or labelled is None or dry_run:
            outcome = msgspec.structs.replace(outcome, action="would retrain" if decision.retrain else "nothing")
            return self._kept(folder, state, outcome, keep=not dry_run)
        unlabelled = None
        if self.pseudo_label_confidence:
            unlabelled = fetch_samples.unlabelled(self.hub, name, faulty, labelled, task_of(Path(champion.bundle)))
        return self._retrain(base, folder, state, champion, _FieldSamples(labelled, unlabelled, keys), outcome)

    def _drifting(self, model: str) -> tuple[list[str], frozenset[str]]:
        """Devices that drift, and devices with a faulty sensor: those need repair, and nothing is learnt from them."""
        drifting = [device for device in self.hub.drift(model, DRIFT_DAYS * DAY).devices if device.drifting]
        faulty = {device.device: device.cause for device in drifting if device.cause in FAULTS}
        for device, cause in faulty.items():
            self.log(f"{device} is left out: {cause}, which needs repair and is not to be learnt")
        return [device.device for device in drifting if device.device not in faulty], frozenset(faulty)

    def _retrain(
        self, base: recipes.Recipe, folder: Path, state: State, champion: Champion, samples: _FieldSamples, outcome: Outcome
    ) -> Outcome:
        _check_champion(champion, Project(base), folder)
        training = self._training(base, folder, state, champion, samples)
        state = msgspec.structs.replace(state, sides=training.sides)
        data = training.data.name
        version = self._version(base, state, champion, data)
        attempt = Attempt(version, data, time.time(), samples.keys)
        states.keep(folder, msgspec.structs.replace(state, last=attempt))
        refused_state = msgspec.structs.replace(state, last=states.refused(attempt))
        pseudo = training.pseudo_labels
        outcome = msgspec.structs.replace(
            outcome, data=data, version=version, random_labels=int(training.judged_by.random.sum()),
            context_labels=int(training.judged_by.rest.sum()), pseudo_labels=pseudo.count if pseudo else 0,
            pseudo_accuracy=pseudo.accuracy if pseudo else None,
        )  # fmt: skip
        try:
            result = run_recipe(
                self._challenger(base, champion, version, training.data), Store(self.runs), self.listener, keep="history"
            )
        except GateError as error:
            return self._kept(folder, refused_state, msgspec.structs.replace(outcome, action="refused", reason=str(error)))
        bundle = bundle_of(result)
        verdict = self._judge(Project(base), Path(champion.bundle), bundle, training.judged_by)
        outcome = msgspec.structs.replace(outcome, bundle=str(bundle), verdict=verdict)
        if not verdict.passed:
            outcome = msgspec.structs.replace(outcome, action="refused", reason="; ".join(verdict.reasons))
            return self._kept(folder, refused_state, outcome)
        target, rollout = self._released(bundle)
        new_champion = _champion(bundle, result, folder, samples.keys)
        reason = f"{outcome.reason}; {gate.gain(verdict)}"
        outcome = msgspec.structs.replace(outcome, action="published", reason=reason, target=target, rollout=rollout)
        return self._kept(folder, State(new_champion, attempt, training.sides), outcome)

    def _training(self, base: recipes.Recipe, folder: Path, state: State, champion: Champion, samples: _FieldSamples) -> _Training:
        """The field's samples with their sides, saved; with pseudo-labels, where they are wanted."""
        labelled, sides = samples.labelled.divided(state.sides)
        if samples.unlabelled is None:
            return _Training(labelled, labelled.save(folder / "data").resolve(), sides, None)
        # A pseudo-labelled sample has to be of a recording that judges nothing, now or later.
        unlabelled, sides = samples.unlabelled.divided(sides)
        teaching = self._challenger(base, champion, champion.version + 1, labelled.save(folder / "data").resolve())
        trained, pseudo = pseudo_labelling.add(
            teaching, labelled, unlabelled, self.pseudo_label_confidence, Store(self.runs), self.listener
        )
        self.log(f"{pseudo.count} of {pseudo.unlabelled} unlabelled samples take the teacher's label")
        return _Training(labelled, trained.save(folder / "data").resolve(), sides, pseudo)

    def _version(self, base: recipes.Recipe, state: State, champion: Champion, data: str) -> int:
        """Of an unfinished attempt on the same data, else the next one."""
        last = state.last
        if last is not None and not last.refused and last.data == data and last.version > champion.version:
            return last.version
        published = [bundle.version for bundle in self.hub.bundles() if bundle.model == base.head.name]
        return max([base.head.version, champion.version, *published]) + 1

    def _challenger(self, base: recipes.Recipe, champion: Champion, version: int, data: Path) -> recipes.Recipe:
        overrides = [
            recipes.Override("version", version),
            recipes.Override("field", field_data.settings(data, base.head.task)),
            recipes.Override("parent", champion.sha256),
        ]
        if champion.weights:
            overrides.append(recipes.Override("train.start", champion.weights))
            rate = base.stages["train"].get("learning_rate")
            if isinstance(rate, int | float):  # the recipe's is for training from scratch
                overrides.append(recipes.Override("train.learning_rate", rate * WARM_START_RATE))
        return recipes.load(recipes.find(self.recipe), [*self.changes, *overrides])

    def _first_champion(self, base: recipes.Recipe, folder: Path) -> Champion:
        """Of the recipe as it is, from the cache where it ran already."""
        self.log(f"{base.head.name}: no champion is known yet; the recipe as it is becomes the first one")
        result = run_recipe(base, Store(self.runs), self.listener, keep="history")
        champion = _champion(bundle_of(result), result, folder, [])
        states.keep(folder, State(champion))
        return champion

    def _judge(self, project: Project, champion: Path, challenger: Path, field: field_data.Field) -> gate.Verdict:
        """Both bundles as shipped, on the recipe's own test set and on the part of the field data that nobody trained on."""
        splits = project.splits
        test, in_field = on_test(champion, challenger, splits), on_field(champion, challenger, splits, field)
        self.log(f"gate: {len(test.recordings)} samples of the test set, {len(in_field.recordings)} held-out samples of the field")
        return gate.judge(test, in_field, self.limits)

    def _released(self, bundle: Path) -> tuple[str, int | None]:
        """Publish the bundle and begin its rollout, both only once; the target's name and the rollout's number."""
        if self.release.keys is None:
            return "", None
        target, _ = publish(self.release.keys, self.hub, bundle, self.release.channel)
        known = next((rollout for rollout in self.hub.rollouts() if rollout.target == target), None)
        if known is not None:
            return target, known.id
        return target, start(self.hub, target, self.release.steps, self.release.soak_minutes, self.release.gates)

    def _kept(self, folder: Path, state: State, outcome: Outcome, keep: bool = True) -> Outcome:
        """The outcome, after it and the state were written."""
        if keep:
            folder.mkdir(parents=True, exist_ok=True)
            with (folder / "decisions.jsonl").open("ab") as file:
                file.write(msgspec.json.encode(outcome) + b"\n")
            states.keep(folder, state)
        return outcome


def _check(base: recipes.Recipe, pseudo_label_confidence: float) -> None:
    """Raises UsageError for a recipe that cannot be retrained, or not so."""
    task = base.head.task
    if base.head.imported is not None and base.head.imported.measure:
        raise UsageError(
            f"{base.path}: is judged by the original model's answers (imported.measure); retraining judges by labels: give the"
            " data's labels, and remove measure"
        )
    if task not in TASKS:
        raise UsageError(f"{base.path}: is a {task} recipe; retraining is of {', '.join(TASKS[:-1])} and {TASKS[-1]} alone")
    if pseudo_label_confidence and task != "classification":
        raise UsageError(f"{base.path}: is a {task} recipe; pseudo-labels are of classification alone: leave --pseudo-labels off")


def _check_champion(champion: Champion, project: Project, folder: Path) -> None:
    """Raises UsageError where the recipe's task or names are others than the champion's: their answers cannot be compared."""
    task, splits = task_of(Path(champion.bundle)), project.splits
    known = (str(task.__struct_config__.tag), names_of(task))
    if known != (splits.task, list(splits.labels)):
        raise UsageError(
            f"{project.recipe.path}: is a {splits.task} of {', '.join(splits.labels[:5])}, and the champion a {known[0]} of"
            f" {', '.join(known[1][:5])}: remove {folder} to begin anew"
        )


def _signals(state: State, champion: Champion, keys: list[str], drifting: Sequence[str]) -> Signals:
    refused = state.last if state.last and state.last.refused else None
    known = set(champion.labels) | set(refused.labels if refused else ())
    hours = (time.time() - refused.at) / HOUR if refused else None
    return Signals(len(keys), len(set(keys) - known), tuple(sorted(drifting)), (time.time() - champion.made) / DAY, hours)


def bundle_of(result: RunResult) -> Path:
    """The bundle that a run packaged. Raises UsageError for a recipe without one."""
    path = result.path("package", "bundle")
    if path is None:
        raise UsageError(f"{result.recipe.path}: has no package stage; retraining needs a bundle")
    return path.resolve()


def _champion(bundle: Path, result: RunResult, folder: Path, labels: list[str]) -> Champion:
    """Of a bundle, which is copied into `folder`. `labels`: keys of the field samples it knows."""
    with Bundle.open(bundle) as opened:
        sha256, version = opened.sha256, opened.manifest.version
    return Champion(str(_copy(bundle, folder, sha256)), sha256, version, _weights(result, folder), time.time(), labels)


def _copy(path: Path, folder: Path, digest: str) -> Path:
    """A file kept beside the state: the runs' cache may be emptied."""
    kept = folder / f"{path.stem}-{digest[:16]}{path.suffix}"
    if not kept.exists():
        write(kept, path.read_bytes())
    return kept.resolve()


def _weights(result: RunResult, folder: Path) -> str:
    """Of the train stage's network; "" where the recipe has none."""
    entry = next((e for e in result.entries if e.stage == "train" and "network.safetensors" in e.files), None)
    if entry is None:
        return ""
    return str(_copy(result.store.folder("train", entry.key) / "network.safetensors", folder, entry.files["network.safetensors"]))


def run_cycle(cycle: RetrainingCycle, name: str, force: bool, dry_run: bool) -> Outcome | None:
    """A cycle under the lock of the recipe `name`; None when another one is at work."""
    with states.locked(cycle.runs, name) as is_ours:
        return cycle(force, dry_run) if is_ours else None
