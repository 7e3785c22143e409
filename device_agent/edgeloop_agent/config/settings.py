"""The sections of the agent's TOML file, as types: every limit with its unit."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from edgeloop_agent.config.source_settings import MIB, Name, Part, Port, Source
from edgeloop_contract.settings import Fraction01, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt


class Runtime(Part, frozen=True):
    """How models run. Empty or 0: measured on this device, once per bundle, runtime version and hardware."""

    variant: str = ""
    threads: NonNegativeInt = 0
    measure_seconds: PositiveFloat = 0.3  # per variant and thread count
    providers: list[Name] = []  # ONNX Runtime's, in order: XNNPACK, CUDA, TensorRT, OpenVINO; CPU is always last
    dla_core: Annotated[int, msgspec.Meta(ge=-1, le=15)] = -1  # of a Jetson's deep learning accelerators, for TensorRT; -1: none
    delegate: str = ""  # a TFLite delegate's library, such as libedgetpu.so.1
    delegate_options: dict[str, str] = {}


class Cache(Part, frozen=True):
    """Limits of the caches; 0 turns a cache off."""

    graphs_bytes: NonNegativeInt = 256 * MIB  # optimised graphs, on disk
    engines_bytes: NonNegativeInt = 512 * MIB  # TensorRT's built engines, on disk
    results_bytes: NonNegativeInt = 0  # answers of equal inputs: useful where inputs repeat
    models_bytes: NonNegativeInt = 512 * MIB  # loaded models together


class Api(Part, frozen=True):
    """Open Inference Protocol v2, /metrics and the page. Beyond this machine it takes a token."""

    enabled: bool = True
    host: str = "127.0.0.1"
    port: Port = 8600
    names: list[Name] = []  # allowed Host names beside its addresses, localhost and the host's own name, such as a proxy's
    max_body_bytes: NonNegativeInt = 64 * MIB
    max_batch: PositiveInt = 64
    connections: PositiveInt = 32
    timeout_seconds: PositiveFloat = 10.0  # for a client to send a whole request
    token_file: str = ""  # who asks from elsewhere must know the token in it
    allow_anyone: bool = False  # to listen beyond this machine without a token
    page: bool = True  # a page for people at /


class Output(Part, frozen=True):
    """Where answers go, and which. `where`, of `lines`: `-` (standard output), `none`, or a file; of `mqtt`: the topic above its
    topics; of `http`: an address. A full file is renamed, and one such is kept; a full queue loses its oldest answers.
    """

    kind: Literal["lines", "mqtt", "http"] = "lines"
    where: Name = "-"
    max_bytes: NonNegativeInt = 64 * MIB  # of the file; of answers on disk that wait for the other side
    labels: list[Name] = []  # only answers, boxes and masks with these; none named: all
    min_confidence: Fraction01 = 0.0  # of labels, boxes and masks
    only_changes: bool = False  # of the label, of the number of boxes of each label, of values
    every_seconds: NonNegativeFloat = 0.0  # not more often than this
    device: str = ""  # the name that others see; empty: the host's name
    picture: bool = False  # mqtt, http: with the picture, as JPEG
    token_file: str = ""  # http: sent as a bearer token
    format: Literal["cloudevents", "json"] = "cloudevents"  # http
    timeout_seconds: PositiveFloat = 10.0  # http: for each request
    ca_file: str = ""  # of the other side's certificate, where no public authority signed it
    host: str = "127.0.0.1"  # mqtt: the broker
    port: Port = 0  # mqtt; 0: 1883, or 8883 with TLS
    tls: bool = False  # mqtt
    username: str = ""  # mqtt
    password_file: str = ""  # mqtt
    qos: Literal[0, 1, 2] = 1  # mqtt
    retain: bool = False  # mqtt: the broker keeps the last answer for who subscribes later
    discovery: str = ""  # mqtt: the beginning of Home Assistant's discovery topics, usually homeassistant; empty: none


class Limits(Part, frozen=True):
    """Limits of the agent itself."""

    memory_bytes: NonNegativeInt = 1024 * MIB  # resident; above it caches are cleared, then the worker restarts
    hang_seconds: PositiveFloat = 30.0  # without progress: the worker is killed and started again
    start_seconds: PositiveFloat = 300.0  # to load, and to measure variants the first time
    drain_seconds: PositiveFloat = 10.0  # to finish recordings in the queue at a stop
    restart_seconds: PositiveFloat = 1.0  # before the first restart; doubled each time
    max_restart_seconds: PositiveFloat = 60.0  # the longest delay


class Thermal(Part, frozen=True):
    """What happens when the board gets hot. A state is left `hysteresis_celsius` below the temperature at which it was entered."""

    enabled: bool = True
    warm_celsius: float = 75.0  # wait between recordings
    hot_celsius: float = 82.0  # and use the smaller variant
    hysteresis_celsius: NonNegativeFloat = 3.0
    pause_seconds: PositiveFloat = 0.2
    hot_variant: str = ""
    poll_seconds: PositiveFloat = 5.0


CONFIG_NAME = r"^([a-z0-9][a-z0-9-]{0,62})?\Z"


class Updates(Part, frozen=True):
    """Where new bundles and configs come from, and when one is trusted. Without `hub` and `folder`: no updates."""

    hub: str = ""  # its address, such as https://hub.example:8700
    folder: str = ""  # instead of a hub: one that may be mounted (a USB stick), as `edgeloop publish --folder` writes it
    ca_file: str = ""  # of the hub's certificate, where no public authority signed it
    config: Annotated[str, msgspec.Meta(pattern=CONFIG_NAME)] = ""  # the published config that this device follows; empty: none
    agent: Annotated[str, msgspec.Meta(pattern=CONFIG_NAME)] = ""  # the published agent that this device follows; empty: none
    poll_seconds: PositiveFloat = 300.0  # on average
    refresh_seconds: PositiveFloat = 86400.0  # signed metadata are refreshed at least so often
    timeout_seconds: PositiveFloat = 20.0  # for each answer of the hub
    max_bundle_bytes: NonNegativeInt = 512 * MIB
    max_bytes_per_second: NonNegativeInt = 0  # of a download; 0: no ceiling
    min_bytes_per_second: NonNegativeInt = 256  # a slower download is interrupted, and resumed at the next poll
    health_seconds: PositiveFloat = 600.0  # of trial before a new bundle is trusted
    max_latency_us: NonNegativeFloat = 0.0  # p95 in the canary; 0: as the manifest says
    max_memory_bytes: NonNegativeInt = 0  # of the canary's process; 0: as the manifest says

    @property
    def enabled(self) -> bool:
        return bool(self.hub or self.folder)


class Jobs(Part, frozen=True):
    """Which signed jobs this device does: log lines, a measurement, a restart. The device's own file says it, no rolled-out one.

    `unsigned_bench`: it also measures a signed bundle where the hub alone asks (`edgeloop bench --on`).
    """

    allow: list[Literal["logs", "bench", "restart"]] = []
    max_per_hour: PositiveInt = 6
    unsigned_bench: bool = True


class Drift(Part, frozen=True):
    """Whether samples still look like those the model was validated on."""

    enabled: bool = True
    false_alarms_per_10k: Annotated[float, msgspec.Meta(gt=0, le=1000)] = 1.0  # samples; the bundle has the thresholds


class Samples(Part, frozen=True):
    """What leaves the device. Samples do only with send = "samples"; "statistics": only statistics and events."""

    send: Literal["samples", "statistics", "nothing"] = "statistics"
    random_share: Fraction01 = 0.002  # of all answers, drawn at random: the basis of accuracy estimates
    uncertain_share: Fraction01 = 0.05  # of all answers: those with the least confidence
    max_per_hour: NonNegativeFloat = 60.0  # uncertain and drifted samples
    max_bytes: Annotated[int, msgspec.Meta(ge=1 << 20)] = 64 * MIB  # on disk, waiting
    context_bytes: NonNegativeInt = 0  # on disk, beside `max_bytes`: context samples, sent if somebody labels their recording
    max_upload_bytes_per_day: NonNegativeInt = 16 * MIB
    drop_channels: list[NonNegativeInt] = []  # set to 0 before a sample is kept
    blur: PositiveInt = 1  # images: squares of so many pixels become their mean; 1: unchanged


class Tail(Part, frozen=True):
    """A server with tails: the hub, or any other that speaks Open Inference Protocol v2."""

    address: Name
    ca_file: str = ""
    token_file: str = ""  # sent as a bearer token


class Split(Part, frozen=True):
    """Whether servers may compute parts of a model. Only while this is on, samples or boundaries leave the device."""

    enabled: bool = False
    tails: list[Tail] = []  # chosen by expected time; none: the hub of `updates`, with the device's credential
    models: list[Name] = []  # that may be split; none named: all
    send: Literal["anything", "boundary"] = "anything"  # "boundary": never the input itself
    deadline_ms: PositiveFloat = 1000.0  # of each answer
    hedge: Literal["late", "auto", "always"] = "auto"  # when the device computes too: at the last moment, when the tail
    # failed recently, or always
    min_agreement: Fraction01 = 1.0  # share of answers that a lossy coding must not change; 1: no lossy codings
    route: str = ""  # always this one: device, input, cut-2, input/jpeg; empty: as planned
    cascade: bool = True  # a larger model answers where this one is not confident, if the bundle names one
    exits: bool = True  # a confident early answer of a head is used, if the bundle has such heads
    seconds_per_mb: NonNegativeFloat = 0.0  # of waiting that a saved megabyte is worth
    hot_weight: Annotated[float, msgspec.Meta(ge=1)] = 2.0  # of the device's own time while it is hot
    low_battery: Fraction01 = 0.2  # of its charge: below it, while it is not being charged, `low_battery_weight` holds
    low_battery_weight: Annotated[float, msgspec.Meta(ge=1)] = 2.0
    max_bytes_per_day: NonNegativeInt = 0  # 0: no ceiling
    probe_seconds: PositiveFloat = (
        10.0  # without a transfer, until the link is measured; six times as long where it is far too slow
    )
    heads_bytes: NonNegativeInt = 64 * MIB  # of loaded head files


class Network(Part, frozen=True):
    """Connections to other machines."""

    use_proxies: bool = True  # those of HTTPS_PROXY, HTTP_PROXY and NO_PROXY; never to this machine itself


Point = tuple[float, float]  # from the left and from the top, in shares of the picture: 0 to 1
ShapeName = Annotated[str, msgspec.Meta(min_length=1, max_length=60)]
MAX_SHAPES = 32  # lines, and as many zones: each costs time in every frame


class CountedShape(Part, frozen=True):
    """Where objects are counted."""

    name: ShapeName
    points: list[Point]
    labels: list[Name] = []  # that are counted; none named: all


class CountedLine(CountedShape, frozen=True):
    """A line that objects cross. Right and left: of who looks from its first point to its second."""


class CountedZone(CountedShape, frozen=True):
    """A polygon that objects are in: those between its corners, in order."""


class Tracking(Part, frozen=True):
    """Boxes are followed from frame to frame, and counted at lines and in zones."""

    enabled: bool = False
    min_iou: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.3  # of a box with where its track is expected
    max_missing: NonNegativeInt = 15  # frames without a box, before a track ends
    confirm: PositiveInt = 3  # frames with a box, before a track is counted
    point: Literal["foot", "middle"] = "foot"  # of a box, that crosses lines and lies in zones; foot: the middle of its lower edge
    margin: Annotated[float, msgspec.Meta(ge=0, le=0.5)] = 0.01  # beyond a line or border, before it counts; of the shorter side
    line: list[CountedLine] = []
    zone: list[CountedZone] = []


class Chain(Part, frozen=True):
    """Boxes of one model are cropped out of the picture, and another model answers each."""

    model: Name  # that answers the crops: its name, one of `bundles`
    boxes_of: str = ""  # the detector's name; empty: the first bundle
    labels: list[Name] = []  # boxes with these alone; none named: all
    min_score: Fraction01 = 0.0
    margin: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0  # around a box, as a share of its sides
    most: Annotated[int, msgspec.Meta(ge=1, le=100)] = 10  # boxes of a picture, the best first


class Log(Part, frozen=True):
    level: Literal["debug", "info", "warning", "error"] = "info"


class Config(Part, frozen=True):
    """The whole file. `bundles`: the first one answers the source; all are served by the API."""

    bundles: Annotated[list[Name], msgspec.Meta(min_length=1)]
    state: str = ""  # folder for measurements and caches; empty: as for the other commands
    source: Source = Source()
    runtime: Runtime = Runtime()
    cache: Cache = Cache()
    api: Api = Api()
    output: Output | list[Output] = Output()
    limits: Limits = Limits()
    thermal: Thermal = Thermal()
    updates: Updates = Updates()
    jobs: Jobs = Jobs()
    drift: Drift = Drift()
    samples: Samples = Samples()
    split: Split = Split()
    network: Network = Network()
    tracking: Tracking = Tracking()
    chain: list[Chain] = []
    log: Log = Log()

    @property
    def outputs(self) -> list[Output]:
        """`[output]` and `[[output]]` alike."""
        return [self.output] if isinstance(self.output, Output) else self.output
