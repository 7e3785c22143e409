"""The stage `package`: writes one verified bundle for hub and device."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from edgeloop_pipeline.bundling.contents import inputs_of, provenance_of, reference_of
from edgeloop_pipeline.bundling.file_names import CANARY, CARD, GOLDEN, OWN_STEPS
from edgeloop_pipeline.bundling.model_card import CardTexts, model_card
from edgeloop_pipeline.bundling.variants import read_variants
from edgeloop_pipeline.recipe.inputs import Inputs
from edgeloop_pipeline.recipe.stage import Base
from edgeloop_pipeline.results.files import PackageResult, ProfileResult, VerifyResult

if TYPE_CHECKING:
    from edgeloop_contract.manifest import ChannelStatistics
    from edgeloop_pipeline.bundling.canary import CanarySet
    from edgeloop_pipeline.data.types import PreparedSplits
    from edgeloop_pipeline.tasks.registry import Task


@dataclass(frozen=True)
class Package(Base):
    """Writes the bundle, then opens it like a device."""

    needs = ("exported", "verified", "profiled")
    gives = ("bundle",)
    code = ("edgeloop_contract.features",)  # the archive marks what the manifest uses
    libraries = ("numpy",)
    uses_target = True
    uses_history = True

    def __call__(self, inputs: Inputs, out: Path) -> PackageResult:
        from edgeloop_contract import archive, manifest
        from edgeloop_pipeline.tasks.registry import task_for

        project, head = inputs.project, inputs.project.recipe.head
        task = task_for(project.splits)
        exported = inputs.artefacts["exported"]
        verified, profiled = inputs.required("verify", VerifyResult), inputs.required("profile", ProfileResult)
        canary, reference = _canary(inputs, task)
        files = dict(canary.files) | {name: path.read_bytes() for name, path in project.step_files.items()}
        variants = []
        for variant in read_variants(exported):
            files[f"models/{variant.file}"] = (exported / variant.file).read_bytes()
            # What is kept of an original's answers is no accuracy: the card says it.
            accuracy = verified.variants[variant.name].accuracy if project.splits.is_labelled else None
            cost = profiled.variants[variant.name]
            variants.append(msgspec.structs.replace(variant, file=f"models/{variant.file}", accuracy=accuracy, cost=cost))
        split = _split(inputs, files)
        made = manifest.Manifest(
            schema=manifest.SCHEMA, name=head.name, version=head.version,
            task=task.described(verified),
            inputs=inputs_of(project), cleaning=head.cleaning, channels=list(project.splits.channels),
            variants=variants, files=archive.describe(files),
            canary=canary.description, drift_reference=reference, drift=_drift(inputs), split=split,
            cascade=_cascade(inputs), provenance=provenance_of(project),
            model_card="",
        )  # fmt: skip
        texts = CardTexts(
            head.model_card, [*task.card(verified), *_kept(project.splits, verified)], verified.metric, head.license, head.datasets
        )
        made = msgspec.structs.replace(made, model_card=model_card(made, texts))
        (out / CARD).write_text(made.model_card, encoding="utf-8")
        name = f"{head.name}-{head.version}.edgeloop"
        archive.write(out / name, made, files)
        with archive.Bundle.open(out / name) as bundle:
            return PackageResult(name, bundle.sha256, (out / name).stat().st_size, len(files))


def _canary(inputs: Inputs, task: Task) -> tuple[CanarySet, ChannelStatistics]:
    """The canary of verified samples, and the statistics that drift is measured against."""
    import numpy as np

    from edgeloop_pipeline.bundling.canary import canary_set
    from edgeloop_pipeline.bundling.variants import named_outputs, samples_by_input

    with np.load(inputs.artefacts["verified"] / CANARY, allow_pickle=False) as file:
        arrays = dict(file)
    canary = canary_set(
        samples_by_input(arrays["inputs"], inputs.project.splits), arrays["scores"], arrays.get("labels"),
        steps=arrays["steps"].tolist(), max_steps=inputs.required("verify", VerifyResult).allowed_lsb,
        outputs=named_outputs(read_variants(inputs.artefacts["exported"])[0]),
        golden={name.removeprefix(GOLDEN): values for name, values in arrays.items() if name.startswith(GOLDEN)},
        own_steps={n.removeprefix(OWN_STEPS): steps.tolist() for n, steps in arrays.items() if n.startswith(OWN_STEPS)},
    )  # fmt: skip
    return canary, reference_of(inputs.project.splits, task.reference(arrays["validation_scores"]))


def _kept(splits: PreparedSplits, verified: VerifyResult) -> list[str]:
    """The card's line on a model whose data nobody labelled."""
    if splits.is_labelled:
        return []
    files = ", ".join(f"{name} {v.accuracy.value:.2%}" for name, v in verified.variants.items())
    return [
        f"Nobody labelled the data, so the accuracy is not known. {verified.metric.capitalize()} with the original model's answers"
        f" on {len(splits.test)} samples: {files}."
    ]


def _drift(inputs: Inputs) -> Any:
    from edgeloop_contract.drift import Drift
    from edgeloop_pipeline.bundling.file_names import DRIFT

    if not (inputs.artefacts["verified"] / DRIFT).is_file():
        return None
    return msgspec.json.decode((inputs.artefacts["verified"] / DRIFT).read_bytes(), type=Drift)


def _split(inputs: Inputs, files: dict[str, bytes]) -> Any:
    """The model's cut points, with their heads added to `files`; None if there is no split stage or no cut."""
    from edgeloop_contract.manifest import Split
    from edgeloop_pipeline.bundling.file_names import CUTS

    for _, folder in inputs.holding(CUTS):
        split = msgspec.json.decode((folder / CUTS).read_bytes(), type=Split)
        cuts = []
        for cut in split.cuts:
            for name in filter(None, (cut.file, cut.decoder)):
                files[f"heads/{name}"] = (folder / name).read_bytes()
            placed = {key: f"heads/{name}" for key, name in (("file", cut.file), ("decoder", cut.decoder)) if name}
            cuts.append(msgspec.structs.replace(cut, **placed))
        return msgspec.structs.replace(split, cuts=cuts)
    return None


def _cascade(inputs: Inputs) -> Any:
    from edgeloop_contract.manifest import Cascade
    from edgeloop_pipeline.bundling.file_names import CASCADE

    for _, folder in inputs.holding(CASCADE):
        return msgspec.json.decode((folder / CASCADE).read_bytes(), type=Cascade)
    return None
