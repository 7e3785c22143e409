"""The hub's settings; every field has a default for a first evening."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_type_hints


@dataclass(frozen=True)
class Settings:
    """`database`: an SQLAlchemy URL; empty: SQLite in `data`. `blobs`: s3://bucket/prefix, gs://, az://; empty: a folder in `data`.

    Every limit of what others may send stands here, with its unit.
    """

    data: Path
    database: str = ""
    blobs: str = ""
    traces: str = ""  # where an OpenTelemetry collector takes OTLP by HTTP; "": nothing is traced
    secure_cookies: bool = False
    trusted_proxies: list[str] = field(default_factory=list)  # whose X-Forwarded-For is believed
    timestamp_seconds: float = 2 * 86400.0  # validity of what the hub signs; `tick` renews it at half of it
    session_seconds: float = 12 * 3600.0
    token_seconds: float = 7 * 86400.0  # of an enrolment token
    leap_seconds: float = 21 * 86400.0  # between two ticks; after more the clock is taken for wrong until somebody says it is right
    history_seconds: float = 30 * 86400.0  # of sums of reports by hour, of events, jobs and messages
    full_history_seconds: float = 2 * 86400.0  # of each report by itself
    day_history_seconds: float = 366 * 86400.0  # of sums of reports by day; below history_seconds there are none
    max_part_bytes: int = 8 << 20
    max_bundle_bytes: int = 512 << 20
    max_message_bytes: int = 1 << 20
    report_quota_per_hour: int = 600  # reports of one device
    report_rows_per_hour: int = 3000  # events of one device
    report_bytes_per_hour: int = 8 << 20  # of one device's reports and events
    device_requests_per_second: float = 50.0  # of one device at one worker, after 200 at once
    device_bytes_per_second: float = float(1 << 20)  # of one device's requests at one worker, after 16 MiB at once
    bundle_redirects: bool = True  # devices fetch bundles from s3://, gs://, az:// themselves, by signed addresses
    bundle_address_seconds: float = 300.0  # that a signed address holds: for a download to begin
    sample_bytes_per_day: int = 64 << 20  # of one device
    sample_unpacked_bytes_per_day: int = 1 << 30  # of one device
    max_unpacked_bytes: int = 64 << 20  # of the samples of one upload
    sample_seconds: float = 365 * 86400.0  # that labelled samples are kept; others as long as history_seconds
    labels_needed: int = 1  # people who must agree on a label
    box_agreement_iou: float = 0.5  # of two people's boxes that are the same one
    mask_agreement_iou: float = 0.8  # mean over the labels of two people's masks that agree
    value_agreement_std: float = 0.1  # difference of two people's values that agree, in the quantity's standard deviations
    tail_bytes: int = 1 << 30  # of model files behind the tails that are loaded
    tail_providers: list[str] = field(default_factory=list)  # ONNX Runtime's, such as CUDA, before the CPU
    tail_batch: int = 16  # rows that run together
    tail_delay_seconds: float = 0.002  # that a batch may wait for more, while several devices ask
    tail_waiting_rows: int = 256  # of one tail; one more is told to come again
    tail_wait_seconds: float = 2.0  # longest wait that is begun
    tail_requests_per_second: float = 200.0  # of one device
    tail_burst: int = 400
    sign_in_tries: int = 5  # wrong ones for a name from one address, then a wait for that name from there
    sign_in_tries_per_address: int = 50  # wrong ones for any names, or tokens, from one address
    sign_in_wait_seconds: float = 900.0
    request_head_seconds: float = 15.0  # for a request's head to be whole
    request_body_seconds: float = 300.0  # and its body
    answer_stall_seconds: float = 120.0  # that a client may read nothing of its answer
    watch_seconds: float = 60.0  # between two looks of `serve` at the tick; where that is late, `serve` sends the alerts
    connections: int = 900  # of one worker; the oldest without a whole request makes room for one more
    connections_per_address: int = 200  # of one worker; a trusted proxy may have all

    @property
    def database_url(self) -> str:
        return self.database or f"sqlite:///{self.data.resolve() / 'hub.sqlite'}"


NOT_LIMITS = ("data", "database", "blobs", "traces", "secure_cookies", "trusted_proxies")
LIMITS: dict[str, Any] = {name: kind for name, kind in get_type_hints(Settings).items() if name not in NOT_LIMITS}
