"""What changed between two bundles of a model, in words."""

from __future__ import annotations

from edgeloop_contract.hub_messages import PublishedBundle, VariantSummary

NAMES_SHOWN = 5


def changes(new: PublishedBundle, old: PublishedBundle) -> list[str]:
    """Of accuracy, size, latency, labels, data and recipe; an empty list where the registry sees no difference."""
    said = []
    before = {variant.name: variant for variant in old.variants}
    for variant in new.variants:
        if variant.name in before and (words := _of_variant(variant, before[variant.name])):
            said.append(f"{variant.name}: {', '.join(words)}")
    for word, names in (
        ("new variants", [v.name for v in new.variants if v.name not in before]),
        ("variants that are gone", sorted(before.keys() - {v.name for v in new.variants})),
        ("new labels", [name for name in new.labels if name not in set(old.labels)]),
        ("labels that are gone", [name for name in old.labels if name not in set(new.labels)]),
    ):
        if names:
            more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
            said.append(f"{word}: {', '.join(names[:NAMES_SHOWN])}{more}")
    if new.agent is not None and old.agent is not None and new.agent != old.agent:
        said.append(f"agent {new.agent.version}, not {old.agent.version}")
    said += ["another recipe"] if new.recipe != old.recipe else []
    said += ["other data"] if new.data != old.data else []
    return said + ([f"needs an agent that reads schema {new.schema}, not {old.schema}"] if new.schema != old.schema else [])


def _of_variant(new: VariantSummary, old: VariantSummary) -> list[str]:
    words = []
    if new.accuracy and old.accuracy and new.accuracy[0] != old.accuracy[0]:
        words.append(f"accuracy {(new.accuracy[0] - old.accuracy[0]) * 100:+.1f} points")
    if new.bytes != old.bytes:
        words.append(f"{new.bytes - old.bytes:+,} bytes")
    same_machine = new.machine == old.machine and new.latency_us and old.latency_us
    if same_machine and abs(new.latency_us / old.latency_us - 1) > 0.02:  # type: ignore[operator]
        words.append(f"p50 {(new.latency_us / old.latency_us - 1) * 100:+.0f} %")  # type: ignore[operator]
    return words
