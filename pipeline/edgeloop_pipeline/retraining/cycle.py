"""One turn of retraining: look, decide, train the challenger, judge it, publish it. Each decision is kept with its figures.

It may be killed anywhere and run again: stages are cached, the version of an unfinished try is remembered, and the hub takes a
bundle once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from edgeloop_contract.archive import Bundle
from edgeloop_contract.arrays import Array
from edgeloop_contract.drift import FAULTS
from edgeloop_contract.errors import GateError, UsageError
from edgeloop_contract.manifest import Precision
from edgeloop_pipeline.cache.store import Store, write
from edgeloop_pipeline.data import field_data
from edgeloop_pipeline.fleet.hub_client import Hub
from edgeloop_pipeline.fleet.release import publish, start
from edgeloop_pipeline.fleet.tuf_keys import Keys
from edgeloop_pipeline.recipe import recipe as recipes
from edgeloop_pipeline.recipe.project import Project
from edgeloop_pipeline.retraining import fetch_samples, gate, pseudo_labelling
from edgeloop_pipeline.retraining import state as state_of
from edgeloop_pipeline.retraining.policy import Decision, Policy, Signals, decide
from edgeloop_pipeline.retraining.state import Champion, Outcome, State, Try
from edgeloop_pipeline.run.runner import Listener, Result
from edgeloop_pipeline.run.runner import run as run_recipe

WARM_RATE = 0.25
DAY, HOUR = 86400.0, 3600.0


@dataclass(frozen=True)
class Release:
    """How a challenger that passed reaches the fleet. `keys` None: it is not published."""

    keys: Keys | None
    channel: str = "stable"
    steps: str = "25%, 100%"
    soak_minutes: float = 60.0


@dataclass(frozen=True)
class Turn:
    """Everything a turn works with."""

    recipe: str
    changes: tuple[str, ...]
    runs: Path
    hub: Hub
    policy: Policy
    limits: gate.Limits
    pseudo_labels: float  # how sure the teacher must be of a sample that nobody labelled, for it to train; 0: none does
    release: Release
    listener: Listener
    log: Callable[[str], None]

    def __call__(self, force: bool = False, dry_run: bool = False) -> Outcome:
        """Raises GateError never: what the recipe's floors refuse is an outcome. `force`: retrain whatever the policy says."""
        base = recipes.load(recipes.find(self.recipe), self.changes)
        if base.head.task != "classification":
            raise UsageError(f"{base.path}: is a {base.head.task} recipe; retraining judges by labels, of classification alone")
        folder = self.runs / "retrain" / base.head.name
        state = state_of.load(folder)
        champion = state.champion or self._first(base, folder)
        state = msgspec.structs.replace(state, champion=champion)
        told = self.hub.get(f"/api/v1/drift?model={base.head.name}&seconds={7 * DAY}")
        faulty = {d["device"]: d["cause"] for d in told["devices"] if d["drifting"] and d["cause"] in FAULTS}
        for device, cause in faulty.items():
            self.log(f"{device} is left out: {cause}, which is to be repaired and not to be learnt")
        without = frozenset(faulty)
        found = fetch_samples.labelled(self.hub, base.head.name, without)
        keys = sorted(set(found.keys.tolist())) if found is not None else []
        signals = _signals(
            state, champion, keys, [d["device"] for d in told["devices"] if d["drifting"] and d["device"] not in faulty]
        )
        decision = Decision(True, "asked for") if force and keys else decide(self.policy, signals)
        self.log(f"{base.head.name}: {decision.why}")
        said = Outcome(
            at=time.time(), what="nothing", why=decision.why, labels=len(keys), new_labels=signals.new_labels,
            drifting=list(signals.drifting), champion=champion.sha256,
        )  # fmt: skip
        if not decision.go or found is None or dry_run:
            what = "would retrain" if decision.go else "nothing"
            return self._noted(folder, state, msgspec.structs.replace(said, what=what), keep=not dry_run)
        open_ones = fetch_samples.unlabelled(self.hub, base.head.name, without, found) if self.pseudo_labels else None
        return self._retrain(base, folder, state, champion, found, open_ones, keys, said)

    def _retrain(
        self,
        base: recipes.Recipe,
        folder: Path,
        state: State,
        champion: Champion,
        found: field_data.Field,
        open_ones: field_data.Field | None,
        keys: list[str],
        said: Outcome,
    ) -> Outcome:
        found, sides = found.divided(state.sides)
        if open_ones is not None:  # what trains by a guess must be of a recording that judges nothing, now or later
            open_ones, sides = open_ones.divided(sides)
        state = msgspec.structs.replace(state, sides=sides)
        trained = found
        if open_ones is not None:
            teaching = self._challenger(base, champion, champion.version + 1, found.save(folder / "data").resolve())
            trained, given = pseudo_labelling.add(teaching, found, open_ones, self.pseudo_labels, Store(self.runs), self.listener)
            said = msgspec.structs.replace(said, pseudo_labels=given.labels, pseudo_right=given.right)
            self.log(f"{given.labels} of {given.of} unlabelled samples take the teacher's label")
        path = trained.save(folder / "data").resolve()
        last = state.last
        again = last is not None and not last.refused and last.data == path.name and last.version > champion.version
        version = last.version if again and last is not None else self._next_version(base, champion)
        begun = Try(version, path.name, time.time(), keys)
        state_of.keep(folder, msgspec.structs.replace(state, last=begun))
        said = msgspec.structs.replace(
            said, data=path.name, version=version, random_labels=int(found.random.sum()), rest_labels=int(found.rest.sum()),
            champion=champion.sha256,
        )  # fmt: skip
        try:
            result = run_recipe(self._challenger(base, champion, version, path), Store(self.runs), self.listener)
        except GateError as error:
            refused = msgspec.structs.replace(said, what="refused", why=str(error))
            return self._noted(folder, msgspec.structs.replace(state, last=state_of.refused(begun)), refused)
        bundle = bundle_of(result)
        verdict = self._judge(Project(base), Path(champion.bundle), bundle, found)
        said = msgspec.structs.replace(said, bundle=str(bundle), verdict=msgspec.to_builtins(verdict))
        if not verdict.passed:
            refused = msgspec.structs.replace(said, what="refused", why="; ".join(verdict.reasons))
            return self._noted(folder, msgspec.structs.replace(state, last=state_of.refused(begun)), refused)
        target, rollout = self._released(bundle)
        with Bundle.open(bundle) as opened:
            made = Champion(
                str(_copy(bundle, folder, opened.sha256)), opened.sha256, version, _weights(result, folder), time.time(), keys
            )  # fmt: skip
        better = f"{verdict.field.champion:.1%} → {verdict.field.challenger:.1%} in the field"
        done = msgspec.structs.replace(said, what="published", why=f"{said.why}; {better}", target=target, rollout=rollout)
        return self._noted(folder, State(made, begun, sides), done)

    def _challenger(self, base: recipes.Recipe, champion: Champion, version: int, data: Path) -> recipes.Recipe:
        own = {"version": version, "field": {"file": str(data)}, "parent": champion.sha256}
        changes: list[str | recipes.Override] = [*self.changes, *(recipes.Override(name, value) for name, value in own.items())]
        if champion.weights:
            changes.append(recipes.Override("train.start", champion.weights))
            rate = base.stages["train"].get("learning_rate")
            if isinstance(rate, int | float):  # from scratch; what goes on from a good network takes smaller steps
                changes.append(recipes.Override("train.learning_rate", rate * WARM_RATE))
        return recipes.load(recipes.find(self.recipe), changes)

    def _first(self, base: recipes.Recipe, folder: Path) -> Champion:
        """The recipe as it is, from the cache where it ran already: the first champion."""
        self.log(f"{base.head.name}: no champion is known yet; the recipe as it is becomes the first one")
        result = run_recipe(base, Store(self.runs), self.listener)
        bundle = bundle_of(result)
        with Bundle.open(bundle) as opened:
            copied = _copy(bundle, folder, opened.sha256)
            champion = Champion(str(copied), opened.sha256, opened.manifest.version, _weights(result, folder), time.time())
        state_of.keep(folder, State(champion))
        return champion

    def _next_version(self, base: recipes.Recipe, champion: Champion) -> int:
        published = [int(b["version"]) for b in self.hub.get("/api/v1/bundles") if b["model"] == base.head.name]
        return max([base.head.version, champion.version, *published]) + 1

    def _judge(self, project: Project, champion: Path, challenger: Path, found: field_data.Field) -> gate.Verdict:
        """Both bundles as shipped, on the recipe's own test set and on the part of the field data that nobody trained on."""
        splits = project.splits
        held = field_data.samples(found.judging, splits.labels)
        names = np.asarray(splits.labels)
        both = [
            (right(path, splits.test.values, splits.test.labels), right(path, held.values, held.labels))
            for path in (champion, challenger)
        ]
        home = gate.Answers(both[0][0], both[1][0], splits.test.recording, {"class": names[splits.test.labels]})
        away = gate.Answers(
            both[0][1], both[1][1], held.recording, {"of": held.groups, "class": names[held.labels]}
        )  # fmt: skip
        self.log(f"gate: {len(splits.test)} test samples at home, {len(held)} held-out samples of the field")
        return gate.judge(home, away, self.limits)

    def _released(self, bundle: Path) -> tuple[str, int | None]:
        """Published, and its rollout begun; both only once."""
        if self.release.keys is None:
            return "", None
        target, _ = publish(self.release.keys, self.hub, bundle, self.release.channel)
        known = next((r for r in self.hub.get("/api/v1/rollouts") if r["target"] == target), None)
        if known is not None:
            return target, int(known["id"])
        return target, start(self.hub, target, self.release.steps, self.release.soak_minutes, {})

    def _noted(self, folder: Path, state: State, said: Outcome, keep: bool = True) -> Outcome:
        if keep:
            folder.mkdir(parents=True, exist_ok=True)
            with (folder / "decisions.jsonl").open("ab") as file:
                file.write(msgspec.json.encode(said) + b"\n")
            state_of.keep(folder, state)
        return said


