"""Describes the effect of each training technique in one line."""

from __future__ import annotations

from edgeloop_pipeline.results.training import SearchFacts, TrainingFacts


def lines(precision: str, facts: TrainingFacts) -> list[tuple[str, str]]:
    """The techniques and their effects in this stage, from the facts of the training."""
    found = [("precision", precision + (", channels last" if facts.channels_last else "")), *_searched(facts)]
    loader = facts.loader
    waited = facts.time_shares.get("waiting for data", 0.0)
    how = "by measurement" if loader.seconds_a_step else "as set"
    found.append(("loading", f"{loader.workers} worker processes, {how}; the training thread waited {waited:.1%} of the time"))
    memory = facts.memory
    parts = ", ".join(
        f"{name} {getattr(memory, name) / 1e6:,.1f}" for name in ("parameters", "gradients", "optimizer", "activations", "batch")
    )
    found.append(("memory", f"estimated {memory.total / 1e6:,.0f} MB ({parts}); process peak above the start"
                            f" {memory.measured_peak / 1e6:,.0f} MB"))  # fmt: skip
    if facts.recomputed_units:
        found.append(("recomputation", f"activations of {facts.recomputed_units} units computed again in the backward pass"))
    if facts.float8:
        f = facts.float8
        steps = ", ".join(f"{name} {count}" for name, count in f.saturated_steps.items())
        found.append(("FP8", f"{f.layers} layers, {f.history_bytes:,} B of history; steps whose maximum did not fit: {steps}"))
    if facts.skipped_steps:
        found.append(("loss scaling", f"{facts.skipped_steps} steps skippedbecause their gradients overflowed fp16"))
    found.append(("processes", facts.processes))
    found.append(("energy", facts.energy))
    return found + [("note", note) for note in facts.notes]


def _searched(facts: TrainingFacts) -> list[tuple[str, str]]:
    search, found = facts.search or SearchFacts([], [], {}, 0.0), []
    if search.layouts:
        found.append(("measured", ", ".join(f"{name} {ms:.1f} ms per step" for name, ms in search.layouts.items())))
    batch = f"batch {facts.batch}"
    if search.batches:
        speeds = [f"{t.batch}: {t.samples_per_second:,.0f}/s" for t in search.batches if t.samples_per_second]
        refused = [f"{t.batch}: {t.why}" for t in search.batches if t.why]
        batch += f", the smallest with the best throughput ({', '.join(speeds + refused)})"
    rate = f"peak learning rate {facts.learning_rate:g}"
    if search.range:
        rate += f", from a range test of {len(search.range)} steps"
    speed = f"; {facts.samples_per_second:,.0f} samples per second" if facts.samples_per_second else ""
    return [*found, ("step", f"{batch}; {rate}{speed}")]
