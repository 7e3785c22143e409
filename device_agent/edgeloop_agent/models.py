"""The bundles of a device as loaded models, each with its place in the memory budget."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edgeloop_agent import device_state
from edgeloop_agent.between import Between
from edgeloop_agent.caches import GraphCache, Pool, ResultCache
from edgeloop_agent.config import Config
from edgeloop_agent.logs import Log
from edgeloop_agent.metrics import Counts
from edgeloop_agent.runtimes import RuntimeOptions
from edgeloop_agent.runtimes.providers import without_building
from edgeloop_agent.served_model import Model, RunningInferences
from edgeloop_agent.variant_choice import Choosing
from edgeloop_contract.archive import Bundle
from edgeloop_contract.bench_report import VariantChoice
from edgeloop_contract.errors import BundleError, DeviceError, EdgeloopError
from edgeloop_contract.manifest import Manifest

if TYPE_CHECKING:
    from edgeloop_agent.engine_files import EngineFiles
    from edgeloop_agent.offload.tail_servers import TailServers


class LoadedModel(msgspec.Struct, frozen=True):
    """A summary of one loaded model."""

    name: str
    version: int
    sha256: str
    variant: str
    runtime: str


class Models:
    """Every bundle of the config by its model's name; loaded when asked for, under the memory budget."""

    def __init__(self, config: Config, counts: Counts, log: Log, tail_servers: TailServers | None = None) -> None:
        """`tail_servers`: servers that may compute a part of a model."""
        self.config, self.counts, self.log, self.tail_servers = config, counts, log, tail_servers
        self.state = Path(config.state) if config.state else device_state.default_folder()
        self.graphs = GraphCache(self.state / "graphs", config.cache.graphs_bytes, config.cache.engines_bytes)
        self._choosing = Choosing(config.runtime, self.state, log)
        self.results = ResultCache(config.cache.results_bytes)
        self.running = RunningInferences()
        self.between = Between()  # recordings: when a model takes the place of another
        self.prepare: Callable[[Model], None] = lambda model: None  # before it does
        self.pool: Pool[Model] = Pool(config.cache.models_bytes, self._load)
        self.paths: dict[str, Path] = {}
        self.manifests: dict[str, Manifest] = {}
        self.variant = config.runtime.variant  # the thermal policy may ask for another
        self.verified = device_state.VerifiedBundles(self.state)
        self.refused: dict[Path, EdgeloopError] = {}  # bundles of the config that are not served, and why
        self.builds_beside = False  # engines are built in a process beside, and a model answers without them meanwhile
        self.engine_files: EngineFiles | None = None  # where `builds_beside`, in a worker
        self.unbuilt: dict[str, Path] = {}  # models that answer so, with their bundles
        self.building = ""  # the model whose engines are built now
        self.change_began: float | None = None  # when the load of a model in another's place began, that is not done yet
        self.never_built: set[Path] = set()  # bundles whose engines could not be built since the start
        for path in map(Path, config.bundles):
            try:
                manifest = self._manifest(path)
            except (BundleError, DeviceError) as error:
                self._refuse(path, error)
                continue
            self.paths[manifest.name], self.manifests[manifest.name] = path, manifest
        if not self.paths:
            raise next(iter(self.refused.values()))

    @property
    def first(self) -> str:
        """The model that answers the source and is kept up to date; where it is refused, the first of the others."""
        return next(iter(self.paths))

    @property
    def answers_source(self) -> bool:
        """False where the bundle that the source is meant for is refused: no other one answers in its place."""
        return Path(self.config.bundles[0]) not in self.refused

    def load_first(self) -> None:
        """Load the first model. One that does not run here is refused, if there are others. Raises BundleError, DeviceError."""
        while True:
            name = self.first
            try:
                self.get(name)
                return
            except (BundleError, DeviceError) as error:
                if len(self.paths) == 1:
                    raise
                self._refuse(self.paths[name], error)
                del self.paths[name], self.manifests[name]

    def _refuse(self, path: Path, error: EdgeloopError) -> None:
        """Serve without this bundle. Raises `error` where it is the first one, and updates or the source depend on it."""
        config = self.config
        if len(config.bundles) == 1 or (path == Path(config.bundles[0]) and (config.updates.enabled or not config.api.enabled)):
            raise error
        self.refused[path] = error
        self.counts.bundles_refused = len(self.refused)
        self.log("error", "bundle refused", bundle=path, why=error)

    def _manifest(self, path: Path) -> Manifest:
        """The manifest of a bundle to serve. Raises BundleError if it cannot be served, DeviceError if its runtimes are missing."""
        with Bundle.open(path, verified=self.verified) as bundle:
            manifest = bundle.manifest
        if manifest.probe:
            raise BundleError(f"{path}: is a latency probe with untrained weights; only edgeloop-agent bench runs it")
        if manifest.name in self.paths:
            raise BundleError(f"{path}: has the same name ({manifest.name}) as {self.paths[manifest.name]}; serve one of them")
        needed = sorted({variant.runtime for variant in manifest.variants})
        if self.variant:  # first: another runtime is not even loaded
            needed.sort(key=lambda name, first=manifest.variant(self.variant).runtime: name != first)  # type: ignore[misc]
        if not any(name in device_state.available([name]) for name in needed):
            raise DeviceError(f"{path}: needs a runtime for {' or '.join(sorted(needed))}; pip install 'edgeloop[{needed[0]}]'")
        return manifest

    def get(self, name: str) -> Model:
        return self.pool.get(name)

    def loaded(self) -> list[LoadedModel]:
        return [
            LoadedModel(m.name, m.manifest.version, m.sha256, m.choice.variant, m.runtime.description) for m in self.pool.values()
        ]

    def use_variant(self, variant: str) -> None:
        """Use this variant from now on ("": the measured choice): the first model answers until it is loaded so, the others are
        loaded again when they are asked for. Raises EdgeloopError; then nothing has changed.
        """
        if variant == self.variant:
            return
        was, self.variant = self.variant, variant
        try:
            with self._changing():
                model = self._load(self.first)
        except EdgeloopError:
            self.variant = was
            raise
        self.between(lambda: self.pool.replace_all(self.first, model))

    def replace(
        self, name: str, path: Path, sha256: str = "", check: Callable[[Mapping[str, Manifest]], None] = lambda _: None
    ) -> None:
        """Load another bundle of a model beside the present one, then switch to it. After an error nothing has changed.

        `sha256`: what the file must be. `check`: whether the models then fit together. Raises EdgeloopError.
        """
        with self._changing():
            model = self._loaded(path)
        if sha256 and model.sha256 != sha256:
            raise BundleError(f"{path}: is not the bundle that was staged")
        if model.name != name:
            raise BundleError(f"{path}: is {model.name}, not {name}")
        check({**self.manifests, name: model.manifest})
        self.prepare(model)

        def install() -> None:
            self.paths[name], self.manifests[name] = path, model.manifest
            self.pool.put(name, model)

        self.between(install)

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        self.change_began = time.monotonic()
        try:
            yield
        finally:
            self.change_began = None

    def load_built(self, name: str, path: Path) -> Model:
        """Load a model whose engines are built now; `pool.put` makes it answer. Raises EdgeloopError."""
        return self._loaded(path)

    def _load(self, name: str) -> Model:
        return self._loaded(self.paths[name])

    def _loaded(self, path: Path) -> Model:
        with Bundle.open(path, verified=self.verified) as bundle:
            name = bundle.manifest.name
            model = self._by_engines(bundle) or self._first_that_loads(bundle, self._providers(bundle, path))
            choice = model.choice
            if self.tail_servers is not None and model.is_simple and name in (self.config.split.models or [name]):
                model.attach_router(bundle, self.tail_servers)
        self.log(
            "info", "model loaded", model=name, version=model.manifest.version, variant=choice.variant, threads=choice.threads,
            runtime=model.runtime.description, why=choice.why,
        )  # fmt: skip
        return model

    def _by_engines(self, bundle: Bundle) -> Model | None:
        """The model by engines that are kept; None where there are none, or where they do not load: then they are thrown away."""
        files, wanted = self.engine_files, self.config.runtime.providers
        if files is None or self._choosing.crashes or self._choosing.engines(bundle, self.variant, self.graphs) != "kept":
            return None
        if files.given_up(bundle, wanted, self.variant):
            return None
        why = "the last worker died while it loaded them"
        if not files.spoiled(bundle, wanted, self.variant):
            files.begin(bundle, wanted, self.variant, "load")
            try:
                model = self._first_that_loads(bundle, wanted, others=False)
                files.ended_well(bundle, wanted, self.variant)
                return model
            except DeviceError as error:
                why = str(error)
        self.log("error", "engines are thrown away, and built again", model=bundle.manifest.name, why=why)
        files.discard()
        device_state.forget_engines(self.state, bundle, wanted, self.variant)
        return None

    def _providers(self, bundle: Bundle, path: Path) -> list[str]:
        """Those of the config; without TensorRT as long as its engines are not built, where that is done beside."""
        wanted, files = self.config.runtime.providers, self.engine_files
        if not self.builds_beside:
            return wanted
        engines = self._choosing.engines(bundle, self.variant, self.graphs)
        if engines == "none" or (engines == "kept" and files is None):
            return wanted
        if files is not None and files.given_up(bundle, wanted, self.variant):
            from edgeloop_agent.engine_files import MAX_TRIES

            why = f"{MAX_TRIES} builds or loads in a row did not end well; another TensorRT, driver or bundle tries again"
            self.log("error", "engines cannot be used: the model goes on without them", model=bundle.manifest.name, why=why)
        elif path not in self.never_built and self.variant == self.config.runtime.variant and not self._choosing.crashes:
            self.unbuilt[bundle.manifest.name] = path
        return without_building(wanted)

    def _first_that_loads(self, bundle: Bundle, providers: list[str], others: bool = True) -> Model:
        """The chosen variant; if it does not load and was not asked for by name, another, unless `others` says no.

        Raises the first DeviceError.
        """
        chosen = self._choosing.choice(bundle, self.variant, providers, self._options(providers))
        failure: DeviceError | None = None
        for choice in [chosen] if self.variant or not others else device_state.in_order(bundle.manifest.variants, chosen):
            try:
                model = Model(bundle, choice, self.counts, self.results, self.running, self._options(providers, choice))
                model.try_once()
                return model
            except DeviceError as error:
                failure = failure or error
                if others:
                    self.log("error", "variant does not run here", variant=choice.variant, why=error)
        assert failure is not None
        raise failure

    def _options(self, providers: list[str], choice: VariantChoice | None = None) -> RuntimeOptions:
        runtime = self.config.runtime
        return RuntimeOptions(
            providers=providers, graphs=self.graphs, way=choice.provider if choice else "", dla_core=runtime.dla_core,
            delegate=runtime.delegate, delegate_options=runtime.delegate_options,
        )  # fmt: skip