def _signals(state: State, champion: Champion, keys: list[str], drifting: list[str]) -> Signals:
    seen = set(champion.labels) | set(state.last.labels if state.last and state.last.refused else ())
    tried = (time.time() - state.last.at) / HOUR if state.last and state.last.refused else None
    return Signals(len(keys), len(set(keys) - seen), tuple(sorted(drifting)), (time.time() - champion.made) / DAY, tried)


def bundle_of(result: Result) -> Path:
    path = result.path("package", "bundle")
    if path is None:
        raise UsageError(f"{result.recipe.path}: has no package stage; retraining needs a bundle")
    return path.resolve()


def right(path: Path, values: Array, labels: Array) -> Array:
    """(N,) whether a bundle's int8 file (TFLite, where it has one) answers with the label."""
    from edgeloop_agent.runtimes import open_runtime

    with Bundle.open(path) as bundle:
        variants = bundle.manifest.variants
        order = sorted(variants, key=lambda v: (v.precision != Precision.INT8, v.runtime != "tflite"))
        runtime = open_runtime(order[0], bundle.read(order[0].file))
    answers = [int(runtime.run(values[i : i + 1])[0].argmax()) for i in range(len(values))]
    return np.asarray(np.array(answers, dtype=np.int64) == labels)


def _copy(path: Path, folder: Path, digest: str) -> Path:
    """A file kept beside the state: the runs' cache may be emptied."""
    kept = folder / f"{path.stem}-{digest[:16]}{path.suffix}"
    if not kept.exists():
        write(kept, path.read_bytes())
    return kept.resolve()


def _weights(result: Result, folder: Path) -> str:
    """Of the train stage's network; "" where the recipe has none."""
    entry = next((e for e in result.entries if e.stage == "train" and "network.safetensors" in e.files), None)
    if entry is None:
        return ""
    return str(_copy(result.store.folder("train", entry.key) / "network.safetensors", folder, entry.files["network.safetensors"]))


def turn(made: Turn, name: str, force: bool, dry_run: bool) -> Outcome | None:
    """A turn under the lock; None when another one is at work."""
    with state_of.locked(made.runs, name) as mine:
        return made(force, dry_run) if mine else None
