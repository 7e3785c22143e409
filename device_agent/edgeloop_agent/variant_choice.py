"""Which variant of a bundle runs, and by which way: as asked for, as remembered, or as measured now."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from edgeloop_agent import device_state
from edgeloop_agent.caches import GraphCache
from edgeloop_agent.config import Runtime
from edgeloop_agent.logs import Log
from edgeloop_agent.runtimes import RuntimeOptions
from edgeloop_agent.runtimes.providers import builds_engines, ways, without_building
from edgeloop_contract.archive import Bundle
from edgeloop_contract.bench_report import VariantChoice
from edgeloop_contract.errors import DeviceError, StorageError

CRASHES_PER_VARIANT = 3  # in a row, before the next variant is tried


@dataclass(frozen=True)
class Choosing:
    """`variant` of its methods: that was asked for by name; "": none. `providers`: those that may be used now."""

    settings: Runtime
    state: Path
    log: Log

    def engines(self, bundle: Bundle, variant: str, graphs: GraphCache) -> Literal["none", "kept", "missing"]:
        """Whether the bundle answers from engines: "missing": they would be built before it answers, or before it is known."""
        wanted, manifest = self.settings.providers, bundle.manifest
        if len(without_building(wanted)) == len(wanted) or not graphs.engine_folder():
            return "none"
        from edgeloop_agent.runtimes.onnx import available_providers  # here: other devices do not load it

        tried = [manifest.variant(variant)] if variant else manifest.variants
        if not any(v.runtime == "onnx" for v in tried) or not any(map(builds_engines, ways(available_providers(), wanted))):
            return "none"
        remembered = None if variant else device_state.remembered_choice(self.state, bundle, wanted)
        if remembered is not None and not builds_engines(remembered.provider):
            return "none"
        return "kept" if device_state.engines_are_kept(self.state, bundle, wanted, variant, graphs.engines) else "missing"

    @property
    def crashes(self) -> bool:
        """Whether the last workers died one after the other, so that another variant is tried."""
        return int(os.environ.get("EDGELOOP_CRASHES", "0")) >= CRASHES_PER_VARIANT

    def choice(self, bundle: Bundle, variant: str, providers: Sequence[str], options: RuntimeOptions) -> VariantChoice:
        """As configured, else as remembered, else measured now; after several crashes in a row, another variant."""
        choice = self._wanted(bundle, variant, providers, options)
        if self.settings.threads:
            choice = msgspec.structs.replace(choice, threads=self.settings.threads)
        skipped = int(os.environ.get("EDGELOOP_CRASHES", "0")) // CRASHES_PER_VARIANT
        if skipped:
            here = [v.name for v in bundle.manifest.variants if v.runtime in device_state.available()]
            place = (here.index(choice.variant) + skipped) % len(here)
            choice = VariantChoice(here[place], choice.threads, f"{choice.variant} crashed {CRASHES_PER_VARIANT} times in a row")
        return choice

    def _wanted(self, bundle: Bundle, variant: str, providers: Sequence[str], options: RuntimeOptions) -> VariantChoice:
        if variant:
            return VariantChoice(bundle.manifest.variant(variant).name, 1, "asked for")
        remembered = device_state.remembered_choice(self.state, bundle, providers)
        if remembered is not None:
            return remembered
        if int(os.environ.get("EDGELOOP_CRASHES", "0")):  # measuring a variant may have ended the worker
            return device_state.first_available(bundle.manifest.variants)
        from edgeloop_agent.bench.measure import measure_bundle

        rows = measure_bundle(bundle, self.settings.measure_seconds, options)
        for row in rows:
            self.log("info", "measured", variant=row.title, p50_us=row.cost.latency_us_p50 if row.cost else row.refused)
        fastest = device_state.fastest(bundle.manifest.variants, rows)
        if fastest is None:
            raise DeviceError(f"no variant runs here: {rows[0].refused}")
        try:
            device_state.remember_choice(self.state, bundle, fastest, providers)
        except StorageError as error:
            self.log("warning", "not remembered", why=error)
        return fastest
